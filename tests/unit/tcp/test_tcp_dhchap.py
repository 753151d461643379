"""DH-HMAC-CHAP: our host against our target over a socket, and the target against hosts that cheat."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from tcphelpers import Served
from tcphost import HOST, NQN, TRANSPORT, Wire, io, make_target, property_get, sqe

import nvme_emu
from nvme_emu.controller.fabrics import FabricsTarget
from nvme_emu.controller.fabrics_auth import DhchapPolicy
from nvme_emu.core.dhchap import DhchapSecrets, DhPair, Secret, augment, ctrl_response, host_response, prime
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.spec.dhchap import (
    AUTH_FAILURE,
    AUTH_NEGOTIATE,
    AUTH_PROTOCOL,
    CHALLENGE,
    REPLY,
    AuthFailure,
    DhGroup,
    DhHash,
)
from nvme_emu.spec.status import FabricsStatus, Status

KEY, CTRL_KEY = Secret(bytes(range(32))), Secret(bytes(range(64, 128)), DhHash.SHA512)
OTHER = Secret(bytes(32))


def policy(**options: Any) -> DhchapPolicy:
    return DhchapPolicy(**({"entropy": os.urandom, "hosts": {}, "others": DhchapSecrets(KEY, CTRL_KEY)} | options))


def host(secret: Secret | None = KEY, ctrl: Secret | None = None) -> FabricsHost:
    return FabricsHost(
        nqn=HOST,
        identifier=bytes(16),
        dhchap_secret=None if secret is None else str(secret),
        dhchap_ctrl_secret=None if ctrl is None else str(ctrl),
    )


# --- secrets and groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [KEY, CTRL_KEY, Secret(bytes(48), DhHash.SHA384), Secret(bytes(64))])
def test_secret_is_read_as_it_is_written(secret: Secret) -> None:
    assert Secret.parse(str(secret)) == secret
    assert str(secret.key) not in repr(secret)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret", "DHHC-1"),
        ("DHHC-1:04:AAAA:", "hash '04'"),
        ("DHHC-1:00:!!!!:", "base64"),
        ("DHHC-1:00:AAAA:", "32, 48 or 64"),
        (str(KEY)[:12] + "B" + str(KEY)[13:], "CRC"),
        (str(KEY).replace(":00:", ":03:"), "does not go with"),
        (str(KEY)[:-1], "DHHC-1"),
    ],
)
def test_secret_that_is_none_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Secret.parse(text)


def test_primes_are_those_of_rfc_7919() -> None:
    assert prime(DhGroup.FFDHE2048).bit_length() == 2048
    assert hex(prime(DhGroup.FFDHE2048)).endswith("886b423861285c97ffffffffffffffff")
    assert hex(prime(DhGroup.FFDHE8192)).endswith("d68c8bb7c5c6424cffffffffffffffff")
    for group in (DhGroup.FFDHE2048, DhGroup.FFDHE3072):
        p = prime(group)
        # A safe prime, of which 2 generates the subgroup of squares (Fermat's test suffices for a constant).
        assert pow(3, p - 1, p) == 1
        assert pow(2, (p - 1) // 2, p) == 1


@pytest.mark.parametrize("value", [0, 1, -2, -1])
def test_public_value_that_gives_the_secret_away_is_refused(value: int) -> None:
    pair = DhPair(DhGroup.FFDHE2048, os.urandom)
    p = prime(DhGroup.FFDHE2048)
    with pytest.raises(ValueError, match="public value"):
        pair.shared((value % p if value >= 0 else p + 1 + value).to_bytes(256, "big"))


# --- our host, our target ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ctrl", [None, CTRL_KEY], ids=["host only", "both"])
@pytest.mark.parametrize("groups", [{DhGroup.NULL}, {DhGroup.FFDHE2048}], ids=["null", "ffdhe2048"])
def test_host_with_the_secret_reads_and_writes(
    serve: Callable[..., Served], ctrl: Secret | None, groups: set[DhGroup]
) -> None:
    served = serve(make_target(size=8 << 20, dhchap=policy(dhgroups=frozenset(groups))))
    with nvme_emu.open(served.url, identity=host(KEY, ctrl), queues=2, mode="async") as ssd:
        ssd.namespaces[1].write(0, b"\x5a" * 4096)
        assert bytes(ssd.namespaces[1].read(0, 8)) == b"\x5a" * 4096


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (host(None), "no dhchap_secret"),
        (host(OTHER), "authentication failed"),
        (host(KEY, OTHER), "does not know its secret"),
    ],
)
def test_host_or_target_without_the_secret_is_refused(
    serve: Callable[..., Served], identity: FabricsHost, words: str
) -> None:
    served = serve(make_target(size=8 << 20, dhchap=policy()))
    with pytest.raises(NvmeError, match=words) as caught:
        nvme_emu.open(served.url, identity=identity)
    assert caught.value.errno == errno.EACCES


def test_only_the_named_host_has_to_authenticate(serve: Callable[..., Served]) -> None:
    named = policy(hosts={HOST: DhchapSecrets(KEY)}, others=None)
    served = serve(make_target(size=8 << 20, dhchap=named))
    with nvme_emu.open(served.url):
        pass
    with pytest.raises(NvmeError, match="no dhchap_secret"):
        nvme_emu.open(served.url, identity=host(None))
    with nvme_emu.open(served.url, identity=host(KEY)):
        pass


def test_target_that_does_not_authenticate_is_refused_by_a_host_that_wants_it(serve: Callable[..., Served]) -> None:
    served = serve()
    with pytest.raises(NvmeError, match="says that it must"):
        nvme_emu.open(served.url, identity=host(KEY, CTRL_KEY))


def test_host_secret_that_is_none_is_refused_when_it_is_given() -> None:
    with pytest.raises(ValueError, match="DHHC-1"):
        FabricsHost(dhchap_secret="hunter2")
    with pytest.raises(ValueError, match="needs dhchap_secret"):
        FabricsHost(dhchap_ctrl_secret=str(KEY))
    assert str(KEY) not in repr(host(KEY))


# --- hosts that cheat ----------------------------------------------------------------------------------------


class Cheat(Wire):
    """A connected admin queue whose host speaks the protocol by hand."""

    def __init__(self, target: FabricsTarget | None = None) -> None:
        super().__init__(target or make_target(dhchap=policy(dhgroups=frozenset({DhGroup.NULL}))))
        self.start()
        answer = self.connect(0)
        assert answer.status == 0
        assert answer.value >> 17 & 1, "ATR"

    def auth_send(self, message: bytes, **wrong: int) -> int:
        """The status of Authentication Send with the message in the capsule."""
        (answer,) = self.command(auth(5, len(message), kind=1, **wrong), message)
        return answer.status

    def auth_receive(self, length: int = 4096, **wrong: int) -> tuple[int, bytes]:
        """(status, message)."""
        answers = self.command(auth(6, length, **wrong))
        return answers[-1].status, b"".join(pdu.data for pdu in answers[:-1])

    def fails(self) -> int:
        """The explanation of the failure that the controller reports; it must close the connection then."""
        status, message = self.auth_receive()
        assert status == 0
        assert message[:2] == b"\x00\xf1"
        assert self.session.over is not None
        return AUTH_FAILURE.parse(message[: AUTH_FAILURE.size]).rescode_exp

    def negotiate(self) -> tuple[Any, bytes]:
        """The controller's challenge."""
        assert self.auth_send(negotiate()) == 0
        status, message = self.auth_receive()
        assert status == 0
        return CHALLENGE.parse(message[:16]), message[16:48]


def auth(fctype: int, length: int, *, kind: int = TRANSPORT, secp: int = 0xE9, sgl: int | None = None) -> bytes:
    return sqe(
        0x7F, 9, nsid=fctype, length=length if sgl is None else sgl, kind=kind,
        cdw10=1 << 8 | 1 << 16 | secp << 24, cdw11=length,
    )  # fmt: skip


def negotiate(hashes: bytes = b"\1", groups: bytes = b"\0", authid: int = 1, napd: int = 1, **fields: int) -> bytes:
    ids = hashes.ljust(30, b"\0") + groups.ljust(30, b"\0")
    head = AUTH_NEGOTIATE.build(auth_type=0, auth_id=0, t_id=7, napd=napd, sc_c=fields.get("sc_c", 0))
    return head + AUTH_PROTOCOL.build(
        authid=authid, halen=fields.get("halen", len(hashes)), dhlen=len(groups), idlist=ids
    )


def reply(challenge: Any, value: bytes, *, ask: bool = False, **wrong: Any) -> bytes:
    key = wrong.get("key", KEY).tied_to(HOST)
    response = host_response(1, key, augment(1, None, value), challenge.seqnum, 7, 0, HOST, NQN)
    fields = {"auth_type": 1, "auth_id": 2, "t_id": 7, "hl": 32, "cvalid": int(ask), "dhvlen": 0, "seqnum": 5}
    return REPLY.build(**(fields | wrong.get("fields", {}))) + response + bytes(32)


def test_everything_but_authentication_is_refused_before_it() -> None:
    wire = Cheat()
    for command in (property_get(3, 0x1C), io(2, 4, 0, 1), sqe(0x06, 5, length=4096)):
        (answer,) = wire.command(command)
        assert answer.status == FabricsStatus.AUTH_REQUIRED
    challenge, value = wire.negotiate()
    assert wire.auth_send(reply(challenge, value)) == 0
    (answer,) = wire.command(property_get(3, 0x1C))
    assert answer.status == 0


def test_controller_proves_itself_only_to_who_asks() -> None:
    wire = Cheat()
    challenge, value = wire.negotiate()
    assert wire.auth_send(reply(challenge, value, ask=True)) == 0
    status, message = wire.auth_receive()
    right = ctrl_response(1, CTRL_KEY.tied_to(NQN), bytes(32), 5, 7, HOST, NQN)
    assert (status, message[:2], message[16:48]) == (0, b"\x01\x03", right)
    (answer,) = wire.command(property_get(3, 0x1C))
    assert answer.status == FabricsStatus.AUTH_REQUIRED, "the host has not yet said that it is content"
    assert wire.auth_send(struct.pack("<BBHH10x", 1, 4, 0, 7)) == 0
    (answer,) = wire.command(property_get(3, 0x1C))
    assert answer.status == 0


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\0", AuthFailure.INCORRECT_PAYLOAD),
        (negotiate()[:20], AuthFailure.INCORRECT_PAYLOAD),
        (negotiate(napd=0), AuthFailure.INCORRECT_PAYLOAD),
        (negotiate(napd=255), AuthFailure.INCORRECT_PAYLOAD),
        (negotiate(halen=255), AuthFailure.INCORRECT_PAYLOAD),
        (negotiate(authid=9), AuthFailure.PROTOCOL_UNUSABLE),
        (negotiate(sc_c=1), AuthFailure.CONCAT_MISMATCH),
        (negotiate(hashes=b"\x09"), AuthFailure.HASH_UNUSABLE),
        (negotiate(hashes=b""), AuthFailure.HASH_UNUSABLE),
        (negotiate(groups=b"\5"), AuthFailure.DHGROUP_UNUSABLE),
        (struct.pack("<BBHH10x", 1, 4, 0, 7), AuthFailure.INCORRECT_MESSAGE),
        (struct.pack("<BBHH10x", 9, 0x55, 0, 7), AuthFailure.INCORRECT_MESSAGE),
    ],
)
def test_first_message_that_cannot_be_fails_with_its_reason(message: bytes, why: AuthFailure) -> None:
    wire = Cheat()
    assert wire.auth_send(message) == 0
    assert wire.fails() == why


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"key": OTHER}, AuthFailure.FAILED),
        ({"fields": {"hl": 48}}, AuthFailure.INCORRECT_PAYLOAD),
        ({"fields": {"dhvlen": 256}}, AuthFailure.INCORRECT_PAYLOAD),
        ({"fields": {"t_id": 8}}, AuthFailure.INCORRECT_PAYLOAD),
        ({"fields": {"auth_id": 4}}, AuthFailure.INCORRECT_MESSAGE),
    ],
)
def test_reply_that_is_wrong_fails_with_its_reason(wrong: dict[str, Any], why: AuthFailure) -> None:
    wire = Cheat()
    challenge, value = wire.negotiate()
    assert wire.auth_send(reply(challenge, value, **wrong)) == 0
    assert wire.fails() == why


def test_reply_of_an_earlier_transaction_is_worth_nothing() -> None:
    wire = Cheat()
    old = reply(*wire.negotiate())
    wire.negotiate()
    assert wire.auth_send(old) == 0
    assert wire.fails() == AuthFailure.FAILED


def test_host_that_is_asked_nothing_hears_nothing() -> None:
    wire = Cheat()
    assert wire.auth_receive()[0] == Status.CMD_SEQ_ERROR


def test_commands_with_wrong_fields_are_refused_and_cost_nothing_else() -> None:
    wire = Cheat()
    message = negotiate()
    assert wire.auth_send(message, secp=0xEA) == Status.INVALID_FIELD
    assert wire.auth_send(message, sgl=len(message) - 1) == Status.SGL_INVALID_DATA
    assert wire.auth_receive(secp=0)[0] == Status.INVALID_FIELD
    assert wire.auth_receive(0)[0] == Status.INVALID_FIELD
    assert wire.auth_send(bytes(4097)) == Status.INVALID_FIELD
    wire.negotiate()


def test_greedy_receive_gets_a_message_and_no_more_memory() -> None:
    wire = Cheat()
    assert wire.auth_send(negotiate()) == 0
    status, message = wire.auth_receive(0xFFFF_FFFF)
    assert (status, len(message)) == (0, 4096)


def test_host_that_gives_up_is_let_go() -> None:
    wire = Cheat()
    wire.negotiate()
    assert wire.auth_send(struct.pack("<BBHHBB", 0, 0xF0, 0, 7, 1, 1)) == 0
    assert wire.session.over is not None
