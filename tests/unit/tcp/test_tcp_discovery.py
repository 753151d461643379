"""The discovery controller: who may see what, its log page, and its event."""

from __future__ import annotations

import pytest
from tcphost import HOST, NQN, Wire, admin, connect, make_target, sqe

from nvme_emu.controller import ControllerConfig
from nvme_emu.controller.fabrics import Subsystem
from nvme_emu.spec.fabrics import DISCOVERY_ENTRY, DISCOVERY_HEADER, DISCOVERY_NQN
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER
from nvme_emu.spec.status import FabricsStatus, Status

GET_LOG, IDENTIFY, SET_FEATURES, AER, KEEP_ALIVE = 0x02, 0x06, 0x09, 0x0C, 0x18
OTHER = "nqn.2024-01.org.example:other"


def log_page(wire: Wire, nbytes: int, *, offset: int = 0, lid: int = 0x70) -> bytes:
    dwords_z = nbytes // 4 - 1
    (answer,) = wire.command(
        sqe(GET_LOG, 5, length=nbytes, cdw10=lid | (dwords_z & 0xFFFF) << 16, cdw11=dwords_z >> 16, cdw12=offset)
    )
    assert answer.data, hex(answer.status)
    return answer.data


def test_discovery_log_names_the_subsystem_and_where_the_host_came_to() -> None:
    target = make_target()
    wire, _ = admin(target, subnqn=DISCOVERY_NQN)

    page = log_page(wire, 2048)

    head, entry = DISCOVERY_HEADER.parse(page), DISCOVERY_ENTRY.parse(page[1024:])
    assert (head.numrec, head.recfmt) == (1, 0)
    assert (entry.trtype, entry.adrfam, entry.subtype, entry.cntlid) == (3, 1, 2, 0xFFFF)
    assert entry.subnqn == NQN
    assert entry.traddr.split() == [b"127.0.0.1"]
    assert entry.trsvcid.split() == [b"4420"]


def test_discovery_log_is_read_in_pieces_as_hosts_do() -> None:
    wire, _ = admin(make_target(), subnqn=DISCOVERY_NQN)

    whole = log_page(wire, 2048)

    assert log_page(wire, 1024) + log_page(wire, 1024, offset=1024) == whole


def test_discovery_log_hides_what_the_host_may_not_use() -> None:
    target = make_target(hosts=frozenset({HOST + "2"}))
    wire, _ = admin(target, subnqn=DISCOVERY_NQN)

    assert DISCOVERY_HEADER.parse(log_page(wire, 1024)).numrec == 0


def test_discovery_change_moves_the_generation_and_tells_the_host_once() -> None:
    target = make_target()
    wire, _ = admin(target, subnqn=DISCOVERY_NQN)
    wire.command(sqe(SET_FEATURES, 3, cdw10=0x0B, cdw11=1 << 31))
    wire.command(sqe(AER, 7))
    before = DISCOVERY_HEADER.parse(log_page(wire, 1024)).genctr

    target.add_subsystem(Subsystem(config=ControllerConfig(), namespaces=[], nqn=OTHER))
    target.work(2)

    (event,) = wire.turn()
    assert (event.cid, event.value) == (7, 0x70_F0_02)
    page = log_page(wire, 3072)
    assert DISCOVERY_HEADER.parse(page).genctr > before
    assert DISCOVERY_ENTRY.parse(page[2048:]).subnqn == OTHER
    assert wire.command(sqe(AER, 7)) == []


def test_discovery_controller_identifies_itself_and_has_few_commands() -> None:
    wire, _ = admin(make_target(), subnqn=DISCOVERY_NQN)

    (answer,) = wire.command(sqe(IDENTIFY, 3, length=4096, cdw10=1))
    fields = IDENTIFY_CONTROLLER.parse(answer.data)

    assert (fields.cntrltype, fields.nn, fields.subnqn) == (2, 0, DISCOVERY_NQN)
    assert wire.command(sqe(KEEP_ALIVE, 4))[0].status == 0
    assert wire.command(sqe(IDENTIFY, 4, length=4096, cdw10=2))[0].status == Status.INVALID_FIELD
    assert wire.command(sqe(GET_LOG, 4, length=512, cdw10=2 | 127 << 16))[0].status == Status.INVALID_LOG_PAGE
    assert wire.command(sqe(0x80, 4))[0].status == Status.INVALID_OPCODE


def test_discovery_controller_has_no_io_queues() -> None:
    target = make_target()
    _, cntlid = admin(target, subnqn=DISCOVERY_NQN)
    wire = Wire(target)
    wire.start()

    (answer,) = wire.command(*connect(1, 1, cntlid, subnqn=DISCOVERY_NQN))

    assert answer.status == FabricsStatus.CONNECT_INVALID_PARAM


def test_removed_subsystem_ends_its_associations() -> None:
    target = make_target()
    wire, _ = admin(target)
    target.remove_subsystem(NQN)

    assert wire.ended == "the subsystem was removed"
    with pytest.raises(KeyError):
        target.remove_subsystem(NQN)
