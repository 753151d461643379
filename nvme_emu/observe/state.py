"""What a machine looks like at one instant: plain frozen values, for inspectors, remote control and tests.

    watched = watch(machine)              # nvme_emu.observe.snapshot
    state = snapshot(watched)             # a MachineState
    text = json.dumps(to_json(state))     # and back: from_json(MachineState, json.loads(text))

Nothing here refers to the machine: a state can be kept, compared, sent, and shown long after. Times are
nanoseconds on the machine's clock, amounts bytes, counts count from one. Raw bytes are hexadecimal text, so
that every state is JSON as it stands. ``None`` means "there is nothing of that kind here" (no driver in this
process, no recorder attached), never "unknown and might be zero".
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from kworker.inspect import DelayedSnapshot, TaskSnapshot, WorkerSnapshot, WorkSnapshot

__all__ = [
    "CommandState",
    "ControllerState",
    "CqState",
    "DriverState",
    "EntryState",
    "FieldState",
    "LatencyState",
    "MachineState",
    "NamespaceState",
    "Rates",
    "RegisterState",
    "SampleState",
    "SmartState",
    "SqState",
    "StatsState",
    "DelayedSnapshot",
    "TaskSnapshot",
    "WorkSnapshot",
    "WorkerSnapshot",
    "from_json",
    "rates",
    "to_json",
]

STATE_VERSION = 1
"""Grows when a field changes its meaning; new fields with a default do not change it."""


# --- the controller -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldState:
    """One field of a register: ``words`` tells the value's meaning where it has one."""

    name: str
    value: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterState:
    """A controller property with its fields, the lowest bits first; reserved fields only when not zero."""

    name: str
    offset: int
    size: int
    value: int
    words: str
    clause: str
    fields: tuple[FieldState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerState:
    """The device: ``state`` in words ("ready", "shutting down" …), identity, properties, counters.

    ``fetching`` is whether commands are fetched; ``internal_error`` what broke it, if anything did.
    ``counters`` are those of :class:`nvme_emu.controller.counters.Counters`.
    """

    state: str
    fetching: bool
    internal_error: str | None
    serial: str
    model: str
    firmware: str
    page_size: int
    temperature_k: int
    outstanding: int
    irqs_pending: int
    registers: tuple[RegisterState, ...]
    counters: dict[str, int]


# --- queues -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryState:
    """One slot of a ring. ``raw`` is its 64 or 16 bytes in hex, ``words`` the opcode or the status.

    ``state`` of a submission slot: "prepared" (written, doorbell not rung), "waiting" (not fetched),
    "inflight" (fetched, not completed), "old" (what is left of an earlier command) or "empty".
    Of a completion slot: "new" (posted, the host has not told that it took it), "old" or "empty".
    ``phase`` is the Phase Tag of a completion, None in a submission queue; ``status`` likewise, without it.
    """

    index: int
    state: str
    phase: int | None
    cid: int
    opcode: int | None
    status: int | None
    words: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SqState:
    """A submission queue. ``tail`` is the doorbell; the controller fetches at ``head``.

    ``waiting`` commands lie between them, ``inflight`` ones were fetched. ``host_tail`` is where the driver
    writes next and ``host_head`` what it last heard (SQHD); None without a driver in this process.
    ``shadow_tail`` and ``event_index`` are None where there are no shadow doorbells.
    ``entries`` are the newest slots, oldest first.
    """

    qid: int
    cqid: int
    size: int
    base: int
    prio: int
    head: int
    tail: int
    waiting: int
    inflight: int
    host_head: int | None
    host_tail: int | None
    shadow_tail: int | None = None
    event_index: int | None = None
    entries: tuple[EntryState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CqState:
    """A completion queue. ``head`` is the doorbell; the controller writes at ``tail`` with ``phase``.

    ``posted`` entries lie between them, ``reserved`` slots are taken for commands in flight, ``free`` are
    neither; ``backlog`` completions wait for a slot, ``blocked`` submission queues wait to be fetched from.
    ``host_head`` and ``host_phase`` are the driver's own; None without a driver in this process.
    """

    qid: int
    size: int
    base: int
    vector: int
    interrupts: bool
    head: int
    tail: int
    phase: int
    posted: int
    reserved: int
    free: int
    backlog: int
    blocked: tuple[int, ...]
    sqs: int
    host_head: int | None
    host_phase: int | None
    shadow_head: int | None = None
    event_index: int | None = None
    entries: tuple[EntryState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandState:
    """A command that has not ended.

    ``stage``: "listed" (on the worker's list, no command yet), "prepared", "submitted" (doorbell rung),
    "executing" (fetched; ``due_ns`` from now it ends), "parked" (an Asynchronous Event Request), "completed"
    (the completion is posted, the driver has not taken it). ``request`` is the driver's serial number.
    ``age_ns`` needs an attached recorder, and counts from the caller's hand-over, or from the fetch where
    there is no driver.
    """

    qid: int
    cid: int | None
    request: int | None
    opcode: int
    name: str
    nsid: int
    slba: int
    nlb: int
    stage: str
    age_ns: int | None
    due_ns: int | None


# --- the host, the medium, the health -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverState:
    """The driver in this process: Linux's state name, mode, and completions that belonged to no request.

    ``recovery`` counts time-outs, aborts, resets, retries and the like; ``log`` is its last lines, as in Linux.
    """

    state: str
    mode: str
    worker: str
    queues: int
    depth: int
    strays: int
    recovery: dict[str, int]
    log: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceState:
    """A namespace and its medium; ``allocated_bytes`` is what the medium really holds."""

    nsid: int
    nsze: int
    lba_size: int
    nbytes: int
    allocated_bytes: int
    volatile: bool
    media: str
    nguid: str
    eui64: str
    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartState:
    """The SMART / Health log page (NVMe Base 2.1, 5.1.12.1.3), in the specification's units."""

    critical_warning: int
    composite_temperature: int
    avsp: int
    avspt: int
    pused: int
    data_units_read: int
    data_units_written: int
    host_read_commands: int
    host_write_commands: int
    controller_busy_time: int
    power_cycles: int
    power_on_hours: int
    unsafe_shutdowns: int
    media_errors: int
    num_err_log_entries: int
    warning_temp_time: int
    critical_temp_time: int


# --- statistics ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyState:
    """Latencies of one kind since the recorder was attached, in ns.

    ``percentiles`` maps "50", "99.9" … to ns; ``bins`` are (value, count) in the layout of fio's json+.
    """

    count: int
    min_ns: int
    max_ns: int
    mean_ns: float
    percentiles: dict[str, int]
    bins: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleState:
    """One command worth showing: among the slowest, or failed. ``status`` is without the phase."""

    ts_ns: int
    qid: int
    cid: int
    request: int | None
    opcode: int
    name: str
    slba: int
    nlb: int
    latency_ns: int
    status: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsState:
    """Totals since the machine was made, and what a recorder measured if one is attached.

    Totals come from the controller's own counters and cost nothing; two states give :func:`rates`.
    ``latency`` has "read", "write" and "other"; ``stages`` the stages of :mod:`nvme_emu.observe.recorder`.
    ``recording_since_ns`` is None, and the rest empty, while no recorder is attached.
    """

    ts_ns: int
    read_ios: int
    write_ios: int
    read_bytes: int
    write_bytes: int
    fetched: int
    posted: int
    outstanding: int
    busy_ns: int
    recording_since_ns: int | None = None
    latency: dict[str, LatencyState] = dataclasses.field(default_factory=dict)
    stages: dict[str, LatencyState] = dataclasses.field(default_factory=dict)
    slowest: tuple[SampleState, ...] = ()
    failed: tuple[SampleState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What happened between two :class:`StatsState`: per second of the machine's clock. 0 for no time."""

    window_ns: int
    read_iops: float
    write_iops: float
    read_bw_bytes: float
    write_bw_bytes: float
    utilisation: float


def rates(before: StatsState, after: StatsState) -> Rates:
    """The rates between two states of one machine, in this order."""
    window_ns = max(0, after.ts_ns - before.ts_ns)
    seconds = window_ns / 1e9

    def per_second(name: str) -> float:
        return (getattr(after, name) - getattr(before, name)) / seconds if seconds else 0.0

    return Rates(
        window_ns=window_ns,
        read_iops=per_second("read_ios"),
        write_iops=per_second("write_ios"),
        read_bw_bytes=per_second("read_bytes"),
        write_bw_bytes=per_second("write_bytes"),
        utilisation=min(1.0, per_second("busy_ns") / 1e9),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """All of it. ``consistent`` is False where the state had to be read while somebody was at work in it.

    ``tasks`` are those of the driver's runtime: who waits for whom.
    """

    version: int
    ts_ns: int
    clock: str
    consistent: bool
    controller: ControllerState
    driver: DriverState | None
    sqs: tuple[SqState, ...]
    cqs: tuple[CqState, ...]
    commands: tuple[CommandState, ...]
    workers: tuple[WorkerSnapshot, ...]
    namespaces: tuple[NamespaceState, ...]
    smart: SmartState
    stats: StatsState
    tasks: tuple[TaskSnapshot, ...] = ()


# --- JSON, both ways ----------------------------------------------------------------------------------------

_T = TypeVar("_T")


def to_json(value: Any) -> Any:
    """A state, or anything made of states, as what ``json.dumps`` takes: dicts, lists, numbers, text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[_T], data: Any) -> _T:
    """The state of class ``kind`` that :func:`to_json` gave ``data`` for.

    Fields that this version does not know are left out, so that an older reader takes a newer state.
    ValueError, naming the field, where one is missing or has the wrong form.
    """
    made: _T = _build(kind, data, kind.__name__)
    return made


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast("type[Any]", kind), data, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if data is None and type(None) in args:
            return None
        return _build(next(arg for arg in args if arg is not type(None)), data, where)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where}: must be a list, not {data!r}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], item, f"{where}[{i}]") for i, item in enumerate(data))
        if len(args) != len(data):
            raise ValueError(f"{where}: must have {len(args)} items, not {len(data)}")
        return tuple(_build(arg, item, where) for arg, item in zip(args, data, strict=True))
    if origin is dict:
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: must be an object, not {data!r}")
        return {key: _build(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if kind is float and type(data) is int:
        return float(data)
    # type() and not isinstance: True is an int to Python, but no number of anything here.
    if type(data) is not kind:
        raise ValueError(f"{where}: must be {kind.__name__}, not {data!r}")
    return data


def _build_dataclass(kind: type[Any], data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: must be an object, not {data!r}")
    hints, given = _hints(typing.cast(Any, kind)), {}
    for field in dataclasses.fields(kind):
        if field.name in data:
            given[field.name] = _build(hints[field.name], data[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{field.name} is missing")
    return kind(**given)
