"""What is executed: argv, environment, working directory and the files that may be meant, as bytes. Pure.

Rule: nothing here looks at a file; which candidate exists is decided by the kernel, inside the confinement.
"""

from __future__ import annotations

import os

from ._record import record
from .errors import PolicyError
from .policy import CLEAN_ENV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .policy import Policy

    Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]

DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


@record
class Command:
    """A program to execute, in the kernel's own terms."""

    argv: list[bytes]
    envp: list[bytes]
    cwd: bytes | None
    executables: list[bytes]
    """Candidates in PATH order; the first that can be executed is."""
    directory: int = -1
    """A descriptor of the working directory, in a virtual root."""

    @property
    def text(self) -> tuple[str, ...]:
        """The argv as text."""
        return tuple(os.fsdecode(word) for word in self.argv)


def prepare(
    policy: Policy,
    preset_env: Iterable[tuple[str, str]],
    argv: Sequence[Text],
    *,
    host_env: Mapping[bytes, bytes],
    env: Mapping[str, str] | None = None,
    cwd: Text | None = None,
) -> Command:
    """The command for this argv under this policy. `host_env`: os.environb. Raises PolicyError."""
    words = _words(argv)
    variables = environment(policy, preset_env, host_env, env)
    directory = cwd if cwd is not None else policy.cwd
    return Command(
        argv=words,
        envp=[name + b"=" + value for name, value in variables.items()],
        cwd=None if directory is None else _encode(directory, "cwd"),
        executables=candidates(words[0], variables.get(b"PATH", DEFAULT_PATH)),
    )


def environment(
    policy: Policy,
    preset_env: Iterable[tuple[str, str]],
    host_env: Mapping[bytes, bytes],
    env: Mapping[str, str] | None = None,
) -> dict[bytes, bytes]:
    """The program's environment: what passes from the host, then presets, then the policy's, then the call's.

    A clean environment (the default) keeps the host's secrets out: only CLEAN_ENV and `pass_env` pass.
    """
    variables = _passing(host_env, (*CLEAN_ENV, *policy.pass_env)) if policy.clean_env else dict(host_env)
    for name, value in (*preset_env, *policy.env):
        variables[os.fsencode(name)] = os.fsencode(value)
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise PolicyError(f"env: {name!r} is not a variable; names and values are text without NUL", field="env")
        variables[os.fsencode(name)] = os.fsencode(value)
    return variables


def _passing(host_env: Mapping[bytes, bytes], names: Iterable[str]) -> dict[bytes, bytes]:
    """The variables of these names; a last "*" stands for any ending."""
    variables = {}
    for name in names:
        key = name.encode()
        if key.endswith(b"*"):
            start = key[:-1]
            variables.update({known: host_env[known] for known in host_env if known.startswith(start)})
        elif key in host_env:
            variables[key] = host_env[key]
    return variables


def candidates(program: bytes, path: bytes) -> list[bytes]:
    """As execvp(3): a name with a slash is itself, any other is looked for in PATH; an empty entry is the cwd."""
    if b"/" in program:
        return [program]
    return [(entry or b".") + b"/" + program for entry in path.split(b":")]


def read_exe(exe: Text) -> bytes:
    """A file to execute, whatever the words say. Raises PolicyError."""
    path = _encode(exe, "exe")
    if not path.startswith(b"/"):
        raise PolicyError(f"exe: {exe!r} is no absolute path", field="exe")
    return path


def _words(argv: Sequence[Text]) -> list[bytes]:
    if isinstance(argv, str | bytes):
        raise PolicyError(
            f"argv: {argv!r} is one string; give a list of words, or ['sh', '-c', text] for a shell", field="argv"
        )
    words = [_encode(word, "argv") for word in argv]
    if not words or not words[0]:
        raise PolicyError("argv: empty; the first word is the program", field="argv")
    return words


def _encode(text: Text, field: str) -> bytes:
    try:
        data = os.fsencode(text)
    except TypeError:
        raise PolicyError(f"{field}: {text!r} is neither text, bytes nor a path", field=field) from None
    if b"\0" in data:
        raise PolicyError(f"{field}: {text!r} holds a NUL byte, which the kernel cannot take", field=field)
    return data
