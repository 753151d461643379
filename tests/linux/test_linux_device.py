"""Linux and nvme-cli on a device with power states, sensors, streams and known blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from linuxguest import Attached, attached

NVME, NS = "/dev/nvme0", "/dev/nvme0n1"
EXIT_LATENCY_S = 0.009


@pytest.fixture(scope="module")
def ssd(buildable: None) -> Iterator[Attached]:
    with attached(
        "--size", "64M", "--power-states", "client", "--temperature-sensors", "2", "--track-allocation"
    ) as one:
        yield one


def power_state(ssd: Attached) -> int:
    return int(ssd.check(f"nvme get-feature {NVME} -f 2").rsplit(":", 1)[1], 16) & 0x1F


def test_linux_lets_an_idle_device_sleep_and_wakes_it(ssd: Attached) -> None:
    table = ssd.check(f"nvme get-feature {NVME} -f 0xc -H")
    assert "(APSTE): Enabled" in table
    assert "(ITPS): 4" in table
    until = f"for n in $(seq 50); do nvme get-feature {NVME} -f 2 | grep -q 00000004 && break; sleep 0.1; done"
    ssd.check(until)
    assert power_state(ssd) == 4

    took = ssd.check(f"dd if={NS} of=/dev/null bs=4k count=1 iflag=direct 2>&1 | tail -1").split(",")[-2]

    assert float(took.split()[0]) >= EXIT_LATENCY_S


def test_streams_are_enabled_allocated_and_named_by_writes(ssd: Attached) -> None:
    ssd.check(f"nvme dir-send {NS} -n 1 -D 0 -O 1 -T 1 -e 1")
    assert "(NSA): 4" in ssd.check(f"nvme dir-receive {NS} -n 1 -D 1 -O 3 -r 4 -H")
    ssd.check(f"nvme write {NS} -s 0 -c 7 -z 4096 -d /bin/ls --dir-type=1 --dir-spec=3")
    assert "Stream Identifier 000001 : 3" in ssd.check(f"nvme dir-receive {NS} -n 1 -D 1 -O 2 -H")
    ssd.check(f"nvme dir-send {NS} -n 1 -D 1 -O 2")
    assert "(NSSA): 16" in ssd.check(f"nvme dir-receive {NS} -n 1 -D 1 -O 1 -H")


def test_security_protocols_are_listed(ssd: Attached) -> None:
    assert "0000: 00 00 00 00 00 00 00 01 00" in ssd.check(f"nvme security-recv {NVME} -p 0 -s 0 -x 512 -t 512")


def test_lost_and_unwritten_blocks_are_told(ssd: Attached) -> None:
    ssd.check(f"nvme write-uncor {NS} -s 100 -c 3")
    log = json.loads(ssd.check(f"nvme lba-status-log {NVME} -o json"))
    assert (log["estulb"], log["ns_elements"][0]["descs"]) == (4, [{"rslba": 100, "rnlb": 4}])
    assert "NLB: 0x000004" in ssd.check(f"nvme get-lba-status {NS} -n 1 -s 0 -m 1023 -a 0x11 -l 0")
    ssd.check(f"nvme set-feature {NVME} -n 1 -f 5 -V 0x10000")
    said = ssd.check(f"nvme read {NS} -s 9000 -c 0 -z 512 -d /dev/null 2>&1 || true")
    ssd.check(f"nvme set-feature {NVME} -n 1 -f 5 -V 0")
    assert "Deallocated or Unwritten Logical Block" in said


def test_threshold_of_a_sensor_is_kept(ssd: Attached) -> None:
    ssd.check(f"nvme set-feature {NVME} -f 4 -V 0x0101012c")
    said = ssd.check(f"nvme get-feature {NVME} -f 4 -H -c 0x10000")
    assert "Temperature Sensor 1" in said and "(300 K)" in said
