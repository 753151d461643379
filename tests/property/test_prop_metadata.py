"""Namespaces with metadata against a plain model: blocks in a list, protection information computed bit by bit."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.integrity import MetadataRequest
from nvme_emu.driver.request import Request
from nvme_emu.spec.commands import RW_PRACT, WZ_DEAC
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.protection import (
    CHECK_APP,
    CHECK_GUARD,
    CHECK_REF,
    BlockFormat,
    PiType,
    crc16_t10dif,
    prinfo_bits,
)
from nvme_emu.spec.status import STATUS_CODE_MASK, Status

LBA, BLOCKS = 512, 12
READ, WRITE, COMPARE = NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE
VERIFY, ZEROES = NvmOpcode.VERIFY, NvmOpcode.WRITE_ZEROES


@cache
def crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8BB7 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


class Shape(NamedTuple):
    ms: int
    pi: int
    pil: int
    mset: int


class Model:
    """What the specification says of one namespace; a block is (data, metadata)."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.at = 0 if shape.pil else shape.ms - 8
        self.blocks = [self.unwritten] * BLOCKS

    @property
    def unwritten(self) -> tuple[bytes, bytes]:
        metadata = bytes(self.shape.ms)
        return bytes(LBA), self.placed(metadata, b"\xff" * 8) if self.shape.pi else metadata

    def placed(self, metadata: bytes, protection: bytes) -> bytes:
        return metadata[: self.at] + protection + metadata[self.at + 8 :]

    def guard(self, data: bytes, metadata: bytes) -> int:
        return crc16(data + metadata[: self.at])

    def inserted(self, data: bytes, metadata: bytes, number: int, app: int, ref: int) -> tuple[bytes, bytes]:
        if self.shape.pi != 3:
            ref = (ref + number) & 0xFFFF_FFFF
        return data, self.placed(metadata, struct.pack(">HHI", self.guard(data, metadata), app, ref))

    def check(self, blocks: list[tuple[bytes, bytes]], checks: int, app: int, mask: int, ref: int) -> int:
        for number, (data, metadata) in enumerate(blocks):
            guard, tag, reference = struct.unpack(">HHI", metadata[self.at : self.at + 8])
            if tag == 0xFFFF and (self.shape.pi != 3 or reference == 0xFFFF_FFFF):
                continue
            if checks & CHECK_GUARD and guard != self.guard(data, metadata):
                return Status.GUARD_CHECK
            if checks & CHECK_APP and tag & mask != app & mask:
                return Status.APPTAG_CHECK
            if checks & CHECK_REF and reference != (ref + number) & 0xFFFF_FFFF:
                return Status.REFTAG_CHECK
        return 0

    def run(self, step: Step, sent: list[tuple[bytes, bytes]]) -> int:
        """The status; what is to be read is in ``blocks`` then."""
        slba, nlb = step.slba, step.nlb
        checks, pract = (step.checks, step.pract) if self.shape.pi else (0, False)
        stored = self.blocks[slba : slba + nlb]
        tags = step.app, step.mask, step.ref
        if step.opcode == ZEROES:
            if checks:
                return Status.INVALID_PI
        elif checks & CHECK_REF and (self.shape.pi == 3 or (self.shape.pi == 1 and step.ref != slba)):
            return Status.INVALID_PI
        if pract and step.opcode in (COMPARE, VERIFY):
            return Status.INVALID_PI
        if step.opcode == WRITE:
            if pract:
                sent = [self.inserted(*block, number, step.app, step.ref) for number, block in enumerate(sent)]
            elif self.shape.pi and (status := self.check(sent, checks, *tags)):
                return status
            self.blocks[slba : slba + nlb] = sent
            return 0
        if step.opcode == ZEROES:
            zero = bytes(LBA), bytes(self.shape.ms)
            made = [self.unwritten if step.deallocate else zero] * nlb
            if pract:
                made = [self.inserted(*zero, number, step.app, step.ref) for number in range(nlb)]
            self.blocks[slba : slba + nlb] = made
            return 0
        if self.shape.pi and (status := self.check(stored, checks, *tags)):
            return status
        if step.opcode == COMPARE:
            hidden = [(data, self.placed(rest, bytes(8)) if self.shape.pi else rest) for data, rest in stored]
            given = [(data, self.placed(rest, bytes(8)) if self.shape.pi else rest) for data, rest in sent]
            return 0 if hidden == given else Status.COMPARE_FAILED
        return 0


class Step(NamedTuple):
    opcode: int
    slba: int
    nlb: int
    fill: int
    checks: int
    pract: bool
    deallocate: bool
    app: int
    mask: int
    ref: int
    good: bool


SHAPES = st.builds(
    Shape, st.sampled_from([8, 16, 64]), st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)
)
APPS = st.sampled_from([0, 1, 0x1234, 0xFFFF])
STEPS = st.builds(
    Step,
    st.sampled_from([READ, READ, WRITE, WRITE, COMPARE, VERIFY, ZEROES]),
    st.integers(0, BLOCKS - 4),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 7),
    st.booleans(),
    st.booleans(),
    APPS,
    st.sampled_from([0xFFFF, 0x00FF, 0]),
    st.integers(0, BLOCKS) | st.sampled_from([0xFFFF_FFFE, 0xFFFF_FFFF]),
    st.booleans(),
)


def blocks_of(model: Model, step: Step) -> list[tuple[bytes, bytes]]:
    """What the host sends: with ``good`` protection information or with some other."""
    made = []
    for number in range(step.nlb):
        data, metadata = bytes([step.fill + number]) * LBA, bytes([step.fill]) * model.shape.ms
        block = (data, metadata)
        if model.shape.pi and step.good:
            block = model.inserted(data, metadata, number, step.app, step.ref)
        made.append(block)
    return made


Blocks = list[tuple[bytes, bytes]]


def do(machine: Any, shape: Shape, step: Step, sent: Blocks) -> tuple[int, Blocks]:
    """(status, blocks that were read, without metadata where it was stripped) of the device."""
    moves = step.opcode not in (VERIFY, ZEROES)
    ms = shape.ms if moves and not (shape.pi and step.pract and shape.ms == 8) else 0
    out = step.opcode in (WRITE, COMPARE)
    width = LBA + (ms if shape.mset else 0)
    array = np.zeros((step.nlb, width), np.uint8) if moves else None
    own = bytearray(step.nlb * ms)
    if out and array is not None:
        joined = b"".join(data + (metadata[:ms] if shape.mset else b"") for data, metadata in sent)
        array[:] = np.frombuffer(joined, np.uint8).reshape(step.nlb, width)
        own[:] = b"".join(metadata[:ms] for _, metadata in sent)
    cdw12 = step.nlb - 1 | prinfo_bits(step.checks, step.pract)
    if step.opcode == ZEROES and step.deallocate:
        cdw12 |= WZ_DEAC
    view = None if array is None else memoryview(array).cast("B")  # type: ignore[arg-type]
    driver = machine.driver
    if ms and not shape.mset and view is not None:
        request: Request = MetadataRequest(step.opcode, 1, step.slba, step.nlb, cdw12, view, out, memoryview(own))
        request.map(driver.memory)  # type: ignore[attr-defined]
    else:
        request = Request(step.opcode, 1, step.slba, step.nlb, cdw12, view, out)
    request.cdw14, request.cdw15 = step.ref, step.app | step.mask << 16
    driver.path().submit(request)
    try:
        request.wait()
    except NvmeError as error:
        return (error.status or 0) & STATUS_CODE_MASK, []
    finally:
        if isinstance(request, MetadataRequest):
            request.unmap(driver.memory)
    if step.opcode != READ or array is None:
        return 0, []
    if shape.mset or not ms:
        return 0, [(bytes(row[:LBA]), bytes(row[LBA:])) for row in array]
    return 0, [(bytes(row), bytes(own[n * ms : (n + 1) * ms])) for n, row in enumerate(array)]


@settings(deadline=None, max_examples=120)
@given(shape=SHAPES, steps=st.lists(STEPS, min_size=1, max_size=12))
def test_commands_do_what_the_model_says(shape: Shape, steps: list[Step]) -> None:
    metadata = ",".join(f"{name}={value}" for name, value in shape._asdict().items())
    with nvme_emu.open(size=BLOCKS * (LBA + shape.ms), metadata=metadata) as machine:
        model = Model(shape)
        for step in steps:
            sent = blocks_of(model, step)
            if step.pract and shape.pi and shape.ms == 8:
                sent = [(data, bytes(8)) for data, _ in sent]
            status, found = do(machine, shape, step, sent)

            assert status == model.run(step, sent)
            if found:
                stripped = shape.pi and step.pract and shape.ms == 8
                expected = model.blocks[step.slba : step.slba + step.nlb]
                assert found == [(data, b"" if stripped else rest) for data, rest in expected]
        everything = Step(READ, 0, BLOCKS, 0, 0, False, False, 0, 0, 0, False)
        assert do(machine, shape, everything, [])[1] == model.blocks


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4160), st.integers(1, 5), st.randoms(use_true_random=False))
def test_guard_is_the_crc_bit_by_bit(nbytes: int, count: int, source: Any) -> None:
    rows = np.frombuffer(source.randbytes(nbytes * count), np.uint8).reshape(count, nbytes)

    assert crc16_t10dif(rows).tolist() == [crc16(bytes(row)) for row in rows]


def test_guard_has_the_value_that_everybody_has() -> None:
    assert crc16_t10dif(np.frombuffer(b"123456789", np.uint8).reshape(1, 9)).tolist() == [0xD0DB]
    layout = BlockFormat(LBA, 8, PiType.TYPE_1)
    rows = np.zeros((2, LBA + 8), np.uint8)
    layout.generate(rows, 0, 0xFFFF_FFFF)
    assert rows[:, LBA:].tobytes() == struct.pack(">HHIHHI", 0, 0, 0xFFFF_FFFF, 0, 0, 0)
    assert prinfo_bits(0, True) == RW_PRACT
