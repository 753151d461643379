"""INTx: a level that follows the heads, told once until the client unmasks; and shadow doorbells over the socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from vfioclient import Client, GuestMemory, NvmeHost, Rig, fired

from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.pci import COMMAND, MSIX_CONTROL, STATUS, Header
from nvme_emu.spec.registers import Reg, doorbell_offset
from nvme_emu.spec.vfio_user import IRQ_INFO, Command, IrqIndex, IrqSetFlag, RegionIndex

NONE, EVENTFD = IrqSetFlag.DATA_NONE, IrqSetFlag.DATA_EVENTFD
MASK, UNMASK, TRIGGER = IrqSetFlag.ACTION_MASK, IrqSetFlag.ACTION_UNMASK, IrqSetFlag.ACTION_TRIGGER
IDENTIFY = (AdminOpcode.IDENTIFY, 0)


class PinHost(NvmeHost):
    """A host that is interrupted by the pin. Completions stay in the queue until `take`."""

    fd = -1

    def listen(self) -> None:
        """Give the server an eventfd for the pin."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        reply = self.client.set_irqs(EVENTFD | TRIGGER, 0, 1, fds=[self.fd], index=IrqIndex.INTX)
        assert reply.errno == 0

    def unmask(self) -> None:
        assert self.client.set_irqs(NONE | UNMASK, 0, 1, index=IrqIndex.INTX).errno == 0
        self.client.rig.turn()

    def begin(self) -> None:
        """An admin command that ends at once."""
        self.admin.submit(AdminOpcode.IDENTIFY, 0, self.memory.base, 0, 1)
        self.client.rig.turn()

    def take(self) -> None:
        """Its completion, with the head doorbell."""
        found = self.admin.reap()
        assert found is not None
        assert found[1] == 0
        self.client.rig.turn()

    @property
    def status_bit(self) -> bool:
        raw = self.client.read(RegionIndex.CONFIG, Header.STS, 2)
        return bool(int.from_bytes(raw, "little") & STATUS.mask("is_"))


@pytest.fixture
def host(client: Client) -> Iterator[PinHost]:
    memory = GuestMemory(client)
    memory.pages()
    host = PinHost(client, memory)
    host.enable()
    host.listen()
    yield host
    os.close(host.fd)
    memory.close()


def test_pin_is_offered_and_described(client: Client) -> None:
    assert client.read(RegionIndex.CONFIG, Header.ILINE, 2)[1] == 1
    reply = client.request(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.build(argsz=16, index=IrqIndex.INTX))
    assert IRQ_INFO.parse(reply.data) == {"argsz": 16, "flags": 0b111, "index": IrqIndex.INTX, "count": 1}


def test_pin_can_be_left_out(make_rig: Callable[..., Rig]) -> None:
    client = make_rig(intx=False).client()
    assert client.read(RegionIndex.CONFIG, Header.ILINE, 2)[1] == 0
    reply = client.request(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.build(argsz=16, index=IrqIndex.INTX))
    assert IRQ_INFO.parse(reply.data)["count"] == 0


def test_level_is_told_once_and_goes_with_the_head(host: PinHost) -> None:
    host.begin()
    assert (fired(host.fd), host.status_bit) == (1, True)
    host.begin()
    assert fired(host.fd) == 0, "told again though the client has not unmasked"
    host.take()
    assert host.status_bit, "one completion is still there"
    host.take()
    assert not host.status_bit
    host.unmask()
    assert fired(host.fd) == 0
    host.begin()
    assert fired(host.fd) == 1


def test_level_that_is_still_there_is_told_again_when_unmasked(host: PinHost) -> None:
    host.begin()
    host.begin()
    assert fired(host.fd) == 1
    host.take()
    host.unmask()
    assert fired(host.fd) == 1


def test_client_mask_holds_it_back(host: PinHost) -> None:
    assert host.client.set_irqs(NONE | MASK, 0, 1, index=IrqIndex.INTX).errno == 0
    host.begin()
    assert (fired(host.fd), host.status_bit) == (0, True)
    host.unmask()
    assert fired(host.fd) == 1


def test_intms_and_intmc_mask_the_level(host: PinHost) -> None:
    host.write32(Reg.INTMS, 1)
    assert host.read32(Reg.INTMS) == host.read32(Reg.INTMC) == 1
    host.begin()
    assert (fired(host.fd), host.status_bit) == (0, False)
    host.write32(Reg.INTMC, 1)
    host.client.rig.turn()
    assert (fired(host.fd), host.status_bit, host.read32(Reg.INTMS)) == (1, True, 0)
    host.write32(Reg.INTMS, 0xFFFF_FFFF)
    host.write32(Reg.CC, 0)
    assert host.read32(Reg.INTMS) == 0


def test_interrupt_disable_silences_the_line_and_not_the_status(host: PinHost) -> None:
    silent = COMMAND.pack(mse=1, bme=1, id=1)
    host.client.write(RegionIndex.CONFIG, Header.CMD, silent.to_bytes(2, "little"))
    host.begin()
    assert (fired(host.fd), host.status_bit) == (0, True)
    host.client.bus_master()
    host.client.rig.turn()
    assert fired(host.fd) == 1


def test_msix_takes_over(host: PinHost) -> None:
    fds = host.client.eventfds(1)
    host.client.write(RegionIndex.CONFIG, 0x52, MSIX_CONTROL.pack(mxe=1).to_bytes(2, "little"))
    host.write32(Reg.INTMS, 1)
    assert host.read32(Reg.INTMS) == 0, "undefined with MSI-X"
    host.begin()
    assert (fired(host.fd), fired(fds[0]), host.status_bit) == (0, 1, False)
    os.close(fds[0])


def test_eventfd_taken_back_and_a_client_that_goes_leave_nothing(host: PinHost) -> None:
    host.begin()
    assert fired(host.fd) == 1
    assert host.client.set_irqs(NONE | TRIGGER, 0, 0, index=IrqIndex.INTX).errno == 0
    host.take()
    host.begin()
    assert fired(host.fd) == 0
    assert not host.status_bit
    assert not host.client.rig.controller.pin.in_use


def test_queues_share_the_pin(host: PinHost) -> None:
    io = host.create_io()
    host.unmask()
    fired(host.fd)
    io.submit(NvmOpcode.FLUSH, 1)
    host.client.rig.turn()
    assert fired(host.fd) == 1
    assert io.reap() is not None
    host.client.rig.turn()
    assert not host.status_bit


# -- shadow doorbells over the socket -----------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True], ids=["trapped", "mmap"])
def test_shadow_tails_are_found_in_the_clients_memory(make_rig: Callable[..., Rig], mapped: bool) -> None:
    rig = make_rig(mapped_doorbells=mapped, shadow_doorbells=True, shadow_poll_ns=500_000_000)
    client = rig.client()
    memory = GuestMemory(client)
    host = NvmeHost(client, memory)
    host.enable()
    io = host.create_io()
    shadow, events = memory.pages(), memory.pages()
    assert host.admin.run(AdminOpcode.DOORBELL_BUFFER_CONFIG, 0, shadow, events) == (0, 0)
    rung: list[int] = []

    def ring(offset: int, value: int) -> None:
        memory.put(shadow + offset - 0x1000, value.to_bytes(4, "little"))
        if not rung:  # wakes the server; then it looks by itself for half a second
            rung.append(offset)
            host.write32(offset, value)

    host.ring = ring  # type: ignore[method-assign]
    before = rig.function.doorbells
    for _ in range(40):
        assert io.run(NvmOpcode.FLUSH, 1) == (0, 0)
    assert rig.function.doorbells == before + 1
    assert rung == [doorbell_offset(1, False)]
    memory.close()


def test_shadow_doorbells_in_memory_that_is_reached_by_messages_are_refused(make_rig: Callable[..., Rig]) -> None:
    client = make_rig(shadow_doorbells=True).client()
    memory = GuestMemory(client, messages=True)
    host = NvmeHost(client, memory)
    host.enable()
    status, _ = host.admin.run(AdminOpcode.DOORBELL_BUFFER_CONFIG, 0, memory.pages(), memory.pages())
    assert status & 0x7FF == 2
    assert host.create_io().run(NvmOpcode.FLUSH, 1) == (0, 0)
