"""A raw host whose controller has a fault unit, on a clock of its own."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from rawhost import PAGE, Completion, RawHost, RawQueue

from nvme_emu.controller.faults import FaultUnit, RuleState
from nvme_emu.core.faults import rule_from
from nvme_emu.spec.opcodes import NvmOpcode

READ, WRITE, FLUSH = int(NvmOpcode.READ), int(NvmOpcode.WRITE), int(NvmOpcode.FLUSH)


class FaultHost(RawHost):
    """`rule(match, when, **effects)` adds a rule; `read` and `write` are one command from put to completion."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.unit = FaultUnit(
            self.ctrl, lambda name: random.Random(f"{seed}/{name}"), clock=lambda: self.now_ns
        )
        self.io: RawQueue
        self._rules = 0

    def rule(self, match: dict[str, Any], when: dict[str, Any] | None = None, **effects: Any) -> RuleState:
        """Add a rule as it stands in a file."""
        self._rules += 1
        table = {"id": f"r{self._rules}", "match": match, "when": when or {}, "then": effects}
        return self.unit.add(rule_from(table))

    def up(self, **options: Any) -> FaultHost:
        """Bring the controller and one I/O queue pair up."""
        self.enable()
        self.io = self.io_queue(**options)
        return self

    def put_rw(self, opcode: int, slba: int = 0, nlb: int = 1, cid: int = 0, buffer: int = 0, **more: int) -> int:
        """An I/O command in the queue; the doorbell is not rung. Gives the address of its buffer."""
        buffer = buffer or self.pages(-(-nlb * 512 // PAGE))
        prp2 = buffer + PAGE if nlb * 512 > PAGE else 0
        self.io.rw(opcode, slba, nlb, buffer, prp2, cid=cid, **more)
        return buffer

    def go(self) -> list[Completion]:
        """Ring, step, reap."""
        self.io.ring()
        self.step()
        return self.io.reap()

    def load(self, slba: int, nlb: int = 1) -> tuple[int, bytes]:
        """Read: (status, data)."""
        buffer = self.put_rw(READ, slba, nlb)
        (done,) = self.go()
        return done.status, bytes(self.memory.read(buffer, nlb * 512))

    def store(self, slba: int, data: bytes, **more: int) -> int:
        """Write: the status."""
        buffer = self.pages(-(-len(data) // PAGE))
        self.memory.write(buffer, data)
        self.put_rw(WRITE, slba, len(data) // 512, buffer=buffer, **more)
        (done,) = self.go()
        return done.status

    def after(self, ns: int) -> list[Completion]:
        """Let time pass and reap."""
        self.step(self.now_ns + ns)
        return self.io.reap()


def pattern(nlb: int, seed: int = 1) -> bytes:
    """Blocks that differ from each other."""
    return np.random.default_rng(seed).integers(1, 255, nlb * 512, np.uint8).tobytes()


def up(**queue: Any) -> FaultHost:
    """A host with a running controller; the options are those of its I/O queue pair."""
    return FaultHost().up(**queue)
