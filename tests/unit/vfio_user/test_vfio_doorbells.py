"""Doorbells in mapped memory: seen, cleared with their queues, and watched less and less when idle."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

import pytest
from vfioclient import Clock, GuestMemory, NvmeHost, Rig

from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import NSSR_MAGIC, Reg, doorbell_offset
from nvme_emu.spec.vfio_user import REGION_INFO, Command
from nvme_emu.transports.vfio_user.doorbells import PAUSE_MAX_NS, SPIN_NS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(make_rig: Callable[..., Rig], clock: Clock) -> Iterator[NvmeHost]:
    client = make_rig(mapped_doorbells=True, clock=clock).client()
    reply = client.request(Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=64, index=0))
    page = mmap.mmap(reply.fds[0], 0x3000, offset=0x1000)
    os.close(reply.fds[0])
    memory = GuestMemory(client)
    host = NvmeHost(client, memory, page=page)
    host.enable()
    yield host
    page.close()
    memory.close()


def word(host: NvmeHost, qid: int, is_cq: bool = False) -> int:
    at = doorbell_offset(qid, is_cq) - 0x1000
    return int.from_bytes(host.page[at : at + 4], "little")


def test_commands_are_found_without_a_message(host: NvmeHost) -> None:
    io = host.create_io()
    page = host.memory.pages()
    before = host.client.rig.server._session.messages
    for _ in range(40):
        assert io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7) == (0, 0)
    assert host.client.rig.server._session.messages == before


def test_doorbell_by_a_message_works_as_well(host: NvmeHost) -> None:
    io = host.create_io()
    host.page, page = None, host.page
    assert io.run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 7) == (0, 0)
    host.page = page


def test_words_of_a_deleted_queue_are_cleared_so_that_a_new_one_starts_at_nought(host: NvmeHost) -> None:
    io = host.create_io()
    page = host.memory.pages()
    for _ in range(3):
        io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7)
    assert (word(host, 1), word(host, 1, True)) == (3, 3)
    assert host.admin.run(AdminOpcode.DELETE_IO_SQ, 0, 0, 0, 1) == (0, 0)
    assert host.admin.run(AdminOpcode.DELETE_IO_CQ, 0, 0, 0, 1) == (0, 0)
    assert (word(host, 1), word(host, 1, True)) == (0, 0)
    io = host.create_io()
    for _ in range(3):
        assert io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7) == (0, 0)


def test_words_are_cleared_by_a_controller_reset(host: NvmeHost) -> None:
    host.create_io().run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 7)
    host.write32(0x14, 0)
    assert [word(host, qid, cq) for qid in (0, 1) for cq in (False, True)] == [0, 0, 0, 0]
    host.enable()
    assert host.create_io().run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 7) == (0, 0)


def test_words_of_queues_that_do_not_exist_are_not_looked_at(host: NvmeHost) -> None:
    host.create_io()
    host.ring(doorbell_offset(9, False), 5)
    host.ring(doorbell_offset(2, True), 5)
    host.client.rig.turn(5)
    assert host.admin.run(AdminOpcode.IDENTIFY, 0, host.memory.pages(), 0, 1) == (0, 0)


def test_words_rung_while_there_was_no_queue_are_not_the_next_queues_tail(host: NvmeHost) -> None:
    """A host whose queues were taken away rings on: Linux does after a subsystem reset."""
    rig = host.client.rig
    host.create_io()
    host.write32(Reg.NSSR, NSSR_MAGIC)
    fetched = rig.controller.counters.fetched
    for qid in (0, 1):
        for is_cq in (False, True):
            host.ring(doorbell_offset(qid, is_cq), 7)
    rig.pass_time(PAUSE_MAX_NS)
    rig.turn(5)
    host.write32(Reg.CC, 0)
    host.enable()
    rig.pass_time(PAUSE_MAX_NS)
    rig.turn(5)
    assert rig.controller.counters.fetched == fetched, "the new admin queue is empty"
    io = host.create_io()
    rig.pass_time(PAUSE_MAX_NS)
    rig.turn(5)
    assert rig.controller.counters.fetched == fetched + 2
    assert io.run(NvmOpcode.READ, 1, host.memory.pages(), 0, 0, 0, 7) == (0, 0)


def test_controller_that_takes_time_to_be_ready_is_watched_afterwards(
    make_rig: Callable[..., Rig], clock: Clock
) -> None:
    rig = make_rig(mapped_doorbells=True, clock=clock, ready_ns=1_000_000)
    client = rig.client()
    reply = client.request(Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=64, index=0))
    page = mmap.mmap(reply.fds[0], 0x3000, offset=0x1000)
    os.close(reply.fds[0])
    memory = GuestMemory(client)
    host = NvmeHost(client, memory, page=page)
    host.set_up()
    assert not host.read32(Reg.CSTS) & 1
    clock.now_ns += 1_000_000
    rig.turn()
    assert host.read32(Reg.CSTS) & 1
    assert host.admin.run(AdminOpcode.IDENTIFY, 0, memory.pages(), 0, 1) == (0, 0)
    page.close()
    memory.close()


def test_looks_become_rarer_while_nothing_happens_and_frequent_again(host: NvmeHost, clock: Clock) -> None:
    rig = host.client.rig
    page = rig.function.page
    host.create_io()
    start = clock.now_ns
    clock.now_ns += SPIN_NS // 2
    looks = page.looks
    rig.turn(5)
    assert page.looks >= looks + 4, "soon after a doorbell there is no pause"
    pauses = []
    while clock.now_ns < start + 100 * PAUSE_MAX_NS:
        due = rig.function.next_deadline()
        pauses.append(due - clock.now_ns)
        clock.now_ns = max(due, clock.now_ns + 1000)
        rig.turn(1)
    assert max(pauses) == PAUSE_MAX_NS
    assert sum(pause == PAUSE_MAX_NS for pause in pauses) > 50
    clock.now_ns += PAUSE_MAX_NS
    assert host.admin.run(AdminOpcode.IDENTIFY, 0, host.memory.pages(), 0, 1) == (0, 0)
    assert rig.function.next_deadline() <= clock.now_ns


def test_device_without_queues_is_not_looked_at(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(mapped_doorbells=True)
    client = rig.client()
    rig.turn()
    assert rig.function.next_deadline() is None
    client.bus_master()
    rig.turn()
    assert rig.function.next_deadline() is None


def test_page_of_one_client_is_not_the_next_ones(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(mapped_doorbells=True)
    inodes = []
    for _ in range(2):
        client = rig.client()
        reply = client.request(Command.DEVICE_GET_REGION_INFO, REGION_INFO.build(argsz=64, index=0))
        inodes.append(os.fstat(reply.fds[0]).st_ino)
        os.close(reply.fds[0])
        client.close()
        rig.turn()
    assert inodes[0] != inodes[1]
