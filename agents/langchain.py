"""LangChain and LangGraph: `SandlockExecutionPolicy`, a confined shell for ShellToolMiddleware; `SandlockApprovals`, a
middleware that makes a question of the sandbox an interrupt of the graph, and the answer that resumes it a verdict.

    approvals = SandlockApprovals()
    backend = SandlockBackend("~/project", exec_ask=["git push *"], approve=approvals.approve)
    agent = create_deep_agent(model="...", backend=backend, middleware=[approvals], checkpointer=InMemorySaver())

    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)  # when it was interrupted

For tools of your own: `SandlockApprovals(tools=["my_tool"])`, and in the tool `box.run(command,
call_id=current_call_id())`. Needs `pip install "sandlock[langchain]"`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware._execution import BaseExecutionPolicy
from langchain_core.messages import ToolMessage
from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.types import interrupt

from sandlock import PolicyError
from sandlock.result import printable
from sandlock.sessions.questions import Answer, read_answer

from .own_program import own_program
from .waiting_calls import Calls, current_call_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from typing import TypeAlias

    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.types import Command

    from sandlock import Allow, Deny, Kill
    from sandlock.sessions.questions import Question

    from .sandbox import Request
    from .waiting_calls import Asked, Call

    Answered: TypeAlias = ToolMessage | Command[Any]

__all__ = ["SandlockApprovals", "SandlockExecutionPolicy", "current_call_id"]

LOST = (
    "This call waited for a permission in a process that is gone, and ended there. What it did before stays; what it "
    "asked for was not done. Call the tool again if it is still needed."
)
HOSTS_OWN = ("HOME", "PATH", "LANG", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
"""What `sandlock agent run` itself needs of this process's variables; the program gets a HOME of its own."""


class SandlockApprovals(AgentMiddleware[Any, Any]):
    """Has a tool call of which the sandbox asks something interrupt the graph. Needs a checkpointer.

    `approve` goes into the sandbox. While the graph stands, the call goes on in this process, and what it asked about
    waits, not carried out; the resumed call takes it up where it is. A question that nobody answers within the
    sandbox's `approve_timeout` is denied, and so is any of a call that is not one of `tools`; these may not interrupt
    the graph themselves. A time limit of the command runs on meanwhile.

    An interrupt's value has the form of LangChain's HITLRequest, and the question as JSON data beside it. Answered by
    a HITLResponse, or what `read_answer` reads: {"choice": "r"}, {"verdict": "deny", "reason": "..."}.
    """

    def __init__(self, tools: Sequence[str] = ("execute",)) -> None:
        super().__init__()
        self._tools = frozenset((tools,) if isinstance(tools, str) else tools)  # `tools` of its own would be new ones
        self._calls = Calls("LangGraph")

    async def approve(self, request: Request) -> Allow | Deny | Kill:
        """For `SandlockBackend(approve=...)`, AgentSandbox and SyncAgentSandbox."""
        return await self._calls.approve(request)

    # ---- the middleware

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Answered]) -> Answered:
        """Carries out a tool call in a thread of its own, which goes on while the graph is interrupted."""
        if request.tool_call["name"] not in self._tools:
            return handler(request)
        key, thread = _key(request)
        call = self._calls.find(key)
        if call is None:
            if _has_answer():
                return _lost(request)
            call = self._calls.start(key, thread, lambda: handler(request))
        try:
            self._put_again(call)
            while (asked := call.next().result()) is not None:
                _put(call, asked)
        except GraphInterrupt:
            raise
        except BaseException:
            self._calls.cancel(call)
            raise
        return _lost(request) if call.lost else self._calls.end(call)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Answered]]
    ) -> Answered:
        """Carries out a tool call in a task of its own, which goes on in the loop while the graph is interrupted."""
        if request.tool_call["name"] not in self._tools:
            return await handler(request)
        key, thread = _key(request)
        call = self._calls.find(key)
        if call is None:
            if _has_answer():
                return _lost(request)
            call = self._calls.start_task(key, thread, lambda: handler(request))
        try:
            self._put_again(call)
            while (asked := await asyncio.wrap_future(call.next())) is not None:
                _put(call, asked)
        except GraphInterrupt:
            raise
        except BaseException:
            await self._calls.cancel_task(call)
            raise
        return _lost(request) if call.lost else self._calls.end(call)

    def _put_again(self, call: Call) -> None:
        """A resumed node runs anew, and gets its answers by their order: what was put before is put once more. Raises
        GraphInterrupt, should one have no answer yet."""
        put, call.put = call.put, []
        for place, asked in enumerate(put):
            call.put.append(asked)
            try:
                given = interrupt(_value(call, asked))
            except GraphInterrupt:
                call.put += put[place + 1 :]
                raise
            asked.settle(_answer(given, asked.question))


def _put(call: Call, asked: Asked) -> None:
    """Interrupts the graph. Should an answer be there before its question, it is another's and answers nothing."""
    call.put.append(asked)
    interrupt(_value(call, asked))
    call.put[-1] = asked.spent()


def _key(request: ToolCallRequest) -> tuple[str, str]:
    """What no other tool call of any graph has, and this one again when it is resumed; and its conversation."""
    given = get_config().get("configurable", {})
    thread = str(given.get("thread_id", ""))
    return "\n".join((thread, str(given.get("checkpoint_ns", "")), str(request.tool_call["id"]))), thread


def _has_answer() -> bool:
    """Whether this node is resumed. Takes the answer, lest another question gets it."""
    try:
        interrupt("sandlock: was this call interrupted before?")  # caught where it was not: nobody sees it
    except GraphInterrupt:
        return False
    return True


def _lost(request: ToolCallRequest) -> ToolMessage:
    call = request.tool_call
    return ToolMessage(content=LOST, tool_call_id=call["id"], name=call["name"], status="error")


def _value(call: Call, asked: Asked) -> dict[str, Any]:
    """A question as JSON data. What people read is escaped, for the program has written it."""
    question = asked.question
    lines = [asked.summary]
    lines += [f"in: {printable(question.cwd, 500)}"] if question.cwd else []
    lines += [f"rule: {printable(question.rule, 500)}"] if question.rule else []
    action = {"name": question.kind, "args": {"call": asked.summary}, "description": "\n".join(lines)}
    review = {"action_name": question.kind, "allowed_decisions": ["approve", "reject"]}
    more = {"question": question.to_dict(), "tool_call_id": call.tool_call_id}
    return {"action_requests": [action], "review_configs": [review], **more}


def _answer(given: object, question: Question) -> Answer:
    """Whatever is not understood denies."""
    match given:
        case {"decisions": [{"type": "approve"}]}:
            return Answer(verdict="allow")
        case {"decisions": [{"type": "reject", **more}]}:
            return Answer(verdict="deny", reason=str(more.get("message") or ""))
    try:
        return read_answer(given, question)
    except PolicyError:
        return Answer(verdict="deny", reason="the answer is none of the choices")


@dataclass
class SandlockExecutionPolicy(BaseExecutionPolicy):
    """Has ShellToolMiddleware's shell run confined: `sandlock agent run OPTIONS -- COMMAND`.

    `options`: those of `sandlock agent run`, as words. Nobody is asked unless they say whom (`--ask`): what the rules
    leave open is denied, and the shell's stderr says what and why. `program`: the `sandlock` beside this Python, else
    that on PATH. Raises SandlockError by `spawn`: there is none.
    """

    options: Sequence[str] = ()
    program: str | None = None

    def spawn(self, *, workspace: Path, env: Mapping[str, str], command: Sequence[str]) -> subprocess.Popen[str]:
        """Starts the shell in its workspace, in a session of its own."""
        options = list(self.options)
        if not any(word == "--ask" or word.startswith("--ask=") for word in options):
            options += ["--ask", "none"]
        for name in env:  # by name: words of a command line can be read by others
            options += ["--pass-env", name]
        own = {name: os.environ[name] for name in HOSTS_OWN if name in os.environ}
        return subprocess.Popen(
            [self.program or own_program(), "agent", "run", *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=workspace,
            env=own | dict(env),
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
