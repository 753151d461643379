"""The Error Information log: what went wrong with which command (NVMe Base 2.1, clause 5.1.12.1.2)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.nvm import READ_OR_WRITE
from nvme_emu.spec.commands import join64
from nvme_emu.spec.logs import ERROR_INFORMATION, ERROR_LOCATION_NONE, error_location
from nvme_emu.spec.queues import status_phase
from nvme_emu.spec.status import MORE

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.config import ControllerConfig

__all__ = ["ErrorLog"]

_NO_COMMAND: Final = 0xFFFF
"""SQID and CID of an error that is not of one command."""
_ENTRY_VERSION: Final = 1
"""LPVER: the opcode and the command set of an entry are valid."""


class ErrorLog:
    """The last ELPE + 1 errors, newest first, and how many there ever were."""

    def __init__(self, config: ControllerConfig) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=config.elpe_z + 1)
        self.error_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def record(
        self,
        cmd: Command | None,
        status: int,
        location: tuple[int, int] | None = None,
        *,
        lba: int | None = None,
    ) -> bool:
        """Add an entry; True says that the completion's More bit is to be set.

        ``status`` is the 15-bit status field. ``cmd`` is None for an error that is not of a command. ``lba``
        is the first logical block with the error; None takes the command's first block if it names one.
        """
        self.error_count += 1
        entry = {
            "error_count": self.error_count,
            "sqid": _NO_COMMAND,
            "cid": _NO_COMMAND,
            "status": status_phase(status | MORE, 0),
            "pel": ERROR_LOCATION_NONE if location is None else error_location(*location),
            "lba": lba or 0,
            "lpver": _ENTRY_VERSION,
        }
        if cmd is not None:
            if lba is None and cmd.sqid and cmd.opcode in READ_OR_WRITE:
                entry["lba"] = join64(cmd.cdw10, cmd.cdw11)
            entry.update(sqid=cmd.sqid, cid=cmd.cid, nsid=cmd.nsid, opc=cmd.opcode)
        self._entries.appendleft(entry)
        return True

    def page(self) -> bytes:
        """The log page: ELPE + 1 entries of 64 bytes; those with error count 0 are not valid."""
        built = b"".join(ERROR_INFORMATION.build(**entry) for entry in self._entries)
        return built.ljust((self._entries.maxlen or 0) * ERROR_INFORMATION.size, b"\0")

    def reset(self) -> None:
        """Controller Level Reset: the entries go, the count is kept for ever."""
        self._entries.clear()
