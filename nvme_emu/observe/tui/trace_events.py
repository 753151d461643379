"""Events in words, and events read back from the lines of a trace file."""

from __future__ import annotations

from typing import Any

import nvme_emu.core.trace as trace
from nvme_emu.observe import trace_file
from nvme_emu.observe.tui.frame import EventState
from nvme_emu.spec.opcodes import opcode_name
from nvme_emu.spec.status import describe

__all__ = ["EVENTS_MAX", "event_of", "event_state", "read_trace"]

EVENTS_MAX = 2_000_000
"""Events that a replay takes from one file; what comes after them is left out, and said."""

_TYPES: dict[str, Any] = {
    kind.name: kind
    for kind in vars(trace).values()
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "name")
}


def event_of(record: dict[str, Any]) -> Any:
    """The event that `as_record` made this of; None for a kind that does not exist here (or "trace_dropped").

    TypeError or ValueError where a field is missing or is no number.
    """
    kind = _TYPES.get(str(record.get("event")))
    if kind is None:
        return None
    values = [record[name] for name in kind._fields]
    if type(values[0]) is not int:
        raise ValueError(f"ts_ns is {values[0]!r}")
    for name, value, wanted in zip(kind._fields, values, kind.__annotations__.values(), strict=True):
        if wanted in ("int", int) and type(value) is not int:
            raise ValueError(f"{name} is {value!r}")
    return kind(*(tuple(value) if isinstance(value, list) else value for value in values))


def read_trace(path: str, *, events_max: int = EVENTS_MAX) -> tuple[list[Any], list[str]]:
    """The events of a trace file in its order, and notes on what is not shown of it.

    It is not sorted: a simulated task runs ahead until it blocks, so that times go back and forth by some
    microseconds, while the order is that of cause and effect. Of a trace of several machines (`compare`) the
    first one's are taken. ValueError where a line is no event, OSError where the file cannot be read.
    """
    notes: list[str] = []
    events: list[Any] = []
    first_row: Any = None
    for record in trace_file.read_trace(path):
        if record["event"] == "trace_dropped":
            notes.append(f"{record.get('dropped')} older events were dropped")
            continue
        if first_row is None:
            first_row = record.get("row", "")
        if record.get("row", "") != first_row:
            notes.append(f"only row {first_row} is shown")
            break
        if len(events) >= events_max:
            notes.append(f"only the first {events_max} events are shown")
            break
        try:
            event = event_of(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {record['event']} at {record['ts_ns']} ns: field {error} is missing or wrong"
            ) from None
        if event is not None:
            events.append(event)
    return events, notes


def event_state(number: int, event: Any) -> EventState:
    """The event as it is shown."""
    qid = getattr(event, "sqid", getattr(event, "qid", None))
    return EventState(
        number=number,
        ts_ns=event.ts_ns,
        name=type(event).name,
        qid=qid,
        cid=getattr(event, "cid", None),
        request=getattr(event, "request", None),
        words=_words(event, qid),
    )


def _words(event: Any, qid: int | None) -> str:
    fields = event._asdict()
    fields.pop("ts_ns")
    if "what" in fields and "args" in fields:
        what = fields["what"].removeprefix("sched_").removeprefix("kthread_work_")
        return f"{what} {' '.join(map(str, fields['args']))}"
    parts: list[str] = []
    if "opcode" in fields and "detail" not in fields:
        parts.append(opcode_name(fields.pop("opcode"), qid == 0))
        nlb, slba = fields.pop("nlb", 0), fields.pop("slba", 0)
        if nlb:
            parts.append(f"{slba}+{nlb}")
        fields.pop("nsid", None)
    for name in ("qid", "sqid", "cqid"):
        fields.pop(name, None)
    if "cid" in fields:
        parts.append(f"cid {fields.pop('cid'):04x}")
    if "request" in fields:
        parts.append(f"request {fields.pop('request')}")
    if "status" in fields:
        parts.append(describe(fields.pop("status")))
    if "is_cq" in fields:
        parts.append(f"{'CQ head' if fields.pop('is_cq') else 'SQ tail'} = {fields.pop('value')}")
    parts += [f"{name} {value}" for name, value in fields.items()]
    return "  ".join(parts)
