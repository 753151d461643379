"""The driver of tiny_nvme.c on an emulated SSD: `pytest examples/c_driver` (needs cffi and a C compiler)."""

from pathlib import Path

import pytest

from nvme_emu.observe.checker import CheckError
from nvme_emu.testing import CDriver, RawDevice, fault

SOURCE = Path(__file__).with_name("tiny_nvme.c")
CDEF = """
int tiny_probe(struct nvme_bridge *bus, int by_interrupt);
int tiny_write(uint64_t lba, const void *data, uint32_t blocks);
int tiny_read(uint64_t lba, void *data, uint32_t blocks);
void tiny_remove(void);
"""


def read(driver: CDriver, lba: int) -> tuple[int, bytes]:
    buffer = driver.ffi.new("uint8_t[512]")
    return driver.call("tiny_read", lba, buffer, 1), bytes(buffer)


@pytest.mark.parametrize("by_interrupt", [0, 1], ids=["polled", "by interrupt"])
@pytest.mark.nvme(profile="tlc")
def test_what_was_written_is_read(nvme_raw: RawDevice, by_interrupt: int) -> None:
    driver = CDriver(nvme_raw, sources=[SOURCE], cdef=CDEF)
    assert driver.call("tiny_probe", driver.bus, by_interrupt) == 0
    assert driver.logged[0].startswith("nvme-emu")
    for lba in range(20):  # twice and a half round the queue
        assert driver.call("tiny_write", lba, bytes([lba]) * 512, 1) == 0
    for lba in range(20):
        assert read(driver, lba) == (0, bytes([lba]) * 512)
    driver.call("tiny_remove")


@pytest.mark.nvme(profile="tlc")
def test_read_error_is_reported(nvme_raw: RawDevice) -> None:
    driver = CDriver(nvme_raw, sources=[SOURCE], cdef=CDEF)
    assert driver.call("tiny_probe", driver.bus, 0) == 0
    nvme_raw.faults.add(fault.when(opcode="read", nth=2).status("Unrecovered Read Error", dnr=True))
    assert read(driver, 0)[0] == 0
    assert read(driver, 0)[0] & 0x7FF == 0x281
    driver.call("tiny_remove")


@pytest.mark.parametrize("bug", ["BUG_PHASE", "BUG_HEAD"])
def test_checker_catches(bug: str) -> None:
    device = RawDevice(profile="tlc", clock="virtual", check="error")
    driver = CDriver(device, sources=[SOURCE], cdef=CDEF, macros={bug: 1})
    with pytest.raises(CheckError, match="head"):
        driver.call("tiny_probe", driver.bus, 0)
        for lba in range(20):
            driver.call("tiny_write", lba, bytes(512), 1)
    device.close(strict=False)
