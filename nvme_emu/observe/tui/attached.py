"""Frames of a machine in another process, over the socket of its ``--rpc``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nvme_emu.observe.rpc_client import RpcClient, RpcError
from nvme_emu.observe.state import MachineState, from_json
from nvme_emu.observe.tui.faults import fault_states
from nvme_emu.observe.tui.findings import states_of
from nvme_emu.observe.tui.frame import CostState, FaultState, FindingState, Frame, PlayState, from_machine
from nvme_emu.observe.tui.history import History, MediaMaps
from nvme_emu.observe.tui.live import INTERVAL_S
from nvme_emu.observe.tui.replay import Recording
from nvme_emu.observe.tui.replay import step as step_in
from nvme_emu.observe.tui.source import Source
from nvme_emu.observe.tui.trace_events import event_of, event_state

__all__ = ["AttachedSource"]

EVENTS_KEPT = 20_000
QUEUE_MAX = 1_000
"""Events that may wait for this reader; the server drops and counts what is more."""
FAULTS_EVERY_S = 0.5

_REMOTE = "the machine belongs to another process"


class AttachedSource(Source):
    """What a running `serve` or `run` answers. Its recorder is attached as long as this is open.

    OSError where nobody answers at the socket.
    """

    def __init__(self, path: str, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._client = RpcClient(path)
        self._monotonic_s = monotonic_s
        self._title = f"attached to {path}"
        self._history, self._maps = History(), MediaMaps()
        self._events: deque[Any] = deque(maxlen=EVENTS_KEPT)
        self._seen = self._dropped = 0
        self._due_s = self._faults_due_s = self._findings_due_s = 0.0
        self._faults: tuple[FaultState, ...] | None = None
        self._still: Frame | None = None
        self._past: Recording | None = None
        self._over = ""
        self._last: Frame | None = None
        info = self._client.call("system.info")
        self._virtual = info["clock"] == "virtual"
        self._started = not info["recording"]
        methods = {method["name"] for method in self._client.call("rpc.discover")["methods"]}
        self._has_faults = "faults.list" in methods
        self._has_checker = "checker.summary" in methods
        self._findings: tuple[FindingState, ...] | None = None
        self.barred = {"step": _REMOTE, "slow": _REMOTE}
        if self._virtual or not self._has_faults:
            self.barred["faults"] = "a simulation can be looked at, not changed, from another process"
        if self._started:
            self._client.call("stats.start")
        self._client.call("events.subscribe", queue_max=QUEUE_MAX)

    # --- frames ---------------------------------------------------------------------------------------------

    def frame(self) -> Frame:
        """How things are there; the last that was known, and a note, when the server has gone."""
        if self._past is not None:
            play = PlayState(mode="past", barred=dict(self.barred))
            return self._past.frame(play, entries=self.entries, events=self.events)
        if self._still is not None:
            return self._still
        if not self._over:
            try:
                self._last = self._read()
            except (OSError, RpcError, ValueError) as error:
                if self._last is None:
                    raise
                self._over = f"{error}" if isinstance(error, ValueError | RpcError) else "the server has gone"
                self._last = replace(
                    self._last, play=PlayState(mode="ended", barred=dict(self.barred)), note=self._over
                )
        assert self._last is not None
        return self._last

    def _read(self) -> Frame:
        state = from_json(MachineState, self._client.call("state.get", entries_max=self.entries))
        self._maps.know_all(state.namespaces)
        self._drain()
        now_s = self._monotonic_s()
        if now_s >= self._due_s:
            self._due_s = now_s + INTERVAL_S
            self._history.add(state.stats)
        if self._has_faults and now_s >= self._faults_due_s:
            self._faults_due_s = now_s + FAULTS_EVERY_S
            self._faults = fault_states(self._client.call("faults.list"))
        if self._has_checker and now_s >= self._findings_due_s:
            self._findings_due_s = now_s + FAULTS_EVERY_S
            self._findings = states_of(self._client.call("checker.summary"))
        shown = list(self._events)[len(self._events) - min(self.events, len(self._events)) :]
        first = self._seen - len(shown) + 1
        frame = from_machine(state, title=self._title, play=PlayState(mode="running", barred=dict(self.barred)))
        total = self._seen + self._dropped
        return replace(
            frame,
            points=tuple(self._history.points),
            heat=tuple(self._history.heat),
            maps=self._maps.states(),
            events=tuple(event_state(first + at, event) for at, event in enumerate(shown)),
            faults=self._faults,
            findings=self._findings,
            cost=CostState(sampled=self._seen / total if total else 1.0),
        )

    def _drain(self) -> None:
        """Take the events that have arrived."""
        while (batch := self._client.events(timeout_s=0.001)) is not None:
            self._dropped += batch["dropped"]
            for record in batch["events"]:
                event = event_of(record)
                if event is not None:
                    self._events.append(event)
                    self._seen += 1
                    self._maps.add(event)
            if len(batch["events"]) < QUEUE_MAX // 4:
                return

    # --- steering -------------------------------------------------------------------------------------------

    def toggle_pause(self) -> None:
        """Hold the picture, or let it go; the machine goes on."""
        if self._past is not None:
            self._past = None
        elif self._still is not None:
            self._still = None
        else:
            note = "the picture stands still; the machine goes on"
            play = PlayState(mode="paused", barred=dict(self.barred))
            self._still = replace(self.frame(), play=play, note=note)

    def step(self, what: str) -> None:
        if self._past is None:
            raise ValueError(self.barred["step"])
        step_in(self._past, what)

    def travel(self, events: int) -> None:
        past = self._enter_past()
        if events > 0 and past.position == len(past.events):
            self._past = None
        else:
            past.move(events)

    def travel_to(self, end: str) -> None:
        if end == "now":
            self._past = None
        else:
            self._enter_past().seek(1)

    def _enter_past(self) -> Recording:
        if self._past is None:
            base = self.frame()
            events = list(self._events)
            if not events:
                raise ValueError("no event has arrived yet")
            notes = ["registers, health and media as they are now"]
            if self._dropped:
                notes.append("events are missing: there were too many for this reader")
            self._past = Recording(events, base=base, title=self._title, notes=notes)
        return self._past

    def arm(self, rule: str, armed: bool) -> None:
        if "faults" in self.barred:
            raise ValueError(self.barred["faults"])
        self._client.call("faults.arm" if armed else "faults.disarm", id=rule)
        self._faults_due_s = 0.0

    def close(self) -> None:
        """Detach the recorder, if it was attached for this, and hang up."""
        try:
            if self._started and not self._over:
                self._client.call("stats.stop")
        except (OSError, RpcError):
            pass  # the server has gone first, and its recorder with it
        self._client.close()
