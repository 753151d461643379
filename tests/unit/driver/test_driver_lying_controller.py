"""What the driver says of a controller whose capabilities cannot be."""

from __future__ import annotations

import errno

import pytest

import nvme_emu
from nvme_emu.controller import ControllerConfig


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_controller_without_room_in_its_queues_is_refused_by_name(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControllerConfig, "mqes_z", property(lambda _config: 0))
    with pytest.raises(nvme_emu.NvmeError, match="MQES is 0") as caught:
        nvme_emu.open(size="1M", mode=mode)
    assert caught.value.errno == errno.ENODEV
