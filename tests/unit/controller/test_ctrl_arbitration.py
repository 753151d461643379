"""Round robin between submission queues."""

from __future__ import annotations

from rawhost import RawHost, RawQueue, started

from nvme_emu.core.trace import FetchCmd, TraceHub
from nvme_emu.spec.commands import QPRIO_HIGH, QPRIO_LOW, QPRIO_MEDIUM, QPRIO_URGENT
from nvme_emu.spec.features import ARBITRATION, Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import CC_AMS_WRR


def _fill(host: RawHost, queue: RawQueue, count: int) -> None:
    for cid in range(count):
        queue.put(NvmOpcode.FLUSH, cid=cid)
    queue.ring()


def _order(burst: int, counts: dict[int, int]) -> list[int]:
    trace = TraceHub()
    fetched: list[int] = []
    trace.add_sink(lambda event: fetched.append(event.sqid) if isinstance(event, FetchCmd) else None)
    host, first = started(trace=trace)
    queues = {1: first, 2: host.io_queue(2), 3: host.io_queue(3)}
    host.ctrl.arbiter.burst = burst
    for qid, count in counts.items():
        _fill(host, queues[qid], count)
    host.step()
    return fetched


def test_round_robin_with_burst_serves_each_queue_in_turn() -> None:
    assert _order(2, {1: 5, 2: 3, 3: 2}) == [1, 1, 2, 2, 3, 3, 1, 1, 2, 1]


def test_round_robin_without_limit_empties_each_queue() -> None:
    assert _order(0, {1: 5, 2: 3}) == [1] * 5 + [2] * 3


def test_round_robin_of_busy_queues_is_fair() -> None:
    order = _order(4, {1: 40, 2: 40, 3: 40})
    for at in range(0, 108, 12):
        assert sorted(order[at : at + 12]) == [1] * 4 + [2] * 4 + [3] * 4


def test_admin_queue_takes_its_turn_among_the_others() -> None:
    trace = TraceHub()
    fetched: list[int] = []
    trace.add_sink(lambda event: fetched.append(event.sqid) if isinstance(event, FetchCmd) else None)
    host, queue = started(trace=trace)
    host.ctrl.arbiter.burst = 2
    _fill(host, queue, 6)
    for cid in range(3):
        host.admin.put(AdminOpcode.IDENTIFY, cid=cid, prp1=host.pages(), cdw10=1)
    host.admin.ring()
    host.step()
    assert fetched == [1, 1, 0, 0, 1, 1, 0, 1, 1]


def test_queue_with_full_completion_queue_does_not_hold_the_others_up() -> None:
    host = RawHost()
    host.enable()
    small = host.io_queue(1, 64, 2)
    other = host.io_queue(2)
    _fill(host, small, 5)
    _fill(host, other, 5)
    host.step()
    assert len(other.reap()) == 5
    seen = []
    for _ in range(5):
        seen += [one.cid for one in small.reap()]
        host.step()
    assert seen == [0, 1, 2, 3, 4]


def test_arbitration_feature_sets_the_burst() -> None:
    host, _ = started()
    assert host.admin.run(AdminOpcode.SET_FEATURES, nsid=0, cdw10=1, cdw11=3).status == 0
    assert host.ctrl.arbiter.burst == 8
    assert host.admin.run(AdminOpcode.SET_FEATURES, nsid=0, cdw10=1, cdw11=7).status == 0
    assert host.ctrl.arbiter.burst == 0


# --- weighted round robin with urgent class -------------------------------------------------------------------


def weighted(*prios: int, commands: int = 12, weights: tuple[int, int, int] = (4, 2, 1)) -> list[int]:
    """The order in which commands of I/O queues 1, 2, … of these priorities are fetched, by queue."""
    host = RawHost()
    host.enable(ams=CC_AMS_WRR)
    assert host.csts.cfs == 0
    high, medium, low = weights
    value = ARBITRATION.pack(ab=2, hpw_z=high - 1, mpw_z=medium - 1, lpw_z=low - 1)
    host.ctrl.features.store((Fid.ARBITRATION, 0, 0), value)
    host.ctrl.apply_features()
    fetched: list[int] = []
    host.ctrl.trace.add_sink(lambda event: fetched.append(event.sqid) if isinstance(event, FetchCmd) else None)
    data = host.pages()
    for number, prio in enumerate(prios, 1):
        queue = host.queue(number, 64, 64)
        host.ctrl.rings.create_cq(number, queue.cq, 64, 0, False)
        host.ctrl.rings.create_sq(number, queue.sq, 64, number, prio)
        for cid in range(commands):
            queue.rw(NvmOpcode.READ, 0, 1, data, cid=cid)
        queue.ring()
    host.step()
    assert len(fetched) == commands * len(prios)
    return fetched


def test_weighted_rounds_take_as_many_of_each_class_as_its_weight() -> None:
    order = weighted(QPRIO_LOW, QPRIO_MEDIUM, QPRIO_HIGH)

    assert order[:14] == [3, 3, 3, 3, 2, 2, 1] * 2


def test_urgent_queues_come_before_all_others() -> None:
    order = weighted(QPRIO_HIGH, QPRIO_URGENT, QPRIO_URGENT, commands=6)

    assert set(order[:12]) == {2, 3}
    assert order[12:] == [1] * 6


def test_queues_of_one_class_take_turns() -> None:
    order = weighted(QPRIO_MEDIUM, QPRIO_MEDIUM, commands=4, weights=(1, 2, 1))

    assert order == [1, 1, 2, 2, 1, 1, 2, 2]
