"""Interrupts that a spinlock holds back come when it is released, not when the next idle moment comes."""

from __future__ import annotations

import kworker


def test_timer_fires_though_time_passes_only_under_a_lock() -> None:
    """The only settles of this task are inside the lock: the timer is always held back there."""
    with kworker.SimRuntime(cpus=1) as rt:
        lock = kworker.Spinlock(runtime=rt)
        fired: list[int] = []

        def main() -> None:
            rt.call_at(rt.now_ns + 10_000, lambda: fired.append(rt.now_ns))
            for _ in range(1000):
                with lock:
                    rt.consume(500)
                    rt.settle()

        rt.run(main)

    assert fired
    # One round is late at most: the interrupt comes as soon as the lock is released.
    assert fired[0] <= 10_000 + 500 + rt.costs.irq_ns
