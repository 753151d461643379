"""nvme-cli's words with a URL for TARGET: our driver connects and asks by admin commands."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from tcphelpers import Served
from tcphost import NQN

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.observe.target import DriverTarget
from nvme_emu.spec.registers import Reg

WORDS = [
    "list", "id-ctrl", "id-ns", "smart-log", "error-log", "show-regs", "fw-log", "effects-log", "list-ns", "ns-descs",
    "self-test-log", "sanitize-log", "telemetry-log", "persistent-event-log", "lba-status-log", "resv-notif-log",
    "changed-ns-list-log", "supported-log-pages", "fid-support-effects-log", "get-lba-status", "dir-receive",
    "security-recv",
]  # fmt: skip
HOST_IDENTIFIER, TIMESTAMP, UNKNOWN = "0x81", "0x0e", "0x99"


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli, list(args), standalone_mode=False)


@pytest.mark.parametrize("word", WORDS)
def test_word_asks_the_controller_at_a_url(word: str, serve: Callable[..., Served]) -> None:
    found = invoke(word, serve().url, "-o", "json")
    assert found.return_value == 0, found.output
    assert json.loads(found.stdout)


def test_answers_are_the_device_s(serve: Callable[..., Served]) -> None:
    url = serve().url
    with nvme_emu.open(url) as ssd:
        ssd.namespaces[1].write(0, bytes(4096))
        controller = json.loads(invoke("id-ctrl", url, "--json").stdout)
        smart = json.loads(invoke("smart-log", url, "--json").stdout)
        registers = DriverTarget(ssd.driver)
        capabilities = ssd.driver.port.read64(Reg.CAP)

        assert registers.register(Reg.CAP, 8) == capabilities
        assert registers.register(Reg.CAP, 4) | registers.register(Reg.CAP + 4, 4) << 32 == capabilities
        assert registers.register(Reg.CSTS, 4) == 1
        assert registers.register(Reg.ASQ, 4) == 0, "there is no such property over fabrics"
    assert controller["subnqn"] == NQN
    assert smart["host_write_commands"] == 1


@pytest.mark.parametrize(("fid", "nbytes"), [("7", 0), (HOST_IDENTIFIER, 16), (TIMESTAMP, 8), ("0x16", 512)])
def test_feature_comes_with_its_data(fid: str, nbytes: int, serve: Callable[..., Served]) -> None:
    with nvme_emu.open(serve().url) as ssd:
        _, data = DriverTarget(ssd.driver).feature(int(fid, 0))
        _, kinds_only = DriverTarget(ssd.driver).feature(int(fid, 0), sel=3)
        if fid == HOST_IDENTIFIER:
            assert data == ssd.driver.host.identifier
    assert (len(data), kinds_only) == (nbytes, b"")


@pytest.mark.parametrize("words", [["get-feature", "-f", UNKNOWN], ["id-ns", "-n", "99"]])
def test_refusal_is_a_line_and_code_1(words: list[str], serve: Callable[..., Served]) -> None:
    result = invoke(*words, serve().url)
    assert (result.return_value, result.exception) == (1, None)
    assert "Invalid" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["http://h/x", "nvme-tcp://127.0.0.1", "nvme-tcp://127.0.0.1:99999/nqn.x"])
def test_url_that_names_no_subsystem_is_bad_usage(url: str) -> None:
    result = invoke("id-ctrl", url)
    assert (result.return_value, result.exception) == (2, None)
    assert url in result.stderr and result.stderr.count("\n") == 1


def test_nobody_at_the_url_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"nvme-tcp://127.0.0.1:{taken.getsockname()[1]}/{NQN}"
        result = invoke("id-ctrl", url)
    assert (result.return_value, result.exception) == (2, None)
    assert url in result.stderr and "refused" in result.stderr and result.stderr.count("\n") == 1
