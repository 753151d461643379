"""Reading the state of a machine: see :mod:`nvme_emu.observe.state` for what comes out.

    watched = watch(machine)
    state = snapshot(watched)                    # everything, with the newest entries of each ring
    ring = sq_entries(watched, qid=1)            # each slot of one ring
    stats_state(watched)                         # totals, and latencies while a recorder is attached
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kworker.inspect import TaskSnapshot, WorkerSnapshot, snapshot_locked, task_snapshot
from kworker.inspect import snapshot as worker_snapshot
from nvme_emu.observe.management import read_log
from nvme_emu.observe.rings import (
    commands_state,
    cq_states,
    entries_of_cq,
    entries_of_sq,
    in_order,
    sq_states,
)
from nvme_emu.observe.state import (
    STATE_VERSION,
    ControllerState,
    DriverState,
    EntryState,
    FieldState,
    MachineState,
    NamespaceState,
    RegisterState,
    SmartState,
    StatsState,
)
from nvme_emu.observe.watched import Watched, watch
from nvme_emu.spec.decode import decode_register
from nvme_emu.spec.logs import SMART_HEALTH, Lid
from nvme_emu.spec.registers import Reg

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.driver.device import NvmeDriver

__all__ = [
    "REGISTERS",
    "Watched",
    "controller_state",
    "cq_entries",
    "namespace_states",
    "register_state",
    "smart_state",
    "snapshot",
    "sq_entries",
    "stats_state",
    "watch",
    "worker_states",
]

REGISTERS = (Reg.CAP, Reg.VS, Reg.CC, Reg.CSTS, Reg.AQA, Reg.ASQ, Reg.ACQ, Reg.CRTO)
"""The properties that this controller has; see `nvme_emu.controller.pcie.registers`."""

ENTRIES_MAX = 16
LOG_LINES = 16
"""How much of the driver's log is in a machine's state."""


def snapshot(watched: Watched, *, entries_max: int = ENTRIES_MAX) -> MachineState:
    """Everything at one instant. ``entries_max`` bounds the slots of each ring."""
    # Workers have locks of their own, which are taken before the controller's or not at all.
    workers = () if watched.virtual else worker_states(watched)

    def read(consistent: bool) -> MachineState:
        ctrl, driver = watched.controller, watched.driver
        now_ns = watched.clock_ns()
        return MachineState(
            version=STATE_VERSION,
            ts_ns=now_ns,
            clock=watched.clock,
            consistent=consistent,
            controller=_controller(ctrl),
            driver=None if driver is None else _driver(driver),
            sqs=sq_states(ctrl, driver, entries_max),
            cqs=cq_states(ctrl, driver, entries_max),
            commands=commands_state(ctrl, driver, now_ns, watched.recorder),
            workers=_workers_unlocked(watched) if watched.virtual else workers,
            namespaces=_namespaces(ctrl),
            smart=_smart(ctrl),
            stats=_stats(watched, now_ns),
            tasks=_tasks(watched),
        )

    return watched.read(read)


def controller_state(watched: Watched) -> ControllerState:
    """The controller alone."""
    return watched.read(lambda _consistent: _controller(watched.controller))


def namespace_states(watched: Watched) -> tuple[NamespaceState, ...]:
    """The namespaces in ascending order."""
    return watched.read(lambda _consistent: _namespaces(watched.controller))


def smart_state(watched: Watched) -> SmartState:
    """The SMART / Health log page."""
    return watched.read(lambda _consistent: _smart(watched.controller))


def stats_state(watched: Watched) -> StatsState:
    """Totals, and what the recorder measured if one is attached."""
    return watched.read(lambda _consistent: _stats(watched, watched.clock_ns()))


def worker_states(watched: Watched) -> tuple[WorkerSnapshot, ...]:
    """The driver's workers, I/O workers first; none without a driver in this process."""
    if watched.virtual:
        return watched.read(lambda _consistent: _workers_unlocked(watched))
    return tuple(worker_snapshot(worker) for worker in _workers(watched))


def sq_entries(
    watched: Watched, qid: int, start: int = 0, count: int | None = None
) -> tuple[EntryState, ...]:
    """Slots ``start`` to ``start + count - 1`` of a submission queue. KeyError if it does not exist."""
    return watched.read(lambda _c: entries_of_sq(watched.controller, watched.driver, qid, start, count))


def cq_entries(
    watched: Watched, qid: int, start: int = 0, count: int | None = None
) -> tuple[EntryState, ...]:
    """Slots ``start`` to ``start + count - 1`` of a completion queue. KeyError if it does not exist."""
    return watched.read(lambda _c: entries_of_cq(watched.controller, qid, start, count))


@lru_cache(maxsize=256)  # most properties never change, and explaining one takes longer than reading all
def register_state(reg: Reg, value: int) -> RegisterState:
    """A property explained."""
    decoded = decode_register(reg.name, value)
    return RegisterState(
        name=reg.name,
        offset=int(reg),
        size=reg.size,
        value=value,
        words=reg.words,
        clause=reg.clause,
        fields=tuple(
            FieldState(name=child.name, value=_number(child.value), words=child.words)
            for child in decoded.children
        ),
    )


# --- the parts, read where nobody is at work ----------------------------------------------------------------


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _controller(ctrl: Controller) -> ControllerState:
    config, error = ctrl.config, ctrl.internal_error
    return ControllerState(
        state=ctrl.state.value,
        fetching=ctrl.running,
        internal_error=None if error is None else f"{type(error).__name__}: {error}",
        serial=config.sn,
        model=config.mn,
        firmware=config.fr,
        page_size=ctrl.page_size,
        temperature_k=ctrl.temperature_k,
        outstanding=len(ctrl.outstanding),
        irqs_pending=len(ctrl.interrupts.raised),
        registers=tuple(register_state(reg, ctrl.mmio_read(int(reg), reg.size)) for reg in REGISTERS),
        counters=ctrl.counters.as_dict(),
    )


def _driver(driver: NvmeDriver) -> DriverState:
    config = driver.config
    return DriverState(
        state=driver.state.value,
        mode=config.mode,
        worker=config.worker,
        queues=len(driver.paths),
        depth=config.depth,
        strays=driver.strays,
        recovery=driver.recovery.counters.as_dict(),
        log=tuple(driver.recovery.log)[-LOG_LINES:],
    )


def _workers(watched: Watched) -> list[Any]:
    driver = watched.driver
    if driver is None:
        return []
    events = driver.event_worker
    return [*driver.workers, *([events] if events is not None else [])]


def _workers_unlocked(watched: Watched) -> tuple[WorkerSnapshot, ...]:
    return tuple(snapshot_locked(worker) for worker in _workers(watched))


def _tasks(watched: Watched) -> tuple[TaskSnapshot, ...]:
    driver = watched.driver
    return () if driver is None else tuple(task_snapshot(task) for task in driver.runtime.tasks())


def _namespaces(ctrl: Controller) -> tuple[NamespaceState, ...]:
    return tuple(
        NamespaceState(
            nsid=namespace.nsid,
            nsze=namespace.nsze,
            lba_size=namespace.lba_size,
            nbytes=namespace.nbytes,
            allocated_bytes=namespace.media.allocated_bytes(),
            volatile=namespace.media.volatile,
            media=type(namespace.media).__name__,
            nguid=namespace.nguid.hex(),
            eui64=namespace.eui64.hex(),
            uuid=str(namespace.uuid),
        )
        for namespace in in_order(ctrl.namespaces)
    )


_SMART_FIELDS = tuple(SmartState.__dataclass_fields__)


def _smart(ctrl: Controller) -> SmartState:
    page = SMART_HEALTH.parse(read_log(ctrl, Lid.SMART_HEALTH, SMART_HEALTH.size))
    return SmartState(**{name: page[name] for name in _SMART_FIELDS})


def _stats(watched: Watched, now_ns: int) -> StatsState:
    ctrl, recorder = watched.controller, watched.recorder
    counters = ctrl.counters
    return StatsState(
        ts_ns=now_ns,
        read_ios=counters.read_commands,
        write_ios=counters.write_commands,
        read_bytes=counters.read_bytes,
        write_bytes=counters.write_bytes,
        fetched=counters.fetched,
        posted=counters.posted,
        outstanding=len(ctrl.outstanding),
        busy_ns=ctrl.inflight.busy_ns(now_ns),
        recording_since_ns=None if recorder is None else recorder.started_ns,
        latency={} if recorder is None else recorder.latencies(),
        stages={} if recorder is None else recorder.stages(),
        slowest=() if recorder is None else recorder.slowest(),
        failed=() if recorder is None else recorder.failed(),
    )
