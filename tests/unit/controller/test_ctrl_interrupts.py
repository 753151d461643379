"""MSI-X vectors."""

from __future__ import annotations

from rawhost import RawHost, started

from nvme_emu.controller.pcie.interrupts import Interrupts
from nvme_emu.core.trace import RaiseIrq, TraceHub
from nvme_emu.spec.opcodes import NvmOpcode


def _host() -> RawHost:
    host = RawHost()
    host.enable()
    host.ctrl.take_irqs()
    return host


def test_completions_of_one_step_raise_one_message_a_vector() -> None:
    host = _host()
    queues = [host.io_queue(qid, vector=vector) for qid, vector in ((1, 3), (2, 1), (3, 3))]
    for queue in queues:
        for cid in range(5):
            queue.put(NvmOpcode.FLUSH, cid=cid)
        queue.ring()
    host.step()
    assert host.ctrl.take_irqs() == (3, 1)
    assert host.ctrl.take_irqs() == ()


def test_polled_completion_queue_raises_nothing() -> None:
    host = _host()
    queue = host.io_queue(1, vector=9999, ien=False)
    assert queue.run(NvmOpcode.FLUSH).status == 0
    queue.rw(NvmOpcode.READ, 0, 1, host.pages())
    queue.ring()
    host.step()
    assert len(queue.reap()) == 1
    assert host.ctrl.take_irqs() == ()


def test_masked_vector_stays_pending_until_unmasked() -> None:
    host = _host()
    queue = host.io_queue(1, vector=2)
    host.ctrl.mask_vector(2, True)
    queue.run(NvmOpcode.FLUSH)
    assert host.ctrl.take_irqs() == ()
    assert host.ctrl.interrupts.is_pending(2)
    host.ctrl.mask_vector(2, False)
    assert host.ctrl.take_irqs() == (2,)
    assert not host.ctrl.interrupts.is_pending(2)
    host.ctrl.mask_vector(2, False)
    assert host.ctrl.take_irqs() == ()


def test_vector_masked_before_its_message_left_becomes_pending() -> None:
    host = _host()
    queue = host.io_queue(1, vector=2)
    queue.run(NvmOpcode.FLUSH)
    host.ctrl.mask_vector(2, True)
    assert host.ctrl.take_irqs() == ()
    host.ctrl.mask_vector(2, False)
    assert host.ctrl.take_irqs() == (2,)


def test_mask_of_a_vector_that_does_not_exist_is_harmless() -> None:
    host = _host()
    for vector in (-1, 65, 1 << 20):
        host.ctrl.mask_vector(vector, True)
        host.ctrl.mask_vector(vector, False)
        assert not host.ctrl.interrupts.is_pending(vector)
    assert host.ctrl.take_irqs() == ()


def test_reset_forgets_raised_and_pending_messages() -> None:
    host = _host()
    queue = host.io_queue(1, vector=2)
    host.ctrl.mask_vector(2, True)
    queue.run(NvmOpcode.FLUSH)
    host.write(0x14, 0)
    host.ctrl.mask_vector(2, False)
    assert host.ctrl.take_irqs() == ()


def test_message_is_traced_when_it_leaves() -> None:
    trace = TraceHub()
    events: list[object] = []
    trace.add_sink(events.append)
    interrupts = Interrupts(4, trace, lambda: 17)
    interrupts.raise_vector(1)
    interrupts.raise_vector(1)
    assert events == [RaiseIrq(17, 1)]


def test_admin_completion_raises_vector_zero() -> None:
    host, _ = started()
    host.ctrl.take_irqs()
    host.admin.run(0x06, prp1=host.pages(), cdw10=1)
    assert host.ctrl.take_irqs() == (0,)
