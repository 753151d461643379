"""Shadow doorbells: what the controller takes from the page, what it publishes, and whose word counts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rawhost import PAGE, FixedLatency, RawHost, RawQueue

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.pcie.shadow import LOOK_NS
from nvme_emu.core.trace import AsyncEvent, EventIdx, ShadowDoorbell, TraceHub
from nvme_emu.driver.dbbuf import need_event
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, OACS
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import CC, Reg
from nvme_emu.spec.status import Status

TOLD = ControllerConfig(shadow_doorbells=True)
LOOKS = replace(TOLD, shadow_poll_ns=10 * LOOK_NS)
BUFFER_CONFIG = AdminOpcode.DOORBELL_BUFFER_CONFIG


class Page:
    """Words of a page in host memory."""

    def __init__(self, host: RawHost, stride: int = 4) -> None:
        self.addr = host.pages()
        view, at = host.memory.find(self.addr, PAGE)
        self.words = view[at : at + PAGE].cast("I")
        self._each = stride // 4

    def __getitem__(self, doorbell: tuple[int, bool]) -> int:
        qid, is_cq = doorbell
        return int(self.words[(2 * qid + is_cq) * self._each])

    def __setitem__(self, doorbell: tuple[int, bool], value: int) -> None:
        qid, is_cq = doorbell
        self.words[(2 * qid + is_cq) * self._each] = value


class ShadowHost(RawHost):
    """A host that has told the controller of its pages; `submit` is what a driver does with them."""

    def __init__(self, config: ControllerConfig = TOLD, **options: Any) -> None:
        super().__init__(config=config, **options)
        self.enable()
        self.shadow, self.events = (Page(self, config.doorbell_stride) for _ in range(2))
        self.rung = 0

    def configure(self) -> None:
        assert self.admin.run(BUFFER_CONFIG, prp1=self.shadow.addr, prp2=self.events.addr, nsid=0).status == 0

    def submit(self, queue: RawQueue) -> bool:
        """Publish the tail, and ring if EventIdx asks for it; whether it did."""
        old, self.shadow[queue.qid, False] = self.shadow[queue.qid, False], queue.tail
        if need_event(self.events[queue.qid, False], queue.tail, old):
            queue.ring()
            self.rung += 1
            return True
        return False

    def take(self, queue: RawQueue) -> list[int]:
        """The identifiers of what has ended; the head is published as the tail is."""
        found = [one.cid for one in queue.reap(ring=False)]
        old, self.shadow[queue.cqid, True] = self.shadow[queue.cqid, True], queue.head
        if found and need_event(self.events[queue.cqid, True], queue.head, old):
            queue.ring_cq()
            self.rung += 1
        return found


def test_offered_only_where_the_configuration_says_so() -> None:
    for offered in (False, True):
        host = RawHost(config=ControllerConfig(shadow_doorbells=offered))
        host.enable()
        page = host.pages()
        host.admin.run(AdminOpcode.IDENTIFY, prp1=page, nsid=0, cdw10=1)
        assert OACS["dbcs"].extract(IDENTIFY_CONTROLLER.parse(host.memory.read(page, PAGE)).oacs) == offered
        status = host.admin.run(BUFFER_CONFIG, prp1=page, prp2=host.pages(), nsid=0).status
        assert status & 0x7FF == (0 if offered else Status.INVALID_OPCODE)


@pytest.mark.parametrize(
    "which", ["prp1 offset", "prp2 offset", "the same", "prp1 nowhere", "prp2 nowhere", "read-only"]
)
def test_a_bad_address_is_invalid_field_and_changes_nothing(which: str) -> None:
    host = ShadowHost()
    prp1, prp2 = host.shadow.addr, host.events.addr
    if which == "prp1 offset":
        prp1 += 8
    elif which == "prp2 offset":
        prp2 += 4
    elif which == "the same":
        prp2 = prp1
    elif which == "prp1 nowhere":
        prp1 = 1 << 62
    elif which == "prp2 nowhere":
        prp2 = 1 << 62
    else:
        prp2 = host.memory.add_region(np.zeros(PAGE, np.uint8), writable=False).base
    host.configure()
    before = host.ctrl.shadow
    assert host.admin.run(BUFFER_CONFIG, prp1=prp1, prp2=prp2, nsid=0).status & 0x7FF == Status.INVALID_FIELD
    assert host.ctrl.shadow is before


def test_doorbells_that_do_not_fit_into_a_page_are_no_configuration() -> None:
    with pytest.raises(ValueError, match="fit into a page"):
        ControllerConfig(shadow_doorbells=True, io_queues_max=512)
    with pytest.raises(ValueError, match="fit into a page"):
        ControllerConfig(shadow_doorbells=True, dstrd=8)


@pytest.mark.parametrize("dstrd", [0, 2])
def test_every_doorbell_is_asked_for_where_the_controller_does_not_look(dstrd: int) -> None:
    host = ShadowHost(replace(TOLD, dstrd=dstrd))
    queue = host.io_queue(1, 8)
    host.configure()
    for number in range(40):
        queue.put(NvmOpcode.FLUSH, cid=number)
        assert host.submit(queue)
        host.step()
        assert host.take(queue) == [number]
        host.step()
        assert host.events[1, False] == queue.tail
        assert host.events[1, True] == queue.head
    assert host.rung == 80


def test_what_a_step_meets_needs_no_doorbell() -> None:
    host = ShadowHost()
    queue = host.io_queue(1, 8)
    host.configure()
    queue.put(NvmOpcode.FLUSH, cid=5)
    old, host.shadow[1, False] = host.shadow[1, False], queue.tail
    host.step()  # between the host's store and its look
    assert not need_event(host.events[1, False], queue.tail, old)
    assert host.take(queue) == [5]


def test_the_admin_queue_goes_by_its_doorbell_alone() -> None:
    host = ShadowHost(LOOKS)
    host.configure()
    host.shadow[0, False] = 17
    host.step()
    for _ in range(40):
        assert host.admin.run(AdminOpcode.GET_FEATURES, nsid=0, cdw10=7).status == 0
        host.step()
        assert (host.events[0, False], host.events[0, True]) == (host.admin.tail, host.admin.head)


def test_a_controller_that_looks_asks_again_when_it_rests() -> None:
    host = ShadowHost(LOOKS)
    queue = host.io_queue(1, 8)
    host.configure()
    queue.put(NvmOpcode.FLUSH, cid=0)
    assert host.submit(queue)
    host.step()
    asked = host.events[1, False]
    for number in range(1, 6):  # fewer than a lap: the old EventIdx is not passed
        queue.put(NvmOpcode.FLUSH, cid=number)
        assert not host.submit(queue)
        host.step(host.now_ns + LOOK_NS)
        assert host.events[1, False] == asked
        assert number in host.take(queue)
    while (due := host.ctrl.next_deadline()) is not None:
        host.step(due)
    assert host.events[1, False] == queue.tail
    queue.put(NvmOpcode.FLUSH, cid=9)
    assert host.submit(queue)
    host.step()
    assert host.take(queue) == [9]


def test_heads_are_asked_for_when_the_completion_queue_is_full() -> None:
    host = ShadowHost(LOOKS)
    queue = host.io_queue(1, 16, cq_size=4)
    host.configure()
    for number in range(10):
        queue.put(NvmOpcode.FLUSH, cid=number)
    host.submit(queue)
    seen: list[int] = []
    for _ in range(10):
        while (due := host.ctrl.next_deadline()) is not None:
            host.step(due)
        blocked, before = bool(host.ctrl.rings.cqs[1].blocked), host.rung
        found = host.take(queue)
        host.step()
        assert not blocked or host.rung == before + 1
        seen += found
    assert seen == list(range(10))


def test_an_old_doorbell_does_not_move_the_tail_back() -> None:
    host = ShadowHost()
    queue = host.io_queue(1, 8)
    host.configure()
    for number in range(3):
        queue.put(NvmOpcode.FLUSH, cid=number)
    host.shadow[1, False] = 3
    host.step()
    assert host.ctrl.rings.sqs[1].head == 3
    host.ctrl.mmio_write(0x1008, 4, 1)  # the host was interrupted between its store and its doorbell
    host.step()
    assert host.ctrl.rings.sqs[1].tail == 3
    assert host.take(queue) == [0, 1, 2]


def test_a_host_that_never_writes_the_word_is_served_by_doorbells() -> None:
    host = ShadowHost()
    queue = host.io_queue(1, 8)
    host.configure()
    host.shadow[1, False] = 0
    for number in range(20):
        queue.put(NvmOpcode.FLUSH, cid=number)
        queue.ring()
        host.step()
        assert [one.cid for one in queue.reap()] == [number]


def test_io_before_the_command_and_words_of_before_do_no_harm() -> None:
    host = ShadowHost()
    queue = host.io_queue(1, 8)
    for number in range(5):
        queue.put(NvmOpcode.FLUSH, cid=number)
    queue.ring()
    host.step()
    queue.reap()
    host.configure()  # the page says 0, the tail is 5
    host.step()
    assert host.ctrl.rings.sqs[1].tail == 5
    queue.put(NvmOpcode.FLUSH, cid=5)
    assert host.submit(queue)
    host.step()
    assert host.take(queue) == [5]


def test_a_queue_that_is_made_anew_starts_at_nought() -> None:
    host = ShadowHost()
    queue = host.io_queue(1, 8)
    host.configure()
    for number in range(5):
        queue.put(NvmOpcode.FLUSH, cid=number)
    host.submit(queue)
    host.step()
    host.take(queue)
    assert host.admin.run(AdminOpcode.DELETE_IO_SQ, nsid=0, cdw10=1).status == 0
    assert host.admin.run(AdminOpcode.DELETE_IO_CQ, nsid=0, cdw10=1).status == 0
    queue = host.queue(1, 8, 8)
    creates = ((AdminOpcode.CREATE_IO_CQ, queue.cq, 3), (AdminOpcode.CREATE_IO_SQ, queue.sq, 1 << 16 | 1))
    for opcode, addr, cdw11 in creates:
        assert host.admin.run(opcode, nsid=0, prp1=addr, cdw10=7 << 16 | 1, cdw11=cdw11).status == 0
    assert (host.events[1, False], host.events[1, True]) == (0, 0)
    host.step()
    assert host.ctrl.rings.sqs[1].tail == 0
    host.shadow[1, False] = host.shadow[1, True] = 0
    queue.put(NvmOpcode.FLUSH, cid=77)
    assert host.submit(queue)
    host.step()
    assert host.take(queue) == [77]


@pytest.mark.parametrize("word", [8, 0xFFFF, 3])
def test_a_word_out_of_range_is_an_invalid_doorbell(word: int) -> None:
    events: list[Any] = []
    hub = TraceHub()
    hub.add_sink(events.append)
    host = ShadowHost(trace=hub)
    queue = host.io_queue(1, 8, cq_size=2)
    host.configure()
    for number in range(5):
        queue.put(NvmOpcode.FLUSH, cid=number)
    host.submit(queue)  # the completion queue has room for one: four wait
    host.step()
    host.shadow[1, False] = word
    host.step()
    assert host.ctrl.rings.sqs[1].tail == 5
    assert [one for one in events if isinstance(one, ShadowDoorbell)][-1].value == word
    host.step()
    told = [one for one in events if isinstance(one, AsyncEvent)]
    assert len(told) <= 1, "a bad word is told once"
    assert any(isinstance(one, EventIdx) for one in events)


def test_a_reset_forgets_the_pages() -> None:
    host = ShadowHost(LOOKS)
    queue = host.io_queue(1, 8)
    host.configure()
    queue.put(NvmOpcode.FLUSH)
    host.submit(queue)
    host.step()
    host.write(Reg.CC, CC.replace(host.read(Reg.CC), en=0))
    host.step()
    assert host.ctrl.shadow is None
    before = bytes(host.events.words)
    host.shadow[1, False] = 4
    host.enable()
    queue = host.io_queue(1, 8)
    while (due := host.ctrl.next_deadline()) is not None:
        host.step(due)
    assert host.ctrl.rings.sqs[1].tail == 0
    assert bytes(host.events.words) == before


def test_pages_that_are_taken_away_end_the_controller() -> None:
    host = ShadowHost()
    region = host.memory.add_region(np.zeros(PAGE, np.uint8))
    queue = host.io_queue(1, 8)
    assert host.admin.run(BUFFER_CONFIG, prp1=region.base, prp2=host.events.addr, nsid=0).status == 0
    host.memory.remove_region(region)
    queue.put(NvmOpcode.FLUSH)
    queue.ring()
    host.step()
    assert host.csts.cfs


@pytest.mark.parametrize("config", [TOLD, LOOKS], ids=["told", "looks"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_wake_up_is_lost_whatever_the_order(config: ControllerConfig, compiled: bool, seed: int) -> None:
    """Host and controller interleave at the single store and load; whoever stops must have been heard."""
    rng = random.Random(seed)
    host = ShadowHost(config, latency=FixedLatency(0, 3000, 500))
    host.ctrl.compiled = host.ctrl.compiled and compiled
    queues = [host.io_queue(1, 8, cq_size=4), host.io_queue(2, 5, cq_size=16)]
    host.configure()
    wanted: dict[int, list[int]] = {1: [], 2: []}
    ended: dict[int, list[int]] = {1: [], 2: []}
    checks: list[tuple[RawQueue, bool, int, int]] = []
    for number in range(300):
        queue = rng.choice(queues)
        act = rng.randrange(5)
        outstanding = len(wanted[queue.qid]) - len(ended[queue.qid])
        waits = [one for one in checks if one[0] is queue]
        if act == 0 and outstanding < queue.sq_size - 1 and not any(not one[1] for one in waits):
            queue.rw(NvmOpcode.READ, 0, 1, host.region.base, cid=number) if number % 3 else queue.put(
                NvmOpcode.FLUSH, cid=number
            )
            wanted[queue.qid].append(number)
            old, host.shadow[queue.qid, False] = host.shadow[queue.qid, False], queue.tail
            checks.append((queue, False, queue.tail, old))
        elif act == 1 and checks:
            queue, is_cq, new, old = checks.pop(rng.randrange(len(checks)))
            if need_event(host.events[queue.qid, is_cq], new, old):
                queue.ring_cq() if is_cq else queue.ring()
        elif act == 2 and not any(one[1] for one in waits):
            if found := queue.reap(ring=False):
                ended[queue.qid] += [one.cid for one in found]
                old, host.shadow[queue.qid, True] = host.shadow[queue.qid, True], queue.head
                checks.append((queue, True, queue.head, old))
        else:
            host.now_ns += rng.choice((0, 100, 700, 2000, 30_000))
            host.ctrl.step(host.now_ns)
    for _ in range(60):
        for queue, is_cq, new, old in checks:
            if need_event(host.events[queue.qid, is_cq], new, old):
                queue.ring_cq() if is_cq else queue.ring()
        checks.clear()
        while (due := host.ctrl.next_deadline()) is not None:
            host.step(max(due, host.now_ns))
        for queue in queues:
            ended[queue.qid] += host.take(queue)
    assert {qid: sorted(cids) for qid, cids in ended.items()} == wanted
