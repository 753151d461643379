"""Commands that were fetched and are not completed: timed ones and parked ones.

A *timed* command has been executed and holds a completion slot until its time. A *parked* one waits for
something that its handler will tell of (an Asynchronous Event Request) and holds no slot.
"""

from __future__ import annotations

import heapq

from nvme_emu.controller.command import Command
from nvme_emu.controller.counters import Counters

__all__ = ["InFlight", "Timed"]


Timed = tuple[int, int, Command, int, int]
"""(done_ns, sequence, command, status field, dw0); the sequence keeps the order of fetching among equal times."""


class InFlight:
    """`commands` maps (sqid, cid) to each command in flight; `due` is a heap of the timed ones.

    A timed command that ends otherwise (Abort) leaves its entry in `due`, where `is_live` tells it from the
    live ones.
    """

    __slots__ = ("_busy_since_ns", "_counters", "_sequence", "_timed", "commands", "due")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.commands: dict[tuple[int, int], Command] = {}
        self.due: list[Timed] = []
        self._busy_since_ns = 0
        self._sequence = 0
        self._timed = 0

    def is_live(self, cmd: Command) -> bool:
        """Whether this very command is in flight."""
        return self.commands.get((cmd.sq.qid, cmd.cid)) is cmd

    def add_timed(self, cmd: Command, done_ns: int, now_ns: int, status: int, dw0: int) -> None:
        """A command whose completion is written at `done_ns`."""
        sq = cmd.sq
        cmd.done_ns = done_ns
        self.commands[sq.qid, cmd.cid] = cmd
        sq.inflight += 1
        if not self._timed:
            self._busy_since_ns = now_ns
        self._timed += 1
        self._sequence += 1
        heapq.heappush(self.due, (done_ns, self._sequence, cmd, status, dw0))

    def add_parked(self, cmd: Command) -> None:
        """A command that something else will end."""
        cmd.done_ns = 0
        self.commands[cmd.key] = cmd
        cmd.sq.inflight += 1

    def remove(self, cmd: Command, now_ns: int) -> None:
        """It ends now. It must be live."""
        sq = cmd.sq
        del self.commands[sq.qid, cmd.cid]
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
        due, commands = self.due, self.commands
        while due:
            cmd = due[0][2]
            if commands.get((cmd.sq.qid, cmd.cid)) is cmd:
                return due[0][0]
            heapq.heappop(due)
        return None

    def busy_ns(self, now_ns: int) -> int:
        """Nanoseconds in which timed commands were in flight, up to now."""
        return self._counters.busy_ns + (max(0, now_ns - self._busy_since_ns) if self._timed else 0)

    def clear(self, now_ns: int) -> int:
        """A reset: all are gone. Returns how many there were."""
        if self._timed:
            self._counters.busy_ns += now_ns - self._busy_since_ns
        self._timed = 0
        dropped = len(self.commands)
        self.commands.clear()
        self.due.clear()
        return dropped
