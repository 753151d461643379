"""The function's PCI configuration space: what each byte reads, which bits a write changes, and what follows.

    00h   type 0 header: class 010802h, BAR0/1 the properties and doorbells, BAR2/3 memory of the controller's own if
          it has any, BAR4/5 MSI-X table and pending bits
    40h   power management    D0 and D3hot; no soft reset, so D3hot to D0 keeps the state
    50h   MSI-X
    60h   PCI Express endpoint with function level reset
    100h  device serial number

Bytes that are not listed as writable keep their value. The BARs can be sized as on a bus (write ones, read
back), though clients such as QEMU keep the BARs' addresses to themselves.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntFlag

from nvme_emu.spec.pci import (
    BAR_64BIT,
    BAR_PREFETCHABLE,
    CLASS_NVME,
    COMMAND,
    CONFIG_BYTES,
    CONFIG_BYTES_CONVENTIONAL,
    DEVICE_CAP,
    DEVICE_CONTROL,
    DEVICE_SERIAL_NUMBER,
    EXPRESS_CAP,
    EXPRESS_CAPABILITY,
    HEADER_TYPE0,
    LINK_CAP,
    LINK_STATUS,
    MSIX_CAPABILITY,
    MSIX_CONTROL,
    MSIX_PLACE,
    PM_CAP,
    PM_CAPABILITY,
    PM_CONTROL,
    STATUS,
    CapId,
    ExtCapId,
    Header,
    bar_mask,
)

__all__ = ["ConfigSpace", "Effect", "FunctionShape"]

PM_AT, MSIX_AT, EXPRESS_AT, SERIAL_AT = 0x40, 0x50, 0x60, CONFIG_BYTES_CONVENTIONAL

_PMCS_AT = PM_AT + PM_CAPABILITY.offset_of("pmcs")
_MXC_AT = MSIX_AT + MSIX_CAPABILITY.offset_of("mxc")
_PXDC_AT = EXPRESS_AT + EXPRESS_CAPABILITY.offset_of("pxdc")
_PXLC_AT = EXPRESS_AT + EXPRESS_CAPABILITY.offset_of("pxlc")

# An 8 GT/s link of four lanes, as most SSDs have; nothing is timed by it.
_LINK_SPEED, _LINK_WIDTH = 3, 4
_MAX_PAYLOAD_256 = 1
_READ_REQUEST_512 = 2
_LINK_CONTROL_WRITABLE = 0x01FB  # all defined bits but the read-only read completion boundary


class Effect(IntFlag):
    """What a write to configuration space asks of the rest of the function."""

    NONE = 0
    BUS_MASTER = 1 << 0
    MSIX = 1 << 1
    FUNCTION_RESET = 1 << 2


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionShape:
    """What configuration space tells of the function. Sizes are bytes and powers of two; 0 is no BAR2."""

    vid: int
    device_id: int
    ssvid: int
    serial: str
    vectors: int
    bar0_bytes: int
    bar4_bytes: int
    pba_offset: int
    intx: bool = False
    bar2_bytes: int = 0


class ConfigSpace:
    """4096 bytes, with the rules for writing them."""

    def __init__(self, shape: FunctionShape) -> None:
        self.shape = shape
        self.bus_master = False
        """Whether the function may read and write memory, and send interrupt messages."""
        self._data = bytearray(CONFIG_BYTES)
        self._writable = _writable_bits(shape)
        self.reset()

    def reset(self) -> None:
        """Every field to its initial value."""
        self._data[:] = _initial(self.shape)
        self.bus_master = False

    def _u16(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + 2], "little")

    @property
    def msix_enabled(self) -> bool:
        """MSI-X Enable."""
        return bool(self._u16(_MXC_AT) & MSIX_CONTROL.mask("mxe"))

    @property
    def interrupt_disabled(self) -> bool:
        """Interrupt Disable in Command: the pin is not asserted."""
        return bool(self._u16(Header.CMD) & COMMAND.mask("id"))

    @property
    def interrupt_status(self) -> bool:
        """Interrupt Status in Status: what the pin would say."""
        return bool(self._u16(Header.STS) & STATUS.mask("is_"))

    @interrupt_status.setter
    def interrupt_status(self, asserted: bool) -> None:
        status = STATUS.mask("is_")
        struct.pack_into("<H", self._data, Header.STS, self._u16(Header.STS) & ~status | (status if asserted else 0))

    @property
    def function_masked(self) -> bool:
        """MSI-X Function Mask: all vectors are masked."""
        return bool(self._u16(_MXC_AT) & MSIX_CONTROL.mask("fm"))

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`; the caller has checked the range."""
        return bytes(self._data[offset : offset + count])

    def write(self, offset: int, data: bytes) -> Effect:
        """Store what may be stored of `data` at `offset`; the caller has checked the range."""
        bus_master, control = self.bus_master, self._u16(_MXC_AT)
        for at, new in enumerate(data, offset):
            mask = self._writable[at]
            self._data[at] = self._data[at] & ~mask | new & mask
        effect = Effect.NONE
        self.bus_master = bool(self._u16(Header.CMD) & COMMAND.mask("bme"))
        if bus_master != self.bus_master:
            effect |= Effect.BUS_MASTER
        if control != self._u16(_MXC_AT):
            effect |= Effect.MSIX
        flr = DEVICE_CONTROL.mask("iflr") >> 8
        if offset <= _PXDC_AT + 1 < offset + len(data) and data[_PXDC_AT + 1 - offset] & flr:
            # The bit reads 0 always. What the reset leaves is the function's initial state.
            effect |= Effect.FUNCTION_RESET
        return effect


def _initial(shape: FunctionShape) -> bytes:
    config = bytearray(CONFIG_BYTES)
    parts = {
        0: HEADER_TYPE0.build(
            vid=shape.vid,
            did=shape.device_id,
            sts=STATUS.pack(cl=1),
            cc=CLASS_NVME,
            bar=[BAR_64BIT, 0, BAR_64BIT | BAR_PREFETCHABLE if shape.bar2_bytes else 0, 0, BAR_64BIT, 0],
            ssvid=shape.ssvid,
            ssid=shape.device_id,
            cap=PM_AT,
            ipin=int(shape.intx),  # INTA#
        ),
        PM_AT: PM_CAPABILITY.build(
            id=CapId.POWER_MANAGEMENT, next=MSIX_AT, pc=PM_CAP.pack(vs=3), pmcs=PM_CONTROL.pack(nsfrst=1)
        ),
        MSIX_AT: MSIX_CAPABILITY.build(
            id=CapId.MSIX,
            next=EXPRESS_AT,
            mxc=MSIX_CONTROL.pack(ts_z=shape.vectors - 1),
            mtab=MSIX_PLACE.pack(bir=4, offset=0),
            mpba=MSIX_PLACE.pack(bir=4, offset=shape.pba_offset >> 3),
        ),
        EXPRESS_AT: EXPRESS_CAPABILITY.build(
            id=CapId.EXPRESS,
            pxcap=EXPRESS_CAP.pack(ver=2),
            pxdcap=DEVICE_CAP.pack(mps=_MAX_PAYLOAD_256, etfs=1, rer=1, flrc=1),
            pxdc=DEVICE_CONTROL.pack(mrrs=_READ_REQUEST_512, ero=1, ens=1),
            pxlcap=LINK_CAP.pack(sls=_LINK_SPEED, mlw=_LINK_WIDTH, aoc=1),
            pxls=LINK_STATUS.pack(cls=_LINK_SPEED, nlw=_LINK_WIDTH),
            pxlcap2=0b1110,
            pxlc2=_LINK_SPEED,
        ),
        SERIAL_AT: DEVICE_SERIAL_NUMBER.build(
            header=ExtCapId.DEVICE_SERIAL_NUMBER | 1 << 16,
            dsn=zlib.crc32(shape.serial.encode()) << 32 | shape.vid << 16 | shape.device_id,
        ),
    }
    for at, data in parts.items():
        config[at : at + len(data)] = data
    return bytes(config)


def _writable_bits(shape: FunctionShape) -> bytes:
    mask = bytearray(CONFIG_BYTES)
    command = COMMAND.mask("mse", "bme", "pee", "see", "id")
    struct.pack_into("<H", mask, Header.CMD, command)
    mask[Header.CLS] = 0xFF
    mask[Header.ILINE] = 0xFF
    struct.pack_into("<Q", mask, Header.BAR0, bar_mask(shape.bar0_bytes))
    if shape.bar2_bytes:
        struct.pack_into("<Q", mask, Header.BAR0 + 8, bar_mask(shape.bar2_bytes))
    struct.pack_into("<Q", mask, Header.BAR0 + 16, bar_mask(shape.bar4_bytes))
    struct.pack_into("<H", mask, _PMCS_AT, PM_CONTROL.mask("ps"))
    struct.pack_into("<H", mask, _MXC_AT, MSIX_CONTROL.mask("fm", "mxe"))
    fixed = DEVICE_CONTROL.mask("iflr", "pfe", "appme")
    struct.pack_into("<H", mask, _PXDC_AT, 0xFFFF & ~fixed)
    struct.pack_into("<H", mask, _PXLC_AT, _LINK_CONTROL_WRITABLE)
    return bytes(mask)
