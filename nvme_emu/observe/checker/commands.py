"""What commands say: identifiers, reserved fields, and what depends on other commands that are outstanding.

    entry   submitted (it is visible to the device)   `submitted`   needs the other commands of its queue
            fetched                                   `judge`       what it says by itself
    data    there to be read                          `judge_data`  what it says in the host's data

The commands of each set have a file of their own (`commands_io`, `commands_admin`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.controller.zoned_commands import ZONED_HANDLERS
from nvme_emu.observe.checker.commands_admin import AdminRules
from nvme_emu.observe.checker.commands_io import IoRules
from nvme_emu.observe.checker.memory import look, transfer_of
from nvme_emu.spec.commands import ABORT_CDW10, command_layout
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode, opcode_name
from nvme_emu.spec.queues import PSDT_MASK, SQE_FLAGS_RESERVED, Sqe
from nvme_emu.spec.reservations import (
    RESERVATION_ACQUIRE_CDW10,
    RESERVATION_REGISTER_CDW10,
    RESERVATION_RELEASE_CDW10,
    RESERVATION_REPORT_CDW11,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.observe.checker.models import SqModel
    from nvme_emu.spec.bits import BitLayout

__all__ = ["Commands"]

_CDWS: Final = ("cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15")
_DWORD: Final = 0xFFFF_FFFF
_NO_COMMAND: Final = 0xFFFF
_DATA_OUT: Final = 1
# Commands whose transfer is known not to exist: their data pointer is reserved.
_DATALESS_ADMIN: Final = frozenset({
    AdminOpcode.DELETE_IO_SQ, AdminOpcode.DELETE_IO_CQ, AdminOpcode.ABORT, AdminOpcode.ASYNC_EVENT_REQUEST,
    AdminOpcode.KEEP_ALIVE, AdminOpcode.FORMAT_NVM, AdminOpcode.DEVICE_SELF_TEST, AdminOpcode.SANITIZE,
    AdminOpcode.FIRMWARE_COMMIT,
})  # fmt: skip
_DATALESS_IO: Final = frozenset({
    NvmOpcode.FLUSH, NvmOpcode.WRITE_ZEROES, NvmOpcode.VERIFY, NvmOpcode.WRITE_UNCORRECTABLE,
})  # fmt: skip
# Layouts of I/O commands; a dword that is one field as a whole is None.
_MORE: Final[dict[int, dict[str, BitLayout | None]]] = {
    NvmOpcode.RESERVATION_REGISTER: {"cdw10": RESERVATION_REGISTER_CDW10},
    NvmOpcode.RESERVATION_ACQUIRE: {"cdw10": RESERVATION_ACQUIRE_CDW10},
    NvmOpcode.RESERVATION_RELEASE: {"cdw10": RESERVATION_RELEASE_CDW10},
    NvmOpcode.RESERVATION_REPORT: {"cdw10": None, "cdw11": RESERVATION_REPORT_CDW11},
}


def _reserved_bits(opcode: int, admin: bool) -> tuple[int, ...] | None:
    """For each of CDW10 to CDW15 the bits that must be 0; None for an opcode whose dwords are not known."""
    masks = dict.fromkeys(range(10, 16), _DWORD)
    layout = command_layout(opcode, admin)
    dwords: Mapping[str, BitLayout | None]
    if not admin and opcode in _MORE:
        dwords = _MORE[opcode]
    elif layout is not None:
        dwords = layout.cdw
    else:
        return None
    for key, bits in dwords.items():
        first, _, last = key.removeprefix("cdw").partition("_")
        masks[int(first)] = 0 if bits is None else bits.reserved_mask & _DWORD
        if last and bits is not None:
            masks[int(last)] = bits.reserved_mask >> 32
    return tuple(masks.values())


class Commands:
    """Judges commands. Between `judge` and the next command `entry` and `qid` are those of the one judged."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ctrl = checker.controller
        self._reserved: dict[tuple[bool, int], tuple[int, ...] | None] = {}
        self.entry: Sqe
        self.qid = 0
        self._io = IoRules(self, checker)
        self._admin = AdminRules(self, checker)

    def forget(self) -> None:
        """A reset: what began before it is over."""
        self._io.forget()

    def wrong(self, rule: str, what: str, **values: int) -> None:
        """The command that is judged breaks a rule."""
        name = opcode_name(self.entry.opcode, not self.qid)
        self._checker.report(rule, f"{name}: {what}", qid=self.qid, cid=self.entry.cid, **values)

    # -- when they are submitted ----------------------------------------------------------------------------

    def submitted(self, qid: int, entry: Sqe, live: Mapping[int, Sqe]) -> None:
        """A command became visible; `live`, what is outstanding in its queue, has it already."""
        self.entry, self.qid = entry, qid
        if qid:
            return
        config = self._ctrl.config
        same = sum(1 for other in live.values() if other.opcode == entry.opcode)
        if entry.opcode == AdminOpcode.ASYNC_EVENT_REQUEST and same > config.aerl_z + 1:
            words = f"{same} Asynchronous Event Requests; AERL allows {config.aerl_z + 1}"
            self._checker.report("aer-limit", words, qid=0, cid=entry.cid, count=same, limit=config.aerl_z + 1)
        elif entry.opcode == AdminOpcode.ABORT:
            if same > config.acl_z + 1:
                words = f"{same} Aborts; ACL allows {config.acl_z + 1}"
                self._checker.report("abort-limit", words, qid=0, cid=entry.cid, count=same, limit=config.acl_z + 1)
            self._abort(entry)

    def _abort(self, entry: Sqe) -> None:
        which = ABORT_CDW10.unpack(entry.cdw10)
        own = not which.sqid and which.cid == entry.cid
        if own or not self._checker.may_abort(which.sqid, which.cid):
            words = f"Abort of q{which.sqid} cid {which.cid:#06x}, which is not outstanding"
            self._checker.report("abort-nothing", words, qid=0, cid=entry.cid, sqid=which.sqid, target=which.cid)

    # -- when they are fetched ------------------------------------------------------------------------------

    def fetched(self, model: SqModel, fields: Any) -> None:
        """The controller has taken an entry out of a ring."""
        entry = Sqe(*fields)
        psdt, qid = entry.flags & PSDT_MASK, model.sq.qid
        # Admin commands have no SGLs on PCI Express.
        if psdt and (not qid or not self._ctrl.config.sgls or psdt == PSDT_MASK):
            self.entry, self.qid = entry, qid
            self.wrong("sgl-unsupported", f"PSDT {entry.flags >> 6}", flags=entry.flags)
            return
        nbytes = self.judge(qid, entry)
        if nbytes is None:
            return
        self._checker.buffers.fetched(model.sq, entry, nbytes)
        if nbytes and entry.opcode & 3 == _DATA_OUT:
            self.judge_data(lambda: self._host_data(entry, nbytes))

    def _host_data(self, entry: Sqe, nbytes: int) -> bytes | None:
        """What the data pointer of a command describes; None where not all of it is there to be seen."""
        memory = self._ctrl.memory
        transfer = transfer_of(memory, entry, nbytes, self._ctrl.page_size, False)
        if transfer.blind or any(rule != "prp2-unused" for rule, *_ in transfer.problems):
            return None
        pieces = [look(memory, *span) for span in transfer.data]
        return None if None in pieces else b"".join(piece for piece in pieces if piece is not None)

    def judge(self, qid: int, entry: Sqe) -> int | None:
        """Judge what a command says; the bytes that it moves, None where that makes no sense or is not known."""
        self.entry, self.qid = entry, qid
        if entry.cid == _NO_COMMAND:
            self.wrong("cid-reserved", "cid 0xffff")
        if entry.flags & SQE_FLAGS_RESERVED:
            self.wrong("flags-reserved", f"flags {entry.flags:#04x}", flags=entry.flags)
        self._io.fuse(qid, entry)
        handlers: Any = self._io_handlers(entry) if qid else self._ctrl.admin_handlers
        if entry.opcode not in handlers:
            self.wrong("opcode-unsupported", opcode_name(entry.opcode, not qid), opcode=entry.opcode)
            return None
        self._check_reserved()
        return self._io.judge(entry) if qid else self._admin.judge(entry)

    def _io_handlers(self, entry: Sqe) -> Any:
        namespace = self._ctrl.namespaces.get(entry.nsid)
        return NVM_HANDLERS if namespace is None or namespace.zones is None else ZONED_HANDLERS

    def judge_data(self, data: Callable[[], bytes | None]) -> None:
        """Judge what the host sends along with the command that was judged last; `data` gives it, if it can."""
        rules: Any = self._io if self.qid else self._admin
        if self.entry.opcode in rules.JUDGES_DATA:
            raw = data()
            if raw is not None:
                rules.judge_data(self.entry, raw)

    def check_mdts(self, nbytes: int) -> None:
        """A transfer of the command that is judged."""
        limit = self._ctrl.config.mdts_bytes
        if limit and nbytes > limit:
            self.wrong("mdts-exceeded", f"{nbytes} bytes, MDTS {limit}", nbytes=nbytes, limit=limit)

    def _check_reserved(self) -> None:
        entry, key = self.entry, (not self.qid, self.entry.opcode)
        if key not in self._reserved:
            self._reserved[key] = _reserved_bits(entry.opcode, key[0])
        masks = self._reserved[key]
        if masks is None:
            return
        for name, mask, value in zip(_CDWS, masks, entry[9:], strict=True):
            if value & mask:
                words = f"{name.upper()} {value:#x}: bits {value & mask:#x} are reserved"
                self.wrong("reserved-field", words, value=value, reserved=mask)
                return
        for name in ("cdw2", "cdw3"):
            value = getattr(entry, name)
            if value and not self._has_metadata():
                self.wrong("reserved-field", f"{name.upper()} {value:#x} is reserved", value=value)
                return
        if entry.mptr and not self._has_metadata():
            self.wrong("reserved-field", f"MPTR {entry.mptr:#x}, but there is no metadata", value=entry.mptr)
        if entry.opcode in (_DATALESS_IO if self.qid else _DATALESS_ADMIN):
            what = self._checker.data_pointer(entry)
            if what:
                words = f"{what}, but the command moves no data"
                self.wrong("reserved-field", words, prp1=entry.prp1, prp2=entry.prp2)

    def _has_metadata(self) -> bool:
        namespace = self._ctrl.namespaces.get(self.entry.nsid)
        return bool(self.qid) and namespace is not None and bool(getattr(getattr(namespace, "format", None), "ms", 0))
