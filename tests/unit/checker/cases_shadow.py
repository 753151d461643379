"""How each rule about shadow doorbells is broken, and how it is nearly broken."""

from __future__ import annotations

from typing import Any

import numpy as np
from checkedhost import CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.page_pool import PagePool
from nvme_emu.driver.dbbuf import need_event
from nvme_emu.spec.commands import ABORT_CDW10
from nvme_emu.spec.opcodes import AdminOpcode

CONFIGURE = int(AdminOpcode.DOORBELL_BUFFER_CONFIG)
SHADOWED = {"config": ControllerConfig(shadow_doorbells=True)}
SQ, CQ = 2, 3  # words of queue 1


class Pages:
    """Two pages that the controller was told of, and a host that keeps to them."""

    def __init__(self, h: CheckedHost, shadow: int = 0, events: int = 0) -> None:
        self.h = h
        self.shadow_addr, self.events_addr = shadow or h.pages(), events or h.pages()
        assert h.admin_command(CONFIGURE, prp1=self.shadow_addr, prp2=self.events_addr) == 0
        self.shadow, self.events = self._words(self.shadow_addr), self._words(self.events_addr)

    def _words(self, addr: int) -> memoryview:
        view, at = self.h.memory.find(addr, PAGE)
        return view[at : at + PAGE].cast("I")

    def store(self, word: int, value: int) -> bool:
        """Write a word; whether the doorbell has to be rung."""
        old, self.shadow[word] = self.shadow[word], value
        return need_event(self.events[word], value, old)

    def begin(self, **fields: int) -> None:
        """A command that is on its way."""
        self.h.put(**fields)
        if self.store(SQ, self.h.io.tail):
            self.h.io.ring()
        self.h.step()

    def end(self) -> None:
        """Let everything end, and take it."""
        self.h.step(self.h.now_ns + 100_000)
        if self.h.io.reap(ring=False) and self.store(CQ, self.h.io.head):
            self.h.io.ring_cq()
        self.h.step()

    def several(self, count: int) -> None:
        for cid in range(count):
            self.begin(cid=cid)
            self.end()


def good_pages(h: CheckedHost) -> None:
    Pages(h.ready()).several(40)


def bad_memory_offset(h: CheckedHost) -> None:
    h.ready().admin_command(CONFIGURE, prp1=h.pages(offset=64), prp2=h.pages())


def bad_memory_outside(h: CheckedHost) -> None:
    h.ready().admin_command(CONFIGURE, prp1=h.pages(), prp2=1 << 50)


def bad_memory_same(h: CheckedHost) -> None:
    page = h.ready().pages()
    h.admin_command(CONFIGURE, prp1=page, prp2=page)


def bad_memory_queue(h: CheckedHost) -> None:
    h.ready().admin_command(CONFIGURE, prp1=h.pages(), prp2=h.io.sq)


def bad_freed_removed(h: CheckedHost) -> None:
    region = h.ready().memory.add_region(np.zeros(PAGE, np.uint8))
    pages = Pages(h, shadow=region.base)
    pages.several(2)
    h.memory.remove_region(region)
    h.put()
    h.io.ring()


def bad_freed_pool(h: CheckedHost) -> None:
    h.ready()
    pool = PagePool(h.memory, 4, PAGE, False)
    page = pool.alloc(zero=True)
    Pages(h, events=page).several(2)
    pool.free(page)


def good_freed(h: CheckedHost) -> None:
    h.ready()
    pool = PagePool(h.memory, 4, PAGE, False)
    page = pool.alloc(zero=True)
    Pages(h, events=page).several(2)
    h.down()
    pool.free(page)


def bad_reserved(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    h.put()
    pages.store(SQ, 1 << 16 | h.io.tail)
    h.io.ring()
    h.step()


def bad_not_written(h: CheckedHost) -> None:
    Pages(h.ready())
    h.do()


def bad_differs(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    pages.several(2)
    h.put()
    pages.store(SQ, h.io.tail)
    h.doorbell(1, h.io.tail - 1)


def bad_missing_abort(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    pages.several(2)
    h.put(cid=9)
    assert pages.store(SQ, h.io.tail)
    h.admin_command(AdminOpcode.ABORT, cdw10=ABORT_CDW10.pack(sqid=1, cid=9))


def bad_missing_reset(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    pages.several(2)
    h.put(cid=9)
    assert pages.store(SQ, h.io.tail)
    h.cc(en=0)


def good_missing(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    pages.several(2)
    h.put(cid=9)
    assert pages.store(SQ, h.io.tail)
    h.step()  # the controller meets it before the host looks at EventIdx
    assert not need_event(pages.events[SQ], h.io.tail, h.io.tail - 1)
    h.admin_command(AdminOpcode.ABORT, cdw10=ABORT_CDW10.pack(sqid=1, cid=9))
    pages.end()
    pages.several(3)


def bad_event_idx(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    pages.several(2)
    pages.events[SQ] = 0
    pages.several(1)


def bad_tail_overrun(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    for cid in range(3):
        pages.begin(cid=cid)
    pages.store(SQ, 2)
    h.step()


def bad_tail_range(h: CheckedHost) -> None:
    Pages(h.ready()).store(SQ, 16)
    h.step()


def bad_head_past_tail(h: CheckedHost) -> None:
    pages = Pages(h.ready())
    pages.several(2)
    pages.store(CQ, 5)
    h.step()


CASES: dict[str, tuple[list[Any], Any]] = {
    "shadow-memory": ([bad_memory_offset, bad_memory_outside, bad_memory_same, bad_memory_queue], good_pages),
    "shadow-freed": ([bad_freed_removed, bad_freed_pool], good_freed),
    "shadow-reserved": ([bad_reserved], good_pages),
    "shadow-not-written": ([bad_not_written], good_pages),
    "shadow-differs": ([bad_differs], good_pages),
    "shadow-doorbell-missing": ([bad_missing_abort, bad_missing_reset], good_missing),
    "event-idx-written": ([bad_event_idx], good_pages),
}
OPTIONS: dict[str, dict[str, Any]] = dict.fromkeys(CASES, SHADOWED)
THROUGH_THE_PAGE = {
    "sq-overrun": bad_tail_overrun, "sq-tail-range": bad_tail_range, "cq-head-past-tail": bad_head_past_tail,
}  # fmt: skip
"""Rules about doorbells, which hold for their shadows too."""
