"""record_paths: what is done to files is in the audit file, about once, and nothing that was not done."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest
from ordinary import Person

from sandlock import Sandbox

pytestmark = pytest.mark.needs(landlock=6, kernel=(5, 19))

PROGRAM = """
import os, sys, threading
os.chdir(sys.argv[1])
open("a", "w").close()
os.rename("a", "b")
os.chmod("b", 0o600)
os.utime("b")
os.symlink("b", "link")
os.link("b", "hard")
os.truncate("b", 3)
os.mkdir("folder")
os.mkfifo("fifo")
os.close(os.open("fifo", os.O_RDWR))
os.listdir("folder")
os.rmdir("folder")
os.unlink("hard")
open("link").close()
for _ in range(100):
    open("b").close()
os.stat("given")
for path in ("missing", "given/nothing"):
    try:
        open(path)
    except OSError:
        pass
try:
    open("/etc/forbidden", "w")
except PermissionError:
    pass
"""


def lines_of(path: str) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if line["record"] == "decision"]


def test_what_is_done_is_on_record(tmp_path: Any) -> None:
    work, log = tmp_path / "work", tmp_path / "log.jsonl"
    work.mkdir()
    (work / "given").write_text("")
    with Sandbox(presets=["python"], fs_writable=[str(work)], record_paths=True, audit=log) as box:
        result = box.run([sys.executable, "-c", PROGRAM, str(work)])
    assert result.exit_code == 0, result.stderr_text
    mine = [line for line in lines_of(str(log)) if line["target"].startswith(f"{os.path.realpath(work)}/")]
    done = [(os.path.basename(line["target"]), line["access"]) for line in mine]
    expected = [
        ("a", "create"), ("a", "remove"), ("b", "create"), ("b", "change"), ("link", "create"), ("b", "read"),
        ("hard", "create"), ("b", "write"), ("folder", "create"), ("fifo", "create"), ("fifo", "write"),
        ("folder", "list"), ("folder", "remove"), ("hard", "remove"),
    ]  # fmt: skip
    # "link" is opened as what it leads to. Each of the five tasks that carry out calls keeps count by itself.
    assert list(dict.fromkeys(done)) == expected
    assert all(done.count(each) <= 5 for each in expected)
    assert {line["decision"] for line in mine} == {"allow"}
    assert all(line["exe"] and line["pid"] and line["syscall"] for line in mine)
    denied = [line for line in lines_of(str(log)) if line["decision"] == "deny"]
    assert ("/etc/forbidden", "open", "") in [(line["target"], line["kind"], line["access"]) for line in denied]


def test_names_that_are_there_or_not_are_told_as_by_the_kernel(visitor: Person) -> None:
    """mkdir -p and rm -f count on these errors, wherever nothing may be changed."""
    script = (
        "import errno, os, sys, sandlock\n"
        "code = '''\n"
        "import errno, os\n"
        "calls = {'mkdir': ('/usr',), 'rmdir': ('/usr/none',), 'unlink': ('/usr/none',), 'symlink': ('x', '/usr'), "
        "'rename': ('/usr/none', '/usr/other')}\n"
        "for name, words in calls.items():\n"
        "    try:\n"
        "        getattr(os, name)(*words)\n"
        "    except OSError as error:\n"
        "        print(name, errno.errorcode[error.errno])\n"
        "'''\n"
        "print(sandlock.run([sys.executable, '-c', code], presets=['python'], record_paths=True).stdout_text)"
    )
    said = visitor.script(script)
    expected = {"mkdir": "EEXIST", "rmdir": "ENOENT", "unlink": "ENOENT", "symlink": "EEXIST", "rename": "ENOENT"}
    assert dict(line.split() for line in said.split("\n") if line) == expected


def test_without_a_reader_it_only_mediates() -> None:
    with Sandbox(presets=["system"], record_paths=True) as box:
        assert box.run(["sh", "-c", "cat /etc/passwd > /dev/null; echo ok"]).stdout == b"ok\n"
        assert box.plan.mediated == "record_paths"


def test_many_tasks_and_much_that_is_distinct(tmp_path: Any) -> None:
    """More than fits the journal at once, from several processes: nothing is lost."""
    work, log = tmp_path / "work", tmp_path / "log.jsonl"
    work.mkdir()
    code = (
        "import os, sys\n"
        "for child in range(4):\n"
        "    if os.fork() == 0:\n"
        "        for i in range(1000): open(f'{sys.argv[1]}/{child}-{i}', 'w').close()\n"
        "        os._exit(0)\n"
        "for child in range(4): assert os.wait()[1] == 0"
    )
    with Sandbox(presets=["python"], fs_writable=[str(work)], record_paths=True, audit=log) as box:
        result = box.run([sys.executable, "-c", code, str(work)])
    assert (result.exit_code, result.audit_error) == (0, ""), result.stderr_text
    made = [os.path.basename(line["target"]) for line in lines_of(str(log)) if line["access"] == "create"]
    assert sorted(made) == sorted(os.listdir(work))
    assert len(made) == 4000
