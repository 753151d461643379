"""How each rule about fused pairs, Copy, reservations and limits of I/O commands is broken, and nearly."""

from __future__ import annotations

import struct
from typing import Any

from cases_commands import run
from checkedhost import READ, WRITE, CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.nvm_copy import COPY_RANGE_BLOCKS_MAX
from nvme_emu.spec.features import Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode

COMPARE, VERIFY, COPY = int(NvmOpcode.COMPARE), int(NvmOpcode.VERIFY), int(NvmOpcode.COPY)
UNCORRECTABLE = int(NvmOpcode.WRITE_UNCORRECTABLE)
FIRST, SECOND = 1, 2


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




CASES: dict[str, Any] = {
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
}

OPTIONS = {
    "verify-limit": {"config": ControllerConfig(vsl=1)},
    "write-uncorrectable-limit": {"config": ControllerConfig(wusl=1)},
}
