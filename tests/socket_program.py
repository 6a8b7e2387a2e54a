"""What an ordinary program does with sockets, and what it sees: one line for each. Run free and confined, the lines are
the same. Arguments: a TCP port that listens, a UDP port that echoes, a TCP port that is closed."""

from __future__ import annotations

import array
import errno
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

OPEN, ECHO, CLOSED = map(int, sys.argv[1:4])
HERE = "127.0.0.1"
BIG = os.urandom(4 << 20)


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else type(error).__name__


def said(name: str, *values: object) -> None:
    print(name, *values, flush=True)


def connections() -> None:
    with socket.socket() as blocking:
        said("connect", outcome(lambda: blocking.connect((HERE, OPEN))), blocking.getpeername() == (HERE, OPEN))
        said("again", outcome(lambda: blocking.connect((HERE, OPEN))))
    with socket.socket() as refused:
        said("refused", outcome(lambda: refused.connect((HERE, CLOSED))))
    with socket.socket() as late:
        late.setblocking(False)
        first = late.connect_ex((HERE, OPEN))
        select.select([], [late], [], 5)
        said("non-blocking", first in (0, errno.EINPROGRESS), late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        said("flags kept", late.getblocking())
    with socket.socket() as patient:
        patient.connect((HERE, OPEN))
        said("blocking kept", patient.getblocking(), os.get_blocking(patient.fileno()))
    with socket.socket(socket.AF_INET6) as six:
        said("v4 in v6", outcome(lambda: six.connect((f"::ffff:{HERE}", OPEN))))
    with socket.socket() as wrong:
        said("no socket", outcome(lambda: socket.socket(fileno=os.dup(wrong.fileno())).connect(("0.0.0.0", OPEN))))


def datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.settimeout(5)
        said("sendto", plain.sendto(b"one", (HERE, ECHO)), plain.recvfrom(99) == (b"one", (HERE, ECHO)))
        said("sendmsg", plain.sendmsg([b"t", b"wo"], [], 0, (HERE, ECHO)), plain.recv(99))
        said("ttl", plain.sendmsg([b"x"], [(0, socket.IP_TTL, array.array("i", [9]))], 0, (HERE, ECHO)), plain.recv(9))
        said("too long", outcome(lambda: plain.sendto(bytes(70000), (HERE, ECHO))))
        said("longest", plain.sendto(bytes(60000), (HERE, ECHO)), len(plain.recv(65536)))
        said("nobody", outcome(lambda: plain.send(b"x")))
        plain.connect((HERE, ECHO))
        said("connected", plain.send(b"three"), plain.recv(99), plain.sendmsg([b"four"]), plain.recv(99))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((HERE, 0))
        said("bound", bound.getsockname()[1] > 0)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        said("v6 socket", outcome(lambda: six.sendto(b"six", (f"::ffff:{HERE}", ECHO))))


def pairs() -> None:
    one, other = socket.socketpair()
    read, write = os.pipe()
    said("rights", one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))]))
    _, passed, _, _ = other.recvmsg(1, 1024)
    given = array.array("i", passed[0][2])[0]
    os.write(given, b"through")
    said("passed", os.read(read, 99))
    received = bytearray()

    def drain() -> None:
        while len(received) < len(BIG):
            received.extend(other.recv(1 << 20))

    reader = threading.Thread(target=drain)
    reader.start()
    said("all of it", one.sendmsg([BIG[: 1 << 20], BIG[1 << 20 :]]))
    reader.join()
    said("as sent", bytes(received) == BIG)
    one.setblocking(False)
    while outcome(lambda: one.sendmsg([bytes(65536)])) != "EAGAIN":
        pass
    said("full", outcome(lambda: one.sendmsg([b"x"])))
    other.close()
    said("broken", outcome(lambda: one.sendmsg([b"x"], [], socket.MSG_NOSIGNAL)))
    signal.signal(signal.SIGPIPE, lambda number, frame: said("signal", number))
    said("broken too", outcome(lambda: one.sendmsg([b"x"])))


def main() -> None:
    connections()
    datagrams()
    pairs()


main()
