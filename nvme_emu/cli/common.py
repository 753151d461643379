"""What the smaller commands share: exit codes and one-line complaints."""

from __future__ import annotations

import click

__all__ = ["EXIT_ERRORS", "EXIT_INTERRUPTED", "EXIT_USAGE", "complain"]

EXIT_ERRORS, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def complain(what: object) -> None:
    """One line on standard error."""
    click.echo(f"nvme-emu: {' '.join(str(what).split()) or type(what).__name__}", err=True)
