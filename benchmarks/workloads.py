"""Real programs with real input, made from nothing: files in a scratch directory, and what to run there."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import socket
import subprocess
import tarfile

from commands import PATH, Command

GIT = """\
set -e
rm -rf .git
git init -q .
git config user.name bench
git config user.email bench@example.invalid
git add .
git commit -q -m first
git status --short > /dev/null
for n in 1 2 3; do
    echo "$n" >> d0/f0.txt
    git add -u
    git commit -q -m "again $n"
    git status --short > /dev/null
done
git log --stat > /dev/null
"""

BUILD = """\
set -e
rm -f *.o program
for source in *.c; do gcc -O0 -c "$source" -o "${source%.c}.o"; done
gcc -o program *.o
./program > /dev/null
"""

FIND = """\
set -e
find . -type f -name '*.txt' -print0 | xargs -0 -n 200 wc -l > /dev/null
find . -type f -size +1k > /dev/null
find . -type f -exec wc -c '{}' + | tail -n 1 > /dev/null
"""

CHECKOUT_TREE = """\
set -e
git init -q -b one .
git config user.name bench
git config user.email bench@example.invalid
git config gc.auto 0
git add .
git commit -q -m one
git checkout -q -b two
find . -name '*.txt' -exec sed -i '1s/^/changed /' '{}' +
git commit -q -a -m two
"""

MAKE = """\
set -e
rm -f *.o program
make -s program
"""

EXTRACT = """\
set -e
rm -rf out
mkdir out
start=$(date +%s%N)
tar -x -f tree.tar -C out
end=$(date +%s%N)
echo "$(((end - start) / 1000))e-6"
"""

CHECKOUT = """\
set -e
git checkout -q -f one
start=$(date +%s%N)
git checkout -q two
git checkout -q one
end=$(date +%s%N)
echo "$(((end - start) / 1000))e-6"
"""

LIBRARY = ("asyncio", "concurrent", "ctypes", "curses", "dbm", "email", "html", "http", "importlib", "json", "logging")

IMPORTS = (
    "import json, asyncio, unittest, argparse, email.message, http.client, logging.config, sqlite3, ssl, "
    "urllib.request, xml.dom.minidom, concurrent.futures, multiprocessing, decimal, difflib, tarfile, zipfile"
)

REDIS = """\
set -e
redis-server --port "$PORT" --bind 127.0.0.1 --save '' --appendonly no --daemonize no --loglevel warning \\
    --logfile '' > server.log 2>&1 &
server=$!
trap 'kill $server; wait $server || true' EXIT
for n in $(seq 100); do
    redis-cli -p "$PORT" ping 2> /dev/null | grep -q PONG && break
    sleep 0.05
done
redis-benchmark -p "$PORT" -t "$TEST" -n "$REQUESTS" -c 20 --csv | tail -n 1 | cut -d '"' -f 4 > rate
awk '{ printf "%.4f\\n", 1e6 / $1 }' rate
"""


def environment(home: str) -> dict[str, str]:
    """One environment for every side."""
    return {"PATH": PATH, "HOME": home, "LANG": "C", "TMPDIR": home}


def _script(directory: str, text: str, **env: str) -> Command:
    return Command(argv=("/bin/sh", "-c", text), cwd=directory, env=environment(directory) | env)


def _text_files(directory: str, folders: int, files: int) -> None:
    for folder in range(folders):
        path = os.path.join(directory, f"d{folder}")
        os.makedirs(path)
        for number in range(files):
            with open(os.path.join(path, f"f{number}.txt"), "w") as file:
                file.writelines(f"{folder} {number} {line}\n" for line in range(1 + (number * 7) % 120))


def git(scratch: str) -> Command:
    """init, add of 300 files, four commits and statuses, log."""
    directory = os.path.join(scratch, "git")
    _text_files(directory, 10, 30)
    return _script(directory, GIT)


def build(scratch: str) -> Command:
    """gcc over 40 generated C files, a link, and the program run."""
    directory = os.path.join(scratch, "build")
    os.makedirs(directory)
    for number in range(40):
        with open(os.path.join(directory, f"part{number}.c"), "w") as file:
            file.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
            for function in range(6):
                file.write(
                    f"int part{number}_{function}(int x)\n{{\n"
                    f'\tchar text[64];\n\tsnprintf(text, sizeof text, "%d", x * {function + 1});\n'
                    f"\treturn atoi(text) + (int)strlen(text) + {number};\n}}\n"
                )
    with open(os.path.join(directory, "main.c"), "w") as file:
        file.writelines(f"int part{number}_0(int);\n" for number in range(40))
        calls = " + ".join(f"part{number}_0(argc)" for number in range(40))
        file.write(
            f"#include <stdio.h>\nint main(int argc, char **argv)\n{{\n\t(void)argv;\n"
            f'\tprintf("%d\\n", {calls});\n\treturn 0;\n}}\n'
        )
    return _script(directory, BUILD)


def make(scratch: str) -> Command:
    """The same files by make."""
    command = build(scratch)
    assert command.cwd
    with open(os.path.join(command.cwd, "Makefile"), "w") as file:
        names = ["main.o", *(f"part{number}.o" for number in range(40))]
        file.write(f"CFLAGS = -O0\nprogram: {' '.join(names)}\n\t$(CC) -o $@ $^\n")
    return _script(command.cwd, MAKE)


def compile_all(scratch: str, python: str) -> Command:
    """The compiler of Python over a part of its library."""
    directory = os.path.join(scratch, "library")
    library = os.path.dirname(os.__file__)
    for name in LIBRARY:
        source = os.path.join(library, name)
        shutil.copytree(source, os.path.join(directory, name), ignore=shutil.ignore_patterns("test*", "__pycache__"))
    argv = (os.path.realpath(python), "-I", "-m", "compileall", "-q", "-f", ".")
    return Command(argv=argv, cwd=directory, env=environment(directory))


def extract(scratch: str) -> Command:
    """tar -x of 3,000 small files in 60 directories; seconds."""
    directory = os.path.join(scratch, "extract")
    _text_files(os.path.join(directory, "tree"), 60, 50)
    with tarfile.open(os.path.join(directory, "tree.tar"), "w") as archive:
        archive.add(os.path.join(directory, "tree"), "tree")
    return dataclasses.replace(_script(directory, EXTRACT), number=True)


def checkout(scratch: str) -> Command:
    """git checkout of 1,500 changed files, there and back; seconds."""
    directory = os.path.join(scratch, "checkout")
    _text_files(directory, 30, 50)
    run = functools.partial(subprocess.run, cwd=directory, env=environment(directory), check=True, capture_output=True)
    run(["/bin/sh", "-c", CHECKOUT_TREE])
    return dataclasses.replace(_script(directory, CHECKOUT), number=True)


def find(scratch: str) -> Command:
    """find and wc over 3,000 files in 60 directories."""
    directory = os.path.join(scratch, "find")
    _text_files(directory, 60, 50)
    return _script(directory, FIND)


def imports(scratch: str, python: str) -> Command:
    """A Python that imports a good part of its library."""
    argv = (os.path.realpath(python), "-I", "-c", IMPORTS)
    return Command(argv=argv, cwd=scratch, env=environment(scratch))


def redis(scratch: str, test: str, requests: int) -> Command:
    """redis-server and redis-benchmark, both inside, over loopback TCP; microseconds per request."""
    directory = os.path.join(scratch, f"redis-{test}")
    os.makedirs(directory)
    port = free_port()
    script = _script(directory, REDIS, PORT=str(port), TEST=test, REQUESTS=str(requests))
    return Command(argv=script.argv, cwd=directory, env=script.env, ports=(port,), number=True)


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def missing(*programs: str) -> str:
    """The programs that are not installed, as a text for the report."""
    return ", ".join(program for program in programs if not shutil.which(program, path=PATH))
