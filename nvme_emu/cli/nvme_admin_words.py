"""nvme-cli's words for admin commands: get-lba-status, dir-receive, dir-send, security-recv, set-feature.

There is no security-send: the one protocol that the device has takes nothing. Over a --rpc socket only those that
change nothing are answered: a running device has its own host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.nvme_common import Answer, Number, lines_of, nsid_of, nsid_option, word

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

__all__ = ["dir_receive", "dir_send", "get_lba_status", "security_recv", "set_feature"]

_U32, _U16, _U8 = Number(0xFFFF_FFFF), Number(0xFFFF), Number(0xFF)


def _input(path: str | None) -> bytes | None:
    """What a file holds; OSError names it."""
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


@word(
    "get-lba-status",
    " -n 1 -a 0x11",
    nsid_option,
    click.option("-s", "--start-lba", "slba", type=Number((1 << 64) - 1), default=0, help="From this block on."),
    click.option("-m", "--max-dw", "max_dw", type=Number(0x3FFFF), default=1023, help="Dwords to get, less one."),
    click.option("-a", "--action", "atype", type=_U8, default=0x11, help="0x10 scan, 0x11 tracked, 0x02 allocated."),
    click.option("-l", "--range-len", "rl", type=_U16, default=0, help="How many blocks; 0 is to the end."),
)
def get_lba_status(target: Target, nsid: int | None, slba: int, max_dw: int, atype: int, rl: int) -> Answer:
    """Get LBA Status: blocks that cannot be read, or those that are allocated."""
    from nvme_emu.observe.nvme_words_logs import get_lba_status as form
    from nvme_emu.spec.commands import split64
    from nvme_emu.spec.commands_admin import GET_LBA_STATUS_CDW13
    from nvme_emu.spec.opcodes import AdminOpcode

    nsid = nsid_of(target, nsid)
    low, high = split64(slba)
    how = GET_LBA_STATUS_CDW13.pack(rl=rl, atype=atype)
    _, raw = target.admin(
        AdminOpcode.GET_LBA_STATUS, nsid, nbytes=(max_dw + 1) * 4, cdw10=low, cdw11=high, cdw12=max_dw, cdw13=how
    )
    data = form(raw)
    shown = {key: value for key, value in data.items() if not isinstance(value, dict)}
    lines = lines_of(f"LBA Status of namespace {nsid}:", shown)
    lines += [
        f"{key}: {int(one['NLB'], 16)} blocks from {int(one['DSLBA'], 16)}"
        for key, one in data.items()
        if isinstance(one, dict)
    ]
    return Answer(data=data, raw=raw, lines=lines)


_directive_options = (
    nsid_option,
    click.option("-D", "--dir-type", "dtype", type=_U8, default=0, help="0 Identify, 1 Streams."),
    click.option("-O", "--dir-oper", "doper", type=_U8, default=1, show_default=True, help="Directive operation."),
    click.option("-S", "--dir-spec", "dspec", type=_U16, default=0, help="Directive specific: a stream's identifier."),
)


@word(
    "dir-receive",
    " -n 1 -D 0 -O 1",
    *_directive_options,
    click.option("-r", "--req-resource", "nsr", type=_U16, default=0, help="Streams to allocate (-D 1 -O 3)."),
)
def dir_receive(target: Target, nsid: int | None, dtype: int, doper: int, dspec: int, nsr: int) -> Answer:
    """Directive Receive: what directives there are; parameters, status and resources of streams."""
    from nvme_emu.observe.nvme_words_logs import directive_receive as form
    from nvme_emu.spec.commands_admin import DIRECTIVE_CDW11
    from nvme_emu.spec.directives import DirectiveType, StreamsReceive
    from nvme_emu.spec.opcodes import AdminOpcode

    nsid = nsid_of(target, nsid)
    nbytes = 4096 if dtype == DirectiveType.IDENTIFY else 32 if doper == StreamsReceive.RETURN_PARAMETERS else 1024
    if dtype == DirectiveType.STREAMS and doper == StreamsReceive.ALLOCATE_RESOURCES:
        nbytes = 0
    result, raw = target.admin(
        AdminOpcode.DIRECTIVE_RECEIVE,
        nsid,
        nbytes=nbytes,
        cdw10=max(nbytes // 4 - 1, 0),
        cdw11=DIRECTIVE_CDW11.pack(dtype=dtype, doper=doper, dspec=dspec),
        cdw12=nsr,
    )
    data = {**_directive(dtype, doper, dspec, nsid, result), **form(dtype, doper, result, raw)}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        rows = {f"{key}: {name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        flat |= rows
    return Answer(data=data, raw=raw or None, lines=lines_of("dir-receive:", flat))


def _directive(dtype: int, doper: int, dspec: int, nsid: int, result: int) -> dict[str, str]:
    return {
        "Type": f"{dtype:#x}",
        "Operation": f"{doper:#x}",
        "spec": f"{dspec:#x}",
        "NSID": f"{nsid:#x}",
        "result": f"{result:#x}",
    }


@word(
    "dir-send",
    " -n 1 -D 0 -O 1 -T 1 -e 1",
    *_directive_options,
    click.option("-T", "--target-dir", "tdtype", type=_U8, default=0, help="The directive to enable or disable."),
    click.option("-e", "--endir", type=click.IntRange(0, 1), default=1, show_default=True, help="Enable it?"),
)
def dir_send(
    target: Target, nsid: int | None, dtype: int, doper: int, dspec: int, tdtype: int, endir: int
) -> Answer:
    """Directive Send: enable a directive; release a stream or all resources of streams."""
    from nvme_emu.spec.commands_admin import DIRECTIVE_CDW11
    from nvme_emu.spec.directives import ENABLE_DIRECTIVE_CDW12, DirectiveType
    from nvme_emu.spec.opcodes import AdminOpcode

    nsid = nsid_of(target, nsid)
    how = ENABLE_DIRECTIVE_CDW12.pack(endir=endir, dtype=tdtype) if dtype == DirectiveType.IDENTIFY else 0
    cdw11 = DIRECTIVE_CDW11.pack(dtype=dtype, doper=doper, dspec=dspec)
    result, _ = target.admin(AdminOpcode.DIRECTIVE_SEND, nsid, cdw11=cdw11, cdw12=how)
    data = _directive(dtype, doper, dspec, nsid, result)
    return Answer(data=data, raw=None, lines=lines_of("dir-send: Success", data))


_security_options = (
    click.option("-p", "--secp", type=_U8, default=0, show_default=True, help="Security protocol."),
    click.option("-s", "--spsp", type=_U16, default=0, show_default=True, help="Protocol specific."),
    click.option("-N", "--nssf", type=_U8, default=0, show_default=True, help="NVMe specific."),
    click.option("-n", "--namespace-id", "nsid", type=_U32, default=0, help="For protocols that use it."),
)


@word(
    "security-recv",
    " -p 0 -s 0",
    *_security_options,
    click.option("-x", "--size", type=Number(1 << 20), default=512, show_default=True, help="Bytes of the buffer."),
    click.option("-t", "--al", type=_U32, default=None, help="Allocation length. [default: the buffer]"),
)
def security_recv(
    target: Target, secp: int, spsp: int, nssf: int, nsid: int, size: int, al: int | None
) -> Answer:
    """Security Receive: what a security protocol answers."""
    from nvme_emu.spec.commands_admin import SECURITY_CDW10
    from nvme_emu.spec.opcodes import AdminOpcode
    from nvme_emu.spec.security import SecurityProtocol, parse_protocol_list

    how = SECURITY_CDW10.pack(secp=secp, spsp0=spsp & 0xFF, spsp1=spsp >> 8, nssf=nssf)
    _, raw = target.admin(
        AdminOpcode.SECURITY_RECEIVE, nsid, nbytes=size, cdw10=how, cdw11=size if al is None else al
    )
    data: dict[str, Any] = {"secp": secp, "spsp": spsp, "data": raw.hex()}
    lines = [f"security-recv: protocol {secp:02x}h, specific {spsp:04x}h", raw.hex(" ")]
    if not secp and not spsp and len(raw) >= 8:
        listed = parse_protocol_list(raw)
        data["protocols"] = listed
        lines = [f"{number:02x}h {SecurityProtocol.name_of(number) or ''}".rstrip() for number in listed]
    return Answer(data=data, raw=raw or None, lines=lines)


@word(
    "set-feature",
    " -f 4 -V 0x150",
    click.option("-f", "--feature-id", "fid", type=_U8, required=True, help="Which feature."),
    click.option("-V", "--value", type=_U32, default=0, help="Its value: command dword 11."),
    click.option("-n", "--namespace-id", "nsid", type=_U32, default=0, help="For its features."),
    click.option("-s", "--save", is_flag=True, help="Save it: an image file remembers it."),
    click.option("-d", "--data", "path", help="Where the data of a feature that has some is."),
)
def set_feature(target: Target, fid: int, value: int, nsid: int, save: bool, path: str | None) -> Answer:
    """Set Features; a value that is not saved lasts until the controller is reset."""
    from nvme_emu.spec.commands import SET_FEATURES_CDW10
    from nvme_emu.spec.features import Fid
    from nvme_emu.spec.opcodes import AdminOpcode

    head = SET_FEATURES_CDW10.pack(fid=fid, sv=int(save))
    result, _ = target.admin(AdminOpcode.SET_FEATURES, nsid, data=_input(path), cdw10=head, cdw11=value)
    name = Fid.name_of(fid) or "Unknown"
    data = {"feature": f"{fid:#04x}", "name": name, "value": f"{value:#010x}", "result": result}
    return Answer(data=data, raw=None, lines=lines_of("set-feature:", data))
