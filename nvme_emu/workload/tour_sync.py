"""The first half of the tour: a synchronous write, which its caller does from beginning to end."""

from __future__ import annotations

import struct

from nvme_emu.controller.profiles import load_profile
from nvme_emu.spec.decode import decode_cqe, decode_register, decode_sqe
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.registers import doorbell_offset
from nvme_emu.workload.compare_verdict import duration
from nvme_emu.workload.tour import Dump, Field, Step, at, cqe_fields, moment_step, pairs, sqe_fields
from nvme_emu.workload.tour_run import NBYTES, PAGE, PROFILE, SLBA, OneWrite, sample

__all__ = ["addr", "doorbell", "sync_steps"]

CHAPTER = "sync"
PAGES = NBYTES // PAGE


def addr(value: int) -> str:
    """An address as the specification writes numbers."""
    return f"{value:x}h"


def doorbell(*, is_cq: bool, value: int) -> tuple[tuple[Field, ...], int]:
    """What a write to queue 1's doorbell is, and its offset in BAR0."""
    offset = doorbell_offset(1, is_cq=is_cq)
    decoded = decode_register(offset, value)
    field = Field(
        offset=0, length=4, name=decoded.name, value=str(value), words=decoded.words, clause=decoded.clause
    )
    return (field,), offset


def sync_steps(run: OneWrite) -> list[Step]:
    """The steps, in the order in which they happen."""
    return [
        _asked(run),
        _prps(run),
        _command(run),
        _doorbell(run),
        _asleep(run),
        _fetch(run),
        _dies(run),
        _answer(run),
        _interrupt(run),
        _awake(run),
    ]


def _asked(run: OneWrite) -> Step:
    moment = run.moment("nvme_queue_rq")
    sq, cq = moment.state.sqs[1], moment.state.cqs[1]
    return moment_step(
        CHAPTER,
        "A caller wants to write",
        moment,
        calls="ns.write(64, data) → nvme_queue_rq",
        text=(
            f"The task app writes {NBYTES >> 10} KiB to logical block {SLBA} of namespace 1. A block has 512 "
            "bytes, so "
            f"it is {NBYTES // 512} blocks.",
            "In sync mode there is nobody else: this very task will build the command, ring the device's doorbell, "
            "and sleep until the device has answered. Time counts from here.",
        ),
        facts=pairs(
            [
                ("SQ 1", f"{sq.size} slots of {SQE_SIZE} bytes at {addr(sq.base)}, head = tail = {sq.tail}"),
                ("CQ 1", f"{cq.size} slots of {CQE_SIZE} bytes at {addr(cq.base)}, the host waits for phase 1"),
            ]
        ),
        dumps=(Dump(label="the data, first bytes", addr=run.data_addr, data=sample()[:32].tobytes()),),
    )  # fmt: skip


def _prps(run: OneWrite) -> Step:
    moment = run.moment("nvme_setup_cmd")
    decoded = decode_sqe(moment.sqe, False)
    prp2 = decoded.find("prp2").value
    assert isinstance(prp2, int)
    entries = struct.unpack(f"<{PAGES - 1}Q", moment.prp_list)
    rows = tuple(
        Field(
            offset=8 * index,
            length=8,
            name=f"entry {index}",
            value=addr(entry),
            words=f"page {index + 1} of the data",
            clause="Base 2.1 §4.1.1",
        )
        for index, entry in enumerate(entries)
    )
    return moment_step(
        CHAPTER,
        "Where the data lies: Physical Region Pages",
        moment,
        calls="nvme_map_data → nvme_pci_setup_prps",
        text=(
            f"The device fetches the data by itself (DMA), so the command tells it addresses. {NBYTES >> 10} KiB are "
            f"{PAGES} pages of 4 KiB. PRP1 is the address of the first one. For two pages, PRP2 would be the second; "
            f"here it points to a list of the other {PAGES - 1}.",
            "The pages are mapped where they lie, without a copy. Only what is mapped can be reached: an address "
            "outside is an error of the device, never a read of somebody else's memory.",
        ),
        facts=pairs([("PRP1", addr(run.data_addr)), ("PRP2", f"{addr(prp2)}, a list")]),
        dumps=(Dump(label="the PRP list", addr=prp2, data=moment.prp_list),),
        fields=rows,
    )


def _command(run: OneWrite) -> Step:
    moment = run.moment("nvme_setup_cmd")
    fields, zero = sqe_fields(decode_sqe(moment.sqe, False))
    return moment_step(
        CHAPTER,
        "The command: 64 bytes",
        moment,
        calls="nvme_setup_cmd → nvme_sq_copy_cmd",
        text=(
            "This is the submission queue entry (SQE) as it lies in slot 0 of the ring. The command identifier "
            "(cid) is "
            "what the completion will be recognised by. Counts in commands are zero-based: 003fh blocks are 64.",
        ),
        dumps=(Dump(label="SQE in slot 0", addr=run.sq_addr, data=moment.sqe),),
        fields=fields,
        zero=zero,
    )


def _doorbell(run: OneWrite) -> Step:
    rung, seen = run.moment("nvme_sq"), run.moment("fetch_cmd")
    fields, offset = doorbell(is_cq=False, value=rung.event.tail)
    before, after = rung.state.sqs[1], seen.state.sqs[1]
    return moment_step(
        CHAPTER,
        "The doorbell",
        rung,
        calls="nvme_write_sq_db → writel(tail, dev->dbs)",
        text=(
            "The command is in memory, but the device does not know. The host writes the new tail of the ring to "
            f"a register of the device, at offset {addr(offset)} of its BAR0. It is one 32-bit write; several "
            "commands "
            "may share it.",
        ),
        facts=pairs(
            [
                ("before", f"host tail {before.host_tail}, the device knows {before.tail}: nothing to do"),
                ("after", f"host tail {after.host_tail}, the device knows {after.tail}: one entry to fetch"),
            ]
        ),
        dumps=(Dump(label=f"written to BAR0 + {addr(offset)}", addr=None, data=struct.pack("<I", rung.event.tail)),),
        fields=fields,
    )


def _asleep(run: OneWrite) -> Step:
    rung, woken = run.moment("nvme_sq"), run.moment("sched_wakeup")
    return Step(
        chapter=CHAPTER,
        title="The caller sleeps",
        ts_ns=rung.ts_ns,
        cpu=rung.cpu,
        who=rung.who,
        calls="wait_for_completion → schedule",
        text=(
            f"There is nothing left to do until the device answers, so app sleeps, and CPU {rung.cpu} is free for "
            "others. "
            f"It will be woken at {at(woken.ts_ns)}. Of this write's time the caller spends "
            f"{duration(woken.ts_ns - rung.ts_ns)} asleep: that is what *synchronous* means.",
        ),
        facts=pairs([("asleep", f"{at(rung.ts_ns)} … {at(woken.ts_ns)}")]),
    )


def _fetch(run: OneWrite) -> Step:
    moment, posted = run.moment("fetch_cmd"), run.moment("post_cqe")
    before, after = moment.state.sqs[1], posted.state.sqs[1]
    return moment_step(
        CHAPTER,
        "The device fetches command and data",
        moment,
        calls="controller: fetch → resolve PRPs → DMA → medium",
        text=(
            f"The device reads the 64 bytes at its head, which moves from 0 to {after.head}, and "
            "has reserved "
            "a slot of the completion queue before: an answer is never lost for want of room. It walks PRP1 and "
            "the list "
            f"and reads the {PAGES} pages out of the host's memory.",
        ),
        facts=pairs(
            [
                ("SQ 1", f"head {before.head} → {after.head}, tail {after.tail}"),
                ("command", f"cid {moment.event.cid}, {duration(posted.ts_ns - moment.ts_ns)} until it is answered"),
            ]
        ),
        dumps=(Dump(label=f"on the medium, from byte {addr(SLBA * 512)}", addr=None, data=run.stored),),
    )  # fmt: skip


def _dies(run: OneWrite) -> Step:
    profile = load_profile(PROFILE)
    fetch, posted = run.moment("fetch_cmd"), run.moment("post_cqe")
    busy = [
        (die, after - before)
        for die, (before, after) in enumerate(zip(fetch.dies_ns, posted.dies_ns, strict=True))
        if after > before
    ]
    link_ns = NBYTES * 1000 // profile.write_link_mb_s
    parts = [
        ("command processor", profile.command_ns),
        ("firmware", profile.write_overhead_ns),
        (f"link, {NBYTES >> 10} KiB at {profile.write_link_mb_s} MB/s", link_ns),
        ("storing in the buffer", profile.dram_ns),
    ]
    rest = posted.ts_ns - fetch.ts_ns - sum(ns for _, ns in parts)
    parts += [
        (f"scatter, at most {duration(profile.jitter_ns)}", rest),
        ("together", posted.ts_ns - fetch.ts_ns),
    ]
    dies = ", ".join(f"die {die} (channel {die % profile.channels}) for {duration(ns)}" for die, ns in busy)
    return Step(
        chapter=CHAPTER,
        title="Dies: the flash behind the buffer",
        ts_ns=fetch.ts_ns,
        cpu=None,
        who="the device",
        calls="controller.latency: LatencyModel.submit",
        text=(
            f"{profile.name} is a drive of {profile.channels} channels with {profile.dies_per_channel} dies each. "
            "A write is "
            "answered once its data is in the buffer, which survives a loss of power. The flash comes behind its "
            "back: "
            f"{NBYTES >> 10} KiB are what the {profile.planes} planes of a die program at once, and they go to "
            f"{dies}.",
            "So this write takes the time of its way into the buffer. A read would have to wait for its die.",
        ),
        facts=pairs([(what, duration(ns)) for what, ns in parts]),
    )  # fmt: skip


def _answer(run: OneWrite) -> Step:
    before, moment = run.moment("fetch_cmd"), run.moment("post_cqe")
    fields, zero = cqe_fields(decode_cqe(moment.cqe))
    return moment_step(
        CHAPTER,
        "The answer: 16 bytes, and the phase",
        moment,
        calls="controller: post_cqe",
        text=(
            "The device writes a completion queue entry (CQE) into slot 0. sqhd tells the host how far it has "
            "fetched, "
            "sqid and cid whose answer it is, the status how it went: 0 is success.",
            "How does the host see that the slot is new? Its Phase Tag has turned from 0 to 1. On its next way "
            "round the ring the device will write 0. It is stored last, so whoever sees it sees the rest.",
        ),
        dumps=(
            Dump(label="slot 0 before", addr=run.cq_addr, data=before.cqe),
            Dump(label="slot 0 now", addr=run.cq_addr, data=moment.cqe),
        ),
        fields=fields,
        zero=zero,
    )


def _interrupt(run: OneWrite) -> Step:
    raised, reaped = run.moment("raise_irq"), run.moment("nvme_complete_rq")
    rung, known = run.moment("doorbell", 1), run.moment("nvme_wake_rq")
    fields, offset = doorbell(is_cq=True, value=rung.event.value)
    head = known.state.cqs[1].head
    return moment_step(
        CHAPTER,
        "The interrupt",
        reaped,
        calls="nvme_irq → nvme_poll_cq → nvme_handle_cqe → nvme_ring_cq_doorbell",
        text=(
            f"At {at(raised.ts_ns)} the device sends MSI-X message {raised.event.vector}. It goes to CPU "
            f"{reaped.cpu}, the one "
            f"that submitted, which is in the handler {duration(reaped.ts_ns - raised.ts_ns)} later.",
            "The handler walks the completion queue while the phase is the one it waits for, finds the request "
            "by its cid, "
            "and writes the new head to the other doorbell, so that the device may use the slot again.",
        ),
        facts=pairs([("CQ 1", f"head {raised.state.cqs[1].head} → {head}, the device writes next at {head}")]),
        dumps=(
            Dump(label=f"written to BAR0 + {addr(offset)}", addr=None, data=struct.pack("<I", rung.event.value)),
        ),
        fields=fields,
    )  # fmt: skip


def _awake(run: OneWrite) -> Step:
    reaped, woken, known = (run.moment(name) for name in ("nvme_complete_rq", "sched_wakeup", "nvme_wake_rq"))
    posted, fetch = run.moment("post_cqe"), run.moment("fetch_cmd")
    return moment_step(
        CHAPTER,
        "The caller wakes, and the write returns",
        known,
        calls="complete → wake_up_process → schedule → return 0",
        text=(
            "The handler completes the request: reaping, the doorbell and waking its sleeper take until "
            f"{at(woken.ts_ns)}; "
            f"the switch to app takes {duration(known.ts_ns - woken.ts_ns)} more. ns.write() returns after "
            f"{duration(run.known_ns)}.",
        ),
        facts=pairs(
            [
                ("building and ringing", duration(fetch.ts_ns)),
                ("device", duration(posted.ts_ns - fetch.ts_ns)),
                ("interrupt", duration(reaped.ts_ns - posted.ts_ns)),
                ("reaping and waking", duration(woken.ts_ns - reaped.ts_ns)),
                ("switching to app", duration(known.ts_ns - woken.ts_ns)),
                ("the call took", duration(run.returned_ns)),
            ]
        ),
    )
