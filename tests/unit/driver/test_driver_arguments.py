"""What callers pass: integers of any kind, buffers of any kind, and what is refused, the same in every mode."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nvme_emu

Make = Callable[..., nvme_emu.Machine]

INTEGERS = [int, np.int64, np.uint64, np.int16, np.uint8]
CALLS = {
    "read": lambda ns, slba, nlb: ns.read(slba, nlb),
    "write": lambda ns, slba, nlb: ns.write(slba, bytes(512)),
    "compare": lambda ns, slba, nlb: ns.compare(slba, bytes(512)),
    "write_zeroes": lambda ns, slba, nlb: ns.write_zeroes(slba, nlb),
    "discard": lambda ns, slba, nlb: ns.discard(slba, nlb),
    "discard_list": lambda ns, slba, nlb: ns.discard([(slba, nlb)]),
    "submit_read": lambda ns, slba, nlb: ns.submit_read(slba, nlb).wait(),
    "submit_write": lambda ns, slba, nlb: ns.submit_write(slba, bytes(512)).wait(),
    "submit_discard": lambda ns, slba, nlb: ns.submit_discard(slba, nlb).wait(),
    "read_many": lambda ns, slba, nlb: ns.read_many([slba], nlb),
    "write_many": lambda ns, slba, nlb: ns.write_many([slba], bytes(int(nlb) * 512), nlb),
}


@pytest.mark.parametrize("call", CALLS)
def test_integers_of_numpy_are_integers(ssd: nvme_emu.Machine, call: str) -> None:
    ns = ssd.namespaces[1]
    for kind in INTEGERS:
        CALLS[call](ns, kind(100), 1)
        CALLS[call](ns, 100, kind(100))


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_integer_is_a_type_error(ssd: nvme_emu.Machine, call: str) -> None:
    for slba in (0.0, 0.5, "0", None, float("inf"), object()):
        with pytest.raises((TypeError, ValueError)):
            CALLS[call](ssd.namespaces[1], slba, 1)


@pytest.mark.parametrize("call", [call for call in CALLS if "write" not in call and call != "compare"])
def test_a_number_of_blocks_that_cannot_be_is_refused(ssd: nvme_emu.Machine, call: str) -> None:
    for nlb in (1.0, 1.5, "1", float("nan"), 2**40, -1, 0):
        with pytest.raises((TypeError, ValueError)):
            CALLS[call](ssd.namespaces[1], 0, nlb)


def test_an_array_of_objects_is_refused_and_not_touched(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    objects = np.array([object()] * 64)
    before = [id(one) for one in objects]
    ns.write(0, bytes(range(256)) * 2)
    for call in (
        lambda: ns.read(0, 1, objects),
        lambda: ns.submit_read(0, 1, objects),
        lambda: ns.read_many([0], 1, objects),
        lambda: ns.read_many(np.zeros(1, np.int64), 1, objects),
        lambda: ns.write(0, objects),
        lambda: ns.write_many(np.zeros(1, np.int64), objects),
    ):
        with pytest.raises(ValueError, match="references to Python objects"):
            call()
    assert [id(one) for one in objects] == before


@pytest.mark.parametrize(
    "make_out", [lambda: bytearray(1024), lambda: array("I", bytes(1024)), lambda: np.zeros(256, "<u4")]
)
def test_read_many_fills_any_writable_buffer_and_gives_a_view_of_it(
    ssd: nvme_emu.Machine, make_out: Callable[[], Any]
) -> None:
    ns = ssd.namespaces[1]
    ns.write(0, bytes([7]) * 1024)
    out = make_out()
    rows = ns.read_many([0, 1], 1, out)
    assert rows.shape == (2, 512)
    assert rows.dtype == np.uint8
    assert bytes(memoryview(out).cast("B")) == bytes([7]) * 1024
    assert np.shares_memory(rows, np.frombuffer(out, np.uint8))


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300, 2**70])
def test_wait_with_an_endless_timeout_waits(make: Make, timeout_s: float) -> None:
    assert make(mode="async", profile="optane").namespaces[1].submit_read(0, 1).wait(timeout_s) is not None


def test_a_callback_that_cannot_be_called_is_refused_at_once(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    with pytest.raises(TypeError, match="'x'"):
        ns.submit_read(0, 1, callback="x")
    with pytest.raises(TypeError, match="5"):
        ns.submit_write(0, bytes(512), callback=5)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": None},
        {"seed": 1.5},
        {"seed": "7"},
        {"lba_size": 512.0},
        {"poll_ns": 1.5},
        {"queues": "2"},
        {"depth": None},
        {"namespaces": 1.5},
        {"cpus": "2"},
        {"host": None},
        {"costs": None},
        {"controller": 5},
    ],
    ids=str,
)
def test_options_of_a_wrong_type_are_named(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"{name}="):
        nvme_emu.open(**options)


def test_a_host_without_processors_is_refused() -> None:
    with pytest.raises(ValueError, match="cpus=0"):
        nvme_emu.open(cpus=0)


def test_options_may_be_integers_of_numpy() -> None:
    with nvme_emu.open(size="1M", seed=np.int64(3), depth=np.int32(8), lba_size=np.int64(4096)) as ssd:
        assert ssd.namespaces[1].lba_size == 4096
