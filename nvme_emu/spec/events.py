"""Asynchronous events: types, infos, and Dword 0 of their completion (Base 2.1, clause 5.1.2)."""

from __future__ import annotations

from .bits import BitLayout, bit
from .words import Worded

__all__ = [
    "ASYNC_EVENT_DW0",
    "AsyncErrorInfo",
    "AsyncEventType",
    "AsyncImmediateInfo",
    "AsyncIoCommandSetInfo",
    "AsyncNoticeInfo",
    "AsyncSmartInfo",
    "async_event_dw0",
    "async_event_words",
]


class AsyncEventType(Worded):
    """ASYNC_EVENT_DW0.aet."""

    ERROR = 0, "Error status"
    SMART = 1, "SMART / Health status"
    NOTICE = 2, "Notice"
    IMMEDIATE = 3, "Immediate"
    ONE_SHOT = 4, "One-Shot"
    IO_COMMAND_SET = 6, "I/O Command Set specific status"
    VENDOR = 7, "Vendor specific"


class AsyncErrorInfo(Worded):
    """ASYNC_EVENT_DW0.aei of an error event."""

    INVALID_DOORBELL_REGISTER = 0x00, "Write to Invalid Doorbell Register"
    INVALID_DOORBELL_VALUE = 0x01, "Invalid Doorbell Write Value"
    DIAGNOSTIC_FAILURE = 0x02, "Diagnostic Failure"
    PERSISTENT_INTERNAL_ERROR = 0x03, "Persistent Internal Error"
    TRANSIENT_INTERNAL_ERROR = 0x04, "Transient Internal Error"
    FIRMWARE_IMAGE_LOAD_ERROR = 0x05, "Firmware Image Load Error"


class AsyncSmartInfo(Worded):
    """ASYNC_EVENT_DW0.aei of a SMART / Health event."""

    SUBSYSTEM_RELIABILITY = 0x00, "NVM subsystem Reliability"
    TEMPERATURE_THRESHOLD = 0x01, "Temperature Threshold"
    SPARE_BELOW_THRESHOLD = 0x02, "Spare Below Threshold"


class AsyncNoticeInfo(Worded):
    """ASYNC_EVENT_DW0.aei of a notice."""

    NAMESPACE_ATTRIBUTE_CHANGED = 0x00, "Attached Namespace Attribute Changed"
    FIRMWARE_ACTIVATION_STARTING = 0x01, "Firmware Activation Starting"
    TELEMETRY_LOG_CHANGED = 0x02, "Telemetry Log Changed"
    ANA_CHANGE = 0x03, "Asymmetric Namespace Access Change"
    PREDICTABLE_LATENCY_EVENT = 0x04, "Predictable Latency Event Aggregate Log Change"
    LBA_STATUS_ALERT = 0x05, "LBA Status Information Alert"
    ENDURANCE_GROUP_EVENT = 0x06, "Endurance Group Event Aggregate Log Page Change"
    REACHABILITY_GROUP_CHANGE = 0x07, "Reachability Group Change"
    REACHABILITY_ASSOCIATION_CHANGE = 0x08, "Reachability Association Change"
    ALLOCATED_NAMESPACE_ATTRIBUTE_CHANGED = 0x09, "Allocated Namespace Attribute Changed"
    ZONE_DESCRIPTOR_CHANGED = 0xEF, "Zone Descriptor Changed"
    DISCOVERY_LOG_CHANGE = 0xF0, "Discovery Log Page Change"


class AsyncImmediateInfo(Worded):
    """ASYNC_EVENT_DW0.aei of an immediate event."""

    NORMAL_SUBSYSTEM_SHUTDOWN = 0x00, "Normal NVM Subsystem Shutdown"
    TEMPERATURE_THRESHOLD_HYSTERESIS_RECOVERY = 0x01, "Temperature Threshold Hysteresis Recovery"


class AsyncIoCommandSetInfo(Worded):
    """ASYNC_EVENT_DW0.aei of an event specific to an I/O command set."""

    RESERVATION_LOG_AVAILABLE = 0x00, "Reservation Log Page Available"
    SANITIZE_COMPLETED = 0x01, "Sanitize Operation Completed"
    SANITIZE_UNEXPECTED_DEALLOCATION = 0x02, "Sanitize Operation Completed With Unexpected Deallocation"
    SANITIZE_MEDIA_VERIFICATION = 0x03, "Sanitize Operation Entered Media Verification State"


ASYNC_EVENT_DW0 = BitLayout(
    "ASYNC_EVENT_DW0",
    32,
    "Base 2.1 §5.1.2",
    bit("aet", 3, "Asynchronous Event Type", {int(t): t.words for t in AsyncEventType}),
    bit("rsvd3", 5),
    bit("aei", 8, "Asynchronous Event Information"),
    bit("lid", 8, "Log Page Identifier to read"),
    bit("rsvd24", 8),
)

_INFOS: dict[int, type[Worded]] = {
    AsyncEventType.ERROR: AsyncErrorInfo,
    AsyncEventType.SMART: AsyncSmartInfo,
    AsyncEventType.NOTICE: AsyncNoticeInfo,
    AsyncEventType.IMMEDIATE: AsyncImmediateInfo,
    AsyncEventType.IO_COMMAND_SET: AsyncIoCommandSetInfo,
}


def async_event_dw0(event_type: int, info: int, lid: int) -> int:
    """Dword 0 of the completion of an Asynchronous Event Request. LayoutError for values that do not fit."""
    return ASYNC_EVENT_DW0.pack(aet=event_type, aei=info, lid=lid)


def async_event_words(dw0: int) -> str:
    """An event in words, as in "Error status: Invalid Doorbell Write Value (log page 01h)"."""
    parts = ASYNC_EVENT_DW0.unpack(dw0)
    kind = ASYNC_EVENT_DW0["aet"].values.get(parts.aet, f"event type {parts.aet}")
    infos = _INFOS.get(parts.aet)
    info = infos.name_of(parts.aei) if infos else None
    return f"{kind}: {info or f'information {parts.aei:02X}h'} (log page {parts.lid:02X}h)"
