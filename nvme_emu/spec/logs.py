"""Log pages: identifiers and the structures declared so far (Base 2.1, clause 5.1.12.1)."""

from __future__ import annotations

from .ana import ANA_LOG
from .base import Structure, ascii_text, raw, rsvd, table, u8, u16, u32, u64, u128
from .bits import BitLayout, bit
from .endurance import ENDURANCE_GROUP_AGGREGATE, ENDURANCE_GROUP_LOG
from .logs_lba_status import LBA_STATUS_LOG
from .logs_maintenance import (
    LBA_STATUS_DESCRIPTOR,
    LBA_STATUS_LIST_HEADER,
    RESERVATION_NOTIFICATION,
    SANITIZE_SSI,
    SANITIZE_SSTAT,
    SANITIZE_STATUS,
    SELF_TEST_LOG,
    SELF_TEST_RESULT,
    SELF_TEST_RESULTS,
    SELF_TEST_STATUS,
    SELF_TEST_VALID,
    TELEMETRY_BLOCK,
    TELEMETRY_CONTROLLER,
    TELEMETRY_HOST,
)
from .logs_persistent import PERSISTENT_EVENT_HEADER
from .words import Worded
from .zns import CHANGED_ZONE_LIST

__all__ = [
    "CHANGED_NAMESPACES_MAX",
    "CHANGED_NAMESPACES_OVERFLOW",
    "CHANGED_NAMESPACE_LIST",
    "COMMANDS_SUPPORTED_AND_EFFECTS",
    "COMMAND_EFFECTS",
    "CRITICAL_WARNING",
    "DATA_UNIT_BYTES",
    "ERROR_INFORMATION",
    "ERROR_LOCATION_NONE",
    "FEATURES_SUPPORTED_AND_EFFECTS",
    "FEATURE_EFFECTS",
    "FIRMWARE_ACTIVE",
    "FIRMWARE_SLOTS",
    "FIRMWARE_SLOT_INFORMATION",
    "LBA_STATUS_DESCRIPTOR",
    "LBA_STATUS_LIST_HEADER",
    "LID_SUPPORTED",
    "LOG_STRUCTURES",
    "PARAMETER_ERROR_LOCATION",
    "RESERVATION_NOTIFICATION",
    "SANITIZE_SSI",
    "SANITIZE_SSTAT",
    "SANITIZE_STATUS",
    "SCOPE",
    "SCOPE_CONTROLLER",
    "SCOPE_ENDURANCE_GROUP",
    "SCOPE_NAMESPACE",
    "SCOPE_SUBSYSTEM",
    "SELF_TEST_LOG",
    "SELF_TEST_RESULT",
    "SELF_TEST_RESULTS",
    "SELF_TEST_STATUS",
    "SELF_TEST_VALID",
    "SMART_HEALTH",
    "SUPPORTED_LOG_PAGES",
    "TELEMETRY_BLOCK",
    "TELEMETRY_CONTROLLER",
    "TELEMETRY_HOST",
    "Lid",
    "error_location",
]


class Lid(Worded):
    """Log Page Identifiers (Base 2.1, clause 5.1.12.1)."""

    SUPPORTED_LOG_PAGES = 0x00, "Supported Log Pages"
    ERROR_INFORMATION = 0x01, "Error Information"
    SMART_HEALTH = 0x02, "SMART / Health Information"
    FIRMWARE_SLOT = 0x03, "Firmware Slot Information"
    CHANGED_NAMESPACES = 0x04, "Changed Attached Namespace List"
    COMMANDS_SUPPORTED_AND_EFFECTS = 0x05, "Commands Supported and Effects"
    DEVICE_SELF_TEST = 0x06, "Device Self-test"
    TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated"
    TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated"
    ENDURANCE_GROUP = 0x09, "Endurance Group Information"
    PREDICTABLE_LATENCY_NVM_SET = 0x0A, "Predictable Latency Per NVM Set"
    PREDICTABLE_LATENCY_AGGREGATE = 0x0B, "Predictable Latency Event Aggregate"
    ANA = 0x0C, "Asymmetric Namespace Access"
    PERSISTENT_EVENT = 0x0D, "Persistent Event Log"
    LBA_STATUS = 0x0E, "LBA Status Information"
    ENDURANCE_GROUP_AGGREGATE = 0x0F, "Endurance Group Event Aggregate"
    MEDIA_UNIT_STATUS = 0x10, "Media Unit Status"
    SUPPORTED_CAPACITY_CONFIGURATIONS = 0x11, "Supported Capacity Configuration List"
    FEATURES_SUPPORTED_AND_EFFECTS = 0x12, "Feature Identifiers Supported and Effects"
    MI_COMMANDS_SUPPORTED_AND_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects"
    LOCKDOWN = 0x14, "Command and Feature Lockdown"
    BOOT_PARTITION = 0x15, "Boot Partition"
    ROTATIONAL_MEDIA = 0x16, "Rotational Media Information"
    DISPERSED_NAMESPACE_SUBSYSTEMS = 0x17, "Dispersed Namespace Participating NVM Subsystems"
    MANAGEMENT_ADDRESSES = 0x18, "Management Address List"
    PHY_RX_EOM = 0x19, "Physical Interface Receiver Eye Opening Measurement"
    REACHABILITY_GROUPS = 0x1A, "Reachability Groups"
    REACHABILITY_ASSOCIATIONS = 0x1B, "Reachability Associations"
    CHANGED_ALLOCATED_NAMESPACES = 0x1C, "Changed Allocated Namespace List"
    FDP_CONFIGURATIONS = 0x20, "FDP Configurations"
    RECLAIM_UNIT_HANDLE_USAGE = 0x21, "Reclaim Unit Handle Usage"
    FDP_STATISTICS = 0x22, "FDP Statistics"
    FDP_EVENTS = 0x23, "FDP Events"
    DISCOVERY = 0x70, "Discovery"
    HOST_DISCOVERY = 0x71, "Host Discovery"
    AVE_DISCOVERY = 0x72, "AVE Discovery"
    PULL_MODEL_DDC_REQUEST = 0x73, "Pull Model DDC Request"
    RESERVATION_NOTIFICATION = 0x80, "Reservation Notification"
    SANITIZE_STATUS = 0x81, "Sanitize Status"
    CHANGED_ZONES = 0xBF, "Changed Zone List"


_ERROR = "Base 2.1 §5.1.12.1.2"
_SMART = "Base 2.1 §5.1.12.1.3"
_FIRMWARE = "Base 2.1 §5.1.12.1.4"
_CHANGED = "Base 2.1 §5.1.12.1.5"
_EFFECTS = "Base 2.1 §5.1.12.1.6"
_SUPPORTED = "Base 2.1 §5.1.12.1.1"

# --- Supported Log Pages (00h) ------------------------------------------------------------------------------

LID_SUPPORTED = BitLayout(
    "LID_SUPPORTED",
    32,
    _SUPPORTED,
    bit("lsupp", 1, "Log page Supported"),
    bit("ios", 1, "Index Offset Supported"),
    bit("rsvd2", 14),
    bit("lidsp", 16, "LID Specific Parameter"),
)
SUPPORTED_LOG_PAGES = Structure(
    "SUPPORTED_LOG_PAGES",
    1024,
    _SUPPORTED,
    "lid" / table(256, u32) * "LID Supported and Effects of each identifier",
)

# --- Error Information (01h) --------------------------------------------------------------------------------

PARAMETER_ERROR_LOCATION = BitLayout(
    "PARAMETER_ERROR_LOCATION",
    16,
    _ERROR,
    bit("byte", 8, "Byte in the command that has the error"),
    bit("bit", 3, "Bit in that byte"),
    bit("rsvd11", 5),
)
ERROR_LOCATION_NONE = 0xFFFF  # the error is not of a parameter of the command


def error_location(byte: int, first_bit: int = 0) -> int:
    """Parameter Error Location for a byte of the SQE. LayoutError for a place that the field cannot hold."""
    return PARAMETER_ERROR_LOCATION.pack(byte=byte, bit=first_bit)


ERROR_INFORMATION = Structure(
    "ERROR_INFORMATION",
    64,
    _ERROR,
    "error_count" / u64 * "Error Count: unique, from 1, kept for ever; 0 is an invalid entry",
    "sqid" / u16 * "Submission Queue ID",
    "cid" / u16 * "Command ID",
    "status" / u16 * "Status field over the Phase Tag, as in the completion",
    "pel" / u16 * "Parameter Error Location",
    "lba" / u64 * "Logical Block Address",
    "nsid" / u32 * "Namespace",
    "vsia" / u8 * "Vendor Specific Information Available (log page)",
    "trtype" / u8 * "Transport Type",
    "csi" / u8 * "Command Set Indicator",
    "opc" / u8 * "Opcode",
    "csinfo" / u64 * "Command Specific Information",
    "ttsi" / u16 * "Transport Type Specific Information",
    rsvd(42, 21),
    "lpver" / u8 * "Log Page Version (1h: CSI and OPC are valid)",
    bits={"pel": PARAMETER_ERROR_LOCATION},
)

# --- SMART / Health Information (02h) -----------------------------------------------------------------------

CRITICAL_WARNING = BitLayout(
    "CRITICAL_WARNING",
    8,
    _SMART,
    bit("ascbt", 1, "Available Spare Capacity Below Threshold"),
    bit("ttc", 1, "Temperature Threshold Condition"),
    bit("ndr", 1, "NVM Subsystem Degraded Reliability"),
    bit("amro", 1, "All Media Read-Only"),
    bit("vmbf", 1, "Volatile Memory Backup Failed"),
    bit("pmrro", 1, "Persistent Memory Region Read-Only"),
    bit("rsvd6", 2),
)
DATA_UNIT_BYTES = 512_000  # "thousands of 512 byte units", rounded up
SMART_HEALTH = Structure(
    "SMART_HEALTH",
    512,
    _SMART,
    "critical_warning" / u8 * "Critical Warning",
    "composite_temperature" / u16 * "Composite Temperature (kelvins)",
    "avsp" / u8 * "Available Spare (percent)",
    "avspt" / u8 * "Available Spare Threshold (percent)",
    "pused" / u8 * "Percentage Used",
    "egcws" / u8 * "Endurance Group Critical Warning Summary",
    rsvd(7, 25),
    "data_units_read" / u128 * "Data Units Read (thousands of 512 bytes)",
    "data_units_written" / u128 * "Data Units Written (thousands of 512 bytes)",
    "host_read_commands" / u128 * "Host Read Commands",
    "host_write_commands" / u128 * "Host Write Commands",
    "controller_busy_time" / u128 * "Controller Busy Time (minutes)",
    "power_cycles" / u128 * "Power Cycles",
    "power_on_hours" / u128 * "Power On Hours",
    "unsafe_shutdowns" / u128 * "Unexpected Power Losses",
    "media_errors" / u128 * "Media and Data Integrity Errors",
    "num_err_log_entries" / u128 * "Number of Error Information Log Entries",
    "warning_temp_time" / u32 * "Warning Composite Temperature Time (minutes)",
    "critical_temp_time" / u32 * "Critical Composite Temperature Time (minutes)",
    "temperature_sensor" / table(8, u16) * "Temperature Sensors 1 to 8 (kelvins; 0 is not implemented)",
    "tmt1tc" / u32 * "Thermal Management Temperature 1 Transition Count",
    "tmt2tc" / u32 * "Thermal Management Temperature 2 Transition Count",
    "tttmt1" / u32 * "Total Time For Thermal Management Temperature 1 (seconds)",
    "tttmt2" / u32 * "Total Time For Thermal Management Temperature 2 (seconds)",
    rsvd(232, 280),
    bits={"critical_warning": CRITICAL_WARNING},
)

# --- Firmware Slot Information (03h) ------------------------------------------------------------------------

FIRMWARE_SLOTS = 7
FIRMWARE_ACTIVE = BitLayout(
    "FIRMWARE_ACTIVE",
    8,
    _FIRMWARE,
    bit("afs", 3, "Active Firmware Slot"),
    bit("rsvd3", 1),
    bit("nfs", 3, "Next Active Firmware Slot"),
    bit("rsvd7", 1),
)
FIRMWARE_SLOT_INFORMATION = Structure(
    "FIRMWARE_SLOT_INFORMATION",
    512,
    _FIRMWARE,
    "afi" / u8 * "Active Firmware Info",
    rsvd(1, 7),
    "frs" / table(FIRMWARE_SLOTS, ascii_text(8)) * "Firmware Revision in Slots 1 to 7",
    rsvd(64, 448),
    bits={"afi": FIRMWARE_ACTIVE},
)

# --- Changed Attached Namespace List (04h) ------------------------------------------------------------------

CHANGED_NAMESPACES_MAX = 1024
CHANGED_NAMESPACES_OVERFLOW = 0xFFFF_FFFF  # the only entry when more than 1024 namespaces changed
CHANGED_NAMESPACE_LIST = Structure(
    "CHANGED_NAMESPACE_LIST",
    4096,
    _CHANGED,
    "nsid" / table(CHANGED_NAMESPACES_MAX, u32) * "Namespace Identifiers, ascending",
)

# --- Commands Supported and Effects (05h) -------------------------------------------------------------------

COMMAND_EFFECTS = BitLayout(
    "COMMAND_EFFECTS",
    32,
    _EFFECTS,
    bit("csupp", 1, "Command Supported"),
    bit("lbcc", 1, "Logical Block Content Change"),
    bit("ncc", 1, "Namespace Capability Change"),
    bit("nic", 1, "Namespace Inventory Change"),
    bit("ccc", 1, "Controller Capability Change"),
    bit("rsvd5", 9),
    bit("cser", 2, "Command Submission and Execution Relaxations"),
    bit(
        "cse",
        3,
        "Command Submission and Execution",
        {0: "no restriction", 1: "one at a time in the namespace", 2: "one at a time in the subsystem"},
    ),
    bit("uss", 1, "UUID Selection Supported"),
    bit("csp", 12, "Command Scope"),
)
COMMANDS_SUPPORTED_AND_EFFECTS = Structure(
    "COMMANDS_SUPPORTED_AND_EFFECTS",
    4096,
    _EFFECTS,
    "acs" / table(256, u32) * "Effects of each Admin command",
    "iocs" / table(256, u32) * "Effects of each I/O command",
    "rsvd2048" / raw(2048),
)

# --- Feature Identifiers Supported and Effects (12h) --------------------------------------------------------

_FEATURES = "Base 2.1 §5.1.12.1.18"

# What COMMAND_EFFECTS.csp and FEATURE_EFFECTS.fsp say: at most one bit; none is "not reported".
SCOPE = BitLayout(
    "SCOPE",
    12,
    _FEATURES,
    bit("nss", 1, "Namespace Scope"),
    bit("cscp", 1, "Controller Scope"),
    bit("nsetscp", 1, "NVM Set Scope"),
    bit("egscp", 1, "Endurance Group Scope"),
    bit("dscp", 1, "Domain Scope"),
    bit("nsscp", 1, "NVM Subsystem Scope"),
    bit("cdqscp", 1, "Controller Data Queue Scope"),
    bit("rsvd7", 5),
)
SCOPE_NAMESPACE = SCOPE.pack(nss=1)
SCOPE_CONTROLLER = SCOPE.pack(cscp=1)
SCOPE_ENDURANCE_GROUP = SCOPE.pack(egscp=1)
SCOPE_SUBSYSTEM = SCOPE.pack(nsscp=1)
FEATURE_EFFECTS = BitLayout(
    "FEATURE_EFFECTS",
    32,
    _FEATURES,
    bit("fsupp", 1, "FID Supported"),
    bit("udcc", 1, "User Data Content Change"),
    bit("ncc", 1, "Namespace Capability Change"),
    bit("nic", 1, "Namespace Inventory Change"),
    bit("ccc", 1, "Controller Capability Change"),
    bit("rsvd5", 14),
    bit("uss", 1, "UUID Selection Supported"),
    bit("fsp", 12, "FID Scope"),
)
FEATURES_SUPPORTED_AND_EFFECTS = Structure(
    "FEATURES_SUPPORTED_AND_EFFECTS",
    1024,
    _FEATURES,
    "fis" / table(256, u32) * "FID Supported and Effects of each identifier",
)

# The layout of each log page declared here; the error log is a list of such entries.
LOG_STRUCTURES: dict[int, Structure] = {
    Lid.SUPPORTED_LOG_PAGES: SUPPORTED_LOG_PAGES,
    Lid.ERROR_INFORMATION: ERROR_INFORMATION,
    Lid.SMART_HEALTH: SMART_HEALTH,
    Lid.FIRMWARE_SLOT: FIRMWARE_SLOT_INFORMATION,
    Lid.CHANGED_NAMESPACES: CHANGED_NAMESPACE_LIST,
    Lid.COMMANDS_SUPPORTED_AND_EFFECTS: COMMANDS_SUPPORTED_AND_EFFECTS,
    Lid.DEVICE_SELF_TEST: SELF_TEST_LOG,
    Lid.TELEMETRY_HOST: TELEMETRY_HOST,
    Lid.TELEMETRY_CONTROLLER: TELEMETRY_CONTROLLER,
    Lid.CHANGED_ZONES: CHANGED_ZONE_LIST,
    Lid.ENDURANCE_GROUP: ENDURANCE_GROUP_LOG,
    Lid.ANA: ANA_LOG,
    Lid.PERSISTENT_EVENT: PERSISTENT_EVENT_HEADER,
    Lid.LBA_STATUS: LBA_STATUS_LOG,
    Lid.ENDURANCE_GROUP_AGGREGATE: ENDURANCE_GROUP_AGGREGATE,
    Lid.FEATURES_SUPPORTED_AND_EFFECTS: FEATURES_SUPPORTED_AND_EFFECTS,
    Lid.CHANGED_ALLOCATED_NAMESPACES: CHANGED_NAMESPACE_LIST,
    Lid.RESERVATION_NOTIFICATION: RESERVATION_NOTIFICATION,
    Lid.SANITIZE_STATUS: SANITIZE_STATUS,
}
