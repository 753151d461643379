"""`nvme-emu trace show|convert|diff|stats`: what to do with the file that --trace wrote."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

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

__all__ = ["trace"]

_SETTINGS = {"help_option_names": ["-h", "--help"]}
_CODES = "\b\nExit codes: 0 done; 1 the traces differ (diff); 2 a file that cannot be read or is no trace."


def _guarded(fn: Callable[..., int]) -> Callable[..., int]:
    """Users' mistakes as one line and exit code 2."""

    @functools.wraps(fn)
    def run(**options: Any) -> int:
        try:
            return fn(**options)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            complain(error)
            return EXIT_USAGE

    return run


@click.group(
    context_settings=_SETTINGS,
    epilog="""\b
Examples:
  nvme-emu run job.fio --clock virtual --trace t.jsonl
  nvme-emu trace show t.jsonl --opcode read --lba 0-1023
  nvme-emu trace convert t.jsonl -o t.json        (open it in ui.perfetto.dev)
  nvme-emu trace stats t.jsonl
  nvme-emu trace diff yesterday.jsonl today.jsonl

"""
    + _CODES,
)
def trace() -> None:
    """Show, convert, compare and measure traces. A file - is standard input."""


@trace.command(
    cls=JsonCommand,
    context_settings=_SETTINGS,
    epilog="\b\nExample:\n  nvme-emu trace show t.jsonl --qid 1 --time 100us-2ms --failed\n\n" + _CODES,
)
@click.argument("file", metavar="FILE")
@click.option("--qid", type=click.IntRange(0, 65535), help="Events of this queue pair; 0 is the admin queue.")
@click.option("--opcode", "opcodes", multiple=True, metavar="NAME|NUMBER", help="Events of such commands; repeatable.")
@click.option("--lba", metavar="A[-B]", help="Events of commands that touch these blocks.")
@click.option("--time", "times", metavar="A-B", help="Between these times since the begin, such as 10us-2.5ms.")
@click.option("--event", "events", multiple=True, metavar="NAME", help="Events of that name; repeatable.")
@click.option("--request", type=click.IntRange(0), help="Events of the driver's request with this number.")
@click.option("--failed", is_flag=True, help="Events of commands that failed.")
@click.option("--limit", type=click.IntRange(1), help="At most so many events.")
@json_option("The records as they are in the file, a line each; or besides to FILE (as --json=FILE).")
@quiet_option()
@_guarded
def show(file: str, limit: int | None, json_file: str | None, quiet: bool, **wanted: Any) -> int:
    """Events in words, one a line, with the time since the trace's begin and since the line before."""
    from itertools import islice

    from nvme_emu.observe.trace_file import read_trace
    from nvme_emu.observe.trace_words import select, words_of

    check_output(json_file, inputs=[file], json=True)
    before_ns: int | None = None
    row = None
    kept: list[str] = []
    for at_ns, record in islice(select(read_trace(file), _filter(**wanted)), limit):
        if json_file == "-":
            click.echo(json.dumps(record, separators=(",", ":")))
            continue
        if json_file is not None:
            kept.append(json.dumps(record, separators=(",", ":")))
        if record.get("row") != row:
            row = record.get("row")
            click.echo(f"== {row}")
        gap = "" if before_ns is None else f"{(at_ns - before_ns) / 1000:+.3f}"
        before_ns = at_ns
        click.echo(f"{at_ns / 1000:>14.3f} µs {gap:>10}  {record['event']:<16} {words_of(record)}")
    if json_file not in (None, "-"):
        write_json("\n".join(kept), str(json_file))
    return 0


def _filter(**wanted: Any) -> Any:
    from nvme_emu.observe.trace_words import Filter, opcodes_of, parse_time_ns

    opcodes: frozenset[tuple[bool, int]] = frozenset()
    for text in wanted["opcodes"]:
        opcodes |= opcodes_of(text)
    lba = None if wanted["lba"] is None else _range(wanted["lba"], int, "--lba")
    times = (None, None) if wanted["times"] is None else _range(wanted["times"], parse_time_ns, "--time")
    return Filter(
        qid=wanted["qid"],
        opcodes=opcodes,
        lba=lba,
        from_ns=times[0],
        to_ns=times[1],
        events=frozenset(wanted["events"]),
        request=wanted["request"],
        failed=wanted["failed"],
    )


def _range(text: str, number: Callable[[str], int], option: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    try:
        found = number(low), number(high) if dash else number(low)
    except ValueError as error:
        raise ValueError(f"{option} {text!r}: {error}") from None
    if found[1] < found[0]:
        raise ValueError(f"{option} {text!r}: the end is before the begin")
    return found


@trace.command(
    cls=JsonCommand,
    context_settings=_SETTINGS,
    epilog="\b\nExample:\n  nvme-emu trace convert t.jsonl -o t.perfetto.json\n\n" + _CODES,
)
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="OUT", help="Write to OUT and not to standard output.")
@click.option(
    "--to", "form", type=click.Choice(("perfetto",)), default="perfetto", show_default=True, help="What to make."
)
@json_option("The same as -o FILE.")
@quiet_option()
@_guarded
def convert(file: str, output: str | None, form: str, json_file: str | None, quiet: bool) -> int:
    """Make Chrome's JSON, which ui.perfetto.dev and chrome://tracing show.

    Tracks are callers, workers, queues, device and CPUs; arrows follow each command from one to the next.
    """
    from nvme_emu.observe.perfetto import to_perfetto
    from nvme_emu.observe.trace_file import read_trace

    output = output or json_file or "-"
    check_output(output, inputs=[file], json=True)
    write_json(json.dumps(to_perfetto(read_trace(file)), separators=(",", ":")), output)
    return 0


@trace.command(
    cls=JsonCommand,
    context_settings=_SETTINGS,
    epilog="\b\nExample:\n  nvme-emu trace diff a.jsonl b.jsonl --ignore ts_ns\n\n" + _CODES,
)
@click.argument("left", metavar="FILE")
@click.argument("right", metavar="FILE")
@click.option("--ignore", multiple=True, metavar="FIELD", help="A field that does not count; repeatable.")
@click.option("--context", type=click.IntRange(0, 100), default=3, show_default=True, help="Events before it.")
@json_option("The finding as JSON, to standard output, or besides to FILE (as --json=FILE).")
@quiet_option("Say nothing where they are equal.")
@_guarded
def diff(
    left: str, right: str, ignore: tuple[str, ...], context: int, json_file: str | None, quiet: bool
) -> int:
    """The first event in which two traces differ. Numbers of requests are compared by order of appearance."""
    from nvme_emu.observe.trace_file import read_trace
    from nvme_emu.observe.trace_stats import first_divergence
    from nvme_emu.observe.trace_words import words_of

    check_output(json_file, inputs=[left, right], json=True)
    found = first_divergence(read_trace(left), read_trace(right), ignore=frozenset(ignore), context=context)
    if json_file is not None:
        write_json(json.dumps(None if found is None else found._asdict(), indent=2), json_file)
    if json_file == "-":
        return 0 if found is None else EXIT_ERRORS
    if found is None:
        if not quiet:
            click.echo("the traces are equal")
        return 0
    click.echo(f"the traces part at event {found.at + 1}:")
    for record in found.before:
        click.echo(f"    {record['ts_ns']:>14} ns  {record['event']:<16} {words_of(record)}")
    for sign, path, one in (("-", left, found.left), ("+", right, found.right)):
        if one is None:
            click.echo(f"  {sign} {path} has ended")
        else:
            click.echo(f"  {sign} {one['ts_ns']:>14} ns  {one['event']:<16} {words_of(one)}")
    return EXIT_ERRORS


@trace.command(
    cls=JsonCommand,
    context_settings=_SETTINGS, epilog="\b\nExample:\n  nvme-emu trace stats t.jsonl --json\n\n" + _CODES
)
@click.argument("file", metavar="FILE")
@json_option("All figures, with fio's histogram bins; to standard output, or besides to FILE (as --json=FILE).")
@quiet_option()
@_guarded
def stats(file: str, json_file: str | None, quiet: bool) -> int:
    """Latency by command and by stage, with a histogram; and how many events there are of each kind."""
    from nvme_emu.observe.trace_file import read_trace
    from nvme_emu.observe.trace_stats import trace_stats

    check_output(json_file, inputs=[file], json=True)
    found = trace_stats(read_trace(file))
    if json_file is not None:
        write_json(json.dumps(found, indent=2), json_file)
    if json_file == "-":
        return 0
    for row, part in found["parts"].items():
        if row:
            click.echo(f"== {row}")
        _print_part(part)
    click.echo("events: " + ", ".join(f"{count} {name}" for name, count in found["events"].items()))
    if found["dropped"]:
        click.echo(f"{found['dropped']} earlier events were dropped when the trace was written")
    return 0


def _print_part(part: dict[str, Any]) -> None:
    from nvme_emu.observe.trace_stats import bars

    click.echo(f"{part['commands']} commands, {part['failed']} failed, {part['unfinished']} without begin or end")
    click.echo(f"{'latency in µs':<28}{'count':>9}{'mean':>11}{'50 %':>11}{'99 %':>11}{'99.9 %':>11}{'max':>11}")
    for kind in ("latency", "stages"):
        for name, one in part[kind].items():
            shown = one["mean_ns"], *(one["percentiles"][p] for p in ("50", "99", "99.9")), one["max_ns"]
            figures = "".join(f"{value / 1000:>11.3f}" for value in shown)
            click.echo(f"{('  ' if kind == 'stages' else '') + name:<28}{one['count']:>9}{figures}")
    for low_ns, count, length in bars(part["all"]["bins"]):
        click.echo(f"{low_ns / 1000:>12.3f} µs {count:>8} {'█' * length}".rstrip())
