"""The process that is killed: works on an image and says into a pipe what was acknowledged, a line each.

    w LBA SERIAL    is about to write a block              d LBA SERIAL    that write ended, with FUA
    f               a Flush ended: all writes before it    p SERIAL        is about to save a feature's value
    s SERIAL        the value is saved
"""

from __future__ import annotations

import os
from random import Random

import nvme_emu

BLOCK = 512
FEATURE = 0x04  # Temperature Threshold: its saved value is a number of the host's choice


def contents(lba: int, serial: int) -> bytes:
    """A block that tells which write it is of, in every 16 bytes, so that a torn one shows."""
    return (lba.to_bytes(8, "little") + serial.to_bytes(8, "little")) * (BLOCK // 16)


def saved_value(serial: int) -> int:
    """A threshold in kelvins that nothing reaches."""
    return 400 + serial % 1000


def work(path: str, seed: int, first: int, blocks: int, out: int) -> None:
    """Go on until killed. Serial numbers grow from ``first`` on; ``out`` is the pipe's descriptor."""
    rng = Random(seed)

    def tell(line: str) -> None:
        os.write(out, line.encode() + b"\n")

    serial = first
    with nvme_emu.open(path, mode="sync") as ssd:
        namespace = ssd.namespaces[1]
        while True:
            serial += 1
            what = rng.random()
            if what < 0.75:
                lba, fua = rng.randrange(blocks), what < 0.15
                tell(f"w {lba} {serial}")
                namespace.write(lba, contents(lba, serial), fua=fua)
                if fua:
                    tell(f"d {lba} {serial}")
            elif what < 0.9:
                namespace.flush()
                tell("f")
            else:
                tell(f"p {serial}")
                ssd.driver.admin.execute(0x09, cdw10=1 << 31 | FEATURE, cdw11=saved_value(serial))
                tell(f"s {serial}")


def look(path: str, blocks: int) -> dict[str, object]:
    """What a device over the image finds: the serial number of each block, None for a torn one; the saved value."""
    found: list[int | None] = []
    with nvme_emu.open(path, mode="sync") as ssd:
        data = bytes(ssd.namespaces[1].read(0, blocks))
        saved = ssd.driver.admin.get_features(FEATURE, sel=2)
    for lba in range(blocks):
        block = data[lba * BLOCK : (lba + 1) * BLOCK]
        serial = int.from_bytes(block[8:16], "little")
        found.append(serial if block == (contents(lba, serial) if serial else bytes(BLOCK)) else None)
    return {"blocks": found, "saved": saved}
