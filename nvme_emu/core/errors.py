"""The errors that cross borders between rooms, by whose fault they are.

* `NvmeError`: what a caller of the driver gets; an `OSError` with the errno that Linux would return.
* `CommandError`: inside the controller, "this command ends with that status". Never leaves it.
* `DmaError`: an address that no region of host memory owns. The controller turns it into a status
  or into CSTS.CFS; nothing outside owned memory is ever read or written.
* `MediaError`: the medium failed (disk full, image truncated, image foreign); the controller turns it
  into a media status, `open_media` lets the caller see it.

Programmer errors (an offset beyond the medium, a page freed twice) are ValueError and its subclasses.
"""

from __future__ import annotations

from nvme_emu.spec.status import DNR, describe

__all__ = ["CommandError", "DmaError", "MediaError", "NvmeError"]


class NvmeError(OSError):
    """A command, or the device, failed.

    `errno` is what the Linux driver returns for the same status (`blk_status_to_errno`), `status` the
    15-bit status field (SC, SCT, CRD, M, DNR; without the phase) or None where no completion said anything
    (a timeout, a device that went away).
    """

    status: int | None

    def __init__(self, errno: int, message: str, *, status: int | None = None) -> None:
        super().__init__(errno, message)
        self.status = status


class DmaError(Exception):
    """An access to memory that nobody gave to the device.

    `addr` and `length` are what was asked for, in bytes; `rule` says which rule it broke.
    """

    def __init__(self, addr: int, length: int, rule: str) -> None:
        super().__init__(addr, length, rule)
        self.addr = addr
        self.length = length
        self.rule = rule

    def __str__(self) -> str:
        return f"access to {self.length} bytes at {self.addr:#x}: {self.rule}"


class CommandError(Exception):
    """Ends the command being executed with a status.

    `status` is SCT << 8 | SC (a `Status`), `dnr` whether a retry is pointless, `location` the (byte, bit)
    of the first wrong field in the submission queue entry, for the Error Information log page
    (NVMe Base 2.1, clause 5.1.12.1.2, Parameter Error Location), and `lba` the first logical block with the
    error, None for the command's first one.
    """

    def __init__(
        self, status: int, *, dnr: bool = True, location: tuple[int, int] | None = None, lba: int | None = None
    ) -> None:
        super().__init__(status)
        self.status = status
        self.dnr = dnr
        self.location = location
        self.lba = lba

    @property
    def field(self) -> int:
        """The 15-bit status field as it goes into the completion (without the phase bit)."""
        return self.status | DNR if self.dnr else int(self.status)

    def __str__(self) -> str:
        where = "" if self.location is None else f" at byte {self.location[0]} bit {self.location[1]}"
        return describe(self.field) + where


class MediaError(OSError):
    """The medium cannot do what was asked; the message names the path, the value and the rule."""
