"""Descriptors that came over a UNIX socket."""

from __future__ import annotations

import array
import socket

__all__ = ["received_descriptors"]


def received_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Those in `recvmsg`'s ancillary data; they are the caller's to close."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return list(fds)
