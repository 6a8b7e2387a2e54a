"""check_connect says beforehand what happens: each destination of a table is asked about, then really called."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

import sandlock

PROGRAM = """
import errno, json, socket, sys
found = {}
for name, family, kind, address in json.load(sys.stdin):
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as made:
        made.settimeout(5)
        try:
            address = tuple(address) if isinstance(address, list) else address
            if name.startswith("bind "):
                made.bind(address)
            elif kind == "SOCK_DGRAM":
                made.sendto(b"x", address)
            else:
                made.connect(address)
            found[name] = "allow"
        except OSError as error:
            found[name] = "deny" if error.errno == errno.EACCES else "allow"  # it was let through to the kernel
print(json.dumps(found))
"""


@pytest.fixture
def ports() -> list[int]:
    """Two TCP ports of the loopback where nobody listens, and that are not told apart by anything but rules."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    found: list[int] = [each.getsockname()[1] for each in made]
    for each in made:
        each.close()
    return found


def table(first: int, second: int, place: Path) -> dict[str, tuple[str, tuple[str, str, object]]]:
    """By name: the target as a rule says it, and the socket call."""
    v4, v6, tcp, udp = "AF_INET", "AF_INET6", "SOCK_STREAM", "SOCK_DGRAM"
    return {
        "granted": (f"tcp://127.0.0.1:{first}", (v4, tcp, ["127.0.0.1", first])),
        "other port": (f"tcp://127.0.0.1:{second}", (v4, tcp, ["127.0.0.1", second])),
        "all zeroes is the loopback": (f"tcp://0.0.0.0:{first}", (v4, tcp, ["0.0.0.0", first])),
        "within the network": (f"tcp://127.0.0.77:{first}", (v4, tcp, ["127.0.0.77", first])),
        "denied part of it": (f"tcp://127.0.9.1:{first}", (v4, tcp, ["127.0.9.1", first])),
        "v6": (f"tcp://[::1]:{first}", (v6, tcp, ["::1", first])),
        "v4 in v6": (f"tcp://[::ffff:127.0.0.1]:{first}", (v6, tcp, ["::ffff:127.0.0.1", first])),
        "v4 in v6, denied": (f"tcp://[::ffff:127.0.9.1]:{first}", (v6, tcp, ["::ffff:127.0.9.1", first])),
        "udp": (f"udp://127.0.0.1:{second}", (v4, udp, ["127.0.0.1", second])),
        "udp, other": (f"udp://127.0.0.1:{first}", (v4, udp, ["127.0.0.1", first])),
        "unix": (f"unix:{place}/yes/socket", ("AF_UNIX", tcp, f"{place}/yes/socket")),
        "unix, other": (f"unix:{place}/yesno", ("AF_UNIX", tcp, f"{place}/yesno")),
        "abstract": ("unix:@sandlock-check-other", ("AF_UNIX", tcp, "\0sandlock-check-other")),
        "bind any": ("tcp://127.0.0.1:0", (v4, tcp, ["127.0.0.1", 0])),
        "bind granted": (f"tcp://127.0.0.1:{second}", (v4, tcp, ["127.0.0.1", second])),
        "bind other": (f"tcp://127.0.0.1:{first}", (v4, tcp, ["127.0.0.1", first])),
    }


def test_it_says_what_happens(ports: list[int], tmp_path: Path) -> None:
    first, second = ports
    (tmp_path / "yes").mkdir()
    for name in ("yes/socket", "yesno"):
        socket.socket(socket.AF_UNIX).bind(str(tmp_path / name))
    calls = table(first, second, tmp_path)
    with sandlock.Sandbox(
        presets=["python"],
        fs_readable=[str(tmp_path)],
        net_allow=[f"127.0.0.0/8:{first}", f"udp://127.0.0.1:{second}", f"unix:{tmp_path}/yes"],
        net_deny=["127.0.9.0/24"],
        net_allow_bind=[str(second)],
    ) as box:
        kinds = {"bind": "bind", "udp,": "send", "udp": "send"}
        said = {
            name: box.check_connect(target, kind=kinds.get(name.split()[0], "connect")).decision  # type: ignore[arg-type]
            for name, (target, _) in calls.items()
        }
        result = box.run(
            ["python3", "-c", PROGRAM], input=json.dumps([[name, *call] for name, (_, call) in calls.items()])
        )
        assert box.check_connect(f"127.0.9.1:{first}").rule == "127.0.9.0/24"
        assert box.check_connect(f"127.0.0.1:{first}").rule == f"127.0.0.0/8:{first}"
        assert box.check_connect(f"127.0.0.1:{second}").rule == ""
    assert result.ok, result.stderr_text
    assert said == json.loads(result.stdout)
    assert set(said.values()) == {"allow", "deny"}


def test_names_lead_to_addresses() -> None:
    with sandlock.Sandbox(
        presets=["system"], net_allow=["example.org:443", "*.example.net"], net_deny=["bad.example.net", "10.0.0.0/8"]
    ) as box:

        def decided(target: str, host: str = "") -> str:
            return box.check_connect(target, host=host).decision

        assert decided("tcp://192.0.2.1:443", "example.org") == "allow"
        assert decided("tcp://192.0.2.1:443", "Example.ORG.") == "allow"
        assert decided("tcp://192.0.2.1:443") == "deny"  # nobody says that the name leads there
        assert decided("tcp://192.0.2.1:80", "example.org") == "deny"
        assert decided("tcp://192.0.2.1:80", "a.b.example.net") == "allow"
        assert decided("tcp://127.0.0.1:80", "a.b.example.net") == "deny"  # a stranger's name that leads inside
        assert decided("tcp://192.0.2.1:80", "bad.example.net") == "deny"
        assert decided("tcp://10.0.0.1:443", "example.org") == "deny"
        assert decided("example.org:443") == "allow"
        assert decided("example.com:443") == "deny"
        assert decided("udp://192.0.2.53:53") == "allow"  # answered by the sandbox itself


def test_somebody_to_ask_and_changes() -> None:
    with sandlock.Sandbox(
        presets=["system"],
        net_deny=["192.0.2.9"],
        policy_fn=lambda event: None,
        ceiling={"net_allow": ["192.0.2.0/24"]},
    ) as box:
        assert box.check_connect("192.0.2.1:443").decision == "ask"
        assert box.check_connect("192.0.2.9:443").decision == "deny"
        box.grant(net_allow=["192.0.2.1:443"])
        assert box.check_connect("192.0.2.1:443") == sandlock.NetDecision(
            decision="allow", target="192.0.2.1:443", rule="192.0.2.1:443"
        )


def test_denied_paths_hold_for_sockets(tmp_path: Path) -> None:
    with sandlock.Sandbox(
        presets=["system"], fs_readable=[str(tmp_path)], fs_denied=[str(tmp_path / "no")], net_allow=["unix:*"]
    ) as box:
        assert box.check_connect(f"unix:{tmp_path}/x").decision == "allow"
        found = box.check_connect(f"unix:{tmp_path}/no/x")
    assert (found.decision, found.rule) == ("deny", f"fs_denied: {tmp_path}/no")


@pytest.mark.parametrize(
    "target",
    ["", "*", "*:443", "10.0.0.0/8:1", "10.0.0.1", "10.0.0.1:1-3", "10.0.0.1:1,2", "*.a.org:1", "unix:*", "::1"],
)
def test_what_is_no_destination_is_refused(target: str) -> None:
    with sandlock.Sandbox(presets=["system"]) as box, pytest.raises(sandlock.PolicyError):
        box.check_connect(target)


def test_exec_of_a_given_file(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with sandlock.Sandbox(presets=["system"], exec_deny=["sh *", "gone x"]) as box:
        assert box.check_exec(["true"], exe=str(script)).decision == "deny"  # by its interpreter
        assert box.check_exec(["true"], exe=os.path.realpath("/usr/bin/true")).decision == "allow"
        assert box.check_exec(["a", "x"], exe=f"{tmp_path}/gone").decision == "deny"
        assert box.check_exec(["a", "y"], exe=f"{tmp_path}/gone").decision == "allow"
        with pytest.raises(sandlock.PolicyError):
            box.check_exec(["a"], exe="relative")
