"""The commands of `sandlock agent`. Each lives in a module of its own, which is imported when it is called.

Rule: nothing here but names, options and help, so that `sandlock --help` stays fast: no trio, no sessions.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import direct
from ..options import WITHOUT_TERMINAL, with_options
from . import attach, ui, watch
from .learn_options import OPTIONS_OF_LEARN
from .request import OPTIONS_OF_MCP, OPTIONS_OF_REPLAY, OPTIONS_OF_RUN

agent_app = typer.Typer(no_args_is_help=True, help="Run a whole agent confined, with somebody to ask and a record.")


@agent_app.command("run", context_settings=WITHOUT_TERMINAL)
@with_options(*OPTIONS_OF_RUN)
def run(request: direct.Request) -> int:
    """Run COMMAND, an agent, and all that it starts, confined; what the rules leave open is asked.

    Options end at the first word that is none, or at "--". The exit code is the program's, as of `sandlock run`.
    """
    from .running import run_request

    return run_request(request)


agent_app.command("attach")(attach.command)
agent_app.command("ui")(ui.command)
agent_app.command("watch")(watch.command)


@agent_app.command("import")
def import_rules(
    file: Annotated[str, typer.Argument(metavar="FILE", help="settings.json, .rules, config.toml, srt-settings.json.")],
    format: Annotated[str | None, typer.Option("--format", help="claude, codex or srt (default: found out).")] = None,
    unmatched: Annotated[
        str, typer.Option("--unmatched", metavar="ask|allow", help="What becomes of programs that no rule names.")
    ] = "ask",
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-C", metavar="DIR", help="Where relative paths begin (default: here).")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write the profile there.")
    ] = None,
) -> int:
    """Make a profile of the rules of Claude Code, Codex or srt, and say what became of each rule."""
    from .importing import import_file

    return import_file(file, format=format, unmatched=unmatched, workspace=workspace, output=output)


@agent_app.command("learn", context_settings=WITHOUT_TERMINAL)
@with_options(*OPTIONS_OF_LEARN)
def learn(request: direct.Request) -> int:
    """Run COMMAND, record what it does, and write the profile that allows just that.

    It may read all but secrets, write below -w (default: the current directory) and in a private temporary directory,
    and use the network. Ctrl-C and the time limit end it, and the profile is written.
    """
    from .learn import run_request

    return run_request(request)


@agent_app.command("mcp", context_settings=WITHOUT_TERMINAL)
@with_options(*OPTIONS_OF_MCP)
def mcp(request: direct.Request) -> int:
    """Serve MCP on standard input and output: tools that run commands, Python and files in a sandbox.

    What the rules leave open is put to the client's user. Needs the extra: pip install "sandlock\\[mcp]".
    """
    from .mcp_server import serve

    return serve(request)


@agent_app.command("mcp-wrap")
def mcp_wrap(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A client's configuration: .mcp.json, mcp.json, ...")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="OPTIONS", help="What `sandlock run` gets, after --.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="Only this server.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Change FILE; the old one is kept beside it.")] = False,
) -> int:
    """Rewrite a client's configuration so that its MCP servers run under `sandlock run`.

    Options of `sandlock run` follow FILE after "--"; without any: --preset python --preset node, and no network.
    """
    from .mcp_wrap import wrap_file

    return wrap_file(file, options or (), only=only or (), output=output, in_place=in_place)


RunName = Annotated[str, typer.Argument(metavar="RUN", help="An audit file; or a session: its id, its name, or last.")]


@agent_app.command("report")
def report(
    run: RunName,
    as_html: Annotated[bool, typer.Option("--html", help="One HTML file, without scripts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--md", help="Markdown, for an issue or a pull request.")] = False,
    as_svg: Annotated[bool, typer.Option("--svg", help="The timeline of processes alone, as a picture.")] = False,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")] = None,
) -> int:
    """Report what a run did: what ran, what it reached, what was denied and by whom, what to add to the profile."""
    from .report import report_of

    chosen = {"html": as_html, "json": as_json, "md": as_markdown, "svg": as_svg}
    return report_of(run, forms=[form for form, wanted in chosen.items() if wanted], output=output)


@agent_app.command("explain")
def explain(
    run: RunName,
    number: Annotated[int | None, typer.Argument(metavar="N", help="Which denial, as the report counts them.")] = None,
    last: Annotated[bool, typer.Option("--last", help="The last one (the default).")] = False,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> int:
    """Say why something was denied, who decided, what would allow it, and what that would open besides."""
    from .explain import explain as explain_run

    return explain_run(run, number, last=last, every=every)


@agent_app.command("check", context_settings=WITHOUT_TERMINAL)
def check(
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command, after --.")],
    rules: Annotated[
        str,
        typer.Option(
            "--rules", metavar="FILE", help="A profile, or rules of Claude Code or codex.", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, in the shape of codex execpolicy check.")] = False,
) -> int:
    """Say which rule decides about COMMAND, without running it. Exits with 0 for allow, 3 for ask, 1 for deny."""
    from .checking import check as check_rules

    return check_rules(rules, words, as_json=as_json)


@agent_app.command("replay")
@with_options(*OPTIONS_OF_REPLAY)
def replay(request: direct.Request) -> int:
    """Say what a policy would have decided about a recorded RUN, without running anything. Name RUN as COMMAND.

    Without options of a policy, the run's own is meant. Exits with 0 if all that ran would run, 1 if something would be
    denied, 3 if nothing would, but something would be asked about.
    """
    from .replaying import replay_run

    return replay_run(request)


@agent_app.command("hook", context_settings=WITHOUT_TERMINAL)
def hook(
    options: Annotated[
        list[str] | None, typer.Argument(metavar="OPTIONS", help="What `sandlock agent run` gets, after --.")
    ] = None,
) -> int:
    """Be a PreToolUse hook of Claude Code: reads its JSON, and has Bash commands run in the sandbox.

    In settings.json: {"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "sandlock
    agent hook -- --add git || exit 2"}]}]}}
    """
    from .hook import answer

    return answer(options or ())
