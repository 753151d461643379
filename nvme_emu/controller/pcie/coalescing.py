"""Interrupt coalescing (NVMe Base 2.1, 5.1.25 FID 08h and 09h; PCIe Transport 1.1, 3.5).

A vector is raised when as many completions as the Aggregation Threshold are waiting on its queues, or the Aggregation
Time after the first of them. Admin completions are not held back, nor is a vector that the host exempted. While
nothing is coalesced none of this is in the way; while something is, the compiled gait stays away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.pcie.interrupts import Interrupts

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.pcie.rings import CompletionQueue
    from nvme_emu.controller.subsystem import Timer

__all__ = ["Coalescer"]

_UNIT_NS: Final = 100_000
"""Aggregation Time counts 100 microseconds."""


class Coalescer:
    """Stands before `Interrupts.raise_vector` of a controller while its host wants interrupts to be fewer."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._threshold = 1
        self._time_ns = 0
        self._held: dict[int, Timer] = {}
        self._told: dict[int, tuple[CompletionQueue, int]] = {}
        self._compiled = False

    def configure(self, threshold: int, time: int) -> None:
        """What the host has set: completions, and a time in units of 100 µs; 1 or 0 is no coalescing."""
        active = time > 0 and threshold > 1
        was = self._time_ns > 0
        self._threshold, self._time_ns = threshold, time * _UNIT_NS if active else 0
        ctrl = self._ctrl
        if active and not was:
            ctrl.interrupts.raise_vector = self.raise_vector  # type: ignore[method-assign]
            self._compiled, ctrl.compiled = ctrl.compiled, False
        elif was and not active:
            del ctrl.interrupts.raise_vector
            ctrl.compiled = self._compiled
            for vector in list(self._held):
                self._release(vector)

    def reset(self) -> None:
        """A controller reset: no interrupt of before is due."""
        for timer in self._held.values():
            timer.cancel()
        self._held.clear()
        self._told.clear()

    def raise_vector(self, vector: int) -> None:
        """Completions were posted to a queue of this vector."""
        waiting, admin = self._waiting(vector)
        if admin or waiting >= self._threshold or self._ctrl.features.coalescing_disabled(vector):
            self._release(vector)
        elif vector not in self._held:
            due_ns = self._ctrl.now_ns + self._time_ns
            self._held[vector] = self._ctrl.subsystem.at(due_ns, lambda now_ns: self._release(vector))

    def _waiting(self, vector: int) -> tuple[int, bool]:
        """(completions of which the host was not told, whether admin ones are among them)."""
        count, admin = 0, False
        for cq in self._ctrl.rings.cqs.values():
            if cq.vector == vector and cq.ien:
                known, tail = self._told.get(cq.qid, (cq, 0))
                new = (cq.tail - (tail if known is cq else 0)) % cq.size
                count += new
                admin |= new > 0 and not cq.qid
        return count, admin

    def _release(self, vector: int) -> None:
        timer = self._held.pop(vector, None)
        if timer is not None:
            timer.cancel()
        for cq in self._ctrl.rings.cqs.values():
            if cq.vector == vector:
                self._told[cq.qid] = cq, cq.tail
        Interrupts.raise_vector(self._ctrl.interrupts, vector)
