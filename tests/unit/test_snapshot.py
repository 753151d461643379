"""Copies of a machine in memory: what a copy has, that nobody writes into another's, and what is refused."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu import Machine, NvmeError
from nvme_emu.controller import ControllerConfig
from nvme_emu.core.errors import MediaError
from nvme_emu.driver.request import Request
from nvme_emu.media import CopiedData, CopiedRam, CopiedSparse, ImageMedia, Media, RamMedia, SparseMedia
from nvme_emu.spec.commands_admin import FORMAT_CDW10, FW_COMMIT_CDW10
from nvme_emu.spec.features import Fid
from nvme_emu.spec.firmware import build_firmware
from nvme_emu.spec.identify import CONTROLLER_LIST, NS_MANAGEMENT
from nvme_emu.spec.logs import SMART_HEALTH, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode

CLOCKS = pytest.mark.parametrize("clock", ["wall", "virtual"])
PAGE = 4096


def block(fill: int, blocks: int = 1) -> bytes:
    return bytes([fill]) * (512 * blocks)


def stored(machine: Machine, slba: int = 0, nlb: int = 1, nsid: int = 1) -> bytes:
    return bytes(machine.namespaces[nsid].read(slba, nlb))


def admin(machine: Machine, opcode: int, nsid: int = 0, data: bytes | None = None, **cdws: int) -> int:
    dw0, _ = machine.driver.admin.execute(opcode, nsid=nsid, data=data, **cdws)
    return dw0


def smart(machine: Machine) -> dict[str, Any]:
    return SMART_HEALTH.parse(bytes(machine.driver.admin.get_log_page(Lid.SMART_HEALTH, SMART_HEALTH.size)))


def mark(machine: Machine, slba: int) -> None:
    request = Request(NvmOpcode.WRITE_UNCORRECTABLE, 1, slba, 0, 0, None, False)
    machine.driver.path().submit(request)
    request.wait()


# -- data ----------------------------------------------------------------------------------------------------


@CLOCKS
@pytest.mark.parametrize("size", ["16M", "5G"])
def test_copies_have_the_data_and_write_into_nobody_elses(clock: str, size: str) -> None:
    with nvme_emu.open(size=size, clock=clock) as ssd:
        one = ssd.namespaces[1]
        one.write(3, block(0x11, 20))
        one.write(1000, block(0x22, 64))
        one.discard(1008, 16)
        last = ssd.controller.namespaces[1].nsze - 1
        one.write(last, block(0x33))
        with ssd.snapshot() as taken, taken.open() as first, taken.open() as second:
            first.namespaces[1].write(3, block(0x44))
            one.write(4, block(0x55))
            first.namespaces[1].discard(1000, 64)
            for machine in (second, taken.open()):
                assert stored(machine, 3, 20) == block(0x11, 20)
                assert stored(machine, 1000, 8) == block(0x22, 8)
                assert stored(machine, 1008, 16) == bytes(16 * 512)
                assert stored(machine, 1024, 40) == block(0x22, 40)
                assert stored(machine, 5000, 8) == bytes(8 * 512)
                assert stored(machine, last) == block(0x33)
            machine.close()
            assert stored(first, 3, 2) == block(0x44) + block(0x11)
            assert stored(first, 1000, 64) == bytes(64 * 512)
            assert stored(ssd, 3, 2) == block(0x11) + block(0x55)


def test_copy_outlives_the_snapshot_and_the_original() -> None:
    ssd = nvme_emu.open(size="4M")
    ssd.namespaces[1].write(0, block(1))
    taken = ssd.snapshot()
    ssd.close()
    copy = taken.open()
    taken.close()
    with copy:
        assert stored(copy) == block(1)
        with copy.fork() as further:
            copy.namespaces[1].write(1, block(2))
            assert stored(further, 0, 2) == block(1) + bytes(512)
    with pytest.raises(ValueError, match="closed"):
        taken.open()


def test_copy_of_a_copy_has_what_both_wrote_and_not_what_was_erased() -> None:
    with nvme_emu.open(size="16M") as ssd:
        one = ssd.namespaces[1]
        one.write(0, block(1, 256))
        one.write(8192, block(2, 256))
        with ssd.fork() as copy:
            copy.namespaces[1].discard(0, 256)
            copy.namespaces[1].write(20000, block(3))
            with copy.fork() as further:
                assert stored(further, 0, 256) == bytes(256 * 512)
                assert stored(further, 8192, 256) == block(2, 256)
                assert stored(further, 20000) == block(3)


@pytest.mark.parametrize("kind", [RamMedia, SparseMedia, CopiedRam, CopiedSparse, ImageMedia])
@pytest.mark.parametrize("page_map", [True, False], ids=["page map", "no page map"])
def test_random_work_is_copied_from_every_medium(
    kind: Callable[..., Media], page_map: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nbytes = 600 * PAGE + 512
    rng = np.random.default_rng(7)
    model = np.zeros(nbytes, np.uint8)
    if not page_map:
        monkeypatch.setattr("nvme_emu.media.pages._read", lambda *_: np.zeros(1, np.bool_))
    if kind in (CopiedRam, CopiedSparse):
        before = RamMedia(nbytes)
        model[100:300_000] = 9
        before.write(0, model.tobytes())
        medium: Media = kind(CopiedData([before]), None)
        before.close()
    else:
        medium = kind(tmp_path / "ssd.img", nbytes) if kind is ImageMedia else kind(nbytes)
    for step in range(60):
        at, length = int(rng.integers(0, nbytes)), int(rng.integers(1, 200_000))
        end = min(nbytes, at + length)
        if step % 3:
            model[at:end] = step
            medium.write(at, model[at:end].tobytes())
        else:
            model[at:end] = 0
            medium.discard(at, end - at)
    data = CopiedData([medium, medium])
    medium.close()
    touched = 2 * int(np.count_nonzero(model))
    assert sum(count for _, count in data.runs()) <= touched + 256 * PAGE
    copies: list[Media] = [CopiedRam(data, None), CopiedSparse(data, b"state")]
    for made in copies:
        found = bytearray(2 * nbytes)
        made.read_into(0, memoryview(found))
        assert found == model.tobytes() * 2
        made.zero(0, 2 * nbytes)
        made.read_into(0, memoryview(found))
        assert not any(found)
        made.close()
        made.close()


def test_only_written_pages_are_copied_and_nobody_can_change_them() -> None:
    with nvme_emu.open(size="1G") as ssd:
        for at in range(0, 2_000_000, 200_000):
            ssd.namespaces[1].write(at, block(1, 8))
        with ssd.snapshot() as taken:
            assert 10 * PAGE <= taken.allocated_bytes() <= 20 * PAGE
            with taken.open():
                pass
            fd = taken._data.fd  # type: ignore[union-attr]
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
        assert taken.allocated_bytes() == 0
        with pytest.raises(OSError, match=re.escape(os.strerror(errno.EBADF))):
            os.fstat(fd)


# -- what lasts ----------------------------------------------------------------------------------------------


def test_state_of_the_blocks_and_the_features_lasts() -> None:
    with nvme_emu.open(size="8M", namespaces=2) as ssd:
        admin(ssd, AdminOpcode.FORMAT_NVM, 2, cdw10=FORMAT_CDW10.pack(lbafl=1))
        ssd.replug()
        ssd.namespaces[2].write(1, bytes([7]) * 4096)
        mark(ssd, 5)
        admin(ssd, AdminOpcode.SET_FEATURES, cdw10=1 << 31 | Fid.VOLATILE_WRITE_CACHE, cdw11=0)
        admin(ssd, AdminOpcode.SET_FEATURES, 2, cdw10=Fid.WRITE_PROTECTION, cdw11=1)
        before = smart(ssd)
        with ssd.fork() as copy:
            after = smart(copy)
            assert {nsid: one.lba_size for nsid, one in copy.namespaces.items()} == {1: 512, 2: 4096}
            assert stored(copy, 1, nsid=2) == bytes([7]) * 4096
            with pytest.raises(NvmeError):
                copy.namespaces[1].read(5, 1)
            with pytest.raises(NvmeError):
                copy.namespaces[2].write(0, bytes(4096))
            copy.namespaces[1].write(5, block(1))
            assert copy.driver.admin.get_features(Fid.VOLATILE_WRITE_CACHE) == 0
            assert after["power_cycles"] == before["power_cycles"] + 1
            assert after["unsafe_shutdowns"] == before["unsafe_shutdowns"]
            assert after["host_write_commands"] == before["host_write_commands"] > 0
            with pytest.raises(NvmeError):
                ssd.namespaces[1].read(5, 1)
            for nsid, one in ssd.controller.namespaces.items():
                assert copy.controller.namespaces[nsid].uuid == one.uuid


def test_namespaces_of_several_media_are_found_again() -> None:
    """Deleted ones too, and one that was made of the room of two."""
    with nvme_emu.open(size="12M", namespaces=3) as ssd:
        for nsid in (1, 2, 3):
            ssd.namespaces[nsid].write(0, block(nsid))
        admin(ssd, AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=1)
        admin(ssd, AdminOpcode.NAMESPACE_MANAGEMENT, 3, cdw10=1)
        blocks = (6 << 20) // 512
        made = admin(ssd, AdminOpcode.NAMESPACE_MANAGEMENT, data=NS_MANAGEMENT.build(nsze=blocks, ncap=blocks))
        admin(ssd, AdminOpcode.NAMESPACE_ATTACHMENT, made, CONTROLLER_LIST.build(numid=1, cntid=[0]))
        ssd.replug()
        assert sorted(ssd.namespaces) == [made, 2]
        ssd.namespaces[made].write(0, block(0x66))
        ssd.namespaces[made].write(blocks - 1, block(0x77))
        with ssd.snapshot() as taken:
            for copy in (taken.open(), taken.open(clock="virtual")):
                with copy:
                    assert sorted(copy.namespaces) == [made, 2]
                    assert stored(copy, nsid=2) == block(2)
                    assert stored(copy, nsid=made) == block(0x66)
                    assert stored(copy, blocks - 1, nsid=made) == block(0x77)
                    assert copy.controller.subsystem.capacity.unallocated == (2 << 20)


def test_firmware_slots_last_and_what_waited_for_a_reset_is_active() -> None:
    with nvme_emu.open(size="1M") as ssd:
        for slot, version in ((2, "7.7"), (3, "8.8")):
            image = build_firmware(version)
            admin(ssd, AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, data=image, cdw10=len(image) // 4 - 1)
            admin(ssd, AdminOpcode.FIRMWARE_COMMIT, cdw10=FW_COMMIT_CDW10.pack(fs=slot, ca=slot == 2))
        with ssd.fork() as copy:
            assert copy.driver.identity.fr == "7.7"
            assert ssd.driver.identity.fr != "7.7"
            page = bytes(copy.driver.admin.get_log_page(Lid.FIRMWARE_SLOT, 512))
            assert [page[8 * slot : 8 * slot + 3] for slot in (2, 3)] == [b"7.7", b"8.8"]


def test_metadata_and_its_protection_last() -> None:
    with nvme_emu.open(size="4M", metadata="ms=8,pi=1") as ssd:
        ssd.namespaces[1].write(9, block(0x18))
        with ssd.fork() as copy:
            assert copy.controller.namespaces[1].layout == ssd.controller.namespaces[1].layout is not None
            assert stored(copy, 8, 2) == bytes(512) + block(0x18)


@pytest.mark.breaks_rules
@CLOCKS
def test_zones_last_closed(clock: str) -> None:
    with nvme_emu.open(size="4M", zoned="zone_size=64k,zone_capacity=48k,max_active=8", clock=clock) as ssd:
        one = ssd.namespaces[1]
        one.write(0, block(1, 96))
        one.write(128, block(2, 5))

        def pointers(machine: Machine) -> list[int]:
            zones = machine.controller.namespaces[1].zones
            assert zones is not None
            return [zone.wp - zone.start for zone in zones.zones]

        with ssd.fork() as copy:
            assert pointers(copy) == pointers(ssd)
            assert stored(copy, 128, 5) == block(2, 5)
            copy.namespaces[1].write(133, block(3))
            assert stored(copy, 132, 2) == block(2) + block(3)
            with pytest.raises(NvmeError):
                copy.namespaces[1].write(0, block(4))
        one.write(133, block(5))


def test_persistent_memory_lasts_and_one_of_another_size_is_refused() -> None:
    with nvme_emu.open(size="1M", controller=ControllerConfig(pmr_bytes=1 << 20)) as ssd:
        ssd.controller.buffers.pmr.view[100:103] = b"abc"  # type: ignore[union-attr]
        with ssd.snapshot() as taken, taken.open() as copy:
            region = copy.controller.buffers.pmr
            assert region is not None
            assert bytes(region.view[99:104]) == b"\0abc\0"
            region.view[100] = 0
            assert ssd.controller.buffers.pmr.view[100] == ord("a")  # type: ignore[union-attr]
            with pytest.raises(ValueError, match="pmr_bytes"):
                taken.open(controller=ControllerConfig())


def test_several_hosts_are_copied() -> None:
    with nvme_emu.open(size="1M", controllers=2) as ssd:
        ssd.hosts[1].namespaces[1].write(0, block(3))
        with ssd.fork() as copy:
            assert bytes(copy.hosts[1].namespaces[1].read(0, 1)) == block(3) == stored(copy)
        with ssd.snapshot() as taken:
            ssd.hosts[1].namespaces[1].write(0, block(4))
            ssd.restore(taken)
            assert bytes(ssd.hosts[1].namespaces[1].read(0, 1)) == block(3) == stored(ssd)


# -- the same again ------------------------------------------------------------------------------------------


def test_two_copies_with_one_seed_do_the_same() -> None:
    with nvme_emu.open(size="8M", clock="virtual", profile="tlc", mode="async", seed=5) as ssd:
        ssd.namespaces[1].write(0, block(1, 256))
        with ssd.snapshot() as taken:

            def traced(**options: Any) -> list[str]:
                seen: list[str] = []
                with taken.open(**options) as copy:
                    copy.trace.add_sink(lambda event: seen.append(repr(event)))
                    one = copy.namespaces[1]
                    requests = [one.submit_read(n * 8, 8) for n in range(16)]
                    requests += [one.submit_write(n * 16, block(n)) for n in range(16)]
                    for request in requests:
                        request.wait()
                # Requests are numbered through the process.
                numbers: dict[str, int] = {}
                return [
                    re.sub(r"request=(\d+)", lambda found: f"request={numbers.setdefault(found[1], len(numbers))}", one)
                    for one in seen
                ]

            first = traced()
            assert len(first) > 100
            assert traced() == first
            assert traced(seed=6) != first


@CLOCKS
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_restored_machine_is_what_it_was(clock: str, mode: str) -> None:
    with nvme_emu.open(size="8M", clock=clock, mode=mode, check="error") as ssd:
        ssd.namespaces[1].write(0, block(1, 16))
        with ssd.snapshot() as taken:
            for fill in (2, 3, 4):
                ssd.namespaces[1].write(8, block(fill, 16))
                mark(ssd, 2)
                ssd.restore(taken)
                assert stored(ssd, 0, 24) == block(1, 16) + bytes(8 * 512)
        ssd.namespaces[1].write(0, block(9))
        assert stored(ssd) == block(9)


def test_faults_that_were_given_begin_anew_and_others_are_not_copied() -> None:
    from nvme_emu.testing import fault

    with nvme_emu.open(size="1M") as ssd:
        ssd.faults.add(fault.when(opcode="read", lba=(7, 7)).status("Unrecovered Read Error", dnr=True))
        with pytest.raises(NvmeError):
            ssd.namespaces[1].read(7, 1)
        with ssd.fork() as copy:
            assert stored(copy, 7) == bytes(512)


# -- files ---------------------------------------------------------------------------------------------------


def test_saved_snapshot_is_an_image_and_an_image_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "ssd.img"
    config = ControllerConfig(pmr_bytes=1 << 20)
    with nvme_emu.open(size="10M", namespaces=3, controller=config) as ssd:
        ssd.namespaces[2].write(5, block(5, 100))
        ssd.controller.buffers.pmr.view[0] = 1  # type: ignore[union-attr]
        with ssd.snapshot() as taken:
            taken.save(path)
            with pytest.raises(MediaError, match="new file"):
                taken.save(path)
    with nvme_emu.open(path, controller=config) as again:
        assert sorted(again.namespaces) == [1, 2, 3]
        assert stored(again, 5, 100, nsid=2) == block(5, 100)
        assert again.controller.buffers.pmr.view[0] == 1  # type: ignore[union-attr]
        with again.fork() as copy, pytest.raises(ValueError, match="open the snapshot"), again.snapshot() as taken:
            again.namespaces[2].write(5, block(6))
            assert stored(copy, 5, nsid=2) == block(5)
            again.restore(taken)


# -- refusals ------------------------------------------------------------------------------------------------


@CLOCKS
def test_busy_machine_is_not_copied(clock: str) -> None:
    with nvme_emu.open(size="1M", profile="tlc", mode="async", clock=clock) as ssd:
        from nvme_emu.testing import fault

        handle = ssd.faults.add(fault.when(opcode="write").delay("200ms"))
        requests = [ssd.namespaces[1].submit_write(n, block(n)) for n in range(3)]
        with pytest.raises(NvmeError, match=r"\d command") as caught:
            ssd.snapshot()
        assert caught.value.errno == errno.EBUSY
        for request in requests:
            request.wait()
        handle.remove()
        with ssd.fork() as copy:
            assert stored(copy, 2) == block(2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": "2M"}, ValueError),
        ({"image": "x"}, ValueError),
        ({"namespaces": 2}, ValueError),
        ({"zoned": "zone_size=64k"}, ValueError),
        ({"controller": ControllerConfig(track_allocation=True)}, ValueError),
        ({"sise": 3}, TypeError),
        ({"mode": "fast"}, ValueError),
    ],
)
def test_option_that_a_copy_cannot_have_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    config = ControllerConfig(track_allocation=False)
    with nvme_emu.open(size="1M", controller=config) as ssd, pytest.raises(error), ssd.snapshot() as taken:
        taken.open(**options)


def test_snapshot_of_another_size_or_of_a_closed_machine_is_refused() -> None:
    with nvme_emu.open(size="1M") as ssd, nvme_emu.open(size="2M") as other, other.snapshot() as taken:
        with pytest.raises(ValueError, match="2097152 bytes"):
            ssd.restore(taken)
        ssd.namespaces[1].write(0, block(1))
    with pytest.raises(ValueError, match="closed"):
        ssd.snapshot()
