"""Sides that judge: rules in the core, and callbacks under trio, under asyncio and in a worker thread."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING, Any

import trio
from sides import Outcome, Sandlock, timed

if TYPE_CHECKING:
    from commands import Command

PENDING = 9
"""The port that nobody ever answers about."""


class Rules(Sandlock):
    """Rules about programs and addresses that let the command do what it does."""

    def fields(self, command: Command) -> dict[str, Any]:
        granted = [f"tcp://127.0.0.1:{port}" for port in command.ports] + ["udp://127.0.0.1"]
        return super().fields(command) | {
            "net_allow": granted,
            "net_allow_bind": [f"{scheme}{port}" for port in command.ports for scheme in ("tcp://", "udp://")],
            "exec_deny": ["rm -rf / *", "git push *", "curl *"],
        }


class RulesOfTcp(Rules):
    """The same without datagrams, so that no send has to be looked at."""

    def fields(self, command: Command) -> dict[str, Any]:
        fields = super().fields(command)
        return fields | {
            name: [rule for rule in fields[name] if "udp" not in rule] for name in ("net_allow", "net_allow_bind")
        }


class Callback(Sandlock):
    """An async callback that approves everything."""

    async def vet(self, event: Any, box: Any) -> object:
        if getattr(event, "port", 0) == PENDING:
            await self.sleep()
        return self.module.Allow()

    async def sleep(self) -> None:
        await trio.sleep(60)

    def loop(self, body: Any) -> Any:
        return trio.run(body)

    def run(self, command: Command) -> Outcome:
        async def body() -> tuple[int, bytes, bytes]:
            fields = self.fields(command)
            del fields["net_allow"], fields["net_allow_bind"]
            async with self.module.AsyncSandbox(policy_fn=self.vet, **fields) as box:
                done = await box.run(list(command.argv))
            return done.exit_code, done.stdout, done.stderr

        return timed(lambda: self.loop(body))


class AsyncioCallback(Callback):
    """The same in an asyncio loop."""

    async def sleep(self) -> None:
        await asyncio.sleep(60)

    def loop(self, body: Any) -> Any:
        return asyncio.run(body())


class PlainCallback(Callback):
    """The same as a plain function, in a worker thread."""

    def run(self, command: Command) -> Outcome:
        def call() -> tuple[int, bytes, bytes]:
            fields = self.fields(command)
            del fields["net_allow"], fields["net_allow_bind"]
            with self.module.Sandbox(policy_fn=lambda event, box: self.module.Allow(), **fields) as box:
                done = box.run(list(command.argv))
            return done.exit_code, done.stdout, done.stderr

        return timed(call)


class Latency(Callback):
    """What the record says of how long verdicts took, from the call to the decision: the median of connects in us."""

    def run(self, command: Command) -> Outcome:
        async def body() -> tuple[int, bytes, bytes]:
            fields = self.fields(command)
            del fields["net_allow"], fields["net_allow_bind"]
            async with self.module.AsyncSandbox(policy_fn=self.vet, **fields) as box:
                stream = box.decisions(buffer=100_000)
                done = await box.run(list(command.argv))
                await box.aclose()
                found = [each.latency async for each in stream if each.asked and each.kind == "connect"]
            return done.exit_code, f"{statistics.median(found) * 1e6:.3f}\n".encode(), done.stderr

        return timed(lambda: self.loop(body))


class AsyncioLatency(Latency, AsyncioCallback):
    """The same in an asyncio loop."""


class PlainLatency(Latency):
    """The same of a plain function, in a worker thread."""

    def vet(self, event: Any, box: Any) -> object:  # type: ignore[override]
        return self.module.Allow()
