"""The pytest plugin, run by pytest: fixtures, options, the marker, and what a failure shows."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

PREAMBLE = """
import pytest
from nvme_emu.core.errors import NvmeError
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.testing import fault
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Writes a test file and runs pytest on it, in this process."""
    pytester.makeini("[pytest]\naddopts = -p no:xdist -p no:randomly --strict-markers\nfilterwarnings = error\n")

    def go(body: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=PREAMBLE + body)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return go


def test_fixtures_give_one_ssd(run) -> None:
    result = run("""
def test_it(nvme0, nvme0n1, qpair, nvme_faults, nvme_checker):
    assert nvme0.namespaces[1] is nvme0n1
    assert nvme0.faults is nvme_faults
    assert nvme0.checker is nvme_checker
    assert nvme0.config.clock == "virtual"
    nvme0n1.write(3, b"a" * 512)
    assert qpair.read(3) == b"a" * 512
    qpair.write(4, b"b" * 512)
    assert bytes(nvme0n1.read(4, 1)) == b"b" * 512
    nvme_faults.add(fault.when(opcode="read", nth=1).status("Unrecovered Read Error", dnr=True))
    with pytest.raises(NvmeError):
        nvme0n1.read(3, 1)
    assert not nvme_checker.findings
""")
    result.assert_outcomes(passed=1)


def test_marker_configures_the_ssd(run) -> None:
    result = run("""
pytestmark = pytest.mark.nvme(size="1M", mode="async")

@pytest.mark.nvme(mode="sync", lba_size=4096, profile="optane", clock="wall")
def test_it(nvme0):
    assert nvme0.config.mode == "sync"
    assert nvme0.config.clock == "wall"
    assert nvme0.namespaces[1].nlb == 256
""")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('sizze="1M"', "unknown option 'sizze', did you mean 'size'?"),
        ('mode="both"', "mode='both': it is 'sync', 'async' or 'mixed'"),
        ('"1M"', "takes options by name only"),
        ("runs=0", "runs=0: a number of at least 1"),
        ("driver_class=int", "driver_class=<class 'int'>: a subclass of nvme_emu.driver.NvmeDriver"),
        ('profile="tlcc"', "profile 'tlcc'"),
        ('scheduler="rand"', "scheduler='rand', did you mean 'random'?"),
    ],
)
def test_marker_with_a_mistake_is_refused_by_name(run, marker: str, message: str) -> None:
    result = run(f"@pytest.mark.nvme({marker})\ndef test_it(nvme0):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*@pytest.mark.nvme of test_it: {message.replace('[', '[[]')}*"])


def test_failure_shows_queues_events_and_the_line_that_replays_it(run) -> None:
    result = run("""
def test_it(nvme0n1):
    nvme0n1.write(7, bytes(512))
    assert False
""", "--nvme-seed=5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*NVMe queues and events*", "SQ 1 *", "*ns  the device fetches q1 cid *: Write LBA 7+1", "*NVMe replay*",
         'pytest "test_it.py::test_it" --nvme-seed 5']
    )  # fmt: skip


def test_runs_make_a_test_of_each_seed(run) -> None:
    result = run("""
def test_it(nvme0):
    assert nvme0.config.seed != 12
""", "--nvme-runs=4", "--nvme-seed=10")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(['pytest "test_it.py::test_it" --nvme-seed 12'])


RACY = """
def test_it(nvme_sim):
    balance = [0]
    def deposit():
        seen = balance[0]
        nvme_sim.point("seen")
        balance[0] = seen + 1
    nvme_sim.together(deposit, deposit)
    assert balance[0] == 2
"""


def test_sim_finds_the_race_and_says_how_to_see_it_again(run) -> None:
    result = run(RACY)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    seed = text.partition("--nvme-runs 1 --nvme-seed ")[2].split()[0]
    run(RACY, "--nvme-runs=1", f"--nvme-seed={seed}").assert_outcomes(failed=1)
    assert f"nvme-emu replay \"test_it.py::test_it\" --seed {seed}" in text


def test_sim_runs_as_often_as_is_said(run) -> None:
    body = """
seeds = []
@pytest.mark.nvme(runs=3)
def test_it(nvme_sim):
    seeds.append(nvme_sim.seed)
def test_them():
    assert len(seeds) == EXPECTED
"""
    run(body.replace("EXPECTED", "3")).assert_outcomes(passed=2)
    run(body.replace("EXPECTED", "5"), "--nvme-runs=5").assert_outcomes(passed=2)


def test_sim_with_an_ssd_made_before_is_refused(run) -> None:
    result = run("def test_it(nvme_sim, nvme0):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*write nvme_sim.open() in the test and leave out nvme0*"])


def test_sim_may_skip(run) -> None:
    run("def test_it(nvme_sim):\n    pytest.skip('no')\n").assert_outcomes(skipped=1)


def test_exception_in_a_work_fails_the_run(run) -> None:
    result = run("""
import kworker
def test_it(nvme_sim):
    worker = kworker.kthread_create_worker(0, "mine")
    def broken(work):
        raise ValueError("in the work")
    kworker.kthread_queue_work(worker, kworker.KthreadWork(broken))
    kworker.kthread_destroy_worker(worker)
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: in the work*"])


BAD_DOORBELL = """
def test_it(nvme0, qpair):
    qpair.ring_cq(5)
"""


def test_checker_fails_the_test_unless_it_is_off(run) -> None:
    result = run(BAD_DOORBELL)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*CheckError: *q2*head*"])
    run(BAD_DOORBELL, "--nvme-check=off").assert_outcomes(passed=1)


def test_leak_of_a_raw_device_fails_the_test(run) -> None:
    result = run("""
def test_it(nvme_raw):
    nvme_raw.dma_alloc(4096, "my queue")
""")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RawDeviceError: at the end <DmaBuffer my queue *> was not freed*"])


def test_options_with_a_mistake_are_refused(run) -> None:
    assert run("", "--nvme-runs=0").ret == pytest.ExitCode.USAGE_ERROR
    assert run("", "--nvme-check=maybe").ret == pytest.ExitCode.USAGE_ERROR


def test_exhaustive_by_marker_sees_all_orders(run) -> None:
    body = RACY.replace("def test_it", '@pytest.mark.nvme(scheduler="exhaustive", runs=500)\ndef test_it')
    result = run(body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["nvme-emu explore *--scheduler exhaustive"])
