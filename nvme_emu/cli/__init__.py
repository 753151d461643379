"""The command line. Commands live in modules of their own, which are imported when they are called.

Exit codes, everywhere: 0 done; 1 the workload or check found errors; 2 bad usage or input; 130 interrupted;
141 whoever read the output has gone (`| head`).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from nvme_emu import __version__
from nvme_emu.cli.common import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USAGE, complain

__all__ = ["LazyGroup", "cli", "main"]

# One line a command: module, the click command in it, what `nvme-emu --help` says. The help stands here
# so that listing the commands imports none of them (numpy alone takes a tenth of a second).
COMMANDS: dict[str, tuple[str, str, str]] = {
    "compare": ("nvme_emu.cli.compare", "compare", "Compare sync with async transfer, with a verdict."),
    "run": ("nvme_emu.cli.run", "run", "Run a fio job file on an emulated SSD."),
    "serve": ("nvme_emu.cli.serve", "serve", "Serve SSDs to virtual machines (vfio-user) and to NVMe/TCP hosts."),
    "top": ("nvme_emu.cli.top", "top", "Look at a workload, a running SSD or a trace as it goes."),
    "faults": ("nvme_emu.cli.faults", "faults", "Check files of fault rules."),
    "ctl": ("nvme_emu.cli.ctl", "ctl", "Ask or change a running SSD over its --rpc socket."),
    "list": ("nvme_emu.cli.nvme_words", "list_devices", "List an SSD's namespaces, as `nvme list`."),
    "id-ctrl": ("nvme_emu.cli.nvme_words", "id_ctrl", "Identify Controller."),
    "id-ns": ("nvme_emu.cli.nvme_words", "id_ns", "Identify Namespace."),
    "smart-log": ("nvme_emu.cli.nvme_words", "smart_log", "SMART / Health Information."),
    "error-log": ("nvme_emu.cli.nvme_words", "error_log", "Error Information: the commands that failed."),
    "get-feature": ("nvme_emu.cli.nvme_words", "get_feature", "A feature's value, explained."),
    "show-regs": ("nvme_emu.cli.nvme_words", "show_regs", "The controller's properties, explained."),
    "fw-log": ("nvme_emu.cli.nvme_words", "fw_log", "Firmware Slot Information."),
    "effects-log": ("nvme_emu.cli.nvme_words", "effects_log", "Commands Supported and Effects."),
    "list-ns": ("nvme_emu.cli.nvme_words", "list_ns", "The identifiers of the namespaces."),
    "ns-descs": ("nvme_emu.cli.nvme_words", "ns_descs", "The names of a namespace."),
    "ana-log": ("nvme_emu.cli.nvme_words_subsystem", "ana_log", "Asymmetric Namespace Access: groups and states."),
    "endurance-log": ("nvme_emu.cli.nvme_words_subsystem", "endurance_log", "Endurance Group Information."),
    "endurance-event-agg-log": (
        "nvme_emu.cli.nvme_words_subsystem",
        "endurance_event_agg_log",
        "Endurance Group Event Aggregate.",
    ),
    "list-endgrp": ("nvme_emu.cli.nvme_words_subsystem", "list_endgrp", "The endurance groups."),
    "list-ctrl": ("nvme_emu.cli.nvme_words_subsystem", "list_ctrl", "The controllers of the subsystem."),
    "changed-ns-list-log": ("nvme_emu.cli.nvme_words_subsystem", "changed_ns_list_log", "Changed namespaces."),
    "supported-log-pages": ("nvme_emu.cli.nvme_words_subsystem", "supported_log_pages", "Supported Log Pages."),
    "fid-support-effects-log": (
        "nvme_emu.cli.nvme_words_subsystem",
        "fid_support_effects_log",
        "Feature Identifiers Supported and Effects.",
    ),
    "self-test-log": ("nvme_emu.cli.nvme_logs", "self_test_log", "Device Self-test: running and past ones."),
    "sanitize-log": ("nvme_emu.cli.nvme_logs", "sanitize_log", "Sanitize Status."),
    "telemetry-log": ("nvme_emu.cli.nvme_logs", "telemetry_log", "Telemetry, of the host or the controller."),
    "persistent-event-log": ("nvme_emu.cli.nvme_logs", "persistent_event_log", "Persistent Event Log."),
    "lba-status-log": ("nvme_emu.cli.nvme_logs", "lba_status_log", "LBA Status Information: lost blocks."),
    "resv-notif-log": ("nvme_emu.cli.nvme_logs", "resv_notif_log", "Reservation Notification."),
    "get-lba-status": ("nvme_emu.cli.nvme_admin_words", "get_lba_status", "Get LBA Status: lost or allocated blocks."),
    "dir-receive": ("nvme_emu.cli.nvme_admin_words", "dir_receive", "Directive Receive."),
    "dir-send": ("nvme_emu.cli.nvme_admin_words", "dir_send", "Directive Send."),
    "security-recv": ("nvme_emu.cli.nvme_admin_words", "security_recv", "Security Receive."),
    "set-feature": ("nvme_emu.cli.nvme_admin_words", "set_feature", "Set a feature."),
    "zns": ("nvme_emu.cli.zns_words", "zns", "Zoned namespaces: report-zones, zone-append, reset-zone …"),
    "tour": ("nvme_emu.cli.tour", "tour", "Follow one write, step by step: first sync, then async."),
    "decode": ("nvme_emu.cli.decode", "decode", "Explain a pasted command, completion, register or page."),
    "explore": ("nvme_emu.cli.explore", "explore", "Run a driver's test under very many schedules."),
    "replay": ("nvme_emu.cli.replay", "replay", "Run a test again as it was run before, and look closely."),
    "trace": ("nvme_emu.cli.trace", "trace", "Show, convert, compare and measure traces."),
}


class _ReaderGone(Exception):
    """Whoever read standard output has gone."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None  # click would exit with 1

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 the workload or check found errors; 2 bad usage or input; 130 interrupted.",
)
@click.version_option(__version__, prog_name="nvme-emu")
def cli() -> None:
    """An NVMe SSD in software, with the driver that drives it through a kthread_worker.

    `nvme-emu COMMAND --help` tells more about a command.
    """


def main(args: Sequence[str] | None = None) -> Any:
    """The entry point. Exits the process with one of the documented codes."""
    _write_what_the_terminal_can()
    try:
        code = cli.main(
            args=None if args is None else list(args), prog_name="nvme-emu", standalone_mode=False
        )
        if sys.stdout is not None:
            # Here, where a reader that has gone can be told from other trouble, and not when Python ends.
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("nvme-emu: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except (_ReaderGone, BrokenPipeError):
        _drop_output()
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        # What no command has taken: standard output on a full disk.
        _drop_output()
        complain(error)
        sys.exit(EXIT_USAGE)
    sys.exit(code if isinstance(code, int) else 0)


def _write_what_the_terminal_can() -> None:
    """In a locale without our characters, question marks take their place: a command does not fail for them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Nobody takes what is left: Python would complain once more when it closes standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
