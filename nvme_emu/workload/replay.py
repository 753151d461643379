"""Reading what `read_iolog` names: fio's iolog, blkparse's text or our own trace, told apart by content.

Each becomes the same list of `Recorded` operations, in the order of the file. Formats:

* fio iolog, versions 2 and 3 (fio 3.33, iolog.c). Version 3 has microseconds in front of each line. Version 2
  has `wait`, whose number is milliseconds since the start: fio's code says so, its manual says otherwise.
* blkparse's default text. Issue events (D) are what reached the device; a log without any is replayed from
  its queue events (Q). Sectors are 512 bytes.
* JSON lines of `--trace` (observe.jsonl): `nvme_setup_cmd` and `nvme_dsm_ranges` on I/O queues.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nvme_emu.spec.opcodes import NvmOpcode, opcode_name
from nvme_emu.workload.pattern import BATCH, FLUSH, READ, TRIM, WRITE, Operation

__all__ = ["Recorded", "Recording", "Replay", "ReplayError", "read_recording"]

OPERATIONS_MAX = 20_000_000
"""Operations of one log, so that a file of the wrong kind is an error and not a machine out of memory."""
SECTOR = 512


class ReplayError(ValueError):
    """A log that cannot be replayed; the text begins with its name, and its line where one is to blame."""


class Recorded(NamedTuple):
    """One operation of a log: `at_ns` after its beginning, bytes of `files[file]`, and where it stands."""

    at_ns: int
    direction: int
    file: int
    offset: int
    nbytes: int
    line: int


@dataclass(slots=True)
class Recording:
    """A log as it was read: its operations, the files that they go to, and what the user should know."""

    path: str
    lba_size: int = 512
    operations: list[Recorded] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def file(self, name: str) -> int:
        """The number of a file, which is new if it was not named before."""
        if name not in self.files:
            self.files.append(name)
        return self.files.index(name)

    def add(self, at_ns: int, direction: int, file: int, offset: int, nbytes: int, line: int) -> None:
        """Append an operation. Its order counts: a time before the last one's is the last one's."""
        if self.operations:
            at_ns = max(at_ns, self.operations[-1].at_ns)
        if direction == FLUSH:
            offset = nbytes = 0
        elif nbytes == 0:
            raise self.error(line, "an operation of 0 bytes cannot be replayed")
        if len(self.operations) >= OPERATIONS_MAX:
            raise self.error(line, f"a log may have at most {OPERATIONS_MAX} operations")
        self.operations.append(Recorded(max(0, at_ns), direction, file, offset, nbytes, line))

    def error(self, line: int, message: str) -> ReplayError:
        return ReplayError(f"{self.path}:{line}: {message}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The operations of a replaying job, in blocks of its namespace; their tags are ns since a loop's start.

    Where `timed` is false, each begins as soon as the job can.
    """

    operations: tuple[Operation, ...]
    timed: bool = True

    def batches(self) -> Iterator[list[Operation]]:
        """All operations once, in lists as `pattern.operations` makes them."""
        for start in range(0, len(self.operations), BATCH):
            yield list(self.operations[start : start + BATCH])


def read_recording(path: Path, lba_size: int) -> Recording:
    """Read a log of any of the formats; `lba_size` is the block of a trace, which counts in blocks.

    ReplayError names file and line of what cannot be read, and says so if nothing is left to replay.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReplayError(f"{path}: cannot read the log: {error.strerror}") from None
    except UnicodeDecodeError as error:
        hint = "blktrace's binary files are turned into text by blkparse"
        raise ReplayError(f"{path}: not a log: byte {error.start} is not UTF-8 ({hint})") from None
    recording = Recording(str(path), lba_size)
    first = next((number for number, line in enumerate(lines, 1) if line.strip()), None)
    if first is None:
        raise ReplayError(f"{path}: the log is empty")
    parser = _recognise(recording, first, lines[first - 1].strip())
    parser(recording, [(number, line) for number, line in enumerate(lines, 1) if number >= first])
    if not recording.operations:
        raise ReplayError(f"{path}: the log has no read, write, trim or flush to replay")
    return recording


Lines = list[tuple[int, str]]


def _recognise(recording: Recording, number: int, head: str) -> Callable[[Recording, Lines], None]:
    if version := re.fullmatch(r"fio version (\d+) iolog", head):
        if version[1] not in ("2", "3"):
            raise recording.error(number, f"fio iolog version {version[1]}; versions 2 and 3 can be replayed")
        return _read_iolog_2 if version[1] == "2" else _read_iolog_3
    if head.startswith("{"):
        return _read_trace
    if _DEVICE.match(head) or head.startswith(_PREAMBLE):
        return _read_blkparse
    kinds = "'fio version 2 iolog' or '3', blkparse's text, or JSON lines of --trace"
    raise recording.error(number, f"'{head[:40]}' does not begin a log that can be replayed: {kinds}")


def _number(recording: Recording, line: int, text: str, what: str) -> int:
    # int() would take signs, underscores and digits of other scripts, which no log has.
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise recording.error(line, f"{what} '{text}' is not a number")
    return int(text)


# --- fio's iolog ----------------------------------------------------------------------------------------

_ACTIONS = {"read": READ, "write": WRITE, "trim": TRIM, "sync": FLUSH, "datasync": FLUSH}
_FILE_ACTIONS = ("add", "open", "close")


def _read_iolog_2(recording: Recording, lines: Lines) -> None:
    at_ns = 0
    for number, line in lines[1:]:
        words = line.split()
        if len(words) in (3, 4) and words[1] == "wait":
            at_ns = max(at_ns, _number(recording, number, words[2], "wait") * 1_000_000)
        elif words:
            _iolog_action(recording, number, words, at_ns)


def _read_iolog_3(recording: Recording, lines: Lines) -> None:
    start: int | None = None
    for number, line in lines[1:]:
        words = line.split()
        if not words:
            continue
        at_us = _number(recording, number, words[0], "time")
        start = at_us if start is None else start
        if words[2:3] == ["wait"]:
            raise recording.error(number, "version 3 of fio's iolog has no 'wait'")
        _iolog_action(recording, number, words[1:], (at_us - start) * 1000)


def _iolog_action(recording: Recording, line: int, words: list[str], at_ns: int) -> None:
    """`file action`, or `file action offset length`."""
    if len(words) == 2 and words[1] in _FILE_ACTIONS:
        return
    if len(words) != 4 or words[1] not in _ACTIONS:
        text, actions = " ".join(words), ", ".join((*_FILE_ACTIONS, *_ACTIONS))
        raise recording.error(line, f"'{text}' is not FILE ACTION [OFFSET LENGTH] with one of {actions}")
    name, action = words[:2]
    offset = _number(recording, line, words[2], "offset")
    nbytes = _number(recording, line, words[3], "length")
    recording.add(at_ns, _ACTIONS[action], recording.file(name), offset, nbytes, line)


# --- blkparse -------------------------------------------------------------------------------------------

_DEVICE = re.compile(r"\d+,\d+\s")
_PREAMBLE = ("Input file", "Trace started")
_SUMMARY = re.compile(r"(CPU\d+|Total) \(")
_EVENT = re.compile(
    r"(?P<device>\d+,\d+)\s+\d+\s+\d+\s+(?P<s>\d+)\.(?P<ns>\d{9})\s+\d+\s+(?P<action>[A-Za-z]+)"
    r"(?:\s+(?P<rwbs>[A-Z]+)(?:\s+(?P<sector>\d+)\s+\+\s+(?P<count>\d+))?)?(?:\s|$)",
    re.ASCII,
)


def _read_blkparse(recording: Recording, lines: Lines) -> None:
    events: list[tuple[int, re.Match[str]]] = []
    for number, line in lines:
        text = line.strip()
        if _SUMMARY.match(text):
            break
        if not text or text.startswith(_PREAMBLE):
            continue
        event = _EVENT.match(text)
        if event is None:
            raise recording.error(number, f"'{text[:60]}' is not a line of blkparse's default format")
        if event["action"] in ("D", "Q"):
            events.append((number, event))
    chosen = "D" if any(event["action"] == "D" for _, event in events) else "Q"
    start: int | None = None
    for number, event in events:
        if event["action"] != chosen:
            continue
        now = int(event["s"]) * 1_000_000_000 + int(event["ns"])
        start = now if start is None else start
        _block_event(recording, number, event, now - start)


def _block_event(recording: Recording, line: int, event: re.Match[str], at_ns: int) -> None:
    """RWBS (kernel: blk_fill_rwbs): F in front is a flush before the operation, which may be none."""
    rwbs = event["rwbs"] or ""
    sector, count = int(event["sector"] or 0), int(event["count"] or 0)
    file = recording.file(event["device"])
    if rwbs.startswith("F"):
        recording.add(at_ns, FLUSH, file, 0, 0, line)
    direction = {"R": READ, "W": WRITE, "D": TRIM}.get(rwbs.removeprefix("F")[:1])
    if direction is not None and count:
        recording.add(at_ns, direction, file, sector * SECTOR, count * SECTOR, line)


# --- our own trace --------------------------------------------------------------------------------------

_OPCODES = {NvmOpcode.READ: READ, NvmOpcode.WRITE: WRITE, NvmOpcode.FLUSH: FLUSH}
_DSM_NAME = opcode_name(NvmOpcode.DATASET_MANAGEMENT, False)
_QUOTED = ('"nvme_setup_cmd"', '"nvme_dsm_ranges"', '"trace_dropped"')
_EVERY_NAMESPACE = 0xFFFF_FFFF


def _read_trace(recording: Recording, lines: Lines) -> None:
    left_out: dict[str, int] = {}
    start: int | None = None
    row: object = None
    for number, line in lines:
        if not any(name in line for name in _QUOTED):
            if line.strip() and not line.startswith("{"):
                raise recording.error(number, f"'{line[:40]}' is not a JSON object")
            continue
        record = _record(recording, number, line)
        event = record.get("event")
        if event == "trace_dropped":
            dropped = record.get("dropped")
            recording.notes.append(f"{recording.path}:{number}: the trace lost its first {dropped} events")
        if event not in ("nvme_setup_cmd", "nvme_dsm_ranges"):
            continue
        ts_ns, qid, nsid = _fields(recording, number, record, ("ts_ns", "qid", "nsid"))
        if qid == 0:
            continue
        if start is None:
            start, row = ts_ns, record.get("row")
        if record.get("row") != row:
            runs = f"{row!r} and {record.get('row')!r}"
            raise recording.error(number, f"the trace holds several runs, {runs}; keep one")
        if event == "nvme_dsm_ranges":
            # The event of its command stands before it and was counted as one that is left out.
            _uncount(left_out, _DSM_NAME)
            for slba, nlb in _ranges(recording, number, record):
                _add(recording, ts_ns - start, TRIM, nsid, slba, nlb, number)
            continue
        opcode, slba, nlb = _fields(recording, number, record, ("opcode", "slba", "nlb"))
        direction = _OPCODES.get(opcode)  # type: ignore[call-overload]
        if direction is None:
            name = opcode_name(opcode, False)
            left_out[name] = left_out.get(name, 0) + 1
            continue
        _add(recording, ts_ns - start, direction, nsid, slba, nlb, number)
    recording.notes += [
        f"{recording.path}: left out, because a trace does not tell all about it: {name} ({count} times)"
        for name, count in left_out.items()
    ]


def _add(recording: Recording, at_ns: int, direction: int, nsid: int, slba: int, nlb: int, line: int) -> None:
    """One operation, in bytes. A Flush may name all namespaces: it goes where the job's other commands go."""
    name = f"/dev/nvme0n{1 if nsid == _EVERY_NAMESPACE else nsid}"
    file = 0 if nsid == _EVERY_NAMESPACE and recording.files else recording.file(name)
    size = recording.lba_size
    recording.add(at_ns, direction, file, slba * size, nlb * size, line)


def _uncount(left_out: dict[str, int], name: str) -> None:
    left_out[name] = left_out.get(name, 1) - 1
    if not left_out[name]:
        del left_out[name]


def _ranges(recording: Recording, number: int, record: dict[str, object]) -> list[tuple[int, int]]:
    """The (first block, blocks) of a Dataset Management command."""
    found = record.get("ranges")
    if not isinstance(found, list):
        raise recording.error(number, f"nvme_dsm_ranges: ranges is {found!r}, not a list")
    for one in found:
        if not isinstance(one, list) or len(one) != 2 or not all(type(value) is int and value >= 0 for value in one):
            raise recording.error(number, f"nvme_dsm_ranges: {one!r} is not [first block, blocks]")
    return [(slba, nlb) for slba, nlb in found if nlb]


def _record(recording: Recording, number: int, line: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise recording.error(number, f"'{line[:40]}' is not a JSON object")
    return record


def _fields(recording: Recording, number: int, record: dict[str, object], names: Sequence[str]) -> list[int]:
    values = []
    for name in names:
        value = record.get(name)
        if type(value) is not int or value < 0:
            raise recording.error(number, f"{record.get('event')}: {name} is {value!r}, not a number")
        values.append(value)
    return values
