"""Events as JSON lines: one object a line, in the order in which they happened.

A trace to a file is a ring in memory: an event costs an append while the machine runs, the last ``events_max``
of them are kept, and they are turned into text when the part they belong to ends. How many were dropped
stands before them, as an event of its own:

    {"ts_ns": 71250, "event": "trace_dropped", "dropped": 1200}
    {"ts_ns": 71250, "event": "nvme_setup_cmd", "request": 7, …}

What cannot be written twice (a pipe, a terminal, /dev/stdout) has a reader who keeps what he wants: there
each event is written when it happens.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections import deque
from os import PathLike
from types import TracebackType
from typing import Any

from nvme_emu.core.trace import as_record

__all__ = ["EVENTS_MAX", "JsonLines"]

EVENTS_MAX = 500_000
"""Events kept of each part of a trace unless told otherwise; about 100 MB of memory."""


class JsonLines:
    """A sink that writes events to a file; a context manager.

    ``events_max`` bounds each part of the trace, ``extra`` is put into each record after the event's name;
    setting it begins a new part. ``kept`` and ``dropped`` count events. OSError if the file cannot be
    opened, and from ``close`` if it could not be written; several threads may emit.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        events_max: int = EVENTS_MAX,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if events_max < 1:
            raise ValueError(f"events_max={events_max}: a trace keeps at least one event")
        self.events_max = events_max
        self.written = 0
        self._dropped = 0
        self._extra = dict(extra or {})
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._streams = not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._lock = threading.Lock()
        self._ring: deque[Any] = deque(maxlen=events_max)
        self._seen = 0
        self._failure: OSError | None = None

    def __call__(self, event: Any) -> None:
        """Take one event."""
        with self._lock:
            if self._streams:
                self._stream(event)
                return
            self._seen += 1
            self._ring.append(event)

    def _stream(self, event: Any) -> None:
        # Whoever emits can do nothing about a reader who has gone or a full disk: close() tells of it.
        if self._failure is None:
            try:
                self._file.write(self._line(event))
                self.written += 1
            except OSError as error:
                self._failure = error

    @property
    def kept(self) -> int:
        """Events that are in the file or will be."""
        return self.written + len(self._ring)

    @property
    def dropped(self) -> int:
        """Events that the ring has lost, the oldest of each part."""
        return self._dropped + self._seen - len(self._ring)

    @property
    def extra(self) -> dict[str, Any]:
        """What is put into each record."""
        return self._extra

    @extra.setter
    def extra(self, extra: dict[str, Any]) -> None:
        with self._lock:
            self._end_part()
            self._extra = dict(extra)

    def _line(self, event: Any) -> str:
        record = as_record(event)
        if self._extra:
            record = {"ts_ns": record.pop("ts_ns"), "event": record.pop("event"), **self._extra, **record}
        return json.dumps(record, separators=(",", ":"), default=str) + "\n"

    def _end_part(self) -> None:
        """Write what the ring holds."""
        ring = self._ring
        dropped = self._seen - len(ring)
        if dropped:
            head = {"ts_ns": ring[0].ts_ns, "event": "trace_dropped", **self._extra, "dropped": dropped}
            self._file.write(json.dumps(head, separators=(",", ":")) + "\n")
        self._file.writelines(self._line(event) for event in ring)
        self.written += len(ring)
        self._dropped += dropped
        self._seen = 0
        ring.clear()

    def close(self) -> None:
        """Write what is kept and close the file. A second call does nothing."""
        with self._lock:
            if not self._file.closed:
                try:
                    self._end_part()
                finally:
                    self._file.close()
                if self._failure is not None:
                    raise self._failure

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
