"""A driver in C under test: compiled by the system's compiler, called through cffi, on a RawDevice.

    driver = CDriver(device, sources=["mydriver.c"], cdef="int my_probe(struct nvme_bridge *bus);")
    assert driver.call("my_probe", driver.bus) == 0

The C side includes ``nvme_bridge.h``, a struct of function pointers (registers, DMA memory, interrupts, time, log).
Whatever a pointer is asked that makes no sense raises RawDeviceError in the test, at the call that was under way.
cffi comes with ``pip install "nvme-emu[cffi]"``; a C compiler called ``cc`` (or $CC) is looked for.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.testing.raw import DmaBuffer, Interrupt, RawDevice

__all__ = ["HEADER_DIR", "CDriver", "CDriverError"]

HEADER_DIR = Path(__file__).parent
"""Where ``nvme_bridge.h`` lies; it is on the include path of what is compiled here."""

_CFLAGS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-fPIC", "-shared")
COMPILE_SECONDS_MAX = 120


class CDriverError(RuntimeError):
    """cffi or the compiler is missing, the driver does not compile, or it has no such function."""


class CDriver:
    """A shared library of C sources, and the bridge that gives its functions a device.

    ``cdef`` declares the functions that the test calls, and the structures that it looks at, as cffi takes them.
    ``macros`` are given to the compiler (None: defined without a value). ``logged`` is what it has logged.
    """

    def __init__(
        self,
        device: RawDevice,
        *,
        sources: Sequence[str | Path],
        cdef: str,
        macros: Mapping[str, object] | None = None,
        cflags: Sequence[str] = (),
        build_dir: str | Path | None = None,
    ) -> None:
        try:
            import cffi
        except ImportError:
            raise CDriverError('drivers in C need cffi: pip install "nvme-emu[cffi]"') from None
        self.device = device
        self.logged: list[str] = []
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(_declarations() + cdef)
        self.path = _compile([Path(one) for one in sources], macros or {}, cflags, build_dir)
        self.lib: Any = self.ffi.dlopen(str(self.path))
        self._memory: dict[int, DmaBuffer] = {}
        self._views: dict[int, Any] = {}
        self._interrupts: dict[int, Interrupt] = {}
        self._raised: BaseException | None = None
        self._callbacks: list[Any] = []
        self.bus: Any = self.ffi.new("struct nvme_bridge *")
        for name in ("read32", "read64", "write32", "write64", "now_ns", "sleep_ns", "log"):
            self._install(name, getattr(self, f"_{name}"))
        for name in ("dma_alloc", "dma_free", "irq_connect", "irq_disconnect", "irq_wait"):
            self._install(name, getattr(self, f"_{name}"))

    def call(self, function: str, *args: Any) -> Any:
        """Call a function of the library. Raises what a function pointer of the bridge raised meanwhile."""
        try:
            target = getattr(self.lib, function)
        except AttributeError as error:
            raise CDriverError(f"{self.path.name}: {error}; is it in cdef and not static?") from None
        self._raised = None
        result = target(*args)
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
        return result

    def _install(self, name: str, function: Callable[..., Any]) -> None:
        """Make a function pointer of it. What it raises cannot pass through C: it waits until the call returns."""
        kind = self.ffi.typeof(getattr(self.bus, name))

        def guarded(_bus: Any, *args: Any) -> Any:
            if self._raised is not None:
                return None if kind.result.kind == "void" else self.ffi.cast(kind.result, -1)
            return function(*args)

        def failed(_kind: Any, error: BaseException, _trace: Any) -> Any:
            self._raised = self._raised or error

        nothing: Any = None
        if kind.result.kind == "pointer":
            nothing = self.ffi.NULL
        elif kind.result.kind != "void":
            # As a device that is gone: all ones.
            nothing = int(self.ffi.cast(kind.result, -1))
        callback = self.ffi.callback(kind, guarded, error=nothing, onerror=failed)
        self._callbacks.append(callback)
        setattr(self.bus, name, callback)

    # -- what the pointers do -----------------------------------------------------------------------------

    def _read32(self, offset: int) -> int:
        return self.device.read32(offset)

    def _read64(self, offset: int) -> int:
        return self.device.read64(offset)

    def _write32(self, offset: int, value: int) -> None:
        self.device.write32(offset, value)

    def _write64(self, offset: int, value: int) -> None:
        self.device.write64(offset, value)

    def _now_ns(self) -> int:
        return self.device.now_ns

    def _sleep_ns(self, duration_ns: int) -> None:
        self.device.sleep_ns(duration_ns)

    def _log(self, text: Any) -> None:
        self.logged.append(self.ffi.string(text).decode(errors="replace"))

    def _dma_alloc(self, nbytes: int, addr: Any) -> Any:
        buffer = self.device.dma_alloc(nbytes, "memory of the C driver")
        pointer = self.ffi.from_buffer("uint8_t[]", buffer.view, require_writable=True)
        at = int(self.ffi.cast("uintptr_t", pointer))
        self._memory[at], self._views[at] = buffer, pointer
        addr[0] = buffer.addr
        return self.ffi.cast("void *", pointer)

    def _dma_free(self, memory: Any) -> None:
        from nvme_emu.testing.raw import RawDeviceError

        at = int(self.ffi.cast("uintptr_t", memory))
        buffer = self._memory.pop(at, None)
        if buffer is None:
            raise RawDeviceError(f"dma_free({at:#x}): dma_alloc did not give this, or it was freed before")
        self.device.dma_free(buffer)
        # The bytes stay: a driver that goes on using them reads poison, and crashes nothing.

    def _irq_connect(self, vector: int, handler: Any, data: Any) -> int:
        from nvme_emu.testing.raw import RawDeviceError

        call = None if handler == self.ffi.NULL else lambda: handler(data)
        try:
            self._interrupts[vector] = self.device.connect_irq(vector, call)
        except RawDeviceError:
            return -1
        return 0

    def _irq_disconnect(self, vector: int) -> None:
        self.device.disconnect_irq(self._connected(vector, "irq_disconnect"))
        del self._interrupts[vector]

    def _irq_wait(self, vector: int, timeout_ns: int) -> int:
        return int(self._connected(vector, "irq_wait").wait(timeout_ns))

    def _connected(self, vector: int, what: str) -> Interrupt:
        from nvme_emu.testing.raw import RawDeviceError

        if vector not in self._interrupts:
            raise RawDeviceError(f"{what}({vector}): the vector is not connected")
        return self._interrupts[vector]


def _declarations() -> str:
    text = (HEADER_DIR / "nvme_bridge.h").read_text(encoding="utf-8")
    return text.partition("/* begin */")[2].partition("/* end */")[0]


def _compile(
    sources: Sequence[Path], macros: Mapping[str, object], cflags: Sequence[str], build_dir: str | Path | None
) -> Path:
    """The shared library; one of the same sources, macros and flags is made once."""
    for source in sources:
        if not source.is_file():
            raise CDriverError(f"{source}: there is no such source")
    defines = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in macros.items()]
    compiler = shlex.split(os.environ.get("CC") or "cc")
    command = [*compiler, *_CFLAGS, f"-I{HEADER_DIR}", *defines, *cflags, *map(str, sources)]
    digest = hashlib.sha256(repr(command).encode())
    for path in (*sources, HEADER_DIR / "nvme_bridge.h"):
        digest.update(path.read_bytes())
    where = Path(build_dir) if build_dir is not None else Path(tempfile.gettempdir()) / f"nvme-emu-c-{os.getuid()}"
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = where / f"{sources[0].stem}-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            done = subprocess.run(
                [*command, "-o", str(part)], capture_output=True, text=True, timeout=COMPILE_SECONDS_MAX
            )
        except FileNotFoundError:
            raise CDriverError(f"drivers in C need a compiler: there is no {compiler[0]!r} (set CC)") from None
        if done.returncode:
            raise CDriverError(f"the driver does not compile:\n{done.stderr.strip()}")
        part.replace(target)  # in one step: tests may run side by side
    return target
