"""The same questions by every `--ask` there is: what was answered happens, and what nobody answers does not.

Judged from outside: by the files that exist, and by who came to the listeners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import answering
import ordinary
import pytest
from agent_terminal import workspace
from answering import REASON, WORDS, Arena

Way = Callable[[Arena], str]
WAYS = {
    "tty": answering.by_terminal,
    "exec": answering.by_program,
    "http": answering.by_http,
    "unix": answering.by_unix,
    "attach": answering.by_attaching,
    "ui": answering.by_page,
}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lasting_thread")]


def tried(who: ordinary.Person, way: Way, words: tuple[str, ...], *, silent: bool = False) -> tuple[Arena, str]:
    arena = Arena(who, words, silent=silent)
    try:
        said = way(arena)
        assert "finished" in said, said
        arena.look()
    finally:
        arena.close()
    return arena, said


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_answered_happens(visitor: ordinary.Person, way: Way) -> None:
    arena, said = tried(visitor, way, WORDS)
    assert arena.made == ["yes"]
    assert arena.came == ["yes"]
    assert said.count(REASON) >= 2, said  # the agent reads it, of the exec and of the connection


def test_without_a_sandbox_everything_happens(visitor: ordinary.Person) -> None:
    arena, _ = tried(visitor, answering.bare, WORDS)
    assert (arena.made, arena.came) == (list(WORDS), list(WORDS))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_who_says_nothing_has_not_allowed(visitor: ordinary.Person, way: Way) -> None:
    arena, said = tried(visitor, way, ("yes",), silent=True)
    assert (arena.made, arena.came) == ([], [])
    assert said.count("within 1 s") >= 2, said


NOBODY = {
    "exec": (answering.program_that_fails, "it ended with exit 1"),
    "http": (answering.port_of_nobody, "the service cannot be reached"),
    "unix": (answering.service_that_leaves, "nobody was there to be asked"),
    "attach": (answering.nobody_attached, "nobody was there to be asked"),
    "attached-and-left": (answering.attached_and_left, "nobody was there to be asked"),
}
"""And what the agent reads of it."""


@pytest.mark.parametrize(("way", "reason"), NOBODY.values(), ids=NOBODY)
def test_where_nobody_is_nothing_is_allowed(visitor: ordinary.Person, way: Way, reason: str) -> None:
    arena, said = tried(visitor, way, ("yes",))
    assert (arena.made, arena.came) == ([], [])
    assert said.count(reason) >= 2, said


@pytest.mark.parametrize("ask", ["exec:/not/there", "unix:/not/there", "http://x/", "mcp,none", "who"])
def test_whom_nobody_can_ask_starts_no_run(visitor: ordinary.Person, ask: str) -> None:
    arena = Arena(visitor, ("yes",), silent=False)
    try:
        command = [visitor.python, "-m", "sandlock.cli", *arena.command("--ask", ask)]
        done = visitor.run(command, cwd=workspace(visitor))
        arena.look()
    finally:
        arena.close()
    assert (done.returncode, "finished" in done.stdout) == (125, False), done
    assert "ask" in done.stderr
    assert (arena.made, arena.came) == ([], [])


def test_nobody_who_could_be_asked(visitor: ordinary.Person) -> None:
    arena, said = tried(visitor, answering.by_nobody, WORDS)
    assert (arena.made, arena.came) == ([], [])
    assert said.count("nobody is asked in this run") >= 2, said


@pytest.fixture
def person() -> Iterator[ordinary.Person]:
    """Who runs these tests: others may have no MCP."""
    with ordinary.at_home(ordinary.USERS[0]) as who:
        yield who


def test_what_an_mcp_client_answers_happens(person: ordinary.Person) -> None:
    arena, said = tried(person, answering.by_mcp, WORDS)
    assert (arena.made, arena.came) == (["yes"], ["yes"])
    assert said.count(REASON) >= 2, said


def test_an_mcp_client_that_answers_too_late_has_not_allowed(person: ordinary.Person) -> None:
    arena, said = tried(person, answering.by_mcp, ("yes",), silent=True)
    assert (arena.made, arena.came) == ([], [])
    assert said.count("within 1 s") >= 2, said


def test_an_mcp_client_that_cannot_ask_has_not_allowed(person: ordinary.Person) -> None:
    arena, said = tried(person, answering.by_mcp_that_cannot_ask, WORDS)
    assert (arena.made, arena.came) == ([], [])
    assert "nobody" in said, said
