"""Structures in the form in which nvme-cli 2.13 (Debian 13) prints them as JSON: its keys, order, value forms.

Every function takes the bytes that the device gave. Strings keep the spaces that fill their field, identifiers
are hexadecimal text; what nvme-cli adds with its signed 32-bit call is signed here too. Zero-based fields
(``npss`` …) stay zero-based. Compared with nvme-cli itself by tests/linux/test_linux_words.py, and with what it
printed there once by tests/unit/observe/test_words_nvme_cli.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

from nvme_emu.observe.nvme_words_features import feature_details, select_words
from nvme_emu.spec.base import Fields, Structure
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import (
    IDENTIFY_CONTROLLER,
    IDENTIFY_NAMESPACE,
    Nidt,
    parse_ns_descriptors,
)
from nvme_emu.spec.logs import (
    COMMANDS_SUPPORTED_AND_EFFECTS,
    ERROR_INFORMATION,
    FIRMWARE_SLOT_INFORMATION,
    FIRMWARE_SLOTS,
    SMART_HEALTH,
)
from nvme_emu.spec.opcodes import opcode_name

__all__ = [
    "FABRICS_REGISTERS",
    "REGISTER_KEYS",
    "effects_log",
    "error_log",
    "fw_log",
    "get_feature",
    "id_ctrl",
    "id_ns",
    "list_devices",
    "list_ns",
    "ns_descs",
    "show_regs",
    "smart_log",
]


def _keys(text: str) -> list[str]:
    return text.split()


_ID_CTRL: Final = _keys("""
vid ssvid sn mn fr rab ieee cmic mdts cntlid ver rtd3r rtd3e oaes ctratt rrls bpcap nssl plsi cntrltype fguid crdt1
crdt2 crdt3 crcap nvmsr vwci mec oacs acl aerl frmw lpa elpe npss avscc apsta wctemp cctemp mtfa hmpre hmmin tnvmcap
unvmcap rpmbs edstt dsto fwug kas hctma mntmt mxtmt sanicap hmminds hmmaxd nsetidmax endgidmax anatt anacap
anagrpmax nanagrpid pels domainid kpioc mptfawr megcap tmpthha cqt sqes cqes maxcmd nn oncs fuses fna vwc awun awupf
icsvscc nwpc acwu ocfs sgls mnan maxdna maxcna oaqd rhiri hirt cmmrtd nmmrtd minmrtg maxmrtg trattr mcudmq mnsudmq
mcmr nmcmr mcdqpc subnqn ioccsz iorcsz icdoff fcatt msdbd ofcs
""")

_ID_NS: Final = _keys("""
nsze ncap nuse nsfeat nlbaf flbas mc dpc dps nmic rescap fpi dlfeat nawun nawupf nacwu nabsn nabo nabspf noiob nvmcap
npwg npwa npdg npda nows mssrl mcl msrc kpios nulbaf kpiodaag anagrpid nsattr nvmsetid endgid nguid eui64
""")
_ID_NS_OPTIMAL: Final = frozenset(("npwg", "npwa", "npdg", "npda", "nows"))
_NSFEAT_OPTPERF: Final = 0x10

# Where nvme-cli's key is not the specification's name for the field.
_ALIASES: Final = {"ocfs": "cdfs"}

_PSD: Final = (
    ("entry_lat", "enlat"), ("exit_lat", "exlat"), ("read_tput", "rrt"), ("read_lat", "rrl"), ("write_tput", "rwt"),
    ("write_lat", "rwl"), ("idle_power", "idlp"),
)  # fmt: skip

_SMART: Final = (
    ("critical_warning", "critical_warning"), ("temperature", "composite_temperature"), ("avail_spare", "avsp"),
    ("spare_thresh", "avspt"), ("percent_used", "pused"), ("endurance_grp_critical_warning_summary", "egcws"),
    ("data_units_read", "data_units_read"), ("data_units_written", "data_units_written"),
    ("host_read_commands", "host_read_commands"), ("host_write_commands", "host_write_commands"),
    ("controller_busy_time", "controller_busy_time"), ("power_cycles", "power_cycles"),
    ("power_on_hours", "power_on_hours"), ("unsafe_shutdowns", "unsafe_shutdowns"), ("media_errors", "media_errors"),
    ("num_err_log_entries", "num_err_log_entries"), ("warning_temp_time", "warning_temp_time"),
    ("critical_comp_time", "critical_temp_time"),
)  # fmt: skip
_SMART_THERMAL: Final = (
    ("thm_temp1_trans_count", "tmt1tc"), ("thm_temp2_trans_count", "tmt2tc"),
    ("thm_temp1_total_time", "tttmt1"), ("thm_temp2_total_time", "tttmt2"),
)  # fmt: skip

_NIDT_NAMES: Final = {Nidt.EUI64: "eui64", Nidt.NGUID: "nguid", Nidt.UUID: "uuid", Nidt.CSI: "csi"}
_DESCRIPTOR_HEAD: Final = 4

# (key, offset, bytes, signed): in the order of nvme-cli's output.
REGISTER_KEYS: Final = (
    ("cap", 0x00, 8, False), ("vs", 0x08, 4, True), ("intms", 0x0C, 4, True), ("intmc", 0x10, 4, True),
    ("cc", 0x14, 4, True), ("csts", 0x1C, 4, True), ("nssr", 0x20, 4, True), ("aqa", 0x24, 4, True),
    ("asq", 0x28, 8, False), ("acq", 0x30, 8, False), ("cmbloc", 0x38, 4, True), ("cmbsz", 0x3C, 4, True),
    ("bpinfo", 0x40, 4, True), ("bprsel", 0x44, 4, True), ("bpmbl", 0x48, 8, False), ("cmbmsc", 0x50, 8, False),
    ("cmbsts", 0x58, 4, True), ("cmbebs", 0x5C, 4, True), ("cmbswtp", 0x60, 4, True), ("nssd", 0x64, 4, True),
    ("crto", 0x68, 4, True), ("pmrcap", 0xE00, 4, True), ("pmrctl", 0xE04, 4, True), ("pmrsts", 0xE08, 4, True),
    ("pmrebs", 0xE0C, 4, True), ("pmrswtp", 0xE10, 4, True), ("pmrmscl", 0xE14, 4, False),
    ("pmrmscu", 0xE18, 4, False),
)  # fmt: skip
FABRICS_REGISTERS: Final = frozenset({"cap", "vs", "cc", "csts", "nssr"})
"""What nvme-cli asks for over fabrics, where there are no others but CRTO; those that it did not read are all ones."""

SELECT_SUPPORTED: Final = 3
# Where nvme-cli's name of a feature is not the specification's.
_FEATURE_NAMES: Final = {
    int(Fid.ASYNC_EVENT_CONFIG): "Async Event Configuration",
    int(Fid.LBA_STATUS_REPORT_INTERVAL): "LBA Status Interval",
    int(Fid.HOST_BEHAVIOR): "Host Behavior",
    int(Fid.SANITIZE_CONFIG): "Sanitize",
    int(Fid.ENDURANCE_GROUP_EVENT_CONFIG): "Endurance Event Group Configuration",
    int(Fid.WRITE_PROTECTION): "Namespace Write Protect",
}
_SELECTS: Final = {0: "Current", 1: "Default", 2: "Saved", 3: "Supported capabilities"}


def _name_in(structure: Structure, key: str) -> str:
    name = _ALIASES.get(key, key)
    return name if name in structure.words else f"{name}_z"


def _value(structure: Structure, data: bytes, fields: Fields, key: str) -> Any:
    """One field in nvme-cli's form."""
    name = _name_in(structure, key)
    value = fields[name]
    if isinstance(value, str):
        # The field as it is, up to a NUL, with the spaces that fill it.
        offset = structure.offset_of(name)
        raw = data[offset : offset + structure.dtype[name].itemsize]
        return raw.partition(b"\0")[0].decode("latin-1")
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value)) if key == "fguid" else value.hex()
    return value


def id_ctrl(data: bytes) -> dict[str, Any]:
    """Identify Controller (CNS 01h)."""
    fields = IDENTIFY_CONTROLLER.parse(data)
    found = {key: _value(IDENTIFY_CONTROLLER, data, fields, key) for key in _ID_CTRL}
    if not found["subnqn"]:
        del found["subnqn"]
    found["psds"] = [_power_state(psd) for psd in fields.psd[: fields.npss_z + 1]]
    return found


def _power_state(psd: dict[str, int]) -> dict[str, Any]:
    """A power state descriptor (Base 2.1, figure of Identify's Power State Descriptor)."""
    scales = psd["epfrts_fqvts"]
    return {
        "max_power": psd["mp"],
        "max_power_scale": psd["flags"] & 1,
        "non-operational_state": psd["flags"] >> 1 & 1,
        **{key: psd[name] for key, name in _PSD},
        "idle_scale": psd["ips"] >> 6,
        "active_power": psd["actp"],
        "active_power_work": psd["apws"] & 7,
        "active_scale": psd["apws"] >> 6,
        "emerg_power_fail_recover_time": psd["epfrt"],
        "emerg_power_fail_recover_scale": scales & 0xF,
        "force_quiesce_vault_time": psd["fqvt"],
        "force_quiesce_vault_scale": scales >> 4,
        "emerg_power_fail_vault_time": psd["epfvt"],
        "emerg_power_fail_vault_scale": psd["epfvts"] & 0xF,
    }


def id_ns(data: bytes) -> dict[str, Any]:
    """Identify Namespace (CNS 00h)."""
    fields = IDENTIFY_NAMESPACE.parse(data)
    optimal = bool(fields.nsfeat & _NSFEAT_OPTPERF)
    keys = [key for key in _ID_NS if optimal or key not in _ID_NS_OPTIMAL]
    found = {key: _value(IDENTIFY_NAMESPACE, data, fields, key) for key in keys}
    formats = fields.lbaf[: fields.nlbaf_z + 1]
    found["lbafs"] = [{"ms": one["ms"], "ds": one["lbads"], "rp": one["rp"]} for one in formats]
    found["vs"] = list(fields.vs) if any(fields.vs) else []
    return found


def smart_log(data: bytes) -> dict[str, Any]:
    """SMART / Health Information (LID 02h)."""
    fields = SMART_HEALTH.parse(data)

    def named(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        return {key: _value(SMART_HEALTH, data, fields, name) for key, name in pairs}

    sensors = {
        f"temperature_sensor_{number}": kelvins
        for number, kelvins in enumerate(fields.temperature_sensor, 1)
        if kelvins
    }
    return {**named(_SMART), **sensors, **named(_SMART_THERMAL)}


def error_log(data: bytes) -> dict[str, Any]:
    """Error Information (LID 01h): as many entries as there are bytes for."""
    size = ERROR_INFORMATION.size
    entries = [ERROR_INFORMATION.parse(data[at : at + size]) for at in range(0, len(data) - size + 1, size)]
    return {
        "errors": [
            {
                "error_count": entry.error_count,
                "sqid": entry.sqid,
                "cmdid": entry.cid,
                "status_field": entry.status >> 1,
                "phase_tag": entry.status & 1,
                "parm_error_location": entry.pel,
                "lba": entry.lba,
                "nsid": entry.nsid,
                "vs": entry.vsia,
                "trtype": entry.trtype,
                "cs": entry.csinfo,
                "trtype_spec_info": entry.ttsi,
            }
            for entry in entries
        ]
    }


def fw_log(data: bytes, device: str = "nvme0") -> dict[str, Any]:
    """Firmware Slot Information (LID 03h), under the device's name."""
    found: dict[str, Any] = {
        "Active Firmware Slot (afi)": FIRMWARE_SLOT_INFORMATION.parse(data).afi,
    }
    start = FIRMWARE_SLOT_INFORMATION.offset_of("frs")
    for slot in range(1, FIRMWARE_SLOTS + 1):
        raw = data[start + 8 * (slot - 1) : start + 8 * slot]
        number = int.from_bytes(raw, "little")
        if number:
            words = "".join(chr(byte) if 0x21 <= byte <= 0x7E else "." for byte in raw)
            found[f"Firmware Rev Slot {slot}"] = f"{number} ({words})"
    return {device: found}


def effects_log(data: bytes, csi: int = 0) -> list[dict[str, Any]]:
    """Commands Supported and Effects (LID 05h): one object a command set."""
    page = COMMANDS_SUPPORTED_AND_EFFECTS.parse(data)

    def supported(prefix: str, effects: list[int], admin: bool) -> dict[str, int]:
        return {
            f"{prefix}_{opcode} ({opcode_name(opcode, admin)})": effect
            for opcode, effect in enumerate(effects)
            if effect & 1
        }

    return [
        {
            "command_set_identifier": csi,
            "admin_cmd_set": supported("ACS", page.acs, True),
            "io_cmd_set": supported("IOCS", page.iocs, False),
        }
    ]


def list_ns(nsids: Iterable[int]) -> dict[str, Any]:
    """The active namespaces (CNS 02h)."""
    return {"nsid_list": [{"nsid": nsid} for nsid in nsids]}


def ns_descs(data: bytes) -> dict[str, Any]:
    """Namespace Identification Descriptors (CNS 03h); ``loc`` is where each one begins."""
    found, loc = [], 0
    for nidt, nid in parse_ns_descriptors(data):
        name = _NIDT_NAMES[Nidt(nidt)]
        forms: dict[str, Callable[[bytes], str]] = {
            "uuid": lambda raw: str(uuid.UUID(bytes=raw)),
            "csi": lambda raw: str(raw[0]),
        }
        value = forms.get(name, bytes.hex)(nid)
        found.append({"loc": loc, "nidt": int(nidt), "nidl": len(nid), "Type": name, name: value})
        loc += _DESCRIPTOR_HEAD + len(nid)
    return {"ns-descs": found}


def show_regs(read: Callable[[int, int], int]) -> dict[str, int]:
    """The controller's properties; ``read(offset, size)`` reads one."""
    found = {}
    for key, offset, size, signed in REGISTER_KEYS:
        value = read(offset, size)
        found[key] = value - (1 << 32) if signed and value >> 31 else value
    return found


def get_feature(fid: int, name: str, sel: int, value: int, data: bytes = b"") -> dict[str, Any]:
    """A feature: its value, and what that means where nvme-cli tells."""
    words = f"{value:#010x}" if value else "00000000"
    name = _FEATURE_NAMES.get(fid, name)
    found: dict[str, Any] = {f"feature: {fid:#04x}": [{"name": name, _SELECTS.get(sel, "Reserved"): words}]}
    if sel == SELECT_SUPPORTED:
        found[f"Feature: {fid:#04x}: select"] = select_words(value)
        return found
    details = feature_details(fid, value, data)
    if details is not None:
        found[f"Feature: {fid:#04x}"] = [details]
    return found


def list_devices(devices: Iterable[tuple[str, bytes, dict[int, bytes]]]) -> dict[str, Any]:
    """`nvme list`: (device name, Identify Controller, {nsid: Identify Namespace}) of each controller."""
    found = []
    for device, ctrl, namespaces in devices:
        who = IDENTIFY_CONTROLLER.parse(ctrl)
        for nsid, data in namespaces.items():
            fields = IDENTIFY_NAMESPACE.parse(data)
            block = 1 << fields.lbaf[fields.flbas & 0xF]["lbads"]
            found.append(
                {
                    "NameSpace": nsid,
                    "DevicePath": f"/dev/{device}n{nsid}",
                    "GenericPath": f"/dev/{device.replace('nvme', 'ng')}n{nsid}",
                    "Firmware": who.fr,
                    "ModelNumber": who.mn,
                    "SerialNumber": who.sn,
                    "UsedBytes": fields.nuse * block,
                    "MaximumLBA": fields.nsze,
                    "PhysicalSize": fields.nsze * block,
                    "SectorSize": block,
                }
            )
    return {"Devices": found}
