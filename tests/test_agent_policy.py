"""The policy of an agent run: what it grants, why, and what stays closed; pure and on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from agent_place import Place, agent, run

from sandlock import PolicyError, SandlockError
from sandlock._record import replace
from sandlock.policy import OPTIONS
from sandlock.sessions import bounded_walk
from sandlock.sessions.agent_presets import ADDONS, AGENT_PRESETS
from sandlock.sessions.agent_profile import find_profile, shipped
from sandlock.sessions.secret_files import env_files, is_secret_variable
from sandlock.sessions.setup_text import describe, to_dict
from sandlock.sessions.workspace import settle


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place.made(tmp_path, monkeypatch)


# ---- the default ----------------------------------------------------------------------------------------------------


def test_default(place: Place) -> None:
    place.write(".ssh/id", "KEY")
    place.write("plain", "PLAIN")
    setup = place.prepare()
    result = run(setup, f"echo in > file; cat file; cd; pwd; echo x > new; cat {place.home}/.ssh/id {place.home}/plain")
    assert result.stdout_text == f"in\n{place.state}/home\n"
    assert result.stderr_text.count("Permission denied") == 2
    assert (place.work / "file").read_text() == "in\n"
    assert not (place.home / "new").exists()
    assert setup.policy.fs_denied == ()
    assert settle(setup) == [f"{place.state}/home: kept, with what the program made there"]
    assert sorted(os.listdir(place.state)) == ["home"]


def test_nothing_is_left_of_a_run_that_made_nothing(place: Place) -> None:
    setup = place.prepare()
    assert run(setup, "mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c; cat $TMPDIR/a/b/c").stdout_text == "x\n"
    assert settle(setup) == []
    assert os.listdir(place.state) == []


def test_the_shared_temporary_directory_is_closed(place: Place, tmp_path: Path) -> None:
    setup = place.prepare()
    there = tmp_path / "outside"
    there.write_text("OUTSIDE")
    result = run(setup, f"cat {there}; echo x > {tmp_path}/made; ls /tmp; echo $TMPDIR")
    assert result.stdout_text == f"{setup.temporary}\n"
    assert there.read_text() == "OUTSIDE"
    assert not (tmp_path / "made").exists()


def test_read_only(place: Place) -> None:
    (place.work / "file").write_text("before\n")
    setup = place.prepare(presets=["read-only"])
    result = run(setup, "cat file; echo after > file; rm file; touch new; echo ok > $TMPDIR/x; cat $TMPDIR/x")
    assert result.stdout_text == "before\nok\n"
    assert os.listdir(place.work) == ["file"]
    assert (place.work / "file").read_text() == "before\n"


@pytest.mark.parametrize("where", ["/", "home", "above", "missing", "record", "keys", "in keys", "profiles"])
def test_refused_workspaces(place: Place, where: str) -> None:
    home = place.home
    path = {"/": "/", "home": home, "above": home.parent, "missing": home / "no", "record": place.state,
            "keys": home / ".ssh", "in keys": home / ".aws/sso", "profiles": home / ".config"}[where]  # fmt: skip
    for name in (".ssh", ".aws/sso", ".config/sandlock/profiles"):
        (home / name).mkdir(parents=True)
    with pytest.raises(PolicyError, match=r"project directory|your profiles"):
        place.prepare(workspace=str(path))
    assert os.listdir(place.state) == []


def test_a_link_to_the_home_directory_is_refused(place: Place) -> None:
    (place.home / "link").symlink_to(place.home)
    with pytest.raises(PolicyError, match="keys and all"):
        place.prepare(workspace=str(place.home / "link"))


def test_the_record_is_not_granted(place: Place) -> None:
    with pytest.raises(PolicyError, match="record of the run"):
        place.prepare(fields={"fs_writable": [str(place.state.parent)]})
    assert os.listdir(place.state) == []


def test_a_state_directory_is_used_once(place: Place) -> None:
    first = place.prepare()
    (Path(first.temporary) / "mine").write_text("x")
    with pytest.raises(SandlockError, match="new state directory"):
        place.prepare()
    assert (Path(first.temporary) / "mine").exists()


def test_what_is_unknown_or_out_of_place(place: Place) -> None:
    for values in ({"addons": ["gti"]}, {"presets": ["agent", "read-only"]}, {"fields": {"chroot": "/usr"}},
                   {"fields": {"net_alow": [":1"]}}, {"presets": ["nothing"]}):  # fmt: skip
        with pytest.raises(PolicyError):
            place.prepare(**values)
        assert os.listdir(place.state) == []


# ---- secrets --------------------------------------------------------------------------------------------------------

SECRET = (".ssh/id_rsa", ".aws/credentials", ".config/gcloud/token", ".kube/config", ".docker/config.json", ".netrc",
          ".gnupg/secring", ".mozilla/firefox/cookies", ".config/chromium/Default/Cookies", ".password-store/x.gpg",
          ".npmrc", ".git-credentials")  # fmt: skip


def test_secrets_below_a_grant(place: Place) -> None:
    for name in (*SECRET, ".docker/other", ".config/plain", "notes"):
        place.write(name, f"content of {name}\n")
    setup = place.prepare(fields={"fs_readable": [str(place.home)]})
    names = " ".join(f"{place.home}/{name}" for name in SECRET)
    result = run(setup, f"cd {place.home}; cat .docker/other .config/plain notes; for f in {names}; do cat $f; done")
    assert result.stdout_text == "".join(f"content of {name}\n" for name in (".docker/other", ".config/plain", "notes"))
    assert result.stderr_text.count("Permission denied") == len(SECRET)


def test_a_secret_that_is_named_was_meant(place: Place) -> None:
    place.write(".ssh/known_hosts", "HOSTS\n")
    place.write(".ssh/id", "KEY\n")
    setup = place.prepare(fields={"fs_data": [str(place.home / ".ssh/known_hosts")]})
    assert run(setup, f"cat {place.home}/.ssh/known_hosts {place.home}/.ssh/id").stdout_text == "HOSTS\n"


def test_env_files(place: Place) -> None:
    for name in (".env", ".env.local", "sub/.env", ".env.example", "sub/.env.sample", "x.env", "node_modules/m/.env"):
        place.write(f"work/{name}", f"{name}\n")
    setup = place.prepare()
    names = {os.path.relpath(path, place.work) for path in setup.policy.fs_denied}
    assert names == {".env", ".env.local", "sub/.env"}
    readable = ".env.example sub/.env.sample x.env node_modules/m/.env"
    script = f"cat {readable}; cat .env; cat .env.local; cat sub/.env; ln .env other; cat other; mv sub s; cat s/.env; "
    result = run(setup, f"{script} echo mine > sub/.env.new; cat sub/.env.new")
    assert result.stdout_text == "".join(f"{name}\n" for name in readable.split()) + "mine\n"
    assert (place.work / "sub/.env").read_text() == "sub/.env\n"
    assert any("later are its own" in each.why for each in setup.reasons if each.field == "fs_denied")


def test_an_env_file_that_is_granted_by_name_was_meant(place: Place) -> None:
    env = place.write("work/.env", "NEEDED\n")
    setup = place.prepare(fields={"fs_data": [str(env)]})
    assert run(setup, "cat .env").stdout_text == "NEEDED\n"


def test_the_walk_is_bounded_and_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        place.write(f"work/deep/d{number}/file")
    place.write("work/.env")
    monkeypatch.setattr(bounded_walk, "MAX_ENTRIES", 10)
    found, complete = env_files(str(place.work))
    assert (found, complete) == ((str(place.work / ".env"),), False)
    assert any("too large" in warning for warning in place.prepare().warnings)


def test_the_walk_follows_no_links(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/.env").write_text("x")
    (place.work / "link").symlink_to(tmp_path / "elsewhere")
    (place.work / "loop").symlink_to(place.work)
    assert env_files(str(place.work)) == ((), True)


@pytest.mark.parametrize("case", ["default", "granted", "given", "nothing left out"])
def test_programs_that_may_not_run_hide_none(place: Place, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Shims in the home directory, before the system's programs; links there to what is granted stay."""
    for name in ("shims/true", "other/program"):
        place.write(name, "#!/bin/sh\necho shim\n").chmod(0o755)
    (place.home / "links").mkdir()
    (place.home / "links/mine").symlink_to("/bin/true")
    given = [*(f"{place.home}/{name}" for name in ("shims", "other", "links", "gone")), "/usr/bin", "/bin"]
    fields: dict[str, Any] = {
        "granted": {"fs_readable": [f"{place.home}/shims"]},
        "given": {"env": {"PATH": ":".join(given)}},
    }.get(case, {})
    expected = {"granted": given[:1] + given[2:3] + given[4:], "given": given}.get(case, [given[2], *given[4:]])
    monkeypatch.setenv("PATH", ":".join(given if case != "nothing left out" else expected))
    setup = place.prepare(fields=fields)
    script = "true && mine; echo $PATH" if case == "default" else "echo $PATH"
    assert run(setup, script).stdout_text == ":".join(expected) + "\n"
    said = any("may not run" in each.why for each in setup.reasons if each.field == "env")
    assert said is (case in ("default", "granted"))


def test_what_is_executed_later_is_protected(place: Place) -> None:
    place.write("work/.vscode/tasks.json", "mine\n")
    place.write("work/.envrc", "mine\n")
    attacks = """
        echo evil > .vscode/tasks.json; echo evil > .envrc; mv .vscode v; mkdir .idea; ln -s file .mcp.json
        echo evil > .vscode/new; cat .vscode/tasks.json .envrc; mkdir -p sub/.idea; echo fine > file; cat file
    """
    assert run(place.prepare(), attacks).stdout_text == "mine\nmine\nfine\n"
    assert sorted(os.listdir(place.work)) == [".envrc", ".vscode", "file", "sub"]
    assert (place.work / ".envrc").read_text() == "mine\n"


@pytest.mark.parametrize("how", ["named", "workspace-write"])
def test_protection_can_be_taken_off(place: Place, how: str) -> None:
    envrc = place.write("work/.envrc", "mine\n")
    values = {"fields": {"fs_writable": [str(envrc)]}} if how == "named" else {"presets": ["workspace-write"]}
    assert run(place.prepare(**values), "echo theirs > .envrc; cat .envrc").stdout_text == "theirs\n"
    assert envrc.read_text() == "theirs\n"


# ---- environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "secret"),
    [("GITHUB_TOKEN", True), ("OPENAI_API_KEY", True), ("AWS_REGION", True), ("db_password", True), ("EDITOR", False),
     ("LANG", False), ("KEYBOARD", False), ("SSH_AUTH_SOCK", True)],
)  # fmt: skip
def test_secret_names(name: str, secret: bool) -> None:
    assert is_secret_variable(name) is secret


def test_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"MY_TOKEN": "t1", "AWS_SECRET_ACCESS_KEY": "t2", "TOOL_API_KEY": "t3", "TOOL_MODE": "m", "TERM": "xterm",
              "COLORTERM": "truecolor", "OTHER": "o"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    plain = run(place.prepare(), "env").stdout_text.splitlines()
    assert {"TERM=xterm", "COLORTERM=truecolor", f"HOME={place.state}/home"} <= set(plain)
    assert not [line for line in plain if line.split("=")[0] in ("MY_TOKEN", "TOOL_API_KEY", "TOOL_MODE", "OTHER")]
    assert "t2" not in "".join(plain)


@pytest.mark.parametrize(("named", "passed"), [(["TOOL_*"], ["TOOL_MODE"]), (["TOOL_API_KEY"], ["TOOL_API_KEY"])])
def test_a_pattern_passes_no_secret(
    place: Place, monkeypatch: pytest.MonkeyPatch, named: list[str], passed: list[str]
) -> None:
    monkeypatch.setenv("TOOL_API_KEY", "key")
    monkeypatch.setenv("TOOL_MODE", "mode")
    setup = place.prepare(profile=agent(f"[agent]\npass_env = {json.dumps(named)}"))
    found = [line.split("=")[0] for line in run(setup, "env").stdout_text.splitlines() if line.startswith("TOOL_")]
    assert found == passed


# ---- composition and reasons ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", AGENT_PRESETS)
@pytest.mark.parametrize("addons", [(), *((name,) for name in ADDONS), tuple(ADDONS)])
def test_every_value_has_a_reason(place: Place, preset: str, addons: tuple[str, ...]) -> None:
    place.write("work/.env")
    place.write(".gitconfig")
    flags = {"timeout": "5m", "net_allow": ["example.org:443"], "max_processes": 99, "exec_deny": ["rm *"]}
    setup = place.prepare(presets=[preset], addons=addons, profile=find_profile("python"), fields=flags)
    given = {(each.field, each.value) for each in setup.reasons}
    for name, value in setup.policy.changes().items():
        for each in value if isinstance(value, tuple) else (value,):
            text = f"{each[0]}={each[1]}" if name == "env" else str(each)
            assert (name, text) in given
    assert all(each.why and each.origin for each in setup.reasons)
    origins = {each.origin for each in setup.reasons}
    assert {f"preset {preset}", "flag", *(f"add-on {name}" for name in addons)} <= origins


def test_addons_compose(place: Place) -> None:
    setup = place.prepare(addons=["git", "pip", "npm", "loopback"])
    policy = setup.policy
    assert {"pypi.org:443", "registry.npmjs.org:443", "localhost"} <= set(policy.net_allow)
    assert {"system", "python", "node"} <= set(policy.presets)
    assert "tmp" not in policy.presets
    assert any(rule.startswith("git push * # ") for rule in setup.ask_rules)


def test_flags_extend_and_replace(place: Place) -> None:
    profile = agent('[agent]\nhosts = ["a.example:443"]\n[limits]\ntimeout = "1m"\nprocesses = 5')
    flags = {"timeout": "2m", "net_allow": ["b.example:443"], "env": {"HOME": "/nowhere"}}
    setup = place.prepare(profile=profile, fields=flags)
    assert (setup.policy.timeout, setup.policy.max_processes) == (120, 5)
    assert {"a.example:443", "b.example:443"} <= set(setup.policy.net_allow)
    assert dict(setup.env)["HOME"] == "/nowhere"
    assert [each.origin for each in setup.reasons if each.field == "timeout"] == ["flag"]


def test_the_text_tells_no_secret_and_is_harmless(place: Place) -> None:
    odd = place.home / "work\x1b[31m"
    odd.mkdir()
    setup = place.prepare(workspace=str(odd), fields={"env": {"MY_TOKEN": "s3cr3t", "MODE": "plain"}})
    for text in (describe(setup), json.dumps(to_dict(setup), ensure_ascii=False)):
        assert "s3cr3t" not in text
        assert "MY_TOKEN" in text
        assert "MODE=plain" in text
    assert "\x1b" not in describe(setup)
    assert "Not possible:" in describe(setup)
    data = to_dict(setup)
    assert data["schema"] == 1
    assert {"field", "value", "why", "from"} == set(data["reasons"][0])


def test_every_list_that_the_text_groups_is_an_option() -> None:
    from sandlock.sessions.setup_text import GROUPS

    names = {option.name for option in OPTIONS} | {"home"}
    assert {field for _, fields in GROUPS for field in fields} <= names


# ---- profiles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claude", "codex", "aider", "gemini", "opencode", "goose", "python", "agent"])
def test_shipped_profiles(place: Place, name: str) -> None:
    assert name in shipped()
    found = find_profile(name)
    setup = place.prepare(profile=replace(found, hosts=()))  # names are looked up at the start of a run
    assert run(setup, "echo runs").stdout_text == "runs\n"
    assert all(":" in host and "*" not in host for host in found.hosts)


def test_no_profile_writes_what_is_executed_outside() -> None:
    """Settings of agents name hooks and MCP servers."""
    for name in shipped():
        for path in find_profile(name).home_write:
            assert not path.endswith(("settings.json", "config.toml", ".claude.json", "config.yaml", "bin/"))
            assert path.rstrip("/").count("/"), f"{name}: {path} is a whole directory of the home"


@pytest.mark.parametrize(
    ("text", "message"),
    [("[agent]\nhome_raed = []", "home_read"), ('[agent]\nadd = ["gti"]', "git"), ("agent = 3", "section"),
     ('[agent]\npresets = ["agent", "read-only"]', "name one"), ('[agent]\nhosts = ["a:99999"]', "hosts"),
     ("[agent]\nfull_screen = 1", "truth"), ("[agent]\nhome_read = [3]", "list of texts")],
)  # fmt: skip
def test_profiles_that_are_not_understood(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        agent(text)


@pytest.mark.parametrize("name", ["/etc/shadow", "../other", "a/../../other", ".", "~/../x"])
def test_dotfiles_outside_of_the_home_directory(place: Place, name: str) -> None:
    for key in ("home_read", "home_write", "home_copy"):
        with pytest.raises(PolicyError, match="below the home"):
            place.prepare(profile=agent(f"[agent]\n{key} = [{json.dumps(name)}]"))


def test_the_profile_of_a_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = place.home / "tools"
    for name in ("claude", "python3.12", "other"):
        place.write(f"tools/{name}", "#!/bin/sh\n").chmod(0o755)
        place.write(f"work/{name}", "#!/bin/sh\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin")

    def found(*command: str) -> str:
        return find_profile(None, command, str(place.work)).name

    assert found("claude") == "claude"
    assert found(str(tools / "claude")) == "claude"
    assert found("python3.12") == "python"
    assert found("other") == found() == "agent"
    # what the repository brings is not trusted with the agent's login
    assert found("./claude") == found(str(place.work / "claude")) == "agent"
    assert found("./python3.12") == "python"
    monkeypatch.setenv("PATH", f"{place.work}:/usr/bin")
    assert found("claude") == "agent"


def test_own_profiles_come_first(place: Place) -> None:
    place.write(".config/sandlock/profiles/claude.toml", '[agent]\nhosts = ["mine.example:443"]')
    place.write(".config/sandlock/profiles/plain.toml", '[config]\npresets = ["system"]')
    assert find_profile("claude").hosts == ("mine.example:443",)
    assert find_profile("plain").fields == (("presets", ("system",)),)
    with pytest.raises(PolicyError, match="claude"):
        find_profile("cluade")
