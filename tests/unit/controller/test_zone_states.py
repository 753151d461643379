"""Every state of a zone with everything that can happen to it, the resources, and the configuration of zones."""

from __future__ import annotations

import itertools

import pytest

from nvme_emu.controller.namespace import Namespace
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.controller.zone_states import ACTIVE, OPEN, REFUSALS, ZONE_TRANSITIONS, ZoneAction
from nvme_emu.controller.zones import Zone, Zones
from nvme_emu.core.errors import CommandError
from nvme_emu.media import RamMedia
from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import WP_INVALID, ZoneState, build_zone_report, parse_zone_report

S, A = ZoneState, ZoneAction
KIB = 1024
ALIVE = (S.EMPTY, S.IMPLICITLY_OPENED, S.EXPLICITLY_OPENED, S.CLOSED, S.FULL)
WRITABLE = (S.EMPTY, S.IMPLICITLY_OPENED, S.EXPLICITLY_OPENED, S.CLOSED)
OPENED = (S.IMPLICITLY_OPENED, S.EXPLICITLY_OPENED)
# From which states an action leads where; None stands for: it stays what it is. Written down apart from the table.
EXPECTED: dict[ZoneAction, tuple[dict[ZoneState, ZoneState], ...]] = {
    A.WRITE: (dict.fromkeys((S.EMPTY, S.CLOSED), S.IMPLICITLY_OPENED), {one: one for one in OPENED}),
    A.FILL: (dict.fromkeys(OPENED, S.FULL),),
    A.OPEN: (dict.fromkeys(WRITABLE, S.EXPLICITLY_OPENED),),
    A.CLOSE: (dict.fromkeys((*OPENED, S.CLOSED), S.CLOSED),),
    A.FINISH: (dict.fromkeys(ALIVE, S.FULL),),
    A.RESET: (dict.fromkeys(ALIVE, S.EMPTY),),
    A.OFFLINE: ({S.READ_ONLY: S.OFFLINE, S.OFFLINE: S.OFFLINE},),
    A.SET_EXTENSION: ({S.EMPTY: S.CLOSED},),
    A.YIELD: ({S.IMPLICITLY_OPENED: S.CLOSED},),
    A.POWER_LOSS: (dict.fromkeys((*OPENED, S.CLOSED), S.CLOSED),),
    A.POWER_LOSS_UNUSED: (dict.fromkeys((*OPENED, S.CLOSED), S.EMPTY),),
    A.ERASE: (dict.fromkeys(ALIVE, S.EMPTY),),
    A.BREAK_READ_ONLY: (dict.fromkeys(ALIVE, S.READ_ONLY),),
    A.BREAK_OFFLINE: (dict.fromkeys((*ALIVE, S.READ_ONLY), S.OFFLINE),),
}


def zones(**config: int) -> Zones:
    options = {"zone_size": 16 * KIB, "zone_capacity": 8 * KIB, **config}
    return Zones(ZnsConfig(**options), 512, 128 * KIB)


def brought(state: ZoneState, **config: int) -> tuple[Zones, Zone]:
    """Zone 0 in a state, by the ways there are."""
    all_of_them = zones(**config)
    zone = all_of_them.zones[0]
    if state in (S.IMPLICITLY_OPENED, S.CLOSED, S.FULL, S.READ_ONLY, S.OFFLINE):
        all_of_them.check_write(0, 4)
        all_of_them.written(zone, 4)
    ways = {
        S.EXPLICITLY_OPENED: A.OPEN, S.CLOSED: A.CLOSE, S.FULL: A.FINISH, S.READ_ONLY: A.BREAK_READ_ONLY,
        S.OFFLINE: A.BREAK_OFFLINE,
    }  # fmt: skip
    if state in ways:
        all_of_them.act(zone, ways[state])
    assert zone.state is state
    return all_of_them, zone


@pytest.mark.parametrize(("state", "action"), list(itertools.product(ZoneState, ZoneAction)))
def test_every_action_in_every_state(state: ZoneState, action: ZoneAction) -> None:
    expected = {before: after for part in EXPECTED[action] for before, after in part.items()}.get(state)
    all_of_them, zone = brought(state)

    assert ZONE_TRANSITIONS.get((state, action)) is expected
    if expected is None:
        with pytest.raises(CommandError) as refused:
            all_of_them.act(zone, action)
        assert refused.value.status == Status.ZONE_INVALID_TRANSITION
        assert zone.state is state
    else:
        all_of_them.act(zone, action)
        assert zone.state is expected
    assert all_of_them.active == (zone.state in ACTIVE)
    assert all_of_them.open == (zone.state in OPEN)
    if action in (A.RESET, A.ERASE) and expected is not None:
        assert zone.unused


@pytest.mark.parametrize("state", ZoneState)
def test_every_state_says_how_it_is_written_read_and_described(state: ZoneState) -> None:
    all_of_them, zone = brought(state)

    if state in WRITABLE:
        assert all_of_them.check_write(zone.wp, 4) is zone
        for slba, blocks, status in (
            (zone.wp + 1, 1, Status.ZONE_INVALID_WRITE),
            (zone.wp + 1, 99, Status.ZONE_INVALID_WRITE),
            (zone.wp, 17, Status.ZONE_BOUNDARY_ERROR),
        ):
            with pytest.raises(CommandError) as refused:
                all_of_them.check_write(slba, blocks)
            assert refused.value.status == status
        assert all_of_them.describe(zone).wp == zone.wp
    else:
        for slba, blocks in ((zone.wp, 1), (0, 1), (0, 99)):
            with pytest.raises(CommandError) as refused:
                all_of_them.check_write(slba, blocks)
            assert refused.value.status == REFUSALS[state]
        assert all_of_them.describe(zone).wp == WP_INVALID
    if state is S.OFFLINE:
        with pytest.raises(CommandError, match="Offline"):
            all_of_them.check_read(0, 1)
    else:
        all_of_them.check_read(0, 32)
    assert zone.state is state


def test_controller_closes_the_zone_that_it_opened_first() -> None:
    one = zones(max_open=2)
    for number in (3, 1, 2):
        one.written(one.check_write(number * 32, 1), 1)

    assert [zone.index for zone in one.zones if zone.state is S.CLOSED] == [3]
    one.act(one.zones[5], A.OPEN)
    assert one.zones[1].state is S.CLOSED
    one.act(one.zones[6], A.OPEN)
    with pytest.raises(CommandError) as refused:
        one.check_write(7 * 32, 1)
    assert refused.value.status == Status.ZONE_TOO_MANY_OPEN
    assert (one.open, one.active) == (2, 5)


def test_active_limit_alone_limits_open_zones() -> None:
    one = zones(max_active=2)
    one.act(one.zones[0], A.OPEN)
    one.act(one.zones[1], A.OPEN)

    with pytest.raises(CommandError) as refused:
        one.act(one.zones[2], A.OPEN)

    assert refused.value.status == Status.ZONE_TOO_MANY_ACTIVE
    assert one.config.max_open_resources == 2


def test_power_loss_leaves_unused_zones_empty() -> None:
    one = zones(zdes=64)
    for zone in one.zones[:3]:
        one.act(zone, A.OPEN)
    one.written(one.zones[1], 1)
    one.extend(one.zones[4], bytes(64))
    one.settle()

    assert one.power_lost() == []

    assert [zone.state for zone in one.zones[:5]] == [S.EMPTY, S.CLOSED, S.EMPTY, S.EMPTY, S.CLOSED]
    assert (one.active, one.open) == (2, 0)


def test_power_loss_takes_back_what_has_not_settled() -> None:
    one = zones(zdes=64)
    one.written(one.check_write(0, 4), 4)
    one.act(one.zones[3], A.FINISH)
    one.settle()
    one.written(one.check_write(4, 12), 12)
    one.written(one.check_write(32, 2), 2)
    one.extend(one.zones[2], bytes(64))
    one.act(one.zones[3], A.RESET)
    one.act(one.zones[4], A.BREAK_OFFLINE)

    gone = one.power_lost()

    assert [zone.index for zone in gone] == [0, 1, 2, 3]
    assert [(zone.state, zone.wp - zone.start) for zone in one.zones[:5]] == [
        (S.CLOSED, 4), (S.EMPTY, 0), (S.EMPTY, 0), (S.FULL, 0), (S.OFFLINE, 0),
    ]  # fmt: skip
    assert (one.active, one.open, one.zones[2].extension) == (1, 0, b"")


def test_what_is_saved_comes_back() -> None:
    one = zones(zdes=64, max_open=3)
    one.written(one.check_write(0, 16), 16)
    one.written(one.check_write(32, 3), 3)
    one.act(one.zones[1], A.FINISH)
    one.extend(one.zones[2], b"x" * 64)
    one.written(one.check_write(96, 5), 5)
    one.act(one.zones[4], A.BREAK_READ_ONLY)

    other = Zones(one.config, 512, 128 * KIB)
    other.restore(one.saved())

    one.settle()
    one.power_lost()
    assert [repr(zone) for zone in other.zones] == [repr(zone) for zone in one.zones]
    assert other.zones[2].extension == b"x" * 64
    assert (other.active, other.open) == (one.active, one.open) == (2, 0)
    assert other.unwritten() == [(16, 16), (35, 61), (101, 155)]


@pytest.mark.parametrize(
    "change", [{"states": "1"}, {"pointers": [[0, 17]]}, {"pointers": [[9, 1]]}, {"states": "00000000"}]
)
def test_state_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    one = zones()

    with pytest.raises((ValueError, IndexError)):
        one.restore({**one.saved(), **change})


def test_report_is_parsed_as_it_was_built() -> None:
    one = zones(zdes=128)
    one.extend(one.zones[1], b"e" * 128)
    told = [one.describe(zone) for zone in one.zones]

    report = build_zone_report(8, told, 128)

    assert len(report) == 64 + 8 * (64 + 128)
    assert parse_zone_report(report, 128) == (8, told)
    assert parse_zone_report(report[:500], 128) == (8, told[:2])
    assert parse_zone_report(report[:64], 128) == (8, [])


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", ZnsConfig()),
        ("zone_size=1M,max_open=4", ZnsConfig(zone_size=1 << 20, max_open=4)),
        ("zone_capacity=12k,zone_size=16k,zdes=64", ZnsConfig(zone_size=16384, zone_capacity=12288, zdes=64)),
        ("cross_read,max_active=0x10", ZnsConfig(cross_read=True, max_active=16)),
        ("cross_read=off,zasl=3", ZnsConfig(zasl=3)),
        ("offline=3:0x5,read_only=1", ZnsConfig(offline=(3, 5), read_only=(1,))),
    ],
)
def test_configuration_is_read_from_text(text: str, config: ZnsConfig) -> None:
    assert ZnsConfig.parse(text) == config


@pytest.mark.parametrize(
    "text",
    [
        "zone_size=1000", "zone_size=0", "zone_capacity=32M", "zone_capacity=100", "max_open=5,max_active=4", "zdes=65",
        "zdes=99999", "size=1M", "max_open=x", "zone_size=y", "cross_read=2", "zasl=21", "max_open=-1",
        "max_open=0xFFFFFFFF", "offline=", "offline=1:x", "offline=1,read_only=1",
    ],
)  # fmt: skip
def test_configuration_that_makes_no_zones_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ZnsConfig.parse(text)


def test_namespace_must_hold_a_zone() -> None:
    with pytest.raises(ValueError, match="zones"):
        Zones(ZnsConfig(zone_size=1 << 20), 512, 4096)


def test_configured_zones_are_broken() -> None:
    one = Namespace(1, RamMedia(128 * KIB), zoned=ZnsConfig(zone_size=16 * KIB, read_only=(1, 2), offline=(7,)))

    assert one.zones is not None
    assert [int(zone.state) for zone in one.zones.zones] == [1, 13, 13, 1, 1, 1, 1, 15]
    with pytest.raises(ValueError, match="zone 8"):
        Namespace(1, RamMedia(128 * KIB), zoned=ZnsConfig(zone_size=16 * KIB, offline=(8,)))
