"""Questions of the domain name system and their answers, as bytes (RFC 1035). Only what our resolver needs.

Rules: parsing any bytes whatever raises nothing and copies nothing but one valid question; what is not understood in
full has no name. Must not know: sockets, policies.
"""

from __future__ import annotations

from struct import pack, unpack_from

from ._record import record

__all__ = [
    "AAAA", "FORMAT_ERROR", "MAX_QUERY", "NAME_ERROR", "NOT_IMPLEMENTED", "NO_ERROR", "SERVER_FAILURE", "A", "Question",
    "answer", "read_question",
]  # fmt: skip

A, AAAA = 1, 28
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED = range(5)
MAX_QUERY = 1024
"""Bytes; a longer query is no question that we answer."""
MAX_ANSWER = 512
"""What every client takes without asking for more."""
HEADER = 12
IN = 1
TTL = 5
"""Seconds that a program may keep an answer: short, for asking again costs no network."""
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@record
class Question:
    """What one packet asks."""

    id: int
    flags: int
    name: str = ""
    """In lower case, without a last dot; "" for one that no host can have."""
    kind: int = 0
    """A, AAAA, ..."""
    raw: bytes = b""
    """The question as it came, to be repeated in the answer."""
    error: int = NO_ERROR
    """Not 0: it is answered with that, whatever the name."""


def read_question(packet: bytes) -> Question | None:
    """The question of a packet; None for what must not be answered at all: a fragment, or an answer."""
    if len(packet) < HEADER:
        return None
    number, flags, questions, answers, authorities, _ = unpack_from("!6H", packet)
    if flags & 0x8000:
        return None  # two resolvers that answer each other's answers never end
    question = Question(id=number, flags=flags, error=FORMAT_ERROR)
    if flags & 0x7800:
        return Question(id=number, flags=flags, error=NOT_IMPLEMENTED)
    if len(packet) > MAX_QUERY or (questions, answers, authorities) != (1, 0, 0):
        return question
    labels: list[bytes] = []
    at = HEADER
    while at < len(packet) and packet[at] != 0:
        length = packet[at]
        if length > 63:  # also a pointer: there is nothing before the first name to point to
            return question
        labels.append(packet[at + 1 : at + 1 + length])
        at += 1 + length
        if at - HEADER > 254:
            return question
    if len(packet) - at < 5:
        return question
    kind, group = unpack_from("!2H", packet, at + 1)
    is_host = bool(labels) and group == IN and _LETTERS.issuperset(b"".join(labels))
    name = b".".join(labels).decode("ascii").lower() if is_host else ""
    return Question(id=number, flags=flags, name=name, kind=kind, raw=packet[HEADER : at + 5])


def answer(question: Question, error: int, addresses: tuple[bytes, ...] = ()) -> bytes:
    """The answer: an error, or those of the addresses that are of the kind that was asked for, as many as fit."""
    width = {A: 4, AAAA: 16}.get(question.kind, 0)
    room = (MAX_ANSWER - HEADER - len(question.raw)) // (12 + width)
    fitting = [address for address in addresses if len(address) == width][:room]
    # An answer; it repeats whether recursion was wanted, and says that there is some.
    flags = 0x8080 | (question.flags & 0x7900) | error
    packet = pack("!6H", question.id, flags, 1 if question.raw else 0, len(fitting), 0, 0) + question.raw
    for address in fitting:
        packet += pack("!3HIH", 0xC000 | HEADER, question.kind, IN, TTL, width) + address
    return packet
