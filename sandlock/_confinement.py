"""Confinement: a policy made ready for this host, and the launch of commands under it; what sync and async sandboxes
share.
"""

from __future__ import annotations

import os

from . import _program, _view_rules
from ._command import prepare, read_exe
from ._execution import Execution
from ._host import probe
from ._permissions import Permissions, changes_paths, read_ceiling
from ._plan import plan as make_plan
from ._reach import Reach
from ._records import read_call_id
from ._settle import real_paths, refuse_memory, settle
from ._verdicts import read_on_timeout
from .errors import MORE_FILES, ConfinementError, PolicyError, SandlockError
from .events import Deny, ExecDecision
from .handlers import NativeHandler, read_handlers
from .policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._command import Text
    from ._execution import QuestionLimits
    from ._host import Host
    from ._plan import Plan
    from ._recording import Recording
    from ._resolver import Resolver
    from ._stdio import Stdio, Stream
    from ._virtual_paths import VirtualRoot
    from .events import NetDecision
    from .policy import Fields
    from .presets import Expansion


class Confinement:
    """A policy made ready for this host: what sync and async sandboxes share."""

    def __init__(
        self,
        policy: Policy,
        *,
        vet: bool = False,
        ceiling: Mapping[str, object] | None = None,
        record: bool = False,
        handlers: object = None,
    ) -> None:
        self.handlers = read_handlers(handlers)
        if policy.is_empty():
            raise PolicyError(
                "nothing is granted, so no program could start: grant the system with presets=['system'] "
                "(--preset system), or single paths with fs_readable (-r)",
                field="fs_readable",
            )
        widest = read_ceiling(policy, ceiling)
        narrow = changes_paths(ceiling) or policy.record_paths
        expansion = (widest or policy).expand()
        named = expansion.grants
        self.virtual_root = root = _virtual_root(policy)
        expansion = expansion.__class__(settle(named) if root is None else root.settle(named), expansion.env)
        self.policy = policy
        self.preset_env = expansion.env
        programs = find_programs(policy, expansion, root) if policy.has_exec_rules() else ()
        lists = root is not None and root.has_absent()
        self._sources = (policy, probe(), expansion, vet, widest, programs, tuple(self.handlers), narrow, lists)
        self.plan, self._program = compiled(*self._sources, record)
        self.grants = expansion.grants
        self.permissions = Permissions(
            policy,
            widest,
            self.plan,
            widest=real_paths(self.grants) if self.plan.mediated and root is None else self.grants,
            named=named,
            narrow=narrow,
            root=root,
        )
        if self.plan.vets:
            refuse_memory(self.grants)
        self._views = None
        if _view_rules.has_views(policy):
            from ._view_files import Viewing

            self._views = Viewing(
                policy, self.plan.hostname, b"" if root is None else os.fsencode(root.mounts[-1].real)
            )
        self._owner = os.getpid()

    def record(self) -> None:
        """From now on every exec and every destination is decided by the supervisor. Raises Unsupported,
        PolicyError."""
        refuse_memory(self.grants)
        self.plan, self._program = compiled(*self._sources, True)
        self.permissions.adopt(self.plan)

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; a fork of that process may not use it."""
        return os.getpid() == self._owner

    def check_exec(self, argv: Sequence[Text], exe: Text | None = None) -> ExecDecision:
        """What the exec rules say of this command, without running it."""
        command = prepare(self.policy, self.preset_env, argv, host_env=os.environb)
        mounts = None if self.virtual_root is None else self.virtual_root.open()
        for path in command.executables if exe is None else (read_exe(exe),):
            try:
                decision, number, found = self._program.check_exec(path, command.argv, mounts, assume=exe is not None)
            except OSError:
                continue
            rule = self.plan.exec_rules[number] if number >= 0 else None
            return ExecDecision(
                decision=decision,
                exe=os.fsdecode(found),
                rule="" if rule is None else rule.text,
                reason="" if rule is None else rule.reason,
            )
        missing = command.text[0] if exe is None else os.fsdecode(exe)
        raise SandlockError(f"{missing}: no such program; check PATH")

    def check_connect(self, target: str, *, host: str, kind: str) -> NetDecision:
        """What the rules of the network say of this destination, without going there."""
        from ._destination_check import check_destination  # few ask

        return check_destination(
            self.permissions.policy, target, host=host, kind=kind, asks=self.plan.asks, looks_up=self.plan.looks_up
        )

    def reach(self) -> Reach:
        """What of the host's files the policy is about, as it is now, by real paths."""
        policy, root = self.permissions.policy, self.virtual_root
        named = policy.expand().grants
        real = os.path.realpath if root is None else root.real
        grants = settle(named) if root is None else root.settle(named)
        return Reach(
            readable=tuple(grant.path for grant in grants if grant.kind in ("read", "data", "write")),
            writable=tuple(grant.path for grant in grants if grant.kind == "write"),
            denied=tuple(map(real, policy.fs_denied)),
            protected=tuple(map(real, policy.fs_protected)),
        )

    def launch(
        self,
        argv: Sequence[Text],
        stdio: Stdio,
        *,
        streams: tuple[Stream, Stream, Stream] | None = None,
        timeout: float | None,
        env: Mapping[str, str] | None,
        cwd: Text | None,
        new_session: bool,
        questions: QuestionLimits | None = None,
        call_id: str | None = None,
        recording: Recording | None = None,
        resolver: Resolver | None = None,
    ) -> Execution:
        """Starts a command on `stdio`, in which `streams` are opened first. On failure it is closed.

        The launch confines itself on another CPU while we prepare what it will execute. Raises SandlockError.
        """
        views = None
        try:
            if not self.is_ours:
                raise SandlockError("this sandbox belongs to the process that made it; after os.fork() make a new one")
            limit = self.policy.timeout if timeout is None else _seconds(timeout)
            if self._views is not None:
                views = self._views.open(() if resolver is None else resolver.lookups.found_first)
            execution = Execution(
                self._program,
                self.policy,
                self.plan,
                stdio,
                timeout=limit,
                new_session=new_session,
                questions=questions,
                permissions=self.permissions,
                resolver=resolver,
                handlers=self.handlers,
                virtual_root=self.virtual_root,
                call_id=read_call_id(call_id),
                recorder=None if recording is None else recording.recorder(),
                views=views,
            )
        except BaseException:
            stdio.close()
            if views is not None:
                views.close()
            raise
        try:
            if streams is not None:
                open_streams(stdio, streams)
            command = prepare(self.policy, self.preset_env, argv, host_env=os.environb, env=env, cwd=cwd)
            execution.provide(command if self.virtual_root is None else self.virtual_root.place(command))
            if execution.recorder is not None:
                execution.recorder.start(execution)
        except BaseException:
            execution.abandon()
            raise
        return execution


def _virtual_root(policy: Policy) -> VirtualRoot | None:
    """What the program sees as its files, if not the host's. Raises PolicyError."""
    if policy.chroot is None:
        if policy.fs_mount:
            raise PolicyError(
                'fs_mount: there is no virtual root to mount in; add chroot ("/" will do)', field="fs_mount"
            )
        return None
    if policy.hide_ungranted:
        raise PolicyError(
            "hide_ungranted: a virtual root holds what there is, by its own paths; drop one of the two",
            field="hide_ungranted",
        )
    from ._virtual_paths import VirtualRoot  # few policies have one

    return VirtualRoot(policy)


def open_streams(stdio: Stdio, streams: tuple[Stream, Stream, Stream]) -> None:
    """Opens a command's streams. Raises ConfinementError where there are no descriptors left."""
    try:
        stdio.open(*streams)
    except OSError as error:
        if error.errno not in (23, 24):  # ENFILE, EMFILE; others are about what was given
            raise
        raise ConfinementError("open the program's streams", error.errno, fix=MORE_FILES) from error


def policy_of(policy: object, fields: Fields) -> Policy:
    """The policy of a sandbox, from what its constructor was given. Raises PolicyError."""
    if policy is None:
        return Policy.of(**fields)
    if not isinstance(policy, Policy):
        raise PolicyError(f"policy: {policy!r} is no Policy; use Policy(...) or keywords", field="policy")
    return policy.but(**fields) if fields else policy


def question_limits(
    policy_fn: Callable[..., object] | None, policy_timeout: float | None, on_timeout: object, handlers: object = None
) -> QuestionLimits | None:
    """What the core does with questions that nobody answers; None without a callback, and without handlers in Python.
    Raises PolicyError."""
    if policy_fn is not None and not callable(policy_fn):
        raise PolicyError(f"policy_fn: {policy_fn!r} cannot be called; give a function", field="policy_fn")
    if policy_timeout is not None and not 0 < policy_timeout < 1e9:
        raise PolicyError(
            f"policy_timeout: {policy_timeout!r} is no time limit; give seconds, or None", field="policy_timeout"
        )
    act, error = read_on_timeout(Deny() if on_timeout is None else on_timeout)
    limit = None if policy_timeout is None else int(policy_timeout * 1000) + 1
    asks = policy_fn is not None or any(
        not isinstance(each, NativeHandler) for each in read_handlers(handlers).values()
    )
    return (limit, act, error) if asks else None


_kept: dict[tuple[object, ...], tuple[Plan, _program.Program]] = {}
# A memo of values, not state (functools costs 6 ms to import).


def compiled(
    policy: Policy,
    host: Host,
    expansion: Expansion,
    vet: bool = False,
    ceiling: Policy | None = None,
    programs: tuple[tuple[str, str], ...] = (),
    handlers: tuple[str, ...] = (),
    narrow: bool = False,
    lists: bool = False,
    record: bool = False,
) -> tuple[Plan, _program.Program]:
    """The plan and its native form. Both are values, and making them takes longer than a launch: they are kept."""
    key = (policy, host, expansion, vet, ceiling, programs, handlers, narrow, lists, record)
    made = _kept.get(key)
    if made is None:
        more = {"vet": vet, "ceiling": ceiling, "record": record, "programs": programs, "handlers": handlers}
        more |= {"narrow": narrow, "lists": lists}
        plan = make_plan(policy, host, expansion=expansion, **more)  # type: ignore[arg-type]
        made = (plan, _program.Program(plan, wait_killable=host.wait_killable))
        if len(_kept) >= 64:
            _kept.clear()
        _kept[key] = made
    return made


def find_programs(policy: Policy, expansion: Expansion, root: VirtualRoot | None = None) -> tuple[tuple[str, str], ...]:
    """The files, without links, of the programs that exec rules name: where PATH finds them, but not where the sandbox
    may write, for what lies there is not what was meant. `root`: what the program sees as its files, if not the host's;
    then they are named as it sees them."""
    from ._command import DEFAULT_PATH, environment
    from ._exec_rules import programs_of

    variables = environment(policy, expansion.env, os.environb)
    writable = [grant.path.rstrip("/") for grant in expansion.grants if grant.kind == "write"]
    entries = os.fsdecode(variables.get(b"PATH", DEFAULT_PATH)).split(":")
    found = []
    for name in programs_of(policy):
        places = [name] if "/" in name else [f"{entry}/{name}" for entry in entries if entry.startswith("/")]
        for place in places:
            seen, exe = (place, os.path.realpath(place)) if root is None else (root.seen(place), root.real(place))
            above = os.path.dirname(place) if root is None else root.real(os.path.dirname(place))
            if any(f"{path}/".startswith(f"{top}/") for top in writable for path in (above, exe)):
                continue
            if os.path.isfile(exe) and os.access(exe, os.X_OK):
                found.append((name, exe if root is None else seen))
                break
    return tuple(found)


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise PolicyError(f"timeout: {value!r} is no time limit; give seconds, 0 or more", field="timeout")
    return float(value)
