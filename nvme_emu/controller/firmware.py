"""Firmware slots, and the commands that fill and activate them (NVMe Base 2.1, 3.11, 5.1.8 and 5.1.9).

    Firmware Image Download ──► the parts of an image, kept for each controller until Commit or a reset
    Firmware Commit CA 0        image into a slot
                    CA 1        image into a slot, which becomes active with the next reset
                    CA 2        a slot becomes active with the next reset
                    CA 3        (image into) a slot, which becomes active now: CSTS.PP for a while

Slot 1 is read-only and holds the revision that the device came with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import FW_COMMIT_CDW10, CommitAction
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.firmware import firmware_revision
from nvme_emu.spec.logs import FIRMWARE_ACTIVE, FIRMWARE_SLOT_INFORMATION, FIRMWARE_SLOTS, Lid
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["IMAGE_BYTES_MAX", "SLOTS", "Firmware", "firmware_commit", "firmware_download"]

SLOTS: Final = 3
"""Identify Controller FRMW: slots 1 to this."""
READ_ONLY_SLOT: Final = 1
IMAGE_BYTES_MAX: Final = 16 << 20
"""The largest image that is taken: our own bound."""

_FS = location(10, FW_COMMIT_CDW10, "fs")
_CA = location(10, FW_COMMIT_CDW10, "ca")
_NUMD, _OFST = (40, 0), (44, 0)


class Firmware:
    """The slots of a subsystem: ``revisions`` by slot, the active one, and the one that a reset activates."""

    def __init__(self, subsystem: NvmSubsystem) -> None:
        self._subsystem = subsystem
        self.revisions: dict[int, str] = {READ_ONLY_SLOT: subsystem.config.fr}
        self.active = READ_ONLY_SLOT
        self.next_active = 0
        """The slot that the next reset activates; 0 for none."""
        self._parts: dict[int, dict[int, bytes]] = {}

    @property
    def revision(self) -> str:
        """Identify Controller FR."""
        return self.revisions[self.active]

    def page(self) -> bytes:
        """Log page 03h."""
        # A slot without a revision reads as zeros, not as the spaces that fill a string.
        revisions = [self.revisions.get(slot, bytes(8)) for slot in range(1, FIRMWARE_SLOTS + 1)]
        active = FIRMWARE_ACTIVE.pack(afs=self.active, nfs=self.next_active)
        return FIRMWARE_SLOT_INFORMATION.build(afi=active, frs=revisions)

    def describe(self) -> dict[str, Any]:
        """In plain values."""
        return {
            "slots": {str(slot): revision for slot, revision in sorted(self.revisions.items())},
            "active": self.active,
            "next_active": self.next_active,
        }

    def state(self) -> dict[str, Any]:
        """What is kept without power."""
        return self.describe()

    def restore(self, state: dict[str, Any]) -> None:
        """After power on: what waited for a reset is active."""
        self.revisions = {int(slot): str(revision) for slot, revision in state["slots"].items()}
        self.active = int(state["next_active"] or state["active"])
        if self.active not in self.revisions:
            raise ValueError(f"firmware slot {self.active} is empty")

    # -- download -------------------------------------------------------------------------------------------

    def add_part(self, cntlid: int, offset: int, data: bytes) -> None:
        """A part of an image. Raises CommandError Overlapping Range for one that covers another."""
        parts = self._parts.setdefault(cntlid, {})
        end = offset + len(data)
        if end > IMAGE_BYTES_MAX:
            raise CommandError(Status.INVALID_FIELD, location=_OFST)
        if any(offset < at + len(part) and at < end for at, part in parts.items()):
            raise CommandError(Status.OVERLAPPING_RANGE, location=_OFST)
        parts[offset] = data

    def parts(self, cntlid: int) -> list[tuple[int, int]]:
        """(offset, bytes) of each part that was downloaded, in ascending order."""
        return sorted((at, len(part)) for at, part in self._parts.get(cntlid, {}).items())

    def has_image(self, cntlid: int) -> bool:
        """Whether something was downloaded and not committed yet."""
        return bool(self._parts.get(cntlid))

    def take_image(self, cntlid: int) -> str:
        """The revision of what was downloaded. Raises CommandError Invalid Firmware Image for holes and rubbish."""
        parts = sorted(self._parts.pop(cntlid, {}).items())
        image = bytearray()
        for offset, part in parts:
            if offset != len(image):
                raise CommandError(Status.FIRMWARE_IMAGE)
            image += part
        revision = firmware_revision(image)
        if revision is None:
            raise CommandError(Status.FIRMWARE_IMAGE)
        return revision

    # -- activation -----------------------------------------------------------------------------------------

    def activate(self, slot: int) -> None:
        """A slot's revision is the running one from now on."""
        self.active = slot
        self.next_active = 0

    def controller_reset(self, ctrl: Controller) -> None:
        """A Controller Level Reset: parts of images are lost, and what waits for a reset becomes active."""
        self._parts.pop(ctrl.config.cntlid, None)
        if self.next_active:
            self.activate(self.next_active)
            self._subsystem.save()

    def choose_slot(self) -> int:
        """Where an image goes when the host leaves it to us: an empty slot, else one that is not running."""
        writable = range(READ_ONLY_SLOT + 1, SLOTS + 1)
        empty = [slot for slot in writable if slot not in self.revisions]
        idle = [slot for slot in writable if slot != self.active]
        return (empty or idle)[0]


def firmware_download(ctrl: Controller, cmd: Command) -> int:
    """Firmware Image Download (opcode 11h): NUMD + 1 dwords at OFST dwords."""
    nbytes = (cmd.cdw10 + 1) * 4
    if nbytes > min(ctrl.transfer_bytes_max, IMAGE_BYTES_MAX):
        raise CommandError(Status.INVALID_FIELD, location=_NUMD)
    ctrl.subsystem.firmware.add_part(ctrl.config.cntlid, cmd.cdw11 * 4, ctrl.receive(cmd, nbytes))
    return 0


def firmware_commit(ctrl: Controller, cmd: Command) -> int:
    """Firmware Commit (opcode 10h). There are no boot partitions: CA 6 and 7 are Invalid Field in Command."""
    how = FW_COMMIT_CDW10.unpack(cmd.cdw10)
    firmware = ctrl.subsystem.firmware
    if how.ca not in set(CommitAction):
        raise CommandError(Status.INVALID_FIELD, location=_CA)
    if how.fs > SLOTS:
        raise CommandError(Status.FIRMWARE_SLOT, location=_FS)
    old = firmware.revision
    stores = how.ca in (CommitAction.STORE, CommitAction.STORE_AND_ACTIVATE_AT_RESET) or (
        how.ca == CommitAction.ACTIVATE_NOW and firmware.has_image(ctrl.config.cntlid)
    )
    slot = how.fs or (firmware.choose_slot() if stores else 0)
    try:
        _commit(ctrl, how.ca, slot, stores)
    except CommandError as error:
        ctrl.subsystem.persistent_events.firmware_commit(ctrl, old, "", how.ca, slot, error.status)
        raise
    ctrl.subsystem.persistent_events.firmware_commit(ctrl, old, firmware.revisions[slot], how.ca, slot, 0)
    return 0


def _commit(ctrl: Controller, action: int, slot: int, stores: bool) -> None:
    firmware = ctrl.subsystem.firmware
    if stores:
        if slot == READ_ONLY_SLOT:
            raise CommandError(Status.FIRMWARE_SLOT, location=_FS)
        firmware.revisions[slot] = firmware.take_image(ctrl.config.cntlid)
    elif not slot:
        raise CommandError(Status.FIRMWARE_SLOT, location=_FS)
    elif slot not in firmware.revisions:
        raise CommandError(Status.FIRMWARE_IMAGE, location=_FS)
    if action in (CommitAction.STORE_AND_ACTIVATE_AT_RESET, CommitAction.ACTIVATE_AT_RESET):
        firmware.next_active = slot
    elif action == CommitAction.ACTIVATE_NOW:
        for other in ctrl.subsystem.controllers.values():
            notice = AsyncNoticeInfo.FIRMWARE_ACTIVATION_STARTING
            other.events.post(AsyncEventType.NOTICE, notice, Lid.FIRMWARE_SLOT)
            other.pause(ctrl.config.firmware_activation_ns)
        firmware.activate(slot)
