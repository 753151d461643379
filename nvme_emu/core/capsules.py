"""The border between a message transport and controllers: capsules in, answers out (NVMe Base 2.1, 2.2).

A transport such as TCP opens a queue for each connection. It hands over commands with `accept`, brings the
data that they ask for, lets them be executed with `run`, and sends the answers. It knows no command, and the
controller room knows no socket:

    transport                          queue
    open(sink)                    ──►  a queue that waits for Connect
    accept(sqe, in_capsule)       ──►  None, or the Transfer that is to be filled
    ready(transfer)               ──►  its data has come
    run(now_ns)                   ──►  the answers of what has ended
    sink.wake()                   ◄──  something has ended by itself: ask `run` again
    sink.terminate(why)           ◄──  the association is over: close the connection

The other end, a host's driver, has the mirror image: a `Fabric` on which it opens a `CapsuleChannel` for each
queue, sends commands with their buffers, and receives what has completed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nvme_emu.core.faults import Effect

__all__ = [
    "Answer",
    "CapsuleChannel",
    "CapsuleQueue",
    "CapsuleSink",
    "CapsuleTarget",
    "Completed",
    "Fabric",
    "Transfer",
]


class Transfer:
    """Data on its way from the host to the controller: `view` is to be filled, `received` bytes of it are.

    `tag` names it on the wire and is unique among the queue's open transfers. With `in_capsule` the data is
    what follows the command, else it must be fetched. `failed` marks data that came broken.
    """

    __slots__ = ("cid", "failed", "in_capsule", "received", "tag", "view")

    def __init__(self, cid: int, tag: int, view: memoryview, in_capsule: bool) -> None:
        self.cid = cid
        self.tag = tag
        self.view = view
        self.in_capsule = in_capsule
        self.received = 0
        self.failed = False


Answer = tuple[int, bytes, memoryview | None]
"""The end of a command: its identifier, its completion queue entry and its data for the host, if any.

An empty entry says that the data alone stands for the completion (`CapsuleQueue.implied`). The data may be used
until `CapsuleQueue.release`.
"""


class CapsuleSink(Protocol):
    """A connection, as the queue behind it sees it."""

    def wake(self) -> None:
        """Something has ended without being asked: call `run` soon."""

    def terminate(self, why: str) -> None:
        """Send what was answered so far, then close the connection."""


class CapsuleQueue(Protocol):
    """One connection's queue. Nothing of it raises for what a host sends; a refusal is an answer."""

    in_capsule_bytes: int
    """The most data that a capsule may bring along at present."""

    implied: bool
    """Whether data may stand for a completion: where the command succeeded, has nothing in dwords 0 and 1, and
    the host does not need SQHD. The transport says so; at first it is False."""

    proved: tuple[str, str] | None
    """The (host NQN, subsystem NQN) that the transport's security is for: Connect must name them. None: any."""

    @property
    def label(self) -> str:
        """Who is at the other end, for log lines."""

    @property
    def connected(self) -> bool:
        """Whether Connect has succeeded, and authentication where the host needs it."""

    @property
    def spoiled(self) -> dict[int, Effect]:
        """Commands, by identifier, at whose answer a fault rule wants something to go wrong; mostly empty."""

    @property
    def closing(self) -> bool:
        """Whether the connection is to be closed once all answers are sent (Disconnect)."""

    def accept(self, sqe: memoryview | bytes, in_capsule: int) -> Transfer | None:
        """Take a command that brought `in_capsule` bytes of data along.

        Gives the transfer to fill, after which `ready` must be called; None if nothing more is needed (then
        data in the capsule is to be skipped). OverflowError from a host with more commands than its queue has
        entries: such a connection cannot go on.
        """

    def accept_run(self, buffer: memoryview, start: int, stride: int, count: int) -> list[Transfer]:
        """As `accept` for `count` commands without data that stand `stride` bytes apart; those to fill."""

    def ready(self, transfer: Transfer) -> None:
        """The transfer is complete, or marked as failed: its command may be executed."""

    def run(self, now_ns: int) -> list[Answer]:
        """Execute what was accepted; the answers of everything that has ended."""

    def release(self) -> None:
        """The data of all answers so far has been sent or copied."""

    def violated(self, why: str, digest: bool) -> None:
        """The host sent what its transport does not allow, and the connection ends for it; or a wrong digest."""

    def close(self, why: str) -> None:
        """The connection is gone."""


class CapsuleTarget(Protocol):
    """What connections lead to."""

    def open(self, sink: CapsuleSink, address: tuple[str, int], now_ns: int) -> CapsuleQueue:
        """A queue for a new connection that came in at our `address`."""

    def work(self, now_ns: int) -> None:
        """Do what is due."""

    def next_deadline(self) -> int | None:
        """When `work` is due next."""


Completed = tuple[int, int, int]
"""A command has ended: its identifier, dwords 0 and 1 of the completion, the 15-bit status field."""


class CapsuleChannel(Protocol):
    """One queue's connection as the driver sees it. What goes wrong with the connection is an OSError.

    One caller may send while another receives; two may not do the same at a time.
    """

    in_capsule_bytes: int
    """Up to how many bytes go along with a command; the driver learns it from Identify Controller."""

    def send(self, cid: int, sqe: bytes, data: memoryview | None, to_device: bool) -> None:
        """Take a command and its buffer, which must stay until the command has ended. Sent by `flush`."""

    def send_run(self, cids: Sequence[int], sqes: bytes, buffers: Sequence[memoryview]) -> None:
        """As `send` for commands that stand one behind the other, each with a buffer that it fills."""

    def flush(self) -> None:
        """Send what was taken, as far as the connection takes it; `receive` goes on with the rest."""

    def receive(self, timeout_ns: int) -> list[Completed]:
        """What has ended; waits for something up to `timeout_ns`, 0 for not at all."""

    def forget(self, cid: int) -> None:
        """The command's buffer must not be touched any more."""

    def rearm(self) -> None:
        """Call the handler of `Fabric.watch` when there is something to receive, once."""

    def close(self) -> None:
        """Close the connection. A second call does nothing."""


class Fabric(Protocol):
    """A way to a subsystem: each queue is a channel of its own."""

    nqn: str
    address: str

    def open(self) -> CapsuleChannel:
        """Connect. Raises OSError."""

    def watch(self, channel: CapsuleChannel, handler: Callable[[], None]) -> None:
        """Have `handler()` called, on a thread of its own, after each `rearm` of the channel."""

    def close(self) -> None:
        """Close all channels."""
