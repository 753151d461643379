"""Faults of completions and interrupts: when they come, what is in them, which message they send."""

from __future__ import annotations

from typing import Any

import pytest
from faulthost import READ, WRITE, FaultHost, pattern, up
from rawhost import Completion, FixedLatency

from nvme_emu.core.faults import FaultError
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import CQE, CQE_SIZE
from nvme_emu.spec.registers import CC, Reg
from nvme_emu.spec.status import Status


def entry(host: FaultHost, slot: int) -> tuple[int, ...]:
    return CQE.unpack(host.memory.read(host.io.cq + slot * CQE_SIZE, CQE_SIZE))


def cids(completions: list[Completion]) -> list[int]:
    return [one.cid for one in completions]


def reads(host: FaultHost, *which: int) -> list[Completion]:
    for cid in which:
        host.put_rw(READ, cid=cid)
    return host.go()


# -- later ------------------------------------------------------------------------------------------------


def test_delay_holds_up_nobody_else() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 1}, delay={"ns": "1us"})
    assert cids(reads(host, 1, 2, 3)) == [2, 3]
    assert host.ctrl.next_deadline() == host.now_ns + 1000
    assert cids(host.after(999)) == []
    assert cids(host.after(1)) == [1]
    host.audit()


def test_delay_counts_from_when_the_device_is_done() -> None:
    host = FaultHost(latency=FixedLatency(300)).up()
    host.rule({"opcode": "read"}, delay={"ns": 50})
    reads(host, 1)
    assert cids(host.after(349)) == []
    assert cids(host.after(1)) == [1]


def test_jitter_is_within_its_bounds_and_the_seeds() -> None:
    def waits(seed: int) -> list[int]:
        host = FaultHost(seed).up()
        host.rule({"opcode": "read"}, delay={"ns": 10, "jitter_ns": 90})
        found = []
        for cid in range(20):
            reads(host, cid)
            due = host.ctrl.next_deadline()
            assert due is not None
            found.append(due - host.now_ns)
            host.step(due)
            assert cids(host.io.reap()) == [cid]
        return found

    assert waits(1) == waits(1) != waits(2)
    assert all(10 <= ns <= 100 for ns in waits(1))


def test_delayed_event_request_waits_after_its_event() -> None:
    host = up()
    host.rule({"opcode": "async_event_request"}, delay={"ns": 100})
    host.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=31)
    host.admin.ring()
    host.step()
    host.ctrl.ring_sq(33, 1)  # no such queue: an event
    host.step()
    assert host.admin.reap() == []
    host.step(host.now_ns + 100)
    assert cids(host.admin.reap()) == [31]
    host.audit()


def test_abort_ends_a_delayed_command_at_once_and_only_once() -> None:
    host = up()
    host.rule({"opcode": "read"}, delay={"ns": 1000}, status={"code": "INTERNAL"})
    reads(host, 5)
    done = host.admin.run(AdminOpcode.ABORT, cdw10=1 | 5 << 16)
    assert done.dw0 == 0
    (aborted,) = host.io.reap()
    assert (aborted.cid, aborted.status) == (5, Status.ABORT_REQ)
    assert host.after(5000) == []
    host.audit()


def test_reorder_lets_others_overtake() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 1}, reorder={"behind": 2})
    assert cids(reads(host, 1, 2, 3, 4)) == [2, 3, 1, 4]
    host.audit()


def test_reorder_that_nobody_overtakes_ends_after_its_hold() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 1}, reorder={"behind": 3, "hold_ns": 500})
    assert cids(reads(host, 1, 2)) == [2]
    assert cids(host.after(500)) == [1]
    assert cids(reads(host, 3, 4, 5)) == [3, 4, 5]


def test_reset_drops_what_is_held_and_forgets_the_plans() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"times": 2}, delay={"ns": 1000}, cqe={"cid": 0x77})
    reads(host, 1, 2)
    host.write(Reg.CC, 0)
    host.step()
    host.audit()
    host.enable()
    host.io = host.io_queue()
    assert cids(reads(host, 1, 2)) == [1, 2]
    assert host.after(2000) == []


# -- twice, and wrong -------------------------------------------------------------------------------------


def test_duplicate_is_the_same_completion_again() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 2}, duplicate={})
    done = reads(host, 1, 2, 3)
    assert cids(done) == [1, 2, 2, 3]
    assert done[1] == done[2]
    host.audit()


def test_late_duplicate_comes_when_its_identifier_may_be_in_use_again() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 1}, duplicate={"after_ns": 100})
    assert cids(reads(host, 1)) == [1]
    assert cids(host.after(100)) == [1]


def test_duplicate_does_not_overfill_the_queue() -> None:
    host = FaultHost()
    host.enable()
    host.io = host.io_queue(cq_size=2)
    host.rule({"opcode": "read"}, duplicate={})
    assert cids(reads(host, 1)) == [1]
    host.step()
    assert cids(reads(host, 2)) == [2]


@pytest.mark.parametrize(
    ("wrong", "field", "value"),
    [
        ({"cid": 0x1234}, 4, 0x1234),
        ({"cid_xor": 0x1000}, 4, 0x1005),
        ({"sqid": 9}, 3, 9),
        ({"sqhd": 40}, 2, 40),
        ({"dw0": 0xDEAD_BEEF}, 0, 0xDEAD_BEEF),
        ({"phase": True}, 5, 0),
    ],
)
def test_one_field_of_the_completion_is_wrong(wrong: dict[str, Any], field: int, value: int) -> None:
    host = up()
    host.rule({"opcode": "read"}, cqe=wrong)
    reads(host, 5)
    expected = [0, 0, 1, 1, 5, 1]
    expected[field] = value
    assert list(entry(host, 0)) == expected
    host.audit()


def test_completion_of_the_wrong_phase_hides_the_queue_from_the_host() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 1}, cqe={"phase": True})
    assert reads(host, 1, 2) == []
    assert entry(host, 1)[4:] == (2, 1)


def test_torn_completion_has_its_phase_before_the_rest() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 1}, torn_cqe={"after_ns": 50})
    host.put_rw(READ, cid=5)
    host.io.ring()
    host.step()
    assert entry(host, 0) == (0, 0, 0, 0, 0, 1)
    host.step(host.now_ns + 50)
    assert entry(host, 0) == (0, 0, 1, 1, 5, 1)


def test_torn_completion_may_lack_its_first_words_only() -> None:
    host = up()
    host.rule({"opcode": "read"}, torn_cqe={"stale_bytes": 8})
    host.memory.write(host.io.cq, b"\xee" * 14)
    host.put_rw(READ, cid=5)
    host.io.ring()
    host.step()
    assert entry(host, 0) == (0xEEEE_EEEE, 0xEEEE_EEEE, 1, 1, 5, 1)


# -- interrupts -------------------------------------------------------------------------------------------


def test_lost_interrupt_leaves_the_completion() -> None:
    host = up(vector=3)
    host.rule({"opcode": "read"}, {"nth": 1}, interrupt={"how": "lost"})
    host.put_rw(READ, cid=1)
    host.io.ring()
    host.step()
    assert host.ctrl.take_irqs() == ()
    assert cids(host.io.reap()) == [1]
    reads(host, 2)
    assert host.ctrl.take_irqs() == (3,)


def test_late_interrupt_comes_when_the_rule_says() -> None:
    host = up(vector=3)
    host.rule({"opcode": "read"}, interrupt={"how": "late", "ns": 200})
    reads(host, 1)
    assert host.ctrl.take_irqs() == ()
    host.step(host.now_ns + 199)
    assert host.ctrl.take_irqs() == ()
    host.step(host.now_ns + 1)
    assert host.ctrl.take_irqs() == (3,)


def test_vectors_own_messages_can_be_lost_and_late() -> None:
    host = up(vector=3)
    host.rule({"vector": 3}, {"nth": 1}, interrupt={"how": "lost"})
    host.rule({"vector": 3}, {"nth": 2}, interrupt={"how": "late", "ns": 10})
    for cid, expected in ((1, ()), (2, ()), (3, (3,))):
        reads(host, cid)
        assert host.ctrl.take_irqs() == expected
    host.step(host.now_ns + 10)
    assert host.ctrl.take_irqs() == (3,)


def test_spurious_interrupts_come_at_their_times() -> None:
    host = up()
    rule = host.rule(
        {"on": "time"}, {"from_ns": 100, "period_ns": 50, "until_ns": 250}, interrupt={"how": "spurious", "vector": 7}
    )
    got = []
    start = host.now_ns
    while (due := host.ctrl.next_deadline()) is not None:
        host.step(due)
        got.append((due - start, host.ctrl.take_irqs()))
    assert got == [(100, (7,)), (150, (7,)), (200, (7,))]
    assert rule.fired == 3
    assert "step" not in vars(host.ctrl)


def test_fire_lets_a_rule_act_at_once() -> None:
    host = up()
    rule = host.rule({"on": "manual"}, interrupt={"how": "spurious", "vector": 2})
    host.unit.fire(rule)
    assert host.ctrl.take_irqs() == (2,)
    assert host.unit.firings[0].on == "manual"
    status = host.rule({"opcode": "read"}, status={"code": "INTERNAL"})
    with pytest.raises(FaultError, match="status needs something"):
        host.unit.fire(status)


# -- doorbells --------------------------------------------------------------------------------------------


def test_stuck_doorbell_is_released_by_disarming() -> None:
    host = up()
    rule = host.rule({"doorbell": "sq", "queue": 1}, doorbell={})
    assert reads(host, 1) == []
    assert reads(host, 2) == []
    host.unit.set_armed(rule, False)
    assert cids(host.go()) == [1, 2]
    assert rule.fired == 2


def test_late_doorbell_counts_later() -> None:
    host = up()
    host.rule({"doorbell": "sq", "queue": 1}, {"nth": 1}, doorbell={"how": "late", "ns": 300})
    assert reads(host, 1) == []
    assert cids(host.after(300)) == [1]


def test_lost_head_doorbell_is_back_pressure() -> None:
    host = FaultHost()
    host.enable()
    host.io = host.io_queue(cq_size=2)
    host.rule({"doorbell": "cq", "queue": 1}, {"nth": 1}, doorbell={})
    assert cids(reads(host, 1)) == [1]
    assert reads(host, 2) == []
    host.io.ring_cq()
    host.step()
    assert cids(host.io.reap()) == [2]


def test_doorbells_of_both_ways_of_ringing_pass_the_rules() -> None:
    host = up()
    rule = host.rule({"doorbell": "sq", "queue": 1}, doorbell={})
    host.put_rw(READ, cid=1)
    assert host.ctrl.doorbell_sq(1, 1, host.now_ns) == ((), None)
    assert rule.fired == 1


def test_interrupts_and_data_of_a_column_run_are_the_same_with_a_rule_that_never_fires() -> None:
    def outcome(with_rule: bool) -> Any:
        host = FaultHost(media=None).up(size=256, vector=1)
        if with_rule:
            host.rule({"opcode": "read"}, {"nth": 1 << 40}, status={"code": "INTERNAL"})
        data = pattern(100)
        for at in range(100):
            buffer = host.pages()
            host.memory.write(buffer, data[at * 512 : at * 512 + 512])
            host.put_rw(WRITE, at, cid=at, buffer=buffer)
        done = host.go()
        buffers = [host.put_rw(READ, at, cid=at) for at in range(100)]
        done += host.go()
        found = [host.memory.read(one, 512) for one in buffers]
        return done, found, host.ctrl.take_irqs(), host.ctrl.counters.as_dict()

    assert outcome(True) == outcome(False)


def test_shutdown_is_still_clean_with_rules() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 100}, drop={})
    host.write(Reg.CC, CC.pack(en=1, shn=1, iosqes=6, iocqes=4))
    host.step()
    assert host.csts.shst == 2
