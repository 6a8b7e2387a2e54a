"""Whether a sandbox records anything: the cheap question, before the modules that cost something are imported."""

from __future__ import annotations

import sys

from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from ._recording import Recording
    from .presets import Grant

    AuditPath = str | bytes | os.PathLike[str] | None


def recording_of(
    grants: tuple[Grant, ...], audit: AuditPath, on_audit_failure: str, otel: bool | str | None
) -> Recording | None:
    """What a sandbox records by these keywords, None where nobody wants a record. Raises PolicyError."""
    if on_audit_failure not in ("deny", "warn"):
        raise PolicyError(
            f'on_audit_failure: {on_audit_failure!r} is no word for it; write "deny" or "warn"',
            field="on_audit_failure",
        )
    if audit is None and (otel is False or (otel is None and "opentelemetry" not in sys.modules)):
        return None
    from ._recording import make_recording

    return make_recording(grants, audit, on_audit_failure, otel)


def read_call_id(value: object) -> str:
    """The caller's name for a call, "" for none. Raises PolicyError."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 1000:
        raise PolicyError(
            f"call_id: {repr(value)[:100]} is no name; give a text of at most 1000 characters", field="call_id"
        )
    return value
