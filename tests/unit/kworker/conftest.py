"""Every kworker test runs on OS threads, on the run-to-block simulation and on the exploring one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kworker_helpers import GEARS, make_runtime

import kworker
from kworker import KthreadWorker, Runtime, kthread_create_worker, kthread_stop


@pytest.fixture(autouse=True)
def lenient() -> Iterator[None]:
    """Tests say themselves when they want the strict mode."""
    before = kworker.strict(False)
    yield
    kworker.strict(before)


@pytest.fixture(params=GEARS)
def rt(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """An entered runtime of each kind. A test must stop what it starts on threads."""
    with make_runtime(request.param) as runtime:
        yield runtime
        if not runtime.virtual:
            assert runtime.tasks() == [], "the test left kthreads behind"


@pytest.fixture(params=["threads", "explore"])
def rt_preemptive(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """The runtimes on which an interrupt can stand still half way."""
    with make_runtime(request.param) as runtime:
        yield runtime


@pytest.fixture
def worker(rt: Runtime) -> Iterator[KthreadWorker]:
    """A running worker called nvme1; stopped afterwards if the test did not."""
    made = kthread_create_worker(0, "nvme%d", 1)
    yield made
    if made.task is not None:
        kthread_stop(made.task)


@pytest.fixture
def failures() -> Iterator[list[tuple[BaseException, str]]]:
    """What the failure hook was given during the test."""
    seen: list[tuple[BaseException, str]] = []
    kworker.set_failure_hook(lambda exc, task, where: seen.append((exc, where)))
    yield seen
    kworker.set_failure_hook(None)
