"""What this transport asks of the device it carries, and the error that refuses a client's request."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from nvme_emu.core.ports import PassiveDevice
from nvme_emu.transports.vfio_user.bars import Buffers

__all__ = ["CompletionRing", "NvmeFunction", "RequestError", "SubmissionRing"]


class RequestError(Exception):
    """A client's request is refused with `errno`; the message tells the server's log why."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"{errno.errorcode.get(number, number)} ({os.strerror(number)}): {why}")
        self.errno = number


class SubmissionRing(Protocol):
    """A submission queue: what must be fetched when memory is reached by messages."""

    @property
    def base(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def tail(self) -> int: ...


class CompletionRing(Protocol):
    """A completion queue; `tail` is where the next completion goes."""

    @property
    def base(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def tail(self) -> int: ...


class _Rings(Protocol):
    @property
    def sqs(self) -> Mapping[int, SubmissionRing]: ...
    @property
    def cqs(self) -> Mapping[int, CompletionRing]: ...


class _Shadow(Protocol):
    """Shadow doorbells that the host has set up."""

    def look(self) -> bool:
        """Take what is new there; whether anything is."""
        ...


class _Pin(Protocol):
    """The interrupt pin."""

    in_use: bool

    @property
    def asserted(self) -> bool: ...
    def use(self, in_use: bool) -> None: ...


class _Interrupts(Protocol):
    def is_pending(self, vector: int) -> bool: ...


class _Checker(Protocol):
    """Who watches the host."""

    def aside(self) -> AbstractContextManager[None]: ...
    def host_left(self) -> None: ...


class _Config(Protocol):
    @property
    def vid(self) -> int: ...
    @property
    def ssvid(self) -> int: ...
    @property
    def device_id(self) -> int: ...
    @property
    def sn(self) -> str: ...
    @property
    def vectors(self) -> int: ...
    @property
    def bar_size(self) -> int: ...
    @property
    def doorbell_stride(self) -> int: ...
    @property
    def intx(self) -> bool: ...


class NvmeFunction(PassiveDevice, Protocol):
    """A passive controller whose queues and configuration can be looked at."""

    @property
    def config(self) -> _Config: ...
    @property
    def rings(self) -> _Rings: ...
    @property
    def interrupts(self) -> _Interrupts: ...
    @property
    def shadow(self) -> _Shadow | None: ...
    @property
    def pin(self) -> _Pin: ...
    @property
    def checker(self) -> _Checker | None: ...
    @property
    def buffers(self) -> Buffers: ...
