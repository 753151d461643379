"""The run behind the tour: one write on a live machine, looked at at every event.

The virtual clock and a seed make it the same each time. At each event of ``machine.trace`` the rings are read from
host memory at their addresses, and the state of queues and workers is taken: what a step of the tour shows is what
was there at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import kworker
import nvme_emu
from nvme_emu.core.trace import FetchCmd, Kworker, PostCqe, RaiseIrq, as_record
from nvme_emu.machine import Machine
from nvme_emu.observe.snapshot import Watched, snapshot, watch
from nvme_emu.observe.state import MachineState
from nvme_emu.spec.queues import CQE_SIZE, SQE, SQE_SIZE, Sqe
from nvme_emu.workload.report_capture import Capture, Timeline

__all__ = ["NBYTES", "PAGE", "SLBA", "Many", "Moment", "OneWrite", "many_writes", "one_write", "sample"]

SLBA = 64
NBYTES = 32 << 10
PAGE = 4096
APP_WORK_NS = 5_000
"""What the application of the asynchronous part has to do besides."""
PROFILE = "tlc"


def sample() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The data that is written: each page says which it is."""
    pages = [f"page {index} of the write. ".encode() * 256 for index in range(NBYTES // PAGE)]
    return np.frombuffer(b"".join(page[:PAGE] for page in pages), np.uint8).copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One event, and what was there when it happened. ``ts_ns`` counts from the hand-over.

    ``sqe``, ``cqe`` are the bytes of the slots of this write, ``prp_list`` those that PRP2 points to while the
    command is under way; ``dies_ns`` is what each die has been given to do so far.
    """

    event: Any
    ts_ns: int
    cpu: int | None
    who: str
    state: MachineState
    sqe: bytes
    cqe: bytes
    prp_list: bytes
    dies_ns: tuple[int, ...]

    @property
    def name(self) -> str:
        """The event's name; for the worker room's, which of them."""
        return str(self.event.what if isinstance(self.event, Kworker) else type(self.event).name)

    @property
    def line(self) -> str:
        """The event as a line of the trace; without the request's number, which goes on from machine to machine."""
        record = as_record(self.event)
        for key in ("ts_ns", "request"):
            record.pop(key, None)
        event = record.pop("event")
        if isinstance(self.event, Kworker):
            return f"{event}: {record['what']} {' '.join(str(arg) for arg in record['args'])}"
        return f"{event}: " + " ".join(f"{key}={_plain(value)}" for key, value in record.items())


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWrite:
    """A write from beginning to end. ``returned_ns`` is when the call came back, ``known_ns`` when its caller
    knew the outcome, both from the hand-over; ``stored`` the first bytes on the medium afterwards."""

    mode: str
    moments: tuple[Moment, ...]
    sq_addr: int
    cq_addr: int
    data_addr: int
    returned_ns: int
    known_ns: int
    stored: bytes
    timeline: Timeline

    def moment(self, name: str, nth: int = 0) -> Moment:
        """The ``nth`` event of that name. LookupError if there is none: the tour no longer fits the program."""
        found = [moment for moment in self.moments if moment.name == name]
        if nth >= len(found):
            raise LookupError(f"the {self.mode} write has {len(found)} events {name!r}, and number {nth} is wanted")
        return found[nth]


class _Witness:
    """The sink that takes the moments of queue 1's next command."""

    def __init__(self, machine: Machine, watched: Watched) -> None:
        self._machine = machine
        self._watched = watched
        self._pair = machine.driver.paths[0].pair
        self._origin: int | None = None
        self._latest = 0
        self.moments: list[Moment] = []

    def __call__(self, event: Any) -> None:
        machine, runtime = self._machine, self._machine.runtime
        if self._origin is None:
            self._origin = event.ts_ns
        # The device's clock stands where it was last told of the time; events are in order all the same.
        self._latest = max(self._latest, event.ts_ns)
        device = isinstance(event, FetchCmd | PostCqe | RaiseIrq)
        task = runtime.current()
        latency = machine.controller.latency
        sqe = machine.memory.read(self._pair.sq_addr, SQE_SIZE)
        self.moments.append(
            Moment(
                event=event,
                ts_ns=self._latest - self._origin,
                cpu=None if device else runtime.cpu_id(),
                who="the device" if device else task.comm if task is not None else "interrupt handler",
                state=snapshot(self._watched),
                sqe=sqe,
                cqe=machine.memory.read(self._pair.cq_addr, CQE_SIZE),
                prp_list=self._list(Sqe._make(SQE.unpack(sqe))),
                dies_ns=() if latency is None else tuple(latency.counters.die_busy_ns),
            )
        )

    def _list(self, sqe: Sqe) -> bytes:
        under_way = self._pair.outstanding
        return self._machine.memory.read(sqe.prp2, 8 * (NBYTES // PAGE - 1)) if under_way and sqe.prp2 else b""

    @property
    def origin_ns(self) -> int:
        """The hand-over, on the machine's clock."""
        assert self._origin is not None
        return self._origin


def _as_app(machine: Machine, work: Callable[[], None]) -> None:
    """Run ``work`` as a task called app."""
    done = kworker.Completion(runtime=machine.runtime, name="app")

    def main(_data: object) -> int:
        work()
        done.complete()
        return 0

    task = kworker.kthread_run(main, None, "app", runtime=machine.runtime)
    assert isinstance(task, kworker.TaskStruct)
    done.wait()


def _open(mode: str, seed: int) -> Machine:
    # Fewer than 128 KiB of queue: what is shown of it is its first slot.
    return nvme_emu.open(size="64M", profile=PROFILE, mode=mode, clock="virtual", seed=seed, depth=64)


def one_write(mode: str, seed: int) -> OneWrite:
    """32 KiB to LBA 64, in one of the modes, as the first command of a new queue pair."""
    with _open(mode, seed) as machine:
        namespace, runtime = machine.namespaces[1], machine.runtime
        witness, capture = _Witness(machine, watch(machine)), Capture()
        data = sample()
        stamps = [0, 0]

        def app() -> None:
            machine.trace.add_sink(capture)
            machine.trace.add_sink(witness)
            if mode == "sync":
                namespace.write(SLBA, data)
                stamps[:] = [runtime.now_ns] * 2
            else:
                request = namespace.submit_write(SLBA, data)
                stamps[0] = runtime.now_ns
                runtime.consume(APP_WORK_NS)
                request.wait()
                stamps[1] = runtime.now_ns
            machine.trace.remove_sink(witness)
            machine.trace.remove_sink(capture)

        _as_app(machine, app)
        pair = machine.driver.paths[0].pair
        timeline = capture.picture().timeline
        assert timeline is not None
        stored = bytearray(32)
        machine.media[0].read_into(SLBA * 512, memoryview(stored))
        return OneWrite(
            mode=mode,
            moments=tuple(witness.moments),
            sq_addr=pair.sq_addr,
            cq_addr=pair.cq_addr,
            data_addr=Sqe._make(SQE.unpack(witness.moments[-1].sqe)).prp1,
            returned_ns=stamps[0] - witness.origin_ns,
            known_ns=stamps[1] - witness.origin_ns,
            stored=bytes(stored),
            timeline=timeline,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """Eight writes of 4 KiB one after the other (sync) or at once (async)."""

    mode: str
    writes: int
    elapsed_ns: int
    held_ns: int
    doorbells: int
    interrupts: int
    timeline: Timeline


def many_writes(mode: str, seed: int, writes: int = 8) -> Many:
    """What the modes are like with more than one I/O to do. ``held_ns`` is how long the calls took."""
    with _open(mode, seed) as machine:
        namespace, runtime, capture = machine.namespaces[1], machine.runtime, Capture()
        counted = {"nvme_sq": 0, "raise_irq": 0}
        block = sample()[:PAGE]
        stamps = [0, 0, 0]

        def count(event: Any) -> None:
            if type(event).name in counted:
                counted[type(event).name] += 1

        def app() -> None:
            stamps[0] = runtime.now_ns
            if mode == "sync":
                for index in range(writes):
                    namespace.write(index * 8, block)
                stamps[1] = runtime.now_ns
            else:
                requests = [namespace.submit_write(index * 8, block) for index in range(writes)]
                stamps[1] = runtime.now_ns
                for request in requests:
                    request.wait()
            stamps[2] = runtime.now_ns

        for sink in (capture, count):
            machine.trace.add_sink(sink)
        _as_app(machine, app)
        for sink in (capture, count):
            machine.trace.remove_sink(sink)
        timeline = capture.picture().timeline
        assert timeline is not None
        return Many(
            mode=mode,
            writes=writes,
            elapsed_ns=stamps[2] - stamps[0],
            held_ns=stamps[1] - stamps[0],
            doorbells=counted["nvme_sq"],
            interrupts=counted["raise_irq"],
            timeline=timeline,
        )
