"""`--check[=warn|error]` and `--check-report FILE`: what `run`, `serve` and `compare` share of the checker."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nvme_emu.observe.checker.ledger import Ledger

__all__ = ["LEVELS", "check_option", "checked_environment", "quiet_checker", "report_option", "tell"]

LEVELS = ("warn", "error")

_F = TypeVar("_F", bound=Callable[..., Any])


def check_option(text: str) -> Callable[[_F], _F]:
    """`--check[=warn|error]` as the parameter check: None without it, "error" where nothing stands behind it."""
    return click.option(
        "--check", "check", metavar="[=warn|error]", type=click.Choice(LEVELS), is_flag=False, flag_value="error",
        help=text,
    )  # fmt: skip


def report_option() -> Callable[[_F], _F]:
    """`--check-report FILE` as the parameter check_report."""
    text = "Write what the checker found to FILE: .json, .sarif, else text. Implies --check=warn."
    return click.option("--check-report", metavar="FILE", help=text)


def tell(checkers: Sequence[Ledger], *, level: str, report: str | None, quiet: bool) -> bool:
    """Report on standard error and in a file; whether the command has to fail for what was found."""
    from nvme_emu.observe.checker.report import as_text, write_report

    if report is not None:
        write_report(checkers, report)
    for checker in checkers:
        if not quiet or checker.errors or checker.internal_error is not None:
            click.echo(as_text(checker), err=True)
    broke = any(checker.internal_error is not None for checker in checkers)
    return broke or (level == "error" and any(checker.errors for checker in checkers))


@contextlib.contextmanager
def quiet_checker() -> Iterator[None]:
    """The command tells what was found itself: no CheckerWarning besides."""
    from nvme_emu.observe.checker import CheckerWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckerWarning)
        yield


@contextlib.contextmanager
def checked_environment(level: str | None) -> Iterator[None]:
    """Every machine that is made meanwhile is checked, in processes that are started, too."""
    if level is None:
        yield
        return
    before = os.environ.get("NVME_EMU_CHECK")
    os.environ["NVME_EMU_CHECK"] = level
    try:
        yield
    finally:
        if before is None:
            del os.environ["NVME_EMU_CHECK"]
        else:
            os.environ["NVME_EMU_CHECK"] = before
