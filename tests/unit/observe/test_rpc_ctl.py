"""`nvme-emu ctl`, and --rpc of run and serve as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nvme_emu.cli import cli
from nvme_emu.cli.ctl import parse_params
from nvme_emu.observe.rpc import RpcClient, serve_rpc, watch


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli, ["ctl", *args], standalone_mode=False)


@pytest.fixture
def served(ssd: Any, socket_path: str) -> Iterator[str]:
    with serve_rpc(watch(ssd), socket_path):
        yield socket_path


def test_method_prints_its_result_as_json(served: str) -> None:
    pretty, line = invoke(served, "system.info"), invoke(served, "system.info", "--json")
    assert pretty.return_value == line.return_value == 0
    assert json.loads(pretty.stdout) == json.loads(line.stdout)
    assert line.stdout.count("\n") == 1


def test_without_a_method_all_are_listed(served: str) -> None:
    result = invoke(served)
    assert "queues.entries(qid, [completion], [start], [count])" in result.stdout
    assert "The whole machine at one instant." in result.stdout
    assert json.loads(invoke(served, "--json").stdout)["openrpc"]


def test_parameters_are_json_or_text() -> None:
    assert parse_params(("a=1", "b=x y", 'c="1"', "d=[1,2]", "e=", "f=true")) == {
        "a": 1, "b": "x y", "c": "1", "d": [1, 2], "e": "", "f": True,
    }  # fmt: skip
    for bad in (("a",), ("=1",), ("a=1", "a=2"), ("a b=1",)):
        with pytest.raises(ValueError):
            parse_params(bad)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["no.such"], 1, "no method 'no.such'"),
        (["queues.entries"], 1, "needs the parameter 'qid'"),
        (["queues.entries", "qid=x"], 1, "qid must be a whole number"),
        (["admin.get_log", "lid=192", "nbytes=512"], 1, "Invalid Log Page"),
        (["system.info", "x"], 2, "key=value"),
    ],
)
def test_mistake_is_one_line_and_an_exit_code(served: str, args: list[str], code: int, message: str) -> None:
    result = invoke(served, *args)
    assert result.return_value == code and message in result.stderr and result.stderr.count("\n") == 1


def test_nobody_there_is_exit_code_2(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), str(tmp_path)):
        result = invoke(path, "system.info")
        assert result.return_value == 2 and path in result.stderr


def test_server_that_does_not_answer_times_out(socket_path: str) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(socket_path)
        silent.listen()
        result = invoke(socket_path, "system.info", "--timeout", "0.05")
    assert result.return_value == 2 and "no answer within 0.05 s" in result.stderr


def test_events_are_followed_until_count(ssd: Any, served: str) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            ssd.namespaces[1].read(0, 1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        result = invoke(served, "events.subscribe", 'events=["post_cqe"]', "--count", "20", "-q")
    finally:
        stop.set()
        thread.join()
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.return_value == 0 and len(lines) == 20
    assert {line["event"] for line in lines} == {"post_cqe"}


def start(*args: str) -> subprocess.Popen[str]:
    code = "from nvme_emu.cli import main; main()"
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def connected(path: str, process: subprocess.Popen[str]) -> RpcClient:
    while process.poll() is None:
        try:
            return RpcClient(path)
        except OSError:
            os.sched_yield()  # it is still starting
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_run_answers_while_its_jobs_run_and_removes_the_socket(tmp_path: Path, socket_path: str, clock: str) -> None:
    job = tmp_path / "job.fio"
    job.write_text("[a]\nioengine=libaio\niodepth=8\nrw=randread\nsize=1m\ntime_based\nruntime=1d\n")
    process = start("run", str(job), "--clock", clock, "--profile", "tlc", "--rpc", socket_path, "-q")
    with connected(socket_path, process) as client:
        client.call("stats.start")
        seen = 0
        while seen == 0:
            seen = client.call("stats.get")["latency"].get("read", {}).get("count", 0)
        assert client.call("system.info")["clock"] == clock
        assert {worker["name"] for worker in client.call("workers.get")} >= {"nvme1"}
        assert any(one["name"] == "Read" for one in client.call("commands.list")) or clock == "wall"
        process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "IOPS=" in output and not os.path.exists(socket_path)


def test_run_with_a_socket_that_cannot_be_made_is_bad_usage(tmp_path: Path) -> None:
    job = tmp_path / "job.fio"
    job.write_text("[a]\nrw=read\nsize=64k\n")
    result = CliRunner().invoke(cli, ["run", str(job), "--rpc", "/nowhere/x"], standalone_mode=False)
    assert result.return_value == 2 and "/nowhere/x" in result.stderr


def test_serve_answers_for_its_device(tmp_path: Path, socket_path: str) -> None:
    process = start("serve", "--vfio-user", str(tmp_path / "v.sock"), "--rpc", socket_path, "--size", "16M", "-q")
    with connected(socket_path, process) as client:
        assert client.call("namespaces.list")[0]["nbytes"] == 16 << 20
        assert client.call("health.set", temperature_k=360)["critical_warning"] & 2
        assert client.call("state.get")["driver"] is None
        assert invoke(socket_path, "power.reset").return_value == 0
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not os.path.exists(socket_path)


def test_starting_ctl_imports_neither_numpy_nor_the_device() -> None:
    code = """if True:
        import sys
        from nvme_emu.cli import main
        try:
            main(["ctl", "/nowhere", "x"])
        except SystemExit as end:
            print(end.code, sorted({"numpy", "construct", "rich"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
