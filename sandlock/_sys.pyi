"""Types of the compiled `sandlock._sys`; see `_sys_build.py` for what each call does.

Functions return the kernel's answer, or -errno.
"""

from typing import Any, Protocol

class CData(Protocol):
    def __getattr__(self, name: str) -> Any: ...
    def __getitem__(self, index: int) -> Any: ...

class FFI:
    NULL: Any
    def new(self, kind: str, initial: object = ...) -> Any: ...
    def from_buffer(self, buffer: object) -> Any: ...
    def buffer(self, memory: object, size: int = ...) -> Any: ...
    def sizeof(self, kind: str) -> int: ...
    def cast(self, kind: str, value: object) -> Any: ...

class Lib:
    LANDLOCK_CREATE_RULESET_VERSION: int
    LANDLOCK_CREATE_RULESET_ERRATA: int
    LANDLOCK_ACCESS_FS_EXECUTE: int
    LANDLOCK_ACCESS_FS_WRITE_FILE: int
    LANDLOCK_ACCESS_FS_READ_FILE: int
    LANDLOCK_ACCESS_FS_READ_DIR: int
    LANDLOCK_ACCESS_FS_REMOVE_DIR: int
    LANDLOCK_ACCESS_FS_REMOVE_FILE: int
    LANDLOCK_ACCESS_FS_MAKE_CHAR: int
    LANDLOCK_ACCESS_FS_MAKE_DIR: int
    LANDLOCK_ACCESS_FS_MAKE_REG: int
    LANDLOCK_ACCESS_FS_MAKE_SOCK: int
    LANDLOCK_ACCESS_FS_MAKE_FIFO: int
    LANDLOCK_ACCESS_FS_MAKE_BLOCK: int
    LANDLOCK_ACCESS_FS_MAKE_SYM: int
    LANDLOCK_ACCESS_FS_REFER: int
    LANDLOCK_ACCESS_FS_TRUNCATE: int
    LANDLOCK_ACCESS_FS_IOCTL_DEV: int
    LANDLOCK_ACCESS_NET_BIND_TCP: int
    LANDLOCK_ACCESS_NET_CONNECT_TCP: int
    LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET: int
    LANDLOCK_SCOPE_SIGNAL: int
    LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF: int
    LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON: int
    LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF: int
    SECCOMP_RET_USER_NOTIF: int
    SECCOMP_RET_KILL_PROCESS: int
    SECCOMP_RET_ERRNO: int
    SECCOMP_RET_ALLOW: int
    SECCOMP_FILTER_FLAG_NEW_LISTENER: int
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: int
    SECCOMP_USER_NOTIF_FLAG_CONTINUE: int
    SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: int
    SECCOMP_ADDFD_FLAG_SETFD: int
    SECCOMP_ADDFD_FLAG_SEND: int
    SECCOMP_IOCTL_NOTIF_RECV: int
    SECCOMP_IOCTL_NOTIF_SEND: int
    SECCOMP_IOCTL_NOTIF_ID_VALID: int
    SECCOMP_IOCTL_NOTIF_ADDFD: int
    SECCOMP_IOCTL_NOTIF_SET_FLAGS: int
    MFD_CLOEXEC: int
    MFD_ALLOW_SEALING: int
    MFD_NOEXEC_SEAL: int
    MFD_EXEC: int
    F_ADD_SEALS: int
    F_SEAL_SEAL: int
    F_SEAL_SHRINK: int
    F_SEAL_GROW: int
    F_SEAL_WRITE: int
    F_SEAL_EXEC: int
    PR_SET_PDEATHSIG: int
    PR_SET_DUMPABLE: int
    PR_CAPBSET_READ: int
    PR_CAPBSET_DROP: int
    PR_SET_SECUREBITS: int
    PR_SET_CHILD_SUBREAPER: int
    PR_SET_NO_NEW_PRIVS: int
    PR_GET_NO_NEW_PRIVS: int
    PR_CAP_AMBIENT: int
    PR_CAP_AMBIENT_CLEAR_ALL: int
    SANDLOCK_AUDIT_ARCH: int
    SIZEOF_seccomp_data: int
    SIZEOF_seccomp_notif: int
    SIZEOF_seccomp_notif_resp: int
    SIZEOF_seccomp_notif_addfd: int
    SIZEOF_landlock_ruleset_attr: int
    SIZEOF_landlock_path_beneath_attr: int
    SIZEOF_landlock_net_port_attr: int
    SIZEOF_sock_filter: int
    SIZEOF_sock_fprog: int
    def landlock_create_ruleset(self, fs: int, net: int, scoped: int, abi: int, /) -> int: ...
    def landlock_query(self, flags: int, /) -> int: ...
    def landlock_add_path(self, ruleset: int, parent: int, access: int, /) -> int: ...
    def landlock_add_port(self, ruleset: int, port: int, access: int, /) -> int: ...
    def landlock_restrict_self(self, ruleset: int, flags: int, /) -> int: ...
    def process_control(self, option: int, a: int, b: int, c: int, d: int, /) -> int: ...
    def capabilities_get(self, effective: CData, permitted: CData, inheritable: CData, /) -> int: ...
    def capabilities_set(self, effective: int, permitted: int, inheritable: int, /) -> int: ...
    def memfd_open(self, name: bytes, flags: int, /) -> int: ...
    def open_beneath(self, directory: int, path: object, flags: int, mode: int, links: int) -> int: ...
    def memfd_seal(self, fd: int, seals: int, /) -> int: ...
    def pidfd_open_process(self, pid: int, flags: int, /) -> int: ...
    def pidfd_take(self, pidfd: int, fd: int, /) -> int: ...
    def pidfd_signal(self, pidfd: int, signal: int, /) -> int: ...
    def unshare_namespaces(self, flags: int, /) -> int: ...
    def process_seize(self, pid: int, /) -> int: ...
    def memory_read(self, pid: int, address: int, to: CData, length: int, /) -> int: ...
    def seccomp_action_available(self, action: int, /) -> int: ...
    def seccomp_flags_known(self, flags: int, /) -> int: ...
    def seccomp_notif_sizes(self, notif_resp_data: CData, /) -> int: ...
    def seccomp_install(self, instructions: Any, bytes: int, flags: int, /) -> int: ...
    def listener_set_flags(self, listener: int, flags: int, /) -> int: ...
    def listener_receive(self, listener: int, to: CData, /) -> int: ...
    def listener_send(self, listener: int, answer: CData, /) -> int: ...

ffi: FFI
lib: Lib
