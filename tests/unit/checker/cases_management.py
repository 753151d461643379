"""How each rule about commands that manage the device, fused pairs, Copy and reservations is broken, and nearly."""

from __future__ import annotations

import struct
from typing import Any

from checkedhost import READ, WRITE, CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.nvm_copy import COPY_RANGE_BLOCKS_MAX
from nvme_emu.spec.features import Fid
from nvme_emu.spec.firmware import build_firmware
from nvme_emu.spec.identify import NS_MANAGEMENT
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode

COMPARE, VERIFY, COPY = int(NvmOpcode.COMPARE), int(NvmOpcode.VERIFY), int(NvmOpcode.COPY)
UNCORRECTABLE = int(NvmOpcode.WRITE_UNCORRECTABLE)
FORMAT, SANITIZE, SELF_TEST = AdminOpcode.FORMAT_NVM, AdminOpcode.SANITIZE, AdminOpcode.DEVICE_SELF_TEST
MANAGE, ATTACH = AdminOpcode.NAMESPACE_MANAGEMENT, AdminOpcode.NAMESPACE_ATTACHMENT
DOWNLOAD, COMMIT = AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, AdminOpcode.FIRMWARE_COMMIT
FIRST, SECOND = 1, 2
MS = 1_000_000


def run(h: CheckedHost, opcode: int, **fields: int) -> None:
    """An I/O command with fields of any kind, to its end."""
    h.cid += 1
    h.io.put(opcode, **{"cid": h.cid, **fields})
    h.io.ring()
    h.end()


# -- leaving --------------------------------------------------------------------------------------------------


def bad_leave(h: CheckedHost) -> None:
    h.ready()
    h.checker.host_left()


def good_leave(h: CheckedHost) -> None:
    h.ready()
    h.cc(en=0)
    h.see()
    h.checker.host_left()  # it was never shut down, but it does not work either


def device_ends(h: CheckedHost) -> None:
    h.ready()
    h.checker.host_is_there = True
    h.checker.host_left()
    h.checker.host_is_there = False


# -- fused pairs ----------------------------------------------------------------------------------------------


def fuse(h: CheckedHost, *pair: tuple[int, int, int], rung: bool = True) -> None:
    """Commands (opcode, FUSE, first block), submitted together."""
    for opcode, half, slba in pair:
        h.cid += 1
        h.put(opcode, cid=h.cid, flags=half, slba=slba)
    if rung:
        h.io.ring()
        h.end()


def fused_admin(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.IDENTIFY, prp1=h.data, cdw10=1, flags=FIRST)


def fused_reserved(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=3)


def first_alone(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (COMPARE, FIRST, 0), (READ, 0, 0))


def second_alone(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (WRITE, SECOND, 0))


def wrong_commands(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (READ, FIRST, 0), (WRITE, SECOND, 0))


def wrong_second(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (COMPARE, FIRST, 0), (COMPARE, SECOND, 0))


def other_blocks(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (COMPARE, FIRST, 0), (WRITE, SECOND, 8))


def two_doorbells(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (COMPARE, FIRST, 0), rung=False)
    h.io.ring()
    fuse(h, (WRITE, SECOND, 0))


def good_pair(h: CheckedHost) -> None:
    h.ready()
    fuse(h, (COMPARE, FIRST, 0), (WRITE, SECOND, 0), (COMPARE, FIRST, 8), (WRITE, SECOND, 8))
    fuse(h, (READ, 0, 0), (COMPARE, FIRST, 0), (WRITE, SECOND, 0), (READ, 0, 0))


# -- limits of I/O commands -----------------------------------------------------------------------------------


def bad_verify(h: CheckedHost) -> None:
    h.ready()
    run(h, VERIFY, nsid=1, cdw12=31)


def good_verify(h: CheckedHost) -> None:
    h.ready()
    run(h, VERIFY, nsid=1, cdw12=15)


def bad_uncorrectable(h: CheckedHost) -> None:
    h.ready()
    run(h, UNCORRECTABLE, nsid=1, cdw12=31)


def good_uncorrectable(h: CheckedHost) -> None:
    h.ready()
    run(h, UNCORRECTABLE, nsid=1, cdw12=15)


# -- Copy -----------------------------------------------------------------------------------------------------


def copy(h: CheckedHost, to: int, *sources: tuple[int, int], cdfmt: int = 0, nsid: int = 0) -> None:
    """Copy ranges (first block, blocks)."""
    raw = b"".join(struct.pack("<I4xQH14x", nsid, slba, nlb - 1) for slba, nlb in sources)
    where = h.pages(2)
    h.memory.write(where, raw)
    prp2 = where + PAGE if len(raw) > PAGE else 0
    run(h, COPY, nsid=1, prp1=where, prp2=prp2, cdw10=to, cdw12=len(sources) - 1 | cdfmt << 8)


def bad_copy_format(h: CheckedHost) -> None:
    h.ready()
    copy(h, 100, (0, 8), cdfmt=1)


def format_not_enabled(h: CheckedHost) -> None:
    h.ready()
    copy(h, 100, (0, 8), cdfmt=2, nsid=1)


def too_many_ranges(h: CheckedHost) -> None:
    h.ready()
    copy(h, 1000, *[(at, 1) for at in range(129)])


def long_range(h: CheckedHost) -> None:
    h.ready()
    copy(h, 0, (0, COPY_RANGE_BLOCKS_MAX + 1))


def bad_overlap(h: CheckedHost) -> None:
    h.ready()
    copy(h, 12, (0, 8), (8, 8))


def source_range(h: CheckedHost) -> None:
    h.ready()
    copy(h, 0, (2041, 8))


def target_range(h: CheckedHost) -> None:
    h.ready()
    copy(h, 2041, (0, 8))


def copy_from_nowhere(h: CheckedHost) -> None:
    h.ready()
    h.memory.write(h.data, bytes(4) + struct.pack("<H", 1 << 2) + bytes(506))
    h.set_features(Fid.HOST_BEHAVIOR, prp1=h.data)
    copy(h, 0, (0, 8), cdfmt=2, nsid=7)


def good_copy(h: CheckedHost) -> None:
    h.ready()
    copy(h, 16, (0, 8), (8, 8))


# -- reservations ---------------------------------------------------------------------------------------------

REGISTER, ACQUIRE, RELEASE, REPORT = (
    int(NvmOpcode.RESERVATION_REGISTER), int(NvmOpcode.RESERVATION_ACQUIRE), int(NvmOpcode.RESERVATION_RELEASE),
    int(NvmOpcode.RESERVATION_REPORT),
)  # fmt: skip
KEY = 0x22


def identified(h: CheckedHost) -> CheckedHost:
    """Ready, and the host has said who it is."""
    h.ready()
    h.memory.write(h.data, bytes(range(1, 17)))
    h.set_features(Fid.HOST_IDENTIFIER, cdw11=1, prp1=h.data)
    return h


def reserve(h: CheckedHost, opcode: int, cdw10: int, *keys: int) -> None:
    h.memory.write(h.data, struct.pack(f"<{len(keys)}Q", *keys))
    run(h, opcode, nsid=1, prp1=h.data, cdw10=cdw10)


def nobody(h: CheckedHost) -> None:
    h.ready()
    reserve(h, REGISTER, 0, 0, KEY)


def not_registered(h: CheckedHost) -> None:
    reserve(identified(h), ACQUIRE, 1 << 8, KEY, 0)


def action_reserved(h: CheckedHost) -> None:
    reserve(identified(h), REGISTER, 3, 0, KEY)


def type_reserved(h: CheckedHost) -> None:
    reserve(identified(h), REGISTER, 0, 0, KEY)
    reserve(h, ACQUIRE, 7 << 8, KEY, 0)


def reservation_bits(h: CheckedHost) -> None:
    reserve(identified(h), REGISTER, 1 << 4, 0, KEY)


def report_bits(h: CheckedHost) -> None:
    identified(h)
    run(h, REPORT, nsid=1, prp1=h.data, cdw10=63, cdw11=3)


def good_reservation(h: CheckedHost) -> None:
    reserve(identified(h), REGISTER, 0, 0, KEY)
    reserve(h, ACQUIRE, 1 << 8, KEY, 0)
    run(h, REPORT, nsid=1, prp1=h.data, cdw10=63, cdw11=1)
    reserve(h, RELEASE, 1 << 8, KEY)
    reserve(h, REGISTER, 1, KEY, 0)


# -- log pages, formats, namespaces ---------------------------------------------------------------------------


def bad_log_offset(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.GET_LOG_PAGE, prp1=h.data, cdw10=2 | 127 << 16, cdw12=2)


def good_log_offset(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.GET_LOG_PAGE, prp1=h.data, cdw10=2 | 127 << 16, cdw12=4)


def format_index(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(FORMAT, nsid=1, cdw10=15)


def format_protected(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(FORMAT, nsid=1, cdw10=1 << 5)


def good_format(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(FORMAT, nsid=1, cdw10=0)


def erase_reserved(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(FORMAT, nsid=1, cdw10=3 << 9)


def format_nowhere(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(FORMAT, nsid=9)


def format_in_use(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    h.admin_command(FORMAT, nsid=1)
    h.end()


def sanitize_in_use(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    h.admin_command(SANITIZE, cdw10=2)
    h.end()


def io_to_formatted(h: CheckedHost) -> None:
    h.ready()
    h.admin.put(FORMAT, cid=400, nsid=1)
    h.admin.ring()
    h.step()
    h.do()
    h.step(h.now_ns + 2 * MS)
    h.admin.reap()


def io_after_format(h: CheckedHost) -> None:
    h.ready()
    h.admin.put(FORMAT, cid=400, nsid=1)
    h.admin.ring()
    h.step()
    h.step(h.now_ns + 2 * MS)
    h.admin.reap()
    h.do()


def create(h: CheckedHost, **fields: int) -> int:
    h.memory.write(h.data, NS_MANAGEMENT.build(nsze=8, ncap=8))
    h.cid += 1
    return h.admin.run(MANAGE, **{"cid": h.cid, "nsid": 0, "prp1": h.data, "cdw10": 0, **fields}).dw0


def attach(h: CheckedHost, nsid: int, *cntlids: int, detach: int = 0) -> int:
    h.memory.write(h.data, struct.pack(f"<{len(cntlids) + 1}H", len(cntlids), *cntlids).ljust(PAGE, b"\0"))
    return h.admin_command(ATTACH, nsid=nsid, prp1=h.data, cdw10=detach)


def select_reserved(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(MANAGE, nsid=1, cdw10=5)


def create_with_identifier(h: CheckedHost) -> None:
    h.ready()
    create(h, nsid=3)


def no_controller(h: CheckedHost) -> None:
    h.ready()
    attach(h, 1, detach=1)


def twice_in_list(h: CheckedHost) -> None:
    h.ready()
    attach(h, 1, 0, 0, detach=1)


def attach_nowhere(h: CheckedHost) -> None:
    h.ready()
    attach(h, 9, 0)


def detach_in_use(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    attach(h, 1, 0, detach=1)
    h.end()


def delete_in_use(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    h.admin_command(MANAGE, nsid=1, cdw10=1)
    h.end()


def good_namespace(h: CheckedHost) -> None:
    h.ready()
    h.do()
    attach(h, 1, 0, detach=1)
    attach(h, 1, 0)
    h.do()


# -- tests, sanitizing, firmware ------------------------------------------------------------------------------


def test_reserved(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(SELF_TEST, cdw10=5)


def sanitize_reserved(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(SANITIZE, cdw10=7)


def two_tests(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(SELF_TEST, cdw10=1)
    h.admin_command(SELF_TEST, cdw10=1)


def two_sanitizers(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(SANITIZE, cdw10=2)
    h.admin_command(SANITIZE, cdw10=2)


def test_nowhere(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(SELF_TEST, nsid=9, cdw10=1)


def good_test(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(SELF_TEST, nsid=1, cdw10=1)
    h.admin_command(SELF_TEST, cdw10=0xF)
    h.admin_command(SELF_TEST, cdw10=1)


def download(h: CheckedHost, raw: bytes, offset: int = 0) -> None:
    h.memory.write(h.data, raw)
    h.admin_command(DOWNLOAD, prp1=h.data, cdw10=len(raw) // 4 - 1, cdw11=offset // 4)


def part_twice(h: CheckedHost) -> None:
    h.ready()
    download(h, bytes(PAGE))
    download(h, bytes(PAGE), 2048)


def nothing_sent(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(COMMIT, cdw10=2)


def part_missing(h: CheckedHost) -> None:
    h.ready()
    download(h, bytes(512))
    download(h, bytes(512), 1024)
    h.admin_command(COMMIT, cdw10=2)


def slot_beyond(h: CheckedHost) -> None:
    h.ready()
    download(h, build_firmware("2.0"))
    h.admin_command(COMMIT, cdw10=7)


def slot_read_only(h: CheckedHost) -> None:
    h.ready()
    download(h, build_firmware("2.0"))
    h.admin_command(COMMIT, cdw10=1)


def slot_empty(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(COMMIT, cdw10=3 | 2 << 3)


def commit_reserved(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(COMMIT, cdw10=2 | 4 << 3)


def good_firmware(h: CheckedHost) -> None:
    h.ready()
    download(h, build_firmware("2.0"))
    h.admin_command(COMMIT, cdw10=2)
    h.admin_command(COMMIT, cdw10=2 | 2 << 3)


CASES: dict[str, Any] = {
    "left-without-shutdown": ([bad_leave], good_leave),
    "fused-unsupported": ([fused_admin, fused_reserved], good_pair),
    "fused-pair": ([first_alone, second_alone, wrong_commands, wrong_second, other_blocks], good_pair),
    "fused-doorbell": ([two_doorbells], good_pair),
    "verify-limit": ([bad_verify], good_verify),
    "write-uncorrectable-limit": ([bad_uncorrectable], good_uncorrectable),
    "copy-format": ([bad_copy_format, format_not_enabled], good_copy),
    "copy-limit": ([too_many_ranges, long_range], good_copy),
    "copy-overlap": ([bad_overlap], good_copy),
    "host-identifier": ([nobody], good_reservation),
    "not-registered": ([not_registered], good_reservation),
    "reserved-value": (
        [action_reserved, type_reserved, erase_reserved, select_reserved, test_reserved, sanitize_reserved,
         commit_reserved], good_reservation,
    ),
    "log-offset": ([bad_log_offset], good_log_offset),
    "format-unsupported": ([format_index, format_protected], good_format),
    "namespace-in-use": ([format_in_use, sanitize_in_use, detach_in_use, delete_in_use], good_namespace),
    "namespace-busy": ([io_to_formatted], io_after_format),
    "controller-list": ([no_controller, twice_in_list], good_namespace),
    "operation-running": ([two_tests, two_sanitizers], good_test),
    "firmware-overlap": ([part_twice], good_firmware),
    "firmware-incomplete": ([nothing_sent, part_missing], good_firmware),
    "firmware-slot": ([slot_beyond, slot_read_only, slot_empty], good_firmware),
}  # fmt: skip

MORE: dict[str, Any] = {
    "reserved-field": [reservation_bits, report_bits],
    "nsid-invalid": [format_nowhere, attach_nowhere, test_nowhere, copy_from_nowhere],
    "nsid-unused": [create_with_identifier],
    "lba-range": [source_range, target_range],
}
"""Further ways to break rules that have their cases elsewhere."""

OPTIONS = {
    "verify-limit": {"config": ControllerConfig(vsl=1)},
    "write-uncorrectable-limit": {"config": ControllerConfig(wusl=1)},
    "namespace-busy": {"config": ControllerConfig(format_ns=MS)},
}

ALSO_GOOD = (device_ends,)
