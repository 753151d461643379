"""Registers, doorbells and the MSI-X table, against the numbers of Base 2.1 clause 3.1.4."""

from __future__ import annotations

import pytest

from nvme_emu.spec import registers as r
from nvme_emu.spec.bits import BitLayout, bit
from nvme_emu.spec.errors import LayoutError


@pytest.mark.parametrize(
    ("name", "offset", "size"),
    [
        ("CAP", 0x00, 8),
        ("VS", 0x08, 4),
        ("INTMS", 0x0C, 4),
        ("INTMC", 0x10, 4),
        ("CC", 0x14, 4),
        ("CSTS", 0x1C, 4),
        ("NSSR", 0x20, 4),
        ("AQA", 0x24, 4),
        ("ASQ", 0x28, 8),
        ("ACQ", 0x30, 8),
        ("CMBLOC", 0x38, 4),
        ("CMBSZ", 0x3C, 4),
        ("BPINFO", 0x40, 4),
        ("BPRSEL", 0x44, 4),
        ("BPMBL", 0x48, 8),
        ("CMBMSC", 0x50, 8),
        ("CMBSTS", 0x58, 4),
        ("CMBEBS", 0x5C, 4),
        ("CMBSWTP", 0x60, 4),
        ("NSSD", 0x64, 4),
        ("CRTO", 0x68, 4),
        ("PMRCAP", 0xE00, 4),
        ("PMRMSCU", 0xE18, 4),
        ("DOORBELLS", 0x1000, 4),
    ],
)
def test_register_offset_and_size_are_the_specification_s(name: str, offset: int, size: int) -> None:
    assert int(r.Reg[name]) == offset
    assert r.Reg[name].size == size


@pytest.mark.parametrize(
    ("layout", "field", "lsb", "width"),
    [
        (r.CAP, "mqes_z", 0, 16),
        (r.CAP, "cqr", 16, 1),
        (r.CAP, "ams", 17, 2),
        (r.CAP, "to", 24, 8),
        (r.CAP, "dstrd", 32, 4),
        (r.CAP, "nssrs", 36, 1),
        (r.CAP, "css", 37, 8),
        (r.CAP, "bps", 45, 1),
        (r.CAP, "cps", 46, 2),
        (r.CAP, "mpsmin", 48, 4),
        (r.CAP, "mpsmax", 52, 4),
        (r.CAP, "pmrs", 56, 1),
        (r.CAP, "cmbs", 57, 1),
        (r.CAP, "nsss", 58, 1),
        (r.CAP, "crwms", 59, 1),
        (r.CAP, "crims", 60, 1),
        (r.VS, "ter", 0, 8),
        (r.VS, "mnr", 8, 8),
        (r.VS, "mjr", 16, 16),
        (r.CC, "en", 0, 1),
        (r.CC, "css", 4, 3),
        (r.CC, "mps", 7, 4),
        (r.CC, "ams", 11, 3),
        (r.CC, "shn", 14, 2),
        (r.CC, "iosqes", 16, 4),
        (r.CC, "iocqes", 20, 4),
        (r.CC, "crime", 24, 1),
        (r.CSTS, "rdy", 0, 1),
        (r.CSTS, "cfs", 1, 1),
        (r.CSTS, "shst", 2, 2),
        (r.CSTS, "nssro", 4, 1),
        (r.CSTS, "pp", 5, 1),
        (r.CSTS, "st", 6, 1),
        (r.AQA, "asqs_z", 0, 12),
        (r.AQA, "acqs_z", 16, 12),
        (r.CRTO, "crwmt", 0, 16),
        (r.CRTO, "crimt", 16, 16),
        (r.CMBLOC, "ofst", 12, 20),
        (r.CMBSZ, "szu", 8, 4),
        (r.CMBMSC, "cba", 12, 52),
        (r.BPINFO, "brs", 24, 2),
        (r.BPRSEL, "bprof", 10, 20),
        (r.PMRCAP, "pmrto", 16, 8),
        (r.PMRSTS, "hsts", 9, 3),
    ],
)
def test_register_field_is_at_the_specification_s_bits(
    layout: BitLayout, field: str, lsb: int, width: int
) -> None:
    assert (layout[field].lsb, layout[field].width) == (lsb, width)


def test_cc_of_a_linux_enable_unpacks_to_its_fields() -> None:
    # What Linux writes: 64-byte SQEs, 16-byte CQEs, 4 KiB pages, round robin, enable.
    cc = r.CC.unpack(0x0046_0001)
    assert (cc.en, cc.css, cc.mps, cc.ams, cc.shn, cc.iosqes, cc.iocqes) == (1, 0, 0, 0, 0, 6, 4)
    assert r.CC.pack(en=1, iosqes=6, iocqes=4) == 0x0046_0001


def test_version_constants_are_the_registers_values() -> None:
    assert (r.VS_1_4, r.VS_2_0, r.VS_2_1) == (0x10400, 0x20000, 0x20100)


def test_masks_are_the_bits_in_place() -> None:
    assert (r.CC_EN, r.CC_SHN) == (0x1, 0xC000)
    assert (r.CSTS_RDY, r.CSTS_CFS, r.CSTS_SHST, r.CSTS_NSSRO, r.CSTS_PP) == (0x1, 0x2, 0xC, 0x10, 0x20)
    assert r.NSSR_MAGIC.to_bytes(4, "big") == b"NVMe"


@pytest.mark.parametrize(
    ("qid", "is_cq", "dstrd", "offset"),
    [
        (0, False, 0, 0x1000),
        (0, True, 0, 0x1004),
        (1, False, 0, 0x1008),
        (1, True, 0, 0x100C),
        (3, True, 2, 0x1070),
    ],
)
def test_doorbell_offset_and_its_inverse(qid: int, is_cq: bool, dstrd: int, offset: int) -> None:
    assert r.doorbell_offset(qid, is_cq, dstrd) == offset
    assert r.doorbell_at(offset, dstrd) == (qid, is_cq)


def test_doorbell_at_a_place_between_two_doorbells_is_none() -> None:
    assert r.doorbell_at(0x1002) is None
    assert r.doorbell_at(0x1004, dstrd=1) is None
    assert r.doorbell_at(0xFFC) is None


def test_register_at_finds_the_upper_half_of_a_wide_register() -> None:
    assert r.register_at(0x2C) == (r.Reg.ASQ, 4)
    assert r.register_at(0x14) == (r.Reg.CC, 0)
    assert r.register_at(0x18) is None
    assert r.register_at(0x1000) is None


def test_cc_page_size_counts_from_4_kib() -> None:
    assert r.cc_page_size(r.CC.pack(mps=0)) == 4096
    assert r.cc_page_size(r.CC.pack(mps=4)) == 65536


def test_msix_entry_is_16_bytes_with_the_mask_in_the_last_dword() -> None:
    packed = r.MSIX_ENTRY.pack(0xFEE0_0000, 0x41, r.MSIX_ENTRY_MASKED)
    assert len(packed) == 16
    assert packed[12:] == b"\x01\0\0\0"


def test_pack_refuses_a_value_that_does_not_fit_and_says_where() -> None:
    with pytest.raises(LayoutError, match=r"CC\.mps: 0x10 does not fit in 4 bits \(Base 2\.1"):
        r.CC.pack(mps=16)
    with pytest.raises(LayoutError, match=r"AQA\.asqs_z"):
        r.AQA.pack(asqs_z=-1)


def test_pack_refuses_a_field_that_does_not_exist() -> None:
    with pytest.raises(LayoutError, match="CC has no field 'enable'"):
        r.CC.pack(enable=1)


def test_unpack_refuses_a_value_wider_than_the_register() -> None:
    with pytest.raises(LayoutError, match="not a 32-bit value"):
        r.CC.unpack(1 << 32)
    with pytest.raises(LayoutError, match="not a 32-bit value"):
        r.CC.unpack(-1)


def test_replace_changes_only_the_named_field() -> None:
    assert r.CSTS.replace(0x1F, shst=2) == 0x1B


def test_reserved_mask_is_what_no_field_holds() -> None:
    assert r.CC.reserved_mask == 0xFE00_000E


def test_a_layout_that_does_not_fill_its_integer_is_refused_as_it_is_declared() -> None:
    with pytest.raises(AssertionError, match="fields take 7 bits of 8"):
        BitLayout("SHORT", 8, "none", bit("a", 7))


def test_a_reserved_field_called_after_the_wrong_bit_is_refused_as_it_is_declared() -> None:
    with pytest.raises(AssertionError, match="rsvd2 starts at bit 3"):
        BitLayout("WRONG", 8, "none", bit("a", 3), bit("rsvd2", 5))


def test_a_field_declared_twice_is_refused() -> None:
    with pytest.raises(AssertionError, match="declared twice"):
        BitLayout("TWICE", 8, "none", bit("a", 4), bit("a", 4))
