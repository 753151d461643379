"""A running guest: boots, runs shell scripts one after the other, can be asked over QMP, and ends.

    with Guest(["-device", …]) as guest:
        result = guest.run("nvme list", seconds=30)
        result.status, result.output

Scripts and their output travel through a virtio port, the kernel's console goes to a file. A script that takes
longer than its limit is killed in the guest; a guest that does not answer raises GuestError with the end of
its console.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import Images, find_images
from .qemu import find_qemu

__all__ = ["HOST_ADDRESS", "NETWORK_UP", "Guest", "GuestError", "Result", "network_device", "vfio_user_device"]

BOOT_SECONDS = 90.0
"""A guest that has not said that it is ready by then will not."""

GRACE_SECONDS = 20.0
"""How much later than its script's limit a guest may answer, on a machine that is busy with other things."""

PLAIN_DEVICES = ("-device", "virtio-serial-pci,id=ports", "-device", "virtserialport,chardev=job,name=job")


class GuestError(Exception):
    """The guest did not do what a guest does: boot, answer, go on living."""


@dataclass(frozen=True)
class Result:
    """What a script did: its exit status (124 when it took too long) and what it wrote, both streams."""

    status: int
    output: str

    def lines(self) -> list[str]:
        """The output's lines."""
        return self.output.splitlines()


def vfio_user_device(path: str | os.PathLike[str], **properties: Any) -> list[str]:
    """QEMU's words for a vfio-user client of the server at a socket."""
    device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": os.fspath(path)}, **properties}
    return ["-device", json.dumps(device)]


HOST_ADDRESS = "10.0.2.2"
"""What the guest calls the loopback interface of the machine it runs on, once NETWORK_UP has run in it."""

NETWORK_UP = """\
modprobe virtio_net
until [ -e /sys/class/net/eth0 ]; do sleep 0.05; done
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
modprobe nvme-tcp
"""


def network_device() -> list[str]:
    """QEMU's words for a network card of its user mode network, which needs no rights."""
    return ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]


class Guest:
    """One virtual machine. `devices` are QEMU's words for what is attached to it.

    `shared_memory` False gives it memory that cannot be mapped by others, so that DMA goes by messages.
    `images` are what it boots, the usual ones if nothing is said. Raises Unavailable where there can be no guest,
    GuestError when it does not boot.
    """

    def __init__(
        self,
        devices: Sequence[str] = (),
        *,
        memory: str = "768M",
        processors: int = 2,
        shared_memory: bool = True,
        kernel_options: str = "",
        boot_seconds: float = BOOT_SECONDS,
        images: Images | None = None,
    ) -> None:
        qemu, images = find_qemu(), images or find_images()
        self.version = f"{qemu.version}; Linux {images.release}"
        self.directory = Path(tempfile.mkdtemp(prefix="nvme-emu-guest-"))
        self._buffer = b""
        self._job: socket.socket | None = None
        self._qmp: socket.socket | None = None
        self._qmp_file: Any = None
        share = "on" if shared_memory else "off"
        backend = "memory-backend-memfd" if shared_memory else "memory-backend-ram"
        append = "console=ttyS0 quiet loglevel=5 panic=-1 mitigations=off random.trust_cpu=on rdinit=/init"
        command = [
            *qemu.command,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(processors), "-m", memory),
            *("-object", f"{backend},id=mem,size={memory},share={share}", "-machine", "q35,memory-backend=mem"),
            *("-kernel", str(images.kernel), "-initrd", str(images.initramfs)),
            *("-append", f"{append} {kernel_options}"),
            *("-drive", f"if=none,id=root,file={images.root},format=raw,snapshot=on"),
            *("-device", "virtio-blk-pci,drive=root,serial=root"),
            *("-chardev", f"socket,id=job,path={self.directory}/job,server=on,wait=off"),
            *PLAIN_DEVICES,
            *("-serial", f"file:{self.directory}/console"),
            *("-qmp", f"unix:{self.directory}/qmp,server=on,wait=off"),
            *("-device", "pcie-root-port,id=spare,chassis=1"),
            *devices,
        ]
        started = time.monotonic()
        self._errors = open(self.directory / "stderr", "wb")  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            env={**os.environ, **qemu.environment},
            start_new_session=True,
        )
        try:
            self._job = self._connect("job", started + boot_seconds)
            self._qmp = self._connect("qmp", started + boot_seconds)
            self._read_until(b"ready\n", started + boot_seconds, "boot")
        except BaseException:
            self.close()
            raise
        self.boot_seconds = time.monotonic() - started

    # -- talking --------------------------------------------------------------------------------------------

    def _connect(self, name: str, deadline: float) -> socket.socket:
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                client.connect(str(self.directory / name))
                return client
            except (FileNotFoundError, ConnectionRefusedError):
                client.close()
                if self._process.poll() is not None:
                    raise GuestError(f"QEMU ended with {self._process.returncode}: {self._stderr()}") from None
                if time.monotonic() > deadline:
                    raise GuestError(f"QEMU did not start: {self._stderr()}") from None
                time.sleep(0.02)

    def _stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace").strip()[-2000:]

    @property
    def console(self) -> str:
        """What the kernel wrote to its console."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "console").read_text(errors="replace")
        return ""

    @property
    def stderr(self) -> str:
        """What QEMU itself complained about."""
        return self._stderr()

    def _read_until(
        self, end: bytes, deadline: float, what: str, on_text: Callable[[str], None] | None = None
    ) -> bytes:
        assert self._job is not None
        while end not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestError(f"the guest did not {what} in time. Its console:\n{self.console[-3000:]}")
            self._job.settimeout(min(left, 1.0))
            try:
                data = self._job.recv(1 << 16)
            except TimeoutError:
                if self._process.poll() is None:
                    continue
                data = b""
            except ConnectionError:
                data = b""
            if not data:
                why = f"{self._stderr()}\n{self.console[-3000:]}"
                raise GuestError(f"the guest ended while it should {what}: {why}")
            self._buffer += data
            if on_text is not None:
                on_text(data.decode(errors="replace"))
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def run(self, script: str, *, seconds: float = 60, on_text: Callable[[str], None] | None = None) -> Result:
        """Run a bash script as root and wait for it. `on_text` gets the output as it comes."""
        assert self._job is not None
        token = secrets.token_hex(8)
        data = script.encode()
        self._job.settimeout(10)
        self._job.sendall(f"{token} {seconds:g} {len(data)}\n".encode() + data)
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        output = self._read_until(f"\n{token} ".encode(), deadline, "run a script", on_text)
        status = self._read_until(b"\n", time.monotonic() + GRACE_SECONDS, "tell the status")
        return Result(int(status), output.decode(errors="replace"))

    def check(self, script: str, *, seconds: float = 60) -> str:
        """Run a script that must succeed; its output. AssertionError with the output when it fails."""
        result = self.run(f"set -e -o pipefail\n{script}", seconds=seconds)
        assert result.status == 0, f"exit status {result.status} of:\n{script}\noutput:\n{result.output}"
        return result.output

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Ask QEMU; its answer's "return". GuestError for an error."""
        assert self._qmp is not None
        self._qmp.settimeout(30)
        if self._qmp_file is None:
            self._qmp_file = self._qmp.makefile("r")
            self._qmp_file.readline()
            self.qmp("qmp_capabilities")
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._qmp_file.readline() or '{"error": "QEMU has gone"}')
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']}")

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the machine at once and remove its files. A second call does nothing."""
        for one in (self._qmp_file, self._job, self._qmp):
            if one is not None:
                one.close()
        self._qmp_file = self._job = self._qmp = None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
