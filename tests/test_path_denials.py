"""fs_denied: what a denial means, however it is written: links, mounts, what is not there yet, what has other names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import ordinary
import pytest
from paths.worker import hand_over
from programs.tools import Confined, confined

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.slow]
SECRET = "TOP-SECRET"


def shell(person: ordinary.Person, script: str, *denied: str, **fields: object) -> Confined:
    """A shell script in their home, where they may write."""
    hand_over(person)
    options = {"presets": ["system"], "fs_writable": [person.home], "cwd": person.home, **fields}
    return confined(
        person, ["/bin/sh", "-c", script], fs_denied=[f"{person.home}/{path}" for path in denied], **options
    )


def fill(place: Path, *names: str) -> None:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(SECRET)


@pytest.mark.parametrize(
    "denied",
    [
        "tree",
        "tree/",
        "tree/.",
        "./tree",
        "other/../tree",
        "link",
        "link/",
        "chain",
        "other/back/tree",
        "tree/file",
        "link/file",
    ],
)
def test_a_denial_is_about_what_a_path_leads_to(visitor: ordinary.Person, denied: str) -> None:
    place = Path(visitor.home)
    fill(place, "tree/file", "other/file")
    (place / "link").symlink_to("tree")
    (place / "chain").symlink_to(place / "link")
    (place / "other/back").symlink_to("..")
    script = "cat tree/file link/file chain/file other/back/tree/file; echo x > tree/file; cat other/file"
    result = shell(visitor, script, denied)
    assert result.stdout == SECRET, result  # of other/file
    assert (place / "tree/file").read_text() == SECRET
    assert shell(visitor, script, "nothing").stdout == SECRET * 4 + SECRET


def test_a_denial_is_stronger_than_every_grant(visitor: ordinary.Person) -> None:
    place = Path(visitor.home)
    fill(place, "tree/file")
    paths = [f"{place}/tree/file", f"{place}/tree"]
    result = shell(visitor, "cat tree/file", "tree", fs_readable=paths, fs_writable=[*paths, str(place)])
    assert result.stdout == ""


def test_a_root_that_is_denied(visitor: ordinary.Person) -> None:
    """All of what is granted."""
    place = Path(visitor.home)
    fill(place, "file")
    result = shell(visitor, "cat file; echo x > new; ls; cd /; cat $OLDPWD/file", ".")
    assert result.stdout == ""
    assert sorted(os.listdir(place)) == ["file"]


def test_other_names_of_files_in_a_large_tree(visitor: ordinary.Person) -> None:
    """However many files there are: a hard link to one of them, made before, is no way around the denial."""
    place = Path(visitor.home)
    (place / "tree/sub").mkdir(parents=True)
    for number in range(12_000):
        (place / f"tree/{number}").touch()
    fill(place, "tree/z", "tree/sub/file")
    for name, other in (("tree/z", "one"), ("tree/sub/file", "two")):
        (place / other).hardlink_to(place / name)
    assert shell(visitor, "cat one two", "tree").stdout == ""
    assert shell(visitor, "cat one two", "nothing").stdout == SECRET * 2


LATER = """
import pathlib, sys, threading, time
import sandlock
place, script, denied, made = sys.argv[1:]
def make():
    while not pathlib.Path(place, "ready").exists():
        time.sleep(0.01)
    path = pathlib.Path(place, made)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("TOP-SECRET")
    pathlib.Path(place, "go").touch()
threading.Thread(target=make, daemon=True).start()
with sandlock.Sandbox(
    presets=["system"], fs_writable=[place], fs_denied=[f"{place}/{denied}"], cwd=place
) as box:
    sys.stdout.buffer.write(box.run(["/bin/sh", "-c", script], timeout=30).stdout)
"""


def later(person: ordinary.Person, script: str, denied: str, made: str) -> str:
    """What a script prints when somebody outside makes a file meanwhile: it waits for that."""
    with ordinary.at_home(person.name) as visitor:
        script = script.replace("WAIT", ": > ready; while [ ! -e go ]; do sleep 0.02; done")
        return visitor.script(LATER, visitor.home, script, denied, made)


@pytest.mark.parametrize("denied", ["tree", "tree/sub", "tree/sub/file"])
def test_what_comes_later_is_denied(as_user: ordinary.Person, denied: str) -> None:
    script = "WAIT; cat tree/sub/file; mv tree moved; cat moved/sub/file; cat tree/sub/file"
    assert later(as_user, script, denied, "tree/sub/file") == ""
    assert later(as_user, script, "nothing", "tree/sub/file") == SECRET * 2


@pytest.mark.parametrize("making", ["ln -s away tree", "ln -s away link; ln -P link tree",
"ln -s away link; mv link tree",
                                    "mkdir tree; ln -s ../away/sub tree/sub"])  # fmt: skip
def test_the_way_to_what_comes_later_is_not_led_elsewhere(as_user: ordinary.Person, making: str) -> None:
    """Somebody outside makes the denied file later, by its path: it must not come to lie where nothing is denied."""
    script = f"mkdir -p away/sub; {making}; WAIT; cat away/sub/file"
    assert later(as_user, script, "tree/sub/file", "tree/sub/file") == ""
    assert SECRET in later(as_user, script, "nothing", "tree/sub/file")


# ---- mounts


MOUNTED = """
set -e
cd "$1"
mount --bind tree window
mount --bind tree/sub part
mount --bind . whole
shift
exec setpriv --clear-groups --reuid "$1" --regid "$2" -- sh -c 'shift 2; exec "$@"' sh "$@"
"""
RUNS = """
import sys, sandlock
place, script, *denied = sys.argv[1:]
with sandlock.Sandbox(
    presets=["system"], fs_writable=[place], fs_denied=[f"{place}/{path}" for path in denied], cwd=place
) as box:
    sys.stdout.buffer.write(box.run(["/bin/sh", "-c", script]).stdout)
"""
ALIASES = ("tree/sub/file", "window/sub/file", "part/file", "whole/tree/sub/file", "whole/../part/file", "link/file")


@pytest.mark.needs(root=True)
@pytest.mark.parametrize(
    "denied", ["tree", "tree/sub", "tree/sub/file", "window/sub", "part", "whole/tree/sub", "part/file"]
)
def test_what_is_mounted_elsewhere_is_denied_there_too(visitor: ordinary.Person, denied: str) -> None:
    place = Path(visitor.home)
    fill(place, "tree/sub/file")
    for name in ("window", "part", "whole"):
        (place / name).mkdir()
    (place / "link").symlink_to("window/sub")
    hand_over(visitor)
    script = "; ".join(f"cat {path}; echo x > {path}; echo y > {path}2; mv {path} {path}3" for path in ALIASES)
    script += "; mv window/sub window/moved; mv whole/tree whole/moved"
    script += "; cat window/moved/file whole/moved/sub/file moved/sub/file"

    def run(*what: str) -> str:
        user = [str(visitor.uid), str(visitor.gid)]
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTED, "sh", str(place), *user]
        command += [visitor.python, "-c", RUNS, str(place), script, *what]
        done = subprocess.run(
            command, capture_output=True, text=True, env=visitor.environment(), check=False, timeout=60
        )
        assert done.returncode == 0, done
        return done.stdout

    assert run(denied) == ""
    assert (place / "tree/sub/file").read_text() == SECRET
    if denied != "tree/sub/file" and denied != "part/file":
        assert os.listdir(place / "tree/sub") == ["file"]
    assert SECRET in run("nothing")
