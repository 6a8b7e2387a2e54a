"""A Debian of its own as the root directory of a program, without root and without namespaces: shells, compilers,
Python, git and the installation of a package; judged by what they leave behind in it, and on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ordinary
import pytest

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="mmdebstrap"), pytest.mark.slow]
TESTS = Path(__file__).parent
WHO = "git config --global user.name Someone; git config --global user.email someone@example.org"
PACKAGE = r"""
    mkdir -p box/DEBIAN box/opt/hi
    printf 'Package: hi\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.org>\nDescription: x\n' > box/DEBIAN/control
    printf '#!/bin/sh\necho configured > /opt/hi/done\n' > box/DEBIAN/postinst
    chmod 755 box/DEBIAN/postinst; echo data > box/opt/hi/file
    dpkg-deb --root-owner-group -b box hi.deb; dpkg -i hi.deb; dpkg -s hi
"""
SCRIPTS = {
    "the root": "cat /etc/debian_version; readlink /proc/self/exe /proc/self/cwd /proc/self/root; ls -d /work",
    "bash": "echo $BASH_VERSION; (cd /usr/bin/../lib; pwd); for i in 1 2 3; do echo $i; done | sort -r | tr -d '\\n'",
    "a script": "printf '#!/usr/bin/env bash\\necho ran $0 $1\\n' > s; chmod +x s; ./s one",
    "gcc": 'printf \'#include <stdio.h>\\nint main(void) { return puts("hi") < 0; }\\n\' > hi.c; gcc -o hi hi.c; ./hi',
    "make": "printf 'all: a b\\n%%: %%.x\\n\\tcp $< $@\\n' > Makefile; touch a.x b.x; make -s -j2; ls a b",
    "python": "python3 -c 'import sys, os, subprocess; print(sys.executable, os.getcwd(), flush=True);"
    ' subprocess.run([sys.executable, "-c", "import ssl, json, sqlite3; print(1)"], check=True)\'',
    "git": f"{WHO}; git init -q -b main r; cd r; echo x > f; git add f; git commit -qm one; cd ..;"
    " git clone -q r c; cat c/f",
}  # fmt: skip
"""What every user runs; each has to work."""


@pytest.fixture(scope="module")
def debian() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="sandlock-debian-"))
    try:
        place.chmod(0o755)
        made = subprocess.run(
            [str(TESTS / "make_rootfs.sh"), str(place / "root")],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert made.returncode == 0, made.stderr[-2000:]
        yield place / "root"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def inside(person: ordinary.Person, root: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [
        "run", "--chroot", str(root), "-r", "/", "--fs-mount", f"/work:{person.home}", "-C", "/work", "--env",
        "HOME=/work", "--env", "TMPDIR=/tmp", "-w", "/tmp",
        "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *options, "--", "/bin/bash", "-euc", script,
    ]  # fmt: skip
    return person.run([person.python, "-m", "sandlock.cli", *words], timeout=120)


def test_a_debian_runs_its_programs(debian: Path) -> None:
    for name in ordinary.USERS:
        with ordinary.at_home(name) as person:
            said = {}
            for what, script in SCRIPTS.items():
                done = inside(person, debian, script)
                assert done.returncode == 0, f"{what}, as {name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
                said[what] = done.stdout
            assert said["the root"].split("\n")[1:4] == ["/usr/bin/readlink", "/work", "/"]
            assert said["bash"].split("\n")[1:] == ["/usr/lib", "321"]
            assert said["a script"] == "ran ./s one\n"
            assert said["gcc"] == "hi\n"
            assert said["make"] == "a\nb\n"
            assert said["python"] == "/usr/bin/python3 /work\n1\n"
            assert said["git"] == "x\n"
            assert Path(person.home, "hi").is_file()  # /work is this directory of the host
            assert subprocess.run([f"{person.home}/hi"], capture_output=True, check=True).stdout == b"hi\n"


def test_a_package_is_installed(debian: Path) -> None:
    """By dpkg, by the owner of the tree."""
    name = ordinary.USERS[0]
    with ordinary.at_home(name) as person:
        options = [word for path in ("/usr", "/etc", "/var", "/opt") for word in ("-w", path)]
        script = PACKAGE if os.geteuid() == 0 else PACKAGE.replace("dpkg -i", "dpkg --force-not-root -i")
        done = inside(person, debian, script, *options)
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Status: install ok installed" in done.stdout
    assert (debian / "opt/hi/file").read_text() == "data\n"
    assert (debian / "opt/hi/done").read_text() == "configured\n"
    assert not Path("/opt/hi").exists()
