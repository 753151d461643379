"""PCI configuration space, walked as a kernel walks it."""

from __future__ import annotations

import struct

import pytest
from vfioclient import Client, NvmeHost, Rig

from nvme_emu.spec.pci import (
    CLASS_NVME,
    COMMAND,
    CONFIG_BYTES,
    DEVICE_CAP,
    DEVICE_SERIAL_NUMBER,
    EXPRESS_CAPABILITY,
    HEADER_TYPE0,
    MSIX_CAPABILITY,
    MSIX_CONTROL,
    MSIX_PLACE,
    PM_CAPABILITY,
    CapId,
    ExtCapId,
    bar_mask,
    msix_pba_bytes,
)
from nvme_emu.transports.vfio_user.config_space import ConfigSpace, Effect, FunctionShape
from nvme_emu.transports.vfio_user.irqs import bar4_bytes, pba_offset


def make(vectors: int = 65) -> ConfigSpace:
    return ConfigSpace(
        FunctionShape(
            vid=0x1D0F, device_id=0x4E56, ssvid=0x1234, serial="S1", vectors=vectors, bar0_bytes=0x4000,
            bar4_bytes=bar4_bytes(vectors), pba_offset=pba_offset(vectors),
        )
    )  # fmt: skip


def capabilities(space: ConfigSpace) -> dict[int, int]:
    """Capability identifier -> offset, by following the list."""
    found, at = {}, space.read(0x34, 1)[0]
    while at:
        assert at % 4 == 0 and at >= 0x40 and len(found) < 48
        identifier, following = space.read(at, 2)
        found[identifier] = at
        at = following
    return found


def test_header_is_of_an_nvme_controller() -> None:
    header = HEADER_TYPE0.parse(make().read(0, 64))
    assert (header.vid, header.did, header.ssvid, header.cc) == (0x1D0F, 0x4E56, 0x1234, CLASS_NVME)
    assert header.htype == 0
    assert header.ipin == 0
    assert header.bar == [4, 0, 0, 0, 4, 0]


def test_list_has_power_management_msix_and_express() -> None:
    space = make()
    found = capabilities(space)
    assert list(found) == [CapId.POWER_MANAGEMENT, CapId.MSIX, CapId.EXPRESS]
    pm = PM_CAPABILITY.parse(space.read(found[CapId.POWER_MANAGEMENT], 8))
    assert pm.pmcs == 1 << 3, "D0, no soft reset"
    express = EXPRESS_CAPABILITY.parse(space.read(found[CapId.EXPRESS], 60))
    assert DEVICE_CAP.unpack(express.pxdcap).flrc == 1


def test_extended_list_has_a_serial_number() -> None:
    parsed = DEVICE_SERIAL_NUMBER.parse(make().read(0x100, 12))
    assert parsed.header == ExtCapId.DEVICE_SERIAL_NUMBER | 1 << 16
    assert parsed.dsn


@pytest.mark.parametrize("vectors", [1, 2, 64, 65, 255, 256, 257, 2048])
def test_msix_table_and_pending_bits_fit_in_their_bar_and_do_not_overlap(vectors: int) -> None:
    space = make(vectors)
    msix = MSIX_CAPABILITY.parse(space.read(capabilities(space)[CapId.MSIX], 12))
    assert MSIX_CONTROL.unpack(msix.mxc).ts_z + 1 == vectors
    table, pba = MSIX_PLACE.unpack(msix.mtab), MSIX_PLACE.unpack(msix.mpba)
    assert (table.bir, pba.bir) == (4, 4)
    assert vectors * 16 <= pba.offset * 8
    size = space.shape.bar4_bytes
    assert pba.offset * 8 + msix_pba_bytes(vectors) <= size
    assert size & (size - 1) == 0


def test_bars_are_sized_by_writing_ones() -> None:
    space = make()
    for at, nbytes in ((0x10, 0x4000), (0x20, 0x2000)):
        space.write(at, b"\xff" * 8)
        (value,) = struct.unpack("<Q", space.read(at, 8))
        assert value & ~0xF == bar_mask(nbytes)
        assert -(value & ~0xF) % (1 << 64) == nbytes
        assert value & 0xF == 4
        space.write(at, struct.pack("<Q", 0xFE60_0000_0000))
        assert struct.unpack("<Q", space.read(at, 8))[0] == 0xFE60_0000_0004
    for at in (0x18, 0x1C, 0x30):
        space.write(at, b"\xff" * 4)
        assert space.read(at, 4) == bytes(4)


def test_only_writable_bits_change_whatever_is_written() -> None:
    space = make()
    before = space.read(0, CONFIG_BYTES)
    for at in range(0, CONFIG_BYTES, 4):
        space.write(at, b"\xff" * 4)
    after = space.read(0, CONFIG_BYTES)
    changed = {at for at in range(CONFIG_BYTES) if before[at] != after[at]}
    command = COMMAND.unpack(int.from_bytes(after[4:6], "little"))
    assert (command.mse, command.bme, command.iose, command.rsvd11) == (1, 1, 0, 0)
    allowed = {4, 5, 0x0C, *range(0x10, 0x18), *range(0x20, 0x28), 0x3C, 0x44, 0x52, 0x53, *range(0x68, 0x72)}
    assert changed <= allowed
    space.reset()
    assert space.read(0, CONFIG_BYTES) == before


def test_effects_tell_what_a_write_did() -> None:
    space = make()
    assert space.write(4, b"\2\0") == Effect.NONE
    assert space.write(4, b"\6\0") == Effect.BUS_MASTER
    assert space.bus_master
    assert space.write(4, b"\6\0") == Effect.NONE
    assert space.write(0x52, b"\0\x80") == Effect.MSIX
    assert space.msix_enabled and not space.function_masked
    assert space.write(0x53, b"\xc0") == Effect.MSIX
    assert space.function_masked
    assert space.write(0x68, b"\0\0\0\0") == Effect.NONE
    assert space.write(0x69, b"\x80") == Effect.FUNCTION_RESET
    assert space.write(0x66, b"\0\0\0\x80") == Effect.FUNCTION_RESET
    assert not space.read(0x69, 1)[0] & 0x80


def test_function_level_reset_resets_the_controller(rig: Rig, client: Client) -> None:
    client.bus_master()
    client.write(0, 0x24, b"\x1f\0\x1f\0")
    client.write(7, 0x68, b"\0\x80")
    assert client.read(0, 0x24, 4) == bytes(4)
    assert not rig.function.config_space.bus_master


def test_function_mask_holds_all_vectors_back(rig: Rig, client: Client) -> None:
    import os

    from vfioclient import fired

    (fd,) = client.eventfds(1)
    client.write(7, 0x52, struct.pack("<H", 0xC000))
    rig.controller.interrupts.raise_vector(0)
    client.write(0, 0x0C, bytes(4))
    assert fired(fd) == 0
    client.write(7, 0x52, struct.pack("<H", 0x8000))
    rig.turn()
    assert fired(fd) == 1
    os.close(fd)


def test_power_state_is_kept_and_nothing_is_lost_by_it(client: Client) -> None:
    client.write(0, 0x24, b"\x1f\0\x1f\0")
    client.write(7, 0x44, b"\3\0")
    assert client.read(7, 0x44, 2) == b"\x0b\0"
    client.write(7, 0x44, b"\0\0")
    assert client.read(0, 0x24, 4) == b"\x1f\0\x1f\0"


def test_doorbells_without_bus_mastering_wait_for_it(rig: Rig, client: Client) -> None:
    from vfioclient import GuestMemory

    from nvme_emu.spec.opcodes import AdminOpcode

    memory = GuestMemory(client)
    host = NvmeHost(client, memory)
    host.enable()
    client.bus_master(False)
    cid = host.admin.submit(AdminOpcode.IDENTIFY, 0, memory.pages(), 0, 1)
    rig.turn(20)
    assert host.admin.reap() is None
    client.bus_master()
    rig.turn()
    assert host.admin.reap() == (cid, 0, 0)
    memory.close()
