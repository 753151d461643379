"""Fault rules on a zoned SSD: zones that break, and a power loss that takes what was not flushed."""

from __future__ import annotations

import pytest

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.zoned import ZonedNamespace
from nvme_emu.spec.status import STATUS_CODE_MASK, Status
from nvme_emu.spec.zns import ZoneState
from nvme_emu.testing import fault

S = ZoneState
ZSZE = 128


def zoned(machine: nvme_emu.Machine) -> ZonedNamespace:
    found = machine.namespaces[1]
    assert isinstance(found, ZonedNamespace)
    return found


def test_zone_breaks_at_the_write_that_a_rule_names() -> None:
    with nvme_emu.open(size="1M", zoned="zone_size=64k", clock="virtual") as ssd:
        namespace = zoned(ssd)
        rule = ssd.faults.add(fault.when(opcode="write", nth=2).zone(0, "read-only"))
        ssd.faults.add(fault.when(opcode="write", nth=2).zone(99))
        namespace.write(0, bytes(512))
        namespace.write(1, bytes(512))

        with pytest.raises(NvmeError) as refused:
            namespace.write(2, bytes(512))

        assert refused.value.status is not None
        assert refused.value.status & STATUS_CODE_MASK == Status.ZONE_READ_ONLY
        assert namespace.report_zones(0, 1)[0].state is S.READ_ONLY
        namespace.read(0, 2)
        assert [(one.slba, one.opcode) for one in rule.firings] == [(1, 1)]


@pytest.mark.parametrize("kept_ppm", [0, 500_000])
def test_power_loss_leaves_write_pointers_at_what_was_flushed(kept_ppm: int) -> None:
    with nvme_emu.open(size="1M", zoned="zone_size=64k,zdes=64", clock="virtual", seed=3) as ssd:
        namespace = zoned(ssd)
        dark = ssd.faults.add(fault.manual().power_loss(off="1ms", kept_ppm=kept_ppm))
        namespace.write(0, b"a" * 4096)
        namespace.write(ZSZE, b"b" * 4096)
        namespace.flush()
        namespace.write(8, b"c" * 4096)
        namespace.write(ZSZE + 8, b"d" * 4096, fua=True)
        namespace.write(2 * ZSZE, b"e" * 4096)
        namespace.zone_open(3 * ZSZE)
        namespace.set_zone_extension(4 * ZSZE, bytes(64))
        namespace.zone_finish(5 * ZSZE)
        namespace.write(6 * ZSZE, b"f" * 4096)

        dark.fire()
        ssd.runtime.sleep_ns(5_000_000)
        ssd.replug()

        namespace = zoned(ssd)
        found = namespace.report_zones(0, 7)
        states = [one.state for one in found]
        # FUA, an extension and a finished zone take along what was written before them.
        assert states == [S.CLOSED, S.CLOSED, S.CLOSED, S.EMPTY, S.CLOSED, S.FULL, S.EMPTY]
        assert [one.wp - one.start for one in found[:3]] == [16, 16, 8]
        assert namespace.read(0, 16).tobytes() == b"a" * 4096 + b"c" * 4096
        assert namespace.read(ZSZE, 16).tobytes() == b"b" * 4096 + b"d" * 4096
        assert not namespace.read(6 * ZSZE, ZSZE).any()
        namespace.write(16, b"g" * 512)


def test_write_that_fails_leaves_nothing_above_the_write_pointer() -> None:
    with nvme_emu.open(size="1M", zoned="zone_size=64k", clock="virtual") as ssd:
        namespace = zoned(ssd)
        ssd.faults.add(fault.when(opcode="write", nth=1).status("Write Fault", dnr=True, executed=True))

        with pytest.raises(NvmeError):
            namespace.write(0, b"x" * 4096)

        wp = namespace.report_zones(0, 1)[0].wp
        assert not namespace.read(wp, ZSZE - wp).any()
