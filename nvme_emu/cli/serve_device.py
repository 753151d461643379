"""The devices that `serve` offers: a controller with its medium, and no driver on this side."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.controller.latency import LatencyModel
from nvme_emu.controller.profiles import load_profile
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub
from nvme_emu.core.units import parse_size
from nvme_emu.media import open_media

if TYPE_CHECKING:
    from nvme_emu.media import Media

__all__ = ["DEFAULT_SIZE", "DeviceOptions", "ServedDevice"]

DEFAULT_SIZE = "1G"

STEP_COMMANDS_MAX = 256
"""Commands that one device does before another client has its turn."""


SHADOW_POLL_NS = 100_000
"""How long after a guest's last shadow doorbell the server looks for the next one before it asks to be told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOptions:
    """What one device is made of. `number` counts from 1 and tells the devices' serial numbers apart."""

    number: int
    image: str | None
    size: str | None
    lba_size: int
    profile: str
    seed: int
    shadow_doorbells: bool = False


class ServedDevice:
    """A controller, its memory and its medium; closing it makes the medium durable.

    Raises ValueError for a wrong option and MediaError (an OSError) for an image that cannot be used.
    """

    def __init__(self, options: DeviceOptions) -> None:
        self.options = options
        self.trace = TraceHub()
        self.memory = HostMemory()
        profile = load_profile(options.profile)
        rng = random.Random(options.seed + options.number)
        self._closing = ExitStack()
        nbytes = None if options.size is None else parse_size(options.size)
        if nbytes is None and options.image is None:
            nbytes = parse_size(DEFAULT_SIZE)
        self.media: Media = open_media(options.image, nbytes, lba_size=options.lba_size)
        self._closing.callback(self.media.close)
        serial = f"NVMEEMU{options.number:04d}"
        self.controller = Controller(
            ControllerConfig(
                sn=serial,
                seed=options.seed,
                step_commands_max=STEP_COMMANDS_MAX,
                shadow_doorbells=options.shadow_doorbells,
                shadow_poll_ns=SHADOW_POLL_NS,
            ),
            memory=self.memory,
            namespaces=[
                Namespace(1, self.media, options.lba_size, identity=f"{serial}/{options.seed}"),
            ],
            latency=None if profile.instant else LatencyModel(profile, rng),
            trace=self.trace,
            rng=rng,
        )

    def summary(self) -> dict[str, object]:
        """What the device has done, ready for JSON."""
        counters = self.controller.counters
        return {
            "serial": self.controller.config.sn,
            "image": self.options.image,
            "bytes": self.media.nbytes,
            "profile": self.options.profile,
            "commands": counters.fetched,
            "completions": counters.posted,
            "read_commands": counters.read_commands,
            "read_bytes": counters.read_bytes,
            "write_commands": counters.write_commands,
            "write_bytes": counters.write_bytes,
            "internal_error": None if self.controller.internal_error is None else str(self.controller.internal_error),
        }

    def close(self) -> None:
        """Flush and close the medium. A second call does nothing."""
        self._closing.close()
