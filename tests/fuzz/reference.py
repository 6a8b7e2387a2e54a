"""The decoders of `_memory` once more, in plain Python: what the compiled ones have to answer.

A reference returns a value or raises Refused with the errno's name.
"""

from __future__ import annotations

import ipaddress
import mmap
import socket
import struct

MAX_ADDRESS = 2**64 - 1
MAX_TRANSFER = (2**31 - 1) & -mmap.PAGESIZE
HEADER = struct.Struct("=QixxxxQQQQI4x")  # struct user_msghdr
VECTOR = struct.Struct("=QQ")
POINTER = struct.Struct("=Q")


class Refused(Exception):
    """The decoder's answer is this errno."""


class Memory:
    """Readable bytes at an address; around them lies nothing."""

    def __init__(self, base: int, content: bytes) -> None:
        self.base = base
        self.content = content

    def read(self, address: int, length: int) -> bytes:
        if length > 1 << 20:
            raise Refused("EMSGSIZE")
        offset = address - self.base
        if length > 0 and not 0 <= offset <= len(self.content) - length:
            raise Refused("EFAULT")
        return self.content[offset : offset + length] if length else b""

    def string(self, address: int, size: int) -> bytes:
        offset = address - self.base
        if size == 0:
            raise Refused("ENAMETOOLONG")
        if not 0 <= offset < len(self.content):
            raise Refused("EFAULT")
        text, nul, _ = self.content[offset : offset + size].partition(b"\0")
        if not nul:
            raise Refused("ENAMETOOLONG" if len(text) == size else "EFAULT")
        return text

    def strings(self, array: int, size: int, limit: int) -> list[bytes]:
        found: list[bytes] = []
        while array:
            (pointer,) = POINTER.unpack(self.read(array + 8 * len(found), 8))
            if pointer == 0:
                break
            if len(found) >= limit:
                raise Refused("E2BIG")
            try:
                found.append(self.string(pointer, size))
            except Refused as refusal:
                raise Refused("E2BIG" if str(refusal) == "ENAMETOOLONG" else str(refusal)) from None
            size -= len(found[-1]) + 1
        return found

    def sockaddr(self, address: int, length: int) -> tuple[object, ...]:
        if not 0 <= length <= 128:
            raise Refused("EINVAL")
        return sockaddr(self.read(address, length))

    def msghdr(self, address: int) -> tuple[int, ...]:
        name, name_length, iovecs, count, control, control_length, flags = HEADER.unpack(self.read(address, 56))
        if name == 0:
            name_length = 0
        if name_length < 0:
            raise Refused("EINVAL")
        if count > 1024:
            raise Refused("EMSGSIZE")
        if control_length > 2**31 - 1:
            raise Refused("ENOBUFS")
        name = name if name_length else 0
        return name, min(name_length, 128), iovecs, count, control, control_length, flags

    def iovecs(self, address: int, count: int, limit: int) -> tuple[int, list[tuple[int, int]]]:
        if count > 1024 or count > limit:
            raise Refused("EMSGSIZE")
        vectors = list(VECTOR.iter_unpack(self.read(address, 16 * count)))
        if any(length > MAX_ADDRESS >> 1 for _, length in vectors):
            raise Refused("EINVAL")
        if any(base + length > MAX_ADDRESS for base, length in vectors):
            raise Refused("EFAULT")
        total, cut = 0, []
        for base, length in vectors:
            cut.append((base, min(length, MAX_TRANSFER - total)))
            total += cut[-1][1]
        return total, cut


def sockaddr(raw: bytes) -> tuple[object, ...]:
    """(family, port, scope_id, netlink_pid, netlink_groups, mapped, abstract, host, path, raw)."""
    if not 2 <= len(raw) <= 128:
        raise Refused("EINVAL")
    (family,) = struct.unpack("=H", raw[:2])
    least = {socket.AF_INET: 16, socket.AF_INET6: 24, socket.AF_NETLINK: 12, socket.AF_UNIX: 2, 0: 2}
    if family not in least:
        raise Refused("EAFNOSUPPORT")
    if len(raw) < least[family] or (family == socket.AF_UNIX and len(raw) > 110):
        raise Refused("EINVAL")
    port = scope = pid = groups = 0
    mapped = abstract = False
    host = path = b""
    if family == socket.AF_INET or (family == 0 and len(raw) >= 16):
        port, host = int.from_bytes(raw[2:4], "big"), raw[4:8]
    elif family == socket.AF_INET6:
        port, host = int.from_bytes(raw[2:4], "big"), raw[8:24]
        folded = ipaddress.IPv6Address(host).ipv4_mapped
        if folded is not None:
            mapped, host = True, folded.packed
        if len(raw) >= 28:
            (scope,) = struct.unpack_from("=I", raw, 24)
    elif family == socket.AF_NETLINK:
        pid, groups = struct.unpack_from("=II", raw, 4)
    elif family == socket.AF_UNIX and len(raw) > 2:
        abstract = raw[2] == 0
        path = raw[3:] if abstract else raw[2:].partition(b"\0")[0]
    return family, port, scope, pid, groups, mapped, abstract, host, path, raw
