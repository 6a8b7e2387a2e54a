"""The sides of a comparison: each runs a Command its own way and says how long its caller waited.

This runs inside a worker. `sandlock` is imported only by the sides that need it, because in one worker the
name means this package and in another the original one.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from commands import Command

WAITING = ("/bin/sh", "-c", "echo; read x")  # says that it runs, then waits for the end of its input


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run as the caller saw it."""

    seconds: float
    code: int
    stdout: bytes
    stderr: bytes


def timed(call: Callable[[], tuple[int, bytes, bytes]]) -> Outcome:
    start = time.perf_counter()
    code, stdout, stderr = call()
    return Outcome(time.perf_counter() - start, code, stdout, stderr)


class Bare:
    """No sandbox: `subprocess.run(capture_output=True)`."""

    def prefix(self, command: Command) -> list[str]:
        return []

    def run(self, command: Command) -> Outcome:
        argv = [*self.prefix(command), *command.argv]

        def call() -> tuple[int, bytes, bytes]:
            done = subprocess.run(argv, capture_output=True, cwd=command.cwd, env=command.env)
            return done.returncode, done.stdout, done.stderr

        return timed(call)

    def start(self, command: Command) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.prefix(command), *command.argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def finish(self, process: Any) -> None:
        process.stdin.close()
        process.wait()
        process.stdout.close()


class Bubblewrap(Bare):
    """bwrap's command line, namespaces for everything, the same paths."""

    def prefix(self, command: Command) -> list[str]:
        argv = ["bwrap", "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
        if command.ports:
            argv.append("--share-net")
        for path in command.readable:
            if path not in ("/proc", "/dev"):
                argv += ["--ro-bind", path, path]
        for path in command.writable:
            argv += ["--bind", path, path]
        if command.cwd:
            argv += ["--chdir", command.cwd]
        return [*argv, "--"]


class Sandlock:
    """This package, with a new Sandbox for each run."""

    def __init__(self) -> None:
        import sandlock

        self.module = sandlock

    def fields(self, command: Command) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "fs_readable": command.readable,
            "fs_writable": command.writable,
            "fs_devices": command.devices,
            "net_allow": tuple(f":{port}" for port in command.ports),
            "net_allow_bind": command.ports,
        }
        if command.env is not None:
            fields["env"] = command.env
        if command.cwd:
            fields["cwd"] = command.cwd
        return fields | (command.options or {})

    def run(self, command: Command) -> Outcome:
        def call() -> tuple[int, bytes, bytes]:
            with self.module.Sandbox(**self.fields(command)) as box:
                done = box.run(list(command.argv))
            return done.exit_code, done.stdout, done.stderr

        return timed(call)

    def start(self, command: Command) -> Any:
        box = self.module.Sandbox(**self.fields(command))
        box.__enter__()
        process = box.start(
            list(command.argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return _Live(box, process)

    def finish(self, live: Any) -> None:
        live.stdin.close()
        live.process.wait()
        live.stdout.close()
        live.box.__exit__(None, None, None)


@dataclass(slots=True)
class _Live:
    """A sandbox and the one process that it keeps alive."""

    box: Any
    process: Any

    @property
    def stdin(self) -> Any:
        return self.process.stdin

    @property
    def stdout(self) -> Any:
        return self.process.stdout


class SandlockReused(Sandlock):
    """This package, one Sandbox for all runs of a command."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: dict[str, Any] = {}

    def run(self, command: Command) -> Outcome:
        key = repr(command)
        if key not in self.boxes:
            self.boxes[key] = self.module.Sandbox(**self.fields(command)).__enter__()
        box = self.boxes[key]

        def call() -> tuple[int, bytes, bytes]:
            done = box.run(list(command.argv))
            return done.exit_code, done.stdout, done.stderr

        return timed(call)


class Original:
    """The original (Rust) sandlock, with a new Sandbox for each run."""

    def __init__(self) -> None:
        import sandlock

        self.module = sandlock

    def box(self, command: Command) -> Any:
        fields: dict[str, Any] = {}
        if command.env is not None:
            fields |= {"env": command.env, "clean_env": True}
        if command.cwd:
            fields["cwd"] = command.cwd
        fields |= {
            "fs_readable": list(command.readable),
            "fs_writable": [*command.writable, *command.devices],
            "net_allow": [f"127.0.0.1:{port}" for port in command.ports],
            "net_allow_bind": list(command.ports),
        }
        return self.module.Sandbox(**fields | self.options(command))

    def options(self, command: Command) -> dict[str, Any]:
        """Those of ours that the original has too. It has its own way to say which mounts are read-only."""
        options = dict(command.options or {})
        mounts = options.pop("fs_mount", {})
        options["fs_mount"] = {where: path for where, path in mounts.items() if not path.endswith(":ro")}
        options["fs_mount_ro"] = {where: path[:-3] for where, path in mounts.items() if path.endswith(":ro")}
        return options

    def run(self, command: Command) -> Outcome:
        def call() -> tuple[int, bytes, bytes]:
            done = self.box(command).run(list(command.argv))
            return done.exit_code, done.stdout, done.stderr

        return timed(call)

    def start(self, command: Command) -> Any:
        mode = self.module.StdioMode
        return self.box(command).popen(list(command.argv), stdin=mode.PIPED, stdout=mode.PIPED, stderr=mode.NULL)

    def finish(self, process: Any) -> None:
        process.stdin.close()
        process.wait()
        process.stdout.close()


class OriginalReused(Original):
    """The original sandlock, one object for all runs of a command."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: dict[str, Any] = {}

    def box(self, command: Command) -> Any:
        key = repr(command)
        if key not in self.boxes:
            self.boxes[key] = super().box(command)
        return self.boxes[key]


def _vetted(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import vetted  # brings trio

        return getattr(vetted, name)()

    return make


SIDES: dict[str, Callable[[], Any]] = {
    "rules": _vetted("Rules"),
    "rules of TCP": _vetted("RulesOfTcp"),
    "trio": _vetted("Callback"),
    "asyncio": _vetted("AsyncioCallback"),
    "plain": _vetted("PlainCallback"),
    "trio latency": _vetted("Latency"),
    "asyncio latency": _vetted("AsyncioLatency"),
    "plain latency": _vetted("PlainLatency"),
    "bare": Bare,
    "bare again": Bare,
    "bwrap": Bubblewrap,
    "sandlock": Sandlock,
    "before": Sandlock,
    "before again": Sandlock,
    "sandlock reused": SandlockReused,
    "original": Original,
    "original reused": OriginalReused,
}


def wait_until_running(process: Any) -> None:
    """Read the line that WAITING writes first."""
    if os.read(process.stdout.fileno(), 16)[:1] != b"\n":
        raise RuntimeError("the command ended before it ran")
