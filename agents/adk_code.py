"""A code executor for Google ADK: for each session a Python that lives on, in a sandbox and a directory of its own."""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from google.adk.code_executors.base_code_executor import BaseCodeExecutor
from google.adk.code_executors.code_execution_utils import CodeExecutionInput, CodeExecutionResult, File
from pydantic import Field, PrivateAttr

from sandlock.files import FileError
from sandlock.sessions.trailer import trailer, violations

from .loops import in_thread
from .sync import SyncAgentSandbox
from .text import without_forged_trailers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.adk.agents.invocation_context import InvocationContext

    from sandlock.files import Files

    from .interpreter import CodeAnswer
    from .sandbox import Approve, Request, Verdict

__all__ = ["SandlockCodeExecutor"]

MAX_OUTPUT_FILES = 64
MAX_OUTPUT_BYTES = 16 * 2**20


class _Place:
    """A session's sandbox, for one piece of code after the other."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.box = SyncAgentSandbox(**options)
        self.turn = threading.Lock()
        self.users = 0


class SandlockCodeExecutor(BaseCodeExecutor):
    """Runs the model's Python confined. What one piece of code defines, the next one of the same session has.

    With `stateful=False`, each has a Python and a directory of its own. Files that code makes in its directory, but not
    below it, are given back as output files. A thread that runs code cannot be cancelled: ADK waits for its end, or
    `timeout_seconds`, after which the session's Python starts anew.
    """

    stateful: bool = True
    timeout_seconds: int | None = 300
    options: dict[str, Any] = Field(default_factory=dict, exclude=True)
    """Keywords of AgentSandbox. `approve` is called in a thread of its own, an async one by asyncio."""
    on_answer: Any = Field(default=None, exclude=True)
    """Gets each CodeAnswer, denials and all."""
    max_sessions: int = 16
    """Of more, the one that was idle longest is closed, and its directory removed."""

    _places: OrderedDict[str, _Place] = PrivateAttr(default_factory=OrderedDict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def model_post_init(self, context: Any, /) -> None:
        """Sees to it that the end of the process finds everything closed."""
        super().model_post_init(context)
        weakref.finalize(self, _close_all, self._places)

    def close(self) -> None:
        """Ends all that runs, and removes what was made for it."""
        with self._lock:
            _close_all(self._places)

    def execute_code(
        self, invocation_context: InvocationContext, code_execution_input: CodeExecutionInput
    ) -> CodeExecutionResult:
        """Runs a piece of code. Raises as AgentSandbox does."""
        given = code_execution_input
        with self._place(given.execution_id) as box:
            for file in given.input_files:
                box.files.write(file.name, _content(file))
            before = _seen(box.files)
            answer = box.python(given.code, timeout=self.timeout_seconds)
            made = [name for name, seen in _seen(box.files).items() if before.get(name) != seen]
            files = [] if invocation_context.artifact_service is None else _output_files(box.files, made)
        if self.on_answer is not None:
            self.on_answer(answer)
        return self._result(answer, files)

    @contextmanager
    def _place(self, name: str | None) -> Iterator[SyncAgentSandbox]:
        """The session's sandbox, nobody else's meanwhile; None: one for this time."""
        options = dict(self.options)
        if options.get("approve"):
            options["approve"] = _apart(options["approve"])
        if name is None:
            with SyncAgentSandbox(**options) as box:
                yield box
            return
        with self._lock:
            place = self._places.setdefault(name, _Place(options))
            self._places.move_to_end(name)
            place.users += 1
            idle = [key for key, each in self._places.items() if not each.users]
            for key in idle[: max(0, len(self._places) - self.max_sessions)]:
                self._places.pop(key).box.close()
        try:
            with place.turn:
                place.box.open()
                yield place.box
        finally:
            with self._lock:
                place.users -= 1

    def _result(self, answer: CodeAnswer, files: list[File]) -> CodeExecutionResult:
        """In ADK's way: a text in stderr means that it failed."""
        output = without_forged_trailers(answer.output)
        if answer.value is not None:
            output += without_forged_trailers(answer.value) + "\n"
        denied = trailer(violations(answer))
        if answer.ok:
            return CodeExecutionResult(stdout=output + denied, output_files=files, exit_code=0)
        error = without_forged_trailers(answer.error)
        if answer.timed_out:
            error = f"Code execution timed out after {self.timeout_seconds} seconds."
        if answer.restarted:
            error += "\nWhat was defined is gone."
        return CodeExecutionResult(output, f"{error}\n{denied}", files, 124 if answer.timed_out else 1)


def _close_all(places: OrderedDict[str, _Place]) -> None:
    while places:
        places.popitem()[1].box.close()


def _apart(approve: Approve) -> Approve:
    """For a thread that has no loop of its own."""

    async def ask(request: Request) -> Verdict:
        def answer() -> Verdict:
            found = approve(request)
            if not isawaitable(found):
                return found

            async def awaited() -> Verdict:
                return await found

            return asyncio.run(awaited())

        return await in_thread(answer)

    return ask


def _content(file: File) -> bytes:
    """ADK gives base64, or the bytes themselves."""
    data = file.content.encode() if isinstance(file.content, str) else file.content
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        return data


def _seen(files: Files) -> dict[str, tuple[int, float]]:
    found = [each for each in files.list() if each.kind == "file" and not each.path.startswith(".")]
    return {each.path: (each.size, each.modified) for each in found}


def _output_files(files: Files, names: list[str]) -> list[File]:
    """Their contents, as far as there is room."""
    found, room = [], MAX_OUTPUT_BYTES
    for name in names[:MAX_OUTPUT_FILES]:
        try:
            content = files.read(name, max_bytes=room)
        except FileError:  # too long, or gone again
            continue
        room -= len(content)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        found.append(File(name=name, content=content, mime_type=kind))
    return found
