"""What people hand over as text or as a file: job files, fault rules, traces, recordings, images, hexadecimal.

Good examples are broken a little. Each reader has one kind of error for what it cannot take; anything else that
comes out of it is a mistake of ours.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from fuzzing.source import Source
from nvme_emu.core.faults import FaultError, parse_rules
from nvme_emu.media.trailer import Trailer, TrailerError
from nvme_emu.observe.explain import KINDS, explain
from nvme_emu.observe.trace_file import follow, read_trace
from nvme_emu.workload.jobfile import JobFileError, parse_job_text
from nvme_emu.workload.replay import ReplayError, read_recording

__all__ = ["case"]

_JOB = """[global]
ioengine=libaio
rw=randrw
rwmixread=70
bs=4k,8k
bssplit=4k/50:64k/
size=16m
[a]
iodepth=16
verify=crc32c
offset=25%
rate_iops=100,200
random_distribution=zipf:1.1
[b]
rw=write:8
stonewall
thinktime=10us
percentage_random=10
"""
_RULES = """version = 1
[[rules]]
id = "one"
match = { opcode = "read", lba = [0, 100], queue = 1, sqe = { cdw10 = 1 } }
when = { nth = 3, probability = 0.5, every = 2 }
then = { status = { code = "Unrecovered Read Error", dnr = true }, delay = { ns = "2ms" } }
[[rules]]
match = { on = "register", register = "CC" }
then.cfs = {}
"""
_TRACE = """{"ts_ns": 1, "event": "nvme_queue_rq", "request": 1, "opcode": 2, "slba": 0, "nlb": 8, "task": "main"}
{"ts_ns": 2, "event": "nvme_setup_cmd", "request": 1, "qid": 1, "cid": 3, "opcode": 2, "nsid": 1, "slba": 0, "nlb": 8}
{"ts_ns": 3, "event": "fetch_cmd", "sqid": 1, "cid": 3, "opcode": 2, "nsid": 1, "slba": 0, "nlb": 8}
{"ts_ns": 4, "event": "post_cqe", "cqid": 1, "sqid": 1, "cid": 3, "status": 0, "sqhd": 1}
{"ts_ns": 5, "event": "nvme_complete_rq", "request": 1, "qid": 1, "cid": 3, "status": 0}
"""
_IOLOG = """fio version 3 iolog
0 /dev/nvme0n1 add
0 /dev/nvme0n1 open
12 /dev/nvme0n1 read 0 4096
15 /dev/nvme0n1 write 8192 4096
20 /dev/nvme0n1 trim 0 65536
30 /dev/nvme0n1 close
"""
_BLKPARSE = """259,0    1        1     0.000000000  4242  Q   R 2048 + 8 [fio]
259,0    1        2     0.000001000  4242  C  WS 4096 + 16 [0]
259,0    1        3     0.000002000  4242  Q   D 0 + 64 [fio]
"""


_ODD = [b"-", b"0", b"9" * 20, b"=", b"%", b":", b"\n", b"[", b"\xff", b"\0", b'"']


def _broken(source: Source, good: bytes) -> bytes:
    """A good example with some edits; now and then something else altogether."""
    if source.one_in(16):
        return source.bytes(source.below(200))
    text = bytearray(good)
    for _ in range(1 + source.below(6)):
        at = source.below(len(text) + 1)
        kind = source.below(6)
        if kind == 0:
            text[at : at + 1 + source.below(8)] = b""
        elif kind == 1:
            text[at:at] = source.bytes(1 + source.below(4))
        elif kind == 2:
            text[at : at + 1] = source.pick(_ODD)
        elif kind == 3:
            other = source.below(len(text) + 1)
            text[at:at] = text[other : other + source.below(40)]
        elif kind == 4:
            text[at:at] = str(source.number(64)).encode()
        else:
            del text[at:]
    return bytes(text)


def _text(source: Source, good: str) -> str:
    return _broken(source, good.encode()).decode("utf-8", "replace")


def _job(source: Source) -> None:
    try:
        parse_job_text(_text(source, _JOB))
    except JobFileError as error:
        assert str(error)


def _rules(source: Source) -> None:
    try:
        parse_rules(_text(source, _RULES))
    except FaultError as error:
        assert str(error)


def _trace(source: Source) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(_broken(source, _TRACE.encode()))
        try:
            for _ in follow(read_trace(file.name)):
                pass
        except ValueError as error:
            assert str(error)


def _recording(source: Source) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(_broken(source, source.pick([_IOLOG, _BLKPARSE, _TRACE]).encode()))
        try:
            read_recording(Path(file.name), source.pick([512, 4096]))
        except ReplayError as error:
            assert str(error)


def _trailer(source: Source) -> None:
    try:
        Trailer.parse(_broken(source, Trailer(1 << 20, 512, uuid.UUID(int=1)).build())[:4096])
    except TrailerError as error:
        assert str(error)


def _hexadecimal(source: Source) -> None:
    kind = source.pick([*KINDS, "reg:CC", "reg:CAP", "reg:nonsense", None])
    text = source.bytes(source.pick([0, 1, 8, 16, 64, 512, 4096])).hex()
    try:
        explain(text if source.below(8) else _text(source, text), kind)
    except ValueError as error:
        assert str(error)


_READERS: tuple[Callable[[Source], None], ...] = (_job, _rules, _trace, _recording, _trailer, _hexadecimal)


def case(data: bytes) -> None:
    """One input."""
    source = Source(data)
    source.pick(_READERS)(source)
