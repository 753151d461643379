"""Doorbells in memory that the client maps (`--doorbells mmap`), watched by polling.

A guest's doorbell write is then a store and costs no message; the device looks whether a word has changed.
What that loses: a value that is overwritten before the next look, the order of stores to different doorbells,
and a store of the value that is already there. With `--doorbells trapped` every write is seen.

A doorbell's word must be 0 when its queue comes into being: a host rings it only afterwards. Words are cleared
when their queue goes, and again before anything can create one, because hosts do ring doorbells of queues
that a reset has taken from them (Linux does after a subsystem reset), and such a word would be taken
for the tail of the next queue.

The watch is adaptive: without a pause for SPIN_NS after a change, then with pauses of a quarter of the time
since, at most PAUSE_MAX_NS. An idle device costs a few hundred looks a second.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable

from nvme_emu.spec.registers import Reg
from nvme_emu.transports.vfio_user.ports import CompletionRing, NvmeFunction, SubmissionRing

__all__ = ["PAUSE_MAX_NS", "SPIN_NS", "DoorbellPage"]

SPIN_NS = 300_000
"""Longer than a guest under software emulation needs from one interrupt to its next doorbell (60 to 150 µs), so that
a host with one command at a time is answered without a wake-up; at 50 µs it got down to 0.35 of QEMU's own device,
at 300 µs 0.57 and more on the same busy machine (`tools/linux_guest bench`)."""

PAUSE_MAX_NS = 4_000_000

_AT = int(Reg.DOORBELLS)
_NOUGHT = bytes(4)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class DoorbellPage:
    """The shared page of one client. `fd` is given to it; the file is as long as BAR0."""

    def __init__(self, controller: NvmeFunction, close_fd: Callable[[int], None] = os.close) -> None:
        config = controller.config
        self._controller = controller
        self._close_fd = close_fd
        self._stride = config.doorbell_stride
        self.nbytes = config.bar_size - _AT
        self.fd = os.memfd_create("nvme-emu-doorbells", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, config.bar_size)
            # The client could shrink it otherwise, and end us by a SIGBUS.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._mapping = mmap.mmap(self.fd, self.nbytes, offset=_AT)
        except BaseException:
            close_fd(self.fd)
            raise
        self._view = memoryview(self._mapping)
        self._words = self._view.cast("I")
        self._seen = bytearray(self.nbytes)
        self._used = 0
        self._known: dict[int, SubmissionRing | CompletionRing] = {}
        self._changed_ns = self._looked_ns = 0
        self.looks = 0
        self.refresh()

    def close(self) -> None:
        """Take the page back; a client that keeps its map rings nothing any more."""
        self._words.release()
        self._view.release()
        self._mapping.close()
        self._close_fd(self.fd)

    def scan(self, now_ns: int, ring: Callable[[int, int], None]) -> bool:
        """Call `ring(BAR0 offset, value)` for each doorbell that has changed; whether any has."""
        self.looks += 1
        self._looked_ns = now_ns
        used = self._used
        if self._view[:used] == self._seen[:used]:
            return False
        self._changed_ns = now_ns
        now = bytes(self._view[:used])
        seen, stride = self._seen, self._stride
        for at in range(0, used, stride):
            if now[at : at + 4] != seen[at : at + 4]:
                seen[at : at + 4] = now[at : at + 4]
                ring(_AT + at, int.from_bytes(now[at : at + 4], "little"))
        return True

    def trapped(self, offset: int, value: int) -> None:
        """A doorbell came by message though it is mapped (QEMU unmaps BARs while INTx is pending): the word follows."""
        at = offset - _AT
        if at % 4 == 0 and at + 4 <= self.nbytes:
            self._words[at // 4] = value
            self._seen[at : at + 4] = value.to_bytes(4, "little")

    def stirred(self, now_ns: int) -> None:
        """The host did something that this page does not show: a shadow doorbell."""
        self._changed_ns = now_ns

    @property
    def next_look_ns(self) -> int:
        """When to look again."""
        idle_ns = self._looked_ns - self._changed_ns
        if idle_ns < SPIN_NS:
            return self._looked_ns
        return self._looked_ns + min(idle_ns >> 2, PAUSE_MAX_NS)

    @property
    def behind(self) -> bool:
        """Whether queues have certainly come or gone since `refresh`: their number has changed."""
        rings = self._controller.rings
        return len(rings.sqs) + len(rings.cqs) != len(self._known)

    def clear_unused(self) -> None:
        """Clear the words of queues that do not exist; called before something may create some."""
        image = bytearray(self._view)
        for index in self._known:
            image[index * self._stride : index * self._stride + 4] = _NOUGHT
        if not image.strip(b"\0"):
            return
        for place, word in enumerate(memoryview(image).cast("I")):
            if word:
                self._words[place] = 0
                self._seen[4 * place : 4 * place + 4] = _NOUGHT

    def refresh(self) -> None:
        """Follow the queues that were created and deleted since the last call."""
        rings = self._controller.rings
        now: dict[int, SubmissionRing | CompletionRing] = {2 * qid: sq for qid, sq in rings.sqs.items()}
        now.update((2 * qid + 1, cq) for qid, cq in rings.cqs.items())
        known = self._known
        if len(now) == len(known) and all(known.get(index) is ring for index, ring in now.items()):
            return
        for index, ring in known.items():
            if now.get(index) is not ring:
                self._clear(index, replaced=index in now)
        self._known = now
        top = max(now, default=-1) + 1
        self._used = min(top * self._stride, self.nbytes)

    def _clear(self, index: int, replaced: bool) -> None:
        at = index * self._stride
        if at + 4 > self.nbytes:
            return
        if replaced and self._view[at : at + 4] != self._seen[at : at + 4]:
            # Deleted, created and rung between two looks: the word is the new queue's.
            self._seen[at : at + 4] = _NOUGHT
            return
        self._words[at // 4] = 0
        self._seen[at : at + 4] = _NOUGHT
