"""The handlers of one run as Python sees them: calls become contexts, answers become what the core carries out.

Rules: a descriptor that a program shall get is ours until the core has heard of it, and is closed by nobody else.
"""

from __future__ import annotations

import os
from os import fsdecode
from time import monotonic

from ._denials import Denial
from ._handlers import HandlerSet
from ._record import replace
from ._verdicts import ACT_ALLOW
from .handlers import HandlerContext, NativeHandler, read_action, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._call import Call
    from ._native import Run
    from .handlers import Handler, Order

MAX_DENIALS = 256
"""Different ones that are kept of one run; equal ones are counted."""

Key = tuple[str, str, str, int]


class Handled:
    """The handlers of one run."""

    def __init__(self, run: Run, handlers: Mapping[str, Handler | NativeHandler]) -> None:
        self._run = run
        self._handlers = handlers
        self._set = HandlerSet(
            [
                (each.address, each.context, each.observes, each.keep)
                if isinstance(each, NativeHandler)
                else (0, 0, each.observes, each)
                for each in handlers.values()
            ]
        )
        self._lent: dict[int, int] = {}
        self._denials: dict[Key, Denial] = {}
        self.dropped_denials = 0
        run.handle(self._set)

    def context(
        self, question: int, call: Call, *, syscall: str, number: int, args: tuple[int, ...], pid: int, tid: int,
        run: str, call_id: str,
    ) -> HandlerContext:  # fmt: skip
        """What a handler is asked."""
        facts = {"syscall": syscall, "number": number, "args": args, "pid": pid, "tid": tid}
        return HandlerContext(self._set, question, call, **facts, run=run, call_id=call_id)  # type: ignore[arg-type]

    def order(self, question: int, context: HandlerContext, answer: object) -> Order:
        """What is to be done by an answer; with the descriptor that the program shall get."""
        order = read_action(answer, self._handlers[context.syscall].observes)
        if order.source is not None:
            try:
                order.value = self._lent[question] = _own(order.source)
            except (OSError, OverflowError) as error:
                return refused(f"what the handler injects is no descriptor, or there are too many: {error}")
        return order

    def settle(self, question: int, context: HandlerContext, order: Order, since: float, epoch: float) -> bool:
        """Carries an order out, and writes a denial down. Too late, it does nothing, and returns False."""
        key = None
        if order.cause:  # first: who gets the answer may be the first to look
            key = self._note(context, order, since, epoch)
        if order.act == ACT_ALLOW:
            done = self._set.act(question, order.kind, order.value, order.flags)
        else:
            done = self._run.verdict(question, order.act, order.errno)
        if not done:
            self.release([question])
            if key is not None:
                self._forget(key)
        return done

    def _note(self, context: HandlerContext, order: Order, since: float, epoch: float) -> Key | None:
        key = (context.syscall, order.cause, order.reason, order.errno)
        known = self._denials.get(key)
        if known is not None:
            self._denials[key] = replace(known, count=known.count + 1)
            return key
        if len(self._denials) >= MAX_DENIALS:
            self.dropped_denials += 1
            return None
        now = monotonic()
        self._denials[key] = Denial(
            kind="handler",
            target=context.syscall,
            argv=(),
            cause=order.cause,
            reason=order.reason,
            errno=order.errno,
            pid=context.pid,
            time=epoch + now,
            latency=now - since,
            chain=tuple(map(fsdecode, self._run.chain(context.pid))),
        )
        return key

    def _forget(self, key: Key) -> None:
        denial = self._denials.pop(key)
        if denial.count > 1:
            self._denials[key] = replace(denial, count=denial.count - 1)

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What handlers in Python have denied."""
        return tuple(self._denials.values())

    def release(self, questions: Iterable[int]) -> None:
        """These calls are over: what was lent for them is not needed any more."""
        for question in questions:
            descriptor = self._lent.pop(question, None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Nothing native of the run is left."""
        self.release(list(self._lent))


def _own(source: int | bytes) -> int:
    """A descriptor of ours: a copy of the handler's, or a new file in memory with these bytes. Raises OSError."""
    if not isinstance(source, bytes):
        return os.dup(source)
    from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

    descriptor = os.memfd_create("sandlock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(source)
        while left:
            left = left[os.write(descriptor, left) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
