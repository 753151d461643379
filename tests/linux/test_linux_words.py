"""`nvme WORD -o json` in a guest and `nvme-emu WORD -o json` over the server's socket say the same of one device."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from linux_guest_lib.server import program
from linuxguest import Attached, attached, over_tcp

SIZE = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """``guest`` and ``ours`` are what stands behind the word; ``moves`` are keys whose values may differ.

    Those are read from the guest twice, before and after ours, and ours has to lie between.
    """

    name: str
    guest: str
    ours: str = ""
    moves: frozenset[str] = frozenset()


COUNTERS = frozenset(
    {
        "data_units_read", "data_units_written", "host_read_commands", "host_write_commands", "controller_busy_time",
        "power_on_hours", "warning_temp_time", "critical_comp_time", "host_read_cmds", "host_write_cmds",
        "media_units_written",
    }
)  # fmt: skip

CLOCK = frozenset({"timestamp"})
"""Also its text, which the second may have changed: see `same`."""

# FID: what stands behind it. The features that a controller of ours has; those that are not there are refused by both.
FEATURES = {
    1: "", 2: "", 4: "", 5: "-n 1", 6: "", 7: "", 8: "", 9: "", 10: "", 11: "", 12: "", 14: "", 16: "", 17: "", 21: "",
    22: "", 23: "", 24: "-c 1", 25: "", 129: "-c 1", 130: "-n 1", 131: "-n 1", 132: "-n 1",
}  # fmt: skip

WORDS = [
    Word(name="id-ctrl", guest="/dev/nvme0"),
    Word(name="id-ns", guest="/dev/nvme0n1", ours="-n 1"),
    Word(name="list-ns", guest="/dev/nvme0"),
    Word(name="list-ns", guest="/dev/nvme0 --all", ours="--all"),
    Word(name="ns-descs", guest="/dev/nvme0n1", ours="-n 1"),
    Word(name="smart-log", guest="/dev/nvme0", moves=COUNTERS),
    Word(name="error-log", guest="/dev/nvme0"),
    Word(name="error-log", guest="/dev/nvme0 -e 4", ours="-e 4"),
    Word(name="fw-log", guest="/dev/nvme0"),
    Word(name="effects-log", guest="/dev/nvme0 -c 0"),
    Word(name="list", guest=""),
    Word(name="ana-log", guest="/dev/nvme0"),
    Word(name="ana-log", guest="/dev/nvme0 -g", ours="-g"),
    Word(name="endurance-log", guest="/dev/nvme0 -g 1", ours="-g 1", moves=COUNTERS),
    Word(name="endurance-event-agg-log", guest="/dev/nvme0 -e 1", ours="-e 1"),
    Word(name="list-ctrl", guest="/dev/nvme0"),
    Word(name="list-ctrl", guest="/dev/nvme0 -n 1", ours="-n 1"),
    Word(name="list-endgrp", guest="/dev/nvme0"),
    Word(name="changed-ns-list-log", guest="/dev/nvme0"),
    Word(name="supported-log-pages", guest="/dev/nvme0"),
    Word(name="fid-support-effects-log", guest="/dev/nvme0"),
    Word(name="self-test-log", guest="/dev/nvme0"),
    Word(name="sanitize-log", guest="/dev/nvme0"),
    Word(name="lba-status-log", guest="/dev/nvme0"),
    Word(name="resv-notif-log", guest="/dev/nvme0"),
    *(
        Word(name="get-feature", guest=f"/dev/nvme0 -f {fid} {more}", ours=f"-f {fid} {more}", moves=CLOCK)
        for fid, more in FEATURES.items()
    ),
    *(
        Word(name="get-feature", guest=f"/dev/nvme0 -f {fid} -s {sel}", ours=f"-f {fid} -s {sel}")
        for fid in (4, 6)
        for sel in (1, 2, 3)
    ),
]  # fmt: skip


class Both:
    """The guest's nvme-cli, and ours over the socket."""

    def __init__(self, ssd: Attached, socket: Path) -> None:
        self.ssd, self.socket = ssd, socket

    def theirs(self, word: Word) -> Any:
        return json.loads(self.ssd.check(f"nvme {word.name} {word.guest} -o json 2>/dev/null"))

    def ours(self, word: Word) -> Any:
        command = [*program(), word.name, str(self.socket), *word.ours.split(), "-o", "json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.fixture(scope="module")
def both(buildable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    socket = tmp_path_factory.mktemp("rpc") / "rpc.sock"
    more = ["--ana-groups", "1", "--power-states", "client", "--temperature-sensors", "2"]
    with attached("--size", str(SIZE), "--rpc", str(socket), *more) as ssd:
        # Something to tell of: I/O, a command that fails, a feature that differs from its default.
        ssd.check("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=4 oflag=direct status=none")
        ssd.run(f"nvme read /dev/nvme0n1 -s {SIZE // 512} -c 0 -z 512")
        ssd.check("nvme set-feature /dev/nvme0 -f 4 -V 0x150; nvme set-feature /dev/nvme0 -f 0x10 -V 0x01400150")
        ssd.check("nvme write-uncor /dev/nvme0n1 -s 9000 -c 3; nvme device-self-test /dev/nvme0 -n 1 -s 1; sleep 3")
        yield Both(ssd, socket)


def moment(text: str) -> time.struct_time:
    """When a timestamp's text says."""
    return time.strptime(text, "%a %b %d %H:%M:%S %Y UTC")


def same(theirs: Any, ours: Any, later: Any, moves: frozenset[str], where: str = "") -> Iterator[str]:
    """What differs: keys, their order, values and their kinds."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if list(theirs) != list(ours):
            yield f"{where}: keys {[k for k in theirs if k not in ours]} against {[k for k in ours if k not in theirs]}"
        for key in theirs:
            if key in ours:
                yield from same(theirs[key], ours[key], later[key], moves, f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield f"{where}: {len(theirs)} entries against {len(ours)}"
        for number, (one, other, again) in enumerate(zip(theirs, ours, later, strict=False)):
            yield from same(one, other, again, moves, f"{where}[{number}]")
    elif where.endswith(".timestamp string"):
        if not moment(theirs) <= moment(ours) <= moment(later):
            yield f"{where}: {ours!r} is not from {theirs!r} to {later!r}"
    elif where.rpartition(".")[2] in moves:
        if type(theirs) is not type(ours) or not int(theirs) <= int(ours) <= int(later):
            yield f"{where}: {ours!r} is not from {theirs!r} to {later!r}"
    elif type(theirs) is not type(ours) or theirs != ours:
        yield f"{where}: {theirs!r} against {ours!r}"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: f"{word.name} {word.ours}".strip())
def test_word_says_what_nvme_cli_says_in_the_guest(both: Both, word: Word) -> None:
    before, ours, after = both.theirs(word), both.ours(word), both.theirs(word)
    assert list(same(before, ours, after, word.moves)) == []


def test_feature_that_is_not_there_is_refused_by_both(both: Both) -> None:
    assert both.ssd.run("nvme get-feature /dev/nvme0 -f 0x7f -o json").status != 0
    command = [*program(), "get-feature", str(both.socket), "-f", "0x7f", "-o", "json"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 1


def test_show_regs_says_what_nvme_cli_says_over_tcp(buildable: None, tmp_path: Path) -> None:
    """Over PCI Express this kernel lets nobody map the properties; over fabrics they are commands."""
    socket = tmp_path / "rpc.sock"
    with over_tcp("--size", str(SIZE), "--rpc", str(socket)) as linux:
        linux.connect()
        both, word = Both(linux, socket), Word(name="show-regs", guest="/dev/nvme0")
        theirs, ours = both.theirs(word), both.ours(word)
    assert list(same(theirs, ours, theirs, frozenset())) == []
    assert theirs["csts"] == 1 and theirs["aqa"] == -1
