"""Microsoft Agent Framework: questions as approval requests, and approvals that resume a command."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from agent_framework import AgentSession, Content, ToolApprovalMiddleware
from loops import wait_alive
from scripted_agent import ASKED, REJECTED, Talk, commands

from sandlock.agents.agent_framework import SandlockSandbox
from sandlock.agents.agent_framework_approvals import LOST

pytestmark = [
    pytest.mark.usefixtures("lasting_thread"),
    pytest.mark.filterwarnings("error:.*legacy:FutureWarning"),  # ways of asking that the framework gives up
]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize("stream", [False, True])
def test_a_question_is_an_approval_request_and_its_approval_resumes_the_command(work: Path, stream: bool) -> None:
    line = "echo $$ > pid; touch made; echo $$ >> pid; touch other; echo end"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(line, "echo beside"), commands("echo next"), stream=stream)
            assert await talk.say() == ["beside\n\nexit_code: 0"]
            (request,) = talk.requests
            assert (request.type, talk.asks()) == ("function_approval_request", ["exec touch made"])
            assert request.function_call.name == "run_shell"
            assert request.function_call.parse_arguments() == {"command": line}
            assert request.additional_properties["sandlock"]["question"]["argv"] == ["touch", "made"]
            assert os.listdir(work) == ["pid"]
            assert await talk.answer(True) == []
            assert talk.asks() == ["exec touch other"]
            assert sorted(os.listdir(work)) == ["made", "pid"]
            assert await talk.answer(True) == ["end\n\nexit_code: 0", "next\n\nexit_code: 0"]
            assert talk.requests == []

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["made", "other", "pid"]
    assert len(set((work / "pid").read_text().split())) == 1  # the same process, not a second one


@pytest.mark.parametrize("stream", [False, True])
def test_a_rejection_ends_the_command_where_it_stands(work: Path, stream: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            line = f"(exec -a {mark} sleep 60) & touch made; echo end > end"
            talk = Talk(box, commands(line), commands("echo on"), stream=stream)
            await talk.say()
            assert len(wait_alive(mark, 1)) == 1
            assert await talk.answer(False) == [REJECTED, "on\n\nexit_code: 0"]
            assert wait_alive(mark, 0, 0.0) == []

    asyncio.run(main())
    assert os.listdir(work) == []


def test_calls_of_one_turn_ask_each_for_itself(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(*(f"touch {name}; echo on > on-{name}" for name in "abcdefgh")))
            await talk.say()
            assert talk.asks() == [f"exec touch {name}" for name in "abcdefgh"]
            answers = await talk.answer(*(name == "b" for name in "abcdefgh"))
            assert [each == REJECTED for each in answers] == [name != "b" for name in "abcdefgh"]

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["b", "on-b"]  # the others did not go on either


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ({"choice": "r"}, ["a", "b"]),
        ({"verdict": "allow", "scope": "run", "words": 1}, ["a", "b"]),
        ({"choice": "?"}, []),
        ("yes", []),
        ({"verdict": "deny", "reason": "not today"}, []),
    ],
)
def test_an_approval_may_say_more_than_yes(work: Path, answer: Any, made: list[str]) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands("touch a; touch b"))
            await talk.say()
            for _ in range(2):
                if talk.requests:
                    response = talk.requests[0].to_function_approval_response(True)
                    response.additional_properties["sandlock"]["answer"] = answer
                    await talk.say(response)

    asyncio.run(main())
    assert sorted(os.listdir(work)) == made


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_an_approval_that_comes_twice_approves_nothing_else(work: Path, whole: bool, bare: bool) -> None:
    """Clients may send no more of it than its id, which all requests about one call share."""

    async def main() -> str:
        mode: Any = "always_require" if whole else "never_require"
        async with SandlockSandbox(work, approval_mode=mode, **ASKED) as box:
            talk = Talk(box, commands("touch a; touch b; echo end") if not whole else commands("touch b; echo end"))
            await talk.say()
            response = talk.requests[0].to_function_approval_response(True)
            if bare:
                response.additional_properties = {}
            await talk.say(response)
            assert talk.asks() == ["exec touch b"]
            again = Content.from_function_approval_response(True, response.id, response.function_call)
            again.additional_properties = dict(response.additional_properties)
            return (await talk.say(again))[0]

    answer = asyncio.run(main())
    assert "the approval is not for this question" in answer
    assert answer.startswith("end")
    assert os.listdir(work) == ([] if whole else ["a"])


@pytest.mark.parametrize("stream", [False, True])
def test_questions_of_one_turn_may_be_answered_one_by_one(work: Path, stream: bool) -> None:
    async def main() -> list[str]:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(*(f"touch {name}; touch {name}2; echo {name}" for name in "abc")), stream=stream)
            await talk.say()
            found, requests = [], dict(zip(talk.asks(), talk.requests, strict=True))
            for name in ("b", "a", "b2", "c", "a2", "c2"):
                found += await talk.say(requests[f"exec touch {name}"].to_function_approval_response(True))
                requests |= zip(talk.asks(), talk.requests, strict=True)
            return found

    assert sorted(each[:1] for each in asyncio.run(main())) == ["a", "b", "c"]
    assert sorted(os.listdir(work)) == ["a", "a2", "b", "b2", "c", "c2"]


def test_the_frameworks_own_order_of_approvals(work: Path) -> None:
    """Its middleware puts one request at a time, and holds the answers back until it has them all."""

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            lines = commands("touch a; echo on > on-a", "touch b; touch b2; echo b", "touch c; echo on > on-c")
            talk = Talk(box, lines, middleware=[ToolApprovalMiddleware()])
            await talk.say()
            for name in ("a", "b", "c", "b2"):
                assert talk.asks() == [f"exec touch {name}"]
                await talk.answer(name.startswith("b"))
            assert talk.requests == []

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["b", "b2"]


def test_responses_of_other_sessions_approve_nothing(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk, other = (Talk(box, commands(f"(exec -a {mark} sleep 60) & touch made")) for _ in range(2))
            await talk.say()
            other.agent.client.turns = []  # type: ignore[attr-defined]
            other.requests = talk.requests
            assert await other.answer(True) == []
            assert await other.say(talk.requests[0].to_function_approval_response(False)) == []
            assert os.listdir(work) == []
            assert len(wait_alive(mark, 1)) == 1  # nor do they reject
            await talk.answer(True)

    asyncio.run(main())
    assert os.listdir(work) == ["made"]


def test_a_late_approval_and_one_in_another_process_approve_nothing(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, approve_timeout=0.5, **ASKED) as box:
            talk = Talk(box, commands("touch late; echo end"), commands("touch lost"))
            await talk.say()
            assert box._calls is not None
            (call,) = box._calls._by_key.values()
            assert await asyncio.wrap_future(call.next()) is None  # denied in the meantime, it has ended
            (answer, *_) = await talk.answer(True)
            assert answer.startswith("end\n")
            assert "deny exec touch late" in answer
            assert talk.asks() == ["exec touch lost"]
            kept = json.loads(json.dumps(talk.session.to_dict()))
        async with SandlockSandbox(work, **ASKED) as box:
            after = Talk(box)
            after.session, after.requests = AgentSession.from_dict(kept), talk.requests
            assert await after.answer(True) == [LOST]

    asyncio.run(main())
    assert os.listdir(work) == []


@pytest.mark.parametrize("approved", [True, False])
def test_a_command_whose_loop_is_gone_is_gone(work: Path, approved: bool) -> None:
    mark = f"mark-{os.urandom(6).hex()}"
    box = SandlockSandbox(work, **ASKED)
    talk = Talk(box, commands(f"(exec -a {mark} sleep 60) & touch made"), commands("echo on"))
    asyncio.run(talk.say())
    assert wait_alive(mark, 0) == []
    assert asyncio.run(talk.answer(approved)) == [LOST if approved else REJECTED, "on\n\nexit_code: 0"]
    asyncio.run(box.close())
    assert os.listdir(work) == []


def test_whole_calls_can_be_approved_as_well(work: Path) -> None:
    async def main() -> None:
        async with SandlockSandbox(work, approval_mode="always_require", **ASKED) as box:
            talk = Talk(box, commands("echo x > begun; touch made; echo end"), commands("echo x > never"))
            await talk.say()
            assert [each.type for each in talk.requests] == ["function_approval_request"]
            assert os.listdir(work) == []
            assert await talk.answer(True) == []
            assert talk.asks() == ["exec touch made"]
            assert os.listdir(work) == ["begun"]
            assert await talk.answer(True) == ["end\n\nexit_code: 0"]
            assert await talk.answer(False) == [REJECTED]

    asyncio.run(main())
    assert sorted(os.listdir(work)) == ["begun", "made"]


def test_a_run_that_is_cancelled_at_a_resumed_command_ends_it(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            talk = Talk(box, commands(f"touch made; (exec -a {mark} sleep 60) & wait"))
            await talk.say()
            task = asyncio.create_task(talk.answer(True))
            assert len(await asyncio.to_thread(wait_alive, mark, 1, 20)) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert wait_alive(mark, 0, 0.0) == []

    asyncio.run(main())


def test_closing_ends_commands_that_wait(work: Path) -> None:
    mark = f"mark-{os.urandom(6).hex()}"

    async def main() -> None:
        async with SandlockSandbox(work, **ASKED) as box:
            await Talk(box, commands(f"(exec -a {mark} sleep 60) & touch made")).say()
            assert len(wait_alive(mark, 1)) == 1
        assert wait_alive(mark, 0, 0.0) == []
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not tasks or (await asyncio.wait(tasks, timeout=10))[1] == set()

    asyncio.run(main())
    assert os.listdir(work) == []


def test_ten_agents_ask_at_once(work: Path) -> None:
    """On one sandbox: each in its session, each about its own."""

    async def one(box: SandlockSandbox, number: int) -> list[str]:
        talk = Talk(box, commands(f"touch made-{number}; echo end {number}"))
        await talk.say()
        assert talk.asks() == [f"exec touch made-{number}"]
        return await talk.answer(number % 2 == 0)

    async def main() -> list[list[str]]:
        async with SandlockSandbox(work, **ASKED) as box:
            return await asyncio.gather(*(one(box, number) for number in range(10)))

    for number, answers in enumerate(asyncio.run(main())):
        assert answers == [REJECTED if number % 2 else f"end {number}\n\nexit_code: 0"]
    assert sorted(os.listdir(work)) == [f"made-{number}" for number in range(0, 10, 2)]
