"""Events in human words, and filters over them: the work behind `nvme-emu trace show`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from nvme_emu.observe.trace_file import Record, Span, follow
from nvme_emu.spec.events import async_event_words
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode, opcode_name
from nvme_emu.spec.registers import register_at
from nvme_emu.spec.status import describe

__all__ = ["Filter", "opcodes_of", "parse_time_ns", "select", "words_of"]


def _command(r: Record, qid: int | None) -> str:
    name = opcode_name(r["opcode"], qid == 0)
    return f"{name} LBA {r['slba']}+{r['nlb']}" if r.get("nlb") else name


def _register_write(r: Record) -> str:
    found = register_at(r["offset"])
    name = f"offset {r['offset']:#x}" if found is None else found[0].name
    return f"the host writes {r['value']:#x} to {name}"


def _queue_rq(r: Record) -> str:
    # Without blocks it may be an admin command, whose opcodes are others; the next event names it.
    what = f": {_command(r, None)}" if r["nlb"] else ""
    return f"{r['task']} hands over request {r['request']}{what}"


def _kworker(r: Record) -> str:
    args = " ".join(str(arg) for arg in r.get("args", ()))
    return f"{r['what']} {args}"


_WORDS: Final[dict[str, Callable[[Record], str]]] = {
    "nvme_queue_rq": _queue_rq,
    "nvme_setup_cmd": lambda r: (
        f"request {r['request']} becomes a command: q{r['qid']} cid {r['cid']:#06x} {_command(r, r['qid'])}"
    ),
    "nvme_dsm_ranges": lambda r: (
        f"request {r['request']} deallocates "
        + ", ".join(f"LBA {slba}+{nlb}" for slba, nlb in r["ranges"][:4])
        + (f" and {len(r['ranges']) - 4} more ranges" if len(r["ranges"]) > 4 else "")
    ),
    "nvme_sq": lambda r: f"doorbell of q{r['qid']} to {r['tail']}: {r['commands']} commands",
    "nvme_complete_rq": lambda r: f"request {r['request']} ends: {describe(r['status'])}",
    "nvme_wake_rq": lambda r: f"{r['task']} runs again after request {r['request']}",
    "nvme_async_event": lambda r: f"the driver gets an event: {async_event_words(r['result'])}",
    "nvme_change_ctrl_state": lambda r: f"the driver's state: {r['old']} to {r['new']}",
    "fetch_cmd": lambda r: f"the device fetches q{r['sqid']} cid {r['cid']:#06x}: {_command(r, r['sqid'])}",
    "post_cqe": lambda r: f"the device completes q{r['sqid']} cid {r['cid']:#06x}: {describe(r['status'])}",
    "die_busy": lambda r: (
        f"die {r['die']} (channel {r['channel']}): {r['what']} for {(r['end_ns'] - r['begin_ns']) / 1000:.3f} µs"
    ),
    "raise_irq": lambda r: f"interrupt, vector {r['vector']}",
    "register_write": _register_write,
    "doorbell": lambda r: f"the device sees {'CQ' if r['is_cq'] else 'SQ'} {r['qid']} doorbell = {r['value']}",
    "shadow_doorbell": lambda r: f"the device finds {'CQ' if r['is_cq'] else 'SQ'} {r['qid']} shadow = {r['value']}",
    "event_idx": lambda r: f"the device says {'CQ' if r['is_cq'] else 'SQ'} {r['qid']} EventIdx = {r['value']}",
    "async_event": lambda r: f"something to report: type {r['event_type']} info {r['info']} log {r['log_page']:#04x}",
    "controller_state": lambda r: f"the controller: {r['what']}",
    "kworker": _kworker,
    "fault_fired": lambda r: f"fault rule {r['rule']} fires on {r['on']}: {r['effects']} {r['detail']}".rstrip(),
    "check_finding": lambda r: f"the checker: {r['severity']}: {r['rule']}: {r['what']}",
    "trace_dropped": lambda r: f"{r['dropped']} earlier events are not in the trace",
}


def words_of(record: Record) -> str:
    """What happened, in words; the fields as they are for events that this version does not know."""
    words = _WORDS.get(record["event"])
    if words is not None:
        try:
            return words(record)
        except (KeyError, TypeError, ValueError):
            pass  # a field is missing or of another kind: show what there is
    skip = ("ts_ns", "event", "row")
    return " ".join(f"{key}={value}" for key, value in record.items() if key not in skip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events are wanted; None and empty mean all. Times are ns since the trace began, ends included.

    ``opcodes`` are (admin, opcode) pairs. An event is of a queue, opcode or block range if the command is that
    it belongs to.
    """

    qid: int | None = None
    opcodes: frozenset[tuple[bool, int]] = frozenset()
    lba: tuple[int, int] | None = None
    from_ns: int | None = None
    to_ns: int | None = None
    events: frozenset[str] = frozenset()
    request: int | None = None
    failed: bool = False

    def wants(self, record: Record, span: Span | None, start_ns: int) -> bool:
        """Whether this record passes; ``span`` is its command, read through to the end of the trace."""
        at_ns = record["ts_ns"] - start_ns
        if (self.from_ns is not None and at_ns < self.from_ns) or (self.to_ns is not None and at_ns > self.to_ns):
            return False
        if self.events and record["event"] not in self.events:
            return False
        if self.qid is not None:
            own = record.get("qid", record.get("sqid"))
            if self.qid != (span.qid if span is not None else own):
                return False
        return self._wants_command(span)

    def _wants_command(self, span: Span | None) -> bool:
        if not (self.opcodes or self.lba is not None or self.request is not None or self.failed):
            return True
        if span is None:
            return False
        if self.opcodes and (span.qid == 0, span.opcode) not in self.opcodes:
            return False
        if self.lba is not None and not (span.nlb and span.slba <= self.lba[1] and self.lba[0] < span.slba + span.nlb):
            return False
        if self.request is not None and span.request != self.request:
            return False
        return not self.failed or bool(span.status)


def select(records: Iterable[Record], wanted: Filter) -> Iterator[tuple[int, Record]]:
    """(ns since the begin, record) of those that are wanted. Reads the whole trace first."""
    found = list(follow(records))
    start_ns = min((record["ts_ns"] for record, _ in found), default=0)
    for record, span in found:
        if wanted.wants(record, span, start_ns):
            yield record["ts_ns"] - start_ns, record


_UNITS: Final = {"": 1, "ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)")


def parse_time_ns(text: str) -> int:
    """ "12.5us" in nanoseconds; a bare number is nanoseconds. ValueError for anything else."""
    found = _TIME.fullmatch(text.strip())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a time such as 1500, 12.5us, 3ms or 1s")
    return round(float(found[1]) * _UNITS[found[2]])


def opcodes_of(text: str) -> frozenset[tuple[bool, int]]:
    """(admin, opcode) pairs of a name ("read", "get log page") or a number, which means both sets.

    ValueError for a name that no command has.
    """
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number >= 0:
        return frozenset({(True, number), (False, number)})
    name = text.lower().replace("-", " ").replace("_", " ")
    sets: tuple[tuple[bool, Any], ...] = ((True, AdminOpcode), (False, NvmOpcode))
    found = frozenset(
        (admin, int(opcode)) for admin, kind in sets for opcode in kind if opcode_name(opcode, admin).lower() == name
    )
    if not found:
        raise ValueError(f"{text!r}: no command is called so")
    return found
