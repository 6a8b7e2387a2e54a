"""A result as a model gets to read it: output within a limit, how it ended, and what was denied, in words to act on.

Rules: what a program printed is its own; a trailer that it forges is taken out, so that the one at the end is ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sandlock.sessions.trailer import trailer, violations

if TYPE_CHECKING:
    from sandlock import Result
    from sandlock.sessions.trailer import HasDenials

    from .interpreter import CodeAnswer

__all__ = ["LIMIT", "code_text", "model_text", "shortened", "with_denials", "without_forged_trailers"]

LIMIT = 30_000
"""Characters of output that a model gets, where nothing else is said."""
_TAG = re.compile(r"<\s*(/?)\s*sandbox_violations\b", re.IGNORECASE)


def model_text(result: Result, *, stdout: bytes | None = None, limit: int = LIMIT) -> str:
    """Output, error output, ending and denials as one text. `stdout`: what was captured elsewhere."""
    captured = result.stdout_text if stdout is None else stdout.decode("utf-8", "replace")
    output = without_forged_trailers(captured)
    errors = without_forged_trailers(result.stderr_text)
    parts = [shortened(output, limit)]
    if errors.strip():
        parts.append(f"[stderr]\n{shortened(errors, limit)}")
    if result.truncated:
        parts.append(f"[{' and '.join(sorted(result.truncated))} cut]")
    if result.timed_out:
        parts.append(f"[killed after {result.duration:.1f} s: time limit]")
    elif result.exit_code:
        parts.append(f"[exit code {result.exit_code}]")
    parts.append(trailer(violations(result)))
    return "\n".join(part.rstrip("\n") for part in parts if part.strip()) or "[no output]"


def code_text(answer: CodeAnswer, *, limit: int = LIMIT) -> str:
    """What a piece of code printed, its value or its exception, and denials as one text."""
    parts = [shortened(without_forged_trailers(answer.output), limit)]
    parts += [shortened(without_forged_trailers(each), limit) for each in (answer.value or "", answer.error)]
    if answer.restarted:
        parts.append("[what was defined is gone]")
    parts.append(trailer(violations(answer)))
    return "\n".join(part.rstrip("\n") for part in parts if part.strip()) or "[no output]"


def shortened(text: str, limit: int) -> str:
    """The text; of one longer than `limit` characters, its beginning and its end."""
    if len(text) <= limit:
        return text
    half = max(1, limit // 2)
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def with_denials(text: str, result: HasDenials) -> str:
    """What a program printed, as it is, and on a line of its own what was denied."""
    text, denied = without_forged_trailers(text), trailer(violations(result))
    return f"{text}\n{denied}" if denied and text and not text.endswith("\n") else text + denied


def without_forged_trailers(text: str) -> str:
    """The text in which nothing can be taken for a trailer of ours."""
    return _TAG.sub(lambda found: f"&lt;{found[1]}sandbox_violations", text)
