"""What commands say: identifiers, reserved fields, limits, and the order of admin commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.feature_kinds import FEATURES, DataFeature
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.observe.checker.memory import look, owner
from nvme_emu.spec.commands import (
    ABORT_CDW10,
    CREATE_CQ_CDW11,
    CREATE_QUEUE_CDW10,
    CREATE_SQ_CDW11,
    DELETE_QUEUE_CDW10,
    DSM_NR_MASK,
    DSM_RANGE,
    DSM_RANGE_SIZE,
    GET_FEATURES_CDW10,
    RW_NLB_MASK,
    SEL_SUPPORTED,
    SET_FEATURES_CDW10,
    command_layout,
    join64,
    log_page_length,
)
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import IDENTIFY_SIZE
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode, opcode_name
from nvme_emu.spec.queues import (
    CQE_SIZE,
    FUSE_MASK,
    NSID_BROADCAST,
    PSDT_MASK,
    QUEUE_ENTRIES_MIN,
    SQE,
    SQE_FLAGS_RESERVED,
    SQE_SIZE,
    Sqe,
)

if TYPE_CHECKING:
    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.observe.checker.models import SqModel

__all__ = ["Commands"]

_CDWS: Final = ("cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15")
_DWORD: Final = 0xFFFF_FFFF
_NO_COMMAND: Final = 0xFFFF
_RW: Final = frozenset({NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE})
_BLOCKS: Final = _RW | {NvmOpcode.WRITE_ZEROES, NvmOpcode.VERIFY, NvmOpcode.WRITE_UNCORRECTABLE}
_WITHOUT_NAMESPACE: Final = frozenset({
    AdminOpcode.DELETE_IO_SQ, AdminOpcode.CREATE_IO_SQ, AdminOpcode.DELETE_IO_CQ, AdminOpcode.CREATE_IO_CQ,
    AdminOpcode.ABORT, AdminOpcode.ASYNC_EVENT_REQUEST,
})  # fmt: skip
_CREATES: Final = frozenset({AdminOpcode.CREATE_IO_SQ, AdminOpcode.CREATE_IO_CQ})
# Commands whose transfer is known not to exist: their data pointer is reserved.
_DATALESS_ADMIN: Final = _WITHOUT_NAMESPACE - _CREATES
_DATALESS_IO: Final = frozenset({NvmOpcode.FLUSH, NvmOpcode.WRITE_ZEROES, NvmOpcode.VERIFY})


def _reserved_bits(opcode: int, admin: bool) -> tuple[int, ...] | None:
    """For each of CDW10 to CDW15 the bits that must be 0; None for an opcode whose dwords are not known."""
    layout = command_layout(opcode, admin)
    if layout is None:
        return None
    masks = dict.fromkeys(range(10, 16), _DWORD)
    for key, bits in layout.cdw.items():
        first, _, last = key.removeprefix("cdw").partition("_")
        masks[int(first)] = bits.reserved_mask & _DWORD
        if last:
            masks[int(last)] = bits.reserved_mask >> 32
    return tuple(masks.values())


class Commands:
    """Judges commands when they are submitted (what depends on others) and fetched (what they say)."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ctrl = checker.controller
        self._reserved: dict[tuple[bool, int], tuple[int, ...] | None] = {}
        self._entry: Sqe
        self._qid = 0

    # -- when they are submitted ----------------------------------------------------------------------------

    def admin_submitted(self, model: SqModel, raw: bytes) -> None:
        """An admin command became visible; `model.live` has it already."""
        report, config = self._checker.report, self._ctrl.config
        entry = Sqe(*SQE.unpack(raw))
        same = sum(1 for opcode in model.live.values() if opcode == entry.opcode)
        if entry.opcode == AdminOpcode.ASYNC_EVENT_REQUEST and same > config.aerl_z + 1:
            words = f"{same} Asynchronous Event Requests; AERL allows {config.aerl_z + 1}"
            report("aer-limit", words, qid=0, cid=entry.cid, count=same, limit=config.aerl_z + 1)
        elif entry.opcode == AdminOpcode.ABORT:
            if same > config.acl_z + 1:
                words = f"{same} Aborts; ACL allows {config.acl_z + 1}"
                report("abort-limit", words, qid=0, cid=entry.cid, count=same, limit=config.acl_z + 1)
            self._abort(entry)

    def _abort(self, entry: Sqe) -> None:
        which = ABORT_CDW10.unpack(entry.cdw10)
        target = self._checker.queues.sq(which.sqid)
        if target is not None:
            cq = self._checker.queues.cq(target.sq.cq.qid)
            # A completion that the host has not consumed yet may have crossed the Abort.
            crossed = cq is not None and (which.sqid, which.cid) in cq.unacked
            own = not which.sqid and which.cid == entry.cid
            if crossed or (which.cid in target.live and not own):
                return
        words = f"Abort of q{which.sqid} cid {which.cid:#06x}, which is not outstanding"
        self._checker.report("abort-nothing", words, qid=0, cid=entry.cid, sqid=which.sqid, target=which.cid)

    # -- when they are fetched ------------------------------------------------------------------------------

    def fetched(self, model: SqModel, fields: Any) -> None:
        """The controller has taken the entry."""
        entry, qid = Sqe(*fields), model.sq.qid
        self._entry, self._qid = entry, qid
        if entry.cid == _NO_COMMAND:
            self._wrong("cid-reserved", "cid 0xffff")
        if entry.flags & SQE_FLAGS_RESERVED:
            self._wrong("flags-reserved", f"flags {entry.flags:#04x}", flags=entry.flags)
        if entry.flags & FUSE_MASK:
            self._wrong("fused-unsupported", f"FUSE {entry.flags & FUSE_MASK}", flags=entry.flags)
        if entry.flags & PSDT_MASK:
            self._wrong("sgl-unsupported", f"PSDT {entry.flags >> 6}", flags=entry.flags)
            return
        handlers: Any = NVM_HANDLERS if qid else self._ctrl.admin_handlers
        if entry.opcode not in handlers:
            self._wrong("opcode-unsupported", opcode_name(entry.opcode, not qid), opcode=entry.opcode)
            return
        self._check_reserved()
        nbytes = self._io() if qid else self._admin()
        if nbytes is not None:
            self._checker.buffers.fetched(model.sq, entry, nbytes)

    def _wrong(self, rule: str, what: str, **values: int) -> None:
        name = opcode_name(self._entry.opcode, not self._qid)
        self._checker.report(rule, f"{name}: {what}", qid=self._qid, cid=self._entry.cid, **values)

    def _check_reserved(self) -> None:
        entry, key = self._entry, (not self._qid, self._entry.opcode)
        if key not in self._reserved:
            self._reserved[key] = _reserved_bits(entry.opcode, key[0])
        masks = self._reserved[key]
        if masks is None:
            return
        for name, mask, value in zip(_CDWS, masks, entry[9:], strict=True):
            if value & mask:
                words = f"{name.upper()} {value:#x}: bits {value & mask:#x} are reserved"
                self._wrong("reserved-field", words, value=value, reserved=mask)
                return
        for name in ("cdw2", "cdw3"):
            value = getattr(entry, name)
            if value:
                self._wrong("reserved-field", f"{name.upper()} {value:#x} is reserved", value=value)
                return
        if entry.mptr and not self._has_metadata():
            self._wrong("reserved-field", f"MPTR {entry.mptr:#x}, but there is no metadata", value=entry.mptr)
        dataless = _DATALESS_IO if self._qid else _DATALESS_ADMIN
        if entry.opcode in dataless and (entry.prp1 or entry.prp2):
            words = f"PRP1 {entry.prp1:#x}, PRP2 {entry.prp2:#x}, but the command moves no data"
            self._wrong("reserved-field", words, prp1=entry.prp1, prp2=entry.prp2)

    def _has_metadata(self) -> bool:
        namespace = self._ctrl.namespaces.get(self._entry.nsid)
        return bool(self._qid) and namespace is not None and bool(getattr(getattr(namespace, "format", None), "ms", 0))

    # -- I/O commands ---------------------------------------------------------------------------------------

    def _io(self) -> int | None:
        """Judge an I/O command; the bytes that it moves, None where that makes no sense."""
        entry, ctrl = self._entry, self._ctrl
        if entry.opcode == NvmOpcode.FLUSH and entry.nsid == NSID_BROADCAST:
            return 0
        namespace = ctrl.namespaces.get(entry.nsid)
        if namespace is None:
            self._wrong("nsid-invalid", f"NSID {entry.nsid:#x}", nsid=entry.nsid)
            return None
        if entry.opcode in _BLOCKS:
            blocks = (entry.cdw12 & RW_NLB_MASK) + 1
            nbytes = blocks << namespace.lba_shift
            if entry.opcode in _RW:
                self._check_mdts(nbytes)
            elif entry.opcode == NvmOpcode.WRITE_ZEROES and 0 < ctrl.config.wzsl_bytes < nbytes:
                self._wrong("write-zeroes-limit", f"{nbytes} bytes, WZSL {ctrl.config.wzsl_bytes}", nbytes=nbytes)
            slba = join64(entry.cdw10, entry.cdw11)
            if slba + blocks > namespace.nsze:
                words = f"LBA {slba}+{blocks} of {namespace.nsze}"
                self._wrong("lba-range", words, slba=slba, nlb=blocks, nsze=namespace.nsze)
                return None
            return nbytes if entry.opcode in _RW else 0
        if entry.opcode == NvmOpcode.DATASET_MANAGEMENT:
            return self._dsm(namespace.nsze)
        return 0 if entry.opcode in _DATALESS_IO else None

    def _dsm(self, nsze: int) -> int:
        entry, limit = self._entry, self._ctrl.config.dmrl
        count = (entry.cdw10 & DSM_NR_MASK) + 1
        if limit and count > limit:
            self._wrong("dsm-limit", f"{count} ranges, DMRL {limit}", count=count, limit=limit)
        # Ranges in two pieces of memory are not looked at: one page is all that most drivers ever use.
        raw = look(self._ctrl.memory, entry.prp1, count * DSM_RANGE_SIZE)
        within = entry.prp1 % self._ctrl.page_size + count * DSM_RANGE_SIZE <= self._ctrl.page_size
        if raw is not None and within:
            for _, nlb, slba in DSM_RANGE.iter_unpack(raw):
                if slba + nlb > nsze:
                    self._wrong("dsm-range", f"LBA {slba}+{nlb} of {nsze}", slba=slba, nlb=nlb, nsze=nsze)
                    break
        return count * DSM_RANGE_SIZE

    def _check_mdts(self, nbytes: int) -> None:
        limit = self._ctrl.config.mdts_bytes
        if limit and nbytes > limit:
            self._wrong("mdts-exceeded", f"{nbytes} bytes, MDTS {limit}", nbytes=nbytes, limit=limit)

    # -- admin commands -------------------------------------------------------------------------------------

    def _admin(self) -> int | None:
        """Judge an admin command; the bytes that it moves, None where only its handler knows."""
        entry = self._entry
        if entry.opcode in _WITHOUT_NAMESPACE and entry.nsid:
            self._wrong("nsid-unused", f"NSID {entry.nsid:#x}", nsid=entry.nsid)
        if entry.opcode == AdminOpcode.IDENTIFY:
            return IDENTIFY_SIZE
        if entry.opcode == AdminOpcode.GET_LOG_PAGE:
            nbytes = log_page_length(entry.cdw10, entry.cdw11)
            self._check_mdts(nbytes)
            return nbytes
        if entry.opcode == AdminOpcode.SET_FEATURES:
            return self._set_features()
        if entry.opcode == AdminOpcode.GET_FEATURES:
            head = GET_FEATURES_CDW10.unpack(entry.cdw10)
            return 0 if head.sel == SEL_SUPPORTED else _feature_bytes(head.fid)
        if entry.opcode in _CREATES:
            self._create(entry.opcode == AdminOpcode.CREATE_IO_SQ)
        elif entry.opcode == AdminOpcode.DELETE_IO_CQ:
            self._delete("completion", self._ctrl.rings.cqs)
        elif entry.opcode == AdminOpcode.DELETE_IO_SQ:
            self._delete("submission", self._ctrl.rings.sqs)
        return None

    def _set_features(self) -> int | None:
        entry, ctrl = self._entry, self._ctrl
        head = SET_FEATURES_CDW10.unpack(entry.cdw10)
        feature = ctrl.features.offered(head.fid)
        if feature is None:
            return None
        name = _feature_name(head.fid)
        if head.fid == Fid.NUMBER_OF_QUEUES and (ctrl.rings.sqs.keys() | ctrl.rings.cqs.keys()) - {0}:
            self._wrong("number-of-queues-late", "I/O queues exist", cdw11=entry.cdw11)
        if head.sv and not ctrl.features.saveable(head.fid):
            self._wrong("feature-not-saveable", name, fid=head.fid)
        if not isinstance(feature, DataFeature) and entry.cdw11 & feature.layout.reserved_mask:
            reserved = entry.cdw11 & feature.layout.reserved_mask
            words = f"{name}: bits {reserved:#x} of {entry.cdw11:#x} are reserved"
            self._wrong("feature-reserved", words, fid=head.fid, value=entry.cdw11, reserved=reserved)
        return _feature_bytes(head.fid)

    def _create(self, is_sq: bool) -> None:
        entry, ctrl = self._entry, self._ctrl
        queue = CREATE_QUEUE_CDW10.unpack(entry.cdw10)
        how = (CREATE_SQ_CDW11 if is_sq else CREATE_CQ_CDW11).unpack(entry.cdw11)
        features, rings = ctrl.features, ctrl.rings
        granted = features.io_sqs_granted if is_sq else features.io_cqs_granted
        most = ctrl.registers.config.queue_entries_max
        if not is_sq and features.host_value(Fid.NUMBER_OF_QUEUES) is None and not rings.cqs.keys() - {0}:
            self._wrong("queues-unasked", f"queue {queue.qid}", queue=queue.qid)
        if not 1 <= queue.qid <= granted:
            self._wrong("queue-identifier", f"queue {queue.qid} of 1 to {granted}", queue=queue.qid, granted=granted)
        elif queue.qid in (rings.sqs if is_sq else rings.cqs):
            self._wrong("queue-exists", f"queue {queue.qid}", queue=queue.qid)
        entries = queue.qsize_z + 1
        if not QUEUE_ENTRIES_MIN <= entries <= most:
            self._wrong("queue-size", f"{entries} entries of 2 to {most}", queue=queue.qid, entries=entries, most=most)
        elif not how.pc:
            self._wrong("queue-contiguous", f"queue {queue.qid}", queue=queue.qid)
        else:
            self._queue_memory(queue.qid, entry.prp1, entries * (SQE_SIZE if is_sq else CQE_SIZE))
        if is_sq:
            if how.cqid not in rings.cqs or not how.cqid:
                self._wrong("sq-without-cq", f"CQID {how.cqid}", queue=queue.qid, cqid=how.cqid)
        elif how.ien and how.iv >= ctrl.config.vectors:
            words = f"vector {how.iv} of {ctrl.config.vectors}"
            self._wrong("cq-vector", words, queue=queue.qid, vector=how.iv, vectors=ctrl.config.vectors)

    def _queue_memory(self, qid: int, base: int, nbytes: int) -> None:
        memory, page = self._ctrl.memory, self._ctrl.page_size
        if base % page or owner(memory, base) is None or owner(memory, base + nbytes - 1) is None:
            why = f"is not on a page of {page} bytes" if base % page else "is outside host memory"
            self._wrong("queue-memory", f"queue {qid} at {base:#x}+{nbytes:#x} {why}", base=base, nbytes=nbytes)
            return
        for start, length in self._checker.queues.spans():
            if start < base + nbytes and base < start + length:
                words = f"queue {qid} at {base:#x}+{nbytes:#x} lies over the ring at {start:#x}+{length:#x}"
                self._wrong("queue-overlap", words, base=base, nbytes=nbytes, other=start)
                return

    def _delete(self, kind: str, there: Any) -> None:
        qid = DELETE_QUEUE_CDW10["qid"].extract(self._entry.cdw10)
        queue = there.get(qid) if qid else None
        if queue is None:
            self._wrong("queue-unknown", f"{kind} queue {qid}", queue=qid)
        elif kind == "completion" and queue.sqs:
            words = f"{queue.sqs} submission queue(s) still use completion queue {qid}"
            self._wrong("cq-deleted-first", words, queue=qid, sqs=queue.sqs)


def _feature_bytes(fid: int) -> int | None:
    """What a feature moves; None for one that this program does not know."""
    feature = FEATURES.get(fid)
    if feature is None:
        return None
    return feature.structure.size if isinstance(feature, DataFeature) else 0


def _feature_name(fid: int) -> str:
    try:
        return Fid(fid).words
    except ValueError:
        return f"feature {fid:02X}h"
