"""nvme-cli's words: JSON against what nvme-cli printed in a guest (tools/nvme_cli/record.py), targets, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import COMMANDS, cli
from nvme_emu.observe import nvme_words
from nvme_emu.observe.rpc import serve_rpc, watch
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE
from nvme_emu.spec.logs import SMART_HEALTH

RECORDED = Path(__file__).parent / "nvme_cli"
FORMS: dict[str, Any] = {
    "id-ctrl": nvme_words.id_ctrl,
    "id-ns": nvme_words.id_ns,
    "smart-log": nvme_words.smart_log,
    "error-log": nvme_words.error_log,
    "fw-log": nvme_words.fw_log,
    "ns-descs": nvme_words.ns_descs,
}
WORDS = [*FORMS, "list-ns", "show-regs", "effects-log", "get-feature", "list"]
EXTRA = {"get-feature": ["-f", "7"]}


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli, list(args), standalone_mode=False)


@pytest.mark.parametrize("command", FORMS)
def test_json_is_byte_for_byte_what_nvme_cli_printed(command: str) -> None:
    found = FORMS[command]((RECORDED / f"{command}.binary").read_bytes())
    printed = (RECORDED / f"{command}.json").read_text()
    assert json.dumps(found, indent=2, separators=(",", ":")) + "\n" == printed


def test_list_ns_is_what_nvme_cli_printed() -> None:
    assert nvme_words.list_ns([1]) == json.loads((RECORDED / "list-ns.json").read_text())


def test_optional_parts_appear_when_the_device_has_them() -> None:
    smart = nvme_words.smart_log(SMART_HEALTH.build(temperature_sensor=[300, 0, 301], power_on_hours=1 << 100))
    assert smart["temperature_sensor_1"] == 300 and smart["temperature_sensor_3"] == 301
    assert "temperature_sensor_2" not in smart
    assert smart["power_on_hours"] == 1 << 100
    namespace = nvme_words.id_ns(IDENTIFY_NAMESPACE.build(nsfeat=0x10, npwg_z=7, nlbaf_z=1))
    assert namespace["npwg"] == 7 and len(namespace["lbafs"]) == 2
    assert "subnqn" not in nvme_words.id_ctrl(IDENTIFY_CONTROLLER.build())


def test_registers_are_signed_where_nvme_cli_prints_them_so() -> None:
    found = nvme_words.show_regs(lambda _offset, size: (1 << 8 * size) - 1)
    assert found["csts"] == -1 and found["cap"] == (1 << 64) - 1 and found["pmrmscl"] == 0xFFFF_FFFF
    assert list(found)[:5] == ["cap", "vs", "intms", "intmc", "cc"] and len(found) == 28


@pytest.mark.parametrize("command", WORDS)
def test_word_over_a_socket_and_in_process_says_the_same(command: str, ssd: Any, socket_path: str) -> None:
    """Two machines of one configuration, one behind a socket, tell the same but for what happened to them."""
    args = [*EXTRA.get(command, []), "-o", "json"]
    with serve_rpc(watch(ssd), socket_path):
        served = invoke(command, socket_path, *args)
    local = invoke(command, "mem:16M", *args)
    assert served.return_value == local.return_value == 0, served.output
    ours, theirs = json.loads(served.stdout), json.loads(local.stdout)
    if command == "show-regs":
        assert list(ours) == list(theirs) and ours["cap"] == theirs["cap"]
    else:
        assert ours == theirs


@pytest.mark.parametrize("command", WORDS)
def test_word_of_an_image_prints_every_form(command: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with nvme_emu.open(size="16M", image=image) as machine:
        machine.namespaces[1].write(0, b"\x55" * 512)
    args = EXTRA.get(command, [])
    normal = invoke(command, str(image), *args)
    assert normal.return_value == 0 and len(normal.stdout) > 10
    assert json.loads(invoke(command, str(image), *args, "--json").stdout)
    raw = CliRunner().invoke(cli, [command, str(image), *args, "-o", "binary"], standalone_mode=False)
    if command in ("list", "get-feature"):
        assert raw.return_value == 2
    else:
        assert raw.return_value == 0 and len(raw.stdout_bytes) in (512, 4096, 64 * 64, 0xE1C)
    with nvme_emu.open(image=image) as machine:
        assert bytes(machine.namespaces[1].read(0, 1)) == b"\x55" * 512


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["id-ctrl", "/nowhere"], 2, "/nowhere"),
        (["id-ctrl", "nvme-tcp://h:1"], 2, "names a subsystem"),
        (["id-ctrl", "mem:tiny"], 2, "tiny"),
        (["id-ns", "mem", "-n", "99"], 1, "Invalid Namespace"),
        (["ns-descs", "mem", "-n", "7"], 1, "Invalid Namespace"),
        (["get-feature", "mem", "-f", "0x99"], 1, "Invalid Field"),
    ],
)
def test_mistake_is_one_line_and_an_exit_code(args: list[str], code: int, message: str) -> None:
    result = invoke(*args)
    assert result.return_value == code and result.exception is None
    assert message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["get-feature", "mem", "-f", "x"], ["get-feature", "mem"], ["id-ns", "mem", "-n", "-1"]]
)
def test_bad_number_is_bad_usage(args: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        from nvme_emu.cli import main

        main(args)
    assert exit_.value.code == 2


@pytest.mark.parametrize("command", [word for word in WORDS if word != "list"])
def test_missing_target_is_bad_usage(command: str) -> None:
    result = invoke(command, *EXTRA.get(command, []))
    assert isinstance(result.exception, click.MissingParameter) and "TARGET" in str(result.exception.param.metavar)


@pytest.mark.parametrize("command", ["ctl", "decode", "trace", *WORDS])
def test_help_has_an_example_and_exit_codes(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert f"nvme-emu {command}" in result.output and "Exit codes" in result.output
    assert command in COMMANDS


def test_error_log_names_status_and_location_in_words(tmp_path: Path) -> None:
    found = json.loads((RECORDED / "error-log.json").read_text())["errors"][0]
    assert found["status_field"] & 0x7FF == 0x80  # LBA Out of Range
    assert nvme_words.error_log((RECORDED / "error-log.binary").read_bytes())["errors"][0] == found


def test_device_refusal_over_a_socket_is_a_status_too(ssd: Any, socket_path: str) -> None:
    with serve_rpc(watch(ssd), socket_path):
        result = invoke("get-feature", socket_path, "-f", "0x99")
    assert result.return_value == 1 and "Invalid Field" in result.stderr
