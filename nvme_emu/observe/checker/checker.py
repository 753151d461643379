"""The checker of one controller: it stands beside it, hears what happens, and asks the watchers.

    what the controller tells through its trace point           Tap ──► Checker ──► registers, queues, commands, buffers
    mmio_read (what the host has seen)                          replaced on the one object
    defer (a command's data has moved, its completion waits)    replaced on the one object

A controller that nobody checks knows nothing of it. One that is checked always has a trace point that is on, and
so goes the way on which each command and completion is told of: not in C, and not by columns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kworker.misuse import report_failure
from nvme_emu.core.trace import (
    CheckFinding,
    ControllerState,
    Doorbell,
    FetchCmd,
    PostCqe,
    RegisterWrite,
    TraceHub,
)
from nvme_emu.observe.checker.buffers import Buffers
from nvme_emu.observe.checker.commands import Commands
from nvme_emu.observe.checker.finding import CheckError, Finding, RuleSummary
from nvme_emu.observe.checker.queues import Queues
from nvme_emu.observe.checker.registers import Registers
from nvme_emu.observe.checker.rules import MODES, RULES, SCOPES
from nvme_emu.spec.registers import Reg

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.core.ports import DevicePort

__all__ = ["FINDINGS_MAX", "HISTORY", "Checker", "Tap"]

HISTORY: Final = 32
"""Events of a queue that a finding brings with it."""

FINDINGS_MAX: Final = 32
"""Findings of one rule that are kept whole; later ones are counted."""

_DOORBELLS: Final = int(Reg.DOORBELLS)
_CONTROLLER: Final = -1


class Tap:
    """Stands in for a controller's trace hub: the checker hears each event, then whoever listens at the hub."""

    __slots__ = ("_hear", "_hub")

    def __init__(self, hub: TraceHub, hear: Callable[[Any], None]) -> None:
        self._hub = hub
        self._hear = hear

    def emit(self, event: Any) -> None:
        """An event of the controller."""
        # The hub first: a trace tells of the doorbell before it tells what was wrong with it.
        emit = self._hub.emit
        if emit is not None:
            emit(event)
        self._hear(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)


class Checker:
    """Watches a controller from the moment of `attach`; best before the host has touched it.

    ``scope`` says what the transport shows of the host: one of `SCOPES`. ``vector_mapped(vector)`` tells whether
    somebody receives an interrupt. ``on_finding(finding)`` hears of each finding that is kept, while the
    controller is held. ``level`` "error" or "warn" is only remembered here, for who owns the checker.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        scope: str = "inproc",
        level: str = "warn",
        vector_mapped: Callable[[int], bool] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"scope={scope!r}: it is one of {', '.join(SCOPES)}")
        if level not in ("warn", "error"):
            raise ValueError(f"level={level!r}: it is 'warn' or 'error'")
        self.controller = controller
        self.scope = scope
        self.level = level
        self.on_finding = on_finding
        self._modes = SCOPES[scope]
        self._vector_mapped = vector_mapped
        self._lock = threading.RLock()
        self._attached: TraceHub | None = None
        self._aside = False
        self.internal_error: Exception | None = None
        """A bug of the checker's own, after which it judges nothing any more."""
        self._findings: list[Finding] = []
        self._counts: dict[str, int] = {}
        self._last: dict[str, Finding] = {}
        self._raised = 0
        self._freed_pages: set[int] = set()
        self._history: dict[int, deque[Any]] = {}
        self.queues = Queues(self)
        self.registers = Registers(self)
        self.commands = Commands(self)
        self.buffers = Buffers(self)
        self._hearers: dict[type, Callable[[Any], None]] = {
            RegisterWrite: self._register_write,
            Doorbell: self.queues.rung,
            FetchCmd: self.queues.fetched,
            PostCqe: self._post_cqe,
        }

    # -- beside the controller ------------------------------------------------------------------------------

    def attach(self) -> Checker:
        """Begin to watch. ValueError for a controller that has a checker already."""
        ctrl = self.controller
        own = vars(ctrl)
        if own.get("checker") is not None:
            raise ValueError("this controller has a checker already")
        own["checker"] = self
        self._attached = ctrl.trace
        ctrl.trace = Tap(ctrl.trace, self._hear)  # type: ignore[assignment]
        read, defer = ctrl.mmio_read, ctrl.defer

        def mmio_read(offset: int, size: int) -> int:
            value = read(offset, size)
            self._guarded(lambda: self.registers.read(offset, size, value))
            return value

        def deferred(cmd: Command, done_ns: int, status: int = 0, dw0: int = 0) -> None:
            defer(cmd, done_ns, status, dw0)
            self._guarded(lambda: self.buffers.executed(cmd))

        own["mmio_read"] = mmio_read
        own["defer"] = deferred
        ctrl.memory.on_pool = self._pool
        return self

    def detach(self) -> None:
        """Stop watching; the findings stay. A second call does nothing."""
        if self._attached is None:
            return
        ctrl = self.controller
        ctrl.trace, self._attached = self._attached, None
        for name in ("checker", "mmio_read", "defer"):
            vars(ctrl).pop(name, None)
        ctrl.memory.on_pool = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens meanwhile is not the host's doing: a function level reset by the transport."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False
            with self._lock:
                self.registers.forget()
                self.buffers.forget()

    def host_left(self) -> None:
        """The host has gone: judge how it left."""
        self._guarded(self.registers.left)

    # -- hearing --------------------------------------------------------------------------------------------

    def _hear(self, event: Any) -> None:
        self._guarded(lambda: self._take(event))

    def _guarded(self, act: Callable[[], None]) -> None:
        """The checker must not be able to break what it looks at."""
        if self._aside or self.internal_error is not None:
            return
        try:
            with self._lock:
                act()
        except Exception as error:
            self.internal_error = error
            report_failure(error, None, "checker")

    def _take(self, event: Any) -> None:
        kind = type(event)
        self._remember(event, kind)
        if self.controller.memory.generation != self.queues.generation:
            self.queues.check_memory()
        hearer = self._hearers.get(kind)
        if hearer is not None:
            hearer(event)

    def _remember(self, event: Any, kind: type) -> None:
        """Keep the event with its queue; a doorbell is its queue's, the rest of the properties the controller's."""
        if kind is Doorbell:
            qid = event.qid
        elif kind is FetchCmd or kind is PostCqe:
            qid = event.sqid
        elif kind is RegisterWrite and event.offset >= _DOORBELLS:
            return  # its Doorbell follows, unless it is none
        elif kind is RegisterWrite or kind is ControllerState:
            qid = _CONTROLLER
        else:
            return
        history = self._history.get(qid)
        if history is None:
            history = self._history[qid] = deque(maxlen=HISTORY)
        history.append(event)

    def _register_write(self, event: RegisterWrite) -> None:
        if event.offset >= _DOORBELLS:
            self.queues.written(event.offset, event.size, event.value)
        else:
            self.registers.write(event.offset, event.size, event.value)

    def _post_cqe(self, event: PostCqe) -> None:
        self.buffers.completed(event.sqid, event.cid)
        self.queues.posted(event)
        if not event.sqid:
            self.queues.follow()

    def _pool(self, addr: int, nbytes: int, taken: bool) -> None:
        self._guarded(lambda: self._pool_changed(addr, nbytes, taken))

    def _pool_changed(self, addr: int, nbytes: int, taken: bool) -> None:
        pages = range(addr >> 12, addr + nbytes + 4095 >> 12)
        if taken:
            self._freed_pages.difference_update(pages)
        else:
            self._freed_pages.update(pages)
            self.buffers.freed(addr, nbytes)
            self.queues.freed(addr, nbytes)

    # -- what the watchers ask ------------------------------------------------------------------------------

    def judges(self, rule: str) -> bool:
        """Whether a rule can be judged on this transport."""
        return RULES[rule].mode in self._modes

    def is_freed(self, addr: int) -> bool:
        """Whether the driver has given the page at `addr` back to its allocator."""
        return addr >> 12 in self._freed_pages

    def vector_mapped(self, vector: int) -> bool:
        """Whether somebody receives the interrupt, as far as can be known."""
        return self._vector_mapped is None or self._vector_mapped(vector)

    def report(self, rule: str, what: str, *, qid: int = -1, cid: int = -1, **values: int) -> None:
        """The host broke a rule. Nothing happens where the rule cannot be judged on this transport."""
        known = RULES[rule]
        if known.mode not in self._modes:
            return
        count = self._counts.get(rule, 0) + 1
        self._counts[rule] = count
        finding = Finding(
            rule=rule,
            title=known.title,
            clause=known.clause,
            severity=known.severity,
            what=what,
            ts_ns=self.controller.now_ns,
            qid=qid,
            cid=cid,
            values=tuple(values.items()),
            history=tuple(self._history.get(qid, ())),
        )
        self._last[rule] = finding
        emit = None if self._attached is None else self._attached.emit
        if emit is not None:
            emit(CheckFinding(finding.ts_ns, rule, known.severity, qid, cid, what))
        if count <= FINDINGS_MAX:
            self._findings.append(finding)
            if self.on_finding is not None:
                self.on_finding(finding)

    # -- what was found -------------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, oldest first; at most `FINDINGS_MAX` of each rule."""
        with self._lock:
            return tuple(self._findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity "error"."""
        return tuple(one for one in self.findings if one.severity == "error")

    @property
    def summaries(self) -> tuple[RuleSummary, ...]:
        """Each rule that was broken, with how often, in the order of the first time."""
        with self._lock:
            return tuple(
                RuleSummary(
                    rule=rule,
                    title=last.title,
                    clause=last.clause,
                    severity=last.severity,
                    count=self._counts[rule],
                    last=last,
                )
                for rule, last in self._last.items()
            )

    @property
    def not_judged(self) -> dict[str, str]:
        """The rules that cannot be judged on this transport, with what they need."""
        return {ident: MODES[rule.mode] for ident, rule in RULES.items() if rule.mode not in self._modes}

    def clear(self) -> None:
        """Forget what was found; what is known of the host stays."""
        with self._lock:
            self._findings.clear()
            self._counts.clear()
            self._last.clear()
            self._raised = 0

    def raise_new(self) -> None:
        """Raise CheckError for errors that no call of this has raised yet; RuntimeError if the checker itself broke."""
        if self.internal_error is not None:
            raise RuntimeError("the checker failed and did not judge everything") from self.internal_error
        with self._lock:
            new = [one for one in self._findings[self._raised :] if one.severity == "error"]
            self._raised = len(self._findings)
        if new:
            raise CheckError(new)

    def raise_from(self, port: DevicePort, caller: Callable[[], object | None]) -> None:
        """Let the port's calls that reach the device raise CheckError for what they did wrong.

        `caller()` gives who calls, or None where an exception would be nobody's: in a worker, in an interrupt. Only
        the outermost call raises: an interrupt handler that runs inside it has to come to its end.
        """
        calling: set[int] = set()
        for name in ("write32", "write64", "read32", "read64", "ring_sq", "ring_sq_polled", "ring_cq"):
            vars(port)[name] = self._raising(getattr(port, name), caller, calling)

    def _raising(
        self, call: Callable[..., Any], caller: Callable[[], object | None], calling: set[int]
    ) -> Callable[..., Any]:
        def checked(*args: Any) -> Any:
            who = caller()
            if who is None or id(who) in calling:
                return call(*args)
            calling.add(id(who))
            try:
                result = call(*args)
            finally:
                calling.discard(id(who))
            if self._raised != len(self._findings):
                self.raise_new()
            return result

        return checked
