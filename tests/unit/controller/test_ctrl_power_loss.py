"""Power loss below the image of a whole device: what was acknowledged is there after it, and the device comes up."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from adminhost import AdminHost, code

from nvme_emu.controller import nvm_access
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.namespace import Namespace
from nvme_emu.media import ImageMedia
from nvme_emu.spec.commands import RW_FUA
from nvme_emu.spec.commands_admin import FORMAT_CDW10
from nvme_emu.spec.features import VOLATILE_WRITE_CACHE, Fid
from nvme_emu.spec.identify import CONTROLLER_LIST, NS_MANAGEMENT
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status
from nvme_emu.testing.power_loss import LossyDisk

PATH = "/ssd.img"
NBYTES = 1 << 16


class Host(AdminHost):
    """A host with a queue pair."""

    def __init__(self, disk: LossyDisk) -> None:
        media = ImageMedia(PATH, NBYTES, system=disk)
        super().__init__(config=ControllerConfig(namespaces_max=4), media=[media], lba_size=512)
        self.io = self.io_queue()


class Device:
    """A device that loses its power: the host says what must hold from each acknowledgement on."""

    def __init__(self, disk: LossyDisk) -> None:
        self.host = Host(disk)
        self.must: dict[str, Callable[[Host], None]] = {}

    def io(self, opcode: int, lba: int = 0, cdw12: int = 0, data: bytes = b"") -> None:
        self.host.memory.write(self.host.data, data.ljust(512, b"\0"))
        assert self.host.io.run(opcode, prp1=self.host.data, cdw10=lba, cdw12=cdw12).status == 0

    def feature(self, fid: int, value: int, **more: int) -> None:
        assert self.host.set_feature(fid, value, **more).status == 0


def reads(lba: int, expected: bytes | int) -> Callable[[Host], None]:
    def check(one: Host) -> None:
        done = one.io.run(NvmOpcode.READ, prp1=one.data, cdw10=lba)
        if isinstance(expected, int):
            assert code(done) == expected
        else:
            assert done.status == 0
            assert one.memory.read(one.data, 512) == expected.ljust(512, b"\0")

    return check


def marks(device: Device) -> None:
    """A block is marked, written again, and made durable; another by FUA."""
    for lba, durable in ((3, False), (5, True)):
        device.io(NvmOpcode.WRITE_UNCORRECTABLE, lba)
        device.io(NvmOpcode.WRITE, lba, RW_FUA if durable else 0, b"good")
        if not durable:
            device.io(NvmOpcode.FLUSH)
        device.must[f"lba {lba}"] = reads(lba, b"good")


def erase(device: Device) -> None:
    """What a format has erased does not come back."""
    device.io(NvmOpcode.WRITE, 8, RW_FUA, b"secret")
    done = device.host.do(AdminOpcode.FORMAT_NVM, nsid=1, cdw10=FORMAT_CDW10.pack(lbafl=0, ses=1))
    assert done.status == 0
    device.must["lba 8"] = reads(8, b"")


def admin(device: Device) -> None:
    """Saved features and write protection."""
    device.feature(Fid.VOLATILE_WRITE_CACHE, VOLATILE_WRITE_CACHE.pack(wce=0), sv=1)

    def cache_off(one: Host) -> None:
        assert one.get_feature(Fid.VOLATILE_WRITE_CACHE).dw0 == 0

    device.must["cache"] = cache_off
    device.io(NvmOpcode.WRITE, 1, 0, b"through")
    device.must["lba 1"] = reads(1, b"through")
    device.feature(Fid.WRITE_PROTECTION, 1, nsid=1)

    def protected(one: Host) -> None:
        assert code(one.do(AdminOpcode.FORMAT_NVM, nsid=1)) == Status.NS_WRITE_PROTECTED

    device.must["protection"] = protected


def namespaces(device: Device) -> None:
    """A namespace that was made is there, without what was in its place before, and holds what was written to it."""
    host = device.host
    device.io(NvmOpcode.WRITE, 2, RW_FUA, b"secret")
    assert host.do(AdminOpcode.NAMESPACE_MANAGEMENT, nsid=1, cdw10=1).status == 0
    host.memory.write(host.data, NS_MANAGEMENT.build(nsze=32, ncap=32))
    assert host.do(AdminOpcode.NAMESPACE_MANAGEMENT).dw0 == 1
    host.memory.write(host.data, CONTROLLER_LIST.build(numid=1, cntid=[0]))
    assert host.do(AdminOpcode.NAMESPACE_ATTACHMENT, nsid=1).status == 0
    device.must["lba 2"] = reads(2, b"")
    device.io(NvmOpcode.WRITE, 5, RW_FUA, b"new")
    device.must["lba 5"] = reads(5, b"new")


Scenario = Callable[[Device], None]


def cuts(scenario: Scenario, at_most: int = 12) -> int:
    """The scenario with a cut in each of its calls; how many disks were looked at."""
    looked_at, number, rng = 0, 0, Random(1)
    blank = LossyDisk()
    with blank.power():
        ImageMedia(PATH, NBYTES, system=blank)
    (blank,) = blank.outcomes(rng, 1)
    while True:
        number += 1
        (disk,) = blank.outcomes(rng, 1)
        made: list[Device] = []
        whole = False
        with disk.power(cut_at=number):
            made.append(Device(disk))
            scenario(made[0])
            whole = True
        for after in disk.outcomes(rng, at_most):
            one = Host(after)
            for device in made:
                for check in device.must.values():
                    check(one)
            looked_at += 1
        if whole:
            return looked_at


@pytest.mark.parametrize("scenario", [marks, erase, admin, namespaces])
def test_what_was_acknowledged_survives_a_cut_anywhere(scenario: Scenario) -> None:
    assert cuts(scenario) >= 10


def test_a_mark_that_comes_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(namespace: Namespace, slba: int, blocks: int) -> None:
        old(namespace, slba, blocks)
        namespace.unsaved = False

    old = nvm_access.written
    monkeypatch.setattr("nvme_emu.controller.nvm.written", forgets)
    with pytest.raises(AssertionError):
        cuts(marks)


def test_a_format_that_does_not_sync_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageMedia, "flush", lambda self: None)
    for scenario in (erase, namespaces):
        with pytest.raises(AssertionError):
            cuts(scenario, 64)


def test_a_change_that_is_not_kept_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvme_emu.controller.admin.keep", lambda ctrl: None)
    with pytest.raises(AssertionError):
        cuts(admin)
