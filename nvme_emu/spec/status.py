"""Status values: the 11-bit SCT<<8|SC of a completion, the bits beside it, and words for all of them.

A *status field* here is an int of 15 bits without the Phase Tag, as the driver and the controller pass it
around: SC in bits 7:0, SCT in 10:8, CRD in 12:11, More in 13, Do Not Retry in 14. It sits in a CQE one bit
higher, over the Phase Tag. Names are Linux's (include/linux/nvme.h), words are the specification's.

Sources: NVM Express Base 2.1 clause 4.2.3 (status field, generic, command specific, media and path values),
NVM Command Set 1.1 clause 3, Zoned Namespace Command Set 1.2 clause 3.
"""

from __future__ import annotations

from typing import NamedTuple

from .words import Worded

__all__ = [
    "CRD_MASK",
    "CRD_SHIFT",
    "DNR",
    "FabricsStatus",
    "MORE",
    "SCT_GENERIC",
    "SCT_COMMAND_SPECIFIC",
    "SCT_MASK",
    "SCT_MEDIA",
    "SCT_PATH",
    "SCT_SHIFT",
    "SCT_VENDOR",
    "SC_MASK",
    "STATUS_CODE_MASK",
    "STATUS_FIELD_MASK",
    "Status",
    "StatusParts",
    "describe",
    "split",
    "words_of",
]

SC_MASK = 0xFF
SCT_SHIFT = 8
SCT_MASK = 0x700
STATUS_CODE_MASK = SCT_MASK | SC_MASK  # SCT and SC together: what `Status` holds
CRD_SHIFT = 11
CRD_MASK = 0x1800
MORE = 0x2000
DNR = 0x4000
STATUS_FIELD_MASK = 0x7FFF

SCT_GENERIC = 0x0
SCT_COMMAND_SPECIFIC = 0x1
SCT_MEDIA = 0x2
SCT_PATH = 0x3
SCT_VENDOR = 0x7


class Status(Worded):
    """SCT<<8|SC of every status that Base 2.1 and the NVM and Zoned Namespace command sets define."""

    # Generic Command Status (SCT 0h)
    SUCCESS = 0x000, "Successful Completion"
    INVALID_OPCODE = 0x001, "Invalid Command Opcode"
    INVALID_FIELD = 0x002, "Invalid Field in Command"
    CMDID_CONFLICT = 0x003, "Command ID Conflict"
    DATA_XFER_ERROR = 0x004, "Data Transfer Error"
    POWER_LOSS = 0x005, "Commands Aborted due to Power Loss Notification"
    INTERNAL = 0x006, "Internal Error"
    ABORT_REQ = 0x007, "Command Abort Requested"
    ABORT_QUEUE = 0x008, "Command Aborted due to SQ Deletion"
    FUSED_FAIL = 0x009, "Command Aborted due to Failed Fused Command"
    FUSED_MISSING = 0x00A, "Command Aborted due to Missing Fused Command"
    INVALID_NS = 0x00B, "Invalid Namespace or Format"
    CMD_SEQ_ERROR = 0x00C, "Command Sequence Error"
    SGL_INVALID_LAST = 0x00D, "Invalid SGL Segment Descriptor"
    SGL_INVALID_COUNT = 0x00E, "Invalid Number of SGL Descriptors"
    SGL_INVALID_DATA = 0x00F, "Data SGL Length Invalid"
    SGL_INVALID_METADATA = 0x010, "Metadata SGL Length Invalid"
    SGL_INVALID_TYPE = 0x011, "SGL Descriptor Type Invalid"
    CMB_INVALID_USE = 0x012, "Invalid Use of Controller Memory Buffer"
    PRP_INVALID_OFFSET = 0x013, "PRP Offset Invalid"
    AWU_EXCEEDED = 0x014, "Atomic Write Unit Exceeded"
    OP_DENIED = 0x015, "Operation Denied"
    SGL_INVALID_OFFSET = 0x016, "SGL Offset Invalid"
    HOSTID_FORMAT = 0x018, "Host Identifier Inconsistent Format"
    KAT_EXPIRED = 0x019, "Keep Alive Timer Expired"
    KAT_INVALID = 0x01A, "Keep Alive Timeout Invalid"
    CMD_ABORTED_PREEMPT = 0x01B, "Command Aborted due to Preempt and Abort"
    SANITIZE_FAILED = 0x01C, "Sanitize Failed"
    SANITIZE_IN_PROGRESS = 0x01D, "Sanitize In Progress"
    SGL_INVALID_GRANULARITY = 0x01E, "SGL Data Block Granularity Invalid"
    CMD_IN_CMBQ_NOT_SUPP = 0x01F, "Command Not Supported for Queue in CMB"
    NS_WRITE_PROTECTED = 0x020, "Namespace is Write Protected"
    CMD_INTERRUPTED = 0x021, "Command Interrupted"
    TRANSIENT_TR_ERR = 0x022, "Transient Transport Error"
    PROHIBITED_BY_LOCKDOWN = 0x023, "Command Prohibited by Command and Feature Lockdown"
    ADMIN_COMMAND_MEDIA_NOT_READY = 0x024, "Admin Command Media Not Ready"
    INVALID_KEY_TAG = 0x025, "Invalid Key Tag"
    HOST_DISPERSED_NS_NOT_ENABLED = 0x026, "Host Dispersed Namespace Support Not Enabled"
    HOST_ID_NOT_INITIALIZED = 0x027, "Host Identifier Not Initialized"
    INCORRECT_KEY = 0x028, "Incorrect Key"
    FDP_DISABLED = 0x029, "FDP Disabled"
    INVALID_PLACEMENT_HANDLE_LIST = 0x02A, "Invalid Placement Handle List"
    LBA_RANGE = 0x080, "LBA Out of Range"
    CAP_EXCEEDED = 0x081, "Capacity Exceeded"
    NS_NOT_READY = 0x082, "Namespace Not Ready"
    RESERVATION_CONFLICT = 0x083, "Reservation Conflict"
    FORMAT_IN_PROGRESS = 0x084, "Format In Progress"
    INVALID_VALUE_SIZE = 0x085, "Invalid Value Size"
    INVALID_KEY_SIZE = 0x086, "Invalid Key Size"
    KV_KEY_NOT_EXISTS = 0x087, "KV Key Does Not Exist"
    UNRECOVERED_ERROR = 0x088, "Unrecovered Error"
    KEY_EXISTS = 0x089, "Key Exists"

    # Command Specific Status (SCT 1h)
    CQ_INVALID = 0x100, "Completion Queue Invalid"
    QID_INVALID = 0x101, "Invalid Queue Identifier"
    QUEUE_SIZE = 0x102, "Invalid Queue Size"
    ABORT_LIMIT = 0x103, "Abort Command Limit Exceeded"
    ABORT_MISSING = 0x104, "Abort Command Is Missing"
    ASYNC_LIMIT = 0x105, "Asynchronous Event Request Limit Exceeded"
    FIRMWARE_SLOT = 0x106, "Invalid Firmware Slot"
    FIRMWARE_IMAGE = 0x107, "Invalid Firmware Image"
    INVALID_VECTOR = 0x108, "Invalid Interrupt Vector"
    INVALID_LOG_PAGE = 0x109, "Invalid Log Page"
    INVALID_FORMAT = 0x10A, "Invalid Format"
    FW_NEEDS_CONV_RESET = 0x10B, "Firmware Activation Requires Conventional Reset"
    INVALID_QUEUE = 0x10C, "Invalid Queue Deletion"
    FEATURE_NOT_SAVEABLE = 0x10D, "Feature Identifier Not Saveable"
    FEATURE_NOT_CHANGEABLE = 0x10E, "Feature Not Changeable"
    FEATURE_NOT_PER_NS = 0x10F, "Feature Not Namespace Specific"
    FW_NEEDS_SUBSYS_RESET = 0x110, "Firmware Activation Requires NVM Subsystem Reset"
    FW_NEEDS_RESET = 0x111, "Firmware Activation Requires Controller Level Reset"
    FW_NEEDS_MAX_TIME = 0x112, "Firmware Activation Requires Maximum Time Violation"
    FW_ACTIVATE_PROHIBITED = 0x113, "Firmware Activation Prohibited"
    OVERLAPPING_RANGE = 0x114, "Overlapping Range"
    NS_INSUFFICIENT_CAP = 0x115, "Namespace Insufficient Capacity"
    NS_ID_UNAVAILABLE = 0x116, "Namespace Identifier Unavailable"
    NS_ALREADY_ATTACHED = 0x118, "Namespace Already Attached"
    NS_IS_PRIVATE = 0x119, "Namespace Is Private"
    NS_NOT_ATTACHED = 0x11A, "Namespace Not Attached"
    THIN_PROV_NOT_SUPP = 0x11B, "Thin Provisioning Not Supported"
    CTRL_LIST_INVALID = 0x11C, "Controller List Invalid"
    SELF_TEST_IN_PROGRESS = 0x11D, "Device Self-test In Progress"
    BP_WRITE_PROHIBITED = 0x11E, "Boot Partition Write Prohibited"
    CTRL_ID_INVALID = 0x11F, "Invalid Controller Identifier"
    SEC_CTRL_STATE_INVALID = 0x120, "Invalid Secondary Controller State"
    CTRL_RES_NUM_INVALID = 0x121, "Invalid Number of Controller Resources"
    RES_ID_INVALID = 0x122, "Invalid Resource Identifier"
    PMR_SAN_PROHIBITED = 0x123, "Sanitize Prohibited While Persistent Memory Region is Enabled"
    ANA_GROUP_ID_INVALID = 0x124, "ANA Group Identifier Invalid"
    ANA_ATTACH_FAILED = 0x125, "ANA Attach Failed"
    INSUFFICIENT_CAP = 0x126, "Insufficient Capacity"
    NS_ATTACHMENT_LIMIT_EXCEEDED = 0x127, "Namespace Attachment Limit Exceeded"
    LOCKDOWN_NOT_SUPPORTED = 0x128, "Prohibition of Command Execution Not Supported"
    IOCS_NOT_SUPPORTED = 0x129, "I/O Command Set Not Supported"
    IOCS_NOT_ENABLED = 0x12A, "I/O Command Set Not Enabled"
    IOCS_COMBINATION_REJECTED = 0x12B, "I/O Command Set Combination Rejected"
    INVALID_IOCS = 0x12C, "Invalid I/O Command Set"
    ID_UNAVAILABLE = 0x12D, "Identifier Unavailable"
    NS_IS_DISPERSED = 0x12E, "Namespace Is Dispersed"
    INVALID_DISCOVERY_INFO = 0x12F, "Invalid Discovery Information"
    ZONING_DATA_STRUCT_LOCKED = 0x130, "Zoning Data Structure Locked"
    ZONING_DATA_STRUCT_NOTFND = 0x131, "Zoning Data Structure Not Found"
    INSUFFICIENT_DISC_RES = 0x132, "Insufficient Discovery Resources"
    REQSTD_FUNCTION_DISABLED = 0x133, "Requested Function Disabled"
    ZONEGRP_ORIGINATOR_INVLD = 0x134, "ZoneGroup Originator Invalid"
    INVALID_HOST = 0x135, "Invalid Host"
    INVALID_NVM_SUBSYSTEM = 0x136, "Invalid NVM Subsystem"
    INVALID_CONTROLLER_DATA_QUEUE = 0x137, "Invalid Controller Data Queue"
    NOT_ENOUGH_RESOURCES = 0x138, "Not Enough Resources"
    CONTROLLER_SUSPENDED = 0x139, "Controller Suspended"
    CONTROLLER_NOT_SUSPENDED = 0x13A, "Controller Not Suspended"
    CONTROLLER_DATA_QUEUE_FULL = 0x13B, "Controller Data Queue Full"
    STREAM_RESOURCE_FAILED = 0x17F, "Stream Resource Allocation Failed"
    BAD_ATTRIBUTES = 0x180, "Conflicting Attributes"
    INVALID_PI = 0x181, "Invalid Protection Information"
    READ_ONLY = 0x182, "Attempted Write to Read Only Range"
    CMD_SIZE_LIMIT_EXCEEDED = 0x183, "Command Size Limit Exceeded"
    INVALID_COMMAND_ID = 0x184, "Invalid Command ID"
    INCOMPATIBLE_NS = 0x185, "Incompatible Namespace or Format"
    FAST_COPY_NOT_POSSIBLE = 0x186, "Fast Copy Not Possible"
    OVERLAPPING_IO_RANGE = 0x187, "Overlapping I/O Range"
    NS_NOT_REACHABLE = 0x188, "Namespace Not Reachable"
    INSUFFICIENT_RESOURCES = 0x189, "Insufficient Resources"
    ZONE_INVALID_OP_REQUEST = 0x1B6, "Invalid Zone Operation Request"
    ZONE_ZRWA_RESOURCES_UNAVAILABLE = 0x1B7, "ZRWA Resources Unavailable"
    ZONE_BOUNDARY_ERROR = 0x1B8, "Zone Boundary Error"
    ZONE_FULL = 0x1B9, "Zone Is Full"
    ZONE_READ_ONLY = 0x1BA, "Zone Is Read Only"
    ZONE_OFFLINE = 0x1BB, "Zone Is Offline"
    ZONE_INVALID_WRITE = 0x1BC, "Zone Invalid Write"
    ZONE_TOO_MANY_ACTIVE = 0x1BD, "Too Many Active Zones"
    ZONE_TOO_MANY_OPEN = 0x1BE, "Too Many Open Zones"
    ZONE_INVALID_TRANSITION = 0x1BF, "Invalid Zone State Transition"

    # Media and Data Integrity Errors (SCT 2h)
    WRITE_FAULT = 0x280, "Write Fault"
    READ_ERROR = 0x281, "Unrecovered Read Error"
    GUARD_CHECK = 0x282, "End-to-end Guard Check Error"
    APPTAG_CHECK = 0x283, "End-to-end Application Tag Check Error"
    REFTAG_CHECK = 0x284, "End-to-end Reference Tag Check Error"
    COMPARE_FAILED = 0x285, "Compare Failure"
    ACCESS_DENIED = 0x286, "Access Denied"
    UNWRITTEN_BLOCK = 0x287, "Deallocated or Unwritten Logical Block"
    STORAGE_TAG_CHECK = 0x288, "End-to-end Storage Tag Check Error"

    # Path Related Status (SCT 3h)
    INTERNAL_PATH_ERROR = 0x300, "Internal Path Error"
    ANA_PERSISTENT_LOSS = 0x301, "Asymmetric Access Persistent Loss"
    ANA_INACCESSIBLE = 0x302, "Asymmetric Access Inaccessible"
    ANA_TRANSITION = 0x303, "Asymmetric Access Transition"
    CTRL_PATH_ERROR = 0x360, "Controller Pathing Error"
    HOST_PATH_ERROR = 0x370, "Host Pathing Error"
    HOST_ABORTED_CMD = 0x371, "Command Aborted By Host"


class FabricsStatus(Worded):
    """Command specific values of the Fabrics commands, which reuse numbers of the NVM Command Set."""

    CONNECT_FORMAT = 0x180, "Incompatible Format"
    CONNECT_CTRL_BUSY = 0x181, "Controller Busy"
    CONNECT_INVALID_PARAM = 0x182, "Connect Invalid Parameters"
    CONNECT_RESTART_DISC = 0x183, "Connect Restart Discovery"
    CONNECT_INVALID_HOST = 0x184, "Connect Invalid Host"
    DISCONNECT_INVALID_QTYPE = 0x185, "Invalid Queue Type"
    DISCOVERY_RESTART = 0x190, "Discover Restart"
    AUTH_REQUIRED = 0x191, "Authentication Required"


_SCT_WORDS = {
    SCT_GENERIC: "Generic Command Status",
    SCT_COMMAND_SPECIFIC: "Command Specific Status",
    SCT_MEDIA: "Media and Data Integrity Error",
    SCT_PATH: "Path Related Status",
    SCT_VENDOR: "Vendor Specific Status",
}


class StatusParts(NamedTuple):
    """A status field taken apart; `more` and `dnr` are 0 or 1, `crd` is the Command Retry Delay index."""

    sc: int
    sct: int
    crd: int
    more: int
    dnr: int


def split(status_field: int) -> StatusParts:
    """The parts of a status field (15 bits, without the Phase Tag)."""
    return StatusParts(
        status_field & SC_MASK,
        (status_field & SCT_MASK) >> SCT_SHIFT,
        (status_field & CRD_MASK) >> CRD_SHIFT,
        1 if status_field & MORE else 0,
        1 if status_field & DNR else 0,
    )


def words_of(status_field: int, *, fabrics: bool = False) -> str:
    """The specification's words for SCT and SC; `fabrics` reads it as a Fabrics command's status."""
    code = status_field & STATUS_CODE_MASK
    words = FabricsStatus.name_of(code) if fabrics else None
    if words is None:
        words = Status.name_of(code)
    if words is None:
        kind = _SCT_WORDS.get(code >> SCT_SHIFT, "Reserved Status Code Type")
        words = f"{kind} {code & SC_MASK:02X}h"
    return words


def describe(status_field: int, *, fabrics: bool = False) -> str:
    """A status field in words, as in "Compare Failure (SCT 2h SC 85h) DNR".

    Takes any int: bits above the 15 of a status field are ignored.
    """
    parts = split(status_field)
    text = f"{words_of(status_field, fabrics=fabrics)} (SCT {parts.sct:X}h SC {parts.sc:02X}h)"
    if parts.crd:
        text += f" CRD {parts.crd}"
    if parts.more:
        text += " MORE"
    if parts.dnr:
        text += " DNR"
    return text
