"""Windows of host memory: addresses that show one buffer after the other, and nothing in between."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import nvme_emu
from nvme_emu.core.errors import DmaError
from nvme_emu.core.memory import HostMemory, Window, Windows
from nvme_emu.core.regions import WINDOW


def _opened(count: int = 4, index: int = 1) -> tuple[HostMemory, Windows, Window]:
    memory = HostMemory()
    windows = memory.add_windows(count, "data")
    return memory, windows, memory.open_window(windows, index)


def test_window_shows_a_buffer_and_then_another_at_the_same_address() -> None:
    memory, windows, window = _opened()
    assert window.base == windows.base + WINDOW
    for fill in (b"a", b"b"):
        window.show(memoryview(fill * 5000), False)
        assert memory.read(window.base + 10, 4990) == fill * 4990
        view, offset = memory.find(window.base + 4096, 904)
        assert bytes(view[offset : offset + 904]) == fill * 904
        window.hide()
        with pytest.raises(DmaError, match="no region owns"):
            memory.find(window.base, 1)


def test_window_faults_behind_what_it_shows_and_where_none_is_open() -> None:
    memory, windows, window = _opened()
    window.show(memoryview(bytearray(512)), True)
    assert memory.find(window.base, 512, True)[1] == 0
    for addr, length in ((window.base, 513), (window.base + 512, 1), (windows.base, 1), (windows.end - 1, 1)):
        with pytest.raises(DmaError):
            memory.find(addr, length)
        with pytest.raises(DmaError):
            memory.read(addr, length)


@pytest.mark.parametrize(("data", "writable"), [(bytes(16), True), (bytearray(16), False)])
def test_window_is_stored_to_only_if_asked_for_and_possible(data: bytes | bytearray, writable: bool) -> None:
    memory, _, window = _opened()
    window.show(memoryview(data), writable)
    with pytest.raises(DmaError, match="read-only"):
        memory.find(window.base, 16, True)
    memory.find(window.base, 16)


def test_array_of_a_window_is_of_what_it_shows_now() -> None:
    _, _, window = _opened()
    window.show(memoryview(b"\1" * 8), False)
    assert window.array.tolist() == [1] * 8
    window.show(memoryview(b"\2" * 4), False)
    assert window.array.tolist() == [2] * 4


def test_opening_a_window_twice_gives_the_same() -> None:
    memory, windows, window = _opened()
    assert memory.open_window(windows, 1) is window
    assert memory.open_window(windows, 0) is not window


def test_windows_keep_others_from_their_addresses_until_they_are_removed() -> None:
    memory, windows, window = _opened()
    with pytest.raises(ValueError, match="overlaps"):
        memory.add_region(bytearray(16), base=windows.base + 3 * WINDOW)
    assert memory.add_region(bytearray(16)).base == windows.end
    window.show(memoryview(bytes(8)), False)
    memory.remove_region(windows)
    with pytest.raises(DmaError):
        memory.find(window.base, 1)
    again = memory.add_region(bytearray(b"xy"), base=window.base)
    assert memory.read(again.base, 2) == b"xy"


def test_no_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="0 windows"):
        HostMemory().add_windows(0)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("nlb", [8, 64])
def test_device_sees_nothing_of_a_buffer_whose_command_has_ended(mode: str, nlb: int) -> None:
    with nvme_emu.open(size="1M", mode=mode) as ssd:
        buffer = np.zeros(nlb * 512, np.uint8)
        watched = weakref.ref(buffer)
        ssd.namespaces[1].submit_read(0, nlb, buffer).wait()
        for window in ssd.driver.paths[0].pair._windows.opened:
            if window is not None:
                assert window.size == 0
                with pytest.raises(DmaError):
                    ssd.memory.find(window.base, 1)
        del buffer
        gc.collect()
        assert watched() is None
