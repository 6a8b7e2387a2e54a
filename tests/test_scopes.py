"""Approvals that hold for longer, questions that are alike, forks, and what an event knows of where it comes from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attacks.arena import tcp
from loops import Loop
from test_supervised_network import SPOKEN, Counter
from test_vet_exec import vetted
from test_vet_network import CONNECT

from sandlock import (
    PIPE,
    Allow,
    AsyncSandbox,
    Connect,
    Deny,
    Exec,
    Fork,
    PolicyError,
    Result,
    Sandbox,
    SandlockError,
    Send,
)
from sandlock.events import alike

pytestmark = [pytest.mark.needs(landlock=6, kernel=(5, 19)), pytest.mark.usefixtures("lasting_thread")]


class Vetting:
    """Answers by `answer(event)`, and keeps the words of each exec that it was asked about."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def __call__(self, event: Any, box: AsyncSandbox) -> object:
        self.asked.append(event)
        return self.answer(event)

    @property
    def words(self) -> list[tuple[str, ...]]:
        return [event.argv for event in self.asked if isinstance(event, Exec)]


def test_an_exec_is_approved_for_the_whole_run(loop: Loop, tmp_path: Path) -> None:
    vetting = Vetting(lambda event: Allow(scope="run"))
    script = "for i in 1 2 3; do /bin/echo same; done; /bin/echo other; /bin/echo same more"
    result = vetted(loop, tmp_path, vetting, "/bin/sh", "-c", script)
    assert result.stdout.split() == [b"same", b"same", b"same", b"other", b"same", b"more"]
    assert vetting.words[1:] == [("/bin/echo", "same"), ("/bin/echo", "other"), ("/bin/echo", "same", "more")]


def test_the_first_words_are_approved(loop: Loop, tmp_path: Path) -> None:
    vetting = Vetting(lambda event: Allow(scope="run", words=2) if event.argv[0] == "/bin/echo" else Allow())
    script = "/bin/echo same; /bin/echo same more; /bin/echo samemore; /bin/echo"
    assert vetted(loop, tmp_path, vetting, "/bin/sh", "-c", script).exit_code == 0
    # No words at all but the program: fewer than two were approved for that one.
    assert vetting.words[1:] == [("/bin/echo", "same"), ("/bin/echo", "samemore"), ("/bin/echo",)]


def test_an_approval_is_of_the_file_and_not_of_its_name(loop: Loop, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho one\n")
    tool.chmod(0o755)
    vetting = Vetting(lambda event: Allow(scope="run"))
    script = "./tool; ./tool; printf '#!/bin/sh\\necho two\\n' >tool; ./tool"
    assert vetted(loop, tmp_path, vetting, "/bin/sh", "-c", script).stdout.split() == [b"one", b"one", b"two"]
    assert vetting.words.count(("./tool",)) == 2


def test_rules_that_deny_win_over_approvals(loop: Loop, tmp_path: Path) -> None:
    vetting = Vetting(lambda event: Allow(scope="run", words=1))
    script = "/bin/echo fine; /bin/echo secret"
    result = vetted(loop, tmp_path, vetting, "/bin/sh", "-c", script, exec_deny=["echo secret"])
    assert result.stdout == b"fine\n"


def test_an_approval_for_the_sandbox_holds_in_all_its_runs(loop: Loop, tmp_path: Path) -> None:
    vetting = Vetting(lambda event: Allow(scope="sandbox"))

    async def main() -> list[Result]:
        async with AsyncSandbox(presets=["system"], policy_fn=vetting) as box:
            async with box.start(["/bin/cat"], stdin=-1) as early:
                results = [await box.run(["/bin/echo", "same"]) for _ in range(3)]
                early.kill()
            return results

    assert [result.stdout for result in loop.run(main)] == [b"same\n"] * 3
    assert vetting.words == [("/bin/cat",), ("/bin/echo", "same")]


def test_a_destination_is_approved_for_the_whole_run(loop: Loop) -> None:
    def vet(event: Any) -> object:
        return Allow(scope="run")

    with tcp() as one, tcp() as other:
        vetting = Vetting(vet)

        async def main() -> Result:
            async with AsyncSandbox(presets=["python"], policy_fn=vetting) as box:
                code = (
                    "import socket, sys\n"
                    "for port in sys.argv[1:]:\n"
                    "    socket.create_connection(('127.0.0.1', int(port))).send(b'OWNED')\n"
                )
                return await box.run([sys.executable, "-c", code, *map(str, (one.port, one.port, other.port))])

        assert loop.run(main).exit_code == 0
        assert [event.port for event in vetting.asked if isinstance(event, Connect)] == [one.port, other.port]
        assert one.visits().count(SPOKEN[0]) == 2


@pytest.mark.parametrize("answer", [Allow(scope="for ever"), Allow(scope="run", words=0), Allow(words=1)])  # type: ignore[arg-type]
def test_a_scope_that_there_is_not_denies(loop: Loop, tmp_path: Path, answer: Any) -> None:
    result = vetted(loop, tmp_path, Vetting(lambda event: answer), "/bin/true")
    assert [denial.cause for denial in result.denials] == ["callback-error"]


# ---- questions that are alike


@pytest.mark.parametrize(("answer", "result"), [(Allow(), 0), (Deny("no"), 13)])
def test_questions_that_are_alike_are_one(loop: Loop, answer: object, result: int) -> None:
    code = (
        "import socket, sys, threading\n"
        "def knock(): results.append(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))))\n"
        "results = []\n"
        "threads = [threading.Thread(target=knock) for _ in range(20)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(results)\n"
    )
    asked = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Exec):
            return Allow()
        asked.append(event)
        await loop.sleep(0.5)
        return answer

    async def main() -> Result:
        async with AsyncSandbox(presets=["python"], policy_fn=vet) as box:
            return await box.run([sys.executable, "-c", code, str(server.port)])

    server = Counter()
    done = loop.run(main)
    assert done.stdout == f"{[result] * 20}\n".encode()
    assert len(asked) < 5
    assert len(done.denials) == (20 if result else 0)
    assert server.close() == (0 if result else 20)


def test_who_is_gone_takes_no_answer_from_others(loop: Loop, tmp_path: Path) -> None:
    """The first one of two that ask the same is killed: the question is put again for the second."""
    asked = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if event.argv != ("touch", "made"):
            return Allow()
        asked.append(event)
        await loop.sleep(30 if len(asked) == 1 else 0)
        return Allow()

    script = "touch made & first=$!; sleep 0.3; touch made & sleep 0.3; kill -9 $first; wait"
    vetted(loop, tmp_path, vet, "/bin/sh", "-c", script)
    assert len(asked) == 2
    assert (tmp_path / "made").exists()


TWINS = """
import os, sys, time
for word in ("good", "evil"):
    if os.fork() == 0:
        time.sleep(0.2 * (word == "evil"))
        if sys.argv[1] == "environment":
            os.execve("/bin/sh", ["sh", "-c", "echo ran >$WHO"], {"WHO": word})
        elif sys.argv[1] == "chain":
            os.execv("/bin/sh", ["sh", "-c", "/bin/touch $PPID; :", word])
        os.execv("/bin/sh", ["sh", "-c", "echo ran >same"])
for _ in range(2): os.wait()
"""


@pytest.mark.parametrize("kind", ["environment", "chain", "same"])
def test_an_answer_by_what_is_not_alike_is_for_one(loop: Loop, tmp_path: Path, kind: str) -> None:
    """Two execs with the same words, of which the callback looks at what they do not share; the control: at nothing."""
    asked = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        words = event.argv[1:2] if kind == "chain" else event.argv[2:3]
        if kind == "chain" and event.argv[0] != "/bin/touch":
            return Allow()
        if kind != "chain" and event.argv[0] != "sh":
            return Allow()
        asked.append(words)
        who = {"environment": lambda: event.environment()["WHO"], "chain": lambda: event.chain[1].argv[-1]}
        word = who.get(kind, lambda: "good")()
        await loop.sleep(0.6)
        return Allow() if word == "good" else Deny("evil")

    result = vetted(loop, tmp_path, vet, sys.executable, "-c", TWINS, kind, fs_readable=[sys.base_prefix, sys.prefix])
    made = sorted(os.listdir(tmp_path))
    if kind == "same":
        assert (made, len(asked)) == (["same"], 1), result
    else:
        assert (len(made), len(asked), [denial.reason for denial in result.denials]) == (1, 2, ["evil"]), result
        assert kind == "chain" or made == ["good"]


TRIES = """
import os
for n in range(300):
    for path in ("/bin/true", "/usr/bin/true"):
        try: os.execv(path, ["true"])
        except PermissionError: pass
print("done", flush=True)
"""


def test_denials_of_a_search_leave_nothing_behind(loop: Loop) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        return Deny("no") if event.argv == ("true",) else Allow()

    async def main() -> tuple[Result, int]:
        async with (
            AsyncSandbox(presets=["python"], policy_fn=vet) as box,
            box.start([sys.executable, "-c", TRIES], stdout=PIPE) as process,
        ):
            assert await process.stdout.receive_some(100) == b"done\n"
            return await process.wait(), len(process._running.execution._asked)

    result, kept = loop.run(main)
    assert (result.exit_code, kept) == (0, 0)


@pytest.mark.parametrize(("size", "asked"), [(1000, 1), (100_000, 3)])
def test_approvals_of_any_length_are_not_kept(loop: Loop, tmp_path: Path, size: int, asked: int) -> None:
    vetting = Vetting(lambda event: Allow(scope="sandbox"))
    script = f"w=$(printf %0{size}d 0); for i in 1 2 3; do /bin/true $w; done"
    assert vetted(loop, tmp_path, vetting, "/bin/sh", "-c", script).ok
    assert len([words for words in vetting.words if words[0] == "/bin/true"]) == asked


def test_approvals_are_kept_once_and_not_without_end() -> None:
    with Sandbox(presets=["system"], policy_fn=lambda event, box: Allow()) as box:
        permissions = box._confinement.permissions
        for number in range(5000):
            permissions.approve(b"%d" % (number // 2))
        assert len(permissions._approvals) == 2500
        for number in range(5000):
            permissions.approve(b"%d" % number)
        assert len(permissions._approvals) == 4096


def test_sends_are_alike_if_they_are_as_large() -> None:
    one, same, other = (Send(protocol="udp", ip="127.0.0.1", port=9, pid=n, size=n // 2) for n in (2, 3, 4))
    assert alike(one) == alike(same) != alike(other)


# ---- forks

FORKING = """
import os, threading
thread = threading.Thread(target=print, args=("a thread is no process",))
thread.start()
thread.join()
for call in (os.fork,) * 2:
    try:
        if call() == 0:
            open("made", "a").write("x")
            os._exit(0)
        os.wait()
    except OSError as error:
        print(error.errno)
"""


def test_each_fork_is_asked_about(loop: Loop, tmp_path: Path) -> None:
    answers = [Allow(), Deny("enough", 11)]
    vetting = Vetting(lambda event: answers.pop(0) if isinstance(event, Fork) else Allow())

    async def main() -> Result:
        async with AsyncSandbox(
            presets=["python"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=vetting, ask_forks=True
        ) as box:
            return await box.run([sys.executable, "-c", FORKING])

    result = loop.run(main)
    assert result.stdout == b"a thread is no process\n11\n"
    assert (tmp_path / "made").read_text() == "x"
    assert [(denial.kind, denial.reason, denial.errno) for denial in result.denials] == [("fork", "enough", 11)]
    subprocess.run([sys.executable, "-c", FORKING], cwd=tmp_path, check=True, capture_output=True)  # the control
    assert (tmp_path / "made").read_text() == "xxx"


def test_forks_are_counted_as_well(loop: Loop) -> None:
    vetting = Vetting(lambda event: Allow())

    async def main() -> Result:
        async with AsyncSandbox(presets=["system"], policy_fn=vetting, ask_forks=True, max_processes=3) as box:
            return await box.run(["/bin/sh", "-c", "for i in 1 2 3 4 5; do sleep 5 & done; echo no"], timeout=20)

    result = loop.run(main)
    assert b"no" not in result.stdout
    assert sum(isinstance(event, Fork) for event in vetting.asked) == 2


def test_forks_are_asked_about_only_where_somebody_answers() -> None:
    with pytest.raises(PolicyError, match="nobody to ask"):
        Sandbox(presets=["system"], ask_forks=True)


# ---- where it comes from


def test_events_know_the_programs_above(loop: Loop, tmp_path: Path) -> None:
    chains = []

    def vet(event: Any) -> object:
        if isinstance(event, Exec) and event.argv == ("/bin/true",):
            chains.append(event.chain)
        return Allow()

    script = "/bin/sh -c '/bin/true; exit 0' inner; exit 0"
    assert vetted(loop, tmp_path, Vetting(vet), "/bin/sh", "-c", script).exit_code == 0
    (chain,) = chains
    shell = os.path.realpath("/bin/sh")
    assert [(each.exe, each.argv[-1]) for each in chain] == [(shell, "inner"), (shell, "inner"), (shell, script)]
    assert [each.attested for each in chain] == [
        False,
        True,
        True,
    ]  # the first was only forked


def test_a_connection_knows_who_makes_it(loop: Loop) -> None:
    chains = []

    def vet(event: Any) -> object:
        if isinstance(event, Connect):
            chains.append(event.chain)
        return Allow()

    async def main() -> Result:
        async with AsyncSandbox(presets=["python"], policy_fn=Vetting(vet)) as box:
            return await box.run([sys.executable, "-c", CONNECT, str(server.port)])

    with tcp() as server:
        loop.run(main)
    assert [[each.argv[:2] for each in chain] for chain in chains] == [[(sys.executable, "-c")]]


FAILING = """
import os
try: os.execve("/bin/echo", ["echo", "harmless"], {f"A{n}": "x" * 120000 for n in range(100)})
except OSError as error: print(error.errno, flush=True)
if os.fork() == 0: os.execv("/bin/true", ["/bin/true"])
os.wait()
"""


@pytest.mark.parametrize("way", ["failed", "replaced", "control"])
def test_a_program_that_does_not_run_is_above_nobody(loop: Loop, tmp_path: Path, way: str) -> None:
    """The last approved exec of a process has failed; or another one came after it, which a rule has allowed."""
    chains = []

    def vet(event: Any) -> object:
        if event.argv == ("/bin/true",):
            chains.append(event.chain)
        return Allow()

    argv = [sys.executable, "-c", FAILING]
    options: dict[str, Any] = {"fs_readable": [sys.base_prefix, sys.prefix]}
    if way != "failed":
        argv = ["env", "sh", "-c", "/bin/true; exit 0"]
        options = {"exec_allow": ["sh *"]} if way == "replaced" else {}
        options["exec_ask"] = ["env *", "true"] if way == "replaced" else []
    result = vetted(loop, tmp_path, Vetting(vet), *argv, **options)
    assert result.stdout == (b"7\n" if way == "failed" else b"")
    ((_, above),) = chains
    assert above.argv[:2] == (argv[0], "-c") if way == "failed" else above.argv[:2] == ("sh", "-c")
    assert above.attested == (way == "control")


LYING = """
import ctypes, os, sys, threading, time
libc = ctypes.CDLL(None)
value = ctypes.create_string_buffer(b"WHO=good")
argv = (ctypes.c_char_p * 4)(b"sh", b"-c", b'echo "$WHO" >>seen', None)
envp = (ctypes.c_void_p * 2)(ctypes.addressof(value), None)
def swap():
    end = time.monotonic() + 1
    while time.monotonic() < end:
        ctypes.memmove(value, b"WHO=bad!", 8)
        ctypes.memmove(value, b"WHO=good", 8)
pid = os.fork()
"""
LYING += """
if pid == 0:
    sys.setswitchinterval(1e-5)
    threading.Thread(target=swap, daemon=True).start()
    while True:
        libc.execve(b"/bin/sh", argv, envp)
os.waitpid(pid, 0)
"""


def test_the_environment_is_told_and_attested(loop: Loop, tmp_path: Path) -> None:
    """Another thread rewrites it between the question and the effect: what runs has what was approved, or nothing."""
    seen = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Exec) and event.argv[0] == "sh":
            seen.append(event.environment())
            await loop.sleep(0.01)
            return Allow() if seen[-1] == {"WHO": "good"} else Deny("bad")
        return Allow()

    async def main() -> Result:
        async with AsyncSandbox(
            presets=["python"], fs_writable=[str(tmp_path)], cwd=str(tmp_path), policy_fn=vet
        ) as box:
            return await box.run([sys.executable, "-c", LYING], timeout=30)

    for _ in range(6):
        loop.run(main)
    written = (tmp_path / "seen").read_text().split() if (tmp_path / "seen").exists() else []
    assert {"WHO": "good"} in seen
    assert set(written) <= {"good"}


def test_an_environment_that_is_gone(loop: Loop, tmp_path: Path) -> None:
    kept = []

    def vet(event: Any) -> object:
        kept.append(event)
        return Allow()

    vetted(loop, tmp_path, Vetting(vet), "/bin/true")
    with pytest.raises(SandlockError, match="does not wait any more"):
        kept[0].environment()
    assert kept[0].chain == ()


# ---- grant and restrict

KNOCKING = """
import socket, sys
for line in sys.stdin:
    s = socket.socket()
    print(s.connect_ex(("127.0.0.1", int(line))), flush=True)
"""


def knock(process: Any, port: int) -> int:
    process.stdin.write(b"%d\n" % port)
    process.stdin.flush()
    return int(process.stdout.readline())


def test_a_running_sandbox_is_widened_and_narrowed() -> None:
    with tcp() as one, tcp() as other:
        rules = [f"127.0.0.1:{one.port}"]
        ceiling = {"net_allow": ["127.0.0.0/8"]}
        with Sandbox(presets=["python"], net_allow=rules, ceiling=ceiling) as box:
            with box.start([sys.executable, "-c", KNOCKING], stdin=-1) as process:
                assert (knock(process, one.port), knock(process, other.port)) == (0, 13)
                box.grant(net_allow=[f"127.0.0.1:{other.port}"])
                assert (knock(process, one.port), knock(process, other.port)) == (0, 0)
                box.restrict(net_allow=[f"127.0.0.1:{other.port}"])
                assert (knock(process, one.port), knock(process, other.port)) == (13, 0)
                box.restrict(net_allow=[])
                assert (knock(process, one.port), knock(process, other.port)) == (13, 13)
                box.grant(net_allow=rules)
                box.restrict(net_deny=["127.0.0.1"])
                assert knock(process, one.port) == 13
                result = process.poll()
                assert result is None
                process.stdin.close()
                result = process.wait()
            assert [denial.rule for denial in result.denials if denial.rule] == ["127.0.0.1"]
            box.restrict(net_allow=[])
            with box.start([sys.executable, "-c", KNOCKING], stdin=-1) as process:  # runs to come as well
                assert knock(process, one.port) == 13


@pytest.mark.parametrize(
    ("verb", "fields", "message"),
    [
        ("grant", {"net_allow": ["10.0.0.1"]}, "not within the ceiling"),
        ("grant", {"net_allow": ["udp://127.0.0.1"]}, "not within the ceiling"),
        ("grant", {"net_allow": ["126.0.0.0/7"]}, "not within the ceiling"),
        ("grant", {"net_allow": ["*"]}, "not within the ceiling"),
        ("grant", {"net_allow_bind": ["80"]}, "not within the ceiling"),
        ("grant", {"max_processes": 11}, "above 10"),
        ("grant", {"timeout": 5}, "cannot be changed while programs run"),
        ("grant", {"fs_denied": ["/"]}, "cannot be changed while programs run"),
        ("restrict", {"net_allow": ["127.0.0.1:2"]}, "not within what is granted now"),
        ("restrict", {"max_processes": 6}, "above 5"),
    ],
)
def test_nothing_is_widened_beyond_what_was_declared(verb: str, fields: dict[str, Any], message: str) -> None:
    ceiling = {"net_allow": ["127.0.0.0/8"], "max_processes": 10}
    box = Sandbox(presets=["system"], net_allow=["127.0.0.1:1"], max_processes=5, ceiling=ceiling)
    before = box.policy
    with pytest.raises(PolicyError, match=message):
        getattr(box, verb)(**fields)
    assert box.policy == before


def test_what_the_kernel_decides_is_decided_for_good() -> None:
    box = Sandbox(presets=["system"], net_allow=["*:443"])
    with pytest.raises(PolicyError, match="decided by the kernel"):
        box.restrict(net_allow=[])
    with pytest.raises(PolicyError, match="does not count processes"):
        box.grant(max_processes=5)
    with pytest.raises(PolicyError, match="cannot be changed later"):
        Sandbox(presets=["system"], ceiling={"timeout": 5})
    with pytest.raises(PolicyError, match="decided by the kernel"):
        box.restrict(fs_denied=["/etc"])


def test_processes_are_granted_while_a_program_runs() -> None:
    code = (
        "import os, sys, time\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        if os.fork() == 0: time.sleep(60)\n"
        "        print(0, flush=True)\n"
        "    except OSError as error: print(error.errno, flush=True)\n"
    )
    with Sandbox(presets=["python"], max_processes=2, ceiling={"max_processes": 4}) as box:
        with box.start([sys.executable, "-c", code], stdin=-1) as process:
            assert [knock(process, 1) for _ in range(2)] == [0, 11]
            box.grant(max_processes=4)
            assert [knock(process, 1) for _ in range(3)] == [0, 0, 11]
            box.restrict(max_processes=1)
            assert knock(process, 1) == 11


def test_a_callback_widens_its_own_sandbox(loop: Loop) -> None:
    asked = []

    async def vet(event: Any, box: AsyncSandbox) -> object:
        if isinstance(event, Connect):
            asked.append(event)
            box.grant(net_allow=[event.target])
        return Allow()

    code = "import socket, sys\nfor _ in range(3): print(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))))"

    async def main() -> Result:
        async with AsyncSandbox(presets=["python"], policy_fn=vet, ceiling={"net_allow": ["127.0.0.1"]}) as box:
            return await box.run([sys.executable, "-c", code, str(server.port)])

    with tcp(socket.AF_INET) as server:
        assert loop.run(main).stdout.split() == [b"0"] * 3
    assert len(asked) == 1


def test_the_record_says_what_was_approved_before(loop: Loop, tmp_path: Path) -> None:
    async def vet(event: Any, box: AsyncSandbox) -> object:
        return Allow() if isinstance(event, Fork) else Allow(scope="run")

    async def main() -> Result:
        async with AsyncSandbox(presets=["system"], policy_fn=vet, ask_forks=True, audit=tmp_path / "audit") as box:
            return await box.run(["/bin/sh", "-c", "/bin/echo; /bin/echo; exit 0"])

    assert loop.run(main).exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    decisions = [(line["kind"], line["cause"], line["binding"]) for line in lines if line["record"] == "decision"]
    asked, again, fork = (
        ("exec", "verdict", "attested"),
        ("exec", "approved", "attested"),
        ("fork", "verdict", "registers"),
    )
    assert decisions == [asked, fork, asked, fork, again]
