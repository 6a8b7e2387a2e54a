"""Standard streams: what may be one, and that nothing else comes with them."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from programs.tools import wait_until

from sandlock import INHERIT, NULL, PIPE, STDOUT, PolicyError, Sandbox

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


# ---- sockets

SEND = """
import socket, sys
with socket.socket(fileno=0) as stdin:
    stdin.sendto(b"out of the box", ("127.0.0.1", int(sys.argv[1])))
"""
CONNECT = """
import socket, sys
with socket.socket(fileno=0) as stdin:
    stdin.connect(("127.0.0.1", int(sys.argv[1])))
    stdin.send(b"out of the box")
"""


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_socket_without_a_peer_is_refused(box: Sandbox, kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as listener, socket.socket(type=kind) as given:
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.settimeout(5)
        port = str(listener.getsockname()[1])
        program = ["/usr/bin/python3", "-c", SEND if kind == socket.SOCK_DGRAM else CONNECT, port]
        for name in STREAMS:
            with pytest.raises(PolicyError, match="any address") as caught:
                box.run(program, **{name: given})
            assert caught.value.field == name
        # The same program with the same socket, without the sandbox: it reaches the listener.
        subprocess.run(program, stdin=given, check=True)
        if kind == socket.SOCK_DGRAM:
            assert listener.recv(100) == b"out of the box"
        else:
            with listener.accept()[0] as accepted:
                assert accepted.recv(100) == b"out of the box"


def test_an_inherited_socket_is_looked_at_too(box: Sandbox) -> None:
    kept = os.dup(0)
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as given:
            os.dup2(given.fileno(), 0)
            with pytest.raises(PolicyError, match="any address"):
                box.run(["true"], stdin=INHERIT)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


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
        with box.start(["sleep", "5"], **streams) as process:
            assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]


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
