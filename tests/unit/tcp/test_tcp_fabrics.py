"""Connect, properties, Disconnect, keep alive, several hosts and queues: the fabrics front door."""

from __future__ import annotations

import pytest
from tcphost import (
    CC_ENABLE,
    HOST,
    Wire,
    admin,
    capsule,
    connect,
    io,
    io_queue,
    make_target,
    property_get,
    property_set,
    sqe,
)

from nvme_emu.controller import ControllerConfig
from nvme_emu.spec.fabrics import CONNECT, CONNECT_DATA
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE
from nvme_emu.spec.registers import CAP, NSSR_MAGIC, Reg
from nvme_emu.spec.status import FabricsStatus, Status

READ, WRITE, FLUSH = 2, 1, 0
IDENTIFY, KEEP_ALIVE, AER, SET_FEATURES, ABORT = 0x06, 0x18, 0x0C, 0x09, 0x08
SECOND = 1_000_000_000


def identify(wire: Wire) -> dict[str, object]:
    data, _ = wire.command(sqe(IDENTIFY, 9, length=4096, cdw10=1)), None
    return IDENTIFY_CONTROLLER.parse(data[0].data)


def test_connect_admin_makes_a_controller_with_an_identifier_of_its_own() -> None:
    target = make_target()

    _, first = admin(target)
    _, second = admin(target)

    assert first != second
    assert set(target.associations) == {first, second}


@pytest.mark.parametrize(
    ("wrong", "status", "in_data", "offset"),
    [
        ({"subnqn": "nqn.2024-01.org.example:other"}, FabricsStatus.CONNECT_INVALID_PARAM, 1, "subnqn"),
        ({"hostnqn": ""}, FabricsStatus.CONNECT_INVALID_PARAM, 1, "hostnqn"),
        ({"cntlid": 7}, FabricsStatus.CONNECT_INVALID_PARAM, 1, "cntlid"),
        ({"entries": 1}, FabricsStatus.CONNECT_INVALID_PARAM, 0, "sqsize_z"),
        ({"entries": 2000}, FabricsStatus.CONNECT_INVALID_PARAM, 0, "sqsize_z"),
        ({"recfmt": 1}, FabricsStatus.CONNECT_FORMAT, None, None),
    ],
)
def test_connect_admin_with_a_wrong_field_says_which(
    wrong: dict[str, object], status: int, in_data: int | None, offset: str | None
) -> None:
    wire = Wire(make_target())
    wire.start()

    (answer,) = wire.command(*connect(1, 0, **wrong))

    assert answer.status == status
    if offset is not None:
        where = (CONNECT_DATA if in_data else CONNECT).offset_of(offset)
        assert answer.value == where | in_data << 16
    assert not wire.target.associations
    assert wire.session.over is None


def test_connect_io_of_another_host_or_controller_is_refused() -> None:
    target = make_target()
    _, cntlid = admin(target)
    refused = []

    for wrong in ({"hostnqn": HOST + "2"}, {"hostid": bytes(16)}, {"cntlid": cntlid + 1}):
        wire = Wire(target)
        wire.start()
        (answer,) = wire.command(*connect(1, 1, **({"cntlid": cntlid} | wrong)))
        refused.append(answer.status)

    assert refused == [FabricsStatus.CONNECT_INVALID_PARAM] * 3


def test_connect_io_twice_or_beyond_the_granted_queues_is_refused() -> None:
    target = make_target(config=ControllerConfig(io_queues_max=2))
    _, cntlid = admin(target)
    io_queue(target, cntlid, 1)
    wire = Wire(target)
    wire.start()

    assert wire.connect(1, cntlid).status == Status.CMD_SEQ_ERROR
    assert wire.connect(3, cntlid).status == FabricsStatus.CONNECT_INVALID_PARAM
    assert wire.connect(2, cntlid).status == 0


def test_connect_io_before_the_controller_is_enabled_is_a_sequence_error() -> None:
    target = make_target()
    wire = Wire(target)
    wire.start()
    cntlid = wire.connect(0).value & 0xFFFF
    other = Wire(target)
    other.start()

    assert other.connect(1, cntlid).status == Status.CMD_SEQ_ERROR


def test_command_before_connect_is_a_sequence_error_and_connect_still_works() -> None:
    wire = Wire(make_target())
    wire.start()

    (answer,) = wire.command(io(READ, 5, 0, 1))

    assert answer.status == Status.CMD_SEQ_ERROR
    assert wire.connect(0).status == 0
    assert wire.connect(0).status == Status.CMD_SEQ_ERROR


def test_connect_with_its_data_by_r2t_works_too() -> None:
    wire = Wire(make_target())
    wire.start()
    command, data = connect(1, 0, kind=0x5A)
    (wanted,) = wire.command(command)
    tag, offset, length = wanted.transfer

    from tcphost import h2c_data

    (answer,) = wire.feed(h2c_data(1, tag, offset, data, last=True))

    assert (offset, length) == (0, 1024)
    assert answer.status == 0


def test_connect_answers_with_sqhd_ffff_only_without_flow_control() -> None:
    without, with_it = Wire(make_target()), Wire(make_target())
    without.start()
    with_it.start()

    assert without.connect(0).sqhd == 0xFFFF
    assert with_it.connect(0, cattr=0).sqhd == 1


def test_sqhd_with_flow_control_counts_every_command_and_wraps() -> None:
    wire = Wire(make_target())
    wire.start()
    wire.connect(0, cattr=0, entries=4)

    heads = [wire.command(property_get(cid, Reg.VS))[0].sqhd for cid in range(6)]

    assert heads == [2, 3, 0, 1, 2, 3]


def test_allow_list_admits_only_its_hosts_and_shows_only_them_the_subsystem() -> None:
    target = make_target(hosts=frozenset({HOST}))
    other = Wire(target)
    other.start()

    assert other.connect(0, hostnqn=HOST + "2").status == FabricsStatus.CONNECT_INVALID_HOST
    admin(target)
    assert len(target.discovery_entries(HOST, ("127.0.0.1", 4420))) == 1
    assert target.discovery_entries(HOST + "2", ("127.0.0.1", 4420)) == []


# -- properties ---------------------------------------------------------------------------------------------


def test_properties_read_what_the_registers_hold() -> None:
    wire, _ = admin(make_target())

    (cap,) = wire.command(property_get(3, Reg.CAP, wide=True))
    (version,) = wire.command(property_get(4, Reg.VS))
    (csts,) = wire.command(property_get(5, Reg.CSTS))

    assert CAP.unpack(cap.value).mqes_z == 1023
    assert version.value == 0x0002_0100
    assert csts.value & 1


@pytest.mark.parametrize(
    "entry",
    [
        property_get(3, Reg.CAP),
        property_get(3, Reg.VS, wide=True),
        property_get(3, Reg.ASQ, wide=True),
        property_get(3, 0x1000),
        property_set(3, Reg.CAP, 0),
        property_set(3, Reg.VS, 0),
        property_set(3, Reg.AQA, 0),
        sqe(0x7F, 3, nsid=4, cdw10=7, cdw11=Reg.VS),
    ],
)
def test_property_that_a_fabric_controller_has_not_is_an_invalid_field(entry: bytes) -> None:
    wire, _ = admin(make_target())

    (answer,) = wire.command(entry)

    assert answer.status == Status.INVALID_FIELD


def test_property_commands_on_an_io_queue_are_refused() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)

    (answer,) = wire.command(property_get(3, Reg.VS))

    assert answer.status == Status.INVALID_OPCODE


def test_admin_command_of_a_disabled_controller_is_a_sequence_error() -> None:
    wire = Wire(make_target())
    wire.start()
    wire.connect(0)

    (answer,) = wire.command(sqe(IDENTIFY, 9, length=4096, cdw10=1))

    assert answer.status == Status.CMD_SEQ_ERROR


def test_disable_ends_io_queues_and_enable_serves_the_admin_queue_again() -> None:
    target = make_target()
    wire, cntlid = admin(target)
    queue = io_queue(target, cntlid)
    wire.command(sqe(AER, 100))

    wire.command(property_set(3, 0x14, 0))
    (csts,) = wire.command(property_get(4, Reg.CSTS))
    wire.command(property_set(5, 0x14, CC_ENABLE))

    assert csts.value & 1 == 0
    assert queue.ended == "the controller was reset"
    assert identify(wire)["cntlid"] == cntlid


def test_subsystem_reset_ends_every_association_of_it() -> None:
    target = make_target()
    wire, _ = admin(target)
    other, _ = admin(target)

    (answer,) = wire.command(property_set(3, Reg.NSSR, NSSR_MAGIC))

    assert answer.status == 0
    assert wire.ended == other.ended == "NVM subsystem reset"
    assert not target.associations


def test_shutdown_by_property_reaches_its_end() -> None:
    wire, _ = admin(make_target())

    wire.command(property_set(3, 0x14, CC_ENABLE | 1 << 14))
    (csts,) = wire.command(property_get(4, Reg.CSTS))

    assert csts.value >> 2 & 3 == 2


# -- Identify and commands ----------------------------------------------------------------------------------


def test_identify_tells_what_a_fabric_host_must_know() -> None:
    target = make_target()
    wire, cntlid = admin(target)

    data = identify(wire)

    assert data["cntlid"] == cntlid
    assert data["subnqn"] == "nqn.2024-01.org.example:ssd"
    assert (data["ioccsz"], data["iorcsz"], data["icdoff"]) == ((64 + 16384) // 16, 1, 0)
    assert data["kas"] == 10
    assert data["sgls"] & 0b11
    assert data["maxcmd"] == 1024
    assert data["cntrltype"] == 1


def test_namespace_is_shared_among_the_controllers_of_its_subsystem() -> None:
    wire, _ = admin(make_target())

    (answer,) = wire.command(sqe(IDENTIFY, 9, nsid=1, length=4096, cdw10=0))

    assert IDENTIFY_NAMESPACE.parse(answer.data).nmic == 1


@pytest.mark.parametrize("opcode", [0x00, 0x01, 0x04, 0x05, 0x7C])
def test_queue_management_commands_do_not_exist_over_fabrics(opcode: int) -> None:
    wire, _ = admin(make_target())

    (answer,) = wire.command(sqe(opcode, 3))

    assert answer.status == Status.INVALID_OPCODE


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        (io(READ, 1, 0, 1, length=256), Status.SGL_INVALID_DATA),
        (io(READ, 1, 0, 1, kind=0x01), Status.SGL_INVALID_TYPE),
        (io(WRITE, 1, 0, 1, kind=0x01), Status.SGL_INVALID_OFFSET),
        (io(READ, 1, 0, 1, kind=0x00), Status.SGL_INVALID_TYPE),
        (sqe(READ, 1, nsid=1, length=512, flags=0x00), Status.INVALID_FIELD),
        (sqe(READ, 1, nsid=1, length=512, flags=0x80), Status.INVALID_FIELD),
        (sqe(READ, 1, nsid=1, length=512, flags=0x41), Status.INVALID_FIELD),
        (sqe(READ, 1, nsid=9, length=512), Status.INVALID_FIELD),
        (sqe(READ, 1, nsid=99, length=512), Status.INVALID_NS),
        (io(READ, 1, 2048, 1), Status.LBA_RANGE),
        (io(READ, 1, 0, 4096), Status.INVALID_FIELD),
        (io(0x9A, 1, 0, 1), Status.INVALID_OPCODE),
        (sqe(WRITE, 1, nsid=1, length=0xFFFF_FFFF, cdw12=0xFFFF), Status.INVALID_FIELD),
    ],
)
def test_io_command_that_is_wrong_gets_its_status_and_the_queue_goes_on(entry: bytes, status: int) -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)

    (answer,) = wire.command(entry)

    assert answer.status == status
    assert wire.command(sqe(FLUSH, 2, nsid=1))[0].status == 0


def test_sgl_longer_than_the_data_moves_only_the_data() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)

    (answer,) = wire.command(io(READ, 1, 0, 1, length=4096))

    assert len(answer.data) == 512


def test_command_identifier_in_use_is_a_conflict() -> None:
    wire, _ = admin(make_target())
    wire.command(sqe(AER, 7))

    (answer,) = wire.command(sqe(KEEP_ALIVE, 7))

    assert answer.status == Status.CMDID_CONFLICT


def test_more_commands_than_the_queue_has_entries_end_the_connection() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)
    write = io(WRITE, 0, 0, 1)

    wire.feed(b"".join(capsule(write[:2] + cid.to_bytes(2, "little") + write[4:]) for cid in range(33)))

    assert wire.session.over is not None
    assert "more than 32 commands" in wire.session.over


def test_as_many_commands_as_entries_are_served() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)

    answers = wire.feed(b"".join(capsule(io(READ, cid, cid, 1)) for cid in range(32)))

    assert sorted(answer.cid for answer in answers) == list(range(32))
    assert wire.session.over is None


def test_abort_of_an_asynchronous_event_request_ends_it() -> None:
    wire, _ = admin(make_target())
    wire.command(sqe(AER, 7))

    answers = wire.command(sqe(ABORT, 8, cdw10=7 << 16))

    assert {answer.cid: answer.status for answer in answers} == {7: Status.ABORT_REQ, 8: 0}


def test_namespace_change_wakes_the_admin_queue_of_every_host() -> None:
    target = make_target()
    wires = [admin(target) for _ in range(2)]
    for wire, _ in wires:
        wire.command(sqe(SET_FEATURES, 3, cdw10=0x0B, cdw11=1 << 8))
        wire.command(sqe(AER, 7))

    for association in target.associations.values():
        association.controller.logs.namespace_changed(1)
    assert target.next_deadline() is not None
    target.work(2)

    for wire, _ in wires:
        assert wire.woken
        (event,) = wire.turn()
        assert event.cid == 7
        assert event.value == 0x04_00_02


# -- ends ---------------------------------------------------------------------------------------------------


def test_disconnect_of_an_io_queue_lets_it_be_connected_again() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)

    (answer,) = wire.command(sqe(0x7F, 3, nsid=8))
    wire.session.queue.close("closed by the host")

    assert answer.status == 0
    assert wire.session.over == "the host disconnects"
    again = io_queue(target, cntlid)
    assert again.command(io(READ, 1, 0, 1))[0].data == bytes(512)


def test_disconnect_of_the_admin_queue_is_an_invalid_queue_type() -> None:
    wire, _ = admin(make_target())

    (answer,) = wire.command(sqe(0x7F, 3, nsid=8))

    assert answer.status == FabricsStatus.DISCONNECT_INVALID_QTYPE
    assert wire.session.over is None


def test_end_of_the_admin_connection_ends_the_association_alone() -> None:
    target = make_target()
    first, cntlid = admin(target)
    queue = io_queue(target, cntlid)
    second, _ = admin(target)

    first.session.queue.close("closed by the host")

    assert queue.ended is not None
    assert second.ended is None
    assert len(target.associations) == 1


def test_keep_alive_expires_without_traffic_and_not_with_it() -> None:
    target = make_target()
    wire, _ = admin(target, kato=5000)
    wire.now_ns = 3 * SECOND
    wire.command(sqe(KEEP_ALIVE, 3))

    target.work(7 * SECOND)
    alive = wire.ended
    assert target.next_deadline() == 8 * SECOND
    target.work(8 * SECOND)

    assert alive is None
    assert wire.ended == "keep alive: nothing heard for 5000 ms"
    assert not target.associations


def test_keep_alive_is_restarted_by_io_too_and_changed_by_set_features() -> None:
    target = make_target()
    wire, cntlid = admin(target, kato=1000)
    queue = io_queue(target, cntlid)
    wire.command(sqe(SET_FEATURES, 3, cdw10=0x0F, cdw11=4500))
    queue.now_ns = 2 * SECOND
    queue.command(io(READ, 1, 0, 1))

    assert target.next_deadline() == 7 * SECOND


def test_closed_io_queue_leaves_nothing_behind() -> None:
    target = make_target()
    _, cntlid = admin(target)
    association = target.associations[cntlid]
    regions = len(association.memory.regions)

    for _ in range(5):
        wire = io_queue(target, cntlid)
        wire.command(io(READ, 1, 0, 8))
        wire.command(io(WRITE, 2, 0, 64))
        wire.session.queue.close("closed by the host")

    assert len(association.memory.regions) == regions
    assert set(association.controller.rings.sqs) == {0}


def test_counters_of_a_subsystem_outlive_its_controllers() -> None:
    target = make_target()
    first, cntlid = admin(target)
    io_queue(target, cntlid).command(io(READ, 1, 0, 8))
    first.session.queue.close("closed by the host")
    _, cntlid = admin(target)
    io_queue(target, cntlid).command(io(READ, 1, 0, 8))

    counters = next(iter(target.subsystems.values())).counters

    assert counters.read_commands == 2
    assert counters.read_bytes == 8192
