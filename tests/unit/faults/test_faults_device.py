"""Faults of properties and of the whole device: lies, stalls, fatal status, removal, power, pauses."""

from __future__ import annotations

import random
from typing import Any

import pytest
from faulthost import FLUSH, READ, WRITE, FaultHost, pattern, up
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.controller.faults.blocks import BlockSet, History
from nvme_emu.controller.faults.cache import VolatileCache
from nvme_emu.controller.pcie.lifecycle import State
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.commands import RW_FUA
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, Fid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import CAP, CC, Reg

ALL_ONES_32 = 0xFFFF_FFFF


# -- properties -------------------------------------------------------------------------------------------


def test_cap_lies_in_the_bits_of_the_mask_at_any_width() -> None:
    host = FaultHost()
    true = host.read(Reg.CAP, 8)
    mqes, to = CAP["mqes_z"], CAP["to"]
    host.rule({"register": "CAP"}, register={"mask": mqes.mask | to.mask, "value": CAP.pack(mqes_z=7, to=0xFF)})
    lied = CAP.replace(true, mqes_z=7, to=0xFF)
    assert host.read(Reg.CAP, 8) == lied
    assert host.read(Reg.CAP) == lied & ALL_ONES_32
    assert host.read(Reg.CAP + 4) == lied >> 32
    assert host.read(Reg.CAP + 3, 1) == 0xFF
    assert host.read(Reg.VS) == host.ctrl.registers.vs


def test_property_lies_only_at_its_hits() -> None:
    host = FaultHost()
    host.rule({"register": "vs"}, {"nth": 2}, register={"mask": 0xFF_FFFF_FF, "value": 0x10000})
    assert [host.read(Reg.VS) for _ in range(3)] == [0x20100, 0x10000, 0x20100]


def test_ignored_write_of_cc_leaves_the_controller_disabled() -> None:
    host = FaultHost()
    rule = host.rule(
        {"register": "CC", "access": "write", "bits": 1, "value": 1}, {"times": 1}, register={"ignore": True}
    )
    host.enable()
    assert host.csts.rdy == 0
    assert rule.fired == 1
    host.write(Reg.CC, CC.pack(en=1, iosqes=6, iocqes=4))
    host.step()
    assert host.csts.rdy == 1


def test_write_changes_on_its_way() -> None:
    host = FaultHost()
    host.rule({"register": "AQA", "access": "write"}, register={"mask": 0xFFF, "value": 3})
    host.write(Reg.AQA, 31 << 16 | 31)
    assert host.read(Reg.AQA) == 31 << 16 | 3


# -- transitions ------------------------------------------------------------------------------------------


def test_rdy_never_comes_and_the_next_enable_is_not_caught() -> None:
    host = FaultHost()
    host.rule({"on": "enable"}, {"nth": 1}, stall={})
    host.enable()
    host.step(host.now_ns + 10**12)
    assert (host.csts.rdy, host.csts.cfs, host.ctrl.next_deadline()) == (0, 0, None)
    host.write(Reg.CC, 0)
    host.enable()
    assert host.csts.rdy == 1


def test_rdy_comes_later() -> None:
    host = FaultHost()
    host.rule({"on": "enable"}, stall={"ns": "2ms"})
    host.enable()
    host.step(host.now_ns + 1_999_999)
    assert host.csts.rdy == 0
    host.step(host.now_ns + 1)
    assert host.csts.rdy == 1


def test_rdy_never_goes_and_shst_never_completes() -> None:
    host = up()
    host.rule({"on": "shutdown"}, stall={})
    host.rule({"on": "disable"}, stall={})
    host.write(Reg.CC, CC.pack(en=1, shn=1, iosqes=6, iocqes=4))
    host.step(host.now_ns + 10**12)
    assert host.csts.shst == 1
    host.write(Reg.CC, 0)
    host.step(host.now_ns + 10**12)
    assert host.csts.rdy == 1


# -- fatal, reset -----------------------------------------------------------------------------------------


def test_cfs_at_a_command_loses_it_and_those_behind_it() -> None:
    host = up()
    host.rule({"opcode": "read"}, {"nth": 2}, cfs={})
    for cid in (1, 2, 3):
        host.put_rw(READ, cid=cid)
    assert [one.cid for one in host.go()] == [1]
    assert (host.csts.cfs, host.ctrl.state) == (1, State.FAILED)
    host.audit()
    host.write(Reg.CC, 0)
    host.step()
    host.up()
    assert host.load(0)[0] == 0
    host.audit()


def test_controller_resets_by_itself_at_a_command() -> None:
    host = up()
    rule = host.rule({"opcode": "read"}, reset={"nssro": True})
    host.put_rw(READ)
    assert host.go() == []
    assert (host.csts.rdy, host.csts.nssro, host.read(Reg.CC), host.read(Reg.AQA)) == (0, 1, 0, 0)
    assert not host.ctrl.arbiter.line
    host.unit.remove(rule)
    host.up()
    assert host.load(0)[0] == 0
    host.audit()


def test_reset_without_nssro_shows_nothing() -> None:
    host = up()
    host.rule({"on": "time"}, {"from_ns": 10}, reset={})
    host.step(host.now_ns + 10)
    assert host.read(Reg.CSTS) == 0


def test_device_effect_at_a_doorbell_comes_before_it() -> None:
    host = up()
    host.rule({"doorbell": "sq", "queue": 1}, cfs={})
    host.put_rw(READ)
    assert host.go() == []
    assert host.csts.cfs == 1


# -- removal and power ------------------------------------------------------------------------------------


def test_removed_device_reads_all_ones_takes_nothing_and_returns_as_new() -> None:
    host = up()
    rule = host.rule({"opcode": "write"}, {"nth": 1}, remove={"return_ns": 1000})
    host.put_rw(WRITE)
    assert host.go() == []
    assert host.read(Reg.CSTS) == ALL_ONES_32
    assert host.read(Reg.CAP, 8) == (1 << 64) - 1
    assert host.read(0x1000) == ALL_ONES_32
    host.write(Reg.CC, 0x0046_0001)
    host.io.ring()
    assert host.ctrl.next_deadline() == host.now_ns + 1000
    host.step(host.now_ns + 999)
    assert host.read(Reg.CSTS) == ALL_ONES_32
    host.step(host.now_ns + 1)
    assert (host.read(Reg.CSTS), host.read(Reg.CC)) == (0, 0)
    host.up()
    assert host.store(0, pattern(1)) == 0
    assert host.ctrl.counters.power_cycles == 2
    assert rule.fired == 1


def test_removed_for_good_and_put_back_by_hand() -> None:
    host = up()
    rule = host.rule({"on": "manual"}, remove={})
    host.unit.fire(rule)
    host.step(host.now_ns + 10**15)
    assert host.read(Reg.CSTS) == ALL_ONES_32
    host.unit.device.come_back()
    assert host.read(Reg.CSTS) == 0


def power_cut(host: FaultHost, kept_ppm: int = 0) -> None:
    rule = host.rule({"on": "manual"}, power_loss={"off_ns": 0, "kept_ppm": kept_ppm})
    host.store(0, pattern(8, 1))
    host.io.put(FLUSH)
    host.go()
    host.store(0, pattern(2, 2))
    host.store(4, pattern(2, 3), cdw12=RW_FUA)
    host.put_rw(0x08, 6, 1)
    host.go()
    host.unit.fire(rule)
    host.up()


def test_power_loss_takes_what_was_neither_flushed_nor_forced() -> None:
    host = up()
    power_cut(host)
    assert host.load(0, 8)[1] == pattern(8, 1)[:2048] + pattern(2, 3) + pattern(8, 1)[3072:]
    assert host.ctrl.counters.unsafe_shutdowns == 1


def test_power_loss_keeps_blocks_by_the_seed() -> None:
    def after(seed: int) -> bytes:
        host = FaultHost(seed).up()
        rule = host.rule({"on": "manual"}, power_loss={"off_ns": 0, "kept_ppm": 500_000})
        for at in range(0, 64, 8):
            assert host.store(at, pattern(64, 1)[at * 512 : at * 512 + 4096]) == 0
        host.unit.fire(rule)
        host.up()
        return b"".join(host.load(at, 8)[1] for at in range(0, 64, 8))

    new, seen = pattern(64, 1), after(1)
    assert seen == after(1) != after(2)
    kept = [at for at in range(64) if seen[at * 512 : at * 512 + 512] == new[at * 512 : at * 512 + 512]]
    lost = [at for at in range(64) if seen[at * 512 : at * 512 + 512] == bytes(512)]
    assert len(kept) + len(lost) == 64
    assert 16 < len(kept) < 48


def test_write_cache_that_is_off_loses_nothing() -> None:
    host = up()
    rule = host.rule({"on": "manual"}, power_loss={"off_ns": 0})
    host.admin.run(AdminOpcode.SET_FEATURES, nsid=0, cdw10=Fid.VOLATILE_WRITE_CACHE, cdw11=0)
    host.store(0, pattern(2))
    host.unit.fire(rule)
    host.up()
    assert host.load(0, 2)[1] == pattern(2)


def test_clean_shutdown_flushes_before_power_goes() -> None:
    host = up()
    rule = host.rule({"on": "manual"}, power_loss={"off_ns": 0})
    host.store(0, pattern(2))
    host.write(Reg.CC, CC.pack(en=1, shn=1, iosqes=6, iocqes=4))
    host.step()
    host.unit.fire(rule)
    host.up()
    assert host.load(0, 2)[1] == pattern(2)
    assert host.ctrl.counters.unsafe_shutdowns == 0


def test_cache_goes_with_the_last_rule_that_needs_it() -> None:
    host = up()
    view = host.ctrl.namespaces[1].view
    assert view is not None
    rule = host.rule({"on": "manual"}, power_loss={})
    assert isinstance(host.ctrl.namespaces[1].media, VolatileCache)
    assert host.store(0, pattern(2)) == 0
    host.unit.remove(rule)
    assert host.ctrl.namespaces[1].media is host.media[0]
    assert host.ctrl.namespaces[1].view is not None
    assert host.load(0, 2)[1] == pattern(2)


operations = st.lists(
    st.tuples(
        st.sampled_from(("write", "fua", "zero", "discard", "flush", "rows")),
        st.integers(0, 15),
        st.integers(1, 6),
        st.integers(1, 255),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(operations)
def test_cache_loses_exactly_what_came_after_the_last_flush_or_force(script: list[Any]) -> None:
    medium = RamMedia(16 * 512)
    cache = VolatileCache(medium, 512)
    now, durable = [0] * 16, [0] * 16
    for what, at, count, fill in script:
        count = min(count, 16 - at)
        blocks = range(at, at + count)
        data = bytes([fill]) * (count * 512)
        if what == "flush":
            cache.flush()
            durable = list(now)
            continue
        value = 0 if what in ("zero", "discard") else fill
        if what == "zero":
            cache.zero(at * 512, count * 512)
        elif what == "discard":
            cache.discard(at * 512, count * 512)
        elif what == "rows":
            import numpy as np

            cache.write_rows(np.array(list(blocks)), 512, np.frombuffer(data, np.uint8).copy())
        else:
            cache.write(at * 512, memoryview(data), what == "fua")
        for block in blocks:
            now[block] = value
            if what == "fua":
                durable[block] = value
    assert [medium.array[block * 512] for block in range(16)] == now  # type: ignore[index]
    cache.lose()
    assert [medium.array[block * 512] for block in range(16)] == durable  # type: ignore[index]


def test_full_cache_destages_its_oldest_blocks() -> None:
    medium = RamMedia(16 * 512)
    cache = VolatileCache(medium, 512, cache_bytes=2 * 512)
    for block in range(3):
        cache.write(block * 512, memoryview(bytes([block + 1]) * 512))
    assert (len(cache), cache.lose()) == (2, 2)
    assert [medium.array[block * 512] for block in range(3)] == [1, 0, 0]  # type: ignore[index]
    cache.write(0, memoryview(b"\7" * 512 * 8))
    assert len(cache) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 12)), max_size=30))
def test_block_set_is_a_set_of_blocks(script: list[tuple[bool, int, int]]) -> None:
    blocks, model = BlockSet(), set[int]()
    for add, slba, nlb in script:
        (blocks.add if add else blocks.remove)(slba, nlb)
        (model.update if add else model.difference_update)(range(slba, slba + nlb))
        for at in range(0, 60, 3):
            inside = [lba for lba in range(at, at + 5) if lba in model]
            assert blocks.first(at, 5) == (inside[0] if inside else None)
    assert bool(blocks) == bool(model)


def test_history_forgets_its_oldest_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvme_emu.controller.faults.blocks.HISTORY_BLOCKS_MAX", 2)
    history = History()
    history.remember(1, 0, b"aabb", 2)
    history.remember(1, 0, b"cc", 2)
    history.remember(1, 9, b"dd", 2)
    assert [history.block(1, lba) for lba in (0, 1, 9)] == [b"cc", None, b"dd"]


# -- temperature, pause -----------------------------------------------------------------------------------


def test_temperature_of_a_rule_raises_the_event() -> None:
    host = up()
    host.admin.run(AdminOpcode.SET_FEATURES, nsid=0, cdw10=Fid.ASYNC_EVENT_CONFIG, cdw11=2)
    host.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=31)
    host.admin.ring()
    host.rule({"on": "time"}, {"from_ns": 50}, temperature={"kelvin": 380})
    host.step(host.now_ns + 50)
    (event,) = host.admin.reap()
    assert (event.cid, event.dw0) == (31, 0x02_01_01)
    assert host.ctrl.temperature_k == 380


def test_pause_tells_the_host_shows_pp_and_processes_nothing_meanwhile() -> None:
    host = up()
    fan = ASYNC_EVENT_CONFIG.mask("fan")
    host.admin.run(AdminOpcode.SET_FEATURES, nsid=0, cdw10=Fid.ASYNC_EVENT_CONFIG, cdw11=fan)
    host.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=31)
    host.admin.ring()
    host.step()
    rule = host.rule({"opcode": "read"}, {"nth": 1}, pause={"ns": 1000})
    host.put_rw(READ, cid=1)
    host.put_rw(READ, cid=2)
    assert [one.cid for one in host.go()] == [1]  # the command at which it fired was still done
    (event,) = host.admin.reap()
    assert (event.cid, event.dw0) == (31, 0x03_01_02)
    assert host.csts.pp == 1
    assert host.ctrl.next_deadline() == host.now_ns + 1000
    assert host.after(999) == []
    assert [one.cid for one in host.after(1)] == [2]
    assert host.csts.pp == 0
    assert rule.fired == 1
    host.step()
    assert "step" not in vars(host.ctrl)


def test_rules_added_and_removed_at_random_leave_a_working_controller() -> None:
    draw = random.Random(5)
    effects: list[dict[str, Any]] = [
        {"delay": {"ns": 500}}, {"duplicate": {"after_ns": 100}}, {"reorder": {}}, {"drop": {}},
        {"status": {"code": "INTERNAL"}}, {"interrupt": {"how": "late", "ns": 10}}, {"pause": {"ns": 100}},
        {"cfs": {}}, {"reset": {}}, {"remove": {"return_ns": 300}}, {"power_loss": {"off_ns": 0}},
        {"torn_cqe": {}}, {"corrupt": {"how": "stale"}},
    ]  # fmt: skip
    host = up(size=16)

    def restart() -> None:
        host.step(host.now_ns + 1000)
        host.write(Reg.CC, 0)
        host.step()
        host._next = host.region.base
        host.region.array[: 64 * 4096] = 0
        host.up(size=16)

    buffer = host.region.base + 900 * 4096
    for number in range(600):
        if draw.random() < 0.3:
            host.rule({"opcode": draw.choice(["read", "write"])}, {"probability": 0.3}, **draw.choice(effects))
        while len(host.unit.rules) > 3:
            host.unit.remove(draw.choice(host.unit.rules))
        if host.ctrl.state is not State.READY or host.ctrl.rings.sqs[1].waiting() > 8:
            restart()
        host.put_rw(draw.choice([READ, WRITE]), draw.randrange(100), cid=number, buffer=buffer)
        host.io.ring()
        host.step(host.now_ns + draw.randrange(200))
        host.io.reap()
        host.audit()
    while host.unit.rules:
        host.unit.remove(host.unit.rules[0])
    host.step(host.now_ns + 10_000)
    restart()
    assert host.store(3, pattern(1)) == 0
    assert host.load(3) == (0, pattern(1))
    host.step()
    assert not {"step", "run_turn", "_post", "mmio_read"} & vars(host.ctrl).keys()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4), st.booleans()), max_size=12),
    st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_cache_loses_atomic_writes_whole_or_not_at_all(
    script: list[tuple[int, int, bool]], coins: list[bool]
) -> None:
    medium = RamMedia(20 * 512)
    cache = VolatileCache(medium, 512, atomic_blocks=4)
    for number, (at, count, halves) in enumerate(script, 1):
        data = memoryview(bytes([number]) * 512 * count)
        half = count // 2 * 512 if halves else 0
        if half:
            cache.write(at * 512, data[:half])
        cache.write(at * 512 + half, data[half:])

    draws = iter(coins)
    cache.lose(lambda: next(draws))

    left = [medium.array[block * 512] for block in range(20)]  # type: ignore[index]
    for number, (at, count, _) in enumerate(script, 1):
        later = set(range(number + 1, len(script) + 1))
        covered = {left[block] for block in range(at, at + count)}
        assert number not in covered or covered <= later | {number}, "a write was torn"


def test_cache_destages_atomic_writes_whole() -> None:
    medium = RamMedia(16 * 512)
    cache = VolatileCache(medium, 512, cache_bytes=4 * 512, atomic_blocks=4)
    cache.write(0, memoryview(bytes([1]) * 4 * 512))
    cache.write(8 * 512, memoryview(bytes([2]) * 512))
    assert (len(cache), cache.lose()) == (1, 1)
    assert [medium.array[block * 512] for block in (0, 1, 2, 3, 8)] == [1, 1, 1, 1, 0]  # type: ignore[index]
