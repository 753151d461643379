"""The Persistent Event log page (0Dh): header, event header, and the data of each event that is declared."""

from __future__ import annotations

from .base import Structure, ascii_text, raw, rsvd, text, u8, u16, u32, u64, u128
from .words import Worded

__all__ = [
    "EVENT_FIRMWARE_COMMIT",
    "EVENT_FORMAT_COMPLETED",
    "EVENT_FORMAT_STARTED",
    "EVENT_HEADER",
    "EVENT_NAMESPACE_CHANGED",
    "EVENT_POWER_ON_OR_RESET",
    "EVENT_SANITIZE_COMPLETED",
    "EVENT_SANITIZE_STARTED",
    "EVENT_THERMAL",
    "EVENT_TIMESTAMP_CHANGED",
    "PERSISTENT_EVENT_HEADER",
    "PersistentEvent",
]

_LOG = "Base 2.1 §5.1.12.1.14"


class PersistentEvent(Worded):
    """Persistent event types."""

    SMART_SNAPSHOT = 0x01, "SMART / Health Log Snapshot"
    FIRMWARE_COMMIT = 0x02, "Firmware Commit"
    TIMESTAMP_CHANGE = 0x03, "Timestamp Change"
    POWER_ON_OR_RESET = 0x04, "Power-on or Reset"
    HARDWARE_ERROR = 0x05, "NVM Subsystem Hardware Error"
    CHANGE_NAMESPACE = 0x06, "Change Namespace"
    FORMAT_START = 0x07, "Format NVM Start"
    FORMAT_COMPLETION = 0x08, "Format NVM Completion"
    SANITIZE_START = 0x09, "Sanitize Start"
    SANITIZE_COMPLETION = 0x0A, "Sanitize Completion"
    SET_FEATURE = 0x0B, "Set Feature"
    TELEMETRY_CREATED = 0x0C, "Telemetry Log Created"
    THERMAL_EXCURSION = 0x0D, "Thermal Excursion"


PERSISTENT_EVENT_HEADER = Structure(
    "PERSISTENT_EVENT_HEADER",
    512,
    _LOG,
    "lid" / u8 * "Log Identifier",
    rsvd(1, 3),
    "tnev" / u32 * "Total Number of Events",
    "tll" / u64 * "Total Log Length (bytes)",
    "rv" / u8 * "Log Revision",
    rsvd(17, 1),
    "lhl" / u16 * "Log Header Length (bytes behind this field)",
    "tstmp" / u64 * "Timestamp",
    "poh" / u128 * "Power on Hours",
    "pcc" / u64 * "Power Cycle Count",
    "vid" / u16 * "PCI Vendor ID",
    "ssvid" / u16 * "PCI Subsystem Vendor ID",
    "sn" / ascii_text(20) * "Serial Number",
    "mn" / ascii_text(40) * "Model Number",
    "subnqn" / text(256) * "NVM Subsystem NVMe Qualified Name",
    "gnum" / u16 * "Generation Number",
    "rci" / u32 * "Reporting Context Information",
    rsvd(378, 102),
    "seb" / raw(32) * "Supported Events Bitmap",
)
EVENT_HEADER = Structure(
    "EVENT_HEADER",
    24,
    _LOG,
    "et" / u8 * "Event Type",
    "etr" / u8 * "Event Type Revision",
    "ehl" / u8 * "Event Header Length (bytes behind this field)",
    "ehai" / u8 * "Event Header Additional Information",
    "cntlid" / u16 * "Controller Identifier",
    "etstmp" / u64 * "Event Timestamp",
    "pelpid" / u16 * "Port Identifier",
    rsvd(16, 4),
    "vsil" / u16 * "Vendor Specific Information Length",
    "el" / u16 * "Event Length (vendor specific information and data)",
)
EVENT_FIRMWARE_COMMIT = Structure(
    "EVENT_FIRMWARE_COMMIT",
    22,
    _LOG,
    "ofr" / ascii_text(8) * "Old Firmware Revision",
    "nfr" / ascii_text(8) * "New Firmware Revision",
    "fca" / u8 * "Firmware Commit Action",
    "fs" / u8 * "Firmware Slot",
    "sct" / u8 * "Status Code Type",
    "sc" / u8 * "Status Code",
    "vs" / u16 * "Vendor Assigned Result Code",
)
EVENT_TIMESTAMP_CHANGED = Structure(
    "EVENT_TIMESTAMP_CHANGED",
    16,
    _LOG,
    "previous" / u64 * "Previous Timestamp",
    "since_reset" / u64 * "Milliseconds Since Reset",
)
EVENT_POWER_ON_OR_RESET = Structure(
    "EVENT_POWER_ON_OR_RESET",
    44,
    _LOG,
    "fr" / ascii_text(8) * "Firmware Revision",
    "cntlid" / u16 * "Controller ID",
    "activation" / u8 * "Firmware Activation",
    "operation" / u8 * "Operation in Progress",
    rsvd(12, 12),
    "power_cycle" / u32 * "Controller Power Cycle",
    "power_on_ms" / u64 * "Power-on Milliseconds",
    "timestamp" / u64 * "Controller Timestamp",
)
EVENT_NAMESPACE_CHANGED = Structure(
    "EVENT_NAMESPACE_CHANGED",
    48,
    _LOG,
    "cdw10" / u32 * "Namespace Management CDW10",
    rsvd(4, 4),
    "nsze" / u64 * "Namespace Size",
    rsvd(16, 8),
    "ncap" / u64 * "Namespace Capacity",
    "flbas" / u8 * "Formatted LBA Size",
    "dps" / u8 * "End-to-end Data Protection Type Settings",
    "nmic" / u8 * "Namespace Multi-path I/O and Namespace Sharing Capabilities",
    rsvd(35, 1),
    "anagrpid" / u32 * "ANA Group Identifier",
    "nvmsetid" / u16 * "NVM Set Identifier",
    "endgid" / u16 * "Endurance Group Identifier",
    "nsid" / u32 * "Namespace ID",
)
EVENT_FORMAT_STARTED = Structure(
    "EVENT_FORMAT_STARTED",
    12,
    _LOG,
    "nsid" / u32 * "Namespace Identifier",
    "fna" / u8 * "Format NVM Attributes",
    rsvd(5, 3),
    "cdw10" / u32 * "Format NVM CDW10",
)
EVENT_FORMAT_COMPLETED = Structure(
    "EVENT_FORMAT_COMPLETED",
    12,
    _LOG,
    "nsid" / u32 * "Namespace Identifier",
    "smallest_fpi" / u8 * "Smallest Format Progress Indicator",
    "status" / u8 * "Format NVM Status",
    "information" / u16 * "Completion Information",
    "status_field" / u32 * "Status Field",
)
EVENT_SANITIZE_STARTED = Structure(
    "EVENT_SANITIZE_STARTED",
    12,
    _LOG,
    "sanicap" / u32 * "SANICAP",
    "cdw10" / u32 * "Sanitize CDW10",
    "cdw11" / u32 * "Sanitize CDW11",
)
EVENT_SANITIZE_COMPLETED = Structure(
    "EVENT_SANITIZE_COMPLETED",
    8,
    _LOG,
    "sprog" / u16 * "Sanitize Progress",
    "sstat" / u16 * "Sanitize Status",
    "information" / u16 * "Completion Information",
    rsvd(6, 2),
)
EVENT_THERMAL = Structure(
    "EVENT_THERMAL",
    2,
    _LOG,
    "over_k" / u8 * "Over Temperature (kelvins above the threshold)",
    "threshold" / u8 * "Threshold",
)
