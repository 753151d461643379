"""Record what nvme-cli prints of an SSD of ours in a Linux guest, for tests/unit/observe/test_words_nvme_cli.py.

    python tools/nvme_cli/record.py            # writes tests/unit/observe/nvme_cli

For each command the JSON that it printed, and the structure's bytes that it printed it from.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from linux_guest_lib.guest import Guest, vfio_user_device  # noqa: E402
from linux_guest_lib.server import Server  # noqa: E402

OUT = ROOT / "tests" / "unit" / "observe" / "nvme_cli"

# What stands behind the word, and how nvme-cli is asked for the raw bytes (None: it has none for it).
COMMANDS = {
    "id-ctrl": ("/dev/nvme0", "id-ctrl /dev/nvme0 -b"),
    "id-ns": ("/dev/nvme0n1", "id-ns /dev/nvme0n1 -b"),
    "smart-log": ("/dev/nvme0", "smart-log /dev/nvme0 -o binary"),
    "error-log": ("/dev/nvme0 -e 3", "error-log /dev/nvme0 -e 3 -o binary"),
    "fw-log": ("/dev/nvme0", "fw-log /dev/nvme0 -o binary"),
    "ns-descs": ("/dev/nvme0n1", "ns-descs /dev/nvme0n1 -o binary"),
    "list-ns": ("/dev/nvme0", None),
}
PREPARE = """
dd if=/dev/urandom of=/dev/nvme0n1 bs=1M count=4 oflag=direct status=none
nvme read /dev/nvme0n1 -s 131072 -c 0 -z 512 || true
"""


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with Server("--size", "64M") as server, Guest(vfio_user_device(server.sockets[0])) as guest:
        guest.check(PREPARE)
        for word, (words, binary) in COMMANDS.items():
            (OUT / f"{word}.json").write_text(guest.check(f"nvme {word} {words} -o json 2>/dev/null"))
            if binary is not None:
                raw = guest.check(f"nvme {binary} 2>/dev/null | base64 -w0")
                (OUT / f"{word}.binary").write_bytes(base64.b64decode(raw))


if __name__ == "__main__":
    main()
