"""A caller whose commands a lane takes from end to end sees and leaves what any other caller does.

The same calls go to three machines: with the compiled lane (`_core/lane.c`), with the one in Python
(`driver/lane.py`), and one where driver and controller go step by step in Python. Results, errors, the rings, the
medium, the identifiers and the counters must be the same. Without the extension there are two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nvme_emu
from nvme_emu._core import COMPILED
from nvme_emu.core.trace import PostCqe
from nvme_emu.driver import queue_pair, submit
from nvme_emu.driver.batch import BATCH_MIN

SIZE = 1 << 20
BLOCKS = SIZE // 512

Call = tuple[Any, ...]

nlbs = st.sampled_from([1, 2, 3, 8, 9, 16, 17, 64, 256, 800])
places = st.integers(-1, BLOCKS + 1)


@st.composite
def batches(draw: st.DrawFn) -> Call:
    nlb = draw(st.sampled_from([1, 2, 4, 8, 16, 24]))
    count = draw(st.integers(BATCH_MIN, 80))
    slbas = np.random.default_rng(draw(st.integers(0, 999))).integers(0, BLOCKS - nlb + 1, count)
    if draw(st.booleans()):
        slbas = slbas // nlb * nlb
    if draw(st.integers(0, 9)) == 0:
        slbas[draw(st.integers(0, count - 1))] = draw(st.sampled_from([-1, BLOCKS - nlb + 1, 1 << 62]))
    return draw(st.sampled_from(["read_many", "write_many"])), slbas, nlb, draw(st.integers(0, 255))


calls = st.lists(
    st.one_of(
        st.tuples(st.just("read"), places, nlbs),
        st.tuples(st.just("write"), places, nlbs, st.integers(0, 255), st.booleans()),
        st.tuples(st.just("compare"), places, nlbs, st.integers(0, 255)),
        st.tuples(st.just("flush")),
        batches(),
    ),
    max_size=12,
)


def _pattern(nbytes: int, seed: int) -> np.ndarray:
    return (np.arange(nbytes) * 7 + seed + np.arange(nbytes) // 512).astype(np.uint8)


def _do(ssd: nvme_emu.Machine, call: Call) -> object:
    ns = ssd.namespaces[1]
    kind, *rest = call
    try:
        if kind == "read":
            return ns.read(*rest).tobytes()
        if kind == "write":
            slba, nlb, seed, fua = rest
            return ns.write(slba, _pattern(nlb * 512, seed), fua=fua)
        if kind == "compare":
            slba, nlb, seed = rest
            return ns.compare(slba, _pattern(nlb * 512, seed))
        if kind == "read_many":
            return ns.read_many(rest[0], rest[1]).tobytes()
        if kind == "write_many":
            slbas, nlb, seed = rest
            return ns.write_many(slbas, _pattern(len(slbas) * nlb * 512, seed), nlb)
        return ns.flush()
    except (ValueError, nvme_emu.NvmeError) as error:
        return f"{type(error).__name__}: {error}"


def _outcome(depth: int, todo: list[Call], prepare: Callable[[nvme_emu.Machine], object]) -> list[object]:
    with nvme_emu.open(size=SIZE, depth=depth) as ssd:
        prepare(ssd)
        pair = ssd.driver.paths[0].pair
        # What nobody has written yet is junk, so that a field which is left out shows. (But for the Phase Tags.)
        pair.sq_view[:] = b"\xa5" * len(pair.sq_view)
        np.frombuffer(pair.cq_view, np.uint16).reshape(-1, 8)[:, :7] = 0xA5A5
        results = [_do(ssd, call) for call in todo]
        sq, cq = ssd.controller.rings.sqs[1], ssd.controller.rings.cqs[1]
        return [
            results,
            ssd.media[0].array.tobytes(),  # type: ignore[union-attr]
            pair.sq_view.tobytes(),
            pair.cq_view.tobytes(),
            (pair.tail, pair.rung_tail, pair.head, pair.phase, pair.sqhd, pair.outstanding),
            (sq.head, sq.tail, cq.head, cq.tail, cq.phase, cq.free),
            (pair.tags.free, pair.tags.cid, pair.inflight),
            (pair._list_tag, pair._list_view.tobytes()),
            ssd.controller.counters.as_dict(),
            ssd.controller.error_log.page(),
            ssd.memory._next_base,
            ssd.controller.interrupts.raised,
        ]


def _step_by_step(ssd: nvme_emu.Machine) -> None:
    ssd.controller.compiled = False
    for path in ssd.driver.paths:
        path.exchange = path.exchange_many = None


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), calls)
def test_lanes_leave_what_the_path_step_by_step_leaves(depth: int, todo: list[Call]) -> None:
    lane = _outcome(depth, todo, lambda _ssd: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_pair, "COMPILED", False)
        steps = _outcome(depth, todo, _step_by_step)
        patch.setattr(submit, "COMPILED", False)
        python_lane = _outcome(depth, todo, lambda _ssd: None) if COMPILED else lane
    for one, other, third in zip(lane, python_lane, steps, strict=True):
        assert one == third
        assert other == third


def test_either_lane_can_be_opened() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "COMPILED", False)
        with nvme_emu.open(size=SIZE) as ssd:
            assert getattr(ssd.driver.paths[0].exchange, "__module__", "") == "nvme_emu.driver.lane"
    with nvme_emu.open(size=SIZE) as ssd:
        assert hasattr(ssd.driver.paths[0].exchange, "__code__") is not COMPILED


def _taken(ssd: nvme_emu.Machine, do: Callable[[], object]) -> bool:
    """Whether the lane did it: the ordinary way asks the transport."""
    rung: list[int] = []
    port = ssd.port
    ssd.driver.paths[0].pair._port = type(
        "Spy", (), {"__getattr__": lambda _s, name: rung.append(1) or getattr(port, name)}
    )()
    try:
        do()
    finally:
        ssd.driver.paths[0].pair._port = port
    return not rung


@pytest.mark.breaks_rules  # a checked machine has no lane
def test_lane_is_taken_by_plain_commands_on_an_idle_machine() -> None:
    with nvme_emu.open(size=SIZE) as ssd:
        ns = ssd.namespaces[1]
        assert _taken(ssd, lambda: ns.read(0, 8))
        assert _taken(ssd, lambda: ns.write(0, bytes(4096)))
        assert _taken(ssd, lambda: ns.read(0, 256))
        assert _taken(ssd, lambda: ns.read_many(np.arange(40), 1))
        assert not _taken(ssd, lambda: ns.write(0, bytes(4096), fua=True))


@pytest.mark.parametrize(
    "why",
    [
        lambda ssd: ssd.trace.add_sink(lambda _event: None),
        lambda ssd: setattr(ssd.controller, "faults", object()),
        lambda ssd: setattr(ssd.controller.namespaces[1], "view", None),
        lambda ssd: ssd.port.connect_irq(1, ssd.driver.paths[0].interrupt.__func__.__get__(ssd.driver.paths[0])),
        lambda ssd: ssd.port.lock.acquire(),
        lambda ssd: ssd.driver.paths[0].ring_lock.acquire(),
    ],
    ids=["trace", "faults", "medium", "handler", "device lock", "ring lock"],
)
def test_lane_is_left_when_something_is_in_the_way(why: Callable[[nvme_emu.Machine], object]) -> None:
    with nvme_emu.open(size=SIZE) as ssd:
        ns = ssd.namespaces[1]
        ns.write(8, b"x" * 4096)
        why(ssd)
        read: list[bytes] = []
        assert not _taken(ssd, lambda: read.append(ns.read(8, 8).tobytes()))
        assert not _taken(ssd, lambda: read.append(ns.read_many(np.full(30, 8), 8).tobytes()))
        assert read == [b"x" * 4096, b"x" * 4096 * 30]
        for lock in (ssd.port.lock, ssd.driver.paths[0].ring_lock):
            if lock.held():
                lock.release()


def test_traced_commands_are_the_same_events_as_ever() -> None:
    with nvme_emu.open(size=SIZE) as ssd:
        events: list[Any] = []
        ssd.trace.add_sink(events.append)
        ssd.namespaces[1].read(0, 8)
        ssd.trace.remove_sink(events.append)
        ssd.namespaces[1].read(0, 8)
    assert sum(isinstance(event, PostCqe) for event in events) == 1


def test_batches_over_arrays_of_objects_are_refused_by_every_lane() -> None:
    with nvme_emu.open(size=SIZE) as ssd:
        objects = np.full(64 * 30, None, dtype=object)
        with pytest.raises(ValueError, match="references"):
            ssd.namespaces[1].read_many(np.arange(30), 1, out=objects)
        with pytest.raises(ValueError, match="references"):
            ssd.namespaces[1].write_many(np.arange(30), objects, 1)
        assert all(one is None for one in objects)
