"""The client's memory by messages: DMA_READ and DMA_WRITE, from within a step that waits for the answers.

A controller's step is plain code that looks memory up; here a look-up takes a round trip. So a step runs in a
greenlet, which leaves for the server's loop whenever it has asked and comes back when it is answered.

    loop ──run(step)──► step ──read()──► ask, leave ─┐
      ▲                                              │ other clients, and this one's other requests
      └──────────── answered(id) ──► step goes on ◄──┘

Waiting in place instead would hold up every other client for as long as this one likes, and a thread for each
client would need a lock around a controller that is otherwise nobody's business but the loop's.
"""

from __future__ import annotations

from collections.abc import Callable

from greenlet import getcurrent, greenlet

from nvme_emu.core.errors import DmaError
from nvme_emu.transports.vfio_user.session import Session

__all__ = ["ANSWER_NS", "READ_BYTES_MAX", "ClientMessages"]

ANSWER_NS = 5_000_000_000
"""How long a client may take to answer before it is dropped: as long as QEMU waits for us."""

READ_BYTES_MAX = 64 << 10
"""How much is asked for at a time. QEMU 11 sends an answer with one call and forgets what a full socket did not
take of it, so an answer must fit into its socket's buffer (208 KiB where nobody has changed the default)."""

_OUTSTANDING_BYTES_MAX = 4 << 20
"""How much is asked to be stored before the first answers are waited for."""


class ClientMessages:
    """`dma.RemoteAccess` over one session; at most one step at a time."""

    def __init__(self, session: Session, clock: Callable[[], int]) -> None:
        self.asked = 0
        """Messages sent to the client so far."""
        self._session = session
        self._clock = clock
        self._step: greenlet | None = None
        self._abandoned = False
        self._due_ns: int | None = None
        self._waiting: set[int] = set()
        self._answers: dict[int, bytes | None] = {}

    @property
    def busy(self) -> bool:
        """Whether a step is waiting for the client."""
        return self._step is not None

    @property
    def due_ns(self) -> int | None:
        """When the client must have answered; None when nothing is asked."""
        return self._due_ns

    def run(self, step: Callable[[], None]) -> None:
        """Start a step, and return when it is over or waits. What it raises comes out here."""
        self._abandoned = False
        self._step = greenlet(step)
        self._go_on(self._step)

    def answered(self, message_id: int, data: bytes | None) -> None:
        """The client's answer; None when it refused. One that nobody waits for is of an abandoned step."""
        if message_id not in self._waiting:
            return
        self._waiting.discard(message_id)
        self._answers[message_id] = data
        if not self._waiting and self._step is not None:
            self._go_on(self._step)

    def abandon(self) -> None:
        """End a step that waits: this and all its further transfers fail at once, and it is over."""
        step = self._step
        if step is None or step is getcurrent():
            return
        self._abandoned = True
        self._waiting.clear()
        self._answers.clear()
        self._go_on(step)

    def _go_on(self, step: greenlet) -> None:
        try:
            step.switch()
        finally:
            if step.dead:
                self._step = None
                self._due_ns = None

    # -- what a step calls ----------------------------------------------------------------------------------

    def read(self, address: int, nbytes: int) -> bytes:
        """Bytes of the client's memory. DmaError when it refuses, or when the step was abandoned."""
        limit = min(self._session.data_bytes_max, READ_BYTES_MAX)
        parts = []
        for at in range(0, nbytes, limit):
            self._check(address, nbytes)
            asked = self._session.ask_read(address + at, min(limit, nbytes - at))
            parts += self._answers_to([asked], address, nbytes)
        return b"".join(parts)

    def write(self, pieces: list[tuple[int, memoryview]]) -> None:
        """Store in the client's memory, in order. DmaError as for `read`."""
        ids: list[int] = []
        outstanding = 0
        limit = self._session.data_bytes_max
        for address, data in pieces:
            self._check(address, len(data))
            for at in range(0, len(data), limit):
                part = data[at : at + limit]
                ids.append(self._session.ask_write(address + at, part))
                outstanding += len(part)
                if outstanding >= _OUTSTANDING_BYTES_MAX:
                    self._answers_to(ids, address, len(data))
                    ids, outstanding = [], 0
        if ids:
            self._answers_to(ids, pieces[0][0], outstanding)

    def _check(self, address: int, nbytes: int) -> None:
        if self._abandoned:
            raise DmaError(address, nbytes, "the step was ended by a reset or an unmapping")
        assert self._step is getcurrent(), "only a step may wait for the client"

    def _answers_to(self, ids: list[int], address: int, nbytes: int) -> list[bytes]:
        """Leave for the loop until all these are answered."""
        self.asked += len(ids)
        self._waiting = set(ids)
        self._due_ns = self._clock() + ANSWER_NS
        parent = getcurrent().parent
        assert parent is not None
        parent.switch()
        self._due_ns = None
        answers, self._answers = self._answers, {}
        self._check(address, nbytes)
        found = [answers[one] for one in ids]
        whole = [data for data in found if data is not None]
        if len(whole) != len(found):
            raise DmaError(address, nbytes, "the client refused the access")
        return whole
