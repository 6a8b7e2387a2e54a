"""What `agent learn` takes.

Rule: nothing of a session: `sandlock --help` reads this too.
"""

from __future__ import annotations

from sandlock.policy import OPTIONS, Option

__all__ = ["OPTIONS_OF_LEARN"]

# fmt: off
OWN = (
    Option("output", None, kind="text", flags=("-o", "--output"), key="", metavar="NAME|FILE",
           help="Write the profile there (default: standard output; the program's own goes to standard error then)."),
    Option("merge", None, kind="text", flags=("--merge",), key="", metavar="NAME|FILE",
           help="Extend this profile; nothing in it is removed, and what is new is told."),
    Option("collapse", None, kind="text", flags=("--collapse",), key="", metavar="N",
           help="A directory stands for N and more of its entries (default: 4)."),
    Option("collapse_hosts", False, kind="switch", flags=("--collapse-hosts",), key="",
           help="One rule, *.DOMAIN, for several hosts of one domain."),
)
# fmt: on
POLICY = (
    "presets",
    "fs_writable",
    "fs_devices",
    "fs_denied",
    "net_deny",
    "env",
    "pass_env",
    "clean_env",
    "cwd",
    "timeout",
    "max_processes",
)  # fmt: skip
OPTIONS_OF_LEARN = (*OWN, *(option for option in OPTIONS if option.name in POLICY))
