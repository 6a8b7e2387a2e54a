"""The profile of `agent learn`: the same each time, minimal, extended in place, never text of the program's own."""

from __future__ import annotations

import os
import shutil
import textwrap
import tomllib

import pytest
from lessons import SYSTEM_PYTHON, Lesson, begin, command_of, said
from ordinary import Person

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.slow]


@pytest.fixture
def lesson(visitor: Person) -> Lesson:
    return begin(visitor)


def test_it_is_the_same_each_time_and_minimal(lesson: Lesson) -> None:
    for name in "abcde":
        lesson.write(f"~/many/{name}", "x")
    lesson.write("~/few/one", "x")
    lesson.write("input/data", "x")
    command = [
        "sh",
        "-c",
        "cat ~/many/a ~/many/b ~/many/c ~/many/d ~/many/e ~/few/one input/data > /dev/null;"
        "echo $$ > $TMPDIR/x; mktemp > /dev/null",
    ]
    texts = []
    for _ in range(3):
        done = lesson.learn(*command)
        assert done.returncode == 0, said(done)
        texts.append(lesson.text)
        os.unlink(lesson.profile)
    assert texts[0] == texts[1] == texts[2]
    rules = tomllib.loads(texts[0])["filesystem"]
    assert rules["data"] == ["input/data", "~/few/one", "~/many"]
    assert "5 paths, e.g. ~/many/a by cat: 5 of its entries" in texts[0]
    assert len(rules["write"]) == 1  # only that for temporary files


def test_what_was_tried_elsewhere_is_proposed_and_not_granted(lesson: Lesson) -> None:
    done = lesson.learn("sh", "-c", "echo 1 > ~/elsewhere; mkdir ~/folder; echo ok > here")
    assert not os.path.exists(f"{lesson.who.home}/elsewhere")
    assert "elsewhere" in done.stderr
    proposed = [line for line in lesson.text.splitlines() if "elsewhere by dash: if that is meant" in line]
    assert len(proposed) == 1
    assert proposed[0].startswith("#   ")
    assert "elsewhere" not in str(lesson.rules.get("filesystem.write", []))
    os.unlink(lesson.profile)
    os.mkdir(f"{lesson.who.home}/allowed")
    lesson.give()
    done = lesson.learn("sh", "-c", "echo 1 > ~/allowed/x", options=("-w", "~/allowed"))
    assert lesson.rules["filesystem.write"] == ["~/allowed"], said(done)


def test_merge_extends_and_keeps(lesson: Lesson) -> None:
    before = textwrap.dedent(
        """\
        # mine: keep this comment
        [config]
        presets = ["system"]  # and this

        [exec]
        allow = [
            "cat *"  # no comma here
            # a last remark
        ]

        [limits]
        timeout = "5m"
        """
    )
    profile = lesson.write("~/profiles/learned.toml", before)
    lesson.write("~/data/file", "content\n")
    command = ["sh", "-c", "cat ~/data/file; echo 1 > made"]
    done = lesson.sandlock("agent", "learn", "--merge", profile, "--", *command)
    assert done.returncode == 0, said(done)
    for line in ("# mine: keep this comment", "# and this", "# no comma here", "# a last remark", 'timeout = "5m"'):
        assert line in lesson.text
    assert lesson.rules["config.presets"] == ["system", "workspace"]
    assert lesson.rules["filesystem.data"] == ["~/data/file"]
    assert lesson.rules["exec.allow"][0] == "cat *"
    assert len(lesson.rules["exec.allow"]) == 2
    assert "new: filesystem.data: ~/data/file" in done.stderr
    done = lesson.again(*command)
    assert (done.returncode, done.stdout) == (0, "content\n"), said(done)

    text = lesson.text
    done = lesson.sandlock("agent", "learn", "--merge", profile, "--", *command)
    assert "nothing is new" in done.stderr, said(done)
    assert lesson.text == text


def test_a_profile_that_is_there_is_not_lost(lesson: Lesson) -> None:
    lesson.write("~/profiles/learned.toml", "[config]\n")
    done = lesson.learn("true")
    assert (done.returncode, "is there already" in done.stderr) == (125, True)
    assert lesson.text == "[config]\n"


def test_hostile_names_stay_in_their_comment(lesson: Lesson) -> None:
    """File names and words with line ends, quotes and escapes are text of the profile, never lines of it."""
    evil = 'x"]\n[filesystem]\nread = ["/"]\n\x1b[31m#'
    code = f"import os; os.makedirs({evil!r}); open({evil!r} + '/file', 'w').close(); open({evil!r} + '/file').close()"
    done = lesson.learn(SYSTEM_PYTHON, "-c", code)
    assert done.returncode == 0, said(done)
    assert "\x1b" not in done.stderr
    assert "filesystem.read" not in lesson.rules
    assert "/" not in lesson.rules.get("filesystem.data", [])
    shutil.rmtree(f"{lesson.work}/{evil}")
    done = lesson.again(SYSTEM_PYTHON, "-c", code)
    assert done.returncode == 0, said(done)


def test_to_standard_output(lesson: Lesson) -> None:
    """The program's own output goes to standard error then."""
    done = lesson.sandlock("agent", "learn", "--", "echo", "from the program")
    assert done.returncode == 0, said(done)
    assert tomllib.loads(done.stdout)["exec"]["allow"] == ["echo *"]
    assert "from the program" in done.stderr


def test_the_exit_code_is_the_programs(lesson: Lesson) -> None:
    assert lesson.learn("sh", "-c", "exit 7").returncode == 7
    assert "exited with 7" in lesson.text


def test_home_and_root_are_no_workspace(lesson: Lesson) -> None:
    for place in (lesson.who.home, "/"):
        done = lesson.who.run(command_of(lesson, "agent", "learn", "--", "true"), cwd=place)
        assert (done.returncode, "start in a project directory" in done.stderr) == (125, True), said(done)
