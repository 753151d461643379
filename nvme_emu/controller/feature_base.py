"""What a feature is: its value, its default, and what it accepts (NVMe Base 2.1, clause 5.1.25.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.base import Structure
from nvme_emu.spec.bits import BitLayout
from nvme_emu.spec.logs import SCOPE_CONTROLLER
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = ["DataFeature", "Feature", "refuse"]


def refuse(layout: BitLayout, field: str) -> CommandError:
    """Invalid Field in Command, where the field is in Command Dword 11."""
    return CommandError(Status.INVALID_FIELD, location=location(11, layout, field))


class Feature:
    """A feature whose value is Command Dword 11 of Set Features and Dword 0 of Get Features' completion.

    ``lasting`` says whether it makes sense to save it; it is saveable where there is storage for that.
    ``per_namespace`` features have a value for each namespace.
    """

    layout: ClassVar[BitLayout]
    lasting: ClassVar[bool] = True
    per_namespace: ClassVar[bool] = False
    scope: ClassVar[int] = SCOPE_CONTROLLER
    """What log page 12h says that it is of; a namespace for those of a namespace."""

    def offered(self, config: ControllerConfig) -> bool:
        """Whether this controller has the feature at all."""
        return True

    def default(self, config: ControllerConfig, selector: int) -> int:
        """The default value."""
        return 0

    def selector(self, ctrl: Controller, cdw11: int, setting: bool) -> int:
        """Which of several values CDW11 means. Raises CommandError for one that does not exist."""
        return 0

    def selectors(self, ctrl: Controller, cdw11: int) -> list[int]:
        """All of the values that CDW11 of Set Features means. Raises CommandError."""
        return [self.selector(ctrl, cdw11, True)]

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        """The value that CDW11 of Set Features holds. Raises CommandError."""
        return cdw11 & ~self.layout.reserved_mask

    def value_of(self, selector: int, value: int) -> int:
        """What is kept of an accepted value for one of its selectors."""
        return value

    def result(self, value: int) -> int:
        """Dword 0 of Set Features' completion when ``value`` was accepted."""
        return 0

    def check(self, ctrl: Controller, nsid: int, value: int) -> None:
        """Raises CommandError where a namespace cannot have an accepted value."""

    def changeable(self, ctrl: Controller, nsid: int) -> bool:
        """Whether Set Features may change it now."""
        return True

    def live(self, ctrl: Controller, nsid: int) -> int | None:
        """The current value where something else keeps it (a namespace that several controllers share)."""
        return None

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        """Set Features has made ``value`` current."""


class DataFeature(Feature):
    """A feature whose value is a data structure; it is kept as an integer whose meaning is its own."""

    lasting = False
    structure: ClassVar[Structure]

    def nbytes(self, ctrl: Controller, cdw11: int) -> int:
        """Bytes of the data. Raises CommandError for attributes that are wrong."""
        return self.structure.size

    def accept_data(self, ctrl: Controller, data: bytes) -> int:
        """The value in the host's data. Raises CommandError."""
        raise NotImplementedError

    def accept_with(self, ctrl: Controller, cdw11: int, data: bytes) -> int:
        """The same for a feature of which CDW11 is a part."""
        return self.accept_data(ctrl, data)

    def dw0(self, value: int | None) -> int:
        """Dword 0 of Get Features' completion, beside the data."""
        return 0

    def data(self, ctrl: Controller, value: int | None) -> bytes:
        """The current data; ``value`` is None as long as the host has not set one."""
        raise NotImplementedError

    def default_data(self) -> bytes:
        """The default as data."""
        raise NotImplementedError
