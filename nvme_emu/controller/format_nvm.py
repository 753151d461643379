"""Format NVM (NVMe Base 2.1, 5.1.10; NVM Command Set 1.1, 4.1.2).

A format takes `config.format_ns`. Until then Identify reports what remains of it (FPI), commands to the namespace
end with Format In Progress, and the Format NVM command itself is in flight. FNA: each namespace is formatted on its
own, and NSID FFFFFFFFh formats all that are attached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.holds import Hold, WriteProtection
from nvme_emu.controller.locations import NSID, location
from nvme_emu.controller.metadata import fits, formats_offered
from nvme_emu.controller.namespace import Namespace
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import FORMAT_CDW10, SecureErase
from nvme_emu.spec.identify import FNA
from nvme_emu.spec.protection import PiType
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller

__all__ = ["FORMAT_ATTRIBUTES", "format_nvm"]

FORMAT_ATTRIBUTES: Final = FNA.pack(cryes=1)
"""Identify Controller FNA: formats and erases are of one namespace; there is a cryptographic erase."""

_LBAF = location(10, FORMAT_CDW10, "lbafl")
_PI = location(10, FORMAT_CDW10, "pi")
_SES = location(10, FORMAT_CDW10, "ses")


def _targets(ctrl: Controller, cmd: Command) -> list[Namespace]:
    """The namespaces that are to be formatted. Raises CommandError for an identifier that names none."""
    if cmd.nsid == NSID_BROADCAST:
        return list(ctrl.namespaces.values())
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    namespace = ctrl.namespaces.get(cmd.nsid)
    if namespace is None:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    return [namespace]


def format_nvm(ctrl: Controller, cmd: Command) -> int:
    """Format NVM (opcode 80h)."""
    how = FORMAT_CDW10.unpack(cmd.cdw10)
    namespaces = _targets(ctrl, cmd)
    ctrl.subsystem.sanitizer.refuse_admin()
    if how.ses not in set(SecureErase):
        raise CommandError(Status.INVALID_FIELD, location=_SES)
    index = how.lbafu << 4 | how.lbafl
    if index >= len(formats_offered(ctrl.config)):
        raise CommandError(Status.INVALID_FORMAT, location=_LBAF)
    new = formats_offered(ctrl.config)[index]
    if not fits(ctrl.config, new.ms, how.pi, bool(how.mset)):
        raise CommandError(Status.INVALID_FORMAT, location=_PI)
    if new.ms and any(one.zones is not None for one in namespaces):
        raise CommandError(Status.INVALID_FORMAT, location=_LBAF)
    ctrl.subsystem.check_writable()
    for one in namespaces:
        ctrl.ana.check(one)
    if any(one.progress(ctrl.now_ns) is not None for one in namespaces):
        raise CommandError(Status.FORMAT_IN_PROGRESS, dnr=False)
    if any(one.protection is not WriteProtection.NONE for one in namespaces):
        raise CommandError(Status.NS_WRITE_PROTECTED)
    if any(one.medium.nbytes < (1 << new.lbads) + new.ms for one in namespaces):
        raise CommandError(Status.INVALID_FORMAT, location=_LBAF)
    events = ctrl.subsystem.persistent_events
    events.format_started(ctrl, cmd.nsid, FORMAT_ATTRIBUTES, cmd.cdw10)
    for other in ctrl.subsystem.controllers.values():
        other.self_test.formatted(cmd.nsid)
    for namespace in namespaces:
        try:
            namespace.reformat(index, PiType(how.pi), bool(how.pil), bool(how.mset))
        except OSError as error:
            ctrl.counters.media_errors += 1
            events.format_completed(ctrl, cmd.nsid, int(Status.WRITE_FAULT))
            raise CommandError(Status.WRITE_FAULT, dnr=False) from error
        _keep_busy(ctrl, namespace)
        ctrl.subsystem.namespace_changed(namespace.nsid)
    if ctrl.config.format_ns:
        cmd.done_ns = ctrl.now_ns + ctrl.config.format_ns
    events.format_completed(ctrl, cmd.nsid, 0)
    return 0


def _keep_busy(ctrl: Controller, namespace: Namespace) -> None:
    """Refuse commands until the time that a format takes is over."""
    took_ns = ctrl.config.format_ns
    if not took_ns:
        return
    namespace.formatting = ctrl.now_ns, ctrl.now_ns + took_ns
    namespace.hold(Hold.FORMAT)
    # Identify, a command, or this timer: whoever comes first after the end finds it over.
    ctrl.subsystem.at(ctrl.now_ns + took_ns, namespace.look)
