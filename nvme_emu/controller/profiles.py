"""Devices as numbers: what the latency model needs to know of an SSD, and four that come with it.

A profile is a frozen dataclass; `dataclasses.replace` or a TOML file overrides any of its fields:

    base = "tlc"              # start from a profile that comes with the program; default "instant"
    channels = 16
    read_ns = [40000, 60000]  # fast and slow pages in turn

Where a figure below has no source it is chosen so that the whole command takes what the source
measured for the device; which those are is said beside them.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["PROFILES", "DeviceProfile", "ProfileError", "load_profile", "slower"]

LIMIT = 1 << 62  # keeps sums of times within 64 bits

# Fields that must be at least 1; every other number may be 0, which means "takes no time" or "no limit".
_POSITIVE = frozenset({"channels", "dies_per_channel", "planes", "page_bytes", "pages_per_block"})
_FLAGS = frozenset({"power_loss_protected", "program_suspend"})
_DURATIONS = (
    "program_ns",
    "erase_ns",
    "command_ns",
    "read_overhead_ns",
    "write_overhead_ns",
    "dram_ns",
    "suspend_ns",
    "flush_ns",
    "trim_ns",
    "jitter_ns",
    "retry_ns",
    "bus_mb_s",
    "read_link_mb_s",
    "write_link_mb_s",
)


class ProfileError(ValueError):
    """A profile has a wrong value, or a name that nothing has; names the key, the value and the rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceProfile:
    """An SSD. Times in ns, sizes in bytes, rates in MB/s (10**6 bytes a second; 0 = without limit)."""

    name: str = "instant"

    # -- the flash ----------------------------------------------------------------------------------------
    channels: int = 1
    dies_per_channel: int = 1
    planes: int = 1
    """Planes of a die that are programmed together: one program stores planes * page_bytes."""
    page_bytes: int = 16384
    """What one array read gives, and the unit in which addresses are striped over the dies."""
    pages_per_block: int = 1024
    """Programs of a die from one erase to the next."""
    read_ns: tuple[int, ...] = (0,)
    """tR; several values are taken in turn by the pages of a die (lower, middle, upper pages)."""
    program_ns: int = 0
    erase_ns: int = 0
    program_suspend: bool = True
    """Whether a read interrupts a running program (for suspend_ns) or waits until it ends."""
    suspend_ns: int = 0
    bus_mb_s: int = 0
    """Rate of one channel's bus between the controller and its dies."""

    # -- the controller -----------------------------------------------------------------------------------
    command_ns: int = 0
    """Time of the command processor, which takes one command at a time: bounds the IOPS."""
    read_overhead_ns: int = 0
    """Firmware latency of a read; overlaps with other commands."""
    write_overhead_ns: int = 0
    dram_ns: int = 0
    """Storing a write in the buffer."""
    buffer_bytes: int = 0
    """Write buffer; 0 = a write is done when it is programmed."""
    power_loss_protected: bool = False
    """Whether the buffer survives a loss of power: flush and FUA then need not wait for the flash."""
    flush_ns: int = 0
    trim_ns: int = 0
    """Dataset Management and Write Zeroes, which touch the map alone."""
    write_amplification_pct: int = 100
    """Programs for each 100 programs' worth of data from the host (garbage collection); at least 100."""

    # -- the link -----------------------------------------------------------------------------------------
    read_link_mb_s: int = 0
    """Device to host, PCIe and the controller's data path together."""
    write_link_mb_s: int = 0

    # -- scatter ------------------------------------------------------------------------------------------
    jitter_ns: int = 0
    """Each command takes up to this much longer, uniformly distributed."""
    retry_ppm: int = 0
    """Reads in a million that need a second try and take retry_ns longer."""
    retry_ns: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
        unit = self.planes * self.page_bytes
        if self.buffer_bytes and self.buffer_bytes < 2 * unit:
            raise ProfileError(
                f"key 'buffer_bytes' is {self.buffer_bytes}: it must be 0 or hold two programs of "
                f"planes * page_bytes, {2 * unit} bytes"
            )

    @property
    def dies(self) -> int:
        """All dies."""
        return self.channels * self.dies_per_channel

    @property
    def instant(self) -> bool:
        """Whether no command takes any time."""
        return not any(self.read_ns) and not any(getattr(self, name) for name in _DURATIONS)


_TIMES = tuple(name for name in _DURATIONS if name.endswith("_ns"))
_RATES = tuple(name for name in _DURATIONS if name.endswith("_mb_s"))


def slower(profile: DeviceProfile, pct: int) -> DeviceProfile:
    """A device for which everything takes ``pct`` percent of the time."""
    changed: dict[str, Any] = {name: getattr(profile, name) * pct // 100 for name in _TIMES}
    changed |= {name: max(1, rate * 100 // pct) for name in _RATES if (rate := getattr(profile, name))}
    changed["read_ns"] = tuple(ns * pct // 100 for ns in profile.read_ns)
    return dataclasses.replace(profile, **changed)


def _check(key: str, value: Any) -> None:
    if key == "name":
        if not isinstance(value, str) or not value:
            raise ProfileError(f"key 'name' is {value!r}: it must be a word")
    elif key in _FLAGS:
        if not isinstance(value, bool):
            raise ProfileError(f"key '{key}' is {value!r}: it must be true or false")
    elif key == "read_ns":
        if not isinstance(value, tuple) or not value:
            raise ProfileError(f"key 'read_ns' is {value!r}: it must be a number or a list of some")
        for item in value:
            _check_number(key, item, 0, LIMIT)
    elif key == "write_amplification_pct":
        _check_number(key, value, 100, 100_000)
    elif key == "retry_ppm":
        _check_number(key, value, 0, 1_000_000)
    elif key in ("channels", "dies_per_channel", "planes"):
        _check_number(key, value, 1, 1024)
    else:
        _check_number(key, value, 1 if key in _POSITIVE else 0, LIMIT)


def _check_number(key: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProfileError(f"key '{key}' is {value!r}: it must be a whole number")
    if value < least:
        raise ProfileError(f"key '{key}' is {value}: it must be at least {least}")
    if value > most:
        raise ProfileError(f"key '{key}' is {value}: it must be at most {most}")


INSTANT = DeviceProfile(name="instant")

# Intel Optane SSD DC P4800X, 375 GB. Anandtech, "The Intel Optane SSD DC P4800X Review" (2017): 4 KiB random
# reads 8.9 us on the host at queue depth 1 and 585 k IOPS at 16 (so 1.7 us of the command processor),
# 99.999 % of reads within 37 us; data sheet: 2400 and 2000 MB/s, latency below 10 us. 7 channels with 28 dies
# in all: ComputerBase, "Intel Optane SSD DC P4801X" (2018). Best served in 4 KiB: Wu, Arpaci-Dusseau,
# "Towards an Unwritten Contract of Intel Optane SSD" (HotStorage 2019). How the 7 us without the host
# split among medium, bus and firmware is chosen.
OPTANE = DeviceProfile(
    name="optane",
    channels=7,
    dies_per_channel=4,
    page_bytes=4096,
    read_ns=(1_000,),
    program_ns=2_000,
    bus_mb_s=2_000,
    command_ns=1_700,
    read_overhead_ns=800,
    write_overhead_ns=800,
    power_loss_protected=True,
    flush_ns=1_000,
    trim_ns=5_000,
    read_link_mb_s=2_400,
    write_link_mb_s=2_000,
    jitter_ns=800,
    retry_ppm=50,
    retry_ns=25_000,
)

# A data centre TLC drive on PCIe 3: WD Ultrastar DC ZN540 as measured for NVMeVirt (Kim et al., FAST 2023;
# its ssd_config.h): 8 channels of 4 dies at 450 MB/s, 4 KiB array reads in 50 us, programs in 561 us, link
# 3050 MB/s, firmware 20 us a read and 5.6 us a buffered write. 32 dies * 32 KiB / 561 us = 1.9 GB/s of
# sustained writes. Erase: 3 ms, as in SimpleSSD's TLC (Jung et al., IEEE CAL 2018). Scatter: the Micron 9100
# in the review cited above (mean 108 us, 99 % within 117 us, 99.999 % within 306 us). The command
# processor, buffer, suspend and trim are chosen.
TLC = DeviceProfile(
    name="tlc",
    channels=8,
    dies_per_channel=4,
    planes=2,
    page_bytes=16384,
    pages_per_block=768,
    read_ns=(50_000,),
    program_ns=561_000,
    erase_ns=3_000_000,
    suspend_ns=10_000,
    bus_mb_s=450,
    command_ns=1_250,
    read_overhead_ns=20_000,
    write_overhead_ns=5_600,
    dram_ns=600,
    buffer_bytes=16 << 20,
    power_loss_protected=True,
    flush_ns=10_000,
    trim_ns=30_000,
    read_link_mb_s=3_050,
    write_link_mb_s=3_050,
    jitter_ns=10_000,
    retry_ppm=500,
    retry_ns=100_000,
)

# A read-intensive QLC drive: Intel SSD D5-P4320 (3200 and 1000 MB/s, 427 k random read IOPS; data sheet as
# reported by ComputerBase, August 2018) with Intel's 96-layer QLC as measured by Chen et al., "PACA: A Page
# Type Aware Read Cache Scheme in QLC Flash-based SSDs" (ICCD 2022; the figures as FEMU's nand.h gives them):
# reads of the four page types 47.9 to 228 us, programs 1.86 ms, erases 6.34 ms, 16 KiB pages at 800 MT/s.
# 64 dies (7.68 TB of 1 Tb dies) * 32 KiB / 1.86 ms = 1.1 GB/s of sustained writes. Channels, firmware,
# buffer, suspend, trim and scatter are chosen.
QLC = DeviceProfile(
    name="qlc",
    channels=8,
    dies_per_channel=8,
    planes=2,
    page_bytes=16384,
    pages_per_block=1024,
    read_ns=(47_900, 76_200, 134_600, 228_100),
    program_ns=1_860_000,
    erase_ns=6_340_000,
    suspend_ns=20_000,
    bus_mb_s=800,
    command_ns=2_340,
    read_overhead_ns=15_000,
    write_overhead_ns=8_000,
    dram_ns=600,
    buffer_bytes=16 << 20,
    power_loss_protected=True,
    flush_ns=10_000,
    trim_ns=50_000,
    read_link_mb_s=3_200,
    write_link_mb_s=3_200,
    jitter_ns=15_000,
    retry_ppm=2_000,
    retry_ns=250_000,
)

PROFILES = {profile.name: profile for profile in (INSTANT, OPTANE, TLC, QLC)}


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """The profile of that name, or the one in that TOML file (anything with ".toml" or a "/" is a path).

    Raises ProfileError for an unknown name, a file that cannot be read or is no TOML, an unknown key and a
    wrong value; the message names the file, the key, the value and the rule.
    """
    text = str(name_or_path)
    if text in PROFILES:
        return PROFILES[text]
    if isinstance(name_or_path, str) and not text.endswith(".toml") and "/" not in text:
        raise ProfileError(
            f"profile {text!r} is unknown: it must be one of {', '.join(PROFILES)} or a TOML file"
        )
    path = Path(text)
    try:
        content = path.read_bytes().decode()
        table = tomllib.loads(content)
    except OSError as error:
        raise ProfileError(f"profile {text}: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, no TOML
        raise ProfileError(f"profile {text}: it must be TOML: {error}") from error
    try:
        return _profile_of(table, path.stem)
    except ProfileError as error:
        raise ProfileError(f"profile {text}: {error}") from error


def _profile_of(table: dict[str, Any], name: str) -> DeviceProfile:
    values = {"name": name, **table}
    base = values.pop("base", "instant")
    if not isinstance(base, str) or base not in PROFILES:
        raise ProfileError(f"key 'base' is {base!r}: it must be one of {', '.join(PROFILES)}")
    known = [field.name for field in fields(DeviceProfile)]
    for key, value in values.items():
        if key not in known:
            raise ProfileError(f"key '{key}' is unknown: it must be one of base, {', '.join(known)}")
        if key == "read_ns":
            values[key] = tuple(value) if isinstance(value, list) else (value,)
    return dataclasses.replace(PROFILES[base], **values)
