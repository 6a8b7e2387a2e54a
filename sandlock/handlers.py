"""Handlers: answers of your own to the system calls of a sandbox, in Python or in C.

    class NoUname(sandlock.Handler):
        async def handle(self, ctx):
            return sandlock.Errno(38)

    sandlock.run(["uname"], presets=["system"], handlers={"uname": NoUname()})

Rules: a handler sees only calls that the policy allows, so it can narrow and never widen. What it read from the
program's memory may change at the next moment, so after reading it cannot let the call go on. Whatever is no action
denies.
"""

from __future__ import annotations

import os

from ._record import record
from ._verdicts import ACT_ALLOW, ACT_DENY, ACT_KILL, EACCES, Verdict, shown
from .errors import PolicyError, SandlockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from typing import TypeAlias

    from ._call import Call
    from ._handlers import HandlerSet
    from .events import Ancestor

    Action: TypeAlias = "Continue | Errno | Value | Inject | Hold | KillTask | KillTree"

__all__ = [
    "ABI",
    "CDEF",
    "Continue",
    "Errno",
    "Handler",
    "HandlerContext",
    "Hold",
    "Inject",
    "KillTask",
    "KillTree",
    "NativeHandler",
    "Order",
    "Value",
    "include_dir",
    "read_action",
    "read_handlers",
    "refused",
]

ABI = 1
"""SANDLOCK_HANDLER_ABI of the header, and of this version."""
CDEF = """
struct sandlock_action { uint32_t kind; uint32_t flags; int64_t value; };
struct sandlock_call;
"""
"""For `ffi.cdef`, in front of `struct sandlock_action NAME(const struct sandlock_call *, void *);`."""
MAX_HANDLERS = 128  # as in _handlers.pxd
MAX_ERRNO = 4095
CONTINUE, ERRNO, VALUE, INJECT, HOLD, KILL_TASK, KILL_TREE = range(1, 8)  # as in handler.h
INJECT_CLOEXEC = 1


# Actions --------------------------------------------------------------------------------------------------------------


@record(kw_only=False)
class Continue:
    """The kernel makes the call. Not after the program's memory was read, except by an observer."""


@record(kw_only=False)
class Errno:
    """The call fails with `errno`, 1 to 4095. It is a denial, with this reason."""

    errno: int
    reason: str = "a handler answered so"


@record(kw_only=False)
class Value:
    """The call is not made, and returns `value`; -4095 to -1 would be an errno, which is what Errno is for."""

    value: int


@record(kw_only=False)
class Inject:
    """The call is not made; the program gets a descriptor, and its number as the result.

    `source`: a descriptor of ours, of which the program gets a copy, or bytes, which it gets as a file in memory that
    nobody can change (memfd_create(2), sealed). `cloexec`: its next exec closes it."""

    source: int | bytes
    cloexec: bool = False


@record(kw_only=False)
class Hold:
    """The caller waits until the run ends."""


@record(kw_only=False)
class KillTask:
    """The caller's process is killed."""

    reason: str = "a handler answered so"


@record(kw_only=False)
class KillTree:
    """The run ends."""

    reason: str = "a handler answered so"


# Handlers -------------------------------------------------------------------------------------------------------------


class Handler:
    """A handler in Python: override `handle`.

    It runs as callbacks do: an async one where the caller of `run` is (trio, or that asyncio loop), a plain one in a
    worker thread. While it thinks only the thread that calls waits, for `policy_timeout` at most.

    `observes = True` makes it an observer: it may read memory and still answer Continue(), and has no other answer;
    another one is a denial.
    """

    observes: bool = False
    """What an observer saw is not what the kernel will see, so nothing can be decided by it."""

    def handle(self, ctx: HandlerContext) -> Action | Awaitable[Action]:
        """The answer to a call: Continue(), Errno(), Value(), Inject(), Hold(), KillTask() or KillTree()."""
        raise NotImplementedError(f"{type(self).__name__} has no handle(self, ctx)")


class NativeHandler:
    """A handler in C, compiled with <sandlock/handler.h> (in `include_dir()`), for answers that cost microseconds.

    `function`: its address, a number or a pointer of cffi (`ffi.addressof(lib, "name")`). `context`: what it gets as
    its second argument, of the same kinds. `keep`: whatever owns that memory (the library, `ffi.new(...)`), for as long
    as a run uses it. `observes`: see Handler. `abi`: SANDLOCK_HANDLER_ABI when it was compiled, to be checked.

    Raises PolicyError.
    """

    def __init__(
        self,
        function: object,
        *,
        context: object = 0,
        keep: object = None,
        observes: bool = False,
        abi: int = ABI,
    ) -> None:
        if abi != ABI:
            raise PolicyError(
                f"handlers: compiled for version {abi} of <sandlock/handler.h>, this is {ABI}; compile it again",
                field="handlers",
            )
        self.address = _address("function", function)
        self.context = _address("context", context)
        if self.address == 0:
            raise PolicyError("handlers: there is no function at address 0", field="handlers")
        self.observes = bool(observes)
        self.keep = (function, context, keep)


def _address(what: str, given: object) -> int:
    """Of an int, or of a pointer of cffi. Raises PolicyError."""
    if isinstance(given, int) and not isinstance(given, bool):
        if 0 <= given < 1 << 64:
            return given
    elif type(given).__module__ == "_cffi_backend":
        import _cffi_backend  # type: ignore[import-untyped]  # whoever has a pointer of cffi has it already

        try:
            return int(_cffi_backend.cast(_cffi_backend.new_primitive_type("uintptr_t"), given))
        except TypeError:  # `lib.name` of a compiled module is no pointer, but something to call
            pass
    raise PolicyError(
        f"handlers: {what} {given!r} is no address; give ffi.addressof(lib, 'name'), or a number", field="handlers"
    )


def include_dir() -> str:
    """The directory for the compiler's -I, in which <sandlock/handler.h> is."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


class HandlerContext:
    """A call that a handler in Python is asked about. Its methods work until the handler has answered.

    `syscall` is its name, `number` its number, `args` the six registers (0 to 2**64 - 1), `pid` the process, `tid` the
    thread that calls, `run` the run's id as in its Result, `call_id` what the caller of `run` or `start` gave.
    """

    __slots__ = ("_call", "_handlers", "_question", "args", "call_id", "number", "pid", "run", "syscall", "tid")

    def __init__(
        self,
        handlers: HandlerSet,
        question: int,
        call: Call,
        *,
        syscall: str,
        number: int,
        args: tuple[int, ...],
        pid: int,
        tid: int,
        run: str,
        call_id: str,
    ) -> None:
        self._handlers = handlers
        self._question = question
        self._call = call
        self.syscall = syscall
        self.number = number
        self.args = args
        self.pid = pid
        self.tid = tid
        self.run = run
        self.call_id = call_id

    def __repr__(self) -> str:
        return f"<{self.syscall}({', '.join(map(hex, self.args))}) of process {self.pid}>"

    @property
    def chain(self) -> tuple[Ancestor, ...]:
        """The programs above, as of Exec: first the one that calls."""
        return self._call.chain(self.pid)

    def read(self, address: int, length: int) -> bytes:
        """Memory of the program, at most 64 KiB at once and 256 KiB in all. After that the call cannot go on.

        Raises OSError (EFAULT: not its memory; EMSGSIZE, EDQUOT: too much); SandlockError when the call is over.
        """
        try:
            return self._handlers.read(self._question, *_span(address, length))
        except LookupError as error:
            raise self._over() from error

    def read_string(self, address: int, limit: int = 4096) -> bytes:
        """A string of the program, which with its NUL takes at most `limit` bytes; without the NUL. As `read`.

        Raises OSError (ENAMETOOLONG: longer than that), SandlockError.
        """
        try:
            return self._handlers.read_string(self._question, *_span(address, limit))
        except LookupError as error:
            raise self._over() from error

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Writes memory of the program, within the same bounds. Not for observers (EPERM). Raises as `read`."""
        block = bytes(memoryview(data))  # what is a number, say, is no data
        try:
            self._handlers.write(self._question, _span(address, 0)[0], block)
        except LookupError as error:
            raise self._over() from error

    def _over(self) -> SandlockError:
        return SandlockError(f"this {self.syscall} does not wait any more: its program has ended, or it is answered")


def _span(address: int, length: int) -> tuple[int, int]:
    """What the core can take; too much is too much in any number. Raises OSError as the core does."""
    from errno import EFAULT, EINVAL

    if length < 0:
        raise OSError(EINVAL, "a negative length")
    if not 0 <= address < 1 << 64:
        raise OSError(EFAULT, "no address")
    return address, min(length, 1 << 62)


def read_handlers(handlers: object) -> dict[str, Handler | NativeHandler]:
    """The `handlers` of a sandbox, by name. Raises PolicyError for what is none."""
    if handlers is None:
        return {}
    if not hasattr(handlers, "items"):
        raise PolicyError(f"handlers: {handlers!r} is no table; give {{'uname': handler}}", field="handlers")
    found: Mapping[str, object] = handlers  # type: ignore[assignment]
    for name, handler in found.items():
        if not isinstance(handler, Handler | NativeHandler):
            raise PolicyError(
                f"handlers: {name}: {handler!r} is no handler; give an instance of a Handler, or a NativeHandler",
                field="handlers",
            )
    if len(found) > MAX_HANDLERS:
        raise PolicyError(f"handlers: {len(found)} are too many; at most {MAX_HANDLERS}", field="handlers")
    return {name: found[name] for name in sorted(found)}  # type: ignore[misc]


# What is done with an answer ------------------------------------------------------------------------------------------


class Order(Verdict):
    """What the core does with the answer of a handler in Python, and what is written down of it."""

    __slots__ = ("flags", "kind", "source", "value")

    def __init__(
        self,
        act: int,
        kind: int = 0,
        value: int = 0,
        *,
        flags: int = 0,
        source: int | bytes | None = None,
        errno: int = 0,
        cause: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(act, errno, cause, reason)
        self.kind = kind
        """As in handler.h; 0 for what `act` and `errno` say."""
        self.value = value
        self.flags = flags
        self.source = source
        """What to inject."""


def read_action(answer: object, observes: bool) -> Order:
    """What a handler's answer means. Whatever is no action denies, and says so. Raises nothing, whatever it is."""
    try:
        return _read_action(answer, observes)
    except BaseException:  # it is not ours, and may do anything when it is looked at
        return refused("the handler's answer cannot be read")


def _read_action(answer: object, observes: bool) -> Order:
    match answer:
        case Continue():
            return Order(ACT_ALLOW, CONTINUE)
        case BaseException():
            return refused(f"the handler raised {shown(answer)}")
        case _ if observes:
            return refused(f"an observer can only answer Continue(), not {shown(answer)}")
        case Errno(errno=int(errno), reason=reason) if 0 < errno <= MAX_ERRNO:
            return Order(ACT_DENY, errno=errno, cause="handler", reason=str.__str__(str(reason)))
        case Value(value=int(value)) if -(1 << 63) <= value < 1 << 63 and not -MAX_ERRNO <= value < 0:
            return Order(ACT_ALLOW, VALUE, value)
        case Inject(source=int() | bytes() as source, cloexec=cloexec):
            return Order(ACT_ALLOW, INJECT, flags=INJECT_CLOEXEC if cloexec else 0, source=source)
        case Hold():
            return Order(ACT_ALLOW, HOLD)
        case KillTask(reason=reason):
            return Order(ACT_KILL, cause="handler", reason=str.__str__(str(reason)))
        case KillTree(reason=reason):
            return Order(ACT_ALLOW, KILL_TREE, cause="handler", reason=str.__str__(str(reason)))
    return refused(
        f"the handler answered {shown(answer)}; answer Continue(), Errno(), Value(), Inject(), Hold(), KillTask() or "
        "KillTree()"
    )


def refused(reason: str) -> Order:
    """The denial of what is no action, or cannot be carried out."""
    return Order(ACT_DENY, errno=EACCES, cause="handler-error", reason=reason)
