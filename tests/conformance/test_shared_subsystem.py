"""Several controllers of one subsystem: what one host does, and what the other sees and hears of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from nvmehost import BROADCAST, NQN, QUICK, SIZE, NvmeHost, tcp_host

import nvme_emu
from nvme_emu.controller import ControllerConfig, Namespace
from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.media import RamMedia
from nvme_emu.spec.ana import AnaState
from nvme_emu.spec.endurance import ENDURANCE_GROUP_AGGREGATE, ENDURANCE_GROUP_LOG
from nvme_emu.spec.events import AsyncEventType, AsyncIoCommandSetInfo, AsyncNoticeInfo, async_event_dw0
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, Fid
from nvme_emu.spec.identify import CMIC, IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE, NMIC, Cns
from nvme_emu.spec.logs import SANITIZE_STATUS, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import CSTS, NSSR_MAGIC, Reg
from nvme_emu.spec.status import Status
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.tcp import TcpServer, TcpServerConfig

READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE
GROUPS = 2
CONFIG = replace(QUICK, ana_groups=GROUPS)
PAIRS = ("inproc", "inproc-pure", "inproc-virtual", "inproc-tlc", "tcp")
NOTICE = AsyncEventType.NOTICE


class Pair(NamedTuple):
    """Two hosts; ``set_ana(group, state, host)`` sets what the second argument says for one of them.

    ``change(fn)`` calls ``fn(controllers)`` where the device may be changed, and lets the hosts hear of it.
    """

    hosts: tuple[NvmeHost, NvmeHost]
    set_ana: Callable[[int, str, int], None]
    change: Callable[[Callable[[list[Any]], None]], None]
    heard: tuple[list[int], list[int]]

    def wait_for(self, host: int, dw0: int) -> None:
        """Let time pass until a host has handled an event."""
        self.hosts[host].until(lambda: dw0 in self.heard[host])


@contextmanager
def in_process(kind: str, config: ControllerConfig) -> Iterator[Pair]:
    options: dict[str, Any] = {}
    if kind in ("inproc-virtual", "inproc-tlc"):
        options["clock"] = "virtual"
    if kind == "inproc-tlc":
        options["profile"] = "tlc"
    with nvme_emu.open(size=2 * SIZE, namespaces=2, controllers=2, controller=config, **options) as machine:
        heard: tuple[list[int], list[int]] = ([], [])
        hosts = []
        for one, events in zip(machine.hosts, heard, strict=True):
            if kind == "inproc-pure":
                one.controller.compiled = False
            one.driver.on_aen = events.append
            host = NvmeHost(machine)
            host.driver = one.driver
            hosts.append(host)

        def change(act: Callable[[list[Any]], None]) -> None:
            with machine.port.lock:
                act([one.controller for one in machine.hosts])
            machine.port.poll()

        yield Pair((hosts[0], hosts[1]), lambda g, s, h: machine.set_ana_state(g, s, host=h), change, heard)


@contextmanager
def over_tcp(config: ControllerConfig) -> Iterator[Pair]:
    """Two ports of one subsystem, a host at each."""
    import threading

    namespaces = [Namespace(nsid, RamMedia(SIZE), 512) for nsid in (1, 2)]
    first = Subsystem(config=config, namespaces=namespaces, nqn=NQN)
    second = Subsystem(
        config=replace(config, port=2), namespaces=namespaces, nqn=NQN, state=first.nvm, counters=first.counters
    )
    loop = Loop()
    targets = [FabricsTarget([one]) for one in (first, second)]
    servers = [TcpServer(loop, one, TcpServerConfig(port=0), log=lambda line: None) for one in targets]
    thread = threading.Thread(target=loop.run)
    thread.start()

    def change(act: Callable[[list[Any]], None]) -> None:
        done = threading.Event()

        def inside() -> None:
            act([one.controller for target in targets for one in target.associations.values()])
            done.set()

        loop.call_soon(inside)
        assert done.wait(30)

    urls = [f"nvme-tcp://127.0.0.1:{server.address[1]}/{NQN}" for server in servers]
    try:
        with tcp_host(urls[0], 1) as a, tcp_host(urls[1], 2) as b:
            heard: tuple[list[int], list[int]] = ([], [])
            for host, events in zip((a, b), heard, strict=True):
                host.driver.on_aen = events.append

            def set_ana(group: int, state: str, host: int) -> None:
                change(lambda _: first.nvm.ana.set(group, state, port=host + 1))

            yield Pair((a, b), set_ana, change, heard)
    finally:
        loop.stop()
        thread.join(10)
        for server in servers:
            server.close()
        loop.close()


@contextmanager
def pair_of(kind: str, config: ControllerConfig = CONFIG) -> Iterator[Pair]:
    with over_tcp(config) if kind == "tcp" else in_process(kind, config) as found:
        yield found


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair_of(request.param) as found:
        yield found


def want(host: NvmeHost, *notices: str) -> None:
    """Have the controller send these notices, and what is critical."""
    value = ASYNC_EVENT_CONFIG.mask(*notices) | 0x3F
    assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, value).status == 0


# One subsystem -----------------------------------------------------------------------------------------


def test_controllers_are_told_apart_and_share_everything(pair: Pair) -> None:
    a, b = pair.hosts
    assert a.cntlid != b.cntlid
    found = [IDENTIFY_CONTROLLER.parse(one.identify(Cns.CONTROLLER).data) for one in pair.hosts]
    assert found[0].subnqn == found[1].subnqn
    assert found[0].sn == found[1].sn
    assert all(CMIC.unpack(one.cmic)[:2] == (1, 1) for one in found)
    both = sorted([a.cntlid, b.cntlid])
    for one in pair.hosts:
        listed = struct.unpack_from("<3H", one.identify(Cns.CONTROLLER_LIST).data)
        assert listed == (2, *both)
        assert struct.unpack_from("<3H", one.identify(Cns.NAMESPACE_CONTROLLER_LIST, 1).data) == (2, *both)
        assert NMIC["shrns"].extract(IDENTIFY_NAMESPACE.parse(one.identify(Cns.NAMESPACE, 1).data).nmic) == 1


def test_data_of_one_is_read_by_the_other(pair: Pair) -> None:
    a, b = pair.hosts
    for turn in range(8):
        data = bytes([turn]) * 2048
        assert a.io(WRITE, slba=turn, data=data, cdw12=3).status == 0
        assert b.io(READ, slba=turn, nbytes=2048, cdw12=3).data == data
        a, b = b, a
    assert b.io(NvmOpcode.COMPARE, slba=7, data=bytes([7]) * 512).status == 0


def test_attachment_is_of_each_controller(pair: Pair) -> None:
    a, b = pair.hosts
    want(b, "nan", "ansan")
    listed = struct.pack("<2H", 1, b.cntlid).ljust(4096, b"\0")
    assert a.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 2, cdw10=1, data=listed).status == 0

    pair.wait_for(1, async_event_dw0(NOTICE, AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED, Lid.CHANGED_NAMESPACES))
    assert a.io(READ, 2, nbytes=512).status == 0
    assert b.io(READ, 2, nbytes=512).status == Status.INVALID_FIELD
    assert struct.unpack_from("<2H", a.identify(Cns.NAMESPACE_CONTROLLER_LIST, 2).data) == (1, a.cntlid)
    assert a.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 2, cdw10=1, data=listed).status == Status.NS_NOT_ATTACHED
    assert a.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 2, cdw10=0, data=listed).status == 0
    assert b.io(READ, 2, nbytes=512).status == 0


def test_format_of_one_is_seen_by_the_other(pair: Pair) -> None:
    a, b = pair.hosts
    want(b, "nan")
    assert b.io(WRITE, data=b"x" * 512).status == 0
    assert a.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=1).status == 0
    pair.wait_for(1, async_event_dw0(NOTICE, AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED, Lid.CHANGED_NAMESPACES))
    assert b.io(READ, nbytes=4096).data == bytes(4096)
    assert b.driver.namespaces[1].lba_size == 4096


def test_sanitize_of_one_stops_the_other_and_tells_it(pair: Pair) -> None:
    a, b = pair.hosts
    assert b.io(WRITE, data=b"x" * 512).status == 0
    assert a.admin(AdminOpcode.SANITIZE, cdw10=2).status == 0
    assert b.io(READ, nbytes=512).status == Status.SANITIZE_IN_PROGRESS
    done = async_event_dw0(
        AsyncEventType.IO_COMMAND_SET, AsyncIoCommandSetInfo.SANITIZE_COMPLETED, Lid.SANITIZE_STATUS
    )
    pair.wait_for(1, done)
    assert SANITIZE_STATUS.parse(b.log(Lid.SANITIZE_STATUS)).sprog == 0xFFFF
    assert b.io(READ, nbytes=512).data == bytes(512)


def test_reservation_of_one_keeps_the_other_out(pair: Pair) -> None:
    a, b = pair.hosts
    for number, one in enumerate(pair.hosts, 1):
        if not any(one.feature(Fid.HOST_IDENTIFIER, cdw11=1, nbytes=16).data):
            assert one.set_feature(Fid.HOST_IDENTIFIER, 1, data=number.to_bytes(16, "little")).status == 0
    assert a.io(NvmOpcode.RESERVATION_REGISTER, data=struct.pack("<QQ", 0, 1)).status == 0
    assert b.io(NvmOpcode.RESERVATION_REGISTER, data=struct.pack("<QQ", 0, 2)).status == 0
    assert a.io(NvmOpcode.RESERVATION_ACQUIRE, cdw10=1 << 8, data=struct.pack("<QQ", 1, 0)).status == 0

    assert b.io(WRITE, data=bytes(512)).status == Status.RESERVATION_CONFLICT
    assert b.io(READ, nbytes=512).status == 0
    assert a.io(WRITE, data=bytes(512)).status == 0

    # b takes it away, and a hears of that.
    assert b.io(NvmOpcode.RESERVATION_ACQUIRE, cdw10=1 | 1 << 8, data=struct.pack("<QQ", 2, 1)).status == 0
    pair.wait_for(
        0,
        async_event_dw0(
            AsyncEventType.IO_COMMAND_SET,
            AsyncIoCommandSetInfo.RESERVATION_LOG_AVAILABLE,
            Lid.RESERVATION_NOTIFICATION,
        ),
    )
    assert a.io(WRITE, data=bytes(512)).status == Status.RESERVATION_CONFLICT
    assert b.io(WRITE, data=bytes(512)).status == 0


def test_firmware_activation_is_told_to_all_and_stops_all(pair: Pair) -> None:
    a, b = pair.hosts
    want(b, "fan")
    assert a.admin(AdminOpcode.FIRMWARE_COMMIT, cdw10=1 | 3 << 3).status == 0
    pair.wait_for(1, async_event_dw0(NOTICE, AsyncNoticeInfo.FIRMWARE_ACTIVATION_STARTING, Lid.FIRMWARE_SLOT))
    assert b.io(READ, nbytes=512).status == 0
    assert a.io(READ, nbytes=512).status == 0


@pytest.mark.parametrize("kind", PAIRS[:4])
def test_subsystem_reset_is_one_of_all_controllers(kind: str) -> None:
    with pair_of(kind) as pair:
        a, _ = pair.hosts
        assert a.io(WRITE, data=b"kept" * 128).status == 0
        a.driver.port.write32(Reg.NSSR, NSSR_MAGIC)
        for one in pair.hosts:
            status = CSTS.unpack(one.driver.port.read32(Reg.CSTS))
            assert (status.rdy, status.nssro) == (0, 1)
        for one in pair.hosts:
            one.driver.reset()
            assert one.io(READ, nbytes=512).data == b"kept" * 128


# ANA ---------------------------------------------------------------------------------------------------

ANA_EVENT = async_event_dw0(NOTICE, AsyncNoticeInfo.ANA_CHANGE, Lid.ANA)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("non-optimized", 0),
        ("inaccessible", Status.ANA_INACCESSIBLE),
        ("persistent-loss", Status.ANA_PERSISTENT_LOSS),
        ("change", Status.ANA_TRANSITION),
    ],
)
def test_ana_state_is_of_one_port(pair: Pair, state: str, status: int) -> None:
    a, b = pair.hosts
    assert a.io(WRITE, data=b"x" * 512).status == 0
    size = IDENTIFY_NAMESPACE.parse(b.identify(Cns.NAMESPACE, 1).data).nvmcap
    assert b.driver.namespaces[1].ana_state is AnaState.OPTIMIZED

    pair.set_ana(1, state, 1)

    pair.wait_for(1, ANA_EVENT)
    assert b.driver.namespaces[1].ana_state.words == state
    assert b.driver.namespaces[2].ana_state is AnaState.OPTIMIZED
    for opcode in (READ, WRITE, NvmOpcode.FLUSH, NvmOpcode.COMPARE, NvmOpcode.WRITE_ZEROES, NvmOpcode.VERIFY):
        moves = {"data": b"x" * 512} if opcode in (WRITE, NvmOpcode.COMPARE) else {}
        moves |= {"nbytes": 512} if opcode == READ else {}
        assert b.io(opcode, **moves).status == status, opcode
        assert b.io(opcode, 2, **moves).status in (0, Status.COMPARE_FAILED)
    assert a.io(READ, nbytes=512).status == 0
    assert ANA_EVENT not in pair.heard[0]

    capacity = IDENTIFY_NAMESPACE.parse(b.identify(Cns.NAMESPACE, 1).data)
    lost = state in ("inaccessible", "persistent-loss")
    assert (capacity.nvmcap, bool(capacity.nuse)) == ((0, False) if lost else (size, True))
    assert capacity.nsze == SIZE // 512
    assert b.feature(Fid.ERROR_RECOVERY, nsid=1).status == status
    assert b.set_feature(Fid.ERROR_RECOVERY, 1, nsid=1).status == status
    assert b.feature(Fid.ERROR_RECOVERY, nsid=2).status == 0
    assert a.feature(Fid.ERROR_RECOVERY, nsid=1).status == 0
    assert b.admin(AdminOpcode.FORMAT_NVM, 1).status == status

    pair.heard[1].clear()
    pair.set_ana(1, "optimized", 1)
    pair.wait_for(1, ANA_EVENT)
    assert b.io(READ, nbytes=512).status == 0


def test_ana_log_counts_its_changes_from_each_reset(pair: Pair) -> None:
    _, b = pair.hosts
    b.driver.on_aen = None
    want(b)  # not of ANA
    pair.set_ana(1, "inaccessible", 1)
    pair.set_ana(2, "non-optimized", 1)
    before = struct.unpack_from("<Q", b.log(Lid.ANA, 512, rae=True))[0]
    pair.set_ana(2, "non-optimized", 1)  # no change
    assert struct.unpack_from("<Q", b.log(Lid.ANA, 512, rae=True))[0] == before == 2
    b.driver.reset()
    assert struct.unpack_from("<Q", b.log(Lid.ANA, 512, rae=True))[0] == 0
    assert b.driver.ana.states == {1: AnaState.INACCESSIBLE, 2: AnaState.NON_OPTIMIZED}


def test_ana_group_of_a_namespace_can_change(pair: Pair) -> None:
    _, b = pair.hosts
    pair.set_ana(2, "inaccessible", 1)
    pair.wait_for(1, ANA_EVENT)
    pair.heard[1].clear()
    pair.change(lambda controllers: controllers[0].subsystem.ana.move(1, 2))
    pair.wait_for(1, ANA_EVENT)
    assert b.io(READ, nbytes=512).status == Status.ANA_INACCESSIBLE
    assert IDENTIFY_NAMESPACE.parse(b.identify(Cns.NAMESPACE, 1).data).anagrpid == 2


@pytest.mark.parametrize(("group", "state"), [(0, "change"), (GROUPS + 1, "change"), (1, "gone"), (1, 7)])
def test_ana_state_or_group_that_there_is_not_is_a_value_error(group: int, state: str | int) -> None:
    with nvme_emu.open(size=SIZE, controller=CONFIG) as machine, pytest.raises(ValueError, match=r"ANA"):
        machine.set_ana_state(group, state)


# Endurance group ---------------------------------------------------------------------------------------


def test_endurance_group_event_is_told_to_those_who_asked(pair: Pair) -> None:
    a, b = pair.hosts
    want(a, "egealcn")
    want(b, "egealcn")
    assert b.set_feature(Fid.ENDURANCE_GROUP_EVENT_CONFIG, 1 | 0b101 << 16).status == 0

    def wear_out(controllers: list[Any]) -> None:
        for ctrl in controllers:
            ctrl.logs.health.available_spare = 3

    pair.change(wear_out)

    pair.wait_for(
        1, async_event_dw0(NOTICE, AsyncNoticeInfo.ENDURANCE_GROUP_EVENT, Lid.ENDURANCE_GROUP_AGGREGATE)
    )
    assert struct.unpack_from("<QH", b.log(Lid.ENDURANCE_GROUP_AGGREGATE, 16)) == (1, 1)
    assert ENDURANCE_GROUP_AGGREGATE.parse(a.log(Lid.ENDURANCE_GROUP_AGGREGATE, 16)).nent == 0
    assert ENDURANCE_GROUP_LOG.parse(b.log(Lid.ENDURANCE_GROUP, lsi=1, rae=True)).egcw == 1
    assert ENDURANCE_GROUP_AGGREGATE.parse(b.log(Lid.ENDURANCE_GROUP_AGGREGATE, 16)).nent == 1
    assert ENDURANCE_GROUP_LOG.parse(b.log(Lid.ENDURANCE_GROUP, lsi=1)).avsp == 3
    assert ENDURANCE_GROUP_AGGREGATE.parse(b.log(Lid.ENDURANCE_GROUP_AGGREGATE, 16)).nent == 0
    assert b.log(Lid.SMART_HEALTH)[6] == 1


def test_counts_are_those_of_both_controllers(pair: Pair) -> None:
    a, b = pair.hosts
    before = ENDURANCE_GROUP_LOG.parse(a.log(Lid.ENDURANCE_GROUP, lsi=1)).hwc
    for one in pair.hosts:
        assert one.io(WRITE, data=bytes(512)).status == 0
    assert ENDURANCE_GROUP_LOG.parse(b.log(Lid.ENDURANCE_GROUP, lsi=1)).hwc == before + 2
    assert a.admin(AdminOpcode.IDENTIFY, BROADCAST, nbytes=4096, cdw10=0).status == 0
