"""The command `sandlock`. `run` takes the direct path; everything else, and all help, is typer's."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


BLOCK = 2
"""The exit code by which a hook of Claude Code blocks the call. With any other failure it would pass."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: this process's) and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:2] != ["agent", "hook"]:
        return _run(arguments)
    try:
        return BLOCK if _run(arguments) else 0
    except Exception as error:
        print(f"sandlock: agent hook: {type(error).__name__}: {error}", file=sys.stderr)
        return BLOCK


def _run(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["run"]:
            from sandlock.cli.direct import run

            code = run(arguments[1:])
            if code is not None:
                return code
        from sandlock.cli.main import invoke  # brings typer

        return invoke(arguments)
    except KeyboardInterrupt:
        return 130
    except ImportError as error:
        if error.name is None or not error.name.startswith("sandlock"):
            raise
        print(f"sandlock: import: {error}; build it: pip install -e .", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
