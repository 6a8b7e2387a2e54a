"""The page of a session in a browser: Debian's Chromium, with a mouse and keys."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from chromium import Browser, chromium
from fake_session import FakeSession, choice, decision, fake_session, process, question

from sandlock import AsyncSandbox, Policy
from sandlock.cli.agent.ui import Page
from sandlock.sessions.desk import Desk
from sandlock.sessions.directory import SessionRecord
from sandlock.sessions.session import open_session

pytestmark = [pytest.mark.slow, pytest.mark.needs(program="chromium")]
CALM = 0.5
"""Seconds after which a new card takes clicks, with some to spare."""
FORGED = '</bdi><img src=x onerror="window.forged=1"><script>window.forged=1</script>'
HIDDEN = "a\u202eb\u200bc\nd\u2066e\x1b[31mf\ud800g\u2028h\u00a0i"
SPELLED = r"a\u{202e}b\u{200b}c\nd\u{2066}e\u{1b}[31mf\u{d800}g\u{2028}h\u{a0}i"


@asynccontextmanager
async def page(record: SessionRecord) -> AsyncIterator[tuple[Browser, str]]:
    """The session's page in a browser, and its link."""
    links: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Page(record, told=links.append).run)
        async with chromium() as browser:
            while not links:
                await trio.sleep(0.01)
            await browser.size(1200, 900)
            await browser.go(links[0])
            await browser.until("document.querySelector('#state')?.textContent === 'running'")
            yield browser, links[0]
        nursery.cancel_scope.cancel()


def shown(place: str, act: Callable[[Browser, FakeSession], Awaitable[None]], **state: Any) -> None:
    """Does something with the page of a session that is in this state; the page must not complain about anything."""

    async def main() -> None:
        async with fake_session(place, **state) as session, page(session.record) as (browser, _):
            await session.until(lambda: session.listeners == ["page"])
            await act(browser, session)
            assert browser.problems == []

    trio.run(main)


def test_a_question_is_answered_by_a_click(tmp_path: str) -> None:
    async def act(browser: Browser, session: FakeSession) -> None:
        assert await browser.run("document.title") == "fix · sandlock"
        session.state["pending"].append(question())
        await session.push(push="question", question=question())
        text = await browser.until("document.querySelector('.card')?.innerText")
        for part in (
            "agent",
            "sh",
            "make",
            "wants to run",
            "git push origin main",
            "what is pushed, others build and run",
        ):
            assert part in text
        chain = await browser.run("[...document.querySelectorAll('.chain li')].map((each) => each.innerText)")
        assert chain == ["agent", "sh", "make"]
        assert (await browser.run("document.title")).startswith("(1) asks")
        assert "make wants to run git push" in await browser.run(
            "document.querySelector('[aria-live=assertive]').textContent"
        )
        await trio.sleep(CALM)
        await browser.click(".card button.allow:nth-child(3)")
        await session.until(lambda: session.requests("answer"))
        (answer,) = session.requests("answer")
        assert (answer["question"], answer["answer"]) == ("q1", {"choice": "p"})
        await session.push(
            push="answered",
            question="q1",
            answer={"verdict": "allow", "scope": "run", "words": 2, "reason": ""},
            by="page",
        )
        await browser.until("!document.querySelector('.card')")
        assert await browser.run("document.title") == "fix · sandlock"
        await browser.until(
            "document.querySelector('#timeline').innerText.includes('Answered allow by page: git push')"
        )

    shown(tmp_path, act)


def test_a_reason_is_typed_and_keys_work(tmp_path: str) -> None:
    async def act(browser: Browser, session: FakeSession) -> None:
        await trio.sleep(CALM)
        await browser.press("o")  # no card has the focus: nothing is answered
        await browser.run("document.querySelector('.card').focus()")
        await browser.press("w")
        await browser.type("not on fridays")
        await browser.press("Enter")
        await session.until(lambda: session.requests("answer"))
        await browser.run("document.querySelectorAll('.card')[1].focus()")
        await browser.press("d")
        await session.until(lambda: len(session.requests("answer")) == 2)
        answers = [(each["question"], each["answer"]) for each in session.requests("answer")]
        assert answers == [("q1", {"choice": "w", "reason": "not on fridays"}), ("q2", {"choice": "d"})]

    shown(tmp_path, act, pending=[question(), question("q2")])


def test_a_click_that_was_meant_for_something_else_answers_nothing(tmp_path: str) -> None:
    """A card that has just come, or has just moved up, takes no click; a moment later it does."""

    async def act(browser: Browser, session: FakeSession) -> None:
        await trio.sleep(CALM)
        await session.push(push="withdrawn", question="q1", answer=None, by="")
        await browser.until("document.querySelectorAll('.card').length === 1")
        moved = "const made = document.querySelector('.card'); made.calmAt = performance.now() + 60000; true"
        assert await browser.run(moved)
        await browser.click(".card .allow")
        await browser.run("document.querySelector('.card').calmAt = 0")
        await browser.click(".card .choices .deny")
        await session.until(lambda: session.requests("answer"))
        assert [each["answer"] for each in session.requests("answer")] == [{"choice": "d"}]

    shown(tmp_path, act, pending=[question(), question("q2")])


def forged() -> dict[str, Any]:
    """A state with forged words in every place that has words."""
    evil = FORGED + HIDDEN
    lines = [
        decision(target=evil, argv=[HIDDEN, evil], exe=evil),
        decision(
            "connect",
            "deny",
            target=f"tcp://{evil}:1",
            host=evil,
            argv=[],
            reason=evil,
            cause=evil,
            rule=evil,
            by=evil,
            fix=evil,
        ),
        decision("open", "deny", target=evil, argv=[], reason=evil, cause="rule", rule=evil),
    ]
    chain = [{"pid": 1, "exe": evil, "argv": [evil]}]
    return {
        "argv": [HIDDEN, FORGED],
        "name": HIDDEN,
        "cwd": evil,
        "pending": [
            question(argv=[evil, evil], cwd=evil, exe=evil, rule=f"{evil} # {evil}", chain=chain),
            question(
                "q2",
                kind="connect",
                host=evil,
                ip=evil,
                port=1,
                protocol=evil,
                rule=evil,
                chain=chain,
                choices=[choice("h", evil, "allow", scope="host")],
            ),
        ],
        "processes": [process(7, 1, HIDDEN, FORGED)],
        "decisions": lines,
        "denials": lines[1:],
    }


def test_forged_text_is_text(tmp_path: str) -> None:
    """Every place that shows words of the sandboxed program, with markup and with what hides or reorders text."""

    async def act(browser: Browser, session: FakeSession) -> None:
        await browser.until("document.querySelectorAll('.card').length === 2")
        await browser.until("document.querySelector('#processes').innerText.includes('img')")
        whole = await browser.run("document.documentElement.outerHTML")
        text = await browser.run("document.body.innerText")
        assert await browser.run("window.forged === undefined && !document.querySelector('img, main script')")
        assert "<script>window" not in whole.replace("&lt;", "[")
        assert text.count("<img src=x") >= 8
        assert text.count(SPELLED) >= 8
        for character in "\u202e\u200b\u2066\x1b\u2028\u00a0":
            assert character not in whole
        for selector in (".card", "#processes", "#denials", "#network", "#timeline", ".top"):
            found = await browser.run(f"document.querySelector('{selector}').innerText")
            assert SPELLED in found, selector
        names = await browser.run("[...document.querySelectorAll('[title]')].map((each) => each.title).join()")
        assert "\u202e" not in names
        assert "\u200b" not in names

    shown(tmp_path, act, **forged())


def test_what_is_shown(tmp_path: str) -> None:
    """Processes as a tree, denials with what would allow them, destinations, and the end, which stays."""

    async def act(browser: Browser, session: FakeSession) -> None:
        await session.push(
            push="processes", processes=[process(7, 1, "agent"), process(8, 7, "make", "all", ended=1002.5)]
        )
        await browser.until("document.querySelector('#processes > li > ul > li .code')?.innerText === 'make all'")
        assert await browser.run("document.querySelector('#processes > li > ul > li time').textContent") == "2.5 s"
        for decided in ("allow", "deny", "allow"):
            line = decision("connect", decided, target="tcp://192.0.2.1:443", host="pypi.org", argv=[])
            await session.push(push="decision", decision=line)
        await browser.until("document.querySelector('#network')?.rows[0]?.cells[4].innerText === '1'")
        cells = "[...document.querySelector('#network').rows[0].cells].map((each) => each.innerText)"
        await browser.until(f"{cells}[3] === '2'")
        assert await browser.run(cells) == ["pypi.org", "192.0.2.1", "443", "2", "1"]
        assert "--net-allow pypi.org:443" in await browser.run("document.querySelector('#denials code').innerText")
        await browser.click("#pause")
        await session.until(lambda: session.requests("pause"))
        await browser.until("document.querySelector('#state').textContent === 'paused'")
        await browser.click("#pause")
        await session.until(lambda: session.requests("resume"))
        await browser.click("#kill")
        await browser.until("document.querySelector('#sure').open")
        assert not session.requests("kill")
        await browser.click("#sure-yes")
        await session.until(lambda: session.requests("kill"))
        await session.push(push="end", result={"exit_code": 3, "signal": 0, "timed_out": False})
        await browser.until("document.querySelector('#state').textContent === 'ended: exit code 3'")
        assert await browser.run("document.querySelector('#kill').disabled")
        await browser.run("location.reload()")
        await trio.sleep(0.1)
        await browser.until("document.querySelector('#state')?.textContent === 'ended: exit code 3'")
        await browser.until("document.querySelector('#network')?.rows[0]?.cells[3].innerText === '2'")

    shown(tmp_path, act)


def test_a_page_that_is_closed_is_nobody_to_ask(tmp_path: str) -> None:
    """A page that is loaded again was there all the time; one that is left is not."""

    async def act(browser: Browser, session: FakeSession) -> None:
        before = len(session.requests("subscribe"))
        await browser.run("location.reload()")
        await trio.sleep(0.3)
        await browser.until("document.querySelector('#state')?.textContent === 'running'")
        assert session.listeners == ["page"]
        assert len(session.requests("subscribe")) == before
        await browser.go("about:blank")
        await session.until(lambda: session.listeners == [])

    shown(tmp_path, act)


def test_nothing_is_wider_than_a_phone(tmp_path: str) -> None:
    async def act(browser: Browser, session: FakeSession) -> None:
        for dark in (False, True):
            await browser.size(360, 740, dark=dark)
            assert await browser.run("document.documentElement.scrollWidth") <= 360
        assert await browser.run("getComputedStyle(document.body).color") != "rgb(29, 35, 33)"
        small = "[...document.querySelectorAll('.card button')].filter((each) => each.offsetHeight < 44).length"
        assert await browser.run(small) == 0
        unnamed = (
            "[...document.querySelectorAll('button, input')].filter((e) => !(e.innerText.trim() || e.ariaLabel)).length"
        )
        assert await browser.run(unnamed) == 0

    long = "x" * 3000
    state = {
        "pending": [question(argv=["git", long, "push"], cwd=long, rule=long)],
        "argv": ["agent", long],
        "name": long,
    }
    shown(tmp_path, act, **state, decisions=[decision("connect", target=long, host=long, argv=[])])


def test_a_real_session(tmp_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is asked about runs when the page allows it; who did stands in the record; kill ends it."""
    runtime = tmp_path / "runtime"  # type: ignore[operator]
    os.mkdir(runtime, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = os.path.join(tmp_path, "work")
    os.mkdir(made)
    script = f"/usr/bin/touch {made}/asked; /usr/bin/touch {made}/denied; echo $? > {made}/code; sleep 1000"
    policy = Policy(presets=("system",), fs_writable=(made,), exec_allow=("*",), exec_ask=("touch * # a test",))
    log = ""

    async def main() -> None:
        nonlocal log
        desk = Desk()
        async with (
            open_session(argv=["sh", "-c", script], desk=desk, name="real") as session,
            page(session.record) as (browser, _),
        ):
            log = session.log
            while "page" not in desk.listeners:
                await trio.sleep(0.01)
            async with (
                AsyncSandbox(policy, policy_fn=desk.vet, audit=session.log) as box,
                box.start(["sh", "-c", script]) as running,
            ):
                session.follow(box, running)
                for name, button in (("asked", ".choices .allow"), ("denied", ".choices .deny")):
                    await browser.until(f"document.querySelector('.card')?.innerText.includes('{made}/{name}')")
                    await trio.sleep(CALM)
                    await browser.click(f".card {button}")
                    await browser.until(f"!document.querySelector('.card')?.innerText.includes('{made}/{name}')")
                await browser.until("document.querySelector('#processes').innerText.includes('sleep 1000')")
                assert await trio.Path(f"{made}/asked").exists()
                await browser.click("#kill")
                await browser.until("document.querySelector('#sure').open")
                await browser.click("#sure-yes")
                with trio.fail_after(20):
                    result = await running.wait()
                await session.finish(result)
                await browser.until("document.querySelector('#state').textContent.startsWith('ended')")

    trio.run(main)
    assert sorted(os.listdir(made)) == ["asked", "code"]
    with open(f"{made}/code", encoding="utf-8") as file:
        assert file.read() == "126\n"
    with open(log, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    answered = [
        (line["argv"][1], line["decision"], line["by"]) for line in lines if line.get("kind") == "exec" and line["by"]
    ]
    assert answered == [(f"{made}/asked", "allow", "page"), (f"{made}/denied", "deny", "page")]
