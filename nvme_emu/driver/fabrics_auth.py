"""The host's side of DH-HMAC-CHAP, once for each queue (NVMe Base 2.1, 8.3.4.5; Linux: drivers/nvme/host/auth.c)."""

from __future__ import annotations

import errno
import hmac
import secrets
from typing import TYPE_CHECKING, Final, NoReturn

from nvme_emu.core.dhchap import HASH_BYTES, DhPair, Secret, augment, ctrl_response, host_response
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.errno_table import error_of
from nvme_emu.driver.request import Request
from nvme_emu.spec.commands import join64
from nvme_emu.spec.dhchap import (
    AUTH_FAILURE,
    AUTH_NEGOTIATE,
    AUTH_PROTOCOL,
    AUTH_SECP,
    AUTHREQ_ATR,
    CHALLENGE,
    DHCHAP_AUTHID,
    DHGROUP_IDS_AT,
    MESSAGE_HEAD,
    REPLY,
    SUCCESS1,
    SUCCESS2,
    AuthFailure,
    AuthMessage,
    AuthType,
    DhGroup,
    DhHash,
)
from nvme_emu.spec.opcodes import AdminOpcode, FabricsType
from nvme_emu.spec.status import words_of

if TYPE_CHECKING:
    from nvme_emu.driver.fabrics import FabricsHost
    from nvme_emu.driver.fabrics_path import FabricsSyncPath
    from nvme_emu.spec.base import Fields

__all__ = ["authenticate"]

_FABRICS: Final = int(AdminOpcode.FABRICS)
_PROTOCOL: Final = 1 << 8 | 1 << 16 | AUTH_SECP << 24
_BUFFER_BYTES: Final = 4096
_FAILURE_REASON: Final = 1
# Linux offers all of them, the fastest first.
_HASHES: Final = (DhHash.SHA256, DhHash.SHA384, DhHash.SHA512)
_GROUPS: Final = tuple(DhGroup)


def authenticate(path: FabricsSyncPath, host: FabricsHost, nqn: str, authreq: int) -> None:
    """Prove on this queue who we are, where the target asks for it. NvmeError (EACCES) when one side cannot."""
    if not authreq & AUTHREQ_ATR:
        if host.dhchap_ctrl_secret is not None:
            raise _denied(f"{nqn} does not authenticate, and dhchap_ctrl_secret says that it must")
        return
    if host.dhchap_secret is None:
        raise _denied(f"{nqn} asks for authentication, and there is no dhchap_secret")
    _Transaction(path, host, nqn, Secret.parse(host.dhchap_secret)).run()


def _denied(why: str) -> NvmeError:
    return NvmeError(errno.EACCES, f"authentication: {why}")


class _Transaction:
    """One run of the protocol on one queue."""

    def __init__(self, path: FabricsSyncPath, host: FabricsHost, nqn: str, secret: Secret) -> None:
        self._path = path
        self._host = host
        self._nqn = nqn
        self._secret = secret
        ctrl = host.dhchap_ctrl_secret
        self._ctrl = None if ctrl is None else Secret.parse(ctrl)
        self._t_id = secrets.randbits(16)
        self._challenge = b""
        self._seqnum = 0
        self._shared: bytes | None = None

    def run(self) -> None:
        """Negotiate, answer the challenge, and check the controller's answer to ours."""
        self._send(self._negotiate())
        message = self._receive(AuthMessage.CHALLENGE)
        challenge = CHALLENGE.parse(message[: CHALLENGE.size])
        self._send(self._reply(challenge, message[CHALLENGE.size :]))
        message = self._receive(AuthMessage.SUCCESS1)
        if self._ctrl is not None:
            self._check(challenge.hashid, message)
            self._send(SUCCESS2.build(auth_type=AuthType.DHCHAP, auth_id=AuthMessage.SUCCESS2, t_id=self._t_id))

    def _negotiate(self) -> bytes:
        ids = bytearray(60)
        ids[: len(_HASHES)] = bytes(_HASHES)
        ids[DHGROUP_IDS_AT : DHGROUP_IDS_AT + len(_GROUPS)] = bytes(_GROUPS)
        head = AUTH_NEGOTIATE.build(
            auth_type=AuthType.COMMON, auth_id=AuthMessage.NEGOTIATE, t_id=self._t_id, napd=1
        )
        return head + AUTH_PROTOCOL.build(
            authid=DHCHAP_AUTHID, halen=len(_HASHES), dhlen=len(_GROUPS), idlist=bytes(ids)
        )

    def _reply(self, challenge: Fields, values: bytes) -> bytes:
        hash_id, nbytes = challenge.hashid, HASH_BYTES.get(challenge.hashid, 0)
        if not nbytes or challenge.hl != nbytes or challenge.dhgid not in _GROUPS:
            self._give_up(AuthFailure.INCORRECT_PAYLOAD, "the challenge has a hash or group that was not offered")
        theirs, public = values[:nbytes], values[nbytes:][: challenge.dhvlen]
        own = b""
        if challenge.dhgid != DhGroup.NULL:
            pair = DhPair(challenge.dhgid, secrets.token_bytes)
            own = pair.public
            try:
                self._shared = pair.shared(public)
            except ValueError as error:
                self._give_up(AuthFailure.INCORRECT_PAYLOAD, str(error))
        response = host_response(
            hash_id,
            self._secret.tied_to(self._host.nqn),
            augment(hash_id, self._shared, theirs),
            challenge.seqnum,
            self._t_id,
            0,
            self._host.nqn,
            self._nqn,
        )
        if self._ctrl is not None:
            self._challenge, self._seqnum = secrets.token_bytes(nbytes), secrets.randbits(32) or 1
        head = REPLY.build(
            auth_type=AuthType.DHCHAP,
            auth_id=AuthMessage.REPLY,
            t_id=self._t_id,
            hl=nbytes,
            cvalid=int(self._ctrl is not None),
            dhvlen=len(own),
            seqnum=self._seqnum,
        )
        return head + response + (self._challenge or bytes(nbytes)) + own

    def _check(self, hash_id: int, message: bytes) -> None:
        """The controller's response to our challenge."""
        assert self._ctrl is not None
        said = SUCCESS1.parse(message[: SUCCESS1.size])
        right = ctrl_response(
            hash_id,
            self._ctrl.tied_to(self._nqn),
            augment(hash_id, self._shared, self._challenge),
            self._seqnum,
            self._t_id,
            self._host.nqn,
            self._nqn,
        )
        response = message[SUCCESS1.size :][: len(right)]
        if not said.rvalid or said.hl != len(right) or not hmac.compare_digest(response, right):
            self._give_up(AuthFailure.FAILED, f"{self._nqn} does not know its secret")

    def _give_up(self, why: AuthFailure, words: str) -> NoReturn:
        """Tell the controller, and raise."""
        self._send(
            AUTH_FAILURE.build(
                auth_type=AuthType.COMMON,
                auth_id=AuthMessage.FAILURE2,
                t_id=self._t_id,
                rescode=_FAILURE_REASON,
                rescode_exp=why,
            )
        )
        raise _denied(words)

    # -- messages as commands -------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        self._execute(FabricsType.AUTHENTICATION_SEND, memoryview(message), True)

    def _receive(self, expected: AuthMessage) -> bytes:
        data = memoryview(bytearray(_BUFFER_BYTES))
        self._execute(FabricsType.AUTHENTICATION_RECEIVE, data, False)
        message = bytes(data)
        _, auth_id, _, t_id = MESSAGE_HEAD.unpack_from(message)
        if auth_id == AuthMessage.FAILURE1:
            why = AuthFailure.name_of(message[AUTH_FAILURE.size - 1]) or "no reason that is known"
            raise _denied(f"{self._nqn} refuses {self._host.nqn}: {why}")
        if auth_id != expected or t_id != self._t_id:
            self._give_up(AuthFailure.INCORRECT_MESSAGE, f"message {auth_id:02x}h where {expected.words} belongs")
        return message

    def _execute(self, fctype: FabricsType, data: memoryview, to_device: bool) -> None:
        rq = Request(_FABRICS, fctype, join64(_PROTOCOL, len(data)), 0, 0, data, to_device)
        rq.admin = True
        self._path.submit(rq)
        if rq._status:
            words = words_of(rq._status, fabrics=True)
            raise NvmeError(
                error_of(rq._status, "").errno or errno.EIO, f"{fctype.words}: {words}", status=rq._status
            )
