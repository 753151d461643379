"""The device, without I/O of its own: registers and doorbells in, completions and vectors out.

A transport holds one lock around it, tells it the time with ``step`` and delivers the vectors that
``take_irqs`` gives. It never reads a clock, never waits and never raises at a host's mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvme_emu.controller.command import Command
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub

__all__ = ["Controller"]


class Controller:
    """An NVMe controller behind a PCI Express front door (skeleton: the final one keeps these names).

    Attributes that admin handlers use:

    * ``config``, ``namespaces`` (nsid -> Namespace), ``memory``, ``trace``, ``rng``, ``now_ns``
    * ``page_size``: bytes of CC.MPS
    * ``registers``: ``.cc``, ``.csts``, ``.cap``, ``.vs`` ints; ``registers.fail(why)`` sets CSTS.CFS
    * ``rings``: ``create_cq(qid, base, size, vector, ien)``, ``create_sq(qid, base, size, cqid, prio)``,
      ``delete_cq(qid)``, ``delete_sq(qid)``; ``.sqs`` and ``.cqs`` dicts by qid. They check everything (identifier,
      size, vector, address) and raise CommandError with the status and location of Create/Delete I/O Queue;
      handlers only decode. ``size`` counts from one. delete_sq aborts what is in flight.
    * ``outstanding``: (sqid, cid) -> Command, every command fetched and not completed (parked or timed);
      ``complete(cmd, status=Status.ABORT_REQ)`` ends any of them at once.
    * ``counters``: see Counters
    * ``features``, ``error_log``, ``events``, ``logs``: C2's, made in the constructor as ``Features(config)``,
      ``ErrorLog(config)``, ``AsyncEvents(self)``, ``Logs(self)``; ``.reset()`` is called on a controller reset
      where it exists. After each Set Features the controller re-reads ``features.arbitration_burst`` (commands
      per turn, 0 = no limit), ``features.write_cache_enabled``.
    """

    def __init__(
        self,
        config: ControllerConfig,
        *,
        memory: HostMemory,
        namespaces: Sequence[Any],
        latency: Any = None,
        trace: TraceHub | None = None,
        rng: Any = None,
        strict: bool = False,
    ) -> None:
        self.config = config
        self.memory = memory
        self.namespaces = {namespace.nsid: namespace for namespace in namespaces}
        self.latency = latency
        self.trace = trace if trace is not None else TraceHub()
        self.rng = rng
        self.strict = strict
        self.now_ns = 0
        self.page_size = 4096
        self.outstanding: dict[tuple[int, int], Command] = {}
        self.rings: Any = None
        self.registers: Any = None
        self.counters: Any = None

    def complete(self, cmd: Command, status: int = 0, dw0: int = 0) -> None:
        """End a command that its handler kept, exactly once; a second call does nothing."""

    def send(self, cmd: Command, data: bytes | bytearray | memoryview) -> None:
        """Move data to the host by the command's PRPs. Raises CommandError for bad PRPs."""

    def receive(self, cmd: Command, nbytes: int) -> bytes:
        """Move ``nbytes`` from the host by the command's PRPs. Raises CommandError for bad PRPs."""
        return b""
