"""What `agent run` takes: the options that are its own, and those of the policy.

Rule: no trio, nothing of a session: `sandlock --help` reads this too.
"""

from __future__ import annotations

from sandlock.policy import OPTIONS, Option

__all__ = ["OPTIONS_OF_MCP", "OPTIONS_OF_REPLAY", "OPTIONS_OF_RUN", "OWN"]

# fmt: off
OWN = (
    Option("profile", None, kind="text", flags=("-p", "--profile"), key="", metavar="NAME|FILE",
           help="An agent's profile (default: that of the program's name, if there is one)."),
    Option("presets", (), kind="names", flags=("--preset",), key="", metavar="NAME",
           help="read-only, workspace-write or agent (default: the profile's, else agent); and presets of sandlock."),
    Option("add", (), kind="names", flags=("--add",), key="", metavar="NAME",
           help="An add-on: git, npm, pip, build, loopback."),
    Option("ask", (), kind="names", flags=("--ask",), key="", metavar="WHO",
           help="Who is asked: tty, none, exec:CMD, an http:// URL of 127.0.0.1, unix:PATH, mcp; several: the first "
                "answer counts (default: tty, where there is a terminal)."),
    Option("ask_timeout", None, kind="seconds", flags=("--ask-timeout",), key="", metavar="S",
           help="A question that nobody answers in S seconds is denied (default: 600)."),
    Option("session", None, kind="text", flags=("-n", "--name"), key="", metavar="NAME",
           help="A name for the session, for ps, attach, report (default: none)."),
    Option("dry_run", False, kind="switch", flags=("--dry-run",), key="",
           help="Print the policy and why it is so; run nothing."),
    Option("watch", False, kind="switch", flags=("--watch",), key="", help="Show what happens while it happens."),
    Option("no_trailer", False, kind="switch", flags=("--no-trailer",), key="",
           help="Do not tell denied programs on their stderr what was denied."),
)
# fmt: on
"""What `agent run` takes besides the policy."""
OPTIONS_OF_RUN = (*OWN, *(option for option in OPTIONS if option.name != "presets"))
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
# fmt: off
OPTIONS_OF_REPLAY = (
    OWN[0],
    Option("asks", True, kind="switch", flags=("--asks",), key="", off=("--no-asks",),
           help="Somebody is there to be asked about what no rule decides, as in agent runs."),
    Option("json", False, kind="switch", flags=("--json",), key="", help="Print the differences as JSON."),
    *OPTIONS,
)
# fmt: on
"""What `agent replay` takes."""
