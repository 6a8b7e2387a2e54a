"""sandlock: run programs under a policy that the Linux kernel enforces, without root, namespaces or a daemon.

import sandlock

with sandlock.Sandbox(presets=["system"], fs_writable=["work"]) as box:
    print(box.run(["ls", "-l"]).stdout_text)
"""

from __future__ import annotations

from ._denials import Audited, Denial
from ._stdio import INHERIT, NULL, PIPE, STDOUT
from .errors import (
    ConfinementError,
    GuestError,
    InternalError,
    PolicyError,
    SandlockError,
    SandlockTimeout,
    Unsupported,
)
from .events import (
    Allow,
    Ancestor,
    Audit,
    Bind,
    Connect,
    Deny,
    Exec,
    ExecDecision,
    Fork,
    Kill,
    Listen,
    NetDecision,
    Open,
    Resolve,
    Send,
)
from .handlers import (
    Continue,
    Errno,
    Handler,
    HandlerContext,
    Hold,
    Inject,
    KillTask,
    KillTree,
    NativeHandler,
    Value,
    include_dir,
)
from .policy import Policy
from .result import ExecRecord, Result
from .sandbox import Process, Sandbox, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._async import AsyncProcess, AsyncSandbox
    from ._decisions import Decision
    from ._doctor import examine

__all__ = [
    "INHERIT",
    "NULL",
    "PIPE",
    "STDOUT",
    "Allow",
    "Ancestor",
    "AsyncProcess",
    "AsyncSandbox",
    "Audit",
    "Audited",
    "Bind",
    "ConfinementError",
    "Connect",
    "Continue",
    "Decision",
    "Denial",
    "Deny",
    "Errno",
    "Exec",
    "ExecDecision",
    "ExecRecord",
    "Fork",
    "GuestError",
    "Handler",
    "HandlerContext",
    "Hold",
    "Inject",
    "InternalError",
    "Kill",
    "KillTask",
    "KillTree",
    "Listen",
    "NativeHandler",
    "NetDecision",
    "Open",
    "Policy",
    "PolicyError",
    "Process",
    "Resolve",
    "Result",
    "Sandbox",
    "SandlockError",
    "SandlockTimeout",
    "Send",
    "Unsupported",
    "Value",
    "examine",
    "include_dir",
    "run",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The async face brings trio, which costs more to import than everything else together.
    if name in ("AsyncProcess", "AsyncSandbox"):
        from . import _async

        return getattr(_async, name)
    if name == "Decision":
        from ._decisions import Decision

        return Decision
    if name == "examine":
        from ._doctor import examine

        return examine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
