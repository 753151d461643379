"""StageSums against events made by hand."""

from __future__ import annotations

import pytest

from nvme_emu.core.trace import (
    FetchCmd,
    NvmeCompleteRq,
    NvmeQueueRq,
    NvmeSetupCmd,
    NvmeSq,
    PostCqe,
    RaiseIrq,
    RegisterWrite,
)
from nvme_emu.observe.stages import STAGES, StageError, StageSums


def one_request(sums: StageSums, start: int, serial: int = 1, qid: int = 1) -> None:
    """Queued at start, then 10, 20, 30, 40 ns later set up, fetched, posted, completed."""
    if qid:
        sums(NvmeQueueRq(start, serial, 2, 0, 8, "caller"))
    sums(NvmeSetupCmd(start + 10, serial, qid, 0, 2, 1, 0, 8))
    sums(NvmeSq(start + 10, qid, 1, 1))
    sums(FetchCmd(start + 20, qid, 0, 2, 1, 0, 8))
    sums(PostCqe(start + 30, qid, qid, 0, 0, 1))
    sums(RaiseIrq(start + 30, qid))
    sums(NvmeCompleteRq(start + 40, serial, qid, 0, 0))


@pytest.mark.parametrize("threads", [False, True])
def test_means_of_overlapping_requests_are_exact(threads: bool) -> None:
    sums = StageSums(threads=threads)
    for serial, start in enumerate((100, 105, 1_000_000), 1):
        one_request(sums, start, serial)
    means = sums.means(latency_ns=55.0)
    assert means == {"worker_list": 10, "submission": 10, "device": 10, "completion": 10, "wakeup": 15}
    assert (sums.requests, sums.doorbells, sums.interrupts) == (3, 3, 3)


def test_known_costs_move_between_list_and_submission() -> None:
    sums = StageSums()
    one_request(sums, 100)
    means = sums.means(latency_ns=55.0, handover_ns=5, build_ns=8)
    assert means == {"worker_list": 7, "submission": 18, "device": 10, "completion": 10, "wakeup": 10}


def test_sync_path_has_no_list() -> None:
    sums = StageSums()
    one_request(sums, 100)
    assert sums.means(latency_ns=50.0, has_list=False)["worker_list"] == 0
    assert sums.means(latency_ns=50.0, has_list=False)["submission"] == 20


def test_outcome_seen_before_the_event_ends_the_completion() -> None:
    sums = StageSums()
    one_request(sums, 100)
    means = sums.means(latency_ns=34.0)
    assert (means["completion"], means["wakeup"]) == (4, 0)


def test_admin_commands_and_other_events_do_not_count() -> None:
    sums = StageSums()
    one_request(sums, 100)
    one_request(sums, 500, 2, qid=0)
    sums(RegisterWrite(1, 0x14, 4, 0))
    assert sums.requests == 1
    assert sums.means(latency_ns=40.0)["device"] == 10


def test_window_that_is_not_idle_at_an_end_is_refused() -> None:
    sums = StageSums()
    sums(NvmeQueueRq(1, 1, 2, 0, 8, "caller"))
    with pytest.raises(StageError, match="1 queued, 0 set up"):
        sums.means(latency_ns=1.0)


def test_empty_window_has_zero_stages() -> None:
    assert StageSums().means(latency_ns=0.0) == dict.fromkeys(STAGES, 0.0)
