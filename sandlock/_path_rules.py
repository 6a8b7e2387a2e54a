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

    from ._filter import Answer, Case
    from .policy import Policy
    from .presets import Grant

__all__ = [
    "ACTS",
    "CALLS",
    "DEVICES",
    "LOOKS",
    "METADATA",
    "adjust",
    "covers_all",
    "denials",
    "option_of",
    "pack",
    "refused",
    "traps",
]

ACTS = (
    "open", "chmod", "chown", "times", "set-xattr", "remove-xattr", "set-flags", "watch", "truncate", "make-directory",
    "remove-directory", "remove", "rename", "link", "make-link", "make-node", "look", "look-x", "may-access",
    "read-link", "look-at-system", "get-xattr", "list-xattr", "change-directory", "tell-directory", "get-flags",
    "list-directory",
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
stat            look path=0 value=1
lstat           look path=0 value=1 nofollow
newfstatat      look dir=0 path=1 value=2 flags=3
statx           look-x dir=0 path=1 flags=2 value=3
access          may-access path=0 value=1
faccessat       may-access dir=0 path=1 value=2
faccessat2      may-access dir=0 path=1 value=2 flags=3
readlink        read-link path=0 value=1 nofollow
readlinkat      read-link dir=0 path=1 value=2 nofollow
statfs          look-at-system path=0 value=1
getxattr        get-xattr path=0 value=1
lgetxattr       get-xattr path=0 value=1 nofollow
getxattrat      get-xattr dir=0 path=1 value=3 flags=2
listxattr       list-xattr path=0 value=1
llistxattr      list-xattr path=0 value=1 nofollow
listxattrat     list-xattr dir=0 path=1 value=3 flags=2
file_getattr    get-flags dir=0 path=1 value=2 flags=4
chdir           change-directory path=0
getcwd          tell-directory value=0
getdents        list-directory fd=0 value=1
getdents64      list-directory fd=0 value=1
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

LOOKS = tuple(
    name
    for name, (act, *_) in CALLS.items()
    if act in ("look", "look-x", "may-access", "read-link", "look-at-system", "get-xattr", "list-xattr", "get-flags")
)
"""What only tells about files."""

_LISTS = ("getdents", "getdents64")
_NO_CHANGES = (*METADATA, *LOOKS, "chdir", "getcwd", *_LISTS)
_CHANGES = (*METADATA, *(name for name, (act, *_) in CALLS.items() if name not in _NO_CHANGES and act != "open"))
_EXECS = ("execve", "execveat")
_WRITES = 0o3 | 0o100 | 0o1000 | 0o20000000
"""O_ACCMODE, O_CREAT, O_TRUNC and the bit of O_TMPFILE: flags without which an open changes nothing."""
_OPENS = ("open", "openat", "openat2", "creat")

PAST_THE_FILTER = {
    "io_uring_setup": "io_uring (extra_allow_syscalls) opens files past every filter",
    "io_uring_enter": "io_uring (extra_allow_syscalls) opens files past every filter",
    "io_uring_register": "io_uring (extra_allow_syscalls) opens files past every filter",
    "fanotify_init": "fanotify (extra_allow_syscalls) gives who has CAP_SYS_ADMIN what others open",
}
"""Calls that open files, or give them, without an open that the filter sees; and how."""


_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000
_RENAME_WHITEOUT = 4
_EPERM = _filter.errno(1)
DEVICES: dict[str, tuple[Case, ...]] = {
    "mknod": tuple(((_filter.masked(1, _S_IFMT, kind),), _EPERM) for kind in (_S_IFCHR, _S_IFBLK)),
    "mknodat": tuple(((_filter.masked(2, _S_IFMT, kind),), _EPERM) for kind in (_S_IFCHR, _S_IFBLK)),
    "renameat2": (((_filter.any_bit(4, _RENAME_WHITEOUT),), _EPERM),),
}
"""How device nodes are made: by nobody, whatever capabilities are kept."""


_REASONS = {
    "chroot": "no path means to the kernel what it means to the program",
    "fs_denied": "Landlock cannot take parts away from a grant",
    "ceiling": "Landlock cannot give a grant later, nor take it back",
    "hide_ungranted": "what is not granted must not show, by no call",
    "fs_protected": "Landlock cannot let a part of a writable grant be read only",
    "record_paths": "what is done to files goes on record",
}


def option_of(policy: Policy, narrow: bool) -> str:
    """The option for which the supervisor opens and changes all files; "" for none. `narrow`: grants of paths may
    change while programs run."""
    if policy.chroot is not None:
        return "chroot"
    if policy.fs_denied:
        return "fs_denied"
    if policy.record_paths:
        return "record_paths"
    if narrow:
        return "ceiling"
    return "hide_ungranted" if policy.hide_ungranted else "fs_protected" if policy.fs_protected else ""


def denials(policy: Policy) -> tuple[tuple[str, str], ...]:
    """Field and path of what is denied or protected, by number: denials may be added while programs run."""
    protected = [("fs_protected", path) for path in policy.fs_protected]
    return (*protected, *(("fs_denied", path) for path in policy.fs_denied))


def pack(name: str) -> int:
    """A call's line as a number: the value of its rule."""
    return _pack(list(CALLS[name]))


def covers_all(grants: Iterable[Grant]) -> bool:
    """Whether a writable grant is about every file, so that there are none outside."""
    return any(grant.kind == "write" and not grant.path.strip("/") for grant in grants)


def refused(words: Iterable[str]) -> set[str]:
    """The calls of extra_deny_syscalls: what is denied anyway needs no supervisor."""
    known = (word for word in words if word in syscalls.TABLE or word in syscalls.GROUPS)
    return {name for word in known for name in syscalls.expand(word)}


def traps(
    mediated: str,
    metadata: bool,
    asked: Iterable[str],
    looks: bool = False,
    views: str = "",
    lists: bool = False,
) -> list[tuple[str, str, str]]:
    """(system call, rule, reason) of what the supervisor carries out. `mediated`: the option for which it opens and
    changes files. `metadata`: what is known of files is changed inside the writable grants only. `looks`: what only
    tells about files is carried out, too. `views`: the option for which some files show something else. `asked`: calls
    that have another answer already. `lists`: the virtual root has mounts where its directories have nothing."""
    known = set(asked)
    wanted: dict[str, str] = {}
    if metadata:
        reason = (
            "fs-metadata: Landlock has no right for modes, owners, times, attributes and watches, so the supervisor "
        )
        wanted = dict.fromkeys(METADATA, reason + "sees to them, inside the grants")
    if views:
        reason = f"{views}: some files show something else than what they hold, so the supervisor opens them"
        wanted |= dict.fromkeys(_OPENS, reason)
    if views == "private_proc":
        reason = "private_proc: other processes, and what tells about the machine, are not there"
        wanted |= dict.fromkeys((*_LISTS, *LOOKS), reason)
    if mediated == "chroot":
        reason = "chroot: no path means to the kernel what it means to the program, so the supervisor makes the call"
        wanted |= {name: reason for name in CALLS if lists or name not in _LISTS}
    elif mediated:
        reason = f"{mediated}: {_REASONS[mediated]}, so the supervisor opens and changes files"
        wanted |= dict.fromkeys((*_OPENS, *_CHANGES), reason)
    if looks:
        reason = "hide_ungranted: the supervisor looks at files for the program, if these are there for it"
        wanted |= dict.fromkeys((*LOOKS, *({"chdir"} & CALLS.keys())), reason)
    return [(name, "path", reason) for name, reason in wanted.items() if name not in known]


def adjust(
    answers: dict[str, Answer], option: str, allowed: set[str], hides: bool = False, sees_reads: bool = False
) -> None:
    """Has the filter refuse to make device nodes, and pass opens with O_PATH, which open nothing. Raises PolicyError
    where a call that the policy allows would open files unseen. `option`: the one for which every open is the
    supervisor's, also where ask_opens has no question about it. `hides`: also those that open nothing, for they tell
    what there is. `sees_reads`: what is protected may be opened for reading by the kernel alone, unless this."""
    for name, cases in DEVICES.items():
        answer = answers.get(name)
        if answer in (_filter.ALLOW, _filter.NOTIFY):
            answers[name] = cases, answer
    if not option:
        return
    for name, how in PAST_THE_FILTER.items():
        if name in allowed:
            raise PolicyError(f"{option}: {how}; drop one of the two", field=option)
    if option == "chroot":
        refuse_untranslated(answers)
    for name, argument in (("open", 1), ("openat", 2)):
        if name in answers and option != "chroot":
            no_path: Case = (_filter.any_bit(argument, 0o10000000),), _filter.ALLOW
            reads: Case = (_filter.masked(argument, _WRITES, 0),), _filter.ALLOW
            harmless = (no_path, reads) if option == "fs_protected" and not sees_reads else (no_path,)
            answers[name] = _filter.NOTIFY if hides else (harmless, _filter.NOTIFY)
    # The supervisor acts in the run's domain: one that the program adds inside would not hold for that.
    answers.update(dict.fromkeys(answers.keys() & set(syscalls.GROUPS["landlock"].members), _filter.errno(38)))


def refuse_untranslated(answers: dict[str, Answer]) -> None:
    """In a virtual root no call with a path reaches the kernel: those that nobody translates are refused, whatever the
    policy allows; and opens are seen, whatever their flags."""
    for call in syscalls.TABLE.values():
        if call.name not in answers or "path" not in call.kind:
            continue
        answer = answers[call.name]
        if call.name in _OPENS:
            answers[call.name] = _filter.NOTIFY
        elif call.name not in (*CALLS, *_EXECS) and (answer == _filter.ALLOW or not isinstance(answer, int)):
            answers[call.name] = _EPERM
