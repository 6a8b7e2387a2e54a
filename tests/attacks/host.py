"""The embedding process of the attack tests: runs programs for the arena, confined or free, as whoever started it.

One JSON object per line on stdin, one answer per line on stdout. It is what a guest would have to reach to do harm,
so it also counts the signals that arrive here, and holds something worth stealing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import traceback
from typing import Any

import sandlock

SIGNALS = (signal.SIGUSR1, signal.SIGIO, signal.SIGURG)
PATIENCE = 10.0
"""Seconds that any attack may take."""

received = 0
live: dict[int, Started] = {}


def count(number: int, frame: object) -> None:
    global received
    received += 1


class Started:
    """A program that runs while the test looks at it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.terminal: int | None = None
        self.slave: int | None = None
        self.process: Any
        self.box: sandlock.Sandbox | None = None
        stdin = order_stdin(order)
        if order["confined"]:
            self.box = sandlock.Sandbox(**order["fields"])
            self.process = self.box.start(
                order["argv"],
                pty=bool(order.get("pty")),
                stdin=sandlock.PIPE if stdin is None else stdin,
                stderr=sandlock.STDOUT if not order.get("pty") else sandlock.PIPE,
                interactive=bool(order.get("interactive")),
            )
            self.terminal = self.process.terminal
        elif order.get("pty"):
            self.terminal, self.slave = pty.openpty()
            slave = self.slave
            self.process = subprocess.Popen(
                order["argv"],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
            )
        else:
            self.process = subprocess.Popen(
                order["argv"],
                stdin=subprocess.PIPE if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=None if order.get("interactive") else 0,
            )
        close(stdin)
        self.output = self.terminal if self.terminal is not None else self.process.stdout.fileno()
        self.pending = b""

    def line(self) -> str:
        """The next line of output; "" at the end."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self.pending:
            if not select.select([self.output], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no line, only {self.pending!r}")
            try:
                data = os.read(self.output, 65536)
            except OSError:  # EIO: the last one closed a terminal
                data = b""
            if not data:
                break
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode("latin-1").rstrip("\r")

    def tell(self, text: str) -> None:
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """Closes its stdin and waits for the end."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        lines = []
        while True:
            line = self.line()
            if not line and not self.pending:
                break
            lines.append(line)
        return {"out": "\n".join(lines) + "\n"} | self.end()

    def end(self) -> dict[str, Any]:
        if self.box is not None:
            result = self.process.wait(PATIENCE)
            self.process.close()
            return {"exit": result.exit_code, "signal": result.signal, "reason": result.reason}
        code = self.process.wait(PATIENCE)
        for end in (self.process.stdout, self.process.stdin):
            if end is not None:
                end.close()
        for end in (self.terminal, self.slave):
            if end is not None:
                os.close(end)
        return {"exit": code if code >= 0 else 128 - code, "signal": -code if code < 0 else None, "reason": "exited"}

    def kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(Exception):
            self.end()


def order_stdin(order: dict[str, Any]) -> int | None:
    """What the program gets as stdin: a file opened read-only, or a socket or a memfd that somebody made."""
    match order.get("stdin"):
        case None:
            return None
        case "null":
            return os.open(os.devnull, os.O_RDONLY)
        case "unix-stream" | "unix-datagram" | "udp" | "tcp" as kind:
            family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
            sort = socket.SOCK_DGRAM if kind in ("unix-datagram", "udp") else socket.SOCK_STREAM
            return socket.socket(family, sort).detach()
        case str(path):
            return os.open(path, os.O_RDONLY)
    raise ValueError(order["stdin"])


def close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def run(order: dict[str, Any]) -> dict[str, Any]:
    stdin = order_stdin(order | {"stdin": order.get("stdin") or "null"})
    inherited = [os.open(order["inherit"], os.O_RDONLY) for _ in range(20)] if order.get("inherit") else []
    for fd in inherited:
        os.set_inheritable(fd, True)
    try:
        if order["confined"]:
            with sandlock.Sandbox(**order["fields"]) as box:
                result = box.run(
                    order["argv"],
                    stdin=stdin,
                    stderr=sandlock.STDOUT,
                    timeout=PATIENCE,
                    interactive=bool(order.get("interactive")),
                )
            text = result.stdout.decode("latin-1")
            return {"out": text, "exit": result.exit_code, "signal": result.signal, "reason": result.reason}
        done = subprocess.run(
            order["argv"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
            close_fds=not inherited,
            process_group=None if order.get("interactive") else 0,
        )
        code = done.returncode
        return {
            "out": done.stdout.decode("latin-1"),
            "exit": code if code >= 0 else 128 - code,
            "signal": -code if code < 0 else None,
            "reason": "exited",
        }
    finally:
        for fd in inherited:
            os.close(fd)
        close(stdin)


def obey(order: dict[str, Any]) -> dict[str, Any]:
    global received
    match order["do"]:
        case "run":
            return run(order)
        case "start":
            started = Started(order)
            live[id(started)] = started
            return {"id": id(started), "pid": started.process.pid}
        case "line":
            return {"line": live[order["id"]].line()}
        case "tell":
            live[order["id"]].tell(order["text"])
            return {}
        case "finish":
            return live.pop(order["id"]).finish()
        case "kill":
            started = live.pop(order["id"])
            started.kill()
            return {}
        case "signals":  # since last asked
            count, received = received, 0
            return {"count": count}
        case "threads":
            return {"pid": os.getpid(), "threads": sorted(int(tid) for tid in os.listdir("/proc/self/task"))}
    raise ValueError(order)


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, count)
    for line in sys.stdin:
        try:
            answer = obey(json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
