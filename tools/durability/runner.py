"""Many rounds: a process works on an image, is killed with SIGKILL, and another one looks at what is there."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import nvme_emu
from durability.child import FEATURE, look, saved_value, work

__all__ = ["LostError", "Result", "kills"]

LINES_MAX = 120
"""A process is killed after at most so many acknowledgements and announcements."""
SPIN_MAX = 4000
"""And a little later, so that the kill meets any place in the code."""


class LostError(AssertionError):
    """Something that was acknowledged is not there."""


@dataclass(slots=True)
class Result:
    """What was done in all rounds."""

    kills: int = 0
    flushes: int = 0
    fua: int = 0
    saved: int = 0
    writes: int = 0
    before_first_line: int = 0
    seed: int = 0


@dataclass(slots=True)
class _Model:
    """What may be found: of each block serial numbers, the last is that of the newest write; and saved values."""

    blocks: list[list[int]]
    saved: list[int]

    def hear(self, line: str, result: Result) -> None:
        what, *numbers = line.split()
        if what == "w":
            lba, serial = map(int, numbers)
            self.blocks[lba].append(serial)
            result.writes += 1
        elif what == "d":
            lba, serial = map(int, numbers)
            self.blocks[lba] = [serial]
            result.fua += 1
        elif what == "f":
            self.blocks = [serials[-1:] for serials in self.blocks]
            result.flushes += 1
        elif what == "p":
            self.saved.append(saved_value(int(numbers[0])))
        elif what == "s":
            self.saved = [saved_value(int(numbers[0]))]
            result.saved += 1

    def judge(self, found: dict[str, object]) -> None:
        """Raises LostError; what was found is the beginning of the next round."""
        blocks, saved = found["blocks"], found["saved"]
        assert isinstance(blocks, list)
        assert isinstance(saved, int)
        for lba, serial in enumerate(blocks):
            if serial not in self.blocks[lba]:
                what = "torn" if serial is None else f"of write {serial}"
                raise LostError(f"block {lba} is {what}, and must be of one of the writes {self.blocks[lba]}")
        if saved not in self.saved:
            raise LostError(f"feature {FEATURE:02X}h's saved value is {saved}, and must be one of {self.saved}")
        self.blocks, self.saved = [[serial] for serial in blocks], [saved]


def kills(path: Path, count: int, seed: int, blocks: int = 64, say: Callable[[str], None] | None = None) -> Result:
    """Work on the image at ``path``, which is made, and be killed ``count`` times. LostError names seed and round.

    The caller's process must have no threads: it forks.
    """
    result = Result(seed=seed)
    with nvme_emu.open(path, size="1M", mode="sync") as ssd:
        default = ssd.driver.admin.get_features(FEATURE, sel=2)
    model = _Model([[0] for _ in range(blocks)], [default])
    rng = Random(seed)
    for number in range(count):
        _kill_one(path, rng, (number + 1) << 20, blocks, model, result)
        try:
            model.judge(_looked(path, blocks))
        except LostError as error:
            raise LostError(f"seed {seed}, kill {number + 1} of {count}: {error}") from None
        result.kills += 1
        if say is not None and not result.kills % 100:
            say(f"{result.kills} kills")
    return result


def _forked(body: Callable[[int], None]) -> tuple[int, int]:
    """(pid, reading end of its pipe) of a process that runs ``body`` with the writing end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        body(writing)
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        os._exit(1)


def _kill_one(path: Path, rng: Random, first: int, blocks: int, model: _Model, result: Result) -> None:
    seed = rng.getrandbits(32)
    pid, reading = _forked(lambda out: work(str(path), seed, first, blocks, out))
    # One in ten is killed while it opens the image, the others in the midst of their work.
    wanted = rng.randrange(LINES_MAX) if rng.random() < 0.9 else -1
    heard = b""
    while heard.count(b"\n") < wanted:
        more = os.read(reading, 256)
        if not more:
            break
        heard += more
    for _ in range(rng.randrange(SPIN_MAX) if wanted >= 0 else rng.randrange(100 * SPIN_MAX)):
        pass
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    while more := os.read(reading, 65536):
        heard += more
    os.close(reading)
    if not os.WIFSIGNALED(status):
        raise LostError("the process ended by itself: see its standard error")
    lines = heard.decode().split("\n")[:-1]
    result.before_first_line += not lines
    for line in lines:
        model.hear(line, result)


def _looked(path: Path, blocks: int) -> dict[str, object]:
    def body(out: int) -> None:
        os.write(out, json.dumps(look(str(path), blocks)).encode())

    pid, reading = _forked(body)
    told = b""
    while more := os.read(reading, 65536):
        told += more
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if status:
        raise LostError("the image does not open: see standard error")
    found: dict[str, object] = json.loads(told)
    return found
