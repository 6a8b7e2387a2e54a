"""The recipes of docs/how-to/agent-recipes.md, as they stand there."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "agent-recipes.md"

__all__ = ["home_of_its_own", "recipe"]


def home_of_its_own() -> dict[str, str]:
    """An environment for what writes into the home directory, some of it when it is imported; gone at the end."""
    home = tempfile.mkdtemp(prefix="sandlock-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return {"HOME": home, "XDG_DATA_HOME": f"{home}/data", "XDG_CONFIG_HOME": f"{home}/config"}


def recipe(section: str) -> Any:
    """The block of Python below a heading, carried out: a module with what it defines."""
    text = PAGE.read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    code = text.split("```python\n")[1].split("```")[0]
    module = ModuleType(f"recipe_{section.partition(':')[0].lower().replace('-', '_')}")
    sys.modules[module.__name__] = module  # where annotations are looked up
    exec(compile(code, f"{PAGE.name}, {section}", "exec"), vars(module))
    return module
