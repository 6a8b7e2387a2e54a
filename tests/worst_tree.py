"""The worst tree, `life everything`, and hosts that embed sandlock to run it: for tests of how trees end."""

from __future__ import annotations

import contextlib
import os

import ordinary
from programs.tools import Host, guest, host

from sandlock import Sandbox

SOON = 5.0
"""Seconds that the end of a tree may take when nobody waits for it."""
CROWD = 11
"""What `life everything` has: daemons, an orphan, a stopped task, a vfork, one without its first thread, bombs."""
CALM = 8
"""How many of these can be counted; a look at /proc does not catch the bombs."""


def box(**fields: object) -> Sandbox:
    """A sandbox that can execute the guests."""
    where = os.path.dirname(guest("life"))
    return Sandbox(presets=["system"], fs_readable=[where], **fields)  # type: ignore[arg-type]


def embed(code: str, mark: str, *, person: ordinary.Person | None = None) -> contextlib.AbstractContextManager[Host]:
    """A host in which `program`, `mark`, `fields` and `argv` (of the worst tree) are set."""
    # Not among its arguments: the mark is how the tests find what the host starts.
    return host(PRELUDE + code, guest("life"), person=person, env={"MARK": mark})


PRELUDE = """
program, mark = sys.argv[1], os.environ['MARK']
fields = {"presets": ["system"], "fs_readable": [os.path.dirname(program)]}
argv = [program, "everything", mark]
def children(thread):
    try:
        return open(f"/proc/self/task/{thread}/children").read().split()
    except FileNotFoundError:  # the thread has just ended
        return []
def holds():
    threads = os.listdir("/proc/self/task")
    return len(os.listdir("/proc/self/fd")), len(threads), sum(len(children(thread)) for thread in threads)
def told(result):
    say(result.reason, "timed out" if result.timed_out else "in time", "ok" if result.ok else "not ok")
def compare(before):
    for _ in range(200):
        if holds() == before:
            break
        time.sleep(0.01)
    say("same" if holds() == before else f"{before} became {holds()}")
"""
