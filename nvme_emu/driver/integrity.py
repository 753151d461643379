"""Namespaces with metadata, as Linux's driver and its block integrity layer treat them.

    metadata                                      I/O                                        Linux
    in a buffer of its own (PCI Express)          with MPTR; protection information is made  nvme_configure_metadata,
                                                  before a write, checked after a read; the  bio_integrity_prep
                                                  controller checks it too (PRCHK)
    extended LBA, 8 bytes, all of it protection   data alone: the controller inserts and     NVME_RW_PRINFO_PRACT
    information                                   strips (PRACT)
    any other extended LBA                        none: the namespace has no capacity        nvme_init_integrity

Other metadata than protection information is zero where the caller does not give it. The Reference Tag of a block is
the low half of its LBA, the Application Tag is 0. An error of protection is an NvmeError with EILSEQ, whoever found it.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu.driver.namespace import (
    COMPARE,
    NLB_MAX,
    READ,
    WRITE,
    Buffer,
    Callback,
    Namespace,
    _cut,
    _writable_view,
)
from nvme_emu.driver.request import Request, SplitRequest
from nvme_emu.spec.commands import RW_FUA, RW_PRACT, WZ_DEAC
from nvme_emu.spec.identify import DPS, FLBAS, flbas_index
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.protection import CHECK_GUARD, CHECK_REF, PI_BYTES, BlockFormat, PiType, prinfo_bits
from nvme_emu.spec.status import DNR

if TYPE_CHECKING:
    from nvme_emu.core.memory import HostMemory, Region

__all__ = ["MetadataNamespace", "MetadataRequest"]

_REF_MASK = 0xFFFF_FFFF


class MetadataRequest(Request):
    """A command with a metadata buffer of its own, ``nlb * ms`` bytes. It is mapped from `map` to `unmap`."""

    __slots__ = ("_regions", "metadata", "mptr")

    def __init__(
        self,
        opcode: int,
        nsid: int,
        slba: int,
        nlb: int,
        cdw12: int,
        data: memoryview,
        to_device: bool,
        metadata: memoryview,
    ) -> None:
        super().__init__(opcode, nsid, slba, nlb, cdw12, data, to_device)
        self.metadata = metadata
        self.mptr = 0
        self._regions: list[Region] = []

    def map(self, memory: HostMemory) -> None:
        """Give the device both buffers."""
        for buffer, name in ((self.data, "data"), (self.metadata, "metadata")):
            array: Any = np.frombuffer(buffer, np.uint8)  # type: ignore[arg-type]
            self._regions.append(memory.add_region(array, writable=not self.to_device, name=name))
        self.iova, self.mptr = (region.base for region in self._regions)

    def unmap(self, memory: HostMemory) -> None:
        """Take them back."""
        while self._regions:
            memory.remove_region(self._regions.pop())


class _Transfer(SplitRequest):
    """A read, write or compare of blocks whose metadata has a buffer of its own: parts with MPTR, checked when read."""

    __slots__ = ("_memory", "_namespace")

    def __init__(
        self,
        namespace: MetadataNamespace,
        parts: list[MetadataRequest],
        opcode: int,
        slba: int,
        nlb: int,
        memory: HostMemory,
    ) -> None:
        super().__init__(list(parts), opcode, namespace.nsid, slba, nlb)
        self._namespace = namespace
        self._memory = memory

    def _part_done(self, part: Request) -> None:
        assert isinstance(part, MetadataRequest)
        part.unmap(self._memory)
        if self.opcode == READ and not part._status:
            part._status = self._namespace.verify(part)
        super()._part_done(part)


class MetadataNamespace(Namespace):
    """Namespace ``nsid`` of blocks with ``ms`` bytes of metadata each, in it protection information of type ``pi``.

    ``separate`` says that metadata has a buffer of its own, and ``metadata=`` can be given: ``nlb * ms`` bytes as
    they are on the medium, protection information included. Else the controller inserts and strips it, or, where
    there is more of it, there are no blocks for I/O (``nlb`` is 0).
    """

    def update(self, identify: np.ndarray) -> None:
        super().update(identify)
        found = self.identity
        self.ms = int(found.lbaf[flbas_index(found.flbas)]["ms"])
        dps = DPS.unpack(found.dps)
        self.pi = PiType(dps.pit) if dps.pit in set(PiType) else PiType.NONE
        self.layout = BlockFormat(self.lba_size, self.ms, self.pi, bool(dps.pip))
        self.separate = not FLBAS["mcdb"].extract(found.flbas)
        self.checks = 0
        if self.pi:
            self.checks = CHECK_GUARD | (0 if self.pi == PiType.TYPE_3 else CHECK_REF)
        if not self.separate and not (self.pi and self.ms == PI_BYTES):
            self.nlb = self.nbytes = 0

    def __repr__(self) -> str:
        return f"<MetadataNamespace {self.nsid}: {self.nlb} blocks of {self.lba_size}+{self.ms} bytes>"

    # -- protection information ------------------------------------------------------------------------------

    def _protect(self, view: memoryview, metadata: memoryview, slba: int) -> None:
        """Write protection information for data into its metadata."""
        rows = self._join(view, metadata)
        self.layout.generate(rows, 0, slba & _REF_MASK)
        flat = np.frombuffer(metadata, np.uint8)
        flat.reshape(len(rows), self.ms)[:] = rows[:, self.lba_size :]

    def _join(self, view: memoryview, metadata: memoryview) -> np.ndarray:
        rows = self.layout.rows(len(metadata) // self.ms)
        rows[:, : self.lba_size] = np.frombuffer(view, np.uint8).reshape(len(rows), self.lba_size)
        rows[:, self.lba_size :] = np.frombuffer(metadata, np.uint8).reshape(len(rows), self.ms)
        return rows

    def verify(self, part: MetadataRequest) -> int:
        """The status field of a read that is not what was written; 0 where it is (``bio_integrity_verify_fn``)."""
        if not self.checks or part.data is None:
            return 0
        found = self.layout.check(self._join(part.data, part.metadata), self.checks, 0, 0, part.slba & _REF_MASK)
        return 0 if found is None else int(found[1]) | DNR

    # -- I/O -------------------------------------------------------------------------------------------------

    def _parts(
        self, opcode: int, slba: int, view: memoryview, nlb: int, flags: int, out: np.ndarray | None
    ) -> list[Request]:
        """Where the controller inserts and strips: commands with data alone."""
        flags |= prinfo_bits(self.checks, True)
        parts = super()._parts(opcode, slba, view, nlb, flags, out)
        for part in parts:
            part.cdw14 = part.slba & _REF_MASK
        return parts

    def _begin(
        self,
        opcode: int,
        slba: int,
        view: memoryview,
        nlb: int,
        flags: int = 0,
        out: np.ndarray | None = None,
        metadata: Any = None,
        callback: Callback | None = None,
    ) -> Request:
        """Start a transfer; what is given as ``metadata`` is the caller's, else it is made here."""
        self._check_range(slba, nlb)
        if not self.separate:
            if metadata is not None:
                raise ValueError(f"namespace {self.nsid}: the controller inserts and strips metadata, none is moved")
            return self._start(self._parts(opcode, slba, view, nlb, flags, out), opcode, slba, nlb, out, callback)
        memory = self._driver.memory
        if metadata is None:
            buffer = memoryview(bytearray(nlb * self.ms))
            if opcode != READ and self.pi:
                self._protect(view, buffer, slba)
        else:
            buffer = self._metadata_view(metadata, nlb, opcode == READ)
        size, ms = self.lba_size, self.ms
        parts = []
        for start, count in _cut(slba, nlb, self.nlb_max):
            at, end = start - slba, start - slba + count
            part = MetadataRequest(
                opcode, self.nsid, start, count, (count - 1) | flags | prinfo_bits(self.checks),
                view[at * size : end * size], opcode != READ, buffer[at * ms : end * ms],
            )  # fmt: skip
            part.cdw14 = start & _REF_MASK
            part.map(memory)
            parts.append(part)
        whole = _Transfer(self, parts, opcode, slba, nlb, memory)
        whole.array = out
        path = whole._path = self._driver.path()
        if callback is not None:
            whole.add_callback(callback)
        whole.watch()
        path.submit_many(parts)
        return whole

    def _metadata_view(self, metadata: Any, nlb: int, writable: bool) -> memoryview:
        view = memoryview(metadata).cast("B")
        if len(view) != nlb * self.ms or (writable and view.readonly):
            raise ValueError(
                f"{len(view)} bytes of metadata for {nlb} blocks: {self.ms} each are needed"
                + (", and they must be writable" if writable else "")
            )
        return view

    def _check_range(self, slba: int, nlb: int) -> None:
        if not self.nlb:
            raise ValueError(
                f"namespace {self.nsid} has no capacity: its {self.ms} bytes of metadata a block are part of extended"
                " LBAs and not protection information alone"
            )
        super()._check_range(slba, nlb)

    def read(self, slba: int, nlb: int, out: np.ndarray | None = None, *, metadata: Any = None) -> np.ndarray:
        """As `Namespace.read`; ``metadata``, if given, is filled. NvmeError (EILSEQ) if the protection is wrong."""
        return self.submit_read(slba, nlb, out, metadata=metadata).wait()  # type: ignore[return-value]

    def write(self, slba: int, data: Buffer, *, fua: bool = False, metadata: Any = None) -> None:
        """As `Namespace.write`; ``metadata``, if given, is written as it is."""
        self.submit_write(slba, data, fua=fua, metadata=metadata).wait()

    def submit_read(
        self,
        slba: int,
        nlb: int,
        out: np.ndarray | None = None,
        *,
        metadata: Any = None,
        callback: Callback | None = None,
    ) -> Request:
        """Start a `read`."""
        slba, nlb = index(slba), index(nlb)
        self._check_range(slba, nlb)
        if out is None:
            out = np.empty(nlb * self.lba_size, np.uint8)
        view = _writable_view(out, nlb * self.lba_size)
        return self._begin(READ, slba, view, nlb, 0, out, metadata, callback)

    def submit_write(
        self, slba: int, data: Buffer, *, fua: bool = False, metadata: Any = None, callback: Callback | None = None
    ) -> Request:
        """Start a `write`."""
        view, nlb = self._source(data)
        flags = RW_FUA if fua else 0
        return self._begin(WRITE, index(slba), view, nlb, flags, None, metadata, callback)

    def compare(self, slba: int, data: Buffer, *, metadata: Any = None) -> None:
        """As `Namespace.compare`. Metadata is compared, too, but for protection information: that is checked."""
        view, nlb = self._source(data)
        slba = index(slba)
        self._check_range(slba, nlb)
        if self.separate:
            self._begin(COMPARE, slba, view, nlb, 0, None, metadata).wait()
            return
        # A controller inserts nothing for Compare: the extended LBAs are made here.
        limit = self._driver.max_transfer_bytes
        step = min(NLB_MAX, limit // self.layout.row_bytes if limit else NLB_MAX)
        for start, count in _cut(slba, nlb, step):
            at = (start - slba) * self.lba_size
            rows = self._join(view[at : at + count * self.lba_size], memoryview(bytes(count * self.ms)))
            self.layout.generate(rows, 0, start & _REF_MASK)
            extended = memoryview(rows.reshape(-1))  # type: ignore[arg-type]
            cdw12 = (count - 1) | prinfo_bits(self.checks)
            rq = Request(COMPARE, self.nsid, start, count, cdw12, extended, True)
            rq.cdw14 = start & _REF_MASK
            self._start([rq]).wait()

    def write_zeroes(self, slba: int, nlb: int, *, deallocate: bool = False) -> None:
        """As `Namespace.write_zeroes`; the controller makes the protection information."""
        slba, nlb = index(slba), index(nlb)
        self._check_range(slba, nlb)
        flags = (WZ_DEAC if deallocate else 0) | (RW_PRACT if self.pi else 0)
        requests = []
        for start, count in _cut(slba, nlb, NLB_MAX):
            rq = Request(NvmOpcode.WRITE_ZEROES, self.nsid, start, count, (count - 1) | flags)
            rq.cdw14 = start & _REF_MASK
            requests.append(rq)
        self._submit_all(requests)

    def _exchange_many(self, opcode: int, starts: np.ndarray, nlb: int, data: Buffer) -> int:
        return 0

    def _many(self, opcode: int, starts: np.ndarray, nlb: int, view: memoryview, to_device: bool) -> None:
        width = nlb * self.lba_size
        requests = [
            self._begin(opcode, slba, view[at * width : (at + 1) * width], nlb)
            for at, slba in enumerate(starts.tolist())
        ]
        failed = None
        for rq in requests:
            if not rq.done:
                assert rq._path is not None
                rq._path.wait(rq, None)
            if rq._status and failed is None:
                failed = rq
        if failed is not None:
            failed.result()
