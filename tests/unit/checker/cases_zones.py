"""How each rule about zones is broken, and how it is nearly broken."""

from __future__ import annotations

from typing import Any

from checkedhost import READ, WRITE, CheckedHost

from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.zns import ZoneSendAction

APPEND, SEND, RECEIVE = (
    int(NvmOpcode.ZONE_APPEND), int(NvmOpcode.ZONE_MANAGEMENT_SEND), int(NvmOpcode.ZONE_MANAGEMENT_RECEIVE)
)  # fmt: skip
ZONE = 128
"""Blocks of a zone, of which `CAPACITY` can be written."""
CAPACITY = 96


def zoned(h: CheckedHost, **config: Any) -> CheckedHost:
    """Ready, with namespace 1 in zones of 64 KiB."""
    h.ctrl.namespaces[1].make_zoned(ZnsConfig(zone_size=ZONE * 512, zone_capacity=CAPACITY * 512, **config))
    h.up(css=6)
    h.number_of_queues()
    h.io = h.pair(1)
    return h


def run(h: CheckedHost, opcode: int, slba: int, **fields: int) -> None:
    h.cid += 1
    h.io.put(opcode, **{"cid": h.cid, "nsid": 1, "cdw10": slba, **fields})
    h.io.ring()
    h.end()


def send(h: CheckedHost, action: int, slba: int, **fields: int) -> None:
    run(h, SEND, slba, **{"cdw13": action, **fields})


def append(h: CheckedHost, slba: int, blocks: int = 8, **fields: int) -> None:
    run(h, APPEND, slba, **{"prp1": h.data, "cdw12": blocks - 1, **fields})


def off_the_pointer(h: CheckedHost) -> None:
    zoned(h).do(WRITE, slba=8)


def written_again(h: CheckedHost) -> None:
    zoned(h).do(WRITE)
    h.do(WRITE)


def full(h: CheckedHost) -> None:
    zoned(h)
    send(h, ZoneSendAction.FINISH, 0)
    h.do(WRITE)


def beyond_capacity(h: CheckedHost) -> None:
    zoned(h)
    for slba in range(0, CAPACITY - 8, 8):
        h.do(WRITE, slba=slba)
    h.do(WRITE, slba=CAPACITY - 8, nlb=16, prp2=h.data + 4096)


def append_to_full(h: CheckedHost) -> None:
    zoned(h)
    send(h, ZoneSendAction.FINISH, 0)
    append(h, 0)


def zeroes_elsewhere(h: CheckedHost) -> None:
    zoned(h)
    run(h, int(NvmOpcode.WRITE_ZEROES), 16, cdw12=7)


def good_write(h: CheckedHost) -> None:
    zoned(h).do(WRITE)
    h.do(WRITE, slba=8)
    append(h, 0)
    send(h, ZoneSendAction.RESET, 0)
    h.do(WRITE)
    for cid, slba in ((50, 8), (51, 16), (52, 24)):  # in a row, none of them awaited
        h.put(WRITE, cid=cid, slba=slba)
    h.io.ring()
    h.end()
    h.do(READ, slba=2 * ZONE - 8)


def across(h: CheckedHost) -> None:
    zoned(h).do(READ, slba=ZONE - 4)


def offline(h: CheckedHost) -> None:
    zoned(h, offline=(1,)).do(READ, slba=ZONE)


def good_across(h: CheckedHost) -> None:
    zoned(h, cross_read=True).do(READ, slba=ZONE - 4)


def too_many_active(h: CheckedHost) -> None:
    zoned(h, max_active=2)
    for zone in range(3):
        h.do(WRITE, slba=zone * ZONE)


def too_many_open(h: CheckedHost) -> None:
    zoned(h, max_open=1)
    send(h, ZoneSendAction.OPEN, 0)
    h.do(WRITE, slba=ZONE)


def good_resources(h: CheckedHost) -> None:
    zoned(h, max_active=2, max_open=1)
    for zone in range(2):
        h.do(WRITE, slba=zone * ZONE)  # the first one is closed for the second
    send(h, ZoneSendAction.FINISH, 0)
    h.do(WRITE, slba=2 * ZONE)


def not_the_start(h: CheckedHost) -> None:
    zoned(h)
    send(h, ZoneSendAction.RESET, 8)


def append_not_at_the_start(h: CheckedHost) -> None:
    zoned(h)
    append(h, 8)


def no_such_transition(h: CheckedHost) -> None:
    zoned(h)
    send(h, ZoneSendAction.CLOSE, 0)


def append_too_much(h: CheckedHost) -> None:
    append(zoned(h, zasl=1), 0, 24, prp2=h.write_list(h.pages(), h.data + 4096, h.data + 8192))


def append_enough(h: CheckedHost) -> None:
    append(zoned(h, zasl=1), 0, 16, prp2=h.data + 4096)


def send_action_reserved(h: CheckedHost) -> None:
    zoned(h)
    send(h, 0x42, 0)


def receive_action_reserved(h: CheckedHost) -> None:
    zoned(h)
    run(h, RECEIVE, 0, prp1=h.data, cdw12=1023, cdw13=5)


def report_option_reserved(h: CheckedHost) -> None:
    zoned(h)
    run(h, RECEIVE, 0, prp1=h.data, cdw12=1023, cdw13=0x99 << 8)


def report_behind_the_end(h: CheckedHost) -> None:
    zoned(h)
    run(h, RECEIVE, 1 << 20, prp1=h.data, cdw12=1023)


def send_bits(h: CheckedHost) -> None:
    zoned(h)
    send(h, ZoneSendAction.RESET, 0, cdw12=1)


def plain_namespace(h: CheckedHost) -> None:
    h.ready()
    send(h, ZoneSendAction.RESET, 0)


def good_actions(h: CheckedHost) -> None:
    zoned(h)
    send(h, ZoneSendAction.OPEN, ZONE)
    send(h, ZoneSendAction.CLOSE, ZONE)
    send(h, ZoneSendAction.RESET, 5, cdw13=ZoneSendAction.RESET | 1 << 8)  # all of them
    run(h, RECEIVE, ZONE + 3, prp1=h.data, cdw12=1023, cdw13=1 << 16)


CASES: dict[str, Any] = {
    "zone-write": (
        [off_the_pointer, written_again, full, beyond_capacity, append_to_full, zeroes_elsewhere], good_write
    ),
    "zone-read": ([across, offline], good_across),
    "zone-resources": ([too_many_active, too_many_open], good_resources),
    "zone-start": ([not_the_start, append_not_at_the_start], good_actions),
    "zone-transition": ([no_such_transition], good_actions),
    "zone-append-limit": ([append_too_much], append_enough),
}

MORE: dict[str, Any] = {
    "reserved-value": [send_action_reserved, receive_action_reserved, report_option_reserved],
    "reserved-field": [send_bits],
    "lba-range": [report_behind_the_end],
    "opcode-unsupported": [plain_namespace],
}
"""Further ways to break rules that have their cases elsewhere."""
