"""Events as JSON lines: one object a line, in the order in which they happened."""

from __future__ import annotations

import json
import threading
from os import PathLike
from types import TracebackType
from typing import Any

from nvme_emu.core.trace import as_record

__all__ = ["JsonLines"]


class JsonLines:
    """A sink that writes each event to a file; a context manager.

    ``{"ts_ns": 71250, "event": "nvme_setup_cmd", "request": 7, …}``. ``events_max`` bounds the file: later
    events are counted in ``dropped`` and not written. ``extra`` is put into each record, after the event's
    name. OSError if the file cannot be written; several threads may emit.
    """

    def __init__(
        self, path: str | PathLike[str], *, events_max: int = 10_000_000, extra: dict[str, Any] | None = None
    ) -> None:
        self.events_max = events_max
        self.written = 0
        self.dropped = 0
        self.extra = dict(extra or {})
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._lock = threading.Lock()

    def __call__(self, event: Any) -> None:
        """Write one event."""
        with self._lock:
            if self.written >= self.events_max:
                self.dropped += 1
                return
            self.written += 1
            record = as_record(event)
            if self.extra:
                record = {"ts_ns": record.pop("ts_ns"), "event": record.pop("event"), **self.extra, **record}
            self._file.write(json.dumps(record, separators=(",", ":"), default=str) + "\n")

    def close(self) -> None:
        """Write what is buffered and close the file. A second call does nothing."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
