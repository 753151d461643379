"""Controller Memory Buffer and Persistent Memory Region (NVMe Base 2.1, 8.2.1 and 8.2.4): properties, queues, data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvmehost import QUICK, SIZE, TRANSPORTS, connected

import nvme_emu
from nvme_emu.controller import ControllerConfig
from nvme_emu.core.errors import NvmeError
from nvme_emu.machine import Machine
from nvme_emu.media import MediaError, PmrFile, pmr_path
from nvme_emu.spec.commands import CREATE_CQ_CDW11, CREATE_QUEUE_CDW10, CREATE_SQ_CDW11, SANITIZE_CDW10
from nvme_emu.spec.logs import CRITICAL_WARNING, Lid
from nvme_emu.spec.memory_buffers import CMBEBS, CMBSWTP, PMREBS, PMRSWTP, PMRWBM_PMRSTS, in_units, of_units
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import CQE, SQE, Sqe
from nvme_emu.spec.registers import CAP, CMBLOC, CMBMSC, CMBSTS, CMBSZ, NSSR_MAGIC, PMRCAP, PMRSTS, Reg
from nvme_emu.spec.sgl import SGL_LAST_SEGMENT, sgl_descriptor
from nvme_emu.spec.status import STATUS_CODE_MASK, Status
from nvme_emu.testing.rawqueue import RawQueuePair

PCI = tuple(name for name in TRANSPORTS if name.startswith("inproc"))
CMB, PMR = 2 << 20, 1 << 16
CBA = 0xF0_0000_0000_0000
READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE
CRE, CMSE = CMBMSC.mask("cre"), CMBMSC.mask("cmse")


@contextmanager
def machine_with(transport: str, config: ControllerConfig, **options: Any) -> Iterator[Machine]:
    if transport in ("inproc-virtual", "inproc-tlc"):
        options["clock"] = "virtual"
    if transport == "inproc-tlc":
        options["profile"] = "tlc"
    options = {"size": SIZE, "controller": config, "queues": 2} | options
    with nvme_emu.open(**options) as machine:
        if transport == "inproc-pure":
            machine.controller.compiled = False
        if machine.config.queues == 2:
            RawQueuePair.beside(machine).close()  # queue 2 is granted, and nobody's
        yield machine


@pytest.fixture(params=PCI)
def ssd(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A device with a CMB in BAR4 and a PMR in BAR2, whose driver leaves both alone."""
    config = replace(QUICK, cmb_bytes=CMB, pmr_bytes=PMR)
    with machine_with(request.param, config, use_cmb_sqes=False) as machine:
        machine.port.write32(Reg.CMBMSC, 0)
        yield machine


def enable_cmb(ssd: Machine, base: int = CBA) -> memoryview:
    """Turn the CMB on at a bus address; its bytes as the host sees them."""
    ssd.port.write64(Reg.CMBMSC, base | CRE | CMSE)
    where = CMBLOC.unpack(ssd.port.read32(Reg.CMBLOC))
    found = ssd.port.map_bar(where.bir, where.ofst * 4096, CMB)
    assert found is not None
    return found[1]


def enable_pmr(ssd: Machine, base: int = CBA) -> memoryview:
    """The same of the PMR."""
    ssd.port.write32(Reg.PMRCTL, 1)
    ssd.port.write32(Reg.PMRMSCU, base >> 32)
    ssd.port.write32(Reg.PMRMSCL, base & 0xFFFF_F000 | 2)
    found = ssd.port.map_bar(PMRCAP["bir"].extract(ssd.port.read32(Reg.PMRCAP)), 0, PMR)
    assert found is not None
    return found[1]


def transfer(ssd: Machine, opcode: int, prp1: int, *, nlb: int = 8, prp2: int = 0, slba: int = 0, psdt: int = 0) -> int:
    """The status of a command on a queue of the test's own, made for it."""
    with queue(ssd) as pair:
        cid = pair.submit(opcode, nsid=1, flags=psdt, prp1=prp1, prp2=prp2, cdw10=slba, cdw12=nlb - 1)
        pair.ring()
        return pair.wait(cid).status_p >> 1 & STATUS_CODE_MASK


@contextmanager
def queue(ssd: Machine) -> Iterator[Any]:
    execute = ssd.driver.admin.execute
    pair = RawQueuePair(ssd, 2, 16)
    execute(AdminOpcode.CREATE_IO_CQ, cdw10=create(2), cdw11=CREATE_CQ_CDW11.pack(pc=1), prp1=pair.cq_addr)
    execute(AdminOpcode.CREATE_IO_SQ, cdw10=create(2), cdw11=CREATE_SQ_CDW11.pack(pc=1, cqid=2), prp1=pair.sq_addr)
    yield pair
    pair.close()


def create(qid: int, entries: int = 16) -> int:
    return int(CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=entries - 1))


def status_of(call: Any, *args: Any, **options: Any) -> int:
    """The status with which an admin command ends."""
    try:
        call(*args, **options)
    except NvmeError as error:
        assert error.status is not None
        return error.status & STATUS_CODE_MASK
    return 0


def pattern(nbytes: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8).tobytes()


# --- Controller Memory Buffer -------------------------------------------------------------------------------


def test_cap_says_what_there_is() -> None:
    for cmb, pmr in ((0, 0), (CMB, 0), (0, PMR), (CMB, PMR)):
        with machine_with("inproc", replace(QUICK, cmb_bytes=cmb, pmr_bytes=pmr)) as ssd:
            cap = CAP.unpack(ssd.port.read64(Reg.CAP))
            assert (cap.cmbs, cap.pmrs) == (int(cmb > 0), int(pmr > 0))
            if not cmb:
                ssd.port.write64(Reg.CMBMSC, CBA | CRE | CMSE)
                assert ssd.port.read64(Reg.CMBMSC) == ssd.port.read32(Reg.CMBSZ) == 0
            if not pmr:
                ssd.port.write32(Reg.PMRCTL, 1)
                assert ssd.port.read32(Reg.PMRCTL) == ssd.port.read32(Reg.PMRCAP) == ssd.port.read32(Reg.PMRSTS) == 0


def test_tcp_has_neither() -> None:
    with connected("tcp", replace(QUICK, cmb_bytes=CMB, pmr_bytes=PMR)) as host:
        cap = CAP.unpack(host.machine.driver.port.read64(Reg.CAP))

    assert (cap.cmbs, cap.pmrs) == (0, 0)


@pytest.mark.parametrize("bar", [2, 4])
def test_over_vfio_user_the_driver_maps_the_cmb_and_puts_its_queues_there(bar: int) -> None:
    with connected("vfio-user", replace(QUICK, cmb_bytes=CMB, cmb_bar=bar)) as host:
        driver = host.machine.driver
        assert driver.cmb is not None and driver.cmb.owns(driver.paths[0].pair.sq_addr)
        data = pattern(8192)
        assert host.io(WRITE, cdw12=15, data=data).status == 0
        driver.reset()
        assert host.io(READ, cdw12=15, nbytes=8192).data == data


def test_cmb_registers_appear_with_cre_and_name_all_uses(ssd: Machine) -> None:
    port = ssd.port
    assert port.read32(Reg.CMBLOC) == port.read32(Reg.CMBSZ) == 0
    port.write32(Reg.CMBMSC, CRE)

    size, location = CMBSZ.unpack(port.read32(Reg.CMBSZ)), CMBLOC.unpack(port.read32(Reg.CMBLOC))
    assert (size.sqs, size.cqs, size.lists, size.rds, size.wds) == (1, 1, 1, 1, 1)
    assert size.sz * 4096 << 4 * size.szu == CMB
    assert location.bir == 4 and location.ofst * 4096 % CMB == 0 and location.ofst
    assert (location.cqmms, location.cqpds, location.cdpmls, location.cdpcils, location.cdmmms) == (0, 0, 1, 1, 1)
    port.write32(Reg.CMBLOC, 0)
    port.write32(Reg.CMBSZ, 0)
    assert port.read32(Reg.CMBSZ) and port.read32(Reg.CMBLOC)  # read-only


def test_cmb_addresses_count_while_cmse_is_on(ssd: Machine) -> None:
    memory = enable_cmb(ssd)
    memory[4096:8192] = data = pattern(4096)
    assert transfer(ssd, WRITE, CBA + 4096) == 0
    assert bytes(ssd.namespaces[1].read(0, 8)) == data
    assert transfer(ssd, READ, CBA + 8192) == 0
    assert bytes(memory[8192:12288]) == data

    for off in (0, CRE, CMSE):
        ssd.port.write32(Reg.CMBMSC, CBA & 0xFFFF_F000 | off)
        assert transfer(ssd, READ, CBA + 8192) == Status.DATA_XFER_ERROR
    ssd.port.write64(Reg.CMBMSC, CBA + (1 << 32) | CRE | CMSE)
    assert transfer(ssd, READ, CBA + 8192) == Status.DATA_XFER_ERROR
    assert transfer(ssd, READ, CBA + (1 << 32)) == 0
    assert bytes(memory[:4096]) == data
    assert transfer(ssd, READ, CBA + (1 << 32) + CMB - 2048) == Status.DATA_XFER_ERROR


def test_cmb_holds_prp_lists_and_sgl_segments(ssd: Machine) -> None:
    memory = enable_cmb(ssd)
    data = pattern(5 * 4096)
    memory[: len(data)] = data
    memory[0x10000:0x10020] = np.array([CBA + 4096 * n for n in (1, 2, 3, 4)], np.uint64).tobytes()
    assert transfer(ssd, WRITE, CBA, prp2=CBA + 0x10000, nlb=40) == 0
    assert bytes(ssd.namespaces[1].read(0, 40)) == data

    memory[0x11000:0x11020] = sgl_descriptor(CBA + 0x20000, 4096) + sgl_descriptor(CBA + 0x30000, 4 * 4096)
    segment = np.frombuffer(sgl_descriptor(CBA + 0x11000, 32, SGL_LAST_SEGMENT), np.uint64)
    assert transfer(ssd, READ, int(segment[0]), prp2=int(segment[1]), nlb=40, psdt=0x40) == 0
    assert bytes(memory[0x20000:0x21000]) + bytes(memory[0x30000:0x34000]) == data


def test_a_base_that_cannot_be_is_reported_and_not_taken(ssd: Machine) -> None:
    port = ssd.port
    taken = ssd.driver.paths[0].pair.cq_addr & ~0xFFF
    for base in ((1 << 64) - 4096, taken, taken - CMB + 4096):
        port.write64(Reg.CMBMSC, base | CRE | CMSE)
        assert CMBSTS.unpack(port.read32(Reg.CMBSTS)).cbai == 1
    assert bytes(ssd.namespaces[1].read(0, 8)) == bytes(4096)  # the queue is where it was
    port.write64(Reg.CMBMSC, CBA | CRE | CMSE)
    assert CMBSTS.unpack(port.read32(Reg.CMBSTS)).cbai == 0


@pytest.mark.parametrize("transport", PCI)
def test_both_queues_work_in_the_cmb(transport: str) -> None:
    with machine_with(transport, replace(QUICK, cmb_bytes=CMB), use_cmb_sqes=False) as ssd:
        memory = enable_cmb(ssd)
        execute = ssd.driver.admin.execute
        sq, cq = CBA + 0x4000, CBA + 0x8000
        execute(AdminOpcode.CREATE_IO_CQ, cdw10=create(2), cdw11=CREATE_CQ_CDW11.pack(pc=1), prp1=cq)
        execute(AdminOpcode.CREATE_IO_SQ, cdw10=create(2), cdw11=CREATE_SQ_CDW11.pack(pc=1, cqid=2), prp1=sq)
        fields = dict.fromkeys(Sqe._fields, 0)
        fields |= {"opcode": WRITE, "cid": 7, "nsid": 1, "prp1": CBA, "cdw12": 7}
        memory[:4096] = data = pattern(4096)
        SQE.pack_into(memory, 0x4000, *fields.values())
        ssd.port.ring_sq(2, 1)
        while not memory[0x800E] & 1:
            ssd.port.poll()
            ssd.runtime.sleep_ns(10_000)
        *_, cid, status = CQE.unpack_from(memory, 0x8000)
        assert (cid, status >> 1) == (7, 0)
        assert bytes(ssd.namespaces[1].read(0, 8)) == data
        ssd.driver.admin.delete_queues(2)


def test_queues_that_the_cmb_does_not_take_are_refused() -> None:
    config = replace(QUICK, cmb_bytes=CMB, cmb_sqs=False, cmb_cqs=False, pmr_bytes=PMR)
    with machine_with("inproc", config) as ssd:
        assert ssd.driver.cmb is not None and ssd.driver.cmb.used_pages == 0  # the driver saw that SQS is 0
        enable_cmb(ssd)
        enable_pmr(ssd, CBA + (1 << 32))
        size = CMBSZ.unpack(ssd.port.read32(Reg.CMBSZ))
        assert (size.sqs, size.cqs, size.lists) == (0, 0, 1)
        execute = ssd.driver.admin.execute
        for base, status in ((CBA, Status.CMB_INVALID_USE), (CBA + (1 << 32), Status.INVALID_FIELD)):
            cq = {"cdw10": create(2), "cdw11": CREATE_CQ_CDW11.pack(pc=1), "prp1": base}
            assert status_of(execute, AdminOpcode.CREATE_IO_CQ, **cq) == status
            sq = {"cdw10": create(2), "cdw11": CREATE_SQ_CDW11.pack(pc=1, cqid=1), "prp1": base}
            assert status_of(execute, AdminOpcode.CREATE_IO_SQ, **sq) == status


@pytest.mark.parametrize("transport", PCI)
@pytest.mark.parametrize("bar", [0, 2, 4])
def test_the_driver_puts_its_submission_queues_there_and_they_survive_resets(transport: str, bar: int) -> None:
    with machine_with(transport, replace(QUICK, cmb_bytes=CMB, cmb_bar=bar), queues=3, depth=256) as ssd:
        driver = ssd.driver
        assert driver.cmb is not None and CMBLOC["bir"].extract(driver.cmb.cmbloc) == bar
        assert all(driver.cmb.owns(path.pair.sq_addr) for path in driver.paths)
        assert not any(driver.cmb.owns(path.pair.cq_addr) for path in driver.paths)
        data = pattern(8192)
        ssd.namespaces[1].write(0, data)
        control = ssd.port.read64(Reg.CMBMSC)
        driver.reset()
        assert ssd.port.read64(Reg.CMBMSC) == control  # a Controller Reset leaves it (3.7.2)
        assert bytes(ssd.namespaces[1].read(0, 16)) == data


def test_a_small_cmb_makes_shorter_queues_and_a_tiny_one_none() -> None:
    with machine_with("inproc", replace(QUICK, cmb_bytes=32768), queues=4, depth=1024) as ssd:
        assert {path.pair.depth for path in ssd.driver.paths} == {128}
        assert ssd.driver.cmb is not None and ssd.driver.cmb.used_pages == 8
    with machine_with("inproc", replace(QUICK, cmb_bytes=4096), queues=4, depth=1024) as ssd:
        assert {path.pair.depth for path in ssd.driver.paths} == {1024}
        assert ssd.driver.cmb is not None and ssd.driver.cmb.used_pages == 0


def test_a_subsystem_reset_takes_the_cmb_away(ssd: Machine) -> None:
    enable_cmb(ssd)
    ssd.controller.mmio_write(Reg.NSSR, 4, NSSR_MAGIC)

    assert ssd.controller.mmio_read(Reg.CMBMSC, 8) == 0
    assert all(region.base != CBA for region in ssd.memory.regions)
    ssd.driver.reset()


# --- Persistent Memory Region -------------------------------------------------------------------------------


def test_pmr_registers_say_what_it_can(ssd: Machine) -> None:
    can = PMRCAP.unpack(ssd.port.read32(Reg.PMRCAP))
    assert (can.rds, can.wds, can.bir, can.cmss, can.pmrwbm) == (1, 1, 2, 1, PMRWBM_PMRSTS)

    assert PMRSTS.unpack(ssd.port.read32(Reg.PMRSTS)).nrdy == 1
    ssd.port.write32(Reg.PMRCTL, 1)
    assert PMRSTS.unpack(ssd.port.read32(Reg.PMRSTS))._asdict() == {
        "err": 0, "nrdy": 0, "hsts": 0, "cbai": 0, "rsvd13": 0
    }  # fmt: skip


def test_elasticity_and_throughput_are_told_in_units() -> None:
    config = replace(
        QUICK, cmb_bytes=CMB, pmr_bytes=PMR, cmb_elasticity_bytes=4096, cmb_throughput=3 << 30,
        pmr_elasticity_bytes=64 << 20, pmr_throughput=999,
    )  # fmt: skip
    with machine_with("inproc", config) as ssd:
        read = ssd.port.read32
        cmb, rate = CMBEBS.unpack(read(Reg.CMBEBS)), CMBSWTP.unpack(read(Reg.CMBSWTP))
        assert of_units(cmb.cmbszu, cmb.cmbwbz) == 4096
        assert of_units(rate.cmbswtu, rate.cmbswtv) == 3 << 30
        pmr, rate = PMREBS.unpack(read(Reg.PMREBS)), PMRSWTP.unpack(read(Reg.PMRSWTP))
        assert of_units(pmr.pmrszu, pmr.pmrwbz) == 64 << 20
        assert of_units(rate.pmrswtu, rate.pmrswtv) == 999
    assert in_units(1 << 54) == (3, (1 << 24) - 1)


def test_pmr_addresses_count_while_it_is_enabled(ssd: Machine) -> None:
    memory = enable_pmr(ssd)
    memory[:4096] = data = pattern(4096)
    assert transfer(ssd, WRITE, CBA) == 0
    assert transfer(ssd, READ, CBA + 8192) == 0
    assert bytes(memory[8192:12288]) == data

    ssd.port.write32(Reg.PMRCTL, 0)
    assert transfer(ssd, READ, CBA) == Status.DATA_XFER_ERROR
    ssd.port.write32(Reg.PMRCTL, 1)
    assert transfer(ssd, READ, CBA) == 0
    ssd.port.write32(Reg.PMRMSCL, CBA & 0xFFFF_F000)
    assert transfer(ssd, READ, CBA) == Status.DATA_XFER_ERROR
    ssd.port.write32(Reg.PMRMSCU, 0xFFFF_FFFF)
    ssd.port.write32(Reg.PMRMSCL, 0xFFFF_F000 | 2)
    assert PMRSTS.unpack(ssd.port.read32(Reg.PMRSTS)).cbai == 1


def test_pmr_contents_and_control_outlive_a_controller_reset_and_contents_a_subsystem_reset(ssd: Machine) -> None:
    memory = enable_pmr(ssd)
    memory[:8] = b"persists"
    ssd.driver.reset()
    assert ssd.port.read32(Reg.PMRCTL) == 1 and ssd.port.read32(Reg.PMRMSCU) == CBA >> 32
    ssd.memory.find(CBA, PMR, True)

    ssd.controller.mmio_write(Reg.NSSR, 4, NSSR_MAGIC)
    assert ssd.controller.mmio_read(Reg.PMRCTL, 4) == ssd.controller.mmio_read(Reg.PMRMSCL, 4) == 0
    assert bytes(memory[:8]) == b"persists"
    ssd.driver.reset()


def test_pmr_is_kept_beside_the_image(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    config = replace(QUICK, pmr_bytes=PMR)
    with machine_with("inproc", config, image=image) as ssd:
        memory = enable_pmr(ssd)
        memory[100:107] = b"written"
        assert transfer(ssd, READ, CBA + 8192, nlb=1) == 0
        ssd.port.read32(Reg.PMRSTS)  # the barrier
        assert Path(pmr_path(image)).read_bytes()[100:107] == b"written"
    assert Path(pmr_path(image)).stat().st_size == PMR
    with machine_with("inproc", config, image=image, size=None) as ssd:
        assert bytes(enable_pmr(ssd)[100:107]) == b"written"
        with pytest.raises(MediaError, match="locked"):
            PmrFile(pmr_path(image), PMR)
    with pytest.raises(MediaError, match="65536 bytes, a region of 131072"):
        nvme_emu.open(image=image, controller=replace(QUICK, pmr_bytes=2 * PMR))


class BrokenStore:
    """A store whose medium fails."""

    writable = True

    def __init__(self) -> None:
        self.view = memoryview(bytearray(PMR))

    def flush(self) -> None:
        raise OSError(5, "the medium is gone")


def test_a_store_that_fails_shows_in_the_health_and_in_smart(ssd: Machine) -> None:
    pmr = ssd.controller.buffers.pmr
    assert pmr is not None
    pmr.keep_in(BrokenStore())
    assert PMRSTS.unpack(ssd.port.read32(Reg.PMRSTS)).hsts == 0
    ssd.port.write32(Reg.PMRCTL, 1)

    assert PMRSTS.unpack(ssd.port.read32(Reg.PMRSTS)).hsts == 3
    warning = ssd.driver.admin.get_log_page(Lid.SMART_HEALTH, 512)[0]
    assert CRITICAL_WARNING.unpack(int(warning)).pmrro == 1


def test_a_region_that_cannot_be_written_is_read_only(tmp_path: Path) -> None:
    store = PmrFile(tmp_path / "pmr", PMR)
    store.writable, store.view = False, store.view.toreadonly()
    with machine_with("inproc", replace(QUICK, pmr_bytes=PMR)) as ssd:
        pmr = ssd.controller.buffers.pmr
        assert pmr is not None
        pmr.keep_in(store)
        enable_pmr(ssd)
        assert PMRSTS.unpack(ssd.port.read32(Reg.PMRSTS)).hsts == 2
        assert transfer(ssd, READ, CBA) == Status.DATA_XFER_ERROR
        assert transfer(ssd, WRITE, CBA) == 0
        ssd.port.write32(Reg.PMRCTL, 0)
    store.close()


def test_sanitize_waits_for_a_disabled_pmr_and_erases_it(ssd: Machine) -> None:
    memory = enable_pmr(ssd)
    memory[:4] = b"data"
    block_erase = SANITIZE_CDW10.pack(sanact=2)
    execute = ssd.driver.admin.execute
    assert status_of(execute, AdminOpcode.SANITIZE, cdw10=block_erase) == Status.PMR_SAN_PROHIBITED
    ssd.port.write32(Reg.PMRCTL, 0)
    assert status_of(execute, AdminOpcode.SANITIZE, cdw10=block_erase) == 0
    assert bytes(memory[:4]) == bytes(4)


# --- BAR accesses of a host that cannot map -------------------------------------------------------------------


def test_loads_and_stores_in_the_bars() -> None:
    with machine_with("inproc", replace(QUICK, cmb_bytes=CMB, pmr_bytes=PMR)) as ssd:
        buffers = ssd.controller.buffers
        assert buffers.cmb is not None
        at = buffers.cmb.offset
        assert buffers.bar_write(4, at + 5, b"abc") and buffers.bar_read(4, at + 4, 5) == b"\0abc\0"
        assert buffers.bar_read(4, at - 1, 4) is None and buffers.bar_read(4, at + CMB - 2, 4) is None
        assert buffers.bar_write(2, 0, b"lost") and buffers.bar_read(2, 0, 4) == b"\xff" * 4
        ssd.port.write32(Reg.PMRCTL, 1)
        assert buffers.bar_read(2, 0, 4) == bytes(4)
        assert buffers.bar_write(2, 0, b"kept") and buffers.bar_read(2, 0, 4) == b"kept"
        assert not buffers.bar_write(2, PMR, b"x") and not buffers.bar_write(0, 0, b"x")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"cmb_bytes": 4097}, "cmb_bytes=4097"),
        ({"cmb_bytes": 1 << 32}, "cmb_bytes"),
        ({"pmr_bytes": 3 * 4096}, "a power of two"),
        ({"cmb_bytes": 4096, "cmb_bar": 3}, "cmb_bar=3"),
        ({"cmb_bytes": 4096, "pmr_bytes": 4096, "cmb_bar": 2}, "BAR2"),
        ({"cmb_throughput": -1}, "cmb_throughput=-1"),
        ({"sgls": 3}, "sgls=3"),
    ],
)
def test_a_wrong_setting_is_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ControllerConfig(**fields)
