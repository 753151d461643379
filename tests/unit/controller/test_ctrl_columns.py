"""The three gaits mean the same: bytes, completions, counters, interrupts, error log, in random batches."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rawhost import PAGE, RawHost, RawQueue

from nvme_emu._core import COMPILED, DeviceState
from nvme_emu.controller import columns, dispatch
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.controller import Controller
from nvme_emu.controller.pcie.rings import SubmissionQueue
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.opcodes import NvmOpcode

READ, WRITE, FLUSH = int(NvmOpcode.READ), int(NvmOpcode.WRITE), int(NvmOpcode.FLUSH)

_MEDIA = 64 * PAGE
_BUFFERS = 64


class _Cmd(NamedTuple):
    opcode: int
    cid: int
    nsid: int
    slba: int
    nlb: int
    page: int
    offset: int
    prp2: int  # page, or -1: the next page, -2: none, -3: a list
    flags: int
    cdw12: int


def _odd(draw: st.DrawFn, cmd: _Cmd) -> _Cmd:
    """The command with one thing about it that is not plain, or not like the others."""
    changes: list[dict[str, int]] = [
        {"opcode": FLUSH},
        {"opcode": READ + WRITE - cmd.opcode},
        {"nsid": 2},
        {"slba": cmd.slba + 1},
        {"slba": draw(st.integers(0, (1 << 64) - 1))},
        {"nlb": cmd.nlb * 2},
        {"offset": draw(st.sampled_from([4, 512, 2048, 3]))},
        {"prp2": draw(st.integers(-3, _BUFFERS))},
        {"flags": 0x40},
        {"cdw12": 1 << 30},
    ]
    return cmd._replace(**draw(st.sampled_from(changes)))


@st.composite
def _commands(draw: st.DrawFn, opcode: int, nlb: int, blocks: int) -> list[_Cmd]:
    """A run of one kind, in which now and then something is different."""
    count = draw(st.integers(10, 120))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    units = draw(st.sampled_from([4, blocks // nlb]))  # few blocks: the same one again and again
    slbas = (rng.integers(0, units, count) * nlb).tolist()
    pages = rng.integers(0, draw(st.sampled_from([4, _BUFFERS - 3])), count).tolist()
    if draw(st.booleans()):
        # Buffers one after the other: the gather goes straight into one block.
        pages = [number % (_BUFFERS - 3) for number in range(count)]
    cids = rng.integers(0, 1 << 16, count).tolist()
    commands = [
        _Cmd(opcode, cid, 1, slba, nlb, page, 0, -1, 0, 0)
        for cid, slba, page in zip(cids, slbas, pages, strict=True)
    ]
    for at in draw(st.lists(st.integers(0, count - 1), max_size=3)):
        commands[at] = _odd(draw, commands[at])
    return commands


@st.composite
def _scenario(draw: st.DrawFn) -> tuple[int, int, int, int, list[_Cmd], bool]:
    lba_size = draw(st.sampled_from([512, 4096]))
    nlb = draw(st.sampled_from([1, 2, 3, 8, 16] if lba_size == 512 else [1, 2]))
    opcode = draw(st.sampled_from([READ, WRITE]))
    commands = draw(_commands(opcode, nlb, _MEDIA // lba_size))
    sq_size = draw(st.integers(30, 200))
    cq_size = draw(st.integers(26, 200))
    return lba_size, sq_size, cq_size, draw(st.integers(1, 130)), commands, draw(st.booleans())


def _run(
    lba_size: int,
    sq_size: int,
    cq_size: int,
    batch: int,
    commands: list[_Cmd],
    over_rings: bool,
    compiled: bool = False,
) -> tuple[object, ...]:
    host = RawHost(
        config=ControllerConfig(mdts=2), media=[RamMedia(_MEDIA)], lba_size=lba_size, pages=_BUFFERS + 16
    )
    host.ctrl.compiled = compiled
    host.enable()
    queue = host.io_queue(1, sq_size, cq_size, vector=3)
    buffers = host.pages(_BUFFERS)
    if over_rings:
        # Some buffers are the rings themselves: what a confused host gets must still be the same.
        buffers = queue.sq - 2 * PAGE
    lists = host.pages()
    fill = np.random.default_rng(5)
    host.media[0].array[:] = fill.integers(0, 256, _MEDIA, np.uint8)
    start = host.pages(0) - host.region.base
    host.region.array[start:] = fill.integers(0, 256, len(host.region.array) - start, np.uint8)
    host.memory.write(lists, struct.pack("<3Q", buffers, buffers + 5 * PAGE, buffers + PAGE))

    done = []
    waiting = list(commands)
    for _ in range(60):
        if not waiting:
            break
        room = min(batch, sq_size - 1 - _waits(host, queue), len(waiting))
        for cmd in waiting[:room]:
            _put(queue, cmd, buffers, lists)
        del waiting[:room]
        if room:
            queue.ring()
        host.step()
        done += queue.reap()
        done.append(host.ctrl.take_irqs())
        if host.csts.cfs:
            break
    host.audit()
    return (
        done,
        host.ctrl.counters.as_dict(),
        host.region.array.tobytes(),
        host.media[0].array.tobytes(),
        host.csts,
        host.ctrl.error_log.page(),
    )


def _waits(host: RawHost, queue: RawQueue) -> int:
    return host.ctrl.rings.sqs[1].waiting()


def _put(queue: RawQueue, cmd: _Cmd, buffers: int, lists: int) -> None:
    prp1 = buffers + cmd.page * PAGE + cmd.offset
    prp2 = {-1: buffers + (cmd.page + 1) * PAGE, -2: 0, -3: lists}.get(cmd.prp2, buffers + cmd.prp2 * PAGE)
    queue.rw(
        cmd.opcode, cmd.slba, cmd.nlb, prp1, prp2,
        cid=cmd.cid, nsid=cmd.nsid, flags=cmd.flags, cdw12=cmd.cdw12,
    )  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(_scenario())
def test_column_and_compiled_gait_mean_what_the_scalar_gait_means(
    scenario: tuple[int, int, int, int, list[_Cmd], bool],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "COLUMNS_MIN", 1 << 30)
        scalar = _run(*scenario)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "COLUMNS_MIN", 4)
        patch.setattr(columns, "COLUMNS_MIN", 4)
        column = _run(*scenario)
    compiled = _run(*scenario, compiled=COMPILED)
    for one, other, third in zip(scalar, column, compiled, strict=True):
        assert one == other
        assert one == third


@pytest.mark.skipif(not COMPILED, reason="the extension is not there")
@pytest.mark.parametrize("opcode", [READ, WRITE])
def test_plain_run_is_done_in_c_up_to_the_first_other_command(
    opcode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def spy(ctrl: Controller, sq: SubmissionQueue, count: int) -> int:
        taken.append(DeviceState.run_compiled(ctrl, sq, count))
        return taken[-1]

    monkeypatch.setattr(Controller, "run_compiled", spy)
    commands = [_Cmd(opcode, number, 1, number * 8, 8, number, 0, -1, 0, 0) for number in range(40)]
    commands[30] = commands[30]._replace(opcode=FLUSH)
    _, counters, *_ = _run(512, 256, 256, 40, commands, False, compiled=True)
    assert taken == [30, 0, 9]
    assert counters["fetched"] == counters["posted"] == 40  # type: ignore[index]


@pytest.mark.parametrize("opcode", [READ, WRITE])
@pytest.mark.parametrize("scattered", [False, True])
def test_long_run_is_taken_by_columns(opcode: int, scattered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def spy(*args: object) -> int:
        taken.append(columns.run_columns(*args))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr(dispatch, "run_columns", spy)
    order = np.random.default_rng(1).permutation(50) if scattered else np.arange(50)
    commands = [
        _Cmd(opcode, number, 1, int(order[-number]) * 8, 8, int(page), 0, -1, 0, 0)
        for number, page in enumerate(order)
    ]
    done, counters, *_ = _run(512, 256, 256, 50, commands, False)
    assert taken == [50]
    assert counters["fetched"] == counters["posted"] == 50  # type: ignore[index]
    assert [one.sqhd for one in done[:-1]] == list(range(1, 51))  # type: ignore[index]


def test_run_below_the_minimum_is_left_to_the_scalar_gait(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("too short for columns")

    monkeypatch.setattr(dispatch, "run_columns", refuse)
    commands = [_Cmd(READ, number, 1, 0, 8, number, 0, -1, 0, 0) for number in range(columns.COLUMNS_MIN - 1)]
    done, *_ = _run(512, 256, 256, 100, commands, False)
    assert len(done) == columns.COLUMNS_MIN  # type: ignore[arg-type]
