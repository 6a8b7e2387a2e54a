"""Inspect AI: the sandbox environment "sandlock", in which the commands of each sample run confined.

    Task(..., sandbox="sandlock")
    Task(..., sandbox=("sandlock", "sandlock.toml"))
    Task(..., sandbox=SandboxEnvironmentSpec("sandlock", SandlockConfig(presets=["python", "git"])))

Every sample has a /sandbox, a /tmp and a /var/tmp of its own, and sees nothing else of this machine but what the policy
grants. On asyncio and on trio. Needs `pip install "sandlock[inspect]"`.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import anyio
from inspect_ai.log import transcript
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxConnection,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    concurrency,
    sandboxenv,
)
from inspect_ai.util._sandbox.events import SandboxTimeoutError
from inspect_ai.util._subprocess import max_subprocesses_context_var
from pydantic import BaseModel, ConfigDict, model_validator

from sandlock import ConfinementError, Policy, PolicyError, profile
from sandlock.files import FileError

from .file_errors import builtin_error
from .loops import in_thread
from .places import Place
from .sandbox import AgentSandbox, run_origin
from .text import with_denials, without_forged_trailers

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from sandlock import Result
    from sandlock.files import Files

    from .sandbox import Approve

__all__ = ["SandlockConfig", "SandlockSandboxEnvironment"]

HOME = "/sandbox"
OWN = (HOME, "/tmp", "/var/tmp")  # noqa: S108 (inside, where each sample has its own)
LOOK = f'[ -d "$1" ] && exit {errno.EISDIR}; [ -e "$1" ] || exit {errno.ENOENT}; exec cat -- "$1"'
READ, WRITE, ENTER = 0o400, 0o200, 0o100


class SandlockConfig(BaseModel):
    """Keywords of Policy; those that are not given are for an agent's commands: no network, this machine's programs."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def __hash__(self) -> int:  # Inspect groups samples by it; lists are none of its business
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _is_policy(self) -> Self:
        Policy.of(**(self.model_extra or {}))
        return self


class Room(AgentSandbox):
    """A sandbox in which directories go by the paths that programs know."""

    async def _directory(self, cwd: str | None) -> str:
        return posixpath.join(HOME, cwd or "")


@sandboxenv(name="sandlock")
class SandlockSandboxEnvironment(SandboxEnvironment):
    """One sample's sandbox. Registered as "sandlock"; a subclass with an `approve`, under a name of its own."""

    approve: ClassVar[Approve | None] = None
    """Decides what the rules leave open, as in AgentSandbox; in a subclass, a staticmethod. None: it is denied."""

    def __init__(self, place: Place, policy: Policy) -> None:
        super().__init__()
        self._place = place
        self._mounts = tuple(each for each in _mounted(policy) if each not in OWN)
        self.sandbox = Room(place.name, policy=policy, approve=type(self).approve, rooted=True, keep_background=True)
        """What carries it out. File names are those inside."""

    # ---- its life

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """A sandbox for one sample. Raises PolicyError, Unsupported."""
        environment = await in_thread(cls._made, config)
        try:
            await environment.sandbox.__aenter__()
        except BaseException:
            await environment._close()
            raise
        return {"default": environment}

    @classmethod
    def _made(cls, config: BaseModel | str | None) -> Self:
        place = Place(prefix="sandlock-inspect-", ignore_cleanup_errors=True)
        try:
            for each in OWN:
                os.makedirs(place.name + each)
            return cls(place, _policy(config, place.name))
        except BaseException:
            place.cleanup()
            raise

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Ends all that runs, interrupted or not, and removes the sample's files."""
        for environment in environments.values():
            await environment.as_type(SandlockSandboxEnvironment)._close()

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self.sandbox.aclose()
            finally:
                await in_thread(self._place.cleanup)

    @classmethod
    def config_files(cls) -> list[str]:
        """A policy beside the task, which Inspect finds by itself."""
        return ["sandlock.toml"]

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """From an eval's log."""
        return SandlockConfig(**config)

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        """There is none. Raises NotImplementedError."""
        raise NotImplementedError(
            f"connection: nobody can log in to a sandbox of sandlock; its files are in {self._place.name}, and "
            "commands run in it by sandbox().exec()"
        )

    # ---- commands

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Runs a command confined; what was denied stands at the end of its stderr, and in the transcript.

        Nothing is tried again after a timeout, which has ended the command and all that it started. What a command
        leaves in the background lives on, unless it had an `input`. Raises TimeoutError, PermissionError: the program
        cannot be executed; OutputLimitExceededError, SandboxUserUnsupportedError.
        """
        _check_user(user)
        async with _turn() if concurrency else nullcontext():
            try:
                result = await self.sandbox.run(cmd, timeout=timeout, cwd=cwd, env=env, input=input)
            except ConfinementError as error:
                if error.step != "change to the working directory":
                    raise
                return ExecResult(False, 126, "", f"cwd: {cwd}: {os.strerror(error.errno or 0)}\n")
        stdout, stderr = without_forged_trailers(result.stdout_text), with_denials(result.stderr_text, result)
        if result.denials:
            transcript().info({"command": [*cmd], "denials": _denials(result)}, source="sandlock")
        if result.timed_out:
            raise SandboxTimeoutError(f"the command was killed after {timeout} s", truncated_output=stdout + stderr)
        self._check_length(result)
        if result.exit_code == 126 and _never_ran(result, cmd):
            raise PermissionError(errno.EACCES, f"the program cannot be executed: {stderr.strip()}", cmd[0])
        return ExecResult(result.exit_code == 0, result.exit_code, stdout, stderr)

    def _check_length(self, result: Result) -> None:
        """By Inspect's limit, which may change from call to call, and by the policy's."""
        longest = max(result.stdout, result.stderr, key=len)
        limit, text = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE, SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
        if (most := self.sandbox.box.policy.max_output) < limit:
            text = f"{most} bytes"
        if result.truncated or len(longest) > limit:
            raise OutputLimitExceededError(text, longest[:limit].decode("utf-8", "replace"))

    # ---- files

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Writes one of the sample's own files, without a process. Raises OSError, as plain code would."""
        path, files = posixpath.normpath(posixpath.join(HOME, file)), self.sandbox.files.sync

        def write() -> None:
            _check_modes(files, path, WRITE)
            files.write(path, contents)

        if not self._is_own(path):
            raise PermissionError(errno.EACCES, f"files are written below {', '.join(OWN)}", file)
        try:
            await in_thread(write)
        except FileError as error:
            raise builtin_error(error) from error

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Reads one of the sample's own files without a process; any other as a command of its can.

        Raises OSError, as plain code would, UnicodeDecodeError, OutputLimitExceededError.
        """
        path, limit = posixpath.normpath(posixpath.join(HOME, file)), SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        files = self.sandbox.files.sync

        def read() -> bytes:
            _check_modes(files, path, READ)
            return files.read(path, max_bytes=limit)

        try:
            content = await in_thread(read) if self._is_own(path) else await self._seen(path, limit)
        except FileError as error:
            if error.errno == errno.EFBIG:
                raise _too_long() from error
            if error.errno != errno.EXDEV:
                raise builtin_error(error) from error
            content = await self._seen(path, limit)  # an absolute link, which leads somewhere else inside
        return content.decode() if text else content

    def _is_own(self, path: str) -> bool:
        """Whether it lies in the sample's own directories, and in nothing that is mounted there."""
        return _is_below(path, OWN) and not _is_below(path, self._mounts)

    async def _seen(self, path: str, limit: int) -> bytes:
        """What a command of the sample sees there."""
        before = run_origin.set("adapter")
        try:
            result = await self.sandbox.run(["sh", "-c", LOOK, "sh", path])
        finally:
            run_origin.reset(before)
        if result.exit_code:
            code = result.exit_code if result.exit_code in (errno.EISDIR, errno.ENOENT) else errno.EACCES
            raise OSError(code, f"{os.strerror(code).lower()} {with_denials(result.stderr_text, result)}".strip(), path)
        if result.truncated or len(result.stdout) > limit:
            raise _too_long()
        return result.stdout


def _policy(config: BaseModel | str | None, place: str) -> Policy:
    """What was asked for, in a root that shows the sample's own directories instead of this machine's."""
    given: dict[str, Any]
    if isinstance(config, str):
        found = profile.load(os.path.abspath(config))
        found.refuse_agent()
        given = found.fields
    elif config is None or isinstance(config, SandlockConfig):
        given = (config.model_extra or {}) if config is not None else {}
    else:
        raise PolicyError(f"config: {type(config).__name__} is no SandlockConfig, nor the name of a TOML file")
    limit = max(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE, SandboxEnvironmentLimits.MAX_READ_FILE_SIZE)
    default: dict[str, Any] = {"presets": ("system", "python"), "exec_allow": ("*",), "chroot": "/"}
    policy = Policy.of(**default | {"private_proc": True, "max_output": limit} | given)
    if taken := [each for each in _mounted(policy) if each in OWN]:
        raise PolicyError(f"fs_mount: {taken[0]} is the sample's own; mount it elsewhere, or below", field="fs_mount")
    own = tuple(f"{each}:{place}{each}" for each in OWN)
    return policy.but(
        fs_mount=(*policy.fs_mount, *own),
        env={"HOME": HOME} | dict(policy.env),
        cwd=HOME,
    )


def _mounted(policy: Policy) -> tuple[str, ...]:
    return tuple(each.partition(":")[0] for each in policy.fs_mount)


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in places)


def _check_user(user: str | None) -> None:
    """Everything runs as whoever runs the eval."""
    from pwd import getpwuid

    uid = os.geteuid()
    try:
        names = (None, str(uid), getpwuid(uid).pw_name)
    except KeyError:
        names = (None, str(uid), str(uid))
    if user not in names:
        raise SandboxUserUnsupportedError(
            f"user: sandlock runs commands as {names[2]}, who runs the eval, and cannot become {user!r}; leave it out"
        )


def _check_modes(files: Files, path: str, wanted: int) -> None:
    """Mode bits do not stop root out here; they do stop it inside, where it has no capabilities."""
    if os.geteuid() != 0:
        return
    parts, above = path.strip("/").split("/"), 0o700
    for depth in range(1, len(parts) + 1):
        try:
            mode = files.stat("/" + "/".join(parts[:depth])).mode
        except FileError:  # not there yet, to be made; what else is wrong says whoever opens it
            mode = above if wanted == WRITE else 0o700
        needed = wanted if depth == len(parts) else ENTER
        if mode & needed != needed:
            raise FileError(errno.EACCES, f"open {path!r}: EACCES (its mode, or that of a directory above, forbids it)")
        above = mode


def _turn() -> AbstractAsyncContextManager[object]:
    """One of the subprocesses that an eval may have at once (--max-subprocesses)."""
    return concurrency("subprocesses", max_subprocesses_context_var.get(), resizable=True)


def _denials(result: Result) -> Any:
    return result.to_dict()["denials"]


def _never_ran(result: Result, cmd: list[str]) -> bool:
    """Whether it is the shell above that says so."""
    line, name = result.stderr_text.partition("\n")[0], posixpath.basename(cmd[0])
    said = re.match(rf"sh: (line )?\d+: (\S*/)?{re.escape(name)}: ", line)
    return said is not None or line == f"{cmd[0]}: cannot be executed"


def _too_long() -> OutputLimitExceededError:
    return OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
