"""`nvme-emu ctl SOCKET METHOD`: ask or change a running `serve` or `run`."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, TextIO

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

__all__ = ["ctl"]

_EPILOG = """\b
Examples:
  nvme-emu ctl /tmp/ssd.sock rpc.discover
  nvme-emu ctl /tmp/ssd.sock stats.get
  nvme-emu ctl /tmp/ssd.sock health.set temperature_k=360
  nvme-emu ctl /tmp/ssd.sock events.subscribe events='["post_cqe"]' qid=1 --count 100

\b
Exit codes:
  0    done
  1    the method answered with an error
  2    bad usage, or nobody answers at SOCKET
  130  interrupted

A value is JSON where it is (1, true, null, "text", [...]), else text. Without a METHOD the methods are listed.
"""


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("socket", metavar="SOCKET")
@click.argument("method", metavar="METHOD", required=False)
@click.argument("params", metavar="[KEY=VALUE]…", nargs=-1)
@json_option("One line of JSON, for scripts, to standard output or FILE.json (any other FILE as --json=FILE).")
@click.option("--count", type=click.IntRange(1), help="With events.subscribe: end after so many events.")
@click.option("--timeout", type=click.FloatRange(0.01), default=10.0, show_default=True, help="Seconds to wait.")
@quiet_option()
def ctl(
    socket: str,
    method: str | None,
    params: tuple[str, ...],
    json_file: str | None,
    count: int | None,
    timeout: float,
    quiet: bool,
) -> int:
    """Call a method of a running SSD over its --rpc SOCKET and print the result as JSON."""
    from nvme_emu.observe.rpc_client import RpcClient, RpcError

    try:
        arguments = parse_params(params)
        check_output(json_file, json=True)
        with RpcClient(socket, timeout_s=timeout) as client:
            if method is None:
                _list_methods(client.call("rpc.discover"), json_file)
                return 0
            result = client.call(method, **arguments)
            if method == "events.subscribe":
                return _follow(client, count, quiet, json_file)
            _print(result, json_file)
    except RpcError as error:
        detail = "" if error.data is None else f" {json.dumps(error.data)}"
        complain(f"{error.message} (JSON-RPC {error.code}){detail}")
        return EXIT_ERRORS
    except TimeoutError:
        complain(f"{socket}: no answer within {timeout:g} s")
        return EXIT_USAGE
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        complain(f"{socket}: {error}" if isinstance(error, OSError) else error)
        return EXIT_USAGE
    return 0


def parse_params(words: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` words as parameters. ValueError for a word without a key, or a key that comes twice."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{word!r}: parameters are written key=value")
        if key in found:
            raise ValueError(f"{key} is given twice")
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


def _print(result: Any, json_file: str | None) -> None:
    if json_file is not None:
        write_json(json.dumps(result, separators=(",", ":")), json_file)
    else:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))


def _list_methods(description: Any, json_file: str | None) -> None:
    if json_file is not None:
        _print(description, json_file)
        return
    for method in description["methods"]:
        params = ", ".join(
            param["name"] if param["required"] else f"[{param['name']}]" for param in method["params"]
        )
        click.echo(f"{method['name']}({params})\n    {method['summary']}")


def _follow(client: Any, count: int | None, quiet: bool, json_file: str | None) -> int:
    """Print events, one a line, until there were ``count`` or the server ends."""
    with contextlib.ExitStack() as closing:
        out: TextIO = sys.stdout
        if json_file not in (None, "-"):
            out = closing.enter_context(open(str(json_file), "w", encoding="utf-8"))
        return _write_events(client, count, quiet, out)


def _write_events(client: Any, count: int | None, quiet: bool, out: TextIO) -> int:
    left = count
    while left is None or left > 0:
        try:
            batch = client.events()
        except ConnectionError:
            return 0
        events = batch["events"] if left is None else batch["events"][:left]
        if batch["dropped"] and not quiet:
            complain(f"{batch['dropped']} events were dropped: this reader was too slow for them")
        for event in events:
            out.write(json.dumps(event, separators=(",", ":")) + "\n")
        out.flush()
        if left is not None:
            left -= len(events)
    return 0
