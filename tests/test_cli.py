"""The command line: one table of options, exit codes that mean something, one line when we fail."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import ordinary
import pytest

from sandlock.cli import direct
from sandlock.cli.__main__ import main
from sandlock.errors import ConfinementError, InternalError, PolicyError
from sandlock.policy import OPTIONS, Policy
from sandlock.presets import PRESETS

SYSTEM = ("--preset", "system")


def cli(who: ordinary.Person, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `sandlock ARGUMENTS` as this person."""
    return who.run([who.python, "-m", "sandlock.cli", *arguments], **options)  # type: ignore[arg-type]


def request(*arguments: str) -> direct.Request:
    parsed = direct.parse(arguments)
    assert parsed is not None
    return parsed


def policy(*arguments: str) -> Policy:
    return direct.policy_of(request(*arguments), None)


def one_line(text: str) -> str:
    """The single line that we say when something is wrong."""
    assert text.startswith("sandlock: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


# --- the direct parser --------------------

SAMPLES = {
    "word": ("all", "all"),
    "paths": ("/a", ("/a",)),
    "path": ("/a", "/a"),
    "mounts": ("/a:/b:ro", ("/a:/b:ro",)),
    "names": ("mount", ("mount",)),
    "capabilities": ("net_raw", ("CAP_NET_RAW",)),
    "variable-names": ("HOME", ("HOME",)),
    "variables": ("A=1", (("A", "1"),)),
    "cpus": ("0,2", (0, 2)),
    "ports": ("80", ("80",)),
    "net-rules": (":443", (":443",)),
    "exec-rules": ("git push *", ("git push *",)),
    "int": ("9", 9),
    "size": ("2M", 2 << 20),
    "seconds": ("1.5", 1.5),
    "octal": ("027", 0o27),
    "hostname": ("cage", "cage"),
}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_flag_of_the_table_is_read(option: object) -> None:
    assert isinstance(option, direct.Option)
    if option.kind == "switch":
        for flag, value in [(flag, True) for flag in option.flags] + [(flag, False) for flag in option.off]:
            assert getattr(policy(flag), option.name) is value
        return
    text, value = SAMPLES[option.kind]
    if option.choices and option.repeatable:
        text, value = option.choices[0], (option.choices[0],)
    for flag in option.flags:
        joined = f"{flag}={text}" if flag.startswith("--") else f"{flag}{text}"
        for words in ([flag, text], [joined]):
            assert getattr(policy(*words), option.name) == value
    if option.repeatable and option.kind != "variables":
        assert getattr(policy(option.flags[-1], text, option.flags[-1], text), option.name) == value


def test_options_end_at_the_program() -> None:
    assert request("-r", "/usr", "ls", "-l", "--help").words == ["ls", "-l", "--help"]
    assert request("-r/usr", "--", "-odd", "--").words == ["-odd", "--"]
    assert request("-", "x").words == ["-", "x"]
    assert request("--").words == []


def test_help_is_somebody_elses_business() -> None:
    assert direct.parse(["-r", "/usr", "--help", "ls"]) is None
    assert direct.parse(["-h"]) is None
    assert direct.parse(["ls", "--help"]) is not None


def test_short_flags_cluster_as_usual() -> None:
    parsed = request("-ie", "echo x", "a")
    assert parsed.given == {"interactive": True, "exec_shell": "echo x"}
    assert request("-iP3").given == {"interactive": True, "max_processes": "3"}


def test_lists_collect_and_the_last_of_a_single_value_counts() -> None:
    made = policy("-r", "/a", "-r/b", "--fs-read=/c", "-t", "3", "-t5", "--coredump", "--no-coredump")
    assert made.fs_readable == ("/a", "/b", "/c")
    assert made.timeout == 5
    assert made.no_coredump is True


def test_env_sets_and_passes() -> None:
    made = policy("--env", "A=1", "--env", "HTTP_PROXY", "--env=B=x=y", "--env", "A=2", "--inherit-env")
    assert made.env == (("A", "2"), ("B", "x=y"))
    assert made.pass_env == ("HTTP_PROXY",)
    assert made.clean_env is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fs-raed", "/x"], "--fs-raed: no such option; did you mean --fs-read?"),
        (["-Z"], "-Z: no such option; see `sandlock run --help`"),
        (["-r"], "-r: needs a value; write -r PATH"),
        (["--fs-read", "--", "ls"], "--fs-read: needs a value"),
        (["--coredump=yes"], "--coredump: takes no value"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        direct.parse(arguments)
    assert message in str(caught.value)


def test_errors_name_the_flag() -> None:
    with pytest.raises(PolicyError) as caught:
        policy("-P", "0")
    assert direct.describe(caught.value).startswith("--max-processes: '0' is out of range; ")


def test_what_runs(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[program]\nexec = "make"\nargs = ["-j4"]\n[filesystem]\nread = ["/usr"]\n[limits]\nprocesses = 3')
    file.chmod(0o600)
    for words, command in (
        (["ls", "x"], ["ls", "x"]),
        (["-e", "echo $1", "x"], ["/bin/sh", "-c", "echo $1", "sh", "x"]),
        ([], ["make", "-j4"]),
    ):
        asked = request("-p", str(file), *words)
        assert direct.command_of(asked, direct.profile_of(asked)) == command
    asked = request("-p", str(file), "-r", "/opt", "-P5")
    made = direct.policy_of(asked, direct.profile_of(asked))
    assert made == Policy.of(fs_readable=["/usr", "/opt"], max_processes=5)
    with pytest.raises(PolicyError, match="no command"):
        direct.command_of(request(), None)


def test_errors_of_ours_are_one_safe_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error, code, text in (
        (PolicyError("a\nb\x1b[31m"), 125, "a\\nb\\x1b[31m"),
        (ConfinementError("execute the program", 2, subject="x"), 127, "ENOENT"),
        (ConfinementError("execute the program", 13, subject="x"), 126, "EACCES"),
        (ConfinementError("add a Landlock rule", 2, subject="/x"), 125, "add a Landlock rule (/x): ENOENT"),
        (InternalError("broke"), 125, "please report"),
        (ZeroDivisionError("oops"), 125, "internal error: ZeroDivisionError: oops"),
    ):
        assert direct.fail(error) == code
        assert text in one_line(capsys.readouterr().err)


# --- running --------------------


def test_the_program_has_our_streams_and_its_exit_code(as_user: ordinary.Person) -> None:
    done = cli(as_user, "run", *SYSTEM, "-e", "cat; echo err >&2; exit 7", input="in")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n")


def test_a_signal_is_128_and_its_number(as_user: ordinary.Person) -> None:
    done = cli(as_user, "run", *SYSTEM, "-e", "kill -TERM $$")
    assert (done.returncode, done.stdout, done.stderr) == (128 + 15, "", "")


def test_the_time_limit_is_124_for_the_whole_tree(as_user: ordinary.Person) -> None:
    begin = time.monotonic()
    done = cli(as_user, "run", *SYSTEM, "-t", "0.3", "-e", "(setsid sleep 60 &) ; sleep 60")
    assert done.returncode == 124
    assert "time limit" in one_line(done.stderr)
    assert time.monotonic() - begin < 20, "nobody holds our streams open"


def test_without_a_grant_there_is_one_clear_message(as_user: ordinary.Person) -> None:
    done = cli(as_user, "run", "--", "/bin/true")
    assert done.returncode == 125
    assert "--preset system" in one_line(done.stderr)
    assert "-r" in done.stderr


def test_what_cannot_be_executed(as_user: ordinary.Person) -> None:
    for command, code, name in (("no-such-program", 127, "ENOENT"), ("/usr/share", 126, "EACCES")):
        done = cli(as_user, "run", *SYSTEM, "--", command)
        assert done.returncode == code
        assert name in one_line(done.stderr)
        assert command in done.stderr
    program = os.path.join(as_user.home, "program")
    as_user.run(["sh", "-c", f"echo '#!/bin/sh' > {program}; chmod 755 {program}"])
    done = cli(as_user, "run", *SYSTEM, "--", program)
    assert done.returncode == 126, "it is there, but not granted"
    assert cli(as_user, "run", *SYSTEM, "-r", as_user.home, "--", program).returncode == 0


def test_our_own_failures_are_125(as_user: ordinary.Person) -> None:
    for arguments, text in (
        (["--bogus"], "--bogus: no such option"),
        ([*SYSTEM], "no command"),
        ([*SYSTEM, "-r", "/no/such/path", "true"], "/no/such/path"),
        ([*SYSTEM, "--cwd", "/no/such/path", "true"], "/no/such/path"),
        (["-p", "nobody", "true"], "'nobody' is not there"),
        ([*SYSTEM, "--report", "xml", "true"], "write json"),
        ([*SYSTEM, "--report", "json:fd:99", "true"], "open descriptor"),
        ([*SYSTEM, "--net-deny", "1.1.1.1.1", "true"], "--net-deny: '1.1.1.1.1' has no network address"),
    ):
        done = cli(as_user, "run", *arguments)
        assert done.returncode == 125, arguments
        assert text in one_line(done.stderr)
        assert done.stdout == ""


def test_the_environment_is_clean_unless_asked(as_user: ordinary.Person) -> None:
    secrets = {"SECRET": "s", "WANTED": "w"}
    clean = cli(as_user, "run", *SYSTEM, "--env", "WANTED", "--env", "A=1", "--", "env", env=secrets).stdout
    assert "SECRET" not in clean
    assert {"WANTED=w", "A=1"} <= set(clean.split())
    whole = cli(as_user, "run", *SYSTEM, "--inherit-env", "--", "env", env=secrets).stdout
    assert "SECRET=s" in whole


def test_writing_needs_a_grant(as_user: ordinary.Person) -> None:
    target = os.path.join(as_user.home, "target")
    denied = cli(as_user, "run", *SYSTEM, "-e", f"echo x > {target}")
    assert denied.returncode != 0
    assert not os.path.exists(target)
    granted = cli(as_user, "run", *SYSTEM, "--preset=workspace", "-C", as_user.home, "-e", "echo x > target")
    assert granted.returncode == 125, "the workspace is never the home directory"
    assert cli(as_user, "run", *SYSTEM, "-w", as_user.home, "-e", f"echo x > {target}").returncode == 0
    assert pathlib.Path(target).read_text() == "x\n"


# --- reports --------------------


def test_a_report_to_stderr_to_a_file_to_a_descriptor(as_user: ordinary.Person) -> None:
    done = cli(as_user, "run", *SYSTEM, "--report", "json", "-e", "exit 3")
    report = json.loads(done.stderr)
    assert (report["schema"], report["status"], report["exit_code"], report["error"]) == (1, 3, 3, None)
    assert report["argv"] == ["/bin/sh", "-c", "exit 3", "sh"]
    file = os.path.join(as_user.home, "report.json")
    cli(as_user, "run", *SYSTEM, f"--report=json:{file}", "-t", "0.2", "--", "sleep", "60")
    report = json.loads(pathlib.Path(file).read_text())
    assert (report["status"], report["timed_out"], report["reason"]) == (124, True, "timeout")
    done = cli(as_user, "run", *SYSTEM, "--report", "json:fd:1", "--", "no-such-program")
    report = json.loads(done.stdout)
    assert report["status"] == 127
    assert "ENOENT" in report["error"]


def test_a_report_shows_what_ran(as_user: ordinary.Person) -> None:
    done = cli(as_user, "run", *SYSTEM, "--record-execs", "--report", "json", "-e", "/bin/true; exit 0")
    execs = json.loads(done.stderr)["execs"]
    assert [os.path.basename(each["argv"][0]) for each in execs] == ["sh", "true"]
    assert execs[1]["parent_pid"] == execs[0]["pid"]


# --- interruptions --------------------


@pytest.fixture
def running(as_user: ordinary.Person) -> Iterator[subprocess.Popen[str]]:
    """A `sandlock run` whose program has said that it runs."""
    argv = [
        as_user.python,
        "-m",
        "sandlock.cli",
        "run",
        *SYSTEM,
        "-e",
        "echo $$; setsid sleep 60 & sleep 60",
    ]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=as_user.environment(),
        cwd=as_user.home, **as_user.identity,  # type: ignore[call-overload]
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield process
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_whatever_ends_us_ends_the_tree(running: subprocess.Popen[str], number: int, code: int) -> None:
    running.send_signal(number)
    _, errors = running.communicate(timeout=20)  # ends when nobody holds the streams any more
    assert running.returncode == code
    assert errors == ""


def test_ctrl_c_belongs_to_an_interactive_program(as_user: ordinary.Person) -> None:
    """In a terminal of its own: Ctrl-C reaches the program, and we stay to tell how it ended."""
    pid, terminal = pty.fork()
    if pid == 0:  # the child: becomes that person, in a session with a terminal
        try:
            if as_user.identity:
                os.setgroups([])
                os.setgid(as_user.gid)
                os.setuid(as_user.uid)
            os.chdir(as_user.home)
            script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
            argv = [as_user.python, "-m", "sandlock.cli", "run", "-i", *SYSTEM, "-e", script]
            os.execve(as_user.python, argv, as_user.environment())
        finally:
            os._exit(99)
    try:
        assert b"ready" in read_until(terminal, b"ready")
        os.write(terminal, b"\x03")
        assert b"caught" in read_until(terminal, b"caught")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    finally:
        os.close(terminal)


def read_until(fd: int, text: bytes, seconds: float = 20) -> bytes:
    seen = b""
    deadline = time.monotonic() + seconds
    while text not in seen and time.monotonic() < deadline:
        if not select.select([fd], [], [], 0.5)[0]:
            continue
        try:
            seen += os.read(fd, 4096)
        except OSError:
            break
    return seen


# --- the other commands --------------------


def test_help_shows_every_flag_and_the_defaults(as_user: ordinary.Person) -> None:
    for command in ("run", "inspect"):
        done = cli(as_user, command, "--help", env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert done.returncode == 0
        for option in OPTIONS:
            for flag in option.flags + option.off:
                assert flag in done.stdout, flag
        assert "(default: 64M)" in done.stdout
        assert "(default: on)" in done.stdout
    assert cli(as_user, "--help").returncode == 0


def test_inspect_prints_the_policy_and_the_plan(as_user: ordinary.Person) -> None:
    done = cli(as_user, "inspect", "--plan", *SYSTEM, "-w", "/tmp", "--env", "A=1", "--umask", "027", "-P", "9")
    assert done.returncode == 0, done.stderr
    for line in (
        'presets = ["system"]',
        'write = ["/tmp"]',
        'env = {"A" = "1"}',
        'umask = "027"',
        "processes = 9",
    ):
        assert line in done.stdout.splitlines()
    assert "/usr" in done.stdout
    assert cli(as_user, "inspect", "--bogus").returncode == 125


def test_inspect_writes_a_profile(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    flags = [
        *(
            "--preset=system,tmp",
            "-r",
            '/odd "name"\\',
            "-w/\x7f\x1b",
            "--env",
            'A=x"y',
            "--umask=7",
            "-t2.5",
        ),
        *(
            "--cpu-cores=0,1",
            "--coredump",
            "--net-allow=:443",
            "--net-allow-bind=80,90-95",
            "--keep-capability=chown",
        ),
    ]
    assert main(["inspect", *flags]) == 0
    file = tmp_path / "p.toml"
    file.write_text(capsys.readouterr().out)
    file.chmod(0o600)
    asked = request("-p", str(file))
    assert direct.policy_of(asked, direct.profile_of(asked)) == policy(*flags)


def test_profiles(as_user: ordinary.Person) -> None:
    place = os.path.join(as_user.home, ".config", "sandlock", "profiles")
    text = '[config]\npresets = ["system"]\n[program]\nexec = "echo"\nargs = ["from the profile"]\n'
    as_user.run(["sh", "-c", f"umask 022; mkdir -p {place}; printf '%s' '{text}' > {place}/greet.toml"])
    bad = os.path.join(place, "bad.toml")
    as_user.run(["sh", "-c", f"umask 022; echo '[limits]\nprocesess = 3' > {bad}"])
    listed = cli(as_user, "profile", "list").stdout.splitlines()
    assert listed[:2] == ["bad", "greet"]
    assert any(line.startswith("claude ") and "(shipped)" in line for line in listed[2:])
    assert "api.anthropic.com:443" in cli(as_user, "profile", "show", "claude").stdout
    assert cli(as_user, "profile", "check", "claude").stdout.endswith("claude.toml: ok\n")
    as_user.run(["sh", "-c", f"umask 022; printf '[agent]\nadd = [\"git\"]\n' > {place}/mine.toml"])
    assert cli(as_user, "profile", "check", "mine").stdout == f"{place}/mine.toml: ok\n"
    refused = cli(as_user, "run", "-p", "mine", "--preset", "system", "--", "echo", "never")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert "sandlock agent run" in refused.stderr
    assert cli(as_user, "profile", "show", "greet").stdout == text
    assert cli(as_user, "profile", "check", "greet").stdout == f"{place}/greet.toml: ok\n"
    done = cli(as_user, "profile", "check", "bad")
    assert done.returncode == 125
    assert "did you mean 'limits.processes'?" in one_line(done.stderr)
    assert cli(as_user, "run", "-p", "greet").stdout == "from the profile\n"
    assert cli(as_user, "run", "-p", "greet", "--", "echo", "words").stdout == "words\n"
    assert cli(as_user, "run", "-p", "../greet", "true").returncode == 125


def test_the_terminal_can_be_opened_by_its_names(as_user: ordinary.Person) -> None:
    """The program holds it open already; scripts write to /dev/stderr all the same."""
    ours, theirs = pty.openpty()
    try:
        os.fchown(theirs, as_user.uid, as_user.gid)
        argv = [as_user.python, "-m", "sandlock.cli", "run", *SYSTEM, "-e", "echo heard > /dev/stderr"]
        done = subprocess.run(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=as_user.environment(), cwd=as_user.home,
            timeout=60, check=False, **as_user.identity,  # type: ignore[call-overload]
        )  # fmt: skip
        assert (done.returncode, read_until(ours, b"\n")) == (0, b"heard\r\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sandlock ")
    assert main([]) == 0
    assert "doctor" in capsys.readouterr().out


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)


def test_doctor(as_user: ordinary.Person) -> None:
    done = cli(as_user, "doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["strict_ok"] else 1)
    assert "landlock-files" in {check["name"] for check in report["checks"]}
    assert cli(as_user, "doctor").stdout.count("\n") > len(report["checks"])


def test_run_does_not_bring_typer_or_trio(as_user: ordinary.Person) -> None:
    code = (
        "import sys; from sandlock.cli.__main__ import main; "
        "code = main(['run', '--preset', 'system', '--', '/bin/true']); "
        "print(code, *{'typer', 'trio', 'json', 'tomllib', 'asyncio'} & set(sys.modules))"
    )
    assert as_user.script(code).split() == ["0"]


# --- the hook of Claude Code --------------------

BASH = json.dumps({"tool_name": "Bash", "tool_input": {"command": "id"}})


@pytest.mark.parametrize(
    ("words", "given", "code"),
    [
        ([], BASH, 0),
        (["--", "--add", "git"], BASH, 0),
        ([], "{", 2),
        ([], "", 2),
        (["--no-such-flag"], BASH, 2),
        (["--", "--add", "git"], "[" * 100_000, 2),
    ],
)
def test_a_hook_that_fails_blocks(visitor: ordinary.Person, words: list[str], given: str, code: int) -> None:
    """By exit code 2: with any other failure Claude Code lets the command run, outside the sandbox."""
    program = os.path.join(visitor.home, "sandlock")
    pathlib.Path(program).write_text("#!/bin/sh\n")
    os.chmod(program, 0o755)
    done = cli(visitor, "agent", "hook", *words, input=given, env={"PATH": f"{visitor.home}:/usr/bin:/bin"})
    assert done.returncode == code, done
    assert ("updatedInput" in done.stdout) == (code == 0)


def test_a_hook_that_nobody_reads_or_that_crashes_blocks(as_user: ordinary.Person) -> None:
    full = as_user.run(["sh", "-c", f"{as_user.python} -m sandlock.cli agent hook > /dev/full"], input=BASH)
    assert full.returncode == 2, full
    code = "import sys; sys.modules['typer'] = None; from sandlock.cli.__main__ import main; sys.exit(main())"
    broken = as_user.run([as_user.python, "-c", code, "agent", "hook"], input=BASH)
    assert broken.returncode == 2, broken
