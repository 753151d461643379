"""What `nvme-emu top` costs the workload it looks at: I/Os a second of processor time, bare, traced, watched.

    python tools/top_cost.py [--seconds 5] [--warm 2] [--views overview,queues,latency] [--size 120x40]

Processor time and not time, so that a busy machine changes the figures little. The inspector draws into a
pseudo-terminal that somebody reads and throws away. It runs with one interpreter lock: what it takes, the
workload does not get.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable

from nvme_emu.cli.top import VIEWS


def measure(kind: str, view: str, seconds: float, warm_s: float) -> dict[str, float]:
    """One row, in this process: `seconds` after the first `warm_s`."""
    from nvme_emu.cli.top import LEND_S, SWITCH_S, Options, Workload, _plan
    from nvme_emu.observe.tui.app import TopApp

    options = Options(
        job_file=None, attach=None, replay=None, once=False, json_file=None, view=view, after_ms=0.0, overrides=(),
        clock="virtual", profile="tlc", seed=0, faults=None, trace=None,
    )  # fmt: skip
    workload = Workload(options, _plan(options))
    with workload.running():
        gate, counters = workload._gate, workload._watched.controller.counters
        if kind == "bare":
            workload._watched.trace.remove_sink(gate)
        drawn: Callable[[], int] = lambda: 0  # noqa: E731
        app = None
        if kind == "top":
            sys.setswitchinterval(SWITCH_S)
            source = workload.source()
            source.lend_s = LEND_S
            app = TopApp(source, view=view)
            drawn = lambda: app.drawn  # noqa: E731
        found: dict[str, float] = {}

        def watch() -> None:
            time.sleep(warm_s)
            before = (time.monotonic(), time.process_time(), counters.posted, drawn(), gate.seen)
            time.sleep(seconds)
            after = (time.monotonic(), time.process_time(), counters.posted, drawn(), gate.seen)
            wall_s, cpu_s, ios, frames, events = (b - a for a, b in zip(before, after, strict=True))
            found.update(
                ios_per_cpu_s=ios / cpu_s, ios_per_s=ios / wall_s, cpus=cpu_s / wall_s,
                frames_per_s=frames / wall_s, events_per_s=events / wall_s,
            )  # fmt: skip
            if app is not None:
                app.call_from_thread(app.exit)

        if app is None:
            workload._go.set()
            watch()
            if kind == "bare":
                workload._watched.trace.add_sink(gate)
        else:
            threading.Thread(target=watch, daemon=True).start()
            app.run()
    return found


def in_terminal(kind: str, view: str, seconds: float, warm_s: float, size: tuple[int, int]) -> dict[str, float]:
    """One row, in a process of its own whose terminal is a pseudo-terminal."""
    reader, writer = os.pipe()
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
        os.write(writer, json.dumps(measure(kind, view, seconds, warm_s)).encode())
        os._exit(0)
    os.close(writer)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:
        pass  # the other end was closed: that is how a pseudo-terminal ends
    os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        found: dict[str, float] = json.loads(stream.read() or "{}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before that are not measured")
    parser.add_argument("--views", default="overview,queues,commands,latency,trace")
    parser.add_argument("--size", default="120x40")
    chosen = parser.parse_args()
    views, size = chosen.views.split(","), re.fullmatch(r"(\d+)x(\d+)", chosen.size)
    if size is None:
        parser.error(f"--size {chosen.size}: columns and lines, as in 80x24")
    if not set(views) <= set(VIEWS):
        parser.error(f"--views {chosen.views}: the views are {', '.join(VIEWS)}")
    width, height = map(int, size.groups())
    bare = traced = 0.0
    rows = [("bare", "overview"), ("traced", "overview"), *(("top", view) for view in views)]
    for kind, view in rows:
        row = in_terminal(kind, view, chosen.seconds, chosen.warm, (width, height))
        if not row:
            sys.exit(f"{kind} {view}: failed")
        rate = row["ios_per_cpu_s"]
        bare = bare or rate
        traced = rate if kind == "traced" else traced
        told = f"{kind + (' ' + view if kind == 'top' else ''):14} {rate:8.0f} I/Os a CPU second ({rate / bare:4.0%})"
        if kind == "top" and row["frames_per_s"]:
            # What is left when the workload's own work, as dear as when it is only traced, is taken off.
            frame_ms = (row["cpus"] - row["ios_per_s"] / traced) / row["frames_per_s"] * 1e3
            told += f"  {row['frames_per_s']:5.1f} frames/s of {frame_ms:4.1f} ms CPU"
        sys.stdout.write(f"{told}  {row['events_per_s']:8.0f} events/s  on {row['cpus']:.2f} CPUs\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
