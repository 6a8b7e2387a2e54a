"""`sandlock agent learn`: runs a program with a recording policy, and writes the profile that allows what it did.

Rules: what the program printed is never mixed with the profile; the profile is written also when the program was ended,
by its time limit, by Ctrl-C or by a signal. Nothing of the recording stays behind.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sandlock import INHERIT, Policy, PolicyError, Process, Sandbox, profile
from sandlock.files import remove_tree
from sandlock.policy import OPTIONS
from sandlock.result import printable
from sandlock.sessions.generalising import DEFAULT_AT_LEAST, Limits
from sandlock.sessions.learned_text import (
    keys_of,
    left_out_lines,
    merged_text,
    profile_text,
    proposal,
    shown_path,
    toml_text,
)
from sandlock.sessions.learning import Learned, Observed, Refused, learn, observe
from sandlock.sessions.recording_run import (
    RecordingRun,
    covering_of_policy,
    coverings,
    finder,
    loaders_of,
    prepare_recording,
    temporary_place,
)

from .. import direct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandlock import Result

__all__ = ["run_request"]

MAX_REFUSED = 200
MAX_TOLD = 20
"""Lines of each kind that are printed; the profile has more of them."""
ICANON = 2  # asm-generic/termbits.h


class Ending:
    """How the recording came to its end."""

    def __init__(self, result: Result, stopped: str) -> None:
        self.result = result
        self.stopped = stopped
        """The signal that had us end it; "" for none."""

    def describe(self) -> str:
        """In words."""
        if self.stopped:
            return f"was ended by {self.stopped}"
        if self.result.timed_out:
            return f"was ended after {self.result.duration:.0f} s, by its time limit"
        return f"exited with {self.result.exit_code}"


def run_request(request: direct.Request) -> int:
    """Runs a parsed request and returns the exit code."""
    try:
        return _learn(request)
    except KeyboardInterrupt:
        return direct.INTERRUPTED
    except Exception as error:
        return direct.fail(error)


def _learn(request: direct.Request) -> int:
    if not request.words:
        raise PolicyError("no command; write it after the options: sandlock agent learn -- COMMAND")
    output, existing, text = _places(request)
    with _workshop() as (temporary, log):
        recording = _recording(request, temporary)
        ending = _run(request.words, recording, log)
        with open(log, encoding="utf-8", errors="replace") as lines:
            observed = observe(lines)
    covered = covering_of_policy(existing.policy()) if existing is not None else None
    exes = {each.exe for each in observed.executed}
    learned = learn(
        observed,
        recording.limits,
        presets=coverings(_words(request, "presets"), recording.limits),
        find=finder(recording.policy),
        loaders={exe: loaders_of(exe) for exe in sorted(exes)},
        granted=covered,
        collapse_hosts=bool(request.given.get("collapse_hosts")),
        terminals=_terminals(),
    )
    written, news = _compose(request, recording, observed, learned, ending, existing, text, output)
    _write(output, written)
    _tell(recording, observed, learned, ending, output, news if existing is not None else None)
    ended = bool(ending.stopped) or ending.result.timed_out
    return 0 if ended else ending.result.exit_code


# Before --------------------------------------------------------------------------------------------------------------


def _places(request: direct.Request) -> tuple[str | None, profile.Profile | None, str]:
    """Where the profile is written to (None: standard output), and the one that is extended, with its text."""
    output, merge = request.text_of("output"), request.text_of("merge")
    path = None if output is None else _new_place(output)
    if merge is None:
        if path is not None and os.path.lexists(path):
            raise PolicyError(f"{printable(path)} is there already; extend it with --merge, or name another file")
        return path, None, ""
    existing = profile.load(merge)
    return path or existing.path, existing, profile.read(existing.path)


def _new_place(text: str) -> str:
    """The file that a profile of this name, or in this file, is written to."""
    if "/" in text or text.endswith(".toml"):
        return os.path.abspath(text)
    if not profile.is_name(text):
        raise PolicyError(f"--output: {text!r} is not a profile name; use letters, digits, '.', '_', '-', or a file")
    return f"{profile.directory()}/{text}.toml"


def _words(request: direct.Request, name: str) -> list[str]:
    value = request.given.get(name, [])
    return list(value) if isinstance(value, list) else []


def _recording(request: direct.Request, temporary: str) -> RecordingRun:
    known = {option.name for option in OPTIONS}
    fields = {name: value for name, value in request.given.items() if name in known}
    text = request.text_of("collapse")
    if text is not None and not (text.isascii() and text.isdigit() and 2 <= int(text) <= 1000):
        raise PolicyError(f"--collapse: {text!r} is not a number of entries; write 2 to 1000")
    at_least = DEFAULT_AT_LEAST if text is None else int(text)
    return prepare_recording(fields, temporary=temporary, terminals=_terminals(), at_least=at_least)


@contextmanager
def _workshop() -> Iterator[tuple[str, str]]:
    """A private directory for temporary files of the program, and the place of the record, beside it."""
    place = os.path.realpath(tempfile.mkdtemp(prefix="sandlock-learn-"))
    try:
        temporary = os.path.join(place, "tmp")
        os.mkdir(temporary, 0o700)
        yield temporary, f"{place}/log.jsonl"
    finally:
        with suppress(OSError):
            remove_tree(place, forced=True)


def _terminals() -> list[str]:
    """The terminals that the program is handed."""
    found = []
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            found.append(os.ttyname(descriptor))
    return sorted(set(found))


# Meanwhile -----------------------------------------------------------------------------------------------------------


def _run(words: list[str], recording: RecordingRun, log: str) -> Ending:
    """Runs the program to its end, or until it is ended."""
    interactive = _is_terminal(0)
    stdout = INHERIT if _is_terminal(1) else 2  # the profile may go to standard output
    stopped: list[str] = []
    running: list[Process] = []

    def stop(number: int, frame: object) -> None:
        # A program that draws the screen reads Ctrl-C itself; the others end by it.
        if number == signal.SIGQUIT or (number == signal.SIGINT and interactive and _is_raw()):
            return
        stopped.append(signal.Signals(number).name)
        for process in running:
            process.kill()

    with (
        _handling(stop),
        Sandbox(recording.policy, policy_fn=recording.verdict, audit=log) as box,
        box.start(words, stdin=INHERIT, stdout=stdout, stderr=INHERIT, interactive=interactive) as process,
    ):
        running.append(process)
        if stopped:  # before there was anybody to end
            process.kill()
        result = process.wait()
    if result.audit_error:
        direct.say(f"the record is not complete: {result.audit_error}")
    return Ending(result, stopped[0] if stopped else "")


@contextmanager
def _handling(stop: object) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [(number, signal.signal(number, stop)) for number in numbers]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _is_raw() -> bool:
    """Whether the terminal hands on what is typed sign by sign: then somebody draws the screen, or edits the line."""
    import termios

    try:
        return not termios.tcgetattr(0)[3] & ICANON
    except termios.error:
        return False


# Afterwards ----------------------------------------------------------------------------------------------------------


def _compose(
    request: direct.Request,
    recording: RecordingRun,
    observed: Observed,
    learned: Learned,
    ending: Ending,
    existing: profile.Profile | None,
    text: str,
    output: str | None,
) -> tuple[str, list[str]]:
    """The profile's text, and what is new in one that is extended."""
    temporary, scalars = "", _scalars(request)
    has_temporary = "TMPDIR" in dict(existing.policy().env) if existing is not None else False
    if learned.uses_temporary and not has_temporary:
        temporary = _temporary_of_profile(request, output)
        scalars["program.env"] = _environment(recording.policy, temporary)
    elif "env" in request.given:
        scalars["program.env"] = _environment(recording.policy, "")
    if text:
        return merged_text(text, keys_of(learned, recording.limits, temporary=temporary), scalars)
    heading = _heading(request, recording, observed, learned, ending)
    return profile_text(learned, recording.limits, heading=heading, scalars=scalars, temporary=temporary), []


def _scalars(request: direct.Request) -> dict[str, str]:
    """What was given for the recording, and has to be there next time."""
    found = {}
    if _words(request, "pass_env"):
        found["program.pass_env"] = "[" + ", ".join(map(toml_text, sorted(_words(request, "pass_env")))) + "]"
    if request.given.get("clean_env") is False:
        found["program.clean_env"] = "false"
    return found


def _environment(policy: Policy, temporary: str) -> str:
    values = {name: value for name, value in policy.env if name != "TMPDIR"}
    if temporary:
        values["TMPDIR"] = temporary
    named = {
        name if name.replace("_", "").isalnum() and name.isascii() else toml_text(name): values[name] for name in values
    }
    return "{" + ", ".join(f"{name} = {toml_text(value)}" for name, value in sorted(named.items())) + "}"


def _temporary_of_profile(request: direct.Request, output: str | None) -> str:
    """A private directory for temporary files of the programs of this profile; it is made."""
    stem = os.path.basename(output or request.words[0]).removesuffix(".toml")
    safe = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in stem)[:64].strip(".") or "program"
    place = temporary_place(safe)
    with place.opened(make=True):
        return os.path.realpath(place.path)


def _heading(
    request: direct.Request, recording: RecordingRun, observed: Observed, learned: Learned, ending: Ending
) -> list[str]:
    starts = sum(each.count for each in observed.executed)
    wrote = sum(each.writes or each.creates or each.removes or each.changes for each in observed.touches)
    few = f"{recording.limits.at_least} or more of its entries"
    lines = [
        "What a program did, as rules: made by `sandlock agent learn`. Read them before you use them.",
        f"Command: {' '.join(request.words)[:300]}",
        f"It {ending.describe()}; seen: {_count(len(observed.executed), 'command')} ({starts} starts), "
        f"{_count(len(observed.touches), 'path')} ({wrote} changed), {_count(len(observed.reached), 'destination')}, "
        f"{_count(len(observed.bound), 'bound address', 'bound addresses')}.",
        f"A directory stands for {few}. Relative paths are from where it is run.",
    ]
    if observed.lost or observed.damaged:
        lines.append(f"NOT COMPLETE: {observed.lost} decisions are missing, {observed.damaged} lines were damaged.")
    if observed.refused:
        refused = (_refusal(each, recording.limits) for each in observed.refused[:MAX_REFUSED])
        lines += ["Refused while recording, and not allowed below:", *refused]
    if learned.left_out:
        lines += ["Left out:", *left_out_lines(learned)]
    return lines


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _refusal(each: Refused, limits: Limits) -> str:
    """A line about what was denied, with the rule that would allow it."""
    times = f" ({each.count}x)" if each.count > 1 else ""
    by = f" by {os.path.basename(each.program)}" if each.program and each.kind != "exec" else ""
    if each.kind not in ("open", "path", "exec"):
        return f"  {each.how} {each.target}{by}{times}: {each.fix or each.reason}"
    what = f"  {each.how} {shown_path(each.target, limits)}{by}{times}"
    if each.by_rule:
        return f"{what}: a secret; no rule of learning's grants it"
    return f"{what}: {each.fix or each.reason}" if each.kind == "exec" else f"{what}: {proposal(each.target, limits)}"


def _write(output: str | None, text: str) -> None:
    """As a whole or not at all; nobody else may write it, or it would not be loaded."""
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    folder = os.path.dirname(output)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=".sandlock-", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(part, output)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def _tell(
    recording: RecordingRun,
    observed: Observed,
    learned: Learned,
    ending: Ending,
    output: str | None,
    news: list[str] | None,
) -> None:
    """What came of it, on stderr."""
    direct.say(f"learn: the program {ending.describe()}")
    for each in observed.refused[:MAX_TOLD]:
        direct.say(f"learn: refused:{printable(_refusal(each, recording.limits)[1:], 300)}")
    if len(observed.refused) > MAX_TOLD:
        direct.say(f"learn: refused: {len(observed.refused) - MAX_TOLD} more; all of them are in the profile")
    if any(not each.by_rule and each.kind in ("open", "path") for each in observed.refused):
        direct.say("learn: to have the program write elsewhere, learn again with -w DIR for it")
    if news is not None:
        for line in news:
            direct.say(f"learn: new: {printable(line, 300)}")
        direct.say(f"learn: {_count(len(news), 'rule')} new" if news else "learn: nothing is new")
    if output is not None:
        direct.say(f"learn: wrote {printable(shown_path(output, recording.limits), 300)}")
        if any(os.path.realpath(output).startswith(f"{root}/") for root in recording.limits.writable):
            direct.say("learn: the program may write where the profile lies: keep it elsewhere before you trust it")
