"""What both kinds of sandbox have: a policy, changes to it while programs run, and what it says of a call."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from ._command import Text
    from ._confinement import Confinement
    from ._plan import Plan
    from ._reach import Reach
    from .events import ExecDecision, NetDecision
    from .policy import Policy

__all__ = ["Box"]


class Box:
    """A policy, ready for this host."""

    _confinement: Confinement

    @property
    def policy(self) -> Policy:
        """What is allowed."""
        return self._confinement.policy

    @property
    def plan(self) -> Plan:
        """What the policy compiles to on this kernel."""
        return self._confinement.plan

    @property
    def reach(self) -> Reach:
        """The real paths that the policy is about, as it is now: for who uses files of the sandbox natively, beside its
        programs, and is not to do what these may not: `Files(workspace, **box.reach.to_dict())`."""
        return self._confinement.reach()

    def grant(self, **fields: Any) -> None:
        """Allows all runs, also those under way, more: net_allow, net_allow_bind and paths are added, max_processes
        raised.

        Only within the `ceiling` that the sandbox was made with, or its policy (what `restrict` took away). From any
        thread, also from within a callback. Raises PolicyError, and then nothing changes.
        """
        self._confinement.permissions.grant(**fields)

    def restrict(self, **fields: Any) -> None:
        """Allows all runs, also those under way, less: of net_allow, net_allow_bind and the policy's own paths only
        these remain ([]: nothing), net_deny, net_deny_bind and fs_denied are added, max_processes is lowered. What
        callbacks approved for longer than once is forgotten. Connections that exist, and files that are open, stay.
        Raises PolicyError, and then nothing changes.
        """
        self._confinement.permissions.restrict(**fields)

    def check_exec(self, argv: Sequence[Text], *, exe: Text | None = None) -> ExecDecision:
        """What the policy's exec rules say of this command, without running it. `exe`: the file to execute, without
        links, whatever the first word says; where it is gone, it was a program that needs no other.

        Raises PolicyError; SandlockError if there is no such program.
        """
        return self._confinement.check_exec(argv, exe)

    def check_connect(
        self, target: str, *, host: str = "", kind: Literal["connect", "send", "bind", "listen"] = "connect"
    ) -> NetDecision:
        """What the policy's rules say of a destination, such as "tcp://10.0.0.8:443" or "example.org:443", without
        going there. `host`: the name that has led to the address. Of a name alone, rules about addresses know nothing.

        Raises PolicyError for what is no destination.
        """
        return self._confinement.check_connect(target, host=host, kind=kind)
