"""MSI-X vectors: raised, masked, pending (PCI Express Base, 6.1.4.6; NVMe PCIe Transport 1.1, 3.5).

Completions raise their queue's vector; a transport takes what was raised and delivers it. So all
completions of one step share one message for each vector. A masked vector's message stays pending
until it is unmasked.
"""

from __future__ import annotations

from collections.abc import Callable

from nvme_emu._core import InterruptsState
from nvme_emu.core.trace import RaiseIrq, TraceHub

__all__ = ["Interrupts"]


class Interrupts(InterruptsState):
    """The function's vectors, 0 to ``vectors - 1``. ``clock`` gives the controller's time for the trace."""

    def __init__(self, vectors: int, trace: TraceHub, clock: Callable[[], int]) -> None:
        super().__init__()
        self.vectors = vectors
        self._trace = trace
        self._clock = clock
        self.raised = []
        """Raised and not taken yet, in order."""
        self._is_raised = bytearray(vectors)
        self.masked = bytearray(vectors)
        """1 for each vector whose messages stay pending; the same object for ever."""
        self._pending = bytearray(vectors)

    def raise_vector(self, vector: int) -> None:
        """A message for ``vector`` is due. Create I/O CQ has checked that the vector exists."""
        if self._is_raised[vector]:
            return
        if self.masked[vector]:
            self._pending[vector] = 1
            return
        self._is_raised[vector] = 1
        self.raised.append(vector)
        emit = self._trace.emit
        if emit is not None:
            emit(RaiseIrq(self._clock(), vector))

    def take(self) -> tuple[int, ...]:
        """The vectors raised since the last call, each once, in the order in which they were raised."""
        raised = self.raised
        if not raised:
            return ()
        if len(raised) == 1:
            vector = raised.pop()
            self._is_raised[vector] = 0
            return (vector,)
        taken = tuple(raised)
        raised.clear()
        for vector in taken:
            self._is_raised[vector] = 0
        return taken

    def mask(self, vector: int, masked: bool) -> None:
        """Write a vector's mask bit; clearing it raises what is pending."""
        if not 0 <= vector < self.vectors:
            return
        self.masked[vector] = masked
        if masked and self._is_raised[vector]:
            # Not taken yet: the message has not left, and now it must not.
            self.raised.remove(vector)
            self._is_raised[vector] = 0
            self._pending[vector] = 1
        if not masked and self._pending[vector]:
            self._pending[vector] = 0
            self.raise_vector(vector)

    def is_pending(self, vector: int) -> bool:
        """The vector's bit in the pending bit array."""
        return 0 <= vector < self.vectors and bool(self._pending[vector])

    def reset(self) -> None:
        """A controller reset: no message of before is sent or pending. Masks are the host's and stay."""
        self.raised.clear()
        self._is_raised = bytearray(self.vectors)
        self._pending = bytearray(self.vectors)
