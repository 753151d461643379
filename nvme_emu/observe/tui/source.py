"""What every source of frames can be asked; `live`, `attached` and `replay` are the three of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nvme_emu.observe.tui.frame import Frame

__all__ = ["Source"]


class Source(ABC):
    """Makes frames, and steers what they show. `frame` may be called by any one thread at a time."""

    barred: dict[str, str]
    """Controls that make no sense here, with the reason; see `PlayState`."""

    entries: int = 16
    """How many of the newest slots of each ring a frame has."""

    events: int = 0
    """How many of the newest events a frame has."""

    @abstractmethod
    def frame(self) -> Frame:
        """How things are now, or at the instant that was travelled to."""

    @abstractmethod
    def toggle_pause(self) -> None:
        """Pause, or go on."""

    def drawn(self) -> None:  # noqa: B027  most sources do not care
        """The last frame is on the screen."""

    def step(self, what: str) -> None:
        """Go on by one "event" or one "command", and pause. ValueError with the reason where it cannot."""
        raise ValueError(self.barred["step"])

    def slow(self, change: int) -> None:
        """So many steps slower (1) or faster (-1). ValueError with the reason where it cannot."""
        raise ValueError(self.barred["slow"])

    def travel(self, events: int) -> None:
        """So many events back (negative) or forth. ValueError with the reason where it cannot."""
        raise ValueError(self.barred["travel"])

    def travel_to(self, end: str) -> None:
        """To the "first" event that is recorded, or "now". ValueError with the reason where it cannot."""
        raise ValueError(self.barred["travel"])

    def arm(self, rule: str, armed: bool) -> None:
        """Arm or disarm a fault rule. ValueError with the reason where it cannot."""
        raise ValueError(self.barred.get("faults", "there are no fault rules"))

    def close(self) -> None:  # noqa: B027  most sources have nothing to end
        """End what belongs to this source."""
