"""What a program does with names, one word of its command line after the other; one line of JSON for each.

look|NAME       getaddrinfo: the addresses, or the number of its error
tcp|HOST|PORT   connects and says OWNED: an errno, or minus the number of getaddrinfo's error
udp|HOST|PORT   sends OWNED: the same
raw|HOW|SERVER|KIND|NAME    asks SERVER by hand: [error, number of answers], or an errno
many|N|NAME     looks NAME up N times at once (%d: a number): how many succeeded
flood|N|NAME    asks for N names by hand, one after the other: how many had answers
wait|SECONDS
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SILENCE = 5.0


def resolved(host: str, port: int, kind: int) -> Any:
    return socket.getaddrinfo(host, port, type=kind)[0]


def look(name: str) -> object:
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(name, None)})
    except socket.gaierror as error:
        return error.errno


def reach(kind: int, host: str, port: str) -> int:
    try:
        family, kind, _, _, address = resolved(host, int(port), kind)
        with socket.socket(family, kind) as made:
            made.settimeout(SILENCE)
            if kind == socket.SOCK_DGRAM:
                made.sendto(b"OWNED", address)
            else:
                made.connect(address)
                made.sendall(b"OWNED")
    except socket.gaierror as error:
        return error.errno or 0
    except TimeoutError:
        return -99
    except OSError as error:
        return error.errno or 0
    return 0


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    number = random.randrange(1 << 16)
    return number.to_bytes(2) + bytes.fromhex("0100000100000000 0000") + labels + b"\0" + kind.to_bytes(2) + b"\0\1"


def raw(how: str, server: str, kind: str, name: str) -> object:
    family = socket.AF_INET6 if server.count(":") else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.settimeout(SILENCE)
        packet = query(name, int(kind))
        try:
            if how == "connect":
                made.connect((server, 53))
                made.send(packet)
            elif how == "sendto":
                made.sendto(packet, (server, 53))
            elif how == "bound":
                made.bind(("", 0))
                made.sendto(packet, (server, 53))
            else:
                made.sendmsg([packet[:5], packet[5:]], [], 0, (server, 53))
            answer, source = made.recvfrom(512)
        except OSError as error:
            return error.errno or "silence"
        assert answer[:2] == packet[:2]
        assert answer[2] & 0x80
        return [answer[3] & 15, int.from_bytes(answer[6:8]), source[1] != 53]


def many(count: str, name: str) -> int:
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(look(name.replace("%d", str(i))))) for i in range(int(count))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(isinstance(each, list) for each in found)


def flood(count: str, name: str) -> int:
    asked = (raw("connect", "192.0.2.1", "1", name.replace("%d", str(i))) for i in range(int(count)))
    return sum(isinstance(each, list) and each[1] > 0 for each in asked)


ACTS: dict[str, Callable[..., object]] = {
    "look": look,
    "tcp": lambda host, port: reach(socket.SOCK_STREAM, host, port),
    "udp": lambda host, port: reach(socket.SOCK_DGRAM, host, port),
    "raw": raw,
    "many": many,
    "flood": flood,
    "wait": lambda seconds: time.sleep(float(seconds)),
}

if __name__ == "__main__":
    for word in sys.argv[1:]:
        act, *rest = word.split("|")
        print(json.dumps(ACTS[act](*rest)), flush=True)
