"""The wake-up tokens of OS threads."""

from __future__ import annotations

import os
import threading

import pytest

from kworker import (
    KthreadWork,
    ThreadRuntime,
    kthread_create_worker,
    kthread_destroy_worker,
    kthread_queue_work,
)
from kworker.token import EventfdToken, LockToken, make_token

KINDS = [LockToken, EventfdToken]


@pytest.mark.parametrize("kind", KINDS)
def test_token_given_twice_is_taken_once(kind: type) -> None:
    token = kind()
    token.give()
    token.give()
    token.take()
    token.take(0.001)  # times out: nothing is pending
    token.drop()


@pytest.mark.parametrize("kind", KINDS)
def test_token_dropped_is_gone(kind: type) -> None:
    token, woken = kind(), threading.Event()
    token.give()
    token.drop()
    token.drop()
    thread = threading.Thread(target=lambda: (token.take(), woken.set()))
    thread.start()
    assert not woken.wait(0.02)
    token.give()
    thread.join(60)
    assert woken.is_set()


@pytest.mark.parametrize("kind", KINDS)
def test_token_hands_over_between_two_threads(kind: type) -> None:
    ping, pong = kind(), kind()

    def answer() -> None:
        for _ in range(500):
            ping.take()
            pong.give()

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(500):
        ping.give()
        pong.take()
    thread.join(60)
    assert not thread.is_alive()


def test_token_flag_wrong_after_an_interruption_does_not_block() -> None:
    token = EventfdToken()
    token._given = True  # Ctrl-C came between the read and the reset of the flag
    token.drop()
    token.give()
    token.take()


def test_token_without_eventfd_is_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    assert isinstance(make_token(), LockToken)
    ran: list[KthreadWork] = []
    with ThreadRuntime():
        worker = kthread_create_worker(0, "w")
        kthread_queue_work(worker, KthreadWork(ran.append))
        kthread_destroy_worker(worker)
    assert len(ran) == 1


def test_token_with_too_high_a_descriptor_is_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kworker.token._SELECT_FD_MAX", 0)
    before = len(os.listdir("/proc/self/fd"))
    assert isinstance(make_token(), LockToken)
    assert len(os.listdir("/proc/self/fd")) == before


def test_token_closes_its_descriptor_with_itself() -> None:
    token = EventfdToken()
    fd = token._fd
    os.fstat(fd)
    del token
    with pytest.raises(OSError):
        os.fstat(fd)
