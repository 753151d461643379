"""Get and Set Features: each feature by each select, NSID rules, reserved values, resets, and effects."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import BROADCAST, PAGE, AdminHost, code

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.features import FEATURES, Features
from nvme_emu.controller.power_states import CLIENT_POWER_STATES
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.commands import SEL_CURRENT, SEL_DEFAULT, SEL_SAVED, SEL_SUPPORTED
from nvme_emu.spec.feature_data import HOST_BEHAVIOR, TIMESTAMP, TIMESTAMP_ATTRIBUTES
from nvme_emu.spec.features import (
    ASYNC_EVENT_CONFIG,
    FEATURE_CAPABILITIES,
    NUMBER_OF_QUEUES,
    TEMPERATURE_THRESHOLD,
    Fid,
)
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import DNR, MORE, Status

NN = 8
NSID_AT, FID_AT, SEL_AT, SV_AT = (4, 0), (40, 0), (41, 0), (43, 7)
NS_PER_MS = 1_000_000


class Feature:
    """A feature as its test sees it: how to ask for it, its default, and a value to set."""

    def __init__(self, fid: Fid, default: int, value: int, *, ask: int = 0, nsid: int = 0) -> None:
        self.fid, self.default, self.value, self.ask, self.nsid = fid, default, value, ask, nsid

    def __repr__(self) -> str:
        return f"{self.fid.name}-{self.ask:x}"


OVER, UNDER = (TEMPERATURE_THRESHOLD.pack(thsel=sel) for sel in (0, 1))
SIMPLE = [
    Feature(Fid.ARBITRATION, 6, 0x04030205),
    Feature(Fid.POWER_MANAGEMENT, 0, 0x20),
    Feature(Fid.TEMPERATURE_THRESHOLD, 343 | OVER, 350 | OVER, ask=OVER),
    Feature(Fid.TEMPERATURE_THRESHOLD, UNDER, 280 | UNDER, ask=UNDER),
    Feature(Fid.ERROR_RECOVERY, 0, 500, nsid=1),
    Feature(Fid.VOLATILE_WRITE_CACHE, 1, 0),
    Feature(Fid.INTERRUPT_COALESCING, 0, 0x0A07),
    Feature(Fid.INTERRUPT_VECTOR_CONFIG, 2, 0x1_0002, ask=2),
    Feature(Fid.WRITE_ATOMICITY, 0, 1),
    Feature(Fid.ASYNC_EVENT_CONFIG, 0, 0x11F),
    Feature(Fid.IO_COMMAND_SET_PROFILE, 0, 0),
]


def host(**options: Any) -> AdminHost:
    """Namespaces 1 and 2 of 8 possible ones."""
    config = {"namespaces_max": NN, "io_queues_max": 8, "vectors": 5, **options.pop("config", {})}
    media = options.pop("media", None) or [RamMedia(1 << 20), RamMedia(1 << 20)]
    return AdminHost(config=ControllerConfig(**config), media=media, **options)


def get(one: AdminHost, feature: Feature, sel: int) -> int:
    completion = one.get_feature(feature.fid, sel=sel, nsid=feature.nsid, cdw11=feature.ask)
    assert completion.status == 0
    return completion.dw0


def at(one: AdminHost) -> tuple[int, int]:
    pel = one.newest_error().pel
    return pel & 0xFF, pel >> 8


# --- each feature by each select ----------------------------------------------------------------------------


@pytest.mark.parametrize("feature", SIMPLE, ids=repr)
def test_feature_has_its_default_in_every_select(feature: Feature) -> None:
    one = host()

    values = [get(one, feature, sel) for sel in (SEL_CURRENT, SEL_DEFAULT, SEL_SAVED)]

    assert values == [feature.default] * 3


@pytest.mark.parametrize("feature", SIMPLE, ids=repr)
def test_feature_set_becomes_current_and_nothing_else(feature: Feature) -> None:
    one = host()

    assert one.set_feature(feature.fid, feature.value, nsid=feature.nsid)[0::4] == (0, 0)

    values = [get(one, feature, sel) for sel in (SEL_CURRENT, SEL_DEFAULT, SEL_SAVED)]
    assert values == [feature.value, feature.default, feature.default]


@pytest.mark.parametrize("feature", SIMPLE, ids=repr)
def test_feature_reset_brings_the_default_back(feature: Feature) -> None:
    one = host()
    one.set_feature(feature.fid, feature.value, nsid=feature.nsid)

    one.write(Reg.CC, 0)
    one.step()
    one.enable()

    assert get(one, feature, SEL_CURRENT) == feature.default


@pytest.mark.parametrize("fid", sorted(set(FEATURES) - {Fid.KEEP_ALIVE_TIMER}))
def test_feature_capabilities_are_what_set_features_does(fid: int) -> None:
    one = host(config={"power_states": CLIENT_POWER_STATES})
    nsid = int(FEATURES[fid].per_namespace)

    completion = one.get_feature(fid, sel=SEL_SUPPORTED, nsid=nsid)

    found = FEATURE_CAPABILITIES.unpack(completion.dw0)
    lasting = FEATURES[fid].lasting
    assert (found.saveable, found.ns_specific, found.changeable) == (int(lasting), nsid, 1)
    completion = one.set_feature(fid, sv=1, nsid=nsid)
    if not lasting:
        assert completion.status == Status.FEATURE_NOT_SAVEABLE | DNR | MORE
        assert at(one) == SV_AT
    else:
        assert code(completion) in (0, Status.INVALID_FIELD, Status.IOCS_COMBINATION_REJECTED)


@pytest.mark.parametrize("feature", SIMPLE, ids=repr)
def test_feature_saved_where_there_is_storage_survives_a_reset(feature: Feature) -> None:
    one = host()
    saved: dict[Any, int] = {}
    one.ctrl.features = Features(one.config, saved)
    capabilities = get(one, feature, SEL_SUPPORTED)

    assert one.set_feature(feature.fid, feature.value, nsid=feature.nsid, sv=1).status == 0

    assert FEATURE_CAPABILITIES.unpack(capabilities).saveable == 1
    one.write(Reg.CC, 0)
    one.step()
    one.enable()
    values = [get(one, feature, sel) for sel in (SEL_CURRENT, SEL_DEFAULT, SEL_SAVED)]
    assert values == [feature.value, feature.default, feature.value]
    assert list(saved.values()) == [feature.value]


@pytest.mark.parametrize("fid", [Fid.NUMBER_OF_QUEUES, Fid.TIMESTAMP, Fid.HOST_BEHAVIOR])
def test_feature_that_does_not_last_is_not_saveable_even_with_storage(fid: int) -> None:
    one = host()
    one.ctrl.features = Features(one.config, {})

    assert code(one.set_feature(fid, sv=1)) == Status.FEATURE_NOT_SAVEABLE


# --- wrong fields -------------------------------------------------------------------------------------------

UNKNOWN = sorted(set(range(256)) - set(FEATURES))


@pytest.mark.parametrize("fid", [*UNKNOWN[:6], 0x78, 0x80, 0x85, 0xC0, 0xFF])
@pytest.mark.parametrize("opcode", [AdminOpcode.GET_FEATURES, AdminOpcode.SET_FEATURES])
def test_feature_that_is_not_offered_is_an_invalid_field(opcode: int, fid: int) -> None:
    one = host()

    assert one.do(opcode, cdw10=fid).status == Status.INVALID_FIELD | DNR | MORE
    assert at(one) == FID_AT


@pytest.mark.parametrize("opcode", [AdminOpcode.GET_FEATURES, AdminOpcode.SET_FEATURES])
def test_feature_write_cache_is_not_offered_without_one(opcode: int) -> None:
    one = host(config={"volatile_write_cache": False})

    assert code(one.do(opcode, cdw10=Fid.VOLATILE_WRITE_CACHE)) == Status.INVALID_FIELD
    assert one.ctrl.write_through is True


@pytest.mark.parametrize("sel", range(4, 8))
def test_get_feature_with_a_reserved_select_fails(sel: int) -> None:
    one = host()

    assert one.get_feature(Fid.ARBITRATION, sel=sel).status == Status.INVALID_FIELD | DNR | MORE
    assert at(one) == SEL_AT


@pytest.mark.parametrize(
    ("fid", "nsid", "status"),
    [
        (Fid.ARBITRATION, 0, Status.SUCCESS),
        (Fid.ARBITRATION, BROADCAST, Status.SUCCESS),
        (Fid.ARBITRATION, 1, Status.FEATURE_NOT_PER_NS),
        (Fid.ARBITRATION, NN + 1, Status.INVALID_NS),
        (Fid.TIMESTAMP, 1, Status.FEATURE_NOT_PER_NS),
        (Fid.ERROR_RECOVERY, 1, Status.SUCCESS),
        (Fid.ERROR_RECOVERY, BROADCAST, Status.SUCCESS),
        (Fid.ERROR_RECOVERY, 3, Status.INVALID_FIELD),
        (Fid.ERROR_RECOVERY, 0, Status.INVALID_NS),
        (Fid.ERROR_RECOVERY, NN + 1, Status.INVALID_NS),
    ],
)
def test_set_feature_nsid_rules(fid: int, nsid: int, status: Status) -> None:
    one = host()

    completion = one.set_feature(fid, 0, nsid=nsid)

    assert code(completion) == status
    if status:
        assert at(one) == NSID_AT


@pytest.mark.parametrize(
    ("fid", "nsid", "status"),
    [
        (Fid.ARBITRATION, 1, Status.SUCCESS),
        (Fid.ARBITRATION, BROADCAST, Status.SUCCESS),
        (Fid.ERROR_RECOVERY, 1, Status.SUCCESS),
        (Fid.ERROR_RECOVERY, 3, Status.INVALID_FIELD),
        (Fid.ERROR_RECOVERY, BROADCAST, Status.INVALID_NS),
        (Fid.ERROR_RECOVERY, 0, Status.INVALID_NS),
    ],
)
def test_get_feature_nsid_rules(fid: int, nsid: int, status: Status) -> None:
    assert code(host().get_feature(fid, nsid=nsid)) == status


@pytest.mark.parametrize(
    ("fid", "cdw11", "status", "location"),
    [
        (Fid.POWER_MANAGEMENT, 1, Status.INVALID_FIELD, (44, 0)),
        (Fid.POWER_MANAGEMENT, 31, Status.INVALID_FIELD, (44, 0)),
        *[(Fid.TEMPERATURE_THRESHOLD, sel << 16, Status.INVALID_FIELD, (46, 0)) for sel in (1, 8, 9, 14)],
        *[(Fid.TEMPERATURE_THRESHOLD, sel << 20, Status.INVALID_FIELD, (46, 4)) for sel in (2, 3)],
        (Fid.ERROR_RECOVERY, 1 << 16, Status.INVALID_FIELD, (46, 0)),
        (Fid.NUMBER_OF_QUEUES, 0x0000_FFFF, Status.INVALID_FIELD, (44, 0)),
        (Fid.NUMBER_OF_QUEUES, 0xFFFF_0000, Status.INVALID_FIELD, (46, 0)),
        (Fid.INTERRUPT_VECTOR_CONFIG, 5, Status.INVALID_FIELD, (44, 0)),
        (Fid.INTERRUPT_VECTOR_CONFIG, 0x1_FFFF, Status.INVALID_FIELD, (44, 0)),
        (Fid.ASYNC_EVENT_CONFIG, 1 << 11, Status.INVALID_FIELD, (45, 3)),
        (Fid.ASYNC_EVENT_CONFIG, 1 << 12, Status.INVALID_FIELD, (45, 4)),
        (Fid.ASYNC_EVENT_CONFIG, 1 << 31, Status.INVALID_FIELD, (47, 7)),
        (Fid.IO_COMMAND_SET_PROFILE, 1, Status.IOCS_COMBINATION_REJECTED, (44, 0)),
    ],
)
def test_set_feature_to_a_value_that_does_not_exist_fails(
    fid: int, cdw11: int, status: Status, location: tuple[int, int]
) -> None:
    one = host()
    nsid = int(FEATURES[fid].per_namespace)
    ask = {"cdw11": 0, "nsid": nsid}
    before = one.get_feature(fid, **ask).dw0

    assert one.set_feature(fid, cdw11, nsid=nsid).status == status | DNR | MORE

    assert at(one) == location
    assert one.get_feature(fid, **ask).dw0 == before


def test_get_temperature_threshold_of_all_sensors_fails() -> None:
    assert code(host().get_feature(Fid.TEMPERATURE_THRESHOLD, cdw11=0xF << 16)) == Status.INVALID_FIELD


def test_set_temperature_threshold_of_all_sensors_sets_the_composite_one() -> None:
    one = host()

    assert one.set_feature(Fid.TEMPERATURE_THRESHOLD, 0xF << 16 | 333).status == 0

    assert one.get_feature(Fid.TEMPERATURE_THRESHOLD).dw0 == 333


@pytest.mark.parametrize("feature", SIMPLE[:1] + SIMPLE[5:7] + SIMPLE[8:9], ids=repr)
def test_set_feature_ignores_reserved_bits(feature: Feature) -> None:
    one = host()
    reserved = FEATURES[feature.fid].layout.reserved_mask

    assert one.set_feature(feature.fid, feature.value | reserved).status == 0
    assert get(one, feature, SEL_CURRENT) == feature.value


# --- number of queues ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ((0, 0), (0, 0)),
        ((3, 5), (3, 5)),
        ((7, 7), (7, 7)),
        ((8, 0), (7, 0)),
        ((0xFFFE, 0xFFFE), (7, 7)),
    ],
)
def test_number_of_queues_grants_at_most_what_there_is(
    asked: tuple[int, int], granted: tuple[int, int]
) -> None:
    one = host()

    completion = one.set_feature(Fid.NUMBER_OF_QUEUES, NUMBER_OF_QUEUES.pack(nsq_z=asked[0], ncq_z=asked[1]))

    expected = NUMBER_OF_QUEUES.pack(nsq_z=granted[0], ncq_z=granted[1])
    assert (completion.status, completion.dw0) == (0, expected)
    assert one.get_feature(Fid.NUMBER_OF_QUEUES).dw0 == expected
    assert one.get_feature(Fid.NUMBER_OF_QUEUES, sel=SEL_DEFAULT).dw0 == NUMBER_OF_QUEUES.pack(
        nsq_z=7, ncq_z=7
    )


def test_number_of_queues_does_not_change_between_resets() -> None:
    one = host()
    first = one.set_feature(Fid.NUMBER_OF_QUEUES, NUMBER_OF_QUEUES.pack(nsq_z=1, ncq_z=1)).dw0

    assert one.set_feature(Fid.NUMBER_OF_QUEUES, NUMBER_OF_QUEUES.pack(nsq_z=6, ncq_z=6)).dw0 == first


def test_number_of_queues_after_a_queue_was_created_is_a_sequence_error() -> None:
    one = host()
    one.create_cq(1)

    assert one.set_feature(Fid.NUMBER_OF_QUEUES, 0).status == Status.CMD_SEQ_ERROR | DNR | MORE
    assert one.newest_error().pel == 0xFFFF


# --- features with data -------------------------------------------------------------------------------------


def timestamp(one: AdminHost, sel: int = SEL_CURRENT) -> tuple[int, int]:
    """(milliseconds, origin)."""
    one.memory.write(one.data, b"\xa5" * 16)
    assert one.get_feature(Fid.TIMESTAMP, sel=sel).status == 0
    assert one.memory.read(one.data + 8, 8) == b"\xa5" * 8
    found = TIMESTAMP.parse(one.memory.read(one.data, 8))
    return found.timestamp, TIMESTAMP_ATTRIBUTES.unpack(found.attributes).torg


def set_timestamp(one: AdminHost, value: int) -> None:
    one.memory.write(one.data, TIMESTAMP.build(timestamp=value))
    assert one.set_feature(Fid.TIMESTAMP).status == 0


def test_timestamp_counts_from_what_the_host_set() -> None:
    one = host()
    set_timestamp(one, 1_700_000_000_000)

    one.step(one.now_ns + 1500 * NS_PER_MS)

    assert timestamp(one) == (1_700_000_001_500, 1)
    assert timestamp(one, SEL_DEFAULT) == timestamp(one, SEL_SAVED) == (0, 0)


def test_timestamp_counts_from_the_reset_until_the_host_sets_it() -> None:
    one = host()
    set_timestamp(one, 1_700_000_000_000)
    one.step(5000 * NS_PER_MS)
    one.write(Reg.CC, 0)
    one.step()
    one.enable()

    one.step(5250 * NS_PER_MS)

    assert timestamp(one) == (250, 0)


def test_timestamp_of_a_new_controller_does_not_show_the_clocks_own_start() -> None:
    one = host()
    one.step(10**9 * NS_PER_MS)

    assert timestamp(one) == (0, 0)
    one.step(one.now_ns + 7 * NS_PER_MS)
    assert timestamp(one) == (7, 0)


def test_timestamp_wraps_at_48_bits() -> None:
    one = host()
    set_timestamp(one, (1 << 48) - 1)

    one.step(one.now_ns + 3 * NS_PER_MS)

    assert timestamp(one) == (2, 1)


@pytest.mark.parametrize("fields", [{}, {"acre": 1}, {"etdas": 1, "lbafee": 1}, {"hdisns": 1}])
def test_host_behavior_comes_back_as_it_was_set(fields: dict[str, int]) -> None:
    one = host()
    data = HOST_BEHAVIOR.build(**fields)
    one.memory.write(one.data, data)
    assert one.set_feature(Fid.HOST_BEHAVIOR).status == 0
    one.memory.write(one.data, b"\xa5" * PAGE)

    one.get_feature(Fid.HOST_BEHAVIOR)

    assert one.memory.read(one.data, 513) == data + b"\xa5"
    one.get_feature(Fid.HOST_BEHAVIOR, sel=SEL_DEFAULT)
    assert one.memory.read(one.data, 512) == bytes(512)


@pytest.mark.parametrize("fields", [{"acre": 2}, {"etdas": 255}, {"lbafee": 2}, {"hdisns": 3}, {"cdfe": 8}])
def test_host_behavior_with_a_value_that_does_not_exist_fails(fields: dict[str, int]) -> None:
    one = host()
    one.memory.write(one.data, HOST_BEHAVIOR.build(**fields))

    assert one.set_feature(Fid.HOST_BEHAVIOR).status == Status.INVALID_FIELD | DNR | MORE

    one.get_feature(Fid.HOST_BEHAVIOR)
    assert one.memory.read(one.data, 512) == bytes(512)


@pytest.mark.parametrize("fid", [Fid.TIMESTAMP, Fid.HOST_BEHAVIOR])
@pytest.mark.parametrize("opcode", [AdminOpcode.GET_FEATURES, AdminOpcode.SET_FEATURES])
def test_feature_data_at_a_bad_address_fails(opcode: int, fid: int) -> None:
    assert code(host().do(opcode, cdw10=fid, prp1=0xDEAD_0000_0000)) == Status.DATA_XFER_ERROR


# --- what they do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ab", "burst"), [(0, 1), (3, 8), (6, 64), (7, 0)])
def test_arbitration_burst_reaches_the_arbiter(ab: int, burst: int) -> None:
    one = host()

    one.set_feature(Fid.ARBITRATION, ab)

    assert one.ctrl.features.arbitration_burst == one.ctrl.arbiter.burst == burst


class CountingMedia(RamMedia):
    """Counts flushes, and fails them when asked to."""

    flushes = 0
    failing = False

    def flush(self) -> None:
        if self.failing:
            raise OSError(5, "the medium is gone")
        self.flushes += 1


def test_write_cache_turned_off_is_flushed_first() -> None:
    media = CountingMedia(1 << 20)
    one = host(media=[media])
    assert one.ctrl.write_through is False

    assert one.set_feature(Fid.VOLATILE_WRITE_CACHE, 0).status == 0
    assert (media.flushes, one.ctrl.write_through) == (1, True)

    one.set_feature(Fid.VOLATILE_WRITE_CACHE, 0)
    one.set_feature(Fid.VOLATILE_WRITE_CACHE, 1)
    assert (media.flushes, one.ctrl.write_through) == (1, False)


def test_write_cache_that_cannot_be_flushed_stays_on() -> None:
    media = CountingMedia(1 << 20)
    one = host(media=[media])
    media.failing = True

    assert code(one.set_feature(Fid.VOLATILE_WRITE_CACHE, 0)) == Status.WRITE_FAULT

    assert one.get_feature(Fid.VOLATILE_WRITE_CACHE).dw0 == 1
    assert one.ctrl.write_through is False


def test_error_recovery_is_kept_for_each_namespace() -> None:
    one = host()

    one.set_feature(Fid.ERROR_RECOVERY, 5, nsid=BROADCAST)
    assert [one.get_feature(Fid.ERROR_RECOVERY, nsid=nsid).dw0 for nsid in (1, 2)] == [5, 5]

    one.set_feature(Fid.ERROR_RECOVERY, 9, nsid=2)
    assert [one.get_feature(Fid.ERROR_RECOVERY, nsid=nsid).dw0 for nsid in (1, 2)] == [5, 9]


def test_interrupt_features_are_kept_for_each_vector() -> None:
    one = host()
    one.set_feature(Fid.INTERRUPT_VECTOR_CONFIG, 1 << 16 | 3)
    one.set_feature(Fid.INTERRUPT_COALESCING, 0x0A07)

    assert [one.ctrl.features.coalescing_disabled(vector) for vector in range(5)] == [0, 0, 0, 1, 0]
    assert one.ctrl.features.coalescing == (8, 10)


@pytest.mark.parametrize("bits", [0, ASYNC_EVENT_CONFIG.pack(shcw=0x3F, nan=1)])
def test_async_event_config_takes_what_identify_offers(bits: int) -> None:
    one = host()

    assert one.set_feature(Fid.ASYNC_EVENT_CONFIG, bits).status == 0
    assert one.get_feature(Fid.ASYNC_EVENT_CONFIG).dw0 == bits
