"""Linux and nvme-cli manage the SSD over PCI: namespaces, formats, self-tests, sanitizing, firmware, reservations."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from linuxchurn import churn
from linuxguest import Attached, attached

from nvme_emu.spec.firmware import build_firmware
from nvme_emu.spec.logs import SELF_TEST_LOG, SELF_TEST_STATUS

SIZE = 64 << 20
DISK = "/dev/nvme0n1"


@pytest.fixture(scope="module")
def ssd(buildable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    image = tmp_path_factory.mktemp("image") / "ssd.img"
    with attached("--size", str(SIZE), "--image", str(image), "--doorbells", "mmap") as one:
        yield one


def parsed(ssd: Attached, command: str) -> dict[str, Any]:
    """An nvme command's JSON."""
    found = json.loads(ssd.check(f"nvme {command} -o json"))
    assert isinstance(found, dict)
    return found


def block_size(ssd: Attached, disk: str = "nvme0n1") -> tuple[int, int]:
    """(bytes of a block, bytes in all) as Linux has them."""
    text = ssd.check(f"cat /sys/block/{disk}/queue/logical_block_size /sys/block/{disk}/size")
    lba_size, sectors = map(int, text.split())
    return lba_size, sectors * 512


def wait_for(ssd: Attached, condition: str) -> None:
    """Until a shell condition is true in the guest."""
    ssd.check(f"for i in $(seq 60); do if {condition}; then exit 0; fi; sleep 0.5; done; exit 1")


def test_format_to_4096_and_back_is_seen_by_the_driver(ssd: Attached) -> None:
    assert block_size(ssd) == (512, SIZE)
    ssd.check(f"dd if=/dev/urandom of={DISK} bs=1M count=1 oflag=direct 2>&1")

    ssd.check(f"nvme format {DISK} --lbaf=1 --ses=1 --force")

    wait_for(ssd, "[ $(cat /sys/block/nvme0n1/queue/logical_block_size) = 4096 ]")
    assert block_size(ssd) == (4096, SIZE)
    assert ssd.check(f"head -c 1M {DISK} | tr -d '\\0' | wc -c").strip() == "0"
    assert parsed(ssd, f"id-ns {DISK}")["flbas"] == 1
    ssd.check(f"nvme format {DISK} --lbaf=0 --force")
    wait_for(ssd, "[ $(cat /sys/block/nvme0n1/queue/logical_block_size) = 512 ]")


def test_namespaces_come_and_go(ssd: Attached) -> None:
    ssd.check("nvme delete-ns /dev/nvme0 -n 1")
    wait_for(ssd, "[ ! -e /dev/nvme0n1 ]")

    for blocks in (65536, 8192):
        ssd.check(f"nvme create-ns /dev/nvme0 --nsze={blocks} --ncap={blocks} --flbas=0")
    ssd.check("nvme attach-ns /dev/nvme0 -n 2 -c 0")
    # Linux counts disks, not namespace identifiers.
    wait_for(ssd, "grep -qx 2 /sys/block/nvme0n1/nsid")

    assert block_size(ssd) == (512, 8192 * 512)
    ssd.check(f"echo hello | dd of={DISK} conv=sync bs=512 oflag=direct 2>&1")
    assert ssd.check(f"head -c 5 {DISK}") == "hello"
    ssd.check("nvme detach-ns /dev/nvme0 -n 2 -c 0")
    wait_for(ssd, f"[ ! -e {DISK} ]")
    ssd.check("nvme attach-ns /dev/nvme0 -n 1 -c 0 && nvme delete-ns /dev/nvme0 -n 2")
    wait_for(ssd, "grep -qx 1 /sys/block/nvme0n1/nsid")
    assert parsed(ssd, "list-ns /dev/nvme0 --all")["nsid_list"] == [{"nsid": 1}]


def test_second_namespace_comes_and_goes_while_the_first_is_verified(ssd: Attached) -> None:
    out = ssd.check(churn(65536))

    assert int(out.splitlines()[-1]) >= 1
    assert parsed(ssd, "list-ns /dev/nvme0 --all")["nsid_list"] == [{"nsid": 1}]


def test_self_test_runs_to_its_end(ssd: Attached) -> None:
    ssd.check("nvme device-self-test /dev/nvme0 -n 0xffffffff -s 1")

    log = "nvme get-log /dev/nvme0 --log-id=6 --log-len=564 --raw-binary"
    wait_for(ssd, f"[ $({log} | head -c 1 | od -An -tu1) -eq 0 ]")
    found = SELF_TEST_LOG.parse(base64.b64decode(ssd.check(f"{log} | base64 -w0")))
    assert SELF_TEST_STATUS.unpack(found.results[0].status)._asdict() == {"result": 0, "code": 1}
    assert "0x1" in ssd.check("nvme self-test-log /dev/nvme0")


def test_sanitize_erases_and_reports(ssd: Attached) -> None:
    ssd.check("dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=1 oflag=direct 2>&1")

    ssd.check("nvme sanitize /dev/nvme0 --sanact=2")

    wait_for(ssd, "nvme sanitize-log /dev/nvme0 | grep -q 'SPROG.*65535'")
    ssd.check("blockdev --flushbufs /dev/nvme0n1")
    assert ssd.check("head -c 1M /dev/nvme0n1 | tr -d '\\0' | wc -c").strip() == "0"


def test_firmware_is_downloaded_and_activated(ssd: Attached) -> None:
    image = base64.b64encode(build_firmware("9.8.7")).decode()
    ssd.check(f"echo {image} | base64 -d > /tmp/fw.bin")

    ssd.check("nvme fw-download /dev/nvme0 --fw=/tmp/fw.bin")
    ssd.check("nvme fw-commit /dev/nvme0 --slot=2 --action=3")

    wait_for(ssd, "nvme id-ctrl /dev/nvme0 | grep -q '^fr .*9.8.7'")
    assert "9.8.7" in ssd.check("nvme fw-log /dev/nvme0")


def test_write_protection_makes_linux_give_up_writing(ssd: Attached) -> None:
    ssd.check("nvme set-feature /dev/nvme0 -n 1 -f 0x84 --value=1")
    wait_for(ssd, "[ $(cat /sys/block/nvme0n1/ro) = 1 ]")

    ssd.check("nvme set-feature /dev/nvme0 -n 1 -f 0x84 --value=0")

    wait_for(ssd, "[ $(cat /sys/block/nvme0n1/ro) = 0 ]")


def test_copy_verify_and_write_uncorrectable(ssd: Attached) -> None:
    ssd.check("dd if=/dev/urandom of=/tmp/y bs=4096 count=1 2>&1")
    ssd.check("dd if=/tmp/y of=/dev/nvme0n1 oflag=direct bs=4096 2>&1")

    ssd.check("nvme copy /dev/nvme0n1 --sdlba=100 --slbs=0 --blocks=7")
    ssd.check("blockdev --flushbufs /dev/nvme0n1")
    ssd.check("dd if=/dev/nvme0n1 bs=512 skip=100 count=8 iflag=direct 2>/dev/null | cmp - /tmp/y")
    ssd.check("nvme verify /dev/nvme0n1 --start-block=100 --block-count=7")
    ssd.check("nvme write-uncor /dev/nvme0n1 --start-block=104 --block-count=0")
    assert ssd.run("nvme verify /dev/nvme0n1 --start-block=100 --block-count=7").status != 0
    assert ssd.run("dd if=/dev/nvme0n1 of=/dev/null bs=512 skip=104 count=1 iflag=direct").status != 0
    ssd.check("dd if=/dev/zero of=/dev/nvme0n1 bs=512 seek=104 count=1 oflag=direct 2>&1")
    ssd.check("nvme verify /dev/nvme0n1 --start-block=100 --block-count=7")


def test_reservation_is_registered_acquired_and_released(ssd: Attached) -> None:
    ssd.check("head -c 16 /dev/zero | tr '\\0' A > /tmp/host")
    ssd.check("nvme set-feature /dev/nvme0 -f 0x81 --value=1 --data-len=16 --data=/tmp/host")

    ssd.check(f"nvme resv-register {DISK} --nrkey=0x11 --rrega=0")
    ssd.check(f"nvme resv-acquire {DISK} --crkey=0x11 --rtype=1 --racqa=0")

    found = parsed(ssd, f"resv-report {DISK} --eds")
    assert (found["rtype"], found["regctl"]) == (1, 1)
    ssd.check(f"nvme resv-release {DISK} --crkey=0x11 --rtype=1 --rrela=0")
    ssd.check(f"nvme resv-register {DISK} --crkey=0x11 --rrega=1")
    assert parsed(ssd, f"resv-report {DISK} --eds")["regctl"] == 0


def test_telemetry_and_persistent_events_are_readable(ssd: Attached) -> None:
    ssd.check("nvme telemetry-log /dev/nvme0 --output-file=/tmp/telemetry --host-generate=1 --data-area=2")
    assert "subsystem" in ssd.check("strings /tmp/telemetry 2>/dev/null || cat /tmp/telemetry | tr -d '\\0'")

    text = ssd.check("nvme persistent-event-log /dev/nvme0 --action=1 --log_len=4096")

    for word in ("Sanitize", "Firmware", "Format"):
        assert word in text
    ssd.check("nvme persistent-event-log /dev/nvme0 --action=2 || true")


def test_kernel_says_nothing_to_worry_about(ssd: Attached) -> None:
    lines = ssd.check("dmesg --notime --level=emerg,alert,crit").splitlines()
    assert [line for line in lines if "nvme" in line] == []
