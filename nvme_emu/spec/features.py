"""Features: identifiers, and the layout of each one's value (CDW11 to Set, Dword 0 from Get) or data.

Sources: Base 2.1 clause 5.1.25 (Set Features), NVM Command Set 1.1 clause 4.1.3. Bit layouts need no
numpy and no construct; the data structures of the few features that have one are loaded when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bits import BitLayout, bit
from .words import Worded

if TYPE_CHECKING:
    from .feature_data import APST_TABLE, HOST_BEHAVIOR, HOST_IDENTIFIER, TIMESTAMP

__all__ = [
    "APST_TABLE",
    "ARBITRATION",
    "ASYNC_EVENT_CONFIG",
    "AUTONOMOUS_POWER_STATE_TRANSITION",
    "ENDURANCE_GROUP_EVENT_CONFIG",
    "ERROR_RECOVERY",
    "FEATURE_CAPABILITIES",
    "FEATURE_VALUES",
    "HOST_BEHAVIOR",
    "HOST_IDENTIFIER",
    "HOST_IDENTIFIER_FLAGS",
    "HOST_THERMAL_MANAGEMENT",
    "INTERRUPT_COALESCING",
    "INTERRUPT_COALESCING_UNIT_US",
    "INTERRUPT_VECTOR_CONFIG",
    "IO_COMMAND_SET_PROFILE",
    "KEEP_ALIVE_TIMER",
    "LBA_STATUS_ATTRIBUTES",
    "NON_OPERATIONAL_POWER_STATE",
    "NUMBER_OF_QUEUES",
    "NUMBER_OF_QUEUES_MAX",
    "POWER_MANAGEMENT",
    "RESERVATION_MASK",
    "RESERVATION_PERSISTENCE",
    "SANITIZE_CONFIG",
    "SOFTWARE_PROGRESS_MARKER",
    "TEMPERATURE_THRESHOLD",
    "TIMESTAMP",
    "VOLATILE_WRITE_CACHE",
    "WRITE_ATOMICITY",
    "WRITE_PROTECTION",
    "Fid",
]


class Fid(Worded):
    """Feature Identifiers (Base 2.1, clause 5.1.25.1)."""

    ARBITRATION = 0x01, "Arbitration"
    POWER_MANAGEMENT = 0x02, "Power Management"
    LBA_RANGE_TYPE = 0x03, "LBA Range Type"
    TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold"
    ERROR_RECOVERY = 0x05, "Error Recovery"
    VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache"
    NUMBER_OF_QUEUES = 0x07, "Number of Queues"
    INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing"
    INTERRUPT_VECTOR_CONFIG = 0x09, "Interrupt Vector Configuration"
    WRITE_ATOMICITY = 0x0A, "Write Atomicity Normal"
    ASYNC_EVENT_CONFIG = 0x0B, "Asynchronous Event Configuration"
    AUTONOMOUS_POWER_STATE_TRANSITION = 0x0C, "Autonomous Power State Transition"
    HOST_MEMORY_BUFFER = 0x0D, "Host Memory Buffer"
    TIMESTAMP = 0x0E, "Timestamp"
    KEEP_ALIVE_TIMER = 0x0F, "Keep Alive Timer"
    HOST_CONTROLLED_THERMAL_MANAGEMENT = 0x10, "Host Controlled Thermal Management"
    NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config"
    READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config"
    PREDICTABLE_LATENCY_MODE_CONFIG = 0x13, "Predictable Latency Mode Config"
    PREDICTABLE_LATENCY_MODE_WINDOW = 0x14, "Predictable Latency Mode Window"
    LBA_STATUS_REPORT_INTERVAL = 0x15, "LBA Status Information Report Interval"
    HOST_BEHAVIOR = 0x16, "Host Behavior Support"
    SANITIZE_CONFIG = 0x17, "Sanitize Config"
    ENDURANCE_GROUP_EVENT_CONFIG = 0x18, "Endurance Group Event Configuration"
    IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile"
    SPINUP_CONTROL = 0x1A, "Spinup Control"
    POWER_LOSS_SIGNALING = 0x1B, "Power Loss Signaling Config"
    PERFORMANCE_CHARACTERISTICS = 0x1C, "Performance Characteristics"
    FLEXIBLE_DATA_PLACEMENT = 0x1D, "Flexible Data Placement"
    FLEXIBLE_DATA_PLACEMENT_EVENTS = 0x1E, "Flexible Data Placement Events"
    NAMESPACE_ADMIN_LABEL = 0x1F, "Namespace Admin Label"
    KEY_VALUE_CONFIG = 0x20, "Key Value Configuration"
    CONTROLLER_DATA_QUEUE = 0x21, "Controller Data Queue"
    EMBEDDED_MANAGEMENT_ADDRESS = 0x78, "Embedded Management Controller Address"
    HOST_MANAGEMENT_AGENT_ADDRESS = 0x79, "Host Management Agent Address"
    ENHANCED_CONTROLLER_METADATA = 0x7D, "Enhanced Controller Metadata"
    CONTROLLER_METADATA = 0x7E, "Controller Metadata"
    NAMESPACE_METADATA = 0x7F, "Namespace Metadata"
    SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker"
    HOST_IDENTIFIER = 0x81, "Host Identifier"
    RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask"
    RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence"
    WRITE_PROTECTION = 0x84, "Namespace Write Protection Config"
    BOOT_PARTITION_WRITE_PROTECTION = 0x85, "Boot Partition Write Protection Config"


def _clause(fid: Fid) -> str:
    return f"Base 2.1 §5.1.25 (FID {int(fid):02X}h)"


# Dword 0 of Get Features with Select 3 (supported capabilities).
FEATURE_CAPABILITIES = BitLayout(
    "FEATURE_CAPABILITIES",
    32,
    "Base 2.1 §5.1.11",
    bit("saveable", 1, "Saveable"),
    bit("ns_specific", 1, "Namespace Specific"),
    bit("changeable", 1, "Changeable"),
    bit("rsvd3", 29),
)

ARBITRATION = BitLayout(
    "ARBITRATION",
    32,
    _clause(Fid.ARBITRATION),
    bit("ab", 3, "Arbitration Burst (log2; 7 is no limit)", {7: "no limit"}),
    bit("rsvd3", 5),
    bit("lpw_z", 8, "Low Priority Weight (zero-based)"),
    bit("mpw_z", 8, "Medium Priority Weight (zero-based)"),
    bit("hpw_z", 8, "High Priority Weight (zero-based)"),
)
POWER_MANAGEMENT = BitLayout(
    "POWER_MANAGEMENT",
    32,
    _clause(Fid.POWER_MANAGEMENT),
    bit("ps", 5, "Power State"),
    bit("wh", 3, "Workload Hint"),
    bit("rsvd8", 24),
)
TEMPERATURE_THRESHOLD = BitLayout(
    "TEMPERATURE_THRESHOLD",
    32,
    _clause(Fid.TEMPERATURE_THRESHOLD),
    bit("tmpth", 16, "Temperature Threshold (kelvins)"),
    bit("tmpsel", 4, "Threshold Temperature Select", {0: "composite", 15: "all sensors (Set only)"}),
    bit("thsel", 2, "Threshold Type Select", {0: "over temperature", 1: "under temperature"}),
    bit("tmpthh", 3, "Temperature Threshold Hysteresis"),
    bit("rsvd25", 7),
)
ERROR_RECOVERY = BitLayout(
    "ERROR_RECOVERY",
    32,
    f"NVM 1.1 §4.1.3 (FID {int(Fid.ERROR_RECOVERY):02X}h)",
    bit("tler", 16, "Time Limited Error Recovery (100 ms units; 0 is no limit)"),
    bit("dulbe", 1, "Deallocated or Unwritten Logical Block Error Enable"),
    bit("rsvd17", 15),
)
VOLATILE_WRITE_CACHE = BitLayout(
    "VOLATILE_WRITE_CACHE",
    32,
    _clause(Fid.VOLATILE_WRITE_CACHE),
    bit("wce", 1, "Volatile Write Cache Enable"),
    bit("rsvd1", 31),
)
# The same places hold what is requested (CDW11 of Set) and what is allocated (Dword 0 of both).
NUMBER_OF_QUEUES = BitLayout(
    "NUMBER_OF_QUEUES",
    32,
    _clause(Fid.NUMBER_OF_QUEUES),
    bit("nsq_z", 16, "Number of I/O Submission Queues (zero-based)"),
    bit("ncq_z", 16, "Number of I/O Completion Queues (zero-based)"),
)
NUMBER_OF_QUEUES_MAX = 65535  # the zero-based field may not hold FFFFh
INTERRUPT_COALESCING = BitLayout(
    "INTERRUPT_COALESCING",
    32,
    _clause(Fid.INTERRUPT_COALESCING),
    bit("thr_z", 8, "Aggregation Threshold (completions, zero-based)"),
    bit("time", 8, "Aggregation Time (100 microsecond units; 0 is no delay)"),
    bit("rsvd16", 16),
)
INTERRUPT_COALESCING_UNIT_US = 100
INTERRUPT_VECTOR_CONFIG = BitLayout(
    "INTERRUPT_VECTOR_CONFIG",
    32,
    _clause(Fid.INTERRUPT_VECTOR_CONFIG),
    bit("iv", 16, "Interrupt Vector"),
    bit("cd", 1, "Coalescing Disable"),
    bit("rsvd17", 15),
)
WRITE_ATOMICITY = BitLayout(
    "WRITE_ATOMICITY",
    32,
    f"NVM 1.1 §4.1.3 (FID {int(Fid.WRITE_ATOMICITY):02X}h)",
    bit("dn", 1, "Disable Normal"),
    bit("rsvd1", 31),
)
ASYNC_EVENT_CONFIG = BitLayout(
    "ASYNC_EVENT_CONFIG",
    32,
    _clause(Fid.ASYNC_EVENT_CONFIG),
    bit("shcw", 8, "SMART / Health Critical Warnings (bits as in the SMART log page)"),
    bit("nan", 1, "Attached Namespace Attribute Notices"),
    bit("fan", 1, "Firmware Activation Notices"),
    bit("tln", 1, "Telemetry Log Notices"),
    bit("anacn", 1, "Asymmetric Namespace Access Change Notices"),
    bit("plealcn", 1, "Predictable Latency Event Aggregate Log Change Notices"),
    bit("lsian", 1, "LBA Status Information Alert Notices"),
    bit("egealcn", 1, "Endurance Group Event Aggregate Log Change Notices"),
    bit("nnsshdn", 1, "Normal NVM Subsystem Shutdown"),
    bit("tthry", 1, "Temperature Threshold Hysteresis Recovery"),
    bit("rassn", 1, "Reachability Association Notices"),
    bit("rgrpn", 1, "Reachability Group Notices"),
    bit("ansan", 1, "Allocated Namespace Attribute Notices"),
    bit("rsvd20", 7),
    bit("zdcn", 1, "Zone Descriptor Changed Notices"),
    bit("pmdrlpcn", 1, "Pull Model DDC Request Log Page Change Notification"),
    bit("adlpcn", 1, "AVE Discovery Log Page Change Notification"),
    bit("hdlpcn", 1, "Host Discovery Log Page Change Notification"),
    bit("dlpcn", 1, "Discovery Log Page Change Notification"),
)
AUTONOMOUS_POWER_STATE_TRANSITION = BitLayout(
    "AUTONOMOUS_POWER_STATE_TRANSITION",
    32,
    _clause(Fid.AUTONOMOUS_POWER_STATE_TRANSITION),
    bit("apste", 1, "Autonomous Power State Transition Enable"),
    bit("rsvd1", 31),
)
HOST_THERMAL_MANAGEMENT = BitLayout(
    "HOST_THERMAL_MANAGEMENT",
    32,
    _clause(Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT),
    bit("tmt2", 16, "Thermal Management Temperature 2 (kelvins; 0 is disabled)"),
    bit("tmt1", 16, "Thermal Management Temperature 1 (kelvins; 0 is disabled)"),
)
NON_OPERATIONAL_POWER_STATE = BitLayout(
    "NON_OPERATIONAL_POWER_STATE",
    32,
    _clause(Fid.NON_OPERATIONAL_POWER_STATE),
    bit("noppme", 1, "Non-Operational Power State Permissive Mode Enable"),
    bit("rsvd1", 31),
)
LBA_STATUS_ATTRIBUTES = BitLayout(
    "LBA_STATUS_ATTRIBUTES",
    32,
    f"NVM 1.1 §4.1.3 (FID {int(Fid.LBA_STATUS_REPORT_INTERVAL):02X}h)",
    bit("lsiri", 16, "LBA Status Information Report Interval (100 ms units)"),
    bit("lsipi", 16, "LBA Status Information Poll Interval (100 ms units)"),
)
KEEP_ALIVE_TIMER = BitLayout(
    "KEEP_ALIVE_TIMER",
    32,
    _clause(Fid.KEEP_ALIVE_TIMER),
    bit("kato", 32, "Keep Alive Timeout (milliseconds; 0 is disabled)"),
)
SANITIZE_CONFIG = BitLayout(
    "SANITIZE_CONFIG",
    32,
    _clause(Fid.SANITIZE_CONFIG),
    bit("nodrm", 1, "No-Deallocate Response Mode"),
    bit("rsvd1", 31),
)
ENDURANCE_GROUP_EVENT_CONFIG = BitLayout(
    "ENDURANCE_GROUP_EVENT_CONFIG",
    32,
    _clause(Fid.ENDURANCE_GROUP_EVENT_CONFIG),
    bit("endgid", 16, "Endurance Group Identifier"),
    bit("egcw", 8, "Endurance Group Critical Warnings (bits as in log page 09h)"),
    bit("rsvd24", 8),
)
IO_COMMAND_SET_PROFILE = BitLayout(
    "IO_COMMAND_SET_PROFILE",
    32,
    _clause(Fid.IO_COMMAND_SET_PROFILE),
    bit("iocsci", 9, "I/O Command Set Combination Index"),
    bit("rsvd9", 23),
)
SOFTWARE_PROGRESS_MARKER = BitLayout(
    "SOFTWARE_PROGRESS_MARKER",
    32,
    _clause(Fid.SOFTWARE_PROGRESS_MARKER),
    bit("pbslc", 8, "Pre-boot Software Load Count"),
    bit("rsvd8", 24),
)
WRITE_PROTECTION = BitLayout(
    "WRITE_PROTECTION",
    32,
    _clause(Fid.WRITE_PROTECTION),
    bit(
        "wps",
        3,
        "Write Protection State",
        {0: "none", 1: "write protected", 2: "until power cycle", 3: "permanently"},
    ),
    bit("rsvd3", 29),
)

HOST_IDENTIFIER_FLAGS = BitLayout(
    "HOST_IDENTIFIER_FLAGS",
    32,
    _clause(Fid.HOST_IDENTIFIER),
    bit("exhid", 1, "Enable Extended Host Identifier (128 bits)"),
    bit("rsvd1", 31),
)
RESERVATION_MASK = BitLayout(
    "RESERVATION_MASK",
    32,
    _clause(Fid.RESERVATION_NOTIFICATION_MASK),
    bit("rsvd0", 1),
    bit("regpre", 1, "Mask Registration Preempted Notification"),
    bit("resrel", 1, "Mask Reservation Released Notification"),
    bit("respre", 1, "Mask Reservation Preempted Notification"),
    bit("rsvd4", 28),
)
RESERVATION_PERSISTENCE = BitLayout(
    "RESERVATION_PERSISTENCE",
    32,
    _clause(Fid.RESERVATION_PERSISTENCE),
    bit("ptpl", 1, "Persist Through Power Loss"),
    bit("rsvd1", 31),
)

# The value of each feature that is one dword.
FEATURE_VALUES: dict[int, BitLayout] = {
    Fid.ARBITRATION: ARBITRATION,
    Fid.POWER_MANAGEMENT: POWER_MANAGEMENT,
    Fid.TEMPERATURE_THRESHOLD: TEMPERATURE_THRESHOLD,
    Fid.ERROR_RECOVERY: ERROR_RECOVERY,
    Fid.VOLATILE_WRITE_CACHE: VOLATILE_WRITE_CACHE,
    Fid.NUMBER_OF_QUEUES: NUMBER_OF_QUEUES,
    Fid.INTERRUPT_COALESCING: INTERRUPT_COALESCING,
    Fid.INTERRUPT_VECTOR_CONFIG: INTERRUPT_VECTOR_CONFIG,
    Fid.WRITE_ATOMICITY: WRITE_ATOMICITY,
    Fid.ASYNC_EVENT_CONFIG: ASYNC_EVENT_CONFIG,
    Fid.AUTONOMOUS_POWER_STATE_TRANSITION: AUTONOMOUS_POWER_STATE_TRANSITION,
    Fid.KEEP_ALIVE_TIMER: KEEP_ALIVE_TIMER,
    Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT: HOST_THERMAL_MANAGEMENT,
    Fid.NON_OPERATIONAL_POWER_STATE: NON_OPERATIONAL_POWER_STATE,
    Fid.LBA_STATUS_REPORT_INTERVAL: LBA_STATUS_ATTRIBUTES,
    Fid.SANITIZE_CONFIG: SANITIZE_CONFIG,
    Fid.ENDURANCE_GROUP_EVENT_CONFIG: ENDURANCE_GROUP_EVENT_CONFIG,
    Fid.IO_COMMAND_SET_PROFILE: IO_COMMAND_SET_PROFILE,
    Fid.SOFTWARE_PROGRESS_MARKER: SOFTWARE_PROGRESS_MARKER,
    Fid.RESERVATION_NOTIFICATION_MASK: RESERVATION_MASK,
    Fid.RESERVATION_PERSISTENCE: RESERVATION_PERSISTENCE,
    Fid.WRITE_PROTECTION: WRITE_PROTECTION,
}


def __getattr__(name: str) -> Any:
    if name in ("APST_TABLE", "HOST_BEHAVIOR", "HOST_IDENTIFIER", "TIMESTAMP"):
        from . import feature_data

        value = getattr(feature_data, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
