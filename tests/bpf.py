"""A machine for classic BPF as seccomp runs it, so that a filter can be tried without installing it.

`load` refuses what the kernel refuses (net/core/filter.c: bpf_check_classic; kernel/seccomp.c:
seccomp_check_filter), `run` computes the action, `always_allows` is the kernel's own emulator that fills
its bitmap of numbers to be allowed without running the filter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ALLOW, LOG, TRACE, NOTIFY = 0x7FFF0000, 0x7FFC0000, 0x7FF00000, 0x7FC00000
ERRNO, TRAP, KILL_THREAD, KILL_PROCESS = 0x00050000, 0x00030000, 0x00000000, 0x80000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}
WORD = 0xFFFFFFFF
DATA_SIZE = 64

LD_ABS, LD_LEN, LD_IMM = 0x20, 0x80, 0x00
LDX_IMM, LDX_LEN, TAX, TXA = 0x01, 0x81, 0x07, 0x87
RET_K, RET_A = 0x06, 0x16
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, XOR = 0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0x84, 0xA4
REGISTER = 0x08  # the operand is X instead of k
JUMPS = {JEQ, JGT, JGE, JSET}
ARITHMETIC = {ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, XOR}
CODES = (
    {LD_ABS, LD_LEN, LD_IMM, LDX_IMM, LDX_LEN, TAX, TXA, RET_K, RET_A, JA, NEG}
    | JUMPS
    | {code | REGISTER for code in JUMPS}
    | ARITHMETIC
    | {code | REGISTER for code in ARITHMETIC}
)
"""All that seccomp accepts but scratch memory, which the assembler never needs and this machine does not
have."""


class RejectedError(Exception):
    """The kernel would answer EINVAL to this program."""


@dataclass(frozen=True)
class Instruction:
    code: int
    jt: int
    jf: int
    k: int


def load(program: bytes) -> list[Instruction]:
    """The instructions of a program that the kernel accepts."""
    if len(program) % 8:
        raise RejectedError("half an instruction")
    code = [Instruction(*fields) for fields in struct.iter_unpack("<HBBI", program)]
    if not 1 <= len(code) <= 4096:
        raise RejectedError(f"{len(code)} instructions")
    for place, one in enumerate(code):
        left = len(code) - place - 1
        if one.code not in CODES:
            raise RejectedError(f"{place}: unknown code {one.code:#x}")
        if one.code == LD_ABS and (one.k >= DATA_SIZE or one.k % 4):
            raise RejectedError(f"{place}: load from {one.k}")
        if one.code == DIV and one.k == 0:
            raise RejectedError(f"{place}: division by zero")
        if one.code in (LSH, RSH) and one.k >= 32:
            raise RejectedError(f"{place}: shift by {one.k}")
        if one.code == JA and one.k >= left:
            raise RejectedError(f"{place}: jump out of the program")
        if one.code & ~REGISTER in JUMPS and one.code & 7 == JA and max(one.jt, one.jf) >= left:
            raise RejectedError(f"{place}: branch out of the program")
    if code[-1].code not in (RET_K, RET_A):
        raise RejectedError("falls off its end")
    return code


def data(nr: int, arch: str = "x86_64", args: tuple[int, ...] = (), ip: int = 0) -> bytes:
    """struct seccomp_data."""
    full = [*args, *[0] * (6 - len(args))]
    return struct.pack("<IIQ6Q", nr & WORD, AUDIT_ARCH[arch], ip, *(arg & (1 << 64) - 1 for arg in full))


def arithmetic(code: int, a: int, operand: int) -> int:
    match code & ~REGISTER:
        case 0x04:
            return a + operand
        case 0x14:
            return a - operand
        case 0x24:
            return a * operand
        case 0x34:
            return a // operand
        case 0x44:
            return a | operand
        case 0x54:
            return a & operand
        case 0x64:
            return a << (operand & 31)
        case 0x74:
            return a >> (operand & 31)
        case _:
            return a ^ operand


def jumps(code: int, a: int, operand: int) -> bool:
    match code & ~REGISTER:
        case 0x15:
            return a == operand
        case 0x25:
            return a > operand
        case 0x35:
            return a >= operand
        case _:
            return a & operand != 0


def run(code: list[Instruction], seccomp_data: bytes, seen: set[tuple[int, bool]] | None = None) -> int:
    """The action. `seen` collects (place, whether it branched) of every instruction that was executed."""
    a = x = place = 0
    while True:  # ends: all jumps go forward
        one = code[place]
        operand = x if one.code & REGISTER and one.code & 7 in (JA, ADD) else one.k
        taken = False
        offset = 0
        if one.code == LD_ABS:
            (a,) = struct.unpack_from("<I", seccomp_data, one.k)
        elif one.code in (LD_IMM, LDX_IMM, LD_LEN, LDX_LEN):
            value = one.k if one.code in (LD_IMM, LDX_IMM) else DATA_SIZE
            a, x = (value, x) if one.code in (LD_IMM, LD_LEN) else (a, value)
        elif one.code in (TAX, TXA):
            a, x = (a, a) if one.code == TAX else (x, x)
        elif one.code == JA:
            offset = one.k
        elif one.code & 7 == JA:
            taken = jumps(one.code, a, operand)
            offset = one.jt if taken else one.jf
        elif one.code == NEG:
            a = -a & WORD
        elif one.code & 7 == ADD:
            if one.code == DIV | REGISTER and x == 0:
                return KILL_THREAD  # the kernel's code ends the program with 0
            a = arithmetic(one.code, a, operand) & WORD
        if seen is not None:
            seen.add((place, taken))
        if one.code in (RET_K, RET_A):
            return one.k if one.code == RET_K else a
        place += 1 + offset


def always_allows(code: list[Instruction], nr: int, arch: str) -> bool:
    """Whether the kernel allows this number without running the filter (seccomp_is_const_allow, Linux
    5.11)."""
    a = place = 0
    while True:
        one = code[place]
        place += 1
        if one.code == LD_ABS and one.k in (0, 4):
            a = (nr, AUDIT_ARCH[arch])[one.k // 4]
        elif one.code == RET_K:
            return one.k == ALLOW
        elif one.code == JA:
            place += one.k
        elif one.code in JUMPS:
            place += one.jt if jumps(one.code, a, one.k) else one.jf
        elif one.code == AND:
            a &= one.k
        else:
            return False
