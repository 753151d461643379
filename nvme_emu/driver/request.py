"""A request: one command on its way, from the caller to its completion.

A request is finished exactly once. Who waits for it, awaits it or gave it a callback is told then; the three
can be mixed. An error is an exception for whoever asks for the result, never for the thread that completes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from concurrent.futures import InvalidStateError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kworker.misuse import is_failure
from nvme_emu._core import RequestState
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.errno_table import error_of
from nvme_emu.spec.opcodes import opcode_name

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Request", "SplitRequest"]

WAIT_MAX_S = 1e9
"""Longer waits than 30 years are cut to that: no clock counts infinitely many nanoseconds."""


class Request(RequestState):
    """One command and its outcome: ``Request(opcode, nsid, slba, nlb, cdw12, data, to_device, array)``.

    Attributes: ``opcode``, ``nsid``, ``slba`` (CDW10 and CDW11 as one number), ``cdw12`` … ``cdw15``,
    ``nlb`` (blocks, from 1; 0 where the command has none), ``data`` (a writable or read-only memoryview of
    bytes, or None), ``to_device`` (True where the data goes to the controller), ``array`` (what ``result``
    gives), ``serial`` (counts requests).
    """

    __slots__ = ()
    array: np.ndarray | None
    mptr: int = 0
    """Where the controller finds the metadata of a request that has mapped its data itself (``iova``)."""

    # The outcome ------------------------------------------------------------------------------------

    @property
    def status(self) -> int | None:
        """The 15-bit status field, or None while the request is not done."""
        return self._status if self.done else None

    @property
    def error(self) -> NvmeError | None:
        """The exception that :meth:`result` raises, or None if the command succeeded or is not done."""
        if not self.done or not self._status:
            return None
        return error_of(self._status, self.describe())

    def result(self) -> np.ndarray | None:
        """The data of a read (uint8, ``nlb`` blocks), None for other commands.

        Raises ``concurrent.futures.InvalidStateError`` before completion and NvmeError if the command failed.
        """
        if not self.done:
            raise InvalidStateError(f"{self.describe()} is not complete yet: wait() for it first")
        if self._status:
            raise error_of(self._status, self.describe())
        return self.array

    def wait(self, timeout_s: float | None = None) -> np.ndarray | None:
        """Wait for completion and give :meth:`result`.

        Raises TimeoutError when ``timeout_s`` seconds have passed; the request lives on and can be waited
        for again. RuntimeError when called where waiting could never end: on the worker that completes it.
        """
        if not self.done:
            if self._path is None:
                raise RuntimeError(f"{self.describe()} was never submitted")
            self._path.wait(self, None if timeout_s is None else min(timeout_s, WAIT_MAX_S))
        return self.result()

    def add_callback(self, fn: Callable[[Request], object]) -> None:
        """Have ``fn(request)`` called once on the completing thread; at once if the request is done.

        An exception in it goes to ``sys.unraisablehook`` and stops nothing. TypeError if it cannot be called.
        """
        if not callable(fn):
            raise TypeError(f"a callback is called with the request, which {fn!r} cannot be")
        callbacks = self._callbacks
        if callbacks is None:
            callbacks = self._callbacks = []
        callbacks.append(fn)
        # The completing thread may have looked just before the append. pop() is atomic, so whoever of the two
        # finds the callback runs it, once.
        if self.done:
            self.run_callbacks()

    def __await__(self) -> Generator[Any, None, np.ndarray | None]:
        """Await completion from asyncio; in virtual time the simulation is run until the request is done."""
        import asyncio

        if not self.done and self._path is not None:
            if self._path.runtime.virtual:
                self._path.wait(self, None)
                yield from asyncio.sleep(0).__await__()
            else:
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()

                def wake() -> None:
                    if not future.done():
                        future.set_result(None)

                self.add_callback(lambda _request: loop.call_soon_threadsafe(wake))
                yield from future.__await__()
        return self.result()

    def describe(self) -> str:
        """The command in words, for messages."""
        where = f"{opcode_name(self.opcode, self.admin)} nsid {self.nsid}"
        if self.nlb:
            where += f" slba {self.slba} nlb {self.nlb}"
        if self.qid >= 0:
            where += f" (qid {self.qid} cid {self.cid:#06x})"
        return where

    def __repr__(self) -> str:
        state = "pending" if not self.done else f"status {self._status:#x}"
        return f"<Request {self.serial} {self.describe()} {state}>"

    # For the driver ---------------------------------------------------------------------------------

    def mark_done(self) -> None:
        """Make the outcome visible and wake who waits. Called once, by the completing side."""
        # done is stored before _completion is read, and a waiter stores _completion before it reads done:
        # one of the two always sees the other.
        self.done = True
        completion = self._completion
        if completion is not None:
            completion.complete_all()

    def run_callbacks(self) -> None:
        """Run each callback that nobody has run yet."""
        callbacks = self._callbacks
        while callbacks:
            try:
                fn = callbacks.pop(0)
            except IndexError:
                return
            try:
                fn(self)
            except BaseException as error:
                if not is_failure(error):
                    raise
                report_unraisable(error, f"callback {fn!r} of {self.describe()}")

    def finish(self) -> None:
        """mark_done, then the callbacks."""
        self.done = True
        completion = self._completion
        if completion is not None:
            completion.complete_all()
        if self._callbacks:
            self.run_callbacks()


class SplitRequest(Request):
    """A request larger than one command may be: its parts are requests, it is done when all of them are.

    Its status is that of the failed part with the lowest LBA, 0 if all succeeded.
    """

    __slots__ = ("_left", "parts")

    def __init__(self, parts: list[Request], opcode: int, nsid: int, slba: int, nlb: int) -> None:
        super().__init__(opcode, nsid, slba, nlb)
        self.parts = parts
        self._left = list(range(len(parts)))

    def watch(self) -> None:
        """Attach to the parts; called before they are submitted."""
        for part in self.parts:
            part.add_callback(self._part_done)

    def _part_done(self, _part: Request) -> None:
        # list.pop is atomic: exactly one part draws the 0, also when parts end on two threads, and by then
        # every part has its status.
        if self._left.pop() == 0:
            self._status = next((part._status for part in self.parts if part._status), 0)
            self.finish()


def report_unraisable(error: BaseException, where: str) -> None:
    """Report an exception that no caller can receive, as the interpreter does."""
    sys.unraisablehook(
        SimpleNamespace(
            exc_type=type(error),
            exc_value=error,
            exc_traceback=error.__traceback__,
            err_msg=f"Exception ignored in {where}",
            object=None,
        )
    )
