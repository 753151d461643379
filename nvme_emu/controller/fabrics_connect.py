"""What a connection talks to: Connect first, then the queue that Connect has made (NVMe Base 2.1, 6.3 to 6.6).

    before Connect    only Connect; everything else is a Command Sequence Error
    authentication    where the host has to: only its commands, everything else is Authentication Required
    admin queue       Property Get and Set, Keep Alive, admin commands while CSTS.RDY is 1
    I/O queue         I/O commands, Disconnect
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.fabrics_auth import MESSAGE_MAX, Authenticator
from nvme_emu.controller.fabrics_queue import RingQueue
from nvme_emu.core.capsules import Answer, Transfer
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.dhchap import AUTH_RECEIVE, AUTH_SECP, AUTH_SEND, AUTHREQ_ATR
from nvme_emu.spec.fabrics import (
    CATTR,
    CNTLID_ANY,
    CONNECT,
    CONNECT_DATA,
    CONNECT_DATA_SIZE,
    CONNECT_SUCCESS,
    DISCONNECT,
    PROPERTY_GET,
    PROPERTY_SET,
    SGL,
    SGL_IN_CAPSULE,
    SGL_OFFSET,
    SGL_TRANSPORT,
    SQHD_NO_FLOW_CONTROL,
    invalid_parameter,
)
from nvme_emu.spec.opcodes import AdminOpcode, FabricsType
from nvme_emu.spec.queues import CQE, SQE, SQE_SIZE
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import DNR, FabricsStatus, Status

if TYPE_CHECKING:
    from nvme_emu.controller.fabrics import Association, FabricsTarget
    from nvme_emu.core.capsules import CapsuleSink
    from nvme_emu.core.faults import Effect
    from nvme_emu.spec.base import Fields

__all__ = ["PROPERTIES", "FabricsQueue"]

_FABRICS: Final = int(AdminOpcode.FABRICS)
_CONNECT_TAG: Final = 0xFFFF
_AUTH_TAG: Final = 0xFFFE
_SIZES: Final = {0: 4, 1: 8}
_NOTHING: Final[dict[int, Effect]] = {}

# The properties of a controller behind a fabric (Base 2.1, Figure 33): offset -> (bytes, may be written).
PROPERTIES: Final[dict[int, tuple[int, bool]]] = {
    Reg.CAP: (8, False),
    Reg.VS: (4, False),
    Reg.CC: (4, True),
    Reg.CSTS: (4, True),
    Reg.NSSR: (4, True),
    Reg.CRTO: (8, False),
}
_CRTO_BYTES: Final = 4


class FabricsQueue:
    """A `core.capsules.CapsuleQueue`; `address` is the one of ours that the host came to."""

    def __init__(self, target: FabricsTarget, sink: CapsuleSink, address: tuple[str, int]) -> None:
        self._target = target
        self._sink = sink
        self._address = address
        self._rings: RingQueue | None = None
        self._association: Association | None = None
        self._connect: bytes | None = None
        self._auth: Authenticator | None = None
        self._auth_pending = False
        self._early: list[Answer] = []
        self._closing = False
        self.in_capsule_bytes = 8192
        self.implied = False
        self.proved: tuple[str, str] | None = None

    @property
    def label(self) -> str:
        """See `CapsuleQueue.label`."""
        association, rings = self._association, self._rings
        if association is None or rings is None:
            return "not connected"
        kind = "discovery controller" if association.discovery else "controller"
        return f"{kind} {association.cntlid} queue {rings.qid} of {association.hostnqn}"

    @property
    def association(self) -> Association | None:
        """Whose queue it is; None before Connect."""
        return self._association

    @property
    def connected(self) -> bool:
        """See `CapsuleQueue.connected`."""
        return self._rings is not None and not self._is_barred

    @property
    def _is_barred(self) -> bool:
        """Whether the host has to authenticate itself first."""
        return self._auth is not None and not self._auth.done

    @property
    def spoiled(self) -> dict[int, Effect]:
        """See `CapsuleQueue.spoiled`."""
        return _NOTHING if self._rings is None else self._rings.spoiled

    @property
    def closing(self) -> bool:
        """See `CapsuleQueue.closing`."""
        return self._closing

    # -- commands in ----------------------------------------------------------------------------------------

    def accept(self, sqe: memoryview | bytes, in_capsule: int) -> Transfer | None:
        """See `CapsuleQueue.accept`."""
        rings = self._rings
        if rings is None:
            return self._accept_first(bytes(sqe), in_capsule)
        if sqe[0] == _FABRICS:
            return self._fabrics(rings, bytes(sqe), in_capsule)
        if self._is_barred:
            rings.count()
            rings.refuse(int.from_bytes(sqe[2:4], "little"), FabricsStatus.AUTH_REQUIRED)
            return None
        if not rings.qid:
            rings.synchronise()
            ctrl = rings.association.controller
            if not (ctrl.running or ctrl.registers.paused):
                rings.count()
                rings.refuse(int.from_bytes(sqe[2:4], "little"), Status.CMD_SEQ_ERROR)
                return None
        return rings.accept(sqe, in_capsule)

    def accept_run(self, buffer: memoryview, start: int, stride: int, count: int) -> list[Transfer]:
        """See `CapsuleQueue.accept_run`: plain reads first, the others one by one."""
        transfers = []
        end = start + stride * count
        while start < end:
            if self._rings is not None and self._rings.qid and not self._is_barred:
                start = self._rings.accept_reads(buffer, start, stride, end)
                if start == end:
                    break
            transfer = self.accept(buffer[start : start + SQE_SIZE], 0)
            if transfer is not None:
                transfers.append(transfer)
            start += stride
        return transfers

    def ready(self, transfer: Transfer) -> None:
        """See `CapsuleQueue.ready`."""
        if transfer.tag == _AUTH_TAG:
            self._auth_sent(transfer)
            return
        if transfer.tag != _CONNECT_TAG:
            if self._rings is not None:
                self._rings.ready(transfer)
            return
        sqe, self._connect = self._connect, None
        if sqe is None:
            return
        if transfer.failed:
            self._answer_early(transfer.cid, Status.TRANSIENT_TR_ERR)
            return
        try:
            self._do_connect(CONNECT.parse(sqe), CONNECT_DATA.parse(transfer.view))
        except _ConnectError as error:
            self._answer_early(transfer.cid, error.status, error.dw0)

    def run(self, now_ns: int) -> list[Answer]:
        """See `CapsuleQueue.run`."""
        self._target.now_ns = now_ns
        rings = self._rings
        if rings is None:
            early, self._early = self._early, []
            return early
        rings.association.seen_ns = now_ns
        return rings.run(now_ns, self.implied)

    def release(self) -> None:
        """See `CapsuleQueue.release`."""
        if self._rings is not None:
            self._rings.release()

    def violated(self, why: str, digest: bool) -> None:
        """See `CapsuleQueue.violated`: the connection ends, and that is enough."""

    def close(self, why: str) -> None:
        """See `CapsuleQueue.close`."""
        rings, self._rings = self._rings, None
        if rings is not None:
            rings.association.drop(rings, why)

    # -- before Connect -------------------------------------------------------------------------------------

    def _answer_early(self, cid: int, status: int, dw0: int = 0) -> None:
        self._early.append((cid, CQE.pack(dw0, 0, 0, 0, cid, status << 1), None))

    def _accept_first(self, sqe: bytes, in_capsule: int) -> Transfer | None:
        """Only Connect may come first, with its data."""
        opcode, _, cid, fctype, *_ = SQE.unpack(sqe)
        if opcode != _FABRICS or fctype & 0xFF != FabricsType.CONNECT or self._connect is not None:
            self._answer_early(cid, Status.CMD_SEQ_ERROR | DNR)
            return None
        sgl = sqe[SGL_OFFSET : SGL_OFFSET + SGL.size]
        wrong = _sgl_error(sgl, CONNECT_DATA_SIZE, in_capsule)
        if wrong:
            self._answer_early(cid, wrong | DNR)
            return None
        self._connect = sqe
        return _transfer(cid, _CONNECT_TAG, sgl)

    def _do_connect(self, connect: Fields, data: Fields) -> None:
        """Connect with its data. Raises _ConnectError."""
        if connect.recfmt:
            raise _ConnectError(FabricsStatus.CONNECT_FORMAT)
        subsystem = self._target.subsystem(data.subnqn)
        if subsystem is None:
            raise _wrong_data("subnqn")
        if not data.hostnqn:
            raise _wrong_data("hostnqn")
        if not subsystem.admits(data.hostnqn) or self.proved not in (None, (data.hostnqn, data.subnqn)):
            raise _ConnectError(FabricsStatus.CONNECT_INVALID_HOST)
        if connect.qid:
            association = self._find_association(connect, data)
        else:
            if data.cntlid != CNTLID_ANY:
                raise _wrong_data("cntlid")
            self._check_size(connect)
            made = self._target.associate(subsystem, data.hostnqn, data.hostid)
            if made is None:
                raise _ConnectError(FabricsStatus.CONNECT_CTRL_BUSY, dnr=False)
            association = made
            association.address = self._address
        self._make_queue(association, connect)

    def _check_size(self, connect: Fields) -> None:
        from nvme_emu.controller.fabrics import QUEUE_ENTRIES

        if not 1 <= connect.sqsize_z < QUEUE_ENTRIES:
            raise _wrong_field("sqsize_z")

    def _find_association(self, connect: Fields, data: Fields) -> Association:
        """The controller that an I/O queue is to belong to."""
        association = self._target.associations.get(data.cntlid)
        if association is None or association.discovery or association.subsystem.nqn != data.subnqn:
            raise _wrong_data("cntlid")
        if association.hostnqn != data.hostnqn:
            raise _wrong_data("hostnqn")
        if association.hostid != data.hostid:
            raise _wrong_data("hostid")
        ctrl = association.controller
        if not ctrl.running:
            raise _ConnectError(Status.CMD_SEQ_ERROR)
        if connect.qid > min(ctrl.features.io_sqs_granted, ctrl.features.io_cqs_granted):
            raise _wrong_field("qid")
        if connect.qid in association.queues:
            raise _ConnectError(Status.CMD_SEQ_ERROR)
        self._check_size(connect)
        return association

    def _make_queue(self, association: Association, connect: Fields) -> None:
        flow_control = not CATTR["dissqfc"].extract(connect.cattr)
        rings = RingQueue(association, self._sink, connect.qid, connect.sqsize_z + 1, flow_control)
        if connect.qid:
            try:
                rings.create()
            except CommandError as error:
                rings.free()
                raise _ConnectError(error.status) from error
        else:
            rings.program_admin()
            association.kato_ms = connect.kato
        association.queues[connect.qid] = rings
        association.seen_ns = self._target.now_ns
        self._rings, self._association = rings, association
        self.in_capsule_bytes = rings.in_capsule_bytes
        rings.count()
        policy = association.subsystem.dhchap
        secrets = None if policy is None else policy.secrets_of(association.hostnqn)
        if policy is not None and secrets is not None:
            self._auth = Authenticator(policy, secrets, association.hostnqn, association.subsystem.nqn)
        authreq = 0 if self._auth is None else AUTHREQ_ATR
        value = int.from_bytes(CONNECT_SUCCESS.pack(association.cntlid, authreq, 0), "little")
        rings.answer(connect.cid, 0, value, None if flow_control else SQHD_NO_FLOW_CONTROL)

    # -- Fabrics commands of a connected queue --------------------------------------------------------------

    def _fabrics(self, rings: RingQueue, sqe: bytes, in_capsule: int) -> Transfer | None:
        rings.count()
        # What came before it is executed before it.
        rings.ring(self._target.now_ns)
        fctype = sqe[4]
        cid = int.from_bytes(sqe[2:4], "little")
        if fctype == FabricsType.CONNECT:
            rings.refuse(cid, Status.CMD_SEQ_ERROR)
        elif self._auth is not None and fctype == FabricsType.AUTHENTICATION_SEND:
            return self._auth_send(rings, AUTH_SEND.parse(sqe), in_capsule)
        elif self._auth is not None and fctype == FabricsType.AUTHENTICATION_RECEIVE:
            self._auth_receive(rings, self._auth, AUTH_RECEIVE.parse(sqe))
        elif self._is_barred:
            rings.refuse(cid, FabricsStatus.AUTH_REQUIRED)
        elif fctype == FabricsType.PROPERTY_GET and not rings.qid:
            self._property_get(rings, PROPERTY_GET.parse(sqe))
        elif fctype == FabricsType.PROPERTY_SET and not rings.qid:
            self._property_set(rings, PROPERTY_SET.parse(sqe))
        elif fctype == FabricsType.DISCONNECT:
            self._disconnect(rings, DISCONNECT.parse(sqe))
        else:
            rings.refuse(cid, Status.INVALID_OPCODE)
        return None

    # -- authentication -------------------------------------------------------------------------------------

    def _auth_send(self, rings: RingQueue, command: Fields, in_capsule: int) -> Transfer | None:
        """Authentication Send: where its message is received."""
        wrong: int = _sgl_error(command.sgl1, command.tl, in_capsule)
        if _is_foreign(command) or not 0 < command.tl <= MESSAGE_MAX:
            wrong = Status.INVALID_FIELD
        elif self._auth_pending:
            wrong = Status.CMD_SEQ_ERROR
        if wrong:
            rings.refuse(command.cid, wrong)
            return None
        self._auth_pending = True
        return _transfer(command.cid, _AUTH_TAG, command.sgl1)

    def _auth_sent(self, transfer: Transfer) -> None:
        """The message has come."""
        self._auth_pending = False
        rings, auth = self._rings, self._auth
        if rings is None or auth is None:
            return
        if transfer.failed:
            rings.refuse(transfer.cid, Status.TRANSIENT_TR_ERR, dnr=False)
            return
        auth.send(bytes(transfer.view))
        rings.answer(transfer.cid)
        self._see_failure(auth)

    def _auth_receive(self, rings: RingQueue, auth: Authenticator, command: Fields) -> None:
        """Authentication Receive: what there is to say, as much as the host has room for."""
        _, length, kind = SGL.unpack(command.sgl1)
        if _is_foreign(command) or not command.al:
            rings.refuse(command.cid, Status.INVALID_FIELD)
        elif length < command.al:
            rings.refuse(command.cid, Status.SGL_INVALID_DATA)
        elif kind != SGL_TRANSPORT:
            rings.refuse(command.cid, Status.SGL_INVALID_TYPE)
        else:
            message = auth.receive()
            if message is None:
                rings.refuse(command.cid, Status.CMD_SEQ_ERROR)
            else:
                # The host's buffer is filled up with zeroes, as far as a message can reach.
                nbytes = min(command.al, MESSAGE_MAX)
                rings.answer(command.cid, data=memoryview(message.ljust(nbytes, b"\0")[:nbytes]))
            self._see_failure(auth)

    def _see_failure(self, auth: Authenticator) -> None:
        if auth.failed is not None:
            self._closing = True

    # -- properties and Disconnect --------------------------------------------------------------------------

    def _property_get(self, rings: RingQueue, command: Fields) -> None:
        nbytes = _SIZES.get(command.attrib & 7)
        known = PROPERTIES.get(command.ofst)
        if known is None or nbytes is None or (nbytes != known[0] and command.ofst != Reg.CRTO):
            rings.refuse(command.cid, Status.INVALID_FIELD)
            return
        size = _CRTO_BYTES if command.ofst == Reg.CRTO else nbytes
        rings.answer(command.cid, 0, rings.association.controller.mmio_read(command.ofst, size))

    def _property_set(self, rings: RingQueue, command: Fields) -> None:
        nbytes = _SIZES.get(command.attrib & 7)
        known = PROPERTIES.get(command.ofst)
        if known is None or nbytes != known[0] or not known[1]:
            rings.refuse(command.cid, Status.INVALID_FIELD)
            return
        rings.association.write_property(command.ofst, nbytes, command.value & ((1 << 8 * nbytes) - 1))
        rings.answer(command.cid)

    def _disconnect(self, rings: RingQueue, command: Fields) -> None:
        """The queue is gone when the answer has been sent; the host closes the connection, or we do."""
        if not rings.qid:
            rings.refuse(command.cid, FabricsStatus.DISCONNECT_INVALID_QTYPE)
        elif command.recfmt:
            rings.refuse(command.cid, FabricsStatus.CONNECT_FORMAT)
        else:
            rings.delete()
            rings.answer(command.cid)
            self._closing = True


class _ConnectError(Exception):
    """Connect fails with a status; `dw0` tells where the wrong parameter is."""

    def __init__(self, status: int, dw0: int = 0, *, dnr: bool = True) -> None:
        super().__init__(status)
        self.status = status | (DNR if dnr else 0)
        self.dw0 = dw0


def _sgl_error(sgl: bytes, wanted: int, in_capsule: int) -> int:
    """The status for an SGL that does not bring `wanted` bytes to us; 0 for one that does."""
    address, length, kind = SGL.unpack(sgl)
    if length != wanted:
        return Status.SGL_INVALID_DATA
    if kind not in (SGL_IN_CAPSULE, SGL_TRANSPORT):
        return Status.SGL_INVALID_TYPE
    if kind == SGL_IN_CAPSULE and (address or length > in_capsule):
        return Status.SGL_INVALID_OFFSET
    return 0


def _transfer(cid: int, tag: int, sgl: bytes) -> Transfer:
    """What is filled with the data of an SGL that is right."""
    _, length, kind = SGL.unpack(sgl)
    return Transfer(cid, tag, memoryview(bytearray(length)), kind == SGL_IN_CAPSULE)


def _is_foreign(command: Fields) -> bool:
    """Whether it is of another protocol than NVMe's own authentication."""
    return (command.secp, command.spsp0, command.spsp1) != (AUTH_SECP, 1, 1)


def _wrong_data(field: str) -> _ConnectError:
    return _ConnectError(
        FabricsStatus.CONNECT_INVALID_PARAM, invalid_parameter(CONNECT_DATA.offset_of(field), in_data=True)
    )


def _wrong_field(field: str) -> _ConnectError:
    return _ConnectError(
        FabricsStatus.CONNECT_INVALID_PARAM, invalid_parameter(CONNECT.offset_of(field), in_data=False)
    )
