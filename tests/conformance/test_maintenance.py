"""What a device does to itself: self-tests, sanitizing, firmware; and the logs that tell of it."""

from __future__ import annotations

import json
import struct

import pytest
from nvmehost import BROADCAST, SIZE, NvmeHost, connected, tcp_host, tcp_target

from nvme_emu.controller import ControllerConfig
from nvme_emu.spec.commands_admin import (
    FW_COMMIT_CDW10,
    GET_LBA_STATUS_CDW13,
    SANITIZE_CDW10,
    CommitAction,
    SanitizeAction,
    SelfTestCode,
)
from nvme_emu.spec.features import Fid
from nvme_emu.spec.firmware import build_firmware
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, Cns
from nvme_emu.spec.logs import (
    FIRMWARE_ACTIVE,
    FIRMWARE_SLOT_INFORMATION,
    LBA_STATUS_DESCRIPTOR,
    LBA_STATUS_LIST_HEADER,
    SANITIZE_SSI,
    SANITIZE_SSTAT,
    SANITIZE_STATUS,
    SELF_TEST_LOG,
    SELF_TEST_STATUS,
    TELEMETRY_CONTROLLER,
    TELEMETRY_HOST,
    Lid,
)
from nvme_emu.spec.logs_persistent import EVENT_HEADER, PERSISTENT_EVENT_HEADER, PersistentEvent
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status

READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE
PATTERN = bytes(range(256)) * 2


# --- Device Self-test ---------------------------------------------------------------------------------------


def self_test_log(host: NvmeHost) -> dict[str, int]:
    return SELF_TEST_LOG.parse(host.log(Lid.DEVICE_SELF_TEST, 564))


def newest(host: NvmeHost) -> tuple[int, int]:
    """(code, result) of the newest entry."""
    status = SELF_TEST_STATUS.unpack(self_test_log(host)["results"][0].status)
    return status.code, status.result


@pytest.mark.parametrize("code", [SelfTestCode.SHORT, SelfTestCode.EXTENDED])
def test_self_test_runs_beside_io_and_leaves_a_result(host: NvmeHost, code: int) -> None:
    assert host.admin(AdminOpcode.DEVICE_SELF_TEST, BROADCAST, cdw10=code).status == 0

    if host.exact:
        assert self_test_log(host)["current"] == code
        again = host.admin(AdminOpcode.DEVICE_SELF_TEST, BROADCAST, cdw10=code)
        assert again.status == Status.SELF_TEST_IN_PROGRESS
    assert host.io(WRITE, data=PATTERN).status == 0
    host.until(lambda: self_test_log(host)["current"] == 0)
    assert newest(host) == (code, 0)
    assert SELF_TEST_STATUS.unpack(self_test_log(host)["results"][1].status).result == 0xF


def test_self_test_can_be_aborted(host: NvmeHost) -> None:
    host.admin(AdminOpcode.DEVICE_SELF_TEST, 0, cdw10=SelfTestCode.EXTENDED)

    assert host.admin(AdminOpcode.DEVICE_SELF_TEST, 0, cdw10=SelfTestCode.ABORT).status == 0

    assert self_test_log(host)["current"] == 0
    assert newest(host) == (2, 1) or (newest(host) == (2, 0) and not host.exact)


def test_self_test_is_aborted_by_format_and_finds_bad_blocks(host: NvmeHost) -> None:
    host.admin(AdminOpcode.DEVICE_SELF_TEST, 1, cdw10=SelfTestCode.EXTENDED)
    host.admin(AdminOpcode.FORMAT_NVM, 1)
    assert newest(host) == (2, 4) or (newest(host) == (2, 0) and not host.exact)
    host.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=77)

    host.admin(AdminOpcode.DEVICE_SELF_TEST, 1, cdw10=SelfTestCode.SHORT)
    host.until(lambda: self_test_log(host)["current"] == 0)

    entry = self_test_log(host)["results"][0]
    assert newest(host) == (1, 7)
    assert (entry.nsid, entry.flba, entry.sct << 8 | entry.sc) == (1, 77, Status.READ_ERROR)


@pytest.mark.parametrize(
    ("nsid", "code", "status"),
    [(1, 0, Status.INVALID_FIELD), (9, 1, Status.INVALID_NS), (2, 1, Status.INVALID_FIELD)],
)
def test_self_test_with_a_wrong_field_is_refused(host: NvmeHost, nsid: int, code: int, status: Status) -> None:
    assert host.admin(AdminOpcode.DEVICE_SELF_TEST, nsid, cdw10=code).status == status


# --- Sanitize -----------------------------------------------------------------------------------------------


def sanitize_log(host: NvmeHost) -> tuple[int, int, int]:
    """(progress, operation status, state)."""
    data = SANITIZE_STATUS.parse(host.log(Lid.SANITIZE_STATUS))
    return data.sprog, SANITIZE_SSTAT.unpack(data.sstat).sos, SANITIZE_SSI.unpack(data.ssi).sans


@pytest.mark.parametrize("ause", [0, 1])
@pytest.mark.parametrize("action", [SanitizeAction.BLOCK_ERASE, SanitizeAction.CRYPTO_ERASE])
def test_sanitize_erases_everything_and_refuses_commands_meanwhile(
    host2: NvmeHost, action: int, ause: int
) -> None:
    host = host2
    assert sanitize_log(host) == (0xFFFF, 0, 0)
    host.io(WRITE, 1, data=PATTERN)
    host.io(WRITE, 2, slba=5, data=PATTERN)

    assert host.admin(AdminOpcode.SANITIZE, cdw10=SANITIZE_CDW10.pack(sanact=action, ause=ause)).status == 0

    if host.exact:
        refused = [
            host.io(READ, 1, nbytes=512),
            host.io(WRITE, 2, data=PATTERN),
            host.admin(AdminOpcode.FORMAT_NVM, 1),
            host.admin(AdminOpcode.SANITIZE, cdw10=action),
            host.admin(AdminOpcode.DEVICE_SELF_TEST, cdw10=1),
            host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=1),
        ]
        assert {answer.status for answer in refused} == {Status.SANITIZE_IN_PROGRESS}
        assert host.io(NvmOpcode.FLUSH, 1).status == 0
        assert sanitize_log(host)[1:] == (2, 3 if ause else 1)
    else:
        assert host.io(READ, 1, nbytes=512).status in (0, Status.SANITIZE_IN_PROGRESS)
    host.until(lambda: sanitize_log(host)[2] == 0)
    assert sanitize_log(host) == (0xFFFF, 4, 0)
    assert host.io(READ, 1, nbytes=512).data == host.io(READ, 2, slba=5, nbytes=512).data == bytes(512)


@pytest.mark.parametrize(("passes", "invert", "left"), [(1, 0, b"\xa5"), (2, 1, b"\x5a"), (3, 1, b"\xa5")])
def test_sanitize_overwrite_leaves_its_pattern_where_nothing_is_deallocated(
    host: NvmeHost, passes: int, invert: int, left: bytes
) -> None:
    how = SANITIZE_CDW10.pack(sanact=SanitizeAction.OVERWRITE, owpass=passes, oipbp=invert, ndas=1)

    assert host.admin(AdminOpcode.SANITIZE, cdw10=how, cdw11=0xA5A5A5A5).status == 0

    host.until(lambda: sanitize_log(host)[2] == 0)
    assert sanitize_log(host)[1] == 1
    assert host.io(READ, slba=SIZE // 512 - 1, nbytes=512).data == left * 512


@pytest.mark.parametrize("fields", [{"sanact": 0}, {"sanact": 5}, {"sanact": 7}, {"sanact": 2, "emvs": 1}])
def test_sanitize_with_a_wrong_field_is_refused(host: NvmeHost, fields: dict[str, int]) -> None:
    assert host.admin(AdminOpcode.SANITIZE, cdw10=SANITIZE_CDW10.pack(**fields)).status == Status.INVALID_FIELD
    assert sanitize_log(host)[2] == 0


def test_sanitize_survives_the_host_that_asked_for_it() -> None:
    config = ControllerConfig(namespaces_max=8, sanitize_ns=100_000_000)
    with tcp_target(config) as url, tcp_host(url, 2) as other:
        with tcp_host(url, 1) as host:
            assert host.admin(AdminOpcode.SANITIZE, cdw10=SanitizeAction.BLOCK_ERASE).status == 0

        assert other.io(READ, nbytes=512).status in (0, Status.SANITIZE_IN_PROGRESS)
        other.until(lambda: sanitize_log(other)[1] == 4)


# --- firmware -----------------------------------------------------------------------------------------------


def download(host: NvmeHost, image: bytes, piece: int = 4096) -> None:
    for offset in range(0, len(image), piece):
        part = image[offset : offset + piece]
        answer = host.admin(
            AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, cdw10=len(part) // 4 - 1, cdw11=offset // 4, data=part
        )
        assert answer.status == 0


def commit(host: NvmeHost, action: int, slot: int = 0) -> int:
    return host.admin(AdminOpcode.FIRMWARE_COMMIT, cdw10=FW_COMMIT_CDW10.pack(fs=slot, ca=action)).status


def slots(host: NvmeHost) -> tuple[int, int, list[str]]:
    """(active, next, revisions)."""
    data = FIRMWARE_SLOT_INFORMATION.parse(host.log(Lid.FIRMWARE_SLOT))
    active = FIRMWARE_ACTIVE.unpack(data.afi)
    return active.afs, active.nfs, [revision.strip("\0") for revision in data.frs[:4]]


def revision(host: NvmeHost) -> str:
    found: str = IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data).fr
    return found


def test_firmware_is_stored_and_activated_without_a_reset(host: NvmeHost) -> None:
    assert slots(host) == (1, 0, ["1.0", "", "", ""])
    download(host, build_firmware("2.0", b"payload" * 1000))

    assert commit(host, CommitAction.STORE, 2) == 0
    assert slots(host) == (1, 0, ["1.0", "2.0", "", ""])
    assert commit(host, CommitAction.ACTIVATE_NOW, 2) == 0

    assert (revision(host), slots(host)) == ("2.0", (2, 0, ["1.0", "2.0", "", ""]))
    assert host.io(READ, nbytes=512).status == 0


def test_firmware_waits_for_the_reset_that_it_was_told_to_wait_for(host: NvmeHost) -> None:
    download(host, build_firmware("3.1"))

    assert commit(host, CommitAction.STORE_AND_ACTIVATE_AT_RESET) == 0

    assert (revision(host), slots(host)[:2]) == ("1.0", (1, 2))
    assert host.admin(AdminOpcode.SANITIZE, cdw10=2).status == Status.FW_NEEDS_RESET
    assert commit(host, CommitAction.ACTIVATE_AT_RESET, 1) == 0
    assert slots(host)[:2] == (1, 1)


def test_firmware_that_is_none_is_refused(host: NvmeHost) -> None:
    assert commit(host, CommitAction.STORE, 2) == Status.FIRMWARE_IMAGE
    download(host, bytes(4096))
    assert commit(host, CommitAction.STORE, 2) == Status.FIRMWARE_IMAGE
    image = build_firmware("2.0", b"x" * 5000)
    download(host, image[4096:])
    assert commit(host, CommitAction.STORE, 2) == Status.FIRMWARE_IMAGE
    download(host, image)
    again = host.admin(AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, cdw10=1023, data=image[:4096])
    assert again.status == Status.OVERLAPPING_RANGE
    assert commit(host, CommitAction.STORE, 1) == Status.FIRMWARE_SLOT
    assert commit(host, CommitAction.STORE, 4) == Status.FIRMWARE_SLOT
    assert commit(host, CommitAction.ACTIVATE_AT_RESET, 0) == Status.FIRMWARE_SLOT
    assert commit(host, CommitAction.ACTIVATE_AT_RESET, 3) == Status.FIRMWARE_IMAGE
    assert commit(host, 6, 2) == commit(host, 4, 2) == Status.INVALID_FIELD
    assert slots(host) == (1, 0, ["1.0", "", "", ""])


# --- telemetry ----------------------------------------------------------------------------------------------


def test_telemetry_is_made_when_the_host_asks(host: NvmeHost) -> None:
    empty = TELEMETRY_HOST.parse(host.log(Lid.TELEMETRY_HOST))
    assert (empty.lid, empty.da1lb, empty.thdgn) == (Lid.TELEMETRY_HOST, 0, 0)

    header = TELEMETRY_HOST.parse(host.log(Lid.TELEMETRY_HOST, lsp=1))

    assert header.thdgn == 1
    assert 0 < header.da1lb <= header.da2lb == header.da3lb
    whole = host.log(Lid.TELEMETRY_HOST, 512 * (1 + header.da3lb))
    told = json.loads(whole[512 : 512 * (1 + header.da1lb)].rstrip(b"\0"))
    assert told["subsystem"]["namespaces"]["1"]["blocks"] == SIZE // 512
    assert host.log(Lid.TELEMETRY_HOST, 512, offset=512) == whole[512:1024]
    assert host.try_log(Lid.TELEMETRY_HOST, 256).status == Status.INVALID_FIELD
    assert host.try_log(Lid.TELEMETRY_HOST, 512, offset=256).status == Status.INVALID_FIELD
    own = TELEMETRY_CONTROLLER.parse(host.log(Lid.TELEMETRY_CONTROLLER))
    assert (own.tcda, own.da1lb) == (0, 0)


# --- persistent events --------------------------------------------------------------------------------------


def events_of(log: bytes) -> list[int]:
    header = PERSISTENT_EVENT_HEADER.parse(log)
    assert header.tll == len(log)
    at, kinds = PERSISTENT_EVENT_HEADER.size, []
    for _ in range(header.tnev):
        event = EVENT_HEADER.parse(log[at:])
        kinds.append(event.et)
        at += 3 + event.ehl + event.el
    assert at == len(log)
    return kinds


def test_persistent_events_are_read_in_a_context(host: NvmeHost) -> None:
    host.admin(AdminOpcode.FORMAT_NVM, 1)
    host.set_feature(Fid.TIMESTAMP, data=struct.pack("<Q", 1_700_000_000_000))
    download(host, build_firmware("9.9"))
    commit(host, CommitAction.STORE, 3)
    assert host.try_log(Lid.PERSISTENT_EVENT).status == Status.CMD_SEQ_ERROR

    header = PERSISTENT_EVENT_HEADER.parse(host.log(Lid.PERSISTENT_EVENT, lsp=1))
    assert host.try_log(Lid.PERSISTENT_EVENT, lsp=1).status == Status.CMD_SEQ_ERROR
    host.admin(AdminOpcode.FORMAT_NVM, 1)
    log = host.log(Lid.PERSISTENT_EVENT, -(-header.tll // 4) * 4)[: header.tll]

    kinds = events_of(log)
    assert kinds[:5] == [
        PersistentEvent.SMART_SNAPSHOT,
        PersistentEvent.FIRMWARE_COMMIT,
        PersistentEvent.TIMESTAMP_CHANGE,
        PersistentEvent.FORMAT_COMPLETION,
        PersistentEvent.FORMAT_START,
    ]
    assert all(header.seb[kind >> 3] >> (kind & 7) & 1 for kind in kinds)
    assert host.log(Lid.PERSISTENT_EVENT, 512, offset=512) == log[512:1024]
    host.log(Lid.PERSISTENT_EVENT, lsp=2)
    assert host.try_log(Lid.PERSISTENT_EVENT).status == Status.CMD_SEQ_ERROR


# --- LBA status ---------------------------------------------------------------------------------------------


def test_lba_status_lists_the_blocks_that_cannot_be_read(host: NvmeHost) -> None:
    for slba, blocks in ((10, 4), (14, 2), (90, 1)):
        host.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=slba, cdw12=blocks - 1)

    def status(atype: int, slba: int = 0, rl: int = 0, nbytes: int = 4096) -> list[tuple[int, int]]:
        answer = host.admin(
            AdminOpcode.GET_LBA_STATUS,
            1,
            cdw10=slba,
            cdw12=nbytes // 4 - 1,
            cdw13=GET_LBA_STATUS_CDW13.pack(rl=rl, atype=atype),
            nbytes=nbytes,
        )
        header = LBA_STATUS_LIST_HEADER.parse(answer.data)
        found = [LBA_STATUS_DESCRIPTOR.parse(answer.data[8 + 16 * n :]) for n in range(header.nlsd)]
        return [(one.dslba, one.nlb) for one in found]

    assert status(0x11) == status(0x10) == [(10, 6), (90, 1)]
    assert status(0x11, slba=12, rl=10) == [(12, 4)]
    assert status(0x11, nbytes=24) == [(10, 6)]
    assert status(0x02, slba=100) == [(100, SIZE // 512 - 100)]
    host.io(WRITE, slba=10, cdw12=5, data=bytes(6 * 512))
    assert status(0x11) == [(90, 1)]
    wrong = host.admin(AdminOpcode.GET_LBA_STATUS, 1, cdw12=7, cdw13=0x12 << 24, nbytes=32)
    assert wrong.status == Status.INVALID_FIELD
    beyond = host.admin(AdminOpcode.GET_LBA_STATUS, 1, cdw10=SIZE, cdw12=7, cdw13=0x11 << 24, nbytes=32)
    assert beyond.status == Status.LBA_RANGE


def test_firmware_activation_pauses_the_controller_and_goes_on() -> None:
    config = ControllerConfig(namespaces_max=8, firmware_activation_ns=5_000_000_000)
    with connected("inproc-virtual", config) as host:
        download(host, build_firmware("4.0"))
        start = host.machine.runtime.now_ns

        assert commit(host, CommitAction.ACTIVATE_NOW) == 0

        assert host.machine.port.read32(0x1C) & 1 << 5
        assert host.io(READ, nbytes=512).status == 0
        assert host.machine.runtime.now_ns - start >= 5_000_000_000
        assert not host.machine.port.read32(0x1C) & 1 << 5


def test_sanitize_config_is_kept(host: NvmeHost) -> None:
    assert host.feature(Fid.SANITIZE_CONFIG).dw0 == 0

    assert host.set_feature(Fid.SANITIZE_CONFIG, 1).status == 0

    assert host.feature(Fid.SANITIZE_CONFIG).dw0 == 1


@pytest.mark.parametrize("transport", ["inproc", "inproc-pure", "inproc-virtual", "inproc-tlc"])
def test_operation_ends_and_tells_though_nobody_asks(transport: str) -> None:
    with connected(transport) as host:
        events: list[object] = []
        assert host.admin(AdminOpcode.SANITIZE, cdw10=SanitizeAction.BLOCK_ERASE).status == 0
        host.machine.trace.add_sink(events.append)

        sanitizer = host.machine.controller.subsystem.sanitizer
        host.until(lambda: not sanitizer.busy)

        host.machine.trace.remove_sink(events.append)
        assert any(getattr(event, "log_page", None) == Lid.SANITIZE_STATUS for event in events)
        assert host.io(READ, nbytes=512).status == 0
