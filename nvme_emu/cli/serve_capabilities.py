"""`--power-states`, `--temperature-sensors` and `--track-allocation`: what a served SSD can do beyond the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["POWER_STATES", "capability_options", "capability_settings"]

POWER_STATES = ("one", "client")


def capability_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options."""
    for option in (
        click.option(
            "--track-allocation",
            is_flag=True,
            help="Know which blocks were written: DULBE, Get LBA Status, NUSE. Slower: no quick path.",
        ),
        click.option(
            "--temperature-sensors",
            type=click.IntRange(0, 8),
            default=0,
            show_default=True,
            help="Sensors beside the composite temperature, with thresholds of their own.",
        ),
        click.option(
            "--power-states",
            type=click.Choice(POWER_STATES),
            default="one",
            show_default=True,
            help="client: five, as client drives have, two of them without I/O (Linux uses APST then).",
        ),
    ):
        command = option(command)
    return command


def capability_settings(power_states: str, temperature_sensors: int, track_allocation: bool) -> dict[str, Any]:
    """The fields of ControllerConfig that they stand for."""
    from nvme_emu.controller.power_states import CLIENT_POWER_STATES

    return {
        "power_states": CLIENT_POWER_STATES if power_states == "client" else (),
        "temperature_sensors": temperature_sensors,
        "track_allocation": track_allocation,
    }
