"""What this kernel can enforce, as a value.

Rules: `probe` costs a few system calls (well under 1 ms), starts nothing and changes nothing; it believes
what the kernel *answers*, and a version number only where the kernel cannot be asked. Whether enforcement
really works is proved by `sandlock doctor` (`_doctor.py`), not here. Must not know: policies and plans.
"""

from __future__ import annotations

import os

from ._record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Host", "parse_release", "probe"]

# linux/audit.h: the architecture that this build was made for is the one that its filters allow.
ARCHITECTURES = {0xC000003E: "x86_64", 0xC00000B7: "aarch64"}


@record
class Host:
    """A kernel, as far as a plan needs to know it. Whatever is left out counts as missing."""

    arch: str
    """`x86_64` or `aarch64`."""
    kernel: tuple[int, int, int]
    """From uname(2), for instance `(6, 18, 44)`; a distribution may have backported more than it says."""
    landlock_abi: int = 0
    """0: no Landlock (not built, not enabled at boot, or forbidden by a container's filter)."""
    landlock_errata: int = 0
    """Bit n-1 set: erratum n of `landlock_abi` is fixed; 0 also where the kernel cannot say (before 6.15)."""
    landlock_error: int = 0
    """The errno of the version query when `landlock_abi` is 0, else 0."""
    seccomp_filter: bool = False
    seccomp_user_notif: bool = False
    notif_sizes: tuple[int, int, int] = (0, 0, 0)
    """Bytes of `seccomp_notif`, `seccomp_notif_resp`, `seccomp_data` as this kernel has them."""
    wait_killable: bool = False
    """SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 5.19."""
    sync_wake_up: bool = False
    """SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: 6.6."""
    pidfd_getfd: bool = False
    """pidfd_getfd(2), Linux 5.6; stock containers of older engines refuse it without CAP_SYS_PTRACE."""
    reads_memory: bool = False
    """process_vm_readv(2) of children: refused by containers of older engines, and by Yama's ptrace_scope above 1."""
    pidfd_exit_info: bool = False
    """PIDFD_GET_INFO with PIDFD_INFO_EXIT: 6.15."""
    uid: int = -1
    """The effective user id of this process; -1 where nobody asked."""


def parse_release(release: str) -> tuple[int, int, int]:
    """The first three numbers of a kernel release: `6.1.0-13-amd64` is `(6, 1, 0)`. What is missing is 0."""
    numbers = [0, 0, 0]
    for place, part in enumerate(release.split(".", 2)):
        digits = len(part) - len(part.lstrip("0123456789"))
        if not digits:
            break
        numbers[place] = int(part[:digits])
        if digits != len(part):
            break
    return numbers[0], numbers[1], numbers[2]


def lowered_abi(abi: int, environ: Mapping[str, str]) -> int:
    """`abi`, or less when SANDLOCK_LANDLOCK_ABI says so (for tests: pretend an older kernel); never more.

    Raises ValueError when the variable is not a number of 0 or more.
    """
    text = environ.get("SANDLOCK_LANDLOCK_ABI")
    if text is None:
        return abi
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"SANDLOCK_LANDLOCK_ABI must be a number of 0 or more, not {text!r}")
    return min(abi, int(text))


def _takes_descriptors() -> bool:
    """Whether pidfd_getfd(2) gets as far as looking for the descriptor, which is none: EBADF."""
    from sandlock._sys import lib

    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        return bool(lib.pidfd_take(pidfd, -1) == -9)
    finally:
        os.close(pidfd)


def _reads_memory() -> bool:
    """Whether the memory of children can be read, as far as that shows without one."""
    from sandlock._sys import ffi, lib

    word = ffi.new("char[8]")
    if lib.memory_read(os.getpid(), int(ffi.cast("uintptr_t", word)), ffi.new("char[8]"), 8) != 8:
        return False
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as file:
            return file.read(1) < b"2"
    except OSError:  # no Yama
        return True


def probe() -> Host:
    """Ask the kernel. Not cached: a filter stacked since, or the environment, may change the answer.

    Raises ValueError for a malformed SANDLOCK_LANDLOCK_ABI, nothing else: what cannot be asked is missing.
    """
    from sandlock._sys import ffi, lib

    kernel = parse_release(os.uname().release)
    answer = lib.landlock_query(lib.LANDLOCK_CREATE_RULESET_VERSION)
    abi = lowered_abi(max(answer, 0), os.environ)
    errata = lib.landlock_query(lib.LANDLOCK_CREATE_RULESET_ERRATA) if abi else 0
    notif = lib.seccomp_action_available(lib.SECCOMP_RET_USER_NOTIF) == 0
    sizes = ffi.new("uint16_t[3]")
    notif = notif and lib.seccomp_notif_sizes(sizes) == 0
    # Inside a sandbox of ours the flag is refused.
    notif = notif and lib.seccomp_flags_known(lib.SECCOMP_FILTER_FLAG_NEW_LISTENER) == 1
    killable = lib.SECCOMP_FILTER_FLAG_NEW_LISTENER | lib.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    return Host(
        arch=ARCHITECTURES[lib.SANDLOCK_AUDIT_ARCH],
        kernel=kernel,
        landlock_abi=abi,
        landlock_errata=max(errata, 0),
        landlock_error=max(-answer, 0),
        seccomp_filter=lib.seccomp_flags_known(0) == 1,
        seccomp_user_notif=notif,
        notif_sizes=(sizes[0], sizes[1], sizes[2]),
        wait_killable=notif and lib.seccomp_flags_known(killable) == 1,
        sync_wake_up=notif and kernel >= (6, 6, 0),
        pidfd_getfd=notif and _takes_descriptors(),
        reads_memory=_reads_memory(),
        pidfd_exit_info=kernel >= (6, 15, 0),
        uid=os.geteuid(),
    )
