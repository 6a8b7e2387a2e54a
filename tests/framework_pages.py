"""The frameworks' pages and examples, carried out: what they say they print is what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCREEN = 45  # lines of an example


def run_page(name: str) -> None:
    """Runs the first block of Python of docs/how-to/NAME, which prints the first block of text there."""
    page = (ROOT / "docs" / "how-to" / name).read_text()
    code, text = (re.search(f"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("python", "text"))  # type: ignore[index]
    with tempfile.TemporaryDirectory() as place:  # a file, for some frameworks read the source of what they are given
        file = Path(place) / "page.py"
        file.write_text(code)
        _prints([str(file)], text)


def run_example(name: str, text: str) -> None:
    """Runs examples/frameworks/NAME. In what it prints, `...` stands for anything."""
    file = ROOT / "examples" / "frameworks" / name
    assert len(file.read_text().splitlines()) <= SCREEN
    _prints([str(file)], text)


def _prints(words: list[str], expected: str) -> None:
    env = os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=100, env=env, check=False)
    wanted = ".*?".join(map(re.escape, expected.strip().split("...")))
    assert re.fullmatch(wanted, done.stdout.strip(), re.DOTALL), done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
