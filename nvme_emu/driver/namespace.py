"""A namespace as its user sees it: reads and writes of logical blocks.

``nlb`` counts from 1. What is larger than one command may carry is split and joined. Every method that
waits has a ``submit_`` twin which gives a :class:`~nvme_emu.driver.request.Request`; in sync mode that
request is complete when the method returns, in async mode the caller goes on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING

import numpy as np

from nvme_emu.driver.batch import BatchRequest, fits_columns
from nvme_emu.driver.request import Request, SplitRequest
from nvme_emu.spec.commands import DSM_AD, DSM_RANGE, DSM_RANGES_MAX, RW_FUA, WZ_DEAC, join64
from nvme_emu.spec.opcodes import NvmOpcode

if TYPE_CHECKING:
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.spec.ana import AnaState

__all__ = ["Buffer", "Namespace", "has_metadata"]

Buffer = bytes | bytearray | memoryview | np.ndarray
Callback = Callable[[Request], object]

NLB_MAX = 65_536

READ, WRITE, COMPARE = int(NvmOpcode.READ), int(NvmOpcode.WRITE), int(NvmOpcode.COMPARE)


def has_metadata(identify: np.ndarray) -> bool:
    """Whether the blocks of a namespace have metadata, by its Identify data."""
    from nvme_emu.spec.identify import IDENTIFY_NAMESPACE, LBA_FORMAT, flbas_index

    data = identify.tobytes()
    at = flbas_index(data[IDENTIFY_NAMESPACE.offset_of("flbas")]) * LBA_FORMAT.size
    start = IDENTIFY_NAMESPACE.offset_of("lbaf") + at + LBA_FORMAT.offset_of("ms")
    return any(data[start : start + 2])


class Namespace:
    """Namespace ``nsid``: ``nlb`` logical blocks of ``lba_size`` bytes (``nbytes`` in all)."""

    zoned = False

    def __init__(self, driver: NvmeDriver, nsid: int, identify: np.ndarray) -> None:
        self.nsid = nsid
        self._driver = driver
        self.update(identify)

    def update(self, identify: np.ndarray) -> None:
        """Take over what the controller says of the namespace now (``nvme_validate_ns``)."""
        from nvme_emu.spec.identify import IDENTIFY_NAMESPACE, flbas_index

        self.identity = IDENTIFY_NAMESPACE.parse(identify.tobytes())
        self.nlb = int(self.identity.nsze)
        lbaf = self.identity.lbaf[flbas_index(self.identity.flbas)]
        self.lba_size = 1 << lbaf.lbads
        self.nbytes = self.nlb * self.lba_size
        limit = self._driver.max_transfer_bytes
        self.nlb_max = min(NLB_MAX, limit // self.lba_size if limit else NLB_MAX)

    @property
    def ana_state(self) -> AnaState:
        """How the controller reaches it; optimized where it does not report that."""
        return self._driver.ana.state(self.identity.anagrpid)

    def __repr__(self) -> str:
        return f"<Namespace {self.nsid}: {self.nlb} blocks of {self.lba_size} bytes>"

    # Waiting methods --------------------------------------------------------------------------------

    def read(self, slba: int, nlb: int, out: np.ndarray | None = None) -> np.ndarray:
        """``nlb`` blocks from ``slba`` as a uint8 array (``out`` if given). NvmeError, ValueError."""
        if slba.__class__ is not int or nlb.__class__ is not int:
            slba, nlb = index(slba), index(nlb)
        if nlb > self.nlb_max:
            return self.submit_read(slba, nlb, out).wait()  # type: ignore[return-value]
        if slba < 0 or nlb < 1 or slba + nlb > self.nlb:
            self._check_range(slba, nlb)
        nbytes = nlb * self.lba_size
        paths = self._driver.offered
        path = paths[0] if len(paths) == 1 else self._driver.path()
        exchange = path.exchange
        if out is None:
            out = np.empty(nbytes, np.uint8)
        if exchange is not None and exchange(READ, self.nsid, slba, nlb - 1, out, nbytes):
            return out
        view = memoryview(out)  # type: ignore[arg-type]
        if view.format != "B" or view.ndim != 1 or view.readonly or len(view) != nbytes or not view.c_contiguous:
            view = _writable_view(out, nbytes)
        rq = Request(READ, self.nsid, slba, nlb, nlb - 1, view, False, out)
        path.run(rq)
        return out if rq.done and not rq._status else rq.wait()  # type: ignore[return-value]

    def write(self, slba: int, data: Buffer, *, fua: bool = False) -> None:
        """Write whole blocks; with ``fua`` they are on the medium when this returns."""
        if slba.__class__ is not int:
            slba = index(slba)
        view, nlb = self._source(data)
        if nlb > self.nlb_max:
            self.submit_write(slba, data, fua=fua).wait()
            return
        if slba < 0 or slba + nlb > self.nlb:
            self._check_range(slba, nlb)
        path = self._driver.path()
        exchange = path.exchange
        if exchange is not None and not fua and exchange(WRITE, self.nsid, slba, nlb - 1, view, len(view)):
            return
        rq = Request(WRITE, self.nsid, slba, nlb, nlb - 1 | (RW_FUA if fua else 0), view, True)
        path.run(rq)
        if not rq.done or rq._status:
            rq.wait()

    def flush(self) -> None:
        """Make everything written so far durable."""
        self.submit_flush().wait()

    def compare(self, slba: int, data: Buffer) -> None:
        """Compare with the medium; NvmeError (ENODATA, Compare Failure) if they differ."""
        for rq in self._parts(COMPARE, index(slba), *self._source(data), 0, None):
            self._start([rq]).wait()

    def write_zeroes(self, slba: int, nlb: int, *, deallocate: bool = False) -> None:
        """Zero blocks without a transfer; ``deallocate`` lets the device give their space back."""
        slba, nlb = index(slba), index(nlb)
        self._check_range(slba, nlb)
        flags = WZ_DEAC if deallocate else 0
        requests = [
            Request(NvmOpcode.WRITE_ZEROES, self.nsid, start, count, (count - 1) | flags)
            for start, count in _cut(slba, nlb, NLB_MAX)
        ]
        self._submit_all(requests)

    def discard(self, slba: int | Iterable[tuple[int, int]], nlb: int | None = None) -> None:
        """Deallocate ``nlb`` blocks from ``slba``, or each range of a list of (slba, nlb)."""
        if isinstance(slba, Iterable):
            if nlb is not None:
                raise ValueError("discard(ranges) takes no nlb: each range is a pair (slba, nlb)")
            ranges = [(index(start), index(count)) for start, count in slba]
        elif nlb is None:
            raise ValueError("discard(slba, nlb) needs nlb, the number of blocks")
        else:
            ranges = [(index(slba), index(nlb))]
        for start, count in ranges:
            self._check_range(start, count)
        step = DSM_RANGES_MAX
        self._submit_all([self._discard_request(ranges[i : i + step]) for i in range(0, len(ranges), step)])

    def _discard_request(self, ranges: Sequence[tuple[int, int]]) -> Request:
        table = b"".join(DSM_RANGE.pack(0, count, start) for start, count in ranges)
        cdw10_11 = join64(len(ranges) - 1, DSM_AD)
        return Request(NvmOpcode.DATASET_MANAGEMENT, self.nsid, cdw10_11, 0, 0, memoryview(table), True)

    # Requests ---------------------------------------------------------------------------------------

    def submit_read(
        self, slba: int, nlb: int, out: np.ndarray | None = None, *, callback: Callback | None = None
    ) -> Request:
        """Start a read; its result is a uint8 array of ``nlb * lba_size`` bytes, ``out`` if given.

        ``callback(request)`` runs once on the completing thread. ValueError for a range that leaves the
        namespace or an ``out`` of another size, not writable or not contiguous.
        """
        if slba.__class__ is not int or nlb.__class__ is not int:
            slba, nlb = index(slba), index(nlb)
        if slba < 0 or nlb < 1 or slba + nlb > self.nlb:
            self._check_range(slba, nlb)
        nbytes = nlb * self.lba_size
        if out is None:
            out = np.empty(nbytes, np.uint8)
            view = memoryview(out)  # type: ignore[arg-type]
        else:
            view = memoryview(out)  # type: ignore[arg-type]
            if view.format != "B" or view.ndim != 1 or view.readonly or len(view) != nbytes or not view.c_contiguous:
                view = _writable_view(out, nbytes)
        if nlb <= self.nlb_max:
            rq = Request(READ, self.nsid, slba, nlb, nlb - 1, view, False, out)
            if callback is not None:
                rq.add_callback(callback)
            self._driver.path().submit(rq)
            return rq
        parts = self._parts(READ, slba, view, nlb, 0, out)
        return self._start(parts, READ, slba, nlb, out, callback)

    def submit_write(
        self, slba: int, data: Buffer, *, fua: bool = False, callback: Callback | None = None
    ) -> Request:
        """Start a write of whole blocks. The data must not change until the request is done."""
        if slba.__class__ is not int:
            slba = index(slba)
        view, nlb = self._source(data)
        if slba < 0 or slba + nlb > self.nlb:
            self._check_range(slba, nlb)
        flags = RW_FUA if fua else 0
        if nlb <= self.nlb_max:
            rq = Request(WRITE, self.nsid, slba, nlb, (nlb - 1) | flags, view, True)
            if callback is not None:
                rq.add_callback(callback)
            self._driver.path().submit(rq)
            return rq
        return self._start(self._parts(WRITE, slba, view, nlb, flags, None), WRITE, slba, nlb, None, callback)

    def submit_flush(self, *, callback: Callback | None = None) -> Request:
        """Start a Flush."""
        return self._start([Request(NvmOpcode.FLUSH, self.nsid)], callback=callback)

    def submit_discard(self, slba: int, nlb: int, *, callback: Callback | None = None) -> Request:
        """Start the deallocation of a range."""
        slba, nlb = index(slba), index(nlb)
        self._check_range(slba, nlb)
        return self._start([self._discard_request([(slba, nlb)])], callback=callback)

    # Many at once -----------------------------------------------------------------------------------

    def read_many(
        self, slbas: Sequence[int] | np.ndarray, nlb: int = 1, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Read ``nlb`` blocks from each of ``slbas`` and wait: uint8 of shape (len(slbas), nlb * lba_size).

        ``out``, if given, is a contiguous array or buffer of as many bytes; the result is a view of it. The first
        failed read's NvmeError is raised after all have ended.
        """
        starts, nlb = np.asarray(slbas), index(nlb)
        width = nlb * self.lba_size
        self._check_range(0, nlb)
        if out is None:
            out = np.empty((len(starts), width), np.uint8)
        done = self._exchange_many(READ, starts, nlb, out)
        if done < len(starts) or not done:
            self._check_starts(starts, nlb)
            view = _writable_view(out, len(starts) * width)
            self._many(READ, starts[done:], nlb, view[done * width :], False)
        return np.frombuffer(out, np.uint8).reshape(len(starts), width)

    def write_many(self, slbas: Sequence[int] | np.ndarray, data: Buffer, nlb: int = 1) -> None:
        """Write ``nlb`` blocks at each of ``slbas`` and wait; ``data`` holds them one after the other."""
        starts, nlb = np.asarray(slbas), index(nlb)
        self._check_range(0, nlb)
        done = self._exchange_many(WRITE, starts, nlb, data)
        if done and done == len(starts):
            return
        self._check_starts(starts, nlb)
        view = _bytes_view(data)
        if len(view) != len(starts) * nlb * self.lba_size:
            raise ValueError(
                f"{len(view)} bytes of data for {len(starts)} writes of {nlb} blocks of {self.lba_size} bytes"
            )
        self._many(WRITE, starts[done:], nlb, view[done * nlb * self.lba_size :], True)

    def _exchange_many(self, opcode: int, starts: np.ndarray, nlb: int, data: Buffer) -> int:
        """How many commands, from the first, the compiled core has done."""
        exchange = self._driver.path().exchange_many
        if exchange is None or starts.dtype != np.int64 or starts.ndim != 1 or not 0 < nlb <= self.nlb_max:
            return 0
        return exchange(opcode, self.nsid, starts, nlb, nlb * self.lba_size, self.nlb, data)

    def _check_starts(self, starts: np.ndarray, nlb: int) -> None:
        """ValueError unless they are integers, all of them in the namespace."""
        if starts.ndim != 1 or (len(starts) and starts.dtype.kind not in "iu"):
            raise ValueError(
                f"slbas is {starts.dtype} of shape {starts.shape}: a flat array of integers is needed"
            )
        if len(starts):
            self._check_range(int(starts.min()), nlb)
            self._check_range(int(starts.max()), nlb)

    def _many(self, opcode: int, starts: np.ndarray, nlb: int, view: memoryview, to_device: bool) -> None:
        width = nlb * self.lba_size
        if nlb <= self.nlb_max and fits_columns(len(starts), width):
            batch = BatchRequest(opcode, self.nsid, starts, nlb, width, view, to_device)
            self._driver.path().submit_batch(batch)
            batch.wait()
            return
        requests: list[Request] = []
        for at, slba in enumerate(starts.tolist()):
            piece = view[at * width : (at + 1) * width]
            if nlb <= self.nlb_max:
                requests.append(Request(opcode, self.nsid, slba, nlb, nlb - 1, piece, to_device))
            else:
                requests += self._parts(opcode, slba, piece, nlb, 0, None)
        self._submit_all(requests)

    # Inside -----------------------------------------------------------------------------------------

    def _check_range(self, slba: int, nlb: int) -> None:
        if nlb < 1:
            raise ValueError(f"nlb={nlb}: a command covers at least 1 block (nlb counts from 1)")
        if slba < 0 or slba + nlb > self.nlb:
            raise ValueError(
                f"slba={slba} nlb={nlb} leaves namespace {self.nsid}, whose last block is {self.nlb - 1}"
            )

    def _source(self, data: Buffer) -> tuple[memoryview, int]:
        """The bytes of ``data`` and the number of blocks; ValueError unless they are whole blocks."""
        view = _bytes_view(data)
        nlb, rest = divmod(len(view), self.lba_size)
        if rest or not nlb:
            raise ValueError(
                f"{len(view)} bytes of data: a whole number of {self.lba_size}-byte blocks is needed"
            )
        return view, nlb

    def _parts(
        self, opcode: int, slba: int, view: memoryview, nlb: int, flags: int, out: np.ndarray | None
    ) -> list[Request]:
        """The commands for a transfer, each as large as one command may be."""
        self._check_range(slba, nlb)
        size = self.lba_size
        return [
            Request(
                opcode,
                self.nsid,
                start,
                count,
                (count - 1) | flags,
                view[(start - slba) * size : (start - slba + count) * size],
                opcode != READ,
                out if count == nlb else None,
            )
            for start, count in _cut(slba, nlb, self.nlb_max)
        ]

    def _start(
        self,
        parts: list[Request],
        opcode: int = 0,
        slba: int = 0,
        nlb: int = 0,
        out: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Request:
        """Submit one request, or several under a SplitRequest."""
        path = self._driver.path()
        if len(parts) == 1:
            if callback is not None:
                parts[0].add_callback(callback)
            path.submit(parts[0])
            return parts[0]
        whole = SplitRequest(parts, opcode, self.nsid, slba, nlb)
        whole.array = out
        whole._path = path
        if callback is not None:
            whole.add_callback(callback)
        whole.watch()
        path.submit_many(parts)
        return whole

    def _submit_all(self, requests: list[Request]) -> None:
        """Submit requests that nobody else sees, wait for all, raise the first error."""
        if not requests:
            return
        self._driver.path().submit_many(requests)
        for rq in requests:
            if not rq.done:
                assert rq._path is not None
                rq._path.wait(rq, None)
        for rq in requests:
            if rq._status:
                rq.result()


def _cut(slba: int, nlb: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(step, slba + nlb - start)) for start in range(slba, slba + nlb, step)]


def _bytes_view(data: Buffer) -> memoryview:
    """A flat view of the bytes; ValueError if they are not contiguous, or no bytes but Python objects."""
    view = memoryview(data)  # type: ignore[arg-type]
    if isinstance(view.obj, np.ndarray) and view.obj.dtype.hasobject:
        raise ValueError(f"the data is an array of {view.obj.dtype}: it holds references to Python objects, no bytes")
    if not view.c_contiguous:
        raise ValueError("the data is not contiguous in memory: pass a contiguous copy")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _writable_view(out: np.ndarray, nbytes: int) -> memoryview:
    view = _bytes_view(out)
    if view.readonly:
        raise ValueError("out is read-only: a read needs an array that it may fill")
    if len(view) != nbytes:
        raise ValueError(f"out holds {len(view)} bytes, the read gives {nbytes}")
    return view
