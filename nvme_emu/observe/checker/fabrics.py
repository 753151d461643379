"""The checker behind NVMe/TCP: each connection is watched between the transport and its queue, each host's controller
by a checker of its own, and what is found goes into one ledger.

    TcpServer ──► WatchedQueue ──► FabricsQueue ──► controller of the host
                       │ capsules, answers              │ properties
                       └────────► HostChecker ◄─────────┘
                                       └──► FabricsChecker: findings of all hosts, and of who has not connected yet

`open` of the one target is replaced; a target that nobody checks is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kworker.misuse import report_failure
from nvme_emu.core.trace import ControllerState, FetchCmd, PostCqe, RegisterWrite
from nvme_emu.observe.checker.capsules import CapsuleRules
from nvme_emu.observe.checker.checker import Checker
from nvme_emu.observe.checker.finding import Finding
from nvme_emu.observe.checker.ledger import Ledger
from nvme_emu.observe.checker.rules import RULES
from nvme_emu.spec.queues import SQE_SIZE, Sqe
from nvme_emu.spec.registers import Reg

if TYPE_CHECKING:
    from nvme_emu.controller.fabrics import Association, FabricsTarget, Subsystem
    from nvme_emu.core.capsules import Answer, CapsuleSink, Transfer
    from nvme_emu.core.faults import Effect

__all__ = ["FabricsChecker", "HostChecker", "WatchedQueue"]

_DOORBELLS: Final = int(Reg.DOORBELLS)
_RINGS: Final = (Reg.AQA, Reg.ASQ, Reg.ACQ)
"""The admin queue's rings, which Connect sets: ours, and not the host's."""
_ENDS_CONNECTION: Final = ("pdu_cut", "disconnect")


class FabricsChecker(Ledger):
    """Watches every host of a target from `attach` on, and keeps what was found of all of them.

    ``host_is_there`` is for the end: connections that are closed from then on are closed by us.
    """

    def __init__(
        self,
        target: FabricsTarget,
        *,
        level: str = "warn",
        on_finding: Callable[[Finding], None] | None = None,
    ) -> None:
        super().__init__(scope="tcp", level=level, on_finding=on_finding)
        self.target = target
        self.host_is_there = False
        self._given: list[tuple[Subsystem, Any]] = []

    def attach(self) -> FabricsChecker:
        """Begin to watch: connections that are opened from now on, and the subsystems that there are."""
        opened = self.target.open
        vars(self.target)["open"] = lambda sink, address, now_ns: WatchedQueue(self, opened, sink, address, now_ns)
        for subsystem in (*self.target.subsystems.values(), self.target.discovery):
            self._given.append((subsystem, subsystem.on_association))
            subsystem.on_association = self._joining(subsystem.on_association)
        return self

    def detach(self) -> None:
        """Watch no new connections; the findings stay. A second call does nothing."""
        vars(self.target).pop("open", None)
        while self._given:
            subsystem, before = self._given.pop()
            subsystem.on_association = before

    def _joining(self, then: Callable[[Association], None] | None) -> Callable[[Association], None]:
        def joined(association: Association) -> None:
            HostChecker(self, association).attach()
            # Fault rules lay their methods over the checker's, and take only their own out again.
            if then is not None:
                then(association)

        return joined

    def failed(self, error: Exception) -> None:
        """A bug of the checker's own."""
        self.internal_error = error
        report_failure(error, None, "checker")

    def report(self, rule: str, what: str, *, qid: int = -1, cid: int = -1, **values: int) -> None:
        """A host broke a rule before it had a controller."""
        known = RULES[rule]
        self.file(
            Finding(
                rule=rule,
                title=known.title,
                clause=known.clause,
                severity=known.severity,
                what=what,
                ts_ns=self.target.now_ns,
                qid=qid,
                cid=cid,
                values=tuple(values.items()),
                history=(),
            )
        )


class HostChecker(Checker):
    """Watches the controller of one host: its properties here, its commands through `WatchedQueue`."""

    def __init__(self, ledger: FabricsChecker, association: Association) -> None:
        super().__init__(association.controller, scope="tcp", level=ledger.level)
        self.association = association
        self.host = f"{association.hostnqn} (controller {association.cntlid})"
        self._shared = ledger
        self.live: dict[int, dict[int, Sqe]] = {}
        """Commands that were sent and not answered, by queue and identifier."""

    def file(self, finding: Finding) -> None:
        """Into the book of all hosts."""
        self._shared.file(finding)

    def failed(self, error: Exception) -> None:
        """A bug of the checker's own."""
        super().failed(error)
        self._shared.internal_error = error

    def _take(self, event: Any) -> None:
        kind = type(event)
        if kind is RegisterWrite and (event.offset >= _DOORBELLS or event.offset in _RINGS):
            return
        # What the host sends is remembered when it comes (`sent`); the rings beneath are none of its business.
        if kind in (RegisterWrite, PostCqe, ControllerState):
            self._remember(event, kind)
        if kind is RegisterWrite:
            self.registers.write(event.offset, event.size, event.value)

    def sent(self, qid: int, entry: Sqe) -> None:
        """Remember a command of the host, also one that its controller will not see."""
        event = FetchCmd(self.now_ns(), qid, entry.cid, entry.opcode, entry.nsid, 0, 0)
        self._remember(event, FetchCmd)

    def now_ns(self) -> int:
        """The target's time: the controller only knows that of its last step."""
        return max(self.controller.now_ns, self._shared.target.now_ns)

    def outstanding(self) -> dict[int, dict[int, Sqe]]:
        """See `Checker.outstanding`."""
        return self.live

    def may_abort(self, sqid: int, cid: int) -> bool:
        """Always: an answer that is on its way to the host has left here."""
        return True


class WatchedQueue:
    """One connection's queue; a `core.capsules.CapsuleQueue` for the transport, and the `CapsuleSink` of its queue."""

    def __init__(
        self,
        checker: FabricsChecker,
        opened: Callable[[CapsuleSink, tuple[str, int], int], Any],
        sink: CapsuleSink,
        address: tuple[str, int],
        now_ns: int,
    ) -> None:
        self._checker = checker
        self._sink = sink
        self.queue: Any = opened(self, address, now_ns)
        self.rules = CapsuleRules(checker, self.queue)
        self._broken = False
        """The connection ends for what was reported, or for what is our doing."""

    def _guarded(self, act: Callable[[], None]) -> None:
        """The checker must not be able to break what it looks at."""
        if self._checker.internal_error is not None:
            return
        try:
            act()
        except Exception as error:
            self._checker.failed(error)

    # -- core.capsules.CapsuleSink --------------------------------------------------------------------------

    def wake(self) -> None:
        """See `CapsuleSink.wake`."""
        self._sink.wake()

    def terminate(self, why: str) -> None:
        """See `CapsuleSink.terminate`."""
        self._guarded(self.rules.terminated)
        self._sink.terminate(why)

    # -- core.capsules.CapsuleQueue -------------------------------------------------------------------------

    @property
    def in_capsule_bytes(self) -> int:
        """See `CapsuleQueue.in_capsule_bytes`."""
        return int(self.queue.in_capsule_bytes)

    @property
    def implied(self) -> bool:
        """See `CapsuleQueue.implied`."""
        return bool(self.queue.implied)

    @implied.setter
    def implied(self, value: bool) -> None:
        self.queue.implied = value

    @property
    def proved(self) -> tuple[str, str] | None:
        """See `CapsuleQueue.proved`."""
        names: tuple[str, str] | None = self.queue.proved
        return names

    @proved.setter
    def proved(self, names: tuple[str, str] | None) -> None:
        self.queue.proved = names

    @property
    def label(self) -> str:
        """See `CapsuleQueue.label`."""
        return str(self.queue.label)

    @property
    def connected(self) -> bool:
        """See `CapsuleQueue.connected`."""
        return bool(self.queue.connected)

    @property
    def spoiled(self) -> dict[int, Effect]:
        """See `CapsuleQueue.spoiled`."""
        effects: dict[int, Effect] = self.queue.spoiled
        return effects

    @property
    def closing(self) -> bool:
        """See `CapsuleQueue.closing`."""
        return bool(self.queue.closing)

    def accept(self, sqe: memoryview | bytes, in_capsule: int) -> Transfer | None:
        """See `CapsuleQueue.accept`."""
        raw = bytes(sqe)
        self._guarded(lambda: self.rules.sent(raw, in_capsule))
        try:
            transfer: Transfer | None = self.queue.accept(raw, in_capsule)
        except OverflowError:
            self._broken = True
            raise
        return transfer

    def accept_run(self, buffer: memoryview, start: int, stride: int, count: int) -> list[Transfer]:
        """See `CapsuleQueue.accept_run`: each is looked at."""
        transfers = []
        for at in range(start, start + stride * count, stride):
            transfer = self.accept(buffer[at : at + SQE_SIZE], 0)
            if transfer is not None:
                transfers.append(transfer)
        return transfers

    def ready(self, transfer: Transfer) -> None:
        """See `CapsuleQueue.ready`."""
        self._guarded(lambda: self.rules.data_came(transfer))
        self.queue.ready(transfer)

    def run(self, now_ns: int) -> list[Answer]:
        """See `CapsuleQueue.run`."""
        answers: list[Answer] = self.queue.run(now_ns)
        spoiled = self.spoiled
        for cid, cqe, _ in answers:
            effect = spoiled.get(cid) if spoiled else None
            if effect is not None and getattr(effect, "how", "") in _ENDS_CONNECTION:
                self._broken = True
            self._guarded(lambda cid=cid, cqe=cqe: self.rules.answered(cid, cqe))  # type: ignore[misc]
        return answers

    def release(self) -> None:
        """See `CapsuleQueue.release`."""
        self.queue.release()

    def violated(self, why: str, digest: bool) -> None:
        """See `CapsuleQueue.violated`."""
        self._broken = True
        self._guarded(lambda: self.rules.violated(why, digest))

    def close(self, why: str) -> None:
        """See `CapsuleQueue.close`."""
        ours = self._broken or self._checker.host_is_there
        self._guarded(lambda: self.rules.closed(ours))
        self.queue.close(why)
