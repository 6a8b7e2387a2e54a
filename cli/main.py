"""Every command of `sandlock`, for typer: doctor, inspect, profile, and the help and completion of run.

Rules: the options of `run` and `inspect` are generated from the option table (`options`); what `run` does is in
`direct`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sandlock import Sandbox, SandlockError, profile
from sandlock.policy import OPTIONS, Option
from sandlock.presets import PRESETS
from sandlock.result import printable

from . import direct
from .agent import sessions
from .agent.commands import agent_app
from .options import WITHOUT_TERMINAL, with_options
from .profile_text import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
profile_app = typer.Typer(no_args_is_help=True, help="Policies kept in TOML files.")
app.add_typer(profile_app, name="profile")
rules_app = typer.Typer(no_args_is_help=True, help="Rules about programs.")
app.add_typer(rules_app, name="rules")
app.add_typer(agent_app, name="agent")
for command in (sessions.ps, sessions.kill, sessions.pause, sessions.resume, sessions.logs):
    app.command()(command)

PLAN = Option("plan", False, kind="switch", flags=("--plan",), key="", help="Print what the policy compiles to here.")
EXIT_CODES = (
    "Exit codes: the program's own; 124 time limit; 125 sandlock itself failed; 126 not executable; "
    "127 not found; 128+n ended by signal n."
)


def invoke(arguments: Sequence[str]) -> int:
    """Runs a command line of typer's and returns the exit code."""
    try:
        code = app(args=list(arguments), prog_name="sandlock", standalone_mode=False)
    except typer.Exit as leaving:
        return leaving.exit_code
    except SandlockError as error:
        return direct.fail(error)
    except Exception as error:
        show = getattr(error, "format_message", None)  # typer's own: a wrong option or argument
        if show is None:
            raise
        direct.say(f"{show()}; see `sandlock {arguments[0] if arguments else ''} --help`".replace("  ", " "))
        return direct.OUR_FAILURE
    return code if isinstance(code, int) else 0


# --- commands --------------------


@app.command(context_settings=WITHOUT_TERMINAL, epilog=EXIT_CODES)
@with_options(*direct.EXTRAS, *OPTIONS)
def run(request: direct.Request) -> int:
    """Run COMMAND confined. What is not granted is denied: start with --preset system.

    Options end at the first word that is none, or at "--". Lists may be repeated; a profile's are extended.
    """
    return direct.run_request(request)


@app.command(context_settings=WITHOUT_TERMINAL)
@with_options(PLAN, direct.EXTRAS[0], *OPTIONS)
def inspect(request: direct.Request) -> int:
    """Print the policy that these options make and, with --plan, what it compiles to on this kernel.

    Without options: that of the session which COMMAND names.
    """
    if len(request.words) == 1 and not request.given:
        return sessions.inspect_session(request.words[0])
    policy = direct.policy_of(request, direct.profile_of(request))
    typer.echo("\n".join(describe(policy)))
    if request.given.get("plan"):
        typer.echo()
        with Sandbox(policy) as sandbox:
            typer.echo(sandbox.plan.describe())
    return 0


@app.callback(invoke_without_command=True)
def sandlock(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Run programs under a policy that the Linux kernel enforces, without root, namespaces or a daemon."""
    if version:
        from sandlock import __version__

        typer.echo(f"sandlock {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@rules_app.command("check", context_settings=WITHOUT_TERMINAL)
@with_options(direct.EXTRAS[0], *OPTIONS)
def rules_check(request: direct.Request) -> int:
    """Say which exec rule decides about COMMAND, without running it. Exits with 0 for allow, 3 for ask, 1 for deny."""
    policy = direct.policy_of(request, direct.profile_of(request))
    if policy.is_empty():
        policy = policy.but(presets=["system"])  # rules can be tried out without any grants
    with Sandbox(policy) as sandbox:
        found = sandbox.check_exec(request.words)
    typer.echo(f"{found.decision}: {printable(found.exe)}")
    typer.echo(f"  by: {printable(found.rule)}" if found.rule else "  no rule matches")
    if found.reason:
        typer.echo(f"  reason: {printable(found.reason)}")
    return {"allow": 0, "ask": 3}.get(found.decision, 1)


@app.command()
def presets() -> None:
    """List the presets and what each grants."""
    for name, preset in PRESETS.items():
        typer.echo(f"{name:10} {preset['description']}")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Say what this kernel and container can enforce, proved by trying, and what to do about the rest."""
    from sandlock import examine

    report = examine()
    if as_json:
        import json

        checks = [
            {
                "name": check.name,
                "required": check.required,
                "ok": check.ok,
                "detail": check.detail,
                "fix": check.fix,
            }
            for check in report.checks
        ]
        typer.echo(json.dumps({"schema": 1, "strict_ok": report.strict_ok, "checks": checks}, indent=2))
    else:
        typer.echo(report.describe())
    raise typer.Exit(0 if report.strict_ok else 1)


@profile_app.command("list")
def profile_list() -> None:
    """List your profiles, then those that are shipped for `agent run`, unless yours have their names."""
    from sandlock.sessions.agent_profile import find_profile, shipped

    own = profile.names()
    for name in own:
        typer.echo(name)
    for name in shipped():
        if name not in own:
            typer.echo(f"{name:10} (shipped) {find_profile(name).description}")


ProfileName = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A profile's name, or a file (with a '/').")]


@profile_app.command("show")
def profile_show(name: ProfileName) -> None:
    """Print a profile, one of yours or a shipped one."""
    from sandlock.sessions.agent_profile import profile_text

    text = None if name in profile.names() else profile_text(name)
    sys.stdout.write(profile.read(profile.locate(name)) if text is None else text)


@profile_app.command("check")
def profile_check(name: ProfileName) -> None:
    """Read a profile and compile it for this kernel; says what is wrong with it, if anything."""
    from sandlock.sessions.agent_profile import find_profile

    loaded = find_profile(name)
    policy = loaded.policy()
    if loaded.is_agent and policy.is_empty():
        policy = policy.but(presets=["system"])  # which every agent gets
    with Sandbox(policy):
        typer.echo(f"{loaded.path}: ok")
