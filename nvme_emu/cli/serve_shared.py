"""`serve --shared`: every socket a port of one SSD, with a controller of its own; and the states of its ANA groups."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nvme_emu.cli.serve_device import ServedDevice, ServedPort
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["check_shared", "join_ports", "ports_of", "shared_options"]

_F = TypeVar("_F", bound=Callable[..., Any])


def shared_options(command: _F) -> _F:
    """`--shared`, `--namespaces`, `--ana-groups` and `--ana-state`."""
    options = (
        click.option("--shared", is_flag=True, help="One SSD for all sockets: each is a port of it with a controller."),
        click.option(
            "--namespaces",
            type=click.IntRange(1, 32),
            default=1,
            show_default=True,
            help="Namespaces of each SSD; they share its --size.",
        ),
        click.option(
            "--ana-groups",
            type=click.IntRange(0, 32),
            default=0,
            show_default=True,
            help="Report asymmetric namespace access in so many groups; namespace n is in group n.",
        ),
        click.option(
            "--ana-state",
            metavar="PORT:GROUP=STATE",
            multiple=True,
            help="optimized, non-optimized, inaccessible, persistent-loss or change, at the PORTth socket; repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _set_ana_states(subsystem: NvmSubsystem, given: Sequence[str]) -> None:
    """What --ana-state says. ValueError for what there is not."""
    for text in given:
        where, equals, state = text.partition("=")
        port, colon, group = where.partition(":")
        if not (equals and colon and port.isdecimal() and group.isdecimal()):
            raise ValueError(f"--ana-state {text}: PORT:GROUP=STATE is needed, such as 2:1=inaccessible")
        subsystem.ana.set(int(group), state, port=int(port))


def check_shared(options: Any, sockets: int) -> None:
    """Raises ValueError for what does not fit the number of SSDs."""
    if not options.shared and len(options.images) > sockets:
        raise ValueError(f"{len(options.images)} images for {sockets} socket(s)")
    if options.shared and (len(options.images) > 1 or len(options.nqn) > 1):
        raise ValueError("--shared: there is one SSD, with one --image and one --nqn")
    if options.ana_state and not options.ana_groups:
        raise ValueError("--ana-state needs --ana-groups")


def ports_of(
    options: Any, sockets: int, make: Callable[[int], ServedDevice]
) -> Iterator[ServedDevice | ServedPort]:
    """What each socket offers: an SSD of its own, or with --shared a port of the first one."""
    from nvme_emu.cli.serve_device import ServedPort

    first: ServedDevice | None = None
    for number in range(1, sockets + 1):
        if first is not None and options.shared:
            yield ServedPort(first, number)
            continue
        first = make(number)
        _set_ana_states(first.controller.subsystem, options.ana_state)
        yield first


def join_ports(fronts: Sequence[Any]) -> None:
    """Let the ways to one SSD know of each other: PCI functions, and the discovery log of each TCP port."""
    functions = [front.function for front in fronts if hasattr(front, "function")]
    for function in functions:
        function.mates = tuple(one for one in functions if one is not function)
    over_tcp = [front for front in fronts if hasattr(front, "target")]
    found = [address for front in over_tcp for address in (front.target.addresses or (front.address,))]
    # Of an address that is any of this machine's nobody knows how hosts reach it: each port names what they came to.
    if not any(ipaddress.ip_address(host).is_unspecified for host, _ in found):
        for front in over_tcp:
            front.target.addresses = tuple(dict.fromkeys(found))
