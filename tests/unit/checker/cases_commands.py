"""How each rule about commands and their buffers is broken, and how it is nearly broken."""

from __future__ import annotations

import numpy as np
from checkedhost import READ, WRITE, CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.page_pool import PagePool
from nvme_emu.spec.commands import ABORT_CDW10, DSM_AD, DSM_RANGE, RW_FUA
from nvme_emu.spec.features import VOLATILE_WRITE_CACHE, Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.sgl import (
    SGL_BIT_BUCKET,
    SGL_BYTES,
    SGL_DATA_BLOCK,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
    sgl_descriptor,
)

ABORT, AER = int(AdminOpcode.ABORT), int(AdminOpcode.ASYNC_EVENT_REQUEST)
FLUSH, DSM, ZEROES = int(NvmOpcode.FLUSH), int(NvmOpcode.DATASET_MANAGEMENT), int(NvmOpcode.WRITE_ZEROES)
NOWHERE = 0xDEAD_0000_0000


def run(h: CheckedHost, opcode: int, **fields: int) -> None:
    """An I/O command with fields of any kind, to its end."""
    h.io.put(opcode, **{"cid": 1, **fields})
    h.io.ring()
    h.end()


# -- identifiers and fields -----------------------------------------------------------------------------------


def bad_cid(h: CheckedHost) -> None:
    h.ready()
    h.begin(cid=7)
    h.begin(cid=7)


def twice_at_one_doorbell(h: CheckedHost) -> None:
    h.ready()
    h.put(cid=7)
    h.put(cid=7)
    h.io.ring()


def good_cid(h: CheckedHost) -> None:
    h.ready()
    h.do(cid=7)
    h.do(cid=7)
    other = h.pair(2)
    h.begin(cid=7)
    h.io, first = other, h.io
    h.begin(cid=7)  # identifiers are a queue's own
    h.end()
    first.reap()


def bad_cid_value(h: CheckedHost) -> None:
    h.ready()
    h.do(cid=0xFFFF)


def good_cid_value(h: CheckedHost) -> None:
    h.ready()
    h.do(cid=0xFFFE)


def bad_flags(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=0x04)


def admin_sgl(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.IDENTIFY, nsid=0, flags=SGL, cdw10=1, **descriptor(h.data, PAGE))


def bad_sgl(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=0xC0)


def bad_opcode(h: CheckedHost) -> None:
    h.ready()
    run(h, 0x7F)


def good_command(h: CheckedHost) -> None:
    h.ready()
    h.do(WRITE, cdw12=RW_FUA)
    run(h, FLUSH)


def bad_reserved_dword(h: CheckedHost) -> None:
    h.ready()
    run(h, FLUSH, cdw10=1)


def bad_reserved_bit(h: CheckedHost) -> None:
    h.ready()
    h.do(cdw12=1 << 25)


def bad_reserved_pointer(h: CheckedHost) -> None:
    h.ready()
    run(h, FLUSH, prp1=h.data)


def bad_metadata(h: CheckedHost) -> None:
    h.ready()
    h.do(mptr=h.data)


def bad_nsid_unused(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.DELETE_IO_SQ, nsid=1, cdw10=1)


def good_nsid_unused(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.IDENTIFY, nsid=1, prp1=h.data)


def bad_nsid(h: CheckedHost) -> None:
    h.ready()
    h.do(nsid=2)


def good_nsid(h: CheckedHost) -> None:
    h.ready()
    run(h, FLUSH, nsid=NSID_BROADCAST)


# -- limits ---------------------------------------------------------------------------------------------------


def bad_lba(h: CheckedHost) -> None:
    h.ready()
    h.do(slba=2041, nlb=8)


def good_lba(h: CheckedHost) -> None:
    h.ready()
    h.do(slba=2040, nlb=8)


def bad_mdts(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=24, prp2=h.write_list(h.pages(), h.data + PAGE, h.data + 2 * PAGE))


def good_mdts(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=16, prp2=h.data + PAGE)


def bad_zeroes(h: CheckedHost) -> None:
    h.ready()
    h.do(ZEROES, nlb=32, prp1=0)


def good_zeroes(h: CheckedHost) -> None:
    h.ready()
    h.do(ZEROES, nlb=16, prp1=0)


def ranges(h: CheckedHost, *pairs: tuple[int, int]) -> None:
    h.memory.write(h.data, b"".join(DSM_RANGE.pack(0, nlb, slba) for slba, nlb in pairs))
    run(h, DSM, prp1=h.data, cdw10=len(pairs) - 1, cdw11=DSM_AD)


def bad_dsm_limit(h: CheckedHost) -> None:
    h.ready()
    ranges(h, (0, 8), (8, 8), (16, 8))


def bad_dsm_length(h: CheckedHost) -> None:
    h.ready()
    ranges(h, (0, 17))


def bad_dsm_total(h: CheckedHost) -> None:
    h.ready()
    ranges(h, (0, 16), (32, 16))


def bad_dsm_range(h: CheckedHost) -> None:
    h.ready()
    ranges(h, (0, 8), (2040, 9))


def good_dsm(h: CheckedHost) -> None:
    h.ready()
    ranges(h, (0, 8), (2040, 8))


# -- admin commands -------------------------------------------------------------------------------------------


def abort(h: CheckedHost, sqid: int, cid: int) -> int:
    return h.admin_command(ABORT, cdw10=ABORT_CDW10.pack(sqid=sqid, cid=cid))


def bad_abort(h: CheckedHost) -> None:
    h.ready()
    h.do(cid=7)
    abort(h, 1, 7)


def abort_on_no_queue(h: CheckedHost) -> None:
    h.ready()
    abort(h, 3, 7)


def good_abort(h: CheckedHost) -> None:
    h.ready()
    h.begin(cid=7)
    abort(h, 1, 7)
    h.begin(cid=8)
    h.step(h.now_ns + 20_000)
    abort(h, 1, 8)  # it has ended, but the host has not looked yet
    h.end()


def aborts(h: CheckedHost, count: int) -> None:
    h.ready()
    for cid in range(count):
        h.begin(cid=cid)
    for cid in range(count):
        h.admin.put(ABORT, cid=200 + cid, nsid=0, cdw10=ABORT_CDW10.pack(sqid=1, cid=cid))
    h.admin.ring()
    h.step()
    h.admin.reap()


def bad_abort_limit(h: CheckedHost) -> None:
    aborts(h, h.config.acl_z + 2)


def good_abort_limit(h: CheckedHost) -> None:
    aborts(h, h.config.acl_z + 1)


def event_requests(h: CheckedHost, count: int) -> None:
    h.ready()
    for cid in range(count):
        h.admin.put(AER, cid=300 + cid, nsid=0)
    h.admin.ring()
    h.step()


def bad_aer_limit(h: CheckedHost) -> None:
    event_requests(h, h.config.aerl_z + 2)


def good_aer_limit(h: CheckedHost) -> None:
    event_requests(h, h.config.aerl_z + 1)


def bad_feature(h: CheckedHost) -> None:
    h.ready()
    h.set_features(Fid.VOLATILE_WRITE_CACHE, 0x10 | VOLATILE_WRITE_CACHE.pack(wce=1))


def bad_save(h: CheckedHost) -> None:
    h.up()
    h.number_of_queues(sv=1)


def good_feature(h: CheckedHost) -> None:
    h.ready()
    h.set_features(Fid.VOLATILE_WRITE_CACHE, VOLATILE_WRITE_CACHE.pack(wce=1))
    h.set_features(Fid.TIMESTAMP, prp1=h.data)


# -- PRPs -----------------------------------------------------------------------------------------------------


def bad_prp1(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=1, prp1=h.data + 2)


def good_prp1(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=1, prp1=h.data + 4)


def bad_prp2(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=16, prp2=h.data + PAGE + 512)


def bad_entry(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=24, prp2=h.write_list(h.pages(), h.data + PAGE, h.data + 2 * PAGE + 8))


def good_list(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=24, prp2=h.write_list(h.pages() + 64, h.data + PAGE, h.data + 2 * PAGE))


def bad_list_offset(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=24, prp2=h.write_list(h.pages() + 4, h.data + PAGE, h.data + 2 * PAGE))


def bad_chain(h: CheckedHost) -> None:
    h.ready()
    lists = h.pages(2)
    h.write_list(lists + PAGE + 8, h.data + 2 * PAGE)
    h.write_list(lists + PAGE - 16, h.data + PAGE, lists + PAGE + 8)
    h.do(nlb=32, prp2=lists + PAGE - 16)


def good_chain(h: CheckedHost) -> None:
    h.ready()
    lists = h.pages(2)
    h.write_list(lists + PAGE, h.data + 2 * PAGE, h.data + 3 * PAGE)
    h.write_list(lists + PAGE - 16, h.data + PAGE, lists + PAGE)
    h.do(nlb=32, prp2=lists + PAGE - 16)


def bad_list_memory(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=24, prp2=NOWHERE)


def list_freed_before(h: CheckedHost) -> None:
    h.ready()
    pool = PagePool(h.memory, 4, poison=False)
    where = pool.alloc()
    h.write_list(where, h.data + PAGE, h.data + 2 * PAGE)
    pool.free(where)
    h.do(nlb=24, prp2=where)


def list_freed_in_flight(h: CheckedHost) -> None:
    h.ready()
    pool = PagePool(h.memory, 4, poison=False)
    where = h.write_list(pool.alloc(), h.data + PAGE, h.data + 2 * PAGE)
    h.begin(nlb=24, prp2=where)
    pool.free(where)
    h.end()


def good_list_freed(h: CheckedHost) -> None:
    h.ready()
    pool = PagePool(h.memory, 4, poison=False)
    for _ in range(3):
        where = h.write_list(pool.alloc(), h.data + PAGE, h.data + 2 * PAGE)
        h.do(nlb=24, prp2=where)
        pool.free(where)


def bad_list_changed(h: CheckedHost) -> None:
    h.ready()
    where = h.write_list(h.pages(), h.data + PAGE, h.data + 2 * PAGE)
    h.begin(nlb=24, prp2=where)
    h.write_list(where, h.data + 2 * PAGE, h.data + PAGE)
    h.end()


def good_list_changed(h: CheckedHost) -> None:
    h.ready()
    where = h.write_list(h.pages(), h.data + PAGE, h.data + 2 * PAGE)
    h.begin(nlb=24, prp2=where)
    h.write_list(where + 16, 1, 2)  # behind what the command uses
    h.end()


def bad_prp2_unused(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=8, prp2=h.data + PAGE)


def bad_repeated(h: CheckedHost) -> None:
    h.ready()
    h.do(nlb=16, prp2=h.data)


def good_repeated(h: CheckedHost) -> None:
    h.ready()
    h.do(WRITE, nlb=16, prp2=h.data)


# -- buffers --------------------------------------------------------------------------------------------------


def bad_buffer(h: CheckedHost) -> None:
    h.ready()
    h.do(prp1=NOWHERE)


def read_only_buffer(h: CheckedHost) -> None:
    h.ready()
    region = h.memory.add_region(np.zeros(PAGE, np.uint8), writable=False)
    h.do(READ, prp1=region.base)


def good_buffer(h: CheckedHost) -> None:
    h.ready()
    region = h.memory.add_region(np.zeros(PAGE, np.uint8), writable=False)
    h.do(WRITE, prp1=region.base)


def with_metadata(h: CheckedHost, mptr: int | None = None, *, writable: bool = True, nbytes: int = 64) -> None:
    """A read of eight blocks of 512 + 8 bytes."""
    h.ctrl.namespaces[1].set_format(2)
    h.ready()
    region = h.memory.add_region(np.zeros(nbytes, np.uint8), writable=writable)
    h.do(READ, mptr=region.base if mptr is None else region.base + mptr)


def bad_mptr(h: CheckedHost) -> None:
    with_metadata(h, 2)


def mptr_nowhere(h: CheckedHost) -> None:
    with_metadata(h, NOWHERE)


def mptr_too_short(h: CheckedHost) -> None:
    with_metadata(h, nbytes=63)


def mptr_read_only(h: CheckedHost) -> None:
    with_metadata(h, writable=False)


def good_mptr(h: CheckedHost) -> None:
    with_metadata(h)


def bad_over_queue(h: CheckedHost) -> None:
    h.ready()
    h.begin(nlb=1, prp1=h.io.sq + 512)


def good_over_queue(h: CheckedHost) -> None:
    h.ready()
    h.do(WRITE, nlb=1, prp1=h.io.sq + 512)


def bad_written(h: CheckedHost) -> None:
    h.ready()
    h.begin(READ)
    h.memory.write(h.data + 77, b"\5")
    h.end()


def good_written(h: CheckedHost) -> None:
    h.ready()
    h.begin(READ, nlb=1)
    h.memory.write(h.data + 512, b"\5")  # behind the buffer
    h.end()
    h.memory.write(h.data, b"\5")


def shared_by_reads(h: CheckedHost) -> None:
    """What another command's read stores there is not the host's doing."""
    h.ready()
    h.memory.write(h.data, b"\7" * PAGE)
    h.do(WRITE, slba=8)
    h.begin(READ, cid=1, slba=0)
    h.begin(READ, cid=2, slba=8)
    h.end()


def bad_changed(h: CheckedHost) -> None:
    h.ready()
    h.begin(WRITE)
    h.memory.write(h.data + 77, b"\5")
    h.end()


def good_changed(h: CheckedHost) -> None:
    h.ready()
    h.memory.write(h.data + 77, b"\5")
    h.begin(WRITE)
    h.memory.write(h.data + 77, b"\5")  # the same bytes
    h.end()
    h.memory.write(h.data + 77, b"\6")


def bad_freed(h: CheckedHost) -> None:
    h.ready()
    region = h.memory.add_region(np.zeros(PAGE, np.uint8))
    h.begin(READ, prp1=region.base)
    h.memory.remove_region(region)
    h.end()


def freed_to_pool(h: CheckedHost) -> None:
    h.ready()
    pool = PagePool(h.memory, 4)
    where = pool.alloc()
    h.begin(WRITE, prp1=where)
    pool.free(where)
    h.end()


def good_freed(h: CheckedHost) -> None:
    h.ready()
    region = h.memory.add_region(np.zeros(PAGE, np.uint8))
    h.do(READ, prp1=region.base)
    h.memory.remove_region(region)


def given_up_by_a_reset(h: CheckedHost) -> None:
    h.ready()
    region = h.memory.add_region(np.zeros(PAGE, np.uint8))
    h.begin(READ, prp1=region.base)
    h.cc(en=0)
    h.see()
    h.memory.remove_region(region)
    h.up()


# -- SGLs -----------------------------------------------------------------------------------------------------

SGL = 0x40


def descriptor(address: int, length: int, identifier: int = SGL_DATA_BLOCK) -> dict[str, int]:
    """A descriptor where a command has its PRPs."""
    return {"prp1": address, "prp2": length | identifier << 56}


def segment(h: CheckedHost, *descriptors: bytes) -> tuple[int, int]:
    """(address, length) of a segment of an SGL."""
    where = h.pages()
    h.memory.write(where, b"".join(descriptors))
    return where, len(descriptors) * SGL_BYTES


def sgl_type(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=SGL, **descriptor(h.data, PAGE, 0x40))


def sgl_short(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=SGL, **descriptor(h.data, 512))


def sgl_nowhere(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=SGL, **descriptor(NOWHERE, PAGE))


def sgl_off_alignment(h: CheckedHost) -> None:
    h.ready()
    where, length = segment(h, bytes(4) + sgl_descriptor(h.data, PAGE))
    h.do(flags=SGL, **descriptor(where + 4, length, SGL_LAST_SEGMENT))


def sgl_segment_nowhere(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=SGL, **descriptor(NOWHERE, 32, SGL_LAST_SEGMENT))


def sgl_no_pointer(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=SGL, **descriptor(*segment(h, sgl_descriptor(h.data, PAGE)), SGL_SEGMENT))


def good_sgl(h: CheckedHost) -> None:
    h.ready()
    last = segment(h, sgl_descriptor(h.data + 512, 512), sgl_descriptor(0, 512, SGL_BIT_BUCKET))
    first = segment(h, sgl_descriptor(h.data, 512), sgl_descriptor(*last, SGL_LAST_SEGMENT))
    h.do(flags=SGL, nlb=3, **descriptor(*first, SGL_SEGMENT))
    h.do(WRITE, flags=SGL, **descriptor(h.data + 3, PAGE))
    run(h, FLUSH, flags=SGL)


CASES = {
    "cid-reused": ([bad_cid, twice_at_one_doorbell], good_cid),
    "cid-reserved": ([bad_cid_value], good_cid_value),
    "flags-reserved": ([bad_flags], good_command),
    "sgl-unsupported": ([bad_sgl, admin_sgl], good_sgl),
    "sgl-type": ([sgl_type], good_sgl),
    "sgl-length": ([sgl_short], good_sgl),
    "sgl-list": ([sgl_off_alignment, sgl_segment_nowhere, sgl_no_pointer], good_sgl),
    "opcode-unsupported": ([bad_opcode], good_command),
    "reserved-field": ([bad_reserved_dword, bad_reserved_bit, bad_reserved_pointer, bad_metadata], good_command),
    "nsid-unused": ([bad_nsid_unused], good_nsid_unused),
    "nsid-invalid": ([bad_nsid], good_nsid),
    "lba-range": ([bad_lba], good_lba),
    "mdts-exceeded": ([bad_mdts], good_mdts),
    "write-zeroes-limit": ([bad_zeroes], good_zeroes),
    "dsm-limit": ([bad_dsm_limit, bad_dsm_length, bad_dsm_total], good_dsm),
    "dsm-range": ([bad_dsm_range], good_dsm),
    "abort-nothing": ([bad_abort, abort_on_no_queue], good_abort),
    "abort-limit": ([bad_abort_limit], good_abort_limit),
    "aer-limit": ([bad_aer_limit], good_aer_limit),
    "feature-reserved": ([bad_feature], good_feature),
    "feature-not-saveable": ([bad_save], good_feature),
    "prp1-offset": ([bad_prp1], good_prp1),
    "prp-offset": ([bad_prp2, bad_entry], good_list),
    "prp-list-offset": ([bad_list_offset, bad_chain], good_chain),
    "prp-list-memory": ([bad_list_memory], good_list),
    "prp-list-freed": ([list_freed_before, list_freed_in_flight], good_list_freed),
    "prp-list-changed": ([bad_list_changed], good_list_changed),
    "prp2-unused": ([bad_prp2_unused], good_mdts),
    "prp-repeated": ([bad_repeated], good_repeated),
    "buffer-memory": ([bad_buffer, read_only_buffer, sgl_nowhere], good_buffer),
    "mptr-offset": ([bad_mptr], good_mptr),
    "mptr-memory": ([mptr_nowhere, mptr_too_short, mptr_read_only], good_mptr),
    "buffer-over-queue": ([bad_over_queue], good_over_queue),
    "buffer-written": ([bad_written], good_written),
    "buffer-changed": ([bad_changed], good_changed),
    "buffer-freed": ([bad_freed, freed_to_pool], good_freed),
}

OPTIONS = {
    "mdts-exceeded": {"config": ControllerConfig(mdts=1)},
    "write-zeroes-limit": {"config": ControllerConfig(wzsl=1)},
    "dsm-limit": {"config": ControllerConfig(dmrl=2, dmrsl=16, dmsl=24)},
}

ALSO_GOOD = (shared_by_reads, given_up_by_a_reset)
