"""Metadata and end-to-end protection over every transport: formats, PRACT, PRCHK, and what commands make of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from nvmehost import BROADCAST, QUICK, SIZE, NvmeHost, connected

from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.integrity import MetadataRequest
from nvme_emu.driver.request import Request
from nvme_emu.spec.commands import COPY_CDW12, DSM_AD, RW_PRACT, WZ_DEAC
from nvme_emu.spec.commands_admin import FORMAT_CDW10
from nvme_emu.spec.feature_data import HOST_BEHAVIOR
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import CONTROLLER_LIST, DPS, FLBAS, IDENTIFY_NAMESPACE, NS_MANAGEMENT, Cns
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.protection import CHECK_ALL, CHECK_APP, CHECK_GUARD, CHECK_REF, prinfo_bits
from nvme_emu.spec.status import STATUS_CODE_MASK, Status

READ, WRITE, COMPARE, VERIFY = NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE, NvmOpcode.VERIFY
ZEROES = NvmOpcode.WRITE_ZEROES
_SIZES = [(lba_size, ms) for ms in (0, 8, 16, 64) for lba_size in (512, 4096)]
FORMATS = {one: index for index, one in enumerate(_SIZES)}
UNWRITTEN = b"\xff" * 8


def crc16(data: bytes) -> int:
    """CRC-16 T10-DIF, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8BB7 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def pi(data: bytes, ref: int, app: int = 0) -> bytes:
    return struct.pack(">HHI", crc16(data), app, ref)


class Found(NamedTuple):
    status: int
    data: bytes
    metadata: bytes


class Disk:
    """Namespace 1, formatted; what is moved is given and got block by block, wherever metadata lies on the way."""

    def __init__(
        self, host: NvmeHost, lba_size: int, ms: int, *, kind: int = 0, first: bool = False, extended: bool = True
    ) -> None:
        self.host, self.lba_size, self.ms, self.kind, self.first = host, lba_size, ms, kind, first
        self.extended = extended
        cdw10 = FORMAT_CDW10.pack(lbafl=FORMATS[lba_size, ms], mset=int(extended), pi=kind, pil=int(first))
        self.status = host.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=cdw10).status

    def block(self, number: int) -> bytes:
        return bytes([number & 0xFF, number >> 8]) * (self.lba_size // 2)

    def protected(self, number: int, ref: int, app: int = 0) -> bytes:
        """Metadata of `block(number)`: other metadata is `number`, too."""
        rest = bytes([number & 0xFF]) * (self.ms - 8)
        data = self.block(number)
        return pi(data, ref, app) + rest if self.first else rest + pi(data + rest, ref, app)

    def move(
        self,
        opcode: int,
        slba: int,
        data: bytes | int,
        metadata: bytes = b"",
        *,
        flags: int = 0,
        ref: int = 0,
        app: int = 0,
        mask: int = 0xFFFF,
    ) -> Found:
        """A command with the data of whole blocks, or for as many of them; with PRACT maybe without metadata."""
        nlb = data if isinstance(data, int) else len(data) // self.lba_size
        moved = opcode not in (VERIFY, ZEROES)
        ms = self.ms if moved and not (flags & RW_PRACT and self.ms == 8) else 0
        size = self.lba_size
        stored = b"" if isinstance(data, int) else data
        together = ms and self.extended
        if together and stored:
            rows = [stored[n * size :][:size] + metadata[n * ms :][:ms] for n in range(nlb)]
            stored = b"".join(rows)
        nbytes = nlb * (size + (ms if together else 0)) if moved else 0
        array = np.frombuffer(stored, np.uint8) if stored else np.zeros(nbytes, np.uint8) if nbytes else None
        own = bytearray(metadata or nlb * ms) if ms and not together else None
        status = self._run(opcode, slba, nlb, nlb - 1 | flags, array, bool(stored), own, ref, app | mask << 16)
        if status or stored or array is None:
            return Found(status, b"", b"")
        if together:
            found = array.reshape(nlb, size + ms)
            return Found(0, found[:, :size].tobytes(), found[:, size:].tobytes())
        return Found(0, array.tobytes(), bytes(own or b""))

    def _run(
        self, opcode: int, slba: int, nlb: int, cdw12: int, array: np.ndarray | None, out: bool,
        metadata: bytearray | None, ref: int, cdw15: int,
    ) -> int:  # fmt: skip
        driver = self.host.driver
        view = None if array is None else memoryview(array)  # type: ignore[arg-type]
        if metadata is None or view is None:
            request = Request(opcode, 1, slba, nlb, cdw12, view, out, array)
        else:
            request = MetadataRequest(opcode, 1, slba, nlb, cdw12, view, out, memoryview(metadata))
            request.map(driver.memory)
        request.cdw14, request.cdw15 = ref, cdw15
        driver.path().submit(request)
        try:
            request.wait(60)
        except NvmeError as error:
            assert error.status is not None
            return error.status & STATUS_CODE_MASK
        finally:
            if isinstance(request, MetadataRequest):
                request.unmap(driver.memory)
        return 0

    def write(self, slba: int, data: bytes, metadata: bytes = b"", **more: int) -> int:
        return self.move(WRITE, slba, data, metadata, **more).status

    def read(self, slba: int, nlb: int = 1, **more: int) -> Found:
        return self.move(READ, slba, nlb, **more)


@pytest.fixture(params=[True, False], ids=["extended", "separate"])
def extended(request: pytest.FixtureRequest) -> bool:
    """Where metadata is in host memory."""
    return bool(request.param)


def made(host: NvmeHost, extended: bool, lba_size: int, ms: int, kind: int = 0, first: bool = False) -> Iterator[Disk]:
    """The disk, or none where the transport has no place for it: behind a fabric there is no MPTR."""
    disk = Disk(host, lba_size, ms, kind=kind, first=first, extended=extended)
    offers_mptr = bool(namespace(host).mc & 2)
    assert disk.status == (0 if extended or offers_mptr else Status.INVALID_FORMAT)
    if not disk.status:
        yield disk


def namespace(host: NvmeHost, nsid: int = 1, cns: int = Cns.NAMESPACE):  # type: ignore[no-untyped-def]
    return IDENTIFY_NAMESPACE.parse(host.identify(cns, nsid).data)


# --- formats ------------------------------------------------------------------------------------------------


def test_formats_with_metadata_are_identified(host: NvmeHost) -> None:
    found = namespace(host, BROADCAST)

    assert [(1 << one.lbads, one.ms) for one in found.lbaf[: found.nlbaf_z + 1]] == list(FORMATS)
    # Separate buffers need MPTR, which fabrics do not have.
    assert (found.mc, found.dpc) == (1 if namespace(host).mc == 1 else 3, 0x1F)
    assert host.identify(Cns.IOCS_NAMESPACE, 1).data == bytes(4096)
    for (lba_size, ms), index in FORMATS.items():
        for kind, first in ((0, False), (1, True), (2, False), (3, True)):
            disk = Disk(host, lba_size, ms, kind=kind, first=first)
            assert disk.status == (Status.INVALID_FORMAT if kind and not ms else 0)
            if disk.status:
                continue
            found = namespace(host)
            assert found.flbas == FLBAS.pack(fidxl=index, mcdb=int(ms > 0))
            assert found.dps == (DPS.pack(pit=kind, pip=int(first)) if kind else 0)
            assert found.nsze == SIZE // (lba_size + ms)
            assert disk.read(found.nsze - 1).status == 0
            assert disk.read(found.nsze).status == Status.LBA_RANGE


@pytest.mark.parametrize("fields", [{"lbafl": 8}, {"lbafl": 2, "pi": 4, "mset": 1}, {"lbafl": 1, "pi": 1}])
def test_format_that_cannot_be_is_refused(host: NvmeHost, fields: dict[str, int]) -> None:
    assert host.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=FORMAT_CDW10.pack(**fields)).status == Status.INVALID_FORMAT


def test_namespace_is_created_with_protection(host: NvmeHost) -> None:
    assert host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=1).status == 0
    flbas = FLBAS.pack(fidxl=4, mcdb=1)
    asked = NS_MANAGEMENT.build(nsze=100, ncap=100, flbas=flbas, dps=DPS.pack(pit=2, pip=1))

    assert host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, data=asked).dw0 == 1

    attached = CONTROLLER_LIST.build(numid=1, cntid=[host.cntlid])
    assert host.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 1, data=attached).status == 0
    found = namespace(host)
    assert (found.nsze, found.flbas, found.dps, found.nvmcap) == (100, flbas, 0x0A, 53_248)
    for flbas, dps in ((FLBAS.pack(fidxl=8), 0), (0, 1), (FLBAS.pack(fidxl=2, mcdb=1), 4)):
        wrong = NS_MANAGEMENT.build(nsze=8, ncap=8, flbas=flbas, dps=dps)
        assert host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, data=wrong).status == Status.INVALID_FORMAT


def test_controller_without_metadata_has_two_formats() -> None:
    with connected("inproc", replace(QUICK, metadata=False)) as host:
        found = namespace(host)

        assert (found.nlbaf_z, found.mc, found.dpc) == (1, 0, 0)
        assert Disk(host, 512, 8).status == Status.INVALID_FORMAT


# --- metadata without protection ----------------------------------------------------------------------------


@pytest.mark.parametrize(("lba_size", "ms"), [(512, 8), (4096, 16), (512, 64)])
def test_metadata_goes_with_its_block(host: NvmeHost, extended: bool, lba_size: int, ms: int) -> None:
    for disk in made(host, extended, lba_size, ms):
        data = disk.block(1) + disk.block(2) + disk.block(3)
        metadata = b"".join(bytes([number]) * ms for number in (7, 8, 9))

        # Without protection information PRINFO says nothing.
        assert disk.write(5, data, metadata, flags=prinfo_bits(CHECK_ALL)) == 0

        assert disk.read(5, 3) == (0, data, metadata)
        assert disk.read(6, 1) == (0, disk.block(2), bytes([8]) * ms)
        assert disk.read(4) == (0, bytes(lba_size), bytes(ms))
        assert disk.move(COMPARE, 5, data, metadata).status == 0
        assert disk.move(COMPARE, 5, data, metadata[:-1] + b"x").status == Status.COMPARE_FAILED
        assert disk.move(COMPARE, 5, data[:-1] + b"x", metadata).status == Status.COMPARE_FAILED
        assert disk.move(VERIFY, 5, 3).status == 0
        assert disk.move(ZEROES, 6, 1).status == 0
        assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=DSM_AD, data=struct.pack("<IIQ", 0, 1, 7)).status == 0
        assert disk.read(5, 3) == (0, disk.block(1) + bytes(2 * lba_size), bytes([7]) * ms + bytes(2 * ms))


def test_large_transfers_cross_pages(host: NvmeHost, extended: bool) -> None:
    for disk in made(host, extended, 512, 64, kind=2, first=True):
        data = b"".join(disk.block(number) for number in range(300))
        metadata = b"".join(disk.protected(number, 10 + number) for number in range(300))

        assert disk.write(3, data, metadata, flags=prinfo_bits(CHECK_ALL), ref=10) == 0

        assert disk.read(3, 300, flags=prinfo_bits(CHECK_ALL), ref=10) == (0, data, metadata)


# --- protection information ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("lba_size", "ms", "first"), [(512, 8, False), (4096, 16, False), (512, 64, True)])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_controller_inserts_and_strips(host: NvmeHost, kind: int, lba_size: int, ms: int, first: bool) -> None:
    disk = Disk(host, lba_size, ms, kind=kind, first=first)
    data = disk.block(1) + disk.block(2)
    rest = b"".join(bytes([number]) * ms for number in (1, 2)) if ms > 8 else b""
    ref = 20 if kind == 1 else 0xFFFF_FFFF
    assert (disk.read(20).data, disk.read(20).metadata.count(0xFF)) == (bytes(lba_size), 8)

    assert disk.write(20, data, rest, flags=RW_PRACT, ref=ref, app=0x1234) == 0

    second = ref if kind == 3 else (ref + 1) & 0xFFFF_FFFF
    metadata = disk.protected(1, ref, 0x1234) + disk.protected(2, second, 0x1234)
    assert disk.read(20, 2) == (0, data, metadata)
    checks = CHECK_GUARD | CHECK_APP | (0 if kind == 3 else CHECK_REF)
    with_pract = disk.read(20, 2, flags=prinfo_bits(checks, True), ref=ref, app=0x1234)
    assert with_pract == (0, data, metadata if ms > 8 else b"")
    assert disk.move(VERIFY, 20, 2, flags=prinfo_bits(checks), ref=ref, app=0x1234).status == 0


def test_host_supplies_protection_which_is_checked_before_anything_is_written(host: NvmeHost, extended: bool) -> None:
    for disk in made(host, extended, 512, 16, kind=1):
        data = disk.block(1) + disk.block(2)
        good = disk.protected(1, 8, 5) + disk.protected(2, 9, 5)
        checked = prinfo_bits(CHECK_ALL)
        assert disk.write(8, data, good, flags=checked, ref=8, app=5) == 0

        other = data[:600] + b"!" + data[601:]
        late = disk.protected(1, 8, 5) + disk.protected(2, 8, 5)
        refused = {
            Status.GUARD_CHECK: disk.write(8, other, good, flags=checked, ref=8, app=5),
            Status.APPTAG_CHECK: disk.write(8, data, good, flags=checked, ref=8, app=6),
            Status.REFTAG_CHECK: disk.write(8, data, late, flags=checked, ref=8, app=5),
        }

        assert refused == {status: status for status in refused}
        assert disk.write(8, data, good, flags=checked, ref=8, app=0xF5, mask=0x0F) == 0
        assert disk.read(8, 2) == (0, data, good)


@pytest.mark.parametrize(
    ("check", "app", "ref", "status"),
    [
        (CHECK_GUARD, 5, 30, Status.GUARD_CHECK),
        (CHECK_APP, 6, 30, Status.APPTAG_CHECK),
        (CHECK_REF, 5, 31, Status.REFTAG_CHECK),
        (CHECK_ALL, 6, 31, Status.GUARD_CHECK),
    ],
)
def test_what_is_stored_is_checked_when_it_is_asked_for(
    host: NvmeHost, check: int, app: int, ref: int, status: Status
) -> None:
    disk = Disk(host, 512, 8, kind=2)
    wrong = struct.pack(">HHI", 0x1111, 5, 30)
    assert disk.write(40, disk.block(1), wrong) == 0

    for opcode, data, metadata in ((READ, 1, b""), (VERIFY, 1, b""), (COMPARE, disk.block(1), wrong)):
        assert disk.move(opcode, 40, data, metadata, flags=prinfo_bits(check), ref=ref, app=app).status == status
        assert disk.move(opcode, 40, data, metadata).status == 0
    stripped = disk.read(40, flags=prinfo_bits(check, True), ref=ref, app=app)
    assert stripped.status == status


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_application_tag_of_all_ones_is_not_checked(host: NvmeHost, kind: int) -> None:
    disk = Disk(host, 512, 8, kind=kind)
    checked = prinfo_bits(CHECK_GUARD | CHECK_APP)
    assert disk.read(0, flags=checked, app=1).metadata == UNWRITTEN

    assert disk.write(0, disk.block(1), struct.pack(">HHI", 0x1111, 0xFFFF, 7), flags=checked, app=1) == (
        Status.GUARD_CHECK if kind == 3 else 0
    )
    assert disk.write(0, disk.block(1), struct.pack(">HHI", 0x1111, 0xFFFF, 0xFFFF_FFFF), flags=checked, app=1) == 0


def test_invalid_protection_information_is_told(host: NvmeHost) -> None:
    disk = Disk(host, 512, 8, kind=1)
    ref, invalid = prinfo_bits(CHECK_REF), Status.INVALID_PI

    assert disk.read(5, flags=ref, ref=6).status == invalid
    assert disk.write(5, disk.block(1), pi(disk.block(1), 6), flags=ref, ref=6) == invalid
    assert disk.move(VERIFY, 5, 1, flags=ref, ref=6).status == invalid
    assert disk.move(VERIFY, 5, 1, flags=RW_PRACT).status == invalid
    assert host.io(COMPARE, cdw12=RW_PRACT, data=disk.block(1) + bytes(8)).status == invalid
    assert disk.move(ZEROES, 5, 1, flags=prinfo_bits(CHECK_GUARD)).status == invalid
    assert disk.read(5, flags=ref, ref=5).status == 0
    disk = Disk(host, 512, 8, kind=3)
    assert disk.read(5, flags=ref, ref=5).status == invalid


def test_compare_does_not_compare_protection_information(host: NvmeHost) -> None:
    disk = Disk(host, 512, 16, kind=2)
    assert disk.write(0, disk.block(1), disk.protected(1, 7), ref=7) == 0

    other = disk.protected(1, 9, 9)
    assert disk.move(COMPARE, 0, disk.block(1), other, flags=prinfo_bits(CHECK_ALL), ref=7).status == 0
    assert disk.move(COMPARE, 0, disk.block(1), b"x" + other[1:]).status == Status.COMPARE_FAILED


def test_write_zeroes_leaves_the_protection_that_was_asked_for(host: NvmeHost) -> None:
    disk = Disk(host, 512, 16, kind=2)
    for slba in range(4):
        disk.write(slba, disk.block(1), disk.protected(1, slba))

    assert disk.move(ZEROES, 0, 1).status == 0
    assert disk.move(ZEROES, 1, 2, flags=RW_PRACT | WZ_DEAC, ref=0xFFFF_FFFF, app=3).status == 0
    assert disk.move(ZEROES, 3, 1, flags=WZ_DEAC).status == 0

    inserted = bytes(8) + struct.pack(">HHI", 0, 3, 0xFFFF_FFFF) + bytes(8) + struct.pack(">HHI", 0, 3, 0)
    assert disk.read(0, 4) == (0, bytes(2048), bytes(16) + inserted + bytes(8) + UNWRITTEN)


def test_unreadable_and_deallocated_blocks_with_protection(host: NvmeHost) -> None:
    disk = Disk(host, 512, 8, kind=1)
    disk.write(3, disk.block(1), pi(disk.block(1), 3))
    assert host.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=3).status == 0
    assert disk.read(3).status == disk.move(VERIFY, 3, 1).status == Status.READ_ERROR

    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=DSM_AD, data=struct.pack("<IIQ", 0, 1, 3)).status == 0

    assert disk.read(3, flags=prinfo_bits(CHECK_ALL), ref=3) == (0, bytes(512), UNWRITTEN)


def test_largest_transfer_counts_extended_blocks_and_not_separate_metadata() -> None:
    with connected("inproc", replace(QUICK, mdts=1)) as host:
        assert Disk(host, 512, 8, extended=False).read(0, 16).status == 0
        disk = Disk(host, 512, 8, kind=1)

        assert disk.read(0, 16).status == Status.INVALID_FIELD
        assert disk.read(0, 15).status == 0
        assert disk.read(0, 16, flags=RW_PRACT).status == 0


def test_metadata_pointer_is_on_a_dword_and_in_the_hosts_memory() -> None:
    with connected("inproc") as host:
        disk = Disk(host, 512, 8, extended=False)
        memory = host.driver.memory
        for moved, status in ((2, Status.INVALID_FIELD), (1 << 40, Status.DATA_XFER_ERROR), (4, 0)):
            request = MetadataRequest(
                READ, 1, 0, 1, 0, memoryview(bytearray(512)), False, memoryview(bytearray(16))
            )
            request.map(memory)
            request.mptr += moved
            host.driver.path().submit(request)
            request.unmap(memory)
            assert (request.status or 0) & STATUS_CODE_MASK == status
        assert disk.read(0).status == 0


# --- Copy ---------------------------------------------------------------------------------------------------


def ranges(*sources: tuple[int, ...]) -> bytes:
    """Descriptors: (nsid, slba, blocks, EILBRT, ELBAT)."""
    packed = [struct.pack("<I4xQH6xIHH", *one[:2], one[2] - 1, *one[3:], 0xFFFF) for one in sources]
    return b"".join(packed)


def copy(disk: Disk, sdlba: int, data: bytes, *, ref: int = 0, app: int = 0, **how: int) -> int:
    cdw12 = COPY_CDW12.pack(nr_z=len(data) // 32 - 1, **how)
    array = np.frombuffer(data, np.uint8)
    return disk._run(NvmOpcode.COPY, sdlba, 0, cdw12, array, True, None, ref, app | 0xFFFF << 16)


def test_copy_takes_metadata_along(host: NvmeHost) -> None:
    disk = Disk(host, 512, 16)
    disk.write(0, disk.block(1) + disk.block(2), b"a" * 16 + b"b" * 16)

    assert copy(disk, 10, ranges((0, 1, 1, 0, 0), (0, 0, 2, 0, 0))) == 0

    expected = disk.block(2) + disk.block(1) + disk.block(2)
    assert disk.read(10, 3) == (0, expected, b"b" * 16 + b"a" * 16 + b"b" * 16)


def test_copy_checks_what_it_reads_and_makes_what_it_writes(host: NvmeHost) -> None:
    disk = Disk(host, 512, 8, kind=1)
    disk.write(4, disk.block(1) + disk.block(2), flags=RW_PRACT, ref=4, app=9)
    good = ranges((0, 4, 2, 4, 9))
    both = {"prinfor": 8 | CHECK_ALL, "prinfow": 8}

    assert copy(disk, 20, good, ref=20, app=7, **both) == 0

    assert disk.read(20, 2).metadata == pi(disk.block(1), 20, 7) + pi(disk.block(2), 21, 7)
    assert copy(disk, 20, ranges((0, 4, 2, 4, 8)), ref=20, **both) == Status.APPTAG_CHECK
    assert copy(disk, 20, ranges((0, 4, 2, 5, 9)), ref=20, **both) == Status.INVALID_PI
    assert copy(disk, 20, good, ref=20, prinfor=8 | CHECK_ALL, prinfow=0) == Status.INVALID_FIELD
    # Without PRACT the tags are those of the source, which are not those of the target.
    assert copy(disk, 20, good, ref=20, app=9, prinfor=CHECK_ALL, prinfow=CHECK_ALL) == Status.REFTAG_CHECK
    assert copy(disk, 20, good, ref=21, prinfow=CHECK_REF) == Status.INVALID_PI
    assert disk.read(20, 2).metadata == pi(disk.block(1), 20, 7) + pi(disk.block(2), 21, 7)


def test_copy_needs_one_format_on_both_sides(host2: NvmeHost) -> None:
    disk = Disk(host2, 512, 8, kind=1)
    assert host2.set_feature(Fid.HOST_BEHAVIOR, data=HOST_BEHAVIOR.build(cdfe=4)).status == 0
    source = ranges((2, 0, 1, 0, 0))

    for fields, status in (
        ({"lbafl": 0}, Status.INCOMPATIBLE_NS),
        ({"lbafl": 2, "mset": 1}, Status.INCOMPATIBLE_NS),
        ({"lbafl": 2, "mset": 1, "pi": 2}, Status.INCOMPATIBLE_NS),
        ({"lbafl": 2, "mset": 1, "pi": 1}, 0),
    ):
        assert host2.admin(AdminOpcode.FORMAT_NVM, 2, cdw10=FORMAT_CDW10.pack(**fields)).status == 0
        assert copy(disk, 5, source, cdfmt=2) == status
    assert copy(disk, 5, source, cdfmt=1) == copy(disk, 5, source, cdfmt=3) == Status.INVALID_FIELD


