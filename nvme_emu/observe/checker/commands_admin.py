"""Admin commands: features, queues, and those that manage namespaces, firmware, formats and tests."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.feature_kinds import FEATURES, DataFeature
from nvme_emu.controller.firmware import READ_ONLY_SLOT, SLOTS
from nvme_emu.controller.namespace import LBA_FORMATS
from nvme_emu.observe.checker.memory import owner
from nvme_emu.spec.commands import (
    CREATE_CQ_CDW11,
    CREATE_QUEUE_CDW10,
    CREATE_SQ_CDW11,
    DELETE_QUEUE_CDW10,
    GET_FEATURES_CDW10,
    SEL_SUPPORTED,
    SET_FEATURES_CDW10,
    log_page_length,
)
from nvme_emu.spec.commands_admin import (
    ATTACH_CDW10,
    FORMAT_CDW10,
    FW_COMMIT_CDW10,
    NS_MANAGEMENT_CDW10,
    SANITIZE_CDW10,
    SELF_TEST_CDW10,
    CommitAction,
    SanitizeAction,
    SecureErase,
    SelfTestCode,
)
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import IDENTIFY_SIZE
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import CQE_SIZE, NSID_BROADCAST, QUEUE_ENTRIES_MIN, SQE_SIZE, Sqe

if TYPE_CHECKING:
    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.observe.checker.commands import Commands

__all__ = ["AdminRules"]

_OP = AdminOpcode
_WITHOUT_NAMESPACE: Final = frozenset({
    _OP.DELETE_IO_SQ, _OP.CREATE_IO_SQ, _OP.DELETE_IO_CQ, _OP.CREATE_IO_CQ, _OP.ABORT, _OP.ASYNC_EVENT_REQUEST,
    _OP.KEEP_ALIVE, _OP.FIRMWARE_COMMIT, _OP.FIRMWARE_IMAGE_DOWNLOAD, _OP.SANITIZE, _OP.DOORBELL_BUFFER_CONFIG,
})  # fmt: skip
_CREATES: Final = frozenset({_OP.CREATE_IO_SQ, _OP.CREATE_IO_CQ})
_CREATE, _DELETE = 0, 1
_SELECTS: Final = (0, 1)  # of Namespace Management and Attachment
_CONTROLLERS_MAX: Final = 2047
_BOOT_PARTITION: Final = (6, 7)  # Commit Actions of boot partitions


class AdminRules:
    """The rules of admin commands."""

    JUDGES_DATA: Final = frozenset({int(_OP.NAMESPACE_ATTACHMENT)})

    def __init__(self, commands: Commands, checker: Checker) -> None:
        self._commands = commands
        self._wrong = commands.wrong
        self._checker = checker
        self._ctrl = checker.controller
        self._rules: dict[int, Callable[[Sqe], int | None]] = {
            _OP.IDENTIFY: lambda entry: IDENTIFY_SIZE,
            _OP.GET_LOG_PAGE: self._get_log_page,
            _OP.SET_FEATURES: self._set_features,
            _OP.GET_FEATURES: _get_features,
            _OP.CREATE_IO_SQ: self._create,
            _OP.CREATE_IO_CQ: self._create,
            _OP.DELETE_IO_CQ: lambda entry: self._delete("completion", self._ctrl.rings.cqs),
            _OP.DELETE_IO_SQ: lambda entry: self._delete("submission", self._ctrl.rings.sqs),
            _OP.FORMAT_NVM: self._format,
            _OP.NAMESPACE_MANAGEMENT: self._manage,
            _OP.NAMESPACE_ATTACHMENT: self._attach,
            _OP.SANITIZE: self._sanitize,
            _OP.DEVICE_SELF_TEST: self._self_test,
            _OP.FIRMWARE_IMAGE_DOWNLOAD: self._download,
            _OP.FIRMWARE_COMMIT: self._commit,
        }

    def judge(self, entry: Sqe) -> int | None:
        """Judge an admin command; the bytes that it moves, None where only its handler knows."""
        if entry.opcode in _WITHOUT_NAMESPACE and entry.nsid:
            self._wrong("nsid-unused", f"NSID {entry.nsid:#x}", nsid=entry.nsid)
        rule = self._rules.get(entry.opcode)
        return None if rule is None else rule(entry)

    def judge_data(self, entry: Sqe, raw: bytes) -> None:
        """The controllers of Namespace Attachment: ascending, none twice (Base 2.1, 5.1.13.2)."""
        (count,) = struct.unpack_from("<H", raw)
        if not 0 < count <= _CONTROLLERS_MAX:
            self._wrong("controller-list", f"{count} controllers", count=count)
            return
        cntlids = struct.unpack_from(f"<{count}H", raw, 2)
        for one, other in itertools.pairwise(cntlids):
            if one >= other:
                self._wrong("controller-list", f"controller {other} behind {one}", cntlid=other, before=one)
                return

    # -- log pages and features -----------------------------------------------------------------------------

    def _get_log_page(self, entry: Sqe) -> int:
        nbytes = log_page_length(entry.cdw10, entry.cdw11)
        self._commands.check_mdts(nbytes)
        if entry.cdw12 & 3:
            self._wrong("log-offset", f"offset {entry.cdw12:#x} is not on a dword", offset=entry.cdw12)
        return nbytes

    def _set_features(self, entry: Sqe) -> int | None:
        ctrl = self._ctrl
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

    # -- queues ---------------------------------------------------------------------------------------------

    def _create(self, entry: Sqe) -> None:
        is_sq, ctrl = entry.opcode == _OP.CREATE_IO_SQ, self._ctrl
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
            if ctrl.config.contiguous_queues:
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
        qid = DELETE_QUEUE_CDW10["qid"].extract(self._commands.entry.cdw10)
        queue = there.get(qid) if qid else None
        if queue is None:
            self._wrong("queue-unknown", f"{kind} queue {qid}", queue=qid)
        elif kind == "completion" and queue.sqs:
            words = f"{queue.sqs} submission queue(s) still use completion queue {qid}"
            self._wrong("cq-deleted-first", words, queue=qid, sqs=queue.sqs)

    # -- namespaces -----------------------------------------------------------------------------------------

    def _check_idle(self, nsid: int, what: str) -> None:
        """What takes a namespace away, or its data, is no good while commands use it."""
        busy = self._checker.io_outstanding(None if nsid == NSID_BROADCAST else nsid)
        if busy:
            name = "all namespaces" if nsid == NSID_BROADCAST else f"namespace {nsid}"
            self._wrong("namespace-in-use", f"{what} {name} with {busy} I/O commands outstanding", commands=busy)

    def _check_allocated(self, nsid: int, broadcast: bool) -> bool:
        if nsid in self._ctrl.subsystem.namespaces or (broadcast and nsid == NSID_BROADCAST):
            return True
        self._wrong("nsid-invalid", f"NSID {nsid:#x}", nsid=nsid)
        return False

    def _format(self, entry: Sqe) -> int:
        how = FORMAT_CDW10.unpack(entry.cdw10)
        if how.ses not in set(SecureErase):
            self._wrong("reserved-value", f"SES is {how.ses}", value=how.ses)
        index = how.lbafu << 4 | how.lbafl
        if index >= len(LBA_FORMATS):
            words = f"LBA format {index} of {len(LBA_FORMATS)}"
            self._wrong("format-unsupported", words, format=index, formats=len(LBA_FORMATS))
        elif how.pi and not LBA_FORMATS[index].ms:
            words = f"protection information in LBA format {index}, which has no metadata"
            self._wrong("format-unsupported", words, format=index, pi=how.pi)
        if entry.nsid not in self._ctrl.namespaces and entry.nsid != NSID_BROADCAST:
            self._wrong("nsid-invalid", f"NSID {entry.nsid:#x}", nsid=entry.nsid)
        else:
            self._check_idle(entry.nsid, "formats")
        return 0

    def _manage(self, entry: Sqe) -> int | None:
        select = NS_MANAGEMENT_CDW10["sel"].extract(entry.cdw10)
        if select not in _SELECTS:
            self._wrong("reserved-value", f"SEL is {select}", value=select)
            return None
        if select == _DELETE:
            if self._check_allocated(entry.nsid, True):
                self._check_idle(entry.nsid, "deletes")
            return None
        if entry.nsid:
            self._wrong("nsid-unused", f"NSID {entry.nsid:#x} of a namespace to be created", nsid=entry.nsid)
        return IDENTIFY_SIZE

    def _attach(self, entry: Sqe) -> int | None:
        select = ATTACH_CDW10["sel"].extract(entry.cdw10)
        if select not in _SELECTS:
            self._wrong("reserved-value", f"SEL is {select}", value=select)
            return None
        if self._check_allocated(entry.nsid, False) and select:
            self._check_idle(entry.nsid, "detaches")
        return IDENTIFY_SIZE

    def _sanitize(self, entry: Sqe) -> int:
        how = SANITIZE_CDW10.unpack(entry.cdw10)
        if how.sanact not in set(SanitizeAction):
            self._wrong("reserved-value", f"SANACT is {how.sanact}", value=how.sanact)
        elif how.sanact in (SanitizeAction.BLOCK_ERASE, SanitizeAction.OVERWRITE, SanitizeAction.CRYPTO_ERASE):
            if self._ctrl.subsystem.sanitizer.running:
                self._wrong("operation-running", "another sanitize operation runs")
            self._check_idle(NSID_BROADCAST, "sanitizes")
        return 0

    # -- tests and firmware ---------------------------------------------------------------------------------

    def _self_test(self, entry: Sqe) -> int:
        code = SELF_TEST_CDW10["stc"].extract(entry.cdw10)
        if code not in set(SelfTestCode):
            self._wrong("reserved-value", f"STC is {code}", value=code)
        elif code != SelfTestCode.ABORT and self._ctrl.self_test.code:
            self._wrong("operation-running", "another self-test runs", code=code)
        if code != SelfTestCode.ABORT and entry.nsid not in (0, NSID_BROADCAST, *self._ctrl.namespaces):
            self._wrong("nsid-invalid", f"NSID {entry.nsid:#x}", nsid=entry.nsid)
        return 0

    def _download(self, entry: Sqe) -> int:
        nbytes = (entry.cdw10 + 1) * 4
        self._commands.check_mdts(nbytes)
        start = entry.cdw11 * 4
        for at, length in self._ctrl.subsystem.firmware.parts(self._ctrl.config.cntlid):
            if start < at + length and at < start + nbytes:
                words = f"bytes {start}+{nbytes} of an image, of which {at}+{length} were sent before"
                self._wrong("firmware-overlap", words, offset=start, nbytes=nbytes)
                break
        return nbytes

    def _commit(self, entry: Sqe) -> int:
        how = FW_COMMIT_CDW10.unpack(entry.cdw10)
        firmware, cntlid = self._ctrl.subsystem.firmware, self._ctrl.config.cntlid
        if how.ca not in {*CommitAction, *_BOOT_PARTITION}:
            self._wrong("reserved-value", f"CA is {how.ca}", value=how.ca)
            return 0
        stores = how.ca in (CommitAction.STORE, CommitAction.STORE_AND_ACTIVATE_AT_RESET)
        if how.fs > SLOTS:
            self._wrong("firmware-slot", f"slot {how.fs} of {SLOTS}", slot=how.fs, slots=SLOTS)
        elif stores and how.fs == READ_ONLY_SLOT:
            self._wrong("firmware-slot", f"slot {how.fs} is read-only", slot=how.fs)
        elif how.ca == CommitAction.ACTIVATE_AT_RESET and how.fs not in firmware.revisions:
            self._wrong("firmware-slot", f"slot {how.fs} is empty", slot=how.fs)
        if stores:
            reached = 0
            for at, length in firmware.parts(cntlid):
                if at != reached:
                    self._wrong("firmware-incomplete", f"nothing was sent for bytes {reached} to {at}", offset=reached)
                    break
                reached = at + length
            if not reached:
                self._wrong("firmware-incomplete", "no image was sent")
        return 0


def _get_features(entry: Sqe) -> int | None:
    head = GET_FEATURES_CDW10.unpack(entry.cdw10)
    return 0 if head.sel == SEL_SUPPORTED else _feature_bytes(head.fid)


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
