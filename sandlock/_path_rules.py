"""The system calls that act on paths: what each does to what, where its arguments are, and which of them the supervisor
carries out for which options.

Values in, values out. One line for a call; the core reads it packed into its rule's value (_path_calls.pxd).
"""

from __future__ import annotations

from . import _filter, syscalls
from .errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._filter import Answer

__all__ = ["ACTS", "CALLS", "METADATA", "adjust", "pack", "traps"]

ACTS = (
    "open", "chmod", "chown", "times", "set-xattr", "remove-xattr", "set-flags", "watch", "truncate", "make-directory",
    "remove-directory", "remove", "rename", "link", "make-link", "make-node", "look", "look-x", "may-access",
    "read-link", "look-at-system", "get-xattr", "list-xattr", "change-directory", "tell-directory",
)  # fmt: skip
"""What is done, in the order of the core's numbers (_path_calls.pxd: enum PathAct)."""

_TEXT = """
open            open path=0
openat          open dir=0 path=1
openat2         open dir=0 path=1
creat           open path=0
chmod           chmod path=0 value=1
fchmod          chmod fd=0 value=1
fchmodat        chmod dir=0 path=1 value=2
fchmodat2       chmod dir=0 path=1 value=2 flags=3
chown           chown path=0 value=1
lchown          chown path=0 value=1 nofollow
fchown          chown fd=0 value=1
fchownat        chown dir=0 path=1 value=2 flags=4
utime           times path=0 value=1
utimes          times path=0 value=1
futimesat       times dir=0 path=1 value=2
utimensat       times dir=0 path=1 value=2 flags=3
setxattr        set-xattr path=0 value=1
lsetxattr       set-xattr path=0 value=1 nofollow
fsetxattr       set-xattr fd=0 value=1
setxattrat      set-xattr dir=0 path=1 value=3 flags=2
removexattr     remove-xattr path=0 value=1
lremovexattr    remove-xattr path=0 value=1 nofollow
fremovexattr    remove-xattr fd=0 value=1
removexattrat   remove-xattr dir=0 path=1 value=3 flags=2
file_setattr    set-flags dir=0 path=1 value=2 flags=4
ioctl           set-flags fd=0 value=1
inotify_add_watch watch path=1 value=2
truncate        truncate path=0 value=1
mkdir           make-directory path=0 value=1
mkdirat         make-directory dir=0 path=1 value=2
rmdir           remove-directory path=0
unlink          remove path=0
unlinkat        remove dir=0 path=1 flags=2
rename          rename path=0 path2=1
renameat        rename dir=0 path=1 dir2=2 path2=3
renameat2       rename dir=0 path=1 dir2=2 path2=3 flags=4
link            link path=0 path2=1 nofollow
linkat          link dir=0 path=1 dir2=2 path2=3 flags=4 nofollow
symlink         make-link path2=1 value=0
symlinkat       make-link dir2=1 path2=2 value=0
mknod           make-node path=0 value=1
mknodat         make-node dir=0 path=1 value=2
"""

NONE = 15
PLACES = {"dir": 8, "path": 12, "flags": 16, "dir2": 20, "path2": 24, "value": 28}
NOFOLLOW, BY_DESCRIPTOR = 1 << 32, 1 << 33


def _pack(words: list[str]) -> int:
    packed = ACTS.index(words[0])
    named = dict(word.split("=") for word in words[1:] if "=" in word)
    if "fd" in named:
        named["dir"] = named.pop("fd")
        packed |= BY_DESCRIPTOR
    for name, shift in PLACES.items():
        packed |= int(named.get(name, NONE)) << shift
    return packed | (NOFOLLOW if "nofollow" in words else 0)


CALLS = {line.split()[0]: tuple(line.split()[1:]) for line in _TEXT.strip().splitlines()}
"""What each call does, and where its arguments are."""

METADATA = tuple(
    name
    for name, (act, *_) in CALLS.items()
    if act in ("chmod", "chown", "times", "set-xattr", "remove-xattr", "set-flags", "watch")
)
"""What Landlock has no right for: always carried out by the supervisor, inside the writable grants only."""

_CHANGES = (*METADATA, *(name for name, (act, *_) in CALLS.items() if name not in METADATA and act != "open"))
_OPENS = ("open", "openat", "openat2", "creat")

PAST_THE_FILTER = {
    "io_uring_setup": "io_uring (extra_allow_syscalls) opens files past every filter",
    "io_uring_enter": "io_uring (extra_allow_syscalls) opens files past every filter",
    "io_uring_register": "io_uring (extra_allow_syscalls) opens files past every filter",
    "fanotify_init": "fanotify (extra_allow_syscalls) gives who has CAP_SYS_ADMIN what others open",
}
"""Calls that open files, or give them, without an open that the filter sees; and how."""


def pack(name: str) -> int:
    """A call's line as a number: the value of its rule."""
    return _pack(list(CALLS[name]))


def traps(denied: bool, metadata: bool, asked: Iterable[str]) -> list[tuple[str, str, str]]:
    """(system call, rule, reason) of what the supervisor carries out. `denied`: parts of grants are denied. `asked`:
    calls that have another rule already."""
    known = set(asked)
    wanted = []
    if denied:
        reason = "fs_denied: Landlock cannot take parts away from a grant, so the supervisor opens and changes files"
        wanted += [(name, "path", reason) for name in (*_OPENS, *_CHANGES) if name not in known]
    elif metadata:
        reason = "Landlock has no right for modes, owners, times and attributes: the supervisor changes them, inside "
        wanted += [(name, "path", reason + "the writable grants") for name in METADATA]
    return wanted


def adjust(answers: dict[str, Answer], denied: bool, allowed: set[str], asked: set[str]) -> None:
    """Has the filter pass opens with O_PATH, which open nothing; and narrows ioctl to the commands that count. Raises
    PolicyError where a call that the policy allows would open files unseen."""
    if not denied:
        return
    for name, how in PAST_THE_FILTER.items():
        if name in allowed:
            raise PolicyError(f"fs_denied: {how}; drop one of the two", field="fs_denied")
    for name, argument in (("open", 1), ("openat", 2)):
        if name in answers and name not in asked:
            answers[name] = (((_filter.any_bit(argument, 0o10000000),), _filter.ALLOW),), _filter.NOTIFY
    # The supervisor acts in the run's domain: one that the program adds inside would not hold for that.
    answers.update(dict.fromkeys(answers.keys() & set(syscalls.GROUPS["landlock"].members), _filter.errno(38)))
