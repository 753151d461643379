"""The namespace API, in each mode and on both clocks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu.spec.status import Status

Make = Callable[..., nvme_emu.Machine]


def pattern(nbytes: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8).tobytes()


def test_namespace_reports_its_geometry(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    assert (ns.nsid, ns.lba_size, ns.nlb, ns.nbytes) == (1, 512, 16384, 8 << 20)
    assert repr(ns) == "<Namespace 1: 16384 blocks of 512 bytes>"


@pytest.mark.parametrize("nlb", [1, 7, 8, 9, 16, 17, 255, 2047, 2048, 2049, 5000])
def test_write_then_read_gives_the_data_and_touches_nothing_else(ssd: nvme_emu.Machine, nlb: int) -> None:
    ns = ssd.namespaces[1]
    guard = pattern(512, 9)
    ns.write(99, guard)
    ns.write(100 + nlb, guard)
    data = pattern(nlb * 512)

    ns.write(100, data)

    got = ns.read(100, nlb)
    assert got.dtype == np.uint8
    assert got.tobytes() == data
    assert ns.read(99, 1).tobytes() == guard
    assert ns.read(100 + nlb, 1).tobytes() == guard


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda d: np.frombuffer(d, np.uint32)])
def test_write_takes_any_contiguous_buffer(ssd: nvme_emu.Machine, kind: Callable[[bytes], Any]) -> None:
    data = pattern(1024)
    ssd.namespaces[1].write(5, kind(data))
    assert ssd.namespaces[1].read(5, 2).tobytes() == data


def test_read_into_out_fills_and_returns_it(ssd: nvme_emu.Machine) -> None:
    data = pattern(64 * 512)
    ssd.namespaces[1].write(0, data)
    out = np.zeros(64 * 512, np.uint8)
    assert ssd.namespaces[1].read(0, 64, out) is out
    assert out.tobytes() == data


def test_flush_zeroes_discard_and_fua_succeed(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    ns.write(0, pattern(32 * 512), fua=True)
    ns.flush()
    ns.write_zeroes(2, 3)
    ns.write_zeroes(10, 2, deallocate=True)
    ns.discard(20, 2)
    ns.discard([(24, 1), (30, 2)])
    got = ns.read(0, 32).reshape(32, 512)
    zero = {lba for lba in range(32) if not got[lba].any()}
    assert zero == {2, 3, 4, 10, 11, 20, 21, 24, 30, 31}


def test_compare_hit_passes_and_miss_raises_enodata(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    data = pattern(4096)
    ns.write(8, data)
    ns.compare(8, data)
    with pytest.raises(nvme_emu.NvmeError, match="Compare") as caught:
        ns.compare(8, bytes(4096))
    assert caught.value.errno == errno.ENODATA
    assert caught.value.status is not None
    assert caught.value.status & 0x7FF == Status.COMPARE_FAILED


@pytest.mark.parametrize("count", [1, 5, 24, 100, 3000])
@pytest.mark.parametrize("nlb", [1, 8, 16, 24])
def test_many_reads_and_writes_equal_single_ones(ssd: nvme_emu.Machine, count: int, nlb: int) -> None:
    ns = ssd.namespaces[1]
    slots = ns.nlb // nlb
    rng = np.random.default_rng(count * nlb)
    starts = rng.permutation(slots)[: min(count, slots)] * nlb
    data = pattern(len(starts) * nlb * 512, 3)

    ns.write_many(starts, data, nlb=nlb)

    out = np.zeros((len(starts), nlb * 512), np.uint8)
    got = ns.read_many(starts, nlb=nlb, out=out)
    assert got.tobytes() == data
    assert got.base is out or got is out
    for index in (0, len(starts) // 2, len(starts) - 1):
        assert ns.read(int(starts[index]), nlb).tobytes() == data[index * nlb * 512 : (index + 1) * nlb * 512]


def test_many_with_equal_lbas_keeps_the_last_write(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    data = pattern(64 * 512)
    ns.write_many([7] * 64, data)
    assert ns.read(7, 1).tobytes() == data[-512:]


WRONG: list[tuple[str, Callable[[nvme_emu.Namespace], object], str]] = [
    ("read past the end", lambda ns: ns.read(16384, 1), "slba=16384 nlb=1 leaves namespace 1"),
    ("read over the end", lambda ns: ns.read(16383, 2), "leaves namespace 1, whose last block is 16383"),
    ("negative slba", lambda ns: ns.read(-1, 1), "slba=-1"),
    ("no blocks", lambda ns: ns.read(0, 0), "nlb counts from 1"),
    ("half a block", lambda ns: ns.write(0, bytes(100)), "100 bytes of data: a whole number of 512-byte"),
    ("no data", lambda ns: ns.write(0, b""), "0 bytes of data"),
    ("write over the end", lambda ns: ns.write(16383, bytes(1024)), "leaves namespace 1"),
    (
        "short out",
        lambda ns: ns.read(0, 2, np.zeros(512, np.uint8)),
        "out holds 512 bytes, the read gives 1024",
    ),
    ("read-only out", lambda ns: ns.read(0, 1, np.frombuffer(bytes(512), np.uint8)), "read-only"),
    ("strided data", lambda ns: ns.write(0, np.zeros(2048, np.uint8)[::2]), "not contiguous"),
    ("many past the end", lambda ns: ns.read_many([0, 16384], 1), "leaves namespace 1"),
    ("many of floats", lambda ns: ns.read_many(np.array([0.5]), 1), "flat array of integers"),
    (
        "many with too little data",
        lambda ns: ns.write_many([0, 1], bytes(512)),
        "512 bytes of data for 2 writes",
    ),
    ("discard without nlb", lambda ns: ns.discard(0), "needs nlb"),
    ("discard past the end", lambda ns: ns.discard([(0, 1), (16384, 1)]), "leaves namespace 1"),
    ("zeroes past the end", lambda ns: ns.write_zeroes(16384, 1), "leaves namespace 1"),
]


@pytest.mark.parametrize(("what", "call", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_argument_is_a_value_error_that_names_it(
    make: Make, what: str, call: Callable[[nvme_emu.Namespace], object], message: str
) -> None:
    ns = make().namespaces[1]
    with pytest.raises(ValueError, match=message):
        call(ns)


@pytest.mark.parametrize("lba_size", [512, 4096])
def test_each_block_size_and_many_namespaces_work(make: Make, way: dict[str, Any], lba_size: int) -> None:
    ssd = make(lba_size=lba_size, namespaces=3, size="6M", **way)
    assert sorted(ssd.namespaces) == [1, 2, 3]
    for nsid, ns in ssd.namespaces.items():
        assert ns.lba_size == lba_size
        assert ns.nbytes == 2 << 20
        ns.write(1, pattern(lba_size, nsid))
    for nsid, ns in ssd.namespaces.items():
        assert ns.read(1, 1).tobytes() == pattern(lba_size, nsid)


@pytest.mark.parametrize("depth", [2, 3, 17])
def test_more_requests_than_tags_all_complete(make: Make, way: dict[str, Any], depth: int) -> None:
    ssd = make(depth=depth, **way)
    ns = ssd.namespaces[1]
    data = [pattern(512, seed) for seed in range(60)]
    writes = [ns.submit_write(lba, block) for lba, block in enumerate(data)]
    for rq in writes:
        rq.wait()
    ns.write_many(range(60, 120), b"".join(data))
    reads = [ns.submit_read(lba, 1) for lba in range(120)]
    assert [bytes(rq.wait()) for rq in reads] == data + data  # type: ignore[arg-type]


def test_one_queue_each_for_several_callers(make: Make, way: dict[str, Any]) -> None:
    ssd = make(queues=3, **way)
    assert len(ssd.driver.paths) == 3
    names = [worker.task.comm for worker in ssd.workers if worker.task is not None]
    assert names == ([] if way["mode"] == "sync" else ["nvme1", "nvme1q2", "nvme1q3"])


def test_closed_machine_refuses_io_with_enodev(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    ssd.close()
    ssd.close()
    with pytest.raises(nvme_emu.NvmeError) as caught:
        ns.read(0, 1)
    assert caught.value.errno == errno.ENODEV
