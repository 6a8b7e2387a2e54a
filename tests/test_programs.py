"""Real programs inside the sandbox, as root and as an ordinary user; judged by what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import ordinary
import pytest

pytestmark = [pytest.mark.needs(landlock=6), pytest.mark.slow]


@pytest.fixture
def home(visitor: ordinary.Person) -> Path:
    """The workspace: an empty directory of this person's own."""
    return Path(visitor.home)


def confined(
    person: ordinary.Person, script: str, *options: str, preset: str = "system", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in the sandbox, in and with write access to the person's home. Fails the test if it fails."""
    words = ["run", "--preset", preset, "-w", ".", *options, "--", "sh", "-euc", script]
    done = person.run([person.python, "-m", "sandlock.cli", *words], timeout=timeout)
    assert done.returncode == 0, f"as {person.name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def free(person: ordinary.Person, *words: str) -> str:
    """The same person's look from outside the sandbox."""
    done = person.run(words)
    assert done.returncode == 0, done.stderr
    return done.stdout


WHO = "git config user.name Someone; git config user.email someone@example.org"


def test_git(visitor: ordinary.Person, home: Path) -> None:
    script = f"""
        git init -q -b main project; cd project; {WHO}
        for i in 1 2 3; do echo $i > file$i; git add .; git commit -qm "commit $i"; done
        git mv file1 moved; git commit -qm moved; git status --porcelain
        cd ..; git clone -q project copy; cd copy; {WHO}
        git checkout -qb topic; echo more >> moved; git commit -qam more; git push -q origin topic
        cd ../project; git merge -q topic; git gc -q; git fsck --strict 2>&1
    """
    confined(visitor, script, preset="git")
    log = free(visitor, "git", "-C", str(home / "project"), "log", "--format=%s")
    assert log.split("\n") == ["more", "moved", "commit 3", "commit 2", "commit 1", ""]
    assert (home / "copy" / "moved").read_text() == "1\nmore\n"


def test_gcc_and_make(visitor: ordinary.Person, home: Path) -> None:
    for number in range(8):
        (home / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    calls = " + ".join(f"part{number}()" for number in range(8))
    declarations = "".join(f"int part{number}(void);\n" for number in range(8))
    (home / "main.c").write_text(
        f'#include <stdio.h>\n{declarations}int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    )
    objects = " ".join(f"part{number}.o" for number in range(8))
    (home / "Makefile").write_text(f"sum: main.o {objects}\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n")
    done = confined(visitor, "make -s -j4; ./sum", preset="build")
    assert done.stdout == "28\n"
    assert free(visitor, str(home / "sum")) == "28\n"


def wheel(place: Path) -> None:
    """A small package, so that nothing has to be fetched."""
    with zipfile.ZipFile(place / "greeting-1.0-py3-none-any.whl", "w") as file:
        file.writestr("greeting.py", "def main():\n    print('hello from a wheel')\n")
        info = "greeting-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\ngreeting = greeting:main\n")
        file.writestr(f"{info}/RECORD", "")


def test_python_environment(visitor: ordinary.Person, home: Path) -> None:
    wheel(home)
    script = """
        python3 -m venv env
        env/bin/pip -q --disable-pip-version-check install --no-index ./greeting-1.0-py3-none-any.whl
        env/bin/greeting
    """
    assert confined(visitor, script, preset="python").stdout == "hello from a wheel\n"
    assert free(visitor, str(home / "env" / "bin" / "greeting")) == "hello from a wheel\n"


PYTHON_WORK = """
import concurrent.futures as futures, hashlib, json, sqlite3, ssl, subprocess, sys, tempfile, threading
def square(n): return n * n
if __name__ == "__main__":
    with futures.ProcessPoolExecutor(3) as pool:
        squares = list(pool.map(square, range(50)))
    with futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(square, range(50))) == squares
    with sqlite3.connect("numbers.db") as base:
        base.execute("create table squares (n integer)")
        base.executemany("insert into squares values (?)", [(n,) for n in squares])
    words = subprocess.run(["echo", "child"], capture_output=True, text=True, check=True).stdout
    json.dump({"sum": sum(squares), "words": words}, open("out.json", "w"))
"""


def test_python_processes_threads_and_a_database(visitor: ordinary.Person, home: Path) -> None:
    (home / "work.py").write_text(PYTHON_WORK)
    confined(visitor, "python3 work.py", "--preset", "shm", preset="python")
    assert (home / "out.json").read_text() == '{"sum": 40425, "words": "child\\n"}'
    query = "import sqlite3; print(sqlite3.connect('numbers.db').execute('select sum(n) from squares').fetchone()[0])"
    assert free(visitor, sys.executable if visitor.name == "root" else visitor.python, "-c", query) == "40425\n"


NODE_WORK = """
const fs = require('fs'), { execFileSync } = require('child_process'), { Worker } = require('worker_threads');
const zlib = require('zlib'), crypto = require('crypto');
fs.mkdirSync('made/deep', { recursive: true });
fs.writeFileSync('made/deep/file', zlib.gunzipSync(zlib.gzipSync('text')).toString() + execFileSync('echo', ['child']));
new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true })
  .on('message', n => { fs.writeFileSync('answer', String(n)); process.exit(0); });
"""


def test_node(visitor: ordinary.Person, home: Path) -> None:
    (home / "work.js").write_text(NODE_WORK)
    confined(visitor, "node work.js", preset="node")
    assert (home / "made" / "deep" / "file").read_text() == "textchild\n"
    assert (home / "answer").read_text() == "42"


def test_redis_under_load(visitor: ordinary.Person, home: Path) -> None:
    port = 20000 + os.getpid() % 20000
    script = f"""
        redis-server --port {port} --bind 127.0.0.1 --dir . --save '' --appendonly yes >server.log 2>&1 & server=$!
        client() {{ redis-cli -p {port} "$@"; }}
        i=0; until [ "$(client ping 2>&1)" = PONG ]; do i=$((i + 1)); [ $i -lt 100 ]; sleep 0.05; done
        client set key value >/dev/null
        redis-benchmark -p {port} -q -n 2000 -c 20 -t set,get,lpush >load.txt 2>&1
        client get key; client shutdown; wait $server
    """
    ports = ("--net-allow", f":{port}", "--net-allow-bind", str(port))
    assert confined(visitor, script, *ports).stdout == "value\n"
    assert "SET" in (home / "load.txt").read_text()
    assert any(path.stat().st_size > 0 for path in home.glob("appendonly*/*.aof"))


def test_archives_and_text_tools(visitor: ordinary.Person, home: Path) -> None:
    script = """
        mkdir -p tree/a/b/c; for i in $(seq 100); do echo line $i > tree/a/b/c/$i; done; ln -s ../a tree/a/link
        tar -czf tree.tgz tree; mkdir out; tar -xzf tree.tgz -C out; diff -r tree/a/b out/tree/a/b
        find out -type f | wc -l
        cat out/tree/a/b/c/* | sort -k2n | sed -n '$p' | awk '{ print $2 }'
        perl -e 'open(my $f, ">", "perl.txt"); print $f join(",", map { $_ * 2 } 1..5); close $f'
    """
    assert confined(visitor, script).stdout.split() == ["100", "100"]
    assert (home / "perl.txt").read_text() == "2,4,6,8,10"
    assert os.readlink(home / "out" / "tree" / "a" / "link") == "../a"


def test_shells(visitor: ordinary.Person) -> None:
    script = """
        bash -c 'set -m; sleep 0.05 & sleep 0.05 & jobs | wc -l; wait; echo "jobs done"'
        for i in $(seq 200); do /bin/true; done
        seq 5 | while read n; do echo $n; done | tac | tr '\\n' ' '
        bash -c 'diff <(seq 3) <(seq 3) && cat <<< here'
        trap 'echo trapped' USR1; kill -USR1 $$; (exit 7) || echo $?
    """
    expected = "2\njobs done\n5 4 3 2 1 here\ntrapped\n7\n"
    assert confined(visitor, script).stdout == expected


def test_big_arguments_and_environment(visitor: ordinary.Person) -> None:
    code = """
import sandlock
word, value = "a" * 100_000, "e" * 120_000
with sandlock.Sandbox(presets=["system"], env={f"V{n}": value for n in range(8)}) as box:
    result = box.run(["sh", "-c", 'printf "%s" "$@" | wc -c; printf "%s" "$V0$V7" | wc -c', "sh", *[word] * 8])
    print(result.stdout_text.split())
"""
    assert visitor.script(code) == "['800000', '240000']\n"


WRITE_OUTSIDE = "echo changed > {target} || echo refused"


def test_the_workspace_ends_where_it_ends(visitor: ordinary.Person, home: Path) -> None:
    (home / "workspace").mkdir()
    target = home / "precious"
    target.write_text("kept\n")
    for path in (home / "workspace", target):
        os.chown(path, visitor.uid, visitor.gid)
    script = WRITE_OUTSIDE.format(target=target)
    command = ["run", "--preset", "system", "-w", str(home / "workspace"), "--", "sh", "-c", script]
    done = visitor.run([visitor.python, "-m", "sandlock.cli", *command])
    assert done.stdout == "refused\n"
    assert target.read_text() == "kept\n"
    assert visitor.run(["sh", "-c", script]).returncode == 0  # the same without the sandbox
    assert target.read_text() == "changed\n"
