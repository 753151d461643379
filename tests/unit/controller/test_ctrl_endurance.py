"""Wear: what the device model programs is what the endurance group's log tells, and uses its life up."""

from __future__ import annotations

import random

import numpy as np
import pytest

import nvme_emu
from nvme_emu.controller import ControllerConfig
from nvme_emu.controller.endurance import media_bytes_written, percentage_used
from nvme_emu.controller.latency import LatencyModel
from nvme_emu.controller.profiles import load_profile
from nvme_emu.spec.endurance import ENDURANCE_GROUP_LOG
from nvme_emu.spec.logs import SMART_HEALTH, Lid

MIB = 1 << 20


@pytest.mark.parametrize("profile", ["instant", "tlc", "qlc"])
def test_media_writes_are_those_of_the_device_model(profile: str) -> None:
    with nvme_emu.open(size=16 * MIB, profile=profile, clock="virtual") as ssd:
        data = np.zeros(MIB, np.uint8)
        for at in range(16):
            ssd.namespaces[1].write(at * 2048, data)
        ssd.namespaces[1].flush()
        written = media_bytes_written(ssd.controller)
        model = ssd.controller.latency
        if model is None:
            assert written == 16 * MIB
        else:
            assert written == model.counters.media_write_bytes
            assert written >= 16 * MIB
            amplification = load_profile(profile).write_amplification_pct
            assert written >= 16 * MIB * amplification // 100 * 9 // 10


def test_what_was_written_in_an_earlier_life_is_not_forgotten() -> None:
    with nvme_emu.open(size=MIB, profile="tlc", clock="virtual") as ssd:
        ssd.controller.counters.write_bytes += 10 * MIB
        before = media_bytes_written(ssd.controller)
        assert before == 10 * MIB
        assert isinstance(ssd.controller.latency, LatencyModel)


def test_rated_cycles_are_used_up_by_writing() -> None:
    config = ControllerConfig(rated_cycles=10)
    with nvme_emu.open(size=MIB, controller=config) as ssd:
        data = random.Random(1).randbytes(MIB)
        for expected in (10, 20, 30):
            ssd.namespaces[1].write(0, data)
            assert percentage_used(ssd.controller) == expected
        ssd.controller.logs.health.percentage_used = 50
        smart = SMART_HEALTH.parse(ssd.driver.admin.get_log_page(Lid.SMART_HEALTH, 512).tobytes())
        group = ENDURANCE_GROUP_LOG.parse(ssd.driver.admin.get_log_page(Lid.ENDURANCE_GROUP, 512, lsi=1).tobytes())
        assert smart.pused == group.pused == 80
        assert (group.ee, group.muw) == (1, 1)
        ssd.controller.logs.health.percentage_used = 255
        assert percentage_used(ssd.controller) == 255


def test_no_rated_cycles_tell_no_endurance() -> None:
    with nvme_emu.open(size=MIB, controller=ControllerConfig(rated_cycles=0)) as ssd:
        ssd.namespaces[1].write(0, bytes(MIB))
        group = ENDURANCE_GROUP_LOG.parse(ssd.driver.admin.get_log_page(Lid.ENDURANCE_GROUP, 512, lsi=1).tobytes())
        assert (group.ee, group.pused) == (0, 0)
