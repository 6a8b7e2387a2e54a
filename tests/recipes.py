"""The recipes of docs/how-to/agent-recipes.md, as they stand there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "agent-recipes.md"

__all__ = ["recipe"]


def recipe(section: str) -> Any:
    """The block of Python below a heading, carried out: a module with what it defines."""
    text = PAGE.read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    code = text.split("```python\n")[1].split("```")[0]
    module = ModuleType(f"recipe_{section.partition(':')[0].lower().replace('-', '_')}")
    sys.modules[module.__name__] = module  # where annotations are looked up
    exec(compile(code, f"{PAGE.name}, {section}", "exec"), vars(module))
    return module
