"""A program that lives on between requests: started by the first one, ended with its sandbox or when it fails one.

Rules: one request at a time; others that come meanwhile wait for their turn, or each would read what is another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sandlock

from .loops import new_lock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from sandlock import AsyncProcess, AsyncSandbox

__all__ = ["LongLived", "LongLivedPython", "NoLineError"]


class LongLived:
    """Its program has pipes as stdin and stdout. `stderr`: sandlock.STDOUT or NULL."""

    def __init__(
        self, box: AsyncSandbox, argv: Sequence[str], *, stderr: int, cwd: str | None, env: dict[str, str] | None
    ) -> None:
        self._box = box
        self._argv = list(argv)
        self._stderr, self._cwd, self._env = stderr, cwd, env
        self._process: AsyncProcess | None = None
        self._context: AbstractAsyncContextManager[AsyncProcess] | None = None
        self._lock: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the program and what it has started; the next request gets a new one."""
        context, self._context, self._process = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    @property
    def _turn(self) -> AbstractAsyncContextManager[None]:
        """Held while a request is carried out."""
        if self._lock is None:
            self._lock = new_lock()
        return self._lock

    async def _started(self, call_id: str | None) -> AsyncProcess:
        """The program, started if there is none."""
        if self._process is None:
            self._context = self._box.start(
                self._argv,
                stdin=sandlock.PIPE,
                stdout=sandlock.PIPE,
                stderr=self._stderr,
                cwd=self._cwd,
                env=self._env,
                call_id=call_id,
            )
            self._process = await self._context.__aenter__()
        return self._process


class NoLineError(Exception):
    """There will be no answer, in words."""


class LongLivedPython(LongLived):
    """A Python that runs `source`, and answers by lines. What it writes to stderr is nobody's."""

    def __init__(
        self, box: AsyncSandbox, source: str, *, program: str, cwd: str | None, env: dict[str, str] | None
    ) -> None:
        super().__init__(box, [program, "-u", "-c", source], stderr=sandlock.NULL, cwd=cwd, env=env)
        self._rest = bytearray()

    async def close(self) -> None:
        """As LongLived.close: what was defined is gone."""
        self._rest.clear()
        await super().close()

    async def _line(self, process: AsyncProcess, longest: int) -> bytes:
        """The next line that it answers, of about so many bytes at most. Raises NoLineError."""
        assert process.stdout is not None
        while b"\n" not in self._rest:
            chunk = await process.stdout.receive_some()
            self._rest += chunk
            if not chunk:
                raise NoLineError("the interpreter ended")
            if len(self._rest) > longest:
                raise NoLineError("the interpreter was ended: its answer is too long")
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest = bytearray(rest)
        return line
