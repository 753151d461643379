"""What a worker's lane takes off its list leaves everything as the pump would have left it step by step.

The same requests are put on the lists of two machines, and both pumps are run by the test. One pump has the lane of
`driver/lane.py`; the other does what that one took, as many at a time, by prepare, doorbell and reap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nvme_emu
from nvme_emu.driver import pump, queue_pair
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.driver.request import Request

SIZE = 1 << 18
BLOCKS = SIZE // 512

Call = tuple[Any, ...]

nlbs = st.sampled_from([1, 3, 8, 8, 8, 9, 16, 17])
calls = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, BLOCKS - 17), nlbs),
        st.tuples(st.just("read"), st.integers(0, BLOCKS - 17), nlbs),
        st.tuples(st.just("write"), st.integers(0, BLOCKS - 17), nlbs, st.integers(0, 255), st.booleans()),
        st.tuples(st.just("flush")),
        st.tuples(st.just("discard"), st.integers(0, BLOCKS - 17), nlbs),
        st.tuples(st.just("beyond")),
        st.tuples(st.just("hinted"), st.integers(0, BLOCKS - 17)),
        st.tuples(st.just("batch"), st.integers(0, 99)),
    ),
    max_size=30,
)


def _start(ns: Any, call: Call) -> Any:
    kind, *rest = call
    if kind == "read":
        return ns.submit_read(*rest)
    if kind == "write":
        slba, nlb, seed, fua = rest
        return ns.submit_write(slba, (np.arange(nlb * 512) + seed).astype(np.uint8), fua=fua)
    if kind == "discard":
        return ns.submit_discard(*rest)
    path = ns._driver.path()
    if kind == "batch":
        slbas = np.random.default_rng(rest[0]).integers(0, BLOCKS, 40)
        rq: Any = BatchRequest(2, 1, slbas, 1, 512, memoryview(bytearray(40 * 512)), False)
        path.submit_batch(rq)
        return rq
    if kind == "flush":
        return ns.submit_flush()
    # Two reads that no caller of the namespace can make: outside of it, and with a hint in CDW13.
    slba = BLOCKS if kind == "beyond" else rest[0]
    rq = Request(2, 1, slba, 1, 0, memoryview(bytearray(512)))
    rq.cdw13 = 0 if kind == "beyond" else 1
    path.submit(rq)
    return rq


def _outcome(depth: int, rounds: list[list[Call]], counts: list[int], lane: bool) -> list[object]:
    with nvme_emu.open(size=SIZE, depth=depth, mode="async") as ssd:
        ssd.media[0].array[:] = np.arange(SIZE) * 31 >> 3  # type: ignore[index]
        path: Any = ssd.driver.paths[0]
        path.pair.sq_view[:] = b"\xa5" * len(path.pair.sq_view)
        np.frombuffer(path.pair.cq_view, np.uint16).reshape(-1, 8)[:, :7] = 0xA5A5
        through = path._lane

        def take(requests: Any) -> Any:
            ended = through(requests)
            counts.append(len(ended))
            return ended

        def step(requests: Any) -> Any:
            for _ in range(counts.pop(0)):
                path.pair.prepare(requests.popleft())
            path.pair.commit()
            ended = path.pair.reap()
            path._interrupted = False
            return ended

        path._lane = take if lane else step
        told: list[object] = []

        def tell(rq: Request) -> None:
            told.append((requests.index(rq), rq.status, rq.cid, rq.dw0))

        for todo in rounds:
            # As long as the pump seems to run nobody wakes the worker: it is run from here.
            path._active = True
            requests = [_start(ssd.namespaces[1], call) for call in todo]
            for rq in requests:
                rq.add_callback(tell)
            path._pump(path._work)
            assert all(rq.done for rq in requests)
            told += [bytes(rq.data) if rq.data is not None else None for rq in requests]
        pair = path.pair
        sq, cq = ssd.controller.rings.sqs[1], ssd.controller.rings.cqs[1]
        return [
            told,
            ssd.media[0].array.tobytes(),  # type: ignore[union-attr]
            pair.sq_view.tobytes(),
            pair.cq_view.tobytes(),
            (pair.tail, pair.rung_tail, pair.head, pair.phase, pair.sqhd, pair.outstanding),
            (sq.head, sq.tail, cq.head, cq.tail, cq.phase, cq.free),
            (pair.tags.free, pair.tags.cid, pair.inflight),
            ssd.controller.counters.as_dict(),
            ssd.controller.error_log.page(),
            ssd.controller.interrupts.raised,
        ]


def _without_the_extension(patch: pytest.MonkeyPatch) -> None:
    for module in (pump, queue_pair):
        patch.setattr(module, "COMPILED", False)
    # The test runs the pump: it must not go on in its worker.
    patch.setattr(pump, "PUMP_ROUNDS_MAX", 1 << 20)


@pytest.fixture(autouse=True)
def without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_the_extension(monkeypatch)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.lists(calls, max_size=3))
def test_worker_lane_leaves_what_the_pump_leaves(depth: int, rounds: list[list[Call]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _without_the_extension(patch)
        counts: list[int] = []
        lane = _outcome(depth, rounds, counts, True)
        if rounds and rounds[0] and rounds[0][0][0] == "read" and rounds[0][0][2] <= 16:
            assert counts[0] > 0
        steps = _outcome(depth, rounds, counts, False)
    assert not counts
    for one, other in zip(lane, steps, strict=True):
        assert one == other


def test_worker_lane_takes_the_leading_plain_commands_and_no_others() -> None:
    with nvme_emu.open(size=SIZE, mode="async") as ssd:
        path: Any = ssd.driver.paths[0]
        path._active = True
        ns = ssd.namespaces[1]
        first = [ns.submit_read(0, 8), ns.submit_write(8, bytes(4096))]
        rest = [ns.submit_flush(), ns.submit_read(16, 8)]
        assert path._lane(path.requests) == first
        assert list(path.requests) == rest
        path._pump(path._work)
        assert all(rq.done for rq in rest)
        for rq in first:
            rq.finish()


@pytest.mark.parametrize("why", ["trace", "faults", "outstanding", "lock", "handler"])
def test_worker_lane_is_left_when_something_is_in_the_way(why: str) -> None:
    with nvme_emu.open(size=SIZE, mode="async") as ssd:
        path: Any = ssd.driver.paths[0]
        path._active = True
        rq = ssd.namespaces[1].submit_read(0, 8)
        if why == "trace":
            ssd.trace.add_sink(lambda _event: None)
        elif why == "faults":
            ssd.controller.faults = object()
        elif why == "outstanding":
            path.pair.outstanding = 1
        elif why == "lock":
            ssd.port.lock.acquire()
        else:
            ssd.port.connect_irq(1, path.interrupt.__func__.__get__(path))
        assert path._lane(path.requests) == []
        assert list(path.requests) == [rq]
        ssd.controller.faults = None
        path.pair.outstanding = 0
        if why == "lock":
            ssd.port.lock.release()
        path._pump(path._work)
        assert rq.done
