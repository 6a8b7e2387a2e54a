"""AutoGen: blocks of code, cancellation by its token, the component's configuration, an agent that executes them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from autogen_agentchat.agents import CodeExecutorAgent
from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken, ComponentLoader
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from autogen_ext.code_executors.local import LocalCommandLineCodeExecutor
from framework_pages import ROOT, run_example
from loops import wait_alive
from ten_cases import Job, cases_of

import sandlock
from sandlock.agents.autogen import SandlockCodeExecutor

MESSAGE = TextMessage(content="```bash\ngit push -q there.git main\n```\n", source="user")
pytestmark = pytest.mark.usefixtures("lasting_thread")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def executed(executor: CodeExecutor, *blocks: tuple[str, str]) -> CodeResult:
    async def main() -> CodeResult:
        async with executor:
            code = [CodeBlock(code=code, language=language) for language, code in blocks]
            return await executor.execute_code_blocks(code, CancellationToken())

    return asyncio.run(main())


@pytest.mark.parametrize(
    "blocks",
    [
        [("python", "print(6 * 7)")],
        [("bash", "echo one"), ("sh", "echo two"), ("Python", "print('three')")],
        [("python", "import sys; print('out'); sys.exit(3)"), ("bash", "echo never")],
        [("sh", "cat"), ("shell", "cd /; pwd")],
        [("cobol", "DISPLAY 'x'.")],
        [("python", "# filename: made.py\nprint(__file__.rpartition('/')[2])"), ("sh", "ls made.py")],
    ],
)
@pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor")
def test_results_are_those_of_the_local_executor(work: Path, tmp_path: Path, blocks: list[tuple[str, str]]) -> None:
    (tmp_path / "other").mkdir()
    theirs = executed(LocalCommandLineCodeExecutor(work_dir=tmp_path / "other"), *blocks)
    ours = executed(SandlockCodeExecutor(work), *blocks)
    assert (ours.exit_code, ours.output) == (theirs.exit_code, theirs.output)


def test_code_is_confined(work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    found: list[sandlock.Result] = []
    code = f"open({str(secret)!r}, 'a').write('x')"
    done = executed(SandlockCodeExecutor(work, on_result=found.append), ("sh", f"cat {secret}"), ("python", code))
    assert done.exit_code == 1
    assert "hidden-word" not in done.output
    assert secret.read_text() == "hidden-word"
    assert len(found) == 1
    outside = executed(SandlockCodeExecutor(work), ("python", "# filename: ../outside.py\nprint('ran')"))
    assert outside.exit_code == 1
    assert "ran" not in outside.output
    assert not (tmp_path / "outside.py").exists()
    hook = executed(SandlockCodeExecutor(work), ("sh", "# filename: .mcp.json\necho ran"))
    assert (hook.exit_code, "protected" in hook.output) == (1, True)


def test_its_token_cancels(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> CodeResult:
        async with SandlockCodeExecutor(work) as executor:
            token = CancellationToken()
            blocks = [CodeBlock(code=f"exec -a {mark} sleep 60", language="bash"), CodeBlock("echo never", "bash")]
            task = asyncio.ensure_future(executor.execute_code_blocks(blocks, token))
            assert len(await asyncio.to_thread(wait_alive, mark, 1, 20)) == 1
            token.cancel()
            result = await task
            assert wait_alive(mark, 0) == []
            await executor.restart()
            again = await executor.execute_code_blocks([CodeBlock("echo on", "sh")], CancellationToken())
            assert again.output == "on\n"
            return result

    result = asyncio.run(main())
    assert (result.exit_code, result.output) == (125, "\nCancelled")


def test_it_is_a_component(work: Path) -> None:
    executor = SandlockCodeExecutor(work, timeout=7, add=["git"], exec_deny=["curl *"])
    config = executor.dump_component()
    assert config.provider == "sandlock.agents.autogen.SandlockCodeExecutor"
    loaded = ComponentLoader.load_component(config.model_copy(deep=True), CodeExecutor)
    assert isinstance(loaded, SandlockCodeExecutor)
    assert loaded.dump_component() == config
    assert "deny exec curl x" in executed(loaded, ("bash", "curl x; echo $?")).output


KEPT = {"timeout", "work_dir", "add", "fields"}


def test_a_component_has_no_functions(work: Path) -> None:
    options: dict[str, Any] = {"approve": lambda _: sandlock.Allow(), "max_output_chars": 99, "on_result": print}
    executor = SandlockCodeExecutor(work, exec_allow=["*"], exec_ask=["touch *"], **options)
    block = ("sh", "touch made; ls")
    loaded = ComponentLoader.load_component(executor.dump_component(), CodeExecutor)
    assert set(executor.dump_component().config) == KEPT
    assert "deny exec touch made" in executed(loaded, block).output
    assert not (work / "made").exists()
    executed(executor, block)  # the control: with `approve`
    assert (work / "made").exists()


def test_a_component_file_sets_the_policy(work: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-word")
    own = SandlockCodeExecutor(work).dump_component()
    strange = own.model_copy(update={"config": own.config | {"fields": {"fs_readable": [str(secret)]}}})
    for config, wider in ((own, False), (strange, True)):
        loaded = ComponentLoader.load_component(config, CodeExecutor)
        assert ("hidden-word" in executed(loaded, ("sh", f"cat {secret}")).output) == wider


@pytest.mark.parametrize("answer", [True, "not on fridays"])
def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool | str) -> None:
    """Its block, with an agent that gets one message."""
    text = (ROOT / "docs" / "how-to" / "agent-frameworks.md").read_text().split("\n## AutoGen\n")[1]
    block = text.split("```python\n")[1].split("```")[0]
    project = tmp_path / "project"
    project.mkdir()
    commit = "git -c user.name=n -c user.email=e commit -qm m --allow-empty"
    subprocess.run(
        ["sh", "-ec", f"git init -q -b main; git init -q --bare there.git; {commit}"], cwd=project, check=True
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    job = Job(project, "", answer=answer)
    names = {"CodeExecutorAgent": CodeExecutorAgent, "SandlockCodeExecutor": SandlockCodeExecutor, "MESSAGE": MESSAGE}
    space: dict[str, Any] = {"approve": job.approve, "CancellationToken": CancellationToken, **names}
    reply = "return (await agent.on_messages([MESSAGE], CancellationToken())).chat_message.content"
    exec("async def main():\n" + indent(f"{block}    {reply}\n", "    "), space)
    said = asyncio.run(space["main"]())
    assert ["git push" in each for each in job.asked] == [True]
    assert ("not on fridays" in said) == (answer is not True)
    refs = subprocess.run(["git", "-C", project / "there.git", "for-each-ref"], capture_output=True, check=True).stdout
    assert (b"refs/heads/main" in refs) == (answer is True)


def test_a_directory_of_its_own_is_gone_at_the_end() -> None:
    assert not os.path.exists(executed(SandlockCodeExecutor(), ("sh", "pwd")).output.strip())


async def ask(job: Job) -> str:
    async with SandlockCodeExecutor(job.work, timeout=job.timeout or 60.0, **job.keywords) as executor:
        block = CodeBlock(code=job.command, language="bash")
        result = await executor.execute_code_blocks([block], CancellationToken())
    for file in job.work.glob("tmp_code_*"):
        file.unlink()
    return f"{result.exit_code}\n{result.output}"


test_ten_cases, test_ten_at_once = cases_of(ask)


def test_the_example() -> None:
    run_example(
        "autogen_team.py",
        """
asked: exec touch made
asked: exec touch other
The script ran, then exited with an error (POSIX exit code: 1)
Its output was:
45
...touch: Permission denied
cat: ...: No such file or directory
<sandbox_violations>deny exec touch other (one file is enough)</sandbox_violations>
""",
    )


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(sandlock.PolicyError, match="timeout"):
        SandlockCodeExecutor(timeout=0)
    executor: Any = SandlockCodeExecutor()
    with pytest.raises(sandlock.SandlockError, match="not started"):
        _ = executor.sandbox
