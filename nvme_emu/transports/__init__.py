"""What carries a driver's accesses to a controller; transports know no command."""

from __future__ import annotations

from nvme_emu.transports.inproc import InprocTransport

__all__ = ["InprocTransport"]
