"""The shared state without a compiler: the same attributes, and methods that leave the work to Python."""

from __future__ import annotations

import _thread
import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = [
    "CountersState",
    "CqState",
    "DeviceState",
    "InFlightState",
    "InterruptsState",
    "LatencyCountersState",
    "LatencyState",
    "Lock",
    "MemoryState",
    "NamespaceState",
    "PairState",
    "RequestState",
    "RingsState",
    "SqState",
    "memory_barrier",
]

_NO_VIEW = memoryview(b"")


def _poll(flag: Callable[[], bool], ns: int) -> bool:
    end_ns = time.perf_counter_ns() + ns
    while not flag() and time.perf_counter_ns() < end_ns:
        time.sleep(0)  # lets go of the interpreter, which the others need to come to an end
    return flag()


_serials = itertools.count(1)
_fence = _thread.allocate_lock()


def memory_barrier() -> None:
    """What was stored before is seen by every processor before anything is loaded after it: a lock sees to that."""
    with _fence:
        pass


class MemoryState:
    """Host memory: ``generation`` and the table of regions that C searches."""

    __slots__ = ("__dict__", "__weakref__", "_next_base", "generation")

    def __init__(self) -> None:
        self.generation: int = 0
        self._next_base: int = 0

    def _table_add(self, base: int, view: memoryview, writable: bool) -> None:
        """Let C find the region."""

    def _table_remove(self, base: int) -> None:
        """C finds it no more."""

    def _table_window(self, base: int) -> None:
        """Let C find a window at ``base``, which shows nothing at first."""

    def _table_show(self, base: int, view: memoryview, writable: bool) -> None:
        """What C finds in the window at ``base``."""

    def _table_hide(self, base: int) -> None:
        """C finds nothing there."""


class CountersState:
    """What the device has done, as far as plain commands change it."""

    __slots__ = (
        "busy_ns", "dropped", "fetched", "posted", "read_bytes", "read_commands", "write_bytes", "write_commands",
    )  # fmt: skip

    def __init__(self) -> None:
        self.fetched: int = 0
        self.posted: int = 0
        self.dropped: int = 0
        self.read_commands: int = 0
        self.write_commands: int = 0
        self.read_bytes: int = 0
        self.write_bytes: int = 0
        self.busy_ns: int = 0


class RingsState:
    """``generation`` of host memory when the rings' memory was last looked up."""

    __slots__ = ("__dict__", "__weakref__", "cqs", "generation", "sqs")

    def __init__(self) -> None:
        self.generation: int = 0
        self.sqs: dict[int, Any] = {}
        self.cqs: dict[int, Any] = {}


class CqState:
    """A completion queue of the device."""

    __slots__ = (
        "backlog", "base", "blocked", "free", "head", "ien", "phase", "qid", "size", "sqs", "tail", "vector", "view",
    )  # fmt: skip

    def __init__(self) -> None:
        self.qid: int = 0
        self.base: int = 0
        self.size: int = 0
        self.vector: int = 0
        self.ien: bool = False
        self.head: int = 0
        self.tail: int = 0
        self.phase: int = 0
        self.free: int = 0
        self.sqs: int = 0
        self.blocked: deque[Any] = deque()
        self.backlog: deque[Any] = deque()
        self.view: memoryview = _NO_VIEW


class SqState:
    """A submission queue of the device; ``live`` until it is deleted."""

    __slots__ = ("base", "cq", "head", "in_line", "inflight", "live", "qid", "size", "tail", "view")

    def __init__(self) -> None:
        self.qid: int = 0
        self.base: int = 0
        self.size: int = 0
        self.head: int = 0
        self.tail: int = 0
        self.inflight: int = 0
        self.in_line: bool = False
        self.live: bool = False
        self.view: memoryview = _NO_VIEW
        self.cq: Any = None


class NamespaceState:
    """A namespace of the device; ``view`` is its memory, None where it does not lie in memory."""

    __slots__ = ("lba_shift", "nsid", "nsze", "view")

    def __init__(self) -> None:
        self.nsid: int = 0
        self.lba_shift: int = 0
        self.nsze: int = 0
        self.view: memoryview | None = None


class InterruptsState:
    """The vectors of a device: those raised and not taken, and a flag for each in the others."""

    __slots__ = ("__dict__", "__weakref__", "_is_raised", "_pending", "masked", "raised")

    def __init__(self) -> None:
        self.raised: list[int] = []
        self.masked = bytearray()
        self._is_raised = bytearray()
        self._pending = bytearray()


class InFlightState:
    """Commands in flight. ``light`` counts those that C keeps and for which there are no objects yet."""

    __slots__ = ("__dict__", "__weakref__", "_busy_since_ns", "_commands", "_counters", "_sequence", "_timed", "due")
    light: int = 0

    def __init__(self) -> None:
        self._busy_since_ns: int = 0
        self._sequence: int = 0
        self._timed: int = 0
        self._commands: dict[tuple[int, int], Any] = {}
        self.due: list[Any] = []
        self._counters: Any = None

    def light_ns(self) -> int | None:
        """When the first of the light ones is due."""
        return None

    def take_light(self) -> list[tuple[int, int, Any, bytes]]:
        """[(done_ns, sequence, queue, entry)]: they are objects from now on."""
        return []


class LatencyCountersState:
    """What the clocks of a device have counted."""

    __slots__ = (
        "channel_busy_ns", "die_busy_ns", "erases", "host_read_bytes", "host_write_bytes", "media_read_bytes",
        "media_write_bytes", "read_link_busy_ns", "retries", "write_link_busy_ns",
    )  # fmt: skip

    def __init__(self) -> None:
        self.host_read_bytes: int = 0
        self.host_write_bytes: int = 0
        self.media_read_bytes: int = 0
        self.media_write_bytes: int = 0
        self.erases: int = 0
        self.retries: int = 0
        self.read_link_busy_ns: int = 0
        self.write_link_busy_ns: int = 0
        self.die_busy_ns: list[int] = []
        self.channel_busy_ns: list[int] = []


class LatencyState:
    """The clocks of a device that a read moves, and what of its profile is needed for that."""

    __slots__ = (
        "__dict__", "__weakref__", "_bus", "_bus_free", "_channels", "_command_free", "_command_ns", "_compiled",
        "_die_free", "_dies", "_jitter_ns", "_page", "_program_end", "_read_link", "_read_link_free", "_read_ns",
        "_read_overhead_ns", "_read_types", "_register", "_retry_below", "_retry_ns", "_rng", "_scatters", "counters",
    )  # fmt: skip

    def __init__(self) -> None:
        self._compiled: bool = False
        self._scatters: bool = False
        self._rng: Any = None
        self._dies: int = 0
        self._channels: int = 0
        self._page: int = 0
        self._read_ns: tuple[int, ...] = ()
        self._read_types: int = 0
        self._command_ns: int = 0
        self._read_overhead_ns: int = 0
        self._bus: int = 0
        self._read_link: int = 0
        self._jitter_ns: int = 0
        self._retry_below: int = 0
        self._retry_ns: int = 0
        self._command_free: int = 0
        self._read_link_free: int = 0
        self._bus_free: list[int] = []
        self._die_free: list[int] = []
        self._program_end: list[int] = []
        self._register: list[int] = []
        self.counters: Any = None


class DeviceState:
    """What a controller's hot path looks at. ``faults`` is None while nothing may interfere; with ``sgl_blocks`` a
    command whose SGL is one data block is plain, too.
    """

    __slots__ = (
        "__dict__", "__weakref__", "counters", "faults", "inflight", "interrupts", "latency", "line", "memory",
        "namespaces", "now_ns", "page_size", "posting", "rings", "running", "sgl_blocks", "step_commands_max", "timers",
        "trace", "transfer_bytes_max", "write_through",
    )  # fmt: skip

    def __init__(self) -> None:
        self.running: bool = False
        self.posting: bool = False
        self.write_through: bool = False
        self.sgl_blocks: bool = False
        self.page_size: int = 0
        self.step_commands_max: int = 0
        self.transfer_bytes_max: int = 0
        self.now_ns: int = 0
        self.memory: Any = None
        self.rings: Any = None
        self.counters: Any = None
        self.namespaces: Any = None
        self.latency: Any = None
        self.trace: Any = None
        self.faults: Any = None
        self.inflight: Any = None
        self.interrupts: Any = None
        self.line: Any = None
        self.timers: Any = None

    def run_compiled(self, sq: SqState, count: int) -> int:
        """Do the leading plain commands of a queue, at most ``count``; how many were done."""
        return 0

    def ring_compiled(self, qid: int, tail: int, now_ns: int) -> tuple[tuple[int, ...], int | None] | None:
        """``dispatch.doorbell_sq``; None if nothing was done."""
        return None

    def head_compiled(self, qid: int, head: int, now_ns: int) -> bool:
        """``dispatch.doorbell_cq`` where nothing follows from it; False if nothing was done."""
        return False

    def due_compiled(self, now_ns: int) -> tuple[tuple[int, ...], int | None] | None:
        """``dispatch.due``; None if nothing was done."""
        return None

    def end_compiled(self) -> bool:
        """``dispatch.end_due``; False if nothing was done."""
        return False


class RequestState:
    """The fields of a request; see ``driver.request.Request``."""

    __slots__ = (
        "_callbacks", "_completion", "_path", "_status", "admin", "array", "batch", "cdw12", "cdw13", "cdw14",
        "cdw15", "cid", "data", "done", "dw0", "dw1", "iova", "nbytes", "nlb", "nsid", "opcode", "qid", "region",
        "serial", "slba", "to_device",
    )  # fmt: skip

    def __init__(
        self,
        opcode: int,
        nsid: int,
        slba: int = 0,
        nlb: int = 0,
        cdw12: int = 0,
        data: memoryview | None = None,
        to_device: bool = False,
        array: Any = None,
    ) -> None:
        self.opcode = opcode
        self.nsid = nsid
        self.slba = slba
        self.nlb = nlb
        self.cdw12 = cdw12
        self.cdw13: int = 0
        self.cdw14: int = 0
        self.cdw15: int = 0
        self.data = data
        self.nbytes: int = 0 if data is None else len(data)
        self.to_device = to_device
        self.array = array
        self.admin: bool = False
        self.batch: bool = False
        self.iova: int | None = None
        self.region: Any = None
        self.qid: int = -1
        self.cid: int = -1
        self.dw0: int = 0
        self.dw1: int = 0
        self.done: bool = False
        self.serial: int = next(_serials)
        self._status: int = 0
        self._completion: Any = None
        self._callbacks: list[Any] | None = None
        self._path: Any = None

    def poll(self, ns: int) -> bool:
        """Wait until ``done`` is set or ``ns`` have passed; gives ``done``."""
        return _poll(lambda: self.done, ns)


class PairState:
    """The host's side of a queue pair. ``_free`` and ``_cids`` are the lists of its ``tags``.

    ``bell`` is for a worker that polls: who has something for it sets it.
    """

    __slots__ = (
        "__dict__", "__weakref__", "_batched", "_cids", "_free", "_list_addr", "_list_tag",
        "_list_view", "_memory", "_opened", "_window_base", "bell", "bells_view", "cq_view", "depth",
        "events_view", "head", "inflight", "outstanding", "phase", "qid", "rung_tail", "sq_view",
        "sqhd", "tail",
    )  # fmt: skip

    def __init__(self) -> None:
        self.qid: int = 0
        self.depth: int = 0
        self.tail: int = 0
        self.rung_tail: int = 0
        self.head: int = 0
        self.phase: int = 0
        self.sqhd: int = 0
        self.outstanding: int = 0
        self._batched: int = 0
        self.bell: bool = False
        self._window_base: int = 0
        self._list_addr: int = 0
        self._list_tag: int = -1
        self._memory: Any = None
        self._opened: list[Any] = []
        self._free: list[int] = []
        self._cids: list[int] = []
        self.inflight: list[Any] = []
        self.sq_view: memoryview = _NO_VIEW
        self.cq_view: memoryview = _NO_VIEW
        self._list_view: memoryview = _NO_VIEW
        self.bells_view: memoryview = _NO_VIEW
        self.events_view: memoryview = _NO_VIEW

    def prepare_plain(self, rq: RequestState) -> bool:
        """``prepare`` of a request that needs no PRP list; False if it was not done."""
        return False

    def reap_plain(self, done: list[Any]) -> int:
        """``reap`` up to the first completion that is not of such a request; how many were taken."""
        return 0

    def poll(self, ns: int) -> bool:
        """Wait until ``bell`` is set or ``ns`` have passed; gives the bell."""
        return _poll(lambda: self.bell, ns)

    def open_lane(
        self, device: Any, sq: Any, line: Any, raised: Any, masked: Any, handlers: Any, handler: Any, locks: Any
    ) -> None:
        """Let ``exchange_plain`` and ``exchange_many`` reach the device while all of these are idle."""

    def exchange_plain(self, opcode: int, nsid: int, slba: int, cdw12: int, data: Any, nbytes: int) -> bool:
        """One read or write from its entry to its end. True if it has succeeded, False if nothing was done."""
        return False

    def exchange_many(
        self, opcode: int, nsid: int, slbas: Any, nlb: int, width: int, blocks: int, data: Any
    ) -> int:
        """Reads or writes of ``width`` bytes each over one buffer: how many, from the first, have succeeded."""
        return 0


class Lock(_thread.RLock):  # type: ignore[misc]  # final only in the stub
    """A recursive lock that tells whether it is held. (C reads that without a call.)"""

    __slots__ = ()

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it, the caller included."""
        return not self.held() and self.acquire(blocking=False)

    held: Callable[[], bool] = _thread.RLock._is_owned  # type: ignore[attr-defined]
    """Whether the caller holds it."""

    def locked(self) -> bool:
        """Whether anybody holds it."""
        if self.held():
            return True
        if self.acquire(blocking=False):
            self.release()
            return False
        return True
