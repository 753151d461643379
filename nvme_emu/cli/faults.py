"""`nvme-emu faults check FILE`: what a fault file says, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from nvme_emu.core.faults import Problem, Rule

__all__ = ["faults"]

_EPILOG = """\b
Examples:
  nvme-emu faults check media-errors.toml
  nvme-emu faults check - --json < faults.json
  nvme-emu run --faults media-errors.toml job.fio

\b
Exit codes:
  0  every rule is right
  2  the file is not there, is neither TOML nor JSON, or a rule in it is wrong

docs/faults.md tells what can be matched and what can happen.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def faults() -> None:
    """Fault rules: files that say when the device goes wrong, and how."""


class _CheckCommand(JsonCommand):
    takes_json_files = True


@faults.command(cls=_CheckCommand, epilog=_EPILOG)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option("JSON to standard output, or to FILE (as --json=FILE).")
@quiet_option("Say nothing about rules that are right.")
def check(files: tuple[str, ...], json_file: str | None, quiet: bool) -> int:
    """Check fault files: each error with its file, line, rule and value.

    FILE is TOML, or JSON by its name or its first character; - is standard input.
    """
    from nvme_emu.core.faults import check_text, rule_to_plain

    try:
        check_output(json_file, inputs=files, json=True)
    except (ValueError, OSError) as error:
        complain(error)
        return EXIT_USAGE
    rules: list[Rule] = []
    problems: list[Problem] = []
    report: list[dict[str, Any]] = []
    for name in files:
        text, unread = _read(name)
        found, wrong = ([], [unread]) if unread is not None else check_text(text, _shown(name))
        rules += found
        problems += wrong
        plain = [rule_to_plain(rule) for rule in found]
        report.append({"file": _shown(name), "rules": plain, "problems": [one._asdict() for one in wrong]})
        if not quiet and json_file != "-" and not wrong:
            for number, rule in enumerate(found, 1):
                click.echo(f"{_shown(name)}: rule {rule.id or number}: {_in_words(rule)}")
    if json_file is not None:
        write_json(json.dumps({"ok": not problems, "files": report}, indent=2), json_file)
    for one in problems:
        click.echo(f"nvme-emu: {one}", err=True)
    if problems:
        return EXIT_USAGE
    if not quiet and json_file != "-":
        click.echo(f"{len(rules)} {'rule is' if len(rules) == 1 else 'rules are'} right")
    return 0


def _shown(name: str) -> str:
    return "<stdin>" if name == "-" else name


def _read(name: str) -> tuple[str, Problem | None]:
    """The text, or why it cannot be read."""
    from nvme_emu.core.faults import Problem

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8"), None
    except OSError as error:
        return "", Problem(_shown(name), 1, "", "", error.strerror or type(error).__name__)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return "", Problem(_shown(name), line, "", "", f"no UTF-8 text: {error.reason}")


def _in_words(rule: Rule) -> str:
    from nvme_emu.core.faults import rule_to_plain

    plain = rule_to_plain(rule)
    match = {key: value for key, value in plain["match"].items() if key != "on"}
    parts = [f"on {rule.match.on}", *(f"{key} {_short(value)}" for key, value in match.items())]
    parts += [f"{key} {_short(value)}" for key, value in plain.get("when", {}).items()]
    effects = [
        " ".join([kind, *(f"{key}={_short(value)}" for key, value in values.items())])
        for kind, values in plain["then"].items()
    ]
    armed = "" if rule.armed else " (not armed)"
    return f"{', '.join(parts)}: {'; '.join(effects)}{armed}"


def _short(value: Any) -> str:
    if isinstance(value, list) and value and not isinstance(value[0], dict):
        return ",".join(map(str, value))
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
