"""Asynchronous events raised by what really happens: each with its mask, once until its log page is read (5.1.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from nvmehost import QUICK, TRANSPORTS, NvmeHost, connected

from nvme_emu.spec.commands_admin import SelfTestCode
from nvme_emu.spec.events import (
    AsyncErrorInfo,
    AsyncEventType,
    AsyncIoCommandSetInfo,
    AsyncNoticeInfo,
    AsyncSmartInfo,
    async_event_dw0,
)
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, TEMPERATURE_THRESHOLD, Fid
from nvme_emu.spec.identify import NS_MANAGEMENT
from nvme_emu.spec.logs import CRITICAL_WARNING, SANITIZE_STATUS, SELF_TEST_LOG, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode

T, N, S = AsyncEventType, AsyncNoticeInfo, AsyncSmartInfo


class Listener:
    """Takes the place of the driver's handler: events are noted, and no log page is read for them."""

    def __init__(self, host: NvmeHost) -> None:
        self.host = host
        self.heard: list[int] = []
        host.driver.events.handle = self.heard.append
        for lid in (Lid.SMART_HEALTH, Lid.CHANGED_NAMESPACES, Lid.CHANGED_ALLOCATED_NAMESPACES):
            host.log(lid)

    def settle(self) -> None:
        """Let everything that was posted arrive: a completion takes its way in order, and the worker its turn."""
        for _ in range(20):
            self.host.feature(Fid.ARBITRATION)
            self.host.machine.runtime.sleep_ns(1_000_000)


def format_namespace(host: NvmeHost) -> None:
    assert host.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=0).status == 0


def create_anew(host: NvmeHost) -> None:
    assert host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 2, cdw10=1).status == 0
    answer = host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, data=NS_MANAGEMENT.build(nsze=64, ncap=64))
    assert (answer.status, answer.dw0) == (0, 2)


def activate_firmware(host: NvmeHost) -> None:
    assert host.admin(AdminOpcode.FIRMWARE_COMMIT, cdw10=1 | 3 << 3).status == 0
    host.until(lambda: host.feature(Fid.ARBITRATION).status == 0)


def cross_a_threshold(host: NvmeHost) -> None:
    """The Composite Temperature gets above its threshold, after it was below."""
    for kelvins in (400, 250):
        value = TEMPERATURE_THRESHOLD.pack(tmpth=kelvins)
        assert host.set_feature(Fid.TEMPERATURE_THRESHOLD, value).status == 0


def sanitize(host: NvmeHost) -> None:
    assert host.admin(AdminOpcode.SANITIZE, cdw10=2).status == 0
    done = struct.pack("<H", 0xFFFF)
    host.until(lambda: host.log(Lid.SANITIZE_STATUS, rae=True)[:2] == done)
    assert SANITIZE_STATUS.parse(host.log(Lid.SANITIZE_STATUS, rae=True)).sprog == 0xFFFF


def fail_a_self_test(host: NvmeHost) -> None:
    assert host.io(NvmOpcode.WRITE_UNCORRECTABLE, 1, slba=3).status == 0
    assert host.admin(AdminOpcode.DEVICE_SELF_TEST, 1, cdw10=SelfTestCode.SHORT).status == 0
    host.until(lambda: SELF_TEST_LOG.parse(host.log(Lid.DEVICE_SELF_TEST, 564)).current == 0)


class Event(NamedTuple):
    """Something that happens, by which field of feature 0Bh it is masked ("" for never), and its event."""

    happens: Callable[[NvmeHost], None]
    enabled_by: str
    kind: int
    info: int
    lid: int

    @property
    def dw0(self) -> int:
        """Dword 0 of the completion."""
        return async_event_dw0(self.kind, self.info, self.lid)

    @property
    def mask(self) -> int:
        """The bit of feature 0Bh."""
        if self.enabled_by == "ttc":
            return CRITICAL_WARNING.mask("ttc")
        return ASYNC_EVENT_CONFIG.mask(self.enabled_by) if self.enabled_by else 0


EVENTS = {
    "namespace attribute": Event(
        format_namespace, "nan", T.NOTICE, N.NAMESPACE_ATTRIBUTE_CHANGED, Lid.CHANGED_NAMESPACES
    ),
    "allocated namespaces": Event(
        create_anew,
        "ansan",
        T.NOTICE,
        N.ALLOCATED_NAMESPACE_ATTRIBUTE_CHANGED,
        Lid.CHANGED_ALLOCATED_NAMESPACES,
    ),
    "firmware activation": Event(activate_firmware, "fan", T.NOTICE, N.FIRMWARE_ACTIVATION_STARTING, Lid.FIRMWARE_SLOT),
    "temperature": Event(cross_a_threshold, "ttc", T.SMART, S.TEMPERATURE_THRESHOLD, Lid.SMART_HEALTH),
    "sanitize": Event(
        sanitize, "", T.IO_COMMAND_SET, AsyncIoCommandSetInfo.SANITIZE_COMPLETED, Lid.SANITIZE_STATUS
    ),
    "self-test": Event(fail_a_self_test, "", T.ERROR, AsyncErrorInfo.DIAGNOSTIC_FAILURE, Lid.ERROR_INFORMATION),
}


@pytest.fixture(params=TRANSPORTS)
def listener(request: pytest.FixtureRequest) -> Iterator[Listener]:
    """Two namespaces; the driver handles no event."""
    with connected(request.param, QUICK, namespaces=2) as host:
        yield Listener(host)


@pytest.mark.parametrize("name", EVENTS)
def test_event_is_sent_once_until_its_log_page_is_read(listener: Listener, name: str) -> None:
    host, event, heard = listener.host, EVENTS[name], listener.heard
    assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, event.mask).status == 0
    event.happens(host)
    listener.settle()
    assert heard == [event.dw0]

    event.happens(host)
    host.log(event.lid, rae=True)
    listener.settle()
    assert heard == [event.dw0], "its type is masked, and Retain Asynchronous Event keeps it so"

    host.log(event.lid)
    listener.settle()
    assert heard == [event.dw0], "reading takes the repetition with it"
    event.happens(host)
    listener.settle()
    assert heard == [event.dw0] * 2


@pytest.mark.parametrize("name", [name for name, event in EVENTS.items() if event.enabled_by])
def test_event_that_is_not_enabled_is_not_sent(listener: Listener, name: str) -> None:
    host, event = listener.host, EVENTS[name]
    every = ASYNC_EVENT_CONFIG.mask("nan", "fan", "tln", "ansan") | 0x3F
    assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, every & ~event.mask).status == 0
    event.happens(host)
    listener.settle()
    assert event.dw0 not in listener.heard


# What the flash does -----------------------------------------------------------------------------------


@contextmanager
def changing(host: NvmeHost) -> Iterator[Any]:
    """The health of a controller in this process, and what is raised is delivered."""
    machine = host.machine
    with machine.port.lock:
        yield machine.controller.logs.health
    machine.port.poll()


@pytest.mark.parametrize("transport", ("inproc", "inproc-pure", "inproc-virtual", "inproc-tlc"))
@pytest.mark.parametrize(
    ("name", "value", "warning", "info"),
    [
        ("available_spare", 5, "ascbt", S.SPARE_BELOW_THRESHOLD),
        ("reliability_degraded", True, "ndr", S.SUBSYSTEM_RELIABILITY),
        ("media_read_only", True, "amro", S.SUBSYSTEM_RELIABILITY),
        ("backup_failed", True, "vmbf", S.SUBSYSTEM_RELIABILITY),
        ("temperature_k", 350, "ttc", S.TEMPERATURE_THRESHOLD),
    ],
)
def test_critical_warning_is_an_event_and_in_the_log(
    transport: str, name: str, value: Any, warning: str, info: int
) -> None:
    with connected(transport) as host:
        one = Listener(host)
        event = async_event_dw0(T.SMART, info, Lid.SMART_HEALTH)
        others = 0x3F & ~CRITICAL_WARNING.mask(warning)
        assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, others).status == 0
        good = getattr(host.machine.controller.logs.health, name)
        with changing(host) as health:
            setattr(health, name, value)
        one.settle()
        assert one.heard == []
        assert host.log(Lid.SMART_HEALTH, rae=True)[0] & CRITICAL_WARNING.mask(warning)

        assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, 0x3F).status == 0
        one.settle()
        assert one.heard == [event]
        assert host.log(Lid.SMART_HEALTH)[0] & CRITICAL_WARNING.mask(warning)
        one.settle()
        assert one.heard == [event], "it is told again only after it was gone"
        with changing(host) as health:
            setattr(health, name, good)
        assert not host.log(Lid.SMART_HEALTH)[0]
        with changing(host) as health:
            setattr(health, name, value)
        one.settle()
        assert one.heard == [event] * 2


@pytest.mark.parametrize("transport", ("inproc", "inproc-pure", "inproc-virtual"))
def test_read_only_media_are_read_and_not_written(transport: str) -> None:
    from nvme_emu.spec.status import Status

    with connected(transport) as host:
        assert host.io(NvmOpcode.WRITE, data=b"x" * 512).status == 0
        with changing(host) as health:
            health.media_read_only = True
        assert host.io(NvmOpcode.WRITE, data=b"y" * 512).status == Status.READ_ONLY
        assert host.io(NvmOpcode.WRITE_ZEROES).status == Status.READ_ONLY
        assert host.io(NvmOpcode.READ, nbytes=512).data == b"x" * 512
        assert host.io(NvmOpcode.FLUSH).status == 0
        assert host.admin(AdminOpcode.FORMAT_NVM, 1).status == Status.INTERNAL
        assert host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=1).status == Status.INTERNAL
        assert host.admin(AdminOpcode.SANITIZE, cdw10=2).status == 0
        host.until(lambda: host.io(NvmOpcode.READ, nbytes=512).status == Status.SANITIZE_FAILED)
        with changing(host) as health:
            health.media_read_only = False
        assert host.admin(AdminOpcode.SANITIZE, cdw10=2).status == 0
        host.until(lambda: host.io(NvmOpcode.READ, nbytes=512).status == 0)
        assert host.io(NvmOpcode.WRITE, data=b"z" * 512).status == 0
