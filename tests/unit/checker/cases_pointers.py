"""How each rule about PRPs, SGLs and buffers is broken, and how it is nearly broken."""

from __future__ import annotations

import numpy as np
from cases_commands import FLUSH, NOWHERE, good_mdts, run
from checkedhost import READ, WRITE, CheckedHost
from rawhost import PAGE

from nvme_emu.core.page_pool import PagePool
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.sgl import (
    SGL_BIT_BUCKET,
    SGL_BYTES,
    SGL_DATA_BLOCK,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
    sgl_descriptor,
)

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


def admin_sgl(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(AdminOpcode.IDENTIFY, nsid=0, flags=SGL, cdw10=1, **descriptor(h.data, PAGE))


def bad_sgl(h: CheckedHost) -> None:
    h.ready()
    h.do(flags=0xC0)


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
    "mptr-offset": ([bad_mptr], good_mptr),
    "mptr-memory": ([mptr_nowhere, mptr_too_short, mptr_read_only], good_mptr),
    "prp1-offset": ([bad_prp1], good_prp1),
    "prp-offset": ([bad_prp2, bad_entry], good_list),
    "prp-list-offset": ([bad_list_offset, bad_chain], good_chain),
    "prp-list-memory": ([bad_list_memory], good_list),
    "prp-list-freed": ([list_freed_before, list_freed_in_flight], good_list_freed),
    "prp-list-changed": ([bad_list_changed], good_list_changed),
    "prp2-unused": ([bad_prp2_unused], good_mdts),
    "prp-repeated": ([bad_repeated], good_repeated),
    "buffer-memory": ([bad_buffer, read_only_buffer, sgl_nowhere], good_buffer),
    "buffer-over-queue": ([bad_over_queue], good_over_queue),
    "buffer-written": ([bad_written], good_written),
    "buffer-changed": ([bad_changed], good_changed),
    "buffer-freed": ([bad_freed, freed_to_pool], good_freed),
    "sgl-unsupported": ([bad_sgl, admin_sgl], good_sgl),
    "sgl-type": ([sgl_type], good_sgl),
    "sgl-length": ([sgl_short], good_sgl),
    "sgl-list": ([sgl_off_alignment, sgl_segment_nowhere, sgl_no_pointer], good_sgl),
}

ALSO_GOOD = (shared_by_reads, given_up_by_a_reset)
