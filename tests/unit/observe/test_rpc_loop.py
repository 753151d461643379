"""A device that a loop's thread works: asked and changed there, and answered although the loop is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nvme_emu.controller import Controller, ControllerConfig
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub
from nvme_emu.observe import watched as watched_module
from nvme_emu.observe.rpc import Watched
from nvme_emu.observe.snapshot import controller_state, snapshot
from nvme_emu.transports.loop import Loop


@pytest.fixture
def served() -> Iterator[tuple[Watched, threading.Thread, Loop]]:
    loop, hub = Loop(), TraceHub()
    ctrl = Controller(ControllerConfig(), memory=HostMemory(), namespaces=[], trace=hub)
    thread = threading.Thread(target=loop.run)
    thread.start()
    found = Watched(controller=ctrl, trace=hub, lock=None, clock_ns=time.perf_counter_ns, inside=loop.call_soon)
    yield found, thread, loop
    loop.stop()
    thread.join()
    loop.close()


def test_reads_and_changes_happen_in_the_loops_thread(served: Any) -> None:
    watched, thread, _ = served
    assert snapshot(watched).consistent
    assert watched.read(lambda _: threading.get_ident()) == thread.ident
    assert watched.change(threading.get_ident) == thread.ident


def test_what_a_question_raises_reaches_who_asked(served: Any) -> None:
    watched, _, _ = served
    with pytest.raises(ZeroDivisionError):
        watched.change(lambda: 1 // 0)
    with pytest.raises(KeyError):
        watched.read(lambda _: {}["x"])
    assert controller_state(watched).state == "disabled"


def test_busy_loop_is_read_past_and_not_changed(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, _, loop = served
    monkeypatch.setattr(watched_module, "LOCK_WAIT_S", 0.01)
    monkeypatch.setattr(watched_module, "CHANGE_WAIT_S", 0.01)
    go_on = threading.Event()
    loop.call_soon(go_on.wait)
    changed: list[int] = []
    assert snapshot(watched).consistent is False
    with pytest.raises(TimeoutError, match="did not answer"):
        watched.change(lambda: changed.append(1))
    go_on.set()
    monkeypatch.setattr(watched_module, "CHANGE_WAIT_S", 10)
    watched.change(lambda: changed.append(2))
    assert changed == [2]


def test_poke_follows_a_change_in_the_same_thread() -> None:
    loop, hub = Loop(), TraceHub()
    order: list[str] = []
    ctrl = Controller(ControllerConfig(), memory=HostMemory(), namespaces=[], trace=hub)
    watched = Watched(
        controller=ctrl, trace=hub, lock=None, clock_ns=time.perf_counter_ns, inside=loop.call_soon,
        poke=lambda: order.append(f"poke {threading.get_ident()}"),
    )  # fmt: skip
    thread = threading.Thread(target=loop.run)
    thread.start()
    watched.change(lambda: order.append(f"change {threading.get_ident()}"))
    loop.stop()
    thread.join()
    loop.close()
    assert order == [f"change {thread.ident}", f"poke {thread.ident}"]
