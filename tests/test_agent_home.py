"""The private home directory: what it shows, what comes home afterwards, and what never does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from agent_place import Place, agent, run

from sandlock import PolicyError
from sandlock._removal import remove_tree
from sandlock.sessions import private_home
from sandlock.sessions.workspace import AgentSetup, settle


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place.made(tmp_path, monkeypatch)


def with_files(place: Place, **keys: object) -> AgentSetup:
    lines = [f"{key} = {list(value)!r}".replace("'", '"') for key, value in keys.items()]
    return place.prepare(profile=agent("[agent]\n" + "\n".join(lines)))


# ---- what it shows --------------------------------------------------------------------------------------------------


def test_dotfiles(place: Place) -> None:
    for name in (".readrc", ".writerc", ".tool/conf", ".tool/data/one", ".tool/other", ".hidden"):
        place.write(name, f"{name}\n")
    setup = with_files(
        place, home_read=[".readrc", ".tool/conf", ".missing"], home_write=[".writerc", ".tool/data/", ".tool/new/"]
    )
    script = """
        cd; cat .readrc .writerc .tool/conf .tool/data/one
        for f in .readrc .writerc .tool/conf .tool/data/two .tool/new/three .tool/mine; do echo changed > $f; done
        ls -A . .tool
    """
    result = run(setup, script)
    assert result.stdout_text.startswith(".readrc\n.writerc\n.tool/conf\n.tool/data/one\n")
    assert ".hidden" not in result.stdout_text
    assert (place.home / ".readrc").read_text() == ".readrc\n"
    assert (place.home / ".tool/conf").read_text() == ".tool/conf\n"
    assert (place.home / ".writerc").read_text() == "changed\n"
    assert (place.home / ".tool/data/two").read_text() == "changed\n"
    assert (place.home / ".tool/new/three").read_text() == "changed\n"
    assert not (place.home / ".tool/mine").exists()
    said = settle(setup)
    assert said == [f"{setup.home}: kept, with what the program made there"]
    assert os.listdir(f"{setup.home}/.tool") == ["mine"]


def test_a_dry_run_makes_nothing_at_home(place: Place) -> None:
    place.write(".tool/conf")
    profile = agent('[agent]\nhome_write = [".tool/new/", ".tool/conf"]')
    setup = place.prepare(profile=profile, dry_run=True)
    settle(setup)
    assert os.listdir(place.home / ".tool") == ["conf"]
    assert place.prepare(profile=profile).policy.fs_writable[-1] == str(place.home / ".tool/new")
    assert sorted(os.listdir(place.home / ".tool")) == ["conf", "new"]


def test_a_directory_that_is_shown_holds_others(place: Place) -> None:
    for name in (".tool/conf", ".tool/data/one"):
        place.write(name, f"{name}\n")
    setup = with_files(place, home_read=[".tool"], home_write=[".tool/data"])
    assert setup.home not in os.listdir(place.home / ".tool")
    assert (
        run(setup, "cat ~/.tool/conf; echo x > ~/.tool/conf; echo y > ~/.tool/data/one").stdout_text == ".tool/conf\n"
    )
    assert (place.home / ".tool/conf").read_text() == ".tool/conf\n"
    assert (place.home / ".tool/data/one").read_text() == "y\n"
    assert settle(setup) == []
    assert sorted(os.listdir(place.home / ".tool")) == ["conf", "data"]


def test_a_copy_goes_with_the_run(place: Place) -> None:
    place.write(".app.json", "mine\n")
    setup = with_files(place, home_copy=[".app.json"])
    result = run(
        setup, "cat ~/.app.json; echo theirs > ~/.app.json; cat ~/.app.json; cat " + str(place.home / ".app.json")
    )
    assert result.stdout_text == "mine\ntheirs\n"
    assert settle(setup) == []
    assert (place.home / ".app.json").read_text() == "mine\n"
    assert os.listdir(place.state) == []


def test_a_dotfile_may_be_a_link(place: Place) -> None:
    place.write("dotfiles/rc", "kept elsewhere\n")
    (place.home / ".rc").symlink_to("dotfiles/rc")
    setup = with_files(place, home_write=[".rc"])
    assert run(setup, "cat ~/.rc; echo changed > ~/.new; mv ~/.new ~/.rc").stdout_text == "kept elsewhere\n"
    assert settle(setup) == [".rc: written back, 8 bytes"]
    assert (place.home / ".rc").is_symlink()
    assert (place.home / "dotfiles/rc").read_text() == "changed\n"


@pytest.mark.parametrize("target", [".", "/"])
def test_a_dotfile_that_leads_to_everything_is_refused(place: Place, target: str) -> None:
    (place.home / ".rc").symlink_to(target)
    with pytest.raises(PolicyError, match="whole home"):
        with_files(place, home_read=[".rc"])


def test_moved_configuration(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("conf/tool/rc", "there\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place.home / "conf"))
    setup = with_files(place, home_read=[".config/tool"])
    assert run(setup, "cat ~/.config/tool/rc; echo $XDG_CONFIG_HOME").stdout_text == f"there\n{setup.home}/.config\n"


# ---- what comes home ------------------------------------------------------------------------------------------------

REPLACE = "echo theirs > ~/.new; mv ~/.new ~/.rc; cat ~/.rc"


def test_a_replaced_file_comes_home(place: Place) -> None:
    place.write(".rc", "mine\n").chmod(0o640)
    setup = with_files(place, home_write=[".rc"])
    assert run(setup, REPLACE).stdout_text == "theirs\n"
    assert (place.home / ".rc").read_text() == "mine\n"
    assert settle(setup) == [".rc: written back, 7 bytes"]
    assert (place.home / ".rc").read_text() == "theirs\n"
    assert stat.S_IMODE((place.home / ".rc").stat().st_mode) == 0o640
    assert [name for name in os.listdir(place.home) if "sandlock" in name] == []


def test_a_new_file_comes_home(place: Place) -> None:
    setup = with_files(place, home_write=[".rc"])
    assert run(setup, REPLACE).stdout_text == "theirs\n"
    assert settle(setup) == [".rc: written back, 7 bytes"]
    assert (place.home / ".rc").read_text() == "theirs\n"
    assert stat.S_IMODE((place.home / ".rc").stat().st_mode) == 0o600


def test_what_was_changed_meanwhile_stays(place: Place) -> None:
    for name in (".rc", ".gone", ".other"):
        place.write(name, "mine\n")
    setup = with_files(place, home_write=[".rc", ".gone", ".new", ".other"])
    run(setup, "cd; for f in .rc .gone .new; do echo theirs > x; mv x $f; done")
    place.write(".rc", "mine, later\n")
    place.write(".new", "mine, new\n")
    (place.home / ".gone").unlink()
    said = settle(setup)
    assert [line.split(";")[0] for line in said[:-1]] == [
        ".gone: not written back: the real one was removed meanwhile",
        ".new: not written back: a real one was made meanwhile",
        ".rc: not written back: the real one was changed meanwhile",
    ]
    assert (place.home / ".rc").read_text() == "mine, later\n"
    assert (place.home / ".new").read_text() == "mine, new\n"
    assert not (place.home / ".gone").exists()
    assert (Path(setup.home) / ".rc").read_text() == "theirs\n"


def test_a_replaced_directory_is_not_followed(place: Place) -> None:
    place.write(".tool/rc", "mine\n")
    setup = with_files(place, home_write=[".tool/rc"])
    run(setup, "mv ~/.tool ~/was; ln -s /etc ~/.tool")
    place.write(".tool/rc", "mine\n")
    assert settle(setup)[0].startswith(".tool/rc: not looked at")
    assert (place.home / ".tool/rc").read_text() == "mine\n"


@pytest.mark.parametrize(
    "plant",
    ["ln -sf {secret} .rc", "rm .rc; ln -s loop .rc; ln -s .rc loop", "rm .rc; mkfifo .rc", "rm .rc; mkdir .rc",
     "rm .rc; echo theirs > .rc; ln .rc other", "rm .rc; head -c 2000 /dev/zero > .rc"],
)  # fmt: skip
def test_what_is_no_plain_file_stays(place: Place, monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    monkeypatch.setattr(private_home, "MAX_BYTES", 1000)
    secret = place.write(".ssh/id", "KEY\n")
    place.write(".rc", "mine\n")
    setup = with_files(place, home_write=[".rc"])
    assert run(setup, "cd; " + plant.format(secret=secret)).exit_code == 0
    settle(setup)
    assert (place.home / ".rc").read_text() == "mine\n"
    assert not (place.home / ".rc").is_symlink()
    assert secret.read_text() == "KEY\n"


def test_the_directory_of_a_dotfile_is_the_same_one(place: Place) -> None:
    place.write(".tool/rc", "mine\n")
    setup = with_files(place, home_write=[".tool/rc"])
    run(setup, "cd ~/.tool; echo theirs > x; mv x rc")
    (place.home / ".tool").rename(place.home / ".was")
    (place.home / ".tool").symlink_to(place.home / ".was")
    place.write("elsewhere/rc", "mine\n")
    (place.home / ".tool").unlink()
    (place.home / ".tool").symlink_to(place.home / "elsewhere")
    assert "is another now" in settle(setup)[0]
    assert (place.home / "elsewhere/rc").read_text() == "mine\n"


# ---- the end --------------------------------------------------------------------------------------------------------


def test_odd_trees_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    place = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=place)
    holder = os.open("top", os.O_RDONLY, dir_fd=place)
    os.close(place)
    try:
        for name in ("link", "sandlock-0", "sandlock-1"):
            os.symlink("../outside", name, dir_fd=holder)
        os.mkdir("closed", dir_fd=holder)
        os.mkdir("closed/inner", dir_fd=holder)
        os.chmod(top / "closed/inner", 0)
        os.chmod(top / "closed", 0)
        for _ in range(3000):  # longer than a path, deeper than the stack
            os.mkdir("d" * 100, dir_fd=holder)
            inner = os.open("d" * 100, os.O_RDONLY, dir_fd=holder)
            os.close(holder)
            holder = inner
    finally:
        os.close(holder)
    remove_tree(str(top), forced=True)
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "file").read_text() == "stays"
