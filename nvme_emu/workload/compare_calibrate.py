"""Measuring what this machine pays for the steps that the virtual host charges.

The figures are this program's, in Python: threads instead of tasks, a timer thread instead of an interrupt, a
function call instead of a bus. They answer "what if the host were as slow as this one", and are medians, so
that a busy machine disturbs them little.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median

import numpy as np

import kworker
from nvme_emu.driver import HostModel
from nvme_emu.driver.request import Request
from nvme_emu.machine import Machine, MachineConfig
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.registers import Reg

__all__ = ["calibrate"]

HANDOFFS = 400
TIMERS = 100
BATCH = 64
ROUNDS = 40
PAGE = 4096
NLB = PAGE // 512
_now = time.perf_counter_ns


def calibrate() -> tuple[kworker.SimCosts, HostModel]:
    """The costs of this machine: what waking and switching take, and the driver's steps. Takes about a second."""
    with kworker.ThreadRuntime() as runtime:
        wakeup_ns, switch_ns = _handoff(runtime)
        irq_ns = _timer(runtime)
    return (
        kworker.SimCosts(wakeup_ns=wakeup_ns, switch_ns=switch_ns, irq_ns=irq_ns),
        _driver_steps(_append(), _copy_page()),
    )


def _handoff(runtime: kworker.Runtime) -> tuple[int, int]:
    """Waking a sleeping thread: what it costs the waker, and how much later the sleeper runs. ns."""
    ping = kworker.Completion(runtime=runtime, name="calibration ping")
    pong = kworker.Completion(runtime=runtime, name="calibration pong")
    woken_at: list[int] = []

    def sleeper(_data: object) -> int:
        for _ in range(HANDOFFS):
            ping.wait()
            woken_at.append(_now())
            pong.complete()
        return 0

    task = kworker.kthread_run(sleeper, None, "calibration", runtime=runtime)
    if not isinstance(task, kworker.TaskStruct):
        raise OSError(-task, "cannot start a thread to calibrate with")
    begun, returned = [], []
    for _ in range(HANDOFFS):
        begun.append(_now())
        ping.complete()
        returned.append(_now())
        pong.wait()
    kworker.kthread_stop(task)
    wakeup = median(after - before for before, after in zip(begun, returned, strict=True))
    whole = median(woken - before for before, woken in zip(begun, woken_at, strict=True))
    return int(wakeup), max(0, int(whole - wakeup))


def _timer(runtime: kworker.Runtime) -> int:
    """How long it takes to get a timer function that is due to run: what stands for an interrupt. ns.

    Due at once, because a thread that sleeps to a later time is late by the system's timer slack (50 µs on
    Linux), in which the processor is idle.
    """
    late: list[int] = []
    ran = threading.Event()
    for _ in range(TIMERS):
        ran.clear()
        due = runtime.now_ns

        def fire(due: int = due) -> None:
            late.append(runtime.now_ns - due)
            ran.set()

        runtime.call_at(due, fire)
        ran.wait()
    return max(0, int(median(late)))


def _per_call(fn: Callable[[], object], calls: int) -> float:
    """The median of several rounds of `calls` calls, ns a call."""
    rounds = []
    for _ in range(ROUNDS):
        start = _now()
        for _ in range(calls):
            fn()
        rounds.append((_now() - start) / calls)
    return median(rounds)


def _append() -> int:
    """Putting something on a list under a lock. ns."""
    items: deque[int] = deque(maxlen=BATCH)
    lock = threading.Lock()

    def append() -> None:
        with lock:
            items.append(1)

    return int(_per_call(append, BATCH))


def _copy_page() -> int:
    """Copying a page, where a device would move it by DMA. ns."""
    pages = np.zeros((4096, PAGE), np.uint8)
    pages[:, 0] = 1
    target = np.zeros(PAGE, np.uint8)
    where = iter(range(1 << 60))

    def copy() -> None:
        target[:] = pages[next(where) * 997 % len(pages)]

    return int(_per_call(copy, BATCH))


def _driver_steps(enqueue_ns: int, copy_page_ns: int) -> HostModel:
    """The steps of the driver on an instant device, without its interrupts."""
    with Machine(MachineConfig(size="16M", profile="instant", mode="sync", clock="wall")) as machine:
        pair = machine.driver.paths[0].pair
        port = machine.port
        port.mask_irq(pair.qid, True)
        buffer = memoryview(bytearray(PAGE))
        submit, reap, poll, bell = [], [], [], []
        for _ in range(ROUNDS):
            requests = [Request(NvmOpcode.READ, 1, 0, NLB, NLB - 1, buffer) for _ in range(BATCH)]
            start = _now()
            for request in requests:
                pair.prepare(request)
            submit.append((_now() - start) / BATCH)
            pair.commit()
            start = _now()
            done = pair.reap()
            reap.append((_now() - start) / max(1, len(done)))
            start = _now()
            for _ in range(BATCH):
                pair.reap()
            poll.append((_now() - start) / BATCH)
            # A doorbell without work behind it is an error to the device; a register is as far away.
            start = _now()
            for _ in range(BATCH):
                port.read32(Reg.CSTS)
            bell.append((_now() - start) / BATCH)
        port.mask_irq(pair.qid, False)
    return HostModel(
        enqueue_ns=enqueue_ns,
        submit_ns=int(median(submit)),
        doorbell_ns=int(median(bell)),
        reap_ns=int(median(reap)),
        poll_ns=int(median(poll)),
        map_page_ns=copy_page_ns,
    )
