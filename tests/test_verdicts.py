"""Audit(), on_timeout="wait", and answers that are none: what each does, and what is written down of it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from attacks.arena import Listener
from loops import Loop
from test_supervised_network import SPOKEN
from test_vet_exec import vetted

import sandlock
from sandlock import Allow, AsyncSandbox, Audit, Deny, Exec, Kill, Result, Sandbox, SandlockError, Send
from sandlock._book import MAX_RECORDS, MAX_TEXT, Book
from sandlock._denials import Audited
from sandlock._verdicts import ACT_ALLOW, ACT_AUDIT, ACT_DENY, ACT_KILL, read_on_timeout, read_verdict

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]


def audit_touches(event: Any, box: Any) -> object:
    return Audit("look at this") if isinstance(event, Exec) and event.argv[0] == "touch" else Allow()


def check_audited(result: Result) -> None:
    assert result.denials == ()
    one, two = result.audited
    assert (one.kind, one.argv, one.reason, one.cause, one.count) == (
        "exec",
        ("touch", "one"),
        "look at this",
        "verdict",
        2,
    )
    assert (two.argv, two.count) == (("touch", "two"), 1)
    assert os.path.basename(one.target) == "touch"
    assert one.chain[0] == os.path.realpath("/bin/sh")
    assert time.time() - 60 < one.time <= two.time <= time.time()
    assert 0 < one.latency < 10
    assert "audited: exec" in result.explain()
    report = json.loads(json.dumps(result.to_dict()))
    assert [(each["argv"][1], each["count"]) for each in report["audited"]] == [("one", 2), ("two", 1)]


SCRIPT = ("/bin/sh", "-c", "touch one; touch one; touch two")


def test_an_audited_call_happens_and_is_on_record(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()

    async def vet(event: Any, box: AsyncSandbox) -> object:
        return audit_touches(event, box)

    result = vetted(loop, tmp_path / "work", vet, *SCRIPT, audit=tmp_path / "audit")
    assert sorted(os.listdir(tmp_path / "work")) == ["one", "two"]
    check_audited(result)
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    decided = [(line["decision"], line["cause"], line["reason"]) for line in lines if line["record"] == "decision"]
    assert decided == [("allow", "verdict", "the callback allowed it"), *[("audit", "verdict", "look at this")] * 3]
    assert lines[-1]["decisions"] == {"exec": {"allow": 1, "audit": 3}}


def test_an_audited_call_of_sync_code(tmp_path: Path) -> None:
    with Sandbox(presets=["system"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=audit_touches) as box:
        check_audited(box.run(SCRIPT))
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_audited_by_timeout_and_what_else_there_is(loop: Loop, tmp_path: Path) -> None:
    """The core writes down what it allows by `on_timeout`; forks and sends are audited like execs."""

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Exec) and event.argv[0] == "touch":
            await loop.sleep(30)
        return Allow() if isinstance(event, Exec) else Audit()

    work, audit = tmp_path / "work", tmp_path / "audit"
    work.mkdir()
    options: dict[str, Any] = {"policy_timeout": 0.2, "on_timeout": Audit("late"), "ask_forks": True, "audit": audit}
    result = vetted(loop, work, vet, "/bin/sh", "-c", "touch one; :", **options)
    assert os.listdir(work) == ["one"]
    fork, touch = result.audited
    assert (fork.kind, fork.cause, fork.reason, fork.argv) == ("fork", "verdict", "", ())
    assert (touch.kind, touch.cause, touch.argv) == ("exec", "timeout", ("touch", "one"))
    assert touch.latency >= 0.2
    assert result.denials == ()
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["decision"] for line in lines if line["record"] == "decision"] == ["allow", "audit", "audit"]


def test_an_audited_run_does_not_outgrow_its_book(loop: Loop, tmp_path: Path) -> None:
    code = "import subprocess\nfor i in range(40): subprocess.run(['/bin/true', str(i), 'x' * 120000], check=True)"

    async def vet(event: Any, box: AsyncSandbox) -> object:
        return Audit() if event.argv[0] == "/bin/true" else Allow()

    result = vetted(loop, tmp_path, vet, sys.executable, "-c", code, fs_readable=[sys.base_prefix, sys.prefix])
    assert result.exit_code == 0
    assert len(result.audited) + result.dropped_audited == 40
    assert len(result.audited) == MAX_TEXT // 120200
    assert f"audited without a record, for want of room: {result.dropped_audited}" in result.explain()


def test_a_book() -> None:
    def record(name: str, size: int = 0) -> Audited:
        return Audited(kind="exec", target=name, argv=("x" * size,), reason="", pid=1)

    book = Book(merge=True)
    keys = [book.add(record("a")), book.add(record("b")), book.add(record("a"))]
    assert [(each.target, each.count) for each in book.records] == [("a", 2), ("b", 1)]
    for key in keys:
        book.take_back(key)
    assert book.records == ()
    assert book.add(record("large", MAX_TEXT)) is None
    for number in range(MAX_RECORDS + 5):
        last = book.add(record(str(number)))
    assert (len(book.records), book.dropped) == (MAX_RECORDS, 6)
    book.take_back(last)
    assert book.dropped == 5
    single = Book(merge=False)
    single.add(record("a"))
    single.add(record("a"))
    assert [each.count for each in single.records] == [1, 1]


# ---- on_timeout="wait"


@pytest.mark.slow
def test_a_question_may_go_on_waiting(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv[0] == "touch":
            await loop.sleep(0.5)
        return Deny("no") if event.argv == ("touch", "bad") else Allow()

    command = ("/bin/sh", "-c", "touch bad; touch good")
    result = vetted(loop, tmp_path, vet, *command, policy_timeout=0.1, on_timeout="wait")
    assert os.listdir(tmp_path) == ["good"]
    assert [each.cause for each in result.denials] == ["verdict"]
    assert result.overdue == 2
    assert result.to_dict()["overdue"] == 2
    assert "waited beyond policy_timeout: 2" in result.explain()
    result = vetted(loop, tmp_path, vet, *command, policy_timeout=0.1)  # the control
    assert [each.cause for each in result.denials] == ["timeout"] * 2
    assert result.overdue == 0


def test_words_for_on_timeout() -> None:
    assert read_on_timeout("wait")[0] not in (ACT_ALLOW, ACT_DENY, ACT_KILL, ACT_AUDIT)
    assert read_on_timeout(Audit()) == (ACT_AUDIT, 0)
    for wrong in ("Wait", "allow", True, None, Allow, Liar(Allow())):
        with pytest.raises(SandlockError, match="on_timeout"):
            read_on_timeout(wrong)


# ---- answers that are none


class Liar:
    """Says that it is another thing, and equal to everything."""

    def __init__(self, thing: object) -> None:
        self.__dict__["thing"] = thing

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["thing"], name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        return type(self.__dict__["thing"])

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Mute:
    def __repr__(self) -> str:
        raise SystemExit(3)


class Endless:
    def __repr__(self) -> str:
        return "x" * 10_000_000


class BadNumber(int):
    """An errno that compares as it likes: the kernel would take it for success."""

    def __gt__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return True


class MuteError(Exception):
    __repr__ = Mute.__repr__


RUBBISH: list[object] = [
    True, False, 0, 1, "", "allow", b"", [], (), {}, Allow, Audit, Deny, Kill, object(), print, Liar(Allow()),
    Liar(None), Liar(True), Mute(), Endless(), MuteError(), SystemExit(), Liar(Audit()), Allow(scope=Liar("once")),  # type: ignore[arg-type]
    Allow(scope="run", words=BadNumber(-1)), Allow(words=Liar(None)), Audit(reason=3), Audit(reason=Liar("x")),  # type: ignore[arg-type]
    Deny("x", BadNumber(0)), Deny("x", BadNumber(-13)), Deny("x", 4096), Deny(3), Deny("x", "1"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(RUBBISH)))
def test_what_is_no_verdict_denies(number: int) -> None:
    verdict = read_verdict(RUBBISH[number])
    assert (verdict.act, verdict.errno, verdict.cause) == (ACT_DENY, 13, "callback-error")
    assert 0 < len(verdict.reason) < 1000


def test_what_is_a_verdict() -> None:
    class Name(str):
        """As enums of strings are."""

        def __str__(self) -> str:
            raise ValueError

    assert read_verdict(Deny(Name("x"))).reason == "x"
    assert type(read_verdict(Audit(Name("x"))).reason) is str
    assert read_verdict(Kill(Mute())).act == ACT_KILL  # type: ignore[arg-type]
    assert (read_verdict(Allow()).allows, read_verdict(Audit()).allows, read_verdict(None).allows) == (
        True,
        True,
        False,
    )


# ---- the size of what is sent

SENDING = """
import ctypes, os, socket, sys, threading, time
port, other, many = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "many"
libc = ctypes.CDLL(None, use_errno=True)
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("spans", ctypes.c_void_p),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_long), ("sent", ctypes.c_ulong)]
data = ctypes.create_string_buffer(b"OWNEDOWNEDOWNED")
to = ctypes.create_string_buffer(b"\\2\\0" + port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8), 16)
spans = (Span * 2)(Span(ctypes.addressof(data), 3), Span(ctypes.addressof(data) + 3, 2))
header = Header(ctypes.addressof(to), 16, ctypes.addressof(spans), 2, 0, 0, 0, 0)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def change():
    time.sleep(0.15)
    spans[1].length = other - 3
threading.Thread(target=change).start()
if many:
    result = libc.sendmmsg(s.fileno(), ctypes.byref(header), 1, 0)
else:
    result = libc.sendmsg(s.fileno(), ctypes.byref(header), 0)
print(result, ctypes.get_errno(), header.sent, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "told"), [("one", 5), ("many", 1)])
def test_what_is_sent_has_the_size_that_was_judged(loop: Loop, call: str, told: int) -> None:
    """A thread changes the vectors while somebody thinks."""
    asked: list[Any] = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Send):
            asked.append(event)
            await loop.sleep(0.4)
        return Allow()

    async def main(port: int, other: int) -> Result:
        async with AsyncSandbox(presets=["python"], policy_fn=vet) as box:
            return await box.run([sys.executable, "-c", SENDING, str(port), str(other), call], timeout=20)

    with Listener(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM) as server:
        for other in (15, 3, 4):
            result = loop.run(lambda other=other: main(server.port, other))
            assert result.stdout.split()[:2] == [b"-1", b"13"], result
            assert [(denial.kind, denial.cause) for denial in result.denials] == [("send", "changed")]
            assert server.visits() == []
        result = loop.run(lambda: main(server.port, 5))  # the control: changed to what it was
        assert result.stdout.split() == [str(told).encode(), b"0", b"5" if call == "many" else b"0"], result
        assert server.visits(patience=5) == SPOKEN
    assert [event.size for event in asked] == [5, 5, 5, 5]


def test_a_message_that_cannot_be_measured_is_not_asked_about() -> None:
    code = (
        "import ctypes, socket, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "port = int(sys.argv[1]).to_bytes(2, 'big')\n"
        "to = ctypes.create_string_buffer(b'\\2\\0' + port + bytes([127, 0, 0, 1]), 16)\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for spans, count in ((8, 1), (ctypes.addressof(to), 2000)):\n"
        "    header = (ctypes.c_uint64 * 7)(ctypes.addressof(to), 16, spans, count, 0, 0, 0)\n"
        "    print(libc.sendmsg(s.fileno(), header, 0), ctypes.get_errno())\n"
    )
    asked: list[Any] = []

    def vet(event: Any, box: Sandbox) -> object:
        asked.append(event)
        return Allow()

    result = sandlock.run([sys.executable, "-c", code, "9"], presets=["python"], policy_fn=vet)
    assert result.stdout.split() == [b"-1", b"14", b"-1", b"90"], result
    assert not [event for event in asked if isinstance(event, Send)]
