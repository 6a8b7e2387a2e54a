"""Questions for tests of who answers them, without a sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from sandlock import Connect, Deny, Exec
from sandlock.sessions.desk import Desk

PUSH = ("git", "push", "origin", "main")


def an_exec(argv: Sequence[str] = PUSH) -> Exec:
    """Somebody wants to execute this."""
    return Exec(argv=tuple(argv), exe=f"/usr/bin/{argv[0]}", path=f"/usr/bin/{argv[0]}", cwd="/w", rule="git push *")


def a_connect(host: str = "example.org") -> Connect:
    """Somebody wants to connect."""
    return Connect(protocol="tcp", ip="192.0.2.1", port=443, host=host)


async def reason_of(desk: Desk, event: Exec | Connect | None = None) -> str:
    """Puts the question to the desk, and says why it was denied."""
    verdict = await desk.vet(event or an_exec(), None)
    assert isinstance(verdict, Deny), verdict
    return verdict.reason
