"""The recipe for SWE-ReX, from its page: a deployment and its runtime, beside the local ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loops import wait_alive
from recipes import recipe
from swerex import exceptions
from swerex.deployment.local import LocalDeployment
from swerex.runtime import abstract as rex
from ten_cases import ASKED, Job, cases_of

import sandlock

page = recipe("SWE-ReX")
pytestmark = pytest.mark.usefixtures("lasting_thread")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


async def ask(job: Job) -> str:
    deployment = page.SandlockDeployment(job.work, **job.keywords)
    await deployment.start()
    try:
        command = rex.Command(command=["bash", "-c", job.command], timeout=job.timeout)
        done = await deployment.runtime.execute(command)
        return f"{done.exit_code}\n{done.stdout}\n{done.stderr}"
    except exceptions.CommandTimeoutError as error:
        return str(error)
    finally:
        await deployment.stop()


test_ten_cases, test_ten_at_once = cases_of(ask)


def in_session(deployment: Any, body: Callable[[Any], Awaitable[Any]]) -> Any:
    """Opens the session `default` and has `body(runtime)` use it."""

    async def main() -> Any:
        await deployment.start()
        try:
            await deployment.runtime.create_session(rex.CreateBashSessionRequest())
            return await body(deployment.runtime)
        finally:
            await deployment.stop()

    return asyncio.run(main())


def run(runtime: Any, command: str, **more: Any) -> Any:
    return runtime.run_in_session(rex.BashAction(command=command, **more))


async def several(runtime: Any) -> Any:
    await run(runtime, "mkdir sub; cd sub; export X=5")
    kept = await run(runtime, 'echo "$X ${PWD##*/}"')
    silent = await run(runtime, "false", check="silent")
    ignored = await run(runtime, "false", check="ignore")
    with pytest.raises(exceptions.NonZeroExitCodeError, match="said before"):
        await run(runtime, "echo said before; false")
    with pytest.raises(exceptions.SessionDoesNotExistError):
        await run(runtime, "true", session="other")
    with pytest.raises(exceptions.SessionExistsError):
        await runtime.create_session(rex.CreateBashSessionRequest())
    shell = await runtime.execute(rex.Command(command="echo out; echo err >&2; exit 3", shell=True))
    merged = await runtime.execute(rex.Command(command="echo out >&2", shell=True, merge_output_streams=True))
    with pytest.raises(exceptions.NonZeroExitCodeError, match="it was"):
        await runtime.execute(rex.Command(command=["false"], check=True, error_msg="it was"))
    await runtime.close_session(rex.CloseBashSessionRequest())
    with pytest.raises(exceptions.SessionDoesNotExistError):
        await run(runtime, "true")
    alive = bool(await runtime.is_alive())
    return kept.output.strip(), silent.exit_code, ignored.exit_code, shell, merged, alive


def test_sessions_and_commands_do_as_the_local_ones(
    work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = in_session(page.SandlockDeployment(work), several)
    (tmp_path / "local").mkdir()
    monkeypatch.chdir(tmp_path / "local")
    assert ours == in_session(LocalDeployment(), several)
    assert ours[0] == "5 sub"


def test_files(work: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "tool").write_text("hello")

    async def body(runtime: Any) -> None:
        await runtime.upload(rex.UploadRequest(source_path=str(tools), target_path="tools"))
        await runtime.upload(rex.UploadRequest(source_path=str(tools / "bin" / "tool"), target_path="one"))
        assert (await run(runtime, "cat tools/bin/tool one")).output == "hellohello"
        await runtime.write_file(rex.WriteFileRequest(path="deep/file", content="ü"))
        assert (await runtime.read_file(rex.ReadFileRequest(path="deep/file"))).content == "ü"
        await run(runtime, f"ln -s {tmp_path} out")
        for path in ("../stolen", f"{tmp_path}/stolen", "out/stolen"):
            with pytest.raises(sandlock.SandlockError):
                await runtime.write_file(rex.WriteFileRequest(path=path, content="x"))

    in_session(page.SandlockDeployment(work), body)
    assert (work / "deep" / "file").read_text() == "ü"
    assert sorted(os.listdir(tmp_path)) == ["tools", "work"]


def test_a_denied_exec_in_a_session_is_told(work: Path) -> None:
    rules: dict[str, Any] = {"exec_allow": ["*"]}

    async def body(runtime: Any) -> str:
        first = await run(runtime, "touch made; echo and on")
        assert "<sandbox_violations>" not in (await run(runtime, "echo later")).output
        return str(first.output)

    text = in_session(page.SandlockDeployment(work, exec_deny=["touch * # files are made by people"], **rules), body)
    assert "files are made by people" in text
    assert "and on" in text
    assert os.listdir(work) == []
    assert in_session(page.SandlockDeployment(work, **rules), body).strip() == "and on"  # the control
    assert os.listdir(work) == ["made"]


@pytest.mark.parametrize("answer", [True, "not on fridays"])
def test_an_asked_exec_in_a_session(work: Path, answer: bool | str) -> None:
    job = Job(work, "touch made", answer=answer, fields=ASKED)

    async def body(runtime: Any) -> str:
        return str((await run(runtime, job.command, check="silent")).output)

    text = in_session(page.SandlockDeployment(work, **job.keywords), body)
    assert len(job.asked) == 1
    assert "touch made" in job.asked[0]
    assert ("not on fridays" in text) == (answer is not True)
    assert os.listdir(work) == (["made"] if answer is True else [])


def test_the_options_that_the_page_begins_with(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "not on fridays"

    async def body(runtime: Any) -> str:
        return str((await run(runtime, "curl x; git push origin; echo and on")).output)

    monkeypatch.setattr("builtins.input", answer)
    options = recipe("Recipes: CrewAI, LlamaIndex, OpenHands, SWE-ReX").options
    text = in_session(page.SandlockDeployment(work, **options), body)
    assert [prompt.partition(" [")[0] for prompt in asked] == ["exec git push origin"]
    assert "deny exec curl x (rule curl *: no downloads)" in text
    assert "not on fridays" in text
    assert "and on" in text


def test_a_command_that_runs_out_of_time_takes_its_session_along(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def body(runtime: Any) -> None:
        await run(runtime, "X=5")
        with pytest.raises(exceptions.CommandTimeoutError):
            await run(runtime, f"touch begun; bash -c 'exec -a {mark} sleep 90'; touch ended", timeout=1.0)
        assert wait_alive(mark, 0) == []
        assert (await runtime.run_in_session(rex.BashInterruptAction())).exit_code == 0
        assert (await run(runtime, "echo [$X]")).output == "[]\n"
        with pytest.raises(exceptions.SwerexException, match="no terminal"):
            await run(runtime, "python3", is_interactive_command=True)

    in_session(page.SandlockDeployment(work), body)
    assert os.listdir(work) == ["begun"]


def test_a_deployment_that_is_not_started(work: Path) -> None:
    deployment = page.SandlockDeployment(work)
    with pytest.raises(exceptions.DeploymentNotStartedError):
        _ = deployment.runtime
