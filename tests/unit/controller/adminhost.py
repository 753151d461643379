"""Admin commands on a real controller, one call a command: what was answered, and the data that came."""

from __future__ import annotations

from typing import Any

from rawhost import PAGE, Completion, RawHost

from nvme_emu.spec.commands import (
    CREATE_CQ_CDW11,
    CREATE_QUEUE_CDW10,
    CREATE_SQ_CDW11,
    GET_FEATURES_CDW10,
    IDENTIFY_CDW10,
    IDENTIFY_CDW11,
    SET_FEATURES_CDW10,
    get_log_page_dwords,
)
from nvme_emu.spec.logs import ERROR_INFORMATION, Lid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.status import STATUS_CODE_MASK

BROADCAST = 0xFFFF_FFFF
GUARD = b"\xa5"
DATA_PAGES = 16


class Slow:
    """A device on which commands take `io_ns`, those of the admin queue `admin_ns`."""

    instant = False

    def __init__(self, io_ns: int = 1_000_000, admin_ns: int = 0) -> None:
        self.io_ns = io_ns
        self.admin_ns = admin_ns

    def submit(self, op: str, offset: int, nbytes: int, now_ns: int, **more: object) -> int:
        """When a command that is fetched now will be done."""
        return now_ns + (self.admin_ns if op == "admin" else self.io_ns)


class AdminHost(RawHost):
    """An enabled controller; `data` is a buffer of 16 pages with a guard behind what a command may write."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.enable()
        self.data = self.pages(DATA_PAGES)
        self.lists = self.pages(1)

    def prps(self, nbytes: int) -> dict[str, int]:
        """PRP1 and PRP2 for the first `nbytes` of the data buffer, with a list in `lists` where needed."""
        if nbytes <= PAGE:
            return {"prp1": self.data, "prp2": 0}
        if nbytes <= 2 * PAGE:
            return {"prp1": self.data, "prp2": self.data + PAGE}
        for number in range(1, min(-(-nbytes // PAGE), DATA_PAGES)):
            entry = (self.data + number * PAGE).to_bytes(8, "little")
            self.memory.write(self.lists + 8 * (number - 1), entry)
        return {"prp1": self.data, "prp2": self.lists}

    def do(self, opcode: int, *, nsid: int = 0, nbytes: int = PAGE, **fields: int) -> Completion:
        """One admin command with its data buffer."""
        return self.admin.run(opcode, nsid=nsid, **{**self.prps(nbytes), **fields})

    def identify(
        self, cns: int, nsid: int = 0, *, cntid: int = 0, csi: int = 0, cnssid: int = 0
    ) -> Completion:
        """Identify into the data buffer, which is full of guard bytes before."""
        self.memory.write(self.data, GUARD * 2 * PAGE)
        return self.do(
            AdminOpcode.IDENTIFY,
            nsid=nsid,
            cdw10=IDENTIFY_CDW10.pack(cns=cns, cntid=cntid),
            cdw11=IDENTIFY_CDW11.pack(csi=csi, cnssid=cnssid),
        )

    def identified(self, cns: int, nsid: int = 0, **more: int) -> bytes:
        """The data of an Identify that succeeds and writes 4096 bytes, not one more."""
        assert self.identify(cns, nsid, **more).status == 0
        assert self.memory.read(self.data + PAGE, PAGE) == GUARD * PAGE
        return self.memory.read(self.data, PAGE)

    def log(
        self,
        lid: int,
        nbytes: int = 512,
        *,
        nsid: int = BROADCAST,
        rae: bool = False,
        cdw14: int = 0,
        **more: int,
    ) -> Completion:
        """Get Log Page into the data buffer, which is full of guard bytes before."""
        self.memory.write(self.data, GUARD * DATA_PAGES * PAGE)
        asked = get_log_page_dwords(lid, nbytes, rae=rae, **more)
        return self.do(
            AdminOpcode.GET_LOG_PAGE,
            nsid=nsid,
            nbytes=nbytes,
            cdw10=asked.cdw10,
            cdw11=asked.cdw11,
            cdw12=asked.cdw12,
            cdw13=asked.cdw13,
            cdw14=cdw14,
        )

    def logged(self, lid: int, nbytes: int = 512, **more: Any) -> bytes:
        """The data of a Get Log Page that succeeds and writes `nbytes`, not one more."""
        assert self.log(lid, nbytes, **more).status == 0
        assert self.memory.read(self.data + nbytes, PAGE) == GUARD * PAGE
        return self.memory.read(self.data, nbytes)

    def newest_error(self) -> Any:
        """The newest entry of the error log, read without clearing events."""
        return ERROR_INFORMATION.parse(self.logged(Lid.ERROR_INFORMATION, 64, rae=True))

    def set_feature(self, fid: int, cdw11: int = 0, *, nsid: int = 0, sv: int = 0, **more: int) -> Completion:
        """Set Features."""
        head = SET_FEATURES_CDW10.pack(fid=fid, sv=sv)
        return self.do(AdminOpcode.SET_FEATURES, nsid=nsid, cdw10=head, cdw11=cdw11, **more)

    def get_feature(
        self, fid: int, *, sel: int = 0, nsid: int = 0, cdw11: int = 0, **more: int
    ) -> Completion:
        """Get Features."""
        head = GET_FEATURES_CDW10.pack(fid=fid, sel=sel)
        return self.do(AdminOpcode.GET_FEATURES, nsid=nsid, cdw10=head, cdw11=cdw11, **more)

    def create_cq(
        self,
        qid: int = 1,
        entries: int = 16,
        base: int | None = None,
        *,
        pc: int = 1,
        ien: int = 1,
        iv: int = 0,
    ) -> Completion:
        """Create I/O Completion Queue; `entries` counts from one, 0 stands for 65536."""
        return self.do(
            AdminOpcode.CREATE_IO_CQ,
            prp1=self.pages(-(-entries * 16 // PAGE) or 1) if base is None else base,
            cdw10=CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=(entries - 1) & 0xFFFF),
            cdw11=CREATE_CQ_CDW11.pack(pc=pc, ien=ien, iv=iv),
        )

    def create_sq(
        self,
        qid: int = 1,
        entries: int = 16,
        base: int | None = None,
        *,
        pc: int = 1,
        qprio: int = 0,
        cqid: int = 1,
    ) -> Completion:
        """Create I/O Submission Queue."""
        return self.do(
            AdminOpcode.CREATE_IO_SQ,
            prp1=self.pages(-(-entries * 64 // PAGE) or 1) if base is None else base,
            cdw10=CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=(entries - 1) & 0xFFFF),
            cdw11=CREATE_SQ_CDW11.pack(pc=pc, qprio=qprio, cqid=cqid),
        )

    def park_aer(self, cid: int = 900) -> list[Completion]:
        """An Asynchronous Event Request; what was completed meanwhile."""
        self.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=cid, nsid=0)
        self.admin.ring()
        self.step()
        return self.admin.reap()


def code(completion: Completion) -> int:
    """SCT and SC of a completion, without More and Do Not Retry."""
    return completion.status & STATUS_CODE_MASK
