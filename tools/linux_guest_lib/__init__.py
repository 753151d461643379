"""A small Linux in QEMU, built from Debian's packages, to attach emulated SSDs to. Standard library only."""

from __future__ import annotations

__all__ = ["bench", "cache", "guest", "images", "packages", "qemu", "server"]
