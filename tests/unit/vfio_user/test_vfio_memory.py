"""DMA_MAP and DMA_UNMAP: mapped, by descriptor and by messages; lying descriptors; what stays behind."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from vfioclient import PAGE, Client, GuestMemory, NvmeHost, Rig, fired, open_fds

from nvme_emu.core.errors import DmaError
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import DNR, Status
from nvme_emu.transports.vfio_user.dma import DMA_MAPS_MAX
from nvme_emu.transports.vfio_user.remote import ANSWER_NS, READ_BYTES_MAX

READ, WRITE = 1, 2


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


# -- what a map is ------------------------------------------------------------------------------------------


def test_memfd_is_mapped_and_sealed_against_shrinking(rig: Rig, client: Client, memfd: int) -> None:
    assert client.map(0x10000, 8 * PAGE, memfd, offset=2 * PAGE).errno == 0
    (region,) = rig.memory.regions
    assert (region.base, region.size, region.writable, region.direct) == (0x10000, 8 * PAGE, True, True)
    os.pwrite(memfd, b"hello", 2 * PAGE + 5)
    assert rig.memory.read(0x10005, 5) == b"hello"
    rig.memory.write(0x10000, b"there")
    assert os.pread(memfd, 5, 2 * PAGE) == b"there"
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(memfd, 0)


def test_read_only_map_cannot_be_written(rig: Rig, client: Client, memfd: int) -> None:
    assert client.map(0, 4 * PAGE, memfd, flags=READ).errno == 0
    with pytest.raises(DmaError, match="read-only"):
        rig.memory.write(0, b"x")
    assert rig.memory.read(0, 1) == b"\0"


def test_read_only_descriptor_allows_read_only_maps(client: Client, memfd: int) -> None:
    fd = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    assert client.map(0, PAGE, fd).errno == errno.EACCES
    assert client.map(0, PAGE, fd, flags=READ).errno == 0
    os.close(fd)


def test_file_that_can_shrink_is_not_mapped_and_its_end_is_an_error(
    rig: Rig, client: Client, tmp_path: Path
) -> None:
    with open(tmp_path / "ram", "w+b") as file:
        file.truncate(4 * PAGE)
        assert client.map(0, 4 * PAGE, file.fileno()).errno == 0
        (region,) = rig.memory.regions
        assert not region.direct
        region.in_step = True
        file.seek(PAGE)
        file.write(b"abc")
        file.flush()
        assert rig.memory.read(PAGE, 3) == b"abc"
        rig.memory.write(2 * PAGE, b"xyz")
        region.carry_back()
        assert os.pread(file.fileno(), 3, 2 * PAGE) == b"xyz"
        file.truncate(PAGE)
        with pytest.raises(DmaError, match="shorter"):
            rig.memory.read(PAGE, 3)


def test_memfd_that_forbids_seals_is_read_through_its_descriptor(rig: Rig, client: Client) -> None:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    assert client.map(0, PAGE, fd).errno == 0
    assert not rig.memory.regions[0].direct
    os.close(fd)


def test_map_without_descriptor_costs_no_memory_whatever_its_size(rig: Rig, client: Client) -> None:
    assert client.map(0, 1 << 40).errno == 0
    assert client.map(1 << 62, 1 << 62).errno == errno.ENOMEM
    assert len(rig.memory.regions) == 1


@pytest.mark.parametrize(
    ("address", "size", "flags", "offset", "number"),
    [
        (0, 0, 3, 0, errno.EINVAL),
        (0, 100, 3, 0, errno.EINVAL),
        (1, PAGE, 3, 0, errno.EINVAL),
        (0, PAGE, 3, 1, errno.EINVAL),
        (0, PAGE, 0, 0, errno.EINVAL),
        (0, PAGE, 4, 0, errno.EINVAL),
        (0, PAGE, 0x103, 0, errno.EINVAL),
        ((1 << 64) - PAGE, 2 * PAGE, 3, 0, errno.EINVAL),
        (0, 17 * PAGE, 3, 0, errno.EINVAL),
        (0, PAGE, 3, 16 * PAGE, errno.EINVAL),
        (0, PAGE, 3, (1 << 64) - PAGE, errno.EINVAL),
        (0, (1 << 64) - PAGE, 3, 0, errno.EINVAL),
    ],
)
def test_map_that_cannot_be_is_refused(
    rig: Rig, client: Client, memfd: int, address: int, size: int, flags: int, offset: int, number: int
) -> None:
    before = open_fds()
    assert client.map(address, size, memfd, flags=flags, offset=offset).errno == number
    assert not rig.memory.regions
    assert open_fds() == before


def test_map_over_another_is_refused_with_eexist(rig: Rig, client: Client, memfd: int) -> None:
    assert client.map(4 * PAGE, 4 * PAGE, memfd).errno == 0
    for address, size in ((4 * PAGE, 4 * PAGE), (0, 5 * PAGE), (7 * PAGE, PAGE), (0, 16 * PAGE)):
        assert client.map(address, size, memfd).errno == errno.EEXIST
    assert client.map(0, 4 * PAGE, memfd).errno == 0
    assert client.map(8 * PAGE, PAGE, memfd).errno == 0
    assert len(rig.memory.regions) == 3


def test_descriptors_of_other_kinds_are_refused(client: Client) -> None:
    before = open_fds()
    pipe, event = os.pipe(), os.eventfd(0)
    directory = os.open("/tmp", os.O_RDONLY)
    for fd in (*pipe, event, directory, client.socket.fileno()):
        assert client.map(0, PAGE, fd).errno == errno.EINVAL
    for fd in (*pipe, event, directory):
        os.close(fd)
    assert open_fds() == before


def test_two_descriptors_are_refused_and_closed(client: Client, memfd: int) -> None:
    before = open_fds()
    payload = struct.pack("<IIQQQ", 32, 3, 0, 0, PAGE)
    assert client.request(2, payload, [memfd, memfd]).errno == errno.EINVAL
    assert open_fds() == before


def test_more_maps_than_there_may_be_are_refused(rig: Rig, client: Client) -> None:
    for number in range(DMA_MAPS_MAX):
        assert client.map(number * PAGE, PAGE).errno == 0
    assert client.map(DMA_MAPS_MAX * PAGE, PAGE).errno == errno.ENOSPC


# -- unmapping ----------------------------------------------------------------------------------------------


def test_unmap_takes_exactly_one_map_and_gives_its_entry_back(rig: Rig, client: Client, memfd: int) -> None:
    before = open_fds()
    assert client.map(0, 4 * PAGE, memfd).errno == 0
    for address, size in ((0, PAGE), (PAGE, 4 * PAGE), (0, 0), (8 * PAGE, PAGE)):
        assert client.unmap(address, size).errno == errno.ENOENT
    reply = client.unmap(0, 4 * PAGE)
    assert reply == (0, struct.pack("<IIQQ", 24, 0, 0, 4 * PAGE), [])
    assert not rig.memory.regions
    assert open_fds() == before
    assert client.map(0, 4 * PAGE, memfd).errno == 0


def test_unmap_all_takes_every_kind(rig: Rig, client: Client, memfd: int, tmp_path: Path) -> None:
    before = open_fds()
    with open(tmp_path / "ram", "w+b") as file:
        file.truncate(PAGE)
        assert client.map(0, PAGE, memfd).errno == 0
        assert client.map(PAGE, PAGE).errno == 0
        assert client.map(2 * PAGE, PAGE, file.fileno()).errno == 0
        assert client.unmap(0, PAGE, flags=2).errno == errno.EINVAL
        assert client.unmap(0, 0, flags=2).errno == 0
    assert not rig.memory.regions
    assert open_fds() == before


def test_memory_unmapped_under_a_queue_fails_the_controller_and_nothing_else(rig: Rig, client: Client) -> None:
    memory = GuestMemory(client)
    host = NvmeHost(client, memory)
    host.enable()
    assert client.unmap(memory.base, memory.size).errno == 0
    host.admin.submit(AdminOpcode.IDENTIFY, 0, memory.base)
    assert host.read32(Reg.CSTS) & 2, "CFS"
    memory.close()


# -- with commands ------------------------------------------------------------------------------------------


@pytest.fixture(params=["mapped", "messages"])
def host(request: pytest.FixtureRequest, client: Client) -> Iterator[NvmeHost]:
    memory = GuestMemory(client, messages=request.param == "messages")
    host = NvmeHost(client, memory)
    host.enable()
    yield host
    memory.close()


def test_commands_move_data_in_and_out(rig: Rig, host: NvmeHost) -> None:
    memory = host.memory
    page = memory.pages()
    assert host.admin.run(AdminOpcode.IDENTIFY, 0, page, 0, 1) == (0, 0)
    assert memory.get(page + 4, 11) == b"NVMEEMU0001"
    io = host.create_io()
    out, back, prp_list = memory.pages(5), memory.pages(5), memory.pages()
    data = bytes(range(256)) * 80
    memory.put(out, data)
    for first, opcode in ((out, NvmOpcode.WRITE), (back, NvmOpcode.READ)):
        memory.put(prp_list, struct.pack("<4Q", *(first + PAGE * n for n in range(1, 5))))
        assert io.run(opcode, 1, first, prp_list, 8, 0, 39) == (0, 0)
    assert memory.get(back, len(data)) == data
    assert bytes(rig.media.array[4096 : 4096 + len(data)]) == data


def test_queues_wrap(host: NvmeHost) -> None:
    io = host.create_io()
    out, back = host.memory.pages(), host.memory.pages()
    for number in range(40):
        host.memory.put(out, bytes([number]) * PAGE)
        assert io.run(NvmOpcode.WRITE, 1, out, 0, number * 8, 0, 7) == (0, 0)
    for number in range(40):
        assert io.run(NvmOpcode.READ, 1, back, 0, number * 8, 0, 7) == (0, 0)
        assert host.memory.get(back, PAGE) == bytes([number]) * PAGE


def test_several_commands_in_one_step_are_all_answered(host: NvmeHost) -> None:
    io = host.create_io()
    host.client.bus_master(False)
    pages = [host.memory.pages() for _ in range(10)]
    ids = [io.submit(NvmOpcode.READ, 1, page, 0, 0, 0, 7) for page in pages]
    host.client.serve_dma(5)
    assert io.reap() is None, "without bus mastering nothing is fetched"
    host.client.bus_master()
    host.client.serve_dma()
    found = [io.reap() for _ in ids]
    assert [one[:2] for one in found if one] == [(cid, 0) for cid in ids]


def test_dma_outside_the_maps_is_a_data_transfer_error(host: NvmeHost) -> None:
    io = host.create_io()
    for address in (0, 0x5000_0000, (1 << 64) - PAGE, host.memory.base + host.memory.size):
        assert io.run(NvmOpcode.WRITE, 1, address, 0, 0, 0, 7)[0] & 0x7FF == Status.DATA_XFER_ERROR
    assert io.run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 0) == (0, 0)


def test_completions_raise_their_vector(host: NvmeHost) -> None:
    fds = host.client.eventfds(2)
    io = host.create_io(vector=1)
    assert fired(fds[0])
    assert io.run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 0) == (0, 0)
    assert [fired(fd) for fd in fds] == [0, 1]
    for fd in fds:
        os.close(fd)


def test_reset_and_a_new_start_work(host: NvmeHost) -> None:
    host.create_io()
    assert host.client.request(13).errno == 0
    assert host.read32(Reg.CSTS) == 0
    host.client.bus_master()
    host.enable()
    assert host.create_io().run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 0) == (0, 0)


# -- by messages --------------------------------------------------------------------------------------------


@pytest.fixture
def distant(client: Client) -> NvmeHost:
    """A host whose memory is reached by messages, with an I/O queue."""
    host = NvmeHost(client, GuestMemory(client, messages=True))
    host.enable()
    host.create_io()
    return host


def test_data_is_carried_back_before_its_completion(distant: NvmeHost) -> None:
    page = distant.memory.pages()
    distant.client.dma.clear()
    assert distant.io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7) == (0, 0)
    writes = [address for name, address, _ in distant.client.dma if name == "DMA_WRITE"]
    assert writes[0] == page
    assert distant.io.cq <= writes[1] < distant.io.cq + PAGE
    assert len(writes) == 2


def test_failed_transfer_leaves_the_hosts_bytes_alone(rig: Rig, distant: NvmeHost) -> None:
    page = distant.memory.pages()
    distant.memory.put(page, b"precious" * 512)

    def fail(offset: int, out: memoryview) -> None:
        raise OSError(errno.EIO, "the medium fails")

    rig.controller.namespaces[1].view = None
    rig.media.read_into = fail
    status, _ = distant.io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7)
    assert status & 0x7FF == Status.READ_ERROR
    assert distant.memory.get(page, PAGE) == b"precious" * 512


def test_registers_are_served_while_a_step_waits_for_the_client(rig: Rig, distant: NvmeHost) -> None:
    client, io = distant.client, distant.io
    client.answers_dma = False
    io.submit(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 7)
    client.serve_dma(3)
    assert rig.function.waiting
    assert distant.read32(Reg.CSTS) == 1
    io.submit(NvmOpcode.READ, 1, distant.memory.pages(), 0, 8, 0, 7)
    assert rig.function.waiting, "the second doorbell waits for the first one's step"


def test_controller_disabled_while_a_step_waits_ends_the_step(rig: Rig, distant: NvmeHost) -> None:
    client = distant.client
    client.answers_dma = False
    distant.io.submit(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 7)
    client.serve_dma(3)
    assert rig.function.waiting
    distant.write32(Reg.CC, 0)
    assert not rig.function.waiting
    assert distant.read32(Reg.CSTS) == 0
    client.answers_dma = True
    distant.memory.free = distant.memory.base
    distant.enable()
    assert distant.create_io().run(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 0) == (0, 0)


@pytest.mark.parametrize("how", ["reset", "unmap", "bus master", "flr", "hang up"])
def test_step_that_waits_is_ended_by(rig: Rig, distant: NvmeHost, how: str) -> None:
    client = distant.client
    client.answers_dma = False
    distant.io.submit(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 7)
    client.serve_dma(3)
    assert rig.function.waiting
    if how == "reset":
        assert client.request(13).errno == 0
    elif how == "unmap":
        assert client.unmap(distant.memory.base, distant.memory.size).errno == 0
    elif how == "bus master":
        client.bus_master(False)
    elif how == "flr":
        client.write(7, 0x68, struct.pack("<H", 1 << 15))
    else:
        client.close()
        rig.turn()
    assert not rig.function.waiting
    assert rig.server.internal_error is None


def test_client_that_refuses_an_access_fails_the_command_only(rig: Rig, distant: NvmeHost) -> None:
    hole = distant.memory.base + distant.memory.size
    assert distant.client.map(hole, PAGE).errno == 0
    status, _ = distant.io.run(NvmOpcode.READ, 1, hole, 0, 0, 0, 7)
    assert status == Status.DATA_XFER_ERROR | DNR or status & 0x7FF == Status.DATA_XFER_ERROR
    assert distant.io.run(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 7) == (0, 0)


def test_client_that_never_answers_is_dropped_in_time(make_rig) -> None:
    from vfioclient import Clock, Gone

    clock = Clock()
    rig = make_rig(clock=clock)
    client = rig.client()
    host = NvmeHost(client, GuestMemory(client, messages=True))
    host.enable()
    host.create_io()
    client.answers_dma = False
    host.io.submit(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 7)
    client.serve_dma(3)
    clock.now_ns += ANSWER_NS - 1
    client.serve_dma(3)
    clock.now_ns += 1
    with pytest.raises(Gone):
        client.serve_dma(3)
    assert any("unanswered" in line for line in rig.log)
    assert rig.client().capabilities


def test_transfers_are_cut_to_what_a_message_may_carry(rig: Rig) -> None:
    client = rig.client(max_data_xfer_size=4096)
    host = NvmeHost(client, GuestMemory(client, messages=True))
    host.enable()
    io = host.create_io()
    pages = host.memory.pages(2)
    assert io.run(NvmOpcode.READ, 1, pages, pages + PAGE, 0, 0, 15) == (0, 0)
    assert max(count for _, _, count in client.dma) == 4096


def test_reads_are_short_enough_for_a_client_that_answers_in_one_call(distant: NvmeHost) -> None:
    """QEMU loses what its socket does not take at once."""
    out, prp_list = distant.memory.pages(64), distant.memory.pages()
    distant.memory.put(prp_list, struct.pack("<63Q", *(out + PAGE * n for n in range(1, 64))))
    distant.client.dma.clear()
    assert distant.io.run(NvmOpcode.WRITE, 1, out, prp_list, 0, 0, 511) == (0, 0)
    reads = [count for name, _, count in distant.client.dma if name == "DMA_READ"]
    assert max(reads) == READ_BYTES_MAX
    assert sum(reads) >= 64 * PAGE


@pytest.mark.parametrize(
    "answer",
    [
        lambda i, c: struct.pack("<HHIII", i, c, 16 + 16 + 8, 1, 0) + bytes(24),
        lambda i, c: struct.pack("<HHIII", i ^ 1, c, 32, 1, 0) + bytes(16),
        lambda i, c: struct.pack("<HHIII", i, 9, 32, 1, 0) + bytes(16),
        lambda i, c: struct.pack("<HHIII", i, c, 16, 7, 0),
    ],
    ids=["short", "id", "command", "type"],
)
def test_wrong_answer_ends_the_conversation_alone(rig: Rig, distant: NvmeHost, answer) -> None:
    from vfioclient import Gone

    client = distant.client
    seen = []
    client._dma = lambda message_id, command, payload: seen.append((message_id, command))
    distant.io.submit(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 7)
    client.serve_dma(3)
    client.send(answer(*seen[0]))
    with pytest.raises(Gone):
        client.serve_dma(5)
    assert rig.client().capabilities
