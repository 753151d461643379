"""A server with a guest that has its devices, for the tests of this directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from linux_guest_lib.guest import HOST_ADDRESS, NETWORK_UP, Guest, network_device, vfio_user_device
from linux_guest_lib.server import Server, free_port

NQN = "nqn.2024-01.org.example:linux"
# What a kernel in trouble writes, whoever's fault it is.
TROUBLE = ("WARNING:", "BUG:", "Oops", "Call Trace", "Kernel panic", "general protection", "blocked for more than")


class Attached:
    """A server and a guest that has its devices."""

    def __init__(self, server: Server, guest: Guest) -> None:
        self.server, self.guest = server, guest
        self.run, self.check = guest.run, guest.check

    def new_kernel_lines(self) -> list[str]:
        """What the kernel said since the last call, one line each."""
        return self.check("dmesg --read-clear --notime").splitlines()


@contextmanager
def attached(
    *options: str, devices: int = 1, shared_memory: bool = True, kernel: str = "", **guest: Any
) -> Iterator[Attached]:
    """A guest with `devices` SSDs, and more `kernel` options. At the end nothing may have gone wrong on either side."""
    with Server(*options, devices=devices) as server:
        words = [word for path in server.sockets for word in vfio_user_device(path)]
        kernel = f"nvme_core.admin_timeout=10 nvme_core.io_timeout=20 {kernel}"
        with Guest(words, shared_memory=shared_memory, kernel_options=kernel, **guest) as machine:
            yield Attached(server, machine)
            troubles = [line for line in machine.console.splitlines() if any(one in line for one in TROUBLE)]
        code = server.stop()
        assert not troubles, machine.version + "\n" + "\n".join(troubles)
        assert code == 0, server.log
        assert all(device["internal_error"] is None for device in server.summary["devices"])
        assert "internal error" not in server.log


class OverTcp(Attached):
    """A server at a port and a guest with a network to it."""

    def connect(self, *options: str) -> str:
        """`nvme connect` of the subsystem with more options; the output."""
        where = f"-t tcp -a {HOST_ADDRESS} -s {self.server.ports[0]} -n {NQN}"
        out = self.check(f"nvme connect {where} {' '.join(options)}")
        self.check("for n in $(seq 100); do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.1; done; exit 1")
        return out

    def discards(self) -> int:
        """How many discards Linux has had done on the disk."""
        return int(self.check("cat /sys/block/nvme0n1/stat").split()[11])


@contextmanager
def over_tcp(*options: str) -> Iterator[OverTcp]:
    """At the end nothing may have gone wrong on either side."""
    with Server("--nqn", NQN, *options, devices=0, ports=[free_port()]) as server:
        kernel = "nvme_core.admin_timeout=10 nvme_core.io_timeout=20"
        with Guest(network_device(), kernel_options=kernel) as machine:
            machine.check(NETWORK_UP)
            yield OverTcp(server, machine)
            troubles = [line for line in machine.console.splitlines() if any(one in line for one in TROUBLE)]
        code = server.stop()
        assert not troubles, machine.version + "\n" + "\n".join(troubles)
        assert code == 0, server.log
        assert all(device["internal_error"] is None for device in server.summary["devices"])
        assert "internal error" not in server.log
