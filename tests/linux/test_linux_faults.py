"""Linux while its SSD goes wrong: rules that are armed from outside, over the server's socket, and data that stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from linux_guest_lib.guest import HOST_ADDRESS, NETWORK_UP, Guest, network_device, vfio_user_device
from linux_guest_lib.server import Server, free_port
from linuxguest import TROUBLE, Attached

from nvme_emu.observe.rpc_client import RpcClient

NQN = "nqn.2024-01.org.example:faults"
IO_QUEUES = [1, 2, 3, 4]
# What Linux waits before it aborts a command, and again before it resets the controller.
KERNEL = "nvme_core.admin_timeout=20 nvme_core.io_timeout=3"
VERIFY = "--filename=/dev/nvme0n1 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=json"
pytestmark = pytest.mark.usefixtures("buildable")


class Faulty(Attached):
    """A guest, its server, and the server's socket for rules."""

    def __init__(self, server: Server, guest: Guest, rpc: RpcClient) -> None:
        super().__init__(server, guest)
        self.rpc = rpc

    def add(self, **rule: Any) -> str:
        """Arm a rule; its id."""
        return str(self.rpc.call("faults.add", rule=rule)["id"])

    def fired(self, rule_id: str) -> int:
        """How often it has fired."""
        (found,) = [rule for rule in self.rpc.call("faults.list") if rule["id"] == rule_id]
        return int(found["fired"])

    def remove(self, rule_id: str) -> None:
        """Take it out."""
        self.rpc.call("faults.remove", id=rule_id)

    def kernel_log(self) -> str:
        """What the kernel said since the last call."""
        return "\n".join(self.new_kernel_lines())

    def fio(self, options: str) -> None:
        """A verified job without an error."""
        out = self.check(f"fio --name=job {VERIFY} {options}", seconds=200)
        (job,) = json.loads(out[out.index("{") :])["jobs"]
        assert job["error"] == 0
        assert job["write"]["io_bytes"] > 0


@contextmanager
def _quiet_end(server: Server, machine: Guest) -> Iterator[None]:
    yield
    troubles = [line for line in machine.console.splitlines() if any(one in line for one in TROUBLE)]
    assert server.stop() == 0, server.log
    assert not troubles, machine.version + "\n" + "\n".join(troubles)
    assert "internal error" not in server.log


@pytest.fixture(scope="module")
def pci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """An SSD behind PCI Express with a socket for rules."""
    path = str(tmp_path_factory.mktemp("rpc") / "rpc.sock")
    with Server("--size", "64M", "--rpc", path) as server, Guest(
        vfio_user_device(server.sockets[0]), kernel_options=KERNEL
    ) as machine, RpcClient(path) as rpc, _quiet_end(server, machine):
        yield Faulty(server, machine, rpc)


def test_medium_error_is_one_of_the_medium_and_a_write_heals_it(pci: Faulty) -> None:
    rule = pci.add(match={"opcode": "read", "lba": [1000, 1007]}, then={"media_error": {}})
    pci.check("dd if=/dev/urandom of=/dev/nvme0n1 bs=4k count=1 seek=100 oflag=direct")
    pci.new_kernel_lines()

    bad = pci.run("dd if=/dev/nvme0n1 of=/tmp/out bs=4k skip=125 count=1 iflag=direct")
    said = pci.kernel_log()
    pci.check("head -c 4096 /dev/urandom >/tmp/in; dd if=/tmp/in of=/dev/nvme0n1 bs=4k seek=125 oflag=direct")
    pci.check("dd if=/dev/nvme0n1 of=/tmp/out bs=4k skip=125 count=1 iflag=direct && cmp /tmp/in /tmp/out")

    assert bad.status != 0
    assert "critical medium error" in said
    assert pci.fired(rule) >= 1
    pci.remove(rule)


def test_lost_command_is_aborted_and_done_again(pci: Faulty) -> None:
    rule = pci.add(match={"opcode": "read", "queue": IO_QUEUES}, when={"nth": 1}, then={"drop": {}})
    pci.new_kernel_lines()
    pci.check("dd if=/dev/nvme0n1 of=/tmp/out bs=4k count=1 iflag=direct", seconds=60)
    said = pci.kernel_log()

    assert pci.fired(rule) == 1
    assert "timeout, aborting" in said
    assert "resetting controller" not in said
    pci.remove(rule)


def test_command_that_cannot_be_aborted_costs_a_reset_and_no_data(pci: Faulty) -> None:
    rule = pci.add(
        match={"opcode": "write", "queue": IO_QUEUES}, when={"nth": 100}, then={"drop": {"abortable": False}}
    )
    pci.new_kernel_lines()
    pci.fio("--rw=randwrite --bs=4k --size=4M --iodepth=8 --ioengine=libaio")
    said = pci.kernel_log()

    assert pci.fired(rule) == 1
    assert "timeout, aborting" in said
    assert "reset controller" in said or "resetting" in said
    pci.remove(rule)


def test_controller_that_fails_is_reset_under_load(pci: Faulty) -> None:
    rule = pci.add(match={"opcode": "write", "queue": IO_QUEUES}, when={"nth": 200}, then={"cfs": {}})
    pci.new_kernel_lines()
    pci.fio("--rw=randwrite --bs=4k --size=4M --iodepth=8 --ioengine=libaio")
    said = pci.kernel_log()

    assert pci.fired(rule) == 1
    assert "controller is down; will reset" in said
    pci.remove(rule)


def test_status_that_may_be_tried_again_is_tried_again(pci: Faulty) -> None:
    then = {"status": {"code": "CMD_INTERRUPTED"}}
    rule = pci.add(match={"opcode": "read"}, when={"every": 10, "times": 5}, then=then)
    pci.fio("--rw=randrw --bs=4k --size=2M --iodepth=4 --ioengine=libaio")

    assert pci.fired(rule) == 5
    pci.remove(rule)


TCP_FAULTS = ["header_digest", "data_digest", "pdu_cut", "disconnect"]


@pytest.mark.parametrize("how", TCP_FAULTS)
def test_trouble_on_the_wire_costs_no_data(tmp_path: Path, how: str) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        f'version = 1\n[[rules]]\nid = "{how}"\nmatch = {{ opcode = "read", queue = {IO_QUEUES} }}\n'
        f'when = {{ nth = 150 }}\nthen = {{ tcp = {{ how = "{how}" }} }}\n'
    )
    port = free_port()
    with Server(
        "--nqn", NQN, "--size", "64M", "--faults", str(rules), devices=0, ports=[port]
    ) as server, Guest(network_device(), kernel_options=KERNEL) as machine, _quiet_end(server, machine):
        linux = Attached(server, machine)
        linux.check(NETWORK_UP)
        linux.check(
            f"nvme connect -t tcp -a {HOST_ADDRESS} -s {port} -n {NQN} --hdr-digest --data-digest --reconnect-delay=1"
        )
        linux.check("for n in $(seq 100); do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.1; done; exit 1")
        linux.check("head -c 1M /dev/urandom >/tmp/in; dd if=/tmp/in of=/dev/nvme0n1 bs=64k oflag=direct")
        linux.new_kernel_lines()
        linux.check(
            "dd if=/dev/nvme0n1 of=/tmp/out bs=4k count=256 iflag=direct && cmp /tmp/in /tmp/out", seconds=120
        )
        said = "\n".join(linux.new_kernel_lines())
        linux.check(f"nvme disconnect -n {NQN}")
        words = {"header_digest": "header digest", "data_digest": "data digest error"}

        assert words.get(how, "starting error recovery") in said, said + server.log
