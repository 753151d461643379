"""The PCI function that a vfio-user client sees: regions, interrupts and memory around a passive controller.

    region 0   BAR0      properties and doorbells: the controller's; with mapped doorbells a DoorbellPage
    region 2   BAR2      memory of the controller's own, if it has any (`bars`)
    region 4   BAR4      MSI-X table and pending bits
    region 7   config    ConfigSpace
    others     empty

Requests only note what is to be done; `work` does it afterwards, when the answers are on their way: QEMU's
processors wait for an answer with the big lock held, and could serve no DMA message meanwhile.

When the client's memory is reached by messages, `work` runs in a greenlet of its own. It leaves it whenever it
waits for an answer, so that other clients, and this client's register accesses, are served in between. What
comes while it waits:

    a read, or a write of a property     done at once
    a doorbell                           noted, rung when the step is over
    CC or NSSR written, reset, FLR,
    unmapping, bus master off            the step's transfers fail at once, then it is done

Without bus mastering the function reads and writes no memory: doorbells are noted and nothing is stepped
while there are queues.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from errno import EINVAL

from nvme_emu.core.errors import DmaError
from nvme_emu.core.memory import HostMemory
from nvme_emu.spec.pci import CONFIG_BYTES
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.vfio_user import DmaFlag, IrqIndex, IrqInfoFlag, IrqSetFlag, RegionFlag, RegionIndex
from nvme_emu.transports.vfio_user.bars import SharedBars
from nvme_emu.transports.vfio_user.config_space import ConfigSpace, Effect, FunctionShape
from nvme_emu.transports.vfio_user.dma import DmaMaps
from nvme_emu.transports.vfio_user.doorbells import DoorbellPage
from nvme_emu.transports.vfio_user.irqs import MsixVectors, bar4_bytes, check_eventfd, pba_offset
from nvme_emu.transports.vfio_user.pin import PinInterrupt
from nvme_emu.transports.vfio_user.ports import CompletionRing, NvmeFunction, RequestError
from nvme_emu.transports.vfio_user.remote import ClientMessages
from nvme_emu.transports.vfio_user.session import Irqs, Region, Session

__all__ = ["VfioUserFunction"]

TURNS_MAX = 64
"""Steps in one call of `work`; what is left is done in the next, after other clients had their turn."""

_DOORBELLS = int(Reg.DOORBELLS)
_MAPPED_PAGE = 4096
# Plain integers: the complement of an IntFlag has only the bits that it knows.
_IRQ_DATA = int(IrqSetFlag.DATA_NONE | IrqSetFlag.DATA_BOOL | IrqSetFlag.DATA_EVENTFD)
_IRQ_ACTION = int(IrqSetFlag.ACTION_MASK | IrqSetFlag.ACTION_UNMASK | IrqSetFlag.ACTION_TRIGGER)
_READ_WRITE = RegionFlag.READ | RegionFlag.WRITE
_BARS = frozenset((RegionIndex.BAR0, RegionIndex.BAR2, RegionIndex.BAR4))


class VfioUserFunction:
    """One function with at most one client at a time; implements `session.Handler`.

    `clock` gives nanoseconds. `attach` begins and `detach` ends a client.
    """

    regions = len(RegionIndex)
    irq_kinds = len(IrqIndex)

    def __init__(
        self,
        controller: NvmeFunction,
        memory: HostMemory,
        *,
        clock: Callable[[], int],
        mapped_doorbells: bool,
        close_fd: Callable[[int], None] = os.close,
    ) -> None:
        config = controller.config
        self.controller = controller
        self.steps = 0
        self.doorbells = 0
        """Doorbell writes that were seen: with mapped doorbells some of them, else all."""
        self._stride = config.doorbell_stride
        self._clock = clock
        self._close_fd = close_fd
        self._mapped_doorbells = mapped_doorbells
        self.vectors = MsixVectors(controller, close_fd)
        buffers = controller.buffers
        self._buffers = buffers
        self._bars = SharedBars(buffers)
        self._bar_bytes: dict[int, int] = {
            RegionIndex.BAR0: buffers.bar_bytes(RegionIndex.BAR0, config.bar_size),
            RegionIndex.BAR2: buffers.bar_bytes(RegionIndex.BAR2, 0),
            RegionIndex.BAR4: buffers.bar_bytes(RegionIndex.BAR4, bar4_bytes(config.vectors)),
        }
        self.config_space = ConfigSpace(
            FunctionShape(
                vid=config.vid,
                device_id=config.device_id,
                ssvid=config.ssvid,
                serial=config.sn,
                vectors=config.vectors,
                bar0_bytes=self._bar_bytes[RegionIndex.BAR0],
                bar2_bytes=self._bar_bytes[RegionIndex.BAR2],
                bar4_bytes=self._bar_bytes[RegionIndex.BAR4],
                pba_offset=pba_offset(config.vectors),
                intx=config.intx,
            )
        )
        self.pin = PinInterrupt(controller, self.config_space, close_fd)
        self.maps = DmaMaps(memory, close_fd)
        self.maps.covered = buffers.covers
        buffers.give_way(self.maps.make_way, self.maps.come_back)
        self.page: DoorbellPage | None = None
        self.messages: ClientMessages | None = None
        """How the client's memory is asked for; None while there is no client."""
        self._noted: dict[int, int] = {}  # doorbells (BAR0 offset -> value) that wait to be rung
        self._work_due = False
        self._cq_tails: dict[int, tuple[CompletionRing, int]] = {}
        self.mates: tuple[VfioUserFunction, ...] = ()
        """Functions of the same subsystem: while a step of one waits for its client no other makes one."""
        controller.attention = self._attend

    # -- clients come and go --------------------------------------------------------------------------------

    def attach(self, session: Session) -> None:
        """A client has connected. OSError when there is no descriptor left for the doorbell page."""
        if self._mapped_doorbells:
            self.page = DoorbellPage(self.controller, self._close_fd)
        self.messages = ClientMessages(session, self._clock)
        self.maps.messages = self.messages

    def detach(self) -> None:
        """The client has gone: the controller is reset, and nothing of the client is kept."""
        if self.controller.checker is not None:
            self.controller.checker.host_left()
        self.reset()
        self.messages = None
        self.maps.clear()
        self._bars.clear()
        self.vectors.close()
        self.pin.release(0, 1)
        if self.page is not None:
            self.page.close()
            self.page = None

    def close(self) -> None:
        """Give back what lasts longer than a client. A second call does nothing."""
        self._bars.close()

    # -- regions --------------------------------------------------------------------------------------------

    def region(self, index: int) -> Region:
        """A region's size and what can be done with it."""
        if index == RegionIndex.BAR0 and self.page is not None:
            area = (_DOORBELLS, self.page.nbytes // _MAPPED_PAGE * _MAPPED_PAGE)
            return Region(self._bar_bytes[index], _READ_WRITE, (area,), self.page.fd)
        if index in _BARS:
            size = self._bar_bytes[index]
            return Region(size, _READ_WRITE, *self._bars.of(index)) if size else Region(0, 0)
        if index == RegionIndex.CONFIG:
            return Region(CONFIG_BYTES, _READ_WRITE)
        if not 0 <= index < self.regions:
            raise RequestError(EINVAL, f"there is no region {index}")
        return Region(0, 0)

    def _check_range(self, region: int, offset: int, count: int) -> None:
        size = self.region(region).size
        if offset + count > size:
            raise RequestError(EINVAL, f"{count} bytes at {offset:#x} of region {region}, which has {size:#x}")

    def read(self, region: int, offset: int, count: int) -> bytes:
        """Bytes of a region."""
        self._check_range(region, offset, count)
        if region == RegionIndex.CONFIG:
            return self.config_space.read(offset, count)
        own = self._buffers.bar_read(region, offset, count)
        if own is not None:
            return own
        if region == RegionIndex.BAR4:
            return self.vectors.read(offset, count).ljust(count, b"\0")
        if region != RegionIndex.BAR0:
            return bytes(count)
        if count > 8:
            # A copy of the BAR, as a debugger takes it: dword by dword.
            pieces = [(at, min(4 - at % 4, offset + count - at)) for at in _dwords(offset, count)]
            return b"".join(self._bar0_read(at, n) for at, n in pieces)
        return self._bar0_read(offset, count)

    def _bar0_read(self, offset: int, count: int) -> bytes:
        return self.controller.mmio_read(offset, count).to_bytes(count, "little")

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Store bytes in a region."""
        self._check_range(region, offset, len(data))
        if region == RegionIndex.CONFIG:
            self._config_written(self.config_space.write(offset, data))
        elif self._buffers.bar_write(region, offset, data):
            return
        elif region == RegionIndex.BAR4:
            self.vectors.write(offset, data)
            self._work_due = True
        elif region != RegionIndex.BAR0:
            return
        elif offset >= _DOORBELLS and (self.waiting or not self.config_space.bus_master):
            if len(data) == 4:
                self._note(offset, int.from_bytes(data, "little"))
        else:
            if offset >= _DOORBELLS:
                self.doorbells += 1
                if self.page is not None and len(data) == 4:
                    self.page.trapped(offset, int.from_bytes(data, "little"))
            starts_or_ends = offset <= Reg.NSSR and offset + len(data) > Reg.CC
            if starts_or_ends:
                self._abandon()
                for mate in self.mates:
                    mate._abandon()  # an NVM Subsystem Reset is one of theirs, too
                if self.page is not None:
                    self.page.clear_unused()
            self.controller.now_ns = self._clock()
            self.controller.mmio_write(offset, len(data), int.from_bytes(data, "little"))
            if starts_or_ends and self.page is not None:
                self.page.refresh()
            self._work_due = True

    def _note(self, offset: int, value: int) -> None:
        if offset < self.controller.config.bar_size:
            self._noted.pop(offset, None)
            self._noted[offset] = value
            self._work_due = True

    def _config_written(self, effect: Effect) -> None:
        if effect & Effect.FUNCTION_RESET:
            self._reset()
            self._buffers.function_reset()
            return
        if effect & Effect.MSIX:
            self.vectors.mask_function(self.config_space.function_masked)
            self._work_due = True
        self.pin.look()
        if effect & Effect.BUS_MASTER:
            self._abandon()
            self._work_due = True

    # -- reset ----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """DEVICE_RESET, or a client that went: everything to its initial state, as after power on.

        The client's maps and eventfds are not the function's and stay.
        """
        self._reset()
        self._buffers.subsystem_reset()

    def _reset(self) -> None:
        """Function level reset."""
        self._abandon()
        self._noted.clear()
        controller = self.controller
        checker = controller.checker
        # These writes are no driver's.
        with contextlib.nullcontext() if checker is None else checker.aside():
            controller.mmio_write(Reg.CC, 4, 0)
            controller.step(self._clock())
            for register in (Reg.AQA, Reg.ASQ, Reg.ASQ + 4, Reg.ACQ, Reg.ACQ + 4):
                controller.mmio_write(register, 4, 0)
        controller.take_irqs()
        self.config_space.reset()
        self.vectors.reset_table()
        self.pin.look()
        self._cq_tails.clear()
        if self.page is not None:
            self.page.refresh()

    # -- interrupts -----------------------------------------------------------------------------------------

    def irqs(self, index: int) -> Irqs:
        """MSI-X and the interrupt pin; the function has no MSI."""
        if index == IrqIndex.INTX and self.pin.count:
            return Irqs(1, IrqInfoFlag.EVENTFD | IrqInfoFlag.MASKABLE | IrqInfoFlag.AUTOMASKED)
        if index == IrqIndex.MSIX:
            flags = IrqInfoFlag.EVENTFD | IrqInfoFlag.MASKABLE
            return Irqs(self.vectors.count, flags)
        if not 0 <= index < self.irq_kinds:
            raise RequestError(EINVAL, f"there is no kind {index} of interrupts")
        return Irqs(0, 0)

    def set_irqs(self, index: int, flags: int, start: int, count: int, data: bytes, fds: list[int]) -> None:
        """SET_IRQS. Descriptors that are kept are taken out of `fds`."""
        kind, action = flags & _IRQ_DATA, flags & _IRQ_ACTION
        if flags & ~(_IRQ_DATA | _IRQ_ACTION) or kind.bit_count() != 1 or action.bit_count() != 1:
            raise RequestError(EINVAL, f"SET_IRQS flags {flags:#x}: one kind of data and one action")
        there = self.irqs(index).number
        if start + count > there:
            raise RequestError(EINVAL, f"SET_IRQS {start}+{count} of {there} interrupts of kind {index}")
        if fds and (kind != IrqSetFlag.DATA_EVENTFD or len(fds) != count):
            raise RequestError(EINVAL, f"SET_IRQS of {count} with {len(fds)} descriptors and flags {flags:#x}")
        irqs = self.pin if index == IrqIndex.INTX else self.vectors
        if kind == IrqSetFlag.DATA_EVENTFD:
            _set_eventfds(irqs, action, start, count, fds)
        else:
            if kind == IrqSetFlag.DATA_NONE and action == IrqSetFlag.ACTION_TRIGGER and not count:
                if there:
                    irqs.release(0, there)  # "disable this kind"
                return
            chosen = [start + at for at in range(count) if not data or data[at]]
            if action == IrqSetFlag.ACTION_TRIGGER:
                irqs.deliver(chosen)
            else:
                irqs.mask(chosen, action == IrqSetFlag.ACTION_MASK)
        self._work_due = True

    # -- memory ---------------------------------------------------------------------------------------------

    def dma_map(self, address: int, size: int, flags: int, fds: list[int], offset: int) -> None:
        """DMA_MAP."""
        self.maps.map(address, size, flags, fds, offset)
        if fds:
            # Mapped: the mapping has a descriptor of its own.
            self._close_fd(fds.pop())
        self._work_due = True

    def dma_unmap(self, address: int, size: int, flags: int) -> None:
        """DMA_UNMAP. When the answer goes out nothing touches the memory any more."""
        if flags & ~int(DmaFlag.UNMAP_ALL) or (flags and (address or size)):
            raise RequestError(EINVAL, f"DMA_UNMAP flags {flags:#x} of {address:#x}+{size:#x}")
        self._abandon()
        if flags:
            self.maps.clear()
        else:
            self.maps.unmap(address, size)
        self._work_due = True

    # -- work -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether a step waits for the client to answer a DMA message."""
        return self.messages is not None and self.messages.busy

    def answered(self, message_id: int, data: bytes | None) -> None:
        """The client answered a DMA message."""
        if self.messages is not None:
            self.messages.answered(message_id, data)

    def _abandon(self) -> None:
        if self.messages is not None:
            self.messages.abandon()

    def _attend(self) -> None:
        """Another controller's command has left something for this one."""
        self._work_due = True

    def _held_up(self) -> VfioUserFunction | None:
        return next((mate for mate in self.mates if mate.waiting), None)

    def work(self) -> None:
        """Do what is due: ring what was noted, step the controller, send interrupts."""
        if self.messages is None or self.messages.busy:
            return
        if self._held_up() is not None:
            self._work_due = True
            return
        self._work_due = False
        if self.maps.by_message:
            self.messages.run(self._turns)
        else:
            self._turns()

    def next_deadline(self) -> int | None:
        """When (ns) `work` must be called again though nothing comes from the client; None: no need."""
        if self.messages is None:
            return None
        if self.messages.busy:
            return self.messages.due_ns
        mate = self._held_up()
        if mate is not None:
            return mate.next_deadline()
        now = self._clock()
        if not self._may_step():
            return None
        if self._work_due:
            return now
        due = self.controller.next_deadline()
        if self.page is not None and self.controller.rings.sqs:
            look = self.page.next_look_ns
            due = look if due is None else min(due, look)
        return due

    def overdue(self) -> bool:
        """Whether the client has not answered a DMA message in time."""
        due = self.messages.due_ns if self.messages is not None else None
        return due is not None and self._clock() >= due

    def _may_step(self) -> bool:
        return self.config_space.bus_master or not self.controller.rings.sqs

    def _turns(self) -> None:
        controller, page = self.controller, self.page
        for _ in range(TURNS_MAX):
            if not self._may_step():
                return
            now = controller.now_ns = self._clock()
            if self._noted:
                noted, self._noted = self._noted, {}
                for offset, value in noted.items():
                    self._ring(offset, value)
            if page is not None:
                page.scan(now, self._ring)
                shadow = controller.shadow
                if shadow is not None and shadow.look():
                    page.stirred(now)
                admin = controller.rings.sqs.get(0)
                may_create = admin is not None and admin.head != admin.tail
                if may_create:
                    page.clear_unused()
            else:
                may_create = False
            if self.maps.copied:
                self._copied_step(now)
            else:
                controller.step(now)
            self.steps += 1
            if page is not None and (may_create or page.behind):
                page.refresh()
            irqs = controller.take_irqs()
            if irqs:
                self.vectors.deliver(irqs)
            self.pin.look()
            due = controller.next_deadline()
            if not self._noted and (due is None or due > now):
                return
        self._work_due = True

    def _ring(self, offset: int, value: int) -> None:
        """What a doorbell at a BAR0 offset means; one between two doorbells is the controller's to drop."""
        self.doorbells += 1
        index, rest = divmod(offset - _DOORBELLS, self._stride)
        if rest:
            self.controller.mmio_write(offset, 4, value)
        elif index & 1:
            self.controller.ring_cq(index >> 1, value & 0xFFFF)
        else:
            self.controller.ring_sq(index >> 1, value & 0xFFFF)

    def _copied_step(self, now: int) -> None:
        """A step with memory that is not mapped: fetch what it will look at, carry back what it has stored.

        A client that refuses an access to its own queues has no use of them: they get no answers.
        """
        self.maps.begin()
        try:
            self.maps.carry_back(self._completions_written())  # of a doorbell that made room for late ones
            self.maps.fetch(self._entries_waiting())
            self.controller.step(now)
            self.maps.carry_back(self._completions_written())
        except DmaError:
            self._work_due = False
        finally:
            self.maps.end()

    def _entries_waiting(self) -> Iterator[tuple[int, int]]:
        for sq in list(self.controller.rings.sqs.values()):
            head, tail = sq.head, sq.tail
            if tail < head:
                yield sq.base + head * SQE_SIZE, (sq.size - head) * SQE_SIZE
                head = 0
            if tail > head:
                yield sq.base + head * SQE_SIZE, (tail - head) * SQE_SIZE

    def _completions_written(self) -> Iterator[tuple[int, int]]:
        known, self._cq_tails = self._cq_tails, {}
        for qid, cq in self.controller.rings.cqs.items():
            self._cq_tails[qid] = (cq, cq.tail)
        for qid, (cq, tail) in list(self._cq_tails.items()):
            ring, start = known.get(qid, (cq, 0))
            if ring is not cq:
                start = 0
            if tail < start:
                yield cq.base + start * CQE_SIZE, (cq.size - start) * CQE_SIZE
                start = 0
            if tail > start:
                yield cq.base + start * CQE_SIZE, (tail - start) * CQE_SIZE


def _set_eventfds(irqs: MsixVectors | PinInterrupt, action: int, start: int, count: int, fds: list[int]) -> None:
    if action != IrqSetFlag.ACTION_TRIGGER:
        raise RequestError(EINVAL, "SET_IRQS: eventfds for masking are not offered")
    for fd in fds:
        check_eventfd(fd)
    if fds:
        irqs.assign(start, fds[:])
        fds.clear()
    else:
        irqs.release(start, count)


def _dwords(offset: int, count: int) -> Iterator[int]:
    yield offset
    yield from range((offset & ~3) + 4, offset + count, 4)
