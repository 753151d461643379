"""`nvme-emu zns …`: the words of nvme-cli's zns plugin."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.nvme_common import Answer, Number, word

if TYPE_CHECKING:
    from nvme_emu.observe.zoned_target import ZonedTarget

__all__ = ["zns"]

_DWORD, _QWORD = 0xFFFF_FFFF, (1 << 64) - 1


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n  nvme-emu zns report-zones disk.img\n"
    "  nvme-emu zns report-zones mem:64M,zone_size=4M -o json\n"
    "  nvme-emu zns reset-zone /tmp/ssd.sock -a\n\n"
    "TARGET is what it is elsewhere; mem is a zoned SSD: mem[:SIZE[,NAME=VALUE…]]. docs/zns.md tells more.",
)
def zns() -> None:
    """Zoned namespaces, with the words of nvme-cli's zns plugin."""


@contextmanager
def _open(text: str) -> Iterator[ZonedTarget]:
    """The controller that TARGET names. ValueError or OSError, naming the target, where it cannot be used."""
    import nvme_emu
    from nvme_emu.observe.rpc_client import RpcClient
    from nvme_emu.observe.zoned_target import DriverZones, RpcZones

    options: dict[str, Any] = {}
    kind, _, rest = text.partition(":")
    if "://" in text:
        options = {"target": text} if kind == "vfio-user" else {"target": text, "ctrl_loss_tmo": 0}
    elif kind == "mem":
        size, _, zoned = rest.partition(",")
        options = {"size": size or None, "zoned": zoned}
    elif stat.S_ISSOCK(os.stat(text).st_mode):
        with RpcClient(text) as client:
            yield RpcZones(client)
        return
    else:
        options = {"image": text}
    with nvme_emu.open(**options) as machine:
        yield DriverZones(machine.driver)


def _namespace_of(target: ZonedTarget, given: int | None) -> int:
    """The namespace that is meant: as given, else the first zoned one. ValueError if there is none."""
    from nvme_emu.core.errors import CommandError
    from nvme_emu.observe.zoned_target import zoned_namespaces

    if given is not None:
        return given
    try:
        found = zoned_namespaces(target)
    except CommandError:
        found = []  # it does not know the command set
    if not found:
        raise ValueError("the controller has no zoned namespace")
    return found[0]


_nsid = click.option("-n", "--namespace-id", "nsid", type=Number(_DWORD), help="[default: the first zoned one]")
_start = click.option("-s", "--start-lba", "slba", type=Number(_QWORD), default=0, help="A zone's first block.")
_select_all = click.option("-a", "--select-all", is_flag=True, help="All zones that the action can change.")


def _command(name: str, example: str, *options: Any) -> Callable[[Callable[..., Answer]], click.Command]:
    """Make a command of the group from a function (target, nsid, options) -> Answer."""

    def make(fn: Callable[..., Answer]) -> click.Command:
        def run(target: ZonedTarget, nsid: int | None, **given: Any) -> Answer:
            return fn(target, _namespace_of(target, nsid), **given)

        run.__doc__ = fn.__doc__
        made = word(name, example, *reversed(options), _nsid, plugin="zns", opener=_open)(run)
        zns.add_command(made)
        return made

    return make


# --- what the zones are -------------------------------------------------------------------------------------


@_command("id-ctrl", "")
def id_ctrl(target: ZonedTarget, nsid: int) -> Answer:
    """Identify Controller of the command set: the limit of Zone Append."""
    from nvme_emu.observe.nvme_words_zns import id_ctrl as form
    from nvme_emu.spec.identify import CSI_ZONED, Cns

    raw = target.identify(Cns.IOCS_CONTROLLER, csi=CSI_ZONED)
    data = form(raw)
    return Answer(data=data, raw=raw, lines=["NVMe ZNS Identify Controller:", f"zasl    : {data['zasl']}"])


@_command("id-ns", " -n 1")
def id_ns(target: ZonedTarget, nsid: int) -> Answer:
    """Identify Namespace of the command set: limits, the size of zones."""
    from nvme_emu.observe.nvme_words_zns import id_ns as form
    from nvme_emu.spec.identify import CSI_ZONED, IDENTIFY_NAMESPACE, Cns, flbas_index

    raw = target.identify(Cns.IOCS_NAMESPACE, nsid=nsid, csi=CSI_ZONED)
    namespace = target.identify(Cns.NAMESPACE, nsid=nsid)
    data = form(raw, namespace)
    used = flbas_index(IDENTIFY_NAMESPACE.parse(namespace).flbas)
    lines = ["ZNS Command Set Identify Namespace:"]
    for key, value in data.items():
        if key != "lbafe":
            lines.append(f"{key:<8}: {value:#x}" if key in ("mar", "mor") else f"{key:<8}: {value}")
    for number, one in enumerate(data["lbafe"]):
        in_use = " (in use)" if number == used else ""
        lines.append(f"lbafe {number:>2}: zsze:{one['zsze']:#x} zdes:{one['zdes']}{in_use}")
    return Answer(data=data, raw=raw, lines=lines)


def _receive(
    target: ZonedTarget, nsid: int, slba: int, extended: bool, state: int, partial: bool, nbytes: int
) -> bytes:
    from nvme_emu.spec.zns import ZONE_RECEIVE_CDW13, ZoneReceiveAction

    zra = ZoneReceiveAction.EXTENDED_REPORT if extended else ZoneReceiveAction.REPORT
    return target.receive(nsid, slba, ZONE_RECEIVE_CDW13.pack(zra=zra, zrasf=state, partial=int(partial)), nbytes)


def _extension_bytes(target: ZonedTarget, nsid: int) -> int:
    from nvme_emu.spec.identify import CSI_ZONED, IDENTIFY_NAMESPACE, Cns, flbas_index
    from nvme_emu.spec.zns import IDENTIFY_ZNS_NAMESPACE, ZDES_UNIT

    used = flbas_index(IDENTIFY_NAMESPACE.parse(target.identify(Cns.NAMESPACE, nsid=nsid)).flbas)
    fields = IDENTIFY_ZNS_NAMESPACE.parse(target.identify(Cns.IOCS_NAMESPACE, nsid=nsid, csi=CSI_ZONED))
    return int(fields.lbafe[used]["zdes"]) * ZDES_UNIT


@_command(
    "report-zones",
    " -d 4 -e",
    _start,
    click.option("-d", "--descs", type=Number(1 << 20), help="How many zones at most. [default: all]"),
    click.option("-S", "--state", type=Number(7), default=0, help="0 all, 1 Empty, 2 … 7: ZRASF, docs/zns.md."),
    click.option("-v", "--verbose", is_flag=True, help="States and types in words."),
    click.option("-e", "--extended", is_flag=True, help="With the zones' descriptor extensions."),
    click.option("-p", "--partial", is_flag=True, help="nr_zones counts the zones that are shown."),
)
def report_zones(
    target: ZonedTarget,
    nsid: int,
    slba: int,
    descs: int | None,
    state: int,
    verbose: bool,
    extended: bool,
    partial: bool,
) -> Answer:
    """The zones: where they begin, their write pointers, capacities and states."""
    from nvme_emu.observe.nvme_words_zns import report_zones as form
    from nvme_emu.spec.zns import REPORT_HEADER_BYTES, ZONE_DESCRIPTOR_BYTES, parse_zone_report

    extension = _extension_bytes(target, nsid) if extended else 0
    stride = ZONE_DESCRIPTOR_BYTES + extension
    # As much as one command gives where MDTS is small; the rest with the next one.
    step = 1 << 16
    raw = _receive(target, nsid, slba, extended, state, False, step)
    total, zones = parse_zone_report(raw, extension)
    wanted = total if descs is None else min(descs, total)
    while len(zones) < wanted:
        more = parse_zone_report(_receive(target, nsid, zones[-1].start + 1, extended, state, False, step), extension)
        fresh = [one for one in more[1] if one.start > zones[-1].start]
        if not fresh:
            break
        raw += b"".join(one.build(extension) for one in fresh)
        zones += fresh
    zones = zones[:wanted]
    shown = len(zones) if partial else total
    lines = [f"nr_zones: {shown}"]
    for one in zones:
        lines += _zone_lines(one, verbose, extended)
    data = form(shown, zones, extended)
    return Answer(data=data, raw=raw[: REPORT_HEADER_BYTES + len(zones) * stride], lines=lines)


def _hex(value: int, width: int = 10) -> str:
    """As C's %#x: a zero stands alone."""
    return f"{f'{value:#x}' if value else '0':<{width}}"


def _zone_lines(zone: Any, verbose: bool, extended: bool) -> list[str]:
    from nvme_emu.observe.nvme_words_zns import STATE_NAMES, extension_lines
    from nvme_emu.spec.zns import ZA

    where = f"SLBA: {_hex(zone.start)} WP: {_hex(zone.wp)} Cap: {_hex(zone.capacity)}"
    valid = zone.attributes & ZA.mask("zdev")
    if verbose:
        kind = "SEQWRITE_REQ" if zone.zone_type == 2 else "Unknown"
        lines = [f"{where} State: {STATE_NAMES[zone.state]:<12} Type: {kind}".rstrip()]
        lines.append(f"Attrs: Zone Descriptor Extension is {'' if valid else 'Not '}Valid")
    else:
        words = {"State": zone.state << 4, "Type": zone.zone_type, "Attrs": zone.attributes, "AttrsInfo": 0}
        lines = [f"{where} {' '.join(f'{key}: {_hex(value, 4)}' for key, value in words.items())}".rstrip()]
    if extended and valid:
        lines += [f"{16 * number:04x}: {text}" for number, text in enumerate(extension_lines(zone.extension))]
    return lines


@_command(
    "zone-mgmt-recv",
    " -z 0 -l 4096",
    _start,
    click.option("-z", "--zra", type=Number(0xFF), default=0, help="Zone Receive Action: 0 report, 1 extended report."),
    click.option("-S", "--zrasf", type=Number(0xFF), default=0, help="Its option: which zones."),
    click.option("-p", "--partial", is_flag=True, help="Partial report."),
    click.option("-l", "--data-len", "nbytes", type=Number(1 << 20), default=4096, show_default=True, help="Bytes."),
)
def zone_mgmt_recv(
    target: ZonedTarget, nsid: int, slba: int, zra: int, zrasf: int, partial: bool, nbytes: int
) -> Answer:
    """Zone Management Receive, with its dwords as they are given."""
    from nvme_emu.spec.zns import ZONE_RECEIVE_CDW13

    if nbytes < 4 or nbytes % 4:
        raise ValueError(f"--data-len {nbytes}: a multiple of 4")
    cdw13 = ZONE_RECEIVE_CDW13.pack(zra=zra, zrasf=zrasf, partial=int(partial))
    raw = target.receive(nsid, slba, cdw13, nbytes)
    lines = [f"zone-mgmt-recv: Success, action:{zra} zone:{slba:x} nsid:{nsid}"]
    lines += [f"{at:04x}: {raw[at : at + 16].hex(' ')}" for at in range(0, nbytes, 16)]
    data = {"action": zra, "zone": slba, "nsid": nsid, "data": raw.hex()}
    return Answer(data=data, raw=raw, lines=lines)


@_command(
    "changed-zone-list", "", click.option("-r", "--rae", is_flag=True, help="Retain the asynchronous event.")
)
def changed_zone_list(target: ZonedTarget, nsid: int, rae: bool) -> Answer:
    """The zones that have changed by themselves since this was read last."""
    from nvme_emu.observe.nvme_words_zns import changed_zones as form

    raw = target.changed(nsid, rae)
    data = form(raw)
    lines = ["NVMe Changed Zone List:"]
    for key, value in data.items():
        lines.append(str(value) if key == "result" else f"{key}:{' ' if key.startswith('zid') else '  '}{value}")
    return Answer(data=data, raw=raw, lines=lines)


# --- changing them ------------------------------------------------------------------------------------------


def _manage(
    target: ZonedTarget, nsid: int, action: int, slba: int, select_all: bool, data: bytes = b"", zsaso: bool = False
) -> dict[str, int]:
    from nvme_emu.spec.zns import ZONE_SEND_CDW13

    target.send(nsid, slba, ZONE_SEND_CDW13.pack(zsa=action, select_all=int(select_all), zsaso=int(zsaso)), data)
    return {"action": action, "zone": slba, "all": int(select_all), "nsid": nsid}


def _managing(name: str, action: int, what: str) -> None:
    """One of the commands that are an action of Zone Management Send."""

    def manage(target: ZonedTarget, nsid: int, slba: int, select_all: bool) -> Answer:
        done = _manage(target, nsid, action, slba, select_all)
        told = f"zns-{name}: Success, action:{action} zone:{slba:x} all:{int(select_all)} nsid:{nsid}"
        return Answer(data=done, raw=None, lines=[told])

    manage.__doc__ = what
    _command(name, " -s 0x8000", _start, _select_all)(manage)


_managing("close-zone", 0x01, "Close a zone: its open resource is free.")
_managing("finish-zone", 0x02, "Finish a zone: it is Full.")
_managing("open-zone", 0x03, "Open a zone explicitly.")
_managing("reset-zone", 0x04, "Reset a zone: it is Empty, and its data gone.")
_managing("offline-zone", 0x05, "Take a zone Offline that is Read Only.")


def _contents(path: str | None, length: int | None) -> bytes:
    data = b"" if path is None else Path(path).read_bytes()
    return data if length is None else data[:length].ljust(length, b"\0")


@_command(
    "zone-mgmt-send",
    " -z 4 -a",
    _start,
    _select_all,
    click.option("-z", "--zsa", type=Number(0xFF), required=True, help="Zone Send Action: 1 close, 2 finish, 3 open …"),
    click.option("-O", "--zsaso", is_flag=True, help="The action's own option."),
    click.option("-l", "--data-len", "length", type=Number(1 << 20), help="Bytes of the data. [default: the file's]"),
    click.option("-d", "--data", "path", metavar="FILE", help="What is sent along."),
)
def zone_mgmt_send(
    target: ZonedTarget,
    nsid: int,
    slba: int,
    select_all: bool,
    zsa: int,
    zsaso: bool,
    length: int | None,
    path: str | None,
) -> Answer:
    """Zone Management Send, with its dwords as they are given."""
    done = _manage(target, nsid, zsa, slba, select_all, _contents(path, length), zsaso)
    told = f"zone-mgmt-send: Success, action:{zsa} zone:{slba:x} all:{int(select_all)} nsid:{nsid}"
    return Answer(data=done, raw=None, lines=[told])


@_command(
    "set-zone-desc",
    " -s 0x8000 -d extension.bin",
    _start,
    click.option("-d", "--data", "path", metavar="FILE", required=True, help="The extension; zeros follow it."),
)
def set_zone_desc(target: ZonedTarget, nsid: int, slba: int, path: str) -> Answer:
    """Give an Empty zone a descriptor extension."""
    from nvme_emu.spec.zns import ZoneSendAction

    data = _contents(path, _extension_bytes(target, nsid) or None)
    done = _manage(target, nsid, ZoneSendAction.SET_EXTENSION, slba, False, data)
    return Answer(data=done, raw=None, lines=[f"set-zone-desc: Success, zone:{slba:x} nsid:{nsid}"])


@_command(
    "zone-append",
    " -s 0x8000 -z 4096 -d data.bin",
    click.option("-s", "--zslba", "slba", type=Number(_QWORD), default=0, help="The zone's first block."),
    click.option("-z", "--data-size", "length", type=Number(1 << 24), help="Bytes. [default: the file's]"),
    click.option("-d", "--data", "path", metavar="FILE", required=True, help="What is written."),
    click.option("-f", "--force-unit-access", "fua", is_flag=True, help="On the medium when it completes."),
)
def zone_append(target: ZonedTarget, nsid: int, slba: int, length: int | None, path: str, fua: bool) -> Answer:
    """Write whole blocks at the write pointer of a zone, and tell where that was."""
    from nvme_emu.spec.commands import RW_FUA
    from nvme_emu.spec.identify import IDENTIFY_NAMESPACE, Cns, flbas_index

    fields = IDENTIFY_NAMESPACE.parse(target.identify(Cns.NAMESPACE, nsid=nsid))
    size = 1 << fields.lbaf[flbas_index(fields.flbas)]["lbads"]
    data = _contents(path, length)
    blocks, rest = divmod(len(data), size)
    if rest or not 0 < blocks <= 1 << 16:
        raise ValueError(f"{len(data)} bytes of data: whole blocks of {size} bytes are written")
    lba = target.append(nsid, slba, data, blocks, RW_FUA if fua else 0)
    return Answer(data={"lba": lba, "nsid": nsid}, raw=None, lines=[f"Success appended data to LBA {lba:x}"])
