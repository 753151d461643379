"""Faults of commands: statuses, bad blocks, corruption, drops, patched answers; counting of hits."""

from __future__ import annotations

from typing import Any

import pytest
from faulthost import FLUSH, READ, WRITE, FaultHost, pattern, up
from rawhost import FixedLatency

from nvme_emu.controller.dispatch import run_turn
from nvme_emu.core.faults import FaultError
from nvme_emu.spec.commands import log_page_offset
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import SQE
from nvme_emu.spec.status import CRD_SHIFT, DNR, MORE, Status

ABORT_CDW10_CID_SHIFT = 16


def statuses(host: FaultHost, count: int, slba: int = 0) -> list[int]:
    return [host.load(slba)[0] for _ in range(count)]


# -- status, and which hits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        ({"code": "READ_ERROR"}, Status.READ_ERROR | MORE),
        ({"code": "Unrecovered Read Error", "dnr": True}, Status.READ_ERROR | MORE | DNR),
        ({"code": "NS_NOT_READY", "crd": 2, "more": False}, Status.NS_NOT_READY | 2 << CRD_SHIFT),
        ({"code": 0x7C1, "more": True, "dnr": True, "crd": 3}, 0x7C1 | MORE | DNR | 3 << CRD_SHIFT),
    ],
)
def test_status_of_a_rule_is_in_the_completion_bit_for_bit(effect: dict[str, Any], expected: int) -> None:
    host = up()
    host.rule({"opcode": "read"}, status=effect)
    assert host.load(0)[0] == expected
    assert host.store(0, pattern(1)) == 0
    host.audit()


def test_failed_read_moves_no_data_and_executed_one_does() -> None:
    host = up()
    data = pattern(1)
    host.store(0, data)
    rule = host.rule({"opcode": "read"}, status={"code": "INTERNAL"})
    assert host.load(0) == (Status.INTERNAL | MORE, bytes(512))
    host.unit.remove(rule)
    host.rule({"opcode": "read"}, status={"code": "INTERNAL", "executed": True})
    assert host.load(0) == (Status.INTERNAL | MORE, data)


def test_success_that_did_nothing_is_a_status_of_zero() -> None:
    host = up()
    host.rule({"opcode": "write"}, status={"code": 0})
    assert host.store(0, pattern(1)) == 0
    assert host.load(0)[1] == bytes(512)


@pytest.mark.parametrize(
    ("when", "fails"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 3}, [3]),
        ({"nth": [2, 5]}, [2, 5]),
        ({"every": 2}, [2, 4, 6]),
        ({"every": 2, "skip": 1}, [3, 5]),
        ({"times": 2}, [1, 2]),
        ({"skip": 4}, [5, 6]),
        ({"ppm": 500_000}, [2, 4, 6]),
        ({"ppm": 0}, []),
        ({"probability": 1.0, "times": 1}, [1]),
        ({"probability": 0.0}, []),
    ],
)
def test_hits_at_which_a_rule_fires(when: dict[str, Any], fails: list[int]) -> None:
    host = up()
    rule = host.rule({"opcode": "read"}, when, status={"code": "INTERNAL"})
    got = [number for number, status in enumerate(statuses(host, 6), 1) if status]
    assert got == fails
    assert rule.fired == len(fails) == len(host.unit.firings)


def test_ppm_is_exact_over_any_stretch() -> None:
    host = up()
    rule = host.rule({"opcode": "flush"}, {"ppm": 30_000}, status={"code": "INTERNAL"})
    for _ in range(1000):
        host.io.put(FLUSH)
        host.go()
    assert (rule.hits, rule.fired) == (1000, 30)


def test_probability_is_the_seeds_and_the_rules_own() -> None:
    def fired(seed: int, noise: bool) -> list[int]:
        host = FaultHost(seed).up()
        rule = host.rule({"opcode": "read"}, {"probability": 0.3}, status={"code": "INTERNAL"})
        if noise:
            host.rule({"opcode": "flush"}, {"probability": 0.5}, delay={"ns": 5})
        found = []
        for number in range(60):
            if noise:
                host.io.put(FLUSH, cid=1)
                host.io.ring()
                host.after(5)
            if host.load(0)[0]:
                found.append(number)
        assert rule.fired == len(found)
        return found

    assert fired(1, False) == fired(1, True)
    assert fired(1, False) != fired(2, False)


def test_time_window_counts_only_hits_inside_it() -> None:
    host = up()
    rule = host.rule({"opcode": "read"}, {"from_ns": 100, "until_ns": 200, "nth": 2}, status={"code": 6})
    start = host.now_ns
    got = {}
    for at in (0, 99, 100, 150, 199, 200):
        host.step(start + at)
        got[at] = host.load(0)[0] != 0
    assert got == {0: False, 99: False, 100: False, 150: True, 199: False, 200: False}
    assert rule.hits == 3 or rule.hits == 2  # spent after its nth: then nobody counts


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ({"lba": [10, 10]}, True),
        ({"lba": [12, 20]}, True),
        ({"lba": [13, 20]}, False),
        ({"lba": [0, 9]}, False),
        ({"nsid": 1}, True),
        ({"nsid": [2, 3]}, False),
        ({"queue": 1}, True),
        ({"queue": 0}, False),
        ({"size": 1536}, True),
        ({"size": [0, 1535]}, False),
        ({"direction": "read"}, True),
        ({"direction": "write"}, False),
        ({"admin": False}, True),
        ({"admin": True}, False),
        ({"opcode": [1, 2]}, True),
        ({"opcode": "write"}, False),
        ({"pattern": "02"}, True),
        ({"pattern": "01"}, False),
        ({"pattern": "0000 0500", "mask": "0000 ff00"}, True),
        ({"pattern": SQE.pack(2, 0, 5, 1, *[0] * 5, 10, 0, 2, 0, 0, 0)[40:44].rjust(44, b"\0"),
          "mask": b"\0" * 40 + b"\xff" * 4}, True),
    ],
)  # fmt: skip
def test_match_of_a_read_of_three_blocks_at_ten(match: dict[str, Any], hit: bool) -> None:
    host = up()
    host.rule(match, status={"code": "INTERNAL"})
    host.put_rw(READ, 10, 3, cid=5)
    (done,) = host.go()
    assert bool(done.status) is hit


def test_first_rule_wins_each_kind_of_effect_and_the_next_has_what_is_left() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 2}, status={"code": "INTERNAL"})
    second = host.rule({"opcode": "read"}, status={"code": "READ_ERROR"}, delay={"ns": 70})
    host.put_rw(READ, cid=1)
    host.put_rw(READ, cid=2)
    assert host.go() == []
    done = host.after(70)
    assert [(one.cid, one.status & 0x7FF) for one in done] == [(1, Status.READ_ERROR), (2, Status.INTERNAL)]
    assert (second.hits, second.fired) == (2, 2)
    assert [event.effects for event in host.unit.firings] == ["status,delay", "status", "delay"]


def test_rule_whose_kinds_are_taken_counts_the_hit_and_does_not_fire() -> None:
    host = up()
    host.rule({"opcode": "read"}, status={"code": "INTERNAL"})
    second = host.rule({"opcode": "read"}, status={"code": "READ_ERROR"})
    statuses(host, 3)
    assert (second.hits, second.fired) == (3, 0)


def test_disarmed_rule_lets_everything_pass_and_counts_nothing() -> None:
    host = up()
    rule = host.rule({"opcode": "read"}, {"nth": 2}, status={"code": "INTERNAL"})
    assert statuses(host, 1) == [0]
    host.unit.set_armed(rule, False)
    assert statuses(host, 3) == [0, 0, 0]
    host.unit.set_armed(rule, True)
    assert statuses(host, 1) == [Status.INTERNAL | MORE]


def test_controller_without_armed_rules_has_its_own_methods_back() -> None:
    host = up()
    before = dict(vars(host.ctrl))
    rule = host.rule({"opcode": "read"}, {"times": 1}, status={"code": "INTERNAL"})
    assert host.ctrl.run_turn is not run_turn
    statuses(host, 1)
    host.step()
    assert host.ctrl.run_turn is run_turn
    assert vars(host.ctrl).keys() == before.keys()
    host.unit.remove(rule)


def test_rule_on_admin_commands_leaves_io_queues_their_gaits(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvme_emu.controller.faults import commands

    turns: list[int] = []
    monkeypatch.setattr(commands, "run_turn", lambda c, sq, n: turns.append(sq.qid) or run_turn(c, sq, n))
    host = up()
    host.rule({"opcode": "identify"}, status={"code": "INTERNAL"})
    statuses(host, 2)
    assert turns == [1, 1]


def test_command_that_reuses_an_identifier_in_flight_is_a_conflict_no_rule_sees() -> None:
    host = FaultHost(latency=FixedLatency(1000)).up()
    rule = host.rule({"opcode": "read"}, {"nth": 2}, status={"code": "INTERNAL"})
    host.put_rw(READ, cid=7)
    host.put_rw(READ, cid=7)
    (done,) = host.go()
    assert done.status & 0x7FF == Status.CMDID_CONFLICT
    assert rule.hits == 1


# -- bad blocks -------------------------------------------------------------------------------------------


def test_bad_blocks_fail_reads_that_touch_them_until_a_write_heals_them() -> None:
    host = up()
    host.rule({"lba": [10, 13]}, media_error={})
    assert host.load(8, 2)[0] == 0
    assert host.load(8, 3)[0] == Status.READ_ERROR | MORE
    data = pattern(2)
    assert host.store(10, data) == 0
    assert host.load(10, 2) == (0, data)
    assert host.load(11, 2)[0] == Status.READ_ERROR | MORE
    assert host.ctrl.error_log._entries[0]["lba"] == 12
    host.put_rw(0x08, 12, 2)  # Write Zeroes
    host.go()
    assert host.load(8, 8)[0] == 0
    assert host.ctrl.counters.media_errors == 2


def test_deallocated_bad_blocks_are_healed_too() -> None:
    host = up()
    host.rule({"lba": 5}, media_error={})
    buffer = host.pages()
    host.memory.write(buffer, (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + (5).to_bytes(8, "little"))
    host.io.put(0x09, prp1=buffer, cdw10=0, cdw11=4)
    (done,) = host.go()
    assert done.status == 0
    assert host.load(5)[0] == 0


def test_grown_bad_blocks_stay_bad_after_the_one_firing() -> None:
    host = up()
    rule = host.rule({"lba": [0, 99]}, {"times": 1}, media_error={"grown": True, "dnr": True})
    assert host.load(7)[0] == Status.READ_ERROR | MORE | DNR
    assert statuses(host, 2, slba=8) == [0, 0]
    assert host.load(7)[0] == Status.READ_ERROR | MORE | DNR
    assert host.store(7, pattern(1)) == 0
    assert host.load(7)[0] == 0
    assert rule.fired == 2


def test_read_out_of_range_is_that_and_no_media_error() -> None:
    host = up()
    host.rule({"lba": [0, 1 << 40]}, media_error={})
    assert host.load(2048)[0] & 0x7FF == Status.LBA_RANGE


# -- corrupted data ---------------------------------------------------------------------------------------


def test_bit_flip_on_read_changes_the_hosts_copy_alone() -> None:
    host = up()
    data = pattern(2)
    host.store(4, data)
    rule = host.rule({"opcode": "read"}, {"times": 1}, corrupt={"bits": 3})
    _, got = host.load(4, 2)
    flipped = [bit for bit in range(len(data) * 8) if (got[bit // 8] ^ data[bit // 8]) >> bit % 8 & 1]
    assert len(flipped) == 3
    assert host.unit.firings[0].detail == "bits " + ", ".join(map(str, flipped))
    assert host.load(4, 2)[1] == data
    assert rule.fired == 1


def test_bit_flip_on_write_is_on_the_medium() -> None:
    host = up()
    data = pattern(2)
    host.rule({"opcode": "write"}, corrupt={"at_bit": 512 * 8 + 1})
    host.store(4, data)
    expected = bytearray(data)
    expected[512] ^= 2
    assert host.load(4, 2)[1] == bytes(expected)


def test_torn_write_keeps_the_old_end() -> None:
    host = up()
    old, new = pattern(4, 1), pattern(4, 2)
    host.store(0, old)
    host.rule({"opcode": "write"}, corrupt={"how": "torn", "nbytes": 700})
    host.store(0, new)
    assert host.load(0, 4)[1] == new[:700] + old[700:]


def test_torn_read_leaves_the_rest_of_the_buffer() -> None:
    host = up()
    data = pattern(16)
    host.store(0, data)
    host.rule({"opcode": "read"}, corrupt={"how": "torn"})
    assert host.load(0, 16)[1] == data[:4096] + bytes(4096)


def test_stale_write_is_lost_and_stale_read_is_the_version_before() -> None:
    host = up()
    first, second = pattern(2, 1), pattern(2, 2)
    host.store(0, first)
    lost = host.rule({"opcode": "write"}, {"nth": 1}, corrupt={"how": "stale"})
    assert host.store(0, second) == 0
    assert host.load(0, 2)[1] == first
    host.unit.remove(lost)
    stale = host.rule({"opcode": "read"}, corrupt={"how": "stale"})
    assert host.load(0, 2)[1] == first  # nothing older is known: no hit
    host.store(0, second)
    assert host.load(0, 2)[1] == first
    assert (stale.hits, stale.fired) == (1, 1)


def test_misdirected_write_goes_to_the_next_blocks() -> None:
    host = up()
    data = pattern(2)
    host.rule({"opcode": "write"}, {"times": 1}, corrupt={"how": "misdirected"})
    host.store(10, data)
    assert host.load(10, 2)[1] == bytes(1024)
    assert host.load(12, 2)[1] == data


def test_misdirected_read_wraps_inside_the_namespace() -> None:
    host = up()
    data = pattern(1)
    host.store(0, data)
    host.rule({"opcode": "read"}, corrupt={"how": "misdirected", "distance": 1})
    assert host.load(2047)[1] == data


# -- drops ------------------------------------------------------------------------------------------------


def abort(host: FaultHost, cid: int) -> int:
    host.admin.put(AdminOpcode.ABORT, cid=9, cdw10=1 | cid << ABORT_CDW10_CID_SHIFT)
    host.admin.ring()
    host.step()
    (done,) = host.admin.reap()
    return done.dw0 & 1


def test_dropped_command_is_found_by_abort() -> None:
    host = up()
    host.rule({"opcode": "write"}, drop={})
    buffer = host.put_rw(WRITE, 0, cid=3)
    assert host.go() == []
    assert host.io.host.ctrl.outstanding
    assert host.load(0)[1] == bytes(512)
    assert abort(host, 3) == 0
    (done,) = host.io.reap()
    assert (done.cid, done.status) == (3, Status.ABORT_REQ)
    host.audit()
    assert buffer


def test_forgotten_command_is_not_found_by_abort_and_had_its_effect() -> None:
    host = up()
    data = pattern(1)
    host.rule({"opcode": "write"}, drop={"abortable": False, "executed": True})
    buffer = host.pages()
    host.memory.write(buffer, data)
    host.put_rw(WRITE, 0, cid=3, buffer=buffer)
    assert host.go() == []
    assert abort(host, 3) == 1
    assert host.io.reap() == []
    assert host.load(0)[1] == data
    host.audit()


def test_dropped_commands_take_no_completion_slots() -> None:
    host = FaultHost()
    host.enable()
    host.io = host.io_queue(size=16, cq_size=3)
    host.rule({"opcode": "read"}, drop={})
    for cid in range(10):
        host.put_rw(READ, cid=cid)
    host.go()
    assert len(host.ctrl.outstanding) == 10
    host.io.put(FLUSH, cid=99)
    assert [done.cid for done in host.go()] == [99]


# -- answers ----------------------------------------------------------------------------------------------


def test_identify_payload_is_patched_where_the_rule_says() -> None:
    host = up()
    host.rule({"opcode": "identify"}, payload={"patches": [{"offset": 77, "bytes": "03"}]})
    buffer = host.pages()
    done = host.admin.run(AdminOpcode.IDENTIFY, prp1=buffer, cdw10=1, nsid=0)
    identity = IDENTIFY_CONTROLLER.parse(host.memory.read(buffer, 4096))
    assert (done.status, identity.mdts, identity.mn) == (0, 3, "nvme-emu")
    assert "send" not in vars(host.ctrl)


def test_log_payload_is_patched_by_its_offset_in_the_page() -> None:
    host = up()
    host.rule({"opcode": "get_log_page"}, payload={"patches": [(12, b"\xaa\xbb")]})
    buffer = host.pages()
    assert log_page_offset(8, 0) == 8
    host.admin.run(AdminOpcode.GET_LOG_PAGE, prp1=buffer, nsid=0, cdw10=2 | 3 << 16, cdw12=8)
    assert host.memory.read(buffer + 4, 2) == b"\xaa\xbb"


def test_payload_and_io_commands_do_not_meet() -> None:
    host = up()
    rule = host.rule({}, payload={"patches": [(0, b"\1")]})
    assert statuses(host, 2) == [0, 0]
    assert rule.hits == 0


# -- what cannot be ---------------------------------------------------------------------------------------


def test_tcp_fault_is_refused_by_a_controller_behind_pci_express() -> None:
    host = up()
    with pytest.raises(FaultError, match="NVMe/TCP"):
        host.rule({}, tcp={"how": "data_digest"})
    host.unit.transport_kinds = frozenset({"tcp"})
    told: list[Any] = []
    host.unit.on_transport = lambda cmd, effect: told.append((cmd.cid, effect.how))
    host.rule({"opcode": "read"}, tcp={"how": "data_digest"})
    host.put_rw(READ, cid=4)
    assert len(host.go()) == 1
    assert told == [(4, "data_digest")]


def test_vector_that_is_not_there_is_refused() -> None:
    host = up()
    with pytest.raises(FaultError, match="vector 65: there are 65"):
        host.rule({"on": "manual"}, interrupt={"how": "spurious", "vector": 65})
