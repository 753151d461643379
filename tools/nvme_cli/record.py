"""Record what the real nvme-cli prints of one of our controllers, for tests/unit/observe/test_words_nvme_cli.py.

    python tools/nvme_cli/record.py            # needs nvme (nvme-cli 2.x) and cc; writes tests/unit/observe/nvme_cli

nvme-cli runs with shim.c preloaded, which sends its admin commands to this process. The recordings are data that
the program printed: for each command its JSON, and the structure's bytes that it printed it from.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import nvme_emu
from nvme_emu.core.errors import CommandError, NvmeError
from nvme_emu.observe import management
from nvme_emu.spec.status import DNR, Status

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "tests" / "unit" / "observe" / "nvme_cli"
PASSTHRU = struct.Struct("<BBHIIIQQIIIIIIIIII")

COMMANDS = {
    "id-ctrl": ["/dev/nvme0"],
    "id-ns": ["/dev/nvme0n1"],
    "smart-log": ["/dev/nvme0"],
    "error-log": ["/dev/nvme0", "-e", "3"],
    "fw-log": ["/dev/nvme0"],
    "ns-descs": ["/dev/nvme0n1"],
    "list-ns": ["/dev/nvme0"],
}


def answer(ctrl: Any, request: bytes) -> bytes:
    """What the shim gets for one command."""
    opcode, _, _, nsid, _, _, _, _, _, length, *cdws, _, _ = PASSTHRU.unpack(request)
    try:
        named = dict(zip((f"cdw{n}" for n in range(10, 16)), cdws, strict=True))
        result, data = management.execute(ctrl, opcode, nsid=nsid, **named)
        return struct.pack("<III", 0, result, len(data[:length])) + data[:length]
    except CommandError as error:
        return struct.pack("<III", error.field, 0, 0)
    except ValueError:
        return struct.pack("<III", Status.INVALID_OPCODE | DNR, 0, 0)


def serve(ctrl: Any, listener: socket.socket) -> None:
    """Answer the shim until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            request = b""
            while len(request) < PASSTHRU.size and (part := connection.recv(PASSTHRU.size - len(request))):
                request += part
            if len(request) == PASSTHRU.size:
                connection.sendall(answer(ctrl, request))


def used_ssd() -> Any:
    """An SSD that has done some I/O and failed one command."""
    machine = nvme_emu.open(size="64M", seed=7)
    for slba in range(5):
        machine.namespaces[1].write(slba, bytes(512))
        machine.namespaces[1].read(slba, 1)
    with contextlib.suppress(NvmeError):
        machine.driver.admin.identify(0x55)  # for the error log
    return machine


def main() -> None:
    """Compile the shim, run each command in both formats."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, used_ssd() as machine:
        shim, path = f"{folder}/shim.so", f"{folder}/socket"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        threading.Thread(target=serve, args=(machine.controller, listener), daemon=True).start()
        env = {**os.environ, "LD_PRELOAD": shim, "NVME_SHIM_SOCKET": path}
        for command, args in COMMANDS.items():
            for form in ("json",) if command == "list-ns" else ("json", "binary"):
                run = ["nvme", command, *args, "-o", form]
                printed = subprocess.run(run, env=env, capture_output=True, check=True).stdout
                (OUT / f"{command}.{form}").write_bytes(printed)
        version = subprocess.run(["nvme", "version"], capture_output=True, text=True, check=True).stdout
        (OUT / "VERSION").write_text(version)
        listener.close()


if __name__ == "__main__":
    main()
