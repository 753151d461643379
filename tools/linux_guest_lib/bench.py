"""The same fio jobs, in one boot of one guest, on QEMU's own NVMe device and on ours: the ratio is what counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .guest import Guest, vfio_user_device
from .server import Server

__all__ = ["JOBS", "Row", "bench"]

JOBS = {
    "randread 4k QD1": "--rw=randread --bs=4k --iodepth=1",
    "randread 4k QD32": "--rw=randread --bs=4k --iodepth=32",
    "randwrite 4k QD1": "--rw=randwrite --bs=4k --iodepth=1",
    "randwrite 4k QD32": "--rw=randwrite --bs=4k --iodepth=32",
    "read 128k QD8": "--rw=read --bs=128k --iodepth=8",
}
MIB = 512

# QEMU's device on a backend that does nothing: the least that emulation costs there.
_QEMU_NVME = (
    *("-drive", f"if=none,id=null,driver=null-co,size={MIB}M,read-zeroes=on"),
    *("-device", "nvme,serial=qemu,drive=null"),
)


class Row(NamedTuple):
    """One job: IOPS and mean completion latency (µs) on QEMU's device and on ours."""

    job: str
    qemu_iops: float
    qemu_us: float
    our_iops: float
    our_us: float

    @property
    def iops_ratio(self) -> float:
        """Ours to QEMU's."""
        return self.our_iops / self.qemu_iops


def _measure(guest: Guest, device: str, options: str, seconds: float) -> tuple[float, float]:
    text = guest.check(
        f"fio --name=job --filename={device} --direct=1 {options} --size={MIB}m --ioengine=libaio "
        f"--time_based --runtime={seconds} --output-format=json",
        seconds=seconds + 60,
    )
    job: dict[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]
    one = job["write" if "write" in options else "read"]
    return one["iops"], one["clat_ns"]["mean"] / 1000


def bench(*serve_options: str, seconds: float = 3, repeats: int = 3) -> Iterator[Row]:
    """Measure every job; the better of `repeats` runs of each, taken in turns."""
    with (
        Server("--size", f"{MIB}M", *serve_options) as server,
        Guest([*vfio_user_device(server.sockets[0]), *_QEMU_NVME]) as guest,
    ):
        serials = {n: guest.check(f"cat /sys/class/nvme/nvme{n}/serial").strip() for n in (0, 1)}
        devices = {("qemu" if serial == "qemu" else "ours"): f"/dev/nvme{n}n1" for n, serial in serials.items()}
        for name, options in JOBS.items():
            best = {"qemu": (0.0, 0.0), "ours": (0.0, 0.0)}
            for _ in range(repeats):
                for who, device in devices.items():
                    best[who] = max(best[who], _measure(guest, device, options, seconds))
            yield Row(name, *best["qemu"], *best["ours"])
