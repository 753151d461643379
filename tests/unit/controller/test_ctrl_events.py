"""Asynchronous Event Requests: limits, masking until the log is read, one-time types, feature 0Bh, reset."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import BROADCAST, AdminHost, code

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.events import EVENTS_KEPT_MAX
from nvme_emu.core.trace import AsyncEvent, TraceHub
from nvme_emu.spec.events import (
    ASYNC_EVENT_DW0,
    AsyncErrorInfo,
    AsyncEventType,
    AsyncImmediateInfo,
    AsyncNoticeInfo,
    AsyncSmartInfo,
    async_event_dw0,
)
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, Fid
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import MORE, Status

BAD_VALUE = (AsyncEventType.ERROR, AsyncErrorInfo.INVALID_DOORBELL_VALUE, Lid.ERROR_INFORMATION)
BAD_REGISTER = (AsyncEventType.ERROR, AsyncErrorInfo.INVALID_DOORBELL_REGISTER, Lid.ERROR_INFORMATION)
NS_CHANGED = (AsyncEventType.NOTICE, AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED, Lid.CHANGED_NAMESPACES)
HOT = (AsyncEventType.SMART, AsyncSmartInfo.TEMPERATURE_THRESHOLD, Lid.SMART_HEALTH)
SHUTDOWN = (AsyncEventType.IMMEDIATE, AsyncImmediateInfo.NORMAL_SUBSYSTEM_SHUTDOWN, 0)
ONE_SHOT = (AsyncEventType.ONE_SHOT, 0, 0)


def host(**config: Any) -> AdminHost:
    return AdminHost(config=ControllerConfig(**config))


def reported(one: AdminHost) -> list[tuple[int, int, int]]:
    """The events that completions carry now."""
    one.step()
    fields = [ASYNC_EVENT_DW0.unpack(c.dw0) for c in one.admin.reap()]
    return [(f.aet, f.aei, f.lid) for f in fields]


def enable(one: AdminHost, **fields: int) -> None:
    assert one.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.pack(**fields)).status == 0


def test_event_completes_a_waiting_request() -> None:
    one = host()
    assert one.park_aer(cid=900) == []

    one.ctrl.events.post(*BAD_VALUE)

    one.step()
    (completion,) = one.admin.reap()
    assert (completion.cid, completion.status, completion.dw0) == (900, 0, async_event_dw0(*BAD_VALUE))
    assert one.ctrl.outstanding == {}
    one.audit()


def test_event_before_the_request_is_kept_for_it() -> None:
    one = host()
    one.ctrl.events.post(*BAD_VALUE)

    (completion,) = one.park_aer()

    assert completion.dw0 == async_event_dw0(*BAD_VALUE)


def test_requests_end_in_the_order_in_which_they_came() -> None:
    one = host()
    enable(one, nan=1)
    for cid in (901, 902, 903):
        one.park_aer(cid)

    one.ctrl.events.post(*BAD_VALUE)
    one.ctrl.logs.namespace_changed(1)

    one.step()
    assert [c.cid for c in one.admin.reap()] == [901, 902]


def test_type_is_masked_until_its_log_is_read() -> None:
    one = host()
    for cid in (1, 2, 3):
        one.park_aer(cid)
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == [BAD_VALUE]

    one.ctrl.events.post(*BAD_REGISTER)
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == []
    assert one.ctrl.events.kept == 2

    one.logged(Lid.ERROR_INFORMATION, 64)
    one.ctrl.events.post(*BAD_REGISTER)
    assert reported(one) == [BAD_REGISTER]


@pytest.mark.parametrize("rae", [False, True])
def test_reading_with_retain_keeps_the_mask(rae: bool) -> None:
    one = host()
    one.park_aer(1)
    one.park_aer(2)
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == [BAD_VALUE]

    one.logged(Lid.ERROR_INFORMATION, 64, rae=rae)
    one.ctrl.events.post(*BAD_VALUE)

    assert reported(one) == ([] if rae else [BAD_VALUE])


def test_reading_another_log_keeps_the_mask() -> None:
    one = host()
    one.park_aer(1)
    one.park_aer(2)
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == [BAD_VALUE]

    one.logged(Lid.SMART_HEALTH)
    one.ctrl.events.post(*BAD_VALUE)

    assert reported(one) == []


def test_a_read_that_fails_keeps_the_mask() -> None:
    one = host()
    one.park_aer(1)
    one.park_aer(2)
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == [BAD_VALUE]

    assert one.log(Lid.ERROR_INFORMATION, 64, nsid=1).status
    one.ctrl.events.post(*BAD_VALUE)

    assert reported(one) == []


def test_types_are_masked_apart() -> None:
    one = host()
    enable(one, nan=1, shcw=0xFF)
    for cid in range(1, 5):
        one.park_aer(cid)

    for event in (BAD_VALUE, NS_CHANGED, HOT):
        one.ctrl.events.post(*event)

    assert reported(one) == [BAD_VALUE, NS_CHANGED, HOT]


def test_events_that_the_host_has_read_about_are_not_reported() -> None:
    one = host()
    one.ctrl.events.post(*BAD_VALUE)
    one.ctrl.events.post(*BAD_REGISTER)

    one.logged(Lid.ERROR_INFORMATION, 64)

    assert one.park_aer() == []


@pytest.mark.parametrize("event", [SHUTDOWN, ONE_SHOT])
def test_one_time_types_mask_nothing(event: tuple[int, int, int]) -> None:
    one = host()
    for cid in (1, 2, 3):
        one.park_aer(cid)

    one.ctrl.events.post(*event)
    one.ctrl.events.post(*event)

    assert reported(one) == [event, event]


def test_equal_events_are_kept_once() -> None:
    one = host()
    for _ in range(5):
        one.ctrl.events.post(*BAD_VALUE)

    assert one.ctrl.events.kept == 1


def test_events_are_kept_up_to_a_bound() -> None:
    one = host()
    for info in range(EVENTS_KEPT_MAX + 10):
        one.ctrl.events.post(AsyncEventType.VENDOR, info, 0xC0)

    assert one.ctrl.events.kept == EVENTS_KEPT_MAX
    assert ASYNC_EVENT_DW0.unpack(one.park_aer()[0].dw0).aei == 10


@pytest.mark.parametrize("aerl_z", [0, 3])
def test_requests_beyond_the_limit_fail(aerl_z: int) -> None:
    one = host(aerl_z=aerl_z)
    for cid in range(aerl_z + 1):
        assert one.park_aer(cid) == []

    (refused,) = one.park_aer(100)

    assert refused.status == Status.ASYNC_LIMIT | MORE
    assert one.ctrl.events.outstanding == aerl_z + 1
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == [BAD_VALUE]
    assert one.park_aer(101) == []


def test_request_with_the_identifier_of_a_waiting_one_conflicts() -> None:
    one = host()
    one.park_aer(5)

    (refused,) = one.park_aer(5)

    assert code(refused) == Status.CMDID_CONFLICT
    assert one.ctrl.events.outstanding == 1


def test_disabled_events_are_not_reported() -> None:
    one = host()
    one.park_aer()

    one.ctrl.events.post(*NS_CHANGED)
    one.ctrl.events.post(*HOT)

    assert reported(one) == []
    assert one.ctrl.events.kept == 0


def test_event_that_is_disabled_while_it_is_kept_is_not_reported() -> None:
    one = host()
    enable(one, nan=1)
    one.ctrl.events.post(*NS_CHANGED)
    enable(one, nan=0)

    assert one.park_aer() == []


def test_namespace_change_is_told_and_listed() -> None:
    one = host()
    enable(one, nan=1)
    one.park_aer()

    one.ctrl.logs.namespace_changed(1)

    assert reported(one) == [NS_CHANGED]
    assert one.logged(Lid.CHANGED_NAMESPACES, 8) == b"\1\0\0\0\0\0\0\0"


def test_reset_drops_requests_without_completions_and_events() -> None:
    one = host()
    one.park_aer(1)
    one.park_aer(2)
    one.ctrl.events.post(*BAD_VALUE)
    one.step()
    queue = one.admin
    assert len(queue.reap()) == 1
    one.ctrl.events.post(*BAD_REGISTER)

    one.write(Reg.CC, 0)
    one.step()

    assert queue.reap(ring=False) == []
    assert (one.ctrl.events.outstanding, one.ctrl.events.kept) == (0, 0)
    one.audit()
    one.enable()
    assert one.park_aer(1) == []
    one.ctrl.events.post(*BAD_VALUE)
    assert reported(one) == [BAD_VALUE]  # the mask was forgotten too


def test_request_ignores_nsid_and_dwords() -> None:
    one = host()

    one.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=3, nsid=BROADCAST, cdw10=0xFFFF_FFFF, cdw15=7)
    one.admin.ring()
    one.step()

    assert one.admin.reap() == []
    assert one.ctrl.events.outstanding == 1


def test_full_completion_queue_holds_events_back_and_loses_none() -> None:
    one = AdminHost(config=ControllerConfig(aerl_z=7))
    one.write(Reg.CC, 0)
    one.step()
    one.enable(sq_size=16, cq_size=2)
    for cid in range(4):
        one.park_aer(cid)
    for info in range(4):
        one.ctrl.events.post(AsyncEventType.ONE_SHOT, info, 0)

    infos = []
    for _ in range(4):
        one.step()
        infos += [ASYNC_EVENT_DW0.unpack(c.dw0).aei for c in one.admin.reap()]

    assert infos == [0, 1, 2, 3]
    one.audit()


def test_event_is_traced_whether_or_not_a_request_waits() -> None:
    trace, seen = TraceHub(), []
    trace.add_sink(lambda event: seen.append(event) if isinstance(event, AsyncEvent) else None)
    one = AdminHost(trace=trace)

    one.ctrl.events.post(*BAD_VALUE)

    assert [tuple(event)[1:] for event in seen] == [BAD_VALUE]
