"""The assembler: from "what is the answer to each syscall" to a classic BPF program for seccomp.

Rules: a jump that does not fit is an error or a longer jump, never a truncated number; a number that nobody
mentioned answers ENOSYS; a foreign architecture is killed. Must not know: which syscalls exist, and policies.

Only instructions that the kernel's own emulator understands (seccomp_is_const_allow in kernel/seccomp.c)
are used on the way to a constant ALLOW, so the kernel answers those numbers from a bitmap without running
the program.
"""

from __future__ import annotations

from struct import Struct

from .errors import InternalError, PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Condition = tuple[int, int, int, bool]
    """(argument, mask, value, wanted): whether `argument & mask == value` is `wanted`. Built by the
    functions below."""
    Case = tuple[tuple[Condition, ...], int]
    """All conditions hold: this action."""
    Choice = tuple[tuple[Case, ...], int]
    """The action of the first case that holds, else the last one."""
    Answer = int | Choice
    """What a syscall gets: an action, or a choice by its arguments."""
    _Span = tuple[int, int, tuple[tuple[int, int], ...]]
    """(first number, node, exceptions): numbers of one answer up to the next span, but for (number, node)."""

__all__ = ["ALLOW", "KILL", "NOTIFY", "any_bit", "assemble", "differs", "errno", "is_", "masked", "only_bits"]

# Actions are the values of linux/seccomp.h.
KILL = 0x8000_0000
"""SECCOMP_RET_KILL_PROCESS."""
NOTIFY = 0x7FC0_0000
"""SECCOMP_RET_USER_NOTIF: the fast lane answers."""
ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS: the kernel takes no longer program."""
MAX_EXCEPTIONS = 4
"""A span's exceptions are compared one after the other."""
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

_WORD = 0xFFFF_FFFF
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_LD, _AND, _JA, _RET = 0x20, 0x54, 0x05, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JA, BPF_RET|K
_JEQ, _JGE, _JSET = 0x15, 0x35, 0x45  # BPF_JMP|...|K
_END = -1  # in place of a load's offset: this node ends the program

_INSTRUCTION = Struct("<HBBI")  # struct sock_filter; both architectures are little endian


def errno(number: int) -> int:
    """The action "fail with this errno" (1 to 4095)."""
    if not 0 < number < 4096:  # the kernel caps at MAX_ERRNO; 0 would be success
        raise InternalError(f"no such errno: {number}")
    return _ERRNO | number


def is_(argument: int, value: int) -> Condition:
    """The 32-bit argument is `value`. The kernel ignores the upper half of an `int`, so we do."""
    return argument, _WORD, value & _WORD, True


def differs(argument: int, value: int) -> Condition:
    """The 32-bit argument is not `value`."""
    return argument, _WORD, value & _WORD, False


def masked(argument: int, mask: int, value: int) -> Condition:
    """`argument & mask == value`. A mask of more than 32 bits looks at the whole 64-bit register."""
    return argument, mask, value, True


def any_bit(argument: int, mask: int) -> Condition:
    """At least one bit of `mask` is set."""
    return argument, mask, 0, False


def only_bits(argument: int, mask: int) -> Condition:
    """No bit but those of `mask` is set in the 64-bit register."""
    return argument, ~mask & 0xFFFF_FFFF_FFFF_FFFF, 0, True


def assemble(answers: Mapping[int, Answer], arch: str) -> bytes:
    """The program that gives each number its answer, as the kernel's array of `struct sock_filter`.

    Raises PolicyError for a program that the kernel would refuse for its length, InternalError for broken
    input.
    """
    graph = _Graph()
    silent = graph.end(errno(38))  # ENOSYS
    limit = max(answers, default=-1) + 1
    entry = graph.search(_spans(_ranges(answers, limit, graph, silent)))
    # One comparison refuses numbers above the table and the x32 calls, whose numbers have bit 30 set.
    entry = graph.test(_NR, _WORD, _JGE, limit, silent, entry)
    entry = graph.test(_ARCH, _WORD, _JEQ, AUDIT_ARCH[arch], entry, graph.end(KILL))
    code = _lay_out(graph.nodes, entry)
    if len(code) > MAX_INSTRUCTIONS:
        raise PolicyError(
            f"the filter has {len(code)} instructions, the kernel takes {MAX_INSTRUCTIONS}; use fewer syscall rules"
        )
    return b"".join(_encode(*instruction) for instruction in code)


def _ranges(answers: Mapping[int, Answer], limit: int, graph: _Graph, silent: int) -> list[tuple[int, int]]:
    """(first number, node) for each run of numbers with the same answer, from 0 to `limit`."""
    if any(nr < 0 for nr in answers):
        raise InternalError("a syscall number is negative")
    ranges: list[tuple[int, int]] = []
    for nr in range(limit):
        answer = answers.get(nr)
        node = silent if answer is None else graph.answer(answer)
        if not ranges or ranges[-1][1] != node:
            ranges.append((nr, node))
    return ranges or [(0, silent)]


class _Graph:
    """Decisions as a graph without cycles. Equal nodes are one node, and children have lower numbers.

    A node is (END, action) or (load offset, mask, jump, constant, node if so, node if not).
    """

    __slots__ = ("_known", "nodes")

    def __init__(self) -> None:
        self.nodes: list[tuple[int, ...]] = []
        self._known: dict[object, int] = {}

    def _add(self, node: tuple[int, ...]) -> int:
        number = self._known.get(node)
        if number is None:
            number = self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return number

    def end(self, action: int) -> int:
        """The node that answers with `action`."""
        return self._add((_END, action))

    def test(self, offset: int, mask: int, jump: int, constant: int, yes: int, no: int) -> int:
        """The node that loads the word at `offset`, masks and compares it."""
        return yes if yes == no else self._add((offset, mask, jump, constant, yes, no))

    def answer(self, answer: Answer) -> int:
        """The node where the answer to one syscall is found."""
        if isinstance(answer, int):
            return self.end(answer)
        number = self._known.get(answer)
        if number is None:
            cases, otherwise = answer
            number = self.end(otherwise)
            for conditions, action in reversed(cases):
                yes = self.end(action)
                for condition in reversed(conditions):
                    yes = self.condition(condition, yes, number)
                number = yes
            self._known[answer] = number
        return number

    def condition(self, condition: Condition, yes: int, no: int) -> int:
        """The node that goes to `yes` if the condition holds. A 64-bit register is two words, the lower
        first."""
        argument, mask, value, wanted = condition
        if not 0 <= argument < 6 or mask >> 64 or mask <= 0 or value & ~mask:
            raise InternalError(f"not a condition: {condition}")
        if not wanted:
            yes, no = no, yes
        offset = _ARGS + 8 * argument
        if mask >> 32:
            yes = self.word(offset + 4, mask >> 32, value >> 32, yes, no)
        return self.word(offset, mask & _WORD, value & _WORD, yes, no)

    def word(self, offset: int, mask: int, value: int, yes: int, no: int) -> int:
        """The node for `word & mask == value`, in the fewest instructions."""
        if mask == 0:
            return yes
        if mask == _WORD:
            return self.test(offset, _WORD, _JEQ, value, yes, no)
        if value == 0:
            return self.test(offset, _WORD, _JSET, mask, no, yes)
        if mask & (mask - 1) == 0:  # one bit, and it shall be set
            return self.test(offset, _WORD, _JSET, mask, yes, no)
        return self.test(offset, mask, _JEQ, value, yes, no)

    def search(self, spans: list[_Span]) -> int:
        """A balanced binary search over spans, then one comparison for each exception of the span."""
        middle = len(spans) // 2
        if middle:
            below, above = self.search(spans[:middle]), self.search(spans[middle:])
            return self.test(_NR, _WORD, _JGE, spans[middle][0], above, below)
        _, node, exceptions = spans[0]
        for nr, exception in reversed(exceptions):
            node = self.test(_NR, _WORD, _JEQ, nr, exception, node)
        return node


def _spans(ranges: list[tuple[int, int]]) -> list[_Span]:
    """The ranges, with single numbers as exceptions inside their neighbours: one comparison instead of two.

    The kernel translates every instruction at every launch (a third of a launch was spent there), so fewer count.
    """
    spans: list[_Span] = []
    at = 0
    while at < len(ranges):
        first, node = ranges[at]
        exceptions: list[tuple[int, int]] = []
        while len(exceptions) < MAX_EXCEPTIONS and at + 2 < len(ranges):
            (nr, exception), (behind, same) = ranges[at + 1 : at + 3]
            if behind != nr + 1 or same != node:
                break
            exceptions.append((nr, exception))
            at += 2
        spans.append((first, node, tuple(exceptions)))
        at += 1
    return spans


def _lay_out(nodes: list[tuple[int, ...]], entry: int) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jt, jf, k) of the nodes reached from `entry`, which all jump forward.

    A node's load is left out, or jumped over, where the word is in the accumulator already.
    """
    reached = {entry}
    loaded = {entry}  # nodes that somebody enters without the right word in the accumulator
    order = []
    for number in range(entry, -1, -1):
        if number in reached:
            order.append(number)
            node = nodes[number]
            for child in node[4:]:
                reached.add(child)
                if nodes[child][0] != _END and nodes[child][:2] != node[:2]:
                    loaded.add(child)
    far: set[tuple[int, int]] = set()  # jumps (node, which) that need an instruction of their own
    while True:
        places, starts = _places(nodes, order, loaded, far)
        code: list[tuple[int, int, int, int]] = []
        missed = len(far)
        for number in order:
            node = nodes[number]
            if node[0] == _END:
                code.append((_RET, 0, 0, node[1]))
                continue
            if number in loaded:
                code.append((_LD, 0, 0, node[0]))
                if node[1] != _WORD:
                    code.append((_AND, 0, 0, node[1]))
            code += _jump(number, nodes, places, starts, far)
        if len(far) == missed:
            return code


def _places(
    nodes: list[tuple[int, ...]], order: list[int], loaded: set[int], far: set[tuple[int, int]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Where each node's comparison stands, and where each node starts (with its load, if it has one)."""
    places: dict[int, int] = {}
    starts: dict[int, int] = {}
    place = 0
    for number in order:
        starts[number] = place
        node = nodes[number]
        if number in loaded:
            place += 1 + (node[1] != _WORD)
        places[number] = place
        place += 1
        if node[0] != _END:
            place += ((number, 0) in far) + ((number, 1) in far)
    return places, starts


def _jump(
    number: int,
    nodes: list[tuple[int, ...]],
    places: dict[int, int],
    starts: dict[int, int],
    far: set[tuple[int, int]],
) -> list[tuple[int, int, int, int]]:
    """The comparison of a node, and behind it what its far jumps need. Notes newly found far jumps in
    `far`."""
    node = nodes[number]
    offsets = [0, 0]
    tail: list[tuple[int, int, int, int]] = []
    for which in (0, 1):
        child = node[4 + which]
        same = nodes[child][:2] == node[:2] or nodes[child][0] == _END
        target = places[child] if same else starts[child]
        if (number, which) in far:
            here = places[number] + 1 + len(tail)
            offsets[which] = len(tail)
            # An end is one instruction, as a jump to it would be.
            tail.append(_end(nodes[child]) or (_JA, 0, 0, target - here - 1))
        else:
            offsets[which] = target - places[number] - 1
            if offsets[which] > 255:
                far.add((number, which))
    return [(node[2], offsets[0], offsets[1], node[3]), *tail]


def _end(node: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """The instruction of a node that ends the program, or None."""
    return (_RET, 0, 0, node[1]) if node[0] == _END else None


def _encode(code: int, yes: int, no: int, constant: int) -> bytes:
    if not (0 <= yes < 256 and 0 <= no < 256 and 0 <= constant <= _WORD):
        raise InternalError(f"BPF instruction out of range: {code:#x} {yes} {no} {constant:#x}")
    return _INSTRUCTION.pack(code, yes, no, constant)


def instructions(program: bytes) -> Iterable[tuple[int, int, int, int]]:
    """(code, jt, jf, k) of each instruction."""
    return _INSTRUCTION.iter_unpack(program)
