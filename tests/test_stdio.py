"""Standard streams: what may be one, and that nothing else comes with them."""

from __future__ import annotations

import errno
import io
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from programs.tools import wait_until

from sandlock import NULL, PIPE, STDOUT, ConfinementError, PolicyError, Sandbox

pytestmark = pytest.mark.needs(landlock=6)

STREAMS = ("stdin", "stdout", "stderr")


@pytest.fixture
def box() -> Iterator[Sandbox]:
    """A sandbox for ordinary programs."""
    with Sandbox(presets=["system"]) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("value", ["file", b"file", 1.5, True, -7, ()], ids=repr)
def test_what_is_no_stream_is_named(box: Sandbox, name: str, value: Any) -> None:
    with pytest.raises(PolicyError, match=f"^{name}: .*PIPE, NULL, INHERIT") as caught:
        box.run(["true"], **{name: value})
    assert caught.value.field == name


def test_only_stderr_can_follow_stdout(box: Sandbox) -> None:
    for name in ("stdin", "stdout"):
        with pytest.raises(PolicyError, match=name):
            box.run(["true"], **{name: STDOUT})  # type: ignore[arg-type]


def test_a_file_object_without_a_descriptor(box: Sandbox) -> None:
    with pytest.raises(io.UnsupportedOperation):
        box.run(["true"], stdout=io.BytesIO())  # type: ignore[arg-type]


def test_a_connected_socket_is_a_stream(box: Sandbox) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello\n")
        ours.shutdown(socket.SHUT_WR)
        assert box.run(["cat"], stdin=theirs, stdout=theirs).ok
        assert ours.recv(100) == b"hello\n"


# ---- the program's side


@pytest.mark.parametrize("streams", [{}, {"stdout": NULL}, {"stderr": STDOUT}, {"stdin": PIPE}], ids=str)
def test_exactly_three_descriptors(box: Sandbox, streams: dict[str, Any], tmp_path: Any) -> None:
    with open(tmp_path / "inheritable", "wb") as file:
        os.set_inheritable(file.fileno(), True)
        with box.start(["sh", "-c", "echo ready; exec sleep 5"], **streams) as process:
            assert process.stdout is None or process.stdout.readline() == b"ready\n"
            held = f"/proc/{process.pid}/fd"  # the loader has one more for a moment
            wait_until(lambda: sorted(os.listdir(held)) == ["0", "1", "2"], "three descriptors and no other")


def test_order_of_merged_streams(box: Sandbox) -> None:
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done"
    result = box.run(["sh", "-c", script], stderr=STDOUT)
    assert result.stdout_text.split("\n")[:-1] == [f"{name} {i}" for i in (1, 2, 3) for name in ("out", "err")]
    assert result.stderr == b""


def test_more_input_and_output_than_pipes_hold(box: Sandbox) -> None:
    data = os.urandom(1 << 20) * 5
    assert box.run(["cat"], input=data).stdout == data
    limited = box.run(["sh", "-c", "cat >&2"], input=data)
    assert limited.stderr == data


def test_limits_are_for_each_stream() -> None:
    script = "head -c 1000000 /dev/zero; head -c 10 /dev/zero >&2"
    with Sandbox(presets=["system"], max_output=1000) as box:
        result = box.run(["sh", "-c", script])
        assert (len(result.stdout), len(result.stderr), result.truncated) == (1000, 10, {"stdout"})
        result = box.run(["sh", "-c", f"({script}) 3>&1 1>&2 2>&3"])
        assert (len(result.stdout), len(result.stderr), result.truncated) == (10, 1000, {"stderr"})
        assert result.ok


def test_a_program_that_closes_its_output_goes_on(box: Sandbox, tmp_path: Any) -> None:
    with Sandbox(presets=["system"], fs_writable=[tmp_path]) as writing:
        result = writing.run(["sh", "-c", f"echo said; exec >&- 2>&-; sleep 0.05; echo done > {tmp_path}/file"])
    assert result.stdout == b"said\n"
    assert (tmp_path / "file").read_text() == "done\n"


def test_a_terminal_has_its_size_and_says_when_it_changes(box: Sandbox) -> None:
    script = "stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
    with box.start(["sh", "-c", script], pty=(33, 99)) as process:
        assert process.terminal is not None
        seen = b""
        while b"ready" not in seen:
            seen += os.read(process.terminal, 1000)
        assert b"33 99" in seen
        process.resize(44, 111)
        wait_until(lambda: process.poll() is not None, "the program has seen the new size")
        assert b"44 111" in os.read(process.terminal, 1000)


def test_no_descriptors_left_is_said_with_its_step(box: Sandbox) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(name) for name in os.listdir("/proc/self/fd")]
    limit = max(used) + 8
    holes: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    steps = set()
    try:
        while True:  # the limit is on numbers, and there may be free ones below it
            try:
                holes.append(os.dup(2))
            except OSError:
                break
        for _ in range(7):  # one more is free each time
            with pytest.raises(ConfinementError, match="EMFILE; raise the limit") as caught:
                box.run(["true"])
            assert caught.value.errno == errno.EMFILE
            steps.add(caught.value.step)
            os.close(holes.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in holes:
            os.close(each)
    assert steps == {"open the run's control socket", "open the program's streams"}
    assert box.run(["true"]).ok
