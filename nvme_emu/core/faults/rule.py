"""A fault rule: what it is about (match), at which hits it fires (when), and what then happens (effects)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nvme_emu.core.faults.effects import EFFECTS, Effect, InterruptEffect
from nvme_emu.core.faults.match import Match, When
from nvme_emu.core.faults.values import FaultError, clause_of, flag, nearest, plain_of

__all__ = ["Rule", "as_rule", "named", "rule_from", "rule_problems", "rule_to_plain"]

_KEYS: Final = ("id", "armed", "match", "when", "then")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_ORDER = {kind: place for place, kind in enumerate(EFFECTS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A whole rule; frozen, comparable, and the same in Python, TOML and JSON.

    `id` names it (also its random stream); "" gets one when the rule is added. `effects` are one or several of
    different kinds, in the order of `EFFECTS`. A rule that is not `armed` counts nothing until it is.
    """

    id: str = ""
    match: Match
    when: When = field(default_factory=When)
    effects: tuple[Effect, ...]
    armed: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or (self.id and not _ID.fullmatch(self.id)):
            raise FaultError(f"{self.id!r}: 1 to 64 letters, digits and _ . : - are needed", ("id",))
        flag(self.armed)
        if not self.effects:
            raise FaultError("a rule without an effect does nothing", ("then",))
        kinds = [effect.kind for effect in self.effects]
        if len(set(kinds)) != len(kinds):
            twice = next(kind for kind in kinds if kinds.count(kind) > 1)
            raise FaultError("a rule has one effect of a kind", ("then", twice))
        object.__setattr__(self, "effects", tuple(sorted(self.effects, key=lambda e: _ORDER[e.kind])))
        for effect in self.effects:
            self._check_effect(effect)
        if self.when.period_ns is not None and self.match.on != "time":
            raise FaultError("only a rule on = 'time' has a period", ("when", "period_ns"))

    def _check_effect(self, effect: Effect) -> None:
        on = self.match.on
        if on not in effect.on:
            able = ", ".join(sorted(effect.on))
            raise FaultError(f"on = {on!r} has no {effect.kind}; it needs on = {able}", ("then", effect.kind))
        if effect.kind == "media_error" and self.match.lba is None:
            raise FaultError("the bad blocks are the match's lba: it is needed", ("match", "lba"))
        own_message = on in ("command", "interrupt")
        if isinstance(effect, InterruptEffect) and effect.how != "spurious" and not own_message:
            raise FaultError(f"on = {on!r} has no message that is {effect.how}", ("then", "interrupt"))

    def effect(self, kind: str) -> Effect | None:
        """The effect of this kind, if the rule has one."""
        return next((effect for effect in self.effects if effect.kind == kind), None)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its effects."""
        return tuple(effect.kind for effect in self.effects)


def rule_to_plain(rule: Rule) -> dict[str, Any]:
    """The rule as TOML and JSON hold it, without what has its default value."""
    plain: dict[str, Any] = {}
    if rule.id:
        plain["id"] = rule.id
    if not rule.armed:
        plain["armed"] = False
    plain["match"] = _shortest(rule.match)
    if when := plain_of(rule.when):
        plain["when"] = when
    plain["then"] = {effect.kind: plain_of(effect) for effect in rule.effects}
    return plain


def _shortest(match: Match) -> dict[str, Any]:
    """A match without what its other keys say anyway."""
    plain = plain_of(match)
    for key in ("on", "admin"):
        shorter = {name: value for name, value in plain.items() if name != key}
        try:
            if clause_of(Match, shorter) == match:
                plain = shorter
        except FaultError:
            continue  # the name of an admin and an I/O command: it has to be said which
    return plain


def rule_from(table: Any) -> Rule:
    """A rule from what a file holds. Raises the first FaultError, with the path of keys to the value."""
    rule, problems = _read(table)
    if rule is None:
        raise problems[0]
    return rule


def rule_problems(table: Any) -> list[FaultError]:
    """All that is wrong with a rule in a file."""
    return _read(table)[1]


def _read(table: Any) -> tuple[Rule | None, list[FaultError]]:
    if not isinstance(table, Mapping):
        return None, [FaultError(f"{table!r}: a rule is a table with match, when and then")]
    problems: list[FaultError] = []

    def part(make: Any, value: Any, *where: str) -> Any:
        try:
            return make(value)
        except FaultError as error:
            problems.append(error.inside(*where))
            return None

    for key in table:
        if key not in _KEYS:
            problems.append(FaultError(f"unknown key {key!r}{nearest(str(key), _KEYS)}", (str(key),)))
    match = part(lambda value: clause_of(Match, value), table.get("match", {}), "match")
    when = part(lambda value: clause_of(When, value), table.get("when", {}), "when")
    armed = part(flag, table.get("armed", True), "armed")
    effects = part(_effects_of, table.get("then", {}), "then")
    if effects is not None:
        made = [part(lambda value, k=kind: clause_of(EFFECTS[k], value), value, "then", kind)
                for kind, value in effects.items()]  # fmt: skip
    if problems:
        return None, problems
    try:
        rule = Rule(id=table.get("id", ""), match=match, when=when, effects=tuple(made), armed=armed)
    except FaultError as error:
        return None, [error]
    return rule, []


def _effects_of(table: Any) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        raise FaultError(f"{table!r}: a table of effects by kind is needed")
    for key in table:
        if key not in EFFECTS:
            raise FaultError(f"unknown effect {key!r}{nearest(str(key), EFFECTS)}", (str(key),))
    return table


def as_rule(given: Any) -> Rule:
    """A rule from a Rule, a table, or anything with an attribute `rule` (the DSL of `testing.faults`)."""
    if isinstance(given, Rule):
        return given
    if isinstance(given, Mapping):
        return rule_from(given)
    rule = getattr(given, "rule", None)
    if not isinstance(rule, Rule):
        raise FaultError(f"{given!r} is no fault rule: a Rule, a table, or fault.when(…) is needed")
    return rule


def named(rules: Iterable[Rule], taken: Iterable[str] = ()) -> list[Rule]:
    """The rules with an id each: those without one become "fault1", "fault2" … by their place.

    Raises FaultError when two have the same, or one is in `taken`.
    """
    seen = set(taken)
    result = []
    given = list(rules)
    own = {rule.id for rule in given if rule.id}
    number = 0
    for rule in given:
        while not rule.id:
            number += 1
            free = f"fault{number}"
            if free not in seen and free not in own:
                rule = replace(rule, id=free)
        if rule.id in seen:
            raise FaultError(f"{rule.id!r} names two rules", ("id",))
        seen.add(rule.id)
        result.append(rule)
    return result
