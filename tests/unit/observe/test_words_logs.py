"""Log pages and features in nvme-cli's words: what is in them, and who may ask for what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.feature_kinds import FEATURES
from nvme_emu.observe import nvme_words_logs as words
from nvme_emu.observe.nvme_words_features import feature_details
from nvme_emu.observe.rpc import RpcClient, serve_rpc, watch
from nvme_emu.observe.rpc_core import RpcError
from nvme_emu.spec.feature_data import APST_ENTRY, APST_TABLE, HOST_BEHAVIOR, HOST_IDENTIFIER, TIMESTAMP
from nvme_emu.spec.features import HOST_THERMAL_MANAGEMENT, RESERVATION_MASK, Fid
from nvme_emu.spec.logs import SANITIZE_SSI, SANITIZE_SSTAT, SANITIZE_STATUS, SELF_TEST_LOG, SELF_TEST_STATUS
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode


def invoke(*args: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(cli, [str(one) for one in args], standalone_mode=False)
    assert (result.return_value, result.exception) == (code, None), result.output
    return json.loads(result.stdout) if result.stdout and "json" in args else None


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An SSD that has been written, with lost blocks."""
    path = tmp_path / "ssd.img"
    with nvme_emu.open(image=path, size="1M") as ssd:
        ssd.namespaces[1].write(0, bytes(4096))
        request = nvme_emu.driver.request.Request(NvmOpcode.WRITE_UNCORRECTABLE, 1, 9, 0, 1)
        ssd.driver.path().submit(request)
        request.wait(10)
    return path


def test_self_test_result_shows_what_is_valid() -> None:
    failed = {"status": SELF_TEST_STATUS.pack(result=7, code=1), "valid": 0b0011, "nsid": 1, "flba": 77, "poh": 3}
    empty = {"status": SELF_TEST_STATUS.pack(result=15)}
    log = SELF_TEST_LOG.build(current=2, completion=40, results=[failed, empty])

    found = words.self_test_log(log, 2)

    assert found["Current Device Self-Test Completion"] == 40
    assert found["List of Valid Reports"] == [
        {
            "Self test result": 7, "Self test code": 1, "Segment number": 0, "Valid Diagnostic Information": 3,
            "Power on hours": 3, "Namespace Identifier": 1, "Failing LBA": 77, "Vendor Specific": 0,
        },
        {"Self test result": 15},
    ]  # fmt: skip


def test_sanitize_that_failed_says_where() -> None:
    log = SANITIZE_STATUS.build(sstat=SANITIZE_SSTAT.pack(sos=3, opc=2), ssi=SANITIZE_SSI.pack(sans=2, fails=1))

    found = words.sanitize_log(log)["nvme0"]

    assert found["sstat"]["status"] == "(3) Most Recent Sanitize Command Failed."
    assert found["sanitize_state_information"] == {
        "sanitize_state": "(2) Restricted Failure State",
        "failure_state": "(1) Restricted Processing State",
    }


def test_lost_blocks_are_told_by_both_words(image: Path) -> None:
    log = invoke("lba-status-log", image, "-o", "json")
    assert (log["estulb"], log["ns_elements"][0]["descs"]) == (2, [{"rslba": 9, "rnlb": 2}])
    found = invoke("get-lba-status", image, "-s", "10", "-o", "json")
    assert found["LSD entry 0"] == {"DSLBA": "0x000000000000000a", "NLB": "0x00000001", "status": "0x00"}


def test_saved_feature_is_there_when_the_image_is_opened_again(image: Path) -> None:
    invoke("set-feature", image, "-f", "4", "-V", "340", "-s")
    invoke("set-feature", image, "-f", "0x10", "-V", "0x01400150")

    found = invoke("get-feature", image, "-f", "4", "-o", "json")
    assert found["Feature: 0x04"][0]["TMPTH kelvin"] == "340 K"
    hot = invoke("get-feature", image, "-f", "0x10", "-o", "json")
    assert hot["Feature: 0x10"][0]["TMT1 celsius"] == "-273 Celsius"


def test_persistent_events_are_those_of_the_image(image: Path) -> None:
    found = invoke("persistent-event-log", image, "-o", "json")

    assert found["list_of_event_entries"][0]["event_type"] == "SMART / Health Log Snapshot"
    assert len(found["list_of_event_entries"]) == found["total_num_of_events"]


def test_streams_are_told_by_dir_receive() -> None:
    found = words.directive_receive(1, 2, 0, bytes([2, 0, 7, 0, 255, 255, 0, 0]))
    assert found == {"Open Stream Count": 2, "Stream Identifier 000001": 7, "Stream Identifier 000002": 65535}
    assert words.directive_receive(1, 3, 5, b"") == {"Namespace Streams Allocated (NSA)": 5}
    assert invoke("dir-receive", "mem", "-D", "1", code=1) is None


def test_every_feature_is_decoded() -> None:
    data = {
        Fid.TIMESTAMP: TIMESTAMP.build(timestamp=1),
        Fid.HOST_BEHAVIOR: HOST_BEHAVIOR.build(cdfe=4),
        Fid.HOST_IDENTIFIER: HOST_IDENTIFIER.build(hostid=b"\1"),
        Fid.AUTONOMOUS_POWER_STATE_TRANSITION: APST_TABLE.build(entries=[APST_ENTRY.pack(itps=3, itpt=100)]),
    }
    for fid in FEATURES:
        assert feature_details(fid, 0, data.get(Fid(fid), b"")), Fid(fid)
    idle = feature_details(0x0C, 1, data[Fid.AUTONOMOUS_POWER_STATE_TRANSITION])
    assert idle is not None
    assert idle["Auto PST Entries"][0] == {
        "entry": " 0",
        "Idle Time Prior to Transition (ITPT)": "100 ms",
        "Idle Transition Power State (ITPS)": 3,
    }
    masks = feature_details(Fid.RESERVATION_NOTIFICATION_MASK, RESERVATION_MASK.pack(respre=1), b"")
    assert masks is not None
    assert list(masks.values()) == ["True", "False", "False"]
    hot = feature_details(Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT, HOST_THERMAL_MANAGEMENT.pack(tmt1=320, tmt2=340), b"")
    assert hot is not None
    assert hot["TMT2 celsius"] == "67 Celsius"


def test_running_ssd_answers_what_reads_and_refuses_what_changes(tmp_path: Path) -> None:
    socket = tmp_path / "s.sock"
    config = ControllerConfig(namespaces_max=4)
    with nvme_emu.open(size="1M", controller=config) as ssd, serve_rpc(watch(ssd), str(socket)):
        for word in ("dir-receive", "get-lba-status", "security-recv", "telemetry-log", "persistent-event-log"):
            assert invoke(word, socket, "-o", "json")
        invoke("dir-send", socket, "-T", "1", code=1)
        invoke("set-feature", socket, "-f", "4", code=1)
        invoke("dir-receive", socket, "-D", "1", "-O", "3", "-r", "4", code=1)
        with RpcClient(str(socket)) as client:
            for opcode in (AdminOpcode.SET_FEATURES, AdminOpcode.FORMAT_NVM, 300):
                with pytest.raises(RpcError):
                    client.call("admin.execute", opcode=int(opcode))
