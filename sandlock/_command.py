"""What is executed: argv, environment, working directory and the files that may be meant, as bytes. Pure.

Rule: nothing here looks at a file; which candidate exists is decided by the kernel, inside the confinement.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import PolicyError
from .policy import CLEAN_ENV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .policy import Policy

    Text = str | bytes | os.PathLike[str] | os.PathLike[bytes]

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to execute, in the kernel's own terms."""

    argv: list[bytes]
    envp: list[bytes]
    cwd: bytes | None
    executables: list[bytes]
    """Candidates in PATH order; the first that can be executed is."""

    @property
    def text(self) -> tuple[str, ...]:
        """The argv as text."""
        return tuple(os.fsdecode(word) for word in self.argv)


def prepare(
    policy: Policy,
    preset_env: Iterable[tuple[str, str]],
    argv: Sequence[Text],
    *,
    host_env: Mapping[str, str],
    env: Mapping[str, str] | None = None,
    cwd: Text | None = None,
) -> Command:
    """The command for this argv under this policy. Raises PolicyError."""
    words = _words(argv)
    variables = environment(policy, preset_env, host_env, env)
    directory = cwd if cwd is not None else policy.cwd
    return Command(
        argv=words,
        envp=[os.fsencode(f"{name}={value}") for name, value in variables.items()],
        cwd=None if directory is None else _encode(directory, "cwd"),
        executables=candidates(words[0], variables.get("PATH", DEFAULT_PATH)),
    )


def environment(
    policy: Policy,
    preset_env: Iterable[tuple[str, str]],
    host_env: Mapping[str, str],
    env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The program's environment: what passes from the host, then presets, then the policy's, then the call's.

    A clean environment (the default) keeps the host's secrets out: only CLEAN_ENV and `pass_env` pass.
    """
    passing = (*CLEAN_ENV, *policy.pass_env)
    exact = {name for name in passing if not name.endswith("*")}
    starts = tuple(name[:-1] for name in passing if name.endswith("*"))
    variables = {
        name: value
        for name, value in host_env.items()
        if not policy.clean_env or name in exact or name.startswith(starts)
    }
    variables.update(preset_env)
    variables.update(policy.env)
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise PolicyError(f"env: {name!r} is not a variable; names and values are text without NUL", field="env")
        variables[name] = value
    return variables


def candidates(program: bytes, path: str) -> list[bytes]:
    """As execvp(3): a name with a slash is itself, any other is looked for in PATH; an empty entry is the cwd."""
    if b"/" in program:
        return [program]
    return [(entry or b".") + b"/" + program for entry in os.fsencode(path).split(b":")]


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
