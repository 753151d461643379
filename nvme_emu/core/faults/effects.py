"""What a fault does: one frozen class a kind, each with the occurrences it can answer.

    kind          of                          what happens
    status        a command                   it ends with any status
    media_error   reads of bad blocks         a media status, until a write heals the blocks
    corrupt       a Read or Write             bits flip, data is torn, stale, or of another place
    drop          a command                   it is never completed
    delay         a command                   its completion comes later; others are not held up
    duplicate     a completion                it is written twice
    reorder       a completion                others overtake it
    cqe           a completion                wrong CID, SQID, SQHD, dword 0 or phase
    torn_cqe      a completion                its phase is there before the rest of it
    interrupt     a completion, a vector      lost, late, or without a reason
    payload       Identify, logs, features    bytes of the answer are replaced
    tcp           a command over NVMe/TCP     digest error, PDU cut, connection lost
    doorbell      a doorbell write            lost or late
    register      a property access           it lies, or ignores what is written
    stall         enable, disable, shutdown   takes longer, or never ends
    cfs           anything                    CSTS.CFS
    reset         anything                    the controller resets by itself
    remove        anything                    surprise removal: all ones; it may come back
    power_loss    anything                    the volatile cache is lost; power may come back
    temperature   anything                    the Composite Temperature changes
    pause         anything                    firmware activation: CSTS.PP, nothing is processed
    zone          anything                    a zone is Read Only or Offline, and hosts are told
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from nvme_emu.core.faults.match import OCCURRENCES
from nvme_emu.core.faults.values import (
    Clause,
    FaultError,
    bounded,
    byte_string,
    choice,
    duration,
    flag,
    integer,
    nearest,
    option,
    optional,
)
from nvme_emu.spec.queues import CQE_SIZE
from nvme_emu.spec.status import STATUS_CODE_MASK, Status

__all__ = [
    "EFFECTS",
    "CfsEffect",
    "CorruptEffect",
    "CqeEffect",
    "DelayEffect",
    "DoorbellEffect",
    "DropEffect",
    "DuplicateEffect",
    "Effect",
    "InterruptEffect",
    "MediaErrorEffect",
    "PauseEffect",
    "PayloadEffect",
    "PowerLossEffect",
    "RegisterEffect",
    "RemoveEffect",
    "ReorderEffect",
    "ResetEffect",
    "StallEffect",
    "StatusEffect",
    "TcpEffect",
    "TemperatureEffect",
    "TornCqeEffect",
    "ZoneEffect",
]

_COMMAND: Final = frozenset({"command"})
_ANYTHING: Final = frozenset(OCCURRENCES)
PAYLOAD_MAX: Final = 1 << 20
"""Bytes of one patch: more than any structure of Identify, log pages and features has."""


def _status_code(value: Any) -> int:
    """A status by its number (SCT << 8 | SC), its name in `Status`, or the specification's words."""
    if not isinstance(value, str) or value.strip()[:1].isdigit():
        return integer(value, 0, STATUS_CODE_MASK)
    key = value.strip().upper().replace(" ", "_").replace("-", "_")
    words = {one.words.upper().replace(" ", "_").replace("-", "_"): one for one in Status}
    if key in Status.__members__:
        return int(Status[key])
    if key in words:
        return int(words[key])
    raise FaultError(f"{value!r} is no status{nearest(key, [*Status.__members__, *words])}")


def _status_name(code: int) -> str | int:
    found = Status._value2member_map_.get(code)
    return code if found is None else str(found.name)


def _status_option(default: int | None = None) -> Any:
    return option(optional(_status_code), default, lambda code: _status_name(code))


class Effect(Clause):
    """The base of all kinds. `kind` is its key in files, `on` the occurrences that it can answer."""

    __slots__ = ()
    kind: ClassVar[str]
    on: ClassVar[frozenset[str]] = _COMMAND


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEffect(Effect):
    """The command ends with `code` (a name, the specification's words, or SCT << 8 | SC).

    `dnr` is Do Not Retry, `crd` the Command Retry Delay index, `more` the More bit (None: set as the error
    log says). With `executed` the command has its effect first, and only its answer is wrong.
    """

    kind = "status"
    code: int = _status_option()
    dnr: bool = option(flag, False)
    crd: int = option(bounded(0, 3), 0)
    more: bool | None = option(optional(flag))
    executed: bool = option(flag, False)

    def check(self) -> None:
        """Raises FaultError when there is no code."""
        if self.code is None:
            raise FaultError("a status needs its code", ("code",))


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaErrorEffect(Effect):
    """The blocks of the match's `lba` cannot be read until they are written.

    Reads, Compares and Verifies that touch a bad block are the rule's hits. With `grown` no block is bad at
    first: a read that fires makes its own blocks bad, and they stay so. `code` None is Unrecovered Read Error.
    """

    kind = "media_error"
    code: int | None = _status_option()
    dnr: bool = option(flag, False)
    grown: bool = option(flag, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptEffect(Effect):
    """The data of a Read on its way to the host, or of a Write on its way to the medium, is wrong.

    bit_flip     `bits` bits are inverted: at `at_bit` of the data, or where the rule's stream says
    torn         only the first `nbytes` bytes arrive (None: half of them); the others keep what was there
    stale        a Write is acknowledged and lost; a Read gives what the blocks held before they were last
                 written while the rule was there (without such a write it is no hit)
    misdirected  the blocks `distance` further on are read or written instead (None: the next ones)
    """

    kind = "corrupt"
    how: str = option(choice("bit_flip", "torn", "stale", "misdirected"), "bit_flip")
    bits: int = option(bounded(1, 4096), 1)
    at_bit: int | None = option(optional(bounded(0)))
    nbytes: int | None = option(optional(bounded(0)))
    distance: int | None = option(optional(bounded(1)))

    def check(self) -> None:
        """Raises FaultError for a value that this way of corrupting does not use."""
        users = {"at_bit": "bit_flip", "nbytes": "torn", "distance": "misdirected"}
        for name, how in users.items():
            if getattr(self, name) is not None and self.how != how:
                raise FaultError(f"only how = {how!r} uses it, not {self.how!r}", (name,))


@dataclass(frozen=True, slots=True, kw_only=True)
class DropEffect(Effect):
    """No completion, ever. With `executed` the command has its effect and only the answer is lost.

    While `abortable` the command stays in flight: Abort finds and ends it. Otherwise the controller has
    forgotten it, and an Abort comes too late.
    """

    kind = "drop"
    executed: bool = option(flag, False)
    abortable: bool = option(flag, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayEffect(Effect):
    """The completion comes `ns` later, and up to `jitter_ns` more from the rule's stream."""

    kind = "delay"
    ns: int = option(duration, 0)
    jitter_ns: int = option(duration, 0)

    def check(self) -> None:
        """Raises FaultError for no delay at all."""
        if not self.ns + self.jitter_ns:
            raise FaultError("0: a delay takes time", ("ns",))


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateEffect(Effect):
    """The completion is written once more, at once or `after_ns` later. A full queue takes no second one."""

    kind = "duplicate"
    after_ns: int = option(duration, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReorderEffect(Effect):
    """The completion waits until `behind` others of its queue were written, at most `hold_ns`."""

    kind = "reorder"
    behind: int = option(bounded(1, 65535), 1)
    hold_ns: int = option(duration, 1_000_000)

    def check(self) -> None:
        """Raises FaultError for a hold of no time."""
        if not self.hold_ns:
            raise FaultError("0: a completion that is not held cannot be overtaken", ("hold_ns",))


@dataclass(frozen=True, slots=True, kw_only=True)
class CqeEffect(Effect):
    """Fields of the completion have these values; with `phase` the Phase Tag is inverted.

    `cid_xor` is laid over the true CID, so that for example its generation bits are wrong.
    """

    kind = "cqe"
    cid: int | None = option(optional(bounded(0, 0xFFFF)))
    cid_xor: int = option(bounded(0, 0xFFFF), 0)
    sqid: int | None = option(optional(bounded(0, 0xFFFF)))
    sqhd: int | None = option(optional(bounded(0, 0xFFFF)))
    dw0: int | None = option(optional(bounded(0, 0xFFFF_FFFF)))
    phase: bool = option(flag, False)

    def check(self) -> None:
        """Raises FaultError when nothing is wrong."""
        fields = (self.cid, self.sqid, self.sqhd, self.dw0)
        if all(field is None for field in fields) and not self.cid_xor and not self.phase:
            raise FaultError("no field of the completion is named")
        if self.cid is not None and self.cid_xor:
            raise FaultError("cid and cid_xor are given: one of them at most", ("cid_xor",))


@dataclass(frozen=True, slots=True, kw_only=True)
class TornCqeEffect(Effect):
    """The Phase Tag is visible while the first `stale_bytes` of the entry are old; they come `after_ns`."""

    kind = "torn_cqe"
    stale_bytes: int = option(bounded(1, CQE_SIZE - 2), CQE_SIZE - 2)
    after_ns: int = option(duration, 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptEffect(Effect):
    """lost: no message is sent. late: it is sent `ns` later. spurious: `vector` is raised for no reason.

    On a command it is the message of its completion, on = "interrupt" any message of the vector.
    """

    kind = "interrupt"
    on = _ANYTHING
    how: str = option(choice("lost", "late", "spurious"), "lost")
    ns: int = option(duration, 0)
    vector: int | None = option(optional(bounded(0, 2047)))

    def check(self) -> None:
        """Raises FaultError for values that do not go with `how`."""
        if (self.how == "late") != bool(self.ns):
            raise FaultError(f"{self.ns}: how = 'late', and only that, takes time", ("ns",))
        if (self.how == "spurious") != (self.vector is not None):
            raise FaultError("how = 'spurious', and only that, names a vector", ("vector",))


def _patches(value: Any) -> tuple[tuple[int, bytes], ...]:
    if not isinstance(value, list | tuple) or not value:
        raise FaultError(f"{value!r}: a list of patches, each with offset and bytes, is needed")
    patches = []
    for number, one in enumerate(value):
        if isinstance(one, Mapping):
            if set(one) != {"offset", "bytes"}:
                raise FaultError(f"{dict(one)!r}: a patch has offset and bytes", (number,))
            one = (one["offset"], one["bytes"])
        if not isinstance(one, list | tuple) or len(one) != 2:
            raise FaultError(f"{one!r}: a patch is an offset and bytes", (number,))
        patches.append((integer(one[0], 0, PAYLOAD_MAX), byte_string(PAYLOAD_MAX)(one[1])))
    return tuple(patches)


def _emit_patches(patches: tuple[tuple[int, bytes], ...]) -> list[dict[str, Any]]:
    return [{"offset": offset, "bytes": data.hex()} for offset, data in patches]


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadEffect(Effect):
    """Bytes of what Identify, Get Log Page or Get Features sends are replaced.

    `patches` are (offset, bytes); offsets count from the start of the structure or log page, also when the
    host reads a part of the page. What lies outside the transfer is not sent.
    """

    kind = "payload"
    patches: tuple[tuple[int, bytes], ...] = option(_patches, (), _emit_patches)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpEffect(Effect):
    """On NVMe/TCP: the command's answer has a wrong digest, is cut after `nbytes`, or the connection is lost.

    Only a transport that declares the kind takes such a rule.
    """

    kind = "tcp"
    how: str = option(choice("header_digest", "data_digest", "pdu_cut", "disconnect"), "disconnect")
    nbytes: int | None = option(optional(bounded(0)))

    def check(self) -> None:
        """Raises FaultError for a length where nothing is cut."""
        if self.nbytes is not None and self.how != "pdu_cut":
            raise FaultError(f"only how = 'pdu_cut' uses it, not {self.how!r}", ("nbytes",))


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorbellEffect(Effect):
    """lost: the write does nothing (a rule that fires always is a stuck doorbell). late: it counts `ns` later."""

    kind = "doorbell"
    on = frozenset({"doorbell"})
    how: str = option(choice("lost", "late"), "lost")
    ns: int = option(duration, 0)

    def check(self) -> None:
        """Raises FaultError for values that do not go with `how`."""
        if (self.how == "late") != bool(self.ns):
            raise FaultError(f"{self.ns}: how = 'late', and only that, takes time", ("ns",))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterEffect(Effect):
    """The bits of `mask` read, or are written, as those of `value`. `ignore` drops a write."""

    kind = "register"
    on = frozenset({"register"})
    value: int = option(bounded(0), 0)
    mask: int = option(bounded(0), 0)
    ignore: bool = option(flag, False)

    def check(self) -> None:
        """Raises FaultError when nothing would change, or both are asked for."""
        if bool(self.mask) == self.ignore:
            raise FaultError("either a mask of the bits that are wrong or ignore = true is needed", ("mask",))


@dataclass(frozen=True, slots=True, kw_only=True)
class StallEffect(Effect):
    """The transition takes `ns` longer; None: it never ends (RDY never comes or goes, SHST stays)."""

    kind = "stall"
    on = frozenset({"enable", "disable", "shutdown"})
    ns: int | None = option(optional(duration))


@dataclass(frozen=True, slots=True, kw_only=True)
class CfsEffect(Effect):
    """Controller Fatal Status: nothing is processed until the host resets the controller."""

    kind = "cfs"
    on = _ANYTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetEffect(Effect):
    """The controller loses queues, commands and properties by itself; `nssro` tells of it in CSTS."""

    kind = "reset"
    on = _ANYTHING
    nssro: bool = option(flag, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveEffect(Effect):
    """Surprise removal: reads give all ones, writes are lost. It is back after `return_ns`; None: never.

    `kept_ppm` is as with a loss of power, which it is for the device.
    """

    kind = "remove"
    on = _ANYTHING
    return_ns: int | None = option(optional(duration))
    kept_ppm: int = option(bounded(0, 1_000_000), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLossEffect(Effect):
    """Power is gone for `off_ns` (None: for good), and with it every block written and not flushed.

    Of those blocks the rule's stream keeps `kept_ppm` in a million, each by itself: a cache that had begun to
    write back. While power is off reads give all ones.
    """

    kind = "power_loss"
    on = _ANYTHING
    off_ns: int | None = option(optional(duration))
    kept_ppm: int = option(bounded(0, 1_000_000), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureEffect(Effect):
    """The Composite Temperature becomes `kelvin`; thresholds and events follow from it."""

    kind = "temperature"
    on = _ANYTHING
    kelvin: int = option(bounded(0, 0xFFFF), 310)


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseEffect(Effect):
    """A firmware activation: CSTS.PP for `ns`, with a Firmware Activation Starting notice before it."""

    kind = "pause"
    on = _ANYTHING
    ns: int = option(duration, 0)

    def check(self) -> None:
        """Raises FaultError for a pause of no time."""
        if not self.ns:
            raise FaultError("0: a pause takes time", ("ns",))


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneEffect(Effect):
    """The medium below `zone` (its number) of zoned namespace `nsid` fails: it is read-only or offline from now on.

    A namespace, a zone or a state in which that cannot be is left as it is.
    """

    kind = "zone"
    on = _ANYTHING
    zone: int = option(bounded(0, 0xFFFF_FFFF), 0)
    nsid: int = option(bounded(1, 0xFFFF_FFFE), 1)
    state: str = option(choice("read-only", "offline"), "offline")


EFFECTS: Final[dict[str, type[Effect]]] = {
    one.kind: one
    for one in (
        StatusEffect, MediaErrorEffect, CorruptEffect, DropEffect, DelayEffect, DuplicateEffect, ReorderEffect,
        CqeEffect, TornCqeEffect, InterruptEffect, PayloadEffect, TcpEffect, DoorbellEffect, RegisterEffect,
        StallEffect, CfsEffect, ResetEffect, RemoveEffect, PowerLossEffect, TemperatureEffect, PauseEffect, ZoneEffect,
    )
}  # fmt: skip
"""Every kind by its key in files."""
