"""policy_fn: every exec of the tree is asked about, and what was approved is what runs. Judged by files outside."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from loops import LOOPS, Loop

from sandlock import Allow, AsyncSandbox, Deny, Exec, Kill, PolicyError, Result, SandlockError

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
SH = os.path.realpath("/bin/sh")


def vetted(loop: Loop, place: Path, policy_fn: Any, *argv: str, **options: Any) -> Result:
    """A run with write access to `place`, vetted by `policy_fn`."""

    async def main() -> Result:
        async with AsyncSandbox(
            presets=["system"], fs_writable=[str(place)], policy_fn=policy_fn, cwd=str(place), **options
        ) as box:
            return await box.run(list(argv), timeout=20)

    return loop.run(main)  # type: ignore[no-any-return]


def test_every_exec_is_asked_about_with_its_facts(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh -e\necho from $1\n")
    (tmp_path / "script").chmod(0o755)
    seen: list[Exec] = []

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        seen.append(event)
        return Allow()

    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", "./script 'a b'; no-such-program; /bin/echo ''; exit 3")
    assert (result.exit_code, result.stdout, result.denials) == (3, b"from a b\n\n", ())
    first, script, echo = seen  # nothing was asked about the program that does not exist
    assert (first.exe, first.argv[:2], first.interpreter) == (SH, ("/bin/sh", "-c"), ())
    assert (script.exe, script.path, script.argv) == (str(tmp_path / "script"), "./script", ("./script", "a b"))
    assert script.interpreter == ("/bin/sh", "-e", "./script")
    assert script.cwd == str(tmp_path)
    assert echo.argv == ("/bin/echo", "")
    assert echo.argv_bytes == (b"/bin/echo", b"")
    assert first.pid != echo.pid == echo.tid


TOUCH = "touch here/made; echo $?; touch made"


@pytest.mark.parametrize(
    ("answer", "cause", "text"),
    [
        (Deny("not here", 1), "verdict", b"Operation not permitted"),
        (None, "no-opinion", b"Permission denied"),
        (True, "callback-error", b"Permission denied"),
        ("yes", "callback-error", b"Permission denied"),
        (Deny("an errno that there is not", 99999), "callback-error", b"Permission denied"),
        (ValueError("broken"), "callback-error", b"Permission denied"),
    ],
)
def test_whatever_is_no_approval_denies(loop: Loop, tmp_path: Path, answer: Any, cause: str, text: bytes) -> None:
    allowed = Allow()

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        if event.argv[:2] != ("touch", "bad"):
            return allowed
        if isinstance(answer, BaseException):
            raise answer
        return answer

    command = ("/bin/sh", "-c", "touch bad; touch good; exit 7")
    result = vetted(loop, tmp_path, vet, *command)
    assert result.exit_code == 7
    assert text in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["good"]
    assert [(each.kind, each.cause, each.argv) for each in result.denials] == [("exec", cause, ("touch", "bad"))]
    assert os.path.basename(result.denials[0].target) == "touch"
    assert "denied: exec" in result.explain()
    allowed_all = vetted(loop, tmp_path, _allow, *command)  # the control: approved, it happens
    assert allowed_all.exit_code == 7
    assert sorted(os.listdir(tmp_path)) == ["bad", "good"]


async def _allow(event: Exec, box: AsyncSandbox) -> object:
    return Allow()


def test_the_program_itself_denied_is_a_result(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Exec, box: AsyncSandbox) -> object:
        return Deny("nothing at all")

    result = vetted(loop, tmp_path, vet, "touch", "made")
    assert (result.exit_code, result.reason, result.ok) == (126, "denied", False)
    assert [each.reason for each in result.denials] == ["nothing at all"]
    assert os.listdir(tmp_path) == []


def test_kill_ends_the_process_that_asked(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Exec, box: AsyncSandbox) -> object:
        return Kill("no") if event.argv == ("touch", "bad") else Allow()

    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", "touch bad; echo $?; touch good")
    assert result.stdout == b"137\n"
    assert os.listdir(tmp_path) == ["good"]
    assert [(each.cause, each.errno) for each in result.denials] == [("verdict", 0)]


def test_a_plain_function_is_asked_in_a_worker_thread(loop: Loop, tmp_path: Path) -> None:
    def vet(event: Exec, box: AsyncSandbox) -> object:
        time.sleep(0.01)  # blocks nobody
        return Deny("no") if event.argv == ("touch", "bad") else Allow()

    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", "touch bad; touch good")
    assert os.listdir(tmp_path) == ["good"]
    assert len(result.denials) == 1


@pytest.mark.slow
def test_no_answer_in_time(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Exec, box: AsyncSandbox) -> object:
        if event.argv == ("touch", "bad"):
            await loop.sleep(60)
        return Allow()

    command = ("/bin/sh", "-c", "(touch bad; touch late) & touch soon; wait")
    result = vetted(loop, tmp_path, vet, *command, policy_timeout=0.3)
    assert sorted(os.listdir(tmp_path)) == ["late", "soon"]
    assert result.duration < 5
    assert next((each.cause, each.argv) for each in result.denials) == ("timeout", ("touch", "bad"))
    result = vetted(loop, tmp_path, vet, *command, policy_timeout=0.3, on_timeout=Allow())
    assert sorted(os.listdir(tmp_path)) == ["bad", "late", "soon"]
    assert result.denials == ()


@pytest.mark.slow
def test_a_blocked_loop_stops_neither_deadlines_nor_the_time_limit(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Exec, box: AsyncSandbox) -> object:
        if event.argv == ("touch", "bad"):
            time.sleep(1.0)  # noqa: ASYNC251  # as a careless host does it
        return Allow()

    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", "touch bad", policy_timeout=0.2)
    assert os.listdir(tmp_path) == []
    assert result.denials[0].cause == "timeout"


@pytest.mark.slow
def test_a_run_that_ends_cancels_its_questions(loop: Loop, tmp_path: Path) -> None:
    events: list[str] = []

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        if event.argv == ("touch", "bad"):
            try:
                await loop.sleep(60)
            finally:
                events.append("cancelled")
        return Allow()

    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", "touch bad & touch good; sleep 0.2")
    assert result.exit_code == 0
    assert events == ["cancelled"]
    assert os.listdir(tmp_path) == ["good"]


def test_many_questions_wait_at_once(loop: Loop, tmp_path: Path) -> None:
    waiting, most = 0, 0

    async def vet(event: Exec, box: AsyncSandbox) -> object:
        nonlocal waiting, most
        if event.argv[0] == "touch":
            waiting += 1
            most = max(most, waiting)
            while most < 40:
                await loop.sleep(0.01)
        return Allow()

    script = "for i in $(seq 40); do touch made$i & done; wait"
    result = vetted(loop, tmp_path, vet, "/bin/sh", "-c", script)
    assert result.exit_code == 0
    assert most == 40
    assert len(os.listdir(tmp_path)) == 40


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(PolicyError, match="policy_fn"):
        AsyncSandbox(presets=["system"], policy_fn=3)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="policy_timeout"):
        AsyncSandbox(presets=["system"], policy_fn=_allow, policy_timeout=-1)
    with pytest.raises(SandlockError, match="on_timeout"):
        AsyncSandbox(presets=["system"], policy_fn=_allow, on_timeout=True)


# ---- ways to exec ---------------------------------------------------------------------------------------------------

WAYS = {
    "descriptor": "fd = os.open('/bin/touch', os.O_RDONLY); os.execve(fd, ['touch', 'made'], {})",
    "memfd": (
        "fd = os.memfd_create('x'); os.write(fd, open('/bin/touch', 'rb').read()); os.execve(fd, ['touch', 'made'], {})"
    ),
    "proc-self": (
        "os.open('/bin/touch', os.O_RDONLY | os.O_PATH); fd = os.open('/bin/touch', os.O_RDONLY); "
        "os.execv('/proc/self/fd/%d' % fd, ['touch', 'made'])"
    ),
    "thread": (
        "import threading; t = threading.Thread(target=os.execv, args=('/bin/touch', ['touch', 'made'])); "
        "t.start(); t.join()"
    ),
    "long": "os.execv('/bin/sh', ['touch', '-c', '>made'] + ['x' * 100000] * 10 + ['y'] * 10000)",
    "relative": "os.chdir('/'); os.execv('bin/touch', ['touch', os.environ['PLACE'] + '/made'])",
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_exec(tmp_path: Path, way: str) -> None:
    program = f"import os\n{WAYS[way]}"
    denied: list[Exec] = []

    async def allow(event: Exec, box: AsyncSandbox) -> object:
        return Allow()

    async def deny(event: Exec, box: AsyncSandbox) -> object:
        if event.argv[0] != "touch":
            return Allow()
        denied.append(event)
        return Deny("no")

    options: dict[str, Any] = {
        "fs_readable": [sys.base_prefix, sys.prefix],
        "env": {"PLACE": str(tmp_path)},
    }
    result = vetted(LOOPS[0], tmp_path, deny, sys.executable, "-c", program, **options)
    assert os.listdir(tmp_path) == [], result
    assert len(denied) == 1, result
    result = vetted(LOOPS[0], tmp_path, allow, sys.executable, "-c", program, **options)
    assert (result.exit_code, os.listdir(tmp_path), result.denials) == (0, ["made"], ()), result
