"""The lock whose state the compiled core sees, and its twin in Python: the same manners."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from nvme_emu import _core
from nvme_emu._core import pure

KINDS = [pure.Lock] if _core.Lock is pure.Lock else [pure.Lock, _core.Lock]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__module__.rsplit(".", 1)[-1])
def lock(request: pytest.FixtureRequest) -> Any:
    return request.param()


def in_thread(fn: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(fn()))
    thread.start()
    thread.join()
    return answers[0]


def test_lock_is_recursive_and_says_who_holds_it(lock: Any) -> None:
    assert not lock.held() and not lock.locked()
    with lock, lock:
        assert lock.held() and lock.locked()
        assert not lock.try_acquire(), "try_acquire does not let the same thread in again"
        assert in_thread(lock.locked) and not in_thread(lock.held)
        assert not in_thread(lock.try_acquire)
        assert not in_thread(lambda: lock.acquire(timeout=0.001))
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_waiter_is_not_kept_out_by_one_who_takes_the_lock_again_and_again(lock: Any) -> None:
    for _ in range(20):
        waiting, came = threading.Event(), threading.Event()

        def wait(waiting: threading.Event = waiting, came: threading.Event = came) -> None:
            waiting.set()
            with lock:
                came.set()

        thread = threading.Thread(target=wait)
        with lock:
            thread.start()
            waiting.wait()
        while not came.is_set():
            with lock:
                sum(range(2_000))
        thread.join()
    assert not lock.locked()


def test_many_threads_that_give_up_now_and_then_never_lose_the_lock(lock: Any) -> None:
    inside = 0
    taken: list[int] = []

    def work(number: int) -> None:
        nonlocal inside
        for turn in range(300):
            if lock.acquire(timeout=0.00005 * ((number + turn) % 3)) if number % 2 else lock.acquire():
                inside += 1
                assert inside == 1
                taken.append(number)
                sum(range(500))
                inside -= 1
                lock.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(0) == taken.count(2) == 300
    assert not lock.locked() and lock.acquire(blocking=False)
