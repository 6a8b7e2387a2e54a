"""`sandlock agent run`: what is asked for, made ready, run, and told afterwards.

Exit codes are those of `sandlock run`. Whatever goes wrong on our side is one line on stderr.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import trio

from sandlock import PolicyError
from sandlock.policy import OPTIONS
from sandlock.sessions.agent_profile import find_profile
from sandlock.sessions.setup_text import describe
from sandlock.sessions.trailer import trailer, violations
from sandlock.sessions.workspace import prepare, settle

from .. import direct
from .agent_run import AgentRun, Plan
from .asking import channels_of, words_of
from .summary import summary_of
from .terminal import Console, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock.sessions.agent_profile import AgentProfile
    from sandlock.sessions.channels import Channel
    from sandlock.sessions.workspace import AgentSetup

    from .agent_run import Outcome

__all__ = ["run_request"]

ASK_TIMEOUT = 600.0


def run_request(request: direct.Request) -> int:
    """Runs a parsed request and returns the exit code."""
    try:
        profile, words = _command_of(request)
        preparing = _preparing(request, profile, words)
        if request.given.get("dry_run"):
            return _dry_run(preparing, words)
        return _run(request, profile, preparing, words)
    except KeyboardInterrupt:
        return direct.INTERRUPTED
    except Exception as error:
        return direct.fail(_single(error))


def plan_of(
    request: direct.Request, preparing: Callable[[str], AgentSetup], words: list[str], *, has_terminal: bool
) -> Plan:
    """What the flags say of a run. Raises PolicyError."""
    seconds = request.text_of("ask_timeout")
    limit = ASK_TIMEOUT if seconds is None else _seconds(seconds)
    asked = words_of(_list(request, "ask"), has_terminal=has_terminal)
    return Plan(
        words=words,
        preparing=preparing,
        asked=asked,
        channels=channels_of(asked, limit),
        ask_timeout=limit,
        name=request.text_of("session"),
        profile=request.text_of("profile") or "",
        trailers=not request.given.get("no_trailer"),
        watch=bool(request.given.get("watch")),
    )


def _run(
    request: direct.Request, profile: AgentProfile, preparing: Callable[[str], AgentSetup], words: list[str]
) -> int:
    del profile
    if "mcp" in _list(request, "ask"):
        return _serve_mcp(request, preparing, words)
    console = Console.find()
    guard: Guard | None = None
    try:
        plan = plan_of(request, preparing, words, has_terminal=console is not None)
        if console is not None:
            guard = Guard(console)  # before there is any thread
        outcome = trio.run(AgentRun(plan, console, guard).run)
    finally:
        if console is not None:
            console.close()
        if guard is not None:
            guard.dismiss()
    _tell(outcome, with_trailer=plan.trailers and console is None)
    return outcome.exit_code


def _serve_mcp(request: direct.Request, preparing: Callable[[str], AgentSetup], words: list[str]) -> int:
    """Standard input and output are the protocol's: no terminal is asked. Raises PolicyError."""
    try:
        from .mcp_run import serve
    except ImportError as error:
        raise PolicyError(f'--ask mcp needs {error.name}: pip install "sandlock[mcp]"') from error

    def plan(channels: list[Channel]) -> Plan:
        made = plan_of(request, preparing, words, has_terminal=False)
        made.channels += channels
        return made

    plan([])  # what is wrong with the flags is said now
    trio.run(serve, plan)
    return 0


def _tell(outcome: Outcome, *, with_trailer: bool) -> None:
    """The end, on stderr: for a person, and, where there is no terminal, for a model that reads it."""
    for line in summary_of(outcome):
        direct.say(line)
    if with_trailer and outcome.result is not None:
        text = trailer(violations(outcome.result), 8192)
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def _command_of(request: direct.Request) -> tuple[AgentProfile, list[str]]:
    """The profile, and what to run: the words, or the profile's program. Raises PolicyError."""
    profile = find_profile(request.text_of("profile"), request.words, request.text_of("cwd"))
    words = request.words or list(profile.argv)
    if not words:
        raise PolicyError("no command; write it after the options: sandlock agent run -- COMMAND")
    return profile, words


def _preparing(request: direct.Request, profile: AgentProfile, words: list[str]) -> Callable[[str], AgentSetup]:
    """Makes the run ready in a directory of its own."""
    known = {option.name for option in OPTIONS} | {"pass_env"}
    fields = {name: value for name, value in request.given.items() if name in known and name != "presets"}

    def ready(state: str) -> AgentSetup:
        return prepare(
            state=state,
            profile=profile,
            presets=_list(request, "presets"),
            addons=_list(request, "add"),
            command=words,
            fields=fields,
            dry_run=bool(request.given.get("dry_run")),
        )

    return ready


def _dry_run(preparing: Callable[[str], AgentSetup], words: list[str]) -> int:
    from shutil import rmtree
    from tempfile import mkdtemp

    state = mkdtemp(prefix="sandlock-dry-run-")
    try:
        setup = preparing(state)
        sys.stdout.write(describe(setup).replace(os.path.realpath(state), "PRIVATE"))
        settle(setup)
    finally:
        rmtree(state, ignore_errors=True)
    return 0


def _list(request: direct.Request, name: str) -> list[str]:
    value = request.given.get(name, [])
    return value if isinstance(value, list) else []


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 1e7:
        raise PolicyError(f"--ask-timeout: {text!r} are no seconds; write a number above 0")
    return seconds


def _single(error: BaseException) -> BaseException:
    """What a group of one comes down to."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
