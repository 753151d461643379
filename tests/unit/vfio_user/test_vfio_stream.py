"""The stream under the messages: pieces, joins, ends in the middle, garbage; and who else is hurt by it."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vfioclient import PAGE, Client, Clock, Gone, GuestMemory, NvmeHost, Rig, open_fds

from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.vfio_user import (
    DMA_MAP,
    HEADER,
    HEADER_BYTES,
    REGION_ACCESS,
    VERSION,
    Command,
    MessageFlag,
)
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.vfio_user.server import GREETING_NS, UNSENT_BYTES_MAX
from nvme_emu.transports.vfio_user.session import MESSAGE_BYTES_MAX, Session
from nvme_emu.transports.vfio_user.session_states import TRANSITIONS, Action, Input, State

READ_VS = REGION_ACCESS.pack(8, 0, 4)


class Nobody:
    """A handler that refuses to exist: for sessions whose requests do not come through."""

    regions = irq_kinds = 0


def greeting() -> bytes:
    return HEADER.pack(1, Command.VERSION, HEADER_BYTES + 4, 0, 0) + VERSION.build(minor=1)


# -- the state table ----------------------------------------------------------------------------------------


def test_table_names_every_state_with_every_input() -> None:
    assert set(TRANSITIONS) == {(state, what) for state in State for what in Input}


def test_table_never_leaves_closed_and_opens_only_by_a_version() -> None:
    for (state, what), (after, action) in TRANSITIONS.items():
        if state is State.CLOSED:
            assert (after, action) == (State.CLOSED, Action.NOTHING)
        if after is State.OPEN and state is not State.OPEN:
            assert what is Input.VERSION
        if what is Input.BROKEN:
            assert after is State.CLOSED


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("what", list(Input))
def test_session_does_what_the_table_says(state: State, what: Input) -> None:
    session = Session(Nobody(), lambda line: None)  # type: ignore[arg-type]
    if state is not State.NEW:
        session.receive(greeting(), [])
    if state is State.CLOSED:
        session.close("test")
    session.output.clear()
    data = {
        Input.VERSION: greeting(),
        Input.REQUEST: HEADER.pack(2, 999, HEADER_BYTES, 0, 0),
        Input.REPLY: HEADER.pack(2, Command.DMA_READ, HEADER_BYTES, MessageFlag.REPLY, 0),
        Input.BROKEN: HEADER.pack(2, Command.VERSION, HEADER_BYTES - 1, 0, 0),
    }[what]
    session.receive(data, [])
    after, action = TRANSITIONS[state, what]
    if action is Action.MATCH:
        after = State.CLOSED  # nothing of ours can be answered here
    assert session.state is after
    answers = {Action.NEGOTIATE: 1, Action.REFUSE: 1, Action.SERVE: 1}.get(action, 0)
    assert len(session.output) == answers


# -- pieces -------------------------------------------------------------------------------------------------


def test_messages_byte_by_byte_mean_the_same(rig: Rig) -> None:
    client = rig.connect()
    for number in greeting():
        client.send(bytes([number]))
        rig.turn(1)
    assert client.reply(1).errno == 0
    for number in client.message(Command.REGION_READ, READ_VS):
        client.send(bytes([number]))
        rig.turn(1)
    assert client.reply(client.next_id).data[16:] == b"\0\1\2\0"


def test_many_messages_at_once_are_answered_in_order(client: Client) -> None:
    batch = b"".join(client.message(Command.REGION_READ, REGION_ACCESS.pack(n, 7, 1)) for n in range(200))
    first = client.next_id - 199
    client.send(batch)
    for number in range(200):
        assert client.reply(first + number).data[:8] == struct.pack("<Q", number)


def test_large_reads_come_whole(client: Client) -> None:
    assert len(client.read(7, 0, 4096)) == 4096
    assert len(client.read(0, 0, 0x4000)) == 0x4000


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 47])
def test_descriptor_belongs_to_its_message_however_the_bytes_are_cut(rig: Rig, client: Client, cut: int) -> None:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    before = client.message(Command.REGION_READ, READ_VS)
    dma_map = client.message(Command.DMA_MAP, DMA_MAP.build(argsz=32, flags=3, size=PAGE))
    mine = client.next_id
    after = client.message(Command.REGION_READ, READ_VS)
    client.send(before + dma_map[:cut])
    if cut:
        rig.turn()
    client.send(dma_map[cut:], [fd])
    client.send(after)
    for message_id in (mine - 1, mine, mine + 1):
        assert client.reply(message_id).errno == 0
    assert rig.memory.regions[0].name == "mapped"
    os.close(fd)


def test_descriptor_of_a_pipelined_map_is_its_own(rig: Rig, client: Client) -> None:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    ids = []
    for number in range(6):
        payload = DMA_MAP.build(argsz=32, flags=3, address=number * PAGE, size=PAGE)
        client.send(client.message(Command.DMA_MAP, payload), [fd] if number % 2 else [])
        ids.append(client.next_id)
    for message_id in ids:
        assert client.reply(message_id).errno == 0
    assert [region.name for region in rig.memory.regions] == ["by message", "mapped"] * 3
    os.close(fd)


# -- what is no message -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(1, Command.REGION_READ, 0, 0, 0),
        HEADER.pack(1, Command.REGION_READ, 15, 0, 0),
        HEADER.pack(1, Command.REGION_READ, MESSAGE_BYTES_MAX + 1, 0, 0),
        HEADER.pack(1, Command.REGION_READ, 0xFFFF_FFFF, 0, 0),
        HEADER.pack(1, Command.REGION_READ, 16, 2, 0),
        HEADER.pack(1, Command.DMA_READ, 16, 1, 0),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["0", "15", "too long", "4 GiB", "type", "reply", "http"],
)
def test_broken_message_drops_the_client_and_the_next_one_is_served(rig: Rig, client: Client, data: bytes) -> None:
    client.send(data)
    with pytest.raises(Gone):
        client.serve_dma()
    assert rig.client().read(0, 8, 4) == b"\0\1\2\0"
    assert rig.server.clients == 2


def test_request_before_the_version_drops_the_client(rig: Rig) -> None:
    client = rig.connect()
    with pytest.raises(Gone):
        client.request(Command.DEVICE_RESET)
    assert any("while waiting for the version" in line for line in rig.log)


def test_more_descriptors_than_may_be_drop_the_client_and_are_closed(rig: Rig, client: Client) -> None:
    before = open_fds()
    fd = os.eventfd(0)
    with pytest.raises(Gone):
        client.request(Command.DMA_MAP, b"", [fd] * 40)
    os.close(fd)
    rig.turn()
    assert open_fds() <= before


def test_descriptors_that_never_get_a_message_are_closed(rig: Rig) -> None:
    before = open_fds()
    client = rig.client()
    fd = os.eventfd(0)
    client.send(client.message(Command.DMA_MAP, bytes(32))[:20], [fd])
    rig.turn()
    os.close(fd)
    client.close()
    rig.turn()
    assert open_fds() == before


def test_disconnect_at_any_byte_leaks_nothing(rig: Rig) -> None:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    map_bytes = HEADER.pack(7, Command.DMA_MAP, 48, 0, 0) + DMA_MAP.build(argsz=32, flags=3, size=PAGE)
    whole = greeting() + map_bytes
    before = open_fds()
    for cut in range(len(whole) + 1):
        client = rig.connect()
        head = whole[: min(cut, len(greeting()))]
        if head:
            client.send(head)
        tail = whole[len(head) : cut]
        if tail:
            client.send(tail, [fd])
        rig.turn(2)
        client.close()
        rig.turn(2)
    assert open_fds() == before
    assert not rig.memory.regions
    os.close(fd)


def test_hang_up_without_reading_answers_is_no_mistake_of_ours(rig: Rig, client: Client) -> None:
    for _ in range(50):
        client.send(client.message(Command.REGION_READ, REGION_ACCESS.pack(0, 7, 4096)))
    client.close()
    rig.turn(10)
    assert rig.server.internal_error is None
    assert rig.client()


def test_client_that_reads_nothing_is_not_read_from_for_ever(rig: Rig, client: Client) -> None:
    request = client.message(Command.REGION_READ, REGION_ACCESS.pack(0, 0, 0x4000))
    sent = 0
    for _ in range(20_000):
        try:
            sent += client.socket.send(request)
        except BlockingIOError:
            rig.turn(2)
            if rig.server._session.output_bytes >= UNSENT_BYTES_MAX:
                break
    else:
        raise AssertionError("the server takes everything")
    for _ in range(50):
        rig.turn(1)
    assert rig.server._session.output_bytes < 2 * UNSENT_BYTES_MAX
    taken = 0
    while rig.server._session is not None and rig.server._session.output_bytes:
        taken += len(client.socket.recv(1 << 20))
        rig.turn(1)
    assert taken > UNSENT_BYTES_MAX // 2


def test_client_that_says_nothing_is_dropped_in_time(make_rig) -> None:
    clock = Clock()
    rig = make_rig(clock=clock)
    client = rig.connect()
    clock.now_ns += GREETING_NS - 1
    rig.turn()
    client.receive()
    clock.now_ns += 1
    rig.turn()
    with pytest.raises(Gone):
        client.receive()
    assert rig.client()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_give_answers_or_an_end_but_never_an_exception(data: st.DataObject) -> None:
    from vfiofuzz import FuzzDevice

    device = FuzzDevice()
    try:
        device.session.receive(greeting(), [])
        for _ in range(data.draw(st.integers(1, 6))):
            command = data.draw(st.sampled_from([*Command, 0, 14, 77]))
            payload = data.draw(st.binary(max_size=64))
            flags = data.draw(st.sampled_from([0, 0, 0, 0x10, 1, 0x21, 2]))
            size = data.draw(st.sampled_from([HEADER_BYTES + len(payload)] * 6 + [0, 17, 1 << 31]))
            message = HEADER.pack(data.draw(st.integers(0, 3)), command, size, flags, 0) + payload
            cut = data.draw(st.integers(0, len(message)))
            device.session.receive(message[:cut], [])
            device.session.receive(message[cut:], [])
            device.function.work()
    finally:
        device.close()


def test_random_requests_never_break_the_device(rig: Rig) -> None:
    rng = random.Random(20)
    for _ in range(10):
        client = rig.client()
        for _ in range(60):
            region = rng.choice([0, 0, 0, 4, 7, 7, rng.randrange(12)])
            count = rng.choice([1, 2, 4, 4, 4, 8, 3, 16, 4096])
            offset = rng.choice([rng.randrange(0x100), rng.randrange(0x6000), rng.getrandbits(64)])
            access = REGION_ACCESS.pack(offset, region, count)
            try:
                if rng.random() < 0.5:
                    client.request(Command.REGION_READ, access)
                else:
                    client.request(Command.REGION_WRITE, access + rng.randbytes(count))
            except Gone:
                break
        client.close()
        rig.turn()
    assert rig.server.internal_error is None


# -- the others ---------------------------------------------------------------------------------------------


def test_second_client_is_turned_away_and_the_first_is_not_disturbed(rig: Rig, client: Client) -> None:
    other = rig.connect()
    with pytest.raises(Gone):
        other.greet()
    assert client.read(0, 8, 4) == b"\0\1\2\0"


def test_next_client_finds_a_fresh_device_with_the_same_data(rig: Rig) -> None:
    first = rig.client()
    memory = GuestMemory(first)
    host = NvmeHost(first, memory)
    host.enable()
    page = memory.pages()
    memory.put(page, b"kept" * 1024)
    assert host.create_io().run(NvmOpcode.WRITE, 1, page, 0, 0, 0, 7) == (0, 0)
    first.close()
    rig.turn()
    memory.close()
    assert not rig.memory.regions
    second = rig.client()
    assert second.read(0, 0x14, 16) == bytes(16), "CC, CSTS, NSSR, AQA"
    memory = GuestMemory(second)
    host = NvmeHost(second, memory)
    host.enable()
    page = memory.pages()
    assert host.create_io().run(NvmOpcode.READ, 1, page, 0, 0, 0, 7) == (0, 0)
    assert memory.get(page, PAGE) == b"kept" * 1024
    memory.close()


def test_bad_client_of_one_device_does_not_hold_up_another(shared_loop: Loop, make_rig) -> None:
    rigs = [make_rig(loop=shared_loop) for _ in range(2)]
    good, bad = (one.client() for one in rigs)
    memory = GuestMemory(good)
    host = NvmeHost(good, memory)
    host.enable()
    io = host.create_io()
    distant = NvmeHost(bad, GuestMemory(bad, messages=True))
    distant.enable()
    distant.create_io()
    bad.answers_dma = False
    distant.io.submit(NvmOpcode.READ, 1, distant.memory.pages(), 0, 0, 0, 7)
    bad.serve_dma(3)
    assert rigs[1].function.waiting
    page = memory.pages()
    for _ in range(20):
        assert io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7) == (0, 0)
    bad.send(b"\xff" * 64)
    for _ in range(20):
        assert io.run(NvmOpcode.READ, 1, page, 0, 0, 0, 7) == (0, 0)
    assert any("gone" in line for line in rigs[1].log)
    memory.close()


# -- the socket ---------------------------------------------------------------------------------------------


def test_socket_file_is_its_owners_alone_and_goes_with_the_server(make_rig) -> None:
    rig = make_rig()
    assert os.stat(rig.path).st_mode & 0o777 == 0o600
    rig.server.close()
    assert not os.path.exists(rig.path)


def test_socket_of_a_dead_server_is_replaced(make_rig, tmp_path) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(tmp_path / "ssd0.sock"))
    dead.close()
    assert make_rig().client()


def test_socket_of_a_live_server_and_other_files_are_left_alone(make_rig, tmp_path) -> None:
    from nvme_emu.transports.vfio_user import VfioUserServer

    rig = make_rig()
    (tmp_path / "file").write_text("precious")
    for path in (rig.path, str(tmp_path / "file")):
        with pytest.raises(OSError) as caught:
            VfioUserServer(rig.loop, path, rig.function, log=rig.log.append)
        assert caught.value.errno == errno.EADDRINUSE
    assert (tmp_path / "file").read_text() == "precious"
    rig.turn()
    assert rig.client()
