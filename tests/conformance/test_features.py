"""Every feature by each select: current, default, saved, changeable; through resets, power cycles; whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nvmehost import BROADCAST, QUICK, SIZE, TRANSPORTS, NvmeHost, connected

import nvme_emu
from nvme_emu.controller.feature_kinds import FEATURES
from nvme_emu.controller.power_states import CLIENT_POWER_STATES
from nvme_emu.spec.commands import SEL_DEFAULT, SEL_SAVED, SEL_SUPPORTED
from nvme_emu.spec.feature_data import APST_ENTRY, APST_TABLE, HOST_BEHAVIOR, TIMESTAMP
from nvme_emu.spec.features import FEATURE_CAPABILITIES, Fid
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, Cns
from nvme_emu.spec.status import Status

CONFIG = replace(QUICK, power_states=CLIENT_POWER_STATES, temperature_sensors=1, track_allocation=True, kas=10)
APST = APST_TABLE.build(entries=[APST_ENTRY.pack(itps=3, itpt=60_000)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A feature: its default, a value to set and how it is then read; ``ask`` is CDW11 of Get Features.

    ``saved`` says whether it can be saved on PCI Express (over fabrics nothing is), ``stays`` that a reset does not
    change it, ``driver`` that the driver sets it itself as it comes up. ``where``: "", "pcie" or "fabrics".
    """

    fid: int
    value: int
    default: int = 0
    ask: int = 0
    nsid: int = 0
    saved: bool = True
    stays: bool = False
    driver: bool = False
    where: str = ""
    data: bytes = b""

    def __repr__(self) -> str:
        return f"{self.fid:02x}h-{self.ask:x}"


ROWS = [
    Row(fid=Fid.ARBITRATION, value=0x01020304 & ~0xF8, default=6),
    Row(fid=Fid.POWER_MANAGEMENT, value=2 | 1 << 5),
    Row(fid=Fid.TEMPERATURE_THRESHOLD, value=330, default=343),
    Row(fid=Fid.TEMPERATURE_THRESHOLD, value=5 | 1 << 20, default=1 << 20, ask=1 << 20),
    Row(fid=Fid.TEMPERATURE_THRESHOLD, value=400 | 1 << 16 | 3 << 22, default=0xFFFF | 1 << 16, ask=1 << 16),
    Row(fid=Fid.ERROR_RECOVERY, value=1 << 16 | 5, nsid=1),
    Row(fid=Fid.VOLATILE_WRITE_CACHE, value=0, default=1),
    Row(fid=Fid.INTERRUPT_COALESCING, value=0x0107, where="pcie"),
    Row(fid=Fid.INTERRUPT_VECTOR_CONFIG, value=2 | 1 << 16, default=2, ask=2, where="pcie"),
    Row(fid=Fid.WRITE_ATOMICITY, value=1),
    Row(fid=Fid.ASYNC_EVENT_CONFIG, value=0x0102, driver=True),
    Row(fid=Fid.AUTONOMOUS_POWER_STATE_TRANSITION, value=1, data=APST),
    Row(fid=Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT, value=320 << 16 | 340),
    Row(fid=Fid.NON_OPERATIONAL_POWER_STATE, value=1, where="pcie"),
    Row(fid=Fid.LBA_STATUS_REPORT_INTERVAL, value=7),
    Row(fid=Fid.SANITIZE_CONFIG, value=1),
    Row(fid=Fid.ENDURANCE_GROUP_EVENT_CONFIG, value=1 | 1 << 16, default=1, ask=1),
    Row(fid=Fid.RESERVATION_NOTIFICATION_MASK, value=0b1110, nsid=1),
    Row(fid=Fid.RESERVATION_PERSISTENCE, value=1, nsid=1, saved=False, stays=True),
    Row(fid=Fid.WRITE_PROTECTION, value=1, nsid=1, saved=False, stays=True),
]
EACH = pytest.mark.parametrize("row", ROWS, ids=repr)
OTHERS = {
    Fid.NUMBER_OF_QUEUES, Fid.TIMESTAMP, Fid.KEEP_ALIVE_TIMER, Fid.HOST_BEHAVIOR, Fid.HOST_IDENTIFIER,
    Fid.IO_COMMAND_SET_PROFILE,
}  # fmt: skip
"""Those that have one value to set, or are of the association; they have tests of their own."""


@pytest.fixture(params=TRANSPORTS)
def full(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """A controller with every feature that there is."""
    with connected(request.param, CONFIG) as one:
        yield one


def fabrics(host: NvmeHost) -> bool:
    return bool(IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data).ioccsz)


def get(host: NvmeHost, row: Row, sel: int = 0) -> int:
    answer = host.feature(row.fid, nsid=row.nsid, sel=sel, cdw11=row.ask, nbytes=len(row.data))
    assert answer.status == 0
    if row.data:
        assert answer.data == (row.data if answer.dw0 else bytes(len(row.data)))
    return answer.dw0


def put(host: NvmeHost, row: Row, save: bool = False) -> int:
    return host.set_feature(row.fid, row.value, nsid=row.nsid, save=save, data=row.data or None).status


def test_every_feature_is_in_a_table() -> None:
    assert {row.fid for row in ROWS} | OTHERS == set(FEATURES)


@EACH
def test_feature_is_set_read_saved_and_comes_back(full: NvmeHost, row: Row) -> None:
    host, here = full, "fabrics" if fabrics(full) else "pcie"
    if row.where and row.where != here:
        assert host.feature(row.fid).status == put(host, row) == Status.INVALID_FIELD
        return
    kinds = FEATURE_CAPABILITIES.unpack(host.feature(row.fid, nsid=row.nsid, sel=SEL_SUPPORTED).dw0)
    saveable = row.saved and here == "pcie"
    assert (kinds.saveable, kinds.ns_specific, kinds.changeable) == (int(saveable), int(row.nsid > 0), 1)
    assert get(host, row, SEL_DEFAULT) == get(host, row, SEL_SAVED) == row.default
    if not row.driver:
        assert get(host, row) == row.default

    assert put(host, row) == 0

    assert (get(host, row), get(host, row, SEL_DEFAULT), get(host, row, SEL_SAVED)) == (
        row.value, row.default, row.default,
    )  # fmt: skip
    host.machine.driver.reset()
    if row.stays:
        assert get(host, row) == row.value
    elif not row.driver:
        assert get(host, row) == row.default
    if not saveable:
        assert put(host, row, save=True) == Status.FEATURE_NOT_SAVEABLE
        return
    assert put(host, row, save=True) == 0
    host.machine.driver.reset()
    assert (get(host, row, SEL_DEFAULT), get(host, row, SEL_SAVED)) == (row.default, row.value)
    if not row.driver:
        assert get(host, row) == row.value


@EACH
def test_feature_is_the_controllers_or_a_namespaces(full: NvmeHost, row: Row) -> None:
    if row.where == "pcie" and fabrics(full):
        return
    if row.nsid:
        assert full.feature(row.fid, nsid=0).status == full.feature(row.fid, nsid=99).status == Status.INVALID_NS
        assert full.feature(row.fid, nsid=2).status == Status.INVALID_FIELD
        assert put(full, replace(row, nsid=0)) == Status.INVALID_NS
        assert put(full, replace(row, nsid=2)) == Status.INVALID_FIELD
        assert put(full, replace(row, nsid=BROADCAST)) == 0
        assert get(full, row) == row.value
    else:
        assert put(full, replace(row, nsid=1)) == Status.FEATURE_NOT_PER_NS
        assert put(full, replace(row, nsid=99)) == Status.INVALID_NS
        assert put(full, replace(row, nsid=BROADCAST)) == 0


def test_saved_features_outlive_the_power(tmp_path: Path) -> None:
    options: dict[str, Any] = {"image": tmp_path / "ssd.img", "size": SIZE, "controller": CONFIG}
    rows = [row for row in ROWS if row.saved]
    with nvme_emu.open(**options) as machine:
        host = NvmeHost(machine)
        for row in rows:
            assert put(host, row, save=True) == 0, row
    with nvme_emu.open(**options) as machine:
        host = NvmeHost(machine)
        for row in rows:
            assert get(host, row, SEL_SAVED) == row.value, row
            if not row.driver:
                assert get(host, row) == row.value, row


def test_features_of_an_association_are_refused_or_kept(full: NvmeHost) -> None:
    host = full
    assert host.set_feature(Fid.NUMBER_OF_QUEUES, 0x0001_0001).status == Status.CMD_SEQ_ERROR
    assert host.feature(Fid.NUMBER_OF_QUEUES, sel=SEL_DEFAULT).dw0 == 63 << 16 | 63
    for fid in OTHERS - {Fid.IO_COMMAND_SET_PROFILE}:
        assert host.set_feature(fid, save=True, data=bytes(512)).status == Status.FEATURE_NOT_SAVEABLE
        kinds = FEATURE_CAPABILITIES.unpack(host.feature(fid, sel=SEL_SUPPORTED).dw0)
        assert (kinds.saveable, kinds.ns_specific) == (0, 0)
    assert host.set_feature(Fid.KEEP_ALIVE_TIMER, 59_001).status == 0
    assert host.feature(Fid.KEEP_ALIVE_TIMER).dw0 in (60_000, 59_100)
    assert host.set_feature(Fid.KEEP_ALIVE_TIMER, 0).status == 0
    assert host.set_feature(Fid.IO_COMMAND_SET_PROFILE, 1).status == Status.IOCS_COMBINATION_REJECTED
    assert host.set_feature(Fid.IO_COMMAND_SET_PROFILE, 0).status == 0
    behavior = HOST_BEHAVIOR.build(acre=1, cdfe=4)
    assert host.set_feature(Fid.HOST_BEHAVIOR, data=behavior).status == 0
    assert host.feature(Fid.HOST_BEHAVIOR, nbytes=512).data == behavior
    assert host.feature(Fid.HOST_BEHAVIOR, nbytes=512, sel=SEL_DEFAULT).data == bytes(512)


def test_timestamp_counts_from_what_the_host_said(full: NvmeHost) -> None:
    since_reset = TIMESTAMP.parse(full.feature(Fid.TIMESTAMP, nbytes=8).data)
    assert since_reset.attributes >> 1 & 7 == 0

    assert full.set_feature(Fid.TIMESTAMP, data=TIMESTAMP.build(timestamp=1_700_000_000_000)).status == 0
    full.machine.runtime.sleep_ns(3_000_000)

    now = TIMESTAMP.parse(full.feature(Fid.TIMESTAMP, nbytes=8).data)
    assert 1_700_000_000_003 <= now.timestamp < 1_700_000_060_000
    assert now.attributes >> 1 & 7 == 1
    full.machine.driver.reset()
    assert TIMESTAMP.parse(full.feature(Fid.TIMESTAMP, nbytes=8).data).timestamp < 1_000_000_000_000
