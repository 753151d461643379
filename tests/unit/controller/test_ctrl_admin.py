"""The admin opcodes as a whole, and Abort."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import BROADCAST, AdminHost, Slow, code
from rawhost import RawQueue

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.spec.commands import ABORT_CDW10
from nvme_emu.spec.events import AsyncErrorInfo, AsyncEventType
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import PSDT_SGL
from nvme_emu.spec.status import DNR, MORE, Status

SLOW_NS = 1_000_000


def slow_host(**config: Any) -> tuple[AdminHost, RawQueue]:
    one = AdminHost(latency=Slow(SLOW_NS), config=ControllerConfig(**config))
    queue = one.queue(1, 16, 16)
    assert one.create_cq(1, 16, queue.cq).status == 0
    assert one.create_sq(1, 16, queue.sq).status == 0
    return one, queue


def abort(one: AdminHost, sqid: int, cid: int, *, own_cid: int = 700) -> Any:
    return one.do(AdminOpcode.ABORT, cid=own_cid, cdw10=ABORT_CDW10.pack(sqid=sqid, cid=cid))


# --- opcodes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(ADMIN_HANDLERS)))
def test_admin_opcode_that_is_not_offered_is_invalid(opcode: int) -> None:
    one = AdminHost()

    completion = one.do(opcode, nsid=BROADCAST, cid=9)

    assert (completion.status, completion.cid) == (Status.INVALID_OPCODE | DNR | MORE, 9)
    entry = one.newest_error()
    assert (entry.opc, entry.cid, entry.sqid, entry.pel, entry.nsid) == (opcode, 9, 0, 0, BROADCAST)


def test_keep_alive_is_not_offered_as_kas_says() -> None:
    assert AdminOpcode.KEEP_ALIVE not in ADMIN_HANDLERS


@pytest.mark.parametrize("opcode", sorted(ADMIN_HANDLERS))
@pytest.mark.parametrize("flags", [PSDT_SGL, 1, 2])
def test_admin_command_with_sgl_or_fused_is_an_invalid_field(opcode: int, flags: int) -> None:
    one = AdminHost()

    assert one.do(opcode, flags=flags).status == Status.INVALID_FIELD | DNR | MORE


# --- Abort --------------------------------------------------------------------------------------------------


def test_abort_ends_a_command_that_waits_for_its_time() -> None:
    one, queue = slow_host()
    queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=42)
    queue.ring()
    one.step()

    completion = abort(one, 1, 42)

    assert (completion.status, completion.dw0) == (0, 0)
    (aborted,) = queue.reap()
    assert (aborted.cid, aborted.status, aborted.sqid) == (42, Status.ABORT_REQ, 1)
    one.step(one.now_ns + 2 * SLOW_NS)
    assert queue.reap() == []
    one.audit()


def test_abort_lets_the_identifier_be_used_again() -> None:
    one, queue = slow_host()
    queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=42)
    queue.ring()
    one.step()
    abort(one, 1, 42)
    queue.reap()

    queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=42)
    queue.ring()
    one.step(one.now_ns + SLOW_NS // 2)
    assert queue.reap() == []
    one.step(one.now_ns + SLOW_NS)

    assert [(c.cid, c.status) for c in queue.reap()] == [(42, 0)]
    one.audit()


def test_abort_ends_only_the_command_named() -> None:
    one, queue = slow_host()
    for cid in (1, 2, 3):
        queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=cid)
    queue.ring()
    one.step()

    abort(one, 1, 2)
    one.step(one.now_ns + SLOW_NS)

    assert [(c.cid, code(c)) for c in queue.reap()] == [(2, Status.ABORT_REQ), (1, 0), (3, 0)]


@pytest.mark.parametrize(("sqid", "cid"), [(1, 43), (2, 42), (0, 42), (0xFFFF, 0xFFFF), (0, 700)])
def test_abort_of_what_is_not_there_says_so(sqid: int, cid: int) -> None:
    one, queue = slow_host()
    queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=42)
    queue.ring()
    one.step()

    completion = abort(one, sqid, cid)

    assert (completion.status, completion.dw0) == (0, 1)
    one.step(one.now_ns + SLOW_NS)
    assert [(c.cid, c.status) for c in queue.reap()] == [(42, 0)]


def test_abort_of_a_completed_command_says_so() -> None:
    one, queue = slow_host()
    queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=42)
    queue.ring()
    one.step()
    one.step(one.now_ns + SLOW_NS)

    assert abort(one, 1, 42).dw0 == 1
    assert len(queue.reap()) == 1


def test_abort_ends_an_event_request_first_and_it_takes_no_event_any_more() -> None:
    one = AdminHost()
    one.park_aer(11)
    one.park_aer(12)
    one.admin.put(AdminOpcode.ABORT, cid=700, cdw10=ABORT_CDW10.pack(sqid=0, cid=11))
    one.admin.ring()
    one.step()

    done = one.admin.reap()

    assert [(c.cid, code(c), c.dw0) for c in done] == [(11, Status.ABORT_REQ, 0), (700, 0, 0)]
    one.ctrl.events.post(AsyncEventType.ERROR, AsyncErrorInfo.INVALID_DOORBELL_VALUE, Lid.ERROR_INFORMATION)
    one.step()
    assert [c.cid for c in one.admin.reap()] == [12]
    one.audit()


@pytest.mark.parametrize("acl_z", [0, 3])
def test_abort_beyond_the_limit_is_refused(acl_z: int) -> None:
    one = AdminHost(latency=Slow(admin_ns=SLOW_NS), config=ControllerConfig(acl_z=acl_z))
    for cid in range(acl_z + 3):
        one.admin.put(AdminOpcode.ABORT, cid=cid, cdw10=ABORT_CDW10.pack(sqid=1, cid=1))
    one.admin.ring()
    one.step()
    one.step(one.now_ns + SLOW_NS)

    done = {c.cid: c.status for c in one.admin.reap()}

    allowed = acl_z + 1
    assert done == {cid: 0 if cid < allowed else Status.ABORT_LIMIT | MORE for cid in range(allowed + 2)}


def test_abort_leaves_admin_commands_that_have_had_their_effect() -> None:
    one = AdminHost(latency=Slow(admin_ns=SLOW_NS))
    one.admin.put(AdminOpcode.IDENTIFY, cid=1, nsid=0, cdw10=1, prp1=one.data)
    one.admin.put(AdminOpcode.ABORT, cid=2, cdw10=ABORT_CDW10.pack(sqid=0, cid=1))
    one.admin.ring()
    one.step()
    one.step(one.now_ns + SLOW_NS)

    assert [(c.cid, c.status, c.dw0) for c in one.admin.reap()] == [(1, 0, 0), (2, 0, 1)]
