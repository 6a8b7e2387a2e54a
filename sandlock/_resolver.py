"""The resolver of one run: answers the lookups of its tree, over UDP on the loopback, by asking the host.

The core leads what the tree sends to port 53, of whatever address, here. A name that no rule allows (or the callback
refuses) is not passed on to anybody, for a name is a message to whoever owns it. It is answered with "no such name":
programs give up at once, where after "refused" they try again, and report a failure of the network. The honest word is
in `Result.denials`.

Rules:
1. Addresses are pinned before they are answered; where there is no room, they are not answered.
2. Only sockets that the core has seen are answered: the loopback is everybody's.
3. Nothing that a packet holds, or a callback or the host answers, raises out of a task.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
from time import monotonic
from typing import TYPE_CHECKING

import trio

from . import _dns
from ._lookups import Lookups, is_inside, packed
from ._names import is_local
from ._trio_thread import from_thread, outcome_of
from ._verdicts import ACT_AUDIT, ACT_KILL, ACT_WAIT, Verdict, read_verdict
from .errors import ConfinementError
from .events import Resolve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._answers import Ask
    from ._execution import Execution, QuestionLimits
    from ._names import Finding
    from ._native import Run
    from ._plan import Plan

LOOKUP_LIMIT = 4.0
"""Seconds that the host may take for a name: shortly before programs give up by themselves (5 s)."""
MAX_THREADS = 16
"""Names of one run that the host looks up at once."""
MAX_PENDING = 256
"""Questions of one run that wait at once; more are answered with a failure."""
MAX_NAMES = 4096
"""Names whose outcome, or approval, is remembered."""
LOOPBACK = (b"\x7f\0\0\1", b"\0" * 15 + b"\1")

Outcome = tuple[int, tuple[bytes, ...]]
"""An error of _dns, and addresses."""


def look_up(name: str) -> list[str]:
    """The addresses that the host has for a name. Waits; raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


class _Shared:
    """The outcome of a name, for all who ask while it is being found out, and for some seconds more."""

    def __init__(self) -> None:
        self.known = trio.Event()
        self.outcome: Outcome = (_dns.SERVER_FAILURE, ())
        self.until = float("inf")


class Resolver:
    """Serves the lookups of one run: `open` before the launch, `start` when it is launched, `stop` at its end."""

    def __init__(self, plan: Plan, ask: Ask | None, questions: QuestionLimits | None) -> None:
        self.lookups = Lookups(plan)
        self._ask = ask
        self._limits = questions
        self._sockets: list[socket.socket] = []
        self._threads = trio.CapacityLimiter(MAX_THREADS)
        self._execution: Execution | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._pending = 0
        self._shared: dict[str, _Shared] = {}
        self._approved: set[str] = set()

    # ---- its life

    async def open(self) -> None:
        """Opens the sockets, and has the host look up the names of the policy: what takes too long is not waited for.
        Raises ConfinementError."""
        try:
            self._sockets.append(_bound(socket.AF_INET, "127.0.0.1"))
            with contextlib.suppress(ConfinementError):  # a machine without IPv6
                self._sockets.append(_bound(socket.AF_INET6, "::1"))
            self.lookups.without_address.update(self.lookups.rules.exact)
            with trio.move_on_after(LOOKUP_LIMIT):
                async with trio.open_nursery() as nursery:
                    for name in self.lookups.rules.exact:
                        nursery.start_soon(self._look_up_first, name)
        except BaseException:
            self.close()
            raise

    async def _look_up_first(self, name: str) -> None:
        _, addresses = await self._ask_host(name)
        if self.lookups.pin(self.lookups.rules.find(name), addresses):
            self.lookups.without_address.discard(name)

    def attach(self, run: Run) -> None:
        """Has the run's lookups come here. After `open`, before the run starts."""
        ports = [each.getsockname()[1] for each in self._sockets]
        self.lookups.attach(run, ports[0], ports[1] if len(ports) > 1 else 0)

    def start(self, execution: Execution) -> None:
        """Starts to answer. In trio."""
        self._execution = execution
        trio.lowlevel.spawn_system_task(self._serve, context=contextvars.copy_context())

    async def stop(self) -> None:
        """Ends what is pending. Uncancellable, and short."""
        self._scope.cancel()
        if self._execution is not None:
            with trio.CancelScope(shield=True):
                await self._ended.wait()
        self.close()

    def close(self) -> None:
        """Closes the sockets; to be called where `start` was not."""
        while self._sockets:
            self._sockets.pop().close()

    # ---- packets

    async def _serve(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for each in self._sockets:
                        nursery.start_soon(self._receive, each, nursery)
        finally:
            self._ended.set()

    async def _receive(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                packet, source = listener.recvfrom(_dns.MAX_QUERY + 1)
            except OSError:
                continue
            assert self._execution is not None
            pid = self._execution.run.asker(source[1])
            question = _dns.read_question(packet)
            if pid == 0 or question is None:
                continue
            if question.error:
                _send(listener, source, _dns.answer(question, question.error))
            elif self._pending >= MAX_PENDING:
                _send(listener, source, _dns.answer(question, _dns.SERVER_FAILURE))
            else:
                self._pending += 1
                nursery.start_soon(self._answer, listener, source, question, pid)

    async def _answer(self, listener: socket.socket, source: object, question: _dns.Question, pid: int) -> None:
        try:
            error, addresses = await self._outcome(question, pid)
        except Exception:
            error, addresses = _dns.SERVER_FAILURE, ()
        finally:
            self._pending -= 1
        _send(listener, source, _dns.answer(question, error, addresses))

    # ---- names

    async def _outcome(self, question: _dns.Question, pid: int) -> Outcome:
        name = question.name
        if not name:
            return _dns.NAME_ERROR, ()
        if is_local(name):
            self.lookups.remember(name, LOOPBACK)
            return _dns.NO_ERROR, LOOPBACK
        if question.kind not in (_dns.A, _dns.AAAA):
            return self._without_addresses(name, pid), ()
        shared = self._shared.get(name)
        if shared is None or shared.until < trio.current_time():
            shared = self._shared[name] = _Shared()
            if len(self._shared) > MAX_NAMES:
                del self._shared[next(iter(self._shared))]
            try:
                shared.outcome = await self._find_out(name, pid)
            finally:
                lasts = _dns.TTL if shared.outcome[0] != _dns.SERVER_FAILURE else -1
                shared.until = trio.current_time() + lasts
                shared.known.set()
        await shared.known.wait()
        return shared.outcome

    def _without_addresses(self, name: str, pid: int) -> int:
        """What is said of a name to who wants to know something else than its addresses: that there is no such thing,
        and nobody is asked."""
        finding = self.lookups.rules.find(name)
        if finding.decision == "allow" or name in self._approved:
            return _dns.NO_ERROR
        if finding.decision == "deny" or self._ask is None:
            self._refuse(name, finding, pid)
        return _dns.NAME_ERROR

    def _refuse(self, name: str, finding: Finding, pid: int) -> None:
        if finding.decision == "deny":
            reason = f"a rule of the policy denies it: {finding.rule}"
            self.lookups.note(name, "rule", reason, finding.rule, pid)
        else:
            self.lookups.note(name, "no-rule", "no rule of the policy allows this name", pid=pid)

    async def _find_out(self, name: str, pid: int) -> Outcome:
        """Decides about a name, and has the host look it up if it may be."""
        finding = self.lookups.rules.find(name)
        asked = not finding.decision and self._ask is not None
        if finding.decision == "deny" or (not finding.decision and not asked):
            self._refuse(name, finding, pid)
            return _dns.NAME_ERROR, ()
        if asked and not await self._is_approved(name, pid):
            return _dns.NAME_ERROR, ()
        # Under a wildcard the name is the program's choice: no search list of the host's is tried on it.
        error, addresses = await self._ask_host(name if finding.exact or asked else f"{name}.")
        if error:
            why = "did not answer" if error == _dns.SERVER_FAILURE else "knows no address of this name"
            reason = f"the host's resolver {why}; it stays closed until it does"
            self.lookups.note(name, "lookup-failed", reason, pid=pid)
            return error, ()
        pinned = self.lookups.pin(finding, addresses)
        if not asked and not pinned:
            self._refuse_addresses(name, addresses, finding, pid)
            return _dns.NAME_ERROR, ()
        addresses = addresses if asked else pinned
        self.lookups.remember(name, addresses)
        return _dns.NO_ERROR, addresses

    def _refuse_addresses(self, name: str, addresses: tuple[bytes, ...], finding: Finding, pid: int) -> None:
        if all(map(is_inside, addresses)):
            reason = "a name below a wildcard leads to this machine, its link, or a cloud's metadata"
            self.lookups.note(name, "rebinding", reason, finding.rule, pid)
        else:
            self.lookups.note(name, "full", "too many addresses have been looked up in this run", finding.rule, pid)

    async def _ask_host(self, name: str) -> Outcome:
        """What the host says, in time or not at all."""
        texts: list[str] | None = None
        with trio.move_on_after(LOOKUP_LIMIT):
            try:
                texts = await trio.to_thread.run_sync(look_up, name, abandon_on_cancel=True, limiter=self._threads)
            except socket.gaierror as error:
                unknown = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
                return (_dns.NAME_ERROR if unknown else _dns.SERVER_FAILURE), ()
            except (OSError, ValueError):
                return _dns.SERVER_FAILURE, ()
        if texts is None:
            return _dns.SERVER_FAILURE, ()
        addresses = packed(texts)
        return (_dns.NO_ERROR if addresses else _dns.NAME_ERROR), addresses

    # ---- the callback

    async def _is_approved(self, name: str, pid: int) -> bool:
        """Asks the callback, once for a name that it allows."""
        if name in self._approved:
            return True
        assert self._ask is not None
        assert self._limits is not None
        limit, act, _ = self._limits
        of = self._execution
        event = Resolve(
            name=name, pid=pid, run="" if of is None else of.run_id, call_id="" if of is None else of.call_id
        )
        verdict, since = Verdict(act, cause="timeout", reason="nobody answered within policy_timeout"), monotonic()
        with trio.move_on_after(float("inf") if limit is None or act == ACT_WAIT else limit / 1000):
            verdict = read_verdict(await outcome_of(self._ask(event)))
        if verdict.allows:
            if verdict.act == ACT_AUDIT and self._execution is not None:
                self._execution.audit_lookup(event, verdict.reason, verdict.cause or "verdict")
            if len(self._approved) < MAX_NAMES:
                self._approved.add(name)
            return True
        waited = monotonic() - since
        self.lookups.note(name, verdict.cause, verdict.reason, pid=pid, by=verdict.by, latency=waited)
        if verdict.act == ACT_KILL and self._execution is not None:
            self._execution.kill()
        return False


class SyncResolver:
    """Serves the lookups of one run for sync code, in the thread sandlock-trio."""

    def __init__(self, plan: Plan, ask: Ask | None, questions: QuestionLimits | None) -> None:
        self.resolver = Resolver(plan, ask, questions)

    def open(self) -> None:
        """As Resolver.open. Raises SandlockError."""
        try:
            _from_thread(self.resolver.open)
        except BaseException:
            from_thread(self.resolver.stop)
            raise

    def start(self, execution: Execution) -> None:
        """Starts to answer. Raises SandlockError."""

        async def begin() -> None:
            self.resolver.start(execution)

        _from_thread(begin)

    def stop(self) -> None:
        """Ends what is pending, and waits for that."""
        from_thread(self.resolver.stop)


def _from_thread(function: Callable[[], Awaitable[None]]) -> None:
    """Runs it in the thread sandlock-trio; raises here what it raises there."""
    raised: list[Exception] = []

    async def work() -> None:
        try:
            await function()
        except Exception as error:
            raised.append(error)

    from_thread(work)
    if raised:
        raise raised[0]


def _bound(family: int, address: str) -> socket.socket:
    """A UDP socket on a port of the kernel's choice. Raises ConfinementError."""
    made = None
    try:
        made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        made.bind((address, 0))
    except OSError as error:
        if made is not None:
            made.close()
        fix = "raise the limit of open files (ulimit -n), or have fewer runs alive"
        raise ConfinementError("open the socket of the run's resolver", error.errno or 0, fix=fix) from error
    return made


def _send(listener: socket.socket, source: object, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # who asked is gone, or does not read: it asks again
        listener.sendto(packet, source)  # type: ignore[call-overload]
