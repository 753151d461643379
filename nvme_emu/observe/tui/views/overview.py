"""Overview: throughput and latency, the controller's properties, its health."""

from __future__ import annotations

import functools

from rich.text import Text

from nvme_emu.observe.state import FieldState, RegisterState, SmartState
from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.decoded import decoded_lines
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BRIGHT,
    DIM,
    GOOD,
    READ,
    SELECTED,
    VIOLET,
    WARN,
    WRITE,
    Lines,
    bar,
    beside,
    fit,
    line,
    panel,
    spark,
    wrap_pairs,
)
from nvme_emu.observe.tui.ui import Ui, View
from nvme_emu.spec.decode import decode_register

__all__ = ["OVERVIEW"]

KELVIN = 273


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    left = max(44, width * 55 // 100)
    rest = height - 7
    registers = frame.controller.registers if frame.controller is not None else None
    health = _health(frame, width - left - 4)
    return [
        *panel(_title(frame), _throughput(frame, width - 4), width, 7, right=_cost(frame)),
        *beside(
            _register_panel(_state(frame), registers, ui.cursor, left, rest),
            panel("health", health, width - left, rest),
        ),
    ]


def _title(frame: Frame) -> str:
    driver = frame.driver
    if driver is None:
        return "I/O"
    how = f"{driver.mode} {driver.worker}" if driver.mode == "async" else driver.mode
    return f"I/O · {how} · {driver.queues} queue{'s' * (driver.queues != 1)} of {driver.depth}"


def _cost(frame: Frame) -> str:
    cost = frame.cost
    if not cost.frames_per_s:
        return ""
    sampled = "all" if cost.sampled >= 0.995 else words.share(cost.sampled)
    events = f"{words.rate(cost.events_per_s)} events/s, {sampled} looked at"
    return f"{cost.frames_per_s:.0f} frames/s · {cost.frame_ms:.1f} ms · {events}"


def _throughput(frame: Frame, width: int) -> Lines:
    points, stats = frame.points, frame.stats
    last = points[-1] if points else None
    room = max(8, width - 42)

    def row(name: str, style: str, iops: float, bw: float, series: list[float], total: int) -> Text:
        return line(
            (f"{name:<8}", style),
            (f"{words.rate(iops):>7} IOPS", BRIGHT),
            (f"{words.amount(bw):>10}/s ", ""),
            (f"{words.rate(total):>7} ", DIM),
        ).append_text(spark(series, room, style))

    read = row(
        "read",
        READ,
        last.read_iops if last else 0,
        last.read_bw_bytes if last else 0,
        [point.read_iops for point in points],
        stats.read_ios,
    )
    write = row(
        "write",
        WRITE,
        last.write_iops if last else 0,
        last.write_bw_bytes if last else 0,
        [point.write_iops for point in points],
        stats.write_ios,
    )
    measured = [point for point in points if point.p50_ns]
    p50 = words.duration(measured[-1].p50_ns) if measured else "-"
    p99 = words.duration(measured[-1].p99_ns) if measured else "-"
    latency = line(
        (f"{'latency':<8}", VIOLET), ("p50 ", DIM), (f"{p50:<9}", BRIGHT), ("p99 ", DIM), (f"{p99:<9}", BRIGHT)
    )
    latency = fit(latency, 41).append_text(spark([p.p50_ns for p in points], room, VIOLET))
    busy = last.utilisation if last else 0.0
    device = line(
        (f"{'device':<8}", GOOD),
        (f"{words.share(busy):>5} ", BRIGHT),
        ("busy  ", DIM),
        (f"{stats.outstanding} ", BRIGHT),
        ("in flight", DIM),
    )
    device = fit(device, 41).append_text(bar(busy, room, GOOD))
    window_ns = points[-1].ts_ns - points[0].ts_ns if len(points) > 1 else 0
    foot = line(("curves: the last ", DIM), (words.duration(window_ns), DIM), (f" of the {frame.clock} clock", DIM))
    return [read, write, latency, device, foot]


# --- registers ----------------------------------------------------------------------------------------------


def _state(frame: Frame) -> str:
    ctrl = frame.controller
    return "registers" if ctrl is None else f"registers · {ctrl.state}"


@functools.lru_cache(maxsize=8)
def _register_panel(
    title: str, registers: tuple[RegisterState, ...] | None, cursor: int, width: int, height: int
) -> Lines:
    """Kept, and only read by who gets it: it is half of the page, and hardly ever changes between two frames."""
    if registers is None:
        return panel(title, [line(("a trace tells nothing of the registers", DIM))], width, height)
    return panel(title, _registers(registers, cursor, width - 4, height - 2), width, height)


def _registers(registers: tuple[RegisterState, ...], cursor: int, width: int, height: int) -> Lines:
    blocks = [(reg, _packed(reg, width)) for reg in registers]
    spare = height - len(blocks) - sum(len(fields) for _, fields in blocks)
    lines: Lines = []
    for index, (reg, fields) in enumerate(blocks):
        # Where there is room each field has a line with its words; where there is not even room for all
        # fields in short, the last registers go without.
        told = _spelt(reg)
        if len(told) - len(fields) <= spare:
            spare -= len(told) - len(fields)
            fields = told
        head = fit(_register_head(reg), width)
        if index == cursor:
            head.stylize(SELECTED)
        left = height - len(lines) - (len(blocks) - index)
        lines += [head, *fields[: max(0, left)]]
    return lines


def _register_head(reg: RegisterState) -> Text:
    digits = f"{reg.value:0{reg.size * 2}x}"
    grouped = "_".join(digits[i : i + 4] for i in range(0, len(digits), 4))
    return line((f"{reg.name:<5}", ACCENT), (grouped, BRIGHT), "  ", (reg.words, DIM))


def _shown(reg: RegisterState) -> list[FieldState]:
    """The fields worth a place: all of a small register, else those that are not zero."""
    return [field for field in reg.fields if field.value or len(reg.fields) < 8]


def _packed(reg: RegisterState, width: int) -> Lines:
    return wrap_pairs(((field.name, str(field.value)) for field in _shown(reg)), width, indent=5)


def _spelt(reg: RegisterState) -> Lines:
    return [
        line((f"     {field.name:<8}", DIM), (f"{field.value:>6}  ", BRIGHT), field.words) for field in _shown(reg)
    ]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    if frame.controller is None:
        return [line(("a trace tells nothing of the registers", DIM))]
    registers = frame.controller.registers
    reg = registers[min(ui.cursor, len(registers) - 1)]
    lines = decoded_lines(decode_register(reg.name, reg.value), width)
    return [*lines, Text(""), line((f"offset {reg.offset:#x}, {reg.size} bytes · {reg.clause}", DIM))]


def _rows(frame: Frame, ui: Ui) -> list[str]:
    ctrl = frame.controller
    return [] if ctrl is None else [f"{reg.name} {reg.words} {reg.value:#x}" for reg in ctrl.registers]


# --- health -------------------------------------------------------------------------------------------------


def _health(frame: Frame, width: int) -> Lines:
    smart, ctrl = frame.smart, frame.controller
    if smart is None:
        return [line(("a trace tells nothing of the health", DIM))]
    celsius = smart.composite_temperature - KELVIN
    hot = BAD if celsius >= 80 else WARN if celsius >= 70 else GOOD
    room = max(4, width - 15)
    gauges = [
        line((f"{'temp':<7}", DIM), (f"{celsius:>4} °C ", BRIGHT)).append_text(bar(celsius / 100, room, hot)),
        line((f"{'spare':<7}", DIM), (f"{smart.avsp:>4} %  ", BRIGHT)).append_text(
            bar(smart.avsp / 100, room, BAD if smart.avsp < smart.avspt else GOOD)
        ),
        line((f"{'used':<7}", DIM), (f"{smart.pused:>4} %  ", BRIGHT)).append_text(
            bar(smart.pused / 100, room, WARN if smart.pused > 90 else ACCENT)
        ),
    ]
    lines = [*gauges, *_smart_counters(smart, width)]
    if ctrl is not None:
        lines += [
            Text(""),
            line((f"{ctrl.model.strip()}", ACCENT)),
            line((f"serial {ctrl.serial.strip()}  firmware {ctrl.firmware.strip()}", DIM)),
        ]
        if ctrl.internal_error:
            lines.append(line((ctrl.internal_error, BAD)))
    return lines


def _smart_counters(smart: SmartState, width: int) -> Lines:
    def row(name: str, value: str, bad: bool = False) -> Text:
        gap = max(1, width - len(name) - len(value))
        return line((name, DIM), " " * gap, (value, BAD if bad else BRIGHT))

    # A data unit is a thousand blocks of 512 bytes, whatever the format (NVMe Base 2.1, 5.1.12.1.3).
    return [
        row("critical warning", f"{smart.critical_warning:#04x}", smart.critical_warning != 0),
        row("data read", words.amount(smart.data_units_read * 512_000)),
        row("data written", words.amount(smart.data_units_written * 512_000)),
        row("read commands", words.count(smart.host_read_commands)),
        row("write commands", words.count(smart.host_write_commands)),
        row("media errors", words.count(smart.media_errors), smart.media_errors > 0),
        row("error log entries", words.count(smart.num_err_log_entries)),
        row("power cycles", words.count(smart.power_cycles)),
        row("unsafe shutdowns", words.count(smart.unsafe_shutdowns)),
        row("busy minutes", words.count(smart.controller_busy_time)),
        row("power-on hours", words.count(smart.power_on_hours)),
    ]


OVERVIEW = View(name="overview", draw=_draw, rows=_rows, detail=_detail)
