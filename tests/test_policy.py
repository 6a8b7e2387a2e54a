"""Policy: every value is read, checked and normalised at construction; one table feeds everything."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock import policy as policy_module
from sandlock._values import CAPABILITIES, READERS, elements, read_net_rule
from sandlock.errors import PolicyError
from sandlock.policy import LISTS, OPTIONS, PROTECTIONS, Option, Policy, option_of
from sandlock.profile import SECTIONS


def refusal(**values: object) -> PolicyError:
    """The error of these fields, which must be one; every one names the field, the value and a fix."""
    with pytest.raises(PolicyError) as caught:
        Policy.of(**values)  # type: ignore[arg-type]
    message = str(caught.value)
    name = next(iter(values))
    assert caught.value.field == name
    assert message.startswith(f"{name}: ")
    assert "; " in message
    return caught.value


# --- the table --------------------


def test_every_field_is_an_option_and_the_table_is_complete() -> None:
    for option in OPTIONS:
        assert option.kind in READERS or option.choices, option
        assert option.help.endswith("."), option
        assert option.key.partition(".")[0] in SECTIONS, option
        assert option.flags, option
        assert all(flag.startswith("-") for flag in option.flags + option.off), option
        assert bool(option.metavar) == (option.kind != "switch"), option
        assert getattr(Policy(), option.name) == option.default


def test_no_two_options_share_a_name() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags + option.off]
    assert len(flags) == len(set(flags))
    keys = [option.key for option in OPTIONS]
    assert len(keys) == len(set(keys))


def test_the_declared_keywords_are_the_fields() -> None:
    source = pathlib.Path(policy_module.__file__).read_text()
    space: dict[str, object] = {name: getattr(typing, name) for name in ("Any", "Self", "TypedDict", "Unpack")}
    block = source.split("class Fields(TypedDict, total=False):")[1].split("\n\n\n")[0]
    exec("from __future__ import annotations\nclass Fields(TypedDict, total=False):" + block, space)
    assert list(space["Fields"].__annotations__) == [option.name for option in OPTIONS]  # type: ignore[attr-defined]


def test_a_default_is_normal() -> None:
    for option in OPTIONS:
        assert option.read(option.default) == option.default


# --- construction --------------------


def test_an_unknown_keyword_names_the_nearest() -> None:
    error = refusal(fs_readble=["/usr"])
    assert "did you mean 'fs_readable'?" in str(error)
    assert "known: " in str(refusal(zzzzz=1))


def test_a_policy_is_a_hashable_value() -> None:
    one = Policy.of(fs_readable=["/usr"], env={"A": "1"})
    other = Policy(fs_readable=("/usr",), env=(("A", "1"),))
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == "Policy(fs_readable=('/usr',), env=(('A', '1'),))"
    assert one.but(fs_readable=["/bin"]).fs_readable == ("/bin",)
    with pytest.raises(PolicyError):
        one.but(fs_readble=1)  # type: ignore[call-arg]


def test_the_constructor_checks_too() -> None:
    with pytest.raises(PolicyError, match="max_processes: 0 is out of range"):
        Policy(max_processes=0)


def test_empty_means_no_file_grant() -> None:
    assert Policy().is_empty()
    assert Policy.of(net_allow="*", timeout=3).is_empty()
    assert not Policy.of(presets="system").is_empty()
    assert not Policy.of(fs_devices="/dev/null").is_empty()


def test_changes_are_what_differs_from_the_default() -> None:
    assert Policy().changes() == {}
    assert Policy.of(clean_env=False, umask="022").changes() == {"clean_env": False, "umask": 0o22}


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.default is None or option.kind in LISTS])
def test_none_grants_nothing(name: str) -> None:
    """None and () are "not configured"; neither is ever "unrestricted", which is spelled "*"."""
    assert Policy.of(**{name: None}) == Policy()  # type: ignore[arg-type]
    assert Policy().changes() == {}


@given(st.sampled_from(OPTIONS), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
))  # fmt: skip
def test_any_value_is_read_or_refused(option: Option, value: object) -> None:
    try:
        read = option.read(value)
    except PolicyError as error:
        where = error.field
    else:
        where = option.name
        hash(read)
        assert option.read(read) == read
    assert where == option.name


# --- paths --------------------


def test_paths_become_absolute_text(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    given_paths = ["rel", ".", pathlib.Path("/a//b/./c/"), b"/odd\xff", "~", "~/x", "/a/../b", "//usr"]
    expected = (
        *(f"{tmp_path}/rel", str(tmp_path), "/a/b/c", os.fsdecode(b"/odd\xff")),
        *("/home/me", "/home/me/x", "/a/../b", "/usr"),
    )
    assert Policy.of(fs_readable=given_paths).fs_readable == expected


def test_dot_dot_is_the_kernels_business() -> None:
    """Through a symbolic link `a/..` is not `a`'s parent: resolving it lexically grants something else."""
    assert Policy.of(fs_readable="/link/../x").fs_readable == ("/link/../x",)


def test_one_bare_path_is_one_path() -> None:
    assert Policy.of(fs_readable="/usr").fs_readable == ("/usr",)
    assert Policy.of(fs_readable=pathlib.Path("/usr")).fs_readable == ("/usr",)
    assert Policy.of(cwd=b"/usr").cwd == "/usr"


def test_a_path_is_granted_once() -> None:
    assert Policy.of(fs_readable=["/usr", "/usr/", "/bin"]).fs_readable == ("/usr", "/bin")


@pytest.mark.parametrize("path", ["", "/a\0b", 3, None, ["/a"], {"a": 1}, 1.5])
def test_what_is_no_path(path: object) -> None:
    refusal(fs_writable=[path])


def test_home_is_needed_for_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert "set HOME" in str(refusal(fs_data="~/x"))
    assert Policy.of(fs_data="/tmp/~").fs_data == ("/tmp/~",)


def test_a_relative_path_needs_a_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "no current directory" in str(refusal(fs_readable="x"))


# --- numbers --------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *((0, 0), (4096, 4096), ("4096", 4096), ("64M", 64 << 20), ("1.5G", 3 << 29), ("1k", 1024)),
        *(("512KiB", 512 << 10), ("64MB", 64 << 20), (" 2 G", 2 << 30), ("7E", 7 << 60), ("0.5K", 512)),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert Policy.of(max_output=text).max_output == size  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "16E",
            "8E",
            2**63,
            -1,
            "-1",
            "",
            "M",
            "1.2.3M",
            "1.M",
            ".5M",
            "1e3",
            "0x10",
            "1X",
            "1MM",
            "\uff11M",
            "9" * 30,
        ),
        *(True, 1.5, None, [1], b"1M"),
    ],
)
def test_what_is_no_size(text: object) -> None:
    refusal(max_output=text)


@pytest.mark.parametrize(("text", "umask"), [("022", 0o22), ("0o77", 0o77), (0o27, 0o27), ("0", 0), ("777", 0o777)])
def test_umasks(text: object, umask: int) -> None:
    assert Policy.of(umask=text).umask == umask  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["9", "1777", "", "-1", -1, 0o1000, True, 2.0, "0x1", "0o", "22 "])
def test_what_is_no_umask(text: object) -> None:
    refusal(umask=text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(1, 1.0), (0.5, 0.5), ("90", 90.0), ("1.5", 1.5), ("500ms", 0.5), ("5m", 300.0), ("2h", 7200.0)],
)
def test_times(text: object, seconds: float) -> None:
    assert Policy.of(timeout=text).timeout == pytest.approx(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [0, -1, float("nan"), float("inf"), 1e12, "", "5x", "s", "-5s", "1e3", True, "1.2.3s", "inf"]
)
def test_what_is_no_time(text: object) -> None:
    refusal(timeout=text)


@pytest.mark.parametrize(("field", "value"), [
    ("max_processes", 0), ("max_processes", 2**22 + 1), ("max_processes", "x"), ("max_processes", 1.0),
    ("max_open_files", 3), ("max_open_files", True), ("uid", -1), ("uid", 2**32 - 1), ("gid", "1 "),
])  # fmt: skip
def test_numbers_out_of_bounds(field: str, value: object) -> None:
    refusal(**{field: value})


def test_a_switch_is_true_or_false() -> None:
    for value in (1, 0, "true", "no", None):
        refusal(clean_env=value)


def test_cpus() -> None:
    assert Policy.of(cpu_cores=[3, "0-1", "0,2"]).cpu_cores == (0, 1, 2, 3)
    assert Policy.of(cpu_cores=1).cpu_cores == (1,)
    for value in ([-1], ["2-1"], ["x"], [True], ["8192"], ["1,"], [1.0], ["1-"]):
        refusal(cpu_cores=value)


# --- network --------------------


def test_ports() -> None:
    given_ports = [80, "443,8000-8010", "*", "80"]
    assert Policy.of(net_allow_bind=given_ports).net_allow_bind == ("80", "443", "8000-8010", "*")


@pytest.mark.parametrize("port", [0, "0", 65536, -1, "1-0", "80-", "-80", "a", "80,", "1-1025", "*,80", True, 80.0, ""])
def test_what_is_no_port(port: object) -> None:
    refusal(net_allow_bind=[port])


@pytest.mark.parametrize(
    ("rule", "meaning"),
    [
        ("*", ("", "*", None)),
        (":443", ("", "*", ((443, 443),))),
        ("*:80,443", ("", "*", ((80, 80), (443, 443)))),
        ("tcp://:8000-8010", ("tcp", "*", ((8000, 8010),))),
        ("udp://*:53", ("udp", "*", ((53, 53),))),
        ("example.org:*", ("", "example.org", None)),
        ("10.0.0.0/8", ("", "10.0.0.0/8", None)),
        ("[::1]:80", ("", "::1", ((80, 80),))),
        ("icmp://1.1.1.1", ("icmp", "1.1.1.1", None)),
    ],
)
def test_network_rules(rule: str, meaning: object) -> None:
    assert Policy.of(net_allow=[rule]).net_allow == (rule,)
    assert read_net_rule("net_allow", rule) == meaning


@pytest.mark.parametrize(
    "rule",
    [
        *("", "tcp://", "http://x", ":0", ":65536", ":", "a:b:80", "[::1", "[]:80", "[::1]80", "icmp://x:1"),
        *(":1-1025", ":80,,81", "*:*,80", " x", "a b\n", "x:80\0", 443, b":443"),
    ],
)
def test_what_is_no_network_rule(rule: object) -> None:
    refusal(net_allow=[rule])


# --- names --------------------


def test_names_may_be_given_in_one_text() -> None:
    assert Policy.of(presets="system, tmp").presets == ("system", "tmp")
    assert Policy.of(presets=["system", "system"]).presets == ("system",)


def test_unknown_names_get_the_nearest() -> None:
    assert "did you mean 'system'?" in str(refusal(presets=["sytem"]))
    assert "did you mean 'fs-refer'?" in str(refusal(disable="fs-reefer"))
    assert "known: " + ", ".join(sorted(PROTECTIONS)) in str(refusal(allow_degraded="xyz"))


def test_capabilities() -> None:
    kept = Policy.of(keep_capabilities=["net_raw", "CAP_CHOWN"]).keep_capabilities
    assert kept == ("CAP_CHOWN", "CAP_NET_RAW")
    assert "did you mean 'CAP_NET_RAW'?" in str(refusal(keep_capabilities="net_rav"))


def test_capability_numbers_are_the_kernels() -> None:
    assert len(CAPABILITIES) == 41
    last = int(pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert last >= CAPABILITIES.index("CAP_SETPCAP")
    assert [CAPABILITIES[n] for n in (0, 10, 21, 31, 40)] == [
        "CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_SETFCAP", "CAP_CHECKPOINT_RESTORE",
    ]  # fmt: skip


def test_environment() -> None:
    expected = (("A", "1"), ("B", "x=y"))
    assert Policy.of(env={"A": "1", "B": "x=y"}).env == expected
    assert Policy.of(env=["A=0", "B=x=y", ("A", "1")]).env == expected
    for value in ({"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "x\0"}, ["A"], [("A",)], {"A\0": "x"}, 3):
        refusal(env=value)


def test_passed_variables() -> None:
    assert Policy.of(pass_env=["HTTP_PROXY", "MY_*"]).pass_env == ("HTTP_PROXY", "MY_*")
    for value in (["A=1"], ["A*B"], [""], ["A\0"]):
        refusal(pass_env=value)


def test_a_list_is_never_taken_apart_into_characters() -> None:
    assert elements("x", "abc") == ("abc",)
    assert elements("x", b"abc") == (b"abc",)
    assert elements("x", iter(["a"])) == ("a",)


def test_an_option_is_found_by_name() -> None:
    assert option_of("timeout").key == "limits.timeout"
    with pytest.raises(PolicyError, match="did you mean 'timeout'"):
        option_of("timeot")


def test_long_values_are_cut_in_messages() -> None:
    assert len(str(refusal(max_output="x" * 10**6))) < 400


def test_policy_brings_no_slow_module() -> None:
    """`sandlock run` stands in front of every command; dataclasses alone take longer than Python's start."""
    code = (
        "import sys; sys.modules['sandlock'] = type(sys)('sandlock'); "
        f"sys.modules['sandlock'].__path__ = [{os.path.dirname(policy_module.__file__)!r}]; "
        "import sandlock.policy, sandlock.result; "
        "slow = {'dataclasses', 'typing', 're', 'enum', 'inspect', 'collections', 'ast', 'pathlib'}; "
        "print(*slow & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
