"""Python in a sandbox that has a host name of its own, and what it tells."""

from __future__ import annotations

import json
import sys
from typing import Any

from sandlock import Result, Sandbox

HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 cage\n"
"""Its /etc/hosts."""


def inside(code: str, *words: str, **options: Any) -> Result:
    """The result of this code, by default in a sandbox whose host is called `cage`."""
    with Sandbox(presets=["python"], **({"hostname": "cage"} | options)) as box:
        return box.run([sys.executable, "-I", "-S", "-c", code, *words], timeout=60)


def told(code: str, *words: str, **options: Any) -> Any:
    """What a program inside prints as JSON."""
    result = inside(code, *words, **options)
    assert result.ok, result.stderr
    return json.loads(result.stdout)
