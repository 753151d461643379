"""Asymmetric namespace access, as the driver knows it (Linux: ``nvme_read_ana_log``, ``nvme_update_ana_state``).

The ANA log page is read when the controller comes up and whenever it tells of a change. Each driver here is one path
of its own: a command to a namespace that is not reached ends with its path related status, after Linux's retries; there
is no other path that it could take.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.spec.ana import AnaState

__all__ = ["AnaTable"]

CMIC_ANARS = 1 << 3
LOG_PAGE = 0x0C


class AnaTable:
    """The states of the ANA groups, as the controller told of them last. ``states`` is {group: AnaState}."""

    def __init__(self, driver: NvmeDriver) -> None:
        self._driver = driver
        self.states: dict[int, AnaState] = {}
        self.change_count = 0

    @property
    def offered(self) -> bool:
        """Whether the controller reports asymmetric access (CMIC.ANARS)."""
        return bool(self._driver.identity.cmic & CMIC_ANARS)

    def read(self) -> None:
        """Read the log page, which also clears its event. NvmeError where that fails."""
        if not self.offered:
            return
        from nvme_emu.spec.ana import ANA_GROUP, ANA_LOG, AnaState, ana_log_bytes

        identity = self._driver.identity
        most = ana_log_bytes(identity.nanagrpid, identity.mnan or identity.nn)
        page = self._driver.admin.get_log_page(LOG_PAGE, most).tobytes()
        head, at = ANA_LOG.parse(page), ANA_LOG.size
        states: dict[int, AnaState] = {}
        for _ in range(head.ngrps):
            if at + ANA_GROUP.size > len(page):
                break  # a device that tells of more than it has
            group = ANA_GROUP.parse(page[at : at + ANA_GROUP.size])
            if group.state & 0xF in AnaState._value2member_map_:
                states[group.grpid] = AnaState(group.state & 0xF)
            at += ANA_GROUP.size + struct.calcsize("<I") * group.nnsids
        self.states, self.change_count = states, head.chgcnt

    def state(self, group: int) -> AnaState:
        """The state of a group; one that was not reported is optimized, as where there are no groups."""
        from nvme_emu.spec.ana import AnaState

        return self.states.get(group, AnaState.OPTIMIZED)
