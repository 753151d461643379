"""Shadow doorbells in the driver: which doorbells it still writes, resets, refusals, lanes."""

from __future__ import annotations

from typing import Any

import pytest

import nvme_emu
from nvme_emu.controller import ControllerConfig
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.dbbuf import need_event
from nvme_emu.testing import fault

BLOCK = 512
TOLD = ControllerConfig(shadow_doorbells=True)
LOOKS = ControllerConfig(shadow_doorbells=True, shadow_poll_ns=20_000)


def shadowed(config: ControllerConfig, **options: Any) -> nvme_emu.Machine:
    return nvme_emu.open(**{"size": "1M", "depth": 8, "controller": config, **options})


def work(ssd: Any, count: int = 30) -> None:
    """Writes and reads, one by one and several at once, past the end of each ring."""
    ns = ssd.namespaces[1]
    for n in range(count):
        ns.write(n, bytes([n]) * BLOCK)
        assert bytes(ns.read(n, 1)) == bytes([n]) * BLOCK
    requests = [ns.submit_write(n, bytes([255 - n]) * BLOCK) for n in range(count)]
    for rq in requests:
        rq.wait()
    for n in range(count):
        assert bytes(ns.read(n, 1)) == bytes([255 - n]) * BLOCK


@pytest.mark.parametrize(
    ("event_idx", "new", "old", "passes"),
    [
        (0, 1, 0, True), (1, 1, 0, False), (0, 2, 1, False), (5, 8, 5, True), (7, 8, 5, True), (8, 8, 5, False),
        (4, 8, 5, False), (7, 0, 7, True), (0xFFFF, 0, 0xFFFF, True), (0xFFFE, 3, 0xFFFD, True), (9, 9, 9, False),
    ],
)  # fmt: skip
def test_need_event_says_whether_the_step_passes(event_idx: int, new: int, old: int, passes: bool) -> None:
    assert need_event(event_idx, new, old) == passes


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("profile", ["instant", "optane"])
@pytest.mark.parametrize("config", [TOLD, LOOKS], ids=["told", "looks"])
def test_io_under_the_checker(clock: str, mode: str, profile: str, config: ControllerConfig) -> None:
    with shadowed(config, clock=clock, mode=mode, profile=profile, check="error") as ssd:
        work(ssd)
        assert not ssd.driver.recovery.counters.timeouts
        assert ssd.checker is not None
        assert ssd.checker.findings == ()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_lanes_keep_the_words_in_step(mode: str, compiled: bool) -> None:
    with shadowed(TOLD, mode=mode) as ssd:
        ssd.controller.compiled = ssd.controller.compiled and compiled
        work(ssd)
        pair = ssd.driver.paths[0].pair
        bells, shadow = pair.bells, ssd.controller.shadow
        assert bells is not None
        assert shadow is not None
        sq, cq = ssd.controller.rings.sqs[1], ssd.controller.rings.cqs[1]
        assert bells.words[bells.sq] == bells.events[bells.sq] == sq.tail == pair.tail
        assert bells.words[bells.cq] == bells.events[bells.cq] == cq.head == pair.head
        ssd.trace.add_sink(lambda event: None)  # no lane any more
        work(ssd, 5)


def test_a_controller_that_looks_spares_doorbells() -> None:
    with shadowed(LOOKS, clock="virtual") as ssd:
        work(ssd)
        bells = ssd.driver.paths[0].pair.bells
        assert bells is not None
        assert bells.spared > 60


def test_set_again_after_each_reset() -> None:
    with shadowed(LOOKS, clock="virtual", check="error") as ssd:
        for _ in range(3):
            work(ssd, 5)
            before = ssd.controller.shadow
            ssd.driver.reset()
            assert ssd.controller.shadow is not None
            assert ssd.controller.shadow is not before
        work(ssd, 5)


def test_a_refusal_is_said_and_ignored() -> None:
    rule = fault.when(admin=True, opcode=0x7C).status("Internal Error")
    with shadowed(TOLD, faults=[rule], clock="virtual", check="error") as ssd:
        assert ssd.driver.paths[0].pair.bells is None
        assert ssd.controller.shadow is None
        assert any("dbbuf" in line for line in ssd.driver.recovery.log)
        work(ssd, 5)


@pytest.mark.breaks_rules  # the command is sent all the same
def test_not_asked_for_where_it_is_not_offered() -> None:
    with shadowed(ControllerConfig()) as ssd:
        assert ssd.controller.shadow is None
        assert ssd.driver.paths[0].pair.bells is None
        with pytest.raises(NvmeError, match="Invalid Command Opcode"):
            ssd.driver.admin.execute(0x7C)


def test_more_queues_and_a_wider_stride() -> None:
    config = ControllerConfig(shadow_doorbells=True, dstrd=2, io_queues_max=16, vectors=17)
    with shadowed(config, queues=4, mode="async", check="error") as ssd:
        work(ssd, 10)
        assert [path.pair.bells is not None for path in ssd.driver.paths] == [True] * 4
