"""Interrupts that are coalesced: by count, by time, not for the admin queue, not for exempt vectors."""

from __future__ import annotations

import pytest
from adminhost import AdminHost

from nvme_emu._core import COMPILED
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.spec.features import INTERRUPT_COALESCING, INTERRUPT_VECTOR_CONFIG, Fid
from nvme_emu.spec.opcodes import NvmOpcode

US = 1000


def started(threshold: int = 4, time: int = 5) -> AdminHost:
    one = AdminHost(config=ControllerConfig(namespaces_max=8, vectors=4))
    one.io_queue(1, vector=1)
    value = INTERRUPT_COALESCING.pack(thr_z=threshold - 1, time=time)
    assert one.set_feature(Fid.INTERRUPT_COALESCING, value).status == 0
    one.ctrl.take_irqs()
    return one


def read(one: AdminHost, count: int = 1) -> tuple[int, ...]:
    """Reads, and the vectors that they raised."""
    queue = one.queues[1]
    for cid in range(count):
        queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=cid)
    queue.ring()
    one.step()
    raised = one.ctrl.take_irqs()
    queue.reap()
    return raised


@pytest.fixture(autouse=True)
def _remember_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    make = AdminHost.io_queue

    def io_queue(self: AdminHost, qid: int = 1, *args: int, **more: int) -> object:
        found = make(self, qid, *args, **more)
        self.__dict__.setdefault("queues", {})[qid] = found
        return found

    monkeypatch.setattr(AdminHost, "io_queue", io_queue)


def test_vector_is_raised_at_the_threshold() -> None:
    one = started(threshold=4)

    assert [read(one) for _ in range(8)] == [(), (), (), (1,), (), (), (), (1,)]
    assert read(one, 5) == (1,)


def test_vector_is_raised_when_the_time_is_over() -> None:
    one = started(threshold=100, time=5)

    assert read(one) == ()
    deadline = one.ctrl.next_deadline()
    assert deadline == one.now_ns + 500 * US
    one.step(one.now_ns + 499 * US)
    assert one.ctrl.take_irqs() == ()
    one.step(deadline)
    assert one.ctrl.take_irqs() == (1,)
    assert one.ctrl.next_deadline() is None


def test_admin_completions_and_exempt_vectors_are_not_held_back() -> None:
    one = started(threshold=100)
    one.get_feature(Fid.ARBITRATION)
    assert one.ctrl.take_irqs() == (0,)

    one.set_feature(Fid.INTERRUPT_VECTOR_CONFIG, INTERRUPT_VECTOR_CONFIG.pack(iv=1, cd=1))
    one.ctrl.take_irqs()

    assert read(one) == (1,)


@pytest.mark.parametrize(("threshold", "time"), [(1, 5), (9, 0)])
def test_no_threshold_or_no_time_is_no_coalescing(threshold: int, time: int) -> None:
    one = started(threshold, time)

    assert read(one) == (1,)
    assert one.ctrl.compiled == COMPILED


def test_turning_it_off_sends_what_was_held_and_a_reset_forgets_it() -> None:
    one = started(threshold=100)
    assert read(one) == ()
    assert not one.ctrl.compiled

    one.set_feature(Fid.INTERRUPT_COALESCING, 0)

    assert set(one.ctrl.take_irqs()) == {0, 1}
    assert one.ctrl.compiled == COMPILED
    one.set_feature(Fid.INTERRUPT_COALESCING, INTERRUPT_COALESCING.pack(thr_z=99, time=255))
    read(one)
    one.write(0x14, 0)
    one.step()
    one.step(one.now_ns + 10**9)
    assert one.ctrl.take_irqs() == ()
    assert one.ctrl.compiled == COMPILED
