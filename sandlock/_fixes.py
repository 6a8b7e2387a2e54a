"""What can be done about a step of the launch that the kernel refused: by step, by errno."""

from __future__ import annotations

__all__ = ["FIXES"]

FIXES = {
    "execute the program": {
        "ENOENT": "no such program, or its interpreter or loader is missing or not granted (fs_readable)",
        "EACCES": "not granted, not executable, or its interpreter or loader is not granted (fs_readable)",
        "ENOEXEC": "not a program: no known format and no #! line",
        "E2BIG": "arguments and environment are too large",
    },
    "add a Landlock rule": {
        "ENOENT": "the granted path does not exist; create it or drop the grant",
        "EACCES": "the granted path cannot be reached by this user",
        "ELOOP": "it is a link inside a directory that the sandbox may write, and not followed; grant its target",
        "EXDEV": "it leads out of a directory that the sandbox may write; grant its target",
    },
    "install the seccomp filter": {
        "EBUSY": "a sandbox cannot hold a supervised run: drop max_processes, record_execs and port grants, and "
        "disable=['fs-metadata']",
        "EPERM": "a sandbox cannot hold a supervised run: drop max_processes, record_execs and port grants, and "
        "disable=['fs-metadata']",
    },
    "enter the Landlock domain": {"E2BIG": "16 Landlock domains are nested already (landlock(7))"},
    "map the user and group": {"EPERM": "user namespaces are forbidden here; drop uid and gid"},
    "clone the program's process": {
        "EPERM": "user namespaces are forbidden here; drop uid and gid",
        "EAGAIN": "the user's process limit is reached (RLIMIT_NPROC)",
        "ENOSPC": "the limit of user namespaces is reached",
    },
    "clone the warden": {"EAGAIN": "the user's process limit is reached (RLIMIT_NPROC)"},
    "set a resource limit": {"EPERM": "above the hard limit of this process"},
    "change to the working directory": {"ENOENT": "it does not exist", "EACCES": "this user may not enter it"},
    "set the CPU affinity": {"EINVAL": "none of these CPUs may be used here"},
}
