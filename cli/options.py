"""The option table as typer's parameters: what `run`, `inspect` and `agent run` have in common."""

from __future__ import annotations

import inspect as signatures
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import direct

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock.policy import Option

PANELS = {
    "config.presets": "Files",
    "config.record_execs": "Program",
    "config.record_paths": "Program",
    "config": "Protections",
    "filesystem": "Files",
    "network": "Network",
    "program": "Program",
    "exec": "Program",
    "limits": "Limits",
    "determinism": "Determinism",
    "syscalls": "System calls and capabilities",
}
# Options end at the first word that is none: the rest is the command's.
WITHOUT_TERMINAL = {"allow_interspersed_args": False, "ignore_unknown_options": False}


def with_options(*options: Option) -> Callable[[Callable[[direct.Request], int]], Callable[..., int]]:
    """Gives a command of one argument, the request, the options of the table as typer's parameters."""

    def decorate(command: Callable[[direct.Request], int]) -> Callable[..., int]:
        def wrapper(words: list[str] | None = None, **values: Any) -> int:
            given: direct.Given = {}
            for option in options:
                value = values[option.name]
                for each in value if option.repeatable and value else [value]:
                    if isinstance(each, bool):
                        given[option.name] = each
                    elif each is not None and each != []:
                        direct.take(given, option, each)
            return command(direct.Request(given, list(words or ())))

        parameters = [_parameter(option) for option in options]
        argument = Annotated[list[str] | None, typer.Argument(metavar="COMMAND", show_default=False)]
        kind = signatures.Parameter.KEYWORD_ONLY
        parameters.append(signatures.Parameter("words", kind, default=None, annotation=argument))
        wrapper.__signature__ = signatures.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _parameter(option: Option) -> signatures.Parameter:
    """The typer parameter of one option. Everything is text here: the readers of the table check it."""
    flags = option.flags
    if option.off:  # click's way to write a switch with two sides
        flags = (*option.flags[:-1], f"{option.flags[-1]}/{option.off[0]}")
    declared = typer.Option(
        *flags,
        help=option.help + _default(option),
        metavar=option.metavar or None,
        show_default=False,
        rich_help_panel=PANELS.get(option.key) or PANELS.get(option.key.partition(".")[0], "Running"),
    )
    kind: Any = bool | None if option.kind == "switch" else list[str] | None if option.repeatable else str | None
    annotation = Annotated[kind, declared]
    return signatures.Parameter(option.name, signatures.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _default(option: Option) -> str:
    """The default as the help shows it; some help texts explain it themselves."""
    if "(default" in option.help:
        return ""
    value = option.default
    if isinstance(value, bool):
        text = "on" if value else "off"
    elif option.kind == "size" and isinstance(value, int):
        text = f"{value // 2**20}M"
    else:
        text = "none" if value is None or value == () else str(value)
    return f" (default: {text})"
