"""The socket: its mode, stale ones, subscribers that are slow or dead, limits; and the machine's methods."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nvme_emu.controller import Controller, ControllerConfig
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import FetchCmd, PostCqe, TraceHub
from nvme_emu.observe import rpc_server
from nvme_emu.observe.rpc import RpcClient, RpcError, RpcServer, Watched, serve_rpc, watch
from nvme_emu.observe.rpc_core import INVALID_PARAMS, NOT_AVAILABLE, Methods
from nvme_emu.observe.rpc_server import REQUEST_MAX, Subscription
from nvme_emu.observe.state import MachineState, StatsState, from_json, rates


def bare(path: str, trace: TraceHub | None = None) -> RpcServer:
    return RpcServer(Methods(title="t", version="1"), path, trace=trace)


def raw(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    return sock


def read_line(sock: socket.socket) -> Any:
    data = b""
    while not data.endswith(b"\n"):
        part = sock.recv(1 << 16)
        if not part:
            return None
        data += part
    return json.loads(data)


# --- the socket ---------------------------------------------------------------------------------------------


def test_socket_is_the_owners_alone_and_gone_after_close(socket_path: str) -> None:
    with bare(socket_path):
        assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
    assert not os.path.exists(socket_path)


def test_stale_socket_is_replaced(socket_path: str) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(socket_path)
    left.close()
    with bare(socket_path), RpcClient(socket_path) as client:
        assert client.call("rpc.discover")["openrpc"]


def test_socket_where_somebody_answers_is_left_alone(socket_path: str) -> None:
    with bare(socket_path):
        with pytest.raises(OSError, match="another process answers"):
            bare(socket_path)
        with RpcClient(socket_path) as client:
            assert client.call("rpc.discover")


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="not a socket"):
        bare(str(path))
    assert path.read_text() == "data"


@pytest.mark.parametrize("path", ["/nowhere/x.sock", "/tmp/" + "x" * 200])
def test_socket_that_cannot_be_made_is_an_oserror_with_its_path(path: str) -> None:
    with pytest.raises(OSError, match=path[:20]):
        bare(path)


def test_close_leaves_a_socket_that_replaced_ours(socket_path: str) -> None:
    server = bare(socket_path)
    os.unlink(socket_path)
    with bare(socket_path):
        server.close()
        assert os.path.exists(socket_path)
    server.close()


# --- messages -----------------------------------------------------------------------------------------------


def test_pieces_and_several_messages_in_one_are_understood(socket_path: str) -> None:
    request = b'{"jsonrpc":"2.0","id":%d,"method":"rpc.discover"}\n'
    with bare(socket_path), raw(socket_path) as sock:
        for byte in request % 1:
            sock.send(bytes([byte]))
        assert read_line(sock)["id"] == 1
        sock.send(b"\n" + request % 2 + b"not json\n" + request % 3)
        stream = sock.makefile("rb")
        answers = [json.loads(stream.readline()) for _ in range(3)]
        assert [answer["id"] for answer in answers] == [2, None, 3]
        stream.close()


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_message_above_the_limit_is_refused_and_the_connection_ends(socket_path: str, ending: bytes) -> None:
    with bare(socket_path), raw(socket_path) as sock:
        sender = threading.Thread(target=lambda: _try_send(sock, b"x" * (REQUEST_MAX + 1) + ending))
        sender.start()
        answer = read_line(sock)
        sender.join()
        assert answer["error"]["code"] == -32600 and str(REQUEST_MAX) in answer["error"]["message"]
        assert _ends(sock)
        with RpcClient(socket_path) as other:
            assert other.call("rpc.discover")


def _try_send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        return  # refused before all of it was sent, as it should be


def _ends(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_client_that_leaves_amid_a_message_hurts_nobody(socket_path: str) -> None:
    with bare(socket_path), RpcClient(socket_path) as other:
        for _ in range(5):
            with raw(socket_path) as sock:
                sock.send(b'{"jsonrpc"')
        assert other.call("rpc.discover")


def test_client_that_asks_without_reading_is_paused_and_served_later(socket_path: str) -> None:
    with bare(socket_path), raw(socket_path) as sock, RpcClient(socket_path) as other:
        count = 4000
        sender = threading.Thread(
            target=lambda: sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}\n' * count)
        )
        sender.start()
        assert other.call("rpc.discover")
        stream = sock.makefile("rb")
        assert sum(1 for _ in range(count) if json.loads(stream.readline())["id"] == 1) == count
        sender.join()
        stream.close()


def test_connections_are_bounded(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "CONNECTIONS_MAX", 2)
    with bare(socket_path), RpcClient(socket_path) as one, RpcClient(socket_path) as two:
        assert one.call("rpc.discover") and two.call("rpc.discover")
        with raw(socket_path) as third:
            assert _ends(third)


# --- events -------------------------------------------------------------------------------------------------


def events(count: int, start: int = 0) -> list[PostCqe]:
    return [PostCqe(i, 1, 1, i & 0xFFFF, 0, 0) for i in range(start, start + count)]


def test_subscriber_gets_every_event_in_order(socket_path: str) -> None:
    hub = TraceHub()
    with bare(socket_path, hub), RpcClient(socket_path) as client:
        assert client.call("events.subscribe")["subscription"] == 1
        assert hub.emit is not None
        for event in events(5000):
            hub.emit(event)
        got: list[Any] = []
        while len(got) < 5000:
            batch = client.events(timeout_s=10)
            assert batch is not None and batch["dropped"] == 0
            got += batch["events"]
        assert [event["ts_ns"] for event in got] == list(range(5000))
        assert client.call("events.unsubscribe", subscription=1) == {"dropped": 0}
        assert hub.emit is None


def test_full_queue_drops_and_tells_how_many() -> None:
    subscription = Subscription(1, frozenset(), None, 1, queue_max=10)
    for event in events(25):
        subscription(event)
    batch = subscription.take()
    assert batch is not None and len(batch["events"]) == 10 and batch["dropped"] == 15
    assert subscription.take() is None
    subscription(events(1)[0])
    assert (subscription.take() or {})["dropped"] == 0


@pytest.mark.parametrize(
    ("names", "qid", "sample", "expected"),
    [((), None, 1, 40), (("fetch_cmd",), None, 1, 20), ((), 2, 1, 20), ((), None, 4, 10), (("post_cqe",), 2, 5, 2)],
)
def test_filter_and_sample_choose_events(names: Any, qid: int | None, sample: int, expected: int) -> None:
    subscription = Subscription(1, frozenset(names), qid, sample, queue_max=100)
    for i in range(40):
        queue = 1 + i // 2 % 2
        subscription(FetchCmd(i, queue, i, 2, 1, 0, 1) if i % 2 else PostCqe(i, queue, queue, i, 0, 0))
    assert len((subscription.take() or {})["events"]) == expected


def test_subscriber_that_never_reads_does_not_stall_io(ssd: Any, socket_path: str) -> None:
    namespace = ssd.namespaces[1]
    with serve_rpc(watch(ssd), socket_path), raw(socket_path) as sock, RpcClient(socket_path) as other:
        sock.send(
            b'{"jsonrpc":"2.0","id":1,"method":"events.subscribe","params":{"queue_max":100}}\n'
        )
        assert read_line(sock)["result"] == {"subscription": 1}
        for _ in range(1500):
            namespace.read(0, 1)
        # Nobody reads what the subscriber was sent, and all the others are served.
        assert other.call("stats.get")["read_ios"] >= 1500


def test_dead_subscriber_is_dropped(socket_path: str) -> None:
    hub = TraceHub()
    with bare(socket_path, hub):
        with RpcClient(socket_path) as client:
            client.call("events.subscribe")
            assert hub.emit is not None
        with RpcClient(socket_path) as other:
            # The server answers in turn: once this is answered it has seen the other's end, or will next time.
            for _ in range(100):
                other.call("rpc.discover")
                if hub.emit is None:
                    break
        assert hub.emit is None


def test_connection_that_takes_nothing_for_long_is_closed(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_server, "STUCK_S", 0.0)
    hub = TraceHub()
    with bare(socket_path, hub), raw(socket_path) as sock, RpcClient(socket_path) as other:
        sock.send(b'{"jsonrpc":"2.0","id":1,"method":"events.subscribe"}\n')
        assert read_line(sock)
        deadline = time.monotonic() + 20
        while hub.emit is not None and time.monotonic() < deadline:
            for event in events(2000):
                emit = hub.emit
                if emit is not None:
                    emit(event)
            other.call("rpc.discover")
        assert hub.emit is None


@pytest.mark.parametrize(
    "params", [{"sample": 0}, {"queue_max": 0}, {"queue_max": 1 << 40}, {"events": "x"}, {"qid": "1"}]
)
def test_bad_subscription_is_refused(client: RpcClient, params: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as error:
        client.call("events.subscribe", **params)
    assert error.value.code == INVALID_PARAMS


# --- the machine's methods ----------------------------------------------------------------------------------


def test_every_method_is_described_and_answers_or_says_what_it_needs(client: RpcClient) -> None:
    description = client.call("rpc.discover")
    for method in description["methods"]:
        assert method["summary"].endswith((".", ":")), method["name"]
        if method["name"] in ("power.reset",):
            continue
        if any(param["required"] for param in method["params"]) or method["name"] in (
            "health.set", "trace.stop",
        ):  # fmt: skip
            with pytest.raises(RpcError) as error:
                client.call(method["name"])
            assert error.value.code == INVALID_PARAMS
        else:
            assert client.call(method["name"]) is not None
    assert "MachineState" in description["components"]["schemas"]


def test_state_comes_back_as_the_same_dataclasses(ssd: Any, client: RpcClient) -> None:
    ssd.namespaces[1].write(0, bytes(4096))
    state = from_json(MachineState, client.call("state.get"))
    assert state.controller.state == "ready" and state.consistent
    assert [sq.qid for sq in state.sqs] == [0, 1]
    assert state.sqs[1].entries[-1].words == "Write"
    assert state.stats.write_ios == 1 and state.stats.write_bytes == 4096
    assert {worker.name for worker in state.workers} == {"nvme1", "nvme-wq1"}


def test_statistics_of_io_between_two_calls_give_rates(ssd: Any, client: RpcClient) -> None:
    before = from_json(StatsState, client.call("stats.get"))
    client.call("stats.start")
    for _ in range(50):
        ssd.namespaces[1].read(0, 8)
    after = from_json(StatsState, client.call("stats.get"))
    found = rates(before, after)
    assert found.read_iops == pytest.approx(50e9 / found.window_ns)
    assert found.read_bw_bytes == pytest.approx(found.read_iops * 4096)
    assert after.latency["read"].count == 50 and after.latency["read"].percentiles["50"] > 0
    assert sum(count for _, count in after.latency["read"].bins) == 50
    assert set(after.stages) == {"worker_list", "submission", "device", "completion", "wakeup"}
    assert client.call("stats.stop") == {"was_recording": True}
    assert from_json(StatsState, client.call("stats.get")).latency == {}


def test_queues_entries_and_unknown_queues(ssd: Any, client: RpcClient) -> None:
    ssd.namespaces[1].read(5, 1)
    entries = client.call("queues.entries", qid=1, start=0, count=2)
    assert (entries[0]["words"], entries[0]["state"], entries[1]["state"]) == ("Read", "old", "empty")
    assert client.call("queues.entries", qid=1, completion=True, count=1)[0]["phase"] == 1
    for method in ("queues.entries", "queues.get"):
        with pytest.raises(RpcError, match=r"no .*queue 9"):
            client.call(method, qid=9)


def test_health_set_raises_the_event_that_the_driver_gets(ssd: Any, client: RpcClient) -> None:
    got = threading.Event()
    ssd.driver.on_aen = lambda _dw0: got.set()
    ssd.driver.admin.set_features(0x0B, 0x02)
    assert client.call("health.set", temperature_k=400)["composite_temperature"] == 400
    assert got.wait(10)
    with pytest.raises(RpcError, match="temperature_k"):
        client.call("health.set", temperature_k=-1)
    with pytest.raises(RpcError, match="1 temperatures: this controller has 0 sensors"):
        client.call("health.set", sensors_k=[300])


def test_admin_commands_read_past_the_queues(ssd: Any, client: RpcClient) -> None:
    data = bytes.fromhex(client.call("admin.identify", cns=1)["data"])
    assert data == ssd.driver.admin.identify(1).tobytes()
    assert len(client.call("admin.get_log", lid=2, nbytes=512)["data"]) == 1024
    assert client.call("admin.get_feature", fid=6) == {"value": 1, "data": ""}
    fetched = ssd.controller.counters.fetched
    client.call("admin.identify", cns=0, nsid=1)
    assert ssd.controller.counters.fetched == fetched
    with pytest.raises(RpcError, match="Invalid Log Page"):
        client.call("admin.get_log", lid=0xC0, nbytes=512)


def test_power_reset_is_a_servers(client: RpcClient, tmp_path: Path) -> None:
    with pytest.raises(RpcError, match="driver in this process") as error:
        client.call("power.reset")
    assert error.value.code == NOT_AVAILABLE
    config, hub = ControllerConfig(), TraceHub()
    ctrl = Controller(config, memory=HostMemory(), namespaces=[], trace=hub)
    served = Watched(controller=ctrl, trace=hub, lock=threading.RLock(), clock_ns=time.perf_counter_ns)
    path = str(tmp_path / "served.sock")
    with serve_rpc(served, path), RpcClient(path) as other:
        state = other.call("power.reset")
        assert other.call("workers.get") == []
    assert state["state"] == "disabled"
    nssro = next(reg for reg in state["registers"] if reg["name"] == "CSTS")["fields"]
    assert next(field["value"] for field in nssro if field["name"] == "nssro") == 1


def test_trace_start_and_stop_write_a_file(ssd: Any, client: RpcClient, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    assert client.call("trace.start", file=str(path), events_max=20)["running"] is True
    with pytest.raises(RpcError, match="is running"):
        client.call("trace.start", file=str(path))
    for _ in range(30):
        ssd.namespaces[1].read(0, 1)
    status = client.call("trace.stop")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0]["event"] == "trace_dropped" and records[0]["dropped"] == status["dropped"] > 0
    assert len(records) == 21 and status["events"] == 20
    assert client.call("trace.status") == {"running": False}
    with pytest.raises(RpcError) as error:
        client.call("trace.start", file="/nowhere/t")
    assert error.value.code == -32003


def test_simulation_can_be_looked_at_and_not_changed(simulated: Any, socket_path: str) -> None:
    found: list[Any] = []

    def look() -> None:
        with RpcClient(socket_path) as client:
            found.append(from_json(MachineState, client.call("state.get")))
            for method, params in (("health.set", {"temperature_k": 1}), ("power.reset", {})):
                with pytest.raises(RpcError) as error:
                    client.call(method, **params)
                assert error.value.code == NOT_AVAILABLE
            found.append("done")

    with serve_rpc(watch(simulated), socket_path):
        thread = threading.Thread(target=look)
        thread.start()
        reads = 0
        while thread.is_alive() and reads < 100_000:
            simulated.namespaces[1].read(0, 1)
            reads += 1
        thread.join()
    assert found[0].clock == "virtual" and found[0].consistent and found[1] == "done"


def test_watching_a_simulation_changes_nothing_of_it(socket_path: str) -> None:
    import nvme_emu

    def run(watched: bool) -> int:
        with nvme_emu.open(size="16M", mode="async", clock="virtual", profile="tlc", seed=5) as machine:
            stop = threading.Event()

            def look() -> None:
                with RpcClient(socket_path) as client:
                    client.call("stats.start")
                    client.call("events.subscribe")
                    while not stop.is_set():
                        client.call("state.get")

            if watched:
                with serve_rpc(watch(machine), socket_path):
                    thread = threading.Thread(target=look)
                    thread.start()
                    ended_ns = _work(machine)
                    stop.set()
                    thread.join()
                return ended_ns
            return _work(machine)

    assert run(False) == run(True)


def _work(machine: Any) -> int:
    namespace = machine.namespaces[1]
    for at in range(300):
        requests = [namespace.submit_read((at * 7 + i) % 1000 * 8, 8) for i in range(8)]
        for request in requests:
            request.wait()
    return int(machine.runtime.now_ns)


def test_many_clients_and_io_at_once(ssd: Any, socket_path: str) -> None:
    failures: list[BaseException] = []

    def poll() -> None:
        try:
            with RpcClient(socket_path) as client:
                client.call("events.subscribe", sample=7)
                for _ in range(30):
                    assert client.call("state.get")["consistent"] in (True, False)
        except BaseException as error:
            failures.append(error)

    with serve_rpc(watch(ssd), socket_path):
        threads = [threading.Thread(target=poll) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            ssd.namespaces[1].write(0, bytes(4096))
        for thread in threads:
            thread.join()
    assert not failures


def test_client_that_asks_without_a_pause_still_gets_its_events(ssd: Any, client: RpcClient) -> None:
    client.call("events.subscribe", events=["post_cqe"])
    ssd.namespaces[1].write(0, bytes(512))
    for _ in range(2_000):
        client.call("system.info")
        if client._events:
            return
    raise AssertionError("two thousand answers and no event")
