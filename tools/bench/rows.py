"""The table's rows in order, with the targets that the product has set itself.

Where the compiled core is there it is held to targets of its own, in place of those of pure Python that they
exceed; `NVME_EMU_PURE=1` measures and judges what there is without it.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.measure import Row, Target
from bench.ours import (
    AcrossCores,
    BatchReads,
    BatchWrites,
    Bytes,
    Places,
    Refilled,
    Resubmitted,
    SequentialReads,
    SequentialWrites,
    SingleReads,
    Stage,
    Work,
    lazily,
)
from bench.processes import process_rows
from kworker import RandomWalk, Scheduler
from nvme_emu import Machine
from nvme_emu._core import COMPILED

__all__ = ["BATCHES", "our_rows"]

BATCHES = (32, 256, 1024)

_URING = "fio_uring_qd32"
# psync and mmap stand beside io_uring: they pay fewer system calls, an emulator in the process pays none.
_BESIDE = ("fio_psync_qd1", "fio_mmap_qd1", _URING)


def our_rows(stage: Stage, compiled: bool = COMPILED) -> list[Row]:
    """Every row that measures the product, in the order of the table; `compiled` says whose targets they get."""
    return [*_single_rows(stage, compiled), *_queued_rows(stage), *_batch_rows(stage, compiled),
            *_sequential_rows(stage),
            *_virtual_rows(stage), *process_rows()]  # fmt: skip


def _row(
    group: str,
    name: str,
    what: str,
    make: Callable[[], Work],
    *,
    unit: str = "IOPS",
    targets: tuple[Target, ...] = (),
    compare_with: tuple[str, ...] = (),
) -> Row:
    run, check = lazily(make)
    return Row(
        name=name,
        group=group,
        what=what,
        unit=unit,
        run=run,
        check=check,
        targets=targets,
        compare_with=compare_with,
    )


def _single_rows(stage: Stage, compiled: bool) -> list[Row]:
    def reads(into: bool) -> Work:
        return SingleReads(stage.machine(mode="sync"), stage.medium, stage.places, into=into)

    target = (Target(ratio=0.4, reference="fio_psync_qd1"),)
    given = (*target, Target(ratio=3.0, reference=_URING)) if compiled else target
    group = "ours, one at a time"
    return [
        _row(group, "sync_qd1", "sync read QD1, out= given", lambda: reads(True), targets=given, compare_with=_BESIDE),
        _row(group, "sync_qd1_new", "sync read QD1, a new array each", lambda: reads(False), targets=target),
    ]


def _queued_rows(stage: Stage) -> list[Row]:
    def machine_and_places() -> tuple[Machine, Bytes, Places]:
        return stage.machine(mode="async"), stage.medium, stage.places

    group = "ours, through the worker"
    return [
        _row(
            group,
            "async_qd32",
            "async read QD32, resubmitted in the callback",
            lambda: Resubmitted(*machine_and_places(), depth=32),
            targets=(Target(ratio=1.0, reference=_URING),),
        ),
        _row(
            group,
            "async_qd32_refill",
            "async read QD32, refilled by the caller",
            lambda: Refilled(*machine_and_places(), depth=32),
            compare_with=(_URING,),
        ),
        _row(
            group,
            "async_qd1",
            "async read QD1, worker on the caller's core",
            lambda: SingleReads(*machine_and_places(), into=True, count=128),
            compare_with=("sync_qd1", "fio_uring_qd1"),
        ),
        _row(
            group,
            "async_qd1_across",
            "async read QD1, worker on another core",
            lambda: AcrossCores(*machine_and_places(), into=True, count=128),
            compare_with=("sync_qd1",),
        ),
        _row(
            group,
            "async_many_256",
            "async read_many, batch 256",
            lambda: BatchReads(*machine_and_places(), batch=256),
            compare_with=(_URING,),
        ),
    ]


def _batch_rows(stage: Stage, compiled: bool) -> list[Row]:
    rows = []
    for name, kind in (("read_many", BatchReads), ("write_many", BatchWrites)):
        for batch in BATCHES:
            if batch < 256:
                targets: tuple[Target, ...] = (Target(ratio=4.0 if compiled else 1.5, reference=_URING),)
            else:
                targets = (
                    Target(ratio=5.0 if compiled else 3.5, reference=_URING),
                    Target(ratio=0.5, reference="memcpy_gather_4k"),
                )

            def make(kind: type[BatchReads] = kind, batch: int = batch) -> Work:
                return kind(stage.machine(mode="sync"), stage.medium, stage.places, batch=batch)

            what = f"{name} 4 KiB random, batch {batch}"
            rows.append(_row("ours, in batches", f"{name}_{batch}", what, make, targets=targets))
    return rows


def _sequential_rows(stage: Stage) -> list[Row]:
    rows = []
    for name, kind in (("read", SequentialReads), ("write", SequentialWrites)):

        def make(kind: type[SequentialReads] = kind) -> Work:
            return kind(stage.machine(mode="sync"), stage.medium)

        targets = (
            Target(ratio=0.75, reference=f"memcpy_seq_{name}"),
            Target(ratio=1.0, reference=f"fio_psync_seq_{name}"),
        )
        what = f"sync 128 KiB sequential {name}"
        rows.append(_row("ours, sequential", f"seq_{name}", what, make, unit="B/s", targets=targets))
    return rows


def _endless_walk() -> Scheduler:
    """What "random" is, without the end after a million choices: that is some seconds of the row."""
    walk = RandomWalk()
    walk.steps_max = 1 << 60
    return walk


def _virtual_rows(stage: Stage) -> list[Row]:
    def reads(scheduler: Scheduler | None) -> Work:
        machine = stage.machine(mode="async", clock="virtual", profile="tlc", scheduler=scheduler)
        return Resubmitted(machine, stage.medium, stage.places, depth=32, count=1024)

    group = "ours, virtual clock"
    return [
        _row(
            group,
            "virtual_qd32",
            "tlc, async QD32, run to block: simulated I/Os a second",
            lambda: reads(None),
            targets=(Target(ratio=100_000.0),),
        ),
        _row(
            group,
            "virtual_qd32_explore",
            "tlc, async QD32, exploring (scheduler random)",
            lambda: reads(_endless_walk()),
            targets=(Target(ratio=25_000.0),),
        ),
    ]
