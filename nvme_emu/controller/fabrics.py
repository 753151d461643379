"""The second front door: hosts connect with messages, and each gets a controller of its own (NVMe Base 2.1, 6).

    FabricsTarget ── Subsystem (a name, namespaces, the hosts it lets in)
        │                └─ Association = one host's controller, made by Connect of an admin queue
        │                        └─ RingQueue (`fabrics_queue`), one for each connection that is a queue
        └─ FabricsQueue: what a connection talks to, from before Connect to its end (`fabrics_connect`)

Controllers are dynamic: Connect makes one, its end forgets it. All controllers of a subsystem share its
namespaces, its latency model and its counters. Time comes in with `work` and `run`, as everywhere in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.controller import Controller
from nvme_emu.controller.counters import Counters
from nvme_emu.controller.fabrics_connect import FabricsQueue
from nvme_emu.controller.fabrics_discovery import discovery_handlers, discovery_identity
from nvme_emu.controller.feature_kinds import NS_PER_MS
from nvme_emu.controller.identify import default_subnqn
from nvme_emu.controller.subsystem import NvmSubsystem
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.fabrics import (
    DISCOVERY_NQN,
    OFCS,
    SECTYPE_TLS13,
    TREQ_SECURE_CHANNEL,
    Adrfam,
    SubsystemType,
    Trtype,
    check_nqn,
)
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, Fid
from nvme_emu.spec.identify import SGLS
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.registers import CAP

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.fabrics_auth import DhchapPolicy
    from nvme_emu.controller.fabrics_queue import RingQueue
    from nvme_emu.controller.latency import LatencyModel
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.core.capsules import CapsuleSink
    from nvme_emu.core.faults import Effect

__all__ = ["ADMIN_IN_CAPSULE", "IO_IN_CAPSULE", "QUEUE_ENTRIES", "Association", "FabricsTarget", "Subsystem"]

QUEUE_ENTRIES: Final = 1024
"""Commands that a queue holds at most: CAP.MQES and MAXCMD."""
CONTROLLERS_MAX: Final = 512
"""Controllers of all subsystems that exist at a time: our own bound on what hosts may cost."""
ADMIN_IN_CAPSULE: Final = 8192
"""What a capsule of the admin queue may bring along (TCP 1.1, 3.3.1.1)."""
IO_IN_CAPSULE: Final = 16384
_KAS: Final = 10
_MDTS: Final = 8
_CAPSULE_UNIT: Final = 16
# Commands that create and delete queues, where Connect and Disconnect do it here.
_NOT_OVER_FABRICS: Final = frozenset(
    {
        AdminOpcode.CREATE_IO_SQ,
        AdminOpcode.CREATE_IO_CQ,
        AdminOpcode.DELETE_IO_SQ,
        AdminOpcode.DELETE_IO_CQ,
        AdminOpcode.DOORBELL_BUFFER_CONFIG,
    }
)


def _keep_alive(ctrl: Controller, cmd: Command) -> int:
    """Keep Alive (opcode 18h): every command restarts the timer, this one does nothing else."""
    return 0


def _handlers() -> dict[int, Any]:
    handlers = {opcode: do for opcode, do in ADMIN_HANDLERS.items() if opcode not in _NOT_OVER_FABRICS}
    handlers[AdminOpcode.KEEP_ALIVE] = _keep_alive
    return handlers


@dataclass(kw_only=True)
class Subsystem:
    """An NVM subsystem: what every controller of it is made from.

    `hosts` are the names that may connect; None lets every host in. `dhchap` says who has to authenticate
    itself. `nqn` "" takes the one that the configuration implies. `on_association` hears of each that a
    host has made, before its first command. `state` is what its controllers share, where there is one already.
    Raises ValueError for a name that is none.
    """

    config: ControllerConfig
    namespaces: list[Namespace]
    nqn: str = ""
    hosts: frozenset[str] | None = None
    dhchap: DhchapPolicy | None = None
    latency: LatencyModel | None = None
    trace: TraceHub = field(default_factory=TraceHub)
    rng: Any = None
    counters: Counters = field(default_factory=Counters)
    on_association: Callable[[Association], None] | None = None
    state: NvmSubsystem | None = None
    nvm: NvmSubsystem = field(init=False)

    def __post_init__(self) -> None:
        self.nqn = check_nqn(self.nqn or self.config.subnqn or default_subnqn(self.config))
        for namespace in self.namespaces:
            namespace.shared = True  # every host has a controller of its own, and they all have the same namespaces
        self.nvm = self.state or NvmSubsystem(self.config, self.namespaces)
        for host in self.hosts or ():
            check_nqn(host)

    def admits(self, hostnqn: str) -> bool:
        """Whether this host may connect."""
        return self.hosts is None or hostnqn in self.hosts


class Association:
    """A host's controller with its queues, from Connect of the admin queue to the end of that connection."""

    def __init__(
        self, target: FabricsTarget, subsystem: Subsystem, cntlid: int, hostnqn: str, hostid: bytes
    ) -> None:
        self.target = target
        self.address = ("", 0)
        """Where the host came to, for its discovery log."""
        self.subsystem = subsystem
        self.cntlid = cntlid
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.discovery = subsystem.nqn == DISCOVERY_NQN
        self.memory = HostMemory()
        self.queues: dict[int, RingQueue] = {}
        self.kato_ms = 0
        self.seen_ns = target.now_ns
        self.ended = False
        self.controller = self._make_controller()
        self.transfer_bytes_max = self.controller.config.mdts_bytes
        if subsystem.on_association is not None:
            subsystem.on_association(self)

    def _make_controller(self) -> Controller:
        subsystem = self.subsystem
        config = replace(
            subsystem.config,
            cntlid=self.cntlid,
            subnqn=subsystem.nqn,
            mpsmin=0,
            mpsmax=0,
            dstrd=0,
            mdts=min(subsystem.config.mdts or _MDTS, _MDTS),
            queue_entries_max=QUEUE_ENTRIES + 1,
            vectors=max(subsystem.config.vectors, subsystem.config.io_queues_max + 1),
            message_based=True,
            kas=_KAS,
        )
        ctrl = Controller(
            config,
            memory=self.memory,
            subsystem=subsystem.nvm,
            latency=subsystem.latency,
            trace=subsystem.trace,
            rng=subsystem.rng,
            counters=subsystem.counters,
        )
        # The rings are one entry larger than what a host may use.
        ctrl.registers.cap = CAP.replace(ctrl.registers.cap, mqes_z=QUEUE_ENTRIES - 1)
        ctrl.identify_fields = {
            "maxcmd": QUEUE_ENTRIES,
            "sgls": SGLS.pack(sgls=1, sldltd=1, offset=1, tsdb=1),
            "ioccsz": (SQE_SIZE + IO_IN_CAPSULE) // _CAPSULE_UNIT,
            "iorcsz": CQE_SIZE // _CAPSULE_UNIT,
            "msdbd": 1,
            "ofcs": OFCS.pack(discc=1),
        }
        if self.discovery:
            ctrl.admin_handlers = discovery_handlers(_keep_alive, self)
            ctrl.identify_fields |= discovery_identity()
            ctrl.notices_offered = ASYNC_EVENT_CONFIG.mask("dlpcn")
            ctrl.identify_fields["oaes"] = ctrl.notices_offered
        else:
            ctrl.admin_handlers = _handlers()
        ctrl.on_subsystem_reset = lambda: self.end("NVM subsystem reset")
        ctrl.now_ns = self.target.now_ns
        ctrl.host_id, ctrl.host_id_is_extended = self.hostid, True
        return ctrl

    def in_capsule_bytes(self, qid: int) -> int:
        """The most data that a capsule of a queue may bring along."""
        return IO_IN_CAPSULE if qid else ADMIN_IN_CAPSULE

    @property
    def keep_alive_ns(self) -> int:
        """The Keep Alive Timeout; 0 when the host asked for none."""
        set_ms = self.controller.features.host_value(Fid.KEEP_ALIVE_TIMER)
        return (self.kato_ms if set_ms is None else set_ms) * NS_PER_MS

    # -- time -----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When `work` is due."""
        ctrl = self.controller
        if ctrl.interrupts.raised:
            return ctrl.now_ns
        due = ctrl.next_deadline()
        keep_alive_ns = self.keep_alive_ns
        if keep_alive_ns:
            expiry = self.seen_ns + keep_alive_ns
            if due is None or expiry < due:
                return expiry
        return due

    def work(self, now_ns: int) -> None:
        """Step the controller, wake the queues that have something, and see whether the host is still there."""
        ctrl = self.controller
        due = ctrl.next_deadline()
        if due is not None and due <= now_ns:
            ctrl.step(now_ns)
            self.after_state_change()
        self.deliver(ctrl.take_irqs(), None)
        keep_alive_ns = self.keep_alive_ns
        if keep_alive_ns and now_ns >= self.seen_ns + keep_alive_ns:
            ctrl.fail("the keep alive timer has expired")
            self.end(f"keep alive: nothing heard for {keep_alive_ns // NS_PER_MS} ms")

    def deliver(self, vectors: Sequence[int], but: RingQueue | None) -> None:
        """Wake the queues whose completion rings have something; `but` looks by itself."""
        for qid in vectors:
            queue = self.queues.get(qid)
            if queue is not None and queue is not but:
                queue.sink.wake()

    # -- properties and state -------------------------------------------------------------------------------

    def write_property(self, offset: int, size: int, value: int) -> None:
        """Property Set."""
        ctrl = self.controller
        ctrl.mmio_write(offset, size, value)
        ctrl.step(self.target.now_ns)
        self.after_state_change()

    def after_state_change(self) -> None:
        """A reset takes I/O queues away and makes new admin rings."""
        for qid, queue in tuple(self.queues.items()):
            if not qid:
                queue.synchronise()
            elif not queue.alive:
                queue.sink.terminate("the controller was reset")

    def spoil(self, cmd: Command, effect: Effect) -> None:
        """A fault rule wants the transport to do something wrong when it answers this command."""
        queue = self.queues.get(cmd.sqid)
        if queue is not None:
            queue.spoiled[cmd.cid] = effect

    def end(self, why: str) -> None:
        """The association is over: every connection is closed once its answers are sent."""
        self.ended = True
        self.target.forget(self)
        for queue in tuple(self.queues.values()):
            queue.sink.terminate(why)

    def drop(self, queue: RingQueue, why: str) -> None:
        """The connection of a queue is gone. With the admin queue goes the association (Base 2.1, 3.3.2.4)."""
        if self.queues.get(queue.qid) is queue:
            del self.queues[queue.qid]
        if queue.qid:
            queue.delete()
            queue.free()
        elif not self.ended:
            self.end(f"the admin queue is gone: {why}")


class FabricsTarget:
    """Subsystems and the controllers that hosts have made of them; a `core.capsules.CapsuleTarget`.

    `addresses` are where the discovery log says that the subsystems are; without any it names the address
    that the host itself came to. Raises ValueError for two subsystems of one name.
    """

    def __init__(self, subsystems: Iterable[Subsystem], *, addresses: Sequence[tuple[str, int]] = ()) -> None:
        self.now_ns = 0
        self.subsystems: dict[str, Subsystem] = {}
        self.associations: dict[int, Association] = {}
        self.addresses = tuple(addresses)
        self.secure = False
        """Whether the transport is TLS 1.3 and nothing else; the discovery log says so."""
        self.generation = 0
        self.controllers_made = 0
        self._next_cntlid = 1
        for subsystem in subsystems:
            self.add_subsystem(subsystem)
        first = next(iter(self.subsystems.values()), None)
        config = first.config if first is not None else ControllerConfig()
        config = replace(config, ana_groups=0, endurance_group=False)
        self.discovery = Subsystem(config=config, namespaces=[], nqn=DISCOVERY_NQN)

    # -- what hosts can find --------------------------------------------------------------------------------

    def add_subsystem(self, subsystem: Subsystem) -> None:
        """Offer one more; hosts that watch the discovery log hear of it."""
        if subsystem.nqn in self.subsystems or subsystem.nqn == DISCOVERY_NQN:
            raise ValueError(f"two subsystems are called {subsystem.nqn}")
        self.subsystems[subsystem.nqn] = subsystem
        self.discovery_changed()

    def remove_subsystem(self, nqn: str) -> None:
        """Offer it no more: its associations end. KeyError if there is none."""
        subsystem = self.subsystems.pop(nqn)
        for association in self.associations_of(subsystem):
            association.end("the subsystem was removed")
        self.discovery_changed()

    def discovery_changed(self) -> None:
        """What the discovery log says is different now: its generation moves and watching hosts are told."""
        self.generation += 1
        for association in self.associations.values():
            if association.discovery:
                association.controller.events.post(
                    AsyncEventType.NOTICE, AsyncNoticeInfo.DISCOVERY_LOG_CHANGE, Lid.DISCOVERY
                )

    def discovery_entries(self, hostnqn: str, local: tuple[str, int]) -> list[dict[str, Any]]:
        """Where the subsystems are that this host may use."""
        return [
            {
                "trtype": int(Trtype.TCP),
                "adrfam": int(Adrfam.IPV6 if ":" in host else Adrfam.IPV4),
                "subtype": int(SubsystemType.NVM),
                "treq": TREQ_SECURE_CHANNEL if self.secure else 0,
                "tsas": bytes([SECTYPE_TLS13 if self.secure else 0]).ljust(256, b"\0"),
                "portid": number,
                "cntlid": 0xFFFF,
                "asqsz": QUEUE_ENTRIES,
                # Strings of the log are padded with spaces; Linux and nvme-cli take both.
                "trsvcid": str(port).encode().ljust(32),
                "subnqn": subsystem.nqn,
                "traddr": host.encode().ljust(256),
            }
            for subsystem in self.subsystems.values()
            if subsystem.admits(hostnqn)
            for number, (host, port) in enumerate(self.addresses or (local,), 1)
        ]

    def subsystem(self, nqn: str) -> Subsystem | None:
        """The subsystem of a name, the discovery subsystem among them."""
        return self.discovery if nqn == DISCOVERY_NQN else self.subsystems.get(nqn)

    # -- associations ---------------------------------------------------------------------------------------

    def associate(self, subsystem: Subsystem, hostnqn: str, hostid: bytes) -> Association | None:
        """A new controller for a host; None when there are too many."""
        if len(self.associations) >= CONTROLLERS_MAX:
            return None
        while self._next_cntlid in self.associations or self._next_cntlid in subsystem.nvm.controllers:
            self._next_cntlid = self._next_cntlid % 0xFFEF + 1
        cntlid = self._next_cntlid
        self._next_cntlid = cntlid % 0xFFEF + 1
        association = Association(self, subsystem, cntlid, hostnqn, hostid)
        self.associations[cntlid] = association
        self.controllers_made += 1
        return association

    def associations_of(self, subsystem: Subsystem) -> list[Association]:
        """The controllers of a subsystem."""
        return [one for one in self.associations.values() if one.subsystem is subsystem]

    def forget(self, association: Association) -> None:
        """An association has ended."""
        self.associations.pop(association.cntlid, None)
        association.subsystem.nvm.leave(association.controller)

    # -- core.capsules.CapsuleTarget ------------------------------------------------------------------------

    def open(self, sink: CapsuleSink, address: tuple[str, int], now_ns: int) -> FabricsQueue:
        """See `CapsuleTarget.open`."""
        self.now_ns = now_ns
        return FabricsQueue(self, sink, address)

    def work(self, now_ns: int) -> None:
        """See `CapsuleTarget.work`."""
        self.now_ns = now_ns
        for association in tuple(self.associations.values()):
            due = association.next_deadline()
            if due is not None and due <= now_ns:
                association.work(now_ns)

    def next_deadline(self) -> int | None:
        """See `CapsuleTarget.next_deadline`."""
        earliest: int | None = None
        for association in self.associations.values():
            due = association.next_deadline()
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        return earliest
