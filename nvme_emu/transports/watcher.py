"""A thread that sleeps on descriptors and calls their handlers."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable

__all__ = ["Watcher"]


class Watcher:
    """Calls the handler of each watched descriptor that can be read, in a thread called `name`, until `stop`."""

    def __init__(self, name: str) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, fd: int, handler: Callable[[], None], *, once: bool = True) -> None:
        """Watch `fd`; with `once` its handler is called once each time it is armed, as it is now."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLONESHOT if once else 0))

    def rearm(self, fd: int) -> None:
        """Tell of `fd` once more; nothing if it is not watched."""
        if fd in self._handlers:
            with contextlib.suppress(OSError):
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def remove(self, fd: int) -> None:
        """Forget `fd`."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    return
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()

    def stop(self) -> None:
        """End the thread. Not twice."""
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)
