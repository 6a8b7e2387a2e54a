"""Runs and decisions as OpenTelemetry sees them: spans, span events and metrics, by the API package alone.

Rules: imported only where the application uses OpenTelemetry already, or asks for it. `sandlock.run` is a child of what
is current where `run` is called, for a framework has a span of its own for the tool call. A command's words may be
secret, and are left out unless asked for.
"""

from __future__ import annotations

import os
import sys
from threading import Lock
from typing import TYPE_CHECKING

from ._audit import policy_hash
from ._decisions import DENIED
from .errors import PolicyError

if TYPE_CHECKING:
    from typing import Any

    from ._decisions import Decision
    from ._execution import Execution

MAX_EVENTS = 64
"""Denials of one run that become events of its span; the others are only counted."""


class Telemetry:
    """The tracer and the instruments of a sandbox."""

    def __init__(self, *, argv: bool) -> None:
        from opentelemetry import metrics, trace

        self.argv = argv
        self._trace, self._metrics = trace, metrics

    @property
    def is_watched(self) -> bool:
        """Whether somebody takes spans or numbers: the API alone, as libraries bring it, has nobody."""
        tracer, meter = self._trace.get_tracer_provider(), self._metrics.get_meter_provider()
        return not (
            type(tracer).__module__.startswith("opentelemetry.trace")
            and type(meter).__module__.startswith("opentelemetry.metrics")
        )

    def begin(self, execution: Execution) -> RunSpan:
        """The span of a run, in the current context."""
        span = self._trace.get_tracer("sandlock").start_span(
            "sandlock.run", kind=self._trace.SpanKind.INTERNAL, attributes=_run_attributes(execution, self.argv)
        )
        return RunSpan(self._trace, span, _instruments(self._metrics), self.argv)


class RunSpan:
    """The span of one run, and what happens in it."""

    def __init__(self, trace: Any, span: Any, instruments: dict[str, Any], argv: bool) -> None:
        self._trace = trace
        self._span = span
        self._instruments = instruments
        self._argv = argv
        self._context = trace.set_span_in_context(span)
        self._denials = self._events = 0
        self._instruments["active"].add(1)

    def decide(self, decision: Decision) -> None:
        """One decision: a span of its own if somebody was asked, an event if it is a denial."""
        facts = {"sandlock.decision": decision.decision, "sandlock.decision.cause": decision.cause}
        numbers = {**facts, "sandlock.decision.kind": decision.kind}
        self._instruments["decisions"].add(1, numbers)
        self._instruments["latency"].record(decision.latency, numbers)
        self._denials += decision.decision in DENIED
        moment = int(decision.time * 1e9)
        if decision.asked:
            self._trace.get_tracer("sandlock").start_span(
                f"sandlock.decide {decision.kind}",
                context=self._context,
                kind=self._trace.SpanKind.INTERNAL,
                start_time=moment - int(decision.latency * 1e9),
                attributes=facts | _target(decision, self._argv),
            ).end(moment)
        elif decision.decision in DENIED and self._events < MAX_EVENTS:
            self._events += 1
            kind = {"sandlock.decision.kind": decision.kind}
            self._span.add_event("sandlock.denied", facts | kind | _target(decision, self._argv), moment)

    def end(self, execution: Execution) -> None:
        """The run is over."""
        exit_code, _, reason = execution.outcome or (None, None, "failed")
        if exit_code is not None:
            self._span.set_attribute("process.exit.code", exit_code)
        else:
            self._span.set_attribute("error.type", type(execution.failure).__name__)
            self._span.set_status(self._trace.StatusCode.ERROR, str(execution.failure))
        self._span.set_attribute("sandlock.denials.count", self._denials)
        self._span.set_attribute("sandlock.run.reason", reason)
        self._span.end()
        self._instruments["duration"].record(execution.duration, {"sandlock.run.reason": reason})
        self._instruments["active"].add(-1)


def telemetry(wanted: bool | str | None) -> Telemetry | None:
    """By the `otel` of a sandbox. Raises PolicyError for what is no choice, or without the package."""
    if wanted is None:
        return Telemetry(argv=False) if "opentelemetry.trace" in sys.modules else None
    if wanted is not True and wanted != "argv":
        raise PolicyError(f'otel: {wanted!r} is no choice; give True, False, "argv" or None', field="otel")
    try:
        return Telemetry(argv=wanted == "argv")
    except ImportError as error:
        raise PolicyError(
            f"otel: {error}; install opentelemetry-api (pip install sandlock[otel])", field="otel"
        ) from error


_made: dict[int, tuple[object, dict[str, Any]]] = {}
_lock = Lock()


def _instruments(metrics: Any) -> dict[str, Any]:
    """The instruments of the provider, made once: a second set would count beside the first."""
    provider = metrics.get_meter_provider()
    with _lock:
        if id(provider) not in _made:
            meter = metrics.get_meter("sandlock")
            _made[id(provider)] = (
                provider,
                {
                    "duration": meter.create_histogram("sandlock.run.duration", "s", "How long runs take."),
                    "decisions": meter.create_counter("sandlock.decisions", "{decision}", "Decisions about calls."),
                    "latency": meter.create_histogram(
                        "sandlock.decision.duration", "s", "From a call to the decision about it."
                    ),
                    "active": meter.create_up_down_counter("sandlock.active", "{run}", "Runs that are alive."),
                },
            )
        return _made[id(provider)][1]


def _run_attributes(execution: Execution, argv: bool) -> dict[str, Any]:
    policy, words = execution.policy, execution.command.text
    attributes: dict[str, Any] = {
        "process.executable.name": os.path.basename(words[0]),
        "sandlock.run.id": execution.run_id,
        "sandlock.policy.name": ",".join(policy.presets) or "custom",
        "sandlock.policy.hash": policy_hash(policy),
    }
    if execution.call_id:
        attributes["gen_ai.tool.call.id"] = execution.call_id
    if argv:
        attributes["process.command_args"] = list(map(_clean, words))
    return attributes


def _target(decision: Decision, argv: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {"process.pid": decision.pid}
    if decision.rule:
        attributes["sandlock.rule.id"] = _clean(decision.rule)
    if decision.kind == "exec":
        attributes["process.executable.path"] = _clean(decision.exe)
        if argv:
            attributes["process.command_args"] = list(map(_clean, decision.argv))
        return attributes
    if decision.kind in ("open", "path"):
        attributes["file.path"] = _clean(decision.target)
        return attributes
    attributes["server.address"] = _clean(decision.ip or decision.target)
    if decision.ip:
        attributes["server.port"] = decision.port
    return attributes


def _clean(text: str) -> str:
    """File names that are not UTF-8 hold lone surrogates, which exporters do not take."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
