"""What mutants, and the driver as it is, are put through. Each is a test of nvme_sim without its name.

The driver as it is passes all of them under any schedule; nothing in them knows of any mutant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from nvme_emu.controller import ControllerConfig
from nvme_emu.core.errors import NvmeError
from nvme_emu.spec.status import Status
from nvme_emu.testing import NvmeSim, fault

BLOCK = 512
SECOND_NS = 1_000_000_000
SHADOWED = {"controller": ControllerConfig(shadow_doorbells=True, shadow_poll_ns=2_000)}
"""Shadow doorbells of a controller that looks for a while, and rests."""
UNREAD = int(Status.READ_ERROR)


def _quiet(ssd: Any) -> None:
    """Nothing had to be recovered."""
    counters = ssd.driver.recovery.counters
    assert not counters.timeouts, f"{counters.timeouts} command(s) timed out"


def _caller(ns: Any, first: int, rounds: int) -> Callable[[], None]:
    """Writes blocks of its own and reads them back."""

    def run() -> None:
        for number in range(rounds):
            data = bytes([first + number]) * BLOCK
            ns.write(first + number, data)
            assert bytes(ns.read(first + number, 1)) == data, f"block {first + number} is not what was written"

    return run


def callers(sim: NvmeSim, *, tasks: int = 2, rounds: int = 2, **options: Any) -> None:
    """Callers share a small queue."""
    ssd = sim.open(**{"size": "1M", "depth": 4, **options})
    ns = ssd.namespaces[1]
    begin = sim.runtime.now_ns
    sim.together(*(_caller(ns, 16 * number, rounds) for number in range(tasks)))
    _quiet(ssd)
    assert sim.runtime.now_ns - begin < SECOND_NS, "somebody slept where nothing was to be waited for"


def bursts(sim: NvmeSim, **options: Any) -> None:
    """Two callers hand over several requests at once."""
    ssd = sim.open(**{"size": "1M", "mode": "async", "depth": 8, **options})
    ns = ssd.namespaces[1]

    def run(first: int) -> None:
        requests = [ns.submit_write(first + n, bytes([first + n]) * BLOCK) for n in range(3)]
        for rq in requests:
            rq.wait()
        for n in range(3):
            assert bytes(ns.read(first + n, 1)) == bytes([first + n]) * BLOCK

    sim.together(lambda: run(0), lambda: run(32))
    _quiet(ssd)


def errors(sim: NvmeSim, **options: Any) -> None:
    """Each second read of bad blocks fails, and exactly those that fail say so."""
    rule = fault.when(opcode="read", lba=(8, 15)).status("Unrecovered Read Error", dnr=True)
    ssd = sim.open(**{"size": "1M", "depth": 4, "faults": [rule], **options})
    ns = ssd.namespaces[1]

    def run(first: int) -> None:
        for lba in (first, 8 + first):
            try:
                ns.read(lba, 1)
                failed = False
            except NvmeError as error:
                assert error.status is not None
                assert error.status & 0x7FF == UNREAD
                failed = True
            assert failed == (lba >= 8), f"the read of block {lba} {'failed' if failed else 'succeeded'}"

    sim.together(lambda: run(0), lambda: run(1))
    _quiet(ssd)


def slow_command(sim: NvmeSim, **options: Any) -> None:
    """A command takes longer than its time-out; others go on. Every request ends, once."""
    rule = fault.when(opcode="read", lba=(8, 8), nth=1).delay("60ms")
    chosen = {"size": "1M", "depth": 8, "io_timeout": 0.01, "max_retries": 1, "faults": [rule], **options}
    ssd = sim.open(**chosen)
    ns = ssd.namespaces[1]

    def slow() -> None:
        with contextlib.suppress(NvmeError):  # an aborted command may fail
            ns.read(8, 1)

    def others() -> None:
        for _ in range(3):
            _caller(ns, 16, 2)()
            sim.runtime.sleep_ns(30_000_000)

    sim.together(slow, others)


def reset_while_busy(sim: NvmeSim, **options: Any) -> None:
    """The controller is reset under load, and nobody notices but by the time."""
    ssd = sim.open(**{"size": "1M", "depth": 4, "profile": "optane", **options})
    ns = ssd.namespaces[1]
    sim.together(_caller(ns, 0, 2), _caller(ns, 32, 2), ssd.driver.reset)


def two_events(sim: NvmeSim, **options: Any) -> None:
    """The device gets hot, cools down, and gets hot again."""
    rules = [fault.manual().temperature(400).named("hot"), fault.manual().temperature(300).named("cool")]
    ssd = sim.open(**{"size": "1M", "faults": rules, **options})
    heard: list[int] = []
    ssd.driver.on_aen = heard.append
    for _ in range(2):
        ssd.faults["hot"].fire()
        sim.runtime.sleep_ns(SECOND_NS)
        ssd.faults["cool"].fire()
        sim.runtime.sleep_ns(SECOND_NS)
    assert len(heard) == 2, f"{len(heard)} of 2 events were heard"


def down(sim: NvmeSim, **options: Any) -> None:
    """Some I/O, and an orderly shutdown."""
    ssd = sim.open(**{"size": "1M", "depth": 4, **options})
    _caller(ssd.namespaces[1], 0, 2)()
    ssd.close()
