"""A small Linux in QEMU, built from Debian's packages, to attach emulated SSDs to. Standard library only."""

from __future__ import annotations

__all__ = ["build", "cache", "guest", "images", "packages", "qemu"]
