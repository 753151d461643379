"""What the specification's room raises when it is given something that does not fit."""

from __future__ import annotations

__all__ = ["LayoutError"]


class LayoutError(ValueError):
    """A value, a name or a length does not fit the structure it was given for; the message says which."""
