"""nvme-cli's words for the subsystem: the JSON that nvme-cli 2.13 printed in a guest, and how targets are asked."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.controller import ControllerConfig
from nvme_emu.observe import nvme_words_subsystem as words
from nvme_emu.observe.rpc import serve_rpc, watch
from nvme_emu.spec.ana import ANA_GROUP, ANA_LOG
from nvme_emu.spec.endurance import ENDURANCE_GROUP_LOG


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli, list(args), standalone_mode=False)


def asked(*args: str) -> Any:
    found = invoke(*args, "-o", "json")
    assert found.return_value == 0, found.output
    return json.loads(found.stdout)


def test_ana_log_is_what_nvme_cli_printed() -> None:
    raw = ANA_LOG.build(chgcnt=0, ngrps=2)
    raw += ANA_GROUP.build(grpid=1, nnsids=1, chgcnt=1, state=1) + struct.pack("<I", 1)
    raw += ANA_GROUP.build(grpid=2, nnsids=1, chgcnt=2, state=3) + struct.pack("<I", 2)
    printed = (
        '{"Asymmetric Namespace Access Log for NVMe device":"nvme0","chgcnt":0,"ngrps":2,"ANA DESC LIST ":['
        '{"grpid":1,"nnsids":1,"chgcnt":1,"state":"optimized","NSIDS":[{"nsid":1}]},'
        '{"grpid":2,"nnsids":1,"chgcnt":2,"state":"inaccessible","NSIDS":[{"nsid":2}]}]}'
    )
    assert json.dumps(words.ana_log(raw, "nvme0"), separators=(",", ":")) == printed


@pytest.mark.parametrize("cut", range(16, 16 + 36 * 2, 4))
def test_ana_log_that_is_cut_off_tells_what_it_has(cut: int) -> None:
    raw = ANA_LOG.build(chgcnt=0, ngrps=9)
    raw += 2 * (ANA_GROUP.build(grpid=1, nnsids=1, chgcnt=1, state=7) + struct.pack("<I", 1))
    found = words.ana_log(raw[:cut], "nvme0")["ANA DESC LIST "]
    assert len(found) == (cut - 16) // 36 + int((cut - 16) % 36 == 32)
    assert all(one["state"] == "invalid state" for one in found)


def test_endurance_log_is_what_nvme_cli_printed() -> None:
    raw = ENDURANCE_GROUP_LOG.build(avsp=100, avspt=10, dur=1, hrc=2, neile=2, tegcap=1073741824)
    printed = (
        '{"critical_warning":0,"endurance_group_features":0,"avl_spare":100,"avl_spare_threshold":10,'
        '"percent_used":0,"domain_identifier":0,"endurance_estimate":0,"data_units_read":1,"data_units_written":0,'
        '"media_units_written":0,"host_read_cmds":2,"host_write_cmds":0,"media_data_integrity_err":0,'
        '"num_err_info_log_entries":2,"total_end_grp_cap":1073741824,"unalloc_end_grp_cap":0}'
    )
    assert json.dumps(words.endurance_log(raw), separators=(",", ":")) == printed


def test_words_ask_a_running_machine(tmp_path: Path) -> None:
    path = str(tmp_path / "rpc.sock")
    config = ControllerConfig(ana_groups=2)
    with nvme_emu.open(size="2M", namespaces=2, controllers=2, controller=config) as ssd, serve_rpc(watch(ssd), path):
        ssd.set_ana_state(2, "non-optimized")
        found = asked("ana-log", path)
        assert [(one["grpid"], one["state"]) for one in found["ANA DESC LIST "]] == [
            (1, "optimized"), (2, "non-optimized")
        ]  # fmt: skip
        assert all(not one["NSIDS"] for one in asked("ana-log", path, "-g")["ANA DESC LIST "])
        assert asked("list-ctrl", path) == {"num_ctrl": 2, "ctrl_list": [{"ctrl_id": 0}, {"ctrl_id": 1}]}
        assert asked("list-ctrl", path, "-c", "1")["ctrl_list"] == [{"ctrl_id": 1}]
        assert asked("list-ctrl", path, "-n", "2")["num_ctrl"] == 2
        assert asked("list-endgrp", path) == {"num_endgrp_id": 1, "endgrp_list": [{"endgrp_id": 1}]}
        assert asked("list-endgrp", path, "-i", "2")["num_endgrp_id"] == 0
        assert asked("endurance-log", path, "-g", "1")["avl_spare"] == 100
        assert asked("endurance-event-agg-log", path, "-e", "2") == {
            "num_entries_avail": 0, "list_of_entries": [{"entry": 0}, {"entry": 0}]
        }  # fmt: skip
        assert asked("changed-ns-list-log", path) == {"Changed Attached Namespace List Log": "nvme0", "nvme0": {}}
        logs = [next(iter(one)) for one in asked("supported-log-pages", path)["supported_logs"]]
        assert {"lid_0x0 ", "lid_0x9 ", "lid_0xc ", "lid_0xf "} <= set(logs)
        assert {"fid_24": 8388609} in asked("fid-support-effects-log", path)["fid_support"]
        assert "group 2: non-optimized" in invoke("ana-log", path).stdout
        assert invoke("endurance-log", path, "-g", "2").return_value == 1  # the device refuses
        assert len(invoke("endurance-log", path, "-o", "binary").stdout_bytes) == 512


def test_ana_log_of_a_device_without_groups_is_refused() -> None:
    found = invoke("ana-log", "mem:1M")
    assert found.return_value == 1
    assert "Invalid Log Page" in found.stderr
