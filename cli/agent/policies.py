"""The policy that an agent run under a profile would have, for those who only want to judge by it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sandlock.sessions.workspace import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sandlock import Policy
    from sandlock.sessions.agent_profile import AgentProfile

__all__ = ["policy_of_agent"]


@contextmanager
def policy_of_agent(
    profile: AgentProfile,
    *,
    workspace: str | None = None,
    command: Sequence[str] = (),
    fields: Mapping[str, object] | None = None,
) -> Iterator[Policy]:
    """Within it, the private directories that the policy grants are there, empty. Raises PolicyError."""
    if not profile.is_agent:
        yield profile.policy()
        return
    place = workspace if workspace is not None and os.path.isdir(workspace) else None
    with TemporaryDirectory(prefix="sandlock-") as state:
        yield prepare(state=state, workspace=place, profile=profile, command=command, fields=fields).policy
