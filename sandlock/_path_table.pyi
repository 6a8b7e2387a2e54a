from typing import final

@final
class PathRules:
    def __new__(
        cls,
        denied: list[tuple[bytes, int, int]],
        *,
        identities: list[tuple[int, int, int, int]],
        grants: list[tuple[bytes, int]],
        shown: list[bytes],
        narrow: bool,
        hides: bool,
    ) -> PathRules: ...
    def __init__(
        self,
        denied: list[tuple[bytes, int, int]],
        *,
        identities: list[tuple[int, int, int, int]],
        grants: list[tuple[bytes, int]],
        shown: list[bytes],
        narrow: bool,
        hides: bool,
    ) -> None: ...
    def resembles(self, path: bytes) -> bool: ...
