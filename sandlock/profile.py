"""Profiles: policies kept in TOML files.

Rules: a profile is code as far as trust goes, so it is only read from a file, in a directory, below
directories that nobody but us and root can change; a key that is not understood is an error, never
ignored. It must not know any option by name: keys come from the option table.
"""

from __future__ import annotations

import os
import stat

from ._record import record
from ._values import did_you_mean, nearest, read_text, refuse, shown
from .errors import PolicyError, Unsupported
from .policy import OPTIONS, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Profile", "directory", "fields_of", "is_name", "load", "names", "parse", "read"]

MAX_BYTES = 2**20
"""No profile is longer."""
SECTIONS = ("config", "determinism", "program", "filesystem", "network", "http", "syscalls", "limits", "exec", "agent")

# Keys of the original sandlock whose features are not here. A value that asks for nothing is accepted,
# because its own tools write every key.
NOT_HERE = frozenset(
    f"{section}.{key}"
    for section, keys in {
        "config": ("http_ca", "http_key", "http_inject_ca", "http_ca_out", "fs_storage", "workdir"),
        "determinism": ("random_seed", "time_start", "deterministic_dirs"),
        "filesystem": ("on_exit", "on_error"),
        "network": ("port_remap",),
        "http": ("ports", "allow", "deny"),
        "limits": ("memory", "cpu", "disk", "gpu_devices", "num_cpus"),
    }.items()
    for key in keys
)
PROGRAM_KEYS = ("program.exec", "program.args")
"""What to run; not part of the policy."""


@record
class Profile:
    """What a profile says: normalised keywords of Policy, and the program to run if it names one."""

    path: str
    fields: dict[str, object]
    argv: tuple[str, ...] = ()
    agent: dict[str, object] | None = None
    """The section [agent] as it stands there, for `sandlock.sessions.agent_profile` to read."""

    def policy(self) -> Policy:
        """The policy of this profile alone. Raises PolicyError, also for one with a section [agent]."""
        self.refuse_agent()
        return Policy.of(**self.fields)  # type: ignore[arg-type]  # read key by key

    def refuse_agent(self) -> None:
        """Raises PolicyError if this is the profile of an agent: what it has asked and denied would be left out."""
        if self.agent is not None:
            raise PolicyError(
                f"profile: {shown(self.path)} has a section [agent], and is for: sandlock agent run -p", field="profile"
            )


def load(name: str | os.PathLike[str]) -> Profile:
    """The profile of this name, or in this file when the text has a "/" or ends in ".toml".

    Raises PolicyError (no such profile, not safe to trust, not understood) and Unsupported (a feature of
    the original sandlock that is not here).
    """
    path = locate(name)
    return parse(read(path), path)


def locate(name: str | os.PathLike[str]) -> str:
    """The file that `name` stands for, whether it exists or not. Raises PolicyError."""
    text = read_text("profile", os.fspath(name), "write a profile's name or file")
    if "/" in text or text.endswith(".toml"):
        return os.path.join(_current_directory(text), text)
    if not is_name(text):
        refuse(
            "profile",
            text,
            "is not a profile name",
            "use letters, digits, '.', '_', '-', beginning with no sign",
        )
    path = f"{directory()}/{text}.toml"
    if not os.path.lexists(path):
        refuse("profile", text, f"is not there ({path})", _which_there_are(text))
    return path


def is_name(text: str) -> bool:
    """Whether this may name a profile: [A-Za-z0-9][A-Za-z0-9._-]*, so no path can be built from it."""
    rest = text.replace(".", "").replace("_", "").replace("-", "")
    return text.isascii() and text[:1].isalnum() and rest.isalnum() and ".." not in text


def directory() -> str:
    """Where profiles are: sandlock/profiles in $XDG_CONFIG_HOME or ~/.config. Raises PolicyError.

    Without HOME there is none: a directory that anybody can write to, such as /tmp, would let anybody
    plant one.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):  # the XDG specification says to ignore relative ones
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            raise PolicyError("profile: HOME is not set; set HOME or XDG_CONFIG_HOME, or name a file with a '/' in it")
        base = f"{home.rstrip('/')}/.config"
    return f"{base.rstrip('/')}/sandlock/profiles"


def names() -> list[str]:
    """The profiles in the directory, sorted; none when it does not exist. Raises PolicyError."""
    try:
        entries = os.listdir(directory())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PolicyError(f"profile: {directory()}: {error.strerror}") from error
    found = [entry.removesuffix(".toml") for entry in entries if entry.endswith(".toml")]
    return sorted(name for name in found if is_name(name))


def _which_there_are(text: str) -> str:
    known = names()
    return did_you_mean(text, known) if known else f"there are none yet; write {directory()}/NAME.toml"


def _current_directory(text: str) -> str:
    try:
        return os.getcwd()
    except OSError as error:
        refuse(
            "profile",
            text,
            f"is relative and there is no current directory ({error.strerror})",
            "write it in full",
        )


# --- trust --------------------


def read(path: str) -> str:
    """The text of this file, if only we and root can have written it. Raises PolicyError."""
    real = os.path.realpath(path)
    try:
        for place in dict.fromkeys([*_above(os.path.abspath(path)), *_above(real)]):
            _trust(place, os.stat(place))
        # NONBLOCK: a FIFO must not hang us before fstat has refused it
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise PolicyError(f"profile: {shown(path)}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PolicyError(f"profile: {shown(path)} is not a regular file")
        _trust(real, status)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise PolicyError(f"profile: {shown(path)} is longer than {MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"profile: {shown(path)} is not UTF-8 at byte {error.start}; TOML is") from error


def _above(path: str) -> Iterator[str]:
    """The directories that hold this path, from the nearest to the root."""
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _trust(path: str, status: os.stat_result) -> None:
    """Raises PolicyError if somebody else can change what is at `path`.

    In a sticky directory (/tmp) others cannot replace what is ours, and that it is ours is checked too.
    """
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    owner_only = f"run: chmod go-w {path}"
    if status.st_uid not in (os.geteuid(), 0):
        raise PolicyError(
            f"profile: {shown(path)} belongs to user {status.st_uid}, who could change it; it must be yours or root's"
        )
    if status.st_mode & stat.S_IWOTH and not sticky:
        raise PolicyError(f"profile: {shown(path)} can be written by everybody; {owner_only}")
    if status.st_mode & stat.S_IWGRP and not sticky and status.st_gid not in (os.getegid(), 0):
        raise PolicyError(f"profile: {shown(path)} can be written by group {status.st_gid}; {owner_only}")


# --- meaning --------------------


def parse(text: str, path: str = "<text>") -> Profile:
    """What this TOML text says. `path` is for error messages. Raises PolicyError and Unsupported."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path}: not TOML: {error or 'nested too deeply'}") from error
    agent = document.pop("agent", None)
    if agent is not None and not isinstance(agent, dict):
        raise PolicyError(f"{path}: agent: is a section; write [agent]", field="agent")
    argv = _argv(path, document.get("program", {}))
    return Profile(path=path, fields=fields_of(document, path), argv=argv, agent=agent)


def fields_of(document: dict[str, object], path: str) -> dict[str, object]:
    """The keywords of Policy that these sections say; `path` is for error messages. Raises PolicyError, Unsupported."""
    options = {option.key: option for option in OPTIONS}
    known = (*options, *NOT_HERE, *PROGRAM_KEYS)
    fields: dict[str, object] = {}
    for key, value in _keys(document, path, known):
        if key in options:
            fields[options[key].name] = _value(path, key, value)
        elif key in NOT_HERE:
            if value not in (False, [], "", {}):
                message = f"{path}: {key}: this feature of the original sandlock is not here yet; remove the key"
                raise Unsupported(message, missing=frozenset((key,)))
        elif key not in PROGRAM_KEYS:
            raise PolicyError(f"{path}: {key}: unknown key; {_meant(key, known)}", field=key)
    return fields


def _keys(document: dict[str, object], path: str, known: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    for section, content in document.items():
        if section not in SECTIONS:
            what = "unknown section" if isinstance(content, dict) else "key outside any section"
            fix = did_you_mean(section, SECTIONS) if isinstance(content, dict) else _meant(section, known)
            raise PolicyError(f"{path}: {section}: {what}; {fix}", field=section)
        if not isinstance(content, dict):
            raise PolicyError(f"{path}: {section}: is a section; write [{section}]", field=section)
        for key, value in content.items():
            yield f"{section}.{key}", value


def _meant(key: str, known: tuple[str, ...]) -> str:
    """The fix for an unknown key: the same word in another section, a keyword's key, or a near one."""
    section, _, word = key.rpartition(".")
    for option in OPTIONS:
        if word in (option.name, option.key.partition(".")[2], *(flag.lstrip("-") for flag in option.flags)):
            return f"did you mean {option.key!r}?"
    here = sorted(name for name in known if name.startswith(f"{section}.") and name not in NOT_HERE)
    for candidates in (here, known):
        near = nearest(word, [name.partition(".")[2] for name in candidates])
        if near is not None:
            full = next(name for name in candidates if name.endswith(f".{near}"))
            return f"did you mean {full!r}?"
    return "known: " + ", ".join(here or sorted(SECTIONS))


def _value(path: str, key: str, value: object) -> object:
    option = next(option for option in OPTIONS if option.key == key)
    if option.kind == "octal" and not isinstance(value, str):
        # 022 is no TOML, and 22 would be read as decimal
        raise PolicyError(f'{path}: {key}: {shown(value)} is a number; write octal in quotes: "022"', field=option.name)
    try:
        return option.read(value)
    except PolicyError as error:
        problem = str(error).removeprefix(f"{option.name}: ")
        raise PolicyError(f"{path}: {key}: {problem}", field=option.name) from None


def _argv(path: str, program: object) -> tuple[str, ...]:
    section = program if isinstance(program, dict) else {}
    command, arguments = section.get("exec"), section.get("args", [])
    if not isinstance(arguments, list) or not all(isinstance(word, str) and "\0" not in word for word in arguments):
        raise PolicyError(f"{path}: program.args: {shown(arguments)} is not a list of texts", field="program.args")
    if command is None:
        if arguments:
            raise PolicyError(
                f"{path}: program.args: given without program.exec; name the program", field="program.args"
            )
        return ()
    if not isinstance(command, str) or not command or "\0" in command:
        raise PolicyError(f"{path}: program.exec: {shown(command)} is not a program", field="program.exec")
    return (command, *arguments)
