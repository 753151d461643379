"""What a host sends on one connection, and in what order: Connect, capsules and their SGLs, Fabrics commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.fabrics import QUEUE_ENTRIES
from nvme_emu.controller.fabrics_connect import PROPERTIES
from nvme_emu.controller.pcie.lifecycle import State
from nvme_emu.spec.fabrics import (
    CATTR,
    CNTLID_ANY,
    CONNECT,
    CONNECT_DATA,
    DISCONNECT,
    DISCOVERY_NQN,
    PROPERTY_GET,
    PROPERTY_SET,
    SGL,
    SGL_IN_CAPSULE,
    SGL_OFFSET,
    SGL_TRANSPORT,
)
from nvme_emu.spec.features import Fid
from nvme_emu.spec.opcodes import AdminOpcode, FabricsType, opcode_name
from nvme_emu.spec.queues import PSDT_MASK, PSDT_SGL, SQE, Sqe
from nvme_emu.spec.registers import CC, CC_SHN_NONE, CSTS_RDY, Reg

if TYPE_CHECKING:
    from nvme_emu.core.capsules import Transfer
    from nvme_emu.observe.checker.fabrics import FabricsChecker, HostChecker
    from nvme_emu.spec.base import Fields

__all__ = ["CapsuleRules"]

_FABRICS: Final = int(AdminOpcode.FABRICS)
_DATA_OUT: Final = 1
_AUTHENTICATION: Final = (FabricsType.AUTHENTICATION_SEND, FabricsType.AUTHENTICATION_RECEIVE)
# Bytes of Fabrics commands that are reserved, without those of the SGL.
_RESERVED: Final[dict[int, tuple[tuple[int, int], ...]]] = {
    FabricsType.CONNECT: ((5, 24), (47, 48), (52, 64)),
    FabricsType.PROPERTY_SET: ((5, 24), (41, 44), (56, 64)),
    FabricsType.PROPERTY_GET: ((5, 24), (41, 44), (48, 64)),
    FabricsType.DISCONNECT: ((5, 24), (42, 64)),
}
_SIZES: Final = {0: 4, 1: 8}


class CapsuleRules:
    """Follows one connection, whose queue is `queue`."""

    def __init__(self, checker: FabricsChecker, queue: Any) -> None:
        self._checker = checker
        self._queue = queue
        self._connect: Fields | None = None
        self._live: dict[int, Sqe] = {}
        self._entries = 0

    @property
    def _host(self) -> HostChecker | None:
        """Who watches the controller that this queue belongs to."""
        association = self._queue.association
        host: HostChecker | None = None if association is None else association.controller.checker
        return host

    @property
    def _qid(self) -> int:
        return -1 if self._connect is None else int(self._connect.qid)

    def _wrong(self, rule: str, what: str, cid: int = -1, **values: int) -> None:
        host = self._host
        (self._checker if host is None else host).report(rule, what, qid=self._qid, cid=cid, **values)

    # -- commands -------------------------------------------------------------------------------------------

    def sent(self, raw: bytes, in_capsule: int) -> None:
        """A command has come, with `in_capsule` bytes of data behind it."""
        entry, host = Sqe(*SQE.unpack(raw)), self._host
        if host is None:
            self._first(entry, raw, in_capsule)
            return
        host.sent(self._qid, entry)
        if len(self._live) >= self._entries:
            words = f"{len(self._live) + 1} commands in a queue of {self._entries} entries"
            self._wrong("queue-full", words, entry.cid, entries=self._entries)
        if entry.cid in self._live:
            self._wrong("cid-reused", f"cid {entry.cid:#06x} is outstanding", entry.cid)
        self._live[entry.cid] = entry
        if entry.opcode == _FABRICS:
            self._fabrics(host, entry, raw)
        elif self._is_allowed(host, entry):
            host.commands.submitted(self._qid, entry, self._live)
            nbytes = host.commands.judge(self._qid, entry)
            self._check_sgl(entry, raw, in_capsule, nbytes)

    def _is_allowed(self, host: HostChecker, entry: Sqe) -> bool:
        """Whether it is the time for commands that are none of Fabrics."""
        registers, name = host.controller.registers, opcode_name(entry.opcode, not self._qid)
        if not self._queue.connected:
            self._wrong("authentication-first", name, entry.cid)
            return False
        if registers.state in (State.FAILED, State.START_FAILED):
            return True  # the host may not have seen CSTS.CFS
        cc = CC.unpack(registers.cc)
        if not cc.en or not registers.csts & CSTS_RDY:
            words = f"{name} while CC is {registers.cc:#x} and CSTS {registers.csts:#x}"
            self._wrong("command-not-ready", words, entry.cid, cc=registers.cc, csts=registers.csts)
            return False
        if cc.shn != CC_SHN_NONE:
            self._wrong("command-shut-down", f"{name}; CC.SHN is {cc.shn}", entry.cid, shn=cc.shn)
        elif not host.registers.ready_seen:
            self._wrong("ready-not-awaited", f"{name}; CSTS.RDY was not seen to be 1", entry.cid)
            host.registers.ready_seen = True  # once is enough
        return True

    def _check_sgl(self, entry: Sqe, raw: bytes, in_capsule: int, nbytes: int | None) -> None:
        if entry.flags & PSDT_MASK != PSDT_SGL:
            self._wrong("sgl-missing", f"PSDT is {entry.flags >> 6}", entry.cid, flags=entry.flags)
            return
        address, length, kind = SGL.unpack_from(raw, SGL_OFFSET)
        direction = (raw[4] if entry.opcode == _FABRICS else entry.opcode) & 3
        if not direction or not (length or nbytes):
            return
        name = opcode_name(entry.opcode, not self._qid)
        if kind == SGL_IN_CAPSULE and direction == _DATA_OUT:
            if address + length > in_capsule:
                words = f"{name}: {length} bytes at offset {address} of a capsule with {in_capsule}"
                self._wrong("capsule-offset", words, entry.cid, offset=address, length=length, there=in_capsule)
        elif kind != SGL_TRANSPORT:
            words = f"{name}: descriptor {kind:#04x}" + (" for data to the host" if kind == SGL_IN_CAPSULE else "")
            self._wrong("sgl-type", words, entry.cid, type=kind)
        if nbytes is not None and length < nbytes:
            self._wrong("sgl-length", f"{name}: {length} bytes of {nbytes}", entry.cid, length=length, moved=nbytes)

    def data_came(self, transfer: Transfer) -> None:
        """The data of a command is complete."""
        if transfer.failed:
            self._wrong("pdu-digest", f"{len(transfer.view)} bytes", transfer.cid, nbytes=len(transfer.view))
            return
        host = self._host
        if host is None:
            if self._connect is not None:
                self._connecting(self._connect, CONNECT_DATA.parse(transfer.view))
            return
        entry = self._live.get(transfer.cid)
        if entry is not None and entry.opcode != _FABRICS:
            host.commands.entry, host.commands.qid = entry, self._qid
            host.commands.judge_data(lambda: bytes(transfer.view))

    def answered(self, cid: int, cqe: bytes) -> None:
        """A command has ended: its completion goes to the host."""
        self._live.pop(cid, None)
        host = self._host
        if host is not None and self._connect is not None and self._qid not in host.live and not self._entries:
            self._entries = self._connect.sqsize_z + 1
            host.live[self._qid] = self._live

    # -- Connect --------------------------------------------------------------------------------------------

    def _first(self, entry: Sqe, raw: bytes, in_capsule: int) -> None:
        if entry.opcode != _FABRICS or raw[4] != FabricsType.CONNECT or self._connect is not None:
            name = f"Fabrics command {raw[4]:#04x}" if entry.opcode == _FABRICS else f"opcode {entry.opcode:#04x}"
            self._wrong("connect-first", name, entry.cid, opcode=entry.opcode)
            return
        self._connect = CONNECT.parse(raw)
        self._check_reserved(raw, entry.cid)
        if CATTR["rsvd4"].extract(self._connect.cattr):
            self._wrong("reserved-field", f"Connect: CATTR {self._connect.cattr:#x}", entry.cid)
        self._check_sgl(entry, raw, in_capsule, CONNECT_DATA.size)

    def _connecting(self, connect: Fields, data: Fields) -> None:
        """Connect with its data, before the target answers it."""

        def wrong(what: str, **values: int) -> None:
            self._wrong("connect-parameter", f"Connect: {what}", connect.cid, **values)

        if connect.recfmt:
            wrong(f"record format {connect.recfmt}", recfmt=connect.recfmt)
        if not 1 <= connect.sqsize_z < QUEUE_ENTRIES:
            words = f"a queue of {connect.sqsize_z + 1} entries; CAP.MQES allows 2 to {QUEUE_ENTRIES}"
            wrong(words, entries=connect.sqsize_z + 1, most=QUEUE_ENTRIES)
        if not connect.qid:
            if data.cntlid != CNTLID_ANY:
                wrong(f"controller {data.cntlid} of the dynamic controller model", cntlid=data.cntlid)
            if not connect.kato and data.subnqn != DISCOVERY_NQN:
                self._wrong("keep-alive-off", "Connect: KATO is 0", connect.cid)
            return
        association = self._checker.target.associations.get(data.cntlid)
        if association is None or association.subsystem.nqn != data.subnqn:
            wrong(f"controller {data.cntlid}, which is not there", cntlid=data.cntlid)
        elif association.discovery:
            wrong("an I/O queue of a discovery controller", cntlid=data.cntlid)
        elif (association.hostnqn, association.hostid) != (data.hostnqn, data.hostid):
            wrong(f"controller {data.cntlid}, which is another host's", cntlid=data.cntlid)
        else:
            self._connecting_io(association.controller, connect)

    def _connecting_io(self, ctrl: Any, connect: Fields) -> None:
        host: HostChecker = ctrl.checker
        qid, registers = int(connect.qid), ctrl.registers
        if not ctrl.running or not host.registers.ready_seen:
            words = f"CC is {registers.cc:#x}, CSTS {registers.csts:#x}"
            host.report("connect-not-ready", words, qid=qid, cid=connect.cid, cc=registers.cc, csts=registers.csts)
            return
        granted = min(ctrl.features.io_sqs_granted, ctrl.features.io_cqs_granted)
        if qid > granted:
            words = f"Connect: queue {qid} of 1 to {granted}"
            host.report("connect-parameter", words, qid=qid, cid=connect.cid, granted=granted)
        elif qid in host.association.queues:
            host.report("connect-parameter", f"Connect: queue {qid} is connected", qid=qid, cid=connect.cid)
        elif ctrl.features.host_value(Fid.NUMBER_OF_QUEUES) is None and len(host.association.queues) == 1:
            host.report("queues-unasked", f"queue {qid}", qid=qid, cid=connect.cid, queue=qid)

    # -- Fabrics commands -----------------------------------------------------------------------------------

    def _fabrics(self, host: HostChecker, entry: Sqe, raw: bytes) -> None:
        kind = raw[4]
        if kind == FabricsType.CONNECT:
            self._wrong("connect-twice", f"Connect on queue {self._qid}", entry.cid)
            return
        if kind in _AUTHENTICATION:
            return
        if not self._queue.connected:
            self._wrong("authentication-first", f"Fabrics command {kind:#04x}", entry.cid)
        elif kind not in _RESERVED:
            self._wrong("opcode-unsupported", f"Fabrics command {kind:#04x}", entry.cid, opcode=kind)
        elif (kind == FabricsType.DISCONNECT) is (self._qid == 0):
            self._wrong("fabrics-queue", f"Fabrics command {kind:#04x} on queue {self._qid}", entry.cid, type=kind)
        else:
            self._check_reserved(raw, entry.cid)
            if kind == FabricsType.PROPERTY_GET:
                self._property(PROPERTY_GET.parse(raw), False)
            elif kind == FabricsType.PROPERTY_SET:
                self._property(PROPERTY_SET.parse(raw), True)
            elif DISCONNECT.parse(raw).recfmt:
                self._wrong("reserved-value", "Disconnect: the record format is not 0", entry.cid)

    def _property(self, command: Fields, write: bool) -> None:
        name = "Property Set" if write else "Property Get"
        known, nbytes = PROPERTIES.get(command.ofst), _SIZES.get(command.attrib & 7)
        if command.attrib >> 3:
            self._wrong("reserved-field", f"{name}: ATTRIB {command.attrib:#x}", command.cid, attrib=command.attrib)
        if known is None:
            self._wrong("property-unknown", f"{name} at {command.ofst:#x}", command.cid, offset=command.ofst)
        elif nbytes is None or (nbytes != known[0] and command.ofst != Reg.CRTO):
            words = f"{name} at {command.ofst:#x}: {nbytes or 'a reserved number of'} bytes of {known[0]}"
            self._wrong("property-unknown", words, command.cid, offset=command.ofst, attrib=command.attrib)
        elif write and not known[1]:
            self._wrong("property-unknown", f"{name} at {command.ofst:#x}: read-only", command.cid, offset=command.ofst)

    def _check_reserved(self, raw: bytes, cid: int) -> None:
        for first, end in _RESERVED[raw[4]]:
            if any(raw[first:end]):
                at = next(at for at in range(first, end) if raw[at])
                words = f"Fabrics command {raw[4]:#04x}: byte {at} is {raw[at]:#04x}"
                self._wrong("reserved-field", words, cid, byte=at, value=raw[at])
                return

    # -- ends -----------------------------------------------------------------------------------------------

    def violated(self, why: str, digest: bool) -> None:
        """The transport has to end the connection for what came."""
        self._wrong("pdu-digest" if digest else "pdu-invalid", why)

    def terminated(self) -> None:
        """The controller ends the connection: perhaps because nothing was heard."""
        host = self._host
        if host is None or self._qid:
            return
        association, now_ns = host.association, self._checker.target.now_ns
        keep_alive_ns = association.keep_alive_ns
        if keep_alive_ns and now_ns - association.seen_ns >= keep_alive_ns:
            silent_ms = (now_ns - association.seen_ns) // 1_000_000
            words = f"nothing heard for {silent_ms} ms; the timeout is {keep_alive_ns // 1_000_000} ms"
            self._wrong("keep-alive-late", words, silent_ms=silent_ms)

    def closed(self, ours: bool) -> None:
        """The connection is gone. `ours`: not because the host closed it."""
        host = self._host
        if host is None:
            return
        host.live.pop(self._qid, None)
        if not self._qid and not host.association.ended:
            host.host_is_there = ours
            host.host_left()
