"""How a host over NVMe/TCP breaks each rule that can be judged there, and how it nearly does."""

from __future__ import annotations

import struct
from typing import Any

from capsulehost import READ, WRITE, CapsuleHost
from cases_capsules import (
    ATTACH,
    FLUSH,
    IDENTIFY,
    KEEP_ALIVE,
    MS,
    admin,
    cc_early,
    controlled,
    io,
    setting,
    unasked,
)
from tcphost import IN_CAPSULE, TRANSPORT, connect, h2c_data, property_get, sqe

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.fabrics_auth import DhchapPolicy
from nvme_emu.core.dhchap import DhchapSecrets, Secret
from nvme_emu.spec.features import Fid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import Reg

# -- connecting -----------------------------------------------------------------------------------------------


def bad_first(h: CapsuleHost) -> None:
    h.wire().command(property_get(1, Reg.CAP, True))


def io_first(h: CapsuleHost) -> None:
    h.wire().command(sqe(READ, 1, nsid=1, length=512))


def bad_twice(h: CapsuleHost) -> None:
    h.up()
    h.admin.command(*connect(9, 0))


def queue_size(h: CapsuleHost) -> None:
    h.connect(entries=1)


def record_format(h: CapsuleHost) -> None:
    h.connect(recfmt=1)


def static_controller(h: CapsuleHost) -> None:
    h.connect(cntlid=7)


def queue_not_granted(h: CapsuleHost) -> None:
    h.up()
    h.number_of_queues(2)
    h.connect(3)


def queue_connected(h: CapsuleHost) -> None:
    h.ready()
    first = h.io
    h.connect(1)
    h.wires[2] = first


def controller_of_nobody(h: CapsuleHost) -> None:
    h.up()
    h.number_of_queues()
    h.connect(1, cntlid=77)


def controller_of_another(h: CapsuleHost) -> None:
    h.up()
    h.number_of_queues()
    h.connect(1, hostid=bytes(16))


def queue_too_early(h: CapsuleHost) -> None:
    h.connect()
    h.connect(1)


def queue_unseen(h: CapsuleHost) -> None:
    h.connect()
    h.cc()
    h.number_of_queues()
    h.checker.clear()
    h.admin.session.queue.rules._host.registers.ready_seen = False
    h.connect(1)


def without_keep_alive(h: CapsuleHost) -> None:
    h.connect(kato=0)


def unknown_names(h: CapsuleHost) -> None:
    """What is asked for and not there is no mistake of a driver's."""
    h.connect(subnqn="nqn.2024-01.org.example:nothing")
    h.wires.clear()


def silent(h: CapsuleHost) -> None:
    h.ready()
    h.now_ns += 5_000 * MS
    h.target.work(h.now_ns)


def alive(h: CapsuleHost) -> None:
    h.ready()
    for _ in range(3):
        h.now_ns += 4_000 * MS
        h.later()
        h.do(KEEP_ALIVE)


def good(h: CapsuleHost) -> None:
    """All of it, as it should be."""
    h.ready()
    h.connect(2)
    for _ in range(40):
        h.rw(WRITE)
        h.rw(READ)
    h.send(1, WRITE, nsid=1, length=64 * 512, cdw12=63)  # its data would follow an R2T
    h.wires.pop(1).session.queue.close("closed by the host")
    h.do(IDENTIFY, length=4096, cdw10=1)
    h.do(KEEP_ALIVE)


def left(h: CapsuleHost) -> None:
    h.ready()
    h.leave()


def server_ends(h: CapsuleHost) -> None:
    h.ready()
    h.checker.host_is_there = True
    h.leave()


# -- authentication -------------------------------------------------------------------------------------------


def unauthenticated(h: CapsuleHost) -> None:
    h.connect()
    h.admin.command(property_get(2, Reg.CAP, True))


def admin_unauthenticated(h: CapsuleHost) -> None:
    h.connect()
    h.do(IDENTIFY, length=4096, cdw10=1)


# -- order ----------------------------------------------------------------------------------------------------


def too_early(h: CapsuleHost) -> None:
    h.connect()
    h.do(IDENTIFY, length=4096, cdw10=1)


def ready_unseen(h: CapsuleHost) -> None:
    h.connect()
    h.cc()
    h.do(IDENTIFY, length=4096, cdw10=1)


def after_shutdown(h: CapsuleHost) -> None:
    h.ready()
    h.cc(shn=1)
    h.rw()


def reset_unseen(h: CapsuleHost) -> None:
    h.up()
    h.cc(en=0)
    h.cc()


def shutdown_unseen(h: CapsuleHost) -> None:
    h.up()
    h.cc(shn=1)
    h.leave()


def shutdown_busy(h: CapsuleHost) -> None:
    h.ready()
    h.rw(end=False)
    h.cc(shn=1)


def reset(h: CapsuleHost) -> None:
    h.ready()
    h.cc(en=0)
    h.get(Reg.CSTS)
    h.wires.pop(1).session.queue.close("closed by the host")
    h.cc()
    h.get(Reg.CSTS)
    h.number_of_queues()
    h.connect(1)
    h.rw()


# -- capsules -------------------------------------------------------------------------------------------------


def cid_twice(h: CapsuleHost) -> None:
    h.ready()
    h.rw(cid=7, end=False)
    h.rw(cid=7)


def too_many(h: CapsuleHost) -> None:
    h.ready()
    for _ in range(16):
        h.rw(end=False)
    h.rw(end=False)


def as_many_as_fit(h: CapsuleHost) -> None:
    h.ready()
    for _ in range(16):
        h.rw(end=False)
    h.later()
    h.rw()


def prps(h: CapsuleHost) -> None:
    h.ready()
    h.rw(flags=0)


def other_descriptor(h: CapsuleHost) -> None:
    h.ready()
    h.rw(kind=0x40)


def read_in_capsule(h: CapsuleHost) -> None:
    h.ready()
    h.rw(kind=IN_CAPSULE)


def short_sgl(h: CapsuleHost) -> None:
    h.ready()
    h.rw(length=512)


def beyond_capsule(h: CapsuleHost) -> None:
    h.ready()
    h.rw(WRITE, address=512)


def bad_pdu(h: CapsuleHost) -> None:
    h.ready()
    h.io.feed(struct.pack("<BBBBI", 0x42, 0, 8, 0, 8))


def bad_tag(h: CapsuleHost) -> None:
    h.ready()
    h.rw(WRITE, kind=TRANSPORT, end=False)
    h.io.feed(h2c_data(1, 999, 0, bytes(512), last=True))


def bad_digest(h: CapsuleHost) -> None:
    h.up()
    h.number_of_queues()
    wire = h.wires[1] = type(h.admin)(h.target, now_ns=h.now_ns)
    wire.start(digests=2)
    entry, data = connect(1, 1, h.cntlid, entries=16)
    wire.feed(struct.pack("<BBBBI", 4, 2, 72, 72, 72 + len(data) + 4) + entry + data + bytes(4))


# -- Fabrics commands -----------------------------------------------------------------------------------------


def property_on_io(h: CapsuleHost) -> None:
    h.ready()
    h.io.command(property_get(2, Reg.CSTS))


def disconnect_admin(h: CapsuleHost) -> None:
    h.up()
    h.admin.command(sqe(0x7F, 9, nsid=8))


def no_property(h: CapsuleHost) -> None:
    h.up()
    h.get(Reg.AQA)


def property_width(h: CapsuleHost) -> None:
    h.up()
    h.get(Reg.CAP)


def read_only(h: CapsuleHost) -> None:
    h.up()
    h.set(Reg.VS, 1)


def reserved_byte(h: CapsuleHost) -> None:
    h.up()
    entry = bytearray(property_get(9, Reg.CSTS))
    entry[60] = 1
    h.admin.command(bytes(entry))


def reserved_attribute(h: CapsuleHost) -> None:
    h.up()
    h.admin.command(sqe(0x7F, 9, nsid=4, cdw10=8, cdw11=int(Reg.CSTS)))


def fabrics_type(h: CapsuleHost) -> None:
    h.up()
    h.admin.command(sqe(0x7F, 9, nsid=0x22))


def create_queue(h: CapsuleHost) -> None:
    h.up()
    h.do(AdminOpcode.CREATE_IO_CQ, cdw10=1 | 15 << 16, cdw11=1)


CASES: dict[str, tuple[list[Any], Any]] = {
    # connections
    "connect-first": ([bad_first, io_first], good),
    "connect-twice": ([bad_twice], good),
    "connect-parameter": (
        [queue_size, record_format, static_controller, queue_not_granted, queue_connected, controller_of_nobody,
         controller_of_another], unknown_names,
    ),
    "connect-not-ready": ([queue_too_early, queue_unseen], reset),
    "keep-alive-off": ([without_keep_alive], good),
    "keep-alive-late": ([silent], alive),
    "authentication-first": ([unauthenticated, admin_unauthenticated], good),
    "left-without-shutdown": ([left], server_ends),
    "command-not-ready": ([too_early], reset),
    "command-shut-down": ([after_shutdown], reset),
    "ready-not-awaited": ([ready_unseen], reset),
    "reset-not-awaited": ([reset_unseen], reset),
    "shutdown-not-awaited": ([shutdown_unseen], good),
    "shutdown-in-flight": ([shutdown_busy], good),
    "shutdown-reserved": ([controlled({"shn": 3})], good),
    "shutdown-cleared": ([controlled({"shn": 1}, {"shn": 0})], good),
    "disable-not-ready": ([cc_early], reset),
    # capsules
    "queue-full": ([too_many], as_many_as_fit),
    "cid-reused": ([cid_twice], as_many_as_fit),
    "sgl-missing": ([prps], good),
    "sgl-type": ([other_descriptor, read_in_capsule], good),
    "sgl-length": ([short_sgl], good),
    "capsule-offset": ([beyond_capsule], good),
    "pdu-invalid": ([bad_pdu, bad_tag], good),
    "pdu-digest": ([bad_digest], good),
    # Fabrics commands and properties
    "fabrics-queue": ([property_on_io, disconnect_admin], good),
    "property-unknown": ([no_property, property_width, read_only], good),
    "cc-reserved": ([lambda h: (h.up(), h.set(Reg.CC, 0x8046_0001))], good),
    "cc-changed-enabled": ([controlled({"mps": 1})], reset),
    "cc-entry-size": ([controlled({"iosqes": 5})], reset),
    "cc-unsupported": ([controlled({"ams": 7}, before=True)], reset),
    "queues-unasked": ([unasked], good),
    "number-of-queues-late": ([setting(Fid.NUMBER_OF_QUEUES, 0x3_0003)], good),
    # what commands say
    "reserved-field": ([io(FLUSH, cdw10=1), io(FLUSH, length=512), reserved_byte, reserved_attribute], io(FLUSH)),
    "opcode-unsupported": ([io(0x7C), create_queue, fabrics_type], good),
    "nsid-unused": ([admin(KEEP_ALIVE, nsid=1)], good),
    "feature-not-saveable": ([lambda h: (h.up(), h.number_of_queues(sv=1))], good),
    "controller-list": ([admin(ATTACH, bytes(4096), nsid=1)], good),
}  # fmt: skip

POLICY = DhchapPolicy(entropy=bytes, hosts={}, others=DhchapSecrets(Secret(bytes(range(32))), None))
BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "authentication-first": {"dhchap": POLICY},
    "disable-not-ready": {"config": ControllerConfig(ready_ns=MS)},
}
"""Of the hosts that break a rule, not of those that keep it."""
