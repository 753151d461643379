"""Linux's zoned block layer, blkzone, fio and nvme-cli's zns plugin on a zoned SSD, over PCI and over TCP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from linuxguest import NQN, Attached, attached, over_tcp

from nvme_emu.observe.rpc import RpcClient

ZONED = "zone_size=8M,zone_capacity=6M,max_open=4,max_active=6,zdes=64,read_only=14,offline=15"
ZSZE = 0x4000
ZNS = "nvme zns"
NS = "/dev/nvme0n1"


@pytest.fixture(scope="module", params=["pci", "tcp"])
def ssd(
    request: pytest.FixtureRequest, buildable: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Attached]:
    directory = tmp_path_factory.mktemp("zoned")
    options = ["--size", "128M", "--image", str(directory / "ssd.img"), "--zoned", ZONED]
    options += ["--rpc", str(directory / "rpc")]
    with ExitStack() as stack:
        if request.param == "pci":
            one = stack.enter_context(attached(*options))
        else:
            tcp = stack.enter_context(over_tcp(*options))
            tcp.connect()
            one = tcp
        one.rpc = str(directory / "rpc")  # type: ignore[attr-defined]
        yield one
        if request.param == "tcp":
            one.check(f"nvme disconnect -n {NQN}")


def zones(ssd: Attached, more: str = "") -> list[dict[str, object]]:
    found = json.loads(ssd.check(f"{ZNS} report-zones {NS} {more} -o json"))
    listed = found["zone_list"]
    assert isinstance(listed, list)
    return listed


def test_block_device_is_host_managed(ssd: Attached) -> None:
    def queue(name: str) -> str:
        return ssd.check(f"cat /sys/block/nvme0n1/queue/{name}").strip()

    assert queue("zoned") == "host-managed"
    assert (queue("nr_zones"), queue("chunk_sectors")) == ("16", "16384")
    assert (queue("max_open_zones"), queue("max_active_zones")) == ("4", "6")
    assert int(queue("zone_append_max_bytes")) > 0
    worries = ssd.check("dmesg --notime --level=emerg,alert,crit,err,warn").splitlines()
    assert [line for line in worries if "nvme" in line or "zone" in line] == []


def test_blkzone_sees_what_zns_sees(ssd: Attached) -> None:
    ssd.check(f"blkzone reset -c 14 {NS}")
    ssd.check(f"dd if=/dev/urandom of={NS} bs=64k count=4 oflag=direct status=none")
    ssd.check(f"blkzone open -o $((2 * {ZSZE})) -c 1 {NS}; blkzone finish -o $((3 * {ZSZE})) -c 1 {NS}")

    lines = ssd.check(f"blkzone report {NS}").splitlines()

    states = [line.split("zcond:")[1].split("(")[1][:2] for line in lines]
    assert states == ["oi", "em", "oe", "fu", *["em"] * 10, "ro", "of"]
    assert "wptr 0x000200" in lines[0]
    assert [one["state"] for one in zones(ssd)][:4] == ["IMP_OPENED", "EMPTY", "EXP_OPENED", "FULL"]
    ssd.check(f"blkzone close -o $((2 * {ZSZE})) -c 1 {NS}")
    assert zones(ssd)[2]["state"] == "CLOSED"
    ssd.check(f"blkzone reset -c 14 {NS}")
    assert {one["state"] for one in zones(ssd)} == {"EMPTY", "READONLY", "OFFLINE"}


def test_nvme_cli_appends_extends_and_manages(ssd: Attached) -> None:
    ssd.check(f"blkzone reset -c 14 {NS}")
    ssd.check("head -c 65536 /dev/urandom >/tmp/data; head -c 64 /dev/urandom >/tmp/extension")
    for place in (ZSZE, ZSZE + 128):
        told = ssd.check(f"{ZNS} zone-append {NS} -s {ZSZE} -z 65536 -d /tmp/data")
        assert told.strip() == f"Success appended data to LBA {place:x}"
    ssd.check(f"dd if={NS} of=/tmp/back bs=64k skip=129 count=1 iflag=direct status=none; cmp /tmp/back /tmp/data")
    ssd.check(f"{ZNS} set-zone-desc {NS} -s {2 * ZSZE} -d /tmp/extension")
    found = zones(ssd, "-e -d 3")
    assert [one["state"] for one in found] == ["EMPTY", "IMP_OPENED", "CLOSED"]
    assert (found[2]["attrs"], found[1]["ext_data"]) == (0x80, "Not valid")
    assert isinstance(found[2]["ext_data"], list)
    for command, state in (("open-zone", "EXP_OPENED"), ("close-zone", "CLOSED"), ("finish-zone", "FULL")):
        ssd.check(f"{ZNS} {command} {NS} -s {ZSZE}")
        assert zones(ssd)[1]["state"] == state
    assert "Invalid Zone State Transition" in ssd.check(f"{ZNS} open-zone {NS} -s {ZSZE} 2>&1 || true")
    ssd.check(f"{ZNS} offline-zone {NS} -s {14 * ZSZE}")
    assert zones(ssd)[14]["state"] == "OFFLINE"
    ssd.check(f"{ZNS} reset-zone {NS} -a")
    assert [one["state"] for one in zones(ssd)] == [*["EMPTY"] * 14, "OFFLINE", "OFFLINE"]


def test_fio_writes_zones_and_verifies_them(ssd: Attached) -> None:
    ssd.check(f"blkzone reset -c 14 {NS}")
    common = f"--filename={NS} --zonemode=zbd --direct=1 --ioengine=libaio --size=$((14 * 8))M"
    ssd.check(f"fio --name=w {common} --rw=write --bs=128k --verify=crc32c --do_verify=1")
    ssd.check(f"fio --name=r {common} --rw=randwrite --bs=64k --io_size=32m --iodepth=8 --max_open_zones=4")


def test_zone_that_breaks_is_told_of(ssd: Attached) -> None:
    with RpcClient(ssd.rpc) as client:  # type: ignore[attr-defined]
        client.call("zns.break", nsid=1, zone=9, state="offline")

    assert zones(ssd)[9]["state"] == "OFFLINE"
    assert "Input/output error" in ssd.check(f"dd if={NS} of=/dev/null bs=4k skip=$((9 * 2048)) count=1 2>&1 || true")


def test_zones_outlive_the_guest(buildable: None, tmp_path: Path) -> None:
    options = ["--size", "64M", "--image", str(tmp_path / "ssd.img"), "--zoned", "zone_size=4M"]
    with attached(*options) as one:
        one.check("dd if=/dev/zero bs=1M count=1 status=none | tr '\\0' x >/tmp/x")
        one.check(f"dd if=/tmp/x of={NS} bs=64k oflag=direct status=none")
        one.check(f"blkzone open -o 8192 -c 1 {NS}; blkzone finish -o 16384 -c 1 {NS}; sync")
    with attached(*options) as one:
        found = zones(one, "-d 4")
        assert [entry["state"] for entry in found] == ["CLOSED", "EMPTY", "FULL", "EMPTY"]
        assert found[0]["wp"] == 2048
        assert one.check(f"dd if={NS} bs=1M count=1 iflag=direct status=none | tr -d x | wc -c").strip() == "0"
