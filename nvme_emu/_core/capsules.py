"""Runs of NVMe/TCP commands: what a message transport does for each plain command of many, on both sides.

The same functions in C are in capsules.c. Each goes on while what it sees is plain, and leaves the rest to its
caller; nothing is half done when it returns.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["put_answers", "take_answers", "take_completions", "take_reads"]

_C2H_DATA, _RESPONSE, _FLAG_LAST, _FLAG_SUCCESS = 7, 5, 4, 8
_READ, _PSDT_SGL, _SGL_TRANSPORT, _NLB_MASK = 2, 0x40, 0x5A, 0xFFFF
_SQE_BYTES, _CQE_BYTES, _PAGE, _PRP1_AT = 64, 16, 4096, 24
# Common header, then cid, tag, offset, length.
_DATA = struct.Struct("<BBBBIHHII4x")
_BARE_RESPONSE = struct.pack("<BBBBI", _RESPONSE, 0, 24, 0, 24)
# Opcode, flags, cid, nsid; SGL1's length and type; CDW12.
_HEAD = struct.Struct("<BBHI24xI3xB8xI12x")
_PRPS = struct.Struct("<QQ")
# Dwords 0 and 1 as one, SQHD, SQID, CID, status over phase.
_CQE = struct.Struct("<QHHHH")


def take_answers(
    stream: memoryview,
    start: int,
    end: int,
    buffers: dict[int, memoryview],
    done: list[tuple[int, int, int]],
) -> int:
    """Whole PDUs at the front of ``stream[start:end]``, without digests: data for reads, and completions.

    Data goes to the command's entry of ``buffers``; what has ended is taken out there and appended to ``done`` as
    (cid, dwords 0 and 1, status). Gives where the first PDU begins that is not plain.
    """
    while end - start >= _DATA.size:
        kind, flags, hlen, pdo, plen, cid, _, datao, datal = _DATA.unpack_from(stream, start)
        if kind == _C2H_DATA:
            following = start + plen
            into = buffers.get(cid)
            if (
                following > end
                or into is None
                or plen != pdo + datal
                or pdo < hlen
                or hlen != _DATA.size
                or datao + datal > len(into)
                or flags & ~(_FLAG_LAST | _FLAG_SUCCESS)
            ):
                break
            into[datao : datao + datal] = stream[start + pdo : following]
            start = following
            if flags & _FLAG_SUCCESS:
                del buffers[cid]
                done.append((cid, 0, 0))
        elif stream[start : start + len(_BARE_RESPONSE)] == _BARE_RESPONSE:
            value, _, _, cid, status_p = _CQE.unpack_from(stream, start + len(_BARE_RESPONSE))
            buffers.pop(cid, None)
            done.append((cid, value, status_p >> 1))
            start += _DATA.size
        else:
            break
    return start


def take_reads(
    stream: memoryview,
    start: int,
    stride: int,
    end: int,
    ring: memoryview,
    geometry: tuple[int, int, int, int],
    listed: bytearray,
    commands: dict[int, tuple[int, int]],
    free: list[int],
    namespaces: Mapping[int, Any],
    tail: int,
    room: int,
) -> tuple[int, int, int]:
    """The plain reads at the front of a row of commands, ``stride`` bytes apart, into the ring from ``tail`` on.

    ``geometry`` is (entries of the ring, bytes of a slot, address of slot 0, address of its PRP list); ``listed``
    says whose list is written. Gives (where the first other command starts, the new tail, how many were taken).
    """
    size, slot_bytes, first_prp, lists = geometry
    taken = 0
    while start < end and free and taken < room:
        opcode, flags, cid, nsid, length, kind, cdw12 = _HEAD.unpack_from(stream, start)
        if opcode != _READ or flags != _PSDT_SGL or kind != _SGL_TRANSPORT or cid in commands:
            break
        namespace = namespaces.get(nsid)
        if namespace is None:
            break
        if namespace.wire_shift < 0:
            break
        nbytes = (cdw12 & _NLB_MASK) + 1 << namespace.wire_shift
        slot = free[-1]
        if nbytes > length or nbytes > slot_bytes or (nbytes > 2 * _PAGE and not listed[slot]):
            break
        free.pop()
        commands[cid] = slot, nbytes
        at = tail * _SQE_BYTES
        ring[at : at + _SQE_BYTES] = stream[start : start + _SQE_BYTES]
        ring[at + 1] = 0
        prp1, prp2 = first_prp + slot * slot_bytes, 0
        if nbytes > 2 * _PAGE:
            prp2 = lists + slot * _PAGE
        elif nbytes > _PAGE:
            prp2 = prp1 + _PAGE
        _PRPS.pack_into(ring, at + _PRP1_AT, prp1, prp2)
        tail += 1
        if tail == size:
            tail = 0
        taken += 1
        start += stride
    return start, tail, taken


def take_completions(
    ring: memoryview,
    head: int,
    phase: int,
    size: int,
    commands: dict[int, tuple[int, int]],
    free: list[int],
    unsent: list[int],
    data: memoryview,
    stride: int,
    sqhd: int,
    implied: bool,
    answers: list[tuple[int, bytes, memoryview | None]],
) -> tuple[int, int, int]:
    """What the controller has completed, as answers: (cid, entry, data for the host).

    An empty entry says that the data stands for it, where that is ``implied``. A slot whose data is to be sent goes
    to ``unsent``, any other one to ``free``. Gives (head, phase, how many).
    """
    seen = 0
    while seen < size:
        value, _, sqid, cid, status_p = _CQE.unpack_from(ring, head * _CQE_BYTES)
        if status_p & 1 != phase:
            break
        seen += 1
        head += 1
        if head == size:
            head = 0
            phase ^= 1
        slot, nbytes = commands.pop(cid, (-1, 0))
        if nbytes and status_p < 2:
            at = slot * stride
            unsent.append(slot)
            cqe = b"" if implied and not value else _CQE.pack(value, sqhd, sqid, cid, 0)
            answers.append((cid, cqe, data[at : at + nbytes]))
            continue
        if slot >= 0:
            free.append(slot)
        answers.append((cid, _CQE.pack(value, sqhd, sqid, cid, status_p & 0xFFFE), None))
    return head, phase, seen


def put_answers(answers: list[tuple[int, bytes, memoryview | None]], out: list[bytes | memoryview]) -> None:
    """Headers and data of answers as pieces to send, where there are neither digests nor padding."""
    for cid, cqe, data in answers:
        if data is not None:
            nbytes = len(data)
            flags = _FLAG_LAST if cqe else _FLAG_LAST | _FLAG_SUCCESS
            size = _DATA.size
            out.append(_DATA.pack(_C2H_DATA, flags, size, size, size + nbytes, cid, 0, 0, nbytes))
            out.append(data)
            if not cqe:
                continue
        out.append(_BARE_RESPONSE + cqe)
