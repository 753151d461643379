"""The second half of the tour: the same write through the worker nvme1, and what the two ways are good for."""

from __future__ import annotations

from kworker.inspect import WorkerSnapshot
from nvme_emu.spec.decode import decode_cqe, decode_sqe
from nvme_emu.workload.compare_verdict import duration
from nvme_emu.workload.tour import Dump, Step, at, cqe_fields, moment_step, pairs, sqe_fields
from nvme_emu.workload.tour_run import APP_WORK_NS, Many, Moment, OneWrite

__all__ = ["async_steps", "outcome_steps"]

CHAPTER = "async"
QUEUE_WORK = "sched_kthread_work_queue_work"
START = "sched_kthread_work_execute_start"
END = "sched_kthread_work_execute_end"


def _worker(moment: Moment) -> WorkerSnapshot:
    return next(worker for worker in moment.state.workers if worker.name == "nvme1")


def _lists(moment: Moment) -> list[tuple[str, object]]:
    """The worker's and the driver's lists, as the structs have them."""
    worker = _worker(moment)
    works = ", ".join(work.name.lstrip("_") for work in worker.queued) or "empty"
    current = worker.current.name.lstrip("_") if worker.current is not None else "NULL"
    waiting = sum(command.stage == "listed" for command in moment.state.commands)
    return [
        ("nvme1", f"{worker.state}, pid {worker.pid}"),
        ("worker->work_list", works),
        ("worker->current_work", current),
        ("requests on the pump's list", waiting),
    ]


def async_steps(run: OneWrite, sync: OneWrite) -> list[Step]:
    """The steps, in the order in which they happen; ``sync`` is what they are compared with."""
    return [
        _handed_over(run),
        _queued(run),
        _returned(run, sync),
        _worker_starts(run),
        _command(run, sync),
        _rung(run),
        _second_handoff(run),
        _reaped(run),
        _known(run, sync),
    ]


def _handed_over(run: OneWrite) -> Step:
    moment = run.moment("nvme_queue_rq")
    return moment_step(
        CHAPTER,
        "The same write, handed over",
        moment,
        calls="ns.submit_write(64, data) → nvme_queue_rq → list_add_tail",
        text=(
            "In async mode the caller does not touch the rings. It appends the request to a list that belongs to "
            "the queue "
            "pair's *pump*, a work of the kthread_worker nvme1, and that is all that the write needs of it.",
            "Only the worker ever touches the rings of its queue pair, so they need no lock, however many "
            "callers there are.",
        ),
        facts=pairs(_lists(moment)),
    )


def _queued(run: OneWrite) -> Step:
    moment, switched = run.moment(QUEUE_WORK), run.moment("sched_switch")
    return moment_step(
        CHAPTER,
        "kthread_queue_work(nvme1, pump)",
        moment,
        calls="kthread_queue_work → kthread_insert_work → wake_up_process",
        text=(
            "The pump is not queued yet, so the caller queues it: under worker->lock its node goes to the end of "
            "worker->work_list. nvme1 sleeps in kthread_worker_fn; it is woken. Had the pump been at work already, "
            "a flag would have said so, and even this would have been saved.",
            f"Waking costs the waker {duration(switched.ts_ns - moment.ts_ns)}.",
        ),
        facts=pairs(_lists(moment)),
    )


def _returned(run: OneWrite, sync: OneWrite) -> Step:
    moment, known = run.moment("sched_switch"), run.moment("nvme_wake_rq")
    return Step(
        chapter=CHAPTER,
        title="The call returns",
        ts_ns=run.returned_ns,
        cpu=moment.cpu,
        who="app",
        calls="return request",
        text=(
            f"submit_write() is back after {duration(run.returned_ns)}; write() took "
            f"{duration(sync.returned_ns)}. app goes on "
            f"with work of its own ({duration(APP_WORK_NS)} here) while the SSD works for it. Then it needs the "
            "outcome, "
            f"calls request.wait(), and sleeps until {at(known.ts_ns)}. It could as well have submitted more.",
        ),
        facts=pairs(
            [("the call held its caller for", duration(run.returned_ns)), ("sync", duration(sync.returned_ns))]
        ),
    )


def _worker_starts(run: OneWrite) -> Step:
    queued, moment = run.moment(QUEUE_WORK), run.moment(START)
    return moment_step(
        CHAPTER,
        f"nvme1 runs on CPU {moment.cpu}",
        moment,
        calls="kthread_worker_fn → work->func(work)",
        text=(
            f"This is the first *hand-off*: from kthread_queue_work() until the work's function runs, "
            f"{duration(moment.ts_ns - queued.ts_ns)} pass, for the wake-up and the switch. Sync does not pay it.",
            "kthread_worker_fn takes the first work off the list, keeps it in current_work, and calls its "
            "function without "
            "the lock. The pump will take all requests that are there, not just one.",
        ),
        facts=pairs(_lists(moment)),
    )


def _command(run: OneWrite, sync: OneWrite) -> Step:
    moment, before = run.moment("nvme_setup_cmd"), sync.moment("nvme_setup_cmd")
    differing = [i for i in range(64) if moment.sqe[i] != before.sqe[i]]
    fields, zero = sqe_fields(decode_sqe(moment.sqe, False))
    same = (
        "All 64 bytes are the same as in sync mode: the device cannot tell the two modes apart."
        if not differing
        else f"All but byte {', '.join(str(i) for i in differing)} (an address) are the same as in sync mode: "
        "the device cannot tell the two modes apart."
    )
    wanted = ("opcode", "cid", "prp1", "prp2", "cdw10_11", "slba", "cdw12", "nlb_z")
    shown = tuple(field for field in fields if field.name in wanted)
    return moment_step(
        CHAPTER,
        "The worker writes the command",
        moment,
        calls="pump → nvme_setup_cmd → nvme_sq_copy_cmd",
        text=(same,),
        dumps=(Dump(label="SQE in slot 0", addr=run.sq_addr, data=moment.sqe),),
        fields=shown,
        zero=zero,
    )


def _rung(run: OneWrite) -> Step:
    moment, end = run.moment("nvme_sq"), run.moment(END)
    due = next(command.due_ns for command in end.state.commands if command.stage == "executing")
    return moment_step(
        CHAPTER,
        "One doorbell, and the worker sleeps",
        moment,
        calls="pump → nvme_write_sq_db; kthread_worker_fn → schedule",
        text=(
            f"The pump rings once for all that it has prepared (here {moment.event.commands}). There is nothing "
            "more on its "
            "list, so it ends, and nvme1 sleeps, too. No thread waits for the device now; nobody polls.",
        ),
        facts=pairs([*_lists(run.moment("post_cqe")), ("the device answers in", duration(due or 0))]),
    )


def _second_handoff(run: OneWrite) -> Step:
    posted, raised = run.moment("post_cqe"), run.moment("raise_irq")
    moment = run.moment(QUEUE_WORK, 1)
    fields, zero = cqe_fields(decode_cqe(posted.cqe))
    return moment_step(
        CHAPTER,
        "CQE, interrupt, and the worker's list again",
        moment,
        calls="nvme_irq → kthread_queue_work(nvme1, pump)",
        text=(
            f"Fetch, dies and completion entry are as before. The message of {at(raised.ts_ns)} goes to CPU "
            f"{moment.cpu}, where "
            "the doorbell was rung. Its handler reaps nothing: it queues the pump and wakes nvme1. This is the "
            "second hand-off.",
        ),
        facts=pairs(_lists(moment)),
        dumps=(Dump(label="CQE in slot 0", addr=run.cq_addr, data=posted.cqe),),
        fields=tuple(field for field in fields if field.offset >= 0),
        zero=zero,
    )  # fmt: skip


def _reaped(run: OneWrite) -> Step:
    moment, woken = run.moment("nvme_complete_rq"), run.moment("sched_wakeup", 2)
    return moment_step(
        CHAPTER,
        "nvme1 reaps",
        moment,
        calls="pump → nvme_poll_cq → nvme_handle_cqe → complete",
        text=(
            "The pump finds the new phase, takes all completions that are there, rings the completion doorbell "
            "once, and "
            "ends each request: callbacks run here, on nvme1, and whoever waits is woken. Were there new "
            "requests on the "
            "list by now, it would submit them in the same go.",
        ),
        facts=pairs([*_lists(moment), ("app is woken at", at(woken.ts_ns))]),
    )


def _known(run: OneWrite, sync: OneWrite) -> Step:
    moment = run.moment("nvme_wake_rq")
    more = run.known_ns - sync.known_ns
    start, queued = run.moment(START), run.moment(QUEUE_WORK)
    back, again = run.moment(START, 1), run.moment(QUEUE_WORK, 1)
    return moment_step(
        CHAPTER,
        "The caller knows",
        moment,
        calls="request.wait() returns",
        text=(
            f"The outcome took {duration(run.known_ns)}, {duration(more)} more than in sync mode: two hand-offs, "
            "and the append. "
            "For a single write that is the price; its caller was free meanwhile.",
        ),
        facts=pairs(
            [
                ("first hand-off", duration(start.ts_ns - queued.ts_ns)),
                ("second hand-off", duration(back.ts_ns - again.ts_ns)),
                ("the call held its caller for", duration(run.returned_ns)),
                ("until the outcome was known", duration(run.known_ns)),
            ]
        ),
    )


def outcome_steps(sync: OneWrite, run: OneWrite, many: tuple[Many, Many]) -> list[Step]:
    """What the two ways are good for."""
    one_by_one, at_once = many
    factor = one_by_one.elapsed_ns / at_once.elapsed_ns
    table = [
        ("one write: the call takes", f"sync {duration(sync.returned_ns)}, async {duration(run.returned_ns)}"),
        ("one write: done after", f"sync {duration(sync.known_ns)}, async {duration(run.known_ns)}"),
        (
            f"{at_once.writes} writes: done after",
            f"sync {duration(one_by_one.elapsed_ns)}, async {duration(at_once.elapsed_ns)}",
        ),
        (
            f"{at_once.writes} writes: calls take",
            f"sync {duration(one_by_one.held_ns)}, async {duration(at_once.held_ns)} together",
        ),
        (f"{at_once.writes} writes: doorbells", f"sync {one_by_one.doorbells}, async {at_once.doorbells}"),
    ]
    return [
        Step(
            chapter="both",
            title="What it costs and what it buys",
            ts_ns=max(sync.known_ns, run.known_ns),
            cpu=None,
            who="",
            text=(
                f"The same run with {at_once.writes} writes of 4 KiB instead of one. A sync caller does them one "
                "after the other. "
                "An async caller hands all of them over before the worker has run for the first time; the pump "
                "takes all of "
                f"them, rings once, and the device works at them side by side: {factor:.1f} times as fast.",
                "So: one I/O at a time, and a fast device: sync. Many at a time, or other things to do: async. "
                "`nvme-emu compare` "
                "says from which queue depth on, for any device and host.",
            ),
            facts=pairs(table),
            timelines=(("sync", one_by_one.timeline), ("async", at_once.timeline)),
        )
    ]

