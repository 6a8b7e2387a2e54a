"""What an agent run gets with a preset and with add-ons: the tables.

Rules: only names, paths and reasons; what they lead to on this machine is looked up in `workspace`. An add-on only
adds.
Paths are below the home directory; {tmp} is the private temporary directory.
"""

from __future__ import annotations

from typing import Literal

from .._record import record

__all__ = ["ADDONS", "AGENT_PRESETS", "EXECUTED_LATER", "GIT_EXECUTED", "Addon", "AgentPreset"]

EXECUTED_LATER = (
    *(".vscode", ".idea", ".cursor", ".claude", ".codex", ".gemini", ".mcp.json", ".envrc", ".devcontainer"),
    *(".openhands", ".agents"),
)
"""In a workspace: settings that editors, agents and shells execute, or that name programs."""
GIT_EXECUTED = ("hooks", "config", "config.worktree", "commondir", "gitdir")
"""In git metadata: programs, what names programs, and what leads to another place where these are looked for."""


@record
class AgentPreset:
    """How far a run with nothing else goes."""

    description: str
    workspace: Literal["read", "write"]
    ask: tuple[tuple[str, str], ...] = ()
    """Programs that somebody is asked about, and why."""
    protects: bool = False
    """Whether what is executed outside later (EXECUTED_LATER, GIT_EXECUTED) can be read and not changed."""


@record
class Addon:
    """What makes one kind of work possible."""

    description: str
    presets: tuple[tuple[str, str], ...] = ()
    """Presets of sandlock, and why."""
    home_read: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    binds: tuple[tuple[str, str], ...] = ()
    ask: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str, str], ...] = ()
    """Name, value, why."""


_ROOT = ("sudo *", "raises privileges on most machines; nothing in the box can, but that it was tried is worth a look")

AGENT_PRESETS: dict[str, AgentPreset] = {
    "read-only": AgentPreset(
        description="The workspace can be read and not changed. A private home and temporary directory; no network.",
        workspace="read",
    ),
    "workspace-write": AgentPreset(
        description="The workspace can be changed. A private home and temporary directory; no network.",
        workspace="write",
    ),
    "agent": AgentPreset(
        description="workspace-write, but what you would execute later is protected, and reaching out is asked about.",
        workspace="write",
        ask=(_ROOT,),
        protects=True,
    ),
}
"""By name."""

ADDONS: dict[str, Addon] = {
    "git": Addon(
        description="git with the user's own configuration, but no keys and no credentials; pushing is asked about.",
        presets=(("system", "git itself"),),
        home_read=(".gitconfig", ".config/git/config", ".config/git/ignore", ".config/git/attributes"),
        ask=(
            ("git push *", "what is pushed, others build and run"),
            ("git send-pack *", "it is how git pushes"),
        ),
        env=(
            ("GIT_TERMINAL_PROMPT", "0", "a password has no place in the box: git fails instead of asking for one"),
            ("GIT_CONFIG_COUNT", "2", "two settings follow"),
            ("GIT_CONFIG_KEY_0", "commit.gpgsign", "the signing key is not in the box"),
            ("GIT_CONFIG_VALUE_0", "false", "so commits are not signed; sign them when you have read them"),
            ("GIT_CONFIG_KEY_1", "tag.gpgsign", "the signing key is not in the box"),
            ("GIT_CONFIG_VALUE_1", "false", "so tags are not signed"),
        ),
    ),
    "npm": Addon(
        description="node and npm, and npm's registry; a cache of the run's own.",
        presets=(("node", "node, and the packages installed with it"),),
        hosts=(("registry.npmjs.org:443", "npm's registry"),),
        env=(
            ("npm_config_cache", "{tmp}/npm", "programs that npx keeps in ~/.npm would run outside later"),
            ("npm_config_update_notifier", "false", "nothing but packages is fetched"),
        ),
    ),
    "pip": Addon(
        description="Python and pip, and the Python package index; a cache of the run's own.",
        presets=(("python", "the interpreters, and what is installed with them"),),
        hosts=(
            ("pypi.org:443", "the Python package index"),
            ("files.pythonhosted.org:443", "where its files are"),
        ),
        env=(
            ("PIP_CACHE_DIR", "{tmp}/pip", "wheels built in the box would be installed outside later"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1", "nothing but packages is fetched"),
        ),
    ),
    "build": Addon(
        description="Compilers, make and cargo; temporary files go to the private directory, not to the shared /tmp.",
        presets=(("system", "compilers, headers and libraries of the distribution"),),
        home_read=(".rustup", ".cargo/bin", ".cargo/registry", ".cargo/config.toml"),
        env=(("CCACHE_DIR", "{tmp}/ccache", "a cache outside would hand results of the box to builds outside"),),
    ),
    "loopback": Addon(
        description="Connect to and listen on this machine: databases, development servers, browsers under test.",
        hosts=(
            ("localhost", "every service on this machine that listens on the loopback interface"),
            ("udp://localhost", "the same for datagrams"),
        ),
        binds=(
            ("*", "servers of the agent's own; a port cannot be told from one on another interface"),
            ("udp://*", "the same for datagrams"),
        ),
    ),
}
"""By name."""
