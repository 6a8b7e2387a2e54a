"""The Python face of `_memory`, for tests and fuzzers: OSError where a decoder answers -errno."""

__all__ = (
    "fetch_iovecs",
    "fetch_memory",
    "fetch_msghdr",
    "fetch_sockaddr",
    "fetch_string",
    "fetch_strings",
    "parse_sockaddr",
)

# family, port, scope_id, netlink_pid, netlink_groups, mapped, abstract, bytes, path, raw
_Address = tuple[int, int, int, int, int, bool, bool, bytes, bytes, bytes]

def fetch_memory(tid: int, address: int, length: int) -> bytes: ...
def fetch_string(tid: int, address: int, size: int) -> bytes: ...
def fetch_strings(tid: int, array: int, size: int, limit: int) -> list[bytes]: ...
def parse_sockaddr(raw: bytes) -> _Address: ...
def fetch_sockaddr(tid: int, address: int, length: int) -> _Address: ...
def fetch_msghdr(tid: int, address: int) -> tuple[int, int, int, int, int, int, int]: ...
def fetch_iovecs(tid: int, address: int, count: int, limit: int = 1024) -> tuple[int, list[tuple[int, int]]]: ...

ABI: dict[str, int]
