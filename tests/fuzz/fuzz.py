"""Fuzz one target with the coverage of the compiled code: fuzz.py TARGET [libFuzzer options, corpus folders].

`.ci/fuzz` builds that code and calls this.
"""

from __future__ import annotations

import sys

import atheris
from targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name], enable_python_coverage=False)
    atheris.Fuzz()
