"""`sandlock agent mcp-wrap`: a client's configuration whose MCP servers run confined."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from sandlock import PolicyError

from .. import direct

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["wrap_file", "wrapped"]

KEYS = ("mcpServers", "servers", "mcp_servers")
"""Where clients keep them: Claude, Cursor and most others; VS Code; a table of Codex as JSON."""
DEFAULT = ["--preset", "python", "--preset", "node"]
"""A server that reads what runs it, writes nothing and reaches nobody."""
MAX_BYTES = 4 * 2**20


def wrap_file(path: str, options: Sequence[str], *, only: Sequence[str], output: str | None, in_place: bool) -> int:
    """Writes the rewritten configuration to stdout, to `output`, or over the file, whose old form is kept beside it."""
    direct.parse([*(options := list(options) or DEFAULT), "--"])  # said now, not when the client starts the server
    document = _read(path)
    text, done, left = wrapped(document, options, only)
    if in_place:
        _replace(path, text)
    elif output is None:
        print(text, end="")
    else:
        with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
    for name, why in left:
        direct.say(f"{name}: left as it is: {why}")
    direct.say(f"{len(done)} of {len(done) + len(left)} servers run confined: {', '.join(done) or 'none'}")
    return 0


def wrapped(
    document: dict[str, Any], options: Sequence[str], only: Sequence[str] = ()
) -> tuple[str, list[str], list[tuple[str, str]]]:
    """The rewritten document, the servers that it wraps, those that it leaves and why. Raises PolicyError."""
    found = [key for key in KEYS if isinstance(document.get(key), dict)]
    if not found:
        raise PolicyError(f"there are no MCP servers in it; looked for {', '.join(KEYS)}")
    copy = json.loads(json.dumps(document))
    done: list[str] = []
    left: list[tuple[str, str]] = []
    for name, server in copy[found[0]].items():
        why = _why_not(name, server, only)
        if why:
            left.append((name, why))
            continue
        words = [server["command"], *server.get("args", [])]
        passed = [word for variable in server.get("env", {}) for word in ("--pass-env", variable)]
        server["command"] = "sandlock"
        server["args"] = ["run", *options, *passed, "--", *words]
        done.append(name)
    unknown = sorted(set(only) - set(copy[found[0]]))
    if unknown:
        raise PolicyError(f"--only: there is no server {', '.join(unknown)}")
    return json.dumps(copy, indent=2, ensure_ascii=False) + "\n", done, left


def _why_not(name: str, server: Any, only: Sequence[str]) -> str:
    if only and name not in only:
        return "not named by --only"
    if not isinstance(server, dict) or not isinstance(server.get("command"), str):
        return "it is not started by a command"
    arguments, env = server.get("args", []), server.get("env", {})
    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        return "its args are not a list of texts"
    if not isinstance(env, dict):
        return "its env is not an object"
    # a relative path leads into the project whose file this may be: anybody's program can have our name there
    named = server["command"] == "sandlock" or os.path.isabs(server["command"])
    if named and os.path.basename(server["command"]) == "sandlock" and arguments[:1] == ["run"]:
        return "it is confined already, by the options that stand there"
    return ""


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        document = json.loads(content)
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}; name a client's configuration, such as .mcp.json") from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or len(content) > MAX_BYTES:
        raise PolicyError(f"{path}: not a client's configuration")
    return document


def _replace(path: str, text: str) -> None:
    """The old file is kept as FILE.before-sandlock, which must not be there yet; then one rename."""
    real = os.path.realpath(path)
    kept, new = f"{real}.before-sandlock", f"{real}.sandlock-new"
    try:
        os.link(real, kept)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), os.stat(real).st_mode & 0o777)
        os.replace(new, real)
    except OSError as error:
        raise PolicyError(f"{error.filename2 or error.filename}: {error.strerror}; nothing was changed") from error
