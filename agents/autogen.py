"""AutoGen: a code executor whose blocks run in a sandbox.

    async with SandlockCodeExecutor("~/project", add=["git"], approve=approve) as executor:
        agent = CodeExecutorAgent("executor", code_executor=executor)

As AutoGen's own executor of command lines it writes each block to a file of the workspace and runs that, stops at the
first that fails, and gives exit code 124 for a time limit and 125 for a cancellation. Needs `pip install
"sandlock[autogen]"`: autogen-core 0.7.
"""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from autogen_core import CancellationToken, Component
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from pydantic import BaseModel

from sandlock import PolicyError, SandlockError

from .sandbox import AgentSandbox
from .text import LIMIT, shortened, with_denials

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from sandlock import Result

    from .sandbox import Approve

__all__ = ["SandlockCodeExecutor", "SandlockCodeExecutorConfig"]

TIMED_OUT, CANCELLED = 124, 125
"""Exit codes, those of AutoGen's local executor."""
PROGRAMS = {
    "python": ("python3", "py"),
    "py": ("python3", "py"),
    "python3": ("python3", "py"),
    "bash": ("bash", "sh"),
    "shell": ("bash", "sh"),
    "sh": ("sh", "sh"),
}
"""By language: what runs a block, and the ending of its file."""


class SandlockCodeExecutorConfig(BaseModel):
    """What a component's configuration holds; functions, such as `approve`, are no part of it."""

    timeout: float = 60.0
    work_dir: str | None = None
    add: list[str] = []
    fields: dict[str, Any] = {}


class SandlockCodeExecutor(CodeExecutor, Component[SandlockCodeExecutorConfig]):
    """`work_dir`: the workspace; None makes one, and removes it at the end. `timeout` in seconds for each block.
    `on_result(result)` gets each block's Result. `approve`, `add` and further keywords are those of AgentSandbox."""

    component_config_schema = SandlockCodeExecutorConfig
    component_provider_override = "sandlock.agents.autogen.SandlockCodeExecutor"

    def __init__(
        self,
        work_dir: str | os.PathLike[str] | None = None,
        *,
        timeout: float = 60.0,
        add: list[str] | None = None,
        approve: Approve | None = None,
        max_output_chars: int = LIMIT,
        on_result: Callable[[Result], None] | None = None,
        **fields: Any,
    ) -> None:
        if timeout <= 0:
            raise PolicyError("timeout: a block needs some time; give seconds")
        self._place = None if work_dir is None else os.path.expanduser(os.fspath(work_dir))
        self._timeout, self._add, self._fields = timeout, list(add or ()), fields
        self._approve, self._most, self._on_result = approve, max_output_chars, on_result
        self._box: AgentSandbox | None = None

    @property
    def sandbox(self) -> AgentSandbox:
        """What carries it out: files, shell, snapshot. Raises SandlockError before `start`."""
        if self._box is None:
            raise SandlockError("the executor is not started; use it within its `async with`")
        return self._box

    # ---- its life

    async def start(self) -> None:
        """Opens the sandbox."""
        if self._box is None:
            box = AgentSandbox(self._place, approve=self._approve, add=self._add, **self._fields)
            self._box = await box.__aenter__()

    async def stop(self) -> None:
        """Ends whatever runs; what was made for it is gone."""
        box, self._box = self._box, None
        if box is not None:
            await box.aclose()

    async def restart(self) -> None:
        """A new sandbox on the same workspace; one that was made for it is a new one, too."""
        await self.stop()
        await self.start()

    # ---- code

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        """Runs them one after the other, up to the first that fails."""
        await self.start()
        output, code = "", 0
        for block in code_blocks:
            task = asyncio.ensure_future(self._run(block))
            cancellation_token.link_future(task)
            try:
                code, text = await task
            except asyncio.CancelledError:
                if not cancellation_token.is_cancelled():
                    raise
                code, text = CANCELLED, "\nCancelled"
            output += text
            if code:
                break
        return CodeResult(exit_code=code, output=output)

    async def _run(self, block: CodeBlock) -> tuple[int, str]:
        found = PROGRAMS.get(block.language.lower())
        if found is None:
            return 1, f"\nunknown language {block.language}"
        program, ending = found
        name = _name_of(block.code) or f"tmp_code_{sha256(block.code.encode()).hexdigest()}.{ending}"
        try:
            await self.sandbox.files.write(name, block.code)
        except SandlockError as error:  # a name that the model has chosen
            return 1, f"\n{error}"
        result = await self.sandbox.run([program, name], timeout=self._timeout, merged=True)
        if self._on_result is not None:
            self._on_result(result)
        return TIMED_OUT if result.timed_out else result.exit_code, self._text(result)

    def _text(self, result: Result) -> str:
        """What it printed, how it ended if not by itself, and what was denied."""
        ends = ("\n[output cut]" if result.truncated else "") + ("\nTimeout" if result.timed_out else "")
        return with_denials(shortened(result.stdout_text, self._most) + ends, result)

    # ---- as a component

    def _to_config(self) -> SandlockCodeExecutorConfig:
        return SandlockCodeExecutorConfig(
            timeout=self._timeout, work_dir=self._place, add=self._add, fields=self._fields
        )

    @classmethod
    def _from_config(cls, config: SandlockCodeExecutorConfig) -> Self:
        return cls(config.work_dir, timeout=config.timeout, add=config.add, **config.fields)


def _name_of(code: str) -> str | None:
    """The file that the first line names: `# filename: NAME`, as AutoGen's other executors read it."""
    first = code.split("\n", 1)[0].strip()
    return first.removeprefix("# filename:").strip() or None if first.startswith("# filename:") else None
