"""`nvme-emu replay TEST`: one run of a test again, looked at closely."""

from __future__ import annotations

import json
from pathlib import Path
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
from nvme_emu.cli.explore_show import read_schedule

__all__ = ["replay"]

_EPILOG = """\b
Examples:
  nvme-emu replay tests/sim/test_x.py::test_abort --seed 4711
  nvme-emu replay tests/sim/test_x.py::test_abort --schedule .nvme-explore/test_abort-random-1.schedule

\b
Exit codes:
  0  the run did not fail
  1  it failed
  2  no such test or file, or bad usage
"""


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("test")
@click.option("--seed", type=click.IntRange(0), help="Of the run, as explore or pytest told it.")
@click.option(
    "--scheduler", type=click.Choice(["random", "pct", "run-to-block"]), default="random", show_default=True,
    help="With --seed.",
)  # fmt: skip
@click.option("--schedule", "file", metavar="FILE", type=click.Path(path_type=Path), help="What explore has saved.")
@click.option("--shrink", is_flag=True, help="Look for a smaller schedule that fails in the same way.")
@json_option("JSON to standard output, or besides to FILE.json (any other FILE as --json=FILE).")
@quiet_option()
def replay(
    test: str, seed: int | None, scheduler: str, file: Path | None, shrink: bool, json_file: str | None, quiet: bool
) -> int:
    """Run TEST once more as it was run before, and show who ran when, the queues, and the last events."""
    from nvme_emu.testing.campaign import CampaignError, LocalWorkers

    if (seed is None) == (file is None):
        complain("give either --seed N or --schedule FILE")
        return EXIT_USAGE
    try:
        check_output(json_file, inputs=[None if file is None else str(file)], json=True)
    except (ValueError, OSError) as error:
        complain(error)
        return EXIT_USAGE
    workers = LocalWorkers(test, 1)
    try:
        if file is not None:
            saved = read_schedule(file)
            request: dict[str, Any] = {name: saved[name] for name in ("seed", "slack_ns", "schedule")}
        else:
            request = {"seed": seed, "scheduler": scheduler}
        answer = _ask(workers, {"do": "look", "shrink": shrink, **request})
    except (CampaignError, ValueError) as error:
        click.echo(f"nvme-emu: {error}", err=True)
        return EXIT_USAGE
    finally:
        workers.close()
    failure = answer["failure"]
    if json_file is not None:
        write_json(json.dumps(answer, indent=2), json_file)
        if json_file == "-":
            return EXIT_ERRORS if failure else 0
    click.echo(f"{answer['test']}: who ran when ({answer['switches']} switch(es))")
    click.echo("\n".join(answer["lines"]) + "\n")
    if answer["report"]:
        click.echo(answer["report"] + "\n")
    if failure is None:
        click.echo("the run did not fail")
        return 0
    click.echo(failure["traceback"].rstrip())
    click.echo(failure["text"])
    return EXIT_ERRORS


def _ask(workers: Any, request: dict[str, Any]) -> dict[str, Any]:
    import queue

    from nvme_emu.testing.campaign import CampaignError

    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    workers.ask(request, answers.put)
    while True:
        try:
            answer = answers.get(timeout=0.2)
            break
        except queue.Empty:
            continue
    if "error" in answer:
        raise CampaignError(answer["error"])
    return answer
