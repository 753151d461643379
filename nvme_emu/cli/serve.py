"""`nvme-emu serve`: emulated SSDs for other processes, such as a virtual machine's kernel.

Each kind of socket is a front end: something that is made for a loop, counts what it did and can be closed. All
of them, and all devices, are served by one loop in one thread.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import click

from nvme_emu.cli.checking import check_option, report_option, tell
from nvme_emu.cli.common import (
    EXIT_ERRORS,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    JsonCommand,
    check_output,
    json_option,
    quiet_option,
    write_json,
)
from nvme_emu.cli.serve_capabilities import capability_options, capability_settings
from nvme_emu.cli.serve_shared import check_shared, join_ports, ports_of, shared_options

if TYPE_CHECKING:
    from nvme_emu.cli.serve_device import ServedDevice, ServedPort
    from nvme_emu.cli.serve_faults import HostFaults
    from nvme_emu.core.faults import Rule
    from nvme_emu.observe.checker import Checker, FabricsChecker
    from nvme_emu.observe.pcap import Capture
    from nvme_emu.observe.rpc import Watched
    from nvme_emu.transports.loop import Loop
    from nvme_emu.transports.vfio_user import VfioUserServer

__all__ = ["FrontEnd", "serve"]

_EPILOG = """\b
Examples:
  nvme-emu serve --vfio-user /tmp/ssd.sock
  nvme-emu serve --vfio-user /tmp/ssd.sock --image disk.img --doorbells trapped --trace events.jsonl
  nvme-emu serve --vfio-user /tmp/a.sock --vfio-user /tmp/b.sock --size 256M --profile tlc
  nvme-emu serve --tcp 127.0.0.1:4420 --nqn nqn.2024-01.org.example:ssd --size 1G
  nvme-emu serve --shared --tcp 127.0.0.1:4420 --tcp 127.0.0.1:4421 --ana-groups 1 --ana-state 2:1=non-optimized
  nvme-emu serve --vfio-user /tmp/ssd.sock --size 1G --zoned zone_size=16M,max_open=8,max_active=12

\b
The guest's side, with QEMU 10.1 or newer (its memory must be shared to be fast):
  qemu-system-x86_64 … -object memory-backend-memfd,id=m,size=1G,share=on -machine q35,memory-backend=m \\
    -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/ssd.sock"}}'

\b
Exit codes:
  0    ended by SIGTERM
  1    a device failed inside (its log line tells), or --check found errors of a driver
  2    bad usage: a socket or an image that cannot be used …
  130  interrupted with Ctrl-C: everything has been closed properly

docs/linux.md and docs/tcp.md tell more.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line of `serve`."""

    vfio_user: tuple[str, ...]
    tcp: tuple[str, ...]
    tcp_address: tuple[str, ...]
    nqn: tuple[str, ...]
    allow_host: tuple[str, ...]
    dhchap_secret: tuple[str, ...]
    dhchap_ctrl_secret: str | None
    dhchap_hash: str | None
    dhchap_dhgroup: str | None
    tls_key: tuple[str, ...]
    doorbells: str
    cmb: str | None
    pmr: str | None
    shadow_doorbells: bool
    shared: bool
    namespaces: int
    ana_groups: int
    ana_state: tuple[str, ...]
    images: tuple[str, ...]
    size: str | None
    lba_size: int
    zoned: str | None
    metadata: str | None
    power_states: str
    temperature_sensors: int
    track_allocation: bool
    profile: str
    seed: int
    trace: str | None
    pcap: str | None
    rpc: tuple[str, ...]
    faults: str | None
    check: str | None
    check_report: str | None
    json_file: str | None
    quiet: bool


class FrontEnd(Protocol):
    """One way in to one device."""

    @property
    def failed(self) -> bool:
        """Whether something went wrong that is nobody's fault but ours."""

    def work(self) -> None:
        """Let the device do what is due, and tell its clients."""

    def summary(self) -> dict[str, object]:
        """What it did, ready for JSON."""

    def close(self) -> None:
        """Drop its clients and remove its socket."""


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--vfio-user", metavar="SOCKET", multiple=True, help="Offer an SSD as a PCI device there; repeatable."
)
@click.option(
    "--tcp",
    metavar="HOST:PORT",
    multiple=True,
    help="Offer an SSD over NVMe/TCP there (port 0: a free one); repeatable.",
)
@click.option(
    "--tcp-address",
    metavar="ADDRESS[:PORT]",
    multiple=True,
    help="Where hosts reach --tcp, for the discovery log (the address that they came to); repeatable.",
)
@click.option("--nqn", metavar="NQN", multiple=True, help="The name of the nth --tcp SSD (made of its serial number).")
@click.option(
    "--allow-host", metavar="NQN", multiple=True, help="Over TCP let only this host in; repeatable (default: everyone)."
)
@click.option(
    "--dhchap-secret",
    metavar="[HOSTNQN=]SECRET",
    multiple=True,
    help="Over TCP hosts must know it (DHHC-1:…, or @FILE that holds it); for one host or all; repeatable.",
)
@click.option(
    "--dhchap-ctrl-secret", metavar="SECRET", help="What the SSD answers to hosts that want it to prove itself."
)
@click.option("--dhchap-hash", metavar="HASH", help="Only this one: hmac(sha256), hmac(sha384) or hmac(sha512).")
@click.option("--dhchap-dhgroup", metavar="GROUP", help="Only this one: null, ffdhe2048, 3072, 4096, 6144 or 8192.")
@click.option(
    "--tls-key",
    metavar="[HOSTNQN=]KEY",
    multiple=True,
    help="Over TCP hosts must use TLS 1.3 with it (NVMeTLSkey-1:…, or @FILE); for one host or all; repeatable.",
)
@click.option(
    "--doorbells",
    type=click.Choice(("mmap", "trapped")),
    default="mmap",
    show_default=True,
    help="In memory that the guest writes directly, or one message a write, each of them seen.",
)
@click.option(
    "--shadow-doorbells/--no-shadow-doorbells",
    default=False,
    show_default=True,
    help="Offer the guest to leave doorbells in its memory (Doorbell Buffer Config): most need no message then.",
)
@shared_options
@click.option(
    "--cmb", metavar="SIZE", help="A Controller Memory Buffer in a BAR of each --vfio-user SSD, for queues and data."
)
@click.option(
    "--pmr", metavar="SIZE", help="A Persistent Memory Region in BAR2 of each --vfio-user SSD, kept in IMAGE.pmr."
)
@click.option(
    "--image", "images", metavar="FILE", multiple=True, help="Keep the data there; the nth for the nth socket."
)
@click.option("--size", metavar="SIZE", help="Size of each SSD (1G; an existing image's own).")
@click.option(
    "--lba-size", type=click.Choice(("512", "4096")), default="512", show_default=True, help="Bytes a block."
)
@click.option(
    "--zoned",
    metavar="NAME=VALUE,…",
    help="Zoned SSDs (docs/zns.md): zone_size=16M,max_open=4,…; \"\" takes the defaults.",
)
@capability_options
@click.option(
    "--metadata",
    metavar="NAME=VALUE,…",
    help="Blocks with metadata (docs/metadata.md): ms=8,pi=1,pil=0,mset=0; \"\" is 8 bytes, unprotected.",
)
@click.option(
    "--profile",
    metavar="NAME|FILE.toml",
    default="instant",
    show_default=True,
    help="The device: instant, optane, tlc, qlc or a TOML file.",
)
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, help="Seed of the devices.")
@click.option("--trace", metavar="FILE", help="Write every event to FILE, one JSON object a line.")
@click.option("--pcap", metavar="FILE", help="Write what goes over --tcp to FILE, which Wireshark opens (pcapng).")
@click.option(
    "--rpc", metavar="SOCKET", multiple=True, help="Answer `nvme-emu ctl` and `top`; one for each SSD, in order."
)
@click.option("--faults", metavar="FILE", help="Rules that say when the SSDs go wrong (docs/faults.md).")
@check_option(
    "Watch what the clients and hosts do wrong (docs/checker.md); with error, the default, that is exit code 1."
)
@report_option()
@json_option("A summary at the end, to standard output or to FILE.")
@quiet_option("No lines on standard error but errors.")
def serve(lba_size: str, **options: Any) -> int:
    """Serve emulated SSDs to virtual machines and other hosts until Ctrl-C or SIGTERM.

    Every socket offers an SSD of its own, or with --shared a port of one and the same. One vfio-user client uses it
    at a time; when it goes the SSD is reset, and its data stays for the next one. Over TCP many hosts may use it
    together.
    """
    from nvme_emu.core.faults import FaultFileError

    chosen = Options(lba_size=int(lba_size), **options)
    try:
        return _serve(chosen)
    except FaultFileError as error:
        for problem in error.problems:
            click.echo(f"nvme-emu: {problem}", err=True)
        return EXIT_USAGE
    except (ValueError, OSError) as error:
        click.echo(f"nvme-emu: {' '.join(str(error).split())}", err=True)
        return EXIT_USAGE


def _serve(options: Options) -> int:
    from nvme_emu.cli.serve_faults import HostFaults, ServedFaults
    from nvme_emu.observe.rpc import serve_rpc
    from nvme_emu.transports.loop import Loop

    places = [("vfio-user", path) for path in options.vfio_user] + [("tcp", address) for address in options.tcp]
    if not places:
        raise ValueError("nothing to serve: say --vfio-user SOCKET or --tcp HOST:PORT")
    check_shared(options, len(places))
    if len(options.rpc) > len(places):
        raise ValueError(f"{len(options.rpc)} --rpc sockets for {len(places)} SSD(s)")
    if len(options.nqn) > len(options.tcp):
        raise ValueError(f"{len(options.nqn)} --nqn for {len(options.tcp)} --tcp")
    if options.tcp_address and not options.tcp:
        raise ValueError("--tcp-address is about --tcp, which is not there")
    if options.allow_host and not options.tcp:
        raise ValueError("--allow-host is about --tcp, which is not there")
    if (options.dhchap_secret or options.dhchap_ctrl_secret) and not options.tcp:
        raise ValueError("--dhchap-secret is about --tcp, which is not there")
    if options.tls_key and not options.tcp:
        raise ValueError("--tls-key is about --tcp, which is not there")
    if (options.cmb or options.pmr) and not options.vfio_user:
        raise ValueError("--cmb and --pmr are about --vfio-user, which is not there")
    if options.pcap is not None and not options.tcp:
        raise ValueError("--pcap is about --tcp, which is not there")
    inputs = [options.faults, *options.images]
    check_output(options.json_file, inputs=inputs, json=True)
    for path in (options.trace, options.pcap, options.check_report):
        check_output(path, inputs=inputs)
    rules = _rules(options)
    started = time.monotonic()
    with ExitStack() as closing:
        loop = Loop()
        closing.callback(loop.close)
        # From here on a signal ends the loop, also before it runs: no socket file is left behind.
        caught = closing.enter_context(_signals(loop))
        sink = None
        if options.trace is not None:
            from nvme_emu.observe.jsonl import JsonLines

            sink = closing.enter_context(JsonLines(options.trace))
        capture = None if options.pcap is None else closing.enter_context(_capture(options.pcap, options.quiet))
        fronts: list[FrontEnd] = []
        checkers: list[Checker | FabricsChecker] = []
        devices = ports_of(options, len(places), lambda number: _make_device(options, number, len(places)))
        for (kind, where), (number, device) in zip(places, enumerate(devices, 1), strict=True):
            closing.callback(device.close)
            if sink is not None:
                device.trace.add_sink(sink)
            hosts = HostFaults(device.controller, options.seed, loop.clock) if kind == "tcp" else None
            front = _make_front(loop, where, number - 1 - len(options.vfio_user), device, options, hosts, capture)
            closing.callback(front.close)
            checker = _make_checker(options, device, front)
            if checker is not None:
                checkers.append(checker)
            watched, methods = _watch(loop, device, front)
            watched.checker = checker
            if hosts is None:
                watched.faults = ServedFaults(watched, front.work, options.seed)
            else:
                watched.faults, hosts.watched = hosts, watched
            watched.faults.load(rules)
            if number <= len(options.rpc):
                closing.enter_context(serve_rpc(watched, options.rpc[number - 1], extra=methods))
            fronts.append(front)
        if options.shared:
            join_ports(fronts)
        loop.run()
        for one in checkers:
            # Who is still connected does not leave: the server does.
            one.host_is_there = True
        summary = {
            "version": 1,
            "seconds": round(time.monotonic() - started, 3),
            "signal": signal.Signals(caught[0]).name if caught else None,
            "devices": [front.summary() for front in fronts],
        }
    if checkers:
        # After the clients were dropped: how they left is judged, too.
        from nvme_emu.observe.checker.report import as_json

        summary["checkers"] = [as_json(checker) for checker in checkers]
    if options.json_file is not None:
        write_json(json.dumps(summary, indent=2), options.json_file)
    told = tell(checkers, level=options.check or "warn", report=options.check_report, quiet=options.quiet)
    if told or any(front.failed for front in fronts):
        return EXIT_ERRORS
    return EXIT_INTERRUPTED if caught == [signal.SIGINT] else 0


def _make_checker(
    options: Options, device: ServedDevice | ServedPort, front: FrontEnd
) -> Checker | FabricsChecker | None:
    """Who watches the device's client, with what its doorbells show, or its hosts. Nobody has come yet."""
    level = options.check or ("warn" if options.check_report else None)
    if level is None:
        return None
    from nvme_emu.cli.serve_tcp import TcpFront
    from nvme_emu.observe.checker import Checker, FabricsChecker

    if isinstance(front, TcpFront):
        return FabricsChecker(front.target, level=level).attach()
    return Checker(device.controller, scope=options.doorbells, level=level).attach()


def _rules(options: Options) -> list[Rule]:
    """The rules of --faults. Raises FaultError for a file that is wrong and for what cannot be done here."""
    from nvme_emu.core.faults import load_rules

    return load_rules(options.faults)


@contextlib.contextmanager
def _capture(path: str, quiet: bool) -> Iterator[Capture]:
    """The file of --pcap; at its end a note if it is not the whole."""
    from nvme_emu.observe.pcap import Capture

    with Capture(path) as capture:
        yield capture
    if capture.writer.dropped and not quiet:
        lost = f"{capture.writer.dropped} packets more are not in it"
        click.echo(f"nvme-emu: --pcap: {path} has the first {capture.writer.packets} packets; {lost}", err=True)


def _watch(
    loop: Loop, device: ServedDevice | ServedPort, front: FrontEnd
) -> tuple[Watched, Mapping[str, Callable[..., Any]] | None]:
    """The device as --rpc and fault rules reach it, and what --rpc answers besides.

    Only the loop's thread touches the device.
    """
    from nvme_emu.cli.serve_tcp import TcpFront
    from nvme_emu.observe.rpc import Watched

    common: dict[str, Any] = {
        "controller": device.controller,
        "trace": device.trace,
        "lock": None,
        "clock_ns": loop.clock,
        "poke": front.work,
        "inside": loop.call_soon,
    }
    if isinstance(front, TcpFront):
        from nvme_emu.cli.serve_watch import HostMethods, WatchedSubsystem

        subsystem = WatchedSubsystem(hosts=front.hosts, **common)
        return subsystem, HostMethods(subsystem).table()
    return Watched(**common), None


def _make_device(options: Options, number: int, sockets: int) -> ServedDevice:
    from nvme_emu.cli.serve_device import DeviceOptions, ServedDevice
    from nvme_emu.controller.metadata_config import MetadataConfig
    from nvme_emu.controller.zns_config import ZnsConfig

    return ServedDevice(
        DeviceOptions(
            number=number,
            image=options.images[number - 1] if number <= len(options.images) else None,
            size=options.size,
            lba_size=options.lba_size,
            zoned=None if options.zoned is None else ZnsConfig.parse(options.zoned),
            metadata=None if options.metadata is None else MetadataConfig.parse(options.metadata),
            profile=options.profile,
            seed=options.seed,
            capabilities=capability_settings(
                options.power_states, options.temperature_sensors, options.track_allocation
            ),
            shadow_doorbells=options.shadow_doorbells,
            cmb=options.cmb if number <= len(options.vfio_user) else None,
            pmr=options.pmr if number <= len(options.vfio_user) else None,
            namespaces=options.namespaces,
            ports=sockets if options.shared else 1,
            ana_groups=options.ana_groups,
            nqn=options.nqn[0] if options.shared and options.nqn else "",
        )
    )


def _make_front(
    loop: Loop,
    where: str,
    nth_tcp: int,
    device: ServedDevice | ServedPort,
    options: Options,
    faults: HostFaults | None,
    capture: Capture | None,
) -> FrontEnd:
    if faults is None:
        return _VfioUserFront(loop, where, device, options)
    from nvme_emu.cli.serve_tcp import TcpFront, advertised, dhchap_policy, tls_keys

    if options.shared:
        nth_tcp = 0
    nqn = options.nqn[nth_tcp] if nth_tcp < len(options.nqn) else ""
    return TcpFront(
        loop,
        where,
        device,
        nqn=nqn,
        hosts=options.allow_host,
        addresses=advertised(options.tcp_address, len(options.tcp)),
        dhchap=dhchap_policy(
            options.dhchap_secret, options.dhchap_ctrl_secret, options.dhchap_hash, options.dhchap_dhgroup
        ),
        tls=tls_keys(options.tls_key),
        log=_logger(options),
        on_association=faults.joined,
        tap=None if capture is None else capture.tap(),
    )


class _VfioUserFront:
    """A device at a vfio-user socket."""

    def __init__(self, loop: Loop, path: str, device: ServedDevice | ServedPort, options: Options) -> None:
        from nvme_emu.transports.vfio_user import VfioUserFunction, VfioUserServer

        self._device = device
        function = VfioUserFunction(
            device.controller,
            device.memory,
            clock=loop.clock,
            mapped_doorbells=options.doorbells == "mmap",
        )
        self.function = function
        self._server: VfioUserServer = VfioUserServer(loop, path, function, log=_logger(options))

    @property
    def failed(self) -> bool:
        """Whether something went wrong that is nobody's fault but ours."""
        return self._server.internal_error is not None or self._device.controller.internal_error is not None

    def summary(self) -> dict[str, object]:
        function = self._server.function
        return {
            "vfio_user": self._server.path,
            "clients": self._server.clients,
            "steps": function.steps,
            "interrupts": function.vectors.delivered + function.pin.delivered,
            "doorbells": function.doorbells,
            **self._device.summary(),
        }

    def work(self) -> None:
        """Let the device do what is due, and tell the client."""
        self._server.function.work()

    def close(self) -> None:
        self._server.close()


def _logger(options: Options) -> Callable[[str], None]:
    if options.quiet:
        return lambda line: None

    def log(line: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)

    return log


@contextlib.contextmanager
def _signals(loop: Loop) -> Iterator[list[int]]:
    """Have SIGINT and SIGTERM end the loop; yields the list of those that came. A second one raises."""
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        loop.stop()

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    # The kernel may hand a signal to any thread (--rpc has some): the loop would not wake to run the handler.
    woken = signal.set_wakeup_fd(loop.wake_fd, warn_on_full_buffer=False)
    try:
        yield caught
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in previous.items():
            signal.signal(number, handler)
