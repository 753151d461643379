"""The controller's side of DH-HMAC-CHAP on one queue (NVMe Base 2.1, 8.3.4.5).

    expects      NEGOTIATE ──► REPLY ──► (SUCCESS2) ──► nothing
    has to say   CHALLENGE     SUCCESS1

A message that comes when another is expected, or says what cannot be, makes it answer AUTH_Failure1, after which
the queue is closed. A host may authenticate again whenever it likes; until that fails the queue stays usable.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nvme_emu.core.dhchap import HASH_BYTES, DhPair, augment, ctrl_response, host_response
from nvme_emu.spec.dhchap import (
    AUTH_FAILURE,
    AUTH_NEGOTIATE,
    AUTH_PROTOCOL,
    CHALLENGE,
    DHCHAP_AUTHID,
    DHGROUP_IDS_AT,
    MESSAGE_HEAD,
    REPLY,
    SUCCESS1,
    AuthFailure,
    AuthMessage,
    AuthType,
    DhGroup,
)

if TYPE_CHECKING:
    from nvme_emu.core.dhchap import DhchapSecrets

__all__ = ["MESSAGE_MAX", "Authenticator", "DhchapPolicy"]

MESSAGE_MAX: Final = 4096
"""No message is longer: a Reply with the largest group has 1168 bytes."""
_FAILURE_REASON: Final = 1
_HEAD: Final = CHALLENGE.size


@dataclass(frozen=True, kw_only=True)
class DhchapPolicy:
    """Which hosts have to authenticate themselves: `hosts` by name, `others` every other one (None: it need not).

    `entropy(n)` gives n unpredictable bytes. `hashes` and `dhgroups` may be used; the host chooses among them.
    """

    entropy: Callable[[int], bytes]
    hosts: Mapping[str, DhchapSecrets]
    others: DhchapSecrets | None = None
    hashes: frozenset[int] = frozenset(HASH_BYTES)
    dhgroups: frozenset[int] = frozenset(DhGroup)

    def secrets_of(self, hostnqn: str) -> DhchapSecrets | None:
        """What this host has to prove."""
        return self.hosts.get(hostnqn, self.others)


class _Refusal(Exception):
    """The transaction fails, with this explanation."""

    def __init__(self, why: AuthFailure) -> None:
        super().__init__(why)
        self.why = why


class Authenticator:
    """One queue of the host `hostnqn`, which must know its secret to use the subsystem `subnqn`."""

    def __init__(self, policy: DhchapPolicy, secrets: DhchapSecrets, hostnqn: str, subnqn: str) -> None:
        self.done = False
        """Whether the host has proved who it is."""
        self.failed: str | None = None
        """Why the connection is to be closed, if so."""
        self._policy = policy
        self._secrets = secrets
        self._names = hostnqn, subnqn
        self._expected: AuthMessage | None = AuthMessage.NEGOTIATE
        self._answer: bytes | None = None
        self._t_id = self._hash_id = self._dhgroup = self._sc_c = self._seqnum = 0
        self._challenge = b""
        self._dh: DhPair | None = None

    # -- messages of the host -------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Authentication Send: take a message. What is wrong with it is told by the answer."""
        try:
            self._take(message)
        except _Refusal as refusal:
            self._fail(refusal.why)

    def _take(self, message: bytes) -> None:
        if len(message) < MESSAGE_HEAD.size:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        auth_type, auth_id, _, t_id = MESSAGE_HEAD.unpack_from(message)
        if (auth_type, auth_id) == (AuthType.COMMON, AuthMessage.NEGOTIATE):
            self._t_id = t_id
            self._negotiate(message)
            return
        if auth_id == AuthMessage.FAILURE2:
            self.failed = "the host has ended the authentication"
            return
        if auth_type != AuthType.DHCHAP or auth_id != self._expected:
            raise _Refusal(AuthFailure.INCORRECT_MESSAGE)
        if t_id != self._t_id:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        if auth_id == AuthMessage.REPLY:
            self._reply(message)
        else:
            self._expected, self.done = None, True

    def _negotiate(self, message: bytes) -> None:
        size, piece = AUTH_NEGOTIATE.size, AUTH_PROTOCOL.size
        if len(message) < size:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        said = AUTH_NEGOTIATE.parse(message[:size])
        if not said.napd or len(message) < size + said.napd * piece:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        if said.sc_c:
            raise _Refusal(AuthFailure.CONCAT_MISMATCH)
        starts = range(size, size + said.napd * piece, piece)
        offers = [AUTH_PROTOCOL.parse(message[at : at + piece]) for at in starts]
        offer = next((one for one in offers if one.authid == DHCHAP_AUTHID), None)
        if offer is None:
            raise _Refusal(AuthFailure.PROTOCOL_UNUSABLE)
        if offer.halen > DHGROUP_IDS_AT or offer.dhlen > DHGROUP_IDS_AT:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        # The host lists them in its order of preference.
        hashes, groups = offer.idlist[: offer.halen], offer.idlist[DHGROUP_IDS_AT:][: offer.dhlen]
        self._hash_id = _first(hashes, self._policy.hashes, AuthFailure.HASH_UNUSABLE)
        self._dhgroup = _first(groups, self._policy.dhgroups, AuthFailure.DHGROUP_UNUSABLE)
        self._sc_c = said.sc_c
        self._make_challenge()

    def _make_challenge(self) -> None:
        entropy = self._policy.entropy
        nbytes = HASH_BYTES[self._hash_id]
        self._challenge = entropy(nbytes)
        self._seqnum = int.from_bytes(entropy(4), "little") or 1
        self._dh = DhPair(self._dhgroup, entropy) if self._dhgroup != DhGroup.NULL else None
        public = b"" if self._dh is None else self._dh.public
        head = CHALLENGE.build(
            auth_type=AuthType.DHCHAP,
            auth_id=AuthMessage.CHALLENGE,
            t_id=self._t_id,
            hl=nbytes,
            hashid=self._hash_id,
            dhgid=self._dhgroup,
            dhvlen=len(public),
            seqnum=self._seqnum,
        )
        self._answer = head + self._challenge + public
        self._expected = AuthMessage.REPLY

    def _reply(self, message: bytes) -> None:
        nbytes = HASH_BYTES[self._hash_id]
        if len(message) < _HEAD:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        said = REPLY.parse(message[:_HEAD])
        wanted = 0 if self._dh is None else self._dh.nbytes
        if said.hl != nbytes or said.dhvlen != wanted or len(message) < _HEAD + 2 * nbytes + wanted:
            raise _Refusal(AuthFailure.INCORRECT_PAYLOAD)
        response, challenge = message[_HEAD:][:nbytes], message[_HEAD + nbytes :][:nbytes]
        shared = None
        if self._dh is not None:
            try:
                shared = self._dh.shared(message[_HEAD + 2 * nbytes :][:wanted])
            except ValueError:
                raise _Refusal(AuthFailure.INCORRECT_PAYLOAD) from None
        hostnqn, subnqn = self._names
        augmented = augment(self._hash_id, shared, self._challenge)
        key = self._secrets.host.tied_to(hostnqn)
        right = host_response(
            self._hash_id, key, augmented, self._seqnum, self._t_id, self._sc_c, hostnqn, subnqn
        )
        if not hmac.compare_digest(response, right):
            raise _Refusal(AuthFailure.FAILED)
        self._succeed(bool(said.cvalid), augment(self._hash_id, shared, challenge), said.seqnum)

    def _succeed(self, is_asked: bool, challenge: bytes, seqnum: int) -> None:
        """Say that the host is known, and who we are if it has asked."""
        hostnqn, subnqn = self._names
        own = b""
        if is_asked:
            if self._secrets.ctrl is None:
                raise _Refusal(AuthFailure.FAILED)
            key = self._secrets.ctrl.tied_to(subnqn)
            own = ctrl_response(self._hash_id, key, challenge, seqnum, self._t_id, hostnqn, subnqn)
        head = SUCCESS1.build(
            auth_type=AuthType.DHCHAP,
            auth_id=AuthMessage.SUCCESS1,
            t_id=self._t_id,
            hl=HASH_BYTES[self._hash_id],
            rvalid=int(is_asked),
        )
        self._answer = head + own
        self._expected = AuthMessage.SUCCESS2 if is_asked else None
        if not is_asked:
            self.done = True

    def _fail(self, why: AuthFailure) -> None:
        self._expected = None
        self._answer = AUTH_FAILURE.build(
            auth_type=AuthType.COMMON,
            auth_id=AuthMessage.FAILURE1,
            t_id=self._t_id,
            rescode=_FAILURE_REASON,
            rescode_exp=why,
        )

    # -- messages for the host ------------------------------------------------------------------------------

    def receive(self) -> bytes | None:
        """Authentication Receive: the next message; None when the host has to say something first."""
        answer, self._answer = self._answer, None
        if answer is not None and answer[1] == AuthMessage.FAILURE1:
            self.done = False
            self.failed = f"authentication of the host: {AuthFailure(answer[-1]).words}"
        return answer


def _first(offered: bytes, known: frozenset[int], why: AuthFailure) -> int:
    for one in offered:
        if one in known:
            return one
    raise _Refusal(why)
