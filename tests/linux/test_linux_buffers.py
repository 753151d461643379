"""SGLs, the Controller Memory Buffer and the Persistent Memory Region with the real Linux."""

from __future__ import annotations

from pathlib import Path

import pytest
from linux_guest_lib.cache import Unavailable
from linux_guest_lib.newer import find_newer_images
from linuxguest import attached

from nvme_emu.observe.rpc_client import RpcClient
from nvme_emu.spec.queues import PSDT_MASK, PSDT_SGL, SQE, Sqe
from nvme_emu.spec.sgl import SGL_BYTES, SGL_LAST_SEGMENT

FIO = "fio --name=job --filename=/dev/nvme0n1 --direct=1 --verify=crc32c --verify_fatal=1 --ioengine=libaio --iodepth=4"
CMB = 16 << 20

# Without the driver, which would keep the BARs to itself: registers in BAR0, the region in BAR2.
PMR_FROM_USER_SPACE = """
device=$(basename $(readlink -f /sys/class/nvme/nvme0/device))
echo $device >/sys/bus/pci/drivers/nvme/unbind
cd /sys/bus/pci/devices/$device
echo 1 >enable
python3 - <<'END'
import mmap, os
def bar(number, nbytes):
    return memoryview(mmap.mmap(os.open(f"resource{number}", os.O_RDWR | os.O_SYNC), nbytes)).cast("I")
registers, region = bar(0, 4096), bar(2, 65536)
PMRCTL, PMRSTS = 0xE04 // 4, 0xE08 // 4
assert registers[PMRSTS] == 0x100 and region[0] == 0xFFFFFFFF, "disabled, and all ones"
registers[PMRCTL] = 1
assert registers[PMRSTS] == 0
for at in range(64):
    region[at] = 0x1000 + at
assert registers[PMRSTS] == 0  # the barrier
assert [region[at] for at in range(64)] == [0x1000 + at for at in range(64)]
END
"""


def test_linux_describes_large_data_with_sgls_and_small_data_with_prps(buildable: None, tmp_path: Path) -> None:
    rpc = tmp_path / "rpc"
    with attached("--size", "256M", "--rpc", str(rpc), processors=1) as ssd, RpcClient(rpc) as client:
        parameter = "/sys/module/nvme/parameters/sgl_threshold"
        assert int(ssd.check(f"cat {parameter}")) == 32768
        # A process's buffer is pages from anywhere: segments of 4 KiB, which are worth an SGL from here on.
        ssd.check(f"echo 4096 >{parameter}")
        entries = {}
        for bs in ("1M", "4K"):
            ssd.check(f"{FIO} --rw=randwrite --bs={bs} --size=32m >/tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}")
            ssd.check(f"dd if=/dev/nvme0n1 of=/dev/null bs={bs} count=64 iflag=direct")
            head = client.call("queues.get", qid=1)["sqs"][0]["head"]
            raw = client.call("queues.entries", qid=1, start=(head - 1) % 1024, count=1)[0]["raw"]
            entries[bs] = Sqe._make(SQE.unpack(bytes.fromhex(raw)))
    large, small = entries["1M"], entries["4K"]
    assert large.flags & PSDT_MASK == PSDT_SGL and large.prp2 >> 56 == SGL_LAST_SEGMENT, large
    assert (large.prp2 & 0xFFFF_FFFF) // SGL_BYTES > 100
    assert small.flags & PSDT_MASK == 0, small


def test_linux_puts_its_submission_queues_into_the_cmb(buildable: None) -> None:
    try:
        images = find_newer_images()
    except Unavailable as reason:
        pytest.skip(f"no kernel with peer-to-peer memory here: {reason}")
    with attached("--size", "256M", "--cmb", str(CMB), images=images) as ssd:
        queues = int(ssd.check("cat /sys/class/nvme/nvme0/queue_count")) - 1
        entries = int(ssd.check("cat /sys/class/nvme/nvme0/sqsize")) + 1
        assert int(ssd.check("cat /sys/class/nvme/nvme0/cmbsz")) == CMB | 0x1F
        used = CMB - int(ssd.check("cat /sys/class/nvme/nvme0/device/p2pmem/available"))
        assert used == queues * entries * 64
        for options in ("--rw=randwrite --bs=4k --size=8m", "--rw=randwrite --bs=1m --size=32m"):
            ssd.check(f"{FIO} {options} >/tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}")
        ssd.check("echo 1 >/sys/class/nvme/nvme0/reset_controller && dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64")
        lines = ssd.new_kernel_lines()
        assert not [line for line in lines if "nvme0: " in line and ("I/O" in line or "error" in line)]


def test_the_persistent_memory_region_is_there_for_the_next_guest(buildable: None, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with attached("--size", "64M", "--image", str(image), "--pmr", "64K") as ssd:
        ssd.check(PMR_FROM_USER_SPACE)
    stored = Path(f"{image}.pmr").read_bytes()
    assert len(stored) == 65536
    assert [int.from_bytes(stored[at : at + 4], "little") for at in range(0, 256, 4)] == list(range(0x1000, 0x1040))
