"""Which structure some pasted bytes are, and what they say: the work behind `nvme-emu decode`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from nvme_emu.spec.base import Structure
from nvme_emu.spec.decode import Decoded, decode_cqe, decode_register, decode_sqe, decode_structure
from nvme_emu.spec.identify import (
    IDENTIFY_CONTROLLER,
    IDENTIFY_INDEPENDENT_NAMESPACE,
    IDENTIFY_NAMESPACE,
    parse_ns_descriptors,
)
from nvme_emu.spec.logs import (
    CHANGED_NAMESPACE_LIST,
    COMMANDS_SUPPORTED_AND_EFFECTS,
    ERROR_INFORMATION,
    FEATURES_SUPPORTED_AND_EFFECTS,
    FIRMWARE_SLOT_INFORMATION,
    SMART_HEALTH,
    SUPPORTED_LOG_PAGES,
)
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.registers import Reg

__all__ = ["KINDS", "explain", "parse_hex"]

_OFFSET: Final = re.compile(r"^\s*(?:0x)?[0-9a-fA-F]{3,16}:\s")
_ASCII: Final = re.compile(r"(\s{2,}\S.*|\s*[|\"].*)$")
_NOT_HEX: Final = re.compile(r"[^0-9a-fA-F]")

_STRUCTURES: Final[dict[str, Structure]] = {
    "identify-ctrl": IDENTIFY_CONTROLLER,
    "identify-ns": IDENTIFY_NAMESPACE,
    "identify-ns-independent": IDENTIFY_INDEPENDENT_NAMESPACE,
    "supported-logs": SUPPORTED_LOG_PAGES,
    "error-log": ERROR_INFORMATION,
    "smart": SMART_HEALTH,
    "fw-log": FIRMWARE_SLOT_INFORMATION,
    "changed-ns": CHANGED_NAMESPACE_LIST,
    "effects-log": COMMANDS_SUPPORTED_AND_EFFECTS,
    "feature-effects": FEATURES_SUPPORTED_AND_EFFECTS,
}
_ALIASES: Final = {
    "identify-controller": "identify-ctrl",
    "id-ctrl": "identify-ctrl",
    "identify-namespace": "identify-ns",
    "id-ns": "identify-ns",
    "smart-log": "smart",
}


def _ns_descs(data: bytes) -> Decoded:
    children = tuple(
        Decoded(name=f"nidt {int(nidt)}", value=nid, words="Namespace Identifier", clause="Base 2.1 §5.1.13.2.3")
        for nidt, nid in parse_ns_descriptors(data)
    )
    return Decoded(
        name="NS_DESCRIPTORS", words="Namespace Identification Descriptors", clause="Base 2.1 §5.1.13.2.3",
        children=children,
    )  # fmt: skip


def _structure(name: str) -> Callable[[bytes], Decoded]:
    return lambda data: decode_structure(_STRUCTURES[name], data)


KINDS: Final[dict[str, Callable[[bytes], Decoded]]] = {
    "sqe": lambda data: decode_sqe(data, False),
    "admin-sqe": lambda data: decode_sqe(data, True),
    "cqe": decode_cqe,
    **{name: _structure(name) for name in _STRUCTURES},
    "ns-descs": _ns_descs,
}
"""What ``--as`` may say, but for registers (``reg:CAP``, ``reg:0x14``)."""


def parse_hex(text: str) -> bytes:
    """Bytes from pasted hex: blanks, commas, ``0x``, offsets before and characters behind a dump are dropped.

    ValueError for anything that is not hexadecimal, or half a byte. A single number such as 0x460001 is bytes
    in the order in which it is written; see `explain` for registers.
    """
    digits = []
    for line in text.splitlines():
        body = _OFFSET.sub("", line)
        if body != line:
            # The offset of a dump was there, so characters may be behind the bytes.
            body = _ASCII.sub("", body.rstrip())
        for word in re.split(r"[\s,:;_-]+", body):
            bare = word[2:] if word[:2] in ("0x", "0X") else word
            bad = _NOT_HEX.search(bare)
            if bad is not None:
                raise ValueError(f"{word[:20]!r} is not hexadecimal (at {bad.group()!r})")
            digits.append(bare)
    joined = "".join(digits)
    if len(joined) % 2:
        raise ValueError(f"{len(joined)} hexadecimal digits are not whole bytes")
    return bytes.fromhex(joined)


def explain(text: str, kind: str | None = None) -> Decoded:
    """The explanation of ``text``; without a ``kind`` it is guessed from the length.

    ValueError (or its subclass LayoutError) where the text is not hexadecimal, the kind is unknown, or there
    are too few bytes for it.
    """
    if kind is not None and kind.lower().startswith("reg:"):
        return _explain_register(kind[4:], text)
    data = parse_hex(text)
    if not data:
        raise ValueError("nothing to decode was given")
    name = _guess(data) if kind is None else _ALIASES.get(kind, kind)
    if name not in KINDS:
        raise ValueError(f"{kind!r} is not known; it is one of {', '.join(KINDS)}, or reg:NAME")
    return KINDS[name](data)


def _guess(data: bytes) -> str:
    size = len(data)
    if size == CQE_SIZE:
        return "cqe"
    if size == SQE_SIZE:
        # An I/O command that has blocks has a namespace; admin commands rarely have an opcode that I/O lacks.
        return "sqe" if data[0] in (0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0C, 0x19) and any(data[4:8]) else "admin-sqe"
    if size == SMART_HEALTH.size:
        # A firmware page begins with a small number and seven reserved bytes; a temperature is never zero.
        return "fw-log" if not any(data[1:8]) else "smart"
    if size == IDENTIFY_CONTROLLER.size:
        # The serial number of a controller is text, and that is where a namespace has its sizes.
        return "identify-ctrl" if all(0x20 <= byte < 0x7F for byte in data[4:24]) else "identify-ns"
    raise ValueError(
        f"{size} bytes: a CQE has {CQE_SIZE}, an SQE {SQE_SIZE}, a log page 512, Identify 4096; "
        "say what it is with --as"
    )


def _explain_register(name: str, text: str) -> Decoded:
    words = text.split()
    if len(words) != 1:
        raise ValueError(f"a register's value is one number, not {len(words)} words")
    try:
        value = int(words[0].replace("_", ""), 16)
        where = int(name, 0) if name[:1].isdigit() else name
    except ValueError:
        raise ValueError(f"{words[0]!r} in register {name!r} is not a hexadecimal number") from None
    if isinstance(where, str) and where.upper() == Reg.DOORBELLS.name:
        raise ValueError("a doorbell is named by its offset: reg:0x1008")
    return decode_register(where, value)
