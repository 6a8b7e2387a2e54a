"""What `agent run` says at its end. All text of programs is escaped."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from sandlock.result import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .agent_run import Outcome

__all__ = ["summary_of"]

LINES = 8


def summary_of(outcome: Outcome) -> Iterator[str]:
    """The lines at the end of a run."""
    result = outcome.result
    for warning in outcome.said:
        yield printable(warning, 400)
    if result is None:
        return
    if result.timed_out:
        yield f"the time limit is over after {result.duration:.1f} s; the whole tree was killed"
    denials = {(each.kind, each.target, each.argv): each for each in result.denials}
    for each in list(denials.values())[:LINES]:
        what = shlex.join(each.argv) if each.argv else each.host or each.target
        because = printable(each.reason, 200)
        fix = f"; to allow it: {printable(each.fix_flag, 300)}" if each.fix_flag else ""
        yield f"denied: {each.kind} {printable(what, 200)}: {because}{fix}"
    more = max(0, len(denials) - LINES) + result.dropped_denials
    if more:
        yield f"denied: {more} more"
    if result.audit_error:
        yield f"the record is not complete: {printable(result.audit_error, 300)}"
    yield f"session {outcome.session}: sandlock agent report {outcome.session}"
