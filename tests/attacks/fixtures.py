"""Fixtures of the attack tests, for `pytest_plugins`: the compiled attacks, and an arena for each user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import ordinary
import pytest
from attacks.arena import Arena

SOURCES = os.path.dirname(os.path.abspath(__file__))
FLAGS = ("-O1", "-Wall", "-Wextra", "-Wno-unused-result", "-Wno-missing-field-initializers", "-static", "-pthread")


@pytest.fixture(scope="session")
def attack_program() -> str:
    """The program that attacks, compiled; everybody can execute it."""
    place = ordinary.scratch()
    os.chmod(place, 0o755)
    program = os.path.join(place, "attack")
    sources = sorted(name for name in os.listdir(SOURCES) if name.endswith(".c"))
    command = ["gcc", *FLAGS, "-o", program, *(os.path.join(SOURCES, name) for name in sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="session")
def arena(as_user: ordinary.Person, attack_program: str) -> Iterator[Arena]:
    """An arena for each user."""
    place = Arena(as_user, attack_program)
    yield place
    place.close()
