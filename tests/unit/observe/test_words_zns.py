"""`nvme-emu zns …`: JSON as nvme-cli 2.13 printed it in a guest, and every word over an image, a socket and memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.cli.zns_words import zns
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.observe.nvme_words_zns import TOO_MANY_CHANGED, changed_zones, id_ns
from nvme_emu.observe.rpc import RpcClient, RpcError, serve_rpc, watch
from nvme_emu.observe.rpc_zns import ZnsMethods
from nvme_emu.spec.identify import CSI_ZONED, IDENTIFY_NAMESPACE, Cns
from nvme_emu.spec.zns import CHANGED_ZONE_LIST, ZoneState

RECORDED = Path(__file__).parent / "nvme_cli"
# What the guest's SSD was served with, and the descriptor extension that its script set.
ZONED = "zone_size=16M,zone_capacity=12M,max_open=6,max_active=8,zdes=64"
EXTENSION = bytes.fromhex(
    "dd22a0a8161f9fdb944c86b0d803a02a16564126c47101d686ee2aa815e81552"
    "f915855761baecc87b1fd3cb0e9274e1ede7da553aa7b1f207518750bf3d295e"
)
ZSZE = 0x8000


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli, ["zns", *args], standalone_mode=False)


def done(*args: str) -> str:
    found = invoke(*args)
    assert found.return_value == 0, found.output
    return str(found.stdout)


@pytest.fixture
def ssd() -> Iterator[Any]:
    with nvme_emu.open(size="256M", zoned=ZONED) as machine:
        yield machine


@pytest.fixture
def socket(ssd: Any, tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "rpc.sock")
    with serve_rpc(watch(ssd), path):
        yield path


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = str(tmp_path / "zoned.img")
    with nvme_emu.open(path, size="256M", zoned=ZONED):
        pass
    return path


@pytest.fixture
def extension(tmp_path: Path) -> str:
    path = tmp_path / "extension"
    path.write_bytes(EXTENSION)
    return str(path)


def test_namespace_is_byte_for_byte_what_nvme_cli_printed(ssd: Any) -> None:
    """Of a controller with the two LBA formats that the guest's had."""
    raw = ssd.driver.admin.identify(Cns.IOCS_NAMESPACE, nsid=1, csi=CSI_ZONED).tobytes()
    found = id_ns(raw, IDENTIFY_NAMESPACE.build(nlbaf_z=1))

    assert json.dumps(found, indent=2, separators=(",", ":")) + "\n" == (RECORDED / "zns-id-ns.json").read_text()
    assert json.loads(done("id-ns", "mem:256M," + ZONED, "--json"))["lbafe"][:2] == found["lbafe"]
    assert "lbafe  0: zsze:0x8000 zdes:1 (in use)" in done("id-ns", "mem:256M," + ZONED)


@pytest.mark.parametrize("command", ["id-ctrl", "changed-zone-list"])
def test_json_is_byte_for_byte_what_nvme_cli_printed(command: str, socket: str, image: str) -> None:
    printed = (RECORDED / f"zns-{command}.json").read_text()

    assert done(command, socket, "-o", "json") == printed
    assert done(command, image, "--json") == printed


def test_report_is_byte_for_byte_what_nvme_cli_printed(ssd: Any, socket: str, extension: str) -> None:
    """The commands of the guest's script, in its order."""
    for _ in range(2):
        ssd.namespaces[1].zone_append(ZSZE, bytes(65536))
    done("set-zone-desc", socket, "-s", "0x10000", "-d", extension)
    for command in ("open-zone", "close-zone", "finish-zone"):
        done(command, socket, "-s", "0x18000")

    printed = (RECORDED / "zns-report-zones.json").read_text()
    assert done("report-zones", socket, "-d", "5", "-e", "-o", "json") == printed


def test_words_change_an_image(image: str, extension: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"d" * 4096)
    assert done("zone-append", image, "-s", "0x8000", "-d", str(data)) == "Success appended data to LBA 8000\n"
    assert json.loads(done("zone-append", image, "-s", "0x8000", "-d", str(data), "-z", "512", "-f", "--json")) == {
        "lba": 0x8008,
        "nsid": 1,
    }
    assert done("set-zone-desc", image, "-s", "65536", "-d", extension).startswith("set-zone-desc: Success")
    assert done("zone-mgmt-send", image, "-s", "0x18000", "-z", "2") == (
        "zone-mgmt-send: Success, action:2 zone:18000 all:0 nsid:1\n"
    )
    text = done("report-zones", image, "-d", "4")
    assert text.splitlines()[:3] == [
        "nr_zones: 16",
        "SLBA: 0          WP: 0          Cap: 0x6000     State: 0x10 Type: 0x2  Attrs: 0    AttrsInfo: 0",
        "SLBA: 0x8000     WP: 0x8009     Cap: 0x6000     State: 0x40 Type: 0x2  Attrs: 0    AttrsInfo: 0",
    ]
    assert "CLOSED" in done("report-zones", image, "-v", "-e", "-S", "4", "-s", "0x10000")
    assert done("report-zones", image, "-p", "-d", "1", "-S", "5").startswith("nr_zones: 1\nSLBA: 0x18000 ")
    assert done("reset-zone", image, "-a") == "zns-reset-zone: Success, action:4 zone:0 all:1 nsid:1\n"
    assert done("report-zones", image, "-S", "1").startswith("nr_zones: 16\n")
    raw = invoke("report-zones", image, "-d", "2", "-o", "binary").stdout_bytes
    assert len(raw) == 64 + 2 * 64
    received = json.loads(done("zone-mgmt-recv", image, "-l", "128", "-p", "--json"))
    assert bytes.fromhex(received["data"]) == raw[:128].replace(b"\x10", b"\x01", 1)


def test_running_ssd_is_managed_over_its_socket(ssd: Any, socket: str, extension: str) -> None:
    done("open-zone", socket, "-s", "0")
    assert ssd.namespaces[1].report_zones(0, 1)[0].state is ZoneState.EXPLICITLY_OPENED
    with RpcClient(socket) as client:
        client.call("zns.break", nsid=1, zone=3, state="read-only")
        with pytest.raises(RpcError):
            client.call("zns.break", nsid=1, zone=3, state="odd")
        with pytest.raises(RpcError):
            client.call("zns.break", nsid=2, zone=0, state="offline")
    assert json.loads(done("changed-zone-list", socket, "--json")) == {"nrzid": 1, "zid 000": 3 * ZSZE}
    done("offline-zone", socket, "-s", hex(3 * ZSZE))
    assert ssd.namespaces[1].report_zones(3 * ZSZE, 1)[0].state is ZoneState.OFFLINE

    refused = invoke("open-zone", socket, "-s", hex(3 * ZSZE))

    assert refused.return_value == 1
    assert "Invalid Zone State Transition" in refused.stderr
    assert invoke("zone-append", socket, "-d", extension).return_value == 2


def test_long_reports_are_whole() -> None:
    found = json.loads(done("report-zones", "mem:64M,zone_size=16k,zdes=64", "-e", "--json"))

    assert found["nr_zones"] == len(found["zone_list"]) == 4096
    assert [one["slba"] for one in found["zone_list"]] == list(range(0, 4096 * 32, 32))


@pytest.mark.parametrize("command", zns.commands)
def test_every_word_has_help_with_examples_and_refuses_what_is_no_target(command: str, tmp_path: Path) -> None:
    told = invoke(command, "--help").stdout
    assert f"nvme-emu zns {command} disk.img" in told
    assert "Exit codes" in told
    needed = {"zone-append": ["-d", "x"], "set-zone-desc": ["-d", "x"], "zone-mgmt-send": ["-z", "1"]}
    assert invoke(command, str(tmp_path / "nothing"), *needed.get(command, [])).return_value == 2


def test_ssd_without_zones_is_said_to_have_none(tmp_path: Path) -> None:
    path = str(tmp_path / "plain.img")
    with nvme_emu.open(path, size="1M"):
        pass

    found = invoke("report-zones", path)

    assert found.return_value == 2
    assert "no zoned namespace" in found.stderr
    assert invoke("report-zones", "mem:1M,zone_size=3").return_value == 2


def test_changed_list_that_is_too_long_says_so() -> None:
    assert changed_zones(CHANGED_ZONE_LIST.build(nrzid=0xFFFF)) == {"result": TOO_MANY_CHANGED}


def test_page_names_every_word_method_and_setting_and_its_example_runs(ssd: Any) -> None:
    page = (Path(__file__).parents[3] / "docs" / "zns.md").read_text()

    for name in (*zns.commands, *ZnsMethods(watch(ssd)).table(), *(one.name for one in fields(ZnsConfig))):
        assert re.search(rf"\b{re.escape(name)}\b", page), name
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/zns.md", "exec"), {})
