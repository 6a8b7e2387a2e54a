"""mini-swe-agent: `SandlockEnvironment`, an environment whose commands run confined.

    agent = DefaultAgent(model, SandlockEnvironment(cwd="~/project", add=["git"], approve=ask), ...)

    mini --environment-class sandlock.agents.mini_swe_agent.SandlockEnvironment -c mini.yaml \\
        -c environment.add='["git"]' -c environment.confirm=true

Needs `pip install "sandlock[mini-swe-agent]"`.
"""

from __future__ import annotations

import os
import platform
import sys
import weakref
from typing import TYPE_CHECKING, Any

import trio
from minisweagent.exceptions import Submitted
from minisweagent.utils.serialize import recursive_merge
from pydantic import BaseModel, ConfigDict, Field, ImportString

from sandlock import Allow, Deny, PolicyError, SandlockError

from .sync import SyncAgentSandbox
from .text import with_denials

if TYPE_CHECKING:
    from typing import Self

    from sandlock import Result

    from .sandbox import Request

__all__ = ["SandlockEnvironment", "SandlockEnvironmentConfig"]

SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class SandlockEnvironmentConfig(BaseModel):
    """All can stand in a file of mini-swe-agent; functions by their dotted names. Further keys: as AgentSandbox."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    cwd: str = ""
    """The workspace; the current directory, where none is given."""
    env: dict[str, str] = {}
    """Variables for the commands, which get none of this process's own."""
    timeout: float = 30
    """Seconds that one command may take."""
    confirm: bool = False
    """Ask at the terminal about what the rules leave open: Enter allows, any other text denies and is the reason."""
    approve: ImportString[Any] | None = Field(default=None, exclude=True)
    """Or ask this function."""
    policy: ImportString[Any] | None = Field(default=None, exclude=True)
    """A Policy, instead of that of an agent run."""
    on_result: ImportString[Any] | None = Field(default=None, exclude=True)
    """Gets the Result of every command, denials and all."""


class SandlockEnvironment:
    """An environment of mini-swe-agent in one directory.

    What a command leaves in the background lives on until `cleanup`, which the end of a `with`, of the object and of
    the process do as well. Raises PolicyError, Unsupported.
    """

    def __init__(self, *, config_class: type[SandlockEnvironmentConfig] = SandlockEnvironmentConfig, **given: Any):
        self.config = config_class(**given)
        self.config.cwd = os.path.abspath(os.path.expanduser(self.config.cwd))
        approve = self.config.approve
        if self.config.confirm:
            if approve is not None:
                raise PolicyError("confirm: ask at the terminal or by `approve`, not both")
            approve = _Terminal().ask
        options = {"keep_background": True, "policy": self.config.policy} | (self.config.model_extra or {})
        self.sandbox = SyncAgentSandbox(self.config.cwd, env=self.config.env, approve=approve, **options)
        """What carries it out: files, shell, snapshot."""
        self.sandbox.open()
        self._end = weakref.finalize(self, self.sandbox.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Ends all that runs. Nothing can be run any more."""
        self._end()

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """Runs a command confined; what was denied stands at the end of its output, and as data in "extra".

        Ctrl-C ends it with all that it has started. Raises Submitted, when its first line says so.
        """
        command, seconds = str(action.get("command", "")), timeout or self.config.timeout
        call_id = action.get("tool_call_id")
        try:
            result = self.sandbox.run(command, cwd=cwd or None, timeout=seconds, call_id=call_id, merged=True)
        except SandlockError as error:
            return _failed("", type(error).__name__, str(error))
        if self.config.on_result is not None:
            self.config.on_result(result)
        denials = result.to_dict()["denials"]
        extra: dict[str, Any] = {"denials": denials} if denials else {}
        if result.timed_out:
            about = f"Command {command!r} timed out after {seconds:g} seconds"
            return _failed(_output(result), "TimeoutExpired", about, extra)
        _check_finished(result, extra)
        found = {"output": _output(result), "returncode": result.exit_code, "exception_info": ""}
        return found | {"extra": extra} if extra else found

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """The configuration and the system's name. This process's variables are not the model's business."""
        found: dict[str, Any] = recursive_merge(self.config.model_dump(), platform.uname()._asdict(), kwargs)
        return found

    def serialize(self) -> dict[str, Any]:
        """For the trajectory: the configuration, but for functions and a policy."""
        kind = f"{type(self).__module__}.{type(self).__name__}"
        config = {"environment": self.config.model_dump(mode="json"), "environment_type": kind}
        return {"info": {"config": config}}


class _Terminal:
    """Asks one question after the other; a terminal has one line to type in."""

    def __init__(self) -> None:
        self._turn = trio.Lock()

    async def ask(self, request: Request) -> Allow | Deny:
        """As the agent's own confirmations look. Without a terminal, or when it is left: denied."""
        if not sys.stdin.isatty():
            return Deny("nobody is at the terminal to be asked")
        async with self._turn:
            return await trio.to_thread.run_sync(_asked, request.summary, abandon_on_cancel=True)


def _asked(summary: str) -> Allow | Deny:
    from minisweagent.agents.utils.prompt_user import prompt_session

    print(f"\nThe sandbox asks: {summary}\nEnter to allow, type comment to deny", flush=True)
    try:
        said = prompt_session.prompt("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return Deny("the user left the question")
    return Deny(f"the user says: {said}") if said else Allow()


def _output(result: Result) -> str:
    """What it printed, and what was denied."""
    return with_denials(result.stdout_text + ("\n[output cut]" if result.truncated else ""), result)


def _failed(output: str, kind: str, text: str, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """In the words of LocalEnvironment."""
    about = f"An error occurred while executing the command: {text}"
    more = (extra or {}) | {"exception_type": kind, "exception": text}
    return {"output": output, "returncode": -1, "exception_info": about, "extra": more}


def _check_finished(result: Result, extra: dict[str, Any]) -> None:
    """What is submitted is what was printed, to the letter; what was denied is not part of it."""
    lines = result.stdout_text.lstrip().splitlines(keepends=True)
    if lines and lines[0].strip() == SUBMIT and result.exit_code == 0 and not result.truncated:
        text = "".join(lines[1:])
        more = {"exit_status": "Submitted", "submission": text} | extra
        raise Submitted({"role": "exit", "content": text, "extra": more})
