"""Lessons: a workspace of somebody in which `agent learn` runs, and the profile that comes of it."""

from __future__ import annotations

import os
import subprocess
import tomllib
from dataclasses import dataclass
from typing import Any

from ordinary import Person

SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass
class Lesson:
    """A workspace of somebody, and the profile that is learned there."""

    who: Person
    work: str
    profile: str

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        """A file of the workspace, or of the home directory where the name begins with "~/"."""
        path = name.replace("~", self.who.home, 1) if name.startswith("~/") else f"{self.work}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        self.give(os.path.dirname(path))
        return path

    def read(self, name: str) -> str:
        with open(f"{self.work}/{name}", encoding="utf-8") as file:
            return file.read()

    def give(self, *places: str) -> None:
        """Makes what lies in the home directory that person's own."""
        for place in (*places, self.who.home):
            for folder, folders, names in os.walk(place):
                for each in (folder, *(f"{folder}/{name}" for name in (*folders, *names))):
                    os.chown(each, self.who.uid, self.who.gid, follow_symlinks=False)

    def sandlock(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.who.run([self.who.python, "-m", "sandlock.cli", *words], cwd=self.work, **options)

    def learn(self, *words: str, options: tuple[str, ...] = (), **more: Any) -> subprocess.CompletedProcess[str]:
        """Learns the profile from this command."""
        return self.sandlock("agent", "learn", "-o", self.profile, "-t", "60", *options, "--", *words, **more)

    def again(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command under the learned profile."""
        return self.sandlock("run", "-p", self.profile, "--", *words, **more)

    @property
    def text(self) -> str:
        with open(self.profile, encoding="utf-8") as file:
            return file.read()

    @property
    def rules(self) -> dict[str, list[Any]]:
        """The lists of the profile, by key."""
        document = tomllib.loads(self.text)
        return {f"{section}.{key}": value for section, keys in document.items() for key, value in keys.items()}


def begin(who: Person) -> Lesson:
    """A lesson in an empty workspace of an empty home."""
    work = f"{who.home}/work"
    os.mkdir(work)
    made = Lesson(who, work, f"{who.home}/profiles/learned.toml")
    made.give()
    return made


def said(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def command_of(lesson: Lesson, *words: str) -> list[str]:
    """The words that run `sandlock` as that person."""
    return [lesson.who.python, "-m", "sandlock.cli", *words]
