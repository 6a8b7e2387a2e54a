"""Profiles of agents: TOML files with a section [agent] besides those of every profile.

Rules: a key that is not known is an error. What the section grants is said in words of the home directory and of hosts;
what that leads to is looked up when a run is prepared. A profile of the user's own takes the place of one that is
shipped, as a whole.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock import Policy, PolicyError

from .._record import record
from .._values import did_you_mean, read_exec_rules, read_names, read_net_rules, read_switch, read_variable_names, shown
from ..profile import Profile, directory, is_name, load, parse
from .agent_presets import ADDONS, AGENT_PRESETS
from .program_files import find_program, lies_in

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AgentProfile", "find_profile", "profile_text", "read_profile", "shipped"]

FALLBACK = "agent"
"""The profile of a program that has none of its own."""


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
    """One of AGENT_PRESETS, or none."""
    add: tuple[str, ...] = ()
    """Names of ADDONS."""
    home_read: tuple[str, ...] = ()
    """Files and directories below the home directory that can be read, and executed."""
    home_write: tuple[str, ...] = ()
    """Those that can be changed; a directory with a "/" at its end is made."""
    home_copy: tuple[str, ...] = ()
    """Files of which the agent gets a copy; what it makes of that goes with the run."""
    pass_env: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    full_screen: bool = False
    """Whether the agent draws the whole terminal, so that questions have to be put elsewhere."""

    is_agent: bool = True
    """Whether there is a section [agent] at all."""

    def policy(self) -> Policy:
        """What the profile says in keywords of Policy; nothing of the home directory. Raises PolicyError."""
        policy = Policy.of(**dict(self.fields))  # type: ignore[arg-type]  # read key by key
        return policy.but(net_allow=(*policy.net_allow, *self.hosts), exec_ask=(*policy.exec_ask, *self.ask))

    @property
    def has_secrets(self) -> bool:
        """Whether a program gets something of the user's with it."""
        return bool(self.home_read or self.home_write or self.home_copy or self.pass_env)


def find_profile(name: str | None, command: Sequence[str] = (), workspace: str | None = None) -> AgentProfile:
    """The profile of this name or file; None: of what `command` runs, else the one called "agent".

    A program that lies in the workspace is not taken for the agent that it is called like, unless the profile hands
    nothing of the user's out. Raises PolicyError and Unsupported.
    """
    if name is not None:
        return _named(name)
    place = os.path.realpath(os.path.expanduser(workspace or os.getcwd()))
    program = find_program(command[0], os.environ.get("PATH", ""), place) if command else None
    for word in _names_of(command[0]) if command else ():
        found = _named(word) if word in (*shipped(), *_own()) else None
        if found is not None and (not found.has_secrets or (program and not lies_in(program, place))):
            return found
    return _named(FALLBACK)


def read_profile(profile: Profile, name: str) -> AgentProfile:
    """What a profile says of an agent; one without a section [agent] is good for an agent, too. Raises PolicyError."""
    values: dict[str, object] = {}
    for key, value in (profile.agent or {}).items():
        if key not in _READERS:
            raise PolicyError(f"{profile.path}: agent.{key}: unknown key; {did_you_mean(key, _READERS)}", field=key)
        try:
            values[key] = _READERS[key](f"agent.{key}", value)
        except PolicyError as error:
            raise PolicyError(f"{profile.path}: {error}", field=key) from None
    return AgentProfile(
        name=name,
        path=profile.path,
        fields=tuple(profile.fields.items()),
        argv=profile.argv,
        is_agent=profile.agent is not None,
        **values,  # type: ignore[arg-type]  # each is what its reader makes of it
    )


def shipped() -> dict[str, str]:
    """The profiles that come with sandlock: their files by their names."""
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), "profiles")
    names = sorted(entry.removesuffix(".toml") for entry in os.listdir(place) if entry.endswith(".toml"))
    return {name: os.path.join(place, f"{name}.toml") for name in names}


def profile_text(name: str) -> str | None:
    """The text of a shipped profile; None if there is none of this name."""
    path = shipped().get(name)
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        return file.read()


def _named(name: str) -> AgentProfile:
    text = profile_text(name) if name not in _own() else None
    if text is not None:
        return read_profile(parse(text, shipped()[name]), name)
    try:
        return read_profile(load(name), os.path.basename(name).removesuffix(".toml"))
    except PolicyError as error:
        if is_name(name) and name not in _own():
            known = ", ".join(dict.fromkeys((*_own(), *shipped())))
            raise PolicyError(f"profile: {name!r} is not there; there are: {known}", field="profile") from error
        raise


def _own() -> tuple[str, ...]:
    """The names of the user's profiles."""
    try:
        return tuple(entry.removesuffix(".toml") for entry in os.listdir(directory()) if entry.endswith(".toml"))
    except (OSError, PolicyError):
        return ()


def _names_of(program: str) -> tuple[str, ...]:
    """What a program is called: "python3.12", and then "python"."""
    name = os.path.basename(program)
    return tuple(each for each in dict.fromkeys((name, name.rstrip("0123456789."))) if is_name(each))


# Reading -------------------------------------------------------------------------------------------------------------


def _texts(field: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each and "\0" not in each for each in value):
        raise PolicyError(f"{field}: {shown(value)} is not a list of texts", field=field)
    return tuple(dict.fromkeys(value))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{field}: {shown(value)} is not text", field=field)
    return value


def _known(field: str, value: object, known: dict[str, object]) -> tuple[str, ...]:
    names = read_names(field, value)
    for name in names:
        if name not in known:
            raise PolicyError(f"{field}: {name!r} is unknown; {did_you_mean(name, known)}", field=field)
    return names


def _one_preset(field: str, value: object) -> tuple[str, ...]:
    names = _known(field, value, {**AGENT_PRESETS})
    if len(names) > 1:
        raise PolicyError(f"{field}: {' and '.join(names)} say different things; name one", field=field)
    return names


_READERS = {
    "description": _text,
    "presets": _one_preset,
    "add": lambda field, value: _known(field, value, {**ADDONS}),
    "home_read": _texts,
    "home_write": _texts,
    "home_copy": _texts,
    "pass_env": read_variable_names,
    "ask": read_exec_rules,
    "hosts": read_net_rules,
    "full_screen": read_switch,
}
"""How each key of [agent] is read."""
