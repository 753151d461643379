"""Queues in lists of pages, and the largest queues."""

from __future__ import annotations

import pytest
from rawhost import PAGE, FixedLatency, RawHost

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE, SQE_SIZE
from nvme_emu.spec.registers import CAP, Reg, doorbell_offset
from nvme_emu.spec.status import Status

LISTS = ControllerConfig(contiguous_queues=False)


def listed(host: RawHost, nbytes: int) -> tuple[int, list[int]]:
    """A queue's pages, in disorder, and their list, chained where it takes more than a page."""
    count = -(-nbytes // PAGE)
    pages = [host.pages() for _ in range(count)][::-1]
    lists = [host.pages()]
    left, room = list(pages), PAGE // 8
    while left:
        entries = left[:room] if len(left) <= room else left[: room - 1]
        left = left[len(entries) :]
        if left:
            lists.append(host.pages())
            entries = [*entries, lists[-1]]
        host.memory.write(lists[-1 - bool(left)], b"".join(entry.to_bytes(8, "little") for entry in entries))
    return lists[0], pages


def create(host: RawHost, size: int, base_cq: int, base_sq: int, pc: int = 0) -> list[int]:
    creates = ((AdminOpcode.CREATE_IO_CQ, base_cq, 2), (AdminOpcode.CREATE_IO_SQ, base_sq, 1 << 16))
    return [
        host.admin.run(opcode, nsid=0, prp1=base, cdw10=size - 1 << 16 | 1, cdw11=cdw11 | pc).status & 0x7FF
        for opcode, base, cdw11 in creates
    ]


def run(host: RawHost, size: int, sq: list[int], cq: list[int], count: int, batch: int) -> None:
    tail = head = done = 0
    phase, data = 1, host.pages()
    while done < count:
        for number in range(done, min(done + batch, count)):
            at = tail * SQE_SIZE
            entry = SQE.pack(NvmOpcode.READ, 0, number & 0xFFF, 1, 0, 0, 0, data, 0, number % 64, *[0] * 5)
            host.memory.write(sq[at // PAGE] + at % PAGE, entry)
            tail = (tail + 1) % size
        host.ctrl.mmio_write(doorbell_offset(1, False), 4, tail)
        host.step(host.now_ns)
        host.step(host.now_ns + 10_000)
        for number in range(done, min(done + batch, count)):
            at = head * CQE_SIZE
            *_, cid, status = CQE.unpack(host.memory.read(cq[at // PAGE] + at % PAGE, CQE_SIZE))
            assert (cid, status) == (number & 0xFFF, phase), number
            head = (head + 1) % size
            phase ^= head == 0
        host.ctrl.mmio_write(doorbell_offset(1, True), 4, head)
        done = min(done + batch, count)


@pytest.mark.parametrize("latency", [None, FixedLatency(500)], ids=["instant", "timed"])
@pytest.mark.parametrize("batch", [1, 7, 150])
def test_commands_through_queues_in_lists(latency: FixedLatency | None, batch: int) -> None:
    host = RawHost(config=LISTS, latency=latency)
    host.enable()
    assert CAP.unpack(host.read(Reg.CAP, 8)).cqr == 0
    size = 300
    cq_list, cq = listed(host, size * CQE_SIZE)
    sq_list, sq = listed(host, size * SQE_SIZE)
    assert create(host, size, cq_list, sq_list) == [0, 0]
    run(host, size, sq, cq, 700, batch)


@pytest.mark.parametrize("scattered", [True, False])
def test_the_largest_queues(scattered: bool) -> None:
    host = RawHost(config=LISTS if scattered else ControllerConfig(), pages=6000)
    host.enable()
    size = 65536
    if scattered:
        (cq_base, cq), (sq_base, sq) = listed(host, size * CQE_SIZE), listed(host, size * SQE_SIZE)
    else:
        cq_base, sq_base = host.pages(size * CQE_SIZE // PAGE), host.pages(size * SQE_SIZE // PAGE)
        cq = list(range(cq_base, cq_base + size * CQE_SIZE, PAGE))
        sq = list(range(sq_base, sq_base + size * SQE_SIZE, PAGE))
    assert create(host, size, cq_base, sq_base, pc=int(not scattered)) == [0, 0]
    run(host, size, sq, cq, 2_000, 1_000)


def test_a_list_is_refused_where_cqr_is_set_and_for_bad_entries() -> None:
    host = RawHost()
    host.enable()
    assert create(host, 64, host.pages(), host.pages())[0] == Status.INVALID_FIELD
    host = RawHost(config=LISTS)
    host.enable()
    bad = host.pages()
    host.memory.write(bad, (host.pages() + 8).to_bytes(8, "little"))
    assert create(host, 64, bad, bad)[0] == Status.PRP_INVALID_OFFSET
    host.memory.write(bad, (1 << 60).to_bytes(8, "little"))
    assert create(host, 64, bad, bad)[0] == Status.DATA_XFER_ERROR
