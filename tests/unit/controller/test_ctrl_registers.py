"""BAR0: access rules, and the life of the controller as its registers show it."""

from __future__ import annotations

import pytest
from rawhost import RawHost, started

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.pcie.lifecycle import OUTPUTS, TRANSITIONS, Action, Input, State
from nvme_emu.core.trace import ControllerState, TraceHub
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import AQA, CAP, CC, CRTO, NSSR_MAGIC, VS_2_1, Reg, doorbell_offset

GOOD_CC = CC.pack(en=1, iosqes=6, iocqes=4)


def test_cap_configured_reports_every_field() -> None:
    config = ControllerConfig(
        queue_entries_max=1024, ready_timeout_ms=2000, dstrd=3, nssrs=False, mpsmin=1, mpsmax=2
    )
    host = RawHost(config=config)
    cap = CAP.unpack(host.read(Reg.CAP, 8))
    assert (cap.mqes_z, cap.cqr, cap.to, cap.dstrd, cap.nssrs) == (1023, 1, 4, 3, 0)
    assert (cap.mpsmin, cap.mpsmax, cap.crwms, cap.crims, cap.css) == (1, 2, 1, 0, 0x41)
    assert host.read(Reg.VS) == VS_2_1
    assert CRTO.unpack(host.read(Reg.CRTO)).crwmt == 4


@pytest.mark.parametrize("reg", [Reg.CAP, Reg.VS, Reg.CRTO])
def test_read_only_property_written_keeps_its_value(reg: Reg) -> None:
    host = RawHost()
    before = host.read(reg, reg.size)
    host.write(reg, 0xFFFF_FFFF_FFFF_FFFF, reg.size)
    assert host.read(reg, reg.size) == before


def test_admin_queue_properties_written_read_back_without_reserved_bits() -> None:
    host = RawHost()
    host.write(Reg.AQA, 0xFFFF_FFFF)
    host.write(Reg.ASQ, 0x1234_5678_9ABC_DEF1, 8)
    host.write(Reg.ACQ, 0x9ABC_DEF1)
    host.write(Reg.ACQ + 4, 0x1234_5678)
    assert host.read(Reg.AQA) == 0x0FFF_0FFF
    assert host.read(Reg.ASQ, 8) == host.read(Reg.ACQ, 8) == 0x1234_5678_9ABC_D000
    assert host.read(Reg.ASQ + 4) == 0x1234_5678


def test_admin_queue_properties_while_enabled_are_readable_and_fixed() -> None:
    host, _ = started()
    before = [host.read(reg, reg.size) for reg in (Reg.AQA, Reg.ASQ, Reg.ACQ)]
    for reg in (Reg.AQA, Reg.ASQ, Reg.ACQ):
        host.write(reg, 0x5000_5000, reg.size)
    assert [host.read(reg, reg.size) for reg in (Reg.AQA, Reg.ASQ, Reg.ACQ)] == before


def test_interrupt_mask_registers_with_msix_read_zero() -> None:
    host = RawHost()
    host.write(Reg.INTMS, 0xFFFF_FFFF)
    host.write(Reg.INTMC, 0xFFFF_FFFF)
    assert host.read(Reg.INTMS) == host.read(Reg.INTMC) == 0


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 8, 16, -4])
@pytest.mark.parametrize("offset", [0, 1, 3, 4, 5, 7, 0x14, 0x16, 0x1C, 0x28, 0x2A, 0xFFE, 0xFFF, 0x1000])
def test_read_of_any_size_and_alignment_gives_the_bytes_or_zero(offset: int, size: int) -> None:
    host = RawHost()
    host.write(Reg.ASQ, 0x1122_3344_5566_7000, 8)
    whole = b"".join(host.read(at).to_bytes(4, "little") for at in range(0, 0x1010, 4))
    expected = int.from_bytes(whole[offset : offset + size], "little") if size in (1, 2, 4, 8) else 0
    assert host.read(offset, size) == expected


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_read_behind_the_bar_gives_all_ones(size: int) -> None:
    host = RawHost()
    ones = (1 << 8 * size) - 1
    assert host.read(host.config.bar_size, size) == ones
    assert host.read(host.config.bar_size - size + 1, size) == ones
    assert host.read(-1, size) == ones


@pytest.mark.parametrize(
    ("offset", "size"), [(0x28, 1), (0x28, 2), (0x29, 4), (0x2A, 2), (0x26, 8), (0x28, 3), (0x28, 16)]
)
def test_write_of_odd_size_or_alignment_is_dropped_and_traced(offset: int, size: int) -> None:
    trace = TraceHub()
    notes: list[str] = []
    trace.add_sink(lambda event: notes.append(event.what) if isinstance(event, ControllerState) else None)
    host = RawHost(trace=trace)
    before = [host.read(at) for at in range(0, 0x70, 4)]
    host.write(offset, (1 << 64) - 1, size)
    assert [host.read(at) for at in range(0, 0x70, 4)] == before
    assert any("dropped" in note for note in notes)


# -- enable ----------------------------------------------------------------------------------------


def test_enable_with_good_settings_becomes_ready() -> None:
    host = RawHost()
    host.enable()
    assert (host.csts.rdy, host.csts.cfs, host.csts.shst) == (1, 0, 0)
    assert host.admin.run(AdminOpcode.IDENTIFY, prp1=host.pages(), cdw10=1).status == 0


@pytest.mark.parametrize(
    "cc",
    [{"iosqes": 5}, {"iocqes": 6}, {"mps": 5}, {"css": 7}, {"css": 1}, {"ams": 2}, {"ams": 7}],
)
def test_enable_with_bad_cc_sets_fatal_status_until_reset(cc: dict[str, int]) -> None:
    host = RawHost()
    host.enable(**cc)
    assert (host.csts.rdy, host.csts.cfs) == (0, 1)
    host.write(Reg.CC, 0)
    assert (host.csts.rdy, host.csts.cfs) == (0, 0)
    host.enable()
    assert host.csts.rdy == 1


def test_enable_below_mpsmin_sets_fatal_status() -> None:
    host = RawHost(config=ControllerConfig(mpsmin=1))
    host.enable(mps=0)
    assert host.csts.cfs == 1


@pytest.mark.parametrize(("asqs_z", "acqs_z"), [(0, 31), (31, 0)])
def test_enable_with_admin_queue_of_one_entry_sets_fatal_status(asqs_z: int, acqs_z: int) -> None:
    host = RawHost()
    host.set_admin()
    host.write(Reg.AQA, AQA.pack(asqs_z=asqs_z, acqs_z=acqs_z))
    host.write(Reg.CC, GOOD_CC)
    assert host.csts.cfs == 1


@pytest.mark.parametrize("reg", [Reg.ASQ, Reg.ACQ])
def test_enable_with_admin_queue_outside_memory_sets_fatal_status(reg: Reg) -> None:
    host = RawHost()
    host.set_admin()
    host.write(reg, 0xDEAD_0000_0000, 8)
    host.write(Reg.CC, GOOD_CC)
    assert host.csts.cfs == 1


def test_enable_with_ready_time_is_ready_after_it_and_not_before() -> None:
    host = RawHost(config=ControllerConfig(ready_ns=5_000))
    host.enable()
    assert host.csts.rdy == 0
    assert host.ctrl.next_deadline() == host.now_ns + 5_000
    host.step(host.now_ns + 4_999)
    assert host.csts.rdy == 0
    host.step(host.now_ns + 1)
    assert host.csts.rdy == 1
    assert host.ctrl.next_deadline() is None


def test_cc_while_enabled_keeps_css_mps_and_ams() -> None:
    host, _ = started()
    host.write(Reg.CC, CC.pack(en=1, css=6, mps=2, ams=1, iosqes=7, iocqes=5))
    cc = CC.unpack(host.read(Reg.CC))
    assert (cc.en, cc.css, cc.mps, cc.ams, cc.iosqes, cc.iocqes) == (1, 0, 0, 0, 7, 5)
    assert host.csts.rdy == 1


def test_cc_reserved_bits_and_crime_read_zero() -> None:
    host = RawHost()
    host.write(Reg.CC, 0xFF00_000E)
    assert host.read(Reg.CC) == 0


# -- reset -----------------------------------------------------------------------------------------


def test_reset_keeps_admin_queue_properties_and_drops_queues() -> None:
    host, queue = started()
    asq, acq, aqa = host.read(Reg.ASQ, 8), host.read(Reg.ACQ, 8), host.read(Reg.AQA)
    host.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=7)
    host.admin.ring()
    host.step()
    host.write(Reg.CC, 0)
    assert (host.read(Reg.ASQ, 8), host.read(Reg.ACQ, 8), host.read(Reg.AQA)) == (asq, acq, aqa)
    assert (host.csts.rdy, host.read(Reg.CC)) == (0, 0)
    assert not host.ctrl.rings.sqs
    assert not host.ctrl.outstanding
    assert host.ctrl.counters.dropped == 1
    host.audit()
    queue.ring()
    host.step()
    assert host.csts.cfs == 0


def test_reset_with_reset_time_shows_ready_until_it_is_over() -> None:
    host = RawHost(config=ControllerConfig(reset_ns=700))
    host.enable()
    host.write(Reg.CC, 0)
    assert host.csts.rdy == 1
    host.step()
    host.step(host.now_ns + 700)
    assert host.csts.rdy == 0


def test_enabled_again_after_reset_works_from_a_fresh_phase() -> None:
    host = RawHost()
    for _ in range(3):
        host.enable()
        assert host.admin.run(AdminOpcode.IDENTIFY, prp1=host.pages(), cdw10=1).status == 0
        host.write(Reg.CC, 0)


def test_subsystem_reset_with_its_magic_resets_everything_and_tells() -> None:
    host, _ = started()
    host.write(Reg.NSSR, NSSR_MAGIC)
    assert (host.csts.rdy, host.csts.nssro) == (0, 1)
    assert host.read(Reg.AQA) == host.read(Reg.ASQ, 8) == host.read(Reg.CC) == host.read(Reg.NSSR) == 0
    host.write(Reg.CSTS, 0)
    assert host.csts.nssro == 1
    host.write(Reg.CSTS, 0xFFFF_FFFF)
    assert host.csts.nssro == 0


def test_subsystem_reset_with_another_value_or_unsupported_does_nothing() -> None:
    host, _ = started()
    host.write(Reg.NSSR, NSSR_MAGIC - 1)
    assert host.csts.rdy == 1
    host = RawHost(config=ControllerConfig(nssrs=False))
    host.enable()
    host.write(Reg.NSSR, NSSR_MAGIC)
    assert (host.csts.rdy, host.csts.nssro) == (1, 0)


# -- shutdown --------------------------------------------------------------------------------------


class CountingMedia(RamMedia):
    """Counts flushes."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.mark.parametrize(("shn", "takes_ns"), [(1, 900), (2, 0)])
def test_shutdown_flushes_and_completes_in_its_time(shn: int, takes_ns: int) -> None:
    media = CountingMedia(1 << 16)
    host = RawHost(config=ControllerConfig(shutdown_ns=900), media=[media])
    host.enable()
    host.write(Reg.CC, GOOD_CC | CC.pack(shn=shn))
    if takes_ns:
        assert (host.csts.shst, media.flushes) == (1, 0)
        host.step()
        host.step(host.now_ns + takes_ns)
    assert (host.csts.rdy, host.csts.shst, media.flushes) == (1, 2, 1)
    host.write(Reg.CC, 0)
    assert (host.csts.rdy, host.csts.shst) == (0, 0)
    host.enable()
    assert (host.csts.rdy, host.csts.shst) == (1, 0)


def test_shutdown_stops_fetching() -> None:
    host, queue = started()
    queue.rw(2, 0, 1, host.pages(), cid=1)
    host.write(Reg.CC, GOOD_CC | CC.pack(shn=1))
    queue.ring()
    host.step()
    assert queue.reap() == []


def test_shutdown_while_disabled_completes_and_is_undone_by_clearing_shn() -> None:
    host = RawHost()
    host.write(Reg.CC, CC.pack(shn=1))
    assert (host.csts.rdy, host.csts.shst) == (0, 2)
    host.write(Reg.CC, 0)
    assert host.csts.shst == 0


def test_reserved_shutdown_value_does_nothing() -> None:
    host, _ = started()
    host.write(Reg.CC, GOOD_CC | CC.pack(shn=3))
    assert host.csts.shst == 0


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("what", list(Input))
def test_state_table_each_pair_goes_where_it_says_or_stays(state: State, what: Input) -> None:
    host = RawHost(config=ControllerConfig(ready_ns=1, reset_ns=1, shutdown_ns=1))
    host.set_admin()
    host.ctrl.registers.state = state
    host.ctrl.lifecycle.take(what)
    expected, _ = TRANSITIONS.get((state, what), (state, Action.NOTHING))
    assert host.ctrl.state is expected
    rdy, shst, cfs = OUTPUTS[expected]
    assert (host.csts.rdy, host.csts.shst, host.csts.cfs) == (rdy, shst, cfs)


def test_state_table_every_state_is_reachable_and_resets() -> None:
    reached = {State.DISABLED}
    while True:
        more = {to for (state, _), (to, _) in TRANSITIONS.items() if state in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
    for state in State:
        assert TRANSITIONS[state, Input.SUBSYSTEM_RESET][0] is State.DISABLED
        if OUTPUTS[state][2]:
            assert (state, Input.DISABLE) in TRANSITIONS


@pytest.mark.parametrize("dstrd", [0, 1, 4, 15])
def test_doorbells_at_any_stride_reach_their_queue(dstrd: int) -> None:
    host = RawHost(config=ControllerConfig(dstrd=dstrd, io_queues_max=4))
    host.enable()
    queue = host.io_queue(3)
    queue.rw(2, 0, 1, host.pages(), cid=9)
    queue.ring()
    host.step()
    assert [done.cid for done in queue.reap()] == [9]
    assert doorbell_offset(3, False, dstrd) == 0x1000 + 6 * (4 << dstrd)
