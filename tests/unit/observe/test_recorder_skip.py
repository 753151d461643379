"""A recorder that is fed by samples."""

from __future__ import annotations

from nvme_emu.core.trace import FetchCmd, NvmeCompleteRq, NvmeQueueRq, NvmeSetupCmd, PostCqe
from nvme_emu.observe.recorder import Recorder


def test_recorder_beside_a_driver_leaves_out_commands_whose_setup_it_did_not_see() -> None:
    recorder = Recorder(0, driver=True)
    recorder(FetchCmd(10, 1, 3, 2, 1, 0, 8))
    recorder(PostCqe(20, 1, 1, 3, 0, 1))
    assert recorder.latencies() == {}


def test_recorder_after_a_gap_measures_nothing_across_it() -> None:
    recorder = Recorder(0, driver=True)
    recorder(NvmeQueueRq(1, 7, 2, 0, 8, "job"))
    recorder(NvmeSetupCmd(2, 7, 1, 3, 2, 1, 0, 8))
    recorder.skip()
    recorder(FetchCmd(10, 1, 3, 2, 1, 0, 8))
    recorder(NvmeCompleteRq(5_000_000, 9, 1, 3, 0))
    assert recorder.latencies() == {}
    assert set(recorder.stages()) == {"worker_list"}
