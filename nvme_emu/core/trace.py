"""What can be observed: one hub, and one frozen event type for each thing that happens.

Every room emits and none knows a sink. Names follow the kernel's tracepoints where one exists
(``nvme_setup_cmd``, ``nvme_complete_rq``, ``nvme_sq``, ``nvme_async_event``). Times are nanoseconds on the
machine's clock: virtual time in a simulation, ``perf_counter_ns`` on threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from kworker.misuse import report_failure

__all__ = [
    "AsyncEvent",
    "CheckFinding",
    "ControllerState",
    "DieBusy",
    "Doorbell",
    "Event",
    "EventIdx",
    "FaultFired",
    "FetchCmd",
    "Kworker",
    "NvmeAsyncEvent",
    "NvmeCompleteRq",
    "NvmeDsmRanges",
    "NvmeQueueRq",
    "NvmeSetupCmd",
    "NvmeSq",
    "NvmeState",
    "NvmeWakeRq",
    "PostCqe",
    "RaiseIrq",
    "RegisterWrite",
    "ShadowDoorbell",
    "Sink",
    "TraceHub",
    "as_record",
]


class Event(Protocol):
    """Any event: a NamedTuple whose first field is ``ts_ns`` and whose class names it."""

    name: ClassVar[str]

    @property
    def ts_ns(self) -> int: ...

    def _asdict(self) -> dict[str, Any]: ...


Sink = Callable[[Any], None]


# The driver's side -----------------------------------------------------------------------------------


class NvmeQueueRq(NamedTuple):
    """A caller handed a request to the driver (blk-mq's ``block_rq_issue``)."""

    ts_ns: int
    request: int
    opcode: int
    slba: int
    nlb: int
    task: str


class NvmeSetupCmd(NamedTuple):
    """The driver built the command of a request (``nvme_setup_cmd``)."""

    ts_ns: int
    request: int
    qid: int
    cid: int
    opcode: int
    nsid: int
    slba: int
    nlb: int


class NvmeDsmRanges(NamedTuple):
    """The ranges, (first block, blocks) each, of the Dataset Management command that was built just before."""

    ts_ns: int
    request: int
    qid: int
    cid: int
    nsid: int
    ranges: tuple[tuple[int, int], ...]


class NvmeSq(NamedTuple):
    """The driver rang a submission doorbell (``nvme_sq``)."""

    ts_ns: int
    qid: int
    tail: int
    commands: int


class NvmeCompleteRq(NamedTuple):
    """The driver took a completion and ended its request (``nvme_complete_rq``)."""

    ts_ns: int
    request: int
    qid: int
    cid: int
    status: int


class NvmeWakeRq(NamedTuple):
    """A caller that had waited for a request runs again."""

    ts_ns: int
    request: int
    task: str


class NvmeAsyncEvent(NamedTuple):
    """The driver received an asynchronous event (``nvme_async_event``)."""

    ts_ns: int
    result: int


class NvmeState(NamedTuple):
    """The driver's controller state changed (``nvme_change_ctrl_state``)."""

    ts_ns: int
    old: str
    new: str


# The device's side -----------------------------------------------------------------------------------


class FetchCmd(NamedTuple):
    """The controller fetched a submission queue entry."""

    ts_ns: int
    sqid: int
    cid: int
    opcode: int
    nsid: int
    slba: int
    nlb: int


class PostCqe(NamedTuple):
    """The controller published a completion queue entry; ``status`` is without the phase."""

    ts_ns: int
    cqid: int
    sqid: int
    cid: int
    status: int
    sqhd: int


class DieBusy(NamedTuple):
    """The device model plans work of a die: ``what`` is "read", "program" or "erase", the times lie ahead.

    What is planned may still be put off: a read goes before programs that have not ended.
    """

    ts_ns: int
    die: int
    channel: int
    what: str
    begin_ns: int
    end_ns: int


class RaiseIrq(NamedTuple):
    """An interrupt message left the controller."""

    ts_ns: int
    vector: int


class RegisterWrite(NamedTuple):
    """The host wrote a controller property."""

    ts_ns: int
    offset: int
    size: int
    value: int


class Doorbell(NamedTuple):
    """The controller saw a doorbell write."""

    ts_ns: int
    qid: int
    is_cq: bool
    value: int


class ShadowDoorbell(NamedTuple):
    """The controller found a new value in a word of the Shadow Doorbell page."""

    ts_ns: int
    qid: int
    is_cq: bool
    value: int


class EventIdx(NamedTuple):
    """The controller published after which value of a shadow doorbell it wants to hear of it."""

    ts_ns: int
    qid: int
    is_cq: bool
    value: int


class AsyncEvent(NamedTuple):
    """Something happened that an Asynchronous Event Request may report."""

    ts_ns: int
    event_type: int
    info: int
    log_page: int


class ControllerState(NamedTuple):
    """The controller was enabled, became ready, was reset, shut down or failed."""

    ts_ns: int
    what: str


class FaultFired(NamedTuple):
    """A fault rule fired. ``on`` is the kind of occurrence, ``effects`` their kinds with commas between them.

    ``sqid``, ``cid``, ``opcode`` and ``slba`` are those of the command, -1 where there is none.
    """

    ts_ns: int
    rule: str
    on: str
    effects: str
    sqid: int
    cid: int
    opcode: int
    slba: int
    detail: str


class CheckFinding(NamedTuple):
    """The checker found that the host broke a rule. ``qid`` and ``cid`` are -1 where there is none."""

    ts_ns: int
    rule: str
    severity: str
    qid: int
    cid: int
    what: str


# The worker's side -----------------------------------------------------------------------------------


class Kworker(NamedTuple):
    """An event of the worker room, as its own neutral hook gave it."""

    ts_ns: int
    what: str
    args: tuple[Any, ...]


_NAMES: dict[type[Any], str] = {
    NvmeQueueRq: "nvme_queue_rq",
    NvmeSetupCmd: "nvme_setup_cmd",
    NvmeDsmRanges: "nvme_dsm_ranges",
    NvmeSq: "nvme_sq",
    NvmeCompleteRq: "nvme_complete_rq",
    NvmeWakeRq: "nvme_wake_rq",
    NvmeAsyncEvent: "nvme_async_event",
    NvmeState: "nvme_change_ctrl_state",
    FetchCmd: "fetch_cmd",
    PostCqe: "post_cqe",
    DieBusy: "die_busy",
    RaiseIrq: "raise_irq",
    RegisterWrite: "register_write",
    Doorbell: "doorbell",
    ShadowDoorbell: "shadow_doorbell",
    EventIdx: "event_idx",
    AsyncEvent: "async_event",
    ControllerState: "controller_state",
    FaultFired: "fault_fired",
    CheckFinding: "check_finding",
    Kworker: "kworker",
}
# NamedTuple allows no class variable in its body, so the names are put on afterwards.
for _type, _name in _NAMES.items():
    _type.name = _name


def as_record(event: Any) -> dict[str, Any]:
    """The event as a JSON-ready mapping: ``ts_ns``, ``event``, then its other fields in order."""
    fields = event._asdict()
    return {"ts_ns": fields.pop("ts_ns"), "event": type(event).name, **fields}


class TraceHub:
    """Where events go.

    ``emit`` is None while nobody listens, so that a trace point that is off costs one test. Otherwise it calls
    each sink in the order in which they were added. An exception in a sink goes to kworker's failure hook:
    who looks on must not be able to break what he looks at (trace points lie inside the device's lock).
    Sinks may be added and removed by any thread, while others emit.
    """

    __slots__ = ("_lock", "_sinks", "emit", "on_change")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sinks: list[Sink] = []
        self.emit: Sink | None = None
        self.on_change: Callable[[], None] | None = None
        """Called when ``emit`` has changed, for who can stop making events that nobody wants."""

    def add_sink(self, sink: Sink) -> None:
        """Let ``sink(event)`` see every event from now on."""
        with self._lock:
            self._sinks.append(sink)
            self._choose()

    def remove_sink(self, sink: Sink) -> None:
        """Stop a sink; ValueError if it was not added."""
        with self._lock:
            self._sinks.remove(sink)
            self._choose()

    def _choose(self) -> None:
        self.emit = self._joined()
        if self.on_change is not None:
            self.on_change()

    def _joined(self) -> Sink | None:
        if not self._sinks:
            return None
        sinks = tuple(self._sinks)

        def emit_to_all(event: Any) -> None:
            for sink in sinks:
                try:
                    sink(event)
                except Exception as error:
                    report_failure(error, None, f"trace sink {sink!r}")

        return emit_to_all
