"""Every kind of fault against the driver: what becomes of the requests, and of the data.

A run writes and reads blocks that carry their own number, version and CRC, while one fault (or two) are armed, and
then asks three things. Has each request ended, exactly once? Was an error reported, or did the driver get over it?
Does each block hold what was last acknowledged, and if not, does its CRC or its version tell?

The page docs/faults.md shows the outcomes as a table, which `tools/make_fault_matrix.py` writes.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import kworker
from kworker import SimDeadlock, SimLivelock
from nvme_emu.core.errors import NvmeError
from nvme_emu.machine import Machine, MachineConfig

if TYPE_CHECKING:
    from nvme_emu.driver import Request

__all__ = ["CASES", "Case", "Outcome", "run_case"]

BLOCK = 4096
BLOCKS = 24
_HEADER = struct.Struct("<QQI")
READS_AGAIN = 2
ERRORS_MAX = 8
"""After so many errors the program that does the I/O gives up."""


@dataclass(frozen=True, slots=True)
class Case:
    """A fault: its name in the table, and its rules as in a file. ``loses_cache``: what was not flushed may go."""

    name: str
    kind: str
    rules: tuple[dict[str, Any], ...]
    loses_cache: bool = False


def _io(
    then: dict[str, Any], opcode: Any = ("write", "read"), nth: int | list[int] | None = 5, **match: Any
) -> dict[str, Any]:
    when = {} if nth is None else {"when": {"nth": nth}}
    opcodes = list(opcode) if isinstance(opcode, tuple) else opcode
    return {"match": {"opcode": opcodes, **match}, **when, "then": then}


def _on(on: str, then: dict[str, Any], when: dict[str, Any] | None = None, **match: Any) -> dict[str, Any]:
    return {"match": {"on": on, **match}, **({"when": when} if when else {}), "then": then}


_CFS = _io({"cfs": {}})
_ALWAYS = None

CASES: tuple[Case, ...] = (
    Case("a status, once", "status", (_io({"status": {"code": "WRITE_FAULT"}}),)),
    Case("a status with Do Not Retry", "status", (_io({"status": {"code": "WRITE_FAULT", "dnr": True}}),)),
    Case("a status at every read", "status", (_io({"status": {"code": "READ_ERROR"}}, "read", _ALWAYS),)),
    Case("a status, although it had its effect", "status", (_io({"status": {"code": "INTERNAL", "executed": True}}),)),
    Case("bad blocks", "media_error", (_io({"media_error": {"grown": True}}, "read", lba=[0, 191]),)),
    Case("bits flipped in a read", "corrupt", (_io({"corrupt": {"how": "bit_flip"}}, "read"),)),
    Case("bits flipped in a write", "corrupt", (_io({"corrupt": {"how": "bit_flip"}}, "write"),)),
    Case("a torn write", "corrupt", (_io({"corrupt": {"how": "torn"}}, "write"),)),
    Case("a lost write", "corrupt", (_io({"corrupt": {"how": "stale"}}, "write"),)),
    Case("a misdirected write", "corrupt", (_io({"corrupt": {"how": "misdirected"}}, "write"),)),
    Case("a misdirected read", "corrupt", (_io({"corrupt": {"how": "misdirected"}}, "read"),)),
    Case("no completion", "drop", (_io({"drop": {}}),)),
    Case("no completion, but the effect", "drop", (_io({"drop": {"executed": True}}),)),
    Case("no completion, and no Abort", "drop", (_io({"drop": {"abortable": False}}),)),
    Case("no completion, of the Abort neither", "drop", (
        _io({"drop": {"abortable": False}}),
        _io({"drop": {}}, "abort", 1),
    )),
    Case("no completion of any read", "drop", (_io({"drop": {}}, "read", _ALWAYS),)),
    Case("late by 5 ms", "delay", (_io({"delay": {"ns": "5ms"}}),)),
    Case("late by 40 s", "delay", (_io({"delay": {"ns": "40 s"}}),)),
    Case("completed twice", "duplicate", (_io({"duplicate": {}}),)),
    Case("completed twice, 1 ms apart", "duplicate", (_io({"duplicate": {"after_ns": "1ms"}}),)),
    Case("overtaken", "reorder", (_io({"reorder": {"behind": 2}}),)),
    Case("of an old generation", "cqe", (_io({"cqe": {"cid_xor": 0x1000}}),)),
    Case("of a command that never was", "cqe", (_io({"cqe": {"cid": 0x0FFE}}),)),
    Case("of the neighbour's command", "cqe", (_io({"cqe": {"cid_xor": 1}}, "read"),)),
    Case("of another queue (SQID)", "cqe", (_io({"cqe": {"sqid": 7}}),)),
    Case("with a wrong SQHD", "cqe", (_io({"cqe": {"sqhd": 999}}),)),
    Case("with a wrong phase", "cqe", (_io({"cqe": {"phase": True}}),)),
    Case("phase before the rest", "torn_cqe", (_io({"torn_cqe": {}}),)),
    Case("fatal status; Identify with another MDTS", "payload", (
        _CFS,
        _io({"payload": {"patches": [{"offset": 77, "bytes": "01"}]}}, "identify", 1),
    )),
    Case("fatal status; no queues are granted", "status", (
        _CFS,
        _io({"status": {"code": "INVALID_FIELD", "dnr": True}}, "set_features", 1),
    )),
    Case("interrupt lost", "interrupt", (_on("interrupt", {"interrupt": {"how": "lost"}}, {"nth": 3}, vector=1),)),
    Case("every interrupt lost", "interrupt", (_on("interrupt", {"interrupt": {"how": "lost"}}, vector=1),)),
    Case("interrupt late by 2 ms", "interrupt", (
        _on("interrupt", {"interrupt": {"how": "late", "ns": "2ms"}}, vector=1),
    )),
    Case("spurious interrupts", "interrupt", (_io({"interrupt": {"how": "spurious", "vector": 1}}, nth=_ALWAYS),)),
    Case("SQ doorbell lost", "doorbell", (
        _on("doorbell", {"doorbell": {"how": "lost"}}, {"nth": 2}, doorbell="sq", queue=1),
    )),
    Case("SQ doorbell stuck", "doorbell", (_on("doorbell", {"doorbell": {"how": "lost"}}, doorbell="sq", queue=1),)),
    Case("SQ doorbell late by 2 ms", "doorbell", (
        _on("doorbell", {"doorbell": {"how": "late", "ns": "2ms"}}, doorbell="sq", queue=1),
    )),
    Case("CQ doorbell stuck", "doorbell", (_on("doorbell", {"doorbell": {"how": "lost"}}, doorbell="cq", queue=1),)),
    Case("CSTS lies: fatal status", "register", (
        _io({"drop": {}}),
        _on("register", {"register": {"value": 2, "mask": 2}}, {"times": 3}, register="CSTS", access="read"),
    )),
    Case("CC cannot be written", "register", (
        _CFS,
        _on("register", {"register": {"ignore": True}}, register="CC", access="write"),
    )),
    Case("fatal status; RDY comes late", "stall", (_CFS, _on("enable", {"stall": {"ns": "1 s"}}))),
    Case("fatal status; RDY never comes", "stall", (_CFS, _on("enable", {"stall": {}}))),
    Case("fatal status; RDY never goes", "stall", (_CFS, _on("disable", {"stall": {}}))),
    Case("shutdown never ends", "stall", (_on("shutdown", {"stall": {}}),)),
    Case("fatal status (CSTS.CFS)", "cfs", (_CFS,)),
    Case("fatal status three times", "cfs", (_io({"cfs": {}}, nth=[3, 9, 15]),)),
    Case("reset by itself", "reset", (_io({"reset": {}}),), loses_cache=True),
    Case("reset by itself, CSTS.NSSRO", "reset", (_io({"reset": {"nssro": True}}),), loses_cache=True),
    Case("removed", "remove", (_io({"remove": {}}),), loses_cache=True),
    Case("removed, and back after 1 ms", "remove", (_io({"remove": {"return_ns": "1ms"}}),), loses_cache=True),
    Case("power lost", "power_loss", (_io({"power_loss": {}}),), loses_cache=True),
    Case("power lost for 1 ms", "power_loss", (_io({"power_loss": {"off_ns": "1ms"}}),), loses_cache=True),
    Case("too hot", "temperature", (_io({"temperature": {"kelvin": 400}}),)),
    Case("firmware activation, 50 ms", "pause", (_io({"pause": {"ns": "50ms"}}),)),
    Case("firmware activation, 40 s", "pause", (_io({"pause": {"ns": "40 s"}}),)),
    Case("firmware activation, 10 minutes", "pause", (_io({"pause": {"ns": "600 s"}}),)),
)  # fmt: skip
"""What the table has a line for. ``tcp`` needs a connection and is tested there."""


def _block(number: int, version: int) -> bytes:
    body = struct.pack("<QQ", number, version) * ((BLOCK - _HEADER.size) // 16)
    body = body.ljust(BLOCK - _HEADER.size, b"\x5a")
    return _HEADER.pack(number, version, zlib.crc32(body)) + body


def _version_of(number: int, data: bytes) -> int | None:
    """The version of block `number` that `data` is; None if it is not one, and anybody can tell."""
    found, version, crc = _HEADER.unpack_from(data)
    if found != number or zlib.crc32(data[_HEADER.size :]) != crc:
        return None
    return int(version)


@dataclass(slots=True)
class Outcome:
    """What became of a run."""

    case: str
    mode: str
    fired: int = 0
    requests: int = 0
    ended: int = 0
    ended_twice: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    """Blocks whose CRC or number is wrong."""
    stale: int = 0
    """Blocks that hold an earlier version than was acknowledged."""
    cache_lost: int = 0
    """Likewise, where the fault takes the volatile cache and nobody had flushed."""
    counters: dict[str, int] = field(default_factory=dict)
    events: int = 0
    state: str = ""
    hang: str = ""
    closing: str = ""

    @property
    def is_clean(self) -> bool:
        """Nothing hung, and every request ended exactly once."""
        return not self.hang and self.ended == self.requests and not self.ended_twice

    def words(self) -> str:
        """The cell of the table."""
        if self.hang or not self.is_clean:
            return f"**HANGS OR LOSES REQUESTS** {self.hang}"
        said = list(self._recovery_words())
        said += [f"{count} {name}" for name, count in sorted(self.errors.items())]
        if self.damaged:
            said.append(f"{self.damaged} damaged, found by CRC")
        if self.stale:
            said.append(f"{self.stale} old, found by version")
        if self.cache_lost:
            said.append(f"{self.cache_lost} unflushed writes lost, found by version")
        if self.closing:
            said.append(f"close: {self.closing}")
        return "; ".join(said) or "nothing to be seen"

    def _recovery_words(self) -> Iterator[str]:
        words = {"polled": "polled", "aborts": "abort", "resets": "reset", "retries": "retry"}
        many = {"polled": "polled", "aborts": "aborts", "resets": "resets", "retries": "retries"}
        for key, word in words.items():
            count = self.counters.get(key, 0)
            if count:
                yield f"{count} {word if count == 1 else many[key]}"
        if self.events:
            yield f"{self.events} event{'s' * (self.events > 1)} noted"
        if self.state != "live":
            yield self.state


class _Run:
    """One run; ``acknowledged`` and ``possible`` are the model of the disk."""

    def __init__(self, case: Case, mode: str, seed: int, scheduler: Any, options: dict[str, Any]) -> None:
        self.case = case
        self.outcome = Outcome(case.name, mode)
        self.config = MachineConfig(
            size="1M", mode=mode, clock="virtual", seed=seed, scheduler=scheduler, **{"depth": 16, **options}
        )
        self.acknowledged = dict.fromkeys(range(BLOCKS), 0)
        self.durable = dict(self.acknowledged)
        self.possible = {number: {0} for number in range(BLOCKS)}
        self.calls: dict[int, int] = {}
        self.found: dict[str, set[int]] = {"damaged": set(), "stale": set(), "cache_lost": set()}

    def run(self) -> Outcome:
        outcome = self.outcome
        ssd = Machine(self.config)
        try:
            self._work(ssd)
        except (SimDeadlock, SimLivelock) as error:
            outcome.hang = str(error).splitlines()[0]
        outcome.state = ssd.driver.state.value
        outcome.events = sum(ssd.driver.events.counts.values())
        outcome.counters = ssd.driver.recovery.counters.as_dict()
        outcome.fired = sum(handle.fired for handle in ssd.faults)
        try:
            ssd.close()
        except (SimDeadlock, SimLivelock) as error:
            outcome.hang = str(error).splitlines()[0]
        except NvmeError as error:
            outcome.closing = _name(error)
        outcome.fired = max(outcome.fired, sum(handle.fired for handle in ssd.faults))
        return outcome

    def _work(self, ssd: Machine) -> None:
        ns = ssd.namespaces[1]
        for number in range(BLOCKS):
            ns.write(number * 8, _block(number, 0))
        ns.flush()
        ssd.faults.load(list(self.case.rules))
        half = BLOCKS // 2
        self._write(ssd, range(half), 1)
        self._flush(ssd)
        self._write(ssd, range(half, BLOCKS), 1)
        self._write(ssd, range(0, BLOCKS, 3), 2)
        for _ in range(READS_AGAIN):
            self._read(ssd)
        if "shutdown" not in {rule["match"].get("on") for rule in self.case.rules}:
            for handle in ssd.faults:
                handle.disarm()
        ssd.driver.recovery.flush()
        for worker in ssd.workers:
            # Who waits for a request may run before its callback does.
            kworker.kthread_flush_worker(worker)
        self.outcome.ended = len(self.calls)
        self.outcome.ended_twice = sum(1 for times in self.calls.values() if times > 1)
        self._audit(ssd)

    def _submit(self, ssd: Machine, method: str, *args: Any) -> Request | None:
        """Start a request that counts its ends; None where the driver refuses it at once."""
        namespace = ssd.namespaces.get(1)
        if sum(self.outcome.errors.values()) >= ERRORS_MAX:
            return None
        self.outcome.requests += 1
        number = self.outcome.requests

        def ended(_request: Request) -> None:
            self.calls[number] = self.calls.get(number, 0) + 1

        try:
            if namespace is None:
                raise NvmeError(errno.ENODEV, "the namespace is gone")
            request: Request = getattr(namespace, method)(*args, callback=ended)
            return request
        except NvmeError as error:
            self.calls[number] = 1
            self._error(error)
            return None

    def _error(self, error: NvmeError) -> None:
        name = _name(error)
        self.outcome.errors[name] = self.outcome.errors.get(name, 0) + 1

    def _result(self, request: Request | None) -> Any:
        """(True, data) or (False, None)."""
        if request is None:
            return False, None
        try:
            return True, request.wait()
        except NvmeError as error:
            self._error(error)
            return False, None

    def _write(self, ssd: Machine, numbers: Sequence[int], version: int) -> None:
        started = []
        for number in numbers:
            self.possible[number].add(version)
            started.append((number, self._submit(ssd, "submit_write", number * 8, _block(number, version))))
        for number, request in started:
            if self._result(request)[0]:
                self.acknowledged[number] = version

    def _flush(self, ssd: Machine) -> None:
        written = dict(self.acknowledged)
        # What a device has lost before the flush, the flush cannot save.
        intact = not any(handle.fired for handle in ssd.faults)
        if self._result(self._submit(ssd, "submit_flush"))[0] and intact:
            self.durable = written

    def _read(self, ssd: Machine) -> None:
        started = [(n, self._submit(ssd, "submit_read", n * 8, 8)) for n in range(BLOCKS)]
        for number, request in started:
            succeeded, data = self._result(request)
            if succeeded:
                self._judge(number, data.tobytes())

    def _audit(self, ssd: Machine) -> None:
        """What is on the medium in the end, whoever is still there to read it."""
        media = ssd.controller.namespaces[1].media
        for number in range(BLOCKS):
            data = bytearray(BLOCK)
            media.read_into(number * BLOCK, memoryview(data))
            self._judge(number, bytes(data))

    def _judge(self, number: int, data: bytes) -> None:
        version = _version_of(number, data)
        if version is None or version not in self.possible[number]:
            what = "damaged"
        elif version >= self.acknowledged[number]:
            return
        elif self.case.loses_cache and version >= self.durable[number]:
            what = "cache_lost"
        else:
            what = "stale"
        self.found[what].add(number)
        setattr(self.outcome, what, len(self.found[what]))


def _name(error: NvmeError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def run_case(
    case: Case, mode: str, *, seed: int = 0, scheduler: Any = None, **options: Any
) -> Outcome:
    """Run a case in ``mode`` "sync" or "async"; ``options`` are further fields of MachineConfig."""
    return _Run(case, mode, seed, scheduler, options).run()
