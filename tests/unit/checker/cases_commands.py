"""How each rule about commands and their buffers is broken, and how it is nearly broken."""

from __future__ import annotations

from checkedhost import WRITE, CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.spec.commands import ABORT_CDW10, DSM_AD, DSM_RANGE, RW_FUA
from nvme_emu.spec.features import VOLATILE_WRITE_CACHE, Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import NSID_BROADCAST

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


CASES = {
    "cid-reused": ([bad_cid, twice_at_one_doorbell], good_cid),
    "cid-reserved": ([bad_cid_value], good_cid_value),
    "flags-reserved": ([bad_flags], good_command),
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
}

OPTIONS = {
    "mdts-exceeded": {"config": ControllerConfig(mdts=1)},
    "write-zeroes-limit": {"config": ControllerConfig(wzsl=1)},
    "dsm-limit": {"config": ControllerConfig(dmrl=2, dmrsl=16, dmsl=24)},
}
