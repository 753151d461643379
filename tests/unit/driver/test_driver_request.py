"""Requests: waiting, results, callbacks, await; in each mode and on both clocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Any

import pytest

import kworker
import nvme_emu
from nvme_emu.driver.request import Request

Make = Callable[..., nvme_emu.Machine]


def test_submit_in_sync_mode_is_done_when_it_returns(make: Make) -> None:
    rq = make(mode="sync", profile="optane").namespaces[1].submit_read(0, 8)
    assert rq.done
    assert rq.status == 0
    assert rq.result() is not None


def test_submit_in_async_mode_returns_before_a_slow_device_is_done(make: Make) -> None:
    rq = make(mode="async", profile="tlc").namespaces[1].submit_read(0, 8)
    early = rq.done
    with pytest.raises(InvalidStateError) if not early else pytest.raises(ZeroDivisionError):
        rq.result() if not early else 1 // 0
    assert rq.wait() is not None
    assert not early
    assert rq.done


def test_status_and_error_are_none_until_done(make: Make) -> None:
    rq = Request(2, 1)
    assert rq.status is None
    assert rq.error is None
    with pytest.raises(RuntimeError, match="never submitted"):
        rq.wait()


def test_wait_that_times_out_leaves_the_request_alive(make: Make) -> None:
    rq = make(mode="async", profile="tlc").namespaces[1].submit_read(0, 8)
    with pytest.raises(TimeoutError, match="goes on"):
        rq.wait(timeout_s=0)
    data = rq.wait(timeout_s=30)
    assert data is not None
    assert len(data) == 4096


def test_callback_runs_once_before_or_after_completion(ssd: nvme_emu.Machine) -> None:
    seen: list[tuple[str, bool]] = []
    ns = ssd.namespaces[1]
    rq = ns.submit_write(0, bytes(512), callback=lambda r: seen.append(("given", r.done)))
    rq.add_callback(lambda r: seen.append(("added", r.done)))
    rq.wait()
    ns.flush()  # whatever the completing thread still had to do is behind us
    rq.add_callback(lambda r: seen.append(("late", r.done)))
    assert sorted(seen) == [("added", True), ("given", True), ("late", True)]


def test_callback_that_raises_is_reported_and_stops_nothing(
    ssd: nvme_emu.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)
    after: list[int] = []

    def bad(_rq: Request) -> None:
        raise ZeroDivisionError("in a callback")

    ns = ssd.namespaces[1]
    rq = ns.submit_write(3, bytes(512), callback=bad)
    rq.add_callback(lambda r: after.append(1))
    rq.wait()
    ns.flush()

    assert after == [1]
    assert [type(r.exc_value) for r in reported] == [ZeroDivisionError]
    assert "slba 3" in reported[0].err_msg


def test_callback_may_submit_the_next_request(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    finished = kworker.Completion(runtime=ssd.runtime, name="the chain has ended")
    order: list[int] = []

    def chain(rq: Request) -> None:
        order.append(rq.slba)
        if rq.slba == 9:
            finished.complete()
        else:
            ns.submit_write(rq.slba + 1, bytes(512), callback=chain)

    ns.submit_write(0, bytes(512), callback=chain)
    assert finished.wait(30_000_000_000)
    assert order == list(range(10))


def test_wait_on_the_worker_itself_is_refused(make: Make) -> None:
    ssd = make(mode="async", profile="tlc")
    ns = ssd.namespaces[1]
    caught: list[BaseException] = []

    def wait_inside(_rq: Request) -> None:
        try:
            ns.submit_read(0, 1).wait()
        except RuntimeError as error:
            caught.append(error)

    ns.submit_read(0, 1, callback=wait_inside).wait()
    ns.flush()
    assert "nvme1, the worker that has to complete it" in str(caught[0])


def test_request_can_be_awaited_alone_and_together(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]

    async def main() -> list[int]:
        await ns.submit_write(0, bytes([5]) * 512)

        async def one(lba: int) -> int:
            data = await ns.submit_read(lba, 1)
            assert data is not None
            return int(data[0])

        return list(await asyncio.gather(*(one(lba) for lba in range(8))))

    assert asyncio.run(main()) == [5, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.breaks_rules  # a read behind the end
def test_awaiting_a_failed_request_raises_its_error(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    ns.nlb += 1  # the driver's idea of the size is wrong: the device has to refuse

    async def main() -> None:
        await ns.submit_read(16384, 1)

    with pytest.raises(nvme_emu.NvmeError, match="LBA Out of Range"):
        asyncio.run(main())


@pytest.mark.breaks_rules  # a read behind the end
def test_split_request_reports_the_first_failed_part(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    ns.nlb += 3 * ns.nlb_max
    rq = ns.submit_read(16384 - ns.nlb_max, 3 * ns.nlb_max)
    with pytest.raises(nvme_emu.NvmeError, match="LBA Out of Range"):
        rq.wait()
    assert rq.status == rq.parts[1].status  # type: ignore[attr-defined]


@pytest.mark.breaks_rules  # reads behind the end
def test_batch_with_a_failed_command_names_the_first(ssd: nvme_emu.Machine) -> None:
    ns = ssd.namespaces[1]
    ns.nlb += 10
    starts = [*range(40), 16385, 41, 16384, *range(50, 90)]
    out = bytearray(len(starts) * 512)
    with pytest.raises(nvme_emu.NvmeError, match="slba 16385"):
        ns.read_many(starts, out=memoryview(out))  # type: ignore[arg-type]
    ns.nlb -= 10
    assert len(ns.read_many(range(40))) == 40


def test_many_threads_share_one_ssd(way: dict[str, Any]) -> None:
    with nvme_emu.open(size="4M", **way) as ssd:
        ns = ssd.namespaces[1]
        failures: list[BaseException] = []

        def body(index: int) -> None:
            try:
                for turn in range(60):
                    block = bytes([index, turn]) * 256
                    ns.write(index * 8, block)
                    assert ns.read(index * 8, 1).tobytes() == block
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=body, args=(i,), name=f"caller{i}") for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert not any(thread.is_alive() for thread in threads)
