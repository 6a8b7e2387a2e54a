"""What an agent run may do, and why: one policy, made of a preset, add-ons, a profile and flags.

Rules: every grant has a reason and says where it comes from. Anybody may have written what the workspace holds, so it
widens no grant and nothing of it is executed. The real home directory is not granted: a private one takes its place.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock import Policy, PolicyError

from .._record import record
from .._removal import remove_tree
from ..profile import directory as profile_directory
from .agent_draft import Draft, Reason
from .agent_presets import ADDONS, AGENT_PRESETS, EXECUTED_LATER, GIT_EXECUTED
from .git_metadata import GitMetadata, find_metadata, inner_metadata
from .private_home import Dotfile, holds_files, link_dotfiles, make_directory, write_back
from .program_files import program_places
from .secret_files import SECRETS, covered_secrets, env_files, is_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .agent_profile import AgentProfile

__all__ = ["AgentSetup", "Reason", "prepare", "settle"]

DEFAULT = "agent"
"""The preset of a run that names none."""
MAX_PROGRAMS = 5000
"""Of a directory of PATH that are looked at."""
PASSED = ("COLORTERM", "TERM_PROGRAM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CI")


@record
class AgentSetup:
    """A run that is ready to start."""

    policy: Policy
    reasons: tuple[Reason, ...]
    preset: str
    workspace: str
    """The directory that the agent works in, without links in its path."""
    home: str
    """The private home directory."""
    temporary: str
    env: tuple[tuple[str, str], ...]
    """What is set for the agent, besides what is passed through."""
    ask_rules: tuple[str, ...]
    """Programs that somebody is asked about."""
    dotfiles: tuple[Dotfile, ...]
    warnings: tuple[str, ...]
    profile: str = ""
    full_screen: bool = False


def prepare(
    *,
    state: str,
    workspace: str | None = None,
    profile: AgentProfile | None = None,
    presets: Sequence[str] = (),
    addons: Sequence[str] = (),
    command: Sequence[str] = (),
    fields: Mapping[str, object] | None = None,
    dry_run: bool = False,
) -> AgentSetup:
    """The policy of an agent run; makes its private home and temporary directory, `home` and `tmp`, in `state`.

    `workspace`: default: `cwd` of `fields`, else the current directory. `presets`: one of AGENT_PRESETS at most (else
    the profile's, else "agent"), and presets of sandlock. `addons`: names of ADDONS, besides the profile's.
    `command`: what will be run, so that its files can be read. `fields`: keywords of Policy; lists extend what is
    there, others replace it. `dry_run`: nothing is made in the real home directory. Raises PolicyError, and
    SandlockError where the directories cannot be made; then nothing is left behind.
    """
    given = dict(fields or {})
    place = _checked_workspace(workspace or given.get("cwd") or os.getcwd(), state)
    made: list[str] = []
    try:
        private = make_directory(f"{os.path.realpath(state)}/home")
        made.append(private)
        temporary = make_directory(os.path.join(os.path.realpath(state), "tmp"))
        made.append(temporary)
        return _prepare(place, profile, presets, addons, command, given, private, temporary, make=not dry_run)
    except BaseException:
        for each in made:
            with suppress(OSError):
                remove_tree(each, forced=True)
        raise


def settle(setup: AgentSetup) -> list[str]:
    """After the run: brings changed dotfiles home, removes the temporary directory; says what became of each.

    The private home directory is removed if nothing of the agent's own is left in it.
    """
    said = [write_back(setup.home, each) for each in setup.dotfiles if each.linked or each.kind == "absent"]
    try:
        remove_tree(setup.temporary, forced=True)
    except OSError as error:
        said.append(f"{setup.temporary}: not removed: {error.strerror}")
    if holds_files(setup.home):
        said.append(f"{setup.home}: kept, with what the program made there")
    else:
        with suppress(OSError):
            remove_tree(setup.home, forced=True)
    return [each for each in said if each]


# Parts ---------------------------------------------------------------------------------------------------------------


def _home() -> str:
    home = os.environ.get("HOME", "")
    return home.rstrip("/") if home.startswith("/") and home.strip("/") else ""


def _checked_workspace(path: object, state: str) -> str:
    """The current directory and not the repository around it: what is writable is what one sees oneself standing in."""
    real = os.path.realpath(str(path))
    home = os.path.realpath(_home()) if _home() else ""
    if not os.path.isdir(real):
        raise PolicyError(f"workspace: {real} is not a directory; start in a project directory", field="cwd")
    if real == "/" or (home and is_below(home, real)):
        what = "the home directory, keys and all" if real != "/" else "the root directory"
        raise PolicyError(f"workspace: {real} holds {what}; start in a project directory", field="cwd")
    for name in SECRETS if home else ():
        if is_below(real, os.path.realpath(f"{home}/{name}")):
            raise PolicyError(f"workspace: {real} is where secrets are kept (~/{name}); start in a project directory")
    if is_below(os.path.realpath(state), real):
        raise PolicyError(
            f"workspace: {real} holds the record of the run ({state}), which the agent must not change; "
            "start in a project directory, or set XDG_STATE_HOME",
            field="cwd",
        )
    return real


def _prepare(
    place: str,
    profile: AgentProfile | None,
    presets: Sequence[str],
    addons: Sequence[str],
    command: Sequence[str],
    given: dict[str, object],
    private: str,
    temporary: str,
    *,
    make: bool,
) -> AgentSetup:
    chosen, ordinary = _chosen_preset((*presets,), profile)
    draft = Draft(temporary)
    _base(draft, chosen, place, private, temporary)
    if not given.get("exec_allow") and not (profile is not None and dict(profile.fields).get("exec_allow")):
        why = "every program that can be read may run: all of them are confined alike"
        draft.add("exec_allow", "*", why, f"preset {chosen}")
    metadata = find_metadata(place, [each for each in ("/", _home()) if each])
    _git(draft, metadata, AGENT_PRESETS[chosen].workspace == "write")
    dotfiles = _extras(draft, profile, ordinary, addons, private, make)
    if command:
        for each in program_places(command[0], path=os.environ.get("PATH", ""), home=_home(), workspace=place):
            draft.path("fs_readable", each, "the program that is run, and where it is installed", "default")
    draft.fields(given, "flag", "given on the command line")
    if AGENT_PRESETS[chosen].protects:
        _protect(draft, place, metadata, f"preset {chosen}")
    _secrets(draft, place)
    _search_path(draft)
    policy = draft.policy()
    _check_record(policy, private, temporary)
    return AgentSetup(
        policy=policy,
        reasons=draft.reasons(),
        preset=chosen,
        workspace=place,
        home=private,
        temporary=temporary,
        env=policy.env,
        ask_rules=policy.exec_ask,
        dotfiles=dotfiles,
        warnings=(*metadata.notes, *draft.warnings),
        profile=profile.name if profile is not None else "",
        full_screen=profile is not None and profile.full_screen,
    )


def _chosen_preset(presets: tuple[str, ...], profile: AgentProfile | None) -> tuple[str, tuple[str, ...]]:
    named = [each for each in dict.fromkeys(presets) if each in AGENT_PRESETS]
    if not named and profile is not None:
        named = list(profile.presets)
    if len(named) > 1:
        raise PolicyError(f"preset: {' and '.join(named)} say different things; name one", field="presets")
    return (named[0] if named else DEFAULT), tuple(each for each in presets if each not in AGENT_PRESETS)


def _base(draft: Draft, chosen: str, place: str, private: str, temporary: str) -> None:
    preset, origin = AGENT_PRESETS[chosen], f"preset {chosen}"
    draft.add("presets", "system", "programs and libraries of this machine, read-only, nothing that is secret", origin)
    if preset.workspace == "write":
        draft.path("fs_writable", place, "the workspace: the directory that the run was started in", origin)
    else:
        draft.path("fs_readable", place, "the workspace, which only wants reading", origin)
    draft.path("fs_writable", private, "a private home directory: the real one is not granted", origin)
    draft.path("fs_writable", temporary, "a private temporary directory: /tmp shows what others left there", origin)
    for field in ("net_allow", "net_allow_bind"):
        draft.add(field, f"unix:{temporary}", "unix sockets among the agent's own programs", origin)
    draft.set("cwd", place, "the workspace", origin)
    draft.asked(preset.ask, origin)
    variables = (
        ("HOME", private, "the private home directory"),
        ("TMPDIR", temporary, "the private temporary directory"),
        ("XDG_CONFIG_HOME", f"{private}/.config", "below the private home directory"),
        ("XDG_DATA_HOME", f"{private}/.local/share", "below the private home directory"),
        ("XDG_STATE_HOME", f"{private}/.local/state", "below the private home directory"),
        ("XDG_CACHE_HOME", f"{temporary}/cache", "caches of the box are not used outside, and go with the run"),
        ("XDG_RUNTIME_DIR", make_directory(f"{temporary}/runtime"), "sockets of the desktop stay outside"),
    )
    for name, value, why in variables:
        draft.variable(name, value, why, origin)
    for name in PASSED:
        draft.add("pass_env", name, "how the terminal is; holds no secret", origin)


def _git(draft: Draft, metadata: GitMetadata, writable: bool) -> None:
    for path, why in metadata.read:
        draft.path("fs_readable", path, why, "default")
    for path, why in metadata.write:
        draft.path("fs_writable" if writable else "fs_readable", path, why, "default")


def _protect(draft: Draft, place: str, metadata: GitMetadata, origin: str) -> None:
    """What programs outside execute stays as it is, also if it is not there; but for what is granted by its name."""
    paths = [f"{place}/{name}" for name in EXECUTED_LATER]
    paths += [f"{place}/.git"] if os.path.isfile(f"{place}/.git") else []
    inner, leads, complete = inner_metadata(place, metadata.hosted)
    hosted = dict.fromkeys((*metadata.hosted, *inner))
    paths += [*leads, *(f"{directory}/{name}" for directory in hosted for name in GIT_EXECUTED)]
    if not complete:
        draft.warn(f"{place}: too large to look for all repositories in it; those found keep their hooks and settings")
    named = {os.path.normpath(path) for field, path in draft.own_paths() if field == "fs_writable"}
    for path in paths:
        if path not in named:
            why = "programs outside would execute it later, or what it names: it can be read and not changed"
            draft.path("fs_protected", path, why, origin, must_exist=False)


def _extras(
    draft: Draft,
    profile: AgentProfile | None,
    presets: Iterable[str],
    addons: Sequence[str],
    private: str,
    make: bool,
) -> tuple[Dotfile, ...]:
    """Add-ons, the profile, and the dotfiles of both."""
    for name in presets:
        draft.add("presets", name, "given on the command line", "flag")
    names = dict.fromkeys((*(profile.add if profile is not None else ()), *addons))
    unknown = [name for name in names if name not in ADDONS]
    if unknown:
        raise PolicyError(f"add: {unknown[0]!r} is no add-on; known: {', '.join(ADDONS)}")
    for name in names:
        draft.addon(ADDONS[name], f"add-on {name}")
    origins = {each: f"add-on {name}" for name in names for each in ADDONS[name].home_read}
    write: tuple[str, ...] = ()
    copy: tuple[str, ...] = ()
    if profile is not None:
        origin = f"profile {profile.name}"
        origins.update(dict.fromkeys((*profile.home_read, *profile.home_write, *profile.home_copy), origin))
        write, copy = profile.home_write, profile.home_copy
        draft.fields(dict(profile.fields), origin, "the profile says so")
        for host in profile.hosts:
            draft.add("net_allow", host, "what this agent talks to", origin)
        for rule in profile.ask:
            draft.add("exec_ask", rule, "the profile wants somebody to decide", origin)
        for variable in profile.pass_env:
            draft.passed(variable, origin)
    if not _home():
        return ()
    dotfiles = link_dotfiles(_home(), private, origins, write, copy, make=make)
    for each in dotfiles:
        origin = next((origins[name] for name in (each.name, f"{each.name}/", f"~/{each.name}") if name in origins), "")
        draft.dotfile(each, origin)
    return dotfiles


def _secrets(draft: Draft, place: str) -> None:
    """Takes secrets out of what was granted. Nothing is denied that no grant covers: a denial costs every open."""
    grants = draft.policy().expand().grants
    granted = [grant.path for grant in grants]
    named = {os.path.normpath(path) for path in granted}
    for secret, above in covered_secrets(_home(), granted) if _home() else ():
        draft.path("fs_denied", secret, f"holds secrets, and {above} is granted", "default", must_exist=False)
    looked_at = [os.path.realpath(path) for name, path in draft.own_paths() if name != "fs_denied"]
    tops = [place, *(each for each in looked_at if is_below(place, each))]
    for top in dict.fromkeys(tops):
        found, complete = env_files(top)
        for path in found:
            if path not in named:
                why = "a project's secrets; found when the run began: files that the agent makes later are its own"
                draft.path("fs_denied", path, why, "default")
        if not complete:
            draft.warn(f"{top}: too large to look for all .env files; those found are denied, others can be read")


def _search_path(draft: Draft) -> None:
    """Takes directories out of PATH of which nothing can be executed: a shell takes the first program that it finds,
    and gives up if that may not run, as the shims of pyenv or a node of nvm in the home directory."""
    policy, given = draft.policy(), os.environ.get("PATH", "")
    if not given or any(name == "PATH" for name, _ in policy.env) or "PATH" in policy.pass_env:
        return
    grants = (each.path for each in policy.expand().grants if each.kind in ("read", "write"))
    granted = tuple({f"{os.path.realpath(path).rstrip('/')}/" for path in grants})
    places = [each for each in given.split(":") if each]
    kept = [each for each in places if _has_programs(each, granted)]
    if kept and kept != places:
        why = "without directories of which nothing is granted: a shell would find programs there that may not run"
        draft.variable("PATH", ":".join(kept), why, "default")


def _has_programs(directory: str, granted: tuple[str, ...]) -> bool:
    """Whether it is granted, or something in it is, or leads to what is. `granted`: real paths with a slash behind."""

    def is_granted(real: str) -> bool:
        whole = f"{real.rstrip('/')}/"
        return whole.startswith(granted) or any(each.startswith(whole) for each in granted)

    top = os.path.realpath(directory)
    if is_granted(top):
        return True
    try:
        with os.scandir(top) as entries:
            for entry, _ in zip(entries, range(MAX_PROGRAMS), strict=False):
                if is_granted(os.path.realpath(entry.path) if entry.is_symlink() else entry.path):
                    return True
    except OSError:
        return False
    return False


def _check_record(policy: Policy, private: str, temporary: str) -> None:
    """No grant may cover the record of the run, nor where profiles are: who writes them decides about later runs."""
    own = (private, temporary)
    places = [(os.path.dirname(private), "the record of the run")]
    with suppress(PolicyError):
        places.append((os.path.realpath(profile_directory()), "your profiles"))
    for grant in policy.expand().grants:
        real = os.path.realpath(grant.path)
        for place, what in places:
            if grant.kind == "write" and (is_below(place, real) or is_below(real, place)) and real not in own:
                raise PolicyError(
                    f"fs_writable: {grant.path} holds {what} ({place}), which the agent must not change; "
                    "grant a directory beside it, or set XDG_STATE_HOME or XDG_CONFIG_HOME",
                    field="fs_writable",
                )
