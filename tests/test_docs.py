"""The documents say what is so: their marked blocks run, their links lead somewhere, the reference is up to date.

A fenced block of `sh` or `python` with a line `<!-- test -->` above it is run, in the order of the page, each page in
an empty directory of its own, as an ordinary user. When the block is followed by one of `text`, that is what it prints;
`...` in it stands for anything.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import NamedTuple

import ordinary
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCS = os.path.join(ROOT, "docs")
VENV = "python3 -m venv .venv && .venv/bin/pip install"
SET_UP = (
    f'{VENV} . && .venv/bin/sandlock run --preset system -- /bin/echo "confined by the kernel"',
    f"{VENV} -e '.[dev]' && .venv/bin/pytest -n 2",
)
BLOCK = re.compile(r"(<!-- test -->\n)?```(sh|python|toml)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


class Block(NamedTuple):
    """A block to run, and what it prints if the page says so."""

    language: str
    text: str
    printed: str | None


def documents() -> list[str]:
    """Every page, relative to the root."""
    found = [name for name in os.listdir(ROOT) if name.endswith(".md")]
    for folder, _, names in os.walk(DOCS):
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names if name.endswith(".md")]
    return sorted(found)


def read(name: str) -> str:
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def marked(name: str) -> list[Block]:
    """The blocks of a page that are run. In README, the Python example is."""
    everything = name == "README.md"
    return [
        Block(language, text, printed or None)
        for mark, language, text, printed in BLOCK.findall(read(name))
        if mark or (everything and language == "python")
    ]


def matches(expected: str, output: str) -> bool:
    parts = map(re.escape, expected.strip().split("..."))
    return re.fullmatch(".*?".join(parts), output.strip(), re.S) is not None


def run(block: Block, who: ordinary.Person) -> str:
    """Runs a block and returns what it prints, both streams. `sandlock` and `python3` are those of the tests."""
    command = os.path.join(who.home, ".bin")
    if not os.path.isdir(command):
        os.mkdir(command)
        with open(os.path.join(command, "sandlock"), "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {who.python} -m sandlock.cli "$@"\n')
        os.chmod(command, 0o755)
        os.chmod(os.path.join(command, "sandlock"), 0o755)
    page = os.path.join(who.home, "page")
    env = {"PATH": f"{command}:{who.environment()['PATH']}"}
    if block.language == "python":
        done = who.run([who.python, "-c", block.text], cwd=page, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr
    done = who.run(["sh", "-c", f"exec 2>&1\n{block.text}"], cwd=page, env=env)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in documents() if marked(name)])
def test_marked_blocks_run(name: str) -> None:
    with ordinary.at_home("ordinary") as who:
        page = os.path.join(who.home, "page")
        os.makedirs(os.path.join(page, "work"))
        for folder in (page, os.path.join(page, "work")):
            os.chown(folder, who.uid, who.gid)
        for block in marked(name):
            output = run(block, who)
            assert "Traceback" not in output, f"{block.text}\n{output}"
            assert "internal error" not in output, f"{block.text}\n{output}"
            if block.printed is not None:
                shown = f"{block.text}\nshould print\n{block.printed}\nbut printed\n{output}"
                assert matches(block.printed, output), shown


def test_profiles_in_the_documents_are_understood() -> None:
    from sandlock import profile
    from sandlock.sessions.agent_profile import read_profile

    profiles = [text for name in documents() for _, kind, text, _ in BLOCK.findall(read(name)) if kind == "toml"]
    assert profiles
    for text in profiles:
        parsed = profile.parse(text)
        if parsed.agent is None:
            parsed.policy()
        else:
            read_profile(parsed, "document").policy()


def test_the_reference_is_up_to_date() -> None:
    specification = importlib.util.spec_from_file_location("make_reference", os.path.join(DOCS, "make_reference.py"))
    assert specification is not None
    assert specification.loader is not None
    maker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(maker)
    for name, text in maker.pages().items():
        assert read(f"docs/reference/{name}") == text, f"run: python docs/make_reference.py ({name} has changed)"


def test_the_set_up_commands_stand_in_the_readme() -> None:
    for command in SET_UP:
        assert f"```sh\n{command}\n```" in read("README.md")


@pytest.mark.parametrize("name", documents())
def test_links_lead_to_files(name: str) -> None:
    here = os.path.dirname(os.path.join(ROOT, name))
    dead = [target for target in LINK.findall(read(name)) if not os.path.exists(os.path.join(here, target))]
    assert not dead


def test_the_files_that_the_tour_names_exist() -> None:
    text = read("README.md") + read("docs/explanation/architecture.md")
    names = set(re.findall(r"`((?:cli/)?[_a-z]+\.(?:pyx|py|h|c))", text))
    assert len(names) > 8
    for name in names:
        places = (name, f"sandlock/{name}")
        assert any(os.path.exists(os.path.join(ROOT, place)) for place in places), name
