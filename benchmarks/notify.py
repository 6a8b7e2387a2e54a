"""A guest whose getppid our core answers by a rule.

No policy traps getppid, so this takes the plan of one that needs a listener and adds the rule: the only
benchmark that looks behind the public API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sides import Sandlock

from sandlock import Sandbox, _filter, _program, syscalls
from sandlock._host import probe
from sandlock._plan import TrapRule

if TYPE_CHECKING:
    from commands import Command


def answering_sandbox(command: Command, value: int) -> Sandbox:
    """A Sandbox that answers getppid with `value`."""
    box = Sandbox(**Sandlock().fields(command), max_processes=64)
    confinement, host = box._confinement, probe()
    plan = confinement.plan
    answers = {**dict(plan.answers), "getppid": _filter.NOTIFY}
    numbers = {syscalls.number(name, host.arch): answer for name, answer in answers.items()}
    rule = TrapRule(
        syscall="getppid",
        nr=syscalls.number("getppid", host.arch),
        rule="value",
        value=value,
        reason="the benchmark asks",
    )
    confinement.plan = plan.__replace__(  # what copy.replace calls, from Python 3.13 on
        filter=_filter.assemble(numbers, host.arch), rules=(*plan.rules, rule)
    )
    confinement._program = _program.Program(confinement.plan, wait_killable=host.wait_killable)
    return box


def run_with_getppid_answered(command: Command, value: int) -> float:
    """Run the getppid guest; the nanoseconds per call that it prints."""
    with answering_sandbox(command, value) as box:
        done = box.run(list(command.argv))
    if done.exit_code:
        raise RuntimeError(f"the guest exited with {done.exit_code}: {done.stderr!r}")
    return float(done.stdout)
