"""What the kworker tests share, beside their fixtures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from kworker import Completion, KthreadWarning, KthreadWork, Runtime, SimRuntime, ThreadRuntime

GEARS = ("threads", "sim", "explore")


def make_runtime(gear: str, seed: int = 1) -> Runtime:
    """A runtime by its name in GEARS."""
    if gear == "threads":
        return ThreadRuntime()
    return SimRuntime(seed=seed, scheduler="random" if gear == "explore" else None)


class Gate:
    """A work function that announces that it runs and then waits to be let go."""

    def __init__(self) -> None:
        self.entered = Completion(name="gate entered")
        self.go = Completion(name="gate go")
        self.runs = 0

    def __call__(self, work: KthreadWork) -> None:
        self.entered.complete()
        self.go.wait()
        self.runs += 1


def wait_until(rt: Runtime, condition: Callable[[], bool]) -> None:
    """Let others run until `condition()`: for states that nobody announces, such as "it waits now"."""
    limit = rt.now_ns + 60_000_000_000
    while not condition():
        assert rt.now_ns < limit, "the condition never came true"
        rt.sleep_ns(20_000)


def misuse(function: Callable[..., Any], *args: Any) -> tuple[Any, list[str]]:
    """Call it and return its result and the texts of the KthreadWarnings that it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args)
    assert all(issubclass(w.category, KthreadWarning) for w in caught), [str(w.message) for w in caught]
    return result, [str(w.message) for w in caught]
