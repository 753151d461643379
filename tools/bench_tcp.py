"""NVMe/TCP over loopback against plain sockets over loopback, in one run on one machine.

    python tools/bench_tcp.py [--seconds 1] [--rounds 5] [--json FILE]

Two processes each time. *raw* is what the machine allows: blocking sockets, 72 bytes there and 4120 back, with
1 or 32 exchanges at a time. *ours* is a 4 KiB random read through `nvme_emu.open("nvme-tcp://…")` from our
target, with the data checked once. Rounds are interleaved and medians reported; the ratio is ours to raw.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

REQUEST, RESPONSE = 72, 24 + 4096
DEPTH = 32
NAMESPACE_BYTES = 64 << 20
NQN = "nqn.2024-01.io.nvme-emu:bench"
WANTED = {("read", 1): 0.4, ("read", DEPTH): 0.25}


def say(line: str) -> None:
    """One line, at once: a parent may wait for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def raw_server() -> None:
    """Answer every 72 bytes with 4120, as many at a time as have come."""
    listener = socket.create_server(("127.0.0.1", 0))
    say(str(listener.getsockname()[1]))
    answer = bytes(RESPONSE)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(256 << 10)
        pending = 0
        while received := client.recv_into(buffer):
            pending += received
            whole, pending = divmod(pending, REQUEST)
            if whole:
                client.sendall(answer * whole)


def target_server() -> None:
    """Our target with one namespace in memory."""
    from nvme_emu.controller import ControllerConfig, Namespace
    from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
    from nvme_emu.media import open_media
    from nvme_emu.transports.loop import Loop
    from nvme_emu.transports.tcp import TcpServer, TcpServerConfig

    namespace = Namespace(1, open_media(None, NAMESPACE_BYTES), 4096)
    target = FabricsTarget([Subsystem(config=ControllerConfig(), namespaces=[namespace], nqn=NQN)])
    loop = Loop()
    server = TcpServer(loop, target, TcpServerConfig(port=0), log=lambda line: None)
    say(str(server.address[1]))
    loop.run()


def rate(step: Callable[[], int], seconds: float) -> float:
    """Operations a second of `step`, which says how many it did."""
    done = 0
    start = now = time.perf_counter()
    while now - start < seconds:
        done += step()
        now = time.perf_counter()
    return done / (now - start)


def raw_step(client: socket.socket, depth: int) -> Callable[[], int]:
    """One exchange of `depth` requests."""
    request, buffer = bytes(REQUEST * depth), memoryview(bytearray(RESPONSE * depth))

    def step() -> int:
        client.sendall(request)
        got = 0
        while got < len(buffer):
            got += client.recv_into(buffer[got:])
        return depth

    return step


class Child:
    """A server in a process of its own; `port` is where it listens."""

    def __init__(self, what: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", what], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def measure(seconds: float, rounds: int) -> list[dict[str, object]]:
    """The rows: interleaved rounds, medians."""
    import nvme_emu

    raw, ours = Child("raw"), Child("target")
    client = socket.create_connection(("127.0.0.1", raw.port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"nvme-tcp://127.0.0.1:{ours.port}/{NQN}"
    rng = random.Random(0)
    with nvme_emu.open(url) as sync, nvme_emu.open(url, mode="async") as asynchronous:
        namespace, other = sync.namespaces[1], asynchronous.namespaces[1]
        data = np.frombuffer(random.Random(1).randbytes(DEPTH * 4096), np.uint8)
        namespace.write_many(np.arange(DEPTH), data)
        assert (namespace.read_many(np.arange(DEPTH)).reshape(-1) == data).all()
        assert (other.read_many(np.arange(DEPTH)).reshape(-1) == data).all()
        out = np.empty(4096, np.uint8)
        many = np.empty((DEPTH, 4096), np.uint8)
        blocks = NAMESPACE_BYTES // 4096
        batches = [np.array([rng.randrange(blocks) for _ in range(DEPTH)]) for _ in range(64)]
        block = bytes(4096)

        def read_one() -> int:
            namespace.read(rng.randrange(blocks), 1, out)
            return 1

        def write_one() -> int:
            namespace.write(rng.randrange(blocks), block)
            return 1

        def read_many() -> int:
            namespace.read_many(rng.choice(batches), 1, many)
            return DEPTH

        def write_many() -> int:
            namespace.write_many(rng.choice(batches), data)
            return DEPTH

        def read_async() -> int:
            requests = [other.submit_read(int(slba), 1) for slba in rng.choice(batches)]
            for request in requests:
                request.wait()
            return DEPTH

        steps: dict[tuple[str, int], Callable[[], int]] = {
            ("raw", 1): raw_step(client, 1),
            ("read", 1): read_one,
            ("write", 1): write_one,
            ("raw", DEPTH): raw_step(client, DEPTH),
            ("read", DEPTH): read_many,
            ("write", DEPTH): write_many,
            ("read async", DEPTH): read_async,
        }
        rates: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
        for _ in range(rounds):
            for key, step in steps.items():
                rates[key].append(rate(step, seconds))
    client.close()
    raw.stop()
    ours.stop()
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [
        {
            "what": what,
            "iodepth": depth,
            "iops": round(value),
            "ratio_to_raw": round(value / medians["raw", depth], 3),
            "wanted": WANTED.get((what, depth)),
        }
        for (what, depth), value in medians.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--serve", choices=("raw", "target"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        {"raw": raw_server, "target": target_server}[options.serve]()
        return 0
    rows = measure(options.seconds, options.rounds)
    say(f"{'what':12} {'iodepth':>7} {'IOPS':>9} {'x raw':>7} {'wanted':>7}")
    for row in rows:
        wanted = "" if row["wanted"] is None else f"{row['wanted']:7}"
        say(f"{row['what']:12} {row['iodepth']:7} {row['iops']:9} {row['ratio_to_raw']:7} {wanted}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "rows": rows}, file, indent=2)
    missed = [row for row in rows if row["wanted"] is not None and row["ratio_to_raw"] < row["wanted"]]  # type: ignore[operator]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
