"""On the virtual clock the compiled core changes no time, no choice and no byte.

The same requests go to two machines of one seed: one compiled, one whose driver and controller do everything in
Python. When each request ends, what it brings, what the clocks of the device and the tasks say, what a scheduler chose
and what is left in memory must be the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kworker
import nvme_emu
from nvme_emu._core import COMPILED
from nvme_emu.driver import pump, queue_pair

pytestmark = pytest.mark.skipif(not COMPILED, reason="the extension is not there: there is one gait less")

SIZE = 1 << 20
BLOCKS = SIZE // 512

machines = st.fixed_dictionaries(
    {
        "profile": st.sampled_from(["tlc", "tlc", "optane", "instant"]),
        "mode": st.sampled_from(["async", "async", "sync"]),
        "worker": st.sampled_from(["pump", "pump", "inline", "poll", "per-request"]),
        "depth": st.sampled_from([2, 4, 64]),
        "queues": st.integers(1, 2),
        "cpus": st.integers(1, 3),
        "scheduler": st.sampled_from([None, None, "random", "pct"]),
        "seed": st.integers(0, 99),
    }
)
requests = st.lists(
    st.tuples(
        st.sampled_from(["read"] * 6 + ["write"] * 3 + ["fua", "flush", "discard", "look"]),
        st.integers(0, BLOCKS - 64),
        st.sampled_from([1, 8, 8, 8, 9, 16, 17, 40]),
    ),
    min_size=1,
    max_size=60,
)


class Run:
    """One of the two machines: `window` requests outstanding, the next one submitted as one comes back."""

    def __init__(self, ssd: nvme_emu.Machine, todo: list[Any], window: int) -> None:
        self.ssd, self.ns, self.runtime = ssd, ssd.namespaces[1], ssd.runtime
        self.todo = iter(todo)
        self.left = len(todo)
        self.log: list[Any] = []
        self.done = kworker.Completion(runtime=self.runtime, name="all")
        for _ in range(min(window, len(todo))):
            self.start()
        self.done.wait()
        self.runtime.settle()

    def start(self) -> None:
        one = next(self.todo, None)
        if one is None:
            return
        kind, slba, nlb = one
        if kind == "look":
            with self.ssd.port.lock:
                flying = self.ssd.controller.outstanding.values()
                self.log.append([(cmd.sqid, cmd.cid, cmd.done_ns, cmd.opcode) for cmd in flying])
            self.ended()
            self.start()
        elif kind == "read":
            self.ns.submit_read(slba, nlb, callback=self.again)
        elif kind == "flush":
            self.ns.submit_flush(callback=self.again)
        elif kind == "discard":
            self.ns.submit_discard(slba, nlb, callback=self.again)
        else:
            data = np.full(nlb * 512, slba & 0xFF, np.uint8)
            self.ns.submit_write(slba, data, fua=kind == "fua", callback=self.again)

    def again(self, rq: Any) -> None:
        data = None if rq.array is None else rq.array.tobytes()
        self.log.append((self.runtime.now_ns, int(rq.opcode), rq.slba, rq._status, data))
        self.start()
        self.ended()

    def ended(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.complete()


def _outcome(options: dict[str, Any], todo: list[Any], window: int, compiled: bool) -> list[Any]:
    with nvme_emu.open(size=SIZE, clock="virtual", **options) as ssd:
        ctrl, runtime = ssd.controller, ssd.runtime
        ctrl.compiled = compiled
        run = Run(ssd, todo, window)
        latency = ctrl.latency
        return [
            run.log,
            runtime.now_ns,
            runtime.recorded_schedule,  # type: ignore[attr-defined]
            [(task.comm, task.cpu_ns, task.nvcsw, task.blocked_ns, task.run_delay_ns) for task in runtime.tasks()],
            ctrl.counters.as_dict(),
            ctrl.inflight.busy_ns(runtime.now_ns),
            None if latency is None else [latency.counters.die_busy_ns, latency.counters.retries],
            ctrl.rng.getstate(),
            ssd.media[0].array.tobytes(),  # type: ignore[union-attr]
            [(path.pair.head, path.pair.tail, path.pair.cq_view.tobytes()) for path in ssd.driver.paths],
        ]


@settings(max_examples=60, deadline=None)
@given(machines, requests, st.sampled_from([1, 5, 32]))
def test_compiled_machine_takes_the_same_virtual_time(options: dict[str, Any], todo: list[Any], window: int) -> None:
    compiled = _outcome(options, todo, window, True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (queue_pair, pump):
            patch.setattr(module, "COMPILED", False)
        python = _outcome(options, todo, window, False)
    for one, other in zip(compiled, python, strict=True):
        assert one == other
