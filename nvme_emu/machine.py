"""The only assembler: one frozen configuration becomes a controller, its media, a transport, a driver and a
runtime, joined.

    with nvme_emu.open(size="256M", profile="tlc", mode="async") as ssd:
        ssd.namespaces[1].write(0, bytes(4096))
"""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import kworker
from kworker import interrupted
from nvme_emu.controller import Controller, ControllerConfig
from nvme_emu.controller import Namespace as DeviceNamespace
from nvme_emu.controller.config import CONTROLLERS_MAX
from nvme_emu.controller.latency import LatencyModel
from nvme_emu.controller.metadata_config import MetadataConfig
from nvme_emu.controller.profiles import DeviceProfile, load_profile
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.core.faults import load_rules
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import Kworker, TraceHub
from nvme_emu.core.units import parse_size
from nvme_emu.driver import DriverConfig, HostModel, Namespace, NvmeDriver
from nvme_emu.machine_host import FurtherHost
from nvme_emu.media import Media, PmrFile, open_media, pmr_path
from nvme_emu.observe.faults import Faults
from nvme_emu.transports import InprocTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kworker import KthreadWorker, Runtime
    from nvme_emu.machine_snapshot import Snapshot
    from nvme_emu.observe.checker import Checker

__all__ = ["Machine", "MachineConfig", "open"]

DEFAULT_SIZE = "256M"
CLOCKS = ("wall", "virtual")
CHECKS = ("off", "warn", "error")

# Ctrl-C leaves no request between a list and a ring, and no lock held.
for _room in ("driver", "controller", "transports", "core", "media", "_core"):
    interrupted.keep_whole(str(Path(__file__).with_name(_room)))

_INTEGERS = (
    *("seed", "lba_size", "queues", "depth", "poll_ns", "namespaces", "controllers", "cpus"),
    *("sgl_threshold", "max_segment_size"),
)
_KINDS: dict[str, type] = {"host": HostModel, "costs": kworker.SimCosts, "controller": ControllerConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """Everything that a machine is made of. ValueError or TypeError, naming value and rule, where something is wrong.

    ``size`` bytes, or text such as "256M"; None takes an existing image as large as it is. ``image`` a path;
    without one the data lives in memory. ``profile`` a name, a TOML file or a DeviceProfile. ``clock``
    "wall" or "virtual"; ``seed`` feeds every random stream; ``cpus`` and ``costs`` describe the virtual host,
    ``host`` its driver; inside ``with SimRuntime(...)`` that simulation is used. ``namespaces`` share ``size``
    equally. ``controllers`` of one subsystem share them, each with a host of its own (`Machine.hosts`); ``faults``
    and ``check`` are about the first. ``worker`` is one of ``driver.config.WORKER_STYLES``; with "poll" who waits
    looks for ``poll_ns`` before it sleeps. ``io_timeout``, ``admin_timeout`` (seconds), ``max_retries`` and
    ``use_cmb_sqes`` are Linux's module parameters; ``sgl_threshold`` too, but 0 (no SGLs) where Linux has 32768, and
    ``max_segment_size`` is how long a segment of a request's data is (0: all of it).
    ``zoned`` makes the namespaces zoned: a ZnsConfig, or its text ("zone_size=16M,max_open=4"). ``metadata`` gives
    their blocks metadata: a MetadataConfig, or its text ("ms=8,pi=1").
    ``faults`` a file of fault rules, or rules, which hold from before the driver's probe. ``driver_class`` is who
    drives the device: a subclass of NvmeDriver, to test or compare one's own.

    ``check`` "error" or "warn" watches what the driver does (docs/checker.md), "off" does not, None asks the
    environment's NVME_EMU_CHECK. With "error" the call that breaks a rule raises CheckError, or `close` does
    where the call is a worker's; with "warn" `close` gives a CheckerWarning.
    """

    size: int | str | None = None
    image: str | Path | None = None
    profile: str | Path | DeviceProfile = "instant"
    mode: str = "sync"
    clock: str = "wall"
    seed: int = 0
    lba_size: int = 512
    queues: int = 1
    depth: int = 1024
    worker: str = "pump"
    poll_ns: int = 50_000
    namespaces: int = 1
    controllers: int = 1
    cpus: int = 2
    scheduler: Any = None
    poison: bool = False
    use_cmb_sqes: bool = True
    sgl_threshold: int = 0
    max_segment_size: int = 0
    io_timeout: float = 30.0
    admin_timeout: float = 60.0
    max_retries: int = 5
    host: HostModel = field(default_factory=HostModel)
    costs: kworker.SimCosts = field(default_factory=kworker.SimCosts)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    driver_class: type[NvmeDriver] = NvmeDriver
    faults: Any = None
    check: str | None = None
    zoned: ZnsConfig | str | None = None
    metadata: MetadataConfig | str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.check is None:
            object.__setattr__(self, "check", os.environ.get("NVME_EMU_CHECK") or "off")
        if self.check not in CHECKS:
            raise ValueError(f"check={self.check!r}: it is {', '.join(map(repr, CHECKS))} or None")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock={self.clock!r}: it is 'wall' or 'virtual'")
        if self.lba_size not in (512, 4096):
            raise ValueError(f"lba_size={self.lba_size!r}: logical blocks have 512 or 4096 bytes")
        if not 1 <= self.namespaces <= self.controller.namespaces_max:
            raise ValueError(f"namespaces={self.namespaces}: 1 to {self.controller.namespaces_max}")
        if not 1 <= self.controllers <= CONTROLLERS_MAX:
            raise ValueError(f"controllers={self.controllers}: 1 to {CONTROLLERS_MAX}")
        if self.image is not None and self.namespaces != 1:
            raise ValueError(f"namespaces={self.namespaces}: an image file holds one namespace")
        if isinstance(self.zoned, str):
            object.__setattr__(self, "zoned", ZnsConfig.parse(self.zoned))
        if isinstance(self.metadata, str):
            object.__setattr__(self, "metadata", MetadataConfig.parse(self.metadata))
        if self.zoned is not None and self.metadata is not None:
            raise ValueError("zoned and metadata: zoned namespaces have no metadata")
        if self.size is not None:
            nbytes = parse_size(self.size)
            if nbytes < self.lba_size * self.namespaces:
                raise ValueError(
                    f"size={self.size!r}: {self.namespaces} namespace(s) need at least one block of "
                    f"{self.lba_size} bytes each"
                )
        # A file is read once, and a rule that is wrong is found before anything is made.
        object.__setattr__(self, "faults", tuple(load_rules(self.faults)))
        self.driver_config()

    def _check_types(self) -> None:
        for name in _INTEGERS:
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, index(value))
            except TypeError:
                raise TypeError(f"{name}={value!r}: an integer is needed") from None
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name}={value!r}: a {kind.__name__} is needed")
        if self.cpus < 1:
            raise ValueError(f"cpus={self.cpus}: the host has at least one CPU")

    def driver_config(self) -> DriverConfig:
        """The part that the driver works by."""
        return DriverConfig.of(self)


class Machine:
    """An SSD with its driver, ready for I/O; a context manager that shuts it down.

    ``controller`` the device, ``driver`` the host's side, ``namespaces`` {nsid: Namespace}, ``workers`` the
    I/O workers (``nvme1`` first; none in sync mode), ``runtime`` what they run on, ``trace`` the hub to which
    observers add sinks, ``hosts`` the machine itself and each further host (`machine_host.FurtherHost`),
    ``faults`` the device's fault rules, ``checker`` who watches the driver (None without ``check``),
    ``config`` what it was made from.
    """

    def __init__(self, config: MachineConfig, *, snapshot: Snapshot | None = None) -> None:
        """``snapshot`` is what the SSD begins as, in the place of what ``config`` says of it."""
        self.config = config
        self.trace = TraceHub()
        profile = config.profile
        self.profile = profile if isinstance(profile, DeviceProfile) else load_profile(profile)
        self._closing = contextlib.ExitStack()
        self._device = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            interrupted.watch(self)
            undo.callback(interrupted.unwatch, self)
            self.media = self._open_media(snapshot)
            undo.callback(self._close_media)
            self.runtime = self._make_runtime(undo)
            undo.callback(self._unplug)
            self._plug_in(snapshot)
            self._closing = undo.pop_all()

    def _unplug(self) -> None:
        device, self._device = self._device, contextlib.ExitStack()
        device.close()

    def _plug_in(self, snapshot: Snapshot | None) -> None:
        """A device over the media, and the drivers of its hosts."""
        config = self.config
        self._shutting_down = False
        with contextlib.ExitStack() as undo:
            self.memory = HostMemory()
            self.controller = self._make_controller(snapshot)
            self._keep_pmr(undo, snapshot)
            self.port = InprocTransport(self.controller, self.memory, self.runtime)
            self.checker = self._make_checker(undo)
            self.faults = Faults(self.controller, self.port, self.runtime, config.seed)
            self.faults.load(config.faults)
            self._attach()
            undo.callback(self._shut_down)
            self.hosts: tuple[Machine | FurtherHost, ...] = (self, *self._make_further_hosts(undo))
            self._device = undo.pop_all()

    def _attach(self) -> None:
        config = self.config
        self.driver = config.driver_class(self.port, self.runtime, config.driver_config(), self.trace)
        self.driver.probe()

    def _make_further_hosts(self, undo: contextlib.ExitStack) -> Iterator[FurtherHost]:
        if self.config.controllers > 1:
            self.port.attend()
        for number in range(1, self.config.controllers):
            host = FurtherHost(self, number)
            host.driver.probe()
            undo.callback(host.driver.shutdown)
            yield host

    def set_ana_state(self, group: int, state: str | int, *, host: int = 0) -> None:
        """How a host's controller reaches the namespaces of an ANA group from now on; its driver hears of it.

        ``state`` "optimized", "non-optimized", "inaccessible", "persistent-loss" or "change". ValueError for another,
        and for a group that there is not (``controller=ControllerConfig(ana_groups=…)``).
        """
        port = self.hosts[host].port
        with port.lock:
            controller = self.hosts[host].controller
            controller.subsystem.ana.set(group, state, port=controller.config.port)
        port.poll()

    def _shut_down(self) -> None:
        # What the checker has to say comes when the driver is done, and does not leave its workers behind.
        self._shutting_down = True
        self.driver.shutdown()

    def replug(self) -> None:
        """Drive the device anew, as a host does with one that was taken out and put back: a new driver, new namespaces.

        What the old ones have not ended ends with an error. NvmeError if the device is not there or does not come up.
        """
        self.driver.recovery.kill()
        self.driver.shutdown()
        self._attach()

    def snapshot(self) -> Snapshot:
        """A copy of the SSD as it is now, in memory, of which further machines are made (`Snapshot.open`).

        A copy is the SSD after a clean power cycle: docs/image.md says what lasts. NvmeError (EBUSY) while commands are
        outstanding, MediaError where there is no memory for it.
        """
        from nvme_emu.machine_snapshot import take

        return take(self)

    def fork(self, **options: Any) -> Machine:
        """A further machine, with a copy of the SSD as it is now: `snapshot` and `Snapshot.open` in one."""
        with self.snapshot() as taken:
            return taken.open(**options)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot: a new controller, a new driver, new namespaces and fault rules, on the same runtime.

        What the old ones have not ended ends with an error. ValueError for a machine with an image file, which keeps
        what it has, and for a snapshot of another size.
        """
        from nvme_emu.machine_snapshot import check_fits

        check_fits(self, snapshot)
        media = snapshot.media(self.config)
        try:
            for host in self.hosts:
                host.driver.recovery.kill()
            self._unplug()
        finally:
            self._close_media()
            self.media = [media]
        self._plug_in(snapshot)

    def _open_media(self, snapshot: Snapshot | None) -> list[Media]:
        config = self.config
        if snapshot is not None:
            return [snapshot.media(config)]
        nbytes = None if config.size is None else parse_size(config.size)
        if config.image is None:
            whole = nbytes if nbytes is not None else parse_size(DEFAULT_SIZE)
            media = [open_media(None, whole // config.namespaces) for _ in range(config.namespaces)]
        else:
            media = [open_media(config.image, nbytes, lba_size=config.lba_size)]
        return media

    def _close_media(self) -> None:
        for one in self.media:
            one.close()

    def _keep_pmr(self, undo: contextlib.ExitStack, snapshot: Snapshot | None) -> None:
        """The Persistent Memory Region of a device with an image is kept beside it."""
        pmr = self.controller.buffers.pmr
        if pmr is not None and snapshot is not None:
            pmr.view[:] = snapshot.pmr
        if pmr is not None and self.config.image is not None:
            store = PmrFile(pmr_path(self.config.image), pmr.nbytes)
            undo.callback(store.close)
            pmr.keep_in(store)

    def _make_runtime(self, undo: contextlib.ExitStack) -> Runtime:
        config = self.config
        entered = kworker.current_runtime()
        if config.clock == "wall":
            if entered.virtual:
                raise ValueError(
                    "clock='wall' inside a simulation: say clock='virtual', or leave the SimRuntime"
                )
            undo.enter_context(self._works_of_threads(entered))
            return entered
        if entered.virtual:
            # The caller's own simulation: its seed, its CPUs, and it is the caller's to close.
            return entered
        runtime = kworker.SimRuntime(
            seed=config.seed, cpus=config.cpus, scheduler=config.scheduler, costs=config.costs
        )

        def listen() -> None:
            runtime.on_event = self._kworker_event if self.trace.emit is not None else None

        # An event of the simulation costs as much as a lock: none is made while nobody listens.
        self.trace.on_change = listen
        undo.callback(runtime.close)
        return runtime

    @contextlib.contextmanager
    def _works_of_threads(self, runtime: Runtime) -> Iterator[None]:
        """The works of our workers as events while somebody listens; the runtime is shared with other machines."""
        before: Callable[[str, tuple[Any, ...]], None] | None = None

        def tell(what: str, args: tuple[Any, ...]) -> None:
            if before is not None:
                before(what, args)
            if runtime.current() in [worker.task for worker in self.driver.workers]:
                self._kworker_event(what, args)

        def listen() -> None:
            nonlocal before
            wanted, there = self.trace.emit is not None, runtime.on_event is tell
            if wanted and runtime.on_event is not tell:
                before, runtime.on_event = runtime.on_event, tell
            elif there and not wanted:
                before, runtime.on_event = None, before

        self.trace.on_change = listen
        try:
            yield
        finally:
            self.trace.on_change = None
            if runtime.on_event is tell:
                runtime.on_event = before

    def _kworker_event(self, what: str, args: tuple[Any, ...]) -> None:
        emit = self.trace.emit
        if emit is not None:
            emit(Kworker(self.runtime.now_ns, what, args))

    def _make_controller(self, snapshot: Snapshot | None) -> Controller:
        config = self.config
        rng = random.Random(config.seed)
        latency = None if self.profile.instant else LatencyModel(self.profile, rng)
        zoned = config.zoned
        assert not isinstance(zoned, str), "it has been parsed"
        controller_config = replace(
            config.controller,
            seed=config.seed,
            controllers=config.controllers,
            zns=zoned or config.controller.zns,
        )
        namespaces = [
            DeviceNamespace(
                nsid,
                media,
                config.lba_size,
                identity=f"{controller_config.sn}/{config.seed}",
                zoned=None if snapshot is not None else zoned,
            )
            for nsid, media in enumerate(self.media, 1)
        ]
        if isinstance(config.metadata, MetadataConfig) and snapshot is None:
            for namespace in namespaces:
                config.metadata.apply(namespace)
        return Controller(
            controller_config,
            memory=self.memory,
            namespaces=namespaces,
            latency=latency,
            trace=self.trace,
            rng=rng,
        )

    def _make_checker(self, undo: contextlib.ExitStack) -> Checker | None:
        level = self.config.check
        if level is None or level == "off":
            return None
        from nvme_emu.observe.checker import Checker

        checker = Checker(self.controller, level=level, vector_mapped=self.port.receives)
        checker.attach()
        # Last of all: what the shutdown has done is judged too.
        undo.callback(self._judge, checker)
        if level == "error":
            checker.raise_from(self.port, self._caller)
        return checker

    def _caller(self) -> object | None:
        """The calling task; None for a worker or an interrupt, whose exceptions nobody would see, and at the end."""
        task = self.runtime.current()
        return None if self._shutting_down or task is None or task.comm.startswith("nvme") else task

    def _judge(self, checker: Checker) -> None:
        """The driver is done: tell what it has done wrong."""
        checker.host_left()
        if checker.level == "error":
            checker.raise_new()
        elif checker.findings:
            from nvme_emu.observe.checker import CheckerWarning

            broken = ", ".join(f"{one.rule} ({one.count})" for one in checker.summaries)
            warnings.warn(f"the driver broke rules: {broken}", CheckerWarning, stacklevel=2)

    @property
    def namespaces(self) -> dict[int, Namespace]:
        """The namespaces that the driver found, by nsid."""
        return self.driver.namespaces

    @property
    def workers(self) -> list[KthreadWorker]:
        """The I/O workers in queue order."""
        return self.driver.workers

    def close(self) -> None:
        """End what is outstanding, shut the device down, make the medium durable. A second call does nothing."""
        closing, self._closing = self._closing, contextlib.ExitStack()
        closing.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(target: str | Path | None = None, **options: Any) -> Machine:
    """Make an SSD and attach to it.

    ``target`` is the path of an image file (the same as ``image=``); without one the SSD lives in memory.
    The options are the fields of :class:`MachineConfig`. A URL ``nvme-tcp://HOST:PORT/NQN`` or ``vfio-user:///PATH``
    attaches to a device elsewhere; the options are then those of :class:`~nvme_emu.machine_remote.RemoteConfig` or
    :class:`~nvme_emu.machine_vfio_user.VfioUserConfig`. Raises ValueError or
    TypeError for a wrong option, MediaError for an image that cannot be used, NvmeError if the device does not
    come up.
    """
    if target is not None:
        if options.get("image") is not None:
            raise ValueError(f"target {target!r} and image={options['image']!r} both name an image: give one")
        if "://" in str(target):
            from nvme_emu.machine_remote import open_url

            return open_url(str(target), **options)
        options["image"] = target
    return Machine(MachineConfig(**options))
