"""What the commands with nvme-cli's names have in common: their options, their answers, how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from nvme_emu.cli.nvme_target import open_target

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

    _IntParam = click.ParamType[int]
else:
    _IntParam = click.ParamType  # generic from click 8.3 on only

__all__ = ["DEVICE", "Answer", "Number", "lines_of", "nsid_of", "nsid_option", "word"]

DEVICE = "nvme0"
"""What the controller is called where nvme-cli names one."""


class Number(_IntParam):
    """A number as nvme-cli takes it: decimal, or hexadecimal with 0x."""

    name = "NUM"

    def __init__(self, high: int) -> None:
        self._high = high

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            number = value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not 0 <= number <= self._high:
            self.fail(f"{value} is not from 0 to {self._high:#x}", param, ctx)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command found: its JSON form, the raw bytes (None where there are none), and lines of text."""

    data: Any
    raw: bytes | None
    lines: list[str]


def word(
    name: str,
    example: str,
    *options: Any,
    default: str | None = None,
    plugin: str = "",
    opener: Callable[[str], AbstractContextManager[Any]] = open_target,
) -> Callable[[Any], click.Command]:
    """Make a click command of a function (target, options) -> Answer; ``example`` is what follows its TARGET.

    ``plugin`` is what stands in front of its name; ``opener`` makes a target of TARGET.
    """
    said = f"{plugin} {name}".strip()
    epilog = (
        f"\b\nExamples:\n  nvme-emu {said} disk.img{example}\n  nvme-emu {said} /tmp/ssd.sock{example} -o json\n\n"
        "\b\nTARGET: an image file, the --rpc socket of a running SSD, nvme-tcp://HOST:PORT/NQN,\n"
        "vfio-user:///PATH, or mem (a fresh SSD in memory).\n\n"
        "\b\nExit codes: 0 done; 1 the device refused; 2 bad usage, or a target that cannot be used."
    )

    def make(fn: Callable[..., Answer]) -> click.Command:
        def run(target: str, output_format: str, json_file: str | None, quiet: bool, **given: Any) -> int:
            return _run(fn, opener, target, "json" if json_file == "-" else output_format, json_file, given)

        run.__doc__ = fn.__doc__
        command: Any = run
        for option in options:
            command = option(command)
        command = quiet_option()(command)
        command = json_option("The same as -o json; or besides to FILE.json (any other FILE as --json=FILE).")(command)
        command = click.option(
            "-o",
            "--output-format",
            type=click.Choice(("normal", "json", "binary")),
            default="normal",
            show_default=True,
            help="JSON has nvme-cli's keys and values; binary is the structure's bytes.",
        )(command)
        # A default of None, given by name, is a value for click: the target would not be missing.
        given = {"required": True} if default is None else {"default": default}
        command = click.argument("target", metavar="TARGET", **given)(command)
        settings = {"help_option_names": ["-h", "--help"]}
        made: click.Command = click.command(name, cls=JsonCommand, epilog=epilog, context_settings=settings)(command)
        return made

    return make


def _run(
    fn: Callable[..., Answer],
    opener: Callable[[str], AbstractContextManager[Any]],
    text: str,
    output_format: str,
    json_file: str | None,
    given: dict[str, Any],
) -> int:
    from nvme_emu.core.errors import CommandError
    from nvme_emu.observe.rpc_core import RpcError

    try:
        check_output(json_file, inputs=[text], json=True)
        with opener(text) as target:
            answer = fn(target, **given)
    except CommandError as error:
        complain(f"{text}: {error}")
        return EXIT_ERRORS
    except RpcError as error:
        complain(f"{text}: {error.message}")
        return EXIT_ERRORS
    except (ValueError, OSError) as error:
        complain(error if text in str(error) else f"{text}: {error}")
        return EXIT_USAGE
    form = json.dumps(answer.data, indent=2, separators=(",", ":"))
    if json_file not in (None, "-"):
        write_json(form, str(json_file))
    if output_format == "binary":
        if answer.raw is None:
            complain("this command has no binary form")
            return EXIT_USAGE
        sys.stdout.buffer.write(answer.raw)
        sys.stdout.buffer.flush()
    elif output_format == "json":
        click.echo(form)
    else:
        click.echo("\n".join(answer.lines))
    return 0


# --- text ---------------------------------------------------------------------------------------------------

_HEX_KEYS = (
    "vid ssvid cmic cntlid ver rtd3r rtd3e oaes ctratt rrls oacs frmw lpa avscc apsta rpmbs hctma sanicap sqes cqes "
    "oncs fuses fna vwc ocfs sgls nsfeat flbas mc dpc dps nmic rescap fpi nsze ncap nuse flags"
)
_HEX = frozenset(_HEX_KEYS.split())


def text_of(key: str, value: Any) -> str:
    return f"{value:#x}" if key in _HEX and isinstance(value, int) else str(value)


def lines_of(title: str, data: dict[str, Any]) -> list[str]:
    """Aligned ``key : value`` lines; a list of objects is a line each."""
    width = max(len(key) for key in data)
    lines = [title]
    for key, value in data.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                inner = " ".join(f"{name}:{text_of(name, one)}" for name, one in item.items())
                lines.append(f"{key[:-1]} {index:>2} : {inner}")
        else:
            lines.append(f"{key:<{width}} : {text_of(key, value)}".rstrip())
    return lines


def nsid_of(target: Target, given: int | None) -> int:
    """The namespace that is meant: as given, else the first active one. ValueError if there is none."""
    from nvme_emu.observe.target import active_namespaces

    if given is not None:
        return given
    found = active_namespaces(target)
    if not found:
        raise ValueError("the controller has no active namespace; give one with -n")
    return found[0]


nsid_option = click.option("-n", "--namespace-id", "nsid", type=Number(0xFFFF_FFFF), help="[default: the first]")
