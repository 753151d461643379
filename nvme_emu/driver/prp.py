"""The PRP builder: from where the data lies to PRP1, PRP2 and lists (NVM Express Base 2.1, clause 4.1.1).

One page needs PRP1 alone and two need PRP2 as an address. From three on PRP2 points to a list, and the last
slot of a list page that is not the last chains to the next page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["ENTRY_BYTES", "list_pages_needed", "page_addresses", "write_prp_lists"]

ENTRY_BYTES = 8


def page_addresses(addr: int, nbytes: int, page_size: int) -> np.ndarray:
    """Addresses of the pages that ``nbytes`` from ``addr`` touch, the first with its offset (uint64)."""
    first = addr - addr % page_size
    count = -(-(addr + nbytes - first) // page_size)
    pages = np.uint64(first) + np.arange(count, dtype=np.uint64) * np.uint64(page_size)
    pages[0] = addr
    return pages


def list_pages_needed(entries: int, page_size: int) -> int:
    """How many list pages hold ``entries`` PRP entries (those after PRP1); 0 where PRP2 itself does."""
    if entries <= 1:
        return 0
    per_page = page_size // ENTRY_BYTES
    if entries <= per_page:
        return 1
    # Each page but the last gives one slot to the pointer to the next.
    return -(-(entries - 1) // (per_page - 1))


def write_prp_lists(
    pages: np.ndarray, list_addrs: Sequence[int], list_views: Sequence[np.ndarray], page_size: int
) -> tuple[int, int]:
    """Write the lists for a command's ``pages`` and give (PRP1, PRP2).

    ``list_views[i]`` is the uint64 view of the list page at address ``list_addrs[i]``; there must be
    ``list_pages_needed(len(pages) - 1)`` of them (ValueError otherwise). An unused PRP2 is 0.
    """
    prp1 = int(pages[0])
    rest = pages[1:]
    if len(rest) == 0:
        return prp1, 0
    if len(rest) == 1:
        return prp1, int(rest[0])
    needed = list_pages_needed(len(rest), page_size)
    if len(list_addrs) != needed or len(list_views) != needed:
        raise ValueError(
            f"{len(rest)} PRP entries need {needed} list pages of {page_size} bytes, not {len(list_views)}"
        )
    per_page = page_size // ENTRY_BYTES
    start = 0
    for index, view in enumerate(list_views[:-1]):
        view[: per_page - 1] = rest[start : start + per_page - 1]
        view[per_page - 1] = list_addrs[index + 1]
        start += per_page - 1
    list_views[-1][: len(rest) - start] = rest[start:]
    return prp1, list_addrs[0]
