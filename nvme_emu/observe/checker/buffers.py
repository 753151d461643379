"""Data buffers and PRP lists: where they are, and that the host leaves them alone while a command uses them.

A copy of what a buffer holds is taken when the device has moved the data, and compared when the completion is
written. Only a device that takes its time leaves the host an occasion, so that an instant one costs nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nvme_emu.observe.checker.memory import Span, Transfer, look, owner, transfer_of

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.pcie.rings import SubmissionQueue
    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.spec.queues import Sqe

__all__ = ["COPIED_BYTES_MAX", "Buffers"]

COPIED_BYTES_MAX: Final = 64 << 20
"""Copies of buffers that are kept at once; transfers beyond it are not compared, but counted (`Ledger.uncompared`)."""

_PAGE_SHIFT: Final = 12
_DATA_OUT, _DATA_IN = 1, 2  # bits 1:0 of an opcode (Base 2.1, 4.1.1): host to controller, controller to host

_Key = tuple[int, int]


@dataclass(slots=True)
class _Use:
    """A command's use of memory from its fetch to its completion."""

    sq: SubmissionQueue
    transfer: Transfer
    data: list[bytes | None] | None = None
    lists: list[bytes | None] | None = None
    gone: bool = False


class Buffers:
    """Every transfer in flight, and which of them uses which page."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ctrl = checker.controller
        self._uses: dict[_Key, _Use] = {}
        self._pages: dict[int, list[_Key]] = {}
        self._copied = 0

    def forget(self) -> None:
        """A reset: nothing is in flight any more."""
        self._uses.clear()
        self._pages.clear()
        self._copied = 0

    def fetched(self, sq: SubmissionQueue, entry: Sqe, nbytes: int) -> None:
        """A command that moves `nbytes` was fetched."""
        if not nbytes or not self._checker.judges("buffer-memory"):
            return
        to_host = bool(entry.opcode & _DATA_IN)
        transfer = transfer_of(self._ctrl.memory, entry, nbytes, self._ctrl.page_size, to_host)
        report = self._checker.report
        for rule, words, values in transfer.problems:
            report(rule, words, qid=sq.qid, cid=entry.cid, **values)
        for addr, _ in transfer.lists:
            if self._checker.is_freed(addr):
                words = f"the list at {addr:#x} is in a page that was freed"
                report("prp-list-freed", words, qid=sq.qid, cid=entry.cid, list=addr)
        if to_host:
            self._check_queues(sq.qid, entry.cid, transfer.data)
        key = sq.qid, entry.cid
        self._drop(key)
        self._uses[key] = use = _Use(sq, transfer)
        for page in _pages_of([*transfer.data, *transfer.lists]):
            self._pages.setdefault(page, []).append(key)
        use.lists = [look(self._ctrl.memory, *span) for span in transfer.lists]

    def _check_queues(self, qid: int, cid: int, data: list[Span]) -> None:
        for start, length in self._checker.queues.spans():
            for addr, nbytes in data:
                if start < addr + nbytes and addr < start + length:
                    words = f"a read to {addr:#x}+{nbytes:#x}, where the ring {start:#x}+{length:#x} is"
                    self._checker.report("buffer-over-queue", words, qid=qid, cid=cid, addr=addr, ring=start)
                    return

    def executed(self, cmd: Command) -> None:
        """The device has moved a command's data; its completion comes later."""
        key = cmd.sq.qid, cmd.cid
        use = self._uses.get(key)
        if use is None or use.sq is not cmd.sq or use.data is not None:
            return
        if use.transfer.to_host:
            self._written_by_device(key, use)
        if self._copied + use.transfer.nbytes > COPIED_BYTES_MAX:
            self._checker.uncompared += 1
            return
        self._copied += use.transfer.nbytes
        use.data = [look(self._ctrl.memory, *span) for span in use.transfer.data]

    def _written_by_device(self, key: _Key, use: _Use) -> None:
        """Other commands in flight that share a page with this read: what they will find is not the host's doing."""
        for page in _pages_of(use.transfer.data):
            for other in self._pages.get(page, ()):
                shared = self._uses.get(other)
                if other != key and shared is not None and shared.data is not None:
                    shared.data = [look(self._ctrl.memory, *span) for span in shared.transfer.data]

    def completed(self, qid: int, cid: int) -> None:
        """The completion has been written: the memory is the host's again."""
        use = self._uses.get((qid, cid))
        if use is None:
            return
        self._drop((qid, cid))
        if use.gone or not use.sq.live:
            return
        if use.lists:
            self._compare("prp-list-changed", qid, cid, use.transfer.lists, use.lists)
        if use.data is not None:
            rule = "buffer-written" if use.transfer.to_host else "buffer-changed"
            self._compare(rule, qid, cid, use.transfer.data, use.data)

    def _compare(self, rule: str, qid: int, cid: int, spans: list[Span], copies: list[bytes | None]) -> None:
        report = self._checker.report
        for (addr, nbytes), before in zip(spans, copies, strict=True):
            if before is None:
                continue
            if owner(self._ctrl.memory, addr) is None:
                report("buffer-freed", f"{addr:#x}+{nbytes:#x} is gone", qid=qid, cid=cid, addr=addr, nbytes=nbytes)
                return
            now = look(self._ctrl.memory, addr, nbytes)
            if now is None or now == before:
                continue
            at = next(at for at in range(nbytes) if now[at] != before[at])
            words = f"byte {at} at {addr + at:#x} was {before[at]:#04x} and is {now[at]:#04x}"
            report(rule, words, qid=qid, cid=cid, addr=addr + at, old=before[at], new=now[at])
            return

    def freed(self, addr: int, nbytes: int) -> None:
        """The driver gave these pages back to its allocator."""
        keys = {key for page in _pages_of([(addr, nbytes)]) for key in self._pages.get(page, ())}
        for key in sorted(keys):
            use = self._uses.get(key)
            if use is None or use.gone or not use.sq.live:
                continue
            if _meets(use.transfer.lists, addr, nbytes):
                words = f"the list in the pages {addr:#x}+{nbytes:#x} was freed while its command is outstanding"
                self._checker.report("prp-list-freed", words, qid=key[0], cid=key[1], addr=addr)
            elif _meets(use.transfer.data, addr, nbytes):
                words = f"pages {addr:#x}+{nbytes:#x} were freed"
                self._checker.report("buffer-freed", words, qid=key[0], cid=key[1], addr=addr, nbytes=nbytes)
            else:
                continue
            use.gone = True

    def _drop(self, key: _Key) -> None:
        use = self._uses.pop(key, None)
        if use is None:
            return
        if use.data is not None:
            self._copied -= use.transfer.nbytes
        for page in _pages_of([*use.transfer.data, *use.transfer.lists]):
            keys = self._pages.get(page)
            if keys is not None and key in keys:
                keys.remove(key)
                if not keys:
                    del self._pages[page]


def _pages_of(spans: list[Span]) -> list[int]:
    pages: dict[int, None] = {}
    for addr, nbytes in spans:
        pages.update(dict.fromkeys(range(addr >> _PAGE_SHIFT, (addr + nbytes - 1 >> _PAGE_SHIFT) + 1)))
    return list(pages)


def _meets(spans: list[Span], addr: int, nbytes: int) -> bool:
    return any(start < addr + nbytes and addr < start + length for start, length in spans)
