"""Sync against async: measure every row of a plan and say what came out.

    from nvme_emu.workload.compare import CompareConfig, compare
    comparison = compare(CompareConfig(profiles=("tlc",), iodepth=(1, 8)), driver_class=MyDriver)
    for line in comparison.verdict_lines():
        ...

The rows are independent and each is a function of the configuration alone, so they are shared among processes
and put together in the order of the plan: the result is the same however many there were.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any, cast

from nvme_emu.driver import NvmeDriver
from nvme_emu.workload.compare_assumptions import assumptions_of
from nvme_emu.workload.compare_flip import Flip, find_flip, flip_pairs
from nvme_emu.workload.compare_measure import RowError, Sink, measure_row
from nvme_emu.workload.compare_rows import CompareConfig, Row, RowSpec, pictured, plan_rows
from nvme_emu.workload.compare_verdict import Verdict, judge

__all__ = [
    "VERSION",
    "CompareConfig",
    "CompareInterrupted",
    "Comparison",
    "Progress",
    "Row",
    "RowError",
    "compare",
]

VERSION = 1
"""Of the JSON; a new number when a key changes its meaning or goes."""

Progress = Callable[[int, int, str], object]
"""Called as progress(done, total, what was done last): rows and searches, before the first and after each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was measured, under which assumptions, and what follows from it."""

    seed: int
    clock: str
    assumptions: Mapping[str, Any]
    rows: Sequence[Row]
    verdict: Sequence[Verdict] = field(default=())
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """The whole as docs/compare.md describes it; a JSON-ready mapping in a fixed order."""
        return {
            "version": self.version,
            "seed": self.seed,
            "clock": self.clock,
            "assumptions": dict(self.assumptions),
            "rows": [row.to_json() for row in self.rows],
            "verdict": [verdict.to_json() for verdict in self.verdict],
        }

    def json_text(self) -> str:
        """The JSON as it is written: on the virtual clock the same bytes for the same configuration and seed."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"

    def verdict_lines(self) -> list[str]:
        """The verdict in words, a paragraph a device and block size."""
        return [verdict.text for verdict in self.verdict]


class CompareInterrupted(KeyboardInterrupt):
    """Ctrl-C came; ``partial`` holds the rows that were measured by then, without a verdict."""

    def __init__(self, partial: Comparison) -> None:
        super().__init__(f"interrupted after {len(partial.rows)} rows")
        self.partial = partial


def compare(
    config: CompareConfig | None = None,
    *,
    driver_class: type[NvmeDriver] = NvmeDriver,
    progress: Progress | None = None,
    sink: Callable[[RowSpec], Sink] | None = None,
    pictures: bool = False,
) -> Comparison:
    """Measure all rows and judge them.

    ``driver_class`` is who drives the device. ``sink(spec)`` makes a sink for the events of a row; with one, all
    is measured in this process. ``pictures`` has the rows that are drawn as timelines and heat maps carry what
    they are drawn from (``Row.picture``); no figure depends on it.

    Raises RowError if an I/O of a row fails, CompareInterrupted on Ctrl-C.
    """
    config = config or CompareConfig()
    specs = plan_rows(config)
    pairs = flip_pairs(specs) if config.flips and config.virtual else []
    results: dict[int, Row | Flip] = {}
    drawn = pictured(specs) if pictures else set()
    names = [f"{spec.profile.name}: {spec.label}, depth {spec.iodepth}" for spec in specs]
    names += [f"{pair[0].profile.name}: where the verdict turns" for pair in pairs]
    if progress is not None:
        progress(0, len(names), "")
    try:
        for index, result in _results(config, specs, pairs, driver_class, sink, drawn):
            results[index] = result
            if progress is not None:
                progress(len(results), len(names), names[index])
    except KeyboardInterrupt:
        raise CompareInterrupted(_comparison(config, specs, results)) from None
    return _comparison(config, specs, results, judged=True)


def _comparison(
    config: CompareConfig, specs: list[RowSpec], results: Mapping[int, Row | Flip], judged: bool = False
) -> Comparison:
    ordered = [results[index] for index in sorted(results)]
    rows = [result for result in ordered if isinstance(result, Row)]
    flips = [result for result in ordered if isinstance(result, Flip)]
    return Comparison(
        seed=config.seed,
        clock=config.clock,
        assumptions=assumptions_of(config),
        rows=rows,
        verdict=judge(rows, flips, config) if judged else (),
    )


def _results(
    config: CompareConfig,
    specs: list[RowSpec],
    pairs: list[tuple[RowSpec, RowSpec]],
    driver_class: type[NvmeDriver],
    sink: Callable[[RowSpec], Sink] | None,
    drawn: set[int],
) -> Iterator[tuple[int, Row | Flip]]:
    """The results as they come, each with its place in the plan: rows first, then searches."""
    count = (config.processes or os.cpu_count() or 1) if config.virtual and sink is None else 1
    if count > 1 and _can_be_sent(driver_class):
        yield from _in_processes(config, specs, pairs, driver_class, min(count, len(specs)), drawn)
        return
    for index, spec in enumerate(specs):
        mine = None if sink is None else sink(spec)
        row = measure_row(config, spec, driver_class=driver_class, sink=mine, picture=index in drawn)
        yield index, row
    for index, pair in enumerate(pairs, len(specs)):
        yield index, find_flip(config, pair, driver_class)


def _can_be_sent(driver_class: type[NvmeDriver]) -> bool:
    """Whether another process can find the class by its name (one that is defined in a function cannot be)."""
    if driver_class.__module__ == "__main__":
        return False  # there the other process would find its own main module
    try:
        pickle.dumps(driver_class)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _in_processes(
    config: CompareConfig,
    specs: list[RowSpec],
    pairs: list[tuple[RowSpec, RowSpec]],
    driver_class: type[NvmeDriver],
    count: int,
    drawn: set[int],
) -> Iterator[tuple[int, Row | Flip]]:
    # spawn, because a fork copies whatever threads hold at that moment: numpy has some, a progress bar too.
    before = multiprocessing.active_children()
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_be_quiet)
    try:
        futures: dict[Future[Any], int] = {}
        # Rows first: if Ctrl-C comes, they are what there is to show.
        with _sigint_held():
            for index, spec in enumerate(specs):
                future = pool.submit(
                    measure_row, config, spec, driver_class=driver_class, picture=index in drawn
                )
                futures[future] = index
        for index, pair in enumerate(pairs, len(specs)):
            futures[pool.submit(find_flip, config, pair, driver_class)] = index
        for future in as_completed(futures):
            yield futures[future], cast("Row | Flip", future.result())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child not in before:
                child.terminate()
        raise
    pool.shutdown()


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Ctrl-C waits meanwhile, and for ever in the processes that start here, which inherit the mask.

    They could not ignore it before they have imported this module, and would print where it met them. The kernel may
    hand the signal to another thread (numpy has some), where the mask does not hold: then it is noted and raised at
    the end, because a process that is interrupted between its start and its first bytes prints, too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would unblock the signal when the first process starts it
    met: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: met.append(number)) if main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if met:
        raise KeyboardInterrupt


def _be_quiet() -> None:
    """Ctrl-C goes to the whole group; the parent decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
