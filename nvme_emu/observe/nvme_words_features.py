"""What nvme-cli 2.13 says of a feature's value with `get-feature -o json`, beside the value itself.

The sentences are nvme-cli's own output.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from nvme_emu.spec.feature_data import APST_ENTRY, APST_TABLE, HOST_BEHAVIOR
from nvme_emu.spec.features import FEATURE_VALUES, Fid

__all__ = ["feature_details", "select_words"]

_ZERO_CELSIUS_K: Final = 273
_AB_NO_LIMIT: Final = 7
_TLER_UNIT_MS: Final = 100
_COALESCING_UNIT_US: Final = 100

_ORIGINS: Final = {
    0: "The Timestamp field was initialized to 0h by a Controller Level Reset.",
    1: "The Timestamp field was initialized with a Timestamp value using a Set Features command.",
}
_SYNCH: Final = (
    "The controller counted time in milliseconds continuously since the Timestamp value was initialized.",
    "The controller may have stopped counting during vendor specific intervals after the Timestamp value was "
    "initialized.",
)
_WORKLOADS: Final = {0: "No Workload", 1: "Workload #1", 2: "Workload #2"}
_SENSORS: Final = {0: "Composite Temperature", 15: "All Temperature Sensors"}
_THRESHOLDS: Final = {0: "Over Temperature Threshold", 1: "Under Temperature Threshold"}

_PROTECTIONS: Final = {
    0: "No Write Protect",
    1: "Write Protect",
    2: "Write Protect Until Power Cycle",
    3: "Permanent Write Protect",
}

# In the order of nvme-cli's output: its key and the field of Asynchronous Event Configuration.
_NOTICES: Final = (
    ("Discovery Log Page Change Notices", "dlpcn"),
    ("Host Discovery Log Page Change Notification", "hdlpcn"),
    ("AVE Discovery Log Page Change Notification", "adlpcn"),
    ("Pull Model DDC Request Log Page Change Notification", "pmdrlpcn"),
    ("Zone Descriptor Changed Notices", "zdcn"),
    ("Reachability Group", "rgrpn"),
    ("Reachability Association", "rassn"),
    ("Normal NVM Subsystem Shutdown", "nnsshdn"),
    ("Endurance Group Event Aggregate Log Change Notices", "egealcn"),
    ("LBA Status Information Notices", "lsian"),
    ("Predictable Latency Event Aggregate Log Change Notices", "plealcn"),
    ("Asymmetric Namespace Access Change Notices", "anacn"),
    ("Telemetry Log Notices", "tln"),
    ("Firmware Activation Notices", "fan"),
    ("Namespace Attribute Notices", "nan"),
    ("SMART / Health Critical Warnings", "shcw"),
)


def _arbitration(f: Any) -> dict[str, Any]:
    return {
        "High Priority Weight (HPW)": f.hpw_z + 1,
        "Medium Priority Weight (MPW)": f.mpw_z + 1,
        "Low Priority Weight (LPW)": f.lpw_z + 1,
        "Arbitration Burst (AB)": "No limit" if f.ab == _AB_NO_LIMIT else str(1 << f.ab),
    }


def _power(f: Any) -> dict[str, Any]:
    words = _WORKLOADS.get(f.wh, "Reserved")
    return {"Workload Hint (WH)": f.wh, "WH description": words, "Power State (PS)": f.ps}


def _temperature(f: Any) -> dict[str, Any]:
    sensor = _SENSORS.get(f.tmpsel, f"Temperature Sensor {f.tmpsel}" if f.tmpsel < 9 else "Reserved")
    return {
        "Temperature Threshold Hysteresis (TMPTHH)": f"{f.tmpthh - _ZERO_CELSIUS_K} Celsius",
        "TMPTHH kelvin": f"{f.tmpthh} K",
        "Threshold Type Select (THSEL)": f.thsel,
        "THSEL description": _THRESHOLDS.get(f.thsel, "Reserved"),
        "Threshold Temperature Select (TMPSEL)": f.tmpsel,
        "TMPSEL description": sensor,
        "Temperature Threshold (TMPTH)": f"{f.tmpth - _ZERO_CELSIUS_K} Celsius",
        "TMPTH kelvin": f"{f.tmpth} K",
    }


def _error_recovery(f: Any) -> dict[str, Any]:
    return {
        "Deallocated or Unwritten Logical Block Error Enable (DULBE)": "Enabled" if f.dulbe else "Disabled",
        "Time Limited Error Recovery (TLER)": f"{f.tler * _TLER_UNIT_MS} ms",
    }


def _queues(f: Any) -> dict[str, Any]:
    return {
        "Number of IO Completion Queues Allocated (NCQA)": f.ncq_z + 1,
        "Number of IO Submission Queues Allocated (NSQA)": f.nsq_z + 1,
    }


def _coalescing(f: Any) -> dict[str, Any]:
    return {
        "Aggregation Time (TIME)": f"{f.time * _COALESCING_UNIT_US} usec",
        "Aggregation Threshold (THR)": f.thr_z + 1,
    }


def _thermal(f: Any) -> dict[str, Any]:
    return {
        "Thermal Management Temperature 1 (TMT1)": f"{f.tmt1} K",
        "TMT1 celsius": f"{f.tmt1 - _ZERO_CELSIUS_K} Celsius",
        "Thermal Management Temperature 2": f"{f.tmt2} K",
        "TMT2 celsius": f"{f.tmt2 - _ZERO_CELSIUS_K} Celsius",
    }


def _events(f: Any) -> dict[str, Any]:
    return {key: f"{'Send' if getattr(f, name) else 'Do not send'} async event" for key, name in _NOTICES}


_DETAILS: Final[dict[int, Callable[[Any], dict[str, Any]]]] = {
    Fid.ARBITRATION: _arbitration,
    Fid.POWER_MANAGEMENT: _power,
    Fid.TEMPERATURE_THRESHOLD: _temperature,
    Fid.ERROR_RECOVERY: _error_recovery,
    Fid.VOLATILE_WRITE_CACHE: lambda f: {"Volatile Write Cache Enable (WCE)": "Enabled" if f.wce else "Disabled"},
    Fid.NUMBER_OF_QUEUES: _queues,
    Fid.INTERRUPT_COALESCING: _coalescing,
    Fid.INTERRUPT_VECTOR_CONFIG: lambda f: {
        "Coalescing Disable (CD)": str(bool(f.cd)),
        "Interrupt Vector (IV)": f.iv,
    },
    Fid.WRITE_ATOMICITY: lambda f: {"Disable Normal (DN)": str(bool(f.dn))},
    Fid.ASYNC_EVENT_CONFIG: _events,
    Fid.KEEP_ALIVE_TIMER: lambda f: {"Keep Alive Timeout (KATO) in milliseconds": f.kato},
    Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT: _thermal,
    Fid.NON_OPERATIONAL_POWER_STATE: lambda f: {
        "Non-Operational Power State Permissive Mode Enable (NOPPME)": str(bool(f.noppme))
    },
    Fid.LBA_STATUS_REPORT_INTERVAL: lambda f: {
        "LBA Status Information Poll Interval (LSIPI)": f.lsipi,
        "LBA Status Information Report Interval (LSIRI)": f.lsiri,
    },
    Fid.SANITIZE_CONFIG: lambda f: {"No-Deallocate Response Mode (NODRM)": f.nodrm},
    Fid.ENDURANCE_GROUP_EVENT_CONFIG: lambda f: {
        "Endurance Group Identifier (ENDGID)": f.endgid,
        "Endurance Group Critical Warnings": f.egcw,
    },
    Fid.IO_COMMAND_SET_PROFILE: lambda f: {"I/O Command Set Profile": str(bool(f.iocsci & 1))},
    Fid.SOFTWARE_PROGRESS_MARKER: lambda f: {"Pre-boot Software Load Count (PBSLC)": f.pbslc},
    Fid.RESERVATION_NOTIFICATION_MASK: lambda f: {
        "Mask Reservation Preempted Notification (RESPRE)": str(bool(f.respre)),
        "Mask Reservation Released Notification (RESREL)": str(bool(f.resrel)),
        "Mask Registration Preempted Notification (REGPRE)": str(bool(f.regpre)),
    },
    Fid.RESERVATION_PERSISTENCE: lambda f: {"Persist Through Power Loss (PTPL)": str(bool(f.ptpl))},
    Fid.WRITE_PROTECTION: lambda f: {"Namespace Write Protect": _PROTECTIONS.get(f.wps, "Reserved")},
}


def _timestamp(data: bytes) -> dict[str, Any]:
    ms = int.from_bytes(data[:6], "little")
    return {
        "timestamp": ms,
        "timestamp string": time.strftime("%a %b %d %H:%M:%S %Y UTC", time.gmtime(ms // 1000)),
        "timestamp origin": _ORIGINS.get(data[6] >> 1 & 7, "Reserved"),
        "synch": _SYNCH[data[6] & 1],
    }


def _idle_transitions(value: int, data: bytes) -> dict[str, Any]:
    entries = [APST_ENTRY.unpack(entry) for entry in APST_TABLE.parse(data).entries]
    return {
        "Autonomous Power State Transition Enable (APSTE)": "Enabled" if value & 1 else "Disabled",
        "Auto PST Entries": [
            {
                "entry": f"{number:2}",
                "Idle Time Prior to Transition (ITPT)": f"{one.itpt} ms",
                "Idle Transition Power State (ITPS)": one.itps,
            }
            for number, one in enumerate(entries)
        ],
    }


def _host_behavior(data: bytes) -> dict[str, Any]:
    f = HOST_BEHAVIOR.parse(data)
    return {
        "Host Behavior Support": str(bool(f.acre & 1)),
        "Advanced Command Retry Enable (ACRE)": str(bool(f.acre)),
        "Extended Telemetry Data Area 4 Supported (ETDAS)": str(bool(f.etdas)),
        "LBA Format Extension Enable (LBAFEE)": str(bool(f.lbafee)),
        "Host Dispersed Namespace Support (HDISNS)": "Enabled" if f.hdisns else "Disabled",
        **{
            f"Copy Descriptor Format {number}h Enable (CDF{number}E)": str(bool(f.cdfe >> number & 1))
            for number in (2, 3, 4)
        },
    }


def feature_details(fid: int, value: int, data: bytes) -> dict[str, Any] | None:
    """The second part for a feature's value and data; None where there is none."""
    if fid == Fid.TIMESTAMP and len(data) >= 8:
        return _timestamp(data)
    if fid == Fid.AUTONOMOUS_POWER_STATE_TRANSITION and len(data) >= APST_TABLE.size:
        return _idle_transitions(value, data)
    if fid == Fid.HOST_BEHAVIOR and len(data) >= HOST_BEHAVIOR.size:
        return _host_behavior(data)
    if fid == Fid.HOST_IDENTIFIER and len(data) >= 8:
        return {"Host Identifier (HOSTID)": int.from_bytes(data[:8], "little")}
    make = _DETAILS.get(fid)
    return None if make is None else make(FEATURE_VALUES[fid].unpack(value))


def select_words(value: int) -> list[str]:
    """The kinds of a feature (SEL 3)."""
    words = ("saveable", "per-namespace", "changeable")
    return [word for bit, word in enumerate(words) if value >> bit & 1]
