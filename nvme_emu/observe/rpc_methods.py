"""What may be asked of a machine from outside, and changed in it. `rpc.discover` shows these docstrings.

Reading methods take the lock that guards the controller for about a millisecond (see `watched`). Changing
methods are refused on the virtual clock: a run there is a function of its configuration and seed.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from nvme_emu.observe import management, snapshot
from nvme_emu.observe.jsonl import JsonLines
from nvme_emu.observe.rpc_core import NOT_AVAILABLE, RpcError
from nvme_emu.observe.state import (
    CommandState,
    ControllerState,
    CqState,
    EntryState,
    MachineState,
    NamespaceState,
    RegisterState,
    SmartState,
    SqState,
    StatsState,
    WorkerSnapshot,
)
from nvme_emu.observe.watched import Watched
from nvme_emu.spec.registers import NSSR_MAGIC, Reg

__all__ = ["MachineMethods"]

ENTRIES_MAX = 65_536
LOG_BYTES_MAX = 1 << 20
TRACE_EVENTS = 1_000_000


class _Running(NamedTuple):
    """A trace that is being written."""

    path: str
    writer: JsonLines


class MachineMethods:
    """The methods over one watched machine. ``table()`` gives them by name; `close` ends a running trace."""

    def __init__(self, watched: Watched, *, version: str) -> None:
        self._watched = watched
        self._version = version
        self._trace: _Running | None = None

    def table(self) -> dict[str, Any]:
        """Every method by name."""
        return {
            "system.info": self.system_info,
            "state.get": self.state_get,
            "controller.get": self.controller_get,
            "registers.get": self.registers_get,
            "registers.read": self.registers_read,
            "queues.get": self.queues_get,
            "queues.entries": self.queues_entries,
            "commands.list": self.commands_list,
            "workers.get": self.workers_get,
            "namespaces.list": self.namespaces_list,
            "stats.get": self.stats_get,
            "stats.start": self.stats_start,
            "stats.stop": self.stats_stop,
            "smart.get": self.smart_get,
            "admin.identify": self.admin_identify,
            "admin.get_log": self.admin_get_log,
            "admin.get_feature": self.admin_get_feature,
            "admin.execute": self.admin_execute,
            "health.set": self.health_set,
            "power.reset": self.power_reset,
            "trace.start": self.trace_start,
            "trace.stop": self.trace_stop,
            "trace.status": self.trace_status,
        }

    # --- reading --------------------------------------------------------------------------------------------

    def system_info(self) -> dict[str, Any]:
        """Who answers: version, process, clock, and whether a driver runs in the same process."""
        watched = self._watched
        return {
            "name": "nvme-emu",
            "version": self._version,
            "pid": os.getpid(),
            "clock": watched.clock,
            "driver": watched.driver is not None,
            "recording": watched.recorder is not None,
        }

    def state_get(self, entries_max: int = 16) -> MachineState:
        """The whole machine at one instant. entries_max: the newest slots of each ring that are included."""
        return snapshot.snapshot(self._watched, entries_max=_bounded("entries_max", entries_max, 0, ENTRIES_MAX))

    def controller_get(self) -> ControllerState:
        """The controller: state, identity, properties decoded, counters."""
        return snapshot.controller_state(self._watched)

    def registers_get(self) -> list[RegisterState]:
        """The controller's properties, decoded."""
        return list(snapshot.controller_state(self._watched).registers)

    def registers_read(self, offset: int, size: int = 4) -> dict[str, int]:
        """The "value" of size bytes (1, 2, 4, 8) of BAR0 at an offset, as a host would read it."""
        ctrl = self._watched.controller
        _bounded("offset", offset, 0, ctrl.config.bar_size - 1)
        if size not in (1, 2, 4, 8):
            raise ValueError(f"size={size}: 1, 2, 4 or 8 bytes")
        return {"value": self._watched.read(lambda _: ctrl.mmio_read(offset, size))}

    def queues_get(self, qid: int | None = None, entries_max: int = 16) -> dict[str, list[SqState] | list[CqState]]:
        """The queues: "sqs" and "cqs". qid: only this one. entries_max: newest slots of each ring."""
        state = self.state_get(entries_max)
        sqs = [sq for sq in state.sqs if qid in (None, sq.qid)]
        cqs = [cq for cq in state.cqs if qid in (None, cq.qid)]
        if not sqs and not cqs and qid is not None:
            raise ValueError(f"there is no queue {qid}")
        return {"sqs": sqs, "cqs": cqs}

    def queues_entries(
        self, qid: int, completion: bool = False, start: int = 0, count: int = 64
    ) -> list[EntryState]:
        """Slots start to start + count - 1 of one ring. completion: of the completion queue."""
        _bounded("start", start, 0, ENTRIES_MAX)
        _bounded("count", count, 0, ENTRIES_MAX)
        read = snapshot.cq_entries if completion else snapshot.sq_entries
        try:
            return list(read(self._watched, qid, start, count))
        except KeyError:
            kind = "completion" if completion else "submission"
            raise ValueError(f"there is no {kind} queue {qid}") from None

    def commands_list(self) -> list[CommandState]:
        """Every command that has not ended, with its stage, and its age while a recorder is attached."""
        return list(snapshot.snapshot(self._watched, entries_max=0).commands)

    def workers_get(self) -> list[WorkerSnapshot]:
        """The driver's kthread workers: what they run, what waits, who waits for them."""
        return list(snapshot.worker_states(self._watched))

    def namespaces_list(self) -> list[NamespaceState]:
        """The namespaces with their sizes, identifiers and media."""
        return list(snapshot.namespace_states(self._watched))

    def stats_get(self) -> StatsState:
        """Totals of I/Os and bytes; latencies, stages, slowest and failed commands while recording."""
        return snapshot.stats_state(self._watched)

    def stats_start(self) -> dict[str, int]:
        """Attach a recorder of latencies, if none is. It costs some microseconds an I/O."""
        return {"recording_since_ns": self._watched.start_recording().started_ns}

    def stats_stop(self) -> dict[str, bool]:
        """Detach the recorder and forget what it measured."""
        was = self._watched.recorder is not None
        self._watched.stop_recording()
        return {"was_recording": was}

    def smart_get(self) -> SmartState:
        """The SMART / Health log page, parsed (NVMe Base 2.1, 5.1.12.1.3)."""
        return snapshot.smart_state(self._watched)

    # --- admin commands that only read ----------------------------------------------------------------------

    def admin_identify(
        self, cns: int, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0
    ) -> dict[str, str]:
        """An Identify structure (NVMe Base 2.1, 5.1.13) as hexadecimal "data", read past the queues."""
        ctrl = self._watched.controller
        _bounded("cns", cns, 0, 0xFF)
        _bounded("nsid", nsid, 0, 0xFFFF_FFFF)
        _bounded("csi", csi, 0, 0xFF)
        _bounded("cntid", cntid, 0, 0xFFFF)
        _bounded("cnssid", cnssid, 0, 0xFFFF)
        more = {"nsid": nsid, "csi": csi, "cntid": cntid, "cnssid": cnssid}
        return {"data": self._watched.read(lambda _: management.identify(ctrl, cns, **more)).hex()}

    def admin_get_log(
        self, lid: int, nbytes: int, offset: int = 0, lsp: int = 0, lsi: int = 0
    ) -> dict[str, str]:
        """A log page (5.1.12) as hexadecimal "data". No asynchronous event is cleared by it."""
        ctrl = self._watched.controller
        _bounded("lid", lid, 0, 0xFF)
        _bounded("nbytes", nbytes, 4, LOG_BYTES_MAX)
        _bounded("lsp", lsp, 0, 0x7F)
        _bounded("lsi", lsi, 0, 0xFFFF)
        more = {"offset": offset, "lsp": lsp, "lsi": lsi}
        return {"data": self._watched.read(lambda _: management.read_log(ctrl, lid, nbytes, **more)).hex()}

    def admin_get_feature(self, fid: int, sel: int = 0, nsid: int = 0, cdw11: int = 0) -> dict[str, Any]:
        """A feature's "value" and hexadecimal "data" (5.1.11). sel: 0 current, 1 default, 2 saved, 3 supported."""
        ctrl = self._watched.controller
        _bounded("fid", fid, 0, 0xFF)
        _bounded("sel", sel, 0, 7)
        _bounded("nsid", nsid, 0, 0xFFFF_FFFF)
        _bounded("cdw11", cdw11, 0, 0xFFFF_FFFF)
        value, data = self._watched.read(
            lambda _: management.get_feature(ctrl, fid, sel=sel, nsid=nsid, cdw11=cdw11)
        )
        return {"value": value, "data": data.hex()}

    def admin_execute(
        self,
        opcode: int,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        cdw14: int = 0,
        cdw15: int = 0,
    ) -> dict[str, Any]:
        """Any admin command that only reads: its dword 0 as "value", its hexadecimal "data"."""
        ctrl = self._watched.controller
        dwords = {"cdw10": cdw10, "cdw11": cdw11, "cdw12": cdw12, "cdw13": cdw13, "cdw14": cdw14, "cdw15": cdw15}
        _bounded("opcode", opcode, 0, 0xFF)
        for name, value in {"nsid": nsid, **dwords}.items():
            _bounded(name, value, 0, 0xFFFF_FFFF)
        value, data = self._watched.read(lambda _: management.execute(ctrl, opcode, nsid=nsid, **dwords))
        return {"value": value, "data": data.hex()}

    # --- changing -------------------------------------------------------------------------------------------

    def health_set(
        self,
        temperature_k: int | None = None,
        available_spare: int | None = None,
        percentage_used: int | None = None,
        reliability_degraded: bool | None = None,
        sensors_k: list[int] | None = None,
        media_read_only: bool | None = None,
        backup_failed: bool | None = None,
    ) -> SmartState:
        """Set what the device reports of its health; thresholds are compared and events raised at once.

        ``sensors_k`` are Temperature Sensors 1 and on, of those that the device has.
        """
        given = {
            name: value
            for name, value in (
                ("temperature_k", temperature_k),
                ("available_spare", available_spare),
                ("percentage_used", percentage_used),
                ("reliability_degraded", reliability_degraded),
                ("sensors_k", sensors_k),
                ("media_read_only", media_read_only),
                ("backup_failed", backup_failed),
            )
            if value is not None
        }
        if not given:
            raise ValueError("nothing to set was given")

        def change() -> None:
            for ctrl in self._watched.controllers():
                for name, value in given.items():
                    setattr(ctrl.logs.health, name, value)

        self._change(change)
        return self.smart_get()

    def power_reset(self) -> ControllerState:
        """NVM Subsystem Reset, as a host asks for it by NSSR: every queue and command is gone.

        For a server: the driver in a guest probes the device again. One in this process takes a device that
        forgets its queues for dead, so there it is refused.
        """
        ctrl = self._watched.controller
        if self._watched.driver is not None:
            raise RpcError(NOT_AVAILABLE, "the driver in this process would lose the device and the workload")
        if not ctrl.config.nssrs:
            raise RpcError(NOT_AVAILABLE, "this controller does not support NVM Subsystem Reset (CAP.NSSRS)")
        self._change(lambda: ctrl.mmio_write(int(Reg.NSSR), Reg.NSSR.size, NSSR_MAGIC))
        return self.controller_get()

    def _change(self, fn: Any) -> None:
        try:
            self._watched.change(fn)
        except TimeoutError as error:
            raise RpcError(NOT_AVAILABLE, str(error)) from error
        except ValueError as error:
            if self._watched.virtual:
                raise RpcError(NOT_AVAILABLE, str(error)) from error
            raise

    # --- traces ---------------------------------------------------------------------------------------------

    def trace_start(self, file: str, events_max: int = TRACE_EVENTS) -> dict[str, Any]:
        """Write events to a file (JSON lines) on this machine; only the last events_max are kept."""
        if self._trace is not None:
            raise ValueError(f"a trace to {self._trace.path} is running; stop it first")
        _bounded("events_max", events_max, 1, 1 << 30)
        path = os.path.abspath(file)
        writer = JsonLines(path, events_max=events_max)
        self._trace = _Running(path, writer)
        self._watched.trace.add_sink(writer)
        return self.trace_status()

    def trace_stop(self) -> dict[str, Any]:
        """End the trace and complete its file."""
        running, self._trace = self._trace, None
        if running is None:
            raise ValueError("no trace is running")
        self._watched.trace.remove_sink(running.writer)
        running.writer.close()
        return self._status(running)

    def trace_status(self) -> dict[str, Any]:
        """Whether a trace is running, its file, and how many events it holds and has dropped."""
        return {"running": False} if self._trace is None else self._status(self._trace)

    def _status(self, running: _Running) -> dict[str, Any]:
        return {
            "running": running is self._trace,
            "file": running.path,
            "events": running.writer.kept,
            "dropped": running.writer.dropped,
        }

    def close(self) -> None:
        """Complete what is being written."""
        if self._trace is not None:
            self.trace_stop()


def _bounded(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: must be from {low} to {high}")
    return value
