"""NVMe status → block status → errno, Linux's table."""

from __future__ import annotations

import errno

import pytest

from nvme_emu.driver.errno_table import block_status, errno_of, error_of
from nvme_emu.spec.status import DNR, MORE

TABLE = [
    (0x000, "OK", 0),
    (0x081, "NOSPC", errno.ENOSPC),
    (0x080, "TARGET", errno.EREMOTEIO),
    (0x021, "TARGET", errno.EREMOTEIO),
    (0x082, "TARGET", errno.EREMOTEIO),
    (0x180, "NOTSUPP", errno.EOPNOTSUPP),
    (0x001, "NOTSUPP", errno.EOPNOTSUPP),
    (0x002, "NOTSUPP", errno.EOPNOTSUPP),
    (0x00B, "NOTSUPP", errno.EOPNOTSUPP),
    (0x280, "MEDIUM", errno.ENODATA),
    (0x281, "MEDIUM", errno.ENODATA),
    (0x285, "MEDIUM", errno.ENODATA),
    (0x286, "MEDIUM", errno.ENODATA),
    (0x287, "MEDIUM", errno.ENODATA),
    (0x182, "MEDIUM", errno.ENODATA),
    (0x282, "PROTECTION", errno.EILSEQ),
    (0x283, "PROTECTION", errno.EILSEQ),
    (0x284, "PROTECTION", errno.EILSEQ),
    (0x181, "PROTECTION", errno.EILSEQ),
    (0x083, "RESV_CONFLICT", errno.EBADE),
    (0x370, "TRANSPORT", errno.ENOLINK),
    (0x1BD, "ZONE_ACTIVE_RESOURCE", errno.EOVERFLOW),
    (0x1BE, "ZONE_OPEN_RESOURCE", errno.ETOOMANYREFS),
    (0x006, "IOERR", errno.EIO),
    (0x371, "IOERR", errno.EIO),
    (0x7FF, "IOERR", errno.EIO),
]


@pytest.mark.parametrize(("status", "name", "number"), TABLE)
@pytest.mark.parametrize("flags", [0, DNR, MORE, DNR | MORE])
def test_status_gives_linux_errno_whatever_the_flags(status: int, name: str, number: int, flags: int) -> None:
    assert block_status(status | flags) == (name, number)
    assert errno_of(status | flags) == number


def test_error_names_command_status_and_errno() -> None:
    error = error_of(0x285 | DNR, "Compare nsid 1 slba 5 nlb 1")

    assert isinstance(error, OSError)
    assert error.errno == errno.ENODATA
    assert error.status == 0x285 | DNR
    assert "Compare nsid 1 slba 5 nlb 1" in str(error)
    assert "Compare Failure" in str(error)
