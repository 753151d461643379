"""Fault rules in Python: say when, then what.

    from nvme_emu.testing import fault

    fault.when(opcode="read", lba=(0, 100), nth=3).status("Unrecovered Read Error", dnr=True)
    fault.when(opcode="write", probability=0.01).drop().named("lost-writes")
    fault.register("CAP").lie(mqes_z=1)
    fault.on_enable(nth=1).never()
    fault.at("5ms").power_loss(off="20ms")

Each gives a `Fault`, to which effects of other kinds can be added. `ssd.faults.add` and `open(faults=[…])`
take it as it is; `.rule` is the `Rule` that it stands for, which `dump_toml` and `dump_json` write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from nvme_emu.core.faults import EFFECTS, Effect, FaultError, Match, Rule, When
from nvme_emu.core.faults.values import integer, nearest
from nvme_emu.spec.bits import BitLayout
from nvme_emu.spec.queues import SQE, SQE_SIZE, Sqe
from nvme_emu.spec.registers import REGISTER_BITS, Reg

if TYPE_CHECKING:
    from nvme_emu.spec.base import Structure

__all__ = [
    "Fault",
    "RegisterFault",
    "at",
    "every",
    "manual",
    "on_disable",
    "on_enable",
    "on_shutdown",
    "register",
    "when",
]

_MATCH = frozenset(one.name for one in dataclasses.fields(Match))
_WHEN = frozenset(one.name for one in dataclasses.fields(When))

Duration = int | str
"""Nanoseconds, or text with a unit ("70us", "1.5ms", "2 s")."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A rule in the making: frozen, each method gives another one."""

    match: Match
    timing: When = dataclasses.field(default_factory=When)
    effects: tuple[Effect, ...] = ()
    id: str = ""
    is_armed: bool = True

    @property
    def rule(self) -> Rule:
        """The rule. FaultError while no effect was named, or where they do not go together."""
        return Rule(id=self.id, match=self.match, when=self.timing, effects=self.effects, armed=self.is_armed)

    def named(self, rule_id: str) -> Self:
        """With this id, which also chooses the random stream."""
        return dataclasses.replace(self, id=rule_id)

    def disarmed(self) -> Self:
        """Added, but not armed yet."""
        return dataclasses.replace(self, is_armed=False)

    def effect(self, kind: str, **values: Any) -> Self:
        """With an effect by its key in files."""
        if kind not in EFFECTS:
            raise FaultError(f"unknown effect {kind!r}{nearest(kind, EFFECTS)}")
        return dataclasses.replace(self, effects=(*self.effects, EFFECTS[kind](**values)))

    # -- commands -------------------------------------------------------------------------------------------

    def status(
        self,
        code: int | str,
        *,
        dnr: bool = False,
        crd: int = 0,
        more: bool | None = None,
        executed: bool = False,
    ) -> Self:
        """The command ends with this status (a name, the specification's words, or SCT << 8 | SC)."""
        return self.effect("status", code=code, dnr=dnr, crd=crd, more=more, executed=executed)

    def media_error(self, code: int | str | None = None, *, dnr: bool = False, grown: bool = False) -> Self:
        """The blocks of `lba` cannot be read until a write heals them."""
        return self.effect("media_error", code=code, dnr=dnr, grown=grown)

    def flip_bits(self, bits: int = 1, *, at_bit: int | None = None) -> Self:
        """Bits of the data are inverted."""
        return self.effect("corrupt", how="bit_flip", bits=bits, at_bit=at_bit)

    def torn(self, nbytes: int | None = None) -> Self:
        """Only the first bytes of the data arrive."""
        return self.effect("corrupt", how="torn", nbytes=nbytes)

    def stale(self) -> Self:
        """A write is acknowledged and lost; a read gives the version before the last write."""
        return self.effect("corrupt", how="stale")

    def misdirected(self, distance: int | None = None) -> Self:
        """Other blocks are read or written."""
        return self.effect("corrupt", how="misdirected", distance=distance)

    def drop(self, *, executed: bool = False, abortable: bool = True) -> Self:
        """The command is never completed."""
        return self.effect("drop", executed=executed, abortable=abortable)

    def delay(self, ns: Duration, *, jitter: Duration = 0) -> Self:
        """The completion comes later."""
        return self.effect("delay", ns=ns, jitter_ns=jitter)

    def duplicate(self, *, after: Duration = 0) -> Self:
        """The completion is written twice."""
        return self.effect("duplicate", after_ns=after)

    def reorder(self, behind: int = 1, *, hold: Duration = "1ms") -> Self:
        """Others overtake the completion."""
        return self.effect("reorder", behind=behind, hold_ns=hold)

    def completion(self, **wrong: Any) -> Self:
        """Fields of the completion are wrong: cid, cid_xor, sqid, sqhd, dw0, phase=True."""
        return self.effect("cqe", **wrong)

    def torn_completion(self, stale_bytes: int = 14, *, after: Duration = "1us") -> Self:
        """The phase is visible before the first bytes of the completion."""
        return self.effect("torn_cqe", stale_bytes=stale_bytes, after_ns=after)

    def patch(self, offset: int, data: bytes | str) -> Self:
        """Bytes of what Identify, Get Log Page or Get Features sends are replaced."""
        return self.patches([(offset, data)])

    def patches(self, patches: Sequence[tuple[int, bytes | str]]) -> Self:
        """Several places of the answer are replaced."""
        return self.effect("payload", patches=list(patches))

    def fields(self, structure: Structure, **values: Any) -> Self:
        """Fields of a structure of `nvme_emu.spec` are replaced: fields(IDENTIFY_CONTROLLER, mdts=1)."""
        built = structure.build(**values)
        places = dict(structure.offsets())
        ends = [*sorted(places.values()), structure.size]
        patches = []
        for name in values:
            start = places[name]
            patches.append((start, built[start : next(end for end in ends if end > start)]))
        return self.patches(patches)

    def tcp(self, how: str, *, nbytes: int | None = None) -> Self:
        """header_digest, data_digest, pdu_cut or disconnect."""
        return self.effect("tcp", how=how, nbytes=nbytes)

    # -- interrupts and doorbells ---------------------------------------------------------------------------

    def lose_interrupt(self) -> Self:
        """The message is not sent."""
        return self.effect("interrupt", how="lost")

    def late_interrupt(self, ns: Duration) -> Self:
        """The message is sent later."""
        return self.effect("interrupt", how="late", ns=ns)

    def spurious_interrupt(self, vector: int) -> Self:
        """A message is sent for no reason."""
        return self.effect("interrupt", how="spurious", vector=vector)

    def lose_doorbell(self) -> Self:
        """The doorbell write does nothing; always, that is a stuck doorbell."""
        return self.effect("doorbell", how="lost")

    def late_doorbell(self, ns: Duration) -> Self:
        """The doorbell write counts later."""
        return self.effect("doorbell", how="late", ns=ns)

    # -- the device -----------------------------------------------------------------------------------------

    def never(self) -> Self:
        """The transition (enable, disable, shutdown) never ends."""
        return self.effect("stall")

    def takes_longer(self, ns: Duration) -> Self:
        """The transition takes longer."""
        return self.effect("stall", ns=ns)

    def fatal(self) -> Self:
        """CSTS.CFS."""
        return self.effect("cfs")

    def reset(self, *, nssro: bool = False) -> Self:
        """The controller resets by itself."""
        return self.effect("reset", nssro=nssro)

    def remove(self, *, back_after: Duration | None = None, kept_ppm: int = 0) -> Self:
        """Surprise removal."""
        return self.effect("remove", return_ns=back_after, kept_ppm=kept_ppm)

    def power_loss(self, *, off: Duration | None = None, kept_ppm: int = 0) -> Self:
        """Power is gone for this time (None: for good), and the volatile cache with it."""
        return self.effect("power_loss", off_ns=off, kept_ppm=kept_ppm)

    def temperature(self, kelvin: int) -> Self:
        """The Composite Temperature changes."""
        return self.effect("temperature", kelvin=kelvin)

    def zone(self, zone: int, state: str = "offline", *, nsid: int = 1) -> Self:
        """A zone is "offline" or "read-only" from now on."""
        return self.effect("zone", zone=zone, state=state, nsid=nsid)

    def pause(self, ns: Duration) -> Self:
        """A firmware activation: CSTS.PP."""
        return self.effect("pause", ns=ns)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RegisterFault(Fault):
    """A rule on accesses to one property."""

    def lie(self, value: int | None = None, mask: int | None = None, **fields: int) -> Self:
        """The property reads (or is written) as `value` in the bits of `mask`, or with these fields."""
        reg = Reg[str(self.match.register)]
        if fields:
            layout: BitLayout | None = REGISTER_BITS.get(reg)
            if layout is None:
                raise FaultError(f"{reg.name} has no fields: give value and mask")
            return self.effect("register", value=layout.pack(**fields), mask=layout.mask(*fields))
        whole = (1 << 8 * reg.size) - 1
        return self.effect("register", value=value or 0, mask=whole if mask is None else mask)

    def ignore(self) -> Self:
        """What is written is dropped."""
        return self.effect("register", ignore=True)


def _timing(given: dict[str, Any]) -> When:
    unknown = next((key for key in given if key not in _WHEN), None)
    if unknown is not None:
        raise FaultError(f"unknown condition {unknown!r}{nearest(unknown, sorted(_MATCH | _WHEN))}")
    return When(**given)


def when(*, sqe: dict[str, int] | None = None, **conditions: Any) -> Fault:
    """A rule on commands (or what `on` says): the fields of `Match` and of `When` by name.

    `sqe` gives fields of the submission queue entry by name, as pattern and mask.
    """
    if sqe:
        everything = dict.fromkeys(Sqe._fields, 0)
        unknown = next((name for name in sqe if name not in everything), None)
        if unknown is not None:
            raise FaultError(f"unknown field {unknown!r} of the entry{nearest(unknown, everything)}")
        ones = Sqe._make(SQE.unpack(b"\xff" * SQE_SIZE))._asdict()
        for name, value in sqe.items():
            integer(value, 0, ones[name])
        conditions["pattern"] = SQE.pack(*{**everything, **sqe}.values())
        conditions["mask"] = SQE.pack(*{**everything, **{name: ones[name] for name in sqe}}.values())
    match = {key: value for key, value in conditions.items() if key in _MATCH}
    timing = {key: value for key, value in conditions.items() if key not in _MATCH}
    return Fault(match=Match(**match), timing=_timing(timing))


def register(name: str, **conditions: Any) -> RegisterFault:
    """A rule on accesses to a property: access "read" or "write", value and bits, and the fields of `When`."""
    match = {key: value for key, value in conditions.items() if key in _MATCH}
    timing = {key: value for key, value in conditions.items() if key not in _MATCH}
    return RegisterFault(match=Match(register=name, **match), timing=_timing(timing))


def at(time: Duration, **timing: Any) -> Fault:
    """A rule that fires when so much time has passed since it was added."""
    return Fault(match=Match(on="time"), timing=_timing({"from_ns": time, **timing}))


def every(period: Duration, **timing: Any) -> Fault:
    """A rule that fires again and again, for the first time after one period."""
    return Fault(match=Match(on="time"), timing=_timing({"from_ns": period, "period_ns": period, **timing}))


def manual() -> Fault:
    """A rule that only `fire()` sets off."""
    return Fault(match=Match(on="manual"))


def on_enable(**timing: Any) -> Fault:
    """A rule on CC.EN going to 1."""
    return Fault(match=Match(on="enable"), timing=_timing(timing))


def on_disable(**timing: Any) -> Fault:
    """A rule on CC.EN going to 0."""
    return Fault(match=Match(on="disable"), timing=_timing(timing))


def on_shutdown(**timing: Any) -> Fault:
    """A rule on CC.SHN being set."""
    return Fault(match=Match(on="shutdown"), timing=_timing(timing))
