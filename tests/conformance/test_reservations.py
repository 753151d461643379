"""Reservations: one host on PCI Express, several over TCP."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from nvmehost import QUICK, NvmeHost, tcp_host, tcp_target

from nvme_emu.spec.features import Fid
from nvme_emu.spec.logs import RESERVATION_NOTIFICATION, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.reservations import (
    REGISTRANT_EXTENDED,
    RESERVATION_STATUS_EXTENDED,
    ReservationNotice,
    ReservationType,
)
from nvme_emu.spec.status import Status

READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE
REGISTER, UNREGISTER, REPLACE = range(3)
ACQUIRE, PREEMPT, ABORT = range(3)
RELEASE, CLEAR = range(2)
T = ReservationType


def register(host: NvmeHost, crkey: int, nrkey: int, action: int = REGISTER, *, iekey: int = 0, cptpl: int = 0) -> int:
    cdw10 = action | iekey << 3 | cptpl << 30
    return host.io(NvmOpcode.RESERVATION_REGISTER, cdw10=cdw10, data=struct.pack("<QQ", crkey, nrkey)).status


def acquire(host: NvmeHost, crkey: int, kind: int, action: int = ACQUIRE, prkey: int = 0) -> int:
    cdw10 = action | kind << 8
    return host.io(NvmOpcode.RESERVATION_ACQUIRE, cdw10=cdw10, data=struct.pack("<QQ", crkey, prkey)).status


def release(host: NvmeHost, crkey: int, kind: int, action: int = RELEASE) -> int:
    cdw10 = action | kind << 8
    return host.io(NvmOpcode.RESERVATION_RELEASE, cdw10=cdw10, data=struct.pack("<Q", crkey)).status


def report(host: NvmeHost) -> tuple[int, int, list[tuple[int, int]]]:
    """(type, PTPL, [(key, holds)])."""
    data = host.io(NvmOpcode.RESERVATION_REPORT, cdw10=1023, cdw11=1, nbytes=4096).data
    header = RESERVATION_STATUS_EXTENDED.parse(data)
    entries = [REGISTRANT_EXTENDED.parse(data[64 * (n + 1) :]) for n in range(header.regctl)]
    return header.rtype, header.ptpls, sorted((one.rkey, one.rcsts) for one in entries)


def may(host: NvmeHost) -> tuple[bool, bool]:
    """Whether it may (read, write)."""
    answers = host.io(READ, nbytes=512).status, host.io(WRITE, data=bytes(512)).status
    assert set(answers) <= {Status.SUCCESS, Status.RESERVATION_CONFLICT}
    return answers[0] == 0, answers[1] == 0


@pytest.fixture
def hosts() -> Iterator[tuple[NvmeHost, NvmeHost, NvmeHost]]:
    """Three hosts of one subsystem: the first two are to be registered."""
    with tcp_target(QUICK) as url, tcp_host(url, 1) as a, tcp_host(url, 2) as b, tcp_host(url, 3) as c:
        yield a, b, c


def test_host_on_pci_express_says_who_it_is_first(host: NvmeHost) -> None:
    if any(host.feature(Fid.HOST_IDENTIFIER, cdw11=1, nbytes=16).data):
        # Behind a fabric Connect has said it.
        assert host.set_feature(Fid.HOST_IDENTIFIER, 1, data=b"A" * 16).status == Status.CMD_SEQ_ERROR
        assert register(host, 0, 1) == 0
        return
    assert register(host, 0, 1) == Status.HOST_ID_NOT_INITIALIZED

    assert host.set_feature(Fid.HOST_IDENTIFIER, 1, data=b"A" * 16).status == 0

    assert host.set_feature(Fid.HOST_IDENTIFIER, 1, data=b"B" * 16).status == Status.CMD_SEQ_ERROR
    assert host.feature(Fid.HOST_IDENTIFIER, cdw11=1, nbytes=16).data == b"A" * 16
    assert register(host, 0, 1) == 0
    assert acquire(host, 1, T.EXCLUSIVE_ACCESS) == 0
    assert may(host) == (True, True)
    assert report(host) == (T.EXCLUSIVE_ACCESS, 0, [(1, 1)])


@pytest.mark.parametrize(
    ("kind", "registrant", "other"),
    [
        (T.WRITE_EXCLUSIVE, (True, False), (True, False)),
        (T.EXCLUSIVE_ACCESS, (False, False), (False, False)),
        (T.WRITE_EXCLUSIVE_REGISTRANTS, (True, True), (True, False)),
        (T.EXCLUSIVE_ACCESS_REGISTRANTS, (True, True), (False, False)),
        (T.WRITE_EXCLUSIVE_ALL, (True, True), (True, False)),
        (T.EXCLUSIVE_ACCESS_ALL, (True, True), (False, False)),
    ],
)
def test_reservation_type_says_who_may_what(
    hosts: tuple[NvmeHost, NvmeHost, NvmeHost],
    kind: ReservationType,
    registrant: tuple[bool, bool],
    other: tuple[bool, bool],
) -> None:
    a, b, c = hosts
    assert register(a, 0, 0xA) == register(b, 0, 0xB) == 0
    assert may(a) == may(b) == may(c) == (True, True)

    assert acquire(a, 0xA, kind) == 0

    assert (may(a), may(b), may(c)) == ((True, True), registrant, other)
    every = kind in (T.WRITE_EXCLUSIVE_ALL, T.EXCLUSIVE_ACCESS_ALL)
    assert report(b) == (kind, 0, [(0xA, 1), (0xB, int(every))])
    assert acquire(a, 0xA, kind) == 0
    again = acquire(b, 0xB, kind)
    assert again == (0 if every else Status.RESERVATION_CONFLICT)
    assert acquire(c, 0, kind) == Status.RESERVATION_CONFLICT
    assert release(a, 0xA, kind) == 0
    assert (may(b), may(c)) == ((True, True), (True, True))


def test_keys_are_checked(hosts: tuple[NvmeHost, NvmeHost, NvmeHost]) -> None:
    a, b, _ = hosts
    assert register(a, 0, 1) == register(a, 0, 1) == 0

    assert register(a, 0, 2) == Status.RESERVATION_CONFLICT
    assert register(a, 9, 2, REPLACE) == Status.RESERVATION_CONFLICT
    assert register(b, 0, 2, REPLACE) == register(b, 0, 0, UNREGISTER) == Status.RESERVATION_CONFLICT
    assert register(a, 9, 3, REPLACE, iekey=1) == 0
    assert acquire(a, 1, T.WRITE_EXCLUSIVE) == Status.RESERVATION_CONFLICT
    assert acquire(a, 3, T.WRITE_EXCLUSIVE) == 0
    assert release(a, 1, T.WRITE_EXCLUSIVE) == Status.RESERVATION_CONFLICT
    assert release(a, 3, T.EXCLUSIVE_ACCESS) == Status.INVALID_FIELD
    assert register(a, 3, 3, 3) == acquire(a, 3, 7) == acquire(a, 3, 0) == Status.INVALID_FIELD
    assert acquire(a, 3, 1, 3) == release(a, 3, 1, 2) == register(a, 3, 3, cptpl=1) == Status.INVALID_FIELD
    assert register(a, 3, 0, UNREGISTER) == 0
    assert report(a) == (T.NONE, 0, [])


def test_preempting_takes_registration_and_reservation(hosts: tuple[NvmeHost, NvmeHost, NvmeHost]) -> None:
    a, b, c = hosts
    register(a, 0, 0xA)
    register(b, 0, 0xB)
    register(c, 0, 0xC)
    acquire(a, 0xA, T.WRITE_EXCLUSIVE)

    assert acquire(b, 0xB, T.EXCLUSIVE_ACCESS, PREEMPT, 0x77) == Status.RESERVATION_CONFLICT
    assert acquire(b, 0xB, T.EXCLUSIVE_ACCESS, PREEMPT, 0) == Status.INVALID_FIELD
    assert acquire(b, 0xB, T.EXCLUSIVE_ACCESS, PREEMPT, 0xC) == 0
    assert report(b) == (T.WRITE_EXCLUSIVE, 0, [(0xA, 1), (0xB, 0)])
    assert acquire(b, 0xB, T.EXCLUSIVE_ACCESS, ABORT, 0xA) == 0

    assert report(b) == (T.EXCLUSIVE_ACCESS, 0, [(0xB, 1)])
    assert (may(a), may(b)) == ((False, False), (True, True))
    assert release(b, 0xB, 0, CLEAR) == 0
    assert report(b) == (T.NONE, 0, [])
    assert may(a) == (True, True)


def test_hosts_hear_what_is_taken_from_them(hosts: tuple[NvmeHost, NvmeHost, NvmeHost]) -> None:
    a, b, c = hosts
    register(a, 0, 0xA)
    register(b, 0, 0xB)
    register(c, 0, 0xC)
    c.set_feature(Fid.RESERVATION_NOTIFICATION_MASK, 0b1110, nsid=1)

    acquire(a, 0xA, T.WRITE_EXCLUSIVE_REGISTRANTS)
    release(a, 0xA, T.WRITE_EXCLUSIVE_REGISTRANTS)
    acquire(a, 0xA, T.WRITE_EXCLUSIVE, PREEMPT, 0xB)

    def notice(host: NvmeHost) -> tuple[int, int, int]:
        found = RESERVATION_NOTIFICATION.parse(host.log(Lid.RESERVATION_NOTIFICATION, 64))
        return found.type, found.available, found.nsid

    assert notice(b) == (ReservationNotice.RESERVATION_RELEASED, 1, 1)
    assert notice(b) == (ReservationNotice.REGISTRATION_PREEMPTED, 0, 1)
    assert notice(b) == (0, 0, 0)
    assert notice(a) == notice(c) == (0, 0, 0)


def test_reservation_outlives_the_controller_of_its_holder() -> None:
    with tcp_target(QUICK) as url, tcp_host(url, 2) as other:
        with tcp_host(url, 1) as holder:
            register(holder, 0, 5, cptpl=3)
            acquire(holder, 5, T.EXCLUSIVE_ACCESS)

        assert may(other) == (False, False)
        assert report(other)[:2] == (T.EXCLUSIVE_ACCESS, 1)
        assert other.feature(Fid.RESERVATION_PERSISTENCE, nsid=1).dw0 == 1
        with tcp_host(url, 1) as holder:
            assert may(holder) == (True, True)
            assert other.set_feature(Fid.RESERVATION_PERSISTENCE, 0, nsid=1).status == 0
            assert report(holder)[:2] == (T.EXCLUSIVE_ACCESS, 0)


def test_report_wants_the_format_of_the_hosts_identifier(hosts: tuple[NvmeHost, NvmeHost, NvmeHost]) -> None:
    answer = hosts[0].io(NvmOpcode.RESERVATION_REPORT, cdw10=1023, cdw11=0, nbytes=4096)

    assert answer.status == Status.HOSTID_FORMAT


def test_namespace_attached_to_two_hosts_is_detached_from_one(hosts: tuple[NvmeHost, NvmeHost, NvmeHost]) -> None:
    a, b, _ = hosts
    b.io(WRITE, data=b"b" * 512)

    gone = struct.pack("<HH", 1, b.cntlid).ljust(4096, b"\0")
    assert a.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 1, cdw10=1, data=gone).status == 0

    assert b.io(READ, nbytes=512).status == Status.INVALID_FIELD
    assert a.io(READ, nbytes=512).data == b"b" * 512
