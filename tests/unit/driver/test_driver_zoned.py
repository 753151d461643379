"""The driver's zoned namespaces: reports, Zone Append, management, and where reads and writes are cut."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.zoned import ZonedNamespace, appended_at
from nvme_emu.spec.status import STATUS_CODE_MASK, Status
from nvme_emu.spec.zns import ReportOption, ZoneState

ZONED = "zone_size=64k,max_open=2,max_active=3,zdes=64,zasl=1"
ZSZE = 128
S = ZoneState


@pytest.fixture(params=["sync", "async", "virtual"])
def ssd(request: pytest.FixtureRequest) -> Iterator[nvme_emu.Machine]:
    options: dict[str, Any] = {"mode": "async", "clock": "virtual", "profile": "tlc"}
    if request.param != "virtual":
        options = {"mode": request.param}
    with nvme_emu.open(size="1M", zoned=ZONED, **options) as machine:
        yield machine


@pytest.fixture
def namespace(ssd: nvme_emu.Machine) -> ZonedNamespace:
    found = ssd.namespaces[1]
    assert isinstance(found, ZonedNamespace)
    return found


def test_namespace_says_what_its_zones_are(namespace: ZonedNamespace) -> None:
    assert namespace.zoned
    assert (namespace.nr_zones, namespace.zone_size, namespace.zone_append_max) == (16, ZSZE, 16)
    assert (namespace.max_open_zones, namespace.max_active_zones, namespace.zone_extension_bytes) == (2, 3, 64)


def test_plain_namespace_is_not_zoned() -> None:
    with nvme_emu.open(size="1M") as machine:
        assert not machine.namespaces[1].zoned
        assert not isinstance(machine.namespaces[1], ZonedNamespace)


def test_reads_and_writes_are_cut_at_zones(namespace: ZonedNamespace) -> None:
    data = bytes(range(256)) * 2 * 300

    namespace.write(0, data)

    assert [one.state for one in namespace.report_zones(0, 4)] == [S.FULL, S.FULL, S.IMPLICITLY_OPENED, S.EMPTY]
    assert namespace.read(0, 300).tobytes() == data
    assert namespace.read(100, 60).tobytes() == data[51_200 : 51_200 + 60 * 512]
    assert namespace.submit_read(100, 60).wait().tobytes() == data[51_200 : 51_200 + 60 * 512]  # type: ignore[union-attr]
    assert namespace.read(290, 20).tobytes() == data[-5120:] + bytes(5120)


def test_appends_tell_where_they_wrote(namespace: ZonedNamespace) -> None:
    assert namespace.zone_append(ZSZE, b"a" * 512) == ZSZE
    seen: list[int] = []
    several = [
        namespace.submit_zone_append(ZSZE, bytes([number]) * 1024, callback=lambda rq: seen.append(appended_at(rq)))
        for number in range(1, 9)
    ]
    for request in several:
        request.wait()
    # Waiters are woken before callbacks run; the worker is done with both when the next command has ended.
    namespace.flush()

    places = [appended_at(request) for request in several]
    assert sorted(places) == sorted(seen) == [ZSZE + 1 + 2 * number for number in range(8)]
    for number, place in enumerate(places, 1):
        assert namespace.read(place, 2).tobytes() == bytes([number]) * 1024


def test_zones_are_managed_and_reported(namespace: ZonedNamespace) -> None:
    namespace.zone_open(0)
    namespace.zone_open(ZSZE)
    namespace.zone_close(0)
    namespace.zone_finish(2 * ZSZE)
    namespace.set_zone_extension(3 * ZSZE, b"e" * 64)

    found = namespace.report_zones(extended=True)

    assert [one.state for one in found[:5]] == [S.CLOSED, S.EXPLICITLY_OPENED, S.FULL, S.CLOSED, S.EMPTY]
    assert [one.extension for one in found[2:4]] == [b"", b"e" * 64]
    assert len(found) == 16
    assert [one.start for one in namespace.report_zones(option=ReportOption.CLOSED)] == [0, 3 * ZSZE]
    assert [one.start for one in namespace.report_zones(14 * ZSZE + 3)] == [14 * ZSZE, 15 * ZSZE]
    namespace.zone_reset(2 * ZSZE)
    assert namespace.report_zones(2 * ZSZE, 1)[0].state is S.EMPTY
    namespace.zone_reset_all()
    assert {one.state for one in namespace.report_zones()} == {S.EMPTY}


def test_reports_longer_than_a_transfer_are_joined() -> None:
    with nvme_emu.open(size="16M", zoned="zone_size=8k") as machine:
        namespace = machine.namespaces[1]
        assert isinstance(namespace, ZonedNamespace)
        assert [one.start for one in namespace.report_zones()] == list(range(0, 32768, 16))
        assert len(namespace.report_zones(16, 1500)) == 1500


@pytest.mark.breaks_rules  # writes off the write pointer, and more
def test_errors_are_linux_s(namespace: ZonedNamespace) -> None:
    def number(status: Status) -> int:
        with pytest.raises(NvmeError) as failed:
            doing[status]()
        assert failed.value.status is not None
        assert failed.value.status & STATUS_CODE_MASK == status
        return failed.value.errno

    namespace.zone_open(0)
    namespace.zone_open(ZSZE)
    doing = {
        Status.ZONE_INVALID_WRITE: lambda: namespace.write(5, bytes(512)),
        Status.ZONE_TOO_MANY_OPEN: lambda: namespace.write(2 * ZSZE, bytes(512)),
        Status.ZONE_INVALID_TRANSITION: lambda: namespace.zone_offline(0),
    }
    assert number(Status.ZONE_INVALID_WRITE) == errno.EIO
    assert number(Status.ZONE_TOO_MANY_OPEN) == errno.ETOOMANYREFS
    assert number(Status.ZONE_INVALID_TRANSITION) == errno.EIO
    namespace.zone_close(0)
    namespace.zone_open(2 * ZSZE)
    doing[Status.ZONE_TOO_MANY_ACTIVE] = lambda: namespace.zone_append(3 * ZSZE, bytes(512))
    assert number(Status.ZONE_TOO_MANY_ACTIVE) == errno.EOVERFLOW


def test_what_no_zoned_device_takes_is_refused_here(namespace: ZonedNamespace) -> None:
    for wrong in (
        lambda: namespace.zone_append(1, bytes(512)),
        lambda: namespace.zone_append(0, bytes(512 * 17)),
        lambda: namespace.zone_append(16 * ZSZE, bytes(512)),
        lambda: namespace.zone_open(5),
        lambda: namespace.zone_reset(-1),
        lambda: namespace.report_zones(16 * ZSZE),
        lambda: namespace.set_zone_extension(0, bytes(63)),
        lambda: namespace.read(16 * ZSZE - 1, 2),
        lambda: namespace.write(16 * ZSZE - 1, bytes(1024)),
    ):
        with pytest.raises(ValueError):
            wrong()
    assert {one.state for one in namespace.report_zones()} == {S.EMPTY}


def test_checker_finds_nothing_wrong_with_zone_commands() -> None:
    with nvme_emu.open(size="1M", zoned=ZONED, check="error") as machine:
        namespace = machine.namespaces[1]
        assert isinstance(namespace, ZonedNamespace)
        namespace.write(0, bytes(4096))
        namespace.zone_append(ZSZE, bytes(8192))
        namespace.set_zone_extension(2 * ZSZE, bytes(64))
        namespace.report_zones(extended=True)
        namespace.zone_reset_all()
        assert machine.checker is not None
        assert machine.checker.findings == ()
