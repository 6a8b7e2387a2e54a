"""OpenTelemetry: spans, events and metrics by the API, where the application uses it, and nothing where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19))]

# In a process of its own: an application sets its providers once.
SETUP = """
import json, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
tracer = trace.get_tracer("the application")
import trio, asyncio, sandlock

def tell():
    spans = [{
        "name": each.name, "kind": each.kind.name, "attributes": dict(each.attributes),
        "status": each.status.status_code.name,
        "id": each.context.span_id, "parent": each.parent.span_id if each.parent else None,
        "seconds": (each.end_time - each.start_time) / 1e9,
        "events": [[event.name, dict(event.attributes)] for event in each.events],
    } for each in exporter.get_finished_spans()]
    points = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points[metric.name] = [metric.unit, [
                    [dict(point.attributes), point.value if hasattr(point, "value") else point.count]
                    for point in metric.data.data_points
                ]]
    print(json.dumps({"spans": spans, "metrics": points}))
"""
VET = """
async def vet(event, box):
    return sandlock.Deny("no") if event.argv[-1] == "bad" else sandlock.Allow()

async def work():
    async with sandlock.AsyncSandbox(presets=["system"], policy_fn=vet, **options) as box:
        with tracer.start_as_current_span("tool"):
            await box.run(["/bin/sh", "-c", "/bin/true bad; :"], call_id="call-9")
"""
STATIC = """
with sandlock.Sandbox(presets=["system"], exec_deny=["true *"]) as box:
    box.run(["/bin/sh", "-c", "i=0; while [ $i -lt 100 ]; do /bin/true $i; i=$((i+1)); done"])
"""


def observed(code: str, setup: str = SETUP) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}\n{code}\ntell()"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["trio.run(work)", "asyncio.run(work())"])
def test_a_run_and_its_questions(start: str) -> None:
    told = observed(f"options = {{}}\n{VET}\n{start}")
    spans = {span["name"]: span for span in told["spans"]}
    assert sorted(span["name"] for span in told["spans"]) == [
        "sandlock.decide exec", "sandlock.decide exec", "sandlock.run", "tool",
    ]  # fmt: skip
    run = spans["sandlock.run"]
    assert run["parent"] == spans["tool"]["id"]
    assert run["kind"] == "INTERNAL"
    about = run["attributes"]
    assert (about["process.executable.name"], about["process.exit.code"]) == ("sh", 0)
    assert (about["sandlock.denials.count"], about["gen_ai.tool.call.id"]) == (1, "call-9")
    assert about["sandlock.policy.name"] == "system"
    assert len(about["sandlock.policy.hash"]) == 16
    assert "process.command_args" not in about
    decided = [span for span in told["spans"] if span["name"] == "sandlock.decide exec"]
    assert {span["parent"] for span in decided} == {run["id"]}
    assert [span["attributes"]["sandlock.decision"] for span in decided] == ["allow", "deny"]
    assert decided[1]["attributes"]["sandlock.decision.cause"] == "verdict"
    assert decided[1]["attributes"]["process.executable.path"].endswith("/true")
    assert 0 < decided[1]["seconds"] < 5
    assert not any("process.command_args" in span["attributes"] for span in decided)
    assert run["events"] == []
    metrics = told["metrics"]
    assert metrics["sandlock.run.duration"][0] == "s"
    assert metrics["sandlock.run.duration"][1][0][1] == 1
    assert metrics["sandlock.active"][1][0][1] == 0
    counts = {(point["sandlock.decision"], point["sandlock.decision.cause"]): n
              for point, n in metrics["sandlock.decisions"][1]}  # fmt: skip
    assert counts == {("allow", "verdict"): 1, ("deny", "verdict"): 1}
    assert {point["sandlock.decision.kind"] for point, _ in metrics["sandlock.decision.duration"][1]} == {"exec"}


@pytest.mark.slow
def test_words_only_where_they_are_asked_for() -> None:
    told = observed(f"options = {{'otel': 'argv'}}\n{VET}\ntrio.run(work)")
    words = [span["attributes"].get("process.command_args") for span in told["spans"]]
    assert words == [["/bin/sh", "-c", "/bin/true bad; :"], ["/bin/true", "bad"], words[0], None]


@pytest.mark.slow
def test_static_denials_are_events_and_bounded() -> None:
    (run,) = observed(STATIC)["spans"]
    assert run["attributes"]["sandlock.denials.count"] == 100
    assert len(run["events"]) == 64
    name, facts = run["events"][0]
    assert name == "sandlock.denied"
    assert (facts["sandlock.decision.cause"], facts["sandlock.rule.id"]) == ("rule", "true *")


@pytest.mark.slow
def test_addresses_and_failures() -> None:
    code = (
        "code = \"import socket; print(socket.socket().connect_ex(('127.0.0.1', 9)))\"\n"
        "with sandlock.Sandbox(presets=['python'], net_deny=[':9'], net_allow=['127.0.0.1:9']) as box:\n"
        "    box.run([sys.executable, '-c', code])\n"
        "    try: box.run(['/nosuch'])\n"
        "    except sandlock.ConfinementError: pass\n"
    )
    first, failed = observed(code)["spans"]
    ((_, facts),) = first["events"]
    assert (facts["server.address"], facts["server.port"]) == ("127.0.0.1", 9)
    assert failed["status"] == "ERROR"
    assert failed["attributes"]["error.type"] == "ConfinementError"


@pytest.mark.slow
def test_off_and_nobody_there() -> None:
    assert observed(STATIC.replace("exec_deny", "otel=False, exec_deny"))["spans"] == []
    # The API alone, as many libraries bring it: nobody takes spans, so nothing is made.
    setup = "import json, sys\nimport opentelemetry.trace\nimport sandlock\ndef tell(): pass\n"
    code = (
        "with sandlock.Sandbox(presets=['system'], exec_allow=['*']) as box:\n"
        "    process = box.start(['/bin/true'])\n"
        "    assert not process._execution.run.has_journal\n"
        "    process.close()\n"
        "print('{}')"
    )
    assert observed(code, setup) == {}


def test_it_is_not_imported_unasked() -> None:
    code = (
        "import sys, sandlock\n"
        "box = sandlock.Sandbox(presets=['system'])\n"
        "box.run(['/bin/true'])\n"
        "loaded = [name for name in sys.modules if name.startswith(('opentelemetry', 'sandlock._telemetry'))]\n"
        "print(loaded, 'sandlock._recording' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import sandlock\n"
        "try: sandlock.Sandbox(presets=['system'], otel=True)\n"
        "except sandlock.PolicyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install sandlock[otel]" in done.stdout


AGENT = """
from sandlock.agents.sandbox import AgentSandbox
from sandlock.agents.sync import SyncAgentSandbox

async def work():
    async with AgentSandbox(keep_background=KEEPS) as box:
        with tracer.start_as_current_span("tool"):
            await box.run(["true"], call_id="call-1")
            await box.shell.run("true")
            await box.python.run("1")

RUN
with SyncAgentSandbox() as box, tracer.start_as_current_span("tool"):
    box.run(["true"], call_id="call-2")
"""


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("loop", ["trio.run(work)", "asyncio.run(work())"])
def test_what_an_agent_runs_belongs_to_its_tool_call(loop: str, keeps: bool) -> None:
    spans = observed(AGENT.replace("RUN", loop).replace("KEEPS", str(keeps)))["spans"]
    tools = [span["id"] for span in spans if span["name"] == "tool"]
    runs = [span for span in spans if span["name"] == "sandlock.run"]
    assert [span["parent"] for span in runs if span["parent"] not in tools] == []
    assert len(tools) == 2
    assert len(runs) == 4
    calls = {span["attributes"].get("gen_ai.tool.call.id") for span in runs}
    assert {"call-2"} <= calls
    assert keeps or {"call-1"} <= calls
