"""Log pages and answers of admin commands as nvme-cli 2.13 prints them with -o json: its keys, where it has them.

Each function takes the bytes that the device gave. Where nvme-cli's own output is not well formed (Get LBA Status and
Directive Receive put names into lists), or there is none (telemetry goes to a file), the keys are its and the form is
ours. Persistent events have nvme-cli's header keys, and their own fields by the specification's names.
"""

from __future__ import annotations

import json
from typing import Any, Final

from nvme_emu.spec.directives import DIRECTIVE_PARAMETERS, STREAMS_PARAMETERS, DirectiveType, StreamsReceive
from nvme_emu.spec.logs import (
    LBA_STATUS_DESCRIPTOR,
    LBA_STATUS_LIST_HEADER,
    RESERVATION_NOTIFICATION,
    SANITIZE_SSI,
    SANITIZE_SSTAT,
    SANITIZE_STATUS,
    SELF_TEST_LOG,
    SELF_TEST_STATUS,
    SELF_TEST_VALID,
    TELEMETRY_BLOCK,
    TELEMETRY_HOST,
)
from nvme_emu.spec.logs_lba_status import LBA_RANGE, LBA_STATUS_ELEMENT, LBA_STATUS_LOG
from nvme_emu.spec.logs_persistent import (
    EVENT_FIRMWARE_COMMIT,
    EVENT_FORMAT_COMPLETED,
    EVENT_FORMAT_STARTED,
    EVENT_HEADER,
    EVENT_NAMESPACE_CHANGED,
    EVENT_POWER_ON_OR_RESET,
    EVENT_SANITIZE_COMPLETED,
    EVENT_SANITIZE_STARTED,
    EVENT_THERMAL,
    EVENT_TIMESTAMP_CHANGED,
    PERSISTENT_EVENT_HEADER,
    PersistentEvent,
)

__all__ = [
    "directive_receive",
    "get_lba_status",
    "lba_status_log",
    "persistent_event_log",
    "resv_notif_log",
    "sanitize_log",
    "self_test_log",
    "telemetry_log",
]

_NOT_USED: Final = 0xF
_SANITIZE_WORDS: Final = (
    "NVM Subsystem has never been sanitized.",
    "Most Recent Sanitize Command Completed Successfully.",
    "Sanitize in Progress.",
    "Most Recent Sanitize Command Failed.",
    "Most Recent Sanitize Command (No-Deallocate After Sanitize) Completed Successfully.",
)
_SANITIZE_STATES: Final = (
    "Idle state",
    "Restricted Processing State",
    "Restricted Failure State",
    "Unrestricted Processing State",
    "Unrestricted Failure State",
    "Media Verification State",
    "Post-Verification Deallocation State",
)
_SANITIZE_FAILED: Final = 3
_TIMES: Final = (
    ("time_over_write", "eto"), ("time_block_erase", "etbe"), ("time_crypto_erase", "etce"),
    ("time_over_write_no_dealloc", "etodmm"), ("time_block_erase_no_dealloc", "etbenmm"),
    ("time_crypto_erase_no_dealloc", "etcenmm"), ("time_post_verification_dealloc", "etpvds"),
)  # fmt: skip
_EVENTS: Final = {
    PersistentEvent.FIRMWARE_COMMIT: EVENT_FIRMWARE_COMMIT,
    PersistentEvent.TIMESTAMP_CHANGE: EVENT_TIMESTAMP_CHANGED,
    PersistentEvent.POWER_ON_OR_RESET: EVENT_POWER_ON_OR_RESET,
    PersistentEvent.CHANGE_NAMESPACE: EVENT_NAMESPACE_CHANGED,
    PersistentEvent.FORMAT_START: EVENT_FORMAT_STARTED,
    PersistentEvent.FORMAT_COMPLETION: EVENT_FORMAT_COMPLETED,
    PersistentEvent.SANITIZE_START: EVENT_SANITIZE_STARTED,
    PersistentEvent.SANITIZE_COMPLETION: EVENT_SANITIZE_COMPLETED,
    PersistentEvent.THERMAL_EXCURSION: EVENT_THERMAL,
}
_COMPLETIONS: Final = ("no indication", "more descriptors than were asked for", "all of the range")


def _numbered(words: tuple[str, ...], number: int, otherwise: str) -> str:
    return f"({number}) {words[number] if number < len(words) else otherwise}"


def self_test_log(data: bytes, entries: int = 20) -> dict[str, Any]:
    """Device Self-test (LID 06h): the newest ``entries`` results."""
    log = SELF_TEST_LOG.parse(data)
    found = []
    for one in log.results[:entries]:
        status, valid = SELF_TEST_STATUS.unpack(one["status"]), SELF_TEST_VALID.unpack(one["valid"])
        result: dict[str, Any] = {"Self test result": status.result}
        if status.result != _NOT_USED:
            result |= {
                "Self test code": status.code,
                "Segment number": one["segment"],
                "Valid Diagnostic Information": one["valid"],
                "Power on hours": one["poh"],
            }
            for there, key, name in (
                (valid.nsidv, "Namespace Identifier", "nsid"),
                (valid.flbav, "Failing LBA", "flba"),
                (valid.sctv, "Status Code Type", "sct"),
                (valid.scv, "Status Code", "sc"),
            ):
                if there:
                    result[key] = one[name]
            result["Vendor Specific"] = one["vs"]
        found.append(result)
    return {
        "Current Device Self-Test Operation": log.current,
        "Current Device Self-Test Completion": log.completion,
        "List of Valid Reports": found,
    }


def sanitize_log(data: bytes, device: str = "nvme0") -> dict[str, Any]:
    """Sanitize Status (LID 81h), under the device's name."""
    log = SANITIZE_STATUS.parse(data)
    status, state = SANITIZE_SSTAT.unpack(log.sstat), SANITIZE_SSI.unpack(log.ssi)
    words = {"sanitize_state": _numbered(_SANITIZE_STATES, state.sans, "Reserved")}
    if status.sos == _SANITIZE_FAILED:
        words["failure_state"] = _numbered(_SANITIZE_STATES, state.fails, "Reserved")
    return {
        device: {
            "sprog": log.sprog,
            "sstat": {
                "media_verification_canceled": status.mvcncld,
                "global_erased": status.gde,
                "no_cmplted_passes": status.opc,
                "status": _numbered(_SANITIZE_WORDS, status.sos, "Unknown"),
            },
            "cdw10_info": log.scdw10,
            **{key: log[name] for key, name in _TIMES},
            "sanitize_state_information": words,
        }
    }


def lba_status_log(data: bytes) -> dict[str, Any]:
    """LBA Status Information (LID 0Eh)."""
    head = LBA_STATUS_LOG.parse(data)
    at, elements = LBA_STATUS_LOG.size, []
    for _ in range(head.nlslne):
        element = LBA_STATUS_ELEMENT.parse(data[at:])
        at += LBA_STATUS_ELEMENT.size
        ranges = [LBA_RANGE.parse(data[at + number * LBA_RANGE.size :]) for number in range(element.nlrd)]
        at += element.nlrd * LBA_RANGE.size
        elements.append(
            {
                "neid": element.neid,
                "nlrd": element.nlrd,
                "ratype": element.ratype,
                "descs": [{"rslba": one.rslba, "rnlb": one.rnlb} for one in ranges],
            }
        )
    return {
        "lslplen": head.lslplen,
        "nlslne": head.nlslne,
        "estulb": head.estulb,
        "lsgc": head.lsgc,
        "ns_elements": elements,
    }


def get_lba_status(data: bytes) -> dict[str, Any]:
    """Get LBA Status."""
    head = LBA_STATUS_LIST_HEADER.parse(data)
    size = LBA_STATUS_DESCRIPTOR.size
    starts = range(LBA_STATUS_LIST_HEADER.size, LBA_STATUS_LIST_HEADER.size + head.nlsd * size, size)
    found: dict[str, Any] = {
        "Number of LBA Status Descriptors (NLSD)": head.nlsd,
        "Completion Condition (CMPC)": head.cmpc,
        "cmpc-definition": _COMPLETIONS[head.cmpc] if head.cmpc < len(_COMPLETIONS) else "reserved",
    }
    for number, at in enumerate(starts):
        one = LBA_STATUS_DESCRIPTOR.parse(data[at:])
        found[f"LSD entry {number}"] = {
            "DSLBA": f"{one.dslba:#018x}",
            "NLB": f"{one.nlb:#010x}",
            "status": f"{one.status:#04x}",
        }
    return found


def resv_notif_log(data: bytes) -> dict[str, Any]:
    """Reservation Notification (LID 80h)."""
    log = RESERVATION_NOTIFICATION.parse(data)
    return {"count": log.log_page_count, "rn_log_type": log.type, "num_logs": log.available, "NSID": log.nsid}


def telemetry_log(data: bytes) -> dict[str, Any]:
    """Telemetry (LID 07h and 08h): its header, and what areas 1 and 2 hold, which is JSON on this device."""
    head = TELEMETRY_HOST.parse(data)
    areas: dict[str, Any] = {}
    first = 0
    for number, last in enumerate((head.da1lb, head.da2lb, head.da3lb), 1):
        text = data[(first + 1) * TELEMETRY_BLOCK : (last + 1) * TELEMETRY_BLOCK].rstrip(b"\0")
        first = max(first, last)
        try:
            areas[f"data area {number}"] = json.loads(text) if text else None
        except ValueError:
            areas[f"data area {number}"] = text.decode("latin-1")
    return {
        "Log Identifier": head.lid,
        "IEEE": f"{head.ieee:#08x}",
        "Data Area 1 Last Block": head.da1lb,
        "Data Area 2 Last Block": head.da2lb,
        "Data Area 3 Last Block": head.da3lb,
        "Controller-Initiated Data Available": head.tcda,
        "Controller-Initiated Data Generation Number": head.tcdgn,
        "Reason Identifier": head.rid.rstrip(b"\0").decode("latin-1"),
        **areas,
    }


def persistent_event_log(data: bytes) -> dict[str, Any]:
    """Persistent Event Log (LID 0Dh): its header and events, newest first."""
    head = PERSISTENT_EVENT_HEADER.parse(data)
    at, events = PERSISTENT_EVENT_HEADER.size, []
    for _ in range(head.tnev):
        if at + EVENT_HEADER.size > len(data):
            break
        event = EVENT_HEADER.parse(data[at:])
        found = {
            "event_type": PersistentEvent.name_of(event.et) or event.et,
            "event_type_rev": event.etr,
            "event_header_len": event.ehl,
            "event_header_additional_info": event.ehai,
            "ctrl_id": event.cntlid,
            "event_time_stamp": event.etstmp,
            "port_id": event.pelpid,
            "vu_info_len": event.vsil,
            "event_len": event.el,
        }
        at += 3 + event.ehl
        structure = _EVENTS.get(event.et)
        body = data[at + event.vsil : at + event.el]
        if structure is not None and len(body) >= structure.size:
            fields = structure.parse(body)
            found |= {name: fields[name] for name in structure.words if not name.startswith("rsvd")}
        at += event.el
        events.append(found)
    return {
        "log_id": head.lid,
        "total_num_of_events": head.tnev,
        "total_log_len": head.tll,
        "log_revision": head.rv,
        "log_header_len": head.lhl,
        "timestamp": head.tstmp,
        "power_on_hours": head.poh,
        "power_cycle_count": head.pcc,
        "pci_vid": head.vid,
        "pci_ssvid": head.ssvid,
        "sn": head.sn,
        "mn": head.mn,
        "subnqn": head.subnqn,
        "gen_number": head.gnum,
        "supported_events": [
            kind.words for kind in PersistentEvent if head.seb[kind >> 3] >> (kind & 7) & 1
        ],
        "list_of_event_entries": events,
    }


def _directives(bits: bytes, yes: str, no: str) -> dict[str, str]:
    names = {0: "Identify Directive", 1: "Stream Directive", 2: "Data Placement Directive"}
    return {name: yes if bits[0] >> number & 1 else no for number, name in names.items()}


def directive_receive(dtype: int, doper: int, result: int, data: bytes) -> dict[str, Any]:
    """What Directive Receive answered."""
    if dtype == DirectiveType.IDENTIFY:
        fields = DIRECTIVE_PARAMETERS.parse(data)
        return {
            "Directive support": _directives(fields.supported, "Supported", "Not supported"),
            "Directive enabled": _directives(fields.enabled, "Enabled", "Disabled"),
            "Directive Persistent Across Controller Level Resets": _directives(
                fields.persistent, "Enabled", "Disabled"
            ),
        }
    if doper == StreamsReceive.ALLOCATE_RESOURCES:
        return {"Namespace Streams Allocated (NSA)": result & 0xFFFF}
    if doper == StreamsReceive.GET_STATUS:
        numbers = [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data) - 1, 2)]
        ids = enumerate(numbers[1 : numbers[0] + 1], 1)
        return {
            "Open Stream Count": numbers[0],
            **{f"Stream Identifier {number:06}": stream for number, stream in ids},
        }
    fields = STREAMS_PARAMETERS.parse(data)
    return {
        "Max Streams Limit (MSL)": fields.msl,
        "NVM Subsystem Streams Available (NSSA)": fields.nssa,
        "NVM Subsystem Streams Open (NSSO)": fields.nsso,
        "NVM Subsystem Stream Capability (NSSC)": fields.nssc,
        "Stream Write Size (in unit of LB size) (SWS)": fields.sws,
        "Stream Granularity Size (in unit of SWS) (SGS)": fields.sgs,
        "Namespace Streams Allocated (NSA)": fields.nsa,
        "Namespace Streams Open (NSO)": fields.nso,
    }
