"""A virtual root is not left: by directories that move while `..` of them is followed, nor by descriptors of what is
outside.

The same paths reach what is outside where there is no virtual root: that is the control.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import ordinary
import pytest
from paths.worker import hand_over, walk
from programs.tools import confined, guest
from test_path_races import DENYING, GIVES, MILLISECONDS, numbers

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19), program="gcc"), pytest.mark.slow]
ACTIONS = ("read", "write", "create", "chmod", "times", "truncate", "attribute", "link", "rename", "unlink", "mkdir",
"symlink",
           "node", "move-in")  # fmt: skip


def world(person: ordinary.Person) -> tuple[Path, Path, Path]:
    """A root with a workspace, and a directory outside."""
    place = Path(person.home)
    root, outside = place / "root", place / "outside"
    for folder in (root / "bin", root / "proc", root / "dev", outside / "sub"):
        folder.mkdir(parents=True)
    work = root / "work"
    for folder in ("deep/in/er", "good", "denied", "out"):
        (work / folder).mkdir(parents=True)
    (work / "good/file").write_text("harmless..")
    (outside / "file").write_text("TOP-SECRET")
    (outside / "file").chmod(0o600)
    shutil.copy(guest("path_races", "-static"), root / "bin/path_races")
    hand_over(person)
    return root, work, outside


@pytest.mark.parametrize("flip", ["parent", "parent-cwd"])
def test_a_directory_that_moves_leads_nowhere(visitor: ordinary.Person, flip: str) -> None:
    root, work, outside = world(visitor)
    before = walk(str(outside))
    beyond = "../" * 40 + str(outside).lstrip("/")
    result = confined(
        visitor,
        ["/bin/path_races", "race", flip, MILLISECONDS, "confined", *ACTIONS],
        chroot=str(root),
        fs_readable=["/"],
        fs_writable=["/work"],
        env={"BEYOND": beyond},
        cwd="/work",
    )
    assert result.ok, result
    found = numbers(result.stdout)
    assert found["tries"][0] >= 1000
    assert found["secrets"] == [0]
    assert walk(str(outside)) == before
    assert sum(found[action][0] for action in ACTIONS) == 0  # inside there is no such directory
    command = [guest("path_races"), "race", flip, "2000", "confined", "read"]
    done = subprocess.run(
        command, cwd=work, env={"BEYOND": beyond}, capture_output=True, text=True, check=True, **visitor.identity
    )
    assert numbers(done.stdout)["secrets"][0] > 0


@pytest.mark.parametrize("way", ["inherited", "received"])
def test_a_descriptor_of_a_directory_outside_leads_nowhere(visitor: ordinary.Person, way: str) -> None:
    _, _, outside = world(visitor)
    before = walk(str(outside))
    code = GIVES.replace(DENYING, 'chroot=f"{place}/root", fs_readable=["/"], fs_writable=["/work"], cwd="/work"')
    argv = [visitor.python, "-c", code, visitor.home, "outside", way, "/bin/path_races", way]
    done = visitor.run(argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["secrets", "0", "made", "-1", "chmod", "-1"]
    assert walk(str(outside)) == before
