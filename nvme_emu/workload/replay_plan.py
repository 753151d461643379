"""From a log to the blocks of a job: the files it needs, how far it reaches, its operations in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvme_emu.workload.jobfile import JobSection
from nvme_emu.workload.pattern import FLUSH, READ, TRIM, WRITE, Extent, Operation, PatternSpec
from nvme_emu.workload.plan import BlockSizes
from nvme_emu.workload.replay import Recorded, Recording, Replay, ReplayError, read_recording

__all__ = ["LogReader", "block_sizes", "bytes_needed", "file_names", "replay_of", "replay_pattern"]

REACH_MAX = 1 << 50
"""Bytes of a namespace that a log may reach; a damaged offset is an error with its line."""
TRANSFER_MAX = 1 << 30
"""Bytes of a read or write, as for bs."""
_SKIPPED = {"read": READ, "write": WRITE, "trim": TRIM, "sync": FLUSH}
_VERBS = ("read", "write", "trim", "flush")


class LogReader:
    """Reads each log once, however many clones replay it, and applies the job's replay_* options."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, int], Recording] = {}

    def recording(self, section: JobSection, lba_size: int) -> Recording:
        """The section's log as the options want it. ReplayError if it cannot be replayed."""
        place = section.place_of("read_iolog")
        for name in ("verify", "offset", "offset_increment"):
            if section.get(name) not in (0, "none"):
                raise ReplayError(f"{section.place_of(name)}: {name} cannot be combined with read_iolog")
        path = _find(section.get("read_iolog"), section.place)
        if path is None:
            raise ReplayError(f"{place}: read_iolog: there is no file '{section.get('read_iolog')}'")
        key = (str(path), lba_size)
        if key not in self._read:
            self._read[key] = read_recording(path, lba_size)
        recording = self._read[key]
        skipped = {_SKIPPED[word] for word in section.get("replay_skip")}
        wanted = (one for one in recording.operations if one.direction not in skipped)
        kept = [_placed(recording, one, section) for one in wanted]
        if not kept:
            where = section.place_of("replay_skip")
            raise ReplayError(f"{where}: replay_skip leaves nothing of {path} to replay")
        return Recording(recording.path, lba_size, kept, recording.files, recording.notes)


def _find(name: str, place: str) -> Path | None:
    """fio looks in the working directory; beside the job file is where people keep them."""
    folder = Path(place.rpartition(":")[0]).parent
    return next((path for path in (Path(name), folder / name) if path.is_file()), None)


def _placed(recording: Recording, one: Recorded, section: JobSection) -> Recorded:
    """The operation with replay_scale, replay_align and replay_time_scale applied, on whole blocks."""
    offset, align = one.offset // section.get("replay_scale"), section.get("replay_align")
    if align:
        offset -= offset % align
    for value, what in ((offset, "offset"), (one.nbytes, "length")):
        if value % recording.lba_size:
            block = f"is not a multiple of the logical block of {recording.lba_size} bytes"
            raise recording.error(one.line, f"{what} {value} {block}")
    if offset + one.nbytes > REACH_MAX:
        verb = _VERBS[one.direction]
        raise recording.error(one.line, f"{verb} at byte {offset}: a file may have at most 1 PiB")
    if one.direction == TRIM and one.nbytes // recording.lba_size > 0xFFFF_FFFF:
        raise recording.error(one.line, f"trim of {one.nbytes} bytes: a range has at most 2^32-1 blocks")
    if one.direction in (READ, WRITE) and one.nbytes > TRANSFER_MAX:
        verb = _VERBS[one.direction]
        raise recording.error(one.line, f"{verb} of {one.nbytes} bytes is larger than 1 GiB")
    return one._replace(offset=offset, at_ns=one.at_ns * 100 // section.get("replay_time_scale"))


def file_names(section: JobSection, recording: Recording) -> list[str]:
    """The files of a replaying job: those of its log, unless replay_redirect names one for all."""
    return [section.get("replay_redirect")] if section.get("replay_redirect") else recording.files


def bytes_needed(recording: Recording, files: int) -> list[int]:
    """How far the log reaches into each of the job's files; a job with one file does everything there."""
    reach = [0] * files
    for one in recording.operations:
        number = one.file if files > 1 else 0
        reach[number] = max(reach[number], one.offset + one.nbytes)
    return reach


def replay_of(
    section: JobSection, recording: Recording, extents: Sequence[Extent], names: Sequence[str]
) -> Replay:
    """The job's operations in blocks. ReplayError, with the log's line, for one that leaves its file."""
    size, several = recording.lba_size, len(extents) > 1
    operations: list[Operation] = []
    for one in recording.operations:
        number = one.file if several else 0
        extent, slba, nlb = extents[number], one.offset // size, one.nbytes // size
        if slba + nlb > extent.nlb:
            raise recording.error(
                one.line,
                f"{_VERBS[one.direction]} of {one.nbytes} bytes at byte {one.offset} leaves {names[number]}, "
                f"which has {extent.nlb * size} bytes",
            )
        operations.append((one.direction, extent.slba + slba if nlb else 0, nlb, one.at_ns))
    return Replay(operations=tuple(operations), timed=not section.get("replay_no_stall"))


def block_sizes(recording: Recording) -> BlockSizes:
    """(minimum, maximum) in bytes of the log's reads, writes and trims; one block where it has none."""
    bounds = []
    for direction in (READ, WRITE, TRIM):
        sizes = {one.nbytes for one in recording.operations if one.direction == direction}
        bounds.append((min(sizes, default=recording.lba_size), max(sizes, default=recording.lba_size)))
    return bounds[0], bounds[1], bounds[2]


def replay_pattern(recording: Recording, extents: tuple[Extent, ...], seed: int) -> PatternSpec:
    """The bounds of a replaying job as a pattern: its directions, places and largest transfers."""
    used = {one.direction for one in recording.operations}
    direction = "rw"
    if not {READ, WRITE} <= used:
        direction = "read" if READ in used else "write" if used & {WRITE, FLUSH} else "trim"
    size = recording.lba_size
    read, write, _ = ((low // size, high // size) for low, high in block_sizes(recording))
    # A trim moves no data: a large one needs no large buffer.
    return PatternSpec(direction=direction, extents=extents, nlb=(read, write, (1, 1)), seed=seed)
