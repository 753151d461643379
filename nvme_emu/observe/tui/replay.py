"""Time travel: frames out of recorded events, at any event back and forth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nvme_emu.core.trace import NvmeSetupCmd
from nvme_emu.observe.recorder import Recorder
from nvme_emu.observe.state import StatsState
from nvme_emu.observe.tui.frame import Frame, HeatColumn, MapState, PlayState, RatePoint
from nvme_emu.observe.tui.history import POINTS_MAX, History, MediaMaps
from nvme_emu.observe.tui.replay_model import Model, estimate
from nvme_emu.observe.tui.source import Source
from nvme_emu.observe.tui.trace_events import event_state, read_trace

__all__ = ["Recording", "ReplaySource"]

CHECKPOINTS = 128
"""Models kept along a recording, so that going back need not begin at the beginning."""
LBA_SIZE = 512
"""Bytes of a block where nobody says otherwise: a trace counts blocks."""


class Recording:
    """Events in order, with where each instant's figures are found.

    ``base`` is a frame of the machine that they come from: it tells ring sizes, namespaces and block size,
    and what stays the same. ``title`` names the recording, ``notes`` says what is missing in it.
    """

    def __init__(
        self, events: Sequence[Any], *, base: Frame | None = None, title: str = "", notes: Sequence[str] = ()
    ) -> None:
        self.events = events
        self.title = title
        self.base = base
        self.position = len(events)
        self.note = "; ".join(notes)
        sizes = {sq.qid: sq.size for sq in base.sqs} if base is not None else {}
        self._starts = estimate(events, sizes)
        self._lba_size = base.namespaces[0].lba_size if base is not None and base.namespaces else LBA_SIZE
        self._model = Model(self._starts)
        self._fed = 0
        self._gap = max(1024, -(-len(events) // CHECKPOINTS))
        self._checkpoints: dict[int, Model] = {}
        self._marks: list[tuple[int, StatsState]] = []
        self._points: tuple[RatePoint, ...] = ()
        self._heat: tuple[HeatColumn, ...] = ()
        self._maps: tuple[MapState, ...] = ()
        self._measure()

    def _measure(self) -> None:
        """One pass over everything: figures of each interval, and a checkpoint now and then."""
        events = self.events
        if not events:
            return
        first, last = events[0].ts_ns, max(event.ts_ns for event in events)
        step = max(1, (last - first) // POINTS_MAX)
        driver = any(event.__class__ is NvmeSetupCmd for event in events[:10_000])
        recorder, history, maps, model = Recorder(first, driver=driver), History(), MediaMaps(), Model(self._starts)
        self._know_namespaces(maps)
        due = first + step
        history.add(self._stats(model, recorder, first))
        for number, event in enumerate(events):
            if number % self._gap == 0:
                self._checkpoints[number] = copy.deepcopy(model)
            if event.ts_ns >= due:
                stats = self._stats(model, recorder, due)
                history.add(stats)
                self._marks.append((number, stats))
                # Intervals in which nothing happened are one.
                due = max(due + step, event.ts_ns - (event.ts_ns - first) % step)
            model.feed(event)
            recorder(event)
            maps.add(event)
        stats = self._stats(model, recorder, last)
        history.add(stats)
        self._marks.append((len(events), stats))
        self._points, self._heat, self._maps = tuple(history.points), tuple(history.heat), maps.states()

    def _know_namespaces(self, maps: MediaMaps) -> None:
        if self.base is not None and self.base.namespaces:
            maps.know_all(self.base.namespaces)
            return
        ends: dict[int, int] = {}
        for event in self.events:
            if getattr(event, "nlb", 0) and hasattr(event, "nsid"):
                ends[event.nsid] = max(ends.get(event.nsid, 0), event.slba + event.nlb)
        for nsid, end in ends.items():
            maps.know(nsid, end)

    def _stats(self, model: Model, recorder: Recorder, ts_ns: int) -> StatsState:
        return StatsState(
            ts_ns=ts_ns,
            read_ios=model.reads,
            write_ios=model.writes,
            read_bytes=model.read_blocks * self._lba_size,
            write_bytes=model.write_blocks * self._lba_size,
            fetched=model.fetched,
            posted=model.posted,
            outstanding=0,
            busy_ns=0,
            recording_since_ns=recorder.started_ns,
            latency=recorder.latencies(),
            stages=recorder.stages(),
            slowest=recorder.slowest(),
            failed=recorder.failed(),
        )

    # --- moving ---------------------------------------------------------------------------------------------

    def move(self, events: int) -> None:
        """So many events back or forth, as far as there are any."""
        self.seek(self.position + events)

    def seek(self, position: int) -> None:
        """After so many events; at least one, where there is one."""
        self.position = max(min(1, len(self.events)), min(len(self.events), position))

    def next_of(self, what: type[Any], queue: str) -> None:
        """After the next event of this kind on an I/O queue; to the end where there is none."""
        events = self.events
        for number in range(self.position, len(events)):
            if events[number].__class__ is what and getattr(events[number], queue):
                self.seek(number + 1)
                return
        self.seek(len(events))

    def _model_here(self) -> Model:
        position = self.position
        if position < self._fed or position - self._fed > self._gap:
            start = max((at for at in self._checkpoints if at <= position), default=0)
            self._model = copy.deepcopy(self._checkpoints[start]) if self._checkpoints else Model(self._starts)
            self._fed = start
        for number in range(self._fed, position):
            self._model.feed(self.events[number])
        self._fed = position
        return self._model

    # --- the frame ------------------------------------------------------------------------------------------

    def frame(self, play: PlayState, *, entries: int, events: int) -> Frame:
        """The instant after the event at the position."""
        model = self._model_here()
        now_ns = self.events[self.position - 1].ts_ns if self.position else 0
        base, stats = self.base, self._figures(model, now_ns)
        first = max(0, self.position - events)
        shown = self.events[first : self.position]
        return Frame(
            title=self.title,
            ts_ns=now_ns,
            clock=base.clock if base is not None else "trace",
            play=replace(play, position=self.position, total=len(self.events)),
            stats=stats,
            controller=base.controller if base is not None else None,
            driver=base.driver if base is not None else None,
            sqs=model.sqs(entries),
            cqs=model.cqs(entries),
            commands=model.commands(),
            workers=model.workers(),
            namespaces=base.namespaces if base is not None else (),
            smart=base.smart if base is not None else None,
            points=tuple(point for point in self._points if point.ts_ns <= now_ns),
            heat=tuple(column for column in self._heat if column.ts_ns <= now_ns),
            maps=self._maps,
            events=tuple(event_state(first + at + 1, event) for at, event in enumerate(shown)),
            faults=base.faults if base is not None else None,
            findings=base.findings if base is not None else None,
            note=self.note,
        )

    def _figures(self, model: Model, now_ns: int) -> StatsState:
        """Counts of this very instant, latencies as of the last interval that ended before it."""
        marked = [stats for number, stats in self._marks if number <= self.position]
        latest = marked[-1] if marked else None
        counted = StatsState(
            ts_ns=now_ns,
            read_ios=model.reads,
            write_ios=model.writes,
            read_bytes=model.read_blocks * self._lba_size,
            write_bytes=model.write_blocks * self._lba_size,
            fetched=model.fetched,
            posted=model.posted,
            outstanding=sum(one.stage == "executing" for one in model.commands()),
            busy_ns=0,
            recording_since_ns=self.events[0].ts_ns if self.events else None,
        )
        if latest is None:
            return counted
        return replace(
            counted,
            latency=latest.latency,
            stages=latest.stages,
            slowest=latest.slowest,
            failed=latest.failed,
        )


class ReplaySource(Source):
    """A trace file, looked at from its first event on."""

    def __init__(self, path: str) -> None:
        events, notes = read_trace(path)
        if not events:
            raise ValueError(f"{path}: the trace has no events")
        guessed = "ring sizes are estimated"
        self.recording = Recording(events, title=f"trace {path}", notes=[*notes, guessed])
        self.recording.seek(len(events))
        why = "this is a recording"
        self.barred = {"slow": why, "faults": why}
        self._playing = False

    def frame(self) -> Frame:
        """The instant that was travelled to; while it plays, each call goes on by some events."""
        if self._playing:
            recording = self.recording
            recording.move(max(1, len(recording.events) // 600))
            self._playing = recording.position < len(recording.events)
        play = PlayState(mode="running" if self._playing else "replay", barred=dict(self.barred))
        return self.recording.frame(play, entries=self.entries, events=self.events)

    def toggle_pause(self) -> None:
        """Play the recording from here, or stop."""
        if not self._playing and self.recording.position == len(self.recording.events):
            self.recording.seek(1)
        self._playing = not self._playing

    def step(self, what: str) -> None:
        """To the next event, or past the next completion."""
        self._playing = False
        step(self.recording, what)

    def travel(self, events: int) -> None:
        self._playing = False
        self.recording.move(events)

    def travel_to(self, end: str) -> None:
        self._playing = False
        self.recording.seek(1 if end == "first" else len(self.recording.events))


def step(recording: Recording, what: str) -> None:
    """One "event" or one "command" forth in a recording."""
    from nvme_emu.core.trace import NvmeCompleteRq, PostCqe

    if what == "event":
        recording.move(1)
    elif any(event.__class__ is NvmeCompleteRq for event in recording.events[:10_000]):
        recording.next_of(NvmeCompleteRq, "qid")
    else:
        recording.next_of(PostCqe, "sqid")
