"""How each rule about commands that manage the device, fused pairs, Copy and reservations is broken, and nearly."""

from __future__ import annotations

import struct
from typing import Any

from cases_io import (
    action_reserved,
    copy_from_nowhere,
    good_reservation,
    report_bits,
    reservation_bits,
    source_range,
    target_range,
    type_reserved,
)
from checkedhost import CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
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
    "namespace-busy": {"config": ControllerConfig(format_ns=MS)},
}

ALSO_GOOD = (device_ends,)
