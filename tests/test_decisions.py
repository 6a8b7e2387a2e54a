"""decisions(): every decision of a box, in order, under both loops; slow readers miss some, and know how many."""

from __future__ import annotations

import ast
import os
import shlex
import sys
import time
from typing import Any

import pytest
import trio
from attacks.arena import free_port
from loops import Loop

import sandlock
from sandlock import Allow, AsyncSandbox, Decision, Deny, Exec, PolicyError, Sandbox

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]
CONNECT = """
import socket, sys
for number in range(int(sys.argv[2])):
    with socket.socket() as s:
        print(s.connect_ex(("127.0.0.1", int(sys.argv[1]))), flush=True)
"""


async def read(stream: Any, into: list[Decision]) -> None:
    async for decision in stream:
        into.append(decision)  # noqa: PERF401  # what has come is there when the wait is cut short


def test_allowed_and_denied_in_order(loop: Loop) -> None:
    found: list[Decision] = []

    async def main() -> sandlock.Result:
        async with AsyncSandbox(presets=["system"], exec_deny=["true bad"]) as box:
            unseen = await box.run(["/bin/true"])
            stream = box.decisions()

            async def work() -> sandlock.Result:
                command = "/bin/true good; /bin/true bad; /bin/true good"
                result = await box.run(["/bin/sh", "-c", command], call_id="seven")
                await box.aclose()
                return result

            _, result = await loop.together(lambda: read(stream, found), work)
            assert result.run_id != unseen.run_id
            assert stream.dropped == 0
            return result  # type: ignore[no-any-return]

    before = time.time()
    result = loop.run(main)
    words = [(each.argv[-1], each.decision, each.cause) for each in found[1:]]
    assert words == [("good", "allow", "no-rule"), ("bad", "deny", "rule"), ("good", "allow", "no-rule")]
    assert [each.seq for each in found] == [1, 2, 3, 4]
    assert {(each.run, each.call_id) for each in found} == {(result.run_id, "seven")}
    assert before - 1 < found[0].time <= found[1].time <= found[3].time < time.time() + 1
    assert all(0 < each.latency < 5 and 0 < each.monotonic < time.monotonic() for each in found)
    assert found[2].rule == "true bad"
    assert (result.denials[0].pid, result.denials[0].rule) == (found[2].pid, "true bad")


def test_several_runs_at_once_and_each_reader_gets_all(loop: Loop) -> None:
    first: list[Decision] = []
    second: list[Decision] = []

    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as box:
            streams = (box.decisions(), box.decisions())

            async def one() -> None:
                assert (await box.run(["/bin/sh", "-c", "/bin/true; /bin/true; :"])).ok

            async def work() -> None:
                await loop.together(*[one] * 5)
                await box.aclose()

            await loop.together(lambda: read(streams[0], first), lambda: read(streams[1], second), work)

    loop.run(main)
    runs = {each.run for each in first}
    assert len(runs) == 5
    for run in runs:
        assert [each.seq for each in first if each.run == run] == [1, 2, 3]
        assert [each for each in second if each.run == run] == [each for each in first if each.run == run]


@pytest.mark.slow
def test_a_slow_reader_knows_what_it_missed(loop: Loop) -> None:
    port, found = free_port(), []

    async def main() -> int:
        async with AsyncSandbox(presets=["python"]) as box:
            stream = box.decisions(buffer=10)
            argv = [sys.executable, "-c", CONNECT, str(port), "100"]
            result = await box.run(argv)  # nobody reads meanwhile
            assert result.stdout.split() == [b"13"] * 100
            assert stream.dropped == 91
            found.extend([await anext(stream) for _ in range(5)])
            again = await box.run(["/bin/true"])  # there is room again: the next one says what is missing
            assert again.ok
            await box.aclose()
            await read(stream, found)
            return stream.dropped  # type: ignore[no-any-return]

    assert loop.run(main) == 91
    assert [each.seq for each in found[:10]] == list(range(1, 11))
    assert [each.dropped for each in found] == [0] * 10 + [91]
    assert found[10].kind == "exec"


def test_it_ends_and_a_closed_one_is_over(loop: Loop) -> None:
    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as box:
            stream, other = box.decisions(), box.decisions()
            stream.close()
            assert [each async for each in stream] == []
            await box.run(["/bin/true"])
        assert [each.kind async for each in other] == ["exec"]
        assert [each.kind async for each in other] == []
        async with box:  # it can be used again, and then tells nobody
            assert (await box.run(["/bin/true"])).ok

    loop.run(main)


def test_a_wait_can_be_cut_short(loop: Loop) -> None:
    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as box:
            stream = box.decisions()
            for _ in range(3):
                assert await loop.cut_short(0.05, lambda: anext(stream))
            await box.run(["/bin/true"])
            assert (await anext(stream)).kind == "exec"

    loop.run(main)


@pytest.mark.parametrize("buffer", [0, -1, True, "10"])
def test_rooms_that_are_none(buffer: Any) -> None:
    with pytest.raises(PolicyError, match="buffer"):
        AsyncSandbox(presets=["system"]).decisions(buffer=buffer)


def test_questions_and_denials_have_their_facts(loop: Loop) -> None:
    seen: list[Any] = []
    found: list[Decision] = []
    port = free_port()

    async def vet(event: Any, box: AsyncSandbox) -> object:
        seen.append(event)
        if isinstance(event, Exec):
            return Allow()
        await loop.sleep(0.1)
        return Deny("not there", 111)

    async def main() -> sandlock.Result:
        async with AsyncSandbox(presets=["python"], policy_fn=vet) as box:
            stream = box.decisions()
            argv = [sys.executable, "-c", CONNECT, str(port), "1"]
            result = await box.run(["/bin/sh", "-c", '"$0" "$@"; :', *argv], call_id="here")
            await box.aclose()
            await read(stream, found)
            return result

    before = time.time()
    result = loop.run(main)
    assert result.stdout == b"111\n"
    assert {(event.run, event.call_id) for event in seen} == {(result.run_id, "here")}
    last = found[-1]
    target = f"tcp://127.0.0.1:{port}"
    assert (last.kind, last.target, last.decision, last.cause, last.errno) == (
        "connect",
        target,
        "deny",
        "verdict",
        111,
    )
    assert (last.reason, last.asked, last.binding) == ("not there", True, "on-behalf")
    assert (last.ip, last.port) == ("127.0.0.1", port)
    assert 0.1 <= last.latency < 5
    assert (last.fix, last.fix_flag) == (f"net_allow={target!r}", f"--net-allow {target}")
    (denial,) = result.denials
    assert (denial.fix_flag, denial.pid) == (last.fix_flag, last.pid)
    assert 0.1 <= denial.latency < 5
    assert before <= denial.time < time.time()
    assert denial.chain == (os.path.realpath("/bin/sh"),)
    written = result.to_dict()["denials"][0]  # type: ignore[index]
    assert written["chain"] == [os.path.realpath("/bin/sh")]
    assert written["fix_flag"] == last.fix_flag


def test_a_static_denial_has_its_chain() -> None:
    shell = os.path.realpath("/bin/sh")
    with Sandbox(presets=["system"], exec_deny=["true bad"]) as box:
        result = box.run(["/bin/sh", "-c", "/bin/sh -c '(/bin/true bad); :'; :"])
        (denial,) = result.denials
        assert denial.chain == (shell, shell)
        assert 0 < denial.latency < 1
        assert abs(denial.time - time.time()) < 5
        assert denial.fix_flag == ""
        assert box.run(["/bin/true", "bad"]).denials[0].chain == ()


def test_what_binds_may_be_granted_by_flag() -> None:
    code = (
        "import socket\n"
        "for kind, port in ((socket.SOCK_STREAM, 7070), (socket.SOCK_DGRAM, 7071)):\n"
        "    try: socket.socket(socket.AF_INET, kind).bind(('127.0.0.1', port))\n"
        "    except OSError: pass\n"
    )
    result = sandlock.run([sys.executable, "-c", code], presets=["python"], net_allow=["udp://127.0.0.1:9"])
    flags = [denial.fix_flag for denial in result.denials]
    assert flags == ["--net-allow-bind 7070", "--net-allow-bind udp://7071"]
    assert [denial.fix for denial in result.denials] == ["net_allow_bind='7070'", "net_allow_bind='udp://7071'"]


def test_nothing_is_kept_where_nobody_asked() -> None:
    with Sandbox(presets=["system"], exec_allow=["*"]) as box:
        with box.start(["/bin/true"]) as process:
            assert not process._execution.run.has_journal
            result = process.wait()
        assert (len(result.run_id), result.call_id, result.audit_error) == (12, "", "")
        assert box.run(["/bin/true"]).run_id != result.run_id


def test_a_decision_is_a_value() -> None:
    found: list[Decision] = []

    async def main() -> None:
        async with AsyncSandbox(presets=["system"]) as box:
            stream = box.decisions()
            await box.run(["/bin/true"])
            await box.aclose()
            await read(stream, found)

    trio.run(main)
    (decision,) = found
    with pytest.raises(AttributeError):
        decision.seq = 7  # type: ignore[misc]
    assert len({decision, decision}) == 1


@pytest.mark.parametrize("words", [("a b", "--flag=1"), ("it's",), ()])
def test_what_is_said_to_allow_it_does(words: tuple[str, ...]) -> None:
    command = ["/bin/sh", "-c", '/bin/echo "$@" || :', "sh", *words]
    rules = ["sh *"]
    (denial,) = sandlock.run(command, presets=["system"], exec_allow=rules).denials
    name, _, value = denial.fix.partition("=")
    assert (name, denial.fix_flag.split()[0]) == ("exec_allow", "--exec-allow")
    assert shlex.split(denial.fix_flag)[1] == ast.literal_eval(value)
    result = sandlock.run(command, presets=["system"], exec_allow=[*rules, ast.literal_eval(value)])
    assert (result.stdout, result.denials) == ((" ".join(words) + "\n").encode(), ())
    (other,) = sandlock.run(
        [*command, "more"], presets=["system"], exec_allow=[*rules, ast.literal_eval(value)]
    ).denials
    assert other.cause == "no-rule"


def test_no_fix_where_it_would_allow_more() -> None:
    command = ["/bin/sh", "-c", "/bin/echo '*'; /bin/echo " + "x" * 600 + "; /bin/echo '# x'"]
    denials = sandlock.run(command, presets=["system"], exec_allow=["sh *"]).denials
    assert [denial.fix for denial in denials] == ["", "", ""]
