"""Tags and the generations of command identifiers."""

from __future__ import annotations

import pytest

from nvme_emu.driver.tags import GENERATIONS, TAG_MASK, Tags


def test_take_gives_each_tag_once() -> None:
    tags = Tags(30)
    assert sorted(tags.take() for _ in range(30)) == list(range(30))
    with pytest.raises(IndexError):
        tags.take()


def test_release_changes_the_generation_and_wraps() -> None:
    tags = Tags(1)
    seen = []
    for _ in range(GENERATIONS + 1):
        tag = tags.take()
        seen.append(tags.cid[tag])
        tags.release(tag)
    assert len(set(seen)) == GENERATIONS
    assert seen[-1] == seen[0]
    assert all(cid & TAG_MASK == 0 for cid in seen)


@pytest.mark.parametrize("count", [0, -1, 4096])
def test_count_out_of_range_is_named(count: int) -> None:
    with pytest.raises(ValueError, match=str(count)):
        Tags(count)
