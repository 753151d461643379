"""The intrusive, doubly linked list that works sit on.

A node knows the list it is on, so that "is it queued, and where" costs one attribute. All operations take
constant time; the caller holds the lock that protects the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["ListHead", "ListNode", "list_empty"]


class ListNode:
    """A link that is part of its owner (`owner`). `head` is the list that it is on, or None."""

    __slots__ = ("head", "next", "owner", "prev")

    def __init__(self, owner: Any = None) -> None:
        self.owner = owner
        self.head: ListHead | None = None
        self.next: ListNode = self
        self.prev: ListNode = self

    def unlink(self) -> None:
        """Take the node off its list; it may be off already."""
        head = self.head
        if head is not None:
            before, after = self.prev, self.next
            before.next = after
            after.prev = before
            self.prev = self.next = self
            self.head = None
            head.count -= 1


class ListHead:
    """A list of `ListNode`; iterating, `first()` and `pop_first()` give the owners in order."""

    __slots__ = ("count", "root")

    def __init__(self) -> None:
        self.root = ListNode()
        self.count = 0

    def insert_before(self, node: ListNode, pos: ListNode) -> None:
        """Link `node`, which is on no list, in front of `pos`, which is on this one (or its root)."""
        before = pos.prev
        node.prev = before
        node.next = pos
        before.next = node
        pos.prev = node
        node.head = self
        self.count += 1

    def append(self, node: ListNode) -> None:
        """Link `node`, which is on no list, at the end."""
        self.insert_before(node, self.root)

    def first(self) -> Any:
        """The owner of the first node, None on an empty list."""
        return self.root.next.owner

    def pop_first(self) -> Any:
        """Unlink the first node and return its owner, None on an empty list."""
        node = self.root.next
        node.unlink()
        return node.owner

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        node = self.root.next
        while node is not self.root:
            following = node.next
            yield node.owner
            node = following


def list_empty(item: ListHead | ListNode) -> bool:
    """The kernel's list_empty(): a list without nodes, or a node that is on no list."""
    if isinstance(item, ListNode):
        return item.head is None
    return item.count == 0
