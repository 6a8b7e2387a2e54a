"""Attacks on whoever carries out an agent's calls natively: programs that exchange files, and many calls at once."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from loops import Loop

from sandlock.agents.sandbox import AgentSandbox
from sandlock.files import FileError

pytestmark = pytest.mark.usefixtures("lasting_thread")


def test_restore_is_no_way_to_what_is_protected(loop: Loop, tmp_path: Path) -> None:
    """A snapshot is taken; the program exchanges one of its own directories for a link; the snapshot comes back."""
    hook = tmp_path / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(parents=True)
    (tmp_path / "d" / "hooks").mkdir(parents=True)
    make = "echo evil > d/hooks/pre-commit && chmod 755 d/hooks/pre-commit"

    async def body() -> None:
        async with AgentSandbox(tmp_path) as box:
            assert (await box.run(make)).exit_code == 0
            assert (await box.run(f"cp d/hooks/pre-commit {hook}")).exit_code, "it may not itself"
            archive = io.BytesIO()
            await box.snapshot(archive)
            assert (await box.run("rm -r d && ln -s .git d")).exit_code == 0
            archive.seek(0)
            await box.restore(archive)

    loop.run(body)
    assert not hook.exists()
    assert (tmp_path / "d" / "hooks" / "pre-commit").read_text() == "evil\n"


DEEP = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')"


def test_a_deep_tree_holds_up_no_end(loop: Loop) -> None:
    """In the workspace, in HOME and in TMPDIR: all are removed."""
    places = []

    async def body() -> None:
        async with AgentSandbox() as box:
            places.append(box.workspace)
            for place in (".", "$HOME", "$TMPDIR"):
                result = await box.run(f'cd {place} && /usr/bin/python3 -c "{DEEP}"')
                assert result.exit_code == 0, result.stderr_text

    loop.run(body)
    assert not os.path.exists(os.path.dirname(places[0]))


def test_the_end_of_a_workspace_changes_nothing_outside(loop: Loop, tmp_path: Path) -> None:
    """A link in a directory that its owner may not change: some versions of tempfile change the mode of its target."""
    victim = tmp_path / "victim"
    victim.touch()
    victim.chmod(0o444)
    places = []

    async def body() -> None:
        async with AgentSandbox() as box:
            places.append(box.workspace)
            assert (await box.run(f"mkdir d; ln -s {victim} d/link; chmod 500 d")).exit_code == 0

    loop.run(body)
    assert victim.stat().st_mode & 0o777 == 0o444
    assert not os.path.exists(os.path.dirname(places[0]))


def test_calls_at_once_have_each_their_own_answer(loop: Loop, tmp_path: Path) -> None:
    """As models make them: several tool calls in one turn, the slowest first."""
    said: dict[int, str] = {}
    values: dict[int, str | None] = {}

    async def body() -> None:
        async with AgentSandbox(tmp_path) as box:

            async def command(number: int) -> None:
                said[number] = (await box.shell.run(f"sleep 0.{5 - number}; X=${{X}}{number}; echo {number}")).output

            async def code(number: int) -> None:
                text = f"import time; time.sleep(0.{5 - number}); x = globals().get('x', 0) + 1; {number}"
                values[number] = (await box.python.run(text)).value

            calls = [partial(each, number) for number in range(1, 5) for each in (command, code)]
            await loop.together(*calls)
            assert len((await box.shell.run("echo $X")).output.strip()) == 4, "one shell, and it lives"
            assert (await box.python.run("x")).value == "4", "one interpreter, and it lives"

    loop.run(body)
    assert said == {number: f"{number}\n" for number in range(1, 5)}
    assert values == {number: str(number) for number in range(1, 5)}


def test_who_waits_for_a_turn_and_is_cancelled_ends_nobody_elses(loop: Loop, tmp_path: Path) -> None:
    async def body() -> None:
        async with AgentSandbox(tmp_path) as box:
            await box.shell.run("X=kept")

            async def waits() -> None:
                await loop.sleep(0)
                assert await loop.cut_short(0.1, partial(box.shell.run, "X=lost"))

            first, _ = await loop.together(partial(box.shell.run, "sleep 0.6; echo $X"), waits)
            assert first.output == "kept\n"
            assert (await box.shell.run("echo $X")).output == "kept\n"

    loop.run(body)


def test_what_has_ended_in_the_background_holds_nothing(loop: Loop, tmp_path: Path) -> None:
    """A hundred commands that leave something for a moment cost no more descriptors than one."""

    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def body() -> None:
        async with AgentSandbox(tmp_path, keep_background=True) as box:
            await box.run("sleep 600 & echo $! > pid")
            before = held()
            for _ in range(10):
                await box.run("until [ -e go ]; do sleep 0.02; done &")
            assert held() > before + 10
            await box.run("touch go")
            end = time.monotonic() + 20
            while held() > before + 1 and time.monotonic() < end:
                await loop.sleep(0.05)
                await box.run("true")
            assert held() <= before + 1
            os.kill(int((tmp_path / "pid").read_text()), 0)  # what goes on is not touched

    loop.run(body)


def test_who_is_cancelled_waits_for_the_thread_that_uses_its_files(loop: Loop, tmp_path: Path) -> None:
    """Else a restore goes on by a descriptor that is closed, or has become another's, and writes when all is over."""
    (tmp_path / "x").write_text("x" * 1000)
    began, cut = threading.Event(), threading.Event()
    events: list[str] = []

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            began.set()
            if not cut.wait(20):
                raise OSError("nobody has cancelled it")
            time.sleep(0.2)  # a disk that is slow to answer
            events.append("read")
            return super().read(size)

    async def body() -> None:
        async with AgentSandbox(tmp_path) as box:
            archive = io.BytesIO()
            await box.snapshot(archive)
            (tmp_path / "x").unlink()

            async def restores() -> None:
                async def cancelled() -> None:
                    try:
                        await box.restore(Slow(archive.getvalue()))
                    finally:
                        events.append("over")

                await loop.cut_short(0.1, cancelled)

            async def cancels() -> None:
                while not began.is_set():
                    await loop.sleep(0.01)
                await loop.sleep(0.2)  # longer than the other's limit
                cut.set()

            await loop.together(restores, cancels)

    loop.run(body)
    assert events.index("over") == len(events) - 1
    assert (tmp_path / "x").exists()


def test_permission_bits_hold_for_the_file_tools_of_root_too(loop: Loop, tmp_path: Path) -> None:
    """Programs have no capabilities; what they may not, the tools beside them may not."""
    secret, kept, closed = tmp_path / "secret", tmp_path / "kept", tmp_path / "closed"
    for path, mode in ((secret, 0), (kept, 0o444)):
        path.write_text("as it was")
        path.chmod(mode)
    closed.mkdir()
    (closed / "inner").write_text("as it was")
    closed.chmod(0o500)

    async def body() -> None:
        async with AgentSandbox(tmp_path) as box:
            tools: dict[str, Callable[[], Awaitable[object]]] = {
                "cat secret": partial(box.files.read, "secret"),
                "echo x > kept": partial(box.files.write, "kept", "x"),
                "echo x > closed/new": partial(box.files.write, "closed/new", "x"),
                "rm -f closed/inner": partial(box.files.remove, "closed/inner"),
                "mv closed/inner moved": partial(box.files.move, "closed/inner", "moved"),
                "mkdir closed/d": partial(box.files.make_dir, "closed/d"),
            }
            for command, tool in tools.items():
                assert not (await box.run(command)).ok, command
                with pytest.raises(FileError) as caught:
                    await tool()
                assert caught.value.errno == errno.EACCES, command
            await box.files.write("own", "x")
            assert (await box.files.read("own")) == b"x"

    before = Path("/proc/thread-self/status").read_text().partition("CapEff:")[2].split()[0]
    loop.run(body)
    assert Path("/proc/thread-self/status").read_text().partition("CapEff:")[2].split()[0] == before
    closed.chmod(0o700)
    secret.chmod(0o600)
    assert [each.read_text() for each in (secret, kept, closed / "inner")] == ["as it was"] * 3
    assert sorted(os.listdir(closed)) == ["inner"]
