"""The example of a driver in C, as who reads the documentation runs it; and what CDriver says where it cannot help."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nvme_emu.testing import CDriver, CDriverError, RawDevice, RawDeviceError

COMPILER = shlex.split(os.environ.get("CC") or "cc")[0]
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"there is no C compiler ({COMPILER})")
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "c_driver"


@needs_compiler
def test_example_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-c", "/dev/null", EXAMPLE],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_example_is_short() -> None:
    assert len((EXAMPLE / "tiny_nvme.c").read_text().splitlines()) <= 160


def build(device: RawDevice, tmp_path: Path, body: str, cdef: str) -> CDriver:
    source = tmp_path / "driver.c"
    source.write_text('#include "nvme_bridge.h"\n' + body)
    return CDriver(device, sources=[source], cdef=cdef, build_dir=tmp_path)


@needs_compiler
def test_source_with_an_error_shows_the_compiler_s_words(tmp_path: Path) -> None:
    with RawDevice(size="1M") as device, pytest.raises(CDriverError, match=r"does not compile:[^$]*nonsense"):
        build(device, tmp_path, "nonsense", "")


def test_source_that_is_not_there_is_named() -> None:
    with RawDevice(size="1M") as device, pytest.raises(CDriverError, match=r"no\.c: there is no such source"):
        CDriver(device, sources=["no.c"], cdef="")


@needs_compiler
def test_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    with RawDevice(size="1M") as device:
        driver = build(device, tmp_path, "int here(void) { return 7; }", "int here(void); int gone(void);")
        assert driver.call("here") == 7
        with pytest.raises(CDriverError, match="gone"):
            driver.call("gone")


@needs_compiler
def test_misuse_in_c_raises_in_the_test_and_reads_all_ones(tmp_path: Path) -> None:
    body = "uint32_t peek(struct nvme_bridge *bus) { return bus->read32(bus, 3); }"
    with RawDevice(size="1M") as device:
        driver = build(device, tmp_path, body, "uint32_t peek(struct nvme_bridge *bus);")
        with pytest.raises(RawDeviceError, match="multiple of 4"):
            driver.call("peek", driver.bus)


@needs_compiler
@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_handler_in_c_is_called_by_the_interrupt(tmp_path: Path, clock: str) -> None:
    body = """
    static int heard;
    static void handler(void *data) { heard += *(int *)data; }
    static int five = 5;
    int listen(struct nvme_bridge *bus) { return bus->irq_connect(bus, 2, handler, &five); }
    int stop(struct nvme_bridge *bus) { bus->irq_disconnect(bus, 2); return heard; }
    """
    with RawDevice(size="1M", clock=clock) as device:
        cdef = "int listen(struct nvme_bridge *bus); int stop(struct nvme_bridge *bus);"
        driver = build(device, tmp_path, body, cdef)
        assert driver.call("listen", driver.bus) == 0
        assert driver.call("listen", driver.bus) == -1
        device.machine.port._deliver([2])
        device.sleep_ns(1000)
        assert driver.call("stop", driver.bus) == 5
