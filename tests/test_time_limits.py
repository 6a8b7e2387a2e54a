"""Time limits of runs and of waits: kept, bounded, and as long as one likes."""

from __future__ import annotations

import os
import time

import pytest
from programs.tools import guest, state

import sandlock
from sandlock import Sandbox

pytestmark = pytest.mark.needs(landlock=6)


def box(**fields: object) -> Sandbox:
    """A sandbox that can execute the guests."""
    where = os.path.dirname(guest("life"))
    return Sandbox(presets=["system"], fs_readable=[where], **fields)  # type: ignore[arg-type]


@pytest.mark.slow
def test_time_limits_keep_their_time() -> None:
    with box() as sandbox:
        for limit in (0.0, 0.005, 0.03, 0.3):
            start = time.monotonic()
            result = sandbox.run([guest("life"), "wait"], timeout=limit)
            assert result.timed_out
            assert result.reason == "timeout"
            assert limit <= time.monotonic() - start < limit + 2
            assert limit <= result.duration < limit + 2


@pytest.mark.parametrize("limit", [86400 * 30, 3e6, 999_999_999])
def test_long_time_limits(limit: float) -> None:
    with box() as sandbox:
        assert sandbox.run([guest("life"), "end", "-1"], timeout=limit).exit_code == 1
        with sandbox.start([guest("life"), "end", "-2"], timeout=limit) as process:
            assert process.wait(timeout=limit).exit_code == 2


def test_waiting_is_bounded_and_the_run_goes_on() -> None:
    with box() as sandbox, sandbox.start([guest("life"), "wait"]) as process:
        start = time.monotonic()
        with pytest.raises(sandlock.SandlockTimeout):
            process.wait(timeout=0.05)
        assert 0.05 <= time.monotonic() - start < 5
        assert process.poll() is None
        assert state(process.pid) == "S"
