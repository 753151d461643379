"""What an image file remembers: a device made anew over it is what it was."""

from __future__ import annotations

import json
import random
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adminhost import AdminHost, code

from nvme_emu.controller import lasting
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.errors import MediaError
from nvme_emu.media.image import ImageMedia
from nvme_emu.media.trailer import StateTooLargeError, Trailer, build_slot, parse_slot
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
from nvme_emu.spec.logs import (
    SANITIZE_SSTAT,
    SANITIZE_STATUS,
    SELF_TEST_LOG,
    SELF_TEST_STATUS,
    SMART_HEALTH,
    TELEMETRY_CONTROLLER,
    Lid,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import CC, Reg
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


def test_block_that_was_written_again_is_good_after_flush(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    for lba, nlb, opcode, cdw12 in ((9, 0, NvmOpcode.FLUSH, 0), (20, 1, NvmOpcode.WRITE, 1 << 30)):
        with powered(path) as one:
            queue = one.io_queue()
            assert queue.run(NvmOpcode.WRITE_UNCORRECTABLE, cdw10=lba, cdw12=2).status == 0
            assert queue.run(NvmOpcode.WRITE, prp1=one.data, cdw10=lba).status == 0
            assert queue.run(opcode, prp1=one.data, cdw10=lba, cdw12=nlb | cdw12).status == 0

        with powered(path) as one:
            queue = one.io_queue()
            assert queue.run(NvmOpcode.READ, prp1=one.data, cdw10=lba, cdw12=nlb).status == 0
            assert code(queue.run(NvmOpcode.READ, prp1=one.data, cdw10=lba + 2)) == Status.READ_ERROR


def test_all_marks_last_however_many(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        queue = one.io_queue()
        for lba in range(0, 1000, 2):
            assert queue.run(NvmOpcode.WRITE_UNCORRECTABLE, cdw10=lba).status == 0

    with powered(path) as one:
        assert one.ctrl.namespaces[1].marked.first(998, 1) == 998


def test_logs_and_counters_last(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        one.do(0x99)
        one.do(AdminOpcode.DEVICE_SELF_TEST, nsid=0, cdw10=1)
        one.do(AdminOpcode.DEVICE_SELF_TEST, nsid=0, cdw10=0xF)
        one.ctrl.telemetry.failed("a test")
        one.ctrl.logs.health.available_spare = 7
        one.do(AdminOpcode.FORMAT_NVM, nsid=1)
        events = len(one.ctrl.subsystem.persistent_events)

    with powered(path) as one:
        smart = SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH))
        assert (smart.num_err_log_entries, smart.avsp, smart.unsafe_shutdowns, smart.power_cycles) == (1, 7, 1, 2)
        results = SELF_TEST_LOG.parse(one.logged(Lid.DEVICE_SELF_TEST, SELF_TEST_LOG.size)).results
        assert SELF_TEST_STATUS.unpack(results[0].status).result == 1
        told = TELEMETRY_CONTROLLER.parse(one.logged(Lid.TELEMETRY_CONTROLLER)[:512])
        assert (told.tcda, told.tcdgn) == (1, 1)
        # One more: the reset with which the host began.
        assert len(one.ctrl.subsystem.persistent_events) >= events


def test_shutdown_makes_the_loss_of_power_an_expected_one(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    lost = []
    for shuts_down in (True, False, True, True):
        with powered(path) as one:
            lost.append(SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH)).unsafe_shutdowns)
            if shuts_down:
                one.ctrl.mmio_write(Reg.CC, 4, CC.replace(one.ctrl.registers.cc, shn=1))
                one.step(one.now_ns + 10**9)

    assert lost == [0, 0, 1, 1]


def test_self_test_that_ran_goes_on_if_it_was_extended(tmp_path: Path) -> None:
    for stc, result in ((1, 2), (2, 0)):
        path = tmp_path / f"ssd{stc}.img"
        with powered(path) as one:
            assert one.do(AdminOpcode.DEVICE_SELF_TEST, nsid=1, cdw10=stc).status == 0

        with powered(path) as one:
            one.step(one.now_ns + 1)
            page = SELF_TEST_LOG.parse(one.logged(Lid.DEVICE_SELF_TEST, SELF_TEST_LOG.size))
            status = SELF_TEST_STATUS.unpack(page.results[0].status)
            assert (page.current, status.result, status.code) == (0, result, stc)


def test_command_that_cannot_be_remembered_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ImageMedia, contents: bytes) -> None:
        raise MediaError(28, "No space left on device")

    with powered(tmp_path / "ssd.img") as one:
        queue = one.io_queue()
        assert queue.run(NvmOpcode.WRITE_UNCORRECTABLE, cdw10=3).status == 0
        with monkeypatch.context() as patch:
            patch.setattr(ImageMedia, "store_state", full)
            assert code(one.set_feature(Fid.WRITE_PROTECTION, 1, nsid=1)) == Status.INTERNAL
            assert one.set_feature(Fid.WRITE_PROTECTION, 0, nsid=1).status & 0x7FF == Status.INTERNAL
            assert queue.run(NvmOpcode.WRITE, prp1=one.data, cdw10=3).status == 0
            assert code(queue.run(NvmOpcode.FLUSH)) == Status.INTERNAL
        assert queue.run(NvmOpcode.FLUSH).status == 0


def test_state_of_version_1_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    make_image(path, 1)
    media = ImageMedia(str(path))
    old = {
        "version": 1,
        "namespaces": [{"id": 1, "name": "x", "at": [[0, SIZE]], "format": 1, "blocks": 256, "marked": [[5, 1]]}],
        "attached": [1],
        "made": 3,
        "features": [],
        "firmware": {"slots": {"1": "1.0"}, "active": 1, "next_active": 0},
        "sanitize": {"state": 0, "outcome": 0, "cdw10": 0, "cdw11": 0, "failed_in": 0, "passes": 0},
        "counters": {"power_cycles": 4, "read_commands": 77},
    }
    media.store_state(json.dumps(old).encode())
    media.close()

    for cycles in (5, 6):
        with powered(path) as one:
            assert namespace(one)["flbas"] == 1
            smart = SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH))
            assert (smart.power_cycles, smart.host_read_commands) == (cycles, 77)
            assert code(one.io_queue().run(NvmOpcode.READ, prp1=one.data, cdw10=5)) == Status.READ_ERROR


def test_state_of_somebody_newer_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    with powered(path) as one:
        one.do(AdminOpcode.FORMAT_NVM, nsid=1)
    media = ImageMedia(str(path))
    state = json.loads(media.load_state() or b"")
    for change, words in (
        ({"magic": [1, 5]}, "'magic' of the subsystem in version 1; this program knows none"),
        ({"firmware": [2, {}]}, "'firmware' of the subsystem in version 2; this program knows version 1"),
        ({"namespaces": [9, {}]}, "'namespaces' in version 9; this program knows version 1"),
    ):
        changed = {"version": 2, "sections": {**state["sections"], **change}}
        media.store_state(json.dumps(changed).encode())
        media.close()
        with pytest.raises(MediaError, match=words), powered(path):
            pass
        media = ImageMedia(str(path))
    media.close()


def test_part_beyond_its_bound_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with powered(tmp_path / "ssd.img") as one:
        long = lasting.Part("long", 1, lambda _: "x" * 100, lambda *_: None, bytes_max=50)
        monkeypatch.setattr(lasting, "NAMESPACE_PARTS", (long,))
        assert code(one.do(AdminOpcode.FORMAT_NVM, nsid=1)) == Status.INTERNAL
        monkeypatch.setattr(lasting, "NAMESPACE_PARTS", (long._replace(bytes_max=102),))
        assert one.do(AdminOpcode.FORMAT_NVM, nsid=1).status == 0


@pytest.mark.parametrize(("groups", "expected"), [(4, 3), (2, 1), (0, 0)])
def test_ana_group_lasts_while_there_are_so_many(tmp_path: Path, groups: int, expected: int) -> None:
    path = tmp_path / "ssd.img"
    for count, before, after in ((4, 1, 3), (groups, expected, expected)):
        media = ImageMedia(str(path), SIZE)
        one = AdminHost(config=ControllerConfig(ana_groups=count), media=[media], lba_size=512)
        assert one.ctrl.namespaces[1].anagrpid == before
        one.ctrl.namespaces[1].anagrpid = after
        one.ctrl.subsystem.store()
        media.close()


# --- the slots ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_torn_state_leaves_the_one_before(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ssd.img"
    trailer = make_image(path, version)
    media = ImageMedia(str(path))
    media.store_state(b"first")
    media.store_state(b"second")
    media.close()
    assert _loaded(path) == b"second"

    third = random.Random(1).randbytes(1500)
    slot = build_slot(version, 3, third)
    before = path.read_bytes()
    for torn in range(0, len(slot) + 1, 97):
        raw = bytearray(before)
        at = trailer.slots[1]
        raw[at : at + torn] = slot[:torn]
        path.write_bytes(raw)
        assert _loaded(path) in (b"second", third)


def make_image(path: Path, version: int = 2) -> Trailer:
    """An image as the layout of that version has it."""
    trailer = Trailer(SIZE, 512, uuid.UUID(int=7), version)
    raw = bytearray(trailer.file_bytes)
    raw[trailer.offset :] = trailer.build()
    if version == 2:
        first = build_slot(2, 0, b"")
        raw[trailer.slots[0] : trailer.slots[0] + len(first)] = first
    path.write_bytes(raw)
    return trailer


def _loaded(path: Path) -> bytes | None:
    media = ImageMedia(str(path))
    try:
        return media.load_state()
    finally:
        media.close()


@pytest.mark.parametrize("version", [1, 2])
def test_slots_take_turns_and_refuse_what_does_not_fit(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ssd.img"
    trailer = make_image(path, version)
    media = ImageMedia(str(path))
    seen = []
    for contents in (b"a", b"b", b"c" * 1000):
        media.store_state(contents)
        raw = path.read_bytes()
        seen.append([parse_slot(version, raw[at : at + trailer.slot_bytes]) for at in trailer.slots])
    with pytest.raises(StateTooLargeError, match="does not fit"):
        media.store_state(random.Random(1).randbytes(trailer.slot_bytes))
    media.close()

    assert [[slot.contents for slot in pair] for pair in seen] == [
        [b"", b"a"], [b"b", b"a"], [b"b", b"c" * 1000],
    ]  # fmt: skip
    assert _loaded(path) == b"c" * 1000


def test_image_without_a_good_slot_is_damaged_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    trailer = make_image(path)
    raw = bytearray(path.read_bytes())
    raw[trailer.slots[0] + 8] ^= 1
    path.write_bytes(raw)

    with pytest.raises(MediaError, match=r"no state slot is good \(the first: its checksum is .*; the second: empty\)"):
        ImageMedia(str(path))


@pytest.mark.parametrize(
    "contents",
    [
        b"", b"{}", b'{"version":3}', b"[]", b'{"version":1,"namespaces":[{}]}', b'{"version":2,"sections":{}}',
        b'{"version":2,"sections":{"namespaces":[1,{"list":[],"attached":[],"made":0}],"controllers":[1,[]]}}',
        b'{"version":2,"sections":{"namespaces":[1,{"list":[],"attached":[],"made":0}],"controllers":[1,{}],"x":5}}',
    ],
)  # fmt: skip
def test_state_that_is_none_is_an_error_of_the_image(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "ssd.img"
    media = ImageMedia(str(path), SIZE)
    media.store_state(contents)
    media.close()

    with pytest.raises(MediaError, match="state"), powered(path):
        pass
