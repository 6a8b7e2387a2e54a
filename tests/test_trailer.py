"""The trailer: words that cannot be forged, on the denied program's own stderr, and never anywhere else."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sandlock import AsyncSandbox, Deny, Result
from sandlock.sessions.trailer import LONGEST, StderrTrailer, deliver, trailer, violation

TAG = "sandbox_violations"
TEXT = b"<sandbox_violations>x</sandbox_violations>\n"
DENY = {"exec_allow": ["*"], "exec_deny": ["git push * # use the mirror"], "presets": ["system"]}


# --- words --------------------


@given(st.lists(st.text(max_size=3000), min_size=4, max_size=4), st.integers(1, 30))
def test_nothing_in_it_forges_or_closes_the_tag(texts: list[str], times: int) -> None:
    kind, what, rule, reason = texts
    text = trailer([violation("exec", f"{what}{number}", rule, reason) for number in range(times)])
    assert len(text.encode()) <= LONGEST
    if text:
        assert text.startswith(f"<{TAG}>deny exec ")
        assert text.endswith(f"</{TAG}>\n")
        inside = text.removeprefix(f"<{TAG}>").removesuffix(f"</{TAG}>\n")
        assert "<" not in inside
        assert ">" not in inside
        assert all(character.isprintable() or character == "\n" for character in inside)
        assert all(line.startswith(("deny exec ", "and ")) for line in inside.split("\n"))
    del kind


def test_it_says_what_and_why() -> None:
    line = violation("exec", "git push origin", "git push *", "ask before <you> push")
    assert trailer([line]) == (
        f"<{TAG}>deny exec git push origin (rule git push *: ask before &lt;you&gt; push)</{TAG}>\n"
    )
    assert trailer([]) == ""
    assert trailer(str(number) for number in range(30)).endswith(f"\n19\nand 10 more</{TAG}>\n")
    assert trailer(["x", "x"]) == f"<{TAG}>x</{TAG}>\n"


# --- where it is written --------------------


@pytest.fixture
def child_with(request: pytest.FixtureRequest) -> Iterator[object]:
    """Starts a sleeping child with this stderr."""
    started: list[subprocess.Popen[bytes]] = []

    def start(stderr: object) -> int:
        child = subprocess.Popen(["sleep", "600"], stderr=stderr, start_new_session=True)  # type: ignore[call-overload]
        started.append(child)
        while os.path.basename(os.readlink(f"/proc/{child.pid}/exe")) != "sleep":
            time.sleep(0.001)
        return child.pid

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_pipes_get_it_without_waiting(child_with) -> None:  # type: ignore[no-untyped-def]
    read, write = os.pipe()
    try:
        pid = child_with(write)
        assert deliver([pid], TEXT, 1)
        assert os.read(read, 4096) == TEXT
        assert os.get_blocking(write), "the program's own description stays as it was"
        os.set_blocking(write, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write, b"x" * 65536)
        os.set_blocking(write, True)
        before = time.monotonic()
        assert not deliver([pid], TEXT, 0.1)
        assert time.monotonic() - before < 10
    finally:
        os.close(read)
        os.close(write)


def test_a_pipe_without_a_reader_is_no_trouble(child_with) -> None:  # type: ignore[no-untyped-def]
    read, write = os.pipe()
    os.close(read)
    try:
        assert not deliver([child_with(write)], TEXT, 1)
    finally:
        os.close(write)


def test_socket_pairs_get_it_and_named_sockets_do_not(child_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        assert deliver([child_with(theirs)], TEXT, 1)
        assert ours.recv(4096) == TEXT
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        served, _ = listener.accept()
        with served:
            for end in (client, served):
                assert not deliver([child_with(end)], TEXT, 1)
            assert not select.select([client, served], [], [], 0)[0]
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                theirs.send(b"x" * 65536)
        assert not deliver([child_with(theirs)], TEXT, 1)


def test_files_get_it_at_the_programs_place(child_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for flags, expected in ((os.O_APPEND, b"before" + TEXT), (0, TEXT)):
        log = tmp_path / "log"
        log.write_bytes(b"before")
        fd = os.open(log, os.O_WRONLY | flags)
        try:
            assert deliver([child_with(fd)], TEXT, 1)
            assert log.read_bytes() == expected
            assert os.lseek(fd, 0, os.SEEK_CUR) == len(expected), "what the program writes next comes after it"
        finally:
            os.close(fd)


def test_what_is_not_a_log_gets_nothing(child_with, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Files opened for reading, terminals, devices, files of /proc."""
    log = tmp_path / "log"
    log.write_bytes(b"before")
    master, slave = os.openpty()
    read_only = os.open(log, os.O_RDONLY)
    null = os.open(os.devnull, os.O_WRONLY)
    own = os.open("/proc/self/oom_score_adj", os.O_RDWR)
    memory = os.memfd_create("log")
    try:
        for fd in (read_only, slave, null, own, memory):
            assert not deliver([child_with(fd)], TEXT, 1)
        assert log.read_bytes() == b"before"
        assert not select.select([master], [], [], 0)[0]
        assert os.fstat(memory).st_size == 0
    finally:
        for fd in (master, slave, read_only, null, own, memory):
            os.close(fd)


def test_only_our_own_descendants_and_only_the_nearest_alive(child_with) -> None:  # type: ignore[no-untyped-def]
    read, write = os.pipe()
    try:
        gone = subprocess.Popen(["true"])
        gone.wait()
        alive = child_with(write)
        assert deliver([gone.pid, alive], TEXT, 1)
        assert os.read(read, 4096) == TEXT
        assert not deliver([os.getpid()], TEXT, 1)
        assert not deliver([1], TEXT, 1)
        assert not deliver([], TEXT, 1)
        null = os.open(os.devnull, os.O_WRONLY)
        try:  # who lives is told, or nobody: its parent's stderr is not where it would look
            assert not deliver([child_with(null), alive], TEXT, 1)
        finally:
            os.close(null)
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        os.close(read)
        os.close(write)


# --- in a run --------------------


def run(code: list[str], *, reason: str = "", **fields: object) -> tuple[Result, StderrTrailer]:
    """Runs a program whose questions are denied for this reason, with trailers."""

    async def main() -> tuple[Result, StderrTrailer]:
        tells = StderrTrailer()

        async def vet(event: object, box: object) -> Deny:
            verdict = Deny(reason, by="tester")
            await tells.denied(event, verdict)  # type: ignore[arg-type]
            return verdict

        async with AsyncSandbox(policy_fn=vet, **fields) as box, trio.open_nursery() as nursery:  # type: ignore[arg-type]
            stream = box.decisions()

            async def watch() -> None:
                async for decision in stream:
                    await tells.decided(decision)

            nursery.start_soon(watch)
            result = await box.run(code, timeout=60)
            await box.aclose()
            return result, tells

    return trio.run(main)


def tags(text: bytes | str) -> list[str]:
    text = text if isinstance(text, str) else text.decode()
    return re.findall(f"<{TAG}>(.*?)</{TAG}>", text, re.S)


@pytest.mark.slow
def test_an_asked_denial_is_on_stderr_before_the_program_goes_on() -> None:
    fields = DENY | {"exec_deny": [], "exec_ask": ["git push * # needs approval"]}
    result, _ = run(["sh", "-c", "git push origin; echo after >&2"], reason="not </sandbox_violations> today", **fields)
    (text,) = tags(result.stderr)
    assert text == "deny exec git push origin (rule git push *: not &lt;/sandbox_violations&gt; today)"
    assert result.stderr.index(TAG.encode()) < result.stderr.index(b"after")


@pytest.mark.slow
def test_a_denial_of_the_rules_reaches_somebody_who_lives() -> None:
    """Also where the program that was denied is gone by then: twenty times, whoever is faster."""
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do git push $i; done; sleep 0.3; true"
    result, tells = run(["sh", "-c", script], **DENY)
    assert len(tags(result.stderr)) == tells.written
    assert {text.split()[4] for text in tags(result.stderr)} == {str(number) for number in range(1, 11)}
    assert all("use the mirror" in text for text in tags(result.stderr))


@pytest.mark.slow
def test_a_denied_connection_is_told_too() -> None:
    code = "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError as e: print(e)\n"
    code += "import time; time.sleep(0.3)"
    fields = DENY | {"net_allow": ["192.0.2.1:443"], "net_deny": ["127.0.0.1:9"]}
    result, _ = run(["/usr/bin/python3", "-c", code], **fields)
    assert b"Permission denied" in result.stdout
    (text,) = tags(result.stderr)
    assert text.startswith("deny connect tcp://127.0.0.1:9 (rule 127.0.0.1:9")


@pytest.mark.slow
def test_it_goes_where_the_denied_program_writes(tmp_path: Path) -> None:
    """Its own log, not the run's; and nothing where it has none. The other way round is the control."""
    (tmp_path / "work").mkdir()
    log = tmp_path / "work" / "log"
    fields = DENY | {"fs_writable": [str(tmp_path / "work")], "exec_deny": [], "exec_ask": ["git push *"]}
    result, _ = run(["sh", "-c", f"git push a 2>{log}; git push b 2>/dev/null; git push c"], reason="no", **fields)
    assert [text.split()[4] for text in tags(log.read_text())] == ["a"]
    assert [text.split()[4] for text in tags(result.stderr)] == ["c"]


@pytest.mark.slow
def test_a_program_that_does_not_read_holds_nobody_up() -> None:
    """Its stderr is a full pipe: the denial comes after the deadline, without a trailer."""
    code = """
import os, subprocess, time
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while True: os.write(write, b"x" * 65536)
except BlockingIOError: pass
before = time.monotonic()
try: subprocess.run(["git", "push", "x"], stderr=write)
except OSError as error: print(type(error).__name__, time.monotonic() - before < 5)
"""
    fields = DENY | {"exec_deny": [], "exec_ask": ["git push *"]}
    result, tells = run(["/usr/bin/python3", "-c", code], reason="no", **fields)
    assert result.stdout == b"PermissionError True\n"
    assert tells.written == 0


@pytest.mark.slow
def test_a_loop_of_denials_is_bounded() -> None:
    result, tells = run(["sh", "-c", "i=0; while [ $i -lt 300 ]; do git push $i; i=$((i+1)); done; true"], **DENY)
    assert result.ok
    assert 0 < tells.written <= 80
