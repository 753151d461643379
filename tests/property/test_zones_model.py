"""Random commands to a zoned namespace against a plain model of zones: every status, state, pointer and byte."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.request import Request
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.status import STATUS_CODE_MASK, Status
from nvme_emu.spec.zns import ZONE_SEND_CDW13, ZoneSendAction, parse_zone_report

ZONES, SIZE, CAPACITY, MAX_OPEN, MAX_ACTIVE = 6, 24, 16, 2, 4
CONFIG = f"zone_size={SIZE * 512},zone_capacity={CAPACITY * 512},max_open={MAX_OPEN},max_active={MAX_ACTIVE}"
EMPTY, IMPLICIT, EXPLICIT, CLOSED, FULL = 1, 2, 3, 4, 14
OPEN, ACTIVE = (IMPLICIT, EXPLICIT), (IMPLICIT, EXPLICIT, CLOSED)
A = ZoneSendAction


class Model:
    """Zones in the words of the specification, without a table."""

    def __init__(self) -> None:
        self.state = [EMPTY] * ZONES
        self.written = [0] * ZONES
        self.data = bytearray(ZONES * SIZE)
        self.implicit: list[int] = []

    def write(self, zone: int, at: int, fill: int, blocks: int) -> int:
        """A write `at` blocks into a zone."""
        if self.state[zone] == FULL:
            return Status.ZONE_FULL
        if at != self.written[zone]:
            return Status.ZONE_INVALID_WRITE
        if at + blocks > CAPACITY:
            return Status.ZONE_BOUNDARY_ERROR
        if self.state[zone] not in OPEN:
            status = self.enter(zone, IMPLICIT)
            if status:
                return status
        start = zone * SIZE + at
        self.data[start : start + blocks] = bytes([fill]) * blocks
        self.written[zone] += blocks
        if self.written[zone] == CAPACITY:
            self.put(zone, FULL)
        return 0

    def enter(self, zone: int, state: int) -> int:
        """Open a zone that is not open."""
        if self.state[zone] != CLOSED and sum(one in ACTIVE for one in self.state) == MAX_ACTIVE:
            return Status.ZONE_TOO_MANY_ACTIVE
        if sum(one in OPEN for one in self.state) == MAX_OPEN:
            if not self.implicit:
                return Status.ZONE_TOO_MANY_OPEN
            self.put(self.implicit[0], CLOSED)
        self.put(zone, state)
        return 0

    def put(self, zone: int, state: int) -> None:
        if zone in self.implicit:
            self.implicit.remove(zone)
        if state == IMPLICIT:
            self.implicit.append(zone)
        self.state[zone] = state

    def manage(self, zone: int, action: int) -> int:
        state = self.state[zone]
        if action == A.RESET:
            self.put(zone, EMPTY)
            self.written[zone] = 0
            self.data[zone * SIZE : (zone + 1) * SIZE] = bytes(SIZE)
        elif action == A.FINISH:
            self.put(zone, FULL)
        elif action == A.CLOSE and state in ACTIVE:
            self.put(zone, CLOSED)
        elif action == A.OPEN and state == IMPLICIT:
            self.put(zone, EXPLICIT)
        elif action == A.OPEN and state in (EMPTY, CLOSED):
            return self.enter(zone, EXPLICIT)
        elif action != A.OPEN or state != EXPLICIT:
            return Status.ZONE_INVALID_TRANSITION
        return 0

    def manage_all(self, action: int) -> int:
        wanted = {A.CLOSE: OPEN, A.FINISH: ACTIVE, A.OPEN: (CLOSED,), A.RESET: (*ACTIVE, FULL), A.OFFLINE: ()}[action]
        chosen = [zone for zone in range(ZONES) if self.state[zone] in wanted]
        if action == A.OPEN and self.state.count(EXPLICIT) + len(chosen) > MAX_OPEN:
            return Status.ZONE_TOO_MANY_OPEN
        for zone in chosen:
            self.manage(zone, action)
        return 0


class Device:
    """The same commands to the emulated SSD."""

    def __init__(self, machine: nvme_emu.Machine) -> None:
        self.machine = machine

    def io(
        self, opcode: int, slba: int, cdw12: int = 0, cdw13: int = 0, data: bytes | None = None, nbytes: int = 0
    ) -> tuple[int, int, bytes]:
        array = np.frombuffer(data, np.uint8) if data else np.zeros(nbytes, np.uint8) if nbytes else None
        view = None if array is None else memoryview(array.data).cast("B")
        request = Request(opcode, 1, slba, 0, cdw12, view, data is not None, array)
        request.cdw13 = cdw13
        self.machine.driver.path().submit(request)
        with contextlib.suppress(NvmeError):
            request.wait()
        assert request.status is not None
        answer = request.dw0 | request.dw1 << 32
        return request.status & STATUS_CODE_MASK, answer, b"" if array is None else array.tobytes()


zone_numbers = st.integers(0, ZONES - 1)
actions = st.sampled_from([A.CLOSE, A.FINISH, A.OPEN, A.RESET, A.OFFLINE])
steps = st.one_of(
    st.tuples(st.just("write"), zone_numbers, st.integers(-1, 1), st.integers(1, 5)),
    st.tuples(st.just("append"), zone_numbers, st.just(0), st.integers(1, 7)),
    st.tuples(st.just("zeroes"), zone_numbers, st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("manage"), zone_numbers, actions, st.just(0)),
    st.tuples(st.just("all"), st.just(0), actions, st.just(0)),
    st.tuples(st.just("read"), zone_numbers, st.integers(0, SIZE - 1), st.integers(1, SIZE)),
)  # fmt: skip


def do(device: Device, model: Model, step: tuple[str, int, int, int], fill: int) -> None:
    what, zone, number, blocks = step
    data = bytes([fill]) * 512 * blocks
    if what in ("write", "zeroes"):
        at = max(0, model.written[zone] + number)
        opcode = NvmOpcode.WRITE if what == "write" else NvmOpcode.WRITE_ZEROES
        expected = model.write(zone, at, fill if what == "write" else 0, blocks)
        slba = zone * SIZE + at
        assert device.io(opcode, slba, blocks - 1, data=data if what == "write" else None)[0] == expected
    elif what == "append":
        slba = zone * SIZE + model.written[zone]
        expected = model.write(zone, model.written[zone], fill, blocks)
        status, where, _ = device.io(NvmOpcode.ZONE_APPEND, zone * SIZE, blocks - 1, data=data)
        assert (status, where) == (expected, 0 if expected else slba)
    elif what == "read":
        slba = zone * SIZE + number
        if slba + blocks > ZONES * SIZE:
            expected = Status.LBA_RANGE
        else:
            expected = Status.ZONE_BOUNDARY_ERROR if number + blocks > SIZE else Status.SUCCESS
        status, _, found = device.io(NvmOpcode.READ, slba, blocks - 1, nbytes=512 * blocks)
        assert status == expected
        if not status:
            assert found == b"".join(bytes([byte]) * 512 for byte in model.data[slba : slba + blocks])
    else:
        cdw13 = ZONE_SEND_CDW13.pack(zsa=number, select_all=int(what == "all"))
        expected = model.manage_all(number) if what == "all" else model.manage(zone, number)
        assert device.io(NvmOpcode.ZONE_MANAGEMENT_SEND, zone * SIZE, 0, cdw13)[0] == expected


@pytest.mark.parametrize("mode", ["sync", "async"])
@settings(max_examples=60, deadline=None)
@given(script=st.lists(steps, min_size=20, max_size=60))
def test_zones_do_as_a_plain_model_of_them(mode: str, script: list[tuple[str, int, int, int]]) -> None:
    model = Model()
    with nvme_emu.open(size=ZONES * SIZE * 512, zoned=CONFIG, mode=mode, clock="virtual") as machine:
        device = Device(machine)
        for number, step in enumerate(script):
            do(device, model, step, number % 255 + 1)
        report = device.io(NvmOpcode.ZONE_MANAGEMENT_RECEIVE, 0, 1023, nbytes=4096)[2]
        found = parse_zone_report(report)[1]
        assert [int(one.state) for one in found] == model.state
        assert [one.wp - one.start for one in found if one.state != FULL] == [
            written for written, state in zip(model.written, model.state, strict=True) if state != FULL
        ]
