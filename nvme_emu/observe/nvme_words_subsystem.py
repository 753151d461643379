"""More of nvme-cli's JSON (see `nvme_words`): what a controller tells of its subsystem, and what logs there are."""

from __future__ import annotations

import struct
from typing import Any

from nvme_emu.spec.ana import ANA_GROUP, ANA_LOG, AnaState
from nvme_emu.spec.base import Fields
from nvme_emu.spec.endurance import ENDURANCE_GROUP_AGGREGATE, ENDURANCE_GROUP_LOG

__all__ = [
    "ana_log",
    "changed_ns_list_log",
    "endurance_event_agg_log",
    "endurance_log",
    "fid_support_effects_log",
    "list_ctrl",
    "list_endgrp",
    "supported_log_pages",
]

_ENDURANCE = {
    "critical_warning": "egcw",
    "endurance_group_features": "egfeat",
    "avl_spare": "avsp",
    "avl_spare_threshold": "avspt",
    "percent_used": "pused",
    "domain_identifier": "did",
    "endurance_estimate": "ee",
    "data_units_read": "dur",
    "data_units_written": "duw",
    "media_units_written": "muw",
    "host_read_cmds": "hrc",
    "host_write_cmds": "hwc",
    "media_data_integrity_err": "mdie",
    "num_err_info_log_entries": "neile",
    "total_end_grp_cap": "tegcap",
    "unalloc_end_grp_cap": "uegcap",
}


def _groups(raw: bytes) -> list[tuple[Fields, list[int]]]:
    """The group descriptors of an ANA log, as many as the bytes have."""
    found, at = [], ANA_LOG.size
    for _ in range(ANA_LOG.parse(raw).ngrps):
        if at + ANA_GROUP.size > len(raw):
            break
        group = ANA_GROUP.parse(raw[at : at + ANA_GROUP.size])
        at += ANA_GROUP.size
        count = min(group.nnsids, (len(raw) - at) // 4)
        found.append((group, list(struct.unpack_from(f"<{count}I", raw, at))))
        at += 4 * count
    return found


def ana_log(raw: bytes, device: str) -> dict[str, Any]:
    """Asymmetric Namespace Access log."""
    head = ANA_LOG.parse(raw)
    return {
        "Asymmetric Namespace Access Log for NVMe device": device,
        "chgcnt": head.chgcnt,
        "ngrps": head.ngrps,
        "ANA DESC LIST ": [
            {
                "grpid": group.grpid,
                "nnsids": group.nnsids,
                "chgcnt": group.chgcnt,
                "state": AnaState.name_of(group.state & 0xF) or "invalid state",
                "NSIDS": [{"nsid": nsid} for nsid in nsids],
            }
            for group, nsids in _groups(raw)
        ],
    }


def endurance_log(raw: bytes) -> dict[str, Any]:
    """Endurance Group Information."""
    fields = ENDURANCE_GROUP_LOG.parse(raw)
    return {key: fields[name] for key, name in _ENDURANCE.items()}


def endurance_event_agg_log(raw: bytes, entries: int) -> dict[str, Any]:
    """Endurance Group Event Aggregate; ``entries`` of it are shown, used or not (nvme-cli: the last of them)."""
    groups = struct.unpack_from(f"<{entries}H", raw.ljust(8 + 2 * entries, b"\0"), ENDURANCE_GROUP_AGGREGATE.size)
    return {
        "num_entries_avail": ENDURANCE_GROUP_AGGREGATE.parse(raw).nent,
        "list_of_entries": [{"entry": group} for group in groups],
    }


def _identifiers(raw: bytes) -> list[int]:
    (count,) = struct.unpack_from("<H", raw)
    return list(struct.unpack_from(f"<{min(count, 2047)}H", raw, 2))


def list_ctrl(raw: bytes) -> dict[str, Any]:
    """Controller List."""
    found = _identifiers(raw)
    return {"num_ctrl": len(found), "ctrl_list": [{"ctrl_id": cntlid} for cntlid in found]}


def list_endgrp(raw: bytes) -> dict[str, Any]:
    """Endurance Group List."""
    found = _identifiers(raw)
    return {"num_endgrp_id": len(found), "endgrp_list": [{"endgrp_id": group} for group in found]}


def changed_ns_list_log(raw: bytes, device: str) -> dict[str, Any]:
    """Changed Attached Namespace List: nvme-cli numbers the entries from 1."""
    nsids = [nsid for nsid in struct.unpack("<1024I", raw) if nsid]
    listed = {f"[{number:4}]": f"{nsid:#x}" for number, nsid in enumerate(nsids, 1)}
    return {"Changed Attached Namespace List Log": device, device: listed}


def supported_log_pages(raw: bytes) -> dict[str, Any]:
    """Supported Log Pages: those that are."""
    entries = struct.unpack("<256I", raw)
    return {"supported_logs": [{f"lid_{lid:#x} ": entry} for lid, entry in enumerate(entries) if entry & 1]}


def fid_support_effects_log(raw: bytes) -> dict[str, Any]:
    """Feature Identifiers Supported and Effects: those that are."""
    entries = struct.unpack("<256I", raw)
    return {"fid_support": [{f"fid_{fid}": entry} for fid, entry in enumerate(entries) if entry & 1]}
