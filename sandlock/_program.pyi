from collections.abc import Sequence
from typing import final

from ._net_rules import NetRule
from ._plan import Plan
from ._virtual_root import VirtualMounts

RULE_KINDS: dict[str, int]
DECISIONS: tuple[str, ...]
ACTIONS: tuple[str, ...]

@final
class NetRuleSet:
    def __new__(cls, rules: Sequence[NetRule], hosts: Sequence[str], base: int) -> NetRuleSet: ...
    def __init__(self, rules: Sequence[NetRule], hosts: Sequence[str], base: int) -> None: ...
    def check(
        self,
        operation: int,
        protocol: int,
        address: bytes,
        port: int,
        path: bytes,
        abstract: bool,
        pinned: Sequence[int],
        asks: bool,
    ) -> tuple[str, int]: ...

@final
class Program:
    def __new__(cls, plan: Plan, *, wait_killable: bool) -> Program: ...
    def __init__(self, plan: Plan, *, wait_killable: bool) -> None: ...
    def check_exec(
        self, path: bytes, argv: list[bytes], root: VirtualMounts | None = None, *, assume: bool = False
    ) -> tuple[str, int, bytes]: ...
