"""Every message of the protocol, as a client that knows it sends it, and as one that does not."""

from __future__ import annotations

import errno
import json
import os
import struct

import pytest
from vfioclient import PAGE, Client, Gone, Rig, fired

from nvme_emu.spec.pci import CONFIG_BYTES
from nvme_emu.spec.registers import CAP, Reg
from nvme_emu.spec.vfio_user import (
    DEVICE_INFO,
    HEADER,
    IRQ_INFO,
    REGION_ACCESS,
    REGION_INFO,
    SPARSE_AREA,
    SPARSE_MMAP,
    VERSION,
    WRITE_MULTI_COUNT,
    WRITE_MULTI_ITEM,
    Command,
    IrqIndex,
    IrqSetFlag,
    MessageFlag,
    RegionFlag,
    RegionIndex,
)

EVENTFD, NONE, BOOL = IrqSetFlag.DATA_EVENTFD, IrqSetFlag.DATA_NONE, IrqSetFlag.DATA_BOOL
TRIGGER, MASK, UNMASK = IrqSetFlag.ACTION_TRIGGER, IrqSetFlag.ACTION_MASK, IrqSetFlag.ACTION_UNMASK


def region_info(client: Client, index: int, argsz: int = 4096):
    reply = client.request(Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=argsz, index=index))
    return reply, REGION_INFO.parse(reply.data) if reply.data else None


# -- version ------------------------------------------------------------------------------------------------


def test_version_capabilities_are_a_subset_of_those_proposed(rig: Rig) -> None:
    client = rig.connect()
    reply = client.greet()
    assert VERSION.parse(reply.data) == {"major": 0, "minor": 1}
    assert reply.data[-1] == 0
    assert client.capabilities == {
        "max_msg_fds": 16,
        "max_data_xfer_size": 1 << 20,
        "pgsizes": 4096,
        "max_dma_maps": 512,
        "write_multiple": True,
    }


def test_version_without_data_is_answered_without_capabilities(rig: Rig) -> None:
    client = rig.connect()
    reply = client.request(Command.VERSION, VERSION.build(major=0, minor=0))
    assert VERSION.parse(reply.data) == {"major": 0, "minor": 0}
    assert json.loads(reply.data[4:-1]) == {"capabilities": {}}


def test_version_minor_of_the_future_is_answered_with_ours(rig: Rig) -> None:
    assert VERSION.parse(rig.connect().greet(minor=77).data).minor == 1


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (VERSION.build(major=1), errno.ENOTSUP),
        (b"\0\0", errno.EINVAL),
        (VERSION.build() + b"{", errno.EINVAL),
        (VERSION.build() + b"{\0", errno.EINVAL),
        (VERSION.build() + b"[]\0", errno.EINVAL),
        (VERSION.build() + b'{"capabilities": 7}\0', errno.EINVAL),
        (VERSION.build() + b'{"capabilities": {"max_msg_fds": "many"}}\0', errno.EINVAL),
        (VERSION.build() + b'{"capabilities": {"max_data_xfer_size": 1}}\0', errno.EINVAL),
        (VERSION.build() + b'{"capabilities": {"max_msg_fds": true}}\0', errno.EINVAL),
        (VERSION.build() + b"\xff\xfe\0", errno.EINVAL),
        (VERSION.build() + b"[" * 100_000 + b"\0", errno.EINVAL),
    ],
    ids=range(11),
)
def test_version_that_cannot_be_is_answered_with_an_error_and_dropped(
    rig: Rig, payload: bytes, number: int
) -> None:
    client = rig.connect()
    assert client.request(Command.VERSION, payload).errno == number
    with pytest.raises(Gone):
        client.serve_dma()
    assert rig.client().capabilities


def test_version_a_second_time_is_refused_and_changes_nothing(client: Client) -> None:
    assert client.greet(max_data_xfer_size=4096).errno == errno.EINVAL
    assert client.read(RegionIndex.BAR0, 0, 8)


# -- device, regions, interrupts ----------------------------------------------------------------------------


def test_device_info_is_of_a_pci_device_that_can_be_reset(client: Client) -> None:
    reply = client.request(Command.DEVICE_GET_INFO, DEVICE_INFO.build(argsz=16))
    assert DEVICE_INFO.parse(reply.data) == {"argsz": 16, "flags": 3, "num_regions": 9, "num_irqs": 5}


@pytest.mark.parametrize(
    ("index", "size"),
    [(0, 0x4000), (1, 0), (2, 0), (3, 0), (4, 0x2000), (5, 0), (6, 0), (7, CONFIG_BYTES), (8, 0)],
)
def test_region_info_of_each_region(client: Client, index: int, size: int) -> None:
    reply, info = region_info(client, index)
    assert info == {
        "argsz": 32, "flags": 3 if size else 0, "index": index, "cap_offset": 0, "size": size, "offset": 0,
    }  # fmt: skip
    assert not reply.fds


def test_region_info_of_mapped_doorbells_has_the_area_and_a_descriptor(make_rig) -> None:
    client = make_rig(mapped_doorbells=True).client()
    small, info = region_info(client, 0, 32)
    assert (info.argsz, info.cap_offset, len(small.data), small.fds) == (64, 32, 32, [])
    reply, info = region_info(client, 0, info.argsz)
    assert info.flags == RegionFlag.READ | RegionFlag.WRITE | RegionFlag.MMAP | RegionFlag.CAPS
    sparse = SPARSE_MMAP.parse(reply.data[info.cap_offset :])
    assert (sparse.id, sparse.version, sparse.next, sparse.nr_areas) == (1, 1, 0, 1)
    assert SPARSE_AREA.parse(reply.data[info.cap_offset + 16 :]) == {"offset": 0x1000, "size": 0x3000}
    (fd,) = reply.fds
    assert os.fstat(fd).st_size == info.size
    with pytest.raises(OSError, match="Operation not permitted"):
        os.truncate(fd, 0)
    os.close(fd)


def test_irq_info_offers_msix_and_the_pin(client: Client) -> None:
    for index in IrqIndex:
        reply = client.request(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.build(argsz=16, index=index))
        count, flags = {IrqIndex.MSIX: (65, 3), IrqIndex.INTX: (1, 7)}.get(index, (0, 0))
        assert IRQ_INFO.parse(reply.data) == {"argsz": 16, "flags": flags, "index": index, "count": count}


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.DEVICE_GET_INFO, b""),
        (Command.DEVICE_GET_INFO, DEVICE_INFO.build(argsz=15)),
        (Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=31)),
        (Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=64, index=9)),
        (Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=64, index=0xFFFF_FFFF)),
        (Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.build(argsz=8)),
        (Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.build(argsz=16, index=5)),
        (Command.DEVICE_RESET, b"1"),
        (Command.DMA_MAP, b"1" * 31),
        (Command.DMA_MAP, b"1" * 33),
        (Command.DMA_UNMAP, b"1" * 23),
        (Command.DEVICE_SET_IRQS, b"1" * 19),
        (Command.REGION_READ, b"1" * 15),
        (Command.REGION_READ, REGION_ACCESS.pack(0, 0, 0)),
        (Command.REGION_READ, REGION_ACCESS.pack(0, 7, (1 << 20) + 1)),
        (Command.REGION_READ, REGION_ACCESS.pack(CONFIG_BYTES, 7, 1)),
        (Command.REGION_READ, REGION_ACCESS.pack((1 << 64) - 1, 0, 4)),
        (Command.REGION_READ, REGION_ACCESS.pack(0, 99, 4)),
        (Command.REGION_READ, REGION_ACCESS.pack(0, 1, 4)),
        (Command.REGION_WRITE, b"1" * 8),
        (Command.REGION_WRITE, REGION_ACCESS.pack(0x14, 0, 4) + b"123"),
        (Command.REGION_WRITE, REGION_ACCESS.pack(0x3FFE, 0, 4) + b"1234"),
        (Command.REGION_WRITE, REGION_ACCESS.pack(1, 4, 4) + b"1234"),
        (Command.REGION_WRITE_MULTI, b""),
        (Command.REGION_WRITE_MULTI, WRITE_MULTI_COUNT.pack(2) + WRITE_MULTI_ITEM.pack(0, 0, 4, b"")),
        (Command.REGION_WRITE_MULTI, WRITE_MULTI_COUNT.pack(1) + WRITE_MULTI_ITEM.pack(0, 0, 9, b"")),
        (Command.REGION_WRITE_MULTI, WRITE_MULTI_COUNT.pack(1 << 63)),
    ],
)
def test_request_with_wrong_sizes_is_refused_and_the_conversation_goes_on(
    client: Client, command: int, payload: bytes
) -> None:
    assert client.request(command, payload).errno == errno.EINVAL
    assert len(client.read(RegionIndex.CONFIG, 0, 4)) == 4


@pytest.mark.parametrize(
    "command",
    [
        Command.DEVICE_GET_REGION_IO_FDS, Command.DEVICE_FEATURE, Command.MIG_DATA_READ,
        Command.MIG_DATA_WRITE, Command.DMA_READ, 14, 999, 0,
    ],
)  # fmt: skip
def test_request_that_is_not_offered_is_refused(client: Client, command: int) -> None:
    assert client.request(command, bytes(64)).errno == errno.ENOTSUP
    assert len(client.read(RegionIndex.CONFIG, 0, 4)) == 4


# -- reading and writing regions ----------------------------------------------------------------------------


def test_region_read_gives_what_the_controller_has(rig: Rig, client: Client) -> None:
    assert CAP.unpack(int.from_bytes(client.read(0, Reg.CAP, 8), "little")).mqes_z == 65535
    assert client.read(0, Reg.VS, 4) == bytes.fromhex("00010200")
    assert client.read(0, Reg.VS, 2) + client.read(0, Reg.VS + 2, 1) == b"\0\1\2"
    whole = client.read(0, 0, 64)
    assert whole[:8] == client.read(0, 0, 8)
    assert len(whole) == 64


def test_region_write_multi_does_all_in_order(rig: Rig, client: Client) -> None:
    items = [(Reg.AQA, 4, b"\x0f\0\x0f\0"), (Reg.ASQ, 8, struct.pack("<Q", 0x1234_5000)), (Reg.AQA, 4, b"\7\0\7\0")]
    payload = WRITE_MULTI_COUNT.pack(3)
    for offset, count, data in items:
        payload += WRITE_MULTI_ITEM.pack(offset, RegionIndex.BAR0, count, data)
    reply = client.request(Command.REGION_WRITE_MULTI, payload)
    assert reply == (0, WRITE_MULTI_COUNT.pack(3), [])
    assert client.read(0, Reg.AQA, 4) == b"\7\0\7\0"
    assert client.read(0, Reg.ASQ, 8) == struct.pack("<Q", 0x1234_5000)


def test_posted_write_gets_no_reply_and_is_done_before_what_follows(client: Client) -> None:
    write = REGION_ACCESS.pack(Reg.AQA, 0, 4) + b"\x1f\0\x1f\0"
    client.send(client.message(Command.REGION_WRITE, write, MessageFlag.NO_REPLY))
    assert client.read(0, Reg.AQA, 4) == b"\x1f\0\x1f\0"


def test_refused_request_without_reply_is_only_logged(rig: Rig, client: Client) -> None:
    client.send(client.message(Command.REGION_WRITE, b"", MessageFlag.NO_REPLY))
    assert client.read(0, 0, 4)
    assert any("refused REGION_WRITE" in line for line in rig.log)


def test_refusals_are_logged_only_so_often(rig: Rig, client: Client) -> None:
    for _ in range(100):
        client.request(0)
    assert 10 < len(rig.log) < 30


# -- interrupts ---------------------------------------------------------------------------------------------


def test_set_irqs_trigger_writes_the_eventfd(client: Client) -> None:
    fds = client.eventfds(3, start=2)
    assert client.set_irqs(NONE | TRIGGER, 3, 1).errno == 0
    assert [fired(fd) for fd in fds] == [0, 1, 0]
    assert client.set_irqs(BOOL | TRIGGER, 2, 3, b"\1\0\1").errno == 0
    assert [fired(fd) for fd in fds] == [1, 0, 1]
    for fd in fds:
        os.close(fd)


def test_set_irqs_without_descriptors_takes_vectors_back(rig: Rig, client: Client) -> None:
    fds = client.eventfds(2)
    assert client.set_irqs(EVENTFD | TRIGGER, 0, 1).errno == 0
    assert client.set_irqs(NONE | TRIGGER, 0, 2).errno == 0
    assert [fired(fd) for fd in fds] == [0, 1]
    assert client.set_irqs(NONE | TRIGGER, 0, 0).errno == 0
    assert client.set_irqs(NONE | TRIGGER, 0, 2).errno == 0
    assert [fired(fd) for fd in fds] == [0, 0]
    assert rig.function.vectors.fds_held == 0
    for fd in fds:
        os.close(fd)


def test_masked_vector_is_pending_until_it_is_unmasked(rig: Rig, client: Client) -> None:
    (fd,) = client.eventfds(1)
    assert client.set_irqs(NONE | MASK, 0, 1).errno == 0
    rig.controller.interrupts.raise_vector(0)
    client.write(RegionIndex.BAR0, Reg.INTMS, bytes(4))
    pba = 0x1000
    assert client.read(RegionIndex.BAR4, pba, 8)[0] == 1
    assert fired(fd) == 0
    assert client.set_irqs(NONE | UNMASK, 0, 1).errno == 0
    rig.turn()
    assert client.read(RegionIndex.BAR4, pba, 8)[0] == 0
    assert fired(fd) == 1
    os.close(fd)


def test_vector_without_an_eventfd_is_pending(rig: Rig, client: Client) -> None:
    rig.controller.interrupts.raise_vector(7)
    assert client.read(RegionIndex.BAR4, 0x1000, 1) == b"\x80"
    (fd,) = client.eventfds(1, start=7)
    rig.turn()
    assert fired(fd) == 1
    os.close(fd)


def test_msix_table_mask_holds_back_once_the_table_is_used(rig: Rig, client: Client) -> None:
    fds = client.eventfds(2)
    assert client.read(RegionIndex.BAR4, 12, 4) == b"\1\0\0\0", "entries start masked"
    client.write(RegionIndex.BAR4, 0, struct.pack("<Q", 0xFEE0_0000))
    for vector in (0, 1):
        rig.controller.interrupts.raise_vector(vector)
    client.write(RegionIndex.BAR4, 8, bytes(4))
    rig.turn()
    assert [fired(fd) for fd in fds] == [0, 1], "entry 0 was written and is masked, entry 1 is not in use"
    client.write(RegionIndex.BAR4, 12, bytes(4))
    rig.turn()
    assert [fired(fd) for fd in fds] == [1, 0]
    for fd in fds:
        os.close(fd)


def test_pending_bits_are_read_only_and_the_hole_behind_the_table_is_empty(client: Client) -> None:
    client.write(RegionIndex.BAR4, 0x1000, b"\xff" * 8)
    client.write(RegionIndex.BAR4, 65 * 16, b"\xff" * 8)
    assert client.read(RegionIndex.BAR4, 65 * 16, 0x2000 - 65 * 16) == bytes(0x2000 - 65 * 16)


@pytest.mark.parametrize(
    ("flags", "start", "count", "data"),
    [
        (0, 0, 1, b""),
        (NONE | MASK | TRIGGER, 0, 1, b""),
        (NONE | BOOL | MASK, 0, 1, b""),
        (NONE | MASK | 1 << 9, 0, 1, b""),
        (NONE | MASK, 65, 1, b""),
        (NONE | MASK, 0, 66, b""),
        (NONE | MASK, 0xFFFF_FFFF, 0xFFFF_FFFF, b""),
        (BOOL | MASK, 0, 3, b"\1\1"),
        (NONE | MASK, 0, 1, b"\1"),
        (EVENTFD | MASK, 0, 0, b""),
    ],
)
def test_set_irqs_that_makes_no_sense_is_refused(
    client: Client, flags: int, start: int, count: int, data: bytes
) -> None:
    assert client.set_irqs(flags, start, count, data).errno == errno.EINVAL


def test_set_irqs_of_another_kind_is_refused(client: Client) -> None:
    assert client.set_irqs(NONE | TRIGGER, 0, 1, index=IrqIndex.MSI).errno == errno.EINVAL
    assert client.set_irqs(NONE | TRIGGER, 0, 0, index=IrqIndex.MSI).errno == 0
    assert client.set_irqs(NONE | TRIGGER, 0, 0, index=77).errno == errno.EINVAL


def test_set_irqs_with_descriptors_that_are_no_eventfds_is_refused(rig: Rig, client: Client) -> None:
    pipe = os.pipe()
    good = os.eventfd(0)
    for fds in ([pipe[1]], [good, pipe[1]]):
        assert client.set_irqs(EVENTFD | TRIGGER, 0, len(fds), fds=fds).errno == errno.EINVAL
    assert client.set_irqs(EVENTFD | TRIGGER, 0, 3, fds=[good]).errno == errno.EINVAL
    assert client.set_irqs(NONE | MASK, 0, 1, fds=[good]).errno == errno.EINVAL
    assert rig.function.vectors.fds_held == 0
    for fd in (*pipe, good):
        os.close(fd)


def test_descriptors_with_a_message_that_wants_none_are_closed(client: Client) -> None:
    fd = os.eventfd(0)
    reply = client.request(Command.REGION_READ, REGION_ACCESS.pack(0, 0, 4), [fd, fd, fd])
    assert reply.errno == 0
    os.close(fd)


# -- reset --------------------------------------------------------------------------------------------------


def test_device_reset_puts_registers_and_configuration_back(client: Client) -> None:
    client.bus_master()
    client.write(0, Reg.AQA, b"\x1f\0\x1f\0")
    client.write(0, Reg.ASQ, struct.pack("<Q", PAGE))
    assert client.request(Command.DEVICE_RESET).errno == 0
    assert client.read(0, Reg.AQA, 4) + client.read(0, Reg.ASQ, 8) == bytes(12)
    assert client.read(RegionIndex.CONFIG, 4, 2) == b"\0\0"


def test_header_flags_of_a_reply_are_set(client: Client) -> None:
    client.send(HEADER.pack(0xBEEF, Command.DEVICE_RESET, 16, 0, 0))
    client.rig.turn()
    data = client.socket.recv(100)
    assert HEADER.unpack(data) == (0xBEEF, Command.DEVICE_RESET, 16, MessageFlag.REPLY, 0)
