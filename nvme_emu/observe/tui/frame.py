"""What `nvme-emu top` shows at one instant: frozen values, JSON both ways as in `nvme_emu.observe.state`.

A frame is made by a source (`live`, `attached`, `replay`) and drawn by the views, which see nothing else.
What a source cannot know is None: a trace tells nothing of registers, a server has no driver.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kworker.inspect import TaskSnapshot, WorkerSnapshot
from nvme_emu.observe.state import (
    CommandState,
    ControllerState,
    CqState,
    DriverState,
    MachineState,
    NamespaceState,
    SmartState,
    SqState,
    StatsState,
)

__all__ = [
    "CONTROLS",
    "CostState",
    "EventState",
    "FaultState",
    "FindingState",
    "Frame",
    "HeatColumn",
    "MapState",
    "PlayState",
    "RatePoint",
    "from_machine",
]

CONTROLS = ("pause", "step", "slow", "travel", "faults")
"""What a source may be able to do; see :class:`PlayState`."""

MAP_CELLS = 512
"""A namespace's map divides it into so many equal parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventState:
    """One event of the trace: ``number`` counts from the first that was seen; ``words`` is all it says."""

    number: int
    ts_ns: int
    name: str
    qid: int | None
    cid: int | None
    request: int | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePoint:
    """What happened in one interval that ended at ``ts_ns``: per second of the machine's clock.

    ``p50_ns`` and ``p99_ns`` are latencies of the commands that ended in it, 0 where none was measured.
    """

    ts_ns: int
    read_iops: float
    write_iops: float
    read_bw_bytes: float
    write_bw_bytes: float
    utilisation: float
    p50_ns: int
    p99_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatColumn:
    """Latencies of one interval that ended at ``ts_ns``: (ns, count), ascending."""

    ts_ns: int
    bins: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapState:
    """Where the commands went: how many reads and writes each of the namespace's equal parts has had."""

    nsid: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultState:
    """A fault rule: what it is about, what it does, how often its match was hit and how often it fired."""

    rule: str
    armed: bool
    match: str
    effects: str
    hits: int
    fired: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingState:
    """What a checker found: the rule with its clause, and what the host did, how often, when last."""

    severity: str
    rule: str
    clause: str
    words: str
    count: int
    ts_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayState:
    """How time goes: ``mode`` is "running", "paused", "slow", "ended", "past" or "replay".

    ``speed`` is in words where it is not full. ``position`` counts events up to the instant shown, of
    ``total``; both are 0 in the present of a live machine. ``barred`` maps controls that make no sense here
    to the reason.
    """

    mode: str
    speed: str = ""
    position: int = 0
    total: int = 0
    barred: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostState:
    """What the inspector itself takes: frames a second, ms to make and draw one, of how many events a
    second it looked at which part (0 to 1)."""

    frames_per_s: float = 0.0
    frame_ms: float = 0.0
    events_per_s: float = 0.0
    sampled: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One instant. ``title`` says what is looked at, ``note`` what the reader should know about it.

    ``faults`` is None where there are no fault rules at all, ``findings`` where there is no checker.
    """

    title: str
    ts_ns: int
    clock: str
    play: PlayState
    stats: StatsState
    controller: ControllerState | None = None
    driver: DriverState | None = None
    sqs: tuple[SqState, ...] = ()
    cqs: tuple[CqState, ...] = ()
    commands: tuple[CommandState, ...] = ()
    workers: tuple[WorkerSnapshot, ...] = ()
    tasks: tuple[TaskSnapshot, ...] = ()
    namespaces: tuple[NamespaceState, ...] = ()
    smart: SmartState | None = None
    points: tuple[RatePoint, ...] = ()
    heat: tuple[HeatColumn, ...] = ()
    maps: tuple[MapState, ...] = ()
    events: tuple[EventState, ...] = ()
    faults: tuple[FaultState, ...] | None = None
    findings: tuple[FindingState, ...] | None = None
    cost: CostState = dataclasses.field(default_factory=CostState)
    note: str = ""


def from_machine(state: MachineState, *, title: str, play: PlayState) -> Frame:
    """The frame of a machine's state; what the state does not know is added by `dataclasses.replace`."""
    return Frame(
        title=title,
        ts_ns=state.ts_ns,
        clock=state.clock,
        play=play,
        stats=state.stats,
        controller=state.controller,
        driver=state.driver,
        sqs=state.sqs,
        cqs=state.cqs,
        commands=state.commands,
        workers=state.workers,
        tasks=state.tasks,
        namespaces=state.namespaces,
        smart=state.smart,
        note="" if state.consistent else "read while somebody was at work: parts may be an instant apart",
    )
