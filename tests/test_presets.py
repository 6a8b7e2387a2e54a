"""Presets: what they grant, to whom, and what they never grant."""

from __future__ import annotations

import os
import pathlib
import sys

import pytest

from sandlock import presets
from sandlock.errors import PolicyError
from sandlock.policy import Policy
from sandlock.presets import KINDS, PRESETS, Grant, Surroundings, closure, expand, look_around


def here(**changes: object) -> Surroundings:
    facts = {"root": False, "home": "/home/me", "cwd": "/project", "path": "/usr/bin:/bin"}
    return Surroundings(**{**facts, **changes})  # type: ignore[arg-type]


def paths(*names: str, kind: str | None = None, **changes: object) -> set[str]:
    grants = expand(names, surroundings=here(**changes)).grants
    return {grant.path for grant in grants if kind in (None, grant.kind)}


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("root", [False, True])
def test_every_preset_is_sound(name: str, root: bool) -> None:
    assert PRESETS[name]["description"].endswith(".")
    expansion = expand([name], surroundings=here(root=root))
    assert expansion.grants
    for grant in expansion.grants:
        assert grant.kind in KINDS
        assert grant.path.startswith("/")
        assert grant.path.rstrip("/"), "no preset grants the root"
        assert grant.path not in ("/home", "/home/me", "/root", "/dev", "/var", "/run", "/sys")
        assert grant.optional or name == "workspace"
    assert len({(grant.path, grant.kind) for grant in expansion.grants}) == len(expansion.grants)


@pytest.mark.parametrize("name", list(PRESETS))
def test_no_preset_grants_secrets_to_root(name: str) -> None:
    """Root reads everything it is granted, so /etc is granted to it entry by entry."""
    granted = paths(name, root=True)
    assert "/etc" not in granted
    for secret in (
        *(
            "/etc/shadow",
            "/etc/gshadow",
            "/etc/shadow-",
            "/etc/sudoers",
            "/etc/sudoers.d",
            "/etc/ssh",
            "/etc/ssl",
        ),
        *(
            "/etc/ssh/ssh_host_ed25519_key",
            "/etc/ssl/private",
            "/etc/pki",
            "/etc/pki/tls/private",
            "/etc/krb5.keytab",
        ),
        *("/etc/machine-id", "/etc/NetworkManager", "/etc/wpa_supplicant", "/etc/security", "/etc/cron.d"),
    ):
        above = {secret} | {str(parent) for parent in pathlib.PurePath(secret).parents} - {"/"}
        assert not granted & above, secret


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("name", list(PRESETS))
def test_no_preset_grants_the_users_secrets(name: str, root: bool) -> None:
    granted = paths(name, root=root)
    for secret in (
        *(
            ".ssh",
            ".ssh/id_ed25519",
            ".gnupg",
            ".git-credentials",
            ".config/git/credentials",
            ".netrc",
            ".npmrc",
        ),
        *(".aws", ".config/gh", ".cargo/credentials.toml", ".docker", ".kube", ".pypirc", ".bash_history"),
    ):
        full = pathlib.PurePath("/home/me") / secret
        assert not granted & {str(full), *(str(parent) for parent in full.parents)}, secret


def test_an_ordinary_user_reads_etc_with_his_own_permissions() -> None:
    assert "/etc" in paths("system", kind="data")
    assert not any(path.startswith("/etc/") for path in paths("system"))


def test_root_gets_what_programs_open_at_start() -> None:
    granted = paths("system", root=True, kind="data")
    for entry in (
        "ld.so.cache",
        "nsswitch.conf",
        "passwd",
        "group",
        "hosts",
        "resolv.conf",
        "localtime",
        "ssl/certs",
    ):
        assert f"/etc/{entry}" in granted


def test_runtime_directories_of_root_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: ["python3.12", "perl", "java-21-openjdk", "shadow", "perlsecret"])
    granted = paths("system", root=True)
    assert {"/etc/python3.12", "/etc/perl", "/etc/java-21-openjdk"} <= granted
    assert "/etc/shadow" not in granted


def test_system_is_read_only() -> None:
    assert paths("system", kind="write") == set()
    assert paths("system", kind="device") == {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"}


def test_directories_beside_usr_are_granted_only_where_they_are_directories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links = {"/bin": "usr/bin", "/lib64": "/usr/lib64", "/sbin": "busybox"}

    def readlink(path: str) -> str:
        if path not in links:
            raise OSError
        return links[path]

    monkeypatch.setattr(os, "readlink", readlink)
    assert {"/lib", "/sbin"} <= paths("system")
    assert not {"/bin", "/lib64"} & paths("system")


def test_presets_include_others_once() -> None:
    assert closure(["build"]) == ("proc", "system", "tmp", "build")
    assert closure(["build", "system", "build"]) == ("proc", "system", "tmp", "build")


def test_an_unknown_preset_gets_the_nearest() -> None:
    with pytest.raises(PolicyError, match="did you mean 'python'"):
        expand(["pyton"])


def test_tmp_says_that_it_is_shared_and_where() -> None:
    assert "SHARED" in PRESETS["tmp"]["description"]
    assert expand(["tmp"]).env == (("TMPDIR", "/tmp"),)
    assert "/tmp" in paths("tmp", kind="write")


# --- what depends on the host --------------------


def test_workspace_is_the_working_directory(tmp_path: pathlib.Path) -> None:
    assert expand(["workspace"], surroundings=here(cwd=str(tmp_path))).grants == (Grant(str(tmp_path), "write", False),)
    policy = Policy.of(presets="workspace", cwd=tmp_path)
    assert policy.expand().grants == (Grant(str(tmp_path), "write", False),)


def test_workspace_is_never_everything(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/")
    home = tmp_path / "home"
    home.mkdir()
    for cwd in ("/", str(link), str(home)):
        with pytest.raises(PolicyError, match="'workspace' would make"):
            expand(["workspace"], surroundings=here(cwd=cwd, home=str(home)))


def installed(tmp_path: pathlib.Path, where: str, program: str) -> str:
    directory = tmp_path / where / "bin"
    directory.mkdir(parents=True)
    (directory / program).write_text("")
    (directory / program).chmod(0o755)
    return str(directory)


def test_python_grants_the_interpreter_that_runs(tmp_path: pathlib.Path) -> None:
    granted = paths("python", kind="read")
    for prefix in (sys.prefix, sys.base_prefix):
        assert prefix in granted or prefix.startswith("/usr")
    other = installed(tmp_path, "versions/3.99", "python3")
    assert str(tmp_path / "versions/3.99") in paths("python", path=other)


def test_node_grants_the_installation_that_path_finds(tmp_path: pathlib.Path) -> None:
    real = installed(tmp_path, "nvm/v22", "node")
    shims = tmp_path / "shims" / "bin"
    shims.mkdir(parents=True)
    (shims / "node").symlink_to(f"{real}/node")
    granted = paths("node", path=f"relative:{shims}")
    assert {str(tmp_path / "nvm/v22"), str(tmp_path / "shims")} <= granted


def test_what_a_program_may_have_put_into_path_chooses_no_grant(tmp_path: pathlib.Path) -> None:
    work, trusted = tmp_path / "work", installed(tmp_path, "trusted", "node")
    secret = tmp_path / "secret"
    installed(tmp_path, "secret", "node")
    (work / "bin").mkdir(parents=True)
    (work / "bin" / "node").symlink_to(secret / "bin" / "node")
    path = f"{work}/bin:{trusted}"
    assert str(secret) in paths("node", path=path), "without a writable grant PATH is the host's word"
    for writable in (str(work), f"{work}/../work/", str(tmp_path / "work/bin")):
        grants = expand(["node"], surroundings=here(path=path), writable=[writable]).grants
        assert not any(grant.path.startswith((str(secret), str(work))) for grant in grants)
        assert Grant(str(tmp_path / "trusted"), "read", True) in grants
    both = expand(["workspace", "node"], surroundings=here(path=path, cwd=str(work))).grants
    assert not any(grant.path.startswith(str(secret)) for grant in both)


def test_a_program_in_the_home_directory_does_not_open_it(tmp_path: pathlib.Path) -> None:
    directory = installed(tmp_path, "home", "node")
    home = str(tmp_path / "home")
    assert home not in paths("node", path=directory, home=home)


def test_without_home_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert look_around().home is None
    assert not any(grant.path.startswith("~") for name in PRESETS for grant in _expanded(name, home=None))
    for odd in ("", "relative", "/"):
        monkeypatch.setenv("HOME", odd)
        assert look_around().home is None


def _expanded(name: str, **changes: object) -> tuple[Grant, ...]:
    return expand([name], surroundings=here(**changes)).grants


def test_a_policys_own_grants_come_first_and_are_not_optional() -> None:
    expansion = Policy.of(presets="proc", fs_readable="/a", fs_devices="/dev/kvm").expand()
    assert expansion.grants == (
        Grant("/a", "read"),
        Grant("/dev/kvm", "device"),
        Grant("/proc", "data", True),
    )


def test_the_help_and_the_table_know_the_same_presets() -> None:
    from sandlock.policy import option_of

    assert option_of("presets").choices == tuple(PRESETS)
    assert presets.SYSTEM_ETC is PRESETS["system"]["etc"]
