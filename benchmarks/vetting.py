"""The benchmarks of judging: what rules and callbacks cost a program."""

from __future__ import annotations

import dataclasses
import os
from types import MappingProxyType
from typing import TYPE_CHECKING

import workloads
from commands import Command
from hosts import HERE, Hosts
from measuring import SideFailedError, interleave
from rows import Names, Number, Row, ratio_row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hosts import Setting
    from measuring import Effort

    Compile = Callable[[Setting, str], str]
    Efforts = Callable[..., Effort]

EXEC = {"rules": 1.15, "trio": 1.35, "asyncio": 1.6, "plain": None}
CONNECT = {"rules": 1.5, "trio": 3.0, "asyncio": None}
STREAM = {"rules of TCP": 2.0}
SENDMSG = {"rules": 2.0, "trio": None}
REDIS = 1.02
IMPORTS = 1.1
CALLBACK = {
    "rules of TCP": "rules",
    "rules": "rules",
    "trio": "trio callback",
    "asyncio": "asyncio callback",
    "plain": "callback in a thread",
}
MINIMAL = "the minimal C supervisor"
MINIMAL_TRIO = "the minimal Python supervisor, trio callback"
US = Number("us")


def measure(
    setting: Setting,
    name: str,
    command: Command,
    targets: dict[str, float | None],
    effort: Efforts,
    least: Mapping[str, Command] = MappingProxyType({}),
) -> list[Row]:
    """A row for each way to judge, and one for each of the `least` supervisors that could do it."""
    names = ["bare", *targets, "bare again"]
    original = "original" in setting.peers
    if original:
        names.append("original")
    with Hosts(setting) as hosts:
        sides = {side: hosts.run(side, command) for side in names}
        sides |= {text: hosts.run("bare", each) for text, each in least.items()}
        measured = interleave(sides, effort(setting, 60, 8 * len(sides)), every={"original": 5} if original else {})
    found = [ratio_row(f"{name}, {text}", measured, None, US, Names(ours=text, original="")) for text in least]
    return found + [
        ratio_row(
            f"{name}, {CALLBACK[side]}",
            measured,
            target,
            US,
            Names(ours=side, original="original" if side == "rules" else ""),
        )
        for side, target in targets.items()
    ]


def vetting(setting: Setting, compiled: Compile, effort: Efforts) -> list[Row]:
    """Execs, connections and datagrams of a small C program, judged."""
    guest = compiled(setting, "guest_calls")

    def command(*words: str) -> Command:
        port = workloads.free_port()
        return Command(argv=(guest, *words, str(port)), ports=(port,), number=True)

    supervisor = compiled(setting, "vetting_supervisor")

    def least(command: Command) -> dict[str, Command]:
        return {MINIMAL: dataclasses.replace(command, argv=(supervisor, command.argv[1], *command.argv))}

    def least_asking(command: Command) -> dict[str, Command]:
        argv = (setting.python, os.path.join(HERE, "vetting_supervisor.py"), supervisor, command.argv[1], *command.argv)
        return {MINIMAL_TRIO: dataclasses.replace(command, argv=argv)}

    rows = []
    for name, words, targets in (
        ("vfork + exec /bin/true", ("exec", "200"), EXEC),
        ("loopback connect", ("connect", "1000"), CONNECT),
        ("sendmsg ping-pong, TCP", ("stream", "2000"), STREAM),
        ("sendmsg ping-pong, datagrams", ("sendmsg", "2000"), SENDMSG),
    ):
        made = command(*words)
        minimal = {} if targets is STREAM else least(made)
        if targets in (EXEC, CONNECT):
            minimal |= least_asking(made)
        rows += measure(setting, name, made, targets, effort, minimal)
    rows += latencies(setting, command("connect", "1000"), effort)
    rows.append(pending(setting, guest, effort))
    return rows


def latencies(setting: Setting, command: Command, effort: Efforts) -> list[Row]:
    """From the call to the decision: the kinds of callbacks against each other."""
    sides = ("trio latency", "asyncio latency", "plain latency", "trio latency again")
    with Hosts(setting) as hosts:
        measured = interleave(
            {side: hosts.run(side.removesuffix(" again"), command) for side in sides}, effort(setting, 40, 20)
        )
    return [
        ratio_row(
            f"verdict latency, {name} (bare: trio)",
            measured,
            None,
            US,
            Names(base="trio latency", ours=side, again="trio latency again"),
        )
        for name, side in (("asyncio", "asyncio latency"), ("a thread", "plain latency"))
    ]


def pending(setting: Setting, guest: str, effort: Efforts) -> Row:
    """What 64 pending questions cost an unrelated process of the same sandbox."""

    def command(count: int) -> Command:
        return Command(argv=(guest, "open", "20000", "9", str(count)), number=True)

    with Hosts(setting) as hosts:
        measured = interleave(
            {
                "none": hosts.run("trio", command(0)),
                "64": hosts.run("trio", command(64)),
                "none again": hosts.run("trio", command(0)),
            },
            effort(setting, 40, 30),
        )
    names = Names(base="none", ours="64", again="none again")
    return ratio_row("open + close, 64 questions pending (bare: none pending)", measured, 1.05, US, names)


def judged_programs(setting: Setting, effort: Efforts) -> list[Row]:
    """redis under network rules, and Python's imports under a callback."""
    rows = []
    if not workloads.missing("redis-server", "redis-benchmark", "redis-cli"):
        requests = 30_000 if setting.scale == 1 else 5_000
        for test in ("set", "get"):
            command = workloads.redis(setting.scratch, test, requests)
            command = dataclasses.replace(command, cwd=command.cwd)
            name = f"redis {test.upper()}, time per request"
            rows += measure(setting, name, command, {"rules": REDIS}, effort)
    command = workloads.imports(setting.scratch, setting.python)
    with Hosts(setting) as hosts:
        measured = interleave(
            {side: hosts.run(side, command) for side in ("bare", "trio", "bare again")}, effort(setting, 60, 20)
        )
    if not measured:
        raise SideFailedError("nothing was measured")
    rows.append(
        ratio_row(
            "Python, 17 library imports, trio callback",
            measured,
            IMPORTS,
            Number("ms", 1e3),
            Names(ours="trio", original=""),
        )
    )
    return rows
