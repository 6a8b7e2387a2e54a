"""Profiles of agents: TOML files with a section [agent] besides those of every profile.

Rules: a key that is not known is an error. What the section grants is said in words of the home directory and of hosts;
what that leads to is looked up when a run is prepared.
"""

from __future__ import annotations

from .._record import record

__all__ = ["AgentProfile"]


@record
class AgentProfile:
    """What a profile says."""

    name: str
    path: str
    """The file it was read from."""
    fields: tuple[tuple[str, object], ...] = ()
    """Keywords of Policy, from the ordinary sections."""
    argv: tuple[str, ...] = ()
    """What to run, if the profile says it."""
    description: str = ""
    presets: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    home_read: tuple[str, ...] = ()
    home_write: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    full_screen: bool = False
    """Whether the agent draws the whole terminal, so that questions have to be put elsewhere."""
