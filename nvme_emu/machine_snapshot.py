"""Copies of a machine in memory: a test prepares an SSD once, and begins from there as often as it likes.

    with nvme_emu.open(size="1G") as ssd:
        prepare(ssd)
        with ssd.snapshot() as prepared:
            for seed in range(100):
                with prepared.open(seed=seed) as copy:
                    try_something(copy)

A copy is the SSD after a clean power cycle: it has what an image file would have (docs/image.md says what), and all of
the data. Each copy shares the pages that it has not written.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.lasting_copy import copied_state, under_way
from nvme_emu.core.errors import NvmeError
from nvme_emu.media import (
    CopiedData,
    CopiedRam,
    CopiedSparse,
    ImageMedia,
    Media,
    MediaError,
    PmrFile,
    pmr_path,
)
from nvme_emu.media.opening import RAM_BYTES_MAX

if TYPE_CHECKING:
    from nvme_emu.machine import Machine, MachineConfig

__all__ = ["Snapshot", "check_fits", "take"]

_OF_THE_DEVICE: Final = ("image", "size", "lba_size", "namespaces", "zoned", "metadata")
_CHUNK: Final = 1 << 20


class Snapshot:
    """An SSD as it was at one time. ``nbytes`` is the size of its data, ``config`` what it was taken from.

    `close`, or the end of a ``with``, gives its memory back when the last machine made of it is closed; so does
    forgetting it.
    """

    def __init__(self, config: MachineConfig, data: CopiedData, state: bytes, pmr: bytes) -> None:
        self.config = config
        self.nbytes = data.nbytes
        self._data: CopiedData | None = data
        self._state = state
        self._pmr = pmr

    # -- machines ---------------------------------------------------------------------------------------------

    def open(self, **options: Any) -> Machine:
        """A machine of its own with a copy of the SSD. ``options`` are those of `nvme_emu.open`, by default those of
        the machine that it was taken from.

        Raises ValueError for one that says what the SSD is (size, image, namespaces …), TypeError for one that there
        is not, and what `nvme_emu.open` raises.
        """
        from nvme_emu.machine import Machine

        given = [name for name in _OF_THE_DEVICE if name in options]
        if given:
            raise ValueError(f"{given[0]}={options[given[0]]!r}: the snapshot says what the SSD is")
        known = {one.name for one in fields(self.config)}
        for name in options:
            if name not in known:
                raise TypeError(f"{name!r} is no option of a machine")
        return Machine(replace(self.config, **options), snapshot=self)

    def media(self, config: MachineConfig) -> Media:
        """A medium with the data and the state, for a machine of this configuration. ValueError if they do not fit."""
        data = self._opened()
        mine, wanted = self.config.controller, config.controller
        if wanted.pmr_bytes != mine.pmr_bytes:
            raise ValueError(
                f"controller: pmr_bytes={wanted.pmr_bytes}; the snapshot has a region of {mine.pmr_bytes} bytes"
            )
        if wanted.track_allocation and not mine.track_allocation:
            raise ValueError("controller: track_allocation=True; the snapshot does not know which blocks were written")
        kind = CopiedRam if self.nbytes <= RAM_BYTES_MAX else CopiedSparse
        return kind(data, self._state)

    @property
    def pmr(self) -> bytes:
        """What the Persistent Memory Region had; empty without one."""
        return self._pmr

    # -- files ------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Make an image file of it, which `nvme_emu.open` takes; a Persistent Memory Region goes beside it.

        Raises MediaError for a file that is there or cannot be written, ValueError for a state that no image holds.
        """
        data = self._opened()
        names = [Path(path), *([Path(pmr_path(path))] if self._pmr else [])]
        for name in names:
            if os.path.lexists(name):
                raise MediaError(errno.EEXIST, f"{name} is there: a snapshot is saved to a new file")
        unit = self.config.lba_size
        try:
            with contextlib.closing(ImageMedia(path, -(-self.nbytes // unit) * unit, lba_size=unit)) as image:
                for start, nbytes in data.runs():
                    for at in range(start, start + nbytes, _CHUNK):
                        image.write(at, os.pread(data.fd, min(_CHUNK, start + nbytes - at), at))
                image.flush()
                image.store_state(self._state)
            if self._pmr:
                with contextlib.closing(PmrFile(pmr_path(path), len(self._pmr))) as store:
                    store.view[:] = self._pmr
        except BaseException:
            for name in names:
                name.unlink(missing_ok=True)
            raise

    # -- the end ----------------------------------------------------------------------------------------------

    def _opened(self) -> CopiedData:
        if self._data is None:
            raise ValueError("the snapshot is closed")
        return self._data

    def allocated_bytes(self) -> int:
        """The memory that it takes; 0 when it is closed. What copies have written is not counted."""
        return 0 if self._data is None else self._data.allocated_bytes()

    def close(self) -> None:
        """Make no more machines. Those that there are go on. A second call does nothing."""
        self._data = None

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Snapshot {self.nbytes} bytes{', closed' if self._data is None else ''}>"


def take(machine: Machine) -> Snapshot:
    """A snapshot of an open machine that has nothing to do; see `Machine.snapshot`."""
    _check_open(machine)
    machine.port.poll()
    taken = _taken(machine)
    with machine.port.lock:
        subsystem = machine.controller.subsystem
        for namespace in subsystem.namespaces.values():
            namespace.look(machine.runtime.now_ns)
        count = max(under_way(subsystem), taken)
        if count:
            raise NvmeError(errno.EBUSY, f"{count} command(s) are outstanding: a snapshot is taken when there is none")
        for namespace in subsystem.namespaces.values():
            namespace.medium.flush()  # what a fault rule's volatile cache holds
        subsystem.store()
        data = CopiedData(machine.media)
        state = copied_state(subsystem, machine.media, data.bases)
        buffer = machine.controller.buffers.pmr
        pmr = b"" if buffer is None else bytes(buffer.view)
    config = machine.config
    if config.image is not None:
        config = replace(config, image=None, size=data.nbytes)
    return Snapshot(config, data, state, pmr)


def check_fits(machine: Machine, snapshot: Snapshot) -> None:
    """Raises ValueError where a machine cannot go back to a snapshot."""
    _check_open(machine)
    if machine.config.image is not None:
        raise ValueError(f"the SSD's data is in {machine.config.image}, and stays there: open the snapshot instead")
    nbytes = sum(one.nbytes for one in machine.media)
    if snapshot.nbytes != nbytes:
        raise ValueError(f"the snapshot has {snapshot.nbytes} bytes of data, this SSD has {nbytes}")


def _check_open(machine: Machine) -> None:
    if not hasattr(machine, "media"):
        raise NvmeError(errno.EOPNOTSUPP, "the device is not in this process: there are no snapshots of it")
    if not all(one.nbytes for one in machine.media):
        raise ValueError("the machine is closed")


def _taken(machine: Machine) -> int:
    """How many requests the drivers have taken and not ended."""
    task = machine.runtime.current()
    if task is not None and any(worker.task is task for host in machine.hosts for worker in host.driver.workers):
        raise NvmeError(errno.EBUSY, f"on {task.comm}, which ends a command: take the snapshot on another thread")
    found = 0
    for host in machine.hosts:
        for path in host.driver.all_paths():
            found += max(path.pair.outstanding, int(path.unfinished() is not None))
    return found
