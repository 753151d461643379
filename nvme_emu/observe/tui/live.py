"""Frames of a machine in this process.

Rates come from the controller's counters and are exact. Events cost an append each while the workload runs;
of those that came since the last frame at most ``SAMPLE_MAX`` are looked at, the newest, so that a frame
costs the same at a hundred events a second and at a hundred thousand.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nvme_emu.observe import snapshot
from nvme_emu.observe.recorder import Recorder
from nvme_emu.observe.state import MachineState
from nvme_emu.observe.tui.faults import fault_states
from nvme_emu.observe.tui.findings import found_by
from nvme_emu.observe.tui.frame import CostState, FaultState, FindingState, Frame, PlayState, from_machine
from nvme_emu.observe.tui.gate import SPEEDS, Gate
from nvme_emu.observe.tui.history import History, MediaMaps
from nvme_emu.observe.tui.replay import Recording
from nvme_emu.observe.tui.replay import step as step_in
from nvme_emu.observe.tui.source import Source
from nvme_emu.observe.tui.trace_events import event_state
from nvme_emu.observe.tui.words import duration
from nvme_emu.observe.watched import Watched

__all__ = ["INTERVAL_S", "SAMPLE_MAX", "LiveSource"]

SAMPLE_MAX = 1_000
"""Events looked at a frame."""
INTERVAL_S = 0.1
"""Between two points of the curves."""

_WALL = "the wall clock goes on: real threads cannot be held (--clock virtual can)"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at the machine has given: its state, the newest events, and how many there were in all."""

    state: MachineState
    events: list[Any]
    seen: int
    faults: tuple[FaultState, ...] | None


class LiveSource(Source):
    """What a machine and its gate tell.

    ``ended`` says whether the workload is over, ``note`` what is to be known of it. ``findings`` gives what a
    checker found, where there is one. With ``exact=True`` a recorder is attached and sees every event, at its
    cost. ``monotonic_s`` is the reader's clock.
    """

    def __init__(
        self,
        watched: Watched,
        gate: Gate,
        *,
        title: str,
        ended: Callable[[], bool] = lambda: False,
        note: Callable[[], str] = lambda: "",
        findings: Callable[[], tuple[FindingState, ...]] | None = None,
        exact: bool = False,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched = watched
        self._gate = gate
        self._title = title
        self._ended = ended
        self._note = note
        self._findings = findings
        if findings is None and watched.checker is not None:
            self._findings = found_by(watched.checker)
        self._monotonic_s = monotonic_s
        self._exact = exact
        if exact:
            self._recorder = watched.start_recording()
        else:
            self._recorder = Recorder(watched.clock_ns(), driver=watched.driver is not None)
            # Not added to the hub: it is fed with samples, by whoever makes frames.
            watched.recorder = self._recorder
        self._history = History()
        self._maps = MediaMaps()
        self._maps.know_all(snapshot.namespace_states(watched))
        self._fed = gate.seen
        self._due_s = 0.0
        self._cost = CostState()
        self._counted = (monotonic_s(), gate.seen)
        self._speed = 0
        self._still: Frame | None = None
        self._past: Recording | None = None
        self.barred = {} if gate.holds else {"step": _WALL, "slow": _WALL}

    lend_s = 0.0
    """How long a simulation waits at most, after it was looked at, until the frame is drawn."""

    # --- frames ---------------------------------------------------------------------------------------------

    def drawn(self) -> None:
        if self.lend_s:
            self._gate.give_back()

    def frame(self) -> Frame:
        past = self._past
        if past is not None:
            play = PlayState(mode="past", barred=dict(self.barred))
            return replace(past.frame(play, entries=self.entries, events=self.events), findings=self._found())
        if self._still is not None:
            return self._still
        seen = self._look()
        self._take(seen)
        frame = from_machine(seen.state, title=self._title, play=self._play())
        return replace(
            frame,
            points=tuple(self._history.points),
            heat=tuple(self._history.heat),
            maps=self._maps.states(),
            events=self._events(seen),
            faults=seen.faults,
            findings=self._found(),
            cost=self._cost,
            note=self._note() or frame.note,
        )

    def _look(self) -> _Seen:
        watched, gate, entries = self._watched, self._gate, self.entries
        limit = len(gate.events) if self._exact else max(SAMPLE_MAX, self.events)

        def look() -> _Seen:
            newest = list(itertools.islice(reversed(gate.events.copy()), limit))
            newest.reverse()
            # First the events, then the state: the ages of its commands are taken from them.
            self._feed(newest, gate.seen)
            rules = None if watched.faults is None else fault_states(watched.faults.snapshot())
            return _Seen(snapshot.snapshot(watched, entries_max=entries), newest, gate.seen, rules)

        return gate.ask(look, lend_s=self.lend_s) if gate.holds else look()

    def _feed(self, newest: list[Any], seen: int) -> None:
        """Take what is new into the figures, or as much of it as a frame may cost."""
        fresh = seen - self._fed
        looked = min(fresh, len(newest) if self._exact else SAMPLE_MAX, len(newest))
        if looked < fresh and not self._exact:
            self._recorder.skip()
        for event in newest[len(newest) - looked :]:
            if not self._exact:
                self._recorder(event)
            self._maps.add(event)
        self._fed = seen
        if not self._exact:
            part = looked / fresh if fresh else 1.0
            self._cost = replace(self._cost, sampled=self._cost.sampled * 0.9 + part * 0.1)

    def _take(self, seen: _Seen) -> None:
        """What is measured over some time: rates of events, the points of the curves."""
        self._maps.know_all(seen.state.namespaces)
        now_s = self._monotonic_s()
        before_s, before = self._counted
        if now_s - before_s >= 1.0:
            self._counted = (now_s, seen.seen)
            self._cost = replace(self._cost, events_per_s=(seen.seen - before) / (now_s - before_s))
        if now_s >= self._due_s:
            self._due_s = now_s + INTERVAL_S
            self._history.add(seen.state.stats)

    def _events(self, seen: _Seen) -> tuple[Any, ...]:
        shown = seen.events[len(seen.events) - min(self.events, len(seen.events)) :]
        first = seen.seen - len(shown) + 1
        return tuple(event_state(first + at, event) for at, event in enumerate(shown))

    def _found(self) -> tuple[FindingState, ...] | None:
        return None if self._findings is None else self._findings()

    def _play(self) -> PlayState:
        gate, speed = self._gate, ""
        if gate.speed:
            speed = f"{duration(gate.speed)}/s"
        if self._ended():
            mode = "ended"
        elif gate.paused:
            mode = "paused"
        else:
            mode = "slow" if gate.speed else "running"
        return PlayState(mode=mode, speed=speed, barred=dict(self.barred))

    # --- steering -------------------------------------------------------------------------------------------

    def toggle_pause(self) -> None:
        """Hold or let go the simulation; on the wall clock, the picture."""
        if self._past is not None:
            self._past = None
            return
        if not self._gate.holds:
            self._still = None if self._still is not None else self._picture()
        elif self._gate.paused:
            self._gate.resume()
        else:
            self._gate.pause()

    def _picture(self) -> Frame:
        frame = self.frame()
        note = "the picture stands still; the workload goes on"
        return replace(frame, play=PlayState(mode="paused", barred=dict(self.barred)), note=note)

    def step(self, what: str) -> None:
        if self._past is not None:
            step_in(self._past, what)
            return
        if "step" in self.barred:
            raise ValueError(self.barred["step"])
        if self._ended():
            raise ValueError("the workload has ended")
        if what == "event":
            self._gate.step_event()
        else:
            self._gate.step_command(driver=self._watched.driver is not None)

    def slow(self, change: int) -> None:
        if "slow" in self.barred:
            raise ValueError(self.barred["slow"])
        self._speed = max(0, min(len(SPEEDS) - 1, self._speed + change))
        self._gate.slow(SPEEDS[self._speed])

    def travel(self, events: int) -> None:
        self._enter_past()
        past = self._past
        if past is not None:
            if events > 0 and past.position == len(past.events):
                self._past = None
            else:
                past.move(events)

    def travel_to(self, end: str) -> None:
        if end == "now":
            self._past = None
            return
        self._enter_past()
        if self._past is not None:
            self._past.seek(1)

    def _enter_past(self) -> None:
        """Stop here, and make a recording of what the gate has kept."""
        if self._past is not None:
            return
        if self._gate.holds and not self._ended():
            self._gate.pause()
        base = self.frame()
        copied = self._gate.events.copy
        events = list(self._gate.ask(copied) if self._gate.holds else copied())
        if not events:
            raise ValueError("nothing was recorded yet")
        note = "registers, health and media as they are now"
        self._past = Recording(events, base=base, title=self._title, notes=[note])

    def arm(self, rule: str, armed: bool) -> None:
        """Arm or disarm a rule. In a simulation an interrupt does it, as soon as time goes on."""
        faults = self._watched.faults
        if faults is None:
            raise ValueError("there are no fault rules")
        try:
            handle = faults[rule]
        except KeyError:
            raise ValueError(f"there is no fault rule {rule!r}") from None
        act = handle.arm if armed else handle.disarm
        driver = self._watched.driver
        if not self._gate.holds:
            act()
        elif self._ended() or driver is None:
            self._gate.ask(act)
        else:
            # Held in the middle of something, the simulation's thread may have the controller's lock.
            runtime = driver.runtime
            self._gate.ask(lambda: runtime.call_at(runtime.now_ns, act))
