"""What was built or parsed before is kept; nobody sees it."""

from __future__ import annotations

from nvme_emu.spec.base import BUILT_MAX
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER


def test_parsed_structure_is_nobody_else_s() -> None:
    data = IDENTIFY_CONTROLLER.build(vid=0x1234, mn="one")
    first = IDENTIFY_CONTROLLER.parse(data)
    first["vid"] = 0
    first["psd"][0]["mp"] = 99
    second = IDENTIFY_CONTROLLER.parse(data)
    assert second.vid == 0x1234
    assert second.psd[0].mp == 0


def test_built_structure_follows_its_values_however_many_there_were() -> None:
    for number in [*range(BUILT_MAX + 3), 0, 1]:
        built = IDENTIFY_CONTROLLER.build(cntlid=number, psd=[{"mp": number}])
        assert IDENTIFY_CONTROLLER.parse(built).cntlid == number
        assert IDENTIFY_CONTROLLER.parse(built).psd[0].mp == number
