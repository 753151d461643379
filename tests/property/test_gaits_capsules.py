"""Runs of NVMe/TCP commands: C and Python do the same with any bytes, and leave the same where they stop."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from nvme_emu import _core
from nvme_emu._core import capsules

pytestmark = pytest.mark.skipif(not _core.COMPILED, reason="the compiled core is not there")
NAMESPACES = {nsid: SimpleNamespace(wire_shift=shift) for nsid, shift in ((1, 9), (2, 12), (4, -1))}
ENTRIES, SLOT_BYTES = 16, 32768
NAMES = ("take_answers", "take_reads", "take_completions", "put_answers")


def test_compiled_functions_are_those_that_are_used() -> None:
    for name in NAMES:
        assert getattr(_core, name) is not getattr(capsules, name)


def _both(name: str, make: Any) -> Any:
    """The outcomes of both gaits on equal arguments: result, and everything that they may change."""
    outcomes = []
    for function in (getattr(_core, name), getattr(capsules, name)):
        arguments, seen = make()
        result = function(*arguments)
        outcomes.append((result, seen()))
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def _answer_stream(rng: random.Random) -> bytes:
    out = b""
    for _ in range(rng.randrange(8)):
        cid, nbytes = rng.randrange(6), rng.choice([0, 16, 512, 600])
        flags = rng.choice([4, 12, 12, 8, 0, 5])
        kind = rng.choice([7, 7, 7, 5, 5, 9])
        if kind == 5:
            cqe = struct.pack("<QHHHH", rng.choice([0, 7, 1 << 40]), 1, 1, cid, rng.choice([0, 0x8004]))
            pdu = struct.pack("<BBBBI", 5, rng.choice([0, 0, 0, 1]), 24, 0, 24) + cqe
        else:
            pdo = rng.choice([24, 24, 28, 20])
            datao = rng.choice([0, 0, 16, 512])
            head = struct.pack("<BBBBIHHII4x", kind, flags, 24, pdo, pdo + nbytes, cid, 0, datao, nbytes)
            pdu = head.ljust(pdo, b"\0") + rng.randbytes(nbytes)
        if rng.random() < 0.1:
            at = rng.randrange(min(24, len(pdu)))
            pdu = pdu[:at] + rng.randbytes(1) + pdu[at + 1 :]
        out += pdu
    return out[: rng.choice([len(out), len(out), rng.randrange(len(out) + 1)])]


def test_answers_end_the_same_commands_with_the_same_data() -> None:
    taken = 0
    for seed in range(1500):
        rng = random.Random(seed)
        stream = memoryview(_answer_stream(rng))
        sizes = {cid: rng.choice([512, 600, 1024]) for cid in range(5)}

        def make(stream: memoryview = stream, sizes: dict[int, int] = sizes) -> Any:
            memory = {cid: bytearray(size) for cid, size in sizes.items()}
            buffers = {cid: memoryview(one) for cid, one in memory.items()}
            done: list[Any] = []
            return (stream, 0, len(stream), buffers, done), lambda: (memory, sorted(buffers), done)

        start, _ = _both("take_answers", make)
        taken += bool(start)
    assert taken > 300


def test_answers_for_buffers_that_cannot_be_written_are_left_alone() -> None:
    data = struct.pack("<BBBBIHHII4x", 7, 12, 24, 24, 24 + 8, 1, 0, 0, 8) + b"8 bytes."
    wide = memoryview(bytearray(16))[::2]
    for into in (memoryview(bytes(8)), wide):
        buffers: dict[int, Any] = {1: into}
        assert _core.take_answers(memoryview(data), 0, len(data), buffers, []) == 0
    released = memoryview(bytearray(8))
    released.release()
    assert _core.take_answers(memoryview(data), 0, len(data), {1: released}, []) == 0


def _commands(rng: random.Random) -> bytes:
    out = b""
    for _ in range(rng.randrange(12)):
        opcode, flags, kind = rng.choice([2] * 8 + [1, 0]), rng.choice([0x40] * 8 + [0]), rng.choice([0x5A] * 8 + [1])
        blocks = rng.choice([1, 8, 16, 17, 64, 65536])
        nsid = rng.choice([1, 1, 2, 1, 1, 2, 1, 3, 4])
        shift = max(NAMESPACES[nsid].wire_shift, 9) if nsid in NAMESPACES else 9
        length = max(0, (blocks << shift) - rng.choice([0, 0, 0, 0, 1]))
        cdw12 = blocks - 1 | rng.choice([0, 1 << 30])
        cid = rng.randrange(40)
        out += bytes(8) + struct.pack(
            "<BBHIQQQI3xB6I", opcode, flags, cid, nsid, 0, 0, 0, length & 0xFFFFFFFF, kind, 5, 0, cdw12, 0, 0, 0
        )
    return out


def test_reads_get_the_same_entries_and_slots() -> None:
    taken = 0
    for seed in range(1500):
        rng = random.Random(seed)
        stream = memoryview(_commands(rng))
        listed, free = rng.randbytes(ENTRIES), rng.sample(range(ENTRIES), rng.randrange(ENTRIES + 1))
        tail, room, known = rng.randrange(ENTRIES), rng.randrange(ENTRIES), {rng.randrange(40): (3, 512)}
        if rng.random() < 0.7:
            listed = bytes([1]) * ENTRIES

        def make(
            stream: memoryview = stream,
            listed: bytes = listed,
            free: list[int] = free,
            tail: int = tail,
            room: int = room,
            known: dict[int, tuple[int, int]] = known,
        ) -> Any:
            ring = bytearray(ENTRIES * 64)
            commands, slots = dict(known), list(free)
            marks = bytearray(one & 1 for one in listed)
            arguments = (
                stream, 8, 72, len(stream), memoryview(ring), (ENTRIES, SLOT_BYTES, 1 << 32, 1 << 33), marks,
                commands, slots, NAMESPACES, tail, room,
            )  # fmt: skip
            return arguments, lambda: (ring, commands, slots)

        (_, _, count), _ = _both("take_reads", make)
        taken += bool(count)
    assert taken > 200


def test_completions_become_the_same_answers() -> None:
    for seed in range(1000):
        rng = random.Random(seed)
        phase = rng.randrange(2)
        entries = [
            struct.pack(
                "<QHHHH", rng.choice([0, 0, 9, 1 << 33]), 3, 1, rng.randrange(12),
                rng.choice([0, 0, 0, 0x8004]) | (phase if rng.random() < 0.8 else 1 - phase),
            )
            for _ in range(ENTRIES)
        ]  # fmt: skip
        ring, head, implied = memoryview(b"".join(entries)), rng.randrange(ENTRIES), bool(rng.randrange(2))
        known = {cid: rng.choice([(-1, 0), (cid, 0), (cid, 512), (cid, 4096)]) for cid in range(10)}

        def make(
            ring: memoryview = ring,
            head: int = head,
            phase: int = phase,
            implied: bool = implied,
            known: dict[int, tuple[int, int]] = known,
        ) -> Any:
            commands, free, unsent, answers = dict(known), [], [], []  # type: ignore[var-annotated]
            data = memoryview(bytes(range(256)) * 256)
            arguments = (ring, head, phase, ENTRIES, commands, free, unsent, data, 4096, 5, implied, answers)
            return arguments, lambda: (
                commands,
                free,
                unsent,
                [(cid, cqe, None if piece is None else bytes(piece)) for cid, cqe, piece in answers],
            )

        _, (_, _, _, answers) = _both("take_completions", make)

        def again(answers: Any = answers) -> Any:
            out: list[Any] = []
            given = [(cid, entry, None if data is None else memoryview(data)) for cid, entry, data in answers]
            return (given, out), lambda: b"".join(out)

        _both("put_answers", again)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_an_error_and_no_crash(name: str) -> None:
    for arguments in ((), (1, 2), (b"", 0, 0, [], {})):
        with pytest.raises((TypeError, ValueError)):
            getattr(_core, name)(*arguments)
