"""How a host over NVMe/TCP breaks the rules about commands that hold on every transport, and how it nearly does."""

from __future__ import annotations

import struct
from typing import Any

from capsulehost import WRITE, CapsuleHost
from tcphost import IN_CAPSULE, sqe

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.nvm_copy import COPY_RANGE_BLOCKS_MAX
from nvme_emu.spec.commands import DSM_AD, DSM_RANGE
from nvme_emu.spec.features import VOLATILE_WRITE_CACHE, Fid
from nvme_emu.spec.firmware import build_firmware
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import Reg

FLUSH, ZEROES, VERIFY = int(NvmOpcode.FLUSH), int(NvmOpcode.WRITE_ZEROES), int(NvmOpcode.VERIFY)
UNCORRECTABLE, DSM, COPY = int(NvmOpcode.WRITE_UNCORRECTABLE), int(NvmOpcode.DATASET_MANAGEMENT), int(NvmOpcode.COPY)
COMPARE = int(NvmOpcode.COMPARE)
REGISTER, ACQUIRE = int(NvmOpcode.RESERVATION_REGISTER), int(NvmOpcode.RESERVATION_ACQUIRE)
AER, ABORT, KEEP_ALIVE = AdminOpcode.ASYNC_EVENT_REQUEST, AdminOpcode.ABORT, AdminOpcode.KEEP_ALIVE
IDENTIFY, GET_LOG = AdminOpcode.IDENTIFY, AdminOpcode.GET_LOG_PAGE
FORMAT, SANITIZE, SELF_TEST = AdminOpcode.FORMAT_NVM, AdminOpcode.SANITIZE, AdminOpcode.DEVICE_SELF_TEST
ATTACH, DOWNLOAD, COMMIT = (
    AdminOpcode.NAMESPACE_ATTACHMENT, AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, AdminOpcode.FIRMWARE_COMMIT
)  # fmt: skip
MS = 1_000_000
PSDT = 0x40
IMAGE = build_firmware("2.0")


# -- commands of every transport ------------------------------------------------------------------------------


def io(opcode: int, data: bytes = b"", **fields: int) -> Any:
    """A case that sends an I/O command."""

    def case(h: CapsuleHost) -> None:
        h.ready()
        h.send(1, opcode, data, **{"nsid": 1, **fields})
        h.later()

    return case


def admin(opcode: int, data: bytes = b"", times: int = 1, **fields: int) -> Any:
    """A case that sends an admin command."""

    def case(h: CapsuleHost) -> None:
        h.ready()
        for _ in range(times):
            h.do(opcode, data, **fields)

    return case


def busy(opcode: int, data: bytes = b"", **fields: int) -> Any:
    """A case that sends an admin command while a Read is outstanding."""

    def case(h: CapsuleHost) -> None:
        h.ready()
        h.rw(end=False)
        h.do(opcode, data, **fields)
        h.later()

    return case


def fused(*commands: tuple[int, int, int]) -> Any:
    """A case that sends commands (opcode, FUSE, first block) in a row."""

    def case(h: CapsuleHost) -> None:
        h.ready()
        raw = b""
        for cid, (opcode, half, slba) in enumerate(commands):
            entry = sqe(opcode, cid, nsid=1, length=512, kind=IN_CAPSULE, flags=PSDT | half, cdw10=slba)
            raw += struct.pack("<BBBBI", 4, 0, 72, 72, 72 + 512) + entry + bytes(512)
        h.io.feed(raw)
        h.later()

    return case


def setting(fid: int, cdw11: int = 0, sv: int = 0) -> Any:
    """A case that sets a feature."""

    def case(h: CapsuleHost) -> None:
        h.ready()
        h.set_features(fid, cdw11, sv)

    return case


def controlled(*writes: dict[str, int], before: bool = False) -> Any:
    """A case that writes CC, enabled or before that."""

    def case(h: CapsuleHost) -> None:
        if before:
            h.connect()
        else:
            h.ready()
        for fields in writes:
            h.cc(**fields)
            if fields.get("en") == 0 or "shn" in fields:
                h.get(Reg.CSTS)

    return case


def dsm(*pairs: tuple[int, int]) -> Any:
    """A case that deallocates ranges."""
    return io(DSM, b"".join(DSM_RANGE.pack(0, nlb, slba) for slba, nlb in pairs), cdw10=len(pairs) - 1, cdw11=DSM_AD)


def copy(to: int, *sources: tuple[int, int], cdfmt: int = 0) -> Any:
    """A case that copies ranges."""
    raw = b"".join(struct.pack("<I4xQH14x", 0, slba, nlb - 1) for slba, nlb in sources)
    return io(COPY, raw, cdw10=to, cdw12=len(sources) - 1 | cdfmt << 8)


def aborts(h: CapsuleHost) -> None:
    """More Aborts than ACL allows, none of them answered yet."""
    h.ready()
    h.rw(end=False)
    entries = [sqe(ABORT, cid, cdw10=1 | 9 << 16) for cid in range(5)]
    h.admin.feed(b"".join(struct.pack("<BBBBI", 4, 0, 72, 0, 72) + entry for entry in entries))
    h.later()


def no_host_identifier(h: CapsuleHost) -> None:
    h.up()
    h.number_of_queues()
    h.leave()
    h.wires.clear()
    h.connect(hostid=bytes(16))
    h.get(Reg.CAP, wide=True)
    h.cc()
    h.get(Reg.CSTS)
    h.number_of_queues()
    h.connect(1, hostid=bytes(16))
    h.send(1, REGISTER, struct.pack("<2Q", 0, 1), nsid=1)


def unasked(h: CapsuleHost) -> None:
    h.up()
    h.connect(1)


def while_formatting(h: CapsuleHost) -> None:
    h.ready()
    h.do(FORMAT, nsid=1)
    h.rw()
    h.later(2 * MS)


def cc_early(h: CapsuleHost) -> None:
    h.connect()
    h.cc()
    h.cc(en=0)




CASES: dict[str, tuple[list[Any], Any]] = {
    "cid-reserved": ([io(FLUSH, cid=0xFFFF)], io(FLUSH)),
    "flags-reserved": ([io(FLUSH, flags=PSDT | 4)], io(FLUSH)),
    "reserved-value": ([admin(SELF_TEST, cdw10=5)], admin(SELF_TEST, cdw10=1)),
    "fused-unsupported": ([io(FLUSH, flags=PSDT | 3)], io(FLUSH)),
    "fused-pair": (
        [fused((COMPARE, 1, 0), (WRITE, 0, 0)), fused((WRITE, 2, 0)), fused((COMPARE, 1, 0), (WRITE, 2, 8))],
        fused((COMPARE, 1, 0), (WRITE, 2, 0)),
    ),
    "nsid-invalid": ([io(FLUSH, nsid=2), admin(FORMAT, nsid=9)], io(FLUSH, nsid=0xFFFF_FFFF)),
    "namespace-busy": ([while_formatting], admin(FORMAT, nsid=1)),
    "namespace-in-use": ([busy(FORMAT, nsid=1)], admin(FORMAT, nsid=1)),
    "lba-range": ([lambda h: (h.ready(), h.rw(slba=2041))], lambda h: (h.ready(), h.rw(slba=2040))),
    "mdts-exceeded": (
        [admin(GET_LOG, length=16384, cdw10=2 | 4095 << 16)], admin(GET_LOG, length=512, cdw10=2 | 127 << 16)
    ),
    "write-zeroes-limit": ([io(ZEROES, cdw12=31)], io(ZEROES, cdw12=15)),
    "verify-limit": ([io(VERIFY, cdw12=31)], io(VERIFY, cdw12=15)),
    "write-uncorrectable-limit": ([io(UNCORRECTABLE, cdw12=31)], io(UNCORRECTABLE, cdw12=15)),
    "dsm-limit": ([dsm((0, 8), (8, 8), (16, 8))], dsm((0, 8), (8, 8))),
    "dsm-range": ([dsm((0, 8), (2041, 8))], dsm((0, 8), (2040, 8))),
    "copy-format": ([copy(100, (0, 8), cdfmt=1)], copy(100, (0, 8))),
    "copy-limit": ([copy(0, (0, COPY_RANGE_BLOCKS_MAX + 1))], copy(100, (0, 8))),
    "copy-overlap": ([copy(4, (0, 8))], copy(8, (0, 8))),
    "host-identifier": ([no_host_identifier], io(REGISTER, struct.pack("<2Q", 0, 1))),
    "not-registered": ([io(ACQUIRE, struct.pack("<2Q", 1, 0), cdw10=1 << 8)], io(REGISTER, struct.pack("<2Q", 0, 1))),
    "abort-limit": ([aborts], admin(ABORT, times=2, cdw10=1)),
    "aer-limit": ([admin(AER, times=5)], admin(AER, times=4)),
    "feature-reserved": (
        [setting(Fid.VOLATILE_WRITE_CACHE, 0x11)], setting(Fid.VOLATILE_WRITE_CACHE, VOLATILE_WRITE_CACHE.pack(wce=1))
    ),
    "log-offset": (
        [admin(GET_LOG, length=512, cdw10=2 | 127 << 16, cdw12=2)],
        admin(GET_LOG, length=512, cdw10=2 | 127 << 16, cdw12=4),
    ),
    "format-unsupported": ([admin(FORMAT, nsid=1, cdw10=15)], admin(FORMAT, nsid=1)),
    "operation-running": ([admin(SELF_TEST, times=2, cdw10=1)], admin(SELF_TEST, cdw10=1)),
    "firmware-overlap": ([admin(DOWNLOAD, bytes(512), times=2, cdw10=127)], admin(DOWNLOAD, bytes(512), cdw10=127)),
    "firmware-incomplete": ([admin(COMMIT, cdw10=2)], admin(DOWNLOAD, IMAGE, cdw10=len(IMAGE) // 4 - 1)),
    "firmware-slot": ([admin(COMMIT, cdw10=3 | 2 << 3)], admin(COMMIT, cdw10=1 | 2 << 3)),
}  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "mdts-exceeded": {"config": ControllerConfig(mdts=1)},
    "write-zeroes-limit": {"config": ControllerConfig(wzsl=1)},
    "verify-limit": {"config": ControllerConfig(vsl=1)},
    "write-uncorrectable-limit": {"config": ControllerConfig(wusl=1)},
    "dsm-limit": {"config": ControllerConfig(dmrl=2)},
    "namespace-busy": {"config": ControllerConfig(format_ns=MS)},
}
