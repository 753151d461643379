"""Fetch, execute, post: the hottest code of the product.

A turn of a submission queue is cut into runs of *plain* commands and single others:

* `run_plain` takes the leading run of plain reads and writes (no flags, no FUA, a namespace that exists, in
  range, within MDTS, good PRPs) without making an object a command. It stops before the first other one.
* `run_one` takes any command: it makes a `Command`, calls its handler and turns errors into statuses.

Both mean the same; what is not plain, or fails a check of `run_plain`, is simply left to `run_one`,
which finds out what the answer is. The column gait (`columns`) is a third of the kind: it has `run_plain`'s
contract and takes long runs at once.
"""

from __future__ import annotations

import struct
from heapq import heappop
from typing import TYPE_CHECKING

from nvme_emu.controller.columns import COLUMNS_MIN, run_columns
from nvme_emu.controller.command import Command, Pending
from nvme_emu.controller.data_pointer import check_psdt
from nvme_emu.controller.fused import run_fused
from nvme_emu.controller.latency import Op
from nvme_emu.controller.nvm import READ_OR_WRITE, fail_medium
from nvme_emu.controller.pcie.rings import CQE_BODY, CQE_STATUS_WORD, CQE_WORDS
from nvme_emu.controller.zoned_commands import io_handlers
from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.ports import DeviceLane
from nvme_emu.core.segments import map_prps
from nvme_emu.core.trace import FetchCmd, PostCqe
from nvme_emu.spec.commands import RW_NLB_MASK, join64
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import CQE_SIZE, FUSE_MASK, PSDT_MASK, SQE, SQE_SIZE
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Handler
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.pcie.rings import SubmissionQueue
    from nvme_emu.controller.pcie.shadow import ShadowDoorbells

__all__ = ["device_lane", "doorbell_cq", "doorbell_sq", "due", "end_due", "go_on", "run_one", "run_plain", "run_turn"]

# What a plain read or write needs of its entry: opcode, flags, cid, nsid, prp1, prp2, slba, cdw12.
_RW = struct.Struct("<BBHI16xQQQI12x")
assert _RW.size == SQE_SIZE
assert SQE.unpack(bytes(24) + _RW.pack(*range(8))[24:])[7:12] == (4, 5, 6, 0, 7)

# Plain ints: comparing with an IntEnum member costs more.
_READ = int(NvmOpcode.READ)
_WRITE = int(NvmOpcode.WRITE)

_OP_READ = Op.READ.value
_OP_WRITE = Op.WRITE.value

_OPCODE, _CID = (0, 0), (2, 0)


def doorbell_sq(ctrl: Controller, qid: int, tail: int, now_ns: int) -> tuple[tuple[int, ...], int | None]:
    """``ring_sq``, ``step``, ``take_irqs`` and ``next_deadline`` in one, for a transport in the same process.

    Where nothing stands in line and nobody listens, the queue is served without going through the line.
    """
    if ctrl.shadow is not None:
        return _shadowed_sq(ctrl, ctrl.shadow, qid, tail, now_ns)
    return _doorbell_sq(ctrl, qid, tail, now_ns)


def _shadowed_sq(
    ctrl: Controller, shadow: ShadowDoorbells, qid: int, tail: int, now_ns: int
) -> tuple[tuple[int, ...], int | None]:
    """The same where the host has set up shadow doorbells: this one only says that there is something."""
    ctrl.now_ns = now_ns
    try:
        known = None if ctrl.trace.emit is not None else shadow.rung(qid, False, tail)
        if known is None:
            ctrl.ring_sq(qid, tail)
            ctrl.step(now_ns)
            return ctrl.take_irqs(), ctrl.next_deadline()
        irqs, due_ns = _doorbell_sq(ctrl, qid, known, now_ns)
        if not shadow.served(qid, False):
            return irqs, due_ns
    except Exception as error:
        ctrl.broken(error)
        irqs = ()
    ctrl.step(now_ns)
    return (*irqs, *ctrl.take_irqs()), ctrl.next_deadline()


def _shadowed_cq(
    ctrl: Controller, shadow: ShadowDoorbells, qid: int, head: int, now_ns: int
) -> tuple[tuple[int, ...], int | None] | None:
    """The same for the doorbell of a completion queue."""
    ctrl.now_ns = now_ns
    try:
        known = None if ctrl.trace.emit is not None else shadow.rung(qid, True, head)
        if known is not None:
            follows = _doorbell_cq(ctrl, qid, known, now_ns)
            if not shadow.served(qid, True):
                return follows
        else:
            follows = None
            ctrl.ring_cq(qid, head)
    except Exception as error:
        ctrl.broken(error)
        follows = None
    ctrl.step(now_ns)
    irqs = () if follows is None else follows[0]
    return (*irqs, *ctrl.take_irqs()), ctrl.next_deadline()


def _doorbell_sq(ctrl: Controller, qid: int, tail: int, now_ns: int) -> tuple[tuple[int, ...], int | None]:
    if ctrl.compiled:
        try:
            answer = ctrl.ring_compiled(qid, tail, now_ns)
        except Exception as error:
            ctrl.broken(error)
            return ctrl.take_irqs(), ctrl.next_deadline()
        if answer is not None:
            return answer
    rings, arbiter = ctrl.rings, ctrl.arbiter
    sq = rings.sqs.get(qid)
    if (
        sq is None
        or sq.in_line
        or arbiter.line
        or not ctrl.running
        or ctrl.trace.emit is not None
        or rings.generation != ctrl.memory.generation
        or not sq.move_tail(tail)
    ):
        ctrl.now_ns = now_ns  # before anything happens: what it makes bears this time
        ctrl.ring_sq(qid, tail)
        ctrl.step(now_ns)
        return ctrl.take_irqs(), ctrl.next_deadline()
    try:
        ctrl.now_ns = now_ns
        if ctrl.inflight.is_due(now_ns):
            end_due(ctrl)
        count = (sq.tail - sq.head) % sq.size
        # A few plain commands need no turn. (The compiled gait is asked by run_turn, in its place.)
        few = qid and count < COLUMNS_MIN and count <= min(sq.cq.free, ctrl.step_commands_max) and not ctrl.compiled
        if not few or run_plain(ctrl, sq, count) != count:
            run_turn(ctrl, sq, ctrl.config.step_commands_max)
        if sq.head != sq.tail and ctrl.running:
            _line_up(ctrl, sq)
    except Exception as error:
        ctrl.broken(error)
    irqs = ctrl.interrupts.take() if ctrl.interrupts.raised else ()
    inflight = ctrl.inflight
    return irqs, ctrl.next_deadline() if inflight.due or inflight.light or arbiter.line or ctrl.timers else None


def go_on(ctrl: Controller, sq: SubmissionQueue, done: int) -> tuple[tuple[int, ...], int | None]:
    """The rest of :func:`doorbell_sq` for a queue of which the compiled gait has done what was plain: ``done``."""
    try:
        run_turn(ctrl, sq, ctrl.config.step_commands_max - done)
        if sq.head != sq.tail and ctrl.running:
            _line_up(ctrl, sq)
    except Exception as error:
        ctrl.broken(error)
    return ctrl.take_irqs(), ctrl.next_deadline()


def _line_up(ctrl: Controller, sq: SubmissionQueue) -> None:
    """A queue with commands left stands in line for its next turn, or waits for completion slots."""
    if sq.cq.free:
        ctrl.arbiter.add(sq)
    else:
        ctrl.arbiter.park(sq)


def doorbell_cq(ctrl: Controller, qid: int, head: int, now_ns: int) -> tuple[tuple[int, ...], int | None] | None:
    """``ring_cq`` and what may follow from it, as :func:`doorbell_sq`; None where nothing follows."""
    if ctrl.shadow is not None:
        return _shadowed_cq(ctrl, ctrl.shadow, qid, head, now_ns)
    return _doorbell_cq(ctrl, qid, head, now_ns)


def _doorbell_cq(ctrl: Controller, qid: int, head: int, now_ns: int) -> tuple[tuple[int, ...], int | None] | None:
    if ctrl.compiled and ctrl.head_compiled(qid, head, now_ns):
        return None
    cq = ctrl.rings.cqs.get(qid)
    idle = ctrl.trace.emit is None and not ctrl.arbiter.line and ctrl.running and not ctrl.inflight.is_due(now_ns)
    if idle and cq is not None and not cq.blocked and not cq.backlog and cq.move_head(head):
        return None
    ctrl.now_ns = now_ns
    ctrl.ring_cq(qid, head)
    ctrl.step(now_ns)
    return ctrl.take_irqs(), ctrl.next_deadline()


def due(ctrl: Controller, now_ns: int) -> tuple[tuple[int, ...], int | None]:
    """``step``, ``take_irqs`` and ``next_deadline`` in one, for a timer at the deadline."""
    if ctrl.compiled and not ctrl.timers:
        try:
            answer = ctrl.due_compiled(now_ns)
        except Exception as error:
            ctrl.broken(error)
            return ctrl.take_irqs(), ctrl.next_deadline()
        if answer is not None:
            return answer
    if ctrl.faults is not None or ctrl.arbiter.line or not ctrl.running or ctrl.timers:
        ctrl.step(now_ns)
        return ctrl.take_irqs(), ctrl.next_deadline()
    ctrl.now_ns = now_ns
    try:
        end_due(ctrl)
    except Exception as error:
        ctrl.broken(error)
    irqs = ctrl.interrupts.take() if ctrl.interrupts.raised else ()
    return irqs, ctrl.inflight.next_ns() if ctrl.running else ctrl.next_deadline()


def end_due(ctrl: Controller) -> None:
    """Write the completions of the timed commands whose time has come, in the order of their times."""
    inflight, now_ns = ctrl.inflight, ctrl.now_ns
    if inflight.light and ctrl.compiled and ctrl.end_compiled():
        return
    heap, commands = inflight.due, inflight.commands
    if ctrl.faults is not None or ctrl.trace.emit is not None or ctrl.rings.generation != ctrl.memory.generation:
        while ctrl.posting and (timed := inflight.pop_due(now_ns)) is not None:
            _, _, cmd, status, dw0 = timed
            ctrl._post(cmd.sq, cmd.cid, status, dw0)
        return
    posted = 0
    while heap and ctrl.posting and heap[0][0] <= now_ns:
        _, _, cmd, status, dw0 = heappop(heap)
        sq, cid = cmd.sq, cmd.cid
        # One that Abort has ended, or another command under its name: its entry was left here.
        key = (sq.qid, cid)
        if commands.get(key) is not cmd:
            continue
        # InFlight.remove, without the call.
        del commands[key]
        sq.inflight -= 1
        inflight._timed -= 1
        if not inflight._timed:
            ctrl.counters.busy_ns += now_ns - inflight._busy_since_ns
        cq = sq.cq
        cq.write(sq, cid, status, dw0)
        posted += 1
        if cq.ien:
            ctrl.interrupts.raise_vector(cq.vector)
    ctrl.counters.posted += posted


def device_lane(ctrl: Controller, qid: int) -> DeviceLane | None:
    """What a caller in the same process must find idle to do plain commands in one call; None if it cannot."""
    sq = ctrl.rings.sqs.get(qid)
    if sq is None or not ctrl.config.contiguous_queues:
        return None
    interrupts = ctrl.interrupts
    return DeviceLane(ctrl, sq, ctrl.arbiter.line, interrupts.raised, interrupts.masked)


def run_turn(ctrl: Controller, sq: SubmissionQueue, budget: int) -> int:
    """Take up to ``budget`` commands of a queue; returns how many were fetched.

    Stops early when the queue is empty, its completion queue full or the controller no longer running.
    """
    cq = sq.cq
    done = 0
    compiled = ctrl.compiled
    while done < budget and sq.head != sq.tail and ctrl.running:
        count = (sq.tail - sq.head) % sq.size
        if count > cq.free:
            count = cq.free
            if not count:
                break
        if count > budget - done:
            count = budget - done
        if sq.qid:
            taken = 0
            if compiled and (taken := ctrl.run_compiled(sq, count)):
                done += taken
                continue
            if count >= COLUMNS_MIN:
                taken = run_columns(ctrl, sq, count)
            if not taken:
                taken = run_plain(ctrl, sq, count)
            done += taken
            if taken == count or taken >= COLUMNS_MIN:
                continue
        run_one(ctrl, sq)
        done += 1
    return done


def run_plain(ctrl: Controller, sq: SubmissionQueue, count: int) -> int:
    """Fetch and execute the leading plain commands, at most ``count``; returns how many.

    There must be ``count`` commands in the queue and as many free slots.
    """
    ring, sqid, size, head, inflight = sq.view, sq.qid, sq.size, sq.head, sq.inflight
    cq = sq.cq
    cq_view, cq_words, cq_size, tail, phase = cq.view, cq.words, cq.size, cq.tail, cq.phase
    find, namespaces, outstanding = ctrl.memory.find, ctrl.namespaces, ctrl.outstanding
    page_size, nbytes_max, write_through = ctrl.page_size, ctrl.transfer_bytes_max, ctrl.write_through
    latency, emit, now_ns = ctrl.latency, ctrl.trace.emit, ctrl.now_ns
    in_page = page_size - 1
    unpack, pack = _RW.unpack_from, CQE_BODY.pack_into
    done = posted = reads = read_bytes = write_bytes = 0
    failure: OSError | None = None
    while done < count:
        opcode, flags, cid, nsid, prp1, prp2, slba, cdw12 = unpack(ring, head * SQE_SIZE)
        is_read = opcode == _READ
        if not (is_read or opcode == _WRITE) or flags or cdw12 > RW_NLB_MASK:
            break
        namespace = namespaces.get(nsid)
        if namespace is None or not namespace.plain or slba + cdw12 >= namespace.nsze or prp1 & 3:
            break
        shift = namespace.lba_shift
        nbytes = (cdw12 + 1) << shift
        if nbytes > nbytes_max or (inflight and (sqid, cid) in outstanding):
            break
        if write_through and not is_read and not namespace.media.volatile:
            break
        offset = slba << shift
        stored = namespace.view
        first = page_size - (prp1 & in_page)
        try:
            if stored is not None and nbytes <= first:
                view, at = find(prp1, nbytes, is_read)
                if is_read:
                    view[at : at + nbytes] = stored[offset : offset + nbytes]
                else:
                    stored[offset : offset + nbytes] = view[at : at + nbytes]
            else:
                start = offset
                media = namespace.media
                for part in map_prps(ctrl.memory, prp1, prp2, nbytes, page_size, is_read):
                    if is_read:
                        media.read_into(start, part)
                    else:
                        media.write(start, part)
                    start += len(part)
        except (DmaError, CommandError):
            break
        except OSError as error:
            failure = error
            break
        entry = head * SQE_SIZE
        head += 1
        if head == size:
            head = 0
        done += 1
        if is_read:
            reads += 1
            read_bytes += nbytes
        else:
            write_bytes += nbytes
        if emit is not None:
            emit(FetchCmd(now_ns, sqid, cid, opcode, nsid, slba, cdw12 + 1))
        if latency is not None:
            done_ns = latency.submit(_OP_READ if is_read else _OP_WRITE, offset, nbytes, now_ns)
            if done_ns > now_ns:
                ctrl.defer(Command(sq, SQE.unpack_from(ring, entry)), done_ns)
                inflight += 1
                continue
        pack(cq_view, tail * CQE_SIZE, 0, 0, head, sqid, cid)
        cq_words[tail * CQE_WORDS + CQE_STATUS_WORD] = phase
        posted += 1
        tail += 1
        if tail == cq_size:
            tail = 0
            phase ^= 1
        if emit is not None:
            emit(PostCqe(now_ns, cq.qid, sqid, cid, 0, head))
    if not done and failure is None:
        return 0
    sq.head = head
    cq.tail = tail
    cq.phase = phase
    cq.free -= done
    counters = ctrl.counters
    counters.fetched += done
    counters.posted += posted
    if reads:
        counters.read_commands += reads
        counters.read_bytes += read_bytes
    if reads != done:
        counters.write_commands += done - reads
        counters.write_bytes += write_bytes
    if posted and cq.ien:
        ctrl.interrupts.raise_vector(cq.vector)
    if failure is not None:
        _fail_plain(ctrl, sq, failure)
        done += 1
    return done


def _fail_plain(ctrl: Controller, sq: SubmissionQueue, failure: OSError) -> None:
    """The medium failed the plain command at the head: it must not be asked a second time."""
    cmd = _fetch(ctrl, sq)
    is_read = cmd.opcode == _READ
    namespace = ctrl.namespaces[cmd.nsid]
    offset = join64(cmd.cdw10, cmd.cdw11) << namespace.lba_shift
    ctrl.delay(cmd, _OP_READ if is_read else _OP_WRITE, offset, (cmd.cdw12 + 1) << namespace.lba_shift)
    try:
        fail_medium(ctrl, failure, Status.READ_ERROR if is_read else Status.WRITE_FAULT)
    except CommandError as error:
        ctrl.finish(cmd, ctrl.log_error(cmd, error), 0)


def _fetch(ctrl: Controller, sq: SubmissionQueue) -> Command:
    """Take the command at the head of a queue, and the slot for its completion."""
    cmd = Command(sq, SQE.unpack_from(sq.view, sq.head * SQE_SIZE))
    sq.head = (sq.head + 1) % sq.size
    sq.cq.free -= 1
    ctrl.counters.fetched += 1
    emit = ctrl.trace.emit
    if emit is not None:
        slba = blocks = 0
        if sq.qid and cmd.opcode in READ_OR_WRITE:
            slba, blocks = join64(cmd.cdw10, cmd.cdw11), (cmd.cdw12 & RW_NLB_MASK) + 1
        emit(FetchCmd(ctrl.now_ns, sq.qid, cmd.cid, cmd.opcode, cmd.nsid, slba, blocks))
    return cmd


def run_one(ctrl: Controller, sq: SubmissionQueue, execute: Handler | None = None) -> None:
    """Fetch and execute one command of any kind; there must be one, and a free slot for its completion.

    ``execute`` stands in for the module's own where a fault rule has something to do with the command.
    """
    cmd = _fetch(ctrl, sq)
    try:
        dw0 = (execute or execute_command)(ctrl, cmd)
    except CommandError as error:
        ctrl.finish(cmd, ctrl.log_error(cmd, error), 0)
        return
    if isinstance(dw0, Pending):
        ctrl.park(cmd)
        return
    if not sq.qid:
        if cmd.opcode == AdminOpcode.SET_FEATURES:
            ctrl.apply_features()
        ctrl.delay(cmd, Op.ADMIN, 0, 0)
    ctrl.finish(cmd, 0, dw0)


def execute_command(ctrl: Controller, cmd: Command) -> int | Pending:
    """What the handler says; every failure that is not ours is a CommandError."""
    handlers = io_handlers(ctrl, cmd) if cmd.sq.qid else ctrl.admin_handlers
    if cmd.sq.inflight and cmd.key in ctrl.outstanding:
        raise CommandError(Status.CMDID_CONFLICT, location=_CID)
    handler = handlers.get(cmd.opcode)
    if handler is None:
        raise CommandError(Status.INVALID_OPCODE, location=_OPCODE)
    if cmd.flags & FUSE_MASK:
        return run_fused(ctrl, cmd, execute_command)
    if cmd.flags & PSDT_MASK:
        check_psdt(ctrl, cmd)
    try:
        return handler(ctrl, cmd)
    except DmaError as error:
        raise CommandError(Status.DATA_XFER_ERROR) from error
    except OSError as error:
        raise CommandError(Status.INTERNAL, dnr=False) from error
