"""The unmodified Linux driver and nvme-cli on the emulated SSD, over PCI (vfio-user, mapped doorbells)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from linuxguest import Attached, attached

from nvme_emu.controller import ControllerConfig
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE
from nvme_emu.spec.status import Status

SIZE = 64 << 20
CLEAN_REFUSALS = (
    "Invalid Command Opcode", "Invalid Field in Command", "Invalid Log Page", "Invalid Namespace or Format",
    "not supported", "No such device or address", "Invalid Firmware", "Operation not supported",
    "Host Identifier Not Initialized", "Namespace Insufficient Capacity",
)  # fmt: skip


@pytest.fixture(scope="module")
def ssd(buildable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    image = tmp_path_factory.mktemp("image") / "ssd.img"
    with attached("--size", str(SIZE), "--image", str(image), "--doorbells", "mmap") as one:
        yield one


def parsed(ssd: Attached, command: str) -> dict[str, object]:
    """An nvme command's JSON."""
    found = json.loads(ssd.check(f"nvme {command} -o json"))
    assert isinstance(found, dict)
    return found


def raw(ssd: Attached, command: str, size: int) -> bytes:
    """The bytes that a passthrough command reads."""
    return base64.b64decode(ssd.check(f"nvme {command} --data-len={size} --read --raw-binary 2>/dev/null | base64 -w0"))


# -- the driver ---------------------------------------------------------------------------------------------


def test_probe_says_nothing_to_worry_about(ssd: Attached) -> None:
    lines = ssd.check("dmesg --notime | grep -E 'nvme|vfio' || true").splitlines()
    assert any("pci function" in line for line in lines)
    assert any(re.search(r"nvme0: \d+/0/0 default/read/poll queues", line) for line in lines)
    worries = ssd.check("dmesg --notime --level=emerg,alert,crit,err,warn").splitlines()
    pci = ssd.check("lspci -Dn -d ::0108 | cut -d' ' -f1").strip()
    assert [line for line in worries if "nvme" in line or pci in line] == []


def test_pci_function_is_what_configuration_space_says(ssd: Attached) -> None:
    text = ssd.check("lspci -vvn -d ::0108")
    config = ControllerConfig()
    assert f"0108: {config.vid:04x}:{config.device_id:04x}" in text
    for expected in (
        "(prog-if 02 [NVM Express])", "MSI-X: Enable+ Count=65 Masked-", "Power Management version 3",
        "FLReset+", "Device Serial Number", "[size=16K]", "Kernel driver in use: nvme",
    ):  # fmt: skip
        assert expected in text
    assert "[fatal" not in text and "<?>" not in text


def test_controller_has_a_queue_and_a_vector_for_each_processor(ssd: Attached) -> None:
    assert int(ssd.check("cat /sys/class/nvme/nvme0/queue_count")) == 3
    interrupts = ssd.check("grep nvme0q /proc/interrupts").splitlines()
    assert len(interrupts) == 3 and all("PCI-MSIX" in line for line in interrupts)


def test_queues_are_as_deep_as_linux_makes_them(ssd: Attached) -> None:
    depth = int(ssd.check("cat /sys/class/nvme/nvme0/sqsize")) + 1
    assert depth == min(ControllerConfig().mqes_z + 1, 1024)


def test_block_device_has_the_limits_that_the_controller_reports(ssd: Attached) -> None:
    def queue(name: str) -> str:
        return ssd.check(f"cat /sys/block/nvme0n1/queue/{name}").strip()

    assert int(ssd.check("blockdev --getsize64 /dev/nvme0n1")) == SIZE
    assert queue("logical_block_size") == "512"
    assert queue("write_cache") == "write back"
    assert queue("fua") == "1"
    assert int(queue("max_hw_sectors_kb")) == ControllerConfig().mdts_bytes >> 10
    assert int(queue("discard_max_bytes")) > 0
    assert int(queue("write_zeroes_max_bytes")) > 0


# -- nvme-cli: what the device is ---------------------------------------------------------------------------


def test_list_shows_the_device(ssd: Attached) -> None:
    (one,) = parsed(ssd, "list")["Devices"]
    if "Subsystems" in one:  # nvme-cli 2.x nests
        (one,) = [
            {**ns, **{key: ctrl[key] for key in ("SerialNumber", "ModelNumber", "Firmware")}}
            for system in one["Subsystems"]
            for ctrl in system["Controllers"]
            for ns in ctrl["Namespaces"] or system["Namespaces"]
        ]  # fmt: skip
    config = ControllerConfig()
    assert one["SerialNumber"].strip() == "NVMEEMU0001"
    assert (one["ModelNumber"].strip(), one["Firmware"].strip()) == (config.mn, config.fr)
    assert one["PhysicalSize"] == SIZE
    assert one["SectorSize"] == 512


def test_id_ctrl_agrees_with_our_own_reading_of_the_same_bytes(ssd: Attached) -> None:
    data = raw(ssd, "admin-passthru /dev/nvme0 --opcode=6 --cdw10=1", 4096)
    ours = IDENTIFY_CONTROLLER.parse(data)
    theirs = parsed(ssd, "id-ctrl /dev/nvme0")
    compared = 0
    for name, value in theirs.items():
        mine = ours.get(name)
        if isinstance(mine, int):
            assert mine == value, name
            compared += 1
        elif isinstance(mine, str) and isinstance(value, str):
            assert mine.strip() == value.strip(), name
            compared += 1
    assert compared > 50
    assert ours.sn.strip() == "NVMEEMU0001"
    assert ours.nn == ControllerConfig().namespaces_max


def test_id_ns_agrees_with_our_own_reading_of_the_same_bytes(ssd: Attached) -> None:
    data = raw(ssd, "admin-passthru /dev/nvme0 --opcode=6 --cdw10=0 --namespace-id=1", 4096)
    ours = IDENTIFY_NAMESPACE.parse(data)
    theirs = parsed(ssd, "id-ns /dev/nvme0n1")
    for name in ("nsze", "ncap", "nuse", "nsfeat", "flbas", "dps", "nmic", "rescap", "fpi"):
        assert ours[name] == theirs[name], name
    assert ours.nsze == SIZE // 512


def test_namespaces_are_listed_and_named(ssd: Attached) -> None:
    assert parsed(ssd, "list-ns /dev/nvme0")["nsid_list"] == [{"nsid": 1}]
    names = ssd.check("nvme ns-descs /dev/nvme0n1")
    uuid = ssd.check("cat /sys/block/nvme0n1/uuid").strip()
    assert uuid in names
    assert ssd.check("cat /sys/block/nvme0n1/wwid").strip().startswith("uuid.")


def test_features_are_readable_one_by_one(ssd: Attached) -> None:
    queues = 0
    words = {1: "Arbitration", 2: "Power", 4: "Temperature", 6: "Volatile", 7: "Queues", 8: "Coalescing"}
    for fid, word in {**words, 9: "Vector", 0xA: "Atomicity", 0xB: "Async", 0xE: "Timestamp"}.items():
        text = ssd.check(f"nvme get-feature /dev/nvme0 -f {fid}")
        assert word in text and "NVMe status" not in text
        if fid == 7:
            queues = int(re.search(r"value: ?(0x[0-9a-f]+)", text)[1], 16)  # type: ignore[index]
    assert queues == 0x10001
    assert "Error Recovery" in ssd.check("nvme get-feature /dev/nvme0n1 -f 5 -n 1")


def test_feature_that_is_set_is_read_back_and_restored_by_a_reset(ssd: Attached) -> None:
    ssd.check("nvme set-feature /dev/nvme0 -f 4 -V 0x150")
    assert "00000150" in ssd.check("nvme get-feature /dev/nvme0 -f 4").replace("0x", "00000")
    ssd.check("nvme reset /dev/nvme0")
    assert "150" not in ssd.check("nvme get-feature /dev/nvme0 -f 4")


# -- nvme-cli: logs -----------------------------------------------------------------------------------------


def test_smart_log_counts_what_is_done(ssd: Attached) -> None:
    before = parsed(ssd, "smart-log /dev/nvme0")
    ssd.check("dd if=/dev/nvme0n1 of=/dev/null bs=1M count=8 iflag=direct status=none")
    after = parsed(ssd, "smart-log /dev/nvme0")
    assert after["host_read_commands"] >= before["host_read_commands"] + 8
    assert after["data_units_read"] > before["data_units_read"]
    assert after["critical_warning"] in (0, {"value": 0}) or after["critical_warning"]["value"] == 0
    assert after["media_errors"] == 0


def test_error_log_tells_of_a_command_that_failed(ssd: Attached) -> None:
    failed = ssd.run(f"nvme read /dev/nvme0n1 -s {SIZE // 512} -c 0 -z 512")
    assert failed.status == 1 and "LBA" in failed.output
    newest = parsed(ssd, "error-log /dev/nvme0 -e 4")["errors"][0]
    assert newest["error_count"] > 0
    # nvme-cli's versions differ in whether they take the phase bit off.
    assert Status.LBA_RANGE in (newest["status_field"] & 0x7FF, newest["status_field"] >> 1 & 0x7FF)


def test_other_logs_are_readable(ssd: Attached) -> None:
    assert "frs1" in ssd.check("nvme fw-log /dev/nvme0")
    assert "Read" in ssd.check("nvme effects-log /dev/nvme0 -c 0")
    supported = ssd.check("nvme supported-log-pages /dev/nvme0")
    for word in ("Supported Log Pages", "Error Information", "SMART", "Firmware Slot"):
        assert word in supported
    assert ssd.run("nvme changed-ns-list-log /dev/nvme0").status == 0


# -- nvme-cli: I/O ------------------------------------------------------------------------------------------


def test_write_read_compare_of_nvme_cli(ssd: Attached) -> None:
    ssd.check(
        """
        head -c 8192 /dev/urandom >/tmp/a
        nvme write /dev/nvme0n1 -s 128 -c 15 -z 8192 -d /tmp/a
        nvme read /dev/nvme0n1 -s 128 -c 15 -z 8192 -d /tmp/b >/dev/null
        cmp /tmp/a /tmp/b
        nvme compare /dev/nvme0n1 -s 128 -c 15 -z 8192 -d /tmp/a
        nvme flush /dev/nvme0n1
        """
    )
    missed = ssd.run("nvme compare /dev/nvme0n1 -s 129 -c 14 -z 7680 -d /tmp/a")
    assert missed.status == 1 and "Compare Failure" in missed.output


def test_write_zeroes_and_deallocate_leave_zeros(ssd: Attached) -> None:
    for command in ("nvme write-zeroes /dev/nvme0n1 -s 256 -c 7", "nvme dsm /dev/nvme0n1 -d -s 256 -b 8"):
        ssd.check(
            f"""
            head -c 4096 /dev/urandom | dd of=/dev/nvme0n1 bs=4096 seek=32 oflag=direct conv=notrunc status=none
            {command}
            dd if=/dev/nvme0n1 bs=4096 skip=32 count=1 iflag=direct status=none | cmp -n 4096 - /dev/zero
            """
        )


def test_passthrough_of_unknown_commands_is_refused_and_nothing_else_happens(ssd: Attached) -> None:
    for command in ("admin-passthru /dev/nvme0 --opcode=0xc1", "io-passthru /dev/nvme0n1 --opcode=0x99 -n 1"):
        result = ssd.run(f"nvme {command}")
        assert result.status == 1 and "Invalid Command Opcode" in result.output


def test_nothing_so_far_made_the_kernel_complain(ssd: Attached) -> None:
    worries = ssd.check("dmesg --notime --level=emerg,alert,crit,err,warn | grep nvme || true").splitlines()
    # What it says to what the tests above did: passthrough, a read that had to fail, a reset.
    known = ("unchecked data buffer", "LBA Out of Range", "resetting controller")
    assert [line for line in worries if not any(word in line for word in known)] == []


# -- resets -------------------------------------------------------------------------------------------------


def test_reset_keeps_the_data_and_the_kernel(ssd: Attached) -> None:
    ssd.check(
        """
        head -c 1M /dev/urandom >/tmp/a
        dd if=/tmp/a of=/dev/nvme0n1 bs=64k oflag=direct status=none
        for n in 1 2 3; do nvme reset /dev/nvme0; done
        [ "$(cat /sys/class/nvme/nvme0/state)" = live ]
        dd if=/dev/nvme0n1 bs=64k count=16 iflag=direct status=none | cmp - /tmp/a
        """
    )


def test_function_level_reset_through_the_bus(ssd: Attached) -> None:
    ssd.check(
        """
        pci=$(basename $(readlink -f /sys/class/nvme/nvme0/device))
        grep -q flr /sys/bus/pci/devices/$pci/reset_method
        echo 1 >/sys/bus/pci/devices/$pci/reset
        [ "$(cat /sys/class/nvme/nvme0/state)" = live ]
        dd if=/dev/nvme0n1 bs=64k count=16 iflag=direct status=none | cmp - /tmp/a
        """
    )


def test_unbind_and_bind_find_the_device_again(ssd: Attached) -> None:
    ssd.check(
        """
        pci=$(basename $(readlink -f /sys/class/nvme/nvme0/device))
        for n in 1 2; do
            echo $pci >/sys/bus/pci/drivers/nvme/unbind
            [ ! -e /dev/nvme0n1 ]
            echo $pci >/sys/bus/pci/drivers/nvme/bind
            for i in $(seq 100); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done
        done
        dd if=/dev/nvme0n1 bs=64k count=16 iflag=direct status=none | cmp - /tmp/a
        """
    )


def test_reset_under_load_fails_no_request(ssd: Attached) -> None:
    ssd.check(
        """
        fio --name=load --filename=/dev/nvme0n1 --offset=8m --size=16m --direct=1 --ioengine=libaio --iodepth=16 \\
            --rw=randwrite --bs=4k --verify=crc32c --do_verify=1 --runtime=4 --loops=1 >/tmp/fio.log 2>&1 &
        job=$!
        sleep 0.7
        for n in 1 2 3; do nvme reset /dev/nvme0; sleep 0.2; done
        wait $job || { cat /tmp/fio.log; exit 1; }
        """,
        seconds=90,
    )


def test_subsystem_reset_is_recovered_from(ssd: Attached) -> None:
    """Linux notices by its own timeout (10 s here), as it does with a PCI device that tells it nothing."""
    ssd.check(
        """
        nvme subsystem-reset /dev/nvme0
        nvme id-ctrl /dev/nvme0 >/dev/null 2>&1 || true
        for i in $(seq 200); do nvme id-ctrl /dev/nvme0 >/dev/null 2>&1 && break; sleep 0.1; done
        nvme id-ctrl /dev/nvme0 >/dev/null
        nvme ns-rescan /dev/nvme0
        dd if=/dev/nvme0n1 bs=64k count=16 iflag=direct status=none | cmp - /tmp/a
        """,
        seconds=60,
    )


# -- what may not be offered --------------------------------------------------------------------------------

OPTIONAL = (
    "id-ns /dev/nvme0 -n 0xffffffff",
    "telemetry-log /dev/nvme0 -O /tmp/telemetry",
    "self-test-log /dev/nvme0",
    "sanitize-log /dev/nvme0",
    "persistent-event-log /dev/nvme0 -a 1",
    "endurance-log /dev/nvme0",
    "verify /dev/nvme0n1 -s 0 -c 7",
    "copy /dev/nvme0n1 --sdlba=1000 --blocks=7 --slbs=8",
    "resv-report /dev/nvme0n1",
    "resv-register /dev/nvme0n1 -n 1 -r 0",
    "zns id-ctrl /dev/nvme0",
    "zns id-ns /dev/nvme0n1",
    "zns report-zones /dev/nvme0n1",
    "write-uncor /dev/nvme0n1 -s 2000 -c 7",
    "device-self-test /dev/nvme0 -s 1",
    "fw-download /dev/nvme0 -f /tmp/a",
    "fw-commit /dev/nvme0 -s 1 -a 1",
    "create-ns /dev/nvme0 -s 1000 -c 1000 -f 0",
    "attach-ns /dev/nvme0 -n 7 -c 0",
    "detach-ns /dev/nvme0 -n 7 -c 0",
    "delete-ns /dev/nvme0 -n 7",
    "show-regs /dev/nvme0",
)


@pytest.mark.parametrize("command", OPTIONAL, ids=lambda command: command.split(" /dev")[0].replace(" ", "-"))
def test_command_is_done_or_refused_cleanly(ssd: Attached, command: str) -> None:
    result = ssd.run(f"head -c 4096 /dev/zero >/tmp/a; timeout 20 nvme {command}", seconds=30)
    assert result.status in (0, 1), result.output
    if result.status == 1:
        assert any(words in result.output for words in CLEAN_REFUSALS), result.output
    assert ssd.check("cat /sys/class/nvme/nvme0/state").strip() == "live"


def test_driver_shut_down_by_removal_flushes_and_stops_the_controller(ssd: Attached) -> None:
    ssd.check(
        """
        pci=$(readlink -f /sys/class/nvme/nvme0/device)
        echo 1 >$pci/remove
        [ ! -e /dev/nvme0 ]
        echo 1 >/sys/bus/pci/rescan
        for i in $(seq 100); do [ -b /dev/nvme0n1 ] && break; sleep 0.1; done
        nvme id-ctrl /dev/nvme0 >/dev/null
        """
    )


def test_image_on_the_host_has_what_the_guest_wrote(ssd: Attached, tmp_path: Path) -> None:
    ssd.check("printf 'hello from the guest' | dd of=/dev/nvme0n1 bs=512 seek=9 conv=sync oflag=direct status=none")
    ssd.check("nvme flush /dev/nvme0n1")
    command = ssd.server._command
    data = Path(command[command.index("--image") + 1]).read_bytes()
    assert data[9 * 512 :].startswith(b"hello from the guest")
