"""State machines of the subsystem: as tables, and by chance against models of them."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from adminhost import AdminHost, code
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.controller.capacity import Capacity
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.holds import Hold
from nvme_emu.controller.sanitize import SANITIZE_TRANSITIONS, SanitizeInput, SanitizeState
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.commands_admin import SANITIZE_CDW10, SanitizeAction
from nvme_emu.spec.events import AsyncEventType, AsyncIoCommandSetInfo, AsyncNoticeInfo
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, Fid
from nvme_emu.spec.logs import SANITIZE_SSTAT, SANITIZE_STATUS, TELEMETRY_CONTROLLER, Lid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.status import Status

S, What = SanitizeState, SanitizeInput
SECOND = 1_000_000_000


class BadMedia(RamMedia):
    """A medium that cannot erase for a while."""

    broken = False

    def discard(self, offset: int, nbytes: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "broken")
        super().discard(offset, nbytes)


def host(**options: Any) -> AdminHost:
    config = ControllerConfig(namespaces_max=8, sanitize_ns=SECOND, **options.pop("config", {}))
    return AdminHost(config=config, **options)


# --- sanitize -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("what", list(What))
def test_sanitize_table_has_a_transition_or_the_command_is_refused(state: S, what: What) -> None:
    found = SANITIZE_TRANSITIONS.get((state, what))

    running = state in (S.RESTRICTED, S.UNRESTRICTED)
    if what in (What.DONE, What.FAILED):
        assert (found is not None) == running
    elif running:
        assert found is None
    elif state is S.RESTRICTED_FAILURE:
        assert (found is not None) == (what is What.START)
    else:
        assert found is not None


def sanitize(one: AdminHost, action: int = SanitizeAction.BLOCK_ERASE, **fields: int) -> int:
    return code(one.do(AdminOpcode.SANITIZE, cdw10=SANITIZE_CDW10.pack(sanact=action, **fields)))


def status(one: AdminHost) -> int:
    data = SANITIZE_STATUS.parse(one.logged(Lid.SANITIZE_STATUS, rae=True))
    return int(SANITIZE_SSTAT.unpack(data.sstat).sos)


@pytest.mark.parametrize("ause", [0, 1])
def test_sanitize_that_fails_is_left_as_its_kind_allows(ause: int) -> None:
    media = BadMedia(1 << 20)
    one = host(media=[media])
    media.broken = True
    assert sanitize(one, ause=ause) == 0
    one.step(one.now_ns + 2 * SECOND)

    assert status(one) == 3
    assert code(one.do(AdminOpcode.FORMAT_NVM, nsid=1)) == Status.SANITIZE_FAILED
    assert sanitize(one, SanitizeAction.EXIT_FAILURE_MODE) == (0 if ause else Status.SANITIZE_FAILED)
    assert one.ctrl.namespaces[1].plain == bool(ause)
    if not ause:
        assert sanitize(one, ause=1) == Status.SANITIZE_FAILED
        media.broken = False
        assert sanitize(one) == 0
        one.step(one.now_ns + 2 * SECOND)
        assert (status(one), one.ctrl.namespaces[1].plain) == (4, True)


def test_sanitize_ends_over_resets_and_tells_the_host() -> None:
    one = host()
    assert sanitize(one) == 0
    one.write(0x14, 0)
    one.step()
    one.enable()
    one.data = one.pages(16)
    assert one.park_aer() == []
    assert status(one) == 2

    one.step(one.now_ns + SECOND)

    (event,) = one.admin.reap()
    kind, info = AsyncEventType.IO_COMMAND_SET, AsyncIoCommandSetInfo.SANITIZE_COMPLETED
    assert event.dw0 == Lid.SANITIZE_STATUS << 16 | info << 8 | kind
    assert status(one) == 4


@given(st.lists(st.sampled_from(["start", "start-ause", "exit", "time", "break", "mend"]), max_size=20))
@settings(max_examples=60, deadline=None)
def test_sanitize_follows_its_table_whatever_comes(steps: list[str]) -> None:
    media = BadMedia(1 << 16)
    one = host(media=[media])
    model = S.IDLE
    for step in steps:
        what: What | None = None
        if step in ("start", "start-ause", "exit"):
            what = {"start": What.START, "start-ause": What.START_UNRESTRICTED, "exit": What.EXIT_FAILURE}[step]
            action = SanitizeAction.EXIT_FAILURE_MODE if step == "exit" else SanitizeAction.CRYPTO_ERASE
            answered = sanitize(one, action, ause=int(step == "start-ause"))
            running = model in (S.RESTRICTED, S.UNRESTRICTED)
            expected = Status.SANITIZE_IN_PROGRESS if running else Status.SANITIZE_FAILED
            assert answered == (0 if (model, what) in SANITIZE_TRANSITIONS else expected)
        elif step == "time":
            one.step(one.now_ns + 2 * SECOND)
            if model in (S.RESTRICTED, S.UNRESTRICTED):
                what = What.FAILED if media.broken else What.DONE
        else:
            media.broken = step == "break"
        if what is not None:
            model = SANITIZE_TRANSITIONS.get((model, what), model)
        assert one.ctrl.subsystem.sanitizer.state is model
        assert (Hold.SANITIZE in one.ctrl.namespaces[1].holds) == (model is not S.IDLE)


# --- capacity -----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(1, 40), st.just("give")), max_size=30))
@settings(max_examples=100, deadline=None)
def test_capacity_is_given_out_once(steps: list[Any]) -> None:
    capacity = Capacity([RamMedia(16 * 4096), RamMedia(24 * 4096)])
    taken: list[Any] = []
    for step in steps:
        if step == "give":
            if taken:
                capacity.give(taken.pop(0))
            continue
        media = capacity.take(step * 4096)
        if media is not None:
            media.write(0, memoryview(bytes([len(taken) + 1]) * media.nbytes))
            taken.append(media)
    used = sum(media.nbytes for media in taken)
    assert capacity.unallocated == 40 * 4096 - used
    pages = [(id(e.media), e.start + at) for one in taken for e in one.extents for at in range(0, e.nbytes, 4096)]
    assert len(pages) == len(set(pages))


# --- events -------------------------------------------------------------------------------------------------


def test_format_tells_the_host_that_a_namespace_has_changed() -> None:
    one = host()
    one.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.pack(nan=1))
    one.park_aer()

    one.admin.put(AdminOpcode.FORMAT_NVM, nsid=1, cid=4)
    one.admin.ring()
    one.step()

    events = [done for done in one.admin.reap() if done.cid == 900]
    info = AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED
    assert [done.dw0 for done in events] == [Lid.CHANGED_NAMESPACES << 16 | info << 8 | AsyncEventType.NOTICE]


def test_internal_error_leaves_telemetry_behind() -> None:
    one = host(strict=False)
    one.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.pack(tln=1))

    one.ctrl.telemetry.failed("RuntimeError: test")

    header = TELEMETRY_CONTROLLER.parse(one.logged(Lid.TELEMETRY_CONTROLLER, rae=True))
    assert (header.tcda, header.tcdgn, header.rid.rstrip(b"\0")) == (1, 1, b"RuntimeError: test")
    assert header.da1lb > 0
    one.logged(Lid.TELEMETRY_CONTROLLER)
    assert TELEMETRY_CONTROLLER.parse(one.logged(Lid.TELEMETRY_CONTROLLER)).tcda == 0


# --- plain or not -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(list(Hold)), st.booleans()), max_size=12))
@settings(max_examples=60, deadline=None)
def test_namespace_is_plain_only_while_nothing_holds_it(steps: list[tuple[Hold, bool]]) -> None:
    namespace = host().ctrl.namespaces[1]
    held: set[Hold] = set()
    for hold, on in steps:
        (namespace.hold if on else namespace.free)(hold)
        held = held | {hold} if on else held - {hold}

        assert namespace.plain == (not held)
        assert (namespace.view is None) == bool(held)
