"""A rule at work: whether a command is one of its hits, and whether it fires at this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from nvme_emu.controller.faults.blocks import BlockSet
from nvme_emu.core.faults.effects import CorruptEffect, MediaErrorEffect
from nvme_emu.core.faults.match import DIRECTIONS
from nvme_emu.spec.commands import RW_NLB_MASK, join64
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import SQE, SQE_SIZE

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.pcie.rings import SubmissionQueue
    from nvme_emu.core.faults import Rule

__all__ = ["CommandView", "RuleState", "Stream"]

_MILLION = 1_000_000

# Commands that name logical blocks in SLBA and NLB, also those that a later command set table offers.
_WITH_EXTENT = frozenset(
    {
        NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE, NvmOpcode.WRITE_ZEROES, NvmOpcode.VERIFY,
        NvmOpcode.WRITE_UNCORRECTABLE,
    }
)  # fmt: skip


class Stream(Protocol):
    """A seeded source of randomness (`random.Random` is one)."""

    def random(self) -> float: ...
    def randrange(self, stop: int, /) -> int: ...


class CommandView:
    """A command before it is fetched, as rules see it. `slba` is -1 and `nlb` 0 where it names no blocks."""

    __slots__ = ("cid", "entry", "namespace", "nbytes", "nlb", "nsid", "opcode", "qid", "slba")

    def __init__(self, sq: SubmissionQueue, namespaces: dict[int, Namespace]) -> None:
        at = sq.head * SQE_SIZE
        self.entry = bytes(sq.view[at : at + SQE_SIZE])
        fields = SQE.unpack(self.entry)
        self.qid = sq.qid
        self.opcode, self.cid, self.nsid = fields[0], fields[2], fields[3]
        self.slba, self.nlb, self.nbytes = -1, 0, 0
        self.namespace = namespaces.get(self.nsid) if sq.qid else None
        if sq.qid and self.opcode in _WITH_EXTENT:
            self.slba = join64(fields[9], fields[10])
            self.nlb = (fields[11] & RW_NLB_MASK) + 1
            if self.namespace is not None:
                self.nbytes = self.nlb << self.namespace.lba_shift


class RuleState:
    """A rule that was added: its counters, its random stream, and the blocks that are bad because of it.

    `hits` counts occurrences that the match is about, inside the time window; `fired` the firings.
    """

    def __init__(self, rule: Rule, stream: Stream, now_ns: int) -> None:
        self.rule = rule
        self.stream = stream
        self.added_ns = now_ns
        self.armed = rule.armed
        self.over = False  # a rule on = "time" whose last time has come
        self.hits = 0
        self.fired = 0
        match = rule.match
        self._opcodes = match.opcodes
        self._pattern = self._mask = 0
        if match.pattern is not None and match.mask is not None:
            self._mask = int.from_bytes(match.mask, "little")
            self._pattern = int.from_bytes(match.pattern, "little") & self._mask
        media_error = rule.effect("media_error")
        self.media_error = media_error if isinstance(media_error, MediaErrorEffect) else None
        corrupt = rule.effect("corrupt")
        self.corrupt = corrupt if isinstance(corrupt, CorruptEffect) else None
        self._bad: dict[int, BlockSet] = {}

    @property
    def id(self) -> str:
        """The rule's id."""
        return self.rule.id

    @property
    def spent(self) -> bool:
        """Whether it can never fire again."""
        when = self.rule.when
        if when.times is not None and self.fired >= when.times:
            # Blocks that have grown bad stay bad.
            return self.media_error is None or not self.media_error.grown
        if self.over:
            return True
        return when.nth is not None and self.hits - when.skip >= when.nth[-1] and self.media_error is None

    @property
    def watches_writes(self) -> bool:
        """Whether it must see every write: they heal blocks, or make old contents to give back."""
        return self.media_error is not None or (self.corrupt is not None and self.corrupt.how == "stale")

    def may_want(self, qid: int) -> bool:
        """Whether a command of this queue can be a hit at all."""
        match = self.rule.match
        if match.admin is not None and match.admin != (qid == 0):
            return False
        return match.queue is None or qid in match.queue

    def wants(self, view: CommandView) -> bool:
        """Whether the match is about this command."""
        match = self.rule.match
        if not self.may_want(view.qid):
            return False
        if self._opcodes is not None and view.opcode not in self._opcodes:
            return False
        if match.nsid is not None and view.nsid not in match.nsid:
            return False
        if match.direction is not None and view.opcode & 3 != DIRECTIONS[match.direction]:
            return False
        if match.lba is not None:
            first, last = match.lba
            if view.slba < 0 or view.slba > last or view.slba + view.nlb <= first:
                return False
        if match.size is not None and not (view.nlb and match.size[0] <= view.nbytes <= match.size[1]):
            return False
        return not self._mask or int.from_bytes(view.entry, "little") & self._mask == self._pattern

    def hit(self, now_ns: int) -> bool:
        """Count a hit; whether the rule fires at it (and nothing of a higher rule is in its way)."""
        when = self.rule.when
        at_ns = now_ns - self.added_ns
        if at_ns < when.from_ns or (when.until_ns is not None and at_ns >= when.until_ns):
            return False
        self.hits += 1
        count = self.hits - when.skip
        if count < 1 or (when.times is not None and self.fired >= when.times):
            return False
        if when.nth is not None:
            return count in when.nth
        if when.every is not None:
            return count % when.every == 0
        if when.ppm is not None:
            # As many as the rate gives by now, less those before: exact, and spread evenly.
            return count * when.ppm // _MILLION > (count - 1) * when.ppm // _MILLION
        if when.probability is not None:
            return self.stream.random() < when.probability
        return True

    def bad_blocks(self, nsid: int) -> BlockSet:
        """The blocks of a namespace that this rule makes bad."""
        bad = self._bad.get(nsid)
        if bad is None:
            bad = self._bad[nsid] = BlockSet()
            lba = self.rule.match.lba
            if self.media_error is not None and not self.media_error.grown and lba is not None:
                bad.add(lba[0], lba[1] - lba[0] + 1)
        return bad

    def heal(self, nsid: int, slba: int, nlb: int) -> None:
        """Blocks were written."""
        if self.media_error is not None and (self.rule.match.nsid is None or nsid in self.rule.match.nsid):
            self.bad_blocks(nsid).remove(slba, nlb)

    def snapshot(self) -> dict[str, Any]:
        """What a live view shows."""
        return {"id": self.id, "armed": self.armed, "hits": self.hits, "fired": self.fired, "spent": self.spent}
