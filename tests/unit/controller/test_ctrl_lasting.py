"""What an image file remembers: a device made anew over it is what it was."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adminhost import AdminHost, code

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.errors import MediaError
from nvme_emu.media.image import ImageMedia
from nvme_emu.media.trailer import SLOT_BYTES, SLOTS, build_state, newest_state
from nvme_emu.spec.commands_admin import FORMAT_CDW10, FW_COMMIT_CDW10, SANITIZE_CDW10
from nvme_emu.spec.features import VOLATILE_WRITE_CACHE, Fid
from nvme_emu.spec.firmware import build_firmware
from nvme_emu.spec.identify import (
    CONTROLLER_LIST,
    IDENTIFY_CONTROLLER,
    IDENTIFY_NAMESPACE,
    NS_MANAGEMENT,
    Cns,
)
from nvme_emu.spec.logs import SANITIZE_SSTAT, SANITIZE_STATUS, SMART_HEALTH, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.reservations import ReservationType
from nvme_emu.spec.status import Status

SIZE = 1 << 20


@contextmanager
def powered(path: Path) -> Iterator[AdminHost]:
    """The device with its power on; it goes without a shutdown."""
    media = ImageMedia(str(path), SIZE)
    try:
        config = ControllerConfig(namespaces_max=8, sanitize_ns=10**9)
        yield AdminHost(config=config, media=[media], lba_size=512)
    finally:
        media.close()


def namespace(one: AdminHost, nsid: int = 1, cns: int = Cns.NAMESPACE) -> dict[str, int]:
    return IDENTIFY_NAMESPACE.parse(one.identified(cns, nsid))


def create(one: AdminHost, blocks: int, flbas: int = 0) -> int:
    one.memory.write(one.data, NS_MANAGEMENT.build(nsze=blocks, ncap=blocks, flbas=flbas))
    return one.do(AdminOpcode.NAMESPACE_MANAGEMENT).dw0


def attach(one: AdminHost, nsid: int) -> None:
    one.memory.write(one.data, CONTROLLER_LIST.build(numid=1, cntid=[0]))
    assert one.do(AdminOpcode.NAMESPACE_ATTACHMENT, nsid=nsid).status == 0


def test_format_and_features_last(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        assert one.do(AdminOpcode.FORMAT_NVM, nsid=1, cdw10=FORMAT_CDW10.pack(lbafl=1)).status == 0
        assert one.set_feature(Fid.VOLATILE_WRITE_CACHE, VOLATILE_WRITE_CACHE.pack(wce=0), sv=1).status == 0
        assert one.set_feature(Fid.WRITE_PROTECTION, 1, nsid=1).status == 0

    with powered(path) as one:
        found = namespace(one)
        assert (found["flbas"], found["nsze"], found["nsattr"]) == (1, SIZE // 4096, 1)
        assert one.get_feature(Fid.VOLATILE_WRITE_CACHE).dw0 == 0
        assert code(one.do(AdminOpcode.FORMAT_NVM, nsid=1)) == Status.NS_WRITE_PROTECTED
        assert SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH)).power_cycles == 2


def test_namespaces_last_with_their_data_and_names(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        one.do(AdminOpcode.NAMESPACE_MANAGEMENT, nsid=1, cdw10=1)
        assert [create(one, 512), create(one, 64, 1), create(one, 8)] == [1, 2, 3]
        attach(one, 2)
        one.do(AdminOpcode.NAMESPACE_MANAGEMENT, nsid=1, cdw10=1)
        queue = one.io_queue()
        one.memory.write(one.data, b"two" + bytes(4093))
        assert queue.run(NvmOpcode.WRITE, nsid=2, prp1=one.data, cdw10=5).status == 0
        before = namespace(one, 2)
        left = IDENTIFY_CONTROLLER.parse(one.identified(Cns.CONTROLLER)).unvmcap

    with powered(path) as one:
        assert sorted(one.ctrl.namespaces) == [2]
        assert sorted(one.ctrl.subsystem.namespaces) == [2, 3]
        assert namespace(one, 2) == before
        assert IDENTIFY_CONTROLLER.parse(one.identified(Cns.CONTROLLER)).unvmcap == left
        queue = one.io_queue()
        assert queue.run(NvmOpcode.READ, nsid=2, prp1=one.data, cdw10=5).status == 0
        assert one.memory.read(one.data, 3) == b"two"
        assert create(one, 512) == 1


def test_firmware_that_waited_for_a_reset_is_active(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    image = build_firmware("7.7")
    with powered(path) as one:
        one.memory.write(one.data, image)
        one.do(AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, cdw10=len(image) // 4 - 1)
        assert one.do(AdminOpcode.FIRMWARE_COMMIT, cdw10=FW_COMMIT_CDW10.pack(fs=2, ca=1)).status == 0

    with powered(path) as one:
        assert IDENTIFY_CONTROLLER.parse(one.identified(Cns.CONTROLLER)).fr == "7.7"


def test_sanitize_goes_on_after_the_power_was_off(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        queue = one.io_queue()
        one.memory.write(one.data, b"secret" * 80)
        queue.run(NvmOpcode.WRITE, prp1=one.data)
        assert one.do(AdminOpcode.SANITIZE, cdw10=SANITIZE_CDW10.pack(sanact=2)).status == 0

    with powered(path) as one:
        one.step(one.now_ns + 10**9)
        found = SANITIZE_STATUS.parse(one.logged(Lid.SANITIZE_STATUS))
        assert SANITIZE_SSTAT.unpack(found.sstat).sos == 4
        one.io_queue().run(NvmOpcode.READ, prp1=one.data)
        assert one.memory.read(one.data, 512) == bytes(512)


@pytest.mark.parametrize("ptpl", [2, 3])
def test_reservation_lasts_if_it_is_to(tmp_path: Path, ptpl: int) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        one.memory.write(one.data, b"H" * 16)
        one.set_feature(Fid.HOST_IDENTIFIER, 1)
        queue = one.io_queue()
        one.memory.write(one.data, struct.pack("<QQ", 0, 5))
        queue.run(NvmOpcode.RESERVATION_REGISTER, prp1=one.data, cdw10=ptpl << 30)
        one.memory.write(one.data, struct.pack("<QQ", 5, 0))
        kind = ReservationType.EXCLUSIVE_ACCESS
        assert queue.run(NvmOpcode.RESERVATION_ACQUIRE, prp1=one.data, cdw10=kind << 8).status == 0

    with powered(path) as one:
        status = code(one.io_queue().run(NvmOpcode.READ, prp1=one.data))
        assert status == (Status.RESERVATION_CONFLICT if ptpl == 3 else 0)


def test_marked_blocks_stay_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        one.io_queue().run(NvmOpcode.WRITE_UNCORRECTABLE, cdw10=9)

    with powered(path) as one:
        assert code(one.io_queue().run(NvmOpcode.READ, prp1=one.data, cdw10=9)) == Status.READ_ERROR


# --- the slots ----------------------------------------------------------------------------------------------


def test_torn_state_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    media = ImageMedia(str(path), SIZE)
    media.store_state(b"first")
    media.store_state(b"second")
    media.close()
    assert _loaded(path) == b"second"

    for torn in range(0, SLOT_BYTES, 97):
        offset, slot = build_state(3, b"third" * 100)
        raw = bytearray(path.read_bytes())
        at = SIZE + offset
        raw[at : at + torn] = slot[:torn]
        other = tmp_path / "torn.img"
        other.write_bytes(raw)
        assert _loaded(other) in (b"second", b"third" * 100)


def _loaded(path: Path) -> bytes | None:
    media = ImageMedia(str(path))
    try:
        return media.load_state()
    finally:
        media.close()


def test_slots_take_turns_and_refuse_what_does_not_fit() -> None:
    assert [build_state(number, b"")[0] for number in range(4)] == [*SLOTS, *SLOTS]
    block = bytearray(4096)
    for number, contents in ((1, b"a"), (2, b"b"), (3, b"c")):
        offset, slot = build_state(number, contents)
        block[offset : offset + SLOT_BYTES] = slot
    assert newest_state(bytes(block)) == (3, b"c")
    with pytest.raises(ValueError, match="does not fit"):
        build_state(1, random.Random(1).randbytes(2100))


@pytest.mark.parametrize("contents", [b"", b"{}", b'{"version":2}', b"[]", b'{"version":1,"namespaces":[{}]}'])
def test_state_that_is_none_is_an_error_of_the_image(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "ssd.img"
    media = ImageMedia(str(path), SIZE)
    media.store_state(contents)
    media.close()

    with pytest.raises(MediaError, match="state"), powered(path):
        pass
