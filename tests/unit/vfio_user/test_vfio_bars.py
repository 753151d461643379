"""BARs with memory of the controller's own: mapped or by messages, at the host's address; what resets leave of it."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
from vfioclient import PAGE, Client, GuestMemory, NvmeHost, Rig

from nvme_emu.controller import ControllerConfig
from nvme_emu.controller.pcie.memory_buffers import MemoryBuffers
from nvme_emu.core.memory import HostMemory
from nvme_emu.media import PmrFile
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.pci import Header
from nvme_emu.spec.registers import CMBMSC, CMBSTS, Reg
from nvme_emu.spec.vfio_user import (
    REGION_INFO,
    SPARSE_AREA,
    SPARSE_MMAP,
    Command,
    RegionFlag,
    RegionIndex,
)
from nvme_emu.transports.vfio_user.bars import SharedBars

CMB, PMR = 1 << 20, 1 << 16
CBA = 0x40_0000_0000
CRE_CMSE = CMBMSC.pack(cre=1, cmse=1)


@pytest.fixture
def both(make_rig: Callable[..., Rig]) -> Rig:
    """A CMB in BAR4, a PMR in BAR2; descriptors that are left open fail the test."""
    return make_rig(cmb_bytes=CMB, pmr_bytes=PMR)


def region_of(client: Client, index: int) -> tuple[int, list[tuple[int, int]], mmap.mmap | None]:
    """Size and mappable areas of a region; the first of them, mapped."""
    reply = client.request(Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=256, index=index))
    info = REGION_INFO.parse(reply.data[: REGION_INFO.size])
    if not info.flags & RegionFlag.CAPS:
        assert not reply.fds
        return info.size, [], None
    at = info.cap_offset
    count = SPARSE_MMAP.parse(reply.data[at : at + SPARSE_MMAP.size]).nr_areas
    at += SPARSE_MMAP.size
    areas = [SPARSE_AREA.parse(reply.data[at + n * SPARSE_AREA.size :][: SPARSE_AREA.size]) for n in range(count)]
    with open(reply.fds[0], "r+b") as file:
        mapped = mmap.mmap(file.fileno(), areas[0].size, offset=areas[0].offset)
    return info.size, [(area.offset, area.size) for area in areas], mapped


def enable_cmb(client: Client, base: int = CBA) -> None:
    client.write(RegionIndex.BAR0, Reg.CMBMSC, (base | CRE_CMSE).to_bytes(8, "little"))


def invalid(client: Client) -> int:
    return CMBSTS.unpack(int.from_bytes(client.read(RegionIndex.BAR0, Reg.CMBSTS, 4), "little")).cbai


def test_buffers_are_mapped_where_cmbloc_and_pmrcap_say(both: Rig) -> None:
    client = both.client()

    assert region_of(client, RegionIndex.BAR2)[:2] == (PMR, [(0, PMR)])
    size, areas, mapped = region_of(client, RegionIndex.BAR4)
    assert (size, areas) == (2 * CMB, [(CMB, CMB)]) and mapped is not None
    with mapped:
        mapped[5:8] = b"abc"
        assert client.read(RegionIndex.BAR4, CMB + 4, 8) == b"\0abc\0\0\0\0"
        client.write(RegionIndex.BAR4, CMB + 5, b"ABC")
        assert mapped[5:8] == b"ABC"
    assert client.read(RegionIndex.BAR4, 0x3000, 8) == bytes(8)  # behind the MSI-X table: nothing
    assert client.read(RegionIndex.BAR4, 12, 4) == b"\1\0\0\0"  # the table: masked


def test_configuration_space_has_bar2_only_with_memory_in_it(make_rig: Callable[..., Rig]) -> None:
    client = make_rig(cmb_bytes=CMB, pmr_bytes=PMR).client()
    for at, size in ((0, 0x4000), (8, PMR), (16, 2 * CMB)):
        client.write(RegionIndex.CONFIG, Header.BAR0 + at, b"\xff" * 8)
        found = int.from_bytes(client.read(RegionIndex.CONFIG, Header.BAR0 + at, 8), "little")
        assert -(found & ~0xF) & (1 << 64) - 1 == size
        assert found & 0xF == (0xC if at == 8 else 4)
    client = make_rig().client()
    client.write(RegionIndex.CONFIG, Header.BAR0 + 8, b"\xff" * 8)
    assert client.read(RegionIndex.CONFIG, Header.BAR0 + 8, 8) == bytes(8)
    assert region_of(client, RegionIndex.BAR2)[0] == 0


@pytest.mark.parametrize("messages", [False, True])
def test_commands_find_data_in_the_cmb(make_rig: Callable[..., Rig], messages: bool) -> None:
    rig = make_rig(cmb_bytes=CMB)
    client = rig.client()
    memory = GuestMemory(client, messages=messages)
    host = NvmeHost(client, memory)
    host.enable()
    io = host.create_io()
    enable_cmb(client)
    client.write(RegionIndex.BAR2, 0, b"data" * 128)

    assert io.run(NvmOpcode.WRITE, 1, CBA) == (0, 0)
    assert bytes(rig.media.array[:512]) == b"data" * 128
    assert io.run(NvmOpcode.READ, 1, CBA + 2 * PAGE) == (0, 0)
    assert client.read(RegionIndex.BAR2, 2 * PAGE, 512) == b"data" * 128
    memory.close()


def test_what_a_client_maps_of_its_own_bar_makes_way_and_comes_back(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(cmb_bytes=CMB)
    client = rig.client()
    maps = rig.function.maps
    assert client.map(CBA, CMB).errno == 0  # as QEMU does with a BAR that it has mapped
    assert maps.by_message
    enable_cmb(client)
    assert not invalid(client) and not maps.by_message and len(maps) == 1
    rig.memory.find(CBA, CMB, True)
    assert client.unmap(CBA, CMB).errno == 0 and len(maps) == 0
    assert client.map(CBA, CMB).errno == 0
    assert not maps.by_message
    client.write(RegionIndex.BAR0, Reg.CMBMSC, bytes(8))
    assert maps.by_message
    # A part of the buffer is somebody else's: that cannot be.
    assert client.map(CBA + CMB, CMB).errno == 0
    enable_cmb(client, CBA + PAGE)
    assert invalid(client) and len(maps.copied) == 2
    client.write(RegionIndex.BAR0, Reg.CMBMSC, bytes(8))
    assert client.unmap(0, 0, flags=2).errno == 0 and not maps.copied


def test_resets_leave_of_the_properties_what_the_specification_says(both: Rig) -> None:
    client = both.client()
    enable_cmb(client)
    client.write(RegionIndex.BAR0, Reg.PMRCTL, b"\1\0\0\0")
    client.write(RegionIndex.BAR2, 0, b"kept")
    client.write(RegionIndex.BAR4, CMB, b"left")

    def control() -> tuple[int, int]:
        cmb = client.read(RegionIndex.BAR0, Reg.CMBMSC, 8)
        return int.from_bytes(cmb, "little"), client.read(RegionIndex.BAR0, Reg.PMRCTL, 4)[0]

    client.write(RegionIndex.CONFIG, 0x60 + 8, (1 << 15).to_bytes(2, "little"))  # function level reset
    assert control() == (CBA | CRE_CMSE, 0)
    assert client.request(Command.DEVICE_RESET).errno == 0
    assert control() == (0, 0)
    client.close()
    both.turn()
    client = both.client()
    client.write(RegionIndex.BAR0, Reg.PMRCTL, b"\1\0\0\0")
    assert client.read(RegionIndex.BAR2, 0, 4) == b"kept"
    assert client.read(RegionIndex.BAR4, CMB, 4) == bytes(4)


def test_a_buffer_in_a_file_and_one_in_bar0_go_by_messages(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    client = make_rig(cmb_bytes=CMB, cmb_bar=0).client()
    assert region_of(client, RegionIndex.BAR0)[:2] == (2 * CMB, [])
    client.write(RegionIndex.BAR0, CMB + 3, b"bytes")
    assert client.read(RegionIndex.BAR0, CMB, 16) == b"\0\0\0bytes" + bytes(8)
    assert client.read(RegionIndex.BAR0, Reg.CAP, 8) != bytes(8)

    store = PmrFile(tmp_path / "pmr", PMR)
    buffers = MemoryBuffers(ControllerConfig(pmr_bytes=PMR), HostMemory())
    assert buffers.pmr is not None
    buffers.pmr.keep_in(store)
    assert SharedBars(buffers).of(RegionIndex.BAR2) == ((), None)
    store.close()
