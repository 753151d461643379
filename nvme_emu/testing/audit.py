"""The books of a driver: every tag is either free or in use, once; nothing stays mapped that nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.driver.queue_pair import QueuePair
    from nvme_emu.machine import Machine

__all__ = ["AuditError", "audit", "close_and_audit"]


class AuditError(AssertionError):
    """A driver's books do not agree; ``problems`` is one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the driver's books do not agree:\n" + "\n".join(f"  {one}" for one in problems))
        self.problems = problems


def audit(machine: Machine) -> list[str]:
    """What is wrong with the driver of ``machine`` while nothing is under way; empty if all is right.

    Call it at a quiet moment: when every request that was submitted has been waited for.
    """
    found: list[str] = []
    driver = machine.driver
    pairs = [path.pair for path in driver.paths]
    for pair in pairs:
        found += _queue(pair)
    strays = driver.strays
    if strays:
        found.append(f"{strays} completion(s) belonged to no request of the driver")
    return found


def _queue(pair: QueuePair) -> list[str]:
    name = f"queue {pair.qid}"
    tags = pair.tags
    free: list[int] = list(tags.free)
    busy = [tag for tag, rq in enumerate(pair.inflight) if rq is not None]
    found: list[str] = []
    if len(set(free)) != len(free):
        twice = sorted({tag for tag in free if free.count(tag) > 1})
        found.append(f"{name}: tag(s) {twice} are on the free list twice")
    both = sorted(set(free) & set(busy))
    if both:
        found.append(f"{name}: tag(s) {both} are free and in use at the same time")
    lost = sorted(set(range(tags.count)) - set(free) - set(busy))
    if lost:
        shown = f"{lost[:8]}{' …' if len(lost) > 8 else ''}"
        found.append(f"{name}: {len(lost)} tag(s) are lost, neither free nor in use: {shown}")
    if busy:
        waiting: list[Any] = [pair.inflight[tag] for tag in busy]
        found.append(f"{name}: {len(busy)} command(s) never ended: {', '.join(rq.describe() for rq in waiting[:4])}")
    if pair.outstanding != len(busy):
        found.append(f"{name}: counts {pair.outstanding} commands outstanding, and holds {len(busy)}")
    return found


def close_and_audit(machine: Machine, *, strict: bool = True) -> None:
    """Wait for what is under way, look at the books, and shut the machine down. AuditError if they are wrong.

    Without ``strict`` (the test has failed already) only what the machine holds is given back.
    """
    if not strict:
        for media in machine.media:
            media.close()
        return
    problems: list[str] = []
    if machine.driver.paths:
        machine.driver.drain()
        problems = audit(machine)
    machine.close()
    left = [region.name for region in machine.memory.regions if region.name == "request"]
    if left:
        problems.append(f"{len(left)} data buffer(s) stayed mapped after the shutdown")
    if problems:
        raise AuditError(problems)
