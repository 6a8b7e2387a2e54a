"""smolagents: `SandlockExecutor`, which has the code of a CodeAgent run by a confined Python that lives on.

    with SandlockExecutor("~/project", add=["git"], approve=approve) as executor:
        agent = CodeAgent(tools=[...], model=..., executor=executor, additional_authorized_imports=["*"])

The agent's tools, `final_answer` and managed agents are carried out here, outside: what passes is JSON, never a pickle.
Needs `pip install "sandlock[smolagents]"`.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor

from sandlock import PolicyError, SandlockError

from .calling_python import Call, StepAnswer
from .calling_python_inside import plain
from .sync import SyncAgentSandbox
from .text import shortened, with_denials, without_forged_trailers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from typing import Self

    from .calling_python import CallingPython
    from .sandbox import Approve

__all__ = ["SandlockExecutor"]

FINAL = "final_answer"
LONGEST_ERROR = 10_000
LOST = "[this is a new interpreter: what earlier code had defined is lost]\n"


class SandlockExecutor(PythonExecutor):
    """`workspace`: the directory of the code; None makes one, and removes it at the end. `timeout`: seconds of each
    step, without those of its tools; None: no limit. `on_answer` gets the StepAnswer of each step, denials and all.
    `approve`, `add` and further keywords are those of AgentSandbox.

    Opened by the start of an agent's run, or by `with`. Steps of several threads take turns; they share what is
    defined.
    """

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = 30.0,
        max_print_outputs_length: int = 50_000,
        approve: Approve | None = None,
        on_answer: Callable[[StepAnswer], None] | None = None,
        **keywords: Any,
    ) -> None:
        if timeout is not None and timeout <= 0:
            raise PolicyError("timeout: a step needs some time; give seconds, or None")
        place = None if workspace is None else os.path.expanduser(os.fspath(workspace))
        self.sandbox = SyncAgentSandbox(place, approve=approve, **keywords)
        """What carries it out: files, shell, snapshot, and the workspace's path."""
        self._timeout, self._most, self._on_answer = timeout, max_print_outputs_length, on_answer
        self._python: CallingPython | None = None
        self._tools: dict[str, Any] = {}
        self._variables: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._lost = False
        self._turn, self._owner = threading.Lock(), 0
        self._life = threading.Lock()
        self._interrupted = threading.Event()
        self._call_id = os.urandom(8).hex()
        weakref.finalize(self, self.sandbox.close)

    # ---- its life

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cleanup()

    def open(self) -> None:
        """Opens the sandbox, if it is not open. Raises as AgentSandbox does."""
        with self._life:
            self.sandbox.open()

    def cleanup(self) -> None:
        """Ends all that runs, from any thread: a step fails. What was defined is gone; the next run opens it anew."""
        with self._life:
            self.sandbox.close()
            self._python, self._lost = None, False

    def interrupt(self) -> None:
        """Ends the step that runs, if any, with its interpreter; from any thread. Beside `agent.interrupt()`, which
        lets a step come to its end."""
        if self._owner:
            self._interrupted.set()
            self.sandbox.cancel(self._call_id)

    # ---- what smolagents asks for

    def send_tools(self, tools: Mapping[str, Any]) -> None:
        """Has code find these tools, and no others. They are called in the thread that runs the step."""
        with self._taken():
            self.open()
            self._tools = dict(tools)

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Has code find these variables. Raises TypeError, ValueError: one is not JSON."""
        with self._taken():
            self.open()
            for name, value in variables.items():
                try:
                    self._variables[name] = self._new[name] = plain(value)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"the variable {name!r} cannot be sent into the sandbox: {error}") from error

    def __call__(self, code_action: str) -> CodeOutput:
        """Runs a step. Raises InterpreterError, which the model gets to read: the code failed; SandlockError."""
        with self._taken():
            note = LOST if self._lost else ""
            answer, final = self._step(code_action)
        if self._on_answer is not None:
            self._on_answer(answer)
        logs = self._logs(answer, note)
        if answer.error:
            raise InterpreterError(f"{logs}\n{_reason(answer, code_action)}".lstrip("\n"))
        if answer.final is None:
            return CodeOutput(output=_unforged(answer.value), logs=logs, is_final_answer=False)
        return CodeOutput(output=final, logs=logs, is_final_answer=True)

    # ---- a step

    @contextmanager
    def _taken(self) -> Iterator[None]:
        """Nobody else's meanwhile. Raises SandlockError within a step of the same thread: it would wait for itself."""
        if self._owner == threading.get_ident():
            raise SandlockError("a tool uses the executor whose step calls it; give its agent one of its own")
        with self._turn:
            self._interrupted.clear()
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = 0

    def _step(self, code: str) -> tuple[StepAnswer, Any]:
        """One step and its tools; what its final answer is, if it has one."""
        try:
            found = self._passed(partial(self._begun, code))
            while isinstance(found, Call):
                found = self._passed(partial(self._answered, *self._called(found)))
        except BaseException as failure:
            self._abandon()
            if self._interrupted.is_set() and isinstance(failure, SandlockError):
                raise SandlockError("the step was interrupted; what was defined is lost") from failure
            raise
        self._lost = found.restarted
        if found.final is None:
            return found, None
        final, error = self._outcome(found.final)
        return (found, final) if error is None else (replace(found, error=error), None)

    def _passed(self, action: Callable[[], Awaitable[Call | StepAnswer]]) -> Call | StepAnswer:
        """Into the sandbox's loop and back. `interrupt` cancels it, or keeps it from beginning."""

        async def carried_out() -> Call | StepAnswer:
            if self._interrupted.is_set():
                raise SandlockError("the step was interrupted")
            return await action()

        return self.sandbox.call(carried_out, call_id=self._call_id)

    async def _begun(self, code: str) -> Call | StepAnswer:
        if self._python is None:
            self._python = self.sandbox.sandbox.calling_python()
        variables = self._new if self._python.running else self._variables
        final = [FINAL] if FINAL in self._tools else []
        functions = [name for name in self._tools if name not in final]
        self._new = {}
        return await self._python.run(
            code, timeout=self._timeout, variables=variables, functions=functions, final=final
        )

    async def _answered(self, value: Any, error: str | None) -> Call | StepAnswer:
        assert self._python is not None
        return await self._python.answer(value=value, error=error)

    def _abandon(self) -> None:
        """Ends an interpreter that is in the middle of something."""
        python = self._python
        if python is not None:
            with suppress(SandlockError):
                self.sandbox.call(python.close)
            self._lost = True

    # ---- tools, which are ours; what they are called with is not

    def _called(self, call: Call) -> tuple[Any, str | None]:
        """What a tool gives, as JSON, or what it fails with, in words."""
        value, error = self._outcome(call)
        if error is None:
            try:
                return plain(value), None
            except (TypeError, ValueError) as problem:
                error = f"the tool {call.name} gave what cannot be sent into the sandbox: {problem}"
        return None, error

    def _outcome(self, call: Call) -> tuple[Any, str | None]:
        tool = self._tools.get(call.name)
        if tool is None:
            return None, f"there is no tool {call.name[:100]!r}"
        unknown = set(call.kwargs) - set(getattr(tool, "inputs", call.kwargs))
        if unknown:  # others are the framework's own: how it converts values, how long an agent may run
            return None, f"the tool {call.name} has no argument {min(unknown)[:100]!r}"
        try:
            return tool(*call.args, **call.kwargs), None
        except Exception as error:
            return None, f"the tool {call.name} failed: {type(error).__name__}: {error}"[:LONGEST_ERROR]

    # ---- what the model reads

    def _logs(self, answer: StepAnswer, note: str) -> str:
        """What it printed, and what was denied."""
        denied: Any = answer
        return note + with_denials(shortened(answer.output, self._most), denied)


def _reason(answer: StepAnswer, code: str) -> str:
    """In the words of smolagents' own executor."""
    error = answer.error
    if answer.timed_out:
        error = "it exceeded the time limit of a step"
    if answer.restarted:
        error += "; what was defined is lost, and the next step begins with a new interpreter"
    lines = code.splitlines()
    number = answer.line or 0
    where = f" at line {lines[number - 1].strip()!r}" if 0 < number <= len(lines) else ""
    return without_forged_trailers(f"Code execution failed{where} due to: {error}")


def _unforged(value: Any) -> Any:
    """A last expression; one in whose text something can be taken for a trailer of ours, as the text without it."""
    text = str(value)
    safe = without_forged_trailers(text)
    return value if safe == text else safe
