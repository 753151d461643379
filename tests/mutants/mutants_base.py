"""How a mutant is made: a driver whose queue pairs, paths, recovery or events are of other classes than the product's.

The product has no switch for it: `Mutant` is a subclass of the driver, given to ``open(driver_class=…)``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import kworker
from nvme_emu.driver.device import NvmeDriver
from nvme_emu.driver.queue_pair import QueuePair
from nvme_emu.driver.submit import SubmitPath


class MutantPair(QueuePair):
    """A queue pair in Python only, which calls `point` where a mutant wants others to be able to run."""

    def prepare_plain(self, _rq: Any) -> bool:
        return False

    def reap_plain(self, _done: Any) -> int:
        return 0

    def pause(self, where: str) -> None:
        """On threads the interpreter may switch here at any time; a simulation has to be told."""
        self._now.point(where)


class Mutant(NvmeDriver):
    """A driver with ``pair_class`` and ``path_class`` for its I/O queues."""

    pair_class: ClassVar[type[QueuePair]] = MutantPair
    path_class: ClassVar[type[SubmitPath] | None] = None

    def _make_path(self, pair: QueuePair, kind: str) -> SubmitPath:
        pair.__class__ = self.pair_class
        path = super()._make_path(pair, kind)
        if self.path_class is not None:
            path.__class__ = self.path_class
            work = getattr(path, "_work", None)
            if work is not None:  # it was given the product's function
                kworker.kthread_init_work(work, path._pump)  # type: ignore[attr-defined]
        return path


def mutant(
    name: str,
    *,
    pair: type[QueuePair] = MutantPair,
    path: type[SubmitPath] | None = None,
    **more: Any,
) -> type[Mutant]:
    """The driver class of a mutant."""
    return type(name, (Mutant,), {"pair_class": pair, "path_class": path, **more})
