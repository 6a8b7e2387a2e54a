"""A policy while it is put together, with the reason for each of its values."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sandlock import Policy, PolicyError

from .._record import record
from ..policy import OPTIONS, option_of
from .secret_files import is_secret_variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .agent_presets import Addon
    from .private_home import Dotfile

__all__ = ["Draft", "Reason"]

OUT_OF_PLACE = ("chroot", "fs_mount")
"""Fields that an agent run cannot have: its private directories are not in there."""


@record
class Reason:
    """Why a field of the policy has a value."""

    field: str
    value: str
    why: str
    origin: str
    """"default", "preset NAME", "add-on NAME", "profile NAME" or "flag"."""

    def to_dict(self) -> dict[str, str]:
        """As JSON-ready data."""
        return {"field": self.field, "value": self.value, "why": self.why, "from": self.origin}


class Draft:
    """Collects values. `temporary` stands for {tmp} in add-ons."""

    def __init__(self, temporary: str) -> None:
        self._temporary = temporary
        self._lists: dict[str, dict[object, None]] = {}
        self._single: dict[str, object] = {}
        self._variables: dict[str, str] = {}
        self._reasons: dict[tuple[str, str], Reason] = {}
        self.warnings: list[str] = []

    def add(self, field: str, value: object, why: str, origin: str) -> None:
        """One element of a list; the first reason for it stays."""
        self._lists.setdefault(field, {})[value] = None
        self._note(field, str(value), why, origin)

    def path(self, field: str, path: str, why: str, origin: str, *, must_exist: bool = True) -> None:
        """A path, if it is there."""
        if not must_exist or os.path.exists(path) or (field == "fs_denied" and os.path.lexists(path)):
            self.add(field, path, why, origin)

    def set(self, field: str, value: object, why: str, origin: str) -> None:
        """A field that is no list; the last one wins."""
        self._single[field] = value
        for key in [key for key in self._reasons if key[0] == field]:
            del self._reasons[key]
        self._note(field, str(value), why, origin)

    def variable(self, name: str, value: str, why: str, origin: str) -> None:
        """A variable of the environment; the last one wins."""
        self._variables[name] = value
        self._reasons.pop(("env", name), None)
        shown = "..." if is_secret_variable(name) else value
        self._reasons["env", name] = Reason(field="env", value=f"{name}={shown}", why=why, origin=origin)

    def passed(self, pattern: str, origin: str) -> None:
        """A variable to pass through; of those that a pattern means, none that looks like a secret."""
        if not pattern.endswith("*"):
            secret = ", although it looks like a secret: the agent can read it" if is_secret_variable(pattern) else ""
            self.add("pass_env", pattern, f"named by the profile{secret}", origin)
            return
        for name in sorted(os.environ):
            if fnmatchcase(name, pattern) and not is_secret_variable(name):
                self.add("pass_env", name, f"{pattern} means it", origin)

    def asked(self, rules: Iterable[tuple[str, str]], origin: str) -> None:
        """Programs to ask about. Whoever is asked reads why."""
        for rule, why in rules:
            self.add("exec_ask", f"{rule} # {why}", why, origin)

    def dotfile(self, dotfile: Dotfile, origin: str) -> None:
        """A file of the home directory that the private one shows."""
        if dotfile.kind == "absent":
            self._note("home", f"~/{dotfile.name}", "not there yet; what the program makes is brought home", origin)
            return
        if dotfile.copied:
            self._note(
                "home", f"~/{dotfile.name}", "a copy, which goes with the run: the real one is not granted", origin
            )
            return
        field = "fs_writable" if dotfile.writable else "fs_readable"
        self.add(field, dotfile.real, f"~/{dotfile.name}, which the private home directory shows", origin)

    def addon(self, addon: Addon, origin: str) -> None:
        """What an add-on adds, but for its dotfiles."""
        for name, why in addon.presets:
            self.add("presets", name, why, origin)
        for host, why in addon.hosts:
            self.add("net_allow", host, why, origin)
        for port, why in addon.binds:
            self.add("net_allow_bind", port, why, origin)
        self.asked(addon.ask, origin)
        for name, value, why in addon.env:
            self.variable(name, value.replace("{tmp}", self._temporary), why, origin)

    def fields(self, values: Mapping[str, object], origin: str, why: str) -> None:
        """Keywords of Policy: lists extend what is there, others replace it. Raises PolicyError.

        Of rules the first that matches is the one that is told, so what is said last stands first.
        """
        for name, value in values.items():
            option = option_of(name)
            if name in OUT_OF_PLACE and value:
                raise PolicyError(f"{name}: not for an agent run; use `sandlock run`", field=name)
            read = option.read(value)
            if name == "env" and isinstance(read, tuple):
                for variable, text in read:
                    self.variable(variable, text, why, origin)
            elif isinstance(read, tuple) and option.repeatable:
                before = self._lists.pop(name, {})
                for each in read:
                    self.add(name, each, why, origin)
                self._lists[name] = {**self._lists.get(name, {}), **before}
            else:
                self.set(name, read, why, origin)

    def warn(self, text: str) -> None:
        """Something that who starts the run should know."""
        self.warnings.append(text)

    def own_paths(self) -> Iterator[tuple[str, str]]:
        """Field and path of what is granted by path."""
        for name in ("fs_readable", "fs_data", "fs_writable"):
            for path in self._lists.get(name, ()):
                yield name, str(path)

    def policy(self) -> Policy:
        """What was collected. Raises PolicyError."""
        values: dict[str, object] = {name: tuple(value) for name, value in self._lists.items()}
        values |= self._single | {"env": self._variables}
        return Policy.of(**values)  # type: ignore[arg-type]  # each is read by the option table

    def reasons(self) -> tuple[Reason, ...]:
        """Why each value is there, in the order of the options."""
        order = {option.name: number for number, option in enumerate(OPTIONS)}
        return tuple(sorted(self._reasons.values(), key=lambda each: order.get(each.field, len(order))))

    def _note(self, field: str, value: str, why: str, origin: str) -> None:
        self._reasons.setdefault((field, value), Reason(field=field, value=value, why=why, origin=origin))
