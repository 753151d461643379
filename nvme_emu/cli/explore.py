"""`nvme-emu explore TEST`: a test under very many schedules."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.common import EXIT_ERRORS, EXIT_INTERRUPTED, EXIT_USAGE, check_output, complain
from nvme_emu.cli.explore_show import finding_lines, slug_of, write_schedule

if TYPE_CHECKING:
    from nvme_emu.testing.campaign import Campaign, Plan

__all__ = ["explore"]

STATE_DIR = Path(".nvme-explore")

_EPILOG = """\b
TEST is what pytest takes: a file, or FILE::test. Tests that use the fixture nvme_sim are run:
  def test_two_callers(nvme_sim):
      ssd = nvme_sim.open(mode="async")
      nvme_sim.together(lambda: ..., lambda: ...)

\b
Examples:
  nvme-emu explore tests/sim/test_x.py --seeds 100000
  nvme-emu explore tests/sim/test_x.py::test_abort --scheduler pct --keep-going
  nvme-emu explore tests/sim/test_x.py::test_abort --scheduler exhaustive --switches 2
  nvme-emu explore tests/sim/test_x.py --on dask://10.0.0.1:8786

\b
Exit codes:
  0    no run failed
  1    a run failed
  2    no such test, or bad usage
  130  interrupted; what was found so far is shown, and the same command goes on from there

docs/simulation.md tells how to choose a scheduler.
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("test")
@click.option("--seeds", type=click.IntRange(1), default=1000, show_default=True, help="How many runs.")
@click.option("--seed", "first", type=click.IntRange(0), default=0, show_default=True, help="The first seed.")
@click.option(
    "--scheduler",
    type=click.Choice(["random", "pct", "exhaustive"]),
    default="random",
    show_default=True,
    help="Who runs next: anybody; by priorities that change seldom (PCT); or all orders.",
)
@click.option(
    "--switches",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="exhaustive: at most so many switches that are not as it comes.",
)
@click.option(
    "--assume",
    type=click.Choice(["nothing", "named locks", "all locked"]),
    default="named locks",
    show_default=True,
    help="exhaustive: what may be left out because it cannot matter.",
)
@click.option("--jobs", "-j", type=click.IntRange(1), help="Processes; the number of processors without it.")
@click.option("--on", "cluster", metavar="dask://HOST:PORT", help="Run on a dask cluster.")
@click.option("--keep-going", "-k", is_flag=True, help="Do not stop at the first failure: collect all kinds.")
@click.option("--fresh", is_flag=True, help="Forget what an earlier call of this command has done.")
@click.option(
    "--json", "json_file", metavar="[FILE]", is_flag=False, flag_value="-", help="JSON to standard output, or to FILE."
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, only what was found.")
def explore(
    test: str,
    seeds: int,
    first: int,
    scheduler: str,
    switches: int,
    assume: str,
    jobs: int | None,
    cluster: str | None,
    keep_going: bool,
    fresh: bool,
    json_file: str | None,
    quiet: bool,
) -> int:
    """Run TEST under many schedules, on all processors, and show the smallest schedule that fails."""
    from nvme_emu.testing.campaign import CampaignError, Plan, find_tests

    if cluster is not None and not cluster.startswith("dask://"):
        complain(f"--on {cluster}: it is dask://HOST:PORT")
        return EXIT_USAGE
    try:
        check_output(json_file, inputs=[test.partition("::")[0]], json=True)
    except (OSError, ValueError) as error:
        complain(str(error))
        return EXIT_USAGE
    results: list[dict[str, Any]] = []
    code = 0
    try:
        tests, sources = find_tests(test)
        for one in tests:
            plan = Plan(
                test=one,
                scheduler=scheduler,
                seeds=seeds,
                first=first,
                switches=switches,
                assume=assume,
                keep_going=keep_going,
                sources=sources,
            )
            code = max(code, _one(plan, cluster, jobs, fresh, quiet, json_file != "-", results))
            if code == EXIT_INTERRUPTED:
                break
    except CampaignError as error:
        click.echo(f"nvme-emu: {error}", err=True)
        return EXIT_USAGE
    if json_file is not None:
        text = json.dumps({"version": 1, "scheduler": scheduler, "tests": results}, indent=2) + "\n"
        if json_file == "-":
            click.echo(text, nl=False)
        else:
            Path(json_file).write_text(text, encoding="utf-8")
    return code


def _one(
    plan: Plan,
    cluster: str | None,
    jobs: int | None,
    fresh: bool,
    quiet: bool,
    show: bool,
    results: list[dict[str, Any]],
) -> int:
    from nvme_emu.testing.campaign import Campaign, CampaignError, DaskWorkers, LocalWorkers

    state = STATE_DIR / f"{slug_of(plan.test)}-{plan.scheduler}-{plan.first}.json"
    if fresh:
        state.unlink(missing_ok=True)
    workers: LocalWorkers | DaskWorkers
    if cluster is not None:
        workers = DaskWorkers(plan.test, cluster)
    else:
        workers = LocalWorkers(plan.test, jobs)
    interrupted = False
    error: CampaignError | None = None
    campaign = Campaign(plan, workers, state)
    begin = time.monotonic()
    try:
        with _Progress(campaign, quiet) as progress:
            campaign.run(progress.update)
    except KeyboardInterrupt:
        interrupted = True
    except CampaignError as problem:
        error = problem
    finally:
        workers.close()
    if error is not None and not campaign.findings:
        raise error
    result = _result(campaign, time.monotonic() - begin, interrupted)
    results.append(result)
    if show:
        _show(campaign, result, not quiet)
    if error is not None:
        raise error
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_ERRORS if campaign.findings else 0


def _result(campaign: Campaign, took_s: float, interrupted: bool) -> dict[str, Any]:
    findings = []
    for number, finding in enumerate(campaign.findings, 1):
        path = STATE_DIR / f"{slug_of(campaign.plan.test)}-{campaign.plan.scheduler}-{number}.schedule"
        write_schedule(path, campaign.plan.test, finding)
        findings.append(
            {
                "signature": finding.signature,
                "message": finding.message,
                "seed": finding.seed,
                "run": finding.run,
                "seen": finding.seen,
                "switches": finding.switches,
                "schedule": finding.schedule,
                "schedule_file": str(path),
                "lines": finding.lines,
            }
        )
    return {
        "test": campaign.plan.test,
        "runs": campaign.runs,
        "resumed": campaign.resumed,
        "choices": campaign.choices,
        "cut": campaign.cut,
        "complete": campaign.complete,
        "interrupted": interrupted,
        "seconds": round(took_s, 3),
        "findings": findings,
    }


def _show(campaign: Campaign, result: dict[str, Any], everything: bool) -> None:
    plan = campaign.plan
    for finding, told in zip(campaign.findings, result["findings"], strict=True):
        click.echo("\n".join(finding_lines(plan.test, finding, Path(told["schedule_file"]))))
        click.echo()
    if not everything:
        return
    runs = f"{campaign.runs} runs" + (f" ({campaign.resumed} of them before)" if campaign.resumed else "")
    if campaign.cut:
        runs += f", {campaign.cut} of them cut short as twins of others"
    if campaign.findings:
        end = f"{len(campaign.findings)} kind(s) of failure"
    elif campaign.complete and plan.scheduler == "exhaustive":
        end = f"all orders with up to {plan.switches} switch(es) seen, no failure"
    elif campaign.complete:
        end = "no failure"
    else:
        end = "no failure so far; the same command goes on from here"
    click.echo(f"{plan.test}: {runs}, {plan.scheduler}: {end}")


class _Progress:
    """A line of progress on standard error, if that is a terminal."""

    def __init__(self, campaign: Campaign, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        console = Console(stderr=True)
        self._campaign = campaign
        self._begun, self._began_with = time.monotonic(), campaign.runs
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(campaign.plan.test.rpartition("::")[2], total=campaign.total, told="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def update(self) -> None:
        """Show how far it is."""
        campaign = self._campaign
        rate = (campaign.runs - self._began_with) / max(0.001, time.monotonic() - self._begun)
        told = f"{rate:.0f} runs/s, {len(campaign.findings)} failure(s)"
        if campaign.plan.scheduler == "exhaustive":
            told += f", {min(campaign.level, campaign.plan.switches)} switch(es)"
        self._bar.update(self._task, completed=campaign.runs, told=told)
