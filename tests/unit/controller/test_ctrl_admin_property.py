"""Any admin command at all: the controller never raises, and ends it once with a status that it may have."""

from __future__ import annotations

from typing import Any

from adminhost import BROADCAST, DATA_PAGES, PAGE, AdminHost, Slow, code
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.features import FEATURES
from nvme_emu.controller.identify import IDENTIFIES
from nvme_emu.controller.logs import LOG_PAGES
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import CSTS, Reg
from nvme_emu.spec.status import Status

ANY = {Status.SUCCESS, Status.INVALID_FIELD, Status.CMDID_CONFLICT}
DATA = {Status.DATA_XFER_ERROR, Status.PRP_INVALID_OFFSET}
SANITIZING = {Status.SANITIZE_IN_PROGRESS, Status.SANITIZE_FAILED}
CREATE = {Status.QID_INVALID, Status.QUEUE_SIZE, *DATA}
ALLOWED: dict[int, set[Status]] = {
    AdminOpcode.DELETE_IO_SQ: {Status.QID_INVALID},
    AdminOpcode.CREATE_IO_SQ: {Status.CQ_INVALID, *CREATE},
    AdminOpcode.GET_LOG_PAGE: {Status.INVALID_LOG_PAGE, Status.CMD_SEQ_ERROR, *DATA},
    AdminOpcode.DELETE_IO_CQ: {Status.QID_INVALID, Status.INVALID_QUEUE},
    AdminOpcode.CREATE_IO_CQ: {Status.INVALID_VECTOR, *CREATE},
    AdminOpcode.IDENTIFY: {Status.INVALID_NS, *DATA},
    AdminOpcode.ABORT: {Status.ABORT_LIMIT},
    AdminOpcode.SET_FEATURES: {
        Status.INVALID_NS,
        Status.CMD_SEQ_ERROR,
        Status.FEATURE_NOT_SAVEABLE,
        Status.FEATURE_NOT_PER_NS,
        Status.FEATURE_NOT_CHANGEABLE,
        Status.IOCS_COMBINATION_REJECTED,
        *DATA,
    },
    AdminOpcode.GET_FEATURES: {Status.INVALID_NS, *DATA},
    AdminOpcode.ASYNC_EVENT_REQUEST: {Status.ASYNC_LIMIT, Status.ABORT_REQ},
    AdminOpcode.NAMESPACE_MANAGEMENT: {
        Status.INVALID_NS,
        Status.INVALID_FORMAT,
        Status.IOCS_NOT_SUPPORTED,
        Status.THIN_PROV_NOT_SUPP,
        Status.NS_INSUFFICIENT_CAP,
        Status.NS_ID_UNAVAILABLE,
        *SANITIZING,
        *DATA,
    },
    AdminOpcode.NAMESPACE_ATTACHMENT: {
        Status.INVALID_NS,
        Status.CTRL_LIST_INVALID,
        Status.NS_ALREADY_ATTACHED,
        Status.NS_NOT_ATTACHED,
        Status.NS_IS_PRIVATE,
        *SANITIZING,
        *DATA,
    },
    AdminOpcode.FIRMWARE_COMMIT: {Status.FIRMWARE_SLOT, Status.FIRMWARE_IMAGE, *SANITIZING},
    AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD: {Status.OVERLAPPING_RANGE, *SANITIZING, *DATA},
    AdminOpcode.DEVICE_SELF_TEST: {Status.INVALID_NS, Status.SELF_TEST_IN_PROGRESS, *SANITIZING},
    AdminOpcode.DIRECTIVE_SEND: {Status.INVALID_NS},
    AdminOpcode.DIRECTIVE_RECEIVE: {Status.INVALID_NS, Status.STREAM_RESOURCE_FAILED, *DATA},
    AdminOpcode.FORMAT_NVM: {
        Status.INVALID_NS,
        Status.INVALID_FORMAT,
        Status.FORMAT_IN_PROGRESS,
        Status.NS_WRITE_PROTECTED,
        *SANITIZING,
    },
    AdminOpcode.SANITIZE: {Status.FW_NEEDS_RESET, Status.NS_WRITE_PROTECTED, *SANITIZING},
    AdminOpcode.SECURITY_SEND: set(),
    AdminOpcode.SECURITY_RECEIVE: DATA,
    AdminOpcode.GET_LBA_STATUS: {Status.INVALID_NS, Status.LBA_RANGE, *SANITIZING, *DATA},
}
WILD = 0xDEAD_0000_0000
CIDS = 8

u32 = st.integers(0, 0xFFFF_FFFF)
small = st.integers(0, 9)
half = st.one_of(small, st.just(0xFFFF), st.integers(0, 0xFFFF))
known = st.sampled_from(sorted({*FEATURES, *LOG_PAGES, *IDENTIFIES}))
dword = st.one_of(small, known, u32, st.builds(lambda low, high: low | high << 16, half, half))
# An address: an offset into the data buffer, the PRP list, or outside of all memory.
address = st.one_of(
    st.tuples(st.just("data"), st.one_of(st.just(0), st.integers(0, 2 * PAGE), st.just(PAGE))),
    st.tuples(st.just("list"), st.sampled_from([0, 8, PAGE - 8, 4])),
    st.tuples(st.just("wild"), st.sampled_from([0, 3, 1 << 62])),
)
command = st.fixed_dictionaries(
    {
        "opcode": st.one_of(st.sampled_from(sorted(ADMIN_HANDLERS)), st.integers(0, 255)),
        "flags": st.sampled_from([0] * 12 + [1, 0x40, 0x80, 0xFF]),
        "nsid": st.one_of(st.sampled_from([0, 1, 2, 3, 8, 9, BROADCAST]), u32),
        "prp1": address,
        "prp2": address,
        "cdw10": dword,
        "cdw11": dword,
        "cdw12": st.one_of(st.just(0), dword),
        "cdw13": st.one_of(st.just(0), dword),
        "cdw14": st.one_of(st.just(0), dword),
        "cdw15": dword,
    }
)
PLAIN: dict[str, Any] = dict.fromkeys(
    ["opcode", "flags", "nsid", "cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15"], 0
) | {"prp1": ("data", 0), "prp2": ("data", 0)}
entries = st.lists(st.one_of(st.integers(0, DATA_PAGES - 1), st.just(WILD)), min_size=1, max_size=20)


def place(one: AdminHost, where: tuple[str, int]) -> int:
    kind, offset = where
    return {"data": one.data, "list": one.lists, "wild": WILD}[kind] + offset


def fill_list(one: AdminHost, pages: list[int]) -> None:
    """A page of PRP entries, without one that points at queues: those would be the host's own to break."""
    for slot in range(PAGE // 8):
        page = pages[slot % len(pages)]
        entry = WILD if page == WILD else one.data + page * PAGE
        one.memory.write(one.lists + 8 * slot, entry.to_bytes(8, "little"))


def check(opcode: int, status: int) -> None:
    allowed = ALLOWED.get(opcode, {Status.INVALID_OPCODE}) | ANY
    assert status in allowed, f"opcode {opcode:#04x} ended with {status:#05x}"


@given(st.lists(command, min_size=1, max_size=24), entries, st.sampled_from([0, 500]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([], [0], 0).via("the controller that nobody asks")
@example([PLAIN, {**PLAIN, "opcode": AdminOpcode.FIRMWARE_COMMIT, "cdw10": 0o31}, PLAIN], [0], 0).via("a pause")
def test_any_admin_commands_end_once_with_an_allowed_status(
    commands: list[dict[str, Any]], pages: list[int], admin_ns: int
) -> None:
    one = AdminHost(
        config=ControllerConfig(namespaces_max=8, io_queues_max=4, vectors=3, mdts=3),
        latency=Slow(admin_ns=admin_ns) if admin_ns else None,
        pages=64,
    )
    fill_list(one, pages)
    waiting: dict[int, list[int]] = {cid: [] for cid in range(CIDS)}  # opcodes by identifier, oldest first
    answered = 0
    for number, fields in enumerate(commands):
        sent = {**fields, "prp1": place(one, fields["prp1"]), "prp2": place(one, fields["prp2"])}
        opcode = sent.pop("opcode")
        cid = number % CIDS
        waiting[cid].append(opcode)
        one.admin.put(opcode, cid=cid, **sent)
        one.admin.ring()
        one.step(one.now_ns + 1000)
        wait_out_pause(one)
        answered += take(one, waiting)

    one.step(one.now_ns + 1000)
    wait_out_pause(one)
    answered += take(one, waiting)

    parked = one.ctrl.events.outstanding
    assert answered + parked == len(commands)
    assert len(one.ctrl.outstanding) == parked == sum(map(len, waiting.values()))
    assert one.ctrl.internal_error is None
    assert CSTS.unpack(one.read(Reg.CSTS)).cfs == 0
    one.audit()


def wait_out_pause(one: AdminHost) -> None:
    """New firmware takes over at once (commit action 3): commands wait until CSTS.PP is cleared again."""
    while CSTS.unpack(one.read(Reg.CSTS)).pp:
        deadline_ns = one.ctrl.next_deadline()
        assert deadline_ns is not None, "a pause that nothing ends"
        one.step(max(deadline_ns, one.now_ns + 1000))


def take(one: AdminHost, waiting: dict[int, list[int]]) -> int:
    """Reap and check completions; how many there were."""
    done = one.admin.reap()
    for completion in done:
        opcodes = waiting[completion.cid]
        assert opcodes, f"{completion} answers no command"
        # A parked event request and a later command may share an identifier: the later one is a conflict.
        conflict = code(completion) == Status.CMDID_CONFLICT
        check(opcodes.pop(-1 if conflict or len(opcodes) == 1 else 0), code(completion))
    return len(done)


def test_every_handler_has_its_statuses_listed() -> None:
    assert set(ALLOWED) == set(ADMIN_HANDLERS)
