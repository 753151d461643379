"""The whole stack against a dict: random programs by several callers, in random interleavings, virtual time.

Each caller owns a stripe of blocks, so that the model says exactly what each read must give; the callers share
queues, tags, the worker and the device. A failure prints the parameters, which replay it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kworker
import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.spec.status import Status

BLOCKS = 64
OPERATIONS = 14


@dataclass(frozen=True)
class Setup:
    """One run: everything that it depends on."""

    seed: int
    mode: str
    worker: str
    queues: int
    depth: int
    callers: int
    profile: str
    lba_size: int
    scheduler: str | None


SETUPS = st.builds(
    Setup,
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(["sync", "async"]),
    worker=st.sampled_from(["pump", "per-request", "inline", "poll"]),
    queues=st.integers(1, 3),
    depth=st.integers(2, 9),
    callers=st.integers(1, 4),
    profile=st.sampled_from(["instant", "optane", "tlc"]),
    lba_size=st.sampled_from([512, 4096]),
    scheduler=st.sampled_from([None, "random", "pct"]),
)


class Caller:
    """A task with its own blocks and its own dict of what they hold."""

    def __init__(self, ns: nvme_emu.Namespace, index: int, seed: int, runtime: kworker.Runtime) -> None:
        self.ns = ns
        self.first = index * BLOCKS
        self.rng = random.Random(f"{seed}/{index}")
        self.model: dict[int, bytes] = {}
        self.finished = kworker.Completion(runtime=runtime, name=f"caller {index} has finished")
        self.failure: BaseException | None = None

    def expected(self, slba: int, nlb: int) -> bytes:
        blank = bytes(self.ns.lba_size)
        return b"".join(self.model.get(lba, blank) for lba in range(slba, slba + nlb))

    def extent(self) -> tuple[int, int]:
        nlb = self.rng.randint(1, 20)
        return self.first + self.rng.randrange(BLOCKS - nlb + 1), nlb

    def data(self, nlb: int) -> bytes:
        return self.rng.randbytes(nlb * self.ns.lba_size)

    def store(self, slba: int, data: bytes) -> None:
        size = self.ns.lba_size
        for index in range(len(data) // size):
            self.model[slba + index] = data[index * size : (index + 1) * size]

    def run(self, _data: object) -> int:
        try:
            for _ in range(OPERATIONS):
                getattr(self, self.rng.choice(ACTIONS))()
            everything = self.ns.read(self.first, BLOCKS).tobytes()
            assert everything == self.expected(self.first, BLOCKS)
        except BaseException as failure:
            self.failure = failure
        self.finished.complete()
        return 0

    # What a caller does -----------------------------------------------------------------------------

    def do_write(self) -> None:
        slba, nlb = self.extent()
        data = self.data(nlb)
        self.ns.write(slba, data, fua=self.rng.random() < 0.3)
        self.store(slba, data)

    def do_read(self) -> None:
        slba, nlb = self.extent()
        assert self.ns.read(slba, nlb).tobytes() == self.expected(slba, nlb)

    def do_flush(self) -> None:
        self.ns.flush()

    def do_zeroes(self) -> None:
        slba, nlb = self.extent()
        self.ns.write_zeroes(slba, nlb, deallocate=self.rng.random() < 0.5)
        self.store(slba, bytes(nlb * self.ns.lba_size))

    def do_discard(self) -> None:
        ranges = [self.extent() for _ in range(self.rng.randint(1, 3))]
        self.ns.discard(ranges)
        for slba, nlb in ranges:
            self.store(slba, bytes(nlb * self.ns.lba_size))

    def do_compare(self) -> None:
        slba, nlb = self.extent()
        right = self.expected(slba, nlb)
        self.ns.compare(slba, right)
        at = self.rng.randrange(len(right))
        wrong = bytearray(right)
        wrong[at] ^= 1 << self.rng.randrange(8)
        with pytest.raises(NvmeError) as caught:
            self.ns.compare(slba, bytes(wrong))
        assert caught.value.status is not None
        assert caught.value.status & 0x7FF == Status.COMPARE_FAILED

    def do_overlapped_reads(self) -> None:
        wanted = [self.extent() for _ in range(self.rng.randint(1, 12))]
        requests = [self.ns.submit_read(*extent) for extent in wanted]
        self.rng.shuffle(both := list(zip(wanted, requests, strict=True)))
        for extent, rq in both:
            data = rq.wait()
            assert data is not None
            assert data.tobytes() == self.expected(*extent)

    def do_overlapped_writes(self) -> None:
        """Writes of disjoint blocks, all outstanding together."""
        starts = self.rng.sample(range(BLOCKS // 4), self.rng.randint(1, 10))
        requests = []
        for start in starts:
            data = self.data(4)
            requests.append(self.ns.submit_write(self.first + 4 * start, data))
            self.store(self.first + 4 * start, data)
        for rq in requests:
            rq.wait()

    def do_many(self) -> None:
        starts = [self.first + 4 * s for s in self.rng.sample(range(BLOCKS // 4), self.rng.randint(1, 8))]
        data = [self.data(4) for _ in starts]
        self.ns.write_many(starts, b"".join(data), nlb=4)
        for start, piece in zip(starts, data, strict=True):
            self.store(start, piece)
        again = self.ns.read_many(np.array(starts), nlb=4)
        assert again.tobytes() == b"".join(data)

    def do_wrong(self) -> None:
        with pytest.raises(ValueError, match="leaves namespace"):
            self.ns.read(self.ns.nlb, 1)


ACTIONS = sorted(name for name in vars(Caller) if name.startswith("do_"))


@settings(max_examples=60, deadline=None)
@given(setup=SETUPS)
def test_stack_behaves_like_a_dict_in_any_interleaving(setup: Setup) -> None:
    with nvme_emu.open(
        size=setup.callers * BLOCKS * setup.lba_size,
        profile=setup.profile,
        mode=setup.mode,
        worker=setup.worker,
        clock="virtual",
        seed=setup.seed,
        lba_size=setup.lba_size,
        queues=setup.queues,
        depth=setup.depth,
        scheduler=setup.scheduler,
        poison=True,
    ) as ssd:
        callers = [
            Caller(ssd.namespaces[1], index, setup.seed, ssd.runtime) for index in range(setup.callers)
        ]

        def main() -> None:
            tasks = [
                kworker.kthread_run(caller.run, None, "caller%d", index)
                for index, caller in enumerate(callers)
            ]
            for caller, task in zip(callers, tasks, strict=True):
                caller.finished.wait()
                kworker.kthread_stop(task)

        ssd.runtime.run(main)
        for caller in callers:
            if caller.failure is not None:
                raise caller.failure
