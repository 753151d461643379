"""nvme-cli's words: `nvme-emu list | id-ctrl | id-ns | smart-log | error-log | get-feature | show-regs | …`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nvme_emu.cli.nvme_common import DEVICE, Answer, Number, lines_of, nsid_of, nsid_option, word

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

__all__ = [
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

# --- the commands -------------------------------------------------------------------------------------------


@word("id-ctrl", "")
def id_ctrl(target: Target) -> Answer:
    """Identify Controller: who the device is and what it can do."""
    from nvme_emu.observe.nvme_words import id_ctrl as form

    raw = target.identify(1)
    data = form(raw)
    return Answer(data=data, raw=raw, lines=lines_of("NVME Identify Controller:", data))


@word("id-ns", " -n 1", nsid_option)
def id_ns(target: Target, nsid: int | None) -> Answer:
    """Identify Namespace: its size, its format, what it can do."""
    from nvme_emu.observe.nvme_words import id_ns as form

    nsid = nsid_of(target, nsid)
    raw = target.identify(0, nsid=nsid)
    data = form(raw)
    lines = lines_of(f"NVME Identify Namespace {nsid}:", data)
    in_use = len(lines) - len(data["lbafs"]) + (data["flbas"] & 0xF)
    lines[in_use] += " (in use)"
    return Answer(data=data, raw=raw, lines=lines)


@word("smart-log", "")
def smart_log(target: Target) -> Answer:
    """SMART / Health Information: temperature, wear, counters."""
    from nvme_emu.observe.nvme_words import smart_log as form
    from nvme_emu.spec.logs import DATA_UNIT_BYTES, SMART_HEALTH, Lid

    raw = target.log(Lid.SMART_HEALTH, SMART_HEALTH.size)
    data = form(raw)
    shown = {**data, "temperature": f"{data['temperature'] - 273} °C ({data['temperature']} K)"}
    for key in ("avail_spare", "spare_thresh", "percent_used"):
        shown[key] = f"{data[key]} %"
    for key in ("data_units_read", "data_units_written"):
        shown[key] = f"{data[key]} ({_bytes_text(int(data[key]) * DATA_UNIT_BYTES)})"
    return Answer(data=data, raw=raw, lines=lines_of(f"Smart Log for {DEVICE}:", shown))


def _bytes_text(nbytes: int) -> str:
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} PB"


@word(
    "error-log",
    " -e 4",
    click.option("-e", "--log-entries", "entries", type=Number(256), default=64, show_default=True),
)
def error_log(target: Target, entries: int) -> Answer:
    """Error Information: the commands that failed, the newest first."""
    from nvme_emu.observe.nvme_words import error_log as form
    from nvme_emu.spec.identify import IDENTIFY_CONTROLLER
    from nvme_emu.spec.logs import ERROR_INFORMATION, Lid
    from nvme_emu.spec.status import describe

    held = IDENTIFY_CONTROLLER.parse(target.identify(1)).elpe_z + 1
    count = min(max(entries, 1), held)
    raw = target.log(Lid.ERROR_INFORMATION, count * ERROR_INFORMATION.size)
    data = form(raw)
    lines = [f"Error Log Entries for {DEVICE}, {count} entries:"]
    for index, entry in enumerate(data["errors"]):
        if entry["error_count"]:
            shown = {
                **entry,
                "cmdid": f"{entry['cmdid']:#x}",
                "status_field": f"{entry['status_field']:#06x} ({describe(entry['status_field'])})",
                "parm_error_location": _location(entry["parm_error_location"]),
            }
            lines += lines_of(f"Entry {index}", shown)
    if len(lines) == 1:
        lines.append("no errors")
    return Answer(data=data, raw=raw, lines=lines)


def _location(value: int) -> str:
    return "not given" if value == 0xFFFF else f"{value:#x} (byte {value & 0xFF} bit {value >> 8 & 7})"


@word("fw-log", "")
def fw_log(target: Target) -> Answer:
    """Firmware Slot Information."""
    from nvme_emu.observe.nvme_words import fw_log as form
    from nvme_emu.spec.logs import FIRMWARE_SLOT_INFORMATION, Lid

    raw = target.log(Lid.FIRMWARE_SLOT, FIRMWARE_SLOT_INFORMATION.size)
    data = form(raw, DEVICE)
    return Answer(data=data, raw=raw, lines=lines_of(f"Firmware Log for {DEVICE}:", data[DEVICE]))


@word("effects-log", "")
def effects_log(target: Target) -> Answer:
    """Commands Supported and Effects: every command that the device knows."""
    from nvme_emu.observe.nvme_words import effects_log as form
    from nvme_emu.spec.logs import COMMAND_EFFECTS, COMMANDS_SUPPORTED_AND_EFFECTS, Lid

    raw = target.log(Lid.COMMANDS_SUPPORTED_AND_EFFECTS, COMMANDS_SUPPORTED_AND_EFFECTS.size)
    data = form(raw)
    lines = ["NVM Command Set"]
    for title, key in (("Admin Commands", "admin_cmd_set"), ("I/O Commands", "io_cmd_set")):
        lines.append(title)
        for command, effect in data[0][key].items():
            flags = COMMAND_EFFECTS.unpack(effect)
            set_ones = [name.upper() for name in ("lbcc", "ncc", "nic", "ccc", "uss") if getattr(flags, name)]
            lines.append(f"  {command:<44} {effect:08x}  {' '.join(set_ones)}".rstrip())
    return Answer(data=data, raw=raw, lines=lines)


@word(
    "list-ns",
    "",
    click.option(
        "-n", "--namespace-id", "nsid", type=Number(0xFFFF_FFFD), default=1, show_default=True, help="Begin here."
    ),
    click.option("-a", "--all", "allocated", is_flag=True, help="Namespaces that are not attached, too."),
)
def list_ns(target: Target, nsid: int, allocated: bool) -> Answer:
    """The identifiers of the namespaces."""
    import struct

    from nvme_emu.observe.nvme_words import list_ns as form
    from nvme_emu.spec.identify import Cns

    cns = Cns.ALLOCATED_NAMESPACE_LIST if allocated else Cns.ACTIVE_NAMESPACE_LIST
    raw = target.identify(cns, nsid=max(nsid, 1) - 1)
    nsids = [found for found in struct.unpack("<1024I", raw) if found]
    lines = [f"[{index:>4}]:{found:#x}" for index, found in enumerate(nsids)]
    return Answer(data=form(nsids), raw=raw, lines=lines)


@word("ns-descs", " -n 1", nsid_option)
def ns_descs(target: Target, nsid: int | None) -> Answer:
    """The names of a namespace: EUI-64, NGUID, UUID, command set."""
    from nvme_emu.observe.nvme_words import ns_descs as form

    nsid = nsid_of(target, nsid)
    raw = target.identify(3, nsid=nsid)
    data = form(raw)
    shown = {item["Type"]: item[item["Type"]] for item in data["ns-descs"]}
    title = f"NVME Namespace Identification Descriptors NS {nsid}:"
    return Answer(data=data, raw=raw, lines=lines_of(title, shown))


@word("show-regs", "")
def show_regs(target: Target) -> Answer:
    """The controller's properties; those that it has are explained field by field."""
    from nvme_emu.observe.nvme_words import FABRICS_REGISTERS, REGISTER_KEYS
    from nvme_emu.observe.nvme_words import show_regs as form
    from nvme_emu.spec.decode import decode_register, render
    from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, Cns
    from nvme_emu.spec.registers import Reg

    # A capsule size is reported by controllers behind a fabric only (Base 2.1, Identify Controller, IOCCSZ).
    over_fabrics = IDENTIFY_CONTROLLER.parse(target.identify(Cns.CONTROLLER)).ioccsz != 0
    keys = FABRICS_REGISTERS if over_fabrics else {key for key, _, _, _ in REGISTER_KEYS}
    end = max(offset + size for _, offset, size, _ in REGISTER_KEYS)
    raw = bytearray((b"\xff" if over_fabrics else b"\0") * end)
    lines = []
    for key, offset, size, _ in REGISTER_KEYS:
        if key in keys:
            value = sum(target.register(offset + at, 4) << 8 * at for at in range(0, size, 4))
            raw[offset : offset + size] = value.to_bytes(size, "little")
            if value or key in ("cc", "csts"):
                lines.append(render(decode_register(Reg(offset).name, value)))
    data = form(lambda offset, size: int.from_bytes(raw[offset : offset + size], "little"))
    return Answer(data=data, raw=bytes(raw), lines=lines)


@word(
    "get-feature",
    " -f 7",
    click.option("-f", "--feature-id", "fid", type=Number(0xFF), required=True, help="Which feature."),
    click.option("-s", "--sel", type=click.IntRange(0, 3), default=0, help="0 current, 1 default, 2 saved, 3 kinds."),
    click.option("-c", "--cdw11", type=Number(0xFFFF_FFFF), default=0, help="What the feature selects by CDW11."),
    click.option("-n", "--namespace-id", "nsid", type=Number(0xFFFF_FFFF), default=0, help="For its features."),
)
def get_feature(target: Target, fid: int, sel: int, cdw11: int, nsid: int) -> Answer:
    """A feature's value, explained."""
    from nvme_emu.observe.nvme_words import get_feature as form
    from nvme_emu.spec.decode import decode_bits, render
    from nvme_emu.spec.features import FEATURE_VALUES, Fid

    value, raw = target.feature(fid, sel, nsid, cdw11)
    name = Fid.name_of(fid) or "Unknown"
    data = form(fid, name, sel, value, raw)
    ((shown,), *_) = data.values()
    select = next(key for key in shown if key != "name")
    lines = [f"get-feature:{fid:#04x} ({name}), {select} value:{shown[select]}"]
    layout = FEATURE_VALUES.get(fid)
    if sel == 3:
        kinds = ("saveable", "namespace specific", "changeable")
        lines += [f"  {kind}" for bit, kind in enumerate(kinds) if value >> bit & 1]
    elif layout is not None:
        lines += render(decode_bits(layout, value)).splitlines()[1:]
    if raw:
        lines.append(raw.hex(" "))
    return Answer(data=data, raw=raw or None, lines=lines)


@word("list", "", default="mem")
def list_devices(target: Target) -> Answer:
    """The namespaces of a controller as block devices, as `nvme list` shows them."""
    from nvme_emu.observe.nvme_words import list_devices as form
    from nvme_emu.observe.target import active_namespaces

    namespaces = {nsid: target.identify(0, nsid=nsid) for nsid in active_namespaces(target)}
    data = form([(DEVICE, target.identify(1), namespaces)])
    lines = [f"{'Node':<16} {'SN':<20} {'Model':<40} {'Namespace':<9} {'Usage':<23} {'Format':<8} FW Rev"]
    for one in data["Devices"]:
        usage = f"{_bytes_text(one['UsedBytes'])} / {_bytes_text(one['PhysicalSize'])}"
        lines.append(
            f"{one['DevicePath']:<16} {one['SerialNumber']:<20} {one['ModelNumber']:<40} {one['NameSpace']:<9} "
            f"{usage:<23} {one['SectorSize']} B    {one['Firmware']}"
        )
    return Answer(data=data, raw=None, lines=lines)
