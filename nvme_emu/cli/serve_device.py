"""The devices that `serve` offers: a controller with its medium, and no driver on this side."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.controller.latency import LatencyModel
from nvme_emu.controller.metadata_config import MetadataConfig
from nvme_emu.controller.profiles import load_profile
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub
from nvme_emu.core.units import parse_size
from nvme_emu.media import PmrFile, open_media, pmr_path

if TYPE_CHECKING:
    from nvme_emu.media import Media

__all__ = ["DEFAULT_SIZE", "DeviceOptions", "ServedDevice", "ServedPort"]

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
    cmb: str | None = None
    pmr: str | None = None
    namespaces: int = 1
    ports: int = 1
    """Sockets behind which it has a controller (`--shared`)."""
    ana_groups: int = 0
    nqn: str = ""
    zoned: ZnsConfig | None = None
    metadata: MetadataConfig | None = None
    capabilities: dict[str, Any] = field(default_factory=dict)
    """More fields of its ControllerConfig: see `serve_capabilities`."""


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
        self.media = self._open_media(options, nbytes)
        serial = f"NVMEEMU{options.number:04d}"
        self.controller = Controller(
            ControllerConfig(
                sn=serial,
                seed=options.seed,
                step_commands_max=STEP_COMMANDS_MAX,
                shadow_doorbells=options.shadow_doorbells,
                shadow_poll_ns=SHADOW_POLL_NS,
                cmb_bytes=0 if options.cmb is None else parse_size(options.cmb),
                pmr_bytes=0 if options.pmr is None else parse_size(options.pmr),
                zns=options.zoned,
                subnqn=options.nqn,
                controllers=options.ports,
                ana_groups=options.ana_groups,
                **options.capabilities,
            ),
            memory=self.memory,
            namespaces=self._namespaces(options, f"{serial}/{options.seed}"),
            latency=None if profile.instant else LatencyModel(profile, rng),
            trace=self.trace,
            rng=rng,
        )
        pmr = self.controller.buffers.pmr
        if pmr is not None and options.image is not None:
            store = PmrFile(pmr_path(options.image), pmr.nbytes)
            self._closing.callback(store.close)
            pmr.keep_in(store)
        # What no host has flushed, and no shutdown: write pointers above all.
        self._closing.callback(self.controller.subsystem.save)

    def _namespaces(self, options: DeviceOptions, identity: str) -> list[Namespace]:
        made = [
            Namespace(nsid, media, options.lba_size, identity=identity, zoned=options.zoned)
            for nsid, media in enumerate(self.media, 1)
        ]
        if options.metadata is not None:
            for namespace in made:
                options.metadata.apply(namespace)
        return made

    def _open_media(self, options: DeviceOptions, nbytes: int | None) -> list[Media]:
        """The medium of each namespace."""
        if options.image is not None and options.namespaces > 1:
            raise ValueError(f"--namespaces {options.namespaces}: an image file holds one namespace")
        share = None if nbytes is None else nbytes // options.namespaces
        media: list[Media] = []
        for _ in range(options.namespaces):
            media.append(open_media(options.image, share, lba_size=options.lba_size))
            self._closing.callback(media[-1].close)
        return media

    def summary(self) -> dict[str, object]:
        """What the device has done, ready for JSON."""
        counters = self.controller.counters
        return {
            "serial": self.controller.config.sn,
            "image": self.options.image,
            "bytes": sum(one.nbytes for one in self.media),
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


class ServedPort:
    """Another port of a served SSD: a controller that shares namespaces, device model and counters with it."""

    def __init__(self, device: ServedDevice, number: int) -> None:
        first = device.controller
        self._device = device
        self.trace = TraceHub()
        self.memory = HostMemory()
        self.controller = first.sibling(cntlid=number - 1, port=number, memory=self.memory, trace=self.trace)

    def summary(self) -> dict[str, object]:
        """What the SSD has done, with what went wrong at this port."""
        error = self.controller.internal_error
        return {**self._device.summary(), "internal_error": None if error is None else str(error)}

    def close(self) -> None:
        """Nothing is its own."""
