"""How a driver works: its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from nvme_emu.driver.host_model import HostModel
from nvme_emu.driver.recovery import RecoveryConfig

__all__ = ["WORKER_STYLES", "DriverConfig"]

POLL_NS_MAX = 1_000_000_000
WORKER_STYLES = ("pump", "inline", "poll", "per-request")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """How the driver works: ValueError where a value is out of its range.

    ``mode`` "sync", "async", or "mixed": queue pairs of both kinds, of which each caller uses one (see
    :meth:`NvmeDriver.use`). ``worker`` one of WORKER_STYLES (async only), ``poll_ns`` how long
    "poll" looks before it sleeps; ``queues`` I/O queue
    pairs asked for, of each kind; ``depth`` entries of each (Linux: io_queue_depth, 2 … 4095 and no more than CAP.MQES
    allows); ``instance`` the number in the worker's name; ``recovery`` time-outs and retries. ``use_cmb_sqes`` puts
    submission queues into the controller's memory buffer if it has one that takes them (Linux: use_cmb_sqes).
    ``sgl_threshold`` is from how many bytes a segment on SGLs are used instead of PRPs (0: never; Linux: 32768), and
    ``max_segment_size`` how long a segment of a request's data is (0: all of it is one).
    """

    mode: str = "sync"
    worker: str = "pump"
    poll_ns: int = 50_000
    queues: int = 1
    depth: int = 1024
    instance: int = 1
    poison: bool = False
    use_cmb_sqes: bool = True
    sgl_threshold: int = 0
    max_segment_size: int = 0
    host: HostModel = field(default_factory=HostModel)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        if self.mode not in ("sync", "async", "mixed"):
            raise ValueError(f"mode={self.mode!r}: it is 'sync', 'async' or 'mixed'")
        if self.worker not in WORKER_STYLES:
            raise ValueError(f"worker={self.worker!r}: it is one of {', '.join(map(repr, WORKER_STYLES))}")
        if not 0 <= self.poll_ns <= POLL_NS_MAX:
            raise ValueError(f"poll_ns={self.poll_ns}: 0 to {POLL_NS_MAX} ns")
        if not 1 <= self.queues <= 65_535:
            raise ValueError(f"queues={self.queues}: 1 to 65535 I/O queues")
        for name in ("sgl_threshold", "max_segment_size"):
            if not 0 <= getattr(self, name) < 1 << 32:
                raise ValueError(f"{name}={getattr(self, name)}: 0 to {(1 << 32) - 1} bytes")
        if self.max_segment_size % 4096:
            raise ValueError(f"max_segment_size={self.max_segment_size}: a multiple of 4096, or 0")
        if not 2 <= self.depth <= 4095:
            raise ValueError(f"depth={self.depth}: 2 to 4095 entries, as io_queue_depth")

    @classmethod
    def of(cls, options: Any) -> DriverConfig:
        """What the fields of ``options`` that bear a driver's names say, its ``recovery``'s among them."""

        def said(kind: type) -> dict[str, Any]:
            return {one.name: getattr(options, one.name) for one in fields(kind) if hasattr(options, one.name)}

        return cls(**said(cls), recovery=RecoveryConfig(**said(RecoveryConfig)))
