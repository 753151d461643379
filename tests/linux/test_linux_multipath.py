"""Linux's native multipath over the ports of one SSD: paths fail over as ANA states change, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from linux_guest_lib.guest import HOST_ADDRESS, NETWORK_UP, Guest, network_device, vfio_user_device
from linux_guest_lib.server import Server, free_port
from linuxguest import NQN, TROUBLE

from nvme_emu.observe.rpc_client import RpcClient

pytestmark = pytest.mark.usefixtures("buildable")

STATES = "for p in /sys/class/nvme-subsystem/nvme-subsys0/nvme*/nvme*c*n1; do cat $p/ana_state; done"
FIO = "fio --name=job --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=16M --direct=1 --verify=crc32c"


class Paths(NamedTuple):
    """A guest with two TCP paths and one over PCI Express to one SSD; `rpc` sets what they are worth."""

    server: Server
    guest: Guest
    rpc: RpcClient

    def set(self, port: int, state: str) -> None:
        """Ports: 1 is the PCI function, 2 and 3 are TCP."""
        self.rpc.call("ana.set", group=1, state=state, port=port)

    def states(self) -> list[str]:
        """The states that Linux believes in, sorted."""
        return sorted(self.guest.check(STATES).split())

    def settle(self, wanted: list[str]) -> None:
        """Wait until Linux has heard of them."""
        words = " ".join(sorted(wanted))
        same = f'[ "$({STATES} | sort | xargs)" = "{words}" ]'
        self.guest.check(f"for n in $(seq 100); do {same} && exit 0; sleep 0.1; done; exit 1")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    socket = str(tmp_path_factory.mktemp("rpc") / "rpc.sock")
    options = ["--shared", "--nqn", NQN, "--ana-groups", "1", "--size", "64M", "--rpc", socket]
    with Server(*options, devices=1, ports=[free_port(), free_port()]) as server, RpcClient(socket) as rpc:
        words = [*vfio_user_device(server.sockets[0]), *network_device()]
        kernel = "nvme_core.admin_timeout=10 nvme_core.io_timeout=20"
        with Guest(words, shared_memory=True, kernel_options=kernel) as guest:
            guest.check(NETWORK_UP)
            for port in server.ports:
                guest.check(f"nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {NQN}")
            yield Paths(server, guest, rpc)
            guest.check(f"nvme disconnect -n {NQN} || true")
            troubles = [line for line in guest.console.splitlines() if any(one in line for one in TROUBLE)]
        code = server.stop()
        assert not troubles, guest.version + "\n" + "\n".join(troubles)
        assert code == 0, server.log
        assert all(device["internal_error"] is None for device in server.summary["devices"])


def test_linux_joins_pci_and_tcp_paths_into_one_disk(paths: Paths) -> None:
    paths.settle(["optimized"] * 3)
    listed = json.loads(paths.guest.check("nvme list-subsys -o json"))
    (subsystem,) = [one for host in listed for one in host["Subsystems"] if one["NQN"] == NQN]
    found = sorted((one["Transport"], one["State"]) for one in subsystem["Paths"])
    assert found == [("pcie", "live"), ("tcp", "live"), ("tcp", "live")]
    assert paths.guest.check("ls /dev/nvme*n1").split() == ["/dev/nvme0n1"]


def test_io_goes_on_while_paths_come_and_go(paths: Paths) -> None:
    job = f"{FIO} --time_based --runtime=12 --rate_iops=200 --output-format=json"
    paths.guest.check(f"nohup {job} > /tmp/fio.json 2>&1 & echo $! > /tmp/fio.pid")
    for gone, left in (((1, 2), 3), ((2, 3), 1), ((1, 3), 2)):
        paths.set(left, "optimized")
        for port in gone:
            paths.set(port, "inaccessible")
        paths.settle(["inaccessible", "inaccessible", "optimized"])
    paths.set(1, "non-optimized")
    paths.set(2, "change")
    paths.settle(["change", "inaccessible", "non-optimized"])
    paths.set(2, "optimized")
    # With no path left requests wait, and go on when one is back.
    for port in (1, 2, 3):
        paths.set(port, "inaccessible")
    paths.settle(["inaccessible"] * 3)
    paths.guest.check("sleep 1")
    for port in (1, 2, 3):
        paths.set(port, "optimized")
    paths.settle(["optimized"] * 3)
    gone_yet = "kill -0 $(cat /tmp/fio.pid) 2>/dev/null || exit 0"
    paths.guest.check(f"for n in $(seq 600); do {gone_yet}; sleep 0.1; done; exit 1")
    out = paths.guest.check("cat /tmp/fio.json")
    (ended,) = json.loads(out[out.index("{") :])["jobs"]
    assert ended["error"] == 0
    assert ended["write"]["total_ios"] > 100
    said = paths.guest.check("dmesg | grep -c 'no usable path' || true")
    assert int(said) > 0


def test_nvme_cli_shows_groups_and_endurance(paths: Paths) -> None:
    paths.set(2, "non-optimized")
    log = json.loads(paths.guest.check("nvme ana-log /dev/nvme1 -o json"))
    descriptors = log.get("ANA DESC LIST ") or log.get("ANA DESC LIST")
    assert [one["state"] for one in descriptors] == ["non-optimized"]
    endurance = json.loads(paths.guest.check("nvme endurance-log /dev/nvme0 -g 1 -o json"))
    assert endurance["avl_spare"] == 100
    assert int(endurance["host_write_cmds"]) > 100
    groups = paths.guest.check("nvme list-endgrp /dev/nvme0 -o json")
    assert "1" in groups
    paths.set(2, "optimized")


def test_reset_of_the_subsystem_by_one_path_is_survived(paths: Paths, tmp_path: Path) -> None:
    paths.guest.check("echo kept | dd of=/dev/nvme0n1 bs=512 count=1 conv=sync oflag=direct status=none")
    paths.guest.check("nvme subsystem-reset /dev/nvme0 || true")
    out = paths.guest.check(
        "for n in $(seq 60); do [ $(cat /sys/class/nvme/nvme*/state | grep -c live) = 3 ] && break; sleep 0.5; done; "
        "cat /sys/class/nvme/nvme*/state; dd if=/dev/nvme0n1 bs=512 count=1 iflag=direct status=none | head -c 4",
        seconds=120,
    )
    assert out.endswith("kept")
    assert out.count("live") == 3, out
