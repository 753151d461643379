"""The state that Python and C share, and what C does with it.

Each class here is the base of a class of another room (queues, requests, counters …). Its attributes are what
the hot paths read and write. Where the extension was built they are fields of C structures, and methods such as
``run_compiled`` do plain commands at the memory's speed; else the same classes in Python (``pure``) take their
place, and those methods say that they did nothing. Whatever C does not do, Python does: the meaning is one.

``NVME_EMU_PURE=1`` in the environment leaves the extension out. ``COMPILED`` says which it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = [
    "COMPILED",
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
    "put_answers",
    "take_answers",
    "take_completions",
    "take_reads",
]

_LAYOUT = 8  # NATIVE_LAYOUT in native.h

COMPILED = False

if not TYPE_CHECKING and os.environ.get("NVME_EMU_PURE", "0") in ("", "0"):
    try:
        from nvme_emu._core._native import (
            LAYOUT as _built,
        )
        from nvme_emu._core._native import (
            CountersState,
            CqState,
            DeviceState,
            InFlightState,
            InterruptsState,
            LatencyCountersState,
            LatencyState,
            Lock,
            MemoryState,
            NamespaceState,
            PairState,
            RequestState,
            RingsState,
            SqState,
            memory_barrier,
            put_answers,
            take_answers,
            take_completions,
            take_reads,
        )

        # A build left over from other sources would read other fields.
        COMPILED = _built == _LAYOUT
    except ImportError:  # it was not built, or for another Python
        pass

if TYPE_CHECKING or not COMPILED:
    from nvme_emu._core.capsules import put_answers, take_answers, take_completions, take_reads
    from nvme_emu._core.pure import (
        CountersState,
        CqState,
        DeviceState,
        InFlightState,
        InterruptsState,
        LatencyCountersState,
        LatencyState,
        Lock,
        MemoryState,
        NamespaceState,
        PairState,
        RequestState,
        RingsState,
        SqState,
        memory_barrier,
    )
