"""The command line of the fuzzers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from fuzzing import controller, files, tcp, vfio_user
from fuzzing.runner import Case, Result, fuzz, make_finding, run_case, write_finding

__all__ = ["TARGETS", "main"]

TARGETS: dict[str, Case] = {
    "controller": controller.case,
    "tcp": tcp.case,
    "vfio-user": vfio_user.case,
    "files": files.case,
}
EXIT_FOUND, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="fuzz.py",
        description="Throw wrong input at the emulated SSD, and say what broke. docs/testing.md tells what is checked.",
        epilog="Exit codes: 0 nothing found, 1 something broke, 2 bad usage, 130 interrupted.",
    )
    made.add_argument("target", choices=[*TARGETS, "all"], help="what to attack")
    made.add_argument("--seconds", type=float, default=60.0, metavar="N", help="for so long each (default 60)")
    made.add_argument("--cases", type=int, metavar="N", help="so many inputs each, however long it takes")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="which inputs (default 0)")
    made.add_argument("--engine", choices=["random", "atheris"], default="random", help="how inputs are made")
    made.add_argument("--replay", type=Path, metavar="FILE", help="run this one input")
    made.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where inputs that break something go")
    made.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the result as JSON, to FILE or stdout")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    given = parser().parse_args(arguments)
    console = Console(stderr=True)
    if given.replay is not None:
        return _replay(given.target, given.replay, console)
    if given.engine == "atheris":
        from fuzzing.guided import run_atheris

        return run_atheris(given.target, TARGETS, given.seconds, given.seed, console)
    names = list(TARGETS) if given.target == "all" else [given.target]
    results: list[Result] = []
    interrupted = False
    for name in names:
        try:
            _watch(name, given, console, results)
        except KeyboardInterrupt:
            interrupted = True
            break
    _report(results, given, console)
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FOUND if any(result.findings for result in results) else 0


def _watch(name: str, given: argparse.Namespace, console: Console, results: list[Result]) -> None:
    """Run one target with its progress shown."""
    columns = TextColumn("{task.description}"), TextColumn("{task.completed:.0f} cases"), TimeElapsedColumn()
    result = Result(name, given.seed)
    results.append(result)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)

        def show(now: Result) -> None:
            result.cases, result.seconds = now.cases, now.seconds
            progress.update(task, completed=now.cases)

        limit = None if given.cases is not None else given.seconds
        done = fuzz(name, TARGETS[name], given.seed, seconds=limit, cases=given.cases, progress=show)
        results[-1] = done
        progress.update(task, completed=done.cases)


def _report(results: list[Result], given: argparse.Namespace, console: Console) -> None:
    for result in results:
        console.print(
            f"{result.target}: {result.cases} cases in {result.seconds:.1f} s with seed {result.seed}, "
            + (f"{len(result.findings)} finding" if result.findings else "nothing found"),
            highlight=False,
        )
        for finding in result.findings:
            path = write_finding(finding, given.dir)
            console.print(finding.trace, markup=False, highlight=False)
            console.print(f"replay: python tools/fuzz.py {finding.target} --replay {path}", highlight=False)
    if given.json is not None:
        text = json.dumps({"version": 1, "results": [_as_plain(result) for result in results]}, indent=2)
        if given.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(given.json).write_text(text + "\n", encoding="utf-8")


def _as_plain(result: Result) -> dict[str, object]:
    return {
        "target": result.target,
        "seed": result.seed,
        "cases": result.cases,
        "seconds": round(result.seconds, 3),
        "findings": [{"input": one.data.hex(), "error": one.error, "trace": one.trace} for one in result.findings],
    }


def _replay(target: str, path: Path, console: Console) -> int:
    if target == "all":
        console.print("fuzz.py: --replay needs the target that the input is for")
        return EXIT_USAGE
    try:
        data = path.read_bytes()
    except OSError as problem:
        console.print(f"fuzz.py: {path}: {problem.strerror}", highlight=False)
        return EXIT_USAGE
    error = run_case(TARGETS[target], data)
    if error is None:
        console.print(f"{path}: nothing is wrong with it", highlight=False)
        return 0
    console.print(make_finding(target, TARGETS[target], data, error).trace, markup=False, highlight=False)
    return EXIT_FOUND
