"""The direct path of `sandlock run`: it stands in front of every command of an agent, so it must start fast.

Rules: flags come from the option table, never from here (the few that are not policy are `EXTRAS`); no
typer, no
trio. Whatever goes wrong on our side is one line on stderr and exit code 125, never a traceback.
"""

from __future__ import annotations

import os
import sys

from sandlock import (
    INHERIT,
    ConfinementError,
    InternalError,
    Policy,
    PolicyError,
    Sandbox,
    SandlockError,
    result,
)
from sandlock.policy import OPTIONS, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock import Result
    from sandlock.profile import Profile

    Given = dict[str, str | bool | list[str]]

TIMED_OUT = 124
OUR_FAILURE = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130

# fmt: off
EXTRAS = (
    Option("profile", None, kind="text", flags=("-p", "--profile"), key="", metavar="NAME|FILE",
           help="Start from this profile; flags replace its values and extend its lists."),
    Option("interactive", False, kind="switch", flags=("-i", "--interactive"), key="",
           help="Keep the terminal and the session: shells, editors, Ctrl-C to the program."),
    Option("exec_shell", None, kind="text", flags=("-e", "--exec-shell"), key="", metavar="TEXT",
           help="Run TEXT with sh -c; words of COMMAND become $1, $2, ..."),
    Option("report", None, kind="text", flags=("--report",), key="", metavar="json[:FILE]",
           help="Report how the run ended, as JSON, to stderr or FILE; json:fd:N writes to a descriptor."),
    Option("audit", None, kind="text", flags=("--audit",), key="", metavar="FILE",
           help="Append a line of JSON to FILE for each decision; what cannot be recorded is denied."),
    Option("name", None, kind="text", flags=("--name",), key="", metavar="NAME",
           help="Make it a session of this name, for ps, logs, pause, resume, kill."),
)
# fmt: on
"""What `run` takes besides the policy."""


class Request:
    """A parsed command line of `run`."""

    __slots__ = ("given", "words")

    def __init__(self, given: Given, words: list[str]) -> None:
        self.given = given
        self.words = words

    def text_of(self, name: str) -> str | None:
        """The value of one of EXTRAS."""
        value = self.given.get(name)
        return value if isinstance(value, str) else None


# --- parsing --------------------


def parse(arguments: Sequence[str], options: Sequence[Option] = (*EXTRAS, *OPTIONS)) -> Request | None:
    """The request that these arguments make; None if they ask for help. Raises PolicyError.

    Options end at "--" or at the first word that is none, which is the program.
    """
    by_flag = {flag: (option, True) for option in options for flag in option.flags}
    by_flag.update({flag: (option, False) for option in options for flag in option.off})
    given: Given = {}
    words = list(arguments)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        if word in ("--help", "-h"):
            return None
        flag, value = _divide(word, by_flag)
        if flag not in by_flag:
            raise PolicyError(f"{flag}: no such option; {_nearest(flag, by_flag)}")
        option, on = by_flag[flag]
        if option.kind == "switch":
            given[option.name] = on
            if value is not None:
                if word.startswith("--"):
                    raise PolicyError(f"{flag}: takes no value; leave {value!r} out")
                words.insert(0, f"-{value}")  # the next letter of a cluster: -ie
            continue
        if value is None:
            if not words or words[0] == "--":
                raise PolicyError(f"{flag}: needs a value; write {flag} {option.metavar}")
            value = words.pop(0)
        take(given, option, value)
    return Request(given, words)


def take(given: Given, option: Option, value: str) -> None:
    """Adds one value to what was given: a list grows, anything else is replaced."""
    name = option.name
    if option.kind == "variables" and "=" not in value:
        name = "pass_env"  # --env NAME: the value it has here
    if not option.repeatable:
        given[name] = value
        return
    before = given.setdefault(name, [])
    assert isinstance(before, list)
    before.append(value)


def _divide(word: str, by_flag: dict[str, tuple[Option, bool]]) -> tuple[str, str | None]:
    """ "--flag=value", "--flag", "-fvalue", "-f" as flag and value."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag, value if equals else None
    return word[:2], word[2:] or None


def _nearest(flag: str, known: dict[str, tuple[Option, bool]]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(flag, known, n=1)
    return f"did you mean {near[0]}?" if near else "see `sandlock run --help`"


# --- meaning --------------------


def profile_of(request: Request) -> Profile | None:
    """The profile that the request names. Raises PolicyError, Unsupported."""
    name = request.text_of("profile")
    if name is None:
        return None
    from sandlock.profile import load  # brings tomllib

    profile = load(name)
    profile.refuse_agent()
    return profile


def policy_of(request: Request, profile: Profile | None) -> Policy:
    """The policy: the profile's values replaced by the flags', its lists extended. Raises PolicyError."""
    fields: dict[str, object] = {} if profile is None else dict(profile.fields)
    known = {option.name for option in OPTIONS}
    for name, value in request.given.items():
        if name not in known:
            continue
        before = fields.get(name, ())
        fields[name] = (*before, *value) if isinstance(value, list) and isinstance(before, tuple) else value
    return Policy.of(**fields)  # type: ignore[arg-type]  # Policy.of reads every one


def command_of(request: Request, profile: Profile | None) -> list[str]:
    """What to run: the words, else the shell text, else the profile's program. Raises PolicyError."""
    shell = request.text_of("exec_shell")
    if shell is not None:
        return ["/bin/sh", "-c", shell, "sh", *request.words]
    if request.words:
        return request.words
    if profile is not None and profile.argv:
        return list(profile.argv)
    raise PolicyError("no command; write it after the options: sandlock run --preset system -- COMMAND")


# --- running --------------------


def run(arguments: Sequence[str]) -> int | None:
    """Runs what the arguments of `sandlock run` say and returns the exit code; None if they ask for help."""
    try:
        request = parse(arguments)
    except PolicyError as error:
        return fail(error)
    return None if request is None else run_request(request)


def run_request(request: Request) -> int:
    """Runs a parsed request and returns the exit code of `sandlock run`."""
    report: int | None = None
    try:
        report = _open_report(request.text_of("report"))
        profile = profile_of(request)
        command = command_of(request, profile)
        outcome = _execute(request, policy_of(request, profile), command)
    except KeyboardInterrupt:
        _write_report(report, {"status": INTERRUPTED, "error": "interrupted"})
        return INTERRUPTED
    except Exception as error:
        code = fail(error)
        _write_report(report, {"status": code, "error": describe(error)})
        return code
    code = TIMED_OUT if outcome.timed_out else outcome.exit_code
    if outcome.timed_out:
        say(f"the time limit is over after {outcome.duration:.1f} s; the whole tree was killed")
    if outcome.audit_error:
        say(f"--audit: {outcome.audit_error}")
    _write_report(report, {"status": code, "error": None, **outcome.to_dict()})
    return code


def _execute(request: Request, policy: Policy, command: list[str]) -> Result:
    if request.text_of("name") is not None:
        from .agent.named import execute  # brings trio

        return execute(request, _with_terminals(policy), command)
    with Sandbox(_with_terminals(policy), audit=request.text_of("audit")) as sandbox:
        if not request.given.get("interactive"):
            return sandbox.run(command, stdin=INHERIT, stdout=INHERIT, stderr=INHERIT)
        import signal

        # Ctrl-C and Ctrl-\ are the program's. A handler, not SIG_IGN: that one it would inherit.
        before = [(number, signal.signal(number, _not_ours)) for number in (signal.SIGINT, signal.SIGQUIT)]
        try:
            return sandbox.run(command, stdin=INHERIT, stdout=INHERIT, stderr=INHERIT, interactive=True)
        finally:
            for number, handler in before:
                signal.signal(number, handler)


def _with_terminals(policy: Policy) -> Policy:
    """Also grants the terminals that the program is handed open anyway, so that `> /dev/stderr` works on them."""
    if policy.is_empty():
        return policy
    names = []
    for descriptor in (0, 1, 2):
        try:
            names.append(os.ttyname(descriptor))
        except OSError:  # no terminal, closed, or one of another /dev
            continue
    return policy.but(fs_devices=(*policy.fs_devices, *names)) if names else policy


def _not_ours(number: int, frame: object) -> None:
    """The terminal sends it to the program too."""


# --- telling --------------------


def fail(error: BaseException) -> int:
    """Says in one line what went wrong on our side; returns the exit code for it."""
    say(describe(error))
    if os.environ.get("SANDLOCK_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ConfinementError) and error.step == EXEC_STEP:
        return NOT_FOUND if error.errno == 2 else NOT_EXECUTABLE
    return OUR_FAILURE


EXEC_STEP = "execute the program"
"""The launch step whose failure is the command's fault: shells exit with 126 and 127 for it."""


def describe(error: BaseException) -> str:
    """One line for an error. Policy fields are named by their flags."""
    text = str(error)
    if isinstance(error, PolicyError) and error.field is not None and text.startswith(f"{error.field}:"):
        flags = [option.flags[-1] for option in (*EXTRAS, *OPTIONS) if option.name == error.field]
        text = text.replace(error.field, flags[0], 1) if flags else text
    elif isinstance(error, InternalError) or not isinstance(error, SandlockError):
        text = f"internal error: {type(error).__name__}: {text}; please report it (SANDLOCK_DEBUG=1 shows where)"
    return result.printable(text, 4000)


def say(text: str) -> None:
    """One line on stderr; nobody there is no reason to fail."""
    try:
        print(f"sandlock: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def _open_report(where: str | None) -> int | None:
    """The descriptor to report to; opened before the run, so that a bad place is known in time."""
    if where is None:
        return None
    form, colon, place = where.partition(":")
    if form != "json" or (colon and not place):
        raise PolicyError(f"--report: {where!r} is not a report; write json, json:FILE or json:fd:N")
    if not colon:
        return os.dup(2)
    number = place.removeprefix("fd:")
    try:
        if number != place and number.isascii() and number.isdigit():
            return os.dup(int(number))
        return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except (OSError, OverflowError) as error:
        raise PolicyError(f"--report: {place!r}: {error}; name a file or an open descriptor") from error


def _write_report(descriptor: int | None, report: dict[str, object]) -> None:
    if descriptor is None:
        return
    import json

    text = json.dumps({"schema": result.SCHEMA, **report}) + "\n"
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        say(f"--report: {error.strerror}")
