"""Zones after a kill, a loss of power and a shutdown; and their event, which names the namespace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from adminhost import AdminHost

import nvme_emu
from nvme_emu.controller import ControllerConfig
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.controller.zone_states import ZoneAction
from nvme_emu.controller.zoned_admin import break_zone
from nvme_emu.core.errors import MediaError
from nvme_emu.driver.request import Request
from nvme_emu.media import RamMedia
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo, async_event_dw0
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, Fid
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.zns import ZONE_SEND_CDW13, ZoneSendAction, ZoneState

ZONED = "zone_size=64k,zone_capacity=48k,zdes=64,max_active=8"
ZSZE = 128
S = ZoneState
STATES = tuple[ZoneState, int]


def send(machine: nvme_emu.Machine, action: int, slba: int, data: bytes | None = None) -> None:
    view = None if data is None else memoryview(data)
    request = Request(NvmOpcode.ZONE_MANAGEMENT_SEND, 1, slba, 0, 0, view, data is not None)
    request.cdw13 = ZONE_SEND_CDW13.pack(zsa=action)
    machine.driver.path().submit(request)
    request.wait()


def zones(machine: nvme_emu.Machine) -> list[STATES]:
    found = machine.controller.namespaces[1].zones
    assert found is not None
    return [(zone.state, zone.wp - zone.start) for zone in found.zones]


def after_a_kill(image: Path, when: str) -> Path:
    """The image as a killed process would have left it."""
    copy = image.with_suffix(f".{when}")
    shutil.copy(image, copy)
    return copy


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "zoned.img"


def test_flushed_writes_and_ended_zones_outlive_a_kill(image: Path) -> None:
    with nvme_emu.open(image, size="1M", zoned=ZONED) as ssd:
        namespace = ssd.namespaces[1]
        namespace.write(0, b"a" * 4096)
        namespace.write(ZSZE, b"b" * 4096)
        namespace.flush()
        namespace.write(8, b"c" * 4096)  # never promised
        send(ssd, ZoneSendAction.SET_EXTENSION, 2 * ZSZE, b"e" * 64)
        send(ssd, ZoneSendAction.FINISH, ZSZE)
        namespace.write(3 * ZSZE, b"d" * 4096)
        before = after_a_kill(image, "before")
        namespace.write(3 * ZSZE + 8, b"d" * 4096, fua=True)
        send(ssd, ZoneSendAction.RESET, ZSZE)
        after = after_a_kill(image, "after")

    with nvme_emu.open(before) as ssd:
        assert zones(ssd)[1:4] == [(S.FULL, 8), (S.CLOSED, 0), (S.EMPTY, 0)]
        found = ssd.controller.namespaces[1].zones
        assert found is not None
        assert found.zones[2].extension == b"e" * 64
        # What the pointer does not cover cannot be read, whatever the file holds.
        state, written = zones(ssd)[0]
        assert state is S.CLOSED
        assert written in (8, 16)
        assert ssd.namespaces[1].read(0, 8).tobytes() == b"a" * 4096
        assert not ssd.namespaces[1].read(written, 8).any()
        assert not ssd.namespaces[1].read(3 * ZSZE, 8).any()
        assert ssd.namespaces[1].read(ZSZE, 8).tobytes() == b"b" * 4096
        ssd.namespaces[1].write(written, b"n" * 512)
    with nvme_emu.open(after) as ssd:
        assert zones(ssd)[:5] == [(S.CLOSED, 16), (S.EMPTY, 0), (S.CLOSED, 0), (S.CLOSED, 16), (S.EMPTY, 0)]
        assert ssd.namespaces[1].read(3 * ZSZE, 16).tobytes() == b"d" * 8192
        assert not ssd.namespaces[1].read(ZSZE, 8).any()


def test_shutdown_keeps_every_zone(image: Path) -> None:
    with nvme_emu.open(image, size="1M", zoned=ZONED) as ssd:
        ssd.namespaces[1].write(0, b"a" * 512)
        send(ssd, ZoneSendAction.OPEN, ZSZE)
        send(ssd, ZoneSendAction.OPEN, 2 * ZSZE)
        ssd.namespaces[1].write(2 * ZSZE, b"z" * (48 << 10))

    with nvme_emu.open(image, zoned=ZONED) as ssd:
        assert zones(ssd)[:4] == [(S.CLOSED, 1), (S.EMPTY, 0), (S.FULL, 96), (S.EMPTY, 0)]
        assert ssd.namespaces[1].read(2 * ZSZE, 96).tobytes() == b"z" * (48 << 10)
        assert ssd.namespaces[1].read(0, 2).tobytes() == b"a" * 512 + bytes(512)


def test_controller_reset_changes_no_zone() -> None:
    with nvme_emu.open(size="1M", zoned=ZONED) as ssd:
        ssd.namespaces[1].write(0, b"a" * 512)
        send(ssd, ZoneSendAction.OPEN, ZSZE)
        ssd.replug()
        assert zones(ssd)[:2] == [(S.IMPLICITLY_OPENED, 1), (S.EXPLICITLY_OPENED, 0)]
        ssd.controller.subsystem.power_cycle()
        assert zones(ssd)[:2] == [(S.CLOSED, 1), (S.EMPTY, 0)]


def test_plain_image_is_not_taken_for_a_zoned_one(image: Path) -> None:
    with nvme_emu.open(image, size="1M") as ssd:
        ssd.namespaces[1].write(5, b"p" * 512)

    with pytest.raises(MediaError, match="no zoned namespace"):
        nvme_emu.open(image, zoned=ZONED)


def host(**options: Any) -> AdminHost:
    zns = ZnsConfig.parse(ZONED)
    one = AdminHost(config=ControllerConfig(namespaces_max=4, zns=zns), media=[RamMedia(1 << 20)], **options)
    one.ctrl.subsystem.namespaces[1].make_zoned(zns)
    return one


def test_event_names_the_namespace_and_is_told_once_until_its_log_is_read() -> None:
    one = host()
    assert one.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.mask("zdcn")).status == 0
    for cid in (1, 2):
        one.park_aer(cid)

    break_zone(one.ctrl.subsystem, 1, 3, ZoneAction.BREAK_READ_ONLY)
    break_zone(one.ctrl.subsystem, 1, 4, ZoneAction.BREAK_OFFLINE)

    one.step()
    slot = one.admin.head * 16
    assert int.from_bytes(one.memory.read(one.admin.cq + slot + 4, 4), "little") == 1
    (told,) = one.admin.reap()
    event = async_event_dw0(AsyncEventType.NOTICE, AsyncNoticeInfo.ZONE_DESCRIPTOR_CHANGED, Lid.CHANGED_ZONES)
    assert told.dw0 == event
    page = one.logged(Lid.CHANGED_ZONES, 4096, nsid=1)
    assert page[:24] == b"\2" + bytes(7) + (3 * ZSZE).to_bytes(8, "little") + (4 * ZSZE).to_bytes(8, "little")
    assert one.logged(Lid.CHANGED_ZONES, 4096, nsid=1) == bytes(4096)
    break_zone(one.ctrl.subsystem, 1, 5, ZoneAction.BREAK_OFFLINE)
    one.step()
    assert [found.dw0 for found in one.admin.reap()] == [event]


def test_list_that_is_too_long_says_so() -> None:
    zns = ZnsConfig(zone_size=4096)
    one = AdminHost(config=ControllerConfig(zns=zns), media=[RamMedia(4096 * 600)])
    one.ctrl.subsystem.namespaces[1].make_zoned(zns)

    for zone in range(512):
        break_zone(one.ctrl.subsystem, 1, zone, ZoneAction.BREAK_OFFLINE)

    assert one.logged(Lid.CHANGED_ZONES, 4096, nsid=1) == b"\xff\xff" + bytes(4094)


@pytest.mark.parametrize(("nsid", "zone"), [(2, 0), (1, 16), (1, -1)])
def test_only_zones_that_are_there_can_break(nsid: int, zone: int) -> None:
    with pytest.raises(ValueError, match="zone"):
        break_zone(host().ctrl.subsystem, nsid, zone, ZoneAction.BREAK_OFFLINE)


def test_without_the_command_sets_enabled_zones_are_out_of_reach() -> None:
    """CC.CSS 000b enables the NVM Command Set alone."""
    from nvme_emu.controller.zoned_commands import io_handlers
    from nvme_emu.core.errors import CommandError
    from nvme_emu.spec.registers import CC
    from nvme_emu.spec.status import Status

    one = host()
    one.ctrl.registers.cc = CC.replace(one.ctrl.registers.cc, css=0)

    class Asked:
        nsid = 1

    with pytest.raises(CommandError) as refused:
        io_handlers(one.ctrl, Asked())  # type: ignore[arg-type]  # only the namespace is looked at

    assert refused.value.status == Status.INVALID_NS
