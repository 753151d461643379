"""How each rule about properties and the controller's life is broken, and how it is nearly broken."""

from __future__ import annotations

import numpy as np
from checkedhost import CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.spec.registers import AQA, CSTS_NSSRO, NSSR_MAGIC, Reg

DOORBELLS = int(Reg.DOORBELLS)


def bad_access(h: CheckedHost) -> None:
    h.read(Reg.VS, 2)


def good_access(h: CheckedHost) -> None:
    h.read(Reg.VS)
    h.read(Reg.CAP, 8)
    h.read(Reg.CAP + 4)


def bad_read_only(h: CheckedHost) -> None:
    h.write(Reg.VS, 1)


def good_read_only(h: CheckedHost) -> None:
    h.write(Reg.CSTS, CSTS_NSSRO)


def bad_mask(h: CheckedHost) -> None:
    h.write(Reg.INTMS, 1)


def good_mask(h: CheckedHost) -> None:
    h.ctrl.mask_vector(1, True)


def bad_nssr(h: CheckedHost) -> None:
    h.write(Reg.NSSR, 1)


def good_nssr(h: CheckedHost) -> None:
    h.ready()
    h.write(Reg.NSSR, NSSR_MAGIC)
    h.step()
    h.up()


def bad_cc_reserved(h: CheckedHost) -> None:
    h.write(Reg.CC, 1 << 31)


def good_cc_reserved(h: CheckedHost) -> None:
    h.cc(en=0)


def bad_cc_changed(h: CheckedHost) -> None:
    h.up()
    h.cc(mps=1)


def good_cc_changed(h: CheckedHost) -> None:
    h.up()
    h.cc(en=0, mps=1)
    h.see()
    h._next += -h._next % (2 * PAGE)
    h.set_admin(256, 256)  # both fill pages of 8 KiB
    h.cc(mps=1)
    h.see()


def bad_entry_size(h: CheckedHost) -> None:
    h.ready()
    h.cc(iosqes=5)


def good_entry_size(h: CheckedHost) -> None:
    h.up(iosqes=0, iocqes=0)
    h.cc()


def bad_supported(h: CheckedHost) -> None:
    h.set_admin()
    h.cc(ams=7)


def good_supported(h: CheckedHost) -> None:
    h.up(css=6)


def bad_admin_enabled(h: CheckedHost) -> None:
    h.up()
    h.write(Reg.AQA, AQA.pack(asqs_z=3, acqs_z=3))


def good_admin_enabled(h: CheckedHost) -> None:
    h.write(Reg.AQA, AQA.pack(asqs_z=3, acqs_z=3))
    h.up()


def bad_admin_reserved(h: CheckedHost) -> None:
    h.write(Reg.ASQ, 0x10_0000_0010, 8)


def good_admin_reserved(h: CheckedHost) -> None:
    h.write(Reg.ASQ, 0x10_0000_0000, 8)


def bad_admin_size(h: CheckedHost) -> None:
    h.set_admin()
    h.write(Reg.AQA, AQA.pack(asqs_z=0, acqs_z=31))
    h.cc()


def good_admin_size(h: CheckedHost) -> None:
    h.set_admin(2, 2)
    h.cc()
    h.see()


def bad_admin_memory(h: CheckedHost) -> None:
    h.set_admin()
    h.write(Reg.ACQ, 0xDEAD_0000_0000, 8)
    h.cc()


def worse_admin_memory(h: CheckedHost) -> None:
    h.set_admin()
    h.write(Reg.ACQ, h.admin.sq, 8)
    h.cc()


def unaligned_admin_memory(h: CheckedHost) -> None:
    h._next += -h._next % (2 * PAGE) + PAGE
    h.set_admin()
    h.cc(mps=1)


def good_admin_memory(h: CheckedHost) -> None:
    h.region = h.memory.add_region(np.zeros(64 * PAGE, np.uint8))
    h._next = h.region.base
    h.up(mps=0)


def bad_reset_wait(h: CheckedHost) -> None:
    h.up()
    h.cc(en=0)
    h.step()
    h.cc()


def good_reset_wait(h: CheckedHost) -> None:
    h.up()
    h.cc(en=0)
    h.see()
    h.up()


def bad_disable(h: CheckedHost) -> None:
    h.set_admin()
    h.cc()
    h.step()
    h.cc(en=0)


def good_disable(h: CheckedHost) -> None:
    h.set_admin()
    h.write(Reg.AQA, AQA.pack(asqs_z=31, acqs_z=31))
    h.cc()
    h.see()
    h.cc(en=0)
    h.see()


def bad_ready_wait(h: CheckedHost) -> None:
    h.set_admin()
    h.cc()
    h.step()
    h.admin.put(6, cid=1, nsid=0, prp1=h.data, cdw10=1)
    h.admin.ring()


def good_ready_wait(h: CheckedHost) -> None:
    h.up()
    h.admin_command(6, prp1=h.data, cdw10=1)


def bad_not_ready(h: CheckedHost) -> None:
    h.doorbell(0, 1)


def good_not_ready(h: CheckedHost) -> None:
    h.ready()
    h.do()


def bad_after_shutdown(h: CheckedHost) -> None:
    h.ready()
    h.cc(shn=1)
    h.see()
    h.begin()


def good_after_shutdown(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    h.step(h.now_ns + 20_000)
    h.cc(shn=1)
    h.see()
    h.io.reap()
    h.cc(en=0, shn=0)
    h.see()


def bad_shutdown_value(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=3)


def good_shutdown_value(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=2)
    h.see()
    h.cc(en=0, shn=0)
    h.see()


def bad_in_flight(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    h.cc(shn=1)


def good_in_flight(h: CheckedHost) -> None:
    h.ready()
    h.begin()
    h.cc(shn=2)  # abrupt: what is outstanding is given up
    h.see()
    h.cc(en=0, shn=0)
    h.see()


def bad_shutdown_wait(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=1)
    h.step()
    h.cc(en=0, shn=0)


def left_without_wait(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=1)
    h.step()
    h.checker.host_left()


def good_shutdown_wait(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=1)
    h.see()
    h.checker.host_left()
    h.cc(en=0, shn=0)
    h.see()


def bad_cleared(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=1)
    h.see()
    h.cc(shn=0)


def good_cleared(h: CheckedHost) -> None:
    h.up()
    h.cc(shn=1)
    h.see()
    h.cc(en=0, shn=0)
    h.see()
    h.up()


def bad_doorbell_access(h: CheckedHost) -> None:
    h.ready()
    h.ctrl.mmio_write(DOORBELLS, 2, 1)


def bad_doorbell_offset(h: CheckedHost) -> None:
    h.up()
    h.ctrl.mmio_write(DOORBELLS + 4, 4, 0)


def good_doorbell_offset(h: CheckedHost) -> None:
    h.ready()
    h.do()


def bad_doorbell_read(h: CheckedHost) -> None:
    h.read(DOORBELLS)


def good_doorbell_read(h: CheckedHost) -> None:
    h.read(Reg.CSTS)


def bad_doorbell_reserved(h: CheckedHost) -> None:
    h.ready()
    h.put()
    h.doorbell(1, 0x1_0000 | h.io.tail)


WIDE = ControllerConfig(dstrd=1)
"""Doorbells 8 bytes apart: there is something between them."""

CASES = {
    "reg-access": ([bad_access], good_access),
    "reg-read-only": ([bad_read_only], good_read_only),
    "reg-interrupt-mask": ([bad_mask], good_mask),
    "reg-nssr": ([bad_nssr], good_nssr),
    "cc-reserved": ([bad_cc_reserved], good_cc_reserved),
    "cc-changed-enabled": ([bad_cc_changed], good_cc_changed),
    "cc-entry-size": ([bad_entry_size], good_entry_size),
    "cc-unsupported": ([bad_supported], good_supported),
    "adminq-enabled": ([bad_admin_enabled], good_admin_enabled),
    "adminq-reserved": ([bad_admin_reserved], good_admin_reserved),
    "adminq-size": ([bad_admin_size], good_admin_size),
    "adminq-memory": ([bad_admin_memory, worse_admin_memory, unaligned_admin_memory], good_admin_memory),
    "reset-not-awaited": ([bad_reset_wait], good_reset_wait),
    "disable-not-ready": ([bad_disable], good_disable),
    "ready-not-awaited": ([bad_ready_wait], good_ready_wait),
    "doorbell-not-ready": ([bad_not_ready], good_not_ready),
    "doorbell-shut-down": ([bad_after_shutdown], good_after_shutdown),
    "shutdown-reserved": ([bad_shutdown_value], good_shutdown_value),
    "shutdown-in-flight": ([bad_in_flight], good_in_flight),
    "shutdown-not-awaited": ([bad_shutdown_wait, left_without_wait], good_shutdown_wait),
    "shutdown-cleared": ([bad_cleared], good_cleared),
    "doorbell-access": ([bad_doorbell_access], good_not_ready),
    "doorbell-offset": ([bad_doorbell_offset], good_doorbell_offset),
    "doorbell-read": ([bad_doorbell_read], good_doorbell_read),
    "doorbell-reserved": ([bad_doorbell_reserved], good_not_ready),
}

OPTIONS = {
    "doorbell-offset": {"config": WIDE},
    "disable-not-ready": {"config": ControllerConfig(ready_ns=10_000)},
}
