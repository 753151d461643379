"""Get Features and Set Features (NVMe Base 2.1, clauses 5.1.11 and 5.1.25; "Feature Values", clause 4.4).

A feature has up to three values: *current*, *default* and, where it is saveable, *saved*. A value belongs to
(feature, namespace, selector): the selector tells thresholds and interrupt vectors apart, the namespace is 0
for features of the controller. A reset makes the saved values current, or the defaults where none was saved.

Saved values live in a mapping that the owner of lasting storage hands in. Without one no feature is saveable,
and that is what Get Features reports; the saved value of such a feature is its default.

What each feature accepts is in `feature_kinds`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.ana import check_feature
from nvme_emu.controller.feature_kinds import FEATURES, NS_PER_MS, TIMESTAMP_MODULUS, DataFeature, Feature
from nvme_emu.controller.feature_power import idle_table, threshold_selector
from nvme_emu.controller.locations import NSID, location
from nvme_emu.controller.nvm_access import fail_medium
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import (
    GET_FEATURES_CDW10,
    QPRIO_HIGH,
    QPRIO_LOW,
    QPRIO_MEDIUM,
    SEL_CURRENT,
    SEL_DEFAULT,
    SEL_SAVED,
    SEL_SUPPORTED,
    SET_FEATURES_CDW10,
)
from nvme_emu.spec.events import AsyncEventType, AsyncImmediateInfo, AsyncNoticeInfo, AsyncSmartInfo
from nvme_emu.spec.feature_data import HOST_BEHAVIOR
from nvme_emu.spec.features import (
    ARBITRATION,
    ASYNC_EVENT_CONFIG,
    FEATURE_CAPABILITIES,
    INTERRUPT_COALESCING,
    INTERRUPT_VECTOR_CONFIG,
    NUMBER_OF_QUEUES,
    TEMPERATURE_THRESHOLD,
    VOLATILE_WRITE_CACHE,
    Fid,
)
from nvme_emu.spec.logs import CRITICAL_WARNING
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = ["FeatureKey", "Features", "get_features", "set_features"]

FeatureKey = tuple[int, int, int]
"""(feature identifier, namespace or 0, selector)."""

_NO_BURST_LIMIT: Final = ARBITRATION["ab"].value_max
_RECOVERED: Final = AsyncImmediateInfo.TEMPERATURE_THRESHOLD_HYSTERESIS_RECOVERY
_FID = location(10, GET_FEATURES_CDW10, "fid")
_SEL = location(10, GET_FEATURES_CDW10, "sel")
_SV = location(10, SET_FEATURES_CDW10, "sv")

# Which bits of the SMART log's Critical Warning (and of feature 0Bh) a SMART event stands for.
_WARNINGS_OF_SMART_INFO: Final[dict[int, int]] = {
    AsyncSmartInfo.SPARE_BELOW_THRESHOLD: CRITICAL_WARNING.mask("ascbt"),
    AsyncSmartInfo.TEMPERATURE_THRESHOLD: CRITICAL_WARNING.mask("ttc"),
    AsyncSmartInfo.SUBSYSTEM_RELIABILITY: CRITICAL_WARNING.mask("ndr", "amro", "vmbf", "pmrro"),
}
_CONFIG_OF_NOTICE: Final[dict[int, int]] = {
    AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED: ASYNC_EVENT_CONFIG.mask("nan"),
    AsyncNoticeInfo.FIRMWARE_ACTIVATION_STARTING: ASYNC_EVENT_CONFIG.mask("fan"),
    AsyncNoticeInfo.LBA_STATUS_ALERT: ASYNC_EVENT_CONFIG.mask("lsian"),
    AsyncNoticeInfo.TELEMETRY_LOG_CHANGED: ASYNC_EVENT_CONFIG.mask("tln"),
    AsyncNoticeInfo.ANA_CHANGE: ASYNC_EVENT_CONFIG.mask("anacn"),
    AsyncNoticeInfo.ENDURANCE_GROUP_EVENT: ASYNC_EVENT_CONFIG.mask("egealcn"),
    AsyncNoticeInfo.ALLOCATED_NAMESPACE_ATTRIBUTE_CHANGED: ASYNC_EVENT_CONFIG.mask("ansan"),
    AsyncNoticeInfo.ZONE_DESCRIPTOR_CHANGED: ASYNC_EVENT_CONFIG.mask("zdcn"),
    AsyncNoticeInfo.DISCOVERY_LOG_CHANGE: ASYNC_EVENT_CONFIG.mask("dlpcn"),
}


class Features:
    """The values of all features, and what the rest of the controller asks of them.

    ``saved`` maps `FeatureKey` to the value of a feature whose value is one dword.
    """

    def __init__(
        self, config: ControllerConfig, saved: MutableMapping[FeatureKey, int] | None = None
    ) -> None:
        self._config = config
        self._saved = saved
        self._current: dict[FeatureKey, int] = {}
        self._reset_ms: int | None = None

    def reset(self, now_ns: int = 0) -> None:
        """Controller Level Reset at ``now_ns``: saved values, or defaults, become current."""
        self._current.clear()
        self._reset_ms = now_ns // NS_PER_MS

    def offered(self, fid: int) -> Feature | None:
        """The feature, None if this controller does not have it."""
        feature = FEATURES.get(fid)
        return feature if feature is not None and feature.offered(self._config) else None

    def saveable(self, fid: int) -> bool:
        """Whether Set Features may save it."""
        feature = self.offered(fid)
        return feature is not None and feature.lasting and self._saved is not None

    def current(self, fid: int, nsid: int = 0, selector: int = 0) -> int:
        """The current value of a feature whose value is one dword."""
        value = self._current.get((fid, nsid, selector))
        return self.saved(fid, nsid, selector) if value is None else value

    def saved(self, fid: int, nsid: int = 0, selector: int = 0) -> int:
        """The saved value; the default if there is none."""
        value = None if self._saved is None else self._saved.get((fid, nsid, selector))
        return self.default(fid, selector) if value is None else value

    def default(self, fid: int, selector: int = 0) -> int:
        """The default value."""
        return FEATURES[fid].default(self._config, selector)

    def host_value(self, fid: int) -> int | None:
        """What the host set since the last reset; None if it did not."""
        return self._current.get((fid, 0, 0))

    def kept(self, fid: int, sel: int = SEL_CURRENT) -> int | None:
        """The value of a feature that is a data structure, as it was set or saved; None if it was not."""
        value = self._current.get((fid, 0, 0)) if sel == SEL_CURRENT else None
        if value is None and sel != SEL_DEFAULT and self._saved is not None:
            value = self._saved.get((fid, 0, 0))
        return value

    def store(self, key: FeatureKey, value: int, save: bool = False) -> None:
        """Make ``value`` current, and the saved one too with ``save``."""
        self._current[key] = value
        if save and self._saved is not None:
            self._saved[key] = value

    def forget_namespace(self, nsid: int) -> None:
        """A namespace is deleted: its values go with it."""
        for key in [key for key in self._current if key[1] == nsid]:
            del self._current[key]

    def timestamp_ms(self, now_ns: int) -> int:
        """What the Timestamp feature says: milliseconds since 1970 if the host has set it, else since the reset."""
        set_to = self.host_value(Fid.TIMESTAMP)
        ms = self.since_reset_ms(now_ns) if set_to is None else set_to + now_ns // NS_PER_MS
        return ms % TIMESTAMP_MODULUS

    def since_reset_ms(self, now_ns: int) -> int:
        """Milliseconds since the last reset; before the first one, since somebody first asked.

        The clock may have started at any value, so that a new controller cannot know when it was made.
        """
        now_ms = now_ns // NS_PER_MS
        if self._reset_ms is None:
            self._reset_ms = now_ms
        return now_ms - self._reset_ms

    # -- what the rest of the controller asks ---------------------------------------------------------------

    @property
    def arbitration_burst(self) -> int:
        """Commands that a queue may launch in one turn; 0 for no limit."""
        log2 = ARBITRATION["ab"].extract(self.current(Fid.ARBITRATION))
        return 0 if log2 == _NO_BURST_LIMIT else 2**log2

    @property
    def arbitration_weights(self) -> dict[int, int]:
        """Commands of each priority class in a round of weighted arbitration."""
        fields = ARBITRATION.unpack(self.current(Fid.ARBITRATION))
        return {QPRIO_HIGH: fields.hpw_z + 1, QPRIO_MEDIUM: fields.mpw_z + 1, QPRIO_LOW: fields.lpw_z + 1}

    @property
    def write_cache_enabled(self) -> bool:
        """Whether completed writes may still be volatile."""
        if self.offered(Fid.VOLATILE_WRITE_CACHE) is None:
            return False
        return bool(VOLATILE_WRITE_CACHE["wce"].extract(self.current(Fid.VOLATILE_WRITE_CACHE)))

    @property
    def io_sqs_granted(self) -> int:
        """How many I/O submission queues the host may create; their identifiers are 1 to this."""
        return int(NUMBER_OF_QUEUES["nsq_z"].extract(self.current(Fid.NUMBER_OF_QUEUES))) + 1

    @property
    def io_cqs_granted(self) -> int:
        """How many I/O completion queues the host may create; their identifiers are 1 to this."""
        return int(NUMBER_OF_QUEUES["ncq_z"].extract(self.current(Fid.NUMBER_OF_QUEUES))) + 1

    @property
    def coalescing(self) -> tuple[int, int]:
        """(completions, time in units of 100 µs) after which an interrupt is due; a time of 0 is no delay."""
        fields = INTERRUPT_COALESCING.unpack(self.current(Fid.INTERRUPT_COALESCING))
        return fields.thr_z + 1, fields.time

    def coalescing_disabled(self, vector: int) -> bool:
        """Whether the host exempted a vector from coalescing."""
        value = self.current(Fid.INTERRUPT_VECTOR_CONFIG, selector=vector)
        return bool(INTERRUPT_VECTOR_CONFIG["cd"].extract(value))

    def temperature_threshold_k(self, sensor: int, kind: int) -> tuple[int, int]:
        """(threshold, hysteresis) of the Composite Temperature (0) or a sensor, over or under, in kelvins."""
        value = self.current(Fid.TEMPERATURE_THRESHOLD, selector=threshold_selector(sensor, kind))
        fields = TEMPERATURE_THRESHOLD.unpack(value)
        return fields.tmpth, fields.tmpthh

    @property
    def idle_transitions(self) -> tuple[bool, list[tuple[int, int]]]:
        """Whether the controller may change its power state by itself; (ITPS, ITPT in ms) from each state."""
        value = self.kept(Fid.AUTONOMOUS_POWER_STATE_TRANSITION) or 0
        return bool(value & 1), idle_table(value) if value & 1 else []

    @property
    def smart_events_enabled(self) -> int:
        """The critical warnings whose events the host enabled, in the places of the SMART log."""
        return int(ASYNC_EVENT_CONFIG["shcw"].extract(self.current(Fid.ASYNC_EVENT_CONFIG)))

    @property
    def copy_formats(self) -> int:
        """The copy descriptor formats that the host has enabled: a bit for each."""
        value = self.host_value(Fid.HOST_BEHAVIOR)
        if value is None:
            return 0
        return int(HOST_BEHAVIOR.parse(value.to_bytes(HOST_BEHAVIOR.size, "little")).cdfe)

    def reservation_masked(self, nsid: int, notice: int) -> bool:
        """Whether the host does not want to hear of a reservation notification; the bit has its number."""
        return bool(self.current(Fid.RESERVATION_NOTIFICATION_MASK, nsid) >> notice & 1)

    def event_enabled(self, event_type: int, info: int) -> bool:
        """Whether the host wants an asynchronous event; errors and one-time events cannot be turned off."""
        if event_type == AsyncEventType.SMART:
            return bool(self.smart_events_enabled & _WARNINGS_OF_SMART_INFO.get(info, 0))
        if event_type == AsyncEventType.IMMEDIATE and info == _RECOVERED:
            return bool(self.current(Fid.ASYNC_EVENT_CONFIG) & ASYNC_EVENT_CONFIG.mask("tthry"))
        if event_type == AsyncEventType.NOTICE:
            return bool(self.current(Fid.ASYNC_EVENT_CONFIG) & _CONFIG_OF_NOTICE.get(info, 0))
        return True


# Set Features ------------------------------------------------------------------------------------------


def _feature(ctrl: Controller, fid: int) -> Feature:
    feature = ctrl.features.offered(fid)
    if feature is None:
        raise CommandError(Status.INVALID_FIELD, location=_FID)
    return feature


def _namespaces_to_set(ctrl: Controller, cmd: Command, feature: Feature) -> list[int]:
    """The namespaces whose value is set, [0] for the controller's. Raises CommandError for a wrong NSID."""
    nsid, valid = cmd.nsid, 1 <= cmd.nsid <= ctrl.config.namespaces_max
    if feature.per_namespace:
        if nsid == NSID_BROADCAST:
            return list(ctrl.namespaces)
        if not valid:
            raise CommandError(Status.INVALID_NS, location=NSID)
        if nsid not in ctrl.namespaces:
            raise CommandError(Status.INVALID_FIELD, location=NSID)
        return [nsid]
    if nsid in (0, NSID_BROADCAST):
        return [0]
    raise CommandError(Status.FEATURE_NOT_PER_NS if valid else Status.INVALID_NS, location=NSID)


def _flush_before_write_through(ctrl: Controller, cdw11: int) -> None:
    """Turning the write cache off leaves nothing in it."""
    if ctrl.features.write_cache_enabled and not VOLATILE_WRITE_CACHE["wce"].extract(cdw11):
        try:
            for namespace in ctrl.namespaces.values():
                namespace.media.flush()
        except OSError as error:
            fail_medium(ctrl, error, Status.WRITE_FAULT)


def set_features(ctrl: Controller, cmd: Command) -> int:
    """Set Features (opcode 09h)."""
    head = SET_FEATURES_CDW10.unpack(cmd.cdw10)
    feature = _feature(ctrl, head.fid)
    features = ctrl.features
    if head.sv and not features.saveable(head.fid):
        raise CommandError(Status.FEATURE_NOT_SAVEABLE, location=_SV)
    check_feature(ctrl, cmd, head.fid)
    nsids = _namespaces_to_set(ctrl, cmd, feature)
    if not all(feature.changeable(ctrl, nsid) for nsid in nsids):
        raise CommandError(Status.FEATURE_NOT_CHANGEABLE, location=_FID)
    if isinstance(feature, DataFeature):
        data = ctrl.receive(cmd, feature.nbytes(ctrl, cmd.cdw11))
        value = feature.accept_with(ctrl, cmd.cdw11, data)
        features.store((head.fid, 0, 0), value, bool(head.sv))
        feature.apply(ctrl, 0, value)
        return 0
    selectors = feature.selectors(ctrl, cmd.cdw11)
    value = feature.accept(ctrl, cmd.cdw11)
    for nsid in nsids:
        feature.check(ctrl, nsid, value)
    if head.fid == Fid.VOLATILE_WRITE_CACHE:
        _flush_before_write_through(ctrl, cmd.cdw11)
    for nsid in nsids:
        for selector in selectors:
            features.store((head.fid, nsid, selector), feature.value_of(selector, value), bool(head.sv))
        feature.apply(ctrl, nsid, value)
    if head.fid in (Fid.TEMPERATURE_THRESHOLD, Fid.ASYNC_EVENT_CONFIG):
        ctrl.logs.health.evaluate()
    return feature.result(value)


# Get Features ------------------------------------------------------------------------------------------


def _namespace_to_get(ctrl: Controller, cmd: Command, feature: Feature) -> int:
    """The namespace whose value is asked for; features of the controller do not use NSID."""
    if not feature.per_namespace:
        return 0
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    if cmd.nsid not in ctrl.namespaces:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    return cmd.nsid


def get_features(ctrl: Controller, cmd: Command) -> int:
    """Get Features (opcode 0Ah)."""
    head = GET_FEATURES_CDW10.unpack(cmd.cdw10)
    feature = _feature(ctrl, head.fid)
    features = ctrl.features
    nsid = _namespace_to_get(ctrl, cmd, feature)
    check_feature(ctrl, cmd, head.fid)
    if head.sel > SEL_SUPPORTED:
        raise CommandError(Status.INVALID_FIELD, location=_SEL)
    if head.sel == SEL_SUPPORTED:
        return FEATURE_CAPABILITIES.pack(
            saveable=int(features.saveable(head.fid)),
            ns_specific=int(feature.per_namespace),
            changeable=int(feature.changeable(ctrl, nsid)),
        )
    if isinstance(feature, DataFeature):
        value = features.kept(head.fid, head.sel)
        known = value is not None or head.sel == SEL_CURRENT
        data = feature.data(ctrl, value) if known else feature.default_data()
        ctrl.send(cmd, data[: feature.nbytes(ctrl, cmd.cdw11)])
        return feature.dw0(value)
    selector = feature.selector(ctrl, cmd.cdw11, False)
    if head.sel == SEL_DEFAULT:
        return features.default(head.fid, selector)
    if head.sel == SEL_SAVED:
        return features.saved(head.fid, nsid, selector)
    live = feature.live(ctrl, nsid)
    return features.current(head.fid, nsid, selector) if live is None else live
