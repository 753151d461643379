"""A device that takes its time, in C and in Python: the same doorbells, times and commands leave the same.

Two controllers get the same random steps: plain and broken commands, identifiers in use, PRP lists, several queues,
small rings that wrap, full completion queues, flushes among the reads, masked vectors, aborts, deletions, resets, and
looks at what is in flight. One uses the compiled gait. After each step the answers, and at the end memory, medium,
completions, counters, clocks and the random generator must be equal.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rawhost import PAGE, RawHost, RawQueue

from nvme_emu._core import COMPILED
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.latency import LatencyModel
from nvme_emu.controller.profiles import DeviceProfile
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import Reg

SIZE = 1 << 16
BLOCKS = SIZE // 512
DATA_PAGES = 24

# Two dies, one of them always in the way of the next, programs that reads interrupt, retries in half of the reads.
SLOW = DeviceProfile(
    name="slow", channels=2, dies_per_channel=1, planes=1, page_bytes=4096, pages_per_block=4, read_ns=(300, 700),
    program_ns=900, erase_ns=400, suspend_ns=50, bus_mb_s=9000, command_ns=20, read_overhead_ns=40,
    write_overhead_ns=30, dram_ns=5, buffer_bytes=1 << 14, flush_ns=60, read_link_mb_s=9000, write_link_mb_s=8000,
    jitter_ns=100, retry_ppm=500_000, retry_ns=333,
)  # fmt: skip
# What ends in the step that fetches it, now and then.
QUICK = DeviceProfile(name="quick", read_ns=(0,), command_ns=1)
PROFILES = {"slow": SLOW, "quick": QUICK, "none": None}

slots = st.integers(0, 3)
commands = st.tuples(
    st.sampled_from([NvmOpcode.READ] * 6 + [NvmOpcode.WRITE] * 4 + [NvmOpcode.FLUSH, NvmOpcode.COMPARE, 0x99]),
    st.integers(0, BLOCKS),  # slba: the last is out of range
    st.sampled_from([1, 1, 2, 8, 8, 9, 16, 24]),
    st.integers(0, 11),  # cid: some are in use
    st.sampled_from([0, 0, 0, 512, 4, 2]),  # offset in the first page: 2 is none
    st.sampled_from([0] * 12 + [1 << 30, 1 << 31]),  # cdw12: FUA, limited retry
    st.sampled_from([1] * 12 + [2, 9]),  # nsid: one that is not in memory, one that does not exist
    st.booleans(),  # the list of pages is broken
)
steps = st.one_of(
    st.tuples(st.just("commands"), st.integers(0, 1), st.lists(commands, min_size=1, max_size=7)),
    st.tuples(st.just("later"), st.sampled_from([0, 1, 50, 400, 3000])),
    st.tuples(st.just("reap"), st.integers(0, 1), st.integers(1, 9)),
    st.tuples(st.just("next")),
    st.tuples(st.just("look")),
    st.tuples(st.just("abort"), st.integers(0, 11)),
    st.tuples(st.just("mask"), st.booleans()),
    st.tuples(st.just("delete")),
    st.tuples(st.just("reset")),
    st.tuples(st.just("odd"), st.integers(0, 1), st.integers(-1, 9)),
)


class Timed:
    """One of the two: a controller with two queue pairs, driven as a transport in the same process drives it."""

    def __init__(self, profile: DeviceProfile | None, compiled: bool) -> None:
        self.rng = random.Random(11)
        self.latency = None if profile is None else LatencyModel(profile, self.rng)
        media = [RamMedia(SIZE), RamMedia(SIZE)]
        config = ControllerConfig(io_queues_max=4, step_commands_max=5, mdts=2)
        self.host = RawHost(
            config=config, media=media, pages=256, latency=self.latency, rng=self.rng
        )
        self.ctrl = self.host.ctrl
        self.ctrl.compiled = compiled
        self.ctrl.namespaces[2].view = None
        self.media = media
        self.data = self.host.pages(DATA_PAGES)
        self.host.memory.write(self.data, bytes(self.rng.randbytes(DATA_PAGES * PAGE)))
        self.lists = self.host.pages(2)
        self.log: list[Any] = []
        self.queues: list[RawQueue] = []
        self._enable()

    def _enable(self) -> None:
        self.host.enable()
        self.queues = [self.host.io_queue(1, 8, 8, vector=1), self.host.io_queue(2, 6, 4, vector=2)]

    def _note(self, answer: Any) -> None:
        """What a transport hears, and what it does about it: work that is due at once is done at once."""
        self.log.append(answer)
        while answer is not None and answer[1] is not None and answer[1] <= self.host.now_ns:
            answer = self.ctrl.due(self.host.now_ns)
            self.log.append(answer)

    def do(self, step: tuple[Any, ...]) -> None:
        getattr(self, f"_{step[0]}")(*step[1:])

    def _commands(self, which: int, todo: list[Any]) -> None:
        queue = self.queues[which]
        sq = self.ctrl.rings.sqs.get(queue.qid)
        room = 0 if sq is None else (sq.head - queue.tail - 1) % queue.sq_size
        for opcode, slba, nlb, cid, offset, cdw12, nsid, broken in todo[:room]:
            first = self.data + cid % 8 * PAGE + offset
            page = self.data + (8 + cid) * PAGE
            place = self.lists + cid * 64
            for index in range(8):
                entry = page + index * PAGE * (1 + cid % 2) + (4 if broken and index == 1 else 0)
                self.host.memory.write(place + index * 8, entry.to_bytes(8, "little"))
            prp2 = place if offset + nlb * 512 > 2 * PAGE else page
            queue.rw(opcode, slba, nlb, first, prp2, cdw12=cdw12, cid=cid, nsid=nsid)
        if todo[:room]:
            self._note(self.ctrl.doorbell_sq(queue.qid, queue.tail, self.host.now_ns))

    def _later(self, ns: int) -> None:
        self.host.now_ns += ns
        self._note(self.ctrl.due(self.host.now_ns))

    def _next(self) -> None:
        due = self.ctrl.next_deadline()
        if due is not None:
            self.host.now_ns = max(due, self.host.now_ns)
            self._note(self.ctrl.due(self.host.now_ns))

    def _reap(self, which: int, count: int) -> None:
        queue = self.queues[which]
        found = queue.reap(ring=False)
        self.log.append(found)
        cq = self.ctrl.rings.cqs.get(queue.qid)
        if found and cq is not None:
            self._note(self.ctrl.doorbell_cq(queue.qid, queue.head, self.host.now_ns))

    def _odd(self, which: int, value: int) -> None:
        if value % 2:
            self._note(self.ctrl.doorbell_cq(which + 1, value, self.host.now_ns))
        self.log.append(self.ctrl.next_deadline())

    def _look(self) -> None:
        flying = self.ctrl.outstanding.items()
        self.log.append([(key, cmd.done_ns, cmd.opcode, cmd.cdw10, cmd.prp1) for key, cmd in flying])
        self.log.append(self.ctrl.inflight.busy_ns(self.host.now_ns))

    def _abort(self, cid: int) -> None:
        self.host.admin.put(AdminOpcode.ABORT, cid=99, cdw10=cid << 16 | 1)
        self._note(self.ctrl.doorbell_sq(0, self.host.admin.tail, self.host.now_ns))
        self.log.append(self.host.admin.reap())

    def _mask(self, masked: bool) -> None:
        self.ctrl.mask_vector(1, masked)
        self.log.append(self.ctrl.take_irqs())

    def _delete(self) -> None:
        self.host.admin.put(AdminOpcode.DELETE_IO_SQ, cid=98, cdw10=2)
        self._note(self.ctrl.doorbell_sq(0, self.host.admin.tail, self.host.now_ns))
        self.log.append(self.host.admin.reap())

    def _reset(self) -> None:
        self.host.write(Reg.CC, 0)
        self.host.step()
        self.host._next = self.lists + 2 * PAGE
        self._enable()

    def state(self) -> list[Any]:
        self._look()
        latency, rings = self.latency, self.ctrl.rings
        # _now_ns is the time of events, of which C emits none.
        others = ("profile", "_rng", "counters", "_now_ns")
        clocks = {} if latency is None else {
            name: value for name, value in vars(latency).items() if name not in others
        }  # fmt: skip
        names = ("_command_free", "_read_link_free", "_bus_free", "_die_free", "_program_end", "_register")
        clocks |= {name: getattr(latency, name, None) for name in names}
        counts = ("host_read_bytes", "host_write_bytes", "media_read_bytes", "media_write_bytes", "erases", "retries",
                  "die_busy_ns", "channel_busy_ns", "read_link_busy_ns", "write_link_busy_ns")  # fmt: skip
        return [
            self.log,
            self.host.region.view.tobytes(),
            [one.array.tobytes() for one in self.media if one.array is not None],
            self.ctrl.counters.as_dict(),
            self.ctrl.error_log.page(),
            [(sq.qid, sq.head, sq.tail, sq.inflight, sq.in_line) for sq in rings.sqs.values()],
            [(cq.qid, cq.head, cq.tail, cq.phase, cq.free) for cq in rings.cqs.values()],
            (self.ctrl.interrupts.raised, bytes(self.ctrl.interrupts._pending)),
            clocks,
            [getattr(latency.counters, name) for name in counts] if latency is not None else None,
            self.rng.getstate(),
        ]


def _outcome(profile: str, todo: list[Any], compiled: bool) -> list[Any]:
    one = Timed(PROFILES[profile], compiled)
    for step in todo:
        one.do(step)
        one.host.audit()
    return one.state()


@pytest.mark.skipif(not COMPILED, reason="the extension is not there: there is one gait less")
@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(PROFILES)), st.lists(steps, max_size=30))
def test_compiled_device_leaves_what_the_python_device_leaves(profile: str, todo: list[Any]) -> None:
    compiled, python = _outcome(profile, todo, True), _outcome(profile, todo, False)
    for one, other in zip(compiled, python, strict=True):
        assert one == other


@pytest.mark.skipif(not COMPILED, reason="the extension is not there")
def test_plain_reads_of_a_timed_device_are_kept_by_c_until_somebody_looks() -> None:
    one = Timed(SLOW, True)
    read = (NvmOpcode.READ, 0, 8, 3, 0, 0, 1, False)
    one.do(("commands", 0, [read]))
    assert one.ctrl.inflight.light == 1
    assert one.ctrl.rings.sqs[1].inflight == 1
    assert list(one.ctrl.outstanding) == [(1, 3)]
    assert one.ctrl.inflight.light == 0
    one.do(("later", 100_000))
    assert [done.cid for done in one.queues[0].reap()] == [3]


@pytest.mark.skipif(not COMPILED, reason="the extension is not there")
def test_identifier_in_flight_in_c_is_refused() -> None:
    one = Timed(SLOW, True)
    read = (NvmOpcode.READ, 0, 8, 3, 0, 0, 1, False)
    one.do(("commands", 0, [read]))
    assert one.ctrl.inflight.light == 1
    one.do(("commands", 0, [read]))
    assert [done.status & 0x7FF for done in one.queues[0].reap()] == [0x003]
