"""The dwords and data of the admin commands that manage the device: namespaces, formats, firmware, sanitising.

Sources: NVM Express Base 2.1 clause 5.1, NVM Command Set 1.1 clause 4.2. `commands.ADMIN_COMMANDS` holds them by
opcode.
"""

from __future__ import annotations

from enum import IntEnum

from .bits import BitLayout, bit

__all__ = [
    "ATTACH_CDW10",
    "CommitAction",
    "DIRECTIVE_CDW11",
    "FORMAT_CDW10",
    "FW_COMMIT_CDW10",
    "GET_LBA_STATUS_CDW13",
    "NS_MANAGEMENT_CDW10",
    "NS_MANAGEMENT_CDW11",
    "SANITIZE_CDW10",
    "SECURITY_CDW10",
    "SELF_TEST_CDW10",
    "SanitizeAction",
    "SecureErase",
    "SelfTestCode",
]


class SecureErase(IntEnum):
    """FORMAT_CDW10.ses (Base 2.1, 5.1.10)."""

    NONE = 0
    USER_DATA = 1
    CRYPTOGRAPHIC = 2


class SelfTestCode(IntEnum):
    """SELF_TEST_CDW10.stc (Base 2.1, 5.1.5)."""

    SHORT = 0x1
    EXTENDED = 0x2
    ABORT = 0xF


class SanitizeAction(IntEnum):
    """SANITIZE_CDW10.sanact (Base 2.1, 5.1.22)."""

    EXIT_FAILURE_MODE = 1
    BLOCK_ERASE = 2
    OVERWRITE = 3
    CRYPTO_ERASE = 4
    EXIT_MEDIA_VERIFICATION = 5


class CommitAction(IntEnum):
    """FW_COMMIT_CDW10.ca (Base 2.1, 5.1.8)."""

    STORE = 0
    STORE_AND_ACTIVATE_AT_RESET = 1
    ACTIVATE_AT_RESET = 2
    ACTIVATE_NOW = 3


_NS_MANAGEMENT = "Base 2.1 §5.1.21"
_ATTACHMENT = "Base 2.1 §5.1.20"
_FORMAT = "Base 2.1 §5.1.10"
_SELF_TEST = "Base 2.1 §5.1.5"
_SANITIZE = "Base 2.1 §5.1.22"
_COMMIT = "Base 2.1 §5.1.8"

NS_MANAGEMENT_CDW10 = BitLayout(
    "NS_MANAGEMENT_CDW10", 32, _NS_MANAGEMENT, bit("sel", 4, "Select", {0: "create", 1: "delete"}), bit("rsvd4", 28)
)
NS_MANAGEMENT_CDW11 = BitLayout(
    "NS_MANAGEMENT_CDW11", 32, _NS_MANAGEMENT, bit("rsvd0", 24), bit("csi", 8, "Command Set Identifier")
)
ATTACH_CDW10 = BitLayout(
    "ATTACH_CDW10", 32, _ATTACHMENT, bit("sel", 4, "Select", {0: "attach", 1: "detach"}), bit("rsvd4", 28)
)
FORMAT_CDW10 = BitLayout(
    "FORMAT_CDW10",
    32,
    _FORMAT,
    bit("lbafl", 4, "LBA Format Lower"),
    bit("mset", 1, "Metadata Settings", {0: "separate buffer", 1: "extended LBA"}),
    bit("pi", 3, "Protection Information", {0: "disabled", 1: "Type 1", 2: "Type 2", 3: "Type 3"}),
    bit("pil", 1, "Protection Information Location", {0: "last bytes", 1: "first bytes"}),
    bit("ses", 3, "Secure Erase Settings", {0: "none", 1: "user data erase", 2: "cryptographic erase"}),
    bit("lbafu", 2, "LBA Format Upper"),
    bit("rsvd14", 18),
)
SELF_TEST_CDW10 = BitLayout(
    "SELF_TEST_CDW10",
    32,
    _SELF_TEST,
    bit("stc", 4, "Self-test Code", {1: "short", 2: "extended", 15: "abort"}),
    bit("rsvd4", 28),
)
SANITIZE_CDW10 = BitLayout(
    "SANITIZE_CDW10",
    32,
    _SANITIZE,
    bit(
        "sanact",
        3,
        "Sanitize Action",
        {
            1: "exit failure mode",
            2: "block erase",
            3: "overwrite",
            4: "crypto erase",
            5: "exit media verification",
        },
    ),
    bit("ause", 1, "Allow Unrestricted Sanitize Exit"),
    bit("owpass", 4, "Overwrite Pass Count (0 is 16)"),
    bit("oipbp", 1, "Overwrite Invert Pattern Between Passes"),
    bit("ndas", 1, "No-Deallocate After Sanitize"),
    bit("emvs", 1, "Enter Media Verification State"),
    bit("rsvd11", 21),
)
FW_COMMIT_CDW10 = BitLayout(
    "FW_COMMIT_CDW10",
    32,
    _COMMIT,
    bit("fs", 3, "Firmware Slot (0 lets the controller choose)"),
    bit(
        "ca",
        3,
        "Commit Action",
        {
            0: "store",
            1: "store, activate at reset",
            2: "activate at reset",
            3: "store and activate now",
            6: "store in boot partition",
            7: "activate boot partition",
        },
    ),
    bit("rsvd6", 25),
    bit("bpid", 1, "Boot Partition ID"),
)
GET_LBA_STATUS_CDW13 = BitLayout(
    "GET_LBA_STATUS_CDW13",
    32,
    "NVM 1.1 §4.2.1",
    bit("rl", 16, "Range Length (logical blocks; 0 is to the end)"),
    bit("rsvd16", 8),
    bit(
        "atype",
        8,
        "Action Type",
        {0x02: "allocated blocks", 0x10: "scan, then list the unrecoverable", 0x11: "list the unrecoverable"},
    ),
)
DIRECTIVE_CDW11 = BitLayout(
    "DIRECTIVE_CDW11",
    32,
    "Base 2.1 §5.1.6",
    bit("doper", 8, "Directive Operation"),
    bit("dtype", 8, "Directive Type", {0: "Identify", 1: "Streams"}),
    bit("dspec", 16, "Directive Specific"),
)
SECURITY_CDW10 = BitLayout(
    "SECURITY_CDW10",
    32,
    "Base 2.1 §5.1.23",
    bit("nssf", 8, "NVMe Security Specific Field"),
    bit("spsp0", 8, "SP Specific 0"),
    bit("spsp1", 8, "SP Specific 1"),
    bit("secp", 8, "Security Protocol"),
)
