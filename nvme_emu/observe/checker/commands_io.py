"""I/O commands: where they reach, how much they move, and in what order they come."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.holds import Hold
from nvme_emu.controller.metadata import host_bytes
from nvme_emu.controller.nvm_copy import COPY_BLOCKS_MAX, COPY_FORMATS, COPY_RANGE_BLOCKS_MAX, COPY_RANGES_MAX
from nvme_emu.core.errors import DmaError
from nvme_emu.observe.checker.commands_zns import ZoneRules
from nvme_emu.spec.commands import COPY_CDW12, DSM_NR_MASK, DSM_RANGE, DSM_RANGE_SIZE, RW_NLB_MASK, join64
from nvme_emu.spec.opcodes import NvmOpcode, opcode_name
from nvme_emu.spec.queues import FUSE_MASK, NSID_BROADCAST, PSDT_MASK, PSDT_SGL_MPTR_SGL, Sqe
from nvme_emu.spec.reservations import (
    RESERVATION_ACQUIRE_CDW10,
    RESERVATION_REGISTER_CDW10,
    RESERVATION_RELEASE_CDW10,
    ReservationType,
)

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.observe.checker.commands import Commands

__all__ = ["IoRules"]

_OP = NvmOpcode
_RW: Final = frozenset({_OP.READ, _OP.WRITE, _OP.COMPARE})
_BLOCKS: Final = _RW | {_OP.WRITE_ZEROES, _OP.VERIFY, _OP.WRITE_UNCORRECTABLE}
# What commands that move nothing may cover: the field of the configuration, its name.
_LIMITS: Final = {
    int(_OP.WRITE_ZEROES): ("wzsl_bytes", "WZSL", "write-zeroes-limit"),
    int(_OP.VERIFY): ("vsl_bytes", "VSL", "verify-limit"),
    int(_OP.WRITE_UNCORRECTABLE): ("wusl_bytes", "WUSL", "write-uncorrectable-limit"),
}
_FIRST, _SECOND = 1, 2
_COPY_RANGE_BYTES: Final = 32
_COPY_RANGE: Final = struct.Struct("<I4xQH14x")
assert _COPY_RANGE.size == _COPY_RANGE_BYTES
_OWN_NAMESPACE, _OTHER_NAMESPACE = 0, 2
# opcode: (layout, its action's field, the largest that there is, whether it has a type of reservation)
_RESERVATIONS: Final = {
    int(_OP.RESERVATION_REGISTER): (RESERVATION_REGISTER_CDW10, "rrega", 2, False),
    int(_OP.RESERVATION_ACQUIRE): (RESERVATION_ACQUIRE_CDW10, "racqa", 2, True),
    int(_OP.RESERVATION_RELEASE): (RESERVATION_RELEASE_CDW10, "rrela", 1, False),
}
_RESERVATION_BYTES: Final = {
    int(_OP.RESERVATION_REGISTER): 16, int(_OP.RESERVATION_ACQUIRE): 16, int(_OP.RESERVATION_RELEASE): 8,
}  # fmt: skip


class IoRules:
    """The rules of I/O commands."""

    JUDGES_DATA: Final = frozenset({int(_OP.DATASET_MANAGEMENT), int(_OP.COPY)})

    def __init__(self, commands: Commands, checker: Checker) -> None:
        self._wrong = commands.wrong
        self._checker = checker
        self._ctrl = checker.controller
        self._zones = ZoneRules(commands, checker)
        self._halves: dict[int, Sqe] = {}
        """By queue: the first of a fused pair, whose second has to come next."""

    def forget(self) -> None:
        """A reset."""
        self._halves.clear()

    # -- fused pairs ----------------------------------------------------------------------------------------

    def fuse(self, qid: int, entry: Sqe) -> None:
        """FUSE, and what the command before said there."""
        fuse, half = entry.flags & FUSE_MASK, self._halves.pop(qid, None)
        if half is not None and fuse != _SECOND:
            name = opcode_name(half.opcode, False)
            words = f"{name}, the first of a fused pair, is followed by {opcode_name(entry.opcode, not qid)}"
            self._checker.report("fused-pair", words, qid=qid, cid=half.cid, flags=entry.flags)
        if not fuse:
            return
        if not qid or fuse == FUSE_MASK:
            self._wrong("fused-unsupported", f"FUSE {fuse}", flags=entry.flags)
        elif fuse == _FIRST:
            self._halves[qid] = entry
            if entry.opcode != _OP.COMPARE:
                self._wrong("fused-pair", "only Compare and Write are fused", flags=entry.flags)
        elif half is None:
            self._wrong("fused-pair", "the second of a fused pair without the first", flags=entry.flags)
        elif entry.opcode != _OP.WRITE:
            self._wrong("fused-pair", "only Compare and Write are fused", flags=entry.flags)
        elif _blocks(half) != _blocks(entry):
            (nsid, slba, nlb), (its_nsid, its_slba, its_nlb) = _blocks(half), _blocks(entry)
            words = f"LBA {slba}+{nlb} of namespace {nsid} fused with LBA {its_slba}+{its_nlb} of {its_nsid}"
            self._wrong("fused-pair", words, slba=its_slba, nlb=its_nlb, first_slba=slba, first_nlb=nlb)

    # -- commands -------------------------------------------------------------------------------------------

    def judge(self, entry: Sqe) -> int | None:
        """Judge an I/O command; the bytes that it moves, None where that makes no sense or is not known."""
        if entry.opcode == _OP.FLUSH and entry.nsid == NSID_BROADCAST:
            return 0
        namespace = self._ctrl.namespaces.get(entry.nsid)
        if namespace is None:
            self._wrong("nsid-invalid", f"NSID {entry.nsid:#x}", nsid=entry.nsid)
            return None
        for hold in (Hold.FORMAT, Hold.SANITIZE):
            if hold in namespace.holds and entry.opcode != _OP.FLUSH:
                self._wrong("namespace-busy", f"namespace {entry.nsid} is {hold.value}", nsid=entry.nsid)
        zoned = self._zones.judge(entry, namespace)
        if zoned is not None:
            self._checker.commands.check_mdts(zoned)
            return zoned
        if entry.opcode in _BLOCKS:
            return self._covers(entry, namespace)
        if entry.opcode == _OP.DATASET_MANAGEMENT:
            count, limit = (entry.cdw10 & DSM_NR_MASK) + 1, self._ctrl.config.dmrl
            if limit and count > limit:
                self._wrong("dsm-limit", f"{count} ranges, DMRL {limit}", count=count, limit=limit)
            return count * DSM_RANGE_SIZE
        if entry.opcode == _OP.COPY:
            return self._copies(entry)
        if entry.opcode in _RESERVATIONS:
            return self._reserves(entry, namespace)
        return 0 if entry.opcode == _OP.FLUSH else None

    def judge_data(self, entry: Sqe, raw: bytes) -> None:
        """The ranges of Dataset Management and Copy."""
        namespace = self._ctrl.namespaces.get(entry.nsid)
        if namespace is None:
            return
        if entry.opcode == _OP.COPY:
            self._copy_ranges(entry, namespace, raw)
        else:
            self._dsm_ranges(namespace.nsze, raw)

    def _covers(self, entry: Sqe, namespace: Namespace) -> int | None:
        blocks = (entry.cdw12 & RW_NLB_MASK) + 1
        nbytes = blocks << namespace.lba_shift
        if namespace.layout is not None and entry.opcode in _RW:
            nbytes, metadata = host_bytes(namespace, self._ctrl.config, entry.cdw12)
            self._metadata_buffer(entry, metadata)
        config, (slba, nsze) = self._ctrl.config, (join64(entry.cdw10, entry.cdw11), namespace.nsze)
        if entry.opcode in _RW:
            self._checker.commands.check_mdts(nbytes)
        else:
            field, name, rule = _LIMITS[entry.opcode]
            if 0 < getattr(config, field) < nbytes:
                self._wrong(rule, f"{nbytes} bytes, {name} {getattr(config, field)}", nbytes=nbytes)
        if slba + blocks > nsze:
            self._wrong("lba-range", f"LBA {slba}+{blocks} of {nsze}", slba=slba, nlb=blocks, nsze=nsze)
            return None
        return nbytes if entry.opcode in _RW else 0

    def _metadata_buffer(self, entry: Sqe, nbytes: int) -> None:
        """A buffer of its own that MPTR points at; what an SGL there says is not looked at."""
        if not nbytes or entry.flags & PSDT_MASK == PSDT_SGL_MPTR_SGL:
            return
        if entry.mptr & 3:
            self._wrong("mptr-offset", f"MPTR {entry.mptr:#x}", mptr=entry.mptr)
            return
        try:
            self._ctrl.memory.pieces(entry.mptr, nbytes, entry.opcode == _OP.READ)
        except DmaError as error:
            self._wrong("mptr-memory", f"{nbytes} bytes at MPTR {entry.mptr:#x}: {error.rule}", mptr=entry.mptr)

    def _dsm_ranges(self, nsze: int, raw: bytes) -> None:
        config, total = self._ctrl.config, 0
        for _, nlb, slba in DSM_RANGE.iter_unpack(raw):
            total += nlb
            if slba + nlb > nsze:
                self._wrong("dsm-range", f"LBA {slba}+{nlb} of {nsze}", slba=slba, nlb=nlb, nsze=nsze)
                return
            if 0 < config.dmrsl < nlb:
                self._wrong("dsm-limit", f"a range of {nlb} blocks, DMRSL {config.dmrsl}", nlb=nlb)
                return
        if 0 < config.dmsl < total:
            self._wrong("dsm-limit", f"{total} blocks, DMSL {config.dmsl}", total=total)

    # -- Copy -----------------------------------------------------------------------------------------------

    def _copies(self, entry: Sqe) -> int | None:
        how = COPY_CDW12.unpack(entry.cdw12)
        if not COPY_FORMATS >> how.cdfmt & 1:
            self._wrong("copy-format", f"descriptor format {how.cdfmt}h is none of CDFS", cdfmt=how.cdfmt)
            return None
        if how.cdfmt == _OTHER_NAMESPACE and not self._ctrl.features.copy_formats >> _OTHER_NAMESPACE & 1:
            self._wrong("copy-format", f"descriptor format {how.cdfmt}h before CDFE enables it", cdfmt=how.cdfmt)
            return None
        if how.nr_z + 1 > COPY_RANGES_MAX:
            self._wrong("copy-limit", f"{how.nr_z + 1} ranges, MSRC allows {COPY_RANGES_MAX}", ranges=how.nr_z + 1)
        return (int(how.nr_z) + 1) * _COPY_RANGE_BYTES

    def _copy_ranges(self, entry: Sqe, target: Namespace, raw: bytes) -> None:
        total, sources = 0, []
        own = COPY_CDW12["cdfmt"].extract(entry.cdw12) == _OWN_NAMESPACE
        for snsid, slba, nlb_z in _COPY_RANGE.iter_unpack(raw):
            source = target if own or snsid == target.nsid else self._ctrl.namespaces.get(snsid)
            if source is None:
                self._wrong("nsid-invalid", f"NSID {snsid:#x} to copy from", nsid=snsid)
                return
            if nlb_z + 1 > COPY_RANGE_BLOCKS_MAX:
                words = f"a range of {nlb_z + 1} blocks, MSSRL {COPY_RANGE_BLOCKS_MAX}"
                self._wrong("copy-limit", words, nlb=nlb_z + 1)
            if slba + nlb_z + 1 > source.nsze:
                words = f"LBA {slba}+{nlb_z + 1} of {source.nsze} to copy from"
                self._wrong("lba-range", words, slba=slba, nlb=nlb_z + 1, nsze=source.nsze)
            if source is target:
                sources.append((slba, nlb_z + 1))
            total += nlb_z + 1
        sdlba = join64(entry.cdw10, entry.cdw11)
        if total > COPY_BLOCKS_MAX:
            self._wrong("copy-limit", f"{total} blocks, MCL {COPY_BLOCKS_MAX}", total=total)
        if sdlba + total > target.nsze:
            words = f"LBA {sdlba}+{total} of {target.nsze} to copy to"
            self._wrong("lba-range", words, slba=sdlba, nlb=total, nsze=target.nsze)
        for slba, nlb in sources:
            if slba < sdlba + total and sdlba < slba + nlb:
                words = f"from LBA {slba}+{nlb} to LBA {sdlba}+{total} of the same namespace"
                self._wrong("copy-overlap", words, slba=slba, nlb=nlb, sdlba=sdlba)
                return

    # -- reservations ---------------------------------------------------------------------------------------

    def _reserves(self, entry: Sqe, namespace: Namespace) -> int:
        layout, action, largest, typed = _RESERVATIONS[entry.opcode]
        value = layout[action].extract(entry.cdw10)
        if value > largest:
            self._wrong("reserved-value", f"{action.upper()} is {value}", value=value)
        elif typed:
            rtype = layout["rtype"].extract(entry.cdw10)
            if rtype not in set(ReservationType) - {ReservationType.NONE}:
                self._wrong("reserved-value", f"RTYPE is {rtype}", value=rtype)
        ctrl = self._ctrl
        if not any(ctrl.host_id):
            self._wrong("host-identifier", "the Host Identifier is 0", nsid=entry.nsid)
        elif entry.opcode != _OP.RESERVATION_REGISTER and ctrl.host_id not in namespace.reservations.keys:
            self._wrong("not-registered", f"the host is not registered with namespace {entry.nsid}", nsid=entry.nsid)
        return _RESERVATION_BYTES[entry.opcode]


def _blocks(entry: Sqe) -> tuple[int, int, int]:
    """(nsid, slba, blocks) of a Read or Write."""
    return entry.nsid, join64(entry.cdw10, entry.cdw11), (entry.cdw12 & RW_NLB_MASK) + 1
