"""Asymmetric Namespace Access: what Identify and log page 0Ch say of it (Base 2.1, clauses 5.1.12.1 and 8.1.1)."""

from __future__ import annotations

from typing import Final

from .base import Structure, rsvd, u8, u16, u32, u64
from .bits import BitLayout, bit
from .words import Worded

__all__ = ["ANACAP", "ANA_GROUP", "ANA_LOG", "ANA_LSP_RGO", "AnaState", "ana_log_bytes"]

_LOG = "Base 2.1 §5.1.12.1 (LID 0Ch)"


class AnaState(Worded):
    """ANA_GROUP.state: how a controller reaches the namespaces of a group (Base 2.1, 8.1.1)."""

    OPTIMIZED = 0x1, "optimized"
    NON_OPTIMIZED = 0x2, "non-optimized"
    INACCESSIBLE = 0x3, "inaccessible"
    PERSISTENT_LOSS = 0x4, "persistent-loss"
    CHANGE = 0xF, "change"


ANACAP = BitLayout(
    "ANACAP",
    8,
    "Base 2.1 §5.1.13.2.1",
    bit("ros", 1, "Reports Optimized State"),
    bit("rnos", 1, "Reports Non-Optimized State"),
    bit("ris", 1, "Reports Inaccessible State"),
    bit("rpls", 1, "Reports Persistent Loss State"),
    bit("rcs", 1, "Reports Change State"),
    bit("rsvd5", 1),
    bit("anagrpids", 1, "ANAGRPID does not change while the namespace is attached"),
    bit("nzgid", 1, "Namespace Management takes an ANAGRPID other than 0"),
)

ANA_LSP_RGO: Final = 1
"""Log Specific Parameter: Return Groups Only, without the namespaces."""

ANA_LOG = Structure(
    "ANA_LOG",
    16,
    _LOG,
    "chgcnt" / u64 * "Change Count",
    "ngrps" / u16 * "Number of ANA Group Descriptors",
    rsvd(10, 6),
)
ANA_GROUP = Structure(
    "ANA_GROUP",
    32,
    _LOG,
    "grpid" / u32 * "ANA Group ID",
    "nnsids" / u32 * "Number of NSID Values",
    "chgcnt" / u64 * "Change Count",
    "state" / u8 * "Asymmetric Namespace Access State (bits 3 to 0)",
    rsvd(17, 15),
)


def ana_log_bytes(groups: int, namespaces: int) -> int:
    """The most that log page 0Ch can have with so many groups and namespaces."""
    return ANA_LOG.size + groups * ANA_GROUP.size + namespaces * 4
