"""Rules that people already have: what becomes of each, and that a real program meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sandlock
import sandlock.profile
from sandlock import PolicyError
from sandlock.sessions.imported import FORMATS, Imported, import_rules, static_paths


def claude(tmp_path: Path, **content: object) -> Imported:
    folder = tmp_path / ".claude"
    folder.mkdir(exist_ok=True)
    file = folder / "settings.json"
    file.write_text(json.dumps(content))
    return import_rules(str(file), workspace=str(tmp_path))


def effects(imported: Imported) -> dict[str, str]:
    return {note.source: note.effect for note in imported.notes}


@pytest.mark.parametrize(
    ("action", "rule", "field", "value"),
    [
        ("deny", "Bash(git push:*)", "exec_deny", "git push *"),
        ("deny", "Bash(git push *)", "exec_deny", "git push *"),
        ("deny", "Bash(git status)", "exec_deny", "git status"),
        ("ask", "Bash(npm run test:*)", "exec_ask", "npm run test *"),
        ("allow", "Bash(python3 -m 'my mod')", "exec_allow", "python3 -m 'my mod'"),
        ("allow", "Bash", "exec_allow", "*"),
        ("allow", "Bash(*)", "exec_allow", "*"),
        ("allow", "WebFetch(domain:docs.python.org)", "net_allow", "docs.python.org:443"),
        ("allow", "WebFetch(domain:*.python.org)", "net_allow", "*.python.org:80"),
        ("deny", "WebFetch(domain:evil.example)", "net_deny", "evil.example"),
        ("deny", "Read(//etc/shadow)", "fs_denied", "/etc/shadow"),
        ("deny", "Read(//srv/keys/**)", "fs_denied", "/srv/keys"),
        ("deny", "Write(//srv/work/package.json)", "fs_protected", "/srv/work/package.json"),
        ("allow", "Edit(//srv/work/**)", "fs_writable", "/srv/work"),
    ],
)
def test_claude_rules(tmp_path: Path, action: str, rule: str, field: str, value: str) -> None:
    imported = claude(tmp_path, permissions={action: [rule]})
    assert value in dict(imported.fields)[field]
    assert {note.effect for note in imported.notes} == {"carried"}
    assert value in getattr(imported.policy(), field)


def test_claude_paths_begin_where_it_says(tmp_path: Path) -> None:
    home = os.path.expanduser("~")
    rules = ["Read(./.env)", "Read(/secrets/**)", "Read(~/.ssh/**)", "Read(keys/id)"]
    found = dict(claude(tmp_path, permissions={"deny": rules}).fields)["fs_denied"]
    assert set(found) == {f"{tmp_path}/.env", f"{tmp_path}/secrets", f"{home}/.ssh", f"{tmp_path}/keys/id"}


def test_a_denied_pattern_that_knows_only_today_says_so(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.pem").write_text("key")
    (tmp_path / "a" / "b" / ".env").write_text("key")
    imported = claude(tmp_path, permissions={"deny": ["Read(**/*.pem)", "Read(.env)", "Read(*.none)"]})
    assert set(dict(imported.fields)["fs_denied"]) == {
        f"{tmp_path}/a/b/x.pem",
        f"{tmp_path}/a/b/.env",
        f"{tmp_path}/.env",
    }
    assert effects(imported) == {
        "deny Read(**/*.pem)": "weaker",
        "deny Read(.env)": "weaker",
        "deny Read(*.none)": "dropped",
    }


def test_what_cannot_be_said_is_wider_for_denials_and_dropped_for_allowances(tmp_path: Path) -> None:
    imported = claude(
        tmp_path,
        permissions={
            "deny": ["Bash(rm -rf*)", "Bash(cd x && rm y)", "Bash(*rm)"],
            "allow": ["Bash(npm run *:build)", "mcp__github__*", "Bash(unclosed 'x)"],
            "ask": ["WebFetch(domain:x.com)", "Read(./a)"],
        },
    )
    assert dict(imported.fields) == {"exec_deny": ("rm *",)}
    found = effects(imported)
    assert found.pop("deny Bash(rm -rf*)") == "wider"
    assert set(found.values()) == {"dropped"}
    assert len(found) == 7
    first = imported.describe()[0]
    assert first.startswith("dropped: ")


def test_claude_sandbox(tmp_path: Path) -> None:
    imported = claude(
        tmp_path,
        sandbox={
            "enabled": True,
            "autoAllowBashIfSandboxed": True,
            "excludedCommands": ["docker"],
            "network": {
                "allowedDomains": ["*.npmjs.org", "github.com:22"],
                "deniedDomains": ["bad.npmjs.org"],
                "allowUnixSockets": ["/run/x.sock"],
                "allowLocalBinding": True,
                "httpProxyPort": 8080,
            },
        },
        hooks={},
    )
    fields = dict(imported.fields)
    assert fields["net_allow"] == (
        "*.npmjs.org:443", "*.npmjs.org:80", "github.com:22", "unix:/run/x.sock", "localhost",
    )  # fmt: skip
    assert fields["net_deny"] == ("bad.npmjs.org",)
    assert fields["net_allow_bind"] == ("*",)
    assert imported.unmatched == "allow"
    assert "*" in imported.policy().exec_allow
    assert effects(imported)["sandbox.excludedCommands"] == "dropped"
    assert effects(imported)["hooks"] == "dropped"


CODEX = """
# what we agreed on
prefix_rule(pattern=["git", ["status", "diff"]], decision="allow", justification="fine")
prefix_rule(pattern=["git", "push"], decision="prompt", justification="ask  me")
prefix_rule(pattern=["rm", "-rf"], decision="forbidden")
prefix_rule(pattern=["make"])
network_rule(host="api.example.com", protocol="https", decision="allow")
network_rule(host="evil.example.com", decision="forbidden")
"""


def test_codex_rules(tmp_path: Path) -> None:
    file = tmp_path / "default.rules"
    file.write_text(CODEX)
    imported = import_rules(str(file))
    assert dict(imported.fields) == {
        "exec_allow": ("git status * # fine", "git diff * # fine", "make *"),
        "exec_ask": ("git push * # ask me",),
        "exec_deny": ("rm -rf *",),
        "net_allow": ("api.example.com:443",),
        "net_deny": ("evil.example.com",),
    }
    assert {note.effect for note in imported.notes} == {"carried"}
    assert imported.unmatched == "ask"


def test_codex_rules_are_read_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / "x.rules"
    file.write_text(
        f"open({str(mark)!r}, 'w')\n"
        "prefix_rule(pattern=[str(1)], decision='allow')\n"
        "x = 1\n"
        "prefix_rule(['git'])\n"
        "prefix_rule(pattern=['a'], decision='perhaps')\n"
        f"prefix_rule(pattern={[['a', 'b']] * 9}, decision='forbidden')\n"
    )
    imported = import_rules(str(file))
    assert not mark.exists()
    assert imported.fields == ()
    assert {note.effect for note in imported.notes} == {"dropped"}
    assert len(imported.notes) == 6


def test_codex_config(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'approval_policy = "on-failure"\nsandbox_mode = "workspace-write"\nmodel = "x"\n'
        f'[sandbox_workspace_write]\nwritable_roots = ["{tmp_path}/other"]\nnetwork_access = true\n'
    )
    imported = import_rules(str(file), workspace=str(tmp_path))
    assert dict(imported.fields) == {
        "fs_writable": (str(tmp_path), f"{tmp_path}/other"),
        "net_allow": ("*",),
    }
    assert imported.unmatched == "allow"


def test_srt_settings(tmp_path: Path) -> None:
    file = tmp_path / "srt-settings.json"
    file.write_text(
        json.dumps(
            {
                "network": {"allowedDomains": ["github.com"], "deniedDomains": []},
                "filesystem": {"denyRead": ["~/.ssh"], "allowWrite": [".", "/tmp"], "denyWrite": [".env"]},
            }
        )
    )
    imported = import_rules(str(file), workspace=str(tmp_path))
    assert dict(imported.fields) == {
        "fs_readable": ("/",),
        "net_allow": ("github.com:443", "github.com:80"),
        "fs_denied": (os.path.expanduser("~/.ssh"),),
        "fs_writable": (str(tmp_path), "/tmp"),
        "fs_protected": (f"{tmp_path}/.env",),
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", "{"),
        ("x.json", "[]"),
        ("x.json", '{"a": 1}'),
        ("x.rules", "prefix_rule("),
        ("x.toml", "= 1"),
        ("x.json", "\0"),
    ],
)
def test_what_is_no_such_file_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(PolicyError):
        import_rules(str(file))
    with pytest.raises(PolicyError, match="No such file"):
        import_rules(str(tmp_path / "none"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["permissions", "sandbox", "deny", "ask", "allow", "network", "filesystem", "allowedDomains",
                         "denyRead", "allowWrite", "additionalDirectories", "allowUnixSockets", "enabled"]),
        inner, max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(document=JSON, format=st.sampled_from(FORMATS))
@settings(max_examples=150, deadline=None)
def test_any_document_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: object, format: str
) -> None:
    place = tmp_path_factory.mktemp("rules")
    file = place / "x.json"
    file.write_text(json.dumps(document))
    try:
        imported = import_rules(str(file), format=format, workspace=str(place))
    except PolicyError:
        return
    imported.policy()
    assert all(line.isprintable() or "\\" in line or line for line in imported.describe())


def test_static_paths(tmp_path: Path) -> None:
    assert static_paths("a/**", "/w") == (["/w/a"], True)
    assert static_paths("./a/../b", "/w") == (["/w/b"], True)
    assert static_paths("/x/*", "/w") == (["/x"], True)
    assert static_paths("/**", "/w") == (["/"], True)


FOOLING = (
    "git push origin",
    "sh -c 'git push origin'",
    "env GIT_TRACE=0 git push origin",
    "echo push | xargs git",
    'python3 -c \'import subprocess; subprocess.run(["git", "push"])\'',
    "shopt -s expand_aliases; alias g=git; eval 'g push'",
    "git${IFS}push",
    "g=git; $g push",
    "cp $(command -v git) ./tool && ./tool push",
)


@pytest.mark.parametrize("line", FOOLING)
def test_a_command_line_that_fools_a_text_rule_meets_the_rule_here(tmp_path: Path, line: str) -> None:
    """A repository that would be pushed to tells whether the push happened, whatever the program says."""
    imported = claude(tmp_path, permissions={"deny": ["Bash(git push:*)"], "allow": ["Bash"]})
    remote, work = tmp_path / "remote.git", tmp_path / "work"
    make = (
        f"git init -q --bare {remote} && git init -q {work} && cd {work} && git config push.default current && "
        f"git config user.name a && git config user.email a@b && git remote add origin {remote} && "
        "git commit -q --allow-empty -m x && git config branch.$(git branch --show-current).remote origin"
    )
    subprocess.run(["sh", "-c", make], check=True, capture_output=True)
    path = f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"  # a python3 that the preset covers
    env = {"HOME": str(tmp_path), "PATH": path}
    base = sandlock.Policy(presets=["python", "git"], fs_writable=[str(tmp_path)], env=env)
    policy = imported.policy(base)
    if "./tool" in line:  # a copy has another name: what is denied by name is allowed by name, too
        policy = policy.but(exec_allow=["bash *", "cp *", "git *"])
    with sandlock.Sandbox(policy) as box:
        result = box.run(["bash", "-c", line], cwd=str(work))
    assert not _refs(remote)
    assert result.denials
    with sandlock.Sandbox(base) as box:  # the control: without the rule it is pushed
        box.run(["bash", "-c", line], cwd=str(work))
    assert _refs(remote)


def _refs(remote: Path) -> str:
    done = subprocess.run(["git", "-C", str(remote), "for-each-ref"], capture_output=True, text=True, check=True)
    return done.stdout


def _command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sandlock.cli", "agent", "import", *words]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_writes_a_profile_that_loads(tmp_path: Path) -> None:
    rules = tmp_path / "team.rules"
    rules.write_text(CODEX)
    done = _command("team.rules", "-o", "team.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "7 rules, 0 of them not carried over in full" in done.stderr
    loaded = sandlock.profile.load(str(tmp_path / "team.toml")).policy()
    assert loaded == import_rules(str(rules)).policy()
    again = _command("team.rules", "-o", "team.toml", cwd=tmp_path)
    assert again.returncode == 125
    assert "not there yet" in again.stderr
    assert _command("team.rules", "--unmatched", "perhaps", cwd=tmp_path).returncode == 125


def test_a_report_cannot_leave_its_comments(tmp_path: Path) -> None:
    file = tmp_path / ".claude"
    file.mkdir()
    (file / "settings.json").write_text(json.dumps({"permissions": {"allow": ["Odd\n[filesystem]\nwrite = ['/']"]}}))
    done = _command(".claude/settings.json", cwd=tmp_path)
    assert done.returncode == 0
    assert "write" not in "".join(line for line in done.stdout.splitlines() if not line.startswith("#"))
