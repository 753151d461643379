"""The checker's findings in top: of a workload with --check, and over the socket of a machine that is checked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.observe.rpc import serve_rpc, watch
from nvme_emu.observe.tui.attached import AttachedSource
from nvme_emu.observe.tui.findings import found_by, states_of

JOB = "[a]\nioengine=libaio\niodepth=4\nrw=randread\nbs=4k\nsize=1m\n"


def top(*words: str) -> Any:
    return CliRunner().invoke(cli, ["top", *words], standalone_mode=False)


def test_clean_driver_is_said_to_be_clean_and_without_check_there_is_no_view(tmp_path: Path) -> None:
    job = tmp_path / "job.fio"
    job.write_text(JOB)
    with_it = top(str(job), "--once", "--check", "--view", "checker", "--after", "0.2")
    assert with_it.return_value == 0 and "has found nothing" in with_it.stdout and "checker" in with_it.stdout
    assert "9" not in top(str(job), "--once", "--after", "0.2").stdout.splitlines()[1]


def test_findings_are_rows_with_rule_clause_and_words(tmp_path: Path) -> None:
    socket = str(tmp_path / "rpc.sock")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with nvme_emu.open(size="8M", check="warn") as ssd, serve_rpc(watch(ssd), socket):
            for _ in range(3):
                ssd.controller.ring_sq(40, 1)  # a queue that does not exist
            (one, *_) = found_by(ssd.checker)()
            assert one.count >= 3 and one.rule and one.clause and one.words and one.severity == "error"
            source = AttachedSource(socket)
            try:
                assert source.frame().findings == found_by(ssd.checker)()
            finally:
                source.close()
            result = top("--attach", socket, "--once", "--view", "checker", "--after", "1")
            assert one.rule in result.stdout and "checker: " in result.stdout
            assert states_of([]) == ()
