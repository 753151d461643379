"""What commands share: exit codes, one-line complaints, --json [FILE], --quiet, and care for files that are there.

`--json FILE` takes the word behind it only where that can be meant: a command with arguments of its own takes a
word that ends in .json, and `--json=FILE` any. So `run --json JOB.fio` prints JSON and runs the job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_ERRORS",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "JsonCommand",
    "check_output",
    "complain",
    "json_option",
    "printer",
    "quiet_option",
    "write_json",
]

EXIT_ERRORS, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
EXIT_BROKEN_PIPE = 141
"""Whoever read our output has gone: 128 + SIGPIPE, what a shell says of a program that the signal ended."""

_F = TypeVar("_F", bound=Callable[..., Any])

_HEAD_BYTES = 4096
# The first thing in a job file that is no comment is a section; JSON may begin with a bracket, too.
_JOB_FILE = re.compile(rb"\s*(?:[;#][^\n]*\n\s*)*\[\s*[A-Za-z_][^\]\"\n]*\]")
_JSON_FILE = re.compile(rb"\s*(?:$|\{|\[\s*(?:$|[\[{\"\]0-9-]|true|false|null))")


def complain(what: object) -> None:
    """One line on standard error."""
    click.echo(f"nvme-emu: {' '.join(str(what).split()) or type(what).__name__}", err=True)


class JsonCommand(click.Command):
    """A command with `--json [FILE]`: see the head of this module."""

    takes_json_files = False
    """Whether arguments may end in .json; then the output's FILE is given as --json=FILE only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with the word behind --json put where it belongs."""
        arguments = any(isinstance(param, click.Argument) for param in self.params)
        options = [param for param in self.params if isinstance(param, click.Option)]
        words, left = [], list(args)
        while left:
            word = left.pop(0)
            if word == "--":
                words += [word, *left]
                break
            if word == "--json":
                word = "--json=-"
                behind = left[0] if left else "-"
                meant = not arguments or (behind.endswith(".json") and not self.takes_json_files)
                if left and (behind == "-" or (meant and not behind.startswith("-"))):
                    word = f"--json={left.pop(0)}"
            elif word == "--check" and any(param.name == "check" and not param.is_flag for param in options):
                # --check JOB.fio checks and runs the job: only a level belongs to it.
                word = f"--check={left.pop(0)}" if left and left[0] in ("warn", "error") else "--check=error"
            words.append(word)
        return super().parse_args(ctx, words)


def json_option(text: str) -> Callable[[_F], _F]:
    """`--json [FILE]` as the parameter json_file: None, "-" for standard output, or a path."""
    return click.option("--json", "json_file", metavar="[FILE]", is_flag=False, flag_value="-", help=text)


def quiet_option(text: str = "No notes on standard error.") -> Callable[[_F], _F]:
    """`--quiet` as the parameter quiet."""
    return click.option("--quiet", "-q", is_flag=True, help=text)


def printer(**options: Any) -> Console:
    """rich's Console on standard output; a reader that has gone is a BrokenPipeError, as for print."""
    from rich.console import Console

    class Printer(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Printer(highlight=False, **options)


def check_output(path: str | None, *, inputs: Iterable[str | None] = (), json: bool = False) -> None:
    """Nothing for a file that may be written. None and "-" are none.

    ValueError where it would replace an input, a job file or (with ``json``) anything that is not JSON; OSError
    where it cannot be written.
    """
    if path in (None, "-"):
        return
    target = Path(str(path))
    if not target.parent.is_dir():
        raise OSError(f"{path}: there is no folder {target.parent}")
    if target.is_dir():
        raise OSError(f"{path}: it is a folder")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise OSError(f"{path}: it cannot be written")
    if not target.is_file():
        return
    for one in inputs:
        if one not in (None, "-") and os.path.exists(str(one)) and os.path.samefile(str(one), target):
            raise ValueError(f"{path}: the output would replace what is read here")
    with target.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if target.suffix == ".fio" or _JOB_FILE.match(head):
        raise ValueError(f"{path} is a job file: the output would replace it")
    if json and not _JSON_FILE.match(head):
        raise ValueError(f"{path} exists and is not JSON: the output would replace it")


def write_json(text: str, json_file: str) -> None:
    """JSON to standard output ("-") or to a file, with one line end behind it. OSError, naming the file."""
    text = text if text.endswith("\n") else text + "\n"
    if json_file == "-":
        click.echo(text, nl=False)
    else:
        Path(json_file).write_text(text, encoding="utf-8")
