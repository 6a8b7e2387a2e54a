"""`sandlock agent run`: a whole agent in one sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sandlock import INHERIT, AsyncSandbox, PolicyError

from .. import direct

if TYPE_CHECKING:
    from sandlock import Policy, Result

__all__ = ["run_request"]


def run_request(request: direct.Request) -> int:
    """Runs a parsed request and returns the exit code."""
    try:
        if not request.words:
            raise PolicyError("no command; write it after the options: sandlock agent run -- COMMAND")
        policy = direct.policy_of(request, direct.profile_of(request))
        outcome = trio.run(_run, policy, request.words)
    except KeyboardInterrupt:
        return direct.INTERRUPTED
    except Exception as error:
        return direct.fail(error)
    return direct.TIMED_OUT if outcome.timed_out else outcome.exit_code


async def _run(policy: Policy, words: list[str]) -> Result:
    async with AsyncSandbox(policy) as box:
        return await box.run(words, stdin=INHERIT, stdout=INHERIT, stderr=INHERIT)
