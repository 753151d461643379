"""SGLs over PCI Express (NVMe Base 2.1, 4.3.2): every descriptor type and every status, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from nvmehost import QUICK, SIZE, TRANSPORTS, connected

import nvme_emu
from nvme_emu.controller import ControllerConfig
from nvme_emu.machine import Machine
from nvme_emu.spec.commands import DSM_AD, FORMAT_CDW10
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE, SGLS, Cns
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import PSDT_MASK, PSDT_SGL, PSDT_SGL_MPTR_SGL, SQE, Sqe
from nvme_emu.spec.sgl import (
    SGL_BIT_BUCKET,
    SGL_IN_CAPSULE,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
    SGL_TRANSPORT,
    SglType,
    sgl_descriptor,
    sgl_identifier,
    sgl_words,
)
from nvme_emu.spec.status import DNR, STATUS_CODE_MASK, Status
from nvme_emu.testing.rawqueue import RawQueuePair

READ, WRITE, COMPARE = NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE
PCI = tuple(name for name in TRANSPORTS if name.startswith("inproc"))
LISTS = 0x8000
"""Where in the buffer lists are put; data lies in front of it."""


class SglHost:
    """A host that writes its commands itself."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pair = RawQueuePair.beside(machine)
        self.base, self.buffer = self.pair.data, self.pair.buffer

    def io(self, opcode: int, sgl: bytes, *, psdt: int = PSDT_SGL, nlb: int = 1, slba: int = 0, **more: int) -> int:
        """The status of a command with SGL1."""
        sgl1, sgl2 = struct.unpack("<QQ", sgl)
        fields = {"nsid": 1, "cdw10": slba, "cdw12": nlb - 1, **more}
        cid = self.pair.submit(opcode, flags=psdt, prp1=sgl1, prp2=sgl2, **fields)
        self.pair.ring()
        return self.pair.wait(cid).status_p >> 1 & STATUS_CODE_MASK

    def put(self, at: int, data: bytes) -> int:
        """Bytes into the buffer; their address."""
        self.buffer[at : at + len(data)] = np.frombuffer(data, np.uint8)
        return self.base + at

    def segment(self, at: int, *descriptors: bytes, last: bool = True) -> bytes:
        """A segment in the buffer; the descriptor that points at it."""
        address = self.put(at, b"".join(descriptors))
        return sgl_descriptor(address, 16 * len(descriptors), SGL_LAST_SEGMENT if last else SGL_SEGMENT)

    def identify_namespace(self) -> bytes:
        """Identify Namespace."""
        return bytes(self.machine.driver.admin.identify(Cns.NAMESPACE, nsid=1))

    def stored(self, nlb: int, slba: int = 0) -> bytes:
        """What the namespace holds."""
        found = self.machine.namespaces[1].read(slba, nlb)
        return bytes(found)

    def taken(self, at: int, nbytes: int) -> bytes:
        """What the buffer holds."""
        return self.buffer[at : at + nbytes].tobytes()


@contextmanager
def sgl_host(transport: str, config: ControllerConfig = QUICK) -> Iterator[SglHost]:
    options: dict[str, object] = {"clock": "virtual"} if transport in ("inproc-virtual", "inproc-tlc") else {}
    if transport == "inproc-tlc":
        options["profile"] = "tlc"
    with nvme_emu.open(size=SIZE, queues=2, controller=config, **options) as machine:
        if transport == "inproc-pure":
            machine.controller.compiled = False
        host = SglHost(machine)
        yield host
        host.pair.close()


@pytest.fixture(params=PCI)
def sgl(request: pytest.FixtureRequest) -> Iterator[SglHost]:
    with sgl_host(request.param) as host:
        yield host


def pattern(nbytes: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8).tobytes()


def test_identify_says_which_sgls_there_are(sgl: SglHost) -> None:
    offered = SGLS.unpack(sgl.machine.driver.identity.sgls)

    assert (offered.sgls, offered.sbbds, offered.sldltd, offered.mptr_sgl, offered.mbas) == (1, 1, 1, 1, 1)
    assert (offered.ksdb, offered.offset, offered.tsdb) == (0, 0, 0)


def test_identify_over_tcp_says_that_addresses_are_offsets_and_the_transport_brings_data() -> None:
    with connected("tcp") as host:
        offered = SGLS.unpack(IDENTIFY_CONTROLLER.parse(host.identify(1).data).sgls)

    assert (offered.sgls, offered.offset, offered.tsdb, offered.sbbds) == (1, 1, 1, 0)


@pytest.mark.parametrize("psdt", [PSDT_SGL, PSDT_SGL_MPTR_SGL])
def test_one_data_block_of_any_alignment(sgl: SglHost, psdt: int) -> None:
    data = pattern(3 * 512)

    assert sgl.io(WRITE, sgl_descriptor(sgl.put(4093, data), len(data)), psdt=psdt, nlb=3) == 0
    assert sgl.stored(3) == data
    assert sgl.io(COMPARE, sgl_descriptor(sgl.base + 4093, len(data)), psdt=psdt, nlb=3) == 0
    sgl.buffer[4093] ^= 1
    assert sgl.io(COMPARE, sgl_descriptor(sgl.base + 4093, len(data)), psdt=psdt, nlb=3) == Status.COMPARE_FAILED
    assert sgl.io(READ, sgl_descriptor(sgl.base + 1, len(data)), psdt=psdt, nlb=3) == 0
    assert sgl.taken(1, len(data)) == data


def test_segments_lead_to_one_another_and_to_the_data(sgl: SglHost) -> None:
    data = pattern(1024)
    sgl.put(0, data)
    pieces = [(0, 100), (100, 0), (100, 411), (511, 1), (512, 512)]
    blocks = [sgl_descriptor(sgl.base + at, length) for at, length in pieces]
    last = sgl.segment(LISTS, blocks[3], blocks[4])
    middle = sgl.segment(LISTS + 256, blocks[2], last, last=False)
    first = sgl.segment(LISTS + 512, blocks[0], blocks[1], middle, last=False)

    assert sgl.io(WRITE, first, nlb=2) == 0
    assert sgl.stored(2) == data
    sgl.buffer[:1024] = 0
    assert sgl.io(READ, first, nlb=2) == 0
    assert sgl.taken(0, 1024) == data


def test_a_bit_bucket_takes_what_a_read_gives_and_is_nothing_to_a_write(sgl: SglHost) -> None:
    data = pattern(2048)
    sgl.put(0, data)
    assert sgl.io(WRITE, sgl_descriptor(sgl.base, 2048), nlb=4) == 0
    sgl.buffer[:8192] = 0xEE
    bucket = sgl_descriptor(0, 1000, SGL_BIT_BUCKET)
    mixed = sgl.segment(LISTS, sgl_descriptor(sgl.base, 24), bucket, sgl_descriptor(sgl.base + 24, 1024))

    assert sgl.io(READ, mixed, nlb=4) == 0
    assert sgl.taken(0, 1048) == data[:24] + data[1024:]
    assert sgl.taken(1048, 1000) == b"\xee" * 1000
    assert sgl.io(READ, sgl_descriptor(0, 2048, SGL_BIT_BUCKET), nlb=4) == 0

    sgl.put(0, data)
    assert sgl.io(WRITE, mixed, nlb=2) == 0
    assert sgl.stored(2) == data[:1024]
    assert sgl.io(WRITE, sgl_descriptor(0, 2048, SGL_BIT_BUCKET), nlb=4) == Status.SGL_INVALID_DATA


def test_a_list_may_describe_more_than_the_data_and_not_less(sgl: SglHost) -> None:
    data = pattern(1024)
    sgl.put(0, data)
    assert sgl.io(WRITE, sgl_descriptor(sgl.base, 4096), nlb=2) == 0
    sgl.buffer[:4096] = 0xEE
    assert sgl.io(READ, sgl_descriptor(sgl.base, 4096), nlb=2) == 0
    assert sgl.taken(0, 4096) == data + b"\xee" * 3072

    for length in (0, 1, 1023):
        assert sgl.io(READ, sgl_descriptor(sgl.base, length), nlb=2) == Status.SGL_INVALID_DATA
    short = sgl.segment(LISTS, sgl_descriptor(sgl.base, 512), sgl_descriptor(sgl.base, 511))
    before = sgl.taken(0, 4096)
    assert sgl.io(READ, short, nlb=2) == Status.SGL_INVALID_DATA
    assert sgl.taken(0, 4096) == before  # nothing moved


@pytest.mark.parametrize(
    "identifier",
    [
        sgl_identifier(SglType.KEYED_DATA_BLOCK),
        SGL_TRANSPORT,
        SGL_IN_CAPSULE,
        sgl_identifier(SglType.VENDOR),
        0x60,
        SGL_BIT_BUCKET | 1,
        SGL_LAST_SEGMENT | 1,
    ],
)
def test_a_type_or_subtype_that_is_not_offered_is_refused(sgl: SglHost, identifier: int) -> None:
    wrong = sgl_descriptor(sgl.base, 512, identifier)

    assert sgl.io(READ, wrong) == Status.SGL_INVALID_TYPE
    assert sgl.io(READ, sgl.segment(LISTS, sgl_descriptor(sgl.base, 16), wrong)) == Status.SGL_INVALID_TYPE


def test_wrong_segments_end_the_command(sgl: SglHost) -> None:
    block = sgl_descriptor(sgl.base, 512)
    good = sgl.segment(LISTS, block)
    address = sgl.base + LISTS
    for kind in (SGL_SEGMENT, SGL_LAST_SEGMENT):
        for wrong in ((address, 0), (address, 8), (address, 17), (address + 4, 16)):
            assert sgl.io(READ, sgl_descriptor(*wrong, kind)) == Status.SGL_INVALID_LAST, wrong
        assert sgl.io(READ, sgl_descriptor(0xDEAD_0000, 16, kind)) == Status.DATA_XFER_ERROR
    # In a last segment no pointer, in another one exactly one, at its end.
    assert sgl.io(READ, sgl.segment(LISTS + 512, block, good)) == Status.SGL_INVALID_LAST
    assert sgl.io(READ, sgl.segment(LISTS + 512, block, last=False)) == Status.SGL_INVALID_LAST
    assert sgl.io(READ, sgl.segment(LISTS + 512, good, block, good, last=False)) == Status.SGL_INVALID_COUNT
    loop = sgl_descriptor(sgl.base + LISTS + 512, 16, SGL_SEGMENT)
    sgl.put(LISTS + 512, loop)
    assert sgl.io(READ, loop) == Status.SGL_INVALID_COUNT
    assert sgl.io(READ, good) == 0


def test_data_outside_host_memory_is_a_transfer_error(sgl: SglHost) -> None:
    for address in (0xDEAD_0000, sgl.base + len(sgl.buffer) - 256, (1 << 64) - 16):
        assert sgl.io(READ, sgl_descriptor(address, 512)) == Status.DATA_XFER_ERROR
        assert sgl.io(WRITE, sgl_descriptor(address, 512)) == Status.DATA_XFER_ERROR


def test_commands_with_data_of_their_own_take_sgls_too(sgl: SglHost) -> None:
    assert sgl.io(WRITE, sgl_descriptor(sgl.put(0, pattern(4096)), 4096), nlb=8) == 0
    ranges = struct.pack("<IIQIIQ", 0, 2, 0, 0, 1, 6)
    sgl.put(0, ranges)
    halves = sgl.segment(LISTS, sgl_descriptor(sgl.base, 20), sgl_descriptor(sgl.base + 20, 12))

    assert sgl.io(NvmOpcode.DATASET_MANAGEMENT, halves, cdw10=1, cdw11=DSM_AD, cdw12=0) == 0
    assert sgl.stored(8) == bytes(1024) + pattern(4096)[1024:3072] + bytes(512) + pattern(4096)[3584:]
    assert sgl.io(NvmOpcode.FLUSH, bytes(16), cdw12=0) == 0


def test_admin_commands_and_the_reserved_psdt_are_refused(sgl: SglHost) -> None:
    assert sgl.io(READ, sgl_descriptor(sgl.base, 512), psdt=PSDT_MASK) == Status.INVALID_FIELD

    ctrl, driver = sgl.machine.controller, sgl.machine.driver
    queue = ctrl.rings.sqs[0]
    pair = driver.admin.pair
    fields = dict.fromkeys(Sqe._fields, 0) | {
        "opcode": AdminOpcode.IDENTIFY, "flags": PSDT_SGL, "cid": 0x7FF0, "prp1": sgl.base, "prp2": 4096, "cdw10": 1,
    }  # fmt: skip
    seen: list[int] = []
    driver.admin._on_stray = lambda cid, dw0, status: seen.append(status)
    SQE.pack_into(pair.sq_view, pair.tail * 64, *fields.values())
    pair.tail = (pair.tail + 1) % queue.size
    pair.commit()
    while not seen:
        sgl.machine.port.poll()
        sgl.machine.runtime.sleep_ns(10_000)
    assert [status & STATUS_CODE_MASK for status in seen] == [Status.INVALID_FIELD]
    assert seen[0] & DNR


def test_a_controller_without_sgls_says_so_and_refuses_them() -> None:
    with sgl_host("inproc", replace(QUICK, sgls=0)) as host:
        assert host.machine.driver.identity.sgls == 0
        assert host.io(READ, sgl_descriptor(host.base, 512)) == Status.INVALID_FIELD
        assert host.io(READ, sgl_descriptor(host.base, 0), psdt=0) == 0


def test_a_controller_of_dword_granularity_refuses_other_blocks() -> None:
    with sgl_host("inproc", replace(QUICK, sgls=2)) as host:
        assert SGLS.unpack(host.machine.driver.identity.sgls).sgls == 2
        assert host.io(READ, sgl_descriptor(host.base + 4, 512)) == 0
        for at, length in ((2, 512), (0, 513), (1, 511)):
            wrong = sgl_descriptor(host.base + at, length)
            assert host.io(READ, wrong) == Status.SGL_INVALID_GRANULARITY
        halves = host.segment(LISTS, sgl_descriptor(host.base, 258), sgl_descriptor(host.base + 1024, 254))
        assert host.io(READ, halves) == Status.SGL_INVALID_GRANULARITY


def with_metadata(sgl: SglHost) -> None:
    """Blocks of 512 bytes with 8 bytes of separate metadata."""
    formats = [(1 << one.lbads, one.ms) for one in IDENTIFY_NAMESPACE.parse(sgl.identify_namespace()).lbaf]
    cdw10 = FORMAT_CDW10.pack(lbafl=formats.index((512, 8)), mset=0)
    sgl.machine.driver.admin.execute(AdminOpcode.FORMAT_NVM, nsid=1, cdw10=cdw10)


def test_metadata_lies_where_mptr_or_the_sgl_that_it_points_at_says(sgl: SglHost) -> None:
    with_metadata(sgl)
    data, metadata = pattern(1024), pattern(16, 2)
    block = sgl_descriptor(sgl.put(0, data), 1024)
    assert sgl.io(WRITE, block, nlb=2, mptr=sgl.put(4097, metadata)) == 0  # PSDT 01b: a buffer of any alignment

    def taken(mptr: int, psdt: int = PSDT_SGL_MPTR_SGL) -> int:
        sgl.buffer[:8192] = 0xEE
        return sgl.io(READ, block, psdt=psdt, nlb=2, mptr=mptr)

    at = sgl.put(LISTS, sgl_descriptor(sgl.base + 4099, 16))
    assert taken(at) == 0
    assert sgl.taken(0, 1024) == data and sgl.taken(4099, 17) == metadata + b"\xee"
    halves = [(sgl.base + 5000, 5, 0), (0, 4, SGL_BIT_BUCKET), (sgl.base + 6000, 9, 0)]
    at = sgl.put(LISTS, sgl.segment(LISTS + 64, *(sgl_descriptor(*half) for half in halves)))
    assert taken(at) == 0
    assert sgl.taken(5000, 6) == metadata[:5] + b"\xee" and sgl.taken(6000, 7) == metadata[9:]

    assert taken(sgl.put(LISTS, sgl_descriptor(sgl.base, 15))) == Status.SGL_INVALID_METADATA
    assert taken(sgl.put(LISTS, sgl_descriptor(sgl.base, 16, SGL_TRANSPORT))) == Status.SGL_INVALID_TYPE
    assert taken(at + 4) == Status.SGL_INVALID_LAST
    assert taken(0xDEAD_0000) == taken(sgl.put(LISTS, sgl_descriptor(0xDEAD_0000, 16))) == Status.DATA_XFER_ERROR
    assert taken(0xDEAD_0000, PSDT_SGL) == Status.DATA_XFER_ERROR


def test_the_error_log_says_where_the_wrong_field_is(sgl: SglHost) -> None:
    assert sgl.io(READ, sgl_descriptor(sgl.base, 100)) == Status.SGL_INVALID_DATA

    assert sgl.machine.controller.error_log.page()[14:16] == bytes([32, 0])  # byte and bit: the length in SGL1


def test_a_descriptor_in_words() -> None:
    assert sgl_words(sgl_descriptor(0x1000, 512)) == "Data Block 0x1000 +512"
    assert sgl_words(sgl_descriptor(0, 9, SGL_BIT_BUCKET)) == "Bit Bucket of 9 bytes"
    assert sgl_words(sgl_descriptor(0x40, 32, SGL_TRANSPORT)) == "Transport Data Block (transport specific) 0x40 +32"
    assert sgl_words(sgl_descriptor(0, 1, 0x77)) == "type 7h (subtype 7h) 0x0 +1"
