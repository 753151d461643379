"""Directive Send and Receive: Identify, and Streams (NVMe Base 2.1, clauses 5.1.6, 5.1.7 and 8.1.8).

A host enables Streams for a namespace; the enabling holds for its controllers, those with its Host Identifier, and
ends with a reset. Its writes then may name a stream (DTYPE 1h, DSPEC): data that will be deallocated together. The
first write of a stream opens it, if a resource is there for it:

    allocated   the namespace's own (Allocate Resources): NSA of them for this host, no others are used
    shared      else those of the subsystem that nobody has allocated: NSSA of them

A write for whose stream there is no resource is a write without a stream. Streams are advice to the device and
change nothing of what is stored. A host without a Host Identifier stands for its controller alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.locations import NSID, location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import DIRECTIVE_CDW11
from nvme_emu.spec.directives import (
    DIRECTIVE_PARAMETERS,
    ENABLE_DIRECTIVE_CDW12,
    STREAM_IDS_MAX,
    STREAMS_ALLOCATE_CDW12,
    STREAMS_PARAMETERS,
    DirectiveType,
    IdentifyReceive,
    IdentifySend,
    StreamsReceive,
    StreamsSend,
)
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller

__all__ = ["Directives", "check_directive", "directive_receive", "directive_send", "stream_of"]

STREAM_WRITE_BYTES: Final = 32 << 10
"""SWS: writes of a stream are best multiples of this."""
STREAM_GRANULE_BYTES: Final = 8 << 20
"""SGS: and deallocated best in multiples of this."""

_DOPER = location(11, DIRECTIVE_CDW11, "doper")
_DTYPE = location(11, DIRECTIVE_CDW11, "dtype")
_ENABLED_DTYPE = location(12, ENABLE_DIRECTIVE_CDW12, "dtype")
_NUMD = (40, 0)
_WRITE_DTYPE = (50, 4)
_DTYPE_SHIFT, _DSPEC_SHIFT = 20, 16
_ID_BYTES: Final = 2
_ANSWER_BYTES_MAX: Final = (STREAM_IDS_MAX + 1) * _ID_BYTES
"""The longest answer there is, of Get Status."""

_Key = tuple[bytes, int]
"""(host, namespace)."""


def _host(ctrl: Controller) -> bytes:
    """Who a controller's host is; a name of the controller's own where it has not said."""
    return ctrl.host_id if any(ctrl.host_id) else b"cntlid %d" % ctrl.config.cntlid


class Directives:
    """Which directives are enabled, and the streams that there are. One for a subsystem."""

    def __init__(self, streams_max: int) -> None:
        self.streams_max = streams_max
        self._enabled: set[tuple[int, int]] = set()  # (controller, namespace)
        self._allocated: dict[_Key, int] = {}
        self._open: dict[_Key, list[int]] = {}

    # -- enabling -------------------------------------------------------------------------------------------

    def enabled(self, ctrl: Controller, nsid: int) -> bool:
        """Whether a host may use streams in a namespace."""
        return (ctrl.config.cntlid, nsid) in self._enabled

    def enable(self, ctrl: Controller, nsids: Iterable[int], on: bool) -> None:
        """Enable or disable Streams for the host's controllers; what is disabled has no streams."""
        host, named = _host(ctrl), any(ctrl.host_id)
        peers = [ctrl] if not named else [one for one in ctrl.subsystem.controllers.values() if _host(one) == host]
        for nsid in nsids:
            for peer in peers:
                if on:
                    self._enabled.add((peer.config.cntlid, nsid))
                else:
                    self._enabled.discard((peer.config.cntlid, nsid))
            if not on:
                self._release((host, nsid))

    def reset(self, ctrl: Controller) -> None:
        """A Controller Level Reset, or the controller is gone: nothing is enabled there any more.

        The streams of a host go with the last of its controllers that has them enabled.
        """
        cntlid = ctrl.config.cntlid
        self._enabled = {pair for pair in self._enabled if pair[0] != cntlid}
        controllers = ctrl.subsystem.controllers
        in_use = {(_host(controllers[one]), nsid) for one, nsid in self._enabled if one in controllers}
        for key in [key for key in self._open.keys() | self._allocated.keys() if key not in in_use]:
            self._release(key)

    def subsystem_reset(self) -> None:
        """All that was enabled and allocated is gone."""
        self._enabled.clear()
        self._allocated.clear()
        self._open.clear()

    def namespace_gone(self, nsid: int) -> None:
        """A namespace was deleted."""
        self._enabled = {pair for pair in self._enabled if pair[1] != nsid}
        for key in [key for key in self._open.keys() | self._allocated.keys() if key[1] == nsid]:
            self._release(key)

    # -- streams --------------------------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """NSSA: resources that no namespace has to itself."""
        return self.streams_max - sum(self._allocated.values())

    @property
    def shared_open(self) -> int:
        """NSSO: how many of them are in use."""
        return sum(len(ids) for key, ids in self._open.items() if key not in self._allocated)

    def allocated(self, ctrl: Controller, nsid: int) -> int:
        """NSA: resources of a namespace that this host has to itself."""
        return self._allocated.get((_host(ctrl), nsid), 0)

    def open_streams(self, ctrl: Controller, nsid: int) -> list[int]:
        """Identifiers of this host's open streams in a namespace, in the order in which they were opened."""
        return self._open.get((_host(ctrl), nsid), [])

    def allocate(self, ctrl: Controller, nsid: int, wanted: int) -> int:
        """Give a namespace resources of its own: how many. Raises CommandError."""
        key = _host(ctrl), nsid
        if key in self._allocated:
            raise CommandError(Status.INVALID_FIELD, location=NSID)
        mine = len(self._open.get(key, ()))
        granted = min(wanted, self.available - self.shared_open + mine)
        if granted <= 0:
            raise CommandError(Status.STREAM_RESOURCE_FAILED, dnr=False)
        self._open.pop(key, None)
        self._allocated[key] = granted
        return granted

    def close(self, ctrl: Controller, nsid: int, stream: int) -> None:
        """A stream is over; nothing if it was not open."""
        ids = self.open_streams(ctrl, nsid)
        if stream in ids:
            ids.remove(stream)

    def release(self, ctrl: Controller, nsid: int) -> None:
        """Give back what a namespace has to itself, and close its streams."""
        self._release((_host(ctrl), nsid))

    def _release(self, key: _Key) -> None:
        self._allocated.pop(key, None)
        self._open.pop(key, None)

    def write(self, ctrl: Controller, nsid: int, stream: int) -> None:
        """A write of a stream: it is open now, if there is a resource for it."""
        key = _host(ctrl), nsid
        ids = self._open.setdefault(key, [])
        if stream in ids:
            return
        own = self._allocated.get(key)
        free = own - len(ids) if own is not None else self.available - self.shared_open
        if free > 0:
            ids.append(stream)


# What I/O commands ask -------------------------------------------------------------------------------------


def check_directive(ctrl: Controller, cmd: Command, dtype: int) -> None:
    """Raises CommandError Invalid Field for a directive that is not enabled in the command's namespace."""
    if dtype and not (dtype == DirectiveType.STREAMS and ctrl.subsystem.directives.enabled(ctrl, cmd.nsid)):
        raise CommandError(Status.INVALID_FIELD, location=_WRITE_DTYPE)


def stream_of(ctrl: Controller, cmd: Command, dtype: int) -> None:
    """A command with a directive type that was checked has written: its stream, if it names one, is open."""
    stream = cmd.cdw13 >> _DSPEC_SHIFT
    if dtype == DirectiveType.STREAMS and stream:
        ctrl.subsystem.directives.write(ctrl, cmd.nsid, stream)


# Directive Receive and Send --------------------------------------------------------------------------------


def _active(ctrl: Controller, cmd: Command) -> int:
    """NSID of an active namespace. Raises CommandError."""
    if cmd.nsid == NSID_BROADCAST:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    if cmd.nsid not in ctrl.namespaces:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    return cmd.nsid


def _active_or_all(ctrl: Controller, cmd: Command) -> list[int]:
    return list(ctrl.namespaces) if cmd.nsid == NSID_BROADCAST else [_active(ctrl, cmd)]


def _need_streams(ctrl: Controller, nsids: Iterable[int]) -> None:
    """Raises CommandError where Streams is not enabled."""
    if not any(ctrl.subsystem.directives.enabled(ctrl, nsid) for nsid in nsids):
        raise CommandError(Status.INVALID_FIELD, location=_DTYPE)


def _bits(*types: int) -> bytes:
    return sum(1 << dtype for dtype in types).to_bytes(32, "little")


def _answer(ctrl: Controller, cmd: Command, data: bytes) -> int:
    """As many dwords of it as the host asked for (NUMD)."""
    nbytes = (cmd.cdw10 + 1) * 4
    if nbytes > min(ctrl.transfer_bytes_max, _ANSWER_BYTES_MAX):
        raise CommandError(Status.INVALID_FIELD, location=_NUMD)
    ctrl.send(cmd, data[:nbytes].ljust(nbytes, b"\0"))
    return 0


def _identify_parameters(ctrl: Controller, cmd: Command) -> int:
    nsids = _active_or_all(ctrl, cmd)
    directives = ctrl.subsystem.directives
    on = bool(nsids) and all(directives.enabled(ctrl, nsid) for nsid in nsids)
    offered = [DirectiveType.STREAMS] if directives.streams_max else []
    return _answer(
        ctrl,
        cmd,
        DIRECTIVE_PARAMETERS.build(
            supported=_bits(DirectiveType.IDENTIFY, *offered),
            enabled=_bits(DirectiveType.IDENTIFY, *([DirectiveType.STREAMS] if on else [])),
        ),
    )


def _enable(ctrl: Controller, cmd: Command) -> int:
    nsids = _active_or_all(ctrl, cmd)
    how = ENABLE_DIRECTIVE_CDW12.unpack(cmd.cdw12)
    if how.dtype != DirectiveType.STREAMS or not ctrl.subsystem.directives.streams_max:
        raise CommandError(Status.INVALID_FIELD, location=_ENABLED_DTYPE)
    ctrl.subsystem.directives.enable(ctrl, nsids, bool(how.endir))
    return 0


def _streams_parameters(ctrl: Controller, cmd: Command) -> int:
    """Of the subsystem alone where NSID is FFFFFFFFh."""
    nsids = _active_or_all(ctrl, cmd)
    _need_streams(ctrl, nsids)
    directives = ctrl.subsystem.directives
    fields = {"msl": directives.streams_max, "nssa": directives.available, "nsso": directives.shared_open}
    if cmd.nsid != NSID_BROADCAST:
        lba_size = ctrl.namespaces[cmd.nsid].lba_size
        fields |= {
            "sws": STREAM_WRITE_BYTES // lba_size,
            "sgs": STREAM_GRANULE_BYTES // STREAM_WRITE_BYTES,
            "nsa": directives.allocated(ctrl, cmd.nsid),
            "nso": len(directives.open_streams(ctrl, cmd.nsid)),
        }
    return _answer(ctrl, cmd, STREAMS_PARAMETERS.build(**fields))


def _streams_status(ctrl: Controller, cmd: Command) -> int:
    """How many streams are open, and their identifiers."""
    nsid = _active(ctrl, cmd)
    _need_streams(ctrl, [nsid])
    ids = ctrl.subsystem.directives.open_streams(ctrl, nsid)
    numbers = [len(ids), *ids]
    data = b"".join(number.to_bytes(_ID_BYTES, "little") for number in numbers)
    return _answer(ctrl, cmd, data)


def _streams_allocate(ctrl: Controller, cmd: Command) -> int:
    nsid = _active(ctrl, cmd)
    _need_streams(ctrl, [nsid])
    wanted = STREAMS_ALLOCATE_CDW12["nsr"].extract(cmd.cdw12)
    return ctrl.subsystem.directives.allocate(ctrl, nsid, wanted)


def _streams_close(ctrl: Controller, cmd: Command) -> int:
    nsid = _active(ctrl, cmd)
    _need_streams(ctrl, [nsid])
    ctrl.subsystem.directives.close(ctrl, nsid, DIRECTIVE_CDW11["dspec"].extract(cmd.cdw11))
    return 0


def _streams_release(ctrl: Controller, cmd: Command) -> int:
    nsid = _active(ctrl, cmd)
    _need_streams(ctrl, [nsid])
    ctrl.subsystem.directives.release(ctrl, nsid)
    return 0


_Operations = dict[int, dict[int, Callable[["Controller", "Command"], int]]]
_RECEIVE: Final[_Operations] = {
    DirectiveType.IDENTIFY: {IdentifyReceive.RETURN_PARAMETERS: _identify_parameters},
    DirectiveType.STREAMS: {
        StreamsReceive.RETURN_PARAMETERS: _streams_parameters,
        StreamsReceive.GET_STATUS: _streams_status,
        StreamsReceive.ALLOCATE_RESOURCES: _streams_allocate,
    },
}
_SEND: Final[_Operations] = {
    DirectiveType.IDENTIFY: {IdentifySend.ENABLE_DIRECTIVE: _enable},
    DirectiveType.STREAMS: {
        StreamsSend.RELEASE_IDENTIFIER: _streams_close,
        StreamsSend.RELEASE_RESOURCES: _streams_release,
    },
}


def _run(ctrl: Controller, cmd: Command, operations: _Operations) -> int:
    which = DIRECTIVE_CDW11.unpack(cmd.cdw11)
    of_type = operations.get(which.dtype)
    if of_type is None or (which.dtype == DirectiveType.STREAMS and not ctrl.subsystem.directives.streams_max):
        raise CommandError(Status.INVALID_FIELD, location=_DTYPE)
    operation = of_type.get(which.doper)
    if operation is None:
        raise CommandError(Status.INVALID_FIELD, location=_DOPER)
    return operation(ctrl, cmd)


def directive_receive(ctrl: Controller, cmd: Command) -> int:
    """Directive Receive (opcode 1Ah)."""
    return _run(ctrl, cmd, _RECEIVE)


def directive_send(ctrl: Controller, cmd: Command) -> int:
    """Directive Send (opcode 19h). None of its operations has data."""
    return _run(ctrl, cmd, _SEND)
