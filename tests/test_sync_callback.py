"""policy_fn from sync code: plain functions and async ones, in many runs at once, and whatever they do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from attacks.arena import tcp
from test_supervised_network import SPOKEN
from test_vet_network import CONNECT

import sandlock
from sandlock import Allow, Deny, Exec, Sandbox, SandlockTimeout

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
SHELL = ["/bin/sh", "-c", "touch bad; touch good"]


def plain(event: Any, box: Sandbox) -> object:
    time.sleep(0.01)
    return Deny("no") if isinstance(event, Exec) and event.argv == ("touch", "bad") else Allow()


async def in_trio(event: Any, box: Sandbox) -> object:
    await trio.sleep(0.01)
    return plain(event, box)


@pytest.mark.parametrize("policy_fn", [plain, in_trio])
def test_each_exec_is_asked_about(tmp_path: Path, policy_fn: Any) -> None:
    place = str(tmp_path)
    with Sandbox(presets=["system"], fs_writable=[place], cwd=place, policy_fn=policy_fn) as box:
        result = box.run(SHELL)
        assert (result.exit_code, os.listdir(place)) == (0, ["good"])
        assert [denial.reason for denial in result.denials] == ["no"]
        with box.start(SHELL) as process:
            assert len(process.wait().denials) == 1
    assert sandlock.run(SHELL, presets=["system"], fs_writable=[place], cwd=place).ok  # the control
    assert sorted(os.listdir(place)) == ["bad", "good"]


def test_each_destination_is_asked_about() -> None:
    with tcp() as good, tcp() as bad:

        def vet(event: Any, box: Sandbox) -> object:
            return Allow() if isinstance(event, Exec) or event.port == good.port else Deny("no")

        argv = [sys.executable, "-c", CONNECT, str(good.port), str(bad.port)]
        result = sandlock.run(argv, presets=["python"], policy_fn=vet)
        assert result.stdout.split() == [b"0", b"13"]
        assert (good.visits(patience=5), bad.visits()) == (SPOKEN, [])


def test_many_threads_at_once(tmp_path: Path) -> None:
    results: list[Any] = []
    with Sandbox(presets=["system"], policy_fn=plain) as box:
        threads = [
            threading.Thread(target=lambda: results.append(box.run(["/bin/sh", "-c", "/bin/true; echo x"])))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [(result.exit_code, result.stdout) for result in results] == [(0, b"x\n")] * 12


def test_a_callback_that_raises_denies(tmp_path: Path) -> None:
    def broken(event: Any, box: Sandbox) -> object:
        raise ValueError("broken")

    result = sandlock.run(["/bin/true"], presets=["system"], policy_fn=broken)
    assert (result.reason, result.denials[0].cause) == ("denied", "callback-error")


def test_a_run_that_is_killed_leaves_its_question(tmp_path: Path) -> None:
    asked = threading.Event()
    held = threading.Event()

    def hold(event: Any, box: Sandbox) -> object:
        if event.argv[-1] != "bad":
            return Allow()
        asked.set()
        held.wait(20)
        return Allow()

    place = str(tmp_path)
    with Sandbox(presets=["system"], fs_writable=[place], cwd=place, policy_fn=hold) as box:
        with box.start(SHELL) as process:
            assert asked.wait(10)
            with pytest.raises(SandlockTimeout):
                process.wait(0.1)
            started = time.monotonic()
            process.kill()
            assert process.wait().reason == "killed"
            assert time.monotonic() - started < 5
    held.set()
    assert os.listdir(place) == []


@pytest.mark.parametrize("ending", ["run", "start", "kill"])
def test_a_program_that_is_still_asked_about_ends_in_time(ending: str, tmp_path: Path) -> None:
    """Nobody has executed it, and its time is over as if it had been: the question does not stop the clock."""
    asked, held = threading.Event(), threading.Event()

    def hold(event: Any, box: Sandbox) -> object:
        asked.set()
        held.wait(20)
        return Allow()

    place = str(tmp_path)
    with Sandbox(presets=["system"], fs_writable=[place], cwd=place, policy_fn=hold, policy_timeout=None) as box:
        killing = threading.Thread(target=lambda: (asked.wait(10), box.close()))
        started = time.monotonic()
        if ending == "kill":
            killing.start()
            result = box.run(SHELL)
        elif ending == "run":
            result = box.run(SHELL, timeout=0.3)
        else:
            with box.start(SHELL, timeout=0.3) as process:
                result = process.wait()
        assert time.monotonic() - started < 10
    assert result.reason == ("killed" if ending == "kill" else "timeout")
    assert result.timed_out == (ending != "kill")
    assert result.signal == signal.SIGKILL
    held.set()
    assert os.listdir(place) == []
