"""A decoded entry, register or structure as lines: name, value, words, clause."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from nvme_emu.observe.tui.ink import ACCENT, BRIGHT, DIM, PLAIN, Lines, crop, line
from nvme_emu.spec.decode import Decoded

__all__ = ["decoded_lines", "hex_lines"]


def decoded_lines(node: Decoded, width: int) -> Lines:
    """The tree, one line a field; the clause stands at the right where there is room for it."""
    name_width = 18
    lines = [line((node.name, ACCENT), "  ", (node.words, BRIGHT), "  ", (node.clause, DIM))]
    last_clause = node.clause
    for depth, child in _walk(node, 0):
        value = value_text(child)
        clause = child.clause if child.clause != last_clause else ""
        last_clause = child.clause or last_clause
        label = crop("  " * depth + child.name, name_width - 1)
        value_width = max(12, len(value))
        room = width - name_width - value_width - 2 - (len(clause) + 2 if clause else 0)
        if room < 12 and clause:
            room, clause = room + len(clause) + 2, ""
        text = line(
            (f"{label:<{name_width}}", ACCENT if not depth else DIM),
            (f"{value:>{value_width}}  ", BRIGHT),
            (f"{crop(child.words, max(1, room)):<{max(1, room)}}", PLAIN),
        )
        if clause:
            text.append(f"  {clause}", DIM)
        lines.append(text)
    return lines


def _walk(node: Decoded, depth: int) -> Iterator[tuple[int, Decoded]]:
    for child in node.children:
        yield depth, child
        yield from _walk(child, depth + 1)


def value_text(node: Decoded) -> str:
    """Flags and small counts in decimal, wider fields in hexadecimal."""
    if node.value is None:
        return ""
    if isinstance(node.value, bytes):
        return node.value.hex()
    if isinstance(node.value, str):
        return repr(node.value)
    if node.nbits > 4:
        return f"{node.value:#0{2 + (node.nbits + 3) // 4}x}"
    return str(node.value)


def hex_lines(raw: bytes, width: int) -> Lines:
    """The bytes, 16 or 32 a line, in dwords as they lie in memory."""
    step = 32 if width >= 6 + 8 * 9 else 16
    lines: Lines = []
    for start in range(0, len(raw), step):
        text = Text(f"{start:02x}  ", DIM, end="")
        for at in range(start, min(start + step, len(raw)), 4):
            dword = raw[at : at + 4]
            text.append(f"{dword.hex()} ", BRIGHT if any(dword) else DIM)
        lines.append(text)
    return lines
