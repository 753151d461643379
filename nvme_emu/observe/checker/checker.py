"""The checker of one controller: it stands beside it, hears what happens, and asks the watchers.

    what the controller tells through its trace point           Tap ──► Checker ──► registers, queues, commands, buffers
    mmio_read (what the host has seen)                          replaced on the one object
    defer (a command's data has moved, its completion waits)    replaced on the one object

A controller that nobody checks knows nothing of it. One that is checked always has a trace point that is on, and
so goes the way on which each command and completion is told of: not in C, and not by columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kworker.misuse import report_failure
from nvme_emu.core.trace import (
    CheckFinding,
    ControllerState,
    Doorbell,
    EventIdx,
    FetchCmd,
    PostCqe,
    RegisterWrite,
    ShadowDoorbell,
    TraceHub,
)
from nvme_emu.observe.checker.buffers import Buffers
from nvme_emu.observe.checker.commands import Commands
from nvme_emu.observe.checker.finding import Finding
from nvme_emu.observe.checker.ledger import Ledger
from nvme_emu.observe.checker.queues import Queues
from nvme_emu.observe.checker.registers import Registers
from nvme_emu.observe.checker.rules import RULES
from nvme_emu.observe.checker.shadow import Shadow
from nvme_emu.spec.queues import PSDT_MASK, Sqe
from nvme_emu.spec.registers import Reg

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.core.ports import DevicePort

__all__ = ["HISTORY", "Checker", "Tap"]

HISTORY: Final = 32
"""Events of a queue that a finding brings with it."""

_DOORBELLS: Final = int(Reg.DOORBELLS)
_CONTROLLER: Final = -1
_DWORD: Final = 0xFFFF_FFFF


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


class Checker(Ledger):
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
        super().__init__(scope=scope, level=level, on_finding=on_finding)
        self.controller = controller
        self._vector_mapped = vector_mapped
        self._attached: TraceHub | None = None
        self._aside = False
        self.host_is_there = False
        """Whether the host is still there when `host_left` comes: the device's end is what ends it."""
        self._freed_pages: set[int] = set()
        self._history: dict[int, deque[Any]] = {}
        self.queues = Queues(self)
        self.registers = Registers(self)
        self.commands = Commands(self)
        self.buffers = Buffers(self)
        self.shadow = Shadow(self)
        self._hearers: dict[type, Callable[[Any], None]] = {
            RegisterWrite: self._register_write,
            Doorbell: self.queues.rung,
            ShadowDoorbell: self.shadow.found,
            EventIdx: self.shadow.published,
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
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """A bug of the checker's own: it judges nothing any more."""
        self.internal_error = error
        report_failure(error, None, "checker")

    def now_ns(self) -> int:
        """The time of what happens now."""
        return self.controller.now_ns

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
        if kind is Doorbell or kind is ShadowDoorbell or kind is EventIdx:
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

    def is_freed(self, addr: int) -> bool:
        """Whether the driver has given the page at `addr` back to its allocator."""
        return addr >> 12 in self._freed_pages

    def vector_mapped(self, vector: int) -> bool:
        """Whether somebody receives the interrupt, as far as can be known."""
        return self._vector_mapped is None or self._vector_mapped(vector)

    def report(self, rule: str, what: str, *, qid: int = -1, cid: int = -1, **values: int) -> None:
        """The host broke a rule. Nothing happens where the rule cannot be judged on this transport."""
        if not self.judges(rule):
            return
        known = RULES[rule]
        finding = Finding(
            rule=rule,
            title=known.title,
            clause=known.clause,
            severity=known.severity,
            what=what,
            ts_ns=self.now_ns(),
            qid=qid,
            cid=cid,
            host=self.host,
            values=tuple(values.items()),
            history=tuple(self._history.get(qid, ())),
        )
        emit = None if self._attached is None else self._attached.emit
        if emit is not None:
            emit(CheckFinding(finding.ts_ns, rule, known.severity, qid, cid, what))
        self.file(finding)

    def outstanding(self) -> dict[int, dict[int, Sqe]]:
        """What the host has submitted and not been answered, by queue and identifier."""
        return self.queues.outstanding()

    def io_outstanding(self, nsid: int | None = None) -> int:
        """How many I/O commands are outstanding: of a namespace, or of all."""
        queues = [live for qid, live in self.outstanding().items() if qid]
        if nsid is None:
            return sum(map(len, queues))
        return sum(1 for live in queues for entry in live.values() if entry.nsid == nsid)

    def may_abort(self, sqid: int, cid: int) -> bool:
        """Whether a command is outstanding, as far as the host can know."""
        return self.queues.may_abort(sqid, cid)

    def data_pointer(self, entry: Sqe) -> str:
        """What the data pointer of a command says, in words; "" where it says nothing."""
        if entry.flags & PSDT_MASK:
            return f"an SGL of {entry.prp2 & _DWORD} bytes" if entry.prp2 & _DWORD else ""
        return f"PRP1 {entry.prp1:#x}, PRP2 {entry.prp2:#x}" if entry.prp1 or entry.prp2 else ""

    # -- for who owns the port ------------------------------------------------------------------------------

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
            if self.has_new:
                self.raise_new()
            return result

        return checked
