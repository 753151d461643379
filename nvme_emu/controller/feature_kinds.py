"""What each feature accepts, and what it is by default: one small class a feature.

Sources: NVMe Base 2.1, clause 5.1.25.1; NVM Command Set 1.1, clause 4.1.3 (Error Recovery, Write Atomicity).
Reserved bits of an attribute are ignored, as hosts of later revisions set them; reserved *values* are
refused with Invalid Field in Command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.endurance import ENDGID
from nvme_emu.controller.feature_base import DataFeature, Feature
from nvme_emu.controller.feature_base import refuse as _refuse
from nvme_emu.controller.feature_power import (
    POWER_FEATURES,
    TEMPERATURE_CRITICAL_K,
    TEMPERATURE_WARNING_K,
    THRESHOLD_OVER,
    THRESHOLD_UNDER,
)
from nvme_emu.controller.holds import WriteProtection
from nvme_emu.controller.locations import PRP1, location
from nvme_emu.controller.nvm_copy import COPY_FORMATS
from nvme_emu.controller.zoned_admin import check_profile
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.endurance import ENDURANCE_GROUP_WARNING
from nvme_emu.spec.feature_data import HOST_BEHAVIOR, HOST_IDENTIFIER, TIMESTAMP, TIMESTAMP_ATTRIBUTES
from nvme_emu.spec.features import (
    ARBITRATION,
    ASYNC_EVENT_CONFIG,
    ENDURANCE_GROUP_EVENT_CONFIG,
    ERROR_RECOVERY,
    HOST_IDENTIFIER_FLAGS,
    INTERRUPT_COALESCING,
    INTERRUPT_VECTOR_CONFIG,
    IO_COMMAND_SET_PROFILE,
    KEEP_ALIVE_TIMER,
    LBA_STATUS_ATTRIBUTES,
    NUMBER_OF_QUEUES,
    RESERVATION_MASK,
    RESERVATION_PERSISTENCE,
    SANITIZE_CONFIG,
    VOLATILE_WRITE_CACHE,
    WRITE_ATOMICITY,
    WRITE_PROTECTION,
    Fid,
)
from nvme_emu.spec.logs import SCOPE_ENDURANCE_GROUP
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = [
    "FEATURES",
    "KAS_UNIT_MS",
    "NS_PER_MS",
    "NOTICES_OFFERED",
    "TEMPERATURE_CRITICAL_K",
    "TEMPERATURE_WARNING_K",
    "THRESHOLD_OVER",
    "THRESHOLD_UNDER",
    "TIMESTAMP_MODULUS",
    "DataFeature",
    "Feature",
]

NOTICES_OFFERED: Final = ASYNC_EVENT_CONFIG.mask("nan", "fan", "tln", "lsian", "tthry", "ansan")
"""The notices that this controller sends: bits of feature 0Bh, which are those of OAES."""

NS_PER_MS: Final = 1_000_000
KAS_UNIT_MS: Final = 100
TIMESTAMP_MODULUS: Final = 1 << 48
_QUEUES_INVALID_Z: Final = 0xFFFF
_CDFE_FORMATS: Final = 0b1100
"""Copy descriptor formats that the host must enable: 2h and 3h."""


class _Arbitration(Feature):
    layout = ARBITRATION

    def default(self, config: ControllerConfig, selector: int) -> int:
        return ARBITRATION.pack(ab=config.rab)


class _ErrorRecovery(Feature):
    layout = ERROR_RECOVERY
    per_namespace = True

    def check(self, ctrl: Controller, nsid: int, value: int) -> None:
        # Identify Namespace says which: NSFEAT.DAE.
        if ERROR_RECOVERY["dulbe"].extract(value) and ctrl.namespaces[nsid].unwritten is None:
            raise _refuse(ERROR_RECOVERY, "dulbe")


class _VolatileWriteCache(Feature):
    layout = VOLATILE_WRITE_CACHE

    def offered(self, config: ControllerConfig) -> bool:
        return config.volatile_write_cache

    def default(self, config: ControllerConfig, selector: int) -> int:
        return VOLATILE_WRITE_CACHE.pack(wce=1)


class _NumberOfQueues(Feature):
    """Granted once after a reset, before I/O queues exist; later requests get what was granted then."""

    layout = NUMBER_OF_QUEUES
    lasting = False

    def default(self, config: ControllerConfig, selector: int) -> int:
        return NUMBER_OF_QUEUES.pack(nsq_z=config.io_queues_max - 1, ncq_z=config.io_queues_max - 1)

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        asked = NUMBER_OF_QUEUES.unpack(cdw11)
        if asked.nsq_z == _QUEUES_INVALID_Z:
            raise _refuse(NUMBER_OF_QUEUES, "nsq_z")
        if asked.ncq_z == _QUEUES_INVALID_Z:
            raise _refuse(NUMBER_OF_QUEUES, "ncq_z")
        if any(ctrl.rings.sqs.keys() | ctrl.rings.cqs.keys()):
            raise CommandError(Status.CMD_SEQ_ERROR)
        granted = ctrl.features.host_value(Fid.NUMBER_OF_QUEUES)
        if granted is not None:
            return granted
        most_z = ctrl.config.io_queues_max - 1
        return NUMBER_OF_QUEUES.pack(nsq_z=min(asked.nsq_z, most_z), ncq_z=min(asked.ncq_z, most_z))

    def result(self, value: int) -> int:
        return value


class _InterruptCoalescing(Feature):
    layout = INTERRUPT_COALESCING

    def offered(self, config: ControllerConfig) -> bool:
        return not config.message_based


class _InterruptVectorConfig(Feature):
    layout = INTERRUPT_VECTOR_CONFIG

    def offered(self, config: ControllerConfig) -> bool:
        return not config.message_based

    def default(self, config: ControllerConfig, selector: int) -> int:
        return INTERRUPT_VECTOR_CONFIG.pack(iv=selector)

    def selector(self, ctrl: Controller, cdw11: int, setting: bool) -> int:
        vector: int = INTERRUPT_VECTOR_CONFIG["iv"].extract(cdw11)
        if vector >= ctrl.config.vectors:
            raise _refuse(INTERRUPT_VECTOR_CONFIG, "iv")
        return vector


class _WriteAtomicity(Feature):
    layout = WRITE_ATOMICITY


class _AsyncEventConfig(Feature):
    layout = ASYNC_EVENT_CONFIG

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        asked = super().accept(ctrl, cdw11)
        for field in ASYNC_EVENT_CONFIG.fields:
            if asked & field.mask & ~(ctrl.notices_offered | ASYNC_EVENT_CONFIG.mask("shcw")):
                raise _refuse(ASYNC_EVENT_CONFIG, field.name)
        return asked


class _KeepAliveTimer(Feature):
    """Milliseconds; the timer counts in units of KAS, so that the value is rounded up to one."""

    layout = KEEP_ALIVE_TIMER
    lasting = False

    def offered(self, config: ControllerConfig) -> bool:
        return bool(config.kas)

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        step_ms = ctrl.config.kas * KAS_UNIT_MS
        return min(-(-cdw11 // step_ms) * step_ms, KEEP_ALIVE_TIMER["kato"].value_max)


class _IoCommandSetProfile(Feature):
    """An index into the combinations of Identify CNS 1Ch."""

    layout = IO_COMMAND_SET_PROFILE

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        if not check_profile(ctrl, IO_COMMAND_SET_PROFILE["iocsci"].extract(cdw11)):
            where = location(11, IO_COMMAND_SET_PROFILE, "iocsci")
            raise CommandError(Status.IOCS_COMBINATION_REJECTED, location=where)
        return super().accept(ctrl, cdw11)


class _Timestamp(DataFeature):
    """Milliseconds since 1970 as the host set them, or since the reset; kept as the difference to ours."""

    structure = TIMESTAMP

    def accept_data(self, ctrl: Controller, data: bytes) -> int:
        timestamp: int = TIMESTAMP.parse(data).timestamp
        previous_ms = ctrl.features.timestamp_ms(ctrl.now_ns)
        ctrl.subsystem.persistent_events.timestamp_changed(ctrl, previous_ms)
        return timestamp - _now_ms(ctrl)

    def data(self, ctrl: Controller, value: int | None) -> bytes:
        return TIMESTAMP.build(
            timestamp=ctrl.features.timestamp_ms(ctrl.now_ns),
            attributes=TIMESTAMP_ATTRIBUTES.pack(torg=int(value is not None)),
        )

    def default_data(self) -> bytes:
        return TIMESTAMP.build()


class _HostBehavior(DataFeature):
    """What the host says of itself. CDFE enables the copy descriptor formats above 1h that are offered."""

    structure = HOST_BEHAVIOR

    def accept_data(self, ctrl: Controller, data: bytes) -> int:
        fields = HOST_BEHAVIOR.parse(data)
        wrong = max(fields.acre, fields.etdas, fields.lbafee, fields.hdisns) > 1
        if wrong or fields.cdfe & ~(COPY_FORMATS & _CDFE_FORMATS):
            raise CommandError(Status.INVALID_FIELD, location=PRP1)
        used = {name: fields[name] for name in ("acre", "etdas", "lbafee", "hdisns", "cdfe")}
        return int.from_bytes(HOST_BEHAVIOR.build(**used), "little")

    def data(self, ctrl: Controller, value: int | None) -> bytes:
        return (value or 0).to_bytes(HOST_BEHAVIOR.size, "little")

    def default_data(self) -> bytes:
        return HOST_BEHAVIOR.build()


class _HostIdentifier(DataFeature):
    """Who the host is, for reservations: 8 or 16 bytes on PCI Express, set once; behind a fabric Connect says it."""

    structure = HOST_IDENTIFIER

    def nbytes(self, ctrl: Controller, cdw11: int) -> int:
        extended = HOST_IDENTIFIER_FLAGS["exhid"].extract(cdw11)
        if ctrl.config.message_based and not extended:
            raise _refuse(HOST_IDENTIFIER_FLAGS, "exhid")
        return HOST_IDENTIFIER.size if extended else HOST_IDENTIFIER.size // 2

    def accept_data(self, ctrl: Controller, data: bytes) -> int:
        if ctrl.config.message_based:
            raise CommandError(Status.CMD_SEQ_ERROR)
        extended = len(data) == HOST_IDENTIFIER.size
        asked = data.ljust(HOST_IDENTIFIER.size, b"\0")
        if any(ctrl.host_id) and (asked != ctrl.host_id or extended != ctrl.host_id_is_extended):
            raise CommandError(Status.CMD_SEQ_ERROR)
        ctrl.host_id, ctrl.host_id_is_extended = asked, extended
        return int.from_bytes(asked, "little")

    def data(self, ctrl: Controller, value: int | None) -> bytes:
        return ctrl.host_id

    def default_data(self) -> bytes:
        return bytes(HOST_IDENTIFIER.size)


class _LbaStatusAttributes(Feature):
    """LSIRI is the host's; LSIPI is the controller's, which has nothing to wait for."""

    layout = LBA_STATUS_ATTRIBUTES

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        return LBA_STATUS_ATTRIBUTES.pack(lsiri=LBA_STATUS_ATTRIBUTES["lsiri"].extract(cdw11))


class _SanitizeConfig(Feature):
    """No-Deallocate Response Mode: kept, without an effect as long as SANICAP.NDI is 0."""

    layout = SANITIZE_CONFIG


class _EnduranceGroupEventConfig(Feature):
    """Which warnings of an endurance group make it appear in log page 0Fh."""

    layout = ENDURANCE_GROUP_EVENT_CONFIG
    scope = SCOPE_ENDURANCE_GROUP

    def offered(self, config: ControllerConfig) -> bool:
        return config.endurance_group

    def default(self, config: ControllerConfig, selector: int) -> int:
        return ENDURANCE_GROUP_EVENT_CONFIG.pack(endgid=selector)

    def selector(self, ctrl: Controller, cdw11: int, setting: bool) -> int:
        group = int(ENDURANCE_GROUP_EVENT_CONFIG["endgid"].extract(cdw11))
        if group != ENDGID:
            raise _refuse(ENDURANCE_GROUP_EVENT_CONFIG, "endgid")
        return group

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        if ENDURANCE_GROUP_EVENT_CONFIG["egcw"].extract(cdw11) & ENDURANCE_GROUP_WARNING.reserved_mask:
            raise _refuse(ENDURANCE_GROUP_EVENT_CONFIG, "egcw")
        return super().accept(ctrl, cdw11)

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        ctrl.endurance.evaluate()


class _ReservationMask(Feature):
    layout = RESERVATION_MASK
    per_namespace = True


class _ReservationPersistence(Feature):
    """Persist Through Power Loss: of the namespace, whoever asks."""

    layout = RESERVATION_PERSISTENCE
    per_namespace = True
    lasting = False

    def live(self, ctrl: Controller, nsid: int) -> int:
        return RESERVATION_PERSISTENCE.pack(ptpl=int(ctrl.namespaces[nsid].reservations.ptpl))

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        ctrl.namespaces[nsid].reservations.ptpl = bool(RESERVATION_PERSISTENCE["ptpl"].extract(value))


class _WriteProtection(Feature):
    """Namespace Write Protection Config (Base 2.1, 8.1.16): of the namespace, whoever asks."""

    layout = WRITE_PROTECTION
    per_namespace = True
    lasting = False

    def changeable(self, ctrl: Controller, nsid: int) -> bool:
        fixed = (WriteProtection.UNTIL_POWER_CYCLE, WriteProtection.PERMANENT)
        return ctrl.namespaces[nsid].protection not in fixed

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        state = WRITE_PROTECTION["wps"].extract(cdw11)
        if state > WriteProtection.PERMANENT.value:
            raise _refuse(WRITE_PROTECTION, "wps")
        return super().accept(ctrl, cdw11)

    def live(self, ctrl: Controller, nsid: int) -> int:
        return WRITE_PROTECTION.pack(wps=ctrl.namespaces[nsid].protection.value)

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        namespace = ctrl.namespaces[nsid]
        namespace.protect(WriteProtection(WRITE_PROTECTION["wps"].extract(value)))
        ctrl.subsystem.namespace_changed(nsid)


def _now_ms(ctrl: Controller) -> int:
    return ctrl.now_ns // NS_PER_MS


FEATURES: Final[dict[int, Feature]] = {
    **POWER_FEATURES,
    Fid.ARBITRATION: _Arbitration(),
    Fid.ERROR_RECOVERY: _ErrorRecovery(),
    Fid.VOLATILE_WRITE_CACHE: _VolatileWriteCache(),
    Fid.NUMBER_OF_QUEUES: _NumberOfQueues(),
    Fid.INTERRUPT_COALESCING: _InterruptCoalescing(),
    Fid.INTERRUPT_VECTOR_CONFIG: _InterruptVectorConfig(),
    Fid.WRITE_ATOMICITY: _WriteAtomicity(),
    Fid.ASYNC_EVENT_CONFIG: _AsyncEventConfig(),
    Fid.TIMESTAMP: _Timestamp(),
    Fid.KEEP_ALIVE_TIMER: _KeepAliveTimer(),
    Fid.HOST_BEHAVIOR: _HostBehavior(),
    Fid.LBA_STATUS_REPORT_INTERVAL: _LbaStatusAttributes(),
    Fid.SANITIZE_CONFIG: _SanitizeConfig(),
    Fid.ENDURANCE_GROUP_EVENT_CONFIG: _EnduranceGroupEventConfig(),
    Fid.IO_COMMAND_SET_PROFILE: _IoCommandSetProfile(),
    Fid.HOST_IDENTIFIER: _HostIdentifier(),
    Fid.RESERVATION_NOTIFICATION_MASK: _ReservationMask(),
    Fid.RESERVATION_PERSISTENCE: _ReservationPersistence(),
    Fid.WRITE_PROTECTION: _WriteProtection(),
}
"""Every feature that this program has; `Feature.offered` says whether a controller has it."""
