"""nvme-cli's words for log pages: self-test-log, sanitize-log, telemetry-log, persistent-event-log, and more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.nvme_common import DEVICE, Answer, Number, lines_of, word

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

__all__ = [
    "lba_status_log",
    "persistent_event_log",
    "resv_notif_log",
    "sanitize_log",
    "self_test_log",
    "telemetry_log",
]

_CHUNK = 64 << 10


def _whole(read: Callable[[int, int], bytes], nbytes: int) -> bytes:
    """``nbytes`` of a log page by ``read(nbytes, offset)``, in pieces that every controller gives."""
    wanted = -(-nbytes // 4) * 4
    pieces = [read(min(_CHUNK, wanted - at), at) for at in range(0, wanted, _CHUNK)]
    return b"".join(pieces)[:nbytes]


def _nested(title: str, data: dict[str, Any]) -> list[str]:
    """Lines of plain values; what is nested stands below, a line each."""
    plain = {key: value for key, value in data.items() if not isinstance(value, (dict, list))}
    lines = lines_of(title, plain) if plain else [title]
    for key, value in data.items():
        rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, one in rows:
            inner = " ".join(f"{inner}:{shown}" for inner, shown in one.items()) if isinstance(one, dict) else one
            lines.append(f"{key} {name} : {inner}".rstrip())
    return lines


@word(
    "self-test-log",
    "",
    click.option("-e", "--dst-entries", "entries", type=Number(20), default=20, show_default=True, help="How many."),
)
def self_test_log(target: Target, entries: int) -> Answer:
    """Device Self-test: what runs now, and the last results, the newest first."""
    from nvme_emu.observe.nvme_words_logs import self_test_log as form
    from nvme_emu.spec.logs import SELF_TEST_LOG, Lid

    raw = target.log(Lid.DEVICE_SELF_TEST, SELF_TEST_LOG.size)
    data = form(raw, entries)
    return Answer(data=data, raw=raw, lines=_nested(f"Device Self Test Log for {DEVICE}:", data))


@word("sanitize-log", "")
def sanitize_log(target: Target) -> Answer:
    """Sanitize Status: how far it is, how it ended, how long it takes."""
    from nvme_emu.observe.nvme_words_logs import sanitize_log as form
    from nvme_emu.spec.logs import SANITIZE_STATUS, Lid

    raw = target.log(Lid.SANITIZE_STATUS, SANITIZE_STATUS.size)
    data = form(raw, DEVICE)
    return Answer(data=data, raw=raw, lines=_nested(f"Sanitize Status Log for {DEVICE}:", data[DEVICE]))


@word("lba-status-log", "")
def lba_status_log(target: Target) -> Answer:
    """LBA Status Information: the blocks of each namespace that are lost, or may be."""
    from nvme_emu.observe.nvme_words_logs import lba_status_log as form
    from nvme_emu.spec.logs import Lid
    from nvme_emu.spec.logs_lba_status import LBA_STATUS_LOG

    head = LBA_STATUS_LOG.parse(target.log(Lid.LBA_STATUS, LBA_STATUS_LOG.size))
    raw = _whole(lambda nbytes, offset: target.log(Lid.LBA_STATUS, nbytes, offset), head.lslplen)
    data = form(raw)
    plain = {key: value for key, value in data.items() if key != "ns_elements"}
    lines = lines_of(f"LBA Status Log for {DEVICE}:", plain)
    for element in data["ns_elements"]:
        lines += [
            f"namespace {element['neid']}: {one['rnlb']} blocks from {one['rslba']}" for one in element["descs"]
        ]
    return Answer(data=data, raw=raw, lines=lines)


@word("resv-notif-log", "")
def resv_notif_log(target: Target) -> Answer:
    """Reservation Notification: the oldest that was not read."""
    from nvme_emu.observe.nvme_words_logs import resv_notif_log as form
    from nvme_emu.spec.logs import RESERVATION_NOTIFICATION, Lid

    raw = target.log(Lid.RESERVATION_NOTIFICATION, RESERVATION_NOTIFICATION.size)
    data = form(raw)
    return Answer(data=data, raw=raw, lines=lines_of(f"Reservation Notif Log for {DEVICE}:", data))


@word(
    "telemetry-log",
    "",
    click.option("-c", "--controller-init", "own", is_flag=True, help="What the controller recorded when it failed."),
    click.option("-g", "--host-generate", "create", type=click.IntRange(0, 1), default=1, show_default=True),
)
def telemetry_log(target: Target, own: bool, create: int) -> Answer:
    """Telemetry: how the device is, as the device sees it; its data areas hold JSON.

    The host-initiated log is made anew with -g 1, but over --rpc, which changes nothing: there it is what is there.
    """
    from nvme_emu.observe.nvme_words_logs import telemetry_log as form
    from nvme_emu.spec.commands import get_log_page_dwords
    from nvme_emu.spec.logs import TELEMETRY_BLOCK, TELEMETRY_HOST, Lid
    from nvme_emu.spec.opcodes import AdminOpcode
    from nvme_emu.spec.queues import NSID_BROADCAST

    lid = Lid.TELEMETRY_CONTROLLER if own else Lid.TELEMETRY_HOST
    if create and not own:
        anew = get_log_page_dwords(lid, TELEMETRY_BLOCK, lsp=1)._asdict()
        target.admin(AdminOpcode.GET_LOG_PAGE, NSID_BROADCAST, nbytes=TELEMETRY_BLOCK, **anew)
    head = TELEMETRY_HOST.parse(target.log(lid, TELEMETRY_BLOCK))
    blocks = 1 + max(head.da1lb, head.da2lb, head.da3lb)
    raw = _whole(lambda nbytes, offset: target.log(lid, nbytes, offset), blocks * TELEMETRY_BLOCK)
    data = form(raw)
    return Answer(data=data, raw=raw, lines=_nested("Telemetry Log:", data))


@word("persistent-event-log", "")
def persistent_event_log(target: Target) -> Answer:
    """Persistent Event Log: what happened to the device, the newest first."""
    from nvme_emu.observe.nvme_words_logs import persistent_event_log as form
    from nvme_emu.spec.logs import Lid
    from nvme_emu.spec.logs_persistent import PERSISTENT_EVENT_HEADER

    with target.persistent_events() as read:
        head = PERSISTENT_EVENT_HEADER.parse(read(PERSISTENT_EVENT_HEADER.size, 0))
        raw = _whole(read, head.tll)
    data = form(raw)
    assert data["log_id"] == Lid.PERSISTENT_EVENT
    return Answer(data=data, raw=raw, lines=_nested(f"Persistent Event Log for {DEVICE}:", data))
