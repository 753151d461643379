"""The device, without I/O of its own: registers and doorbells in, completions and vectors out.

A transport holds one lock around it, tells it the time with `step` and delivers the vectors that `take_irqs`
gives. It never reads a clock, never waits and never raises at a host's mistake:

    transport                     controller
    mmio_write, ring_sq, …  ──►   note it
    step(now_ns)            ──►   end what is due, fetch and execute commands, write completions
    take_irqs()             ──►   the vectors to deliver, outside the lock
    next_deadline()         ──►   when step must be called again, though nobody rings

Data moves when a command is fetched, in fetch order; its completion is written when the latency model says
that the device is done. Commands in flight are *timed* (they have a completion slot and a time) or *parked*
(their handler keeps them: an Asynchronous Event Request).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu._core import COMPILED, DeviceState
from nvme_emu.controller.admin import handlers_of
from nvme_emu.controller.ana import AnaReport
from nvme_emu.controller.columns import BOUNCE_BYTES
from nvme_emu.controller.command import Command
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.counters import Counters
from nvme_emu.controller.data_pointer import SGLS_ANY, data_buffers
from nvme_emu.controller.dispatch import device_lane, doorbell_cq, doorbell_sq, due, end_due, go_on, run_turn
from nvme_emu.controller.endurance import EnduranceEvents
from nvme_emu.controller.events import AsyncEvents, notices_offered
from nvme_emu.controller.features import Features
from nvme_emu.controller.inflight import InFlight
from nvme_emu.controller.lba_alerts import LbaAlerts
from nvme_emu.controller.lifecycle_actions import Lifecycle
from nvme_emu.controller.logs import ErrorLog, Logs
from nvme_emu.controller.namespace import Namespace
from nvme_emu.controller.pcie.arbitration import RoundRobin
from nvme_emu.controller.pcie.coalescing import Coalescer
from nvme_emu.controller.pcie.interrupts import Interrupts
from nvme_emu.controller.pcie.lifecycle import Input, State
from nvme_emu.controller.pcie.memory_buffers import MemoryBuffers
from nvme_emu.controller.pcie.pin import InterruptPin
from nvme_emu.controller.pcie.registers import RegisterFile
from nvme_emu.controller.pcie.rings import LateCompletion, Rings, SubmissionQueue
from nvme_emu.controller.pcie.shadow import ShadowDoorbells
from nvme_emu.controller.power import Power
from nvme_emu.controller.reservation_state import ReservationNotices
from nvme_emu.controller.self_test import SelfTest
from nvme_emu.controller.subsystem import NvmSubsystem
from nvme_emu.controller.telemetry import Telemetry
from nvme_emu.core.errors import CommandError
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import ControllerState, Doorbell, PostCqe, RegisterWrite, TraceHub
from nvme_emu.spec.events import AsyncErrorInfo, AsyncEventType
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import MORE, Status

if TYPE_CHECKING:
    from nvme_emu.controller.latency import LatencyModel

__all__ = ["Controller"]

_DWORD = 0xFFFF_FFFF
_DOORBELLS = int(Reg.DOORBELLS)
_NO_LIMIT = 1 << 62


class Controller(DeviceState):
    """An NVMe controller behind a PCI Express front door.

    `namespaces` maps nsid to Namespace, `outstanding` (sqid, cid) to each command in flight. With `strict` an
    exception of our own making leaves the controller after CSTS.CFS was set; else it is only traced and kept
    in `internal_error`. Controllers of one device share its `counters`.
    """

    namespaces: dict[int, Namespace]
    memory: HostMemory
    counters: Counters
    rings: Rings
    latency: LatencyModel | None
    trace: TraceHub
    inflight: InFlight
    interrupts: Interrupts

    checker: Any = None
    """Who watches the host, if somebody does (`observe.checker`); transports tell it what is not the host's doing."""

    attention: Callable[[], object] | None = None
    """How a transport is told that another controller of the subsystem gave this one something to tell its host."""

    on_subsystem_reset: Callable[[], object] | None = None
    """Told of an NVM Subsystem Reset, whichever controller was asked for it."""

    run_turn = staticmethod(run_turn)
    """How a queue's turn is taken; fault rules put their own in its place while they look at commands."""

    def __init__(
        self,
        config: ControllerConfig,
        *,
        memory: HostMemory,
        namespaces: Sequence[Namespace] = (),
        subsystem: NvmSubsystem | None = None,
        latency: LatencyModel | None = None,
        trace: TraceHub | None = None,
        rng: Any = None,
        strict: bool = False,
        counters: Counters | None = None,
    ) -> None:
        """The controller of `subsystem`, or of one of its own that is made of `namespaces`.

        Raises ValueError for namespaces that share an identifier or have one above `namespaces_max`.
        """
        super().__init__()
        self.config = config
        self.memory = memory
        self.namespaces = {}
        self.subsystem = NvmSubsystem(config, namespaces) if subsystem is None else subsystem
        self.timers = self.subsystem.timers
        """The subsystem's heap of timers, for the test whether one is due."""
        # An instant device needs no model: the hot path then has one test less.
        self.latency = None if latency is None or latency.instant else latency
        if latency is not None:
            latency.trace = trace
        self.trace = trace if trace is not None else TraceHub()
        self.rng = rng
        self.strict = strict
        self.internal_error: Exception | None = None
        self.admin_handlers = handlers_of(config)
        self.shadow: ShadowDoorbells | None = None
        """What the host has set up with Doorbell Buffer Config."""
        self.pin = InterruptPin(self)
        self.wants_heads = False
        """Whether each head doorbell counts at once, as it does for an interrupt that is a level."""
        self.identify_fields: dict[str, Any] = {}
        """Fields of Identify Controller that a front door other than PCI Express adds or has its own way."""
        self.notices_offered = notices_offered(config, self.subsystem.zns is not None)
        self.compiled = COMPILED and config.contiguous_queues
        """Whether plain commands may be done in C."""

        self.now_ns = 0
        self.step_commands_max = config.step_commands_max
        self.counters = Counters() if counters is None else counters
        self.inflight = InFlight(self.counters)
        self.buffers = MemoryBuffers(config, memory)
        self.registers = RegisterFile(config, self.buffers)
        self.interrupts = Interrupts(config.vectors, self.trace, lambda: self.now_ns)
        self.coalescer = Coalescer(self)
        self.arbiter = RoundRobin()
        self.line = self.arbiter.line
        self.rings = Rings(memory, self.registers, config.vectors, self._queue_deleted)
        self.features = Features(config, None if config.message_based else self.subsystem.saved_features)
        self.error_log = ErrorLog(config)
        self.events = AsyncEvents(self)
        self.ana = AnaReport(self)
        self.endurance = EnduranceEvents(self)
        self.logs = Logs(self)
        self.buffers.on_trouble(self.logs.health.evaluate)
        self.power = Power(self)
        self.lba_alerts = LbaAlerts(self)
        self.self_test = SelfTest(self)
        self.telemetry = Telemetry(self)
        self.reservation_notices = ReservationNotices(self)
        self.host_id = bytes(16)
        """Host Identifier; zeros until the host has said who it is."""
        self.host_id_is_extended = False

        self.running = False
        """Whether commands are fetched."""
        self.posting = False
        """Whether commands in flight may still end: from ready to the next reset or failure."""
        self.page_size = self.registers.page_size
        self.transfer_bytes_max = config.mdts_bytes or _NO_LIMIT
        self.sgl_blocks = config.sgls == SGLS_ANY and not config.message_based
        self.write_through = False
        self.bounce = np.empty(BOUNCE_BYTES, np.uint8)
        """Where the column gait puts scattered data on its way."""
        self._stride_shift = config.doorbell_stride.bit_length() - 1
        # What the state is waiting for: a time span that the next step starts, then a point in time.
        self.state_delay_ns: int | None = None
        self.state_deadline_ns: int | None = None
        self.lifecycle = Lifecycle(self)
        self.apply_features()
        self.subsystem.join(self)
        self.power.reset()

    def sibling(self, *, cntlid: int, port: int, memory: HostMemory, trace: TraceHub) -> Controller:
        """Another controller of the subsystem, at a port of its own: it shares what is the SSD's."""
        latency = self.latency
        told = None if latency is None else latency.trace
        made = Controller(
            replace(self.config, cntlid=cntlid, port=port),
            memory=memory,
            subsystem=self.subsystem,
            latency=latency,
            trace=trace,
            rng=self.rng,
            counters=self.counters,
        )
        if latency is not None:
            # What the device model tells of, it goes on telling at the first port.
            latency.trace = told
        return made

    @property
    def state(self) -> State:
        """Where in its life the controller is."""
        return self.registers.state

    @property
    def outstanding(self) -> dict[tuple[int, int], Command]:
        """(sqid, cid) to each command in flight."""
        return self.inflight.commands

    @property
    def temperature_k(self) -> int:
        """Composite Temperature in kelvins; setting it compares it with the host's thresholds at once."""
        return self.logs.health.temperature_k

    @temperature_k.setter
    def temperature_k(self, value: int) -> None:
        self.logs.health.temperature_k = value

    # -- what a transport calls -----------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """`size` bytes of BAR0 at `offset`, little-endian. See `pcie.registers` for odd sizes."""
        return self.registers.read(offset, size)

    def bar_view(self, bar: int, offset: int, nbytes: int) -> memoryview | None:
        """Bytes of a BAR that are memory of the controller's own (`pcie.memory_buffers`), None where they are not."""
        return self.buffers.view(bar, offset, nbytes)

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes to BAR0 at `offset`. What the specification does not define is dropped."""
        try:
            emit = self.trace.emit
            if emit is not None:
                emit(RegisterWrite(self.now_ns, offset, size, value))
            if size == 4 and offset >= _DOORBELLS and not offset & 3:
                self._doorbell(offset, value)
            elif size == 4 and offset >= 0 and not offset & 3:
                self.lifecycle.write(offset, value & _DWORD)
            elif size == 8 and 0 <= offset < _DOORBELLS and not offset & 3:
                self.lifecycle.write(offset, value & _DWORD)
                self.lifecycle.write(offset + 4, value >> 32 & _DWORD)
            else:
                self.note(f"dropped a write of {size} bytes at {offset:#x}: neither a dword nor two")
        except Exception as error:
            self.broken(error)

    def ring_sq(self, qid: int, tail: int) -> None:
        """Submission queue `qid`'s tail doorbell was written."""
        try:
            emit = self.trace.emit
            if emit is not None:
                emit(Doorbell(self.now_ns, qid, False, tail))
            known = tail if self.shadow is None else self.shadow.rung(qid, False, tail)
            if known is not None:
                self.take_tail(qid, known)
        except Exception as error:
            self.broken(error)

    def take_tail(self, qid: int, tail: int) -> None:
        """What the host has told of a submission queue, wherever it did."""
        sq = self.rings.sqs.get(qid)
        if sq is None or not (self.running or self.registers.paused):
            self._bad_doorbell(qid, tail, "submission", sq is None)
        elif sq.move_tail(tail):
            if not sq.in_line:
                self.arbiter.add(sq)
        else:
            self._bad_doorbell(qid, tail, "submission", False)

    def ring_cq(self, qid: int, head: int) -> None:
        """Completion queue `qid`'s head doorbell was written."""
        try:
            emit = self.trace.emit
            if emit is not None:
                emit(Doorbell(self.now_ns, qid, True, head))
            known = head if self.shadow is None else self.shadow.rung(qid, True, head)
            if known is not None:
                self.take_head(qid, known)
        except Exception as error:
            self.broken(error)

    def take_head(self, qid: int, head: int) -> None:
        """What the host has told of a completion queue, wherever it did."""
        cq = self.rings.cqs.get(qid)
        if cq is None or not cq.move_head(head):
            self._bad_doorbell(qid, head, "completion", cq is None)
            return
        while cq.backlog and cq.free:
            late = cq.backlog.popleft()
            cq.free -= 1
            self._post(late.sq, late.cid, late.status, late.dw0)
        if cq.blocked and cq.free:
            self.arbiter.unpark(cq)

    def step(self, now_ns: int) -> None:
        """Do all work that is due at `now_ns`, at most `config.step_commands_max` commands of it."""
        try:
            self.now_ns = now_ns
            if self.state_delay_ns is not None or self.state_deadline_ns is not None:
                self.lifecycle.timer()
            if self.timers and self.timers[0][0] <= now_ns:
                self.subsystem.run_timers(now_ns)
            if self.shadow is not None:
                self.shadow.look()
            if self.inflight.is_due(now_ns):
                self.end_due()
            if self.arbiter.line and self.running:
                self._fetch()
            if self.shadow is not None:
                self.shadow.settle()
        except Exception as error:
            self.broken(error)

    def next_deadline(self) -> int | None:
        """When (ns) `step` must be called again for work that is there; None when there is none.

        A time that is not in the future means: at once.
        """
        if (self.arbiter.line and self.running) or self.state_delay_ns is not None:
            return self.now_ns
        deadline = self.state_deadline_ns
        if self.timers and (deadline is None or self.timers[0][0] < deadline):
            deadline = self.timers[0][0]
        if self.posting:
            due_ns = self.inflight.next_ns()
            if due_ns is not None and (deadline is None or due_ns < deadline):
                return due_ns
        return deadline

    # Both in one call, with what a transport asks after it: see `dispatch`.
    doorbell_sq = doorbell_sq
    doorbell_cq = doorbell_cq
    due = due
    end_due = end_due
    go_on = go_on
    lane = device_lane

    def take_irqs(self) -> tuple[int, ...]:
        """The vectors raised since the last call; masked ones stay pending."""
        interrupts = self.interrupts
        return interrupts.take() if interrupts.raised else ()

    def mask_vector(self, vector: int, masked: bool) -> None:
        """Write the mask bit of an MSI-X vector; unmasking raises what is pending."""
        self.interrupts.mask(vector, masked)

    # -- what command handlers call -------------------------------------------------------------------------

    def send(self, cmd: Command, data: bytes | bytearray | memoryview) -> None:
        """Move data to where the command wants it: all of it or, with a CommandError, nothing."""
        source = memoryview(data).cast("B")
        at = 0
        for view in data_buffers(self, cmd, len(source), True):
            view[:] = source[at : at + len(view)]
            at += len(view)

    def receive(self, cmd: Command, nbytes: int) -> bytes:
        """A copy of the command's `nbytes` of data. Raises CommandError for bad PRPs or SGLs."""
        return b"".join(data_buffers(self, cmd, nbytes, False))

    def delay(self, cmd: Command, op: str, offset: int, nbytes: int, fua: bool = False) -> None:
        """Let the latency model say when the device will have done this part of the command."""
        if self.latency is not None:
            done_ns = self.latency.submit(op, offset, nbytes, self.now_ns, fua=fua)
            cmd.done_ns = max(cmd.done_ns, done_ns)

    def complete(self, cmd: Command, status: int = 0, dw0: int = 0) -> None:
        """End a command in flight now. A second call for the same command does nothing.

        `status` is the 15-bit status field. The completion of a parked command waits if the queue is full.
        """
        if not self.inflight.is_live(cmd):
            return
        self.inflight.remove(cmd, self.now_ns)
        cq = cmd.sq.cq
        if not cmd.done_ns:
            if not cq.free:
                cq.backlog.append(LateCompletion(cmd.sq, cmd.cid, status, dw0))
                return
            cq.free -= 1
        self._post(cmd.sq, cmd.cid, status, dw0)

    # -- what the dispatch loop calls -----------------------------------------------------------------------

    def finish(self, cmd: Command, status: int, dw0: int) -> None:
        """A fetched command has been executed: write its completion, now or when the device is done."""
        if cmd.done_ns > self.now_ns:
            self.defer(cmd, cmd.done_ns, status, dw0)
        else:
            self._post(cmd.sq, cmd.cid, status, dw0)

    def defer(self, cmd: Command, done_ns: int, status: int = 0, dw0: int = 0) -> None:
        """Keep a command, and the slot taken for it, until `done_ns`."""
        self.inflight.add_timed(cmd, done_ns, self.now_ns, status, dw0)

    def park(self, cmd: Command) -> None:
        """Keep a command whose handler will end it, and give its slot back meanwhile."""
        self.inflight.add_parked(cmd)
        cq = cmd.sq.cq
        cq.free += 1
        if cq.blocked:
            self.arbiter.unpark(cq)

    def log_error(self, cmd: Command, error: CommandError) -> int:
        """Record a failed command in the error log; the status field for its completion."""
        status = error.field
        if error.status == Status.READ_ERROR and cmd.sq.qid:
            self.lba_alerts.unread(cmd, error.lba)
        if self.error_log.record(cmd, status, error.location, lba=error.lba):
            status |= MORE
        return status

    def apply_features(self) -> None:
        """Take over the features that the hot path keeps at hand; called after each Set Features."""
        self.arbiter.burst = self.features.arbitration_burst
        self.arbiter.weights = self.features.arbitration_weights
        if not self.config.message_based:
            self.coalescer.configure(*self.features.coalescing)
        self.write_through = not self.features.write_cache_enabled

    def fail(self, why: str) -> None:
        """Something from which only a reset helps: CSTS.CFS (Base 2.1, 9.5)."""
        self.lifecycle.take(Input.FATAL, why)

    def subsystem_reset(self) -> None:
        """The NVM subsystem is reset, and this controller with it."""
        self.lifecycle.take(Input.SUBSYSTEM_RESET)
        if self.on_subsystem_reset is not None:
            self.on_subsystem_reset()
        self.look_at_me()

    def look_at_me(self) -> None:
        """Have the transport see what there is to do, though its host did nothing."""
        if self.attention is not None:
            self.attention()

    def pause(self, pause_ns: int) -> None:
        """Fetch nothing for a while, as new firmware starts: CSTS.PP (Base 2.1, 3.1.4.6)."""
        if pause_ns and self.running:
            self.running, self.registers.paused = False, True
            self.subsystem.at(self.now_ns + pause_ns, self._resume)

    def _resume(self, now_ns: int) -> None:
        if self.registers.paused:
            self.registers.paused = False
            self.running = self.state is State.READY

    # -- completions ----------------------------------------------------------------------------------------

    def _post(self, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        """Write a completion into the slot that was taken for it."""
        cq = sq.cq
        self._rings_are_there()
        if not self.posting:
            self.counters.dropped += 1
            return
        cq.write(sq, cid, status, dw0)
        self.counters.posted += 1
        emit = self.trace.emit
        if emit is not None:
            emit(PostCqe(self.now_ns, cq.qid, sq.qid, cid, status, sq.head))
        if cq.ien:
            self.interrupts.raise_vector(cq.vector)

    def _rings_are_there(self) -> bool:
        """False, and CSTS.CFS, when the host has taken the memory of a queue away."""
        if self.rings.generation == self.memory.generation:
            return True
        lost = self.rings.lost(self.shadow)
        if lost is not None:
            self.fail(lost)
        return lost is None

    def _queue_deleted(self, sq: SubmissionQueue) -> None:
        """Nothing of a deleted queue is served any more. Delete I/O SQ has ended what was in flight."""
        self.arbiter.remove(sq)

    def drop_commands(self) -> None:
        """A reset: what is in flight ends without a completion, and is counted."""
        waiting = sum(len(cq.backlog) for cq in self.rings.cqs.values())
        self.counters.dropped += waiting + self.inflight.clear(self.now_ns)

    # -- fetching -------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Give the queues in line their turns; at least one stands there."""
        if not self._rings_are_there():
            return
        arbiter = self.arbiter
        line = arbiter.line
        budget = self.config.step_commands_max
        while line and budget and self.running:
            sq = arbiter.next()
            # A queue alone in line needs no turns.
            budget -= self.run_turn(self, sq, arbiter.turn_length(budget) if line else budget)
            if sq.head != sq.tail:
                if sq.cq.free:
                    arbiter.add(sq)
                else:
                    arbiter.park(sq)

    def _bad_doorbell(self, qid: int, value: int, kind: str, missing: bool) -> None:
        """Ignored, with an asynchronous event while there are queues to tell it through (Base 2.1, 5.1.2)."""
        if not self.running:
            why = f"the controller is {self.state.value}"
        else:
            why = "no such queue" if missing else "out of range, no change, or more than there is room for"
            infos = AsyncErrorInfo
            info = infos.INVALID_DOORBELL_REGISTER if missing else infos.INVALID_DOORBELL_VALUE
            self.events.post(AsyncEventType.ERROR, info, Lid.ERROR_INFORMATION)
        self.note(f"ignored {value:#x} in the doorbell of {kind} queue {qid}: {why}")

    # -- registers ------------------------------------------------------------------------------------------

    def _doorbell(self, offset: int, value: int) -> None:
        index, rest = divmod(offset - _DOORBELLS, 1 << self._stride_shift)
        if rest or offset >= self.config.bar_size:
            self.note(f"dropped a write at {offset:#x}: no doorbell is there")
        elif index & 1:
            self.ring_cq(index >> 1, value & 0xFFFF)
        else:
            self.ring_sq(index >> 1, value & 0xFFFF)

    def note(self, what: str) -> None:
        emit = self.trace.emit
        if emit is not None:
            emit(ControllerState(self.now_ns, what))

    def broken(self, error: Exception) -> None:
        """An exception that is nobody's fault but ours: the controller stops, the host sees CSTS.CFS."""
        self.internal_error = error
        self.telemetry.failed(f"{type(error).__name__}: {error}")
        self.fail(f"internal error: {type(error).__name__}: {error}")
        if self.strict:
            raise error
