"""What `agent run` takes: the options that are its own, and those of the policy.

Rule: no trio, nothing of a session: `sandlock --help` reads this too.
"""

from __future__ import annotations

from sandlock.policy import OPTIONS, Option

__all__ = ["OPTIONS_OF_MCP", "OPTIONS_OF_RUN", "OWN"]

# fmt: off
OWN = (
    Option("profile", None, kind="text", flags=("-p", "--profile"), key="", metavar="NAME|FILE",
           help="Start from this profile; flags replace its values and extend its lists."),
    Option("name", None, kind="text", flags=("-n", "--name"), key="", metavar="NAME",
           help="A name for the session, for ps, attach, report (default: none)."),
)
# fmt: on
"""What `agent run` takes besides the policy."""
OPTIONS_OF_RUN = (*OWN, *OPTIONS)
# fmt: off
OPTIONS_OF_MCP = (
    Option("workspace", None, kind="text", flags=("--workspace",), key="", metavar="DIR",
           help="The directory that the tools work in (default: the current one)."),
    Option("add", (), kind="names", flags=("--add",), key="", metavar="NAME",
           help="An add-on of agent runs: git, npm, pip, build, loopback."),
    Option("tools", None, kind="text", flags=("--tools",), key="", metavar="FILE",
           help="Tools of your own, in TOML, each with a policy of its own."),
    *OPTIONS,
)
# fmt: on
"""What `agent mcp` takes."""
