"""One run of an agent: the session, the sandbox, the terminal, who is asked; until nothing is left of it.

Rules: nothing that the agent starts outlives `run`; a signal to us ends the tree, and so does every error. What answers
questions lies outside of what the agent may write or reach.
"""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import trio

from sandlock import INHERIT, PIPE, AsyncSandbox, Deny, Policy
from sandlock.sessions.channels import refuse_inside
from sandlock.sessions.desk import Desk
from sandlock.sessions.session import open_session
from sandlock.sessions.setup_text import describe
from sandlock.sessions.trailer import StderrTrailer
from sandlock.sessions.workspace import settle

from .. import direct
from .asking import TerminalChannel
from .live_view import decision_line
from .prompt import new_mark
from .relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandlock import Allow, AsyncProcess, Decision, Kill, Result
    from sandlock.sessions.channels import Channel
    from sandlock.sessions.session import Session
    from sandlock.sessions.workspace import AgentSetup

    from .terminal import Console, Guard

__all__ = ["AgentRun", "Outcome", "Plan", "guarded"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LAST_WORDS = 2.0
"""Seconds that output may still take to be shown, when the tree is gone."""
MOST_HOSTS = 5
"""That are named in one line."""
SHOWN = ("time", "kind", "target", "decision", "reason", "host", "by")


class Plan:
    """What is to be run, and who is asked."""

    def __init__(
        self,
        *,
        words: list[str],
        preparing: Callable[[str], AgentSetup],
        asked: tuple[str, ...] = (),
        channels: list[Channel] | None = None,
        ask_timeout: float | None = None,
        name: str | None = None,
        profile: str = "",
        trailers: bool = True,
        watch: bool = False,
    ) -> None:
        self.words = words
        self.preparing = preparing
        """Makes the run ready in a directory of its own."""
        self.asked = asked
        self.channels = channels or []
        self.ask_timeout = ask_timeout
        self.name = name
        self.profile = profile
        self.trailers = trailers
        self.watch = watch


class Outcome(NamedTuple):
    """How it ended."""

    exit_code: int
    result: Result | None
    session: str
    said: tuple[str, ...] = ()
    """What a person should know."""


def guarded(policy: Policy, channels: list[Channel], door: str) -> Policy:
    """The policy of a run whose questions go to these channels, and to `door`, the session's socket: which it can
    neither reach nor be. Raises PolicyError."""
    writable = [grant.path for grant in policy.expand().grants if grant.kind == "write"]
    refuse_inside("fs_writable: the session's socket", [door], writable)
    fields: dict[str, tuple[str, ...]] = {"net_deny": (*policy.net_deny, f"unix:{os.path.realpath(door)}")}
    for channel in channels:
        channel.check(writable)
        for field, rules in channel.guards.items():
            fields[field] = (*fields.get(field, getattr(policy, field)), *rules)
    return policy.but(record_execs=True, **fields)  # type: ignore[arg-type]


class AgentRun:
    """Runs a plan. `console`: our terminal, if there is one."""

    def __init__(self, plan: Plan, console: Console | None = None, guard: Guard | None = None) -> None:
        self._plan = plan
        self._console = console
        self._desk = None if plan.asked == ("none",) else Desk(timeout=plan.ask_timeout)
        self._trailer = StderrTrailer() if plan.trailers else None
        self._has_pty = console is not None and all(os.isatty(number) for number in (0, 1, 2))
        self._relay: Relay | None = None
        if console is not None:
            takes_keys = self._has_pty or os.isatty(0)
            self._relay = Relay(console, has_pty=self._has_pty, takes_keys=takes_keys, guard=guard)
        self._process: AsyncProcess | None = None
        self._starting = trio.CancelScope()
        self._ended_by = 0

    async def run(self) -> Outcome:
        """Runs it to its end."""
        with trio.open_signal_receiver(*ENDING, signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals)
                try:
                    return await self._run()
                finally:
                    if self._relay is not None:
                        self._relay.leave()
                    nursery.cancel_scope.cancel()
        raise AssertionError("a nursery that is left by return")

    async def _run(self) -> Outcome:
        plan = self._plan
        async with open_session(
            argv=plan.words, desk=self._desk, name=plan.name, cwd=os.getcwd(), profile=plan.profile
        ) as session:
            setup = plan.preparing(session.directory)
            session.policy_text = describe(setup)
            said = [*setup.warnings]
            result: Result | None = None
            try:
                with self._starting:
                    result = await self._in_box(session, setup)
                if result is not None:
                    await session.finish(result)
            finally:
                said += settle(setup)
            return Outcome(exit_code=self._exit_code(result), result=result, session=session.id, said=tuple(said))

    def _exit_code(self, result: Result | None) -> int:
        if self._ended_by:
            return 128 + self._ended_by
        if result is None:
            return direct.OUR_FAILURE
        return direct.TIMED_OUT if result.timed_out else result.exit_code

    async def _in_box(self, session: Session, setup: AgentSetup) -> Result:
        policy = guarded(setup.policy, self._plan.channels, session.socket)
        async with (
            AsyncSandbox(policy, policy_fn=self._vet, policy_timeout=None, audit=session.log) as box,
            trio.open_nursery() as nursery,
        ):
            try:
                await self._serve(nursery, session)
                if self._trailer is not None:
                    nursery.start_soon(self._tell_denials, box.decisions(), self._trailer)
                if self._plan.watch:
                    nursery.start_soon(self._tell_decisions, box.decisions())
                async with self._started(box) as process:
                    session.follow(box, process)
                    await self._warn(process.unresolved_hosts)
                    return await self._attend(process)
            finally:
                nursery.cancel_scope.cancel()
        raise AssertionError("a nursery that is left by return")

    async def _vet(self, event: object, box: object) -> Allow | Deny | Kill:
        verdict: Allow | Deny | Kill = Deny("nobody is asked in this run", cause="nobody-listens")
        if self._desk is not None:
            verdict = await self._desk.vet(event, box)  # type: ignore[arg-type]
        if self._trailer is not None:
            await self._trailer.denied(event, verdict)  # type: ignore[arg-type]
        return verdict

    async def _serve(self, nursery: trio.Nursery, session: Session) -> None:
        """Everybody who may be asked, from before the first question."""
        if self._relay is not None:
            nursery.start_soon(self._relay.read_keys)
        if self._desk is None:
            return
        for channel in self._plan.channels:
            nursery.start_soon(channel.serve, self._desk)
        if "tty" in self._plan.asked and self._relay is not None:
            mark = new_mark()
            await self._relay.say(f"sandlock: session {session.id}; its questions are marked: {mark}")
            terminal = TerminalChannel(self._relay, mark, f"sandlock agent attach {session.id}")
            nursery.start_soon(terminal.serve, self._desk)
        await self._listened()

    async def _listened(self) -> None:
        """Until those who can answer are there, for a moment: a service may never be."""
        wanted = len(self._plan.channels) + ("tty" in self._plan.asked)
        assert self._desk is not None
        with trio.move_on_after(1.0):
            while len(self._desk.listeners) < wanted:  # noqa: ASYNC110 (for moments; anybody may listen)
                await trio.sleep(0.001)

    @asynccontextmanager
    async def _started(self, box: AsyncSandbox) -> AsyncIterator[AsyncProcess]:
        """The agent, on a terminal of its own if all three streams are ours; else each stream that is our terminal goes
        through the relay, so that nothing is drawn over a question."""
        words = self._plan.words
        if self._has_pty and self._console is not None:
            self._console.make_raw()
            async with box.start(words, pty=self._console.size) as process:
                yield process
            return
        streams = [PIPE if self._relay is not None and os.isatty(number) else INHERIT for number in (0, 1, 2)]
        async with box.start(words, stdin=streams[0], stdout=streams[1], stderr=streams[2]) as process:
            yield process

    async def _attend(self, process: AsyncProcess) -> Result:
        """Between the agent and the terminal, until the tree is gone and its last words are shown."""
        self._process = process
        if self._ended_by:  # while it was started
            process.kill()
        shown = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            if self._relay is not None:
                nursery.start_soon(self._relay_streams, self._relay, process, shown)
            result = await process.wait()
            shown.deadline = trio.current_time() + LAST_WORDS
        return result

    async def _relay_streams(self, relay: Relay, process: AsyncProcess, shown: trio.CancelScope) -> None:
        with shown:
            async with trio.open_nursery() as nursery:
                sink = process.terminal or process.stdin
                if process.terminal is not None:
                    relay.use(process.terminal.fileno())
                async with trio.open_nursery() as showing:
                    if sink is not None:
                        nursery.start_soon(relay.feed, sink)
                    for source in (process.terminal, process.stdout, process.stderr):
                        if source is not None:
                            showing.start_soon(relay.show, source)
                nursery.cancel_scope.cancel()

    async def _tell_denials(self, decisions: AsyncIterator[Decision], tells: StderrTrailer) -> None:
        async for decision in decisions:
            await tells.decided(decision)

    async def _tell_decisions(self, decisions: AsyncIterator[Decision]) -> None:
        """A line for each, between what the agent writes; not into a screen that it draws."""
        async for decision in decisions:
            if decision.kind in ("open", "path") and decision.decision == "allow":
                continue
            line = decision_line({name: getattr(decision, name, "") for name in SHOWN} | {"argv": [*decision.argv]})
            await self._say(line)

    async def _warn(self, hosts: tuple[str, ...]) -> None:
        """Before anything that the agent wrote is shown."""
        if hosts:
            more = f" and {len(hosts) - MOST_HOSTS} more" if len(hosts) > MOST_HOSTS else ""
            names = ", ".join(hosts[:MOST_HOSTS]) + more
            await self._say(f"no address was found of {names}: closed until the agent asks again, and there is one")

    async def _say(self, line: str) -> None:
        if self._relay is None:
            await trio.to_thread.run_sync(direct.say, line, abandon_on_cancel=True)
        elif not self._relay.screen.is_alternate:
            await self._relay.say(f"sandlock: {line}")

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number in ENDING:
                self._ended_by = self._ended_by or number
                if self._process is not None:
                    self._process.kill()
                else:
                    self._starting.cancel()
            elif number == signal.SIGTSTP:
                if self._console is not None:
                    self._console.put_back()
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self._has_pty and self._console is not None:
                if number == signal.SIGCONT:
                    self._console.make_raw()
                if self._process is not None:
                    self._process.resize(*self._console.size)
