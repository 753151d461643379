"""nvme-cli's words: `nvme-emu list | id-ctrl | id-ns | smart-log | error-log | get-feature | show-regs | …`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.common import (
    EXIT_ERRORS,
    EXIT_USAGE,
    JsonCommand,
    check_output,
    complain,
    json_option,
    quiet_option,
    write_json,
)
from nvme_emu.cli.nvme_target import open_target

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

    _IntParam = click.ParamType[int]
else:
    _IntParam = click.ParamType  # generic from click 8.3 on only

__all__ = [
    "DEVICE",
    "Answer",
    "Number",
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
    "word",
]

DEVICE = "nvme0"


class Number(_IntParam):
    """A number as nvme-cli takes it: decimal, or hexadecimal with 0x."""

    name = "NUM"

    def __init__(self, high: int) -> None:
        self._high = high

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            number = value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not 0 <= number <= self._high:
            self.fail(f"{value} is not from 0 to {self._high:#x}", param, ctx)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command found: its JSON form, the raw bytes (None where there are none), and lines of text."""

    data: Any
    raw: bytes | None
    lines: list[str]


def word(name: str, example: str, *options: Any, default: str | None = None) -> Callable[[Any], click.Command]:
    """Make a click command of a function (target, options) -> Answer; ``example`` is what follows its TARGET."""
    epilog = (
        f"\b\nExamples:\n  nvme-emu {name} disk.img{example}\n  nvme-emu {name} /tmp/ssd.sock{example} -o json\n\n"
        "\b\nTARGET: an image file, the --rpc socket of a running SSD, nvme-tcp://HOST:PORT/NQN,\n"
        "vfio-user:///PATH, or mem (a fresh SSD in memory).\n\n"
        "\b\nExit codes: 0 done; 1 the device refused; 2 bad usage, or a target that cannot be used."
    )

    def make(fn: Callable[..., Answer]) -> click.Command:
        def run(target: str, output_format: str, json_file: str | None, quiet: bool, **given: Any) -> int:
            return _run(fn, target, "json" if json_file == "-" else output_format, json_file, given)

        run.__doc__ = fn.__doc__
        command: Any = run
        for option in options:
            command = option(command)
        command = quiet_option()(command)
        command = json_option("The same as -o json; or besides to FILE.json (any other FILE as --json=FILE).")(command)
        command = click.option(
            "-o",
            "--output-format",
            type=click.Choice(("normal", "json", "binary")),
            default="normal",
            show_default=True,
            help="JSON has nvme-cli's keys and values; binary is the structure's bytes.",
        )(command)
        # A default of None, given by name, is a value for click: the target would not be missing.
        given = {"required": True} if default is None else {"default": default}
        command = click.argument("target", metavar="TARGET", **given)(command)
        settings = {"help_option_names": ["-h", "--help"]}
        made: click.Command = click.command(name, cls=JsonCommand, epilog=epilog, context_settings=settings)(command)
        return made

    return make


def _run(
    fn: Callable[..., Answer], text: str, output_format: str, json_file: str | None, given: dict[str, Any]
) -> int:
    from nvme_emu.core.errors import CommandError
    from nvme_emu.observe.rpc_core import RpcError

    try:
        check_output(json_file, inputs=[text], json=True)
        with open_target(text) as target:
            answer = fn(target, **given)
    except CommandError as error:
        complain(f"{text}: {error}")
        return EXIT_ERRORS
    except RpcError as error:
        complain(f"{text}: {error.message}")
        return EXIT_ERRORS
    except (ValueError, OSError) as error:
        complain(error if text in str(error) else f"{text}: {error}")
        return EXIT_USAGE
    form = json.dumps(answer.data, indent=2, separators=(",", ":"))
    if json_file not in (None, "-"):
        write_json(form, str(json_file))
    if output_format == "binary":
        if answer.raw is None:
            complain("this command has no binary form")
            return EXIT_USAGE
        sys.stdout.buffer.write(answer.raw)
        sys.stdout.buffer.flush()
    elif output_format == "json":
        click.echo(form)
    else:
        click.echo("\n".join(answer.lines))
    return 0


# --- text ---------------------------------------------------------------------------------------------------

_HEX_KEYS = (
    "vid ssvid cmic cntlid ver rtd3r rtd3e oaes ctratt rrls oacs frmw lpa avscc apsta rpmbs hctma sanicap sqes cqes "
    "oncs fuses fna vwc ocfs sgls nsfeat flbas mc dpc dps nmic rescap fpi nsze ncap nuse flags"
)
_HEX = frozenset(_HEX_KEYS.split())


def _text(key: str, value: Any) -> str:
    return f"{value:#x}" if key in _HEX and isinstance(value, int) else str(value)


def _lines(title: str, data: dict[str, Any]) -> list[str]:
    """Aligned ``key : value`` lines; a list of objects is a line each."""
    width = max(len(key) for key in data)
    lines = [title]
    for key, value in data.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                inner = " ".join(f"{name}:{_text(name, one)}" for name, one in item.items())
                lines.append(f"{key[:-1]} {index:>2} : {inner}")
        else:
            lines.append(f"{key:<{width}} : {_text(key, value)}".rstrip())
    return lines


def _nsid_of(target: Target, given: int | None) -> int:
    """The namespace that is meant: as given, else the first active one. ValueError if there is none."""
    from nvme_emu.observe.target import active_namespaces

    if given is not None:
        return given
    found = active_namespaces(target)
    if not found:
        raise ValueError("the controller has no active namespace; give one with -n")
    return found[0]


# --- the commands -------------------------------------------------------------------------------------------

_nsid_option = click.option("-n", "--namespace-id", "nsid", type=Number(0xFFFF_FFFF), help="[default: the first]")


@word("id-ctrl", "")
def id_ctrl(target: Target) -> Answer:
    """Identify Controller: who the device is and what it can do."""
    from nvme_emu.observe.nvme_words import id_ctrl as form

    raw = target.identify(1)
    data = form(raw)
    return Answer(data=data, raw=raw, lines=_lines("NVME Identify Controller:", data))


@word("id-ns", " -n 1", _nsid_option)
def id_ns(target: Target, nsid: int | None) -> Answer:
    """Identify Namespace: its size, its format, what it can do."""
    from nvme_emu.observe.nvme_words import id_ns as form

    nsid = _nsid_of(target, nsid)
    raw = target.identify(0, nsid=nsid)
    data = form(raw)
    lines = _lines(f"NVME Identify Namespace {nsid}:", data)
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
    return Answer(data=data, raw=raw, lines=_lines(f"Smart Log for {DEVICE}:", shown))


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
            lines += _lines(f"Entry {index}", shown)
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
    return Answer(data=data, raw=raw, lines=_lines(f"Firmware Log for {DEVICE}:", data[DEVICE]))


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


@word("ns-descs", " -n 1", _nsid_option)
def ns_descs(target: Target, nsid: int | None) -> Answer:
    """The names of a namespace: EUI-64, NGUID, UUID, command set."""
    from nvme_emu.observe.nvme_words import ns_descs as form

    nsid = _nsid_of(target, nsid)
    raw = target.identify(3, nsid=nsid)
    data = form(raw)
    shown = {item["Type"]: item[item["Type"]] for item in data["ns-descs"]}
    title = f"NVME Namespace Identification Descriptors NS {nsid}:"
    return Answer(data=data, raw=raw, lines=_lines(title, shown))


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
