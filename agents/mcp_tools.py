"""Tools of your own for the MCP server, in TOML: a command with holes, a description, and a policy of its own.

    [fetch]
    description = "Fetch a page of the documentation."
    command = ["curl", "-sS", "--max-time", "20", "https://www.python.org/{page}"]
    parameters = { page = "Path of the page" }
    timeout = 30
    network.allow = ["www.python.org:443"]

Rules: a value fills its hole as one word or a part of one; no shell reads it, and one that begins with "-" cannot
become an option of its own. The sections of the policy are those of a profile, on top of the server's.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from sandlock import PolicyError
from sandlock import profile as profiles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["CommandTool", "read_tools"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,63}")
HOLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
OWN = frozenset(("description", "command", "parameters", "timeout"))
TAKEN = frozenset(("run", "python", "read_file", "write_file", "edit_file", "list_files", "remove_file"))


@dataclass(frozen=True)
class CommandTool:
    """One tool: `command` with `{name}` for each of `parameters` (name: description). `fields`: keywords of Policy."""

    description: str
    command: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The command with these values in it. Raises PolicyError for a word that would begin with "-" by a value."""
        found = []
        for word in self.command:
            filled = HOLE.sub(lambda hole: str(values[hole[1]]), word)
            if filled.startswith("-") and not word.startswith("-"):
                raise PolicyError(f"{word}: the value may not begin with '-', which programs take for an option")
            if "\0" in filled:
                raise PolicyError(f"{word}: the value has a NUL in it")
            found.append(filled)
        return found

    def keywords(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of AgentSandbox: those of the server, with lists extended and other fields replaced."""
        merged = dict(base)
        for name, value in self.fields.items():
            before = merged.get(name, ())
            both = isinstance(value, tuple) and isinstance(before, list | tuple)
            merged[name] = (*before, *value) if both else value
        return merged

    def function(self, run: Callable[[Context[Any, Any], dict[str, Any]], Awaitable[Any]]) -> Callable[..., Any]:
        """A function with a parameter for each hole, as the SDK wants to see it."""

        async def call(ctx: Context[Any, Any], **values: str) -> Any:
            return await run(ctx, values)

        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("ctx", kind, annotation=Context)]
        for name, description in self.parameters.items():
            annotation = Annotated[str, Field(description=description, max_length=20_000)]
            parameters.append(inspect.Parameter(name, kind, annotation=annotation))
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        return call


def read_tools(text: str, path: str = "<text>") -> dict[str, CommandTool]:
    """The tools of a TOML text. Raises PolicyError."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path}: not TOML: {error}") from error
    return {name: _tool(name, content, path) for name, content in document.items()}


def _tool(name: str, content: Any, path: str) -> CommandTool:
    where = f"{path}: [{name}]"
    if not NAME.fullmatch(name) or name in TAKEN:
        raise PolicyError(f"{where}: no name for a tool; use letters, digits, '-', '_', and none of the built-in names")
    if not isinstance(content, dict):
        raise PolicyError(f"{where}: is a section; write [{name}]")
    command, parameters = content.get("command"), content.get("parameters", {})
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise PolicyError(f"{where}: command: write a list of words")
    if not isinstance(parameters, dict) or not all(
        PARAMETER.fullmatch(key) and key != "ctx" and isinstance(text, str) for key, text in parameters.items()
    ):
        raise PolicyError(f'{where}: parameters: write {{ name = "what it is" }}')
    holes = {hole for word in command for hole in HOLE.findall(word)}
    if holes != set(parameters):
        raise PolicyError(f"{where}: the holes of command ({', '.join(sorted(holes))}) are not its parameters")
    timeout = content.get("timeout")
    if timeout is not None and (not isinstance(timeout, int | float) or timeout <= 0):
        raise PolicyError(f"{where}: timeout: write seconds")
    sections = {key: value for key, value in content.items() if key not in OWN}
    return CommandTool(
        description=str(content.get("description", name)),
        command=tuple(command),
        parameters=parameters,
        timeout=timeout,
        fields=profiles.fields_of(sections, where),
    )
