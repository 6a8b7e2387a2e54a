from typing import final

@final
class VirtualMounts:
    def __new__(
        cls, mounts: list[tuple[bytes, bytes, bool, int, bytes, bytes, bool]], descriptors: list[int]
    ) -> VirtualMounts: ...
    def __init__(
        self, mounts: list[tuple[bytes, bytes, bool, int, bytes, bytes, bool]], descriptors: list[int]
    ) -> None: ...
    def close(self) -> None: ...
