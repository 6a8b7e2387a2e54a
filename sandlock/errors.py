"""What can go wrong, and whose fault it is.

A denial inside the sandbox is not an exception: it is data in the result. A non-zero exit is a value too.
"""

from __future__ import annotations

import errno as _errno

__all__ = [
    "MORE_FILES",
    "ConfinementError",
    "GuestError",
    "InternalError",
    "PolicyError",
    "SandlockError",
    "SandlockTimeout",
    "Unsupported",
]

MORE_FILES = "raise the limit of open files (ulimit -n), or have fewer runs alive"
"""What to do about EMFILE."""


class SandlockError(Exception):
    """The root of everything that sandlock raises."""


class PolicyError(SandlockError, ValueError):
    """The policy asks for something that makes no sense. Raised before anything is started."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Unsupported(SandlockError):  # noqa: N818  # the name is part of the agreed API
    """This host cannot enforce what the policy asks for.

    `missing` names the protections or features that are not there; the message says what to do.
    """

    def __init__(self, message: str, *, missing: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.missing = missing


class ConfinementError(SandlockError, OSError):
    """The kernel refused a step of the launch. The program never ran.

    `step` names the step, `errno` is the kernel's answer, `fix` says what can be done about it.
    """

    def __init__(self, step: str, error: int, *, subject: str = "", fix: str = "") -> None:
        name = _errno.errorcode.get(error, str(error))
        where = f"{step} ({subject})" if subject else step
        message = f"{where}: {name}" + (f"; {fix}" if fix else "")
        super().__init__(message)
        self.step = step
        self.subject = subject
        self.fix = fix
        self.errno = error
        self.strerror = message

    def __str__(self) -> str:
        return str(self.strerror)


class GuestError(SandlockError):
    """The program ended with a failure and the caller asked for `check=True`."""

    def __init__(self, message: str, *, result: object) -> None:
        super().__init__(message)
        self.result = result


class SandlockTimeout(SandlockError, TimeoutError):  # noqa: N818
    """A wait of the caller ran out of time. The sandbox itself may still be running."""


class InternalError(SandlockError):
    """An invariant of sandlock broke. The sandboxed tree was killed; please report it."""
