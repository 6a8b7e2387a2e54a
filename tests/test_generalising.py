"""Generalising: what was touched and called becomes rules, by stated limits. Values in, values out."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock import Policy, SandlockError
from sandlock.sessions.call_rules import Executed, Reached, bind_rules, connect_rules, exec_rules
from sandlock.sessions.generalising import (
    Covering,
    LeftOut,
    Limits,
    Proposal,
    Touch,
    is_below,
    is_random,
    read_grants,
    settled,
    write_grants,
)
from sandlock.sessions.learned_text import Entry, merged_text, profile_text, shown_path
from sandlock.sessions.learning import learn, observe

HOME, WORK = "/home/me", "/home/me/project"
NONE = Covering()


def limits(**changes: Any) -> Limits:
    facts: dict[str, Any] = {
        "home": HOME,
        "workspace": WORK,
        "temporary": "/tmp/private",  # a name only
        "secrets": (f"{HOME}/.ssh", f"{HOME}/.config/gh", f"{HOME}/tools/key", f"{WORK}/.env"),
        "writable": (WORK, "/tmp/private"),
    }
    return Limits(**(facts | changes))


def reads(*paths: str, **changes: Any) -> list[tuple[str, str]]:
    found, _ = read_grants([Touch(path=path, reads=True) for path in paths], NONE, limits(**changes))
    return [(each.kind, each.path) for each in found]


# ---- reading


def test_few_files_stay_files_and_many_become_their_directory() -> None:
    assert reads("/srv/app/a", "/srv/app/b", "/srv/app/c") == [("data", f"/srv/app/{name}") for name in "abc"]
    assert reads("/srv/app/a", "/srv/app/b", "/srv/app/c", "/srv/app/d") == [("data", "/srv/app")]
    assert reads("/srv/app/a", "/srv/app/b", at_least=2) == [("data", "/srv/app")]


def test_entries_count_and_not_files_below() -> None:
    """Four files of one subdirectory are one entry of the directory above."""
    deep = [f"/srv/app/lib/x/{name}" for name in "abcd"]
    assert reads(*deep, "/srv/app/one") == [("data", "/srv/app/lib/x"), ("data", "/srv/app/one")]
    wide = [f"/srv/app/{folder}/file" for folder in "abcd"]
    assert reads(*wide) == [("data", "/srv/app")]


@pytest.mark.parametrize(
    "folder",
    [
        "/",
        "/home",
        HOME,
        "/etc",
        "/var",
        "/tmp",
        "/usr",
        "/opt",
        "/var/lib",
        f"{HOME}/.config",
        f"{HOME}/.cache",
        "/home/you",
    ],
)
def test_places_that_are_never_granted(folder: str) -> None:
    paths = [f"{folder.rstrip('/')}/{name}" for name in "abcdef"]
    assert reads(*paths) == [("data", path) for path in paths]
    found, left = read_grants([Touch(path=folder, lists=True)], NONE, limits())
    assert found == []
    assert [each.what for each in left] == [folder]


def test_a_directory_with_a_secret_is_never_granted() -> None:
    paths = [f"{HOME}/tools/{name}" for name in "abcdef"]
    assert reads(*paths) == [("data", path) for path in paths]
    assert reads(*paths, secrets=()) == [("data", f"{HOME}/tools")]


def test_a_secret_is_left_out() -> None:
    found, left = read_grants(
        [Touch(path=f"{HOME}/.ssh/id", reads=True), Touch(path="/srv/a/b", reads=True)], NONE, limits()
    )
    assert [each.path for each in found] == ["/srv/a/b"]
    assert left == [LeftOut(what=f"{HOME}/.ssh/id", why="it is a secret")]


def test_the_workspace_may_be_granted_whole() -> None:
    assert reads(*(f"{WORK}/{name}" for name in "abcd")) == [("data", WORK)]


def test_what_is_executed_is_granted_for_that_alone() -> None:
    touches = [Touch(path=f"/srv/app/{name}", reads=True, executes=name == "b") for name in "abcde"]
    found, _ = read_grants(touches, NONE, limits())
    assert [(each.kind, each.path) for each in found] == [("data", "/srv/app"), ("read", "/srv/app/b")]


def test_what_is_covered_needs_no_rule() -> None:
    covering = Covering((("/usr", "read"), ("/data", "data")))
    touches = [
        Touch(path="/usr/bin/x", executes=True),
        Touch(path="/data/file", reads=True),
        Touch(path="/data/program", executes=True),
        Touch(path="/usrlocal/x", reads=True),
    ]
    found, _ = read_grants(touches, covering, limits())
    assert [(each.kind, each.path) for each in found] == [("read", "/data/program"), ("data", "/usrlocal/x")]


@pytest.mark.parametrize(
    "name",
    ["tmpab12cd34", "tmp.Qx81kzLp", "0123456789ab", "550e8400-e29b-41d4-a716-446655440000", "12345", "cache-98765",
     "npm.81723", "ccA1b2C3", "index.lock.Xy12Zw"],
)  # fmt: skip
def test_names_that_change(name: str) -> None:
    assert is_random(name)
    assert settled(f"/srv/app/{name}/file")[0] == "/srv/app"
    assert reads(f"/srv/app/{name}/file") == [("data", "/srv/app")]


@pytest.mark.parametrize(
    "name",
    ["python3.11", "1.2.3", "v20.20.2", "libc.so.6", "libcrypt.so.1.1.0", "2024", "gcc-12", "x86_64-linux-gnu",
     "README.md", "temporary", "UTF-8", "node_modules", "utf8", "GPL-3", "libgcc_s.so.1", "main.cpython-311.pyc",
     "IPython", "feedface"],
)  # fmt: skip
def test_names_that_stay(name: str) -> None:
    assert is_random(name) == ""


def test_random_names_where_no_directory_may_stand_for_them() -> None:
    found, left = read_grants([Touch(path="/tmp/tmpab12cd34", reads=True)], NONE, limits())
    assert found == []
    assert "/tmp is never granted" in left[0].why


def test_what_is_gone_gets_no_rule() -> None:
    found, left = read_grants([Touch(path="/srv/a/b", reads=True)], NONE, limits(kind_of=lambda path: ""))
    assert (found, [each.what for each in left]) == ([], ["/srv/a/b"])


def test_very_deep_paths_have_an_end() -> None:
    assert len(reads("/srv" + "/d" * 2000)[0][1]) < 200


# ---- writing


def writes(*touches: Touch, **changes: Any) -> list[str]:
    return [each.path for each in write_grants(touches, NONE, limits(**changes))[0]]


def test_a_name_needs_its_directory_and_content_its_file() -> None:
    assert writes(Touch(path=f"{WORK}/build/x.o", creates=True)) == [f"{WORK}/build"]
    assert writes(Touch(path=f"{WORK}/notes", writes=True)) == [f"{WORK}/notes"]
    assert writes(Touch(path=f"{WORK}/notes", changes=True)) == [f"{WORK}/notes"]
    assert writes(Touch(path=f"{WORK}/old", removes=True)) == [WORK]


def test_what_was_made_in_what_was_made() -> None:
    made = [Touch(path=f"{WORK}/out/{name}", creates=True) for name in ("", "a", "a/b")]
    made[0] = Touch(path=f"{WORK}/out", creates=True)
    assert writes(*made) == [WORK]


def test_nothing_is_granted_above_where_writing_was_allowed() -> None:
    touch = Touch(path=f"{WORK}/sub/file", removes=True)
    found, left = write_grants(
        [touch], NONE, limits(writable=(f"{WORK}/sub",), kind_of=lambda path: path == WORK and "directory")
    )
    assert found == []
    assert [each.what for each in left] == [touch.path]


def test_many_written_directories_become_one() -> None:
    touches = [Touch(path=f"{WORK}/{name}/file", creates=True) for name in "abcd"]
    assert writes(*touches) == [WORK]
    assert writes(*touches[:3]) == [f"{WORK}/{name}" for name in "abc"]


def test_temporary_files_are_not_paths() -> None:
    assert writes(Touch(path="/tmp/private/x", creates=True)) == []


NAMES = st.sampled_from(["a", "b", "tmpab12cd34", ".ssh", "key", "gh", "x1", "12345", "src"])
PATHS = st.builds(
    lambda top, parts: "/".join([top, *parts]),
    st.sampled_from(["", "/srv", HOME, f"{HOME}/tools", f"{HOME}/.config", WORK, "/etc", "/tmp"]),
    st.lists(NAMES, min_size=1, max_size=4),
)
TOUCHES = st.builds(
    Touch, path=PATHS, reads=st.booleans(), lists=st.booleans(), executes=st.booleans(), creates=st.booleans(),
    writes=st.booleans(), removes=st.booleans(),
)  # fmt: skip


@given(st.lists(TOUCHES, max_size=30))
def test_no_rule_ever_grants_a_secret_or_too_much(touches: list[Touch]) -> None:
    bounds = limits()
    writing, _ = write_grants(touches, NONE, bounds)
    reading, _ = read_grants(touches, NONE, bounds)
    for each in (*writing, *reading):
        assert each.path not in ("/", "/home", HOME, "/etc", "/tmp")
        for secret in bounds.secrets:
            assert not is_below(each.path, secret) or each.kind == "write", each
            assert not is_below(secret, each.path) or each.path == WORK, each
    assert all(any(is_below(each.path, root) for root in bounds.writable) for each in writing)
    assert reading == read_grants(list(reversed(touches)), NONE, bounds)[0]


# ---- programs


def rules(*seen: Executed, **changes: Any) -> list[str]:
    options: dict[str, Any] = {
        "find": lambda name: f"/usr/bin/{name}",
        "writable": (WORK,),
        "temporary": "/tmp/private",
    }
    return [each.text for each in exec_rules(seen, **(options | changes))[0]]


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("git commit -m x", "git commit *"),
        ("git -C dir commit -m x", "git -C dir commit *"),
        ("git --version", "git --version"),
        ("pip install -r requirements.txt", "pip install *"),
        ("npm run build", "npm run *"),
        ("ls -l /srv", "ls *"),
        ("ls", "ls *"),
        ("python3 -m pytest -q", "python3 -m pytest *"),
        ("python3 script.py 1 2", "python3 script.py *"),
        ("python3 -u script.py 1", "python3 -u script.py *"),
        ("python3", "python3"),
        ("python3 -c print(1)", "python3 -c 'print(1)'"),
        ("python3 -Ic print(1)", "python3 -Ic 'print(1)'"),
        ("sh -c ls", "sh -c ls"),
        ("bash -ec ls x", "bash -ec ls x"),
        ("node -e 1", "node -e 1"),
        ("perl -e 1", "perl -e 1"),
        ("sh", "sh"),
        ("bash -i", "bash -i"),
    ],
)
def test_one_rule_for_a_program_and_its_verb(words: str, rule: str) -> None:
    argv = tuple(words.split())
    assert rules(Executed(f"/usr/bin/{argv[0]}", argv)) == [rule]


def test_rules_are_accepted_and_allow_what_they_were_made_from() -> None:
    odd = ("sh", "-c", "echo 'a b' \"$x\" # not a reason\nls;", "a*b")
    texts = rules(Executed("/usr/bin/sh", odd), Executed("/usr/bin/git", ("git", "log")))
    policy = Policy.of(presets=["system"], exec_allow=texts)
    assert len(policy.exec_allow) == 2


def test_a_program_that_path_does_not_find_is_named_by_its_file() -> None:
    assert rules(Executed("/opt/x/git", ("git", "log"))) == ["/opt/x/git log *"]


def test_equal_rules_are_one_and_counted() -> None:
    found, _ = exec_rules(
        [Executed("/usr/bin/git", ("git", "log", "-1"), count=2), Executed("/usr/bin/git", ("git", "log"), count=3)],
        find=lambda name: f"/usr/bin/{name}", writable=(),
    )  # fmt: skip
    assert [(each.text, each.count, each.example) for each in found] == [("git log *", 5, "git log")]


def test_what_no_rule_can_name_is_said() -> None:
    odd = [
        Executed(f"{WORK}/a.out", ("./a.out",)),
        Executed("/usr/bin/sh", ("sh", "-c", "cat /tmp/private/x")),
        Executed("/usr/bin/sh", ("sh", "-c", "x"), truncated=True),
        Executed("/usr/bin/echo2", ("sh", "*", "x")),
        Executed("/srv/tmpab12cd34", ("x",)),
    ]
    found, left = exec_rules(odd, find=lambda name: "", writable=(WORK,), temporary="/tmp/private")
    assert [each.text for each in found] == []
    assert len(left) == 5


# ---- the network


def connects(*seen: Reached, collapse: bool = False) -> list[str]:
    return [each.text for each in connect_rules(seen, collapse_hosts=collapse, limits=limits())]


def test_hosts_by_name_and_addresses_where_there_is_none() -> None:
    assert connects(
        Reached("tcp", "192.0.2.1", 443, "api.x.com"), Reached("tcp", "192.0.2.2", 443, "cdn.x.com"),
        Reached("tcp", "192.0.2.3", 80), Reached("tcp", "2001:db8::1", 80),
    ) == ["192.0.2.3:80", "[2001:db8::1]:80", "api.x.com:443", "cdn.x.com:443"]  # fmt: skip


def test_hosts_of_one_domain_only_when_asked() -> None:
    hosts = [Reached("tcp", "192.0.2.1", 443, name) for name in ("a.x.com", "b.x.com", "y.com", "a.co.uk", "b.co.uk")]
    assert connects(*hosts, collapse=True) == ["*.x.com:443", "a.co.uk:443", "b.co.uk:443", "y.com:443"]


def test_ports_that_the_kernel_picks() -> None:
    assert connects(Reached("tcp", "127.0.0.1", 40123)) == ["localhost"]
    assert connects(Reached("tcp", "127.0.0.1", 8000), Reached("tcp", "::1", 8000)) == ["localhost:8000"]
    bound = [Reached("tcp", "127.0.0.1", 0), Reached("tcp", "", 40123), Reached("udp", "127.0.0.1", 5353)]
    assert [each.text for each in bind_rules(bound, limits())] == ["*", "udp://5353"]
    assert [each.text for each in bind_rules([Reached("tcp", "", 8000)], limits())] == ["8000"]


def test_a_lookup_of_ones_own_address_is_no_datagram() -> None:
    """getaddrinfo(3) connects UDP sockets to learn its source address, and sends nothing."""
    tcp, udp = Reached("tcp", "192.0.2.1", 443, "x.com"), Reached("udp", "192.0.2.1", 443, "x.com")
    assert connects(tcp, udp) == ["x.com:443"]
    assert connects(udp) == ["udp://x.com:443"]


def test_unix_sockets() -> None:
    assert connects(Reached("unix", path=f"{WORK}/s")) == [f"unix:{WORK}/s"]
    assert connects(Reached("unix", path=f"{WORK}/run/tmpab12cd34")) == [f"unix:{WORK}/run"]


# ---- the record


def line(**facts: Any) -> str:
    return json.dumps({"record": "decision", "decision": "allow", "exe": "/bin/x"} | facts)


def test_a_record_is_read_up_to_its_bounds() -> None:
    observed = observe(
        [
            line(kind="open", target="/a", access="read"),
            line(kind="open", target="/a", access="write"),
            line(kind="open", target="relative", access="read"),
            line(kind="exec", target="/bin/x", argv=["x", "1"]),
            line(kind="exec", target="/bin/x", argv=["x", "1"]),
            line(kind="connect", target="tcp://[::1]:80", host="h"),
            line(kind="connect", target="nonsense"),
            line(kind="connect", target="tcp://1.2.3.4:x"),
            line(kind="open", target="/b", decision="deny", cause="rule", syscall="openat", reason="secret"),
            '{"record": "dropped", "count": 7}',
            '{"record": "decision", "kind": ["x"], "target": {}}',
            "not json",
            "[1]",
            "[" * 100_000,
        ]
    )
    assert observed.touches == (Touch(path="/a", reads=True, writes=True, program="/bin/x"),)
    assert observed.executed == (Executed("/bin/x", ("x", "1"), count=2),)
    assert [(each.ip, each.port, each.host) for each in observed.reached] == [("::1", 80, "h")]
    assert [(each.target, each.by_rule) for each in observed.refused if each.target] == [("/b", True)]
    assert (observed.lost, observed.damaged) == (7, 3)


WORDS = st.sampled_from(["decision", "open", "exec", "connect", "allow", "read", "/x", "tcp://::1"])
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=5)) | WORDS
FIELDS = st.sampled_from(["record", "kind", "target", "decision", "argv", "access", "count", "host"])


@given(st.lists(st.text(max_size=60) | st.dictionaries(FIELDS, VALUES).map(json.dumps)))
def test_no_record_breaks_it(lines: list[str]) -> None:
    learned = learn(observe(lines), limits(), presets={}, find=lambda name: "", loaders={})
    profile_text(learned, limits(), heading=["x\n[config]"], scalars={})


# ---- the text


def test_paths_as_a_profile_names_them() -> None:
    names = {f"{WORK}/src/x": "src/x", WORK: ".", f"{HOME}/y": "~/y", "/srv": "/srv", f"{WORK}/~x": "./~x"}
    assert {path: shown_path(path, limits()) for path in names} == names


EXISTING = """\
# top
title = 1

[config]
presets = ["system"]

[filesystem]
read = [
    "/a", # a
    '/b]' # b, without a comma
]
data = "/single"
write = []

[program]
env = {A = "]", B = '''
x'''}
"""


@pytest.mark.parametrize(
    ("key", "before"),
    [("filesystem.read", ["/a", "/b]"]), ("filesystem.data", ["/single"]), ("filesystem.write", []),
     ("filesystem.deny", []), ("network.allow", []), ("config.presets", ["system"])],
)  # fmt: skip
def test_a_list_is_extended_where_it_stands(key: str, before: list[str]) -> None:
    text, news = merged_text(EXISTING, {key: [Entry("new", "why")]}, {})
    section, _, name = key.partition(".")
    assert tomllib.loads(text)[section][name] == [*before, "new"]
    assert news == [f"{key}: new"]
    assert "# new: why" in text
    assert [part for part in EXISTING.split() if part not in text and part not in ('["system"]', "[]", "=")] == []
    again, news = merged_text(text, {key: [Entry("new", "why")]}, {})
    assert (again, news) == (text, [])


def test_rules_about_programs_are_not_put_where_there_were_none() -> None:
    """They would take away what is allowed without them."""
    assert merged_text(EXISTING, {"exec.allow": [Entry("x")]}, {}) == (EXISTING, [])


def test_what_cannot_be_extended_in_place_is_refused() -> None:
    with pytest.raises(SandlockError, match="by hand"):
        merged_text(
            "[filesystem]\n[filesystem.more]\nx = 1\n[[filesystem.list]]\n", {"filesystem.list": [Entry("x")]}, {}
        )


def test_rules_with_odd_text_stay_values() -> None:
    odd = 'a"\n[x]\\ \u007f # é'
    proposal = Proposal(kind="data", path=f"/srv/{odd}", count=1, example=f"/srv/{odd}", why="read")
    learned = learn(observe([]), limits(), presets={}, find=lambda name: "", loaders={})
    text = profile_text(learned.__class__(grants=(proposal,)), limits(), heading=[odd], scalars={})
    assert tomllib.loads(text) == {"filesystem": {"data": [f"/srv/{odd}"]}}
