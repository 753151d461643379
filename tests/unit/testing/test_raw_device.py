"""RawDevice: what a driver may do, and what it is told when it may not."""

from __future__ import annotations

import pytest

import kworker
from nvme_emu.spec.registers import AQA, CC, CSTS_RDY, Reg
from nvme_emu.testing import RawDevice, RawDeviceError


@pytest.fixture(params=["wall", "virtual"])
def device(request):
    with RawDevice(size="1M", clock=request.param) as made:
        yield made


def enable(device: RawDevice) -> list:
    """An admin queue pair of 8 entries, and a controller that is ready."""
    sq, cq = device.dma_alloc(4096, "SQ 0"), device.dma_alloc(4096, "CQ 0")
    device.write32(Reg.AQA, AQA.pack(asqs_z=7, acqs_z=7))
    device.write64(Reg.ASQ, sq.addr)
    device.write64(Reg.ACQ, cq.addr)
    device.write32(Reg.CC, CC.pack(iosqes=6, iocqes=4))
    device.write32(Reg.CC, CC.pack(iosqes=6, iocqes=4, en=1))
    while not device.read32(Reg.CSTS) & CSTS_RDY:
        device.sleep_ns(1_000_000)
    return [sq, cq]


def test_command_is_done_and_interrupts(device: RawDevice) -> None:
    sq, cq = enable(device)
    data = device.dma_alloc(4096, "identify data")
    irq = device.connect_irq(0)
    entry = bytearray(64)
    entry[0] = 0x06
    entry[24:32] = data.addr.to_bytes(8, "little")
    entry[40] = 1
    sq.view[:64] = entry
    device.write32(0x1000, 1)
    assert irq.wait(timeout_ns=1_000_000_000)
    assert cq.view[14] & 1
    assert bytes(data)[24:32] == b"nvme-emu"
    device.disconnect_irq(irq)
    for buffer in (sq, cq, data):
        device.dma_free(buffer)


def test_wait_for_an_interrupt_ends_after_its_time(device: RawDevice) -> None:
    irq = device.connect_irq(3)
    before = device.now_ns
    assert irq.wait(timeout_ns=2_000_000) is False
    assert device.now_ns - before >= 2_000_000
    device.disconnect_irq(irq)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda d: d.read32(0x2), "a 32-bit access is at a multiple of 4"),
        (lambda d: d.read64(0x4), "a 64-bit access is at a multiple of 8"),
        (lambda d: d.read32(1 << 30), "BAR0 has 0x"),
        (lambda d: d.read32(-4), "BAR0 has 0x"),
        (lambda d: d.write32(0x14, 1 << 32), "does not fit into 32 bits"),
        (lambda d: d.write64(0x28, -1), "does not fit into 64 bits"),
        (lambda d: d.dma_alloc(0), "1 to "),
        (lambda d: d.connect_irq(4096), "the device has "),
        (lambda d: d.mask_irq(-1, True), "the device has "),
        (lambda d: d.sleep_ns(-1), "time does not run backwards"),
    ],
)
def test_nonsense_is_refused_at_once(device: RawDevice, act, message: str) -> None:
    with pytest.raises(RawDeviceError, match=message):
        act(device)


def test_vector_is_connected_once(device: RawDevice) -> None:
    irq = device.connect_irq(1)
    with pytest.raises(RawDeviceError, match="connected already"):
        device.connect_irq(1)
    device.disconnect_irq(irq)
    with pytest.raises(RawDeviceError, match="not connected"):
        device.disconnect_irq(irq)


def test_memory_is_freed_once_and_not_used_afterwards(device: RawDevice) -> None:
    buffer = device.dma_alloc(64)
    kept = buffer.view
    device.dma_free(buffer)
    assert set(kept) == {0x6B}
    with pytest.raises(RawDeviceError, match="freed twice"):
        device.dma_free(buffer)
    with pytest.raises(RawDeviceError, match="used after it was freed"):
        _ = buffer.view
    with RawDevice(size="1M") as other:
        foreign = other.dma_alloc(64)
        with pytest.raises(RawDeviceError, match="not a buffer of this device"):
            device.dma_free(foreign)
        other.dma_free(foreign)


def test_handler_must_not_sleep() -> None:
    with RawDevice(size="1M") as device:
        heard: list[str] = []

        def handler() -> None:
            for act in (lambda: device.sleep_ns(1), lambda: device.dma_alloc(64), lambda: irq.wait(1)):
                with pytest.raises(RawDeviceError, match="must not block") as caught:
                    act()
                heard.append(str(caught.value))

        irq = device.connect_irq(0, handler)
        irq.fire()
        assert len(heard) == 3
        device.disconnect_irq(irq)


def test_leaks_are_told_at_the_end() -> None:
    device = RawDevice(size="1M")
    device.dma_alloc(4096, "ring")
    device.connect_irq(2)
    with pytest.raises(RawDeviceError, match=r"<DmaBuffer ring .*was not freed; vector 2 was not disconnected"):
        device.close()
    with pytest.raises(RawDeviceError, match="closed"):
        device.read32(0)


def test_wait_for_what_cannot_come_is_a_deadlock_in_virtual_time() -> None:
    with RawDevice(size="1M", clock="virtual") as device:
        irq = device.connect_irq(0)
        with pytest.raises(kworker.SimDeadlock, match="an interrupt on vector 0"):
            irq.wait()
        device.disconnect_irq(irq)


def test_option_of_a_driver_is_refused() -> None:
    with pytest.raises(RawDeviceError, match="has no driver"):
        RawDevice(driver_class=object)


def test_memory_has_an_end(device: RawDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvme_emu.testing.raw.DMA_TOTAL_MAX", 3 * 4096)
    buffers = [device.dma_alloc(4096) for _ in range(3)]
    with pytest.raises(RawDeviceError, match=r"out of memory: 3 buffers, 12288 bytes, not freed"):
        device.dma_alloc(1)
    for buffer in buffers:
        device.dma_free(buffer)
    device.dma_free(device.dma_alloc(1))


def test_nobody_sleeps_at_a_closed_device(device: RawDevice) -> None:
    device.close()
    with pytest.raises(RawDeviceError, match="closed"):
        device.sleep_ns(1)
