"""Profiles: what they may say, where they are found, and whom we believe."""

from __future__ import annotations

import os
import pathlib

import ordinary
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock import profile
from sandlock.errors import PolicyError, Unsupported
from sandlock.policy import OPTIONS, Policy
from sandlock.profile import NOT_HERE, load, locate, names, parse

WHOLE = """
[config]
presets = ["system"]
record_execs = true
allow_degraded = ["fs-ioctl-dev"]
[determinism]
no_randomize_memory = true
[program]
exec = "make"
args = ["-j4"]
env = { CC = "gcc", LANG = "C.UTF-8" }
pass_env = ["CCACHE_*"]
clean_env = true
cwd = "/project"
umask = "027"
uid = 1000
gid = 1000
no_coredump = true
no_huge_pages = true
[filesystem]
read = ["/usr", "/opt"]
data = ["/etc"]
write = ["/tmp/project"]
devices = ["/dev/null"]
deny = []
[network]
allow = [":443"]
deny = []
allow_bind = [8080, "9000-9005"]
port_remap = false
[http]
allow = []
[syscalls]
extra_deny = ["mount"]
extra_allow = ["sysv_ipc"]
keep_capabilities = ["net_raw"]
[limits]
processes = 50
open_files = 256
cpu_cores = [0, 1]
timeout = "5m"
output = "1M"
"""


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The profile directory, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    directory = tmp_path / "config" / "sandlock" / "profiles"
    directory.mkdir(parents=True)
    for folder in (directory, *directory.parents):
        if folder == tmp_path:
            break
        folder.chmod(0o755)
    return directory


def write(file: pathlib.Path, text: str = '[filesystem]\nread = ["/usr"]\n') -> pathlib.Path:
    file.write_text(text)
    file.chmod(0o644)
    return file


# --- meaning --------------------


def test_a_whole_profile() -> None:
    loaded = parse(WHOLE)
    assert loaded.argv == ("make", "-j4")
    policy = loaded.policy()
    assert policy == Policy.of(
        presets="system", record_execs=True, allow_degraded="fs-ioctl-dev", no_randomize_memory=True,
        env={"CC": "gcc", "LANG": "C.UTF-8"}, pass_env="CCACHE_*", cwd="/project", umask=0o27, uid=1000,
        gid=1000, no_huge_pages=True, fs_readable=["/usr", "/opt"], fs_data="/etc", fs_writable="/tmp/project",
        fs_devices="/dev/null", net_allow=":443", net_allow_bind=[8080, "9000-9005"],
        extra_deny_syscalls="mount", extra_allow_syscalls="sysv_ipc", keep_capabilities="CAP_NET_RAW",
        max_processes=50, max_open_files=256, cpu_cores=[0, 1], timeout=300, max_output="1M",
    )  # fmt: skip


def test_every_option_has_a_key_and_every_key_an_option() -> None:
    sample: dict[str, object] = {option.key: option.default for option in OPTIONS}
    assert not set(sample) & NOT_HERE
    assert not set(sample) & set(profile.PROGRAM_KEYS)
    assert {key.partition(".")[0] for key in sample} <= set(profile.SECTIONS)


def test_a_profile_written_for_the_original_loads() -> None:
    text = """
    [program]
    exec = "make"
    args = ["-j4"]
    clean_env = true
    env = { CC = "gcc", LANG = "C.UTF-8" }
    [filesystem]
    read = ["/usr", "/lib", "/lib64", "/bin", "/etc"]
    write = ["/tmp/project"]
    [limits]
    processes = 50
    [syscalls]
    extra_deny = []
    """
    policy = parse(text).policy()
    assert policy.fs_readable == ("/usr", "/lib", "/lib64", "/bin", "/etc")
    assert policy.max_processes == 50


@pytest.mark.parametrize("key", sorted(NOT_HERE))
def test_a_feature_of_the_original_that_is_not_here_is_refused_by_name(key: str) -> None:
    section, _, word = key.partition(".")
    with pytest.raises(Unsupported, match=key) as caught:
        parse(f'[{section}]\n{word} = ["x"]\n')
    assert caught.value.missing == {key}
    for nothing in ("[]", "false", '""'):  # the original's own tools write every key
        assert parse(f"[{section}]\n{word} = {nothing}\n").fields == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[filesystm]\nread = []", "filesystm: unknown section; did you mean 'filesystem'?"),
        ("[filesystem]\nraed = []", "filesystem.raed: unknown key; did you mean 'filesystem.read'?"),
        (
            "[filesystem]\nfs_readable = []",
            "filesystem.fs_readable: unknown key; did you mean 'filesystem.read'?",
        ),
        ("[config]\nmax_processes = 3", "did you mean 'limits.processes'?"),
        ("[program]\ntimeout = 3", "did you mean 'limits.timeout'?"),
        ("[program]\nnet-allow = 3", "did you mean 'network.allow'?"),
        ("[limits]\nzzzz = 1", "limits.zzzz: unknown key; known: limits.cpu_cores"),
        ("read = []", "read: key outside any section; did you mean 'filesystem.read'?"),
        ("filesystem = 3", "filesystem: is a section; write [filesystem]"),
        ("[limits]\nprocesses = 0", "limits.processes: 0 is out of range"),
        ("[limits]\noutput = '16E'", "limits.output: '16E' is out of range"),
        ("[program]\numask = 22", "write octal in quotes"),
        ("[program]\nenv = {A = 1}", "program.env: ('A', 1) has a value that is not text"),
        ("[program]\nclean_env = 1", "program.clean_env: 1 is not a truth value"),
        ("[program]\nargs = ['x']", "given without program.exec"),
        ("[program]\nexec = 3", "program.exec: 3 is not a program"),
        ("[program]\nexec = 'x'\nargs = 'y'", "program.args: 'y' is not a list of texts"),
        ("[filesystem]\nread = [3]", "filesystem.read: 3 is not a path"),
        ('[filesystem]\nread = ["a\\u0000b"]', "contains a NUL byte"),
        ("[network]\nallow_bind = [0]", "network.allow_bind: 0 is out of range"),
        ("not toml", "not TOML"),
        ("x = " + "[" * 20000, "not TOML"),
    ],
)
def test_what_is_not_understood_is_an_error_with_a_fix(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text, "FILE")
    assert str(caught.value).startswith("FILE: ")
    assert message in str(caught.value)


@given(st.text(alphabet=st.sampled_from("[]filesystem.rd=\"'\n{}1, "), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        loaded = parse(text)
    except (PolicyError, Unsupported):
        return
    loaded.policy()


# --- names and places --------------------


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "-p", "a..b", "a b", "a\n", "ä", "_x", "", "a\0b", "x" * 3 + "$", "...", "."]
)
def test_what_is_no_name(place: pathlib.Path, name: str) -> None:
    with pytest.raises(PolicyError, match="profile: "):
        load(name)


def test_a_name_never_leaves_the_directory(place: pathlib.Path) -> None:
    write(place.parent / "outside.toml")
    for name in ("..outside", "../outside"):
        with pytest.raises(PolicyError):
            load(name)


def test_by_name_and_by_file(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(place / "build-1.x.toml")
    assert load("build-1.x").fields == {"fs_readable": ("/usr",)}
    assert load(str(file)).path == str(file)
    assert load(file) == load(str(file))
    monkeypatch.chdir(place)
    assert load("build-1.x.toml") == load("./build-1.x.toml").__replace__(path=f"{place}/build-1.x.toml")
    assert names() == ["build-1.x"]


def test_a_missing_profile_names_the_nearest(place: pathlib.Path) -> None:
    with pytest.raises(PolicyError, match=r"there are none yet; write .*profiles/NAME\.toml"):
        load("biuld")
    write(place / "build.toml")
    with pytest.raises(PolicyError, match="did you mean 'build'"):
        load("biuld")
    with pytest.raises(PolicyError, match="No such file"):
        load("./nowhere.toml")


def test_without_home_there_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(PolicyError, match="HOME is not set"):
        load("build")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    with pytest.raises(PolicyError, match="HOME is not set"):
        names()
    monkeypatch.setenv("HOME", "/home/me/")
    assert profile.directory() == "/home/me/.config/sandlock/profiles"


def test_only_profiles_are_listed(place: pathlib.Path) -> None:
    for name in ("b.toml", "a.toml", "c.txt", ".hidden.toml", "bad name.toml", "a..b.toml"):
        write(place / name)
    assert names() == ["a", "b"]


# --- trust --------------------


def test_a_file_that_everybody_can_write_is_refused(place: pathlib.Path) -> None:
    write(place / "p.toml").chmod(0o666)
    with pytest.raises(PolicyError, match=r"can be written by everybody; run: chmod go-w "):
        load("p")


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_directory_above_that_everybody_can_write_is_refused(place: pathlib.Path, depth: int) -> None:
    write(place / "p.toml")
    [place, *place.parents][depth].chmod(0o777)
    with pytest.raises(PolicyError, match="can be written by everybody"):
        load("p")


def test_a_sticky_directory_is_as_good_as_its_files(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o1777)
    file = write(tmp_path / "p.toml")
    assert load(file).fields
    file.chmod(0o646)
    with pytest.raises(PolicyError, match="can be written by everybody"):
        load(file)


@pytest.mark.needs(root=True)
def test_what_belongs_to_somebody_else_is_refused(place: pathlib.Path) -> None:
    file = write(place / "p.toml")
    os.chown(file, 12345, 0)
    with pytest.raises(PolicyError, match="belongs to user 12345"):
        load("p")
    os.chown(file, 0, 0)
    os.chown(place, 12345, 0)
    with pytest.raises(PolicyError, match="belongs to user 12345"):
        load("p")


@pytest.mark.needs(root=True)
def test_a_foreign_group_must_not_write(place: pathlib.Path) -> None:
    file = write(place / "p.toml")
    file.chmod(0o664)
    assert load("p").fields, "our own group is a group of one"
    os.chown(file, 0, 12345)
    file.chmod(0o664)
    with pytest.raises(PolicyError, match="can be written by group 12345"):
        load("p")


def test_a_link_is_judged_by_where_it_leads(place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    (place / "p.toml").symlink_to(write(loose / "real.toml"))
    loose.chmod(0o755)
    assert load("p").fields
    loose.chmod(0o777)
    with pytest.raises(PolicyError, match="can be written by everybody"):
        load("p")


def test_only_regular_files(place: pathlib.Path) -> None:
    os.mkfifo(place / "fifo.toml", 0o600)  # opening it must not wait for a writer either
    (place / "dir.toml").mkdir()
    for name in ("fifo", "dir"):
        with pytest.raises(PolicyError, match="not a regular file"):
            load(name)
    with pytest.raises(PolicyError):
        load("/dev/zero/x.toml")


def test_long_or_odd_files(place: pathlib.Path) -> None:
    write(place / "long.toml", "#" * (profile.MAX_BYTES + 1))
    with pytest.raises(PolicyError, match="longer than"):
        load("long")
    write(place / "odd.toml").write_bytes(b"# \xff")
    with pytest.raises(PolicyError, match="not UTF-8 at byte 2"):
        load("odd")


def test_as_every_user(as_user: ordinary.Person) -> None:
    code = """if True:
        import os, pathlib, tempfile
        from sandlock import profile
        os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(dir=os.environ["HOME"])
        place = pathlib.Path(profile.directory())
        place.mkdir(parents=True)
        (place / "p.toml").write_text('[config]\\npresets = ["system"]')
        os.chmod(place / "p.toml", 0o600)
        print(profile.load("p").policy(), profile.names())
        os.chmod(place / "p.toml", 0o602)
        try:
            profile.load("p")
        except profile.PolicyError as error:
            print(error)
    """
    lines = as_user.script(code).splitlines()
    assert lines[0] == "Policy(presets=('system',)) ['p']"
    assert "can be written by everybody" in lines[1]


def test_locate_does_not_need_the_file(place: pathlib.Path) -> None:
    assert locate("/x/y.toml") == "/x/y.toml"
    assert locate("x/y").endswith("/x/y")
