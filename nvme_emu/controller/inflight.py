"""Commands that were fetched and are not completed: timed ones and parked ones.

A *timed* command has been executed and holds a completion slot until its time. A *parked* one waits for
something that its handler will tell of (an Asynchronous Event Request) and holds no slot.
"""

from __future__ import annotations

import heapq
from operator import itemgetter

from nvme_emu._core import InFlightState
from nvme_emu.controller.command import Command
from nvme_emu.controller.counters import Counters
from nvme_emu.spec.queues import SQE

__all__ = ["InFlight", "Timed"]


Timed = tuple[int, int, Command, int, int]
"""(done_ns, sequence, command, status field, dw0); the sequence keeps the order of fetching among equal times."""


class InFlight(InFlightState):
    """`commands` maps (sqid, cid) to each command in flight; `due` is a heap of the timed ones.

    A timed command that ends otherwise (Abort) leaves its entry in `due`, where `is_live` tells it from the
    live ones. What the compiled gait has fetched is in neither, but *light*: an entry with its time, of which a
    command is made when somebody asks for `commands`.
    """

    def __init__(self, counters: Counters) -> None:
        super().__init__()
        self._counters = counters
        self._commands = {}
        self.due: list[Timed] = []

    @property
    def commands(self) -> dict[tuple[int, int], Command]:
        """Those in flight, in the order in which they were fetched."""
        if self.light:
            self._make_commands()
        return self._commands

    def _make_commands(self) -> None:
        commands = self._commands
        alone = not commands
        for done_ns, sequence, sq, entry in sorted(self.take_light(), key=itemgetter(1)):
            cmd = Command(sq, SQE.unpack(entry))
            cmd.done_ns = done_ns
            cmd.sequence = sequence
            commands[sq.qid, cmd.cid] = cmd
            heapq.heappush(self.due, (done_ns, sequence, cmd, 0, 0))
        if not alone:
            ordered = sorted(commands.items(), key=_sequence)
            commands.clear()
            commands.update(ordered)

    def is_live(self, cmd: Command) -> bool:
        """Whether this very command is in flight."""
        return self._commands.get((cmd.sq.qid, cmd.cid)) is cmd

    def is_due(self, now_ns: int) -> bool:
        """Whether the time of a timed command may have come."""
        due = self.due
        if due and due[0][0] <= now_ns:
            return True
        light_ns = self.light_ns() if self.light else None
        return light_ns is not None and light_ns <= now_ns

    def add_timed(self, cmd: Command, done_ns: int, now_ns: int, status: int, dw0: int) -> None:
        """A command whose completion is written at `done_ns`."""
        sq = cmd.sq
        cmd.done_ns = done_ns
        self._commands[sq.qid, cmd.cid] = cmd
        sq.inflight += 1
        if not self._timed:
            self._busy_since_ns = now_ns
        self._timed += 1
        self._sequence = sequence = self._sequence + 1
        if not cmd.sequence:
            cmd.sequence = sequence
        heapq.heappush(self.due, (done_ns, sequence, cmd, status, dw0))

    def add_parked(self, cmd: Command) -> None:
        """A command that something else will end."""
        cmd.done_ns = 0
        self._sequence += 1
        cmd.sequence = self._sequence
        self._commands[cmd.key] = cmd
        cmd.sq.inflight += 1

    def remove(self, cmd: Command, now_ns: int) -> None:
        """It ends now. It must be live."""
        sq = cmd.sq
        del self._commands[sq.qid, cmd.cid]
        sq.inflight -= 1
        if cmd.done_ns:
            self._timed -= 1
            if not self._timed:
                self._counters.busy_ns += now_ns - self._busy_since_ns

    def pop_due(self, now_ns: int) -> Timed | None:
        """The next live timed command whose time has come, taken out; None when there is none."""
        due, commands = self.due, self.commands
        while due and due[0][0] <= now_ns:
            timed = heapq.heappop(due)
            cmd = timed[2]
            if commands.get((cmd.sq.qid, cmd.cid)) is cmd:
                self.remove(cmd, now_ns)
                return timed
        return None

    def next_ns(self) -> int | None:
        """When the next live timed command is due."""
        due, commands = self.due, self._commands
        light_ns = self.light_ns() if self.light else None
        while due:
            done_ns, _, cmd, _, _ = due[0]
            if commands.get((cmd.sq.qid, cmd.cid)) is cmd:
                return done_ns if light_ns is None or done_ns < light_ns else light_ns
            heapq.heappop(due)
        return light_ns

    def busy_ns(self, now_ns: int) -> int:
        """Nanoseconds in which timed commands were in flight, up to now."""
        counted: int = self._counters.busy_ns
        return counted + (max(0, now_ns - self._busy_since_ns) if self._timed else 0)

    def clear(self, now_ns: int) -> int:
        """A reset: all are gone. Returns how many there were."""
        if self._timed:
            self._counters.busy_ns += now_ns - self._busy_since_ns
        self._timed = 0
        dropped = len(self._commands) + len(self.take_light())
        self._commands.clear()
        self.due.clear()
        return dropped


def _sequence(item: tuple[tuple[int, int], Command]) -> int:
    return item[1].sequence
