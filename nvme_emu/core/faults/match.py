"""Which occurrences a rule is about, and at which of them it fires.

An occurrence is something that happens to the device:

    on          happens when                                        matched by
    command     a command is fetched                                opcode, pattern, queue, nsid, lba, size …
    register    the host reads or writes a property                 register, access, value and bits
    doorbell    the host writes a doorbell                          queue, doorbell
    interrupt   a vector is about to be raised                      vector
    enable      CC.EN went from 0 to 1, before RDY comes            -
    disable     CC.EN went from 1 to 0, before RDY goes             -
    shutdown    CC.SHN was set, before SHST says complete           -
    time        the clock reaches `from_ns`, then every `period_ns` -
    manual      somebody calls `fire()`                             -
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from nvme_emu.core.faults.values import (
    Clause,
    FaultError,
    bounded,
    byte_string,
    choice,
    duration,
    flag,
    fraction,
    integer,
    integers,
    nearest,
    option,
    optional,
    span,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import SQE_SIZE
from nvme_emu.spec.registers import Reg

__all__ = ["DIRECTIONS", "OCCURRENCES", "Match", "When"]

_COMMAND_FIELDS = (
    "admin", "opcode", "queue", "nsid", "lba", "size", "direction", "pattern", "mask",
)  # fmt: skip

FIELDS_OF: Final[dict[str, tuple[str, ...]]] = {
    "command": _COMMAND_FIELDS,
    "register": ("register", "access", "value", "bits"),
    "doorbell": ("queue", "doorbell"),
    "interrupt": ("vector",),
    "enable": (),
    "disable": (),
    "shutdown": (),
    "time": (),
    "manual": (),
}
OCCURRENCES: Final = tuple(FIELDS_OF)
DIRECTIONS: Final = {"none": 0, "write": 1, "read": 2}
"""As bits 1:0 of an opcode say it (Base 2.1, Figure 89): "write" carries data to the device."""


def _one_or_many(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else list(values)


_REGISTERS = {reg.name: reg for reg in Reg if reg is not Reg.DOORBELLS}


def _opcodes(value: Any) -> tuple[int | str, ...]:
    many = [value] if isinstance(value, int | str) else value
    if not isinstance(many, list | tuple) or not many:
        raise FaultError(f"{value!r}: an opcode or a list of some is needed")
    return tuple(one if isinstance(one, str) else integer(one, 0, 0xFF) for one in many)


def _register(value: Any) -> str:
    if not isinstance(value, str) or value.upper() not in _REGISTERS:
        raise FaultError(f"{value!r} is no property{nearest(str(value).upper(), _REGISTERS)}")
    return value.upper()


def _opcode_named(name: str, admin: bool | None) -> tuple[int, bool]:
    """The opcode and whether it is an admin command's. FaultError for a name in neither set or in both."""
    key = name.strip().upper().replace(" ", "_").replace("-", "_").replace("/", "_")
    if key.startswith("0X") or key.isdigit():
        if admin is None:
            raise FaultError(f"opcode {name!r} needs admin = true or false beside it")
        return integer(name, 0, 0xFF), admin
    sets = {True: AdminOpcode, False: NvmOpcode}
    found = [one for one in (False, True) if key in sets[one].__members__ and admin in (None, one)]
    if not found:
        names = [member.lower() for one in (False, True) for member in sets[one].__members__]
        raise FaultError(f"{name!r} is no command{nearest(name.lower(), names)}")
    if len(found) > 1:
        raise FaultError(f"{name!r} is an admin and an I/O command: set admin to true or false")
    return int(sets[found[0]][key]), found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Clause):
    """What a rule is about: all that is given must hold.

    `opcode` is one or several numbers or names ("read", "get_log_page"; a name says admin or I/O by itself).
    `pattern` and `mask` (up to 64 bytes, as hexadecimal digits in files) are laid over the submission queue
    entry: entry & mask == pattern & mask; without a mask all bytes of the pattern count. `queue` and `nsid`
    are one or several identifiers. `lba` is [first, last]: the command's blocks share one with it.
    `size` is [least, most] in bytes of the command's blocks. `direction` is "read", "write" or "none".
    `value` and `bits` hold for register writes: written & bits == value & bits. Ranges include both ends.
    """

    on: str = option(optional(choice(*OCCURRENCES)))
    admin: bool | None = option(optional(flag))
    opcode: tuple[int | str, ...] | None = option(optional(_opcodes), emit=_one_or_many)
    queue: tuple[int, ...] | None = option(optional(integers(0, 0xFFFF)), emit=_one_or_many)
    nsid: tuple[int, ...] | None = option(optional(integers(0, 0xFFFF_FFFF)), emit=_one_or_many)
    lba: tuple[int, int] | None = option(optional(span((1 << 64) - 1)))
    size: tuple[int, int] | None = option(optional(span((1 << 64) - 1)))
    direction: str | None = option(optional(choice(*DIRECTIONS)))
    pattern: bytes | None = option(optional(byte_string(SQE_SIZE)), emit=bytes.hex)
    mask: bytes | None = option(optional(byte_string(SQE_SIZE)), emit=bytes.hex)
    register: str | None = option(optional(_register))
    access: str | None = option(optional(choice("read", "write")))
    value: int | None = option(optional(bounded(0)))
    bits: int | None = option(optional(bounded(0)))
    doorbell: str | None = option(optional(choice("sq", "cq")))
    vector: tuple[int, ...] | None = option(optional(integers(0, 2047)), emit=_one_or_many)

    def check(self) -> None:
        """Raises FaultError for fields that do not go together."""
        self._choose_occurrence()
        allowed = FIELDS_OF[self.on]
        for name in FIELDS_OF["command"] + FIELDS_OF["register"] + ("doorbell", "vector"):
            if getattr(self, name) is not None and name not in allowed:
                raise FaultError(f"{name!r} says nothing about on = {self.on!r}", (name,))
        if self.opcode is not None:
            self._name_opcodes(self.opcode)
        if self.pattern is not None:
            self._widen_pattern(self.pattern)
        elif self.mask is not None:
            raise FaultError("a mask needs a pattern", ("mask",))
        if self.on == "register" and self.register is None:
            raise FaultError("on = 'register' needs the register's name")
        if (self.value is not None or self.bits is not None) and self.access != "write":
            raise FaultError("value and bits compare what is written: they need access = 'write'")

    def _choose_occurrence(self) -> None:
        if self.on is None:
            told = {"register": self.register, "doorbell": self.doorbell, "interrupt": self.vector}
            on = next((one for one, value in told.items() if value is not None), "command")
            object.__setattr__(self, "on", on)

    def _name_opcodes(self, given: tuple[int | str, ...]) -> None:
        """Numbers become names where admin or I/O is known, names become the specification's."""
        try:
            admin = self.admin
            numbers = []
            for one in given:
                if isinstance(one, str):
                    one, admin = _opcode_named(one, admin)
                numbers.append(one)
        except FaultError as error:
            raise error.inside("opcode") from None
        object.__setattr__(self, "admin", admin)
        if admin is None:
            object.__setattr__(self, "opcode", tuple(sorted(set(numbers))))
            return
        known: dict[int, str] = {int(one): one.name.lower() for one in (AdminOpcode if admin else NvmOpcode)}
        names = tuple(known.get(one, one) for one in sorted(set(numbers)))
        object.__setattr__(self, "opcode", names)

    def _widen_pattern(self, pattern: bytes) -> None:
        mask = self.mask if self.mask is not None else b"\xff" * len(pattern)
        if len(mask) != len(pattern):
            raise FaultError(f"the mask has {len(mask)} bytes, the pattern {len(pattern)}", ("mask",))
        object.__setattr__(self, "mask", mask)

    @property
    def opcodes(self) -> frozenset[int] | None:
        """The opcodes as numbers; None for any."""
        if self.opcode is None:
            return None
        admin = bool(self.admin)
        return frozenset(
            one if isinstance(one, int) else _opcode_named(one, admin)[0] for one in self.opcode
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class When(Clause):
    """At which hits a rule fires; a hit is an occurrence that its match is about. Without any of them: each.

    `nth` counts hits from 1 (one number or several), `every` fires at each hit whose number it divides,
    `ppm` fires exactly that many times in a million hits, evenly spread, `probability` draws from the rule's
    own stream of the seed. `skip` lets the first hits pass before counting begins. Times are nanoseconds since
    the rule was added: `from_ns` included, `until_ns` excluded; `period_ns` repeats a rule on = "time".
    `times` ends the rule after so many firings.
    """

    nth: tuple[int, ...] | None = option(optional(integers(1, 1 << 62)), emit=_one_or_many)
    every: int | None = option(optional(bounded(1)))
    ppm: int | None = option(optional(bounded(0, 1_000_000)))
    probability: float | None = option(optional(fraction))
    skip: int = option(bounded(0), 0)
    times: int | None = option(optional(bounded(1)))
    from_ns: int = option(duration, 0)
    until_ns: int | None = option(optional(duration))
    period_ns: int | None = option(optional(duration))

    def check(self) -> None:
        """Raises FaultError for fields that do not go together."""
        given = [name for name in ("nth", "every", "ppm", "probability") if getattr(self, name) is not None]
        if len(given) > 1:
            raise FaultError(f"{' and '.join(given)} are given: one of them at most can choose the hits")
        if self.until_ns is not None and self.until_ns <= self.from_ns:
            raise FaultError(f"{self.until_ns}: the window from {self.from_ns} on is empty", ("until_ns",))
        if self.period_ns == 0:
            raise FaultError("0: a period takes time", ("period_ns",))
