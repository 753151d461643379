"""Integers that carry the specification's words for themselves."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Worded"]


class Worded(IntEnum):
    """A member is declared as `NAME = value, "words"`; it is the integer, and `.words` says it."""

    words: str

    def __new__(cls, value: int, words: str = "") -> Worded:
        member = int.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member

    @classmethod
    def name_of(cls, value: int) -> str | None:
        """The words for `value`; None for one that the specification does not define."""
        member = cls._value2member_map_.get(value)
        return member.words if isinstance(member, Worded) else None
