"""TLS 1.3 with pre-shared keys: what keys are, who gets in, and data that goes over it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tcphelpers import Served
from tcphost import NQN, ic_req, make_target

import nvme_emu
from nvme_emu.cli.serve import serve as serve_command
from nvme_emu.cli.serve_tcp import tls_keys
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.tls_psk import TlsKey, psk_identity, tls_psk
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.spec.fabrics import DISCOVERY_NQN
from nvme_emu.transports.tcp import TcpServerConfig
from nvme_emu.transports.tcp.tls import TLS_OFFERED, TlsKeys, host_layer, target_layer

HOST = "nqn.2024-01.org.example:host"
OTHER_HOST = "nqn.2024-01.org.example:another"
KEY, OTHER = TlsKey(bytes(range(32))), TlsKey(bytes(range(32, 64)), 0)
with_tls = pytest.mark.skipif(not TLS_OFFERED, reason="this Python's ssl has no pre-shared keys (3.13 has)")


# -- keys ---------------------------------------------------------------------------------------------------


def test_key_is_written_as_it_was_read() -> None:
    text = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:"

    key = TlsKey.parse(f" {text}\n")

    assert (str(key), key.hash_id, len(key.key)) == (text, 1, 32)
    assert key.key.hex() not in repr(key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hunter2", "NVMeTLSkey-1:hh:BASE64:"),
        ("NVMeTLSkey-1:04:AAAA:", "hash '04' is none of"),
        ("NVMeTLSkey-1:01:@@@@:", "not base64"),
        ("NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrY:", "CRC is wrong"),
        ("NVMeTLSkey-1:00:AAAAAA==:", "32 bytes"),
        ("NVMeTLSkey-1:02:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:", "does not go with hash 02"),
        ("NVMeTLSkey-1:02:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwP/w0S89ELi3W2LxIcLXVsDn8kXZQ==:", "SHA-384"),
    ],
)
def test_key_that_is_none_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TlsKey.parse(text)


def test_what_tls_is_keyed_with_depends_on_the_key_both_names_and_the_version() -> None:
    free = TlsKey(KEY.key, 0)
    names = [(host, nqn) for host in (HOST, OTHER_HOST) for nqn in (NQN, DISCOVERY_NQN)]
    found = {tls_psk(key, *both, version) for key in (KEY, free, OTHER) for both in names for version in (0, 1)}

    assert len(found) == 24
    assert {len(psk) for psk in found} == {32}
    assert free.retained(HOST) == KEY.key
    assert KEY.retained(HOST) != KEY.retained(OTHER_HOST)


def test_identity_of_version_1_is_that_of_libnvme() -> None:
    """Its digest is made with the retained key: a test vector of libnvme's (test/psk.c)."""
    key = TlsKey.parse("NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:")
    names = "nqn.psk-test-host", "nqn.psk-test-subsys"

    assert psk_identity(key, *names) == "NVMe0R01 nqn.psk-test-host nqn.psk-test-subsys"
    assert psk_identity(key, *names, 1).split() == ["NVMe1R01", *names, "iSbjiStwJ/1TrTvDlt2fjFmzvsytOJelidNnA+X5lEU="]


def test_names_that_are_too_long_for_an_identity_are_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        psk_identity(KEY, "nqn." + "x" * 200, NQN + "y" * 60)


def test_options_say_whose_key_is_which(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{OTHER}\n")

    keys = tls_keys([f"{HOST}=@{path}", str(KEY)])

    assert keys is not None
    assert (keys.key_of(HOST), keys.key_of(OTHER_HOST)) == (OTHER, KEY)
    assert tls_keys([]) is None
    with pytest.raises(ValueError, match="two --tls-key"):
        tls_keys([str(KEY), str(OTHER)])


# -- without TLS in Python ----------------------------------------------------------------------------------


def test_where_python_has_no_pre_shared_keys_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvme_emu.transports.tcp.tls.TLS_OFFERED", False)

    result = CliRunner().invoke(
        serve_command, ["--tcp", "127.0.0.1:0", "--size", "1M", "--tls-key", str(KEY)], standalone_mode=False
    )

    assert (result.return_value, "3.13 has them" in result.output) == (2, True)
    for make in (lambda: TcpServerConfig(tls=TlsKeys(others=KEY)), lambda: host_layer(KEY, HOST, NQN)):
        with pytest.raises(ValueError, match=r"3\.13 has them"):
            make()


# -- over it ------------------------------------------------------------------------------------------------


@with_tls
def test_layers_agree_and_the_target_knows_whom_it_talks_to() -> None:
    host, target = host_layer(KEY, HOST, NQN), target_layer(TlsKeys(others=KEY))
    for _ in range(3):
        host.advance()
        target.feed(host.outgoing())
        target.advance()
        host.feed(target.outgoing())
    data = os.urandom(100_000)
    host.seal([data[:1], data[1:]])
    target.feed(host.outgoing())
    space = memoryview(bytearray(len(data) + 1))
    total = 0
    while taken := target.take(space[total:]):
        total += taken

    assert bytes(space[:total]) == data
    assert target.names == (HOST, NQN)


@with_tls
def test_target_takes_identities_of_both_versions_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "nqn.x", "nqn.y"
    digest = psk_identity(KEY, *names, 1).split()[-1]
    for identity, version in [
        ("NVMe0R01 nqn.x nqn.y", 0),
        (f"NVMe1R01 nqn.x nqn.y {digest}", 1),
        ("NVMe1R01 nqn.x nqn.y", None),
        (f"NVMe1R01 nqn.x nqn.y {digest[::-1]}", None),
        (f"NVMe1R01 nqn.x nqn.y {digest} more", None),
        ("NVMe0R02 nqn.x nqn.y", None),
        ("NVMe0R01", None),
        (f"NVMe1R01 {'x' * 120} {'y' * 120}", None),
    ]:
        monkeypatch.setattr("nvme_emu.transports.tcp.tls.psk_identity", lambda *names, given=identity: given)
        monkeypatch.setattr("nvme_emu.transports.tcp.tls.tls_psk", lambda *names, v=version: tls_psk(*names, v or 0))
        host = host_layer(KEY, *names)
        monkeypatch.undo()
        target = target_layer(TlsKeys(others=KEY))
        host.advance()
        target.feed(host.outgoing())
        if version is None:
            with pytest.raises(ssl.SSLError):
                target.advance()
            continue
        target.advance()
        host.feed(target.outgoing())
        assert host.advance()
        target.feed(host.outgoing())
        assert target.advance()
        assert target.names == names


def opened(served: Served, key: TlsKey | None, *, nqn: str = HOST, mode: str = "sync") -> nvme_emu.Machine:
    identity = FabricsHost(nqn=nqn, identifier=bytes(range(16)), tls_key=None if key is None else str(key))
    return nvme_emu.open(served.url, identity=identity, mode=mode, queues=2, ctrl_loss_tmo=0)


@with_tls
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("nbytes", [512, 8192, 300 * 1024, 4 << 20])
def test_data_of_any_size_goes_over_tls(serve: Callable[..., Served], mode: str, nbytes: int) -> None:
    served = serve(make_target(8 << 20), tls=TlsKeys(hosts={HOST: KEY}))
    data = os.urandom(nbytes)

    with opened(served, KEY, mode=mode) as ssd:
        namespace = ssd.namespaces[1]
        for at in range(0, nbytes, 256 << 10):
            namespace.write(at // 512, data[at : at + (256 << 10)])
        found = b"".join(
            bytes(namespace.read(at // 512, min(256 << 10, nbytes - at) // 512)) for at in range(0, nbytes, 256 << 10)
        )

    assert found == data


@with_tls
@pytest.mark.parametrize("key", [OTHER, TlsKey(KEY.key, 0), None])
def test_host_without_the_key_is_turned_away_and_others_are_served(
    serve: Callable[..., Served], key: TlsKey | None
) -> None:
    served = serve(tls=TlsKeys(others=KEY))

    with pytest.raises((NvmeError, OSError)):
        opened(served, key)

    with opened(served, KEY) as ssd:
        ssd.namespaces[1].write(0, bytes(512))
    assert any("TLS" in line for line in served.log)


@with_tls
def test_host_that_the_target_has_no_key_of_is_turned_away(serve: Callable[..., Served]) -> None:
    served = serve(tls=TlsKeys(hosts={HOST: KEY}))

    with pytest.raises((NvmeError, OSError)):
        opened(served, KEY, nqn=OTHER_HOST)


@with_tls
def test_host_whose_target_has_no_tls_does_not_connect(serve: Callable[..., Served]) -> None:
    served = serve()

    with pytest.raises((NvmeError, OSError)):
        opened(served, KEY)


@with_tls
def test_connect_in_another_name_than_the_key_is_refused(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(tls=TlsKeys(others=KEY))
    monkeypatch.setattr(
        "nvme_emu.transports.tcp.initiator.host_layer", lambda key, hostnqn, subnqn: host_layer(key, OTHER_HOST, subnqn)
    )

    with pytest.raises(NvmeError, match=r"(?i)host"):
        opened(served, KEY)


@with_tls
def test_plain_icreq_and_garbage_are_answered_with_an_alert(serve: Callable[..., Served]) -> None:
    served = serve(tls=TlsKeys(others=KEY))
    for data in (ic_req(), b"\x16\x03\x01\x00\x05hello", os.urandom(300)):
        with socket.create_connection(("127.0.0.1", served.port), 10) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    with opened(served, KEY) as ssd:
        ssd.namespaces[1].write(0, bytes(512))


@with_tls
def test_discovery_log_says_that_tls_is_required(serve: Callable[..., Served]) -> None:
    target = make_target()
    target.secure = True

    (entry,) = target.discovery_entries(HOST, ("192.0.2.7", 4420))

    assert (entry["treq"], entry["tsas"][0], len(entry["tsas"])) == (1, 2, 256)
    assert DISCOVERY_NQN not in str(entry)
