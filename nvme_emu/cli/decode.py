"""`nvme-emu decode`: paste an entry, a register or a page in hex, get it explained."""

from __future__ import annotations

import json
import sys

import click

from nvme_emu.cli.common import (
    EXIT_USAGE,
    JsonCommand,
    check_output,
    complain,
    json_option,
    quiet_option,
    write_json,
)

__all__ = ["decode"]

_EPILOG = """\b
Examples:
  nvme-emu decode --as sqe 02000700010000000000000000000000…   (64 bytes: a Read)
  nvme-emu decode 00000000 00000000 01000100 07000100          (16 bytes: a completion)
  nvme-emu decode --as reg:CAP 0x084008301e01ffff
  nvme-emu decode --as reg:0x1008 5                            (a doorbell)
  nvme admin-passthru /dev/nvme0 -o 6 … -b | xxd | nvme-emu decode --as identify-ctrl -

\b
KIND (--as): sqe, admin-sqe, cqe, reg:NAME or reg:OFFSET, identify-ctrl, identify-ns, ns-descs, smart,
error-log, fw-log, effects-log, feature-effects, supported-logs, changed-ns. Without it the length decides.

\b
Exit codes: 0 done; 2 what was given cannot be decoded.
"""


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("hexadecimal", metavar="HEX…", nargs=-1)
@click.option("--as", "kind", metavar="KIND", help="What it is, if the length does not tell.")
@click.option("--clauses/--no-clauses", default=True, show_default=True, help="Where each field is defined.")
@json_option("The fields as JSON, to standard output, or besides to FILE.json (any other FILE as --json=FILE).")
@quiet_option()
def decode(hexadecimal: tuple[str, ...], kind: str | None, clauses: bool, json_file: str | None, quiet: bool) -> int:
    """Explain bytes field by field, with the specification's clauses.

    HEX is read from standard input where it is - or not given. Offsets and characters of a hex dump are ignored.
    """
    from nvme_emu.observe.explain import explain
    from nvme_emu.spec.decode import render

    try:
        check_output(json_file, json=True)
    except (ValueError, OSError) as error:
        complain(error)
        return EXIT_USAGE
    text = sys.stdin.read() if hexadecimal in ((), ("-",)) else " ".join(hexadecimal)
    try:
        found = explain(text, kind)
    except UnicodeDecodeError as error:
        complain(f"this is not text: {error}")
        return EXIT_USAGE
    except ValueError as error:
        complain(error)
        return EXIT_USAGE
    if json_file != "-":
        click.echo(render(found, clauses=clauses))
    if json_file is not None:
        write_json(json.dumps(found.as_dict(), indent=2), json_file)
    return 0
