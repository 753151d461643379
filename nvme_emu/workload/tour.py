"""The tour: one write, step by step, from its caller to the flash and back; first sync, then async.

    for step in make_tour(seed=7).steps:
        ...

Every byte, address, time and name in a step comes from the run in :mod:`nvme_emu.workload.tour_run`. How a step is
shown is for :mod:`tour_show` (terminal) and :mod:`tour_page` (docs/tour.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nvme_emu.spec.decode import Decoded
from nvme_emu.spec.queues import CQE_DTYPE, SQE_DTYPE
from nvme_emu.workload.compare_verdict import duration
from nvme_emu.workload.report_capture import Timeline
from nvme_emu.workload.tour_run import Moment

__all__ = ["VERSION", "Dump", "Field", "Step", "Tour", "at", "bytes_of", "fields_of", "make_tour", "moment_step"]

VERSION = 1
"""Of the JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """Bytes of memory: what they are, where they are."""

    label: str
    addr: int | None
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of the bytes shown. ``offset`` in bytes and ``length`` say which of them, -1 for a part of one."""

    offset: int
    length: int
    name: str
    value: str
    words: str
    clause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step. ``ts_ns`` counts from the hand-over, ``cpu`` is None for what no processor of the host does.

    ``calls`` are functions under the kernel's names, ``text`` paragraphs, ``facts`` (label, value) pairs,
    ``event`` the line of the trace that stands for it, ``timelines`` (title, what to draw) for the picture.
    """

    chapter: str
    title: str
    ts_ns: int
    cpu: int | None
    who: str
    calls: str = ""
    text: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    dumps: tuple[Dump, ...] = ()
    fields: tuple[Field, ...] = ()
    zero: str = ""
    """Names of the fields that are zero, and not worth a line."""
    event: str = ""
    timelines: tuple[tuple[str, Timeline], ...] = ()

    @property
    def where(self) -> str:
        """When, on which CPU, and who; empty for what is no moment."""
        if not self.who:
            return ""
        cpu = "" if self.cpu is None else f"CPU {self.cpu} · "
        return f"{at(self.ts_ns)} · {cpu}{self.who}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping; bytes in hexadecimal."""
        return {
            "chapter": self.chapter,
            "title": self.title,
            "ts_ns": self.ts_ns,
            "cpu": self.cpu,
            "who": self.who,
            "calls": self.calls,
            "event": self.event,
            "text": list(self.text),
            "facts": dict(self.facts),
            "bytes": [{"label": d.label, "addr": d.addr, "hex": d.data.hex()} for d in self.dumps],
            "fields": [
                {"offset": f.offset, "name": f.name, "value": f.value, "words": f.words, "clause": f.clause}
                for f in self.fields
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """All steps in order."""

    seed: int
    profile: str
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping in a fixed order."""
        return {
            "version": VERSION,
            "seed": self.seed,
            "profile": self.profile,
            "steps": [{"number": n, **step.to_json()} for n, step in enumerate(self.steps, 1)],
        }


def at(ns: int) -> str:
    """A time after the hand-over."""
    return f"t = {duration(ns) if ns else '0'}"


def make_tour(seed: int = 7, events: Callable[[str, Any], object] | None = None) -> Tour:
    """Run the two writes and tell of them; takes about 0.3 s. ``events(mode, event)`` gets all that happens in them."""
    from nvme_emu.workload.tour_async import async_steps, outcome_steps
    from nvme_emu.workload.tour_run import PROFILE, many_writes, one_write
    from nvme_emu.workload.tour_sync import sync_steps

    sync, mode_async = one_write("sync", seed), one_write("async", seed)
    if events is not None:
        for write in (sync, mode_async):
            for moment in write.moments:
                events(write.mode, moment.event)
    many = many_writes("sync", seed), many_writes("async", seed)
    steps = [*sync_steps(sync), *async_steps(mode_async, sync), *outcome_steps(sync, mode_async, many)]
    return Tour(seed=seed, profile=PROFILE, steps=tuple(steps))


def moment_step(chapter: str, title: str, moment: Moment, **more: Any) -> Step:
    """A step that is one event: its time, CPU, task and line of the trace."""
    step = Step(
        chapter=chapter, title=title, ts_ns=moment.ts_ns, cpu=moment.cpu, who=moment.who, event=moment.line
    )
    return replace(step, **more)


# --- fields of entries ----------------------------------------------------------------------------------


def fields_of(decoded: Decoded, dtype: Any = None) -> tuple[tuple[Field, ...], str]:
    """The fields of a decoded entry that say something, and the names of those that are zero and say nothing.

    ``dtype`` (SQE_DTYPE, CQE_DTYPE) tells where in the bytes each of them is.
    """
    shown: list[Field] = []
    zero: list[str] = []
    for child in decoded.children:
        offset, length = _place(child.name, dtype)
        parts = [part for part in child.children if part.value]
        if not child.value and child.name not in _ALWAYS:
            zero.append(child.name)
            continue
        shown.append(_field(child, offset, length))
        shown += [_field(part, -1, 0) for part in parts]
        zero += [f"{child.name}.{part.name}" for part in child.children if not part.value]
    return tuple(shown), ", ".join(zero)


# Fields that are worth a line also when they are zero.
_ALWAYS = frozenset({"cid", "prp1", "prp2", "sqhd", "sqid", "status_p"})


def _place(name: str, dtype: Any) -> tuple[int, int]:
    if dtype is None:
        return 0, 0
    first = name.partition("_")[0] if name.startswith("cdw") else name
    kind, offset = dtype.fields[first][:2]
    return offset, kind.itemsize * (2 if name == "cdw10_11" else 1)


def _field(node: Decoded, offset: int, length: int) -> Field:
    value = node.value if isinstance(node.value, int) else 0
    digits = (node.nbits + 3) // 4
    text = f"{value:0{digits}x}h" if node.nbits > 4 else str(value)
    return Field(
        offset=offset, length=length, name=node.name, value=text, words=node.words, clause=node.clause
    )


def sqe_fields(decoded: Decoded) -> tuple[tuple[Field, ...], str]:
    """:func:`fields_of` a submission queue entry."""
    return fields_of(decoded, SQE_DTYPE)


def cqe_fields(decoded: Decoded) -> tuple[tuple[Field, ...], str]:
    """:func:`fields_of` a completion queue entry."""
    return fields_of(decoded, CQE_DTYPE)


def bytes_of(field: Field) -> str:
    """Which bytes a field is: ``0``, ``8-15``; empty for a part of a field."""
    if field.offset < 0:
        return ""
    return f"{field.offset}-{field.offset + field.length - 1}" if field.length > 1 else str(field.offset)


def pairs(values: Sequence[tuple[str, object]]) -> tuple[tuple[str, str], ...]:
    """Facts from anything that has words."""
    return tuple((label, str(value)) for label, value in values)
