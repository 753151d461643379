"""Log pages of what a device does to itself: self-tests, sanitising, telemetry. Import them from `logs`."""

from __future__ import annotations

from .base import Structure, raw, rsvd, table, u8, u16, u24, u32, u64
from .bits import BitLayout, bit

__all__ = [
    "LBA_STATUS_DESCRIPTOR",
    "LBA_STATUS_LIST_HEADER",
    "RESERVATION_NOTIFICATION",
    "SANITIZE_SSI",
    "SANITIZE_SSTAT",
    "SANITIZE_STATUS",
    "SELF_TEST_LOG",
    "SELF_TEST_RESULT",
    "SELF_TEST_RESULTS",
    "SELF_TEST_STATUS",
    "SELF_TEST_VALID",
    "TELEMETRY_BLOCK",
    "TELEMETRY_CONTROLLER",
    "TELEMETRY_HOST",
]

_SELF_TEST = "Base 2.1 §5.1.12.1.7"
_TELEMETRY_HOST = "Base 2.1 §5.1.12.1.8"
_TELEMETRY_CONTROLLER = "Base 2.1 §5.1.12.1.9"
_SANITIZE = "Base 2.1 §5.1.12.1 (LID 81h)"
_RESERVATION = "Base 2.1 §5.1.12.1 (LID 80h)"
_LBA_STATUS = "NVM 1.1 §4.2.1"

# --- Device Self-test (06h) ---------------------------------------------------------------------------------

SELF_TEST_RESULTS = 20
SELF_TEST_STATUS = BitLayout(
    "SELF_TEST_STATUS",
    8,
    _SELF_TEST,
    bit(
        "result",
        4,
        "Device Self-test Result",
        {
            0x0: "completed without error",
            0x1: "aborted by a Device Self-test command",
            0x2: "aborted by a Controller Level Reset",
            0x3: "aborted by the removal of a namespace",
            0x4: "aborted by a Format NVM command",
            0x5: "fatal error",
            0x6: "failed in an unknown segment",
            0x7: "failed",
            0x8: "aborted for an unknown reason",
            0x9: "aborted by a sanitize operation",
            0xF: "entry not used",
        },
    ),
    bit("code", 4, "Device Self-test Code"),
)
SELF_TEST_VALID = BitLayout(
    "SELF_TEST_VALID",
    8,
    _SELF_TEST,
    bit("nsidv", 1, "NSID Valid"),
    bit("flbav", 1, "Failing LBA Valid"),
    bit("sctv", 1, "SCT Valid"),
    bit("scv", 1, "SC Valid"),
    bit("rsvd4", 4),
)
SELF_TEST_RESULT = Structure(
    "SELF_TEST_RESULT",
    28,
    _SELF_TEST,
    "status" / u8 * "Device Self-test Status",
    "segment" / u8 * "Segment Number that failed",
    "valid" / u8 * "Valid Diagnostic Information",
    rsvd(3, 1),
    "poh" / u64 * "Power On Hours",
    "nsid" / u32 * "Namespace Identifier",
    "flba" / u64 * "Failing LBA",
    "sct" / u8 * "Status Code Type",
    "sc" / u8 * "Status Code",
    "vs" / u16 * "Vendor Specific",
    bits={"status": SELF_TEST_STATUS, "valid": SELF_TEST_VALID},
)
SELF_TEST_LOG = Structure(
    "SELF_TEST_LOG",
    564,
    _SELF_TEST,
    "current" / u8 * "Current Device Self-test Operation",
    "completion" / u8 * "Current Device Self-test Completion (percent)",
    rsvd(2, 2),
    "results" / table(SELF_TEST_RESULTS, SELF_TEST_RESULT) * "Results, newest first",
)

# --- Sanitize Status (81h) ----------------------------------------------------------------------------------

SANITIZE_SSTAT = BitLayout(
    "SANITIZE_SSTAT",
    16,
    _SANITIZE,
    bit(
        "sos",
        3,
        "Sanitize Operation Status",
        {0: "never sanitized", 1: "successful", 2: "in progress", 3: "failed", 4: "successful, deallocated all"},
    ),
    bit("opc", 5, "Overwrite Passes Completed"),
    bit("gde", 1, "Global Data Erased"),
    bit("mvcncld", 1, "Media Verification Canceled"),
    bit("rsvd10", 6),
)
SANITIZE_SSI = BitLayout(
    "SANITIZE_SSI",
    8,
    _SANITIZE,
    bit(
        "sans",
        4,
        "Sanitize State",
        {
            0: "idle",
            1: "restricted processing",
            2: "restricted failure",
            3: "unrestricted processing",
            4: "unrestricted failure",
            5: "media verification",
            6: "post-verification deallocation",
        },
    ),
    bit("fails", 4, "State in which it failed"),
)
SANITIZE_STATUS = Structure(
    "SANITIZE_STATUS",
    512,
    _SANITIZE,
    "sprog" / u16 * "Sanitize Progress (of 65,536)",
    "sstat" / u16 * "Sanitize Status",
    "scdw10" / u32 * "Sanitize Command Dword 10 Information",
    "eto" / u32 * "Estimated Time For Overwrite (seconds)",
    "etbe" / u32 * "Estimated Time For Block Erase (seconds)",
    "etce" / u32 * "Estimated Time For Crypto Erase (seconds)",
    "etodmm" / u32 * "Estimated Time For Overwrite With No-Deallocate Media Modification (seconds)",
    "etbenmm" / u32 * "Estimated Time For Block Erase With No-Deallocate Media Modification (seconds)",
    "etcenmm" / u32 * "Estimated Time For Crypto Erase With No-Deallocate Media Modification (seconds)",
    "etpvds" / u32 * "Estimated Time For Post-Verification Deallocation State (seconds)",
    "ssi" / u8 * "Sanitize State Information",
    rsvd(37, 475),
    bits={"sstat": SANITIZE_SSTAT, "ssi": SANITIZE_SSI},
)

# --- Telemetry (07h, 08h) -----------------------------------------------------------------------------------

TELEMETRY_BLOCK = 512
TELEMETRY_HOST = Structure(
    "TELEMETRY_HOST",
    512,
    _TELEMETRY_HOST,
    "lid" / u8 * "Log Page Identifier",
    rsvd(1, 4),
    "ieee" / u24 * "IEEE OUI Identifier",
    "da1lb" / u16 * "Data Area 1 Last Block",
    "da2lb" / u16 * "Data Area 2 Last Block",
    "da3lb" / u16 * "Data Area 3 Last Block",
    rsvd(14, 2),
    "da4lb" / u32 * "Data Area 4 Last Block",
    rsvd(20, 360),
    "this" / u8 * "Telemetry Host-Initiated Scope",
    "thdgn" / u8 * "Telemetry Host-Initiated Data Generation Number",
    "tcda" / u8 * "Telemetry Controller-Initiated Data Available",
    "tcdgn" / u8 * "Telemetry Controller-Initiated Data Generation Number",
    "rid" / raw(128) * "Reason Identifier",
)
TELEMETRY_CONTROLLER = Structure(
    "TELEMETRY_CONTROLLER",
    512,
    _TELEMETRY_CONTROLLER,
    "lid" / u8 * "Log Page Identifier",
    rsvd(1, 4),
    "ieee" / u24 * "IEEE OUI Identifier",
    "da1lb" / u16 * "Data Area 1 Last Block",
    "da2lb" / u16 * "Data Area 2 Last Block",
    "da3lb" / u16 * "Data Area 3 Last Block",
    rsvd(14, 2),
    "da4lb" / u32 * "Data Area 4 Last Block",
    rsvd(20, 361),
    "tcis" / u8 * "Telemetry Controller-Initiated Scope",
    "tcda" / u8 * "Telemetry Controller-Initiated Data Available",
    "tcdgn" / u8 * "Telemetry Controller-Initiated Data Generation Number",
    "rid" / raw(128) * "Reason Identifier",
)

# --- Reservation Notification (80h) -------------------------------------------------------------------------

RESERVATION_NOTIFICATION = Structure(
    "RESERVATION_NOTIFICATION",
    64,
    _RESERVATION,
    "log_page_count" / u64 * "Log Page Count; 0 is an empty log page",
    "type" / u8 * "Reservation Notification Log Page Type",
    "available" / u8 * "Number of Available Log Pages",
    rsvd(10, 2),
    "nsid" / u32 * "Namespace ID",
    rsvd(16, 48),
)

# --- Get LBA Status -----------------------------------------------------------------------------------------

LBA_STATUS_LIST_HEADER = Structure(
    "LBA_STATUS_LIST_HEADER",
    8,
    _LBA_STATUS,
    "nlsd" / u32 * "Number of LBA Status Descriptors",
    "cmpc" / u8 * "Completion Condition",
    rsvd(5, 3),
)
LBA_STATUS_DESCRIPTOR = Structure(
    "LBA_STATUS_DESCRIPTOR",
    16,
    _LBA_STATUS,
    "dslba" / u64 * "Descriptor Starting LBA",
    "nlb" / u32 * "Number of Logical Blocks",
    rsvd(12, 1),
    "status" / u8 * "Status",
    rsvd(14, 2),
)
