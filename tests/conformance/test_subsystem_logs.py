"""ANA and endurance groups, as a host with one path meets them; every transport."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from nvmehost import BROADCAST, QUICK, TRANSPORTS, NvmeHost, connected

from nvme_emu.spec.ana import ANA_GROUP, ANA_LOG, ANA_LSP_RGO, ana_log_bytes
from nvme_emu.spec.endurance import ENDURANCE_GROUP_AGGREGATE, ENDURANCE_GROUP_LIST, ENDURANCE_GROUP_LOG
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import CMIC, CTRATT, IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE, NS_MANAGEMENT, Cns
from nvme_emu.spec.logs import LID_SUPPORTED, SMART_HEALTH, SUPPORTED_LOG_PAGES, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status

GROUPS = 3
GIGA = 1_000_000_000


@pytest.fixture(params=TRANSPORTS)
def ana(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """Two namespaces, of which each has an ANA group; a third group is empty."""
    with connected(request.param, config=replace(QUICK, ana_groups=GROUPS), namespaces=2) as one:
        yield one


def groups_of(page: bytes) -> tuple[int, list[tuple[int, int, list[int]]]]:
    """(change count, [(group, state, namespaces)])."""
    head, at, found = ANA_LOG.parse(page), ANA_LOG.size, []
    for _ in range(head.ngrps):
        group = ANA_GROUP.parse(page[at : at + ANA_GROUP.size])
        at += ANA_GROUP.size
        found.append((group.grpid, group.state, list(struct.unpack_from(f"<{group.nnsids}I", page, at))))
        at += 4 * group.nnsids
        assert group.chgcnt
    return head.chgcnt, found


def test_ana_groups_are_told_by_identify_and_log(ana: NvmeHost) -> None:
    controller = IDENTIFY_CONTROLLER.parse(ana.identify(Cns.CONTROLLER).data)
    assert CMIC.unpack(controller.cmic).anars == 1
    assert (controller.anagrpmax, controller.nanagrpid, controller.anacap, controller.anatt) == (3, 3, 0b1001_1111, 10)
    assert controller.oaes & 1 << 11
    of = {nsid: IDENTIFY_NAMESPACE.parse(ana.identify(Cns.NAMESPACE, nsid).data).anagrpid for nsid in (1, 2)}
    assert of == {1: 1, 2: 2}

    most = ana_log_bytes(controller.nanagrpid, controller.mnan)
    assert groups_of(ana.log(Lid.ANA, most))[1] == [(1, 1, [1]), (2, 1, [2])]
    assert groups_of(ana.log(Lid.ANA, 512, lsp=ANA_LSP_RGO))[1] == [(1, 1, []), (2, 1, [])]
    whole = ana.log(Lid.ANA, ana_log_bytes(2, 2))
    assert ana.log(Lid.ANA, 36, offset=16) == whole[16:52]
    assert ana.try_log(Lid.ANA, 4, offset=len(whole) + 4).status == Status.INVALID_FIELD


def test_without_ana_groups_nothing_says_ana(host: NvmeHost) -> None:
    controller = IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data)
    assert (CMIC.unpack(controller.cmic).anars, controller.anacap, controller.nanagrpid) == (0, 0, 0)
    assert not controller.oaes & 1 << 11
    assert host.try_log(Lid.ANA).status == Status.INVALID_LOG_PAGE
    assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, 1 << 11).status == Status.INVALID_FIELD


def test_namespace_is_made_in_the_ana_group_that_it_is_asked_for(ana: NvmeHost) -> None:
    assert ana.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 2, cdw10=1).status == 0
    def create(group: int) -> tuple[int, int]:
        asked = NS_MANAGEMENT.build(nsze=64, ncap=64, anagrpid=group, endgid=1)
        answer = ana.admin(AdminOpcode.NAMESPACE_MANAGEMENT, data=asked)
        return answer.status, answer.dw0

    assert create(GROUPS + 1)[0] == Status.ANA_GROUP_ID_INVALID
    status, nsid = create(GROUPS)
    assert status == 0
    assert IDENTIFY_NAMESPACE.parse(ana.identify(Cns.ALLOCATED_NAMESPACE, nsid).data).anagrpid == GROUPS
    assert [group for group, _, _ in groups_of(ana.log(Lid.ANA, 512))[1]] == [1]
    listed = struct.pack("<2H", 1, ana.cntlid).ljust(4096, b"\0")
    before = groups_of(ana.log(Lid.ANA, 512))[0]
    assert ana.admin(AdminOpcode.NAMESPACE_ATTACHMENT, nsid, data=listed).status == 0
    after, found = groups_of(ana.log(Lid.ANA, 512))
    assert (found, after > before) == ([(1, 1, [1]), (GROUPS, 1, [nsid])], True)


# Endurance group ---------------------------------------------------------------------------------------


def endurance(host: NvmeHost) -> dict[str, int]:
    return dict(ENDURANCE_GROUP_LOG.parse(host.log(Lid.ENDURANCE_GROUP, 512, lsi=1)))


def test_endurance_group_is_told_by_identify(host: NvmeHost) -> None:
    controller = IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data)
    assert (CTRATT.unpack(controller.ctratt).egs, controller.endgidmax) == (1, 1)
    assert not CTRATT.unpack(controller.ctratt).nsets
    listed = ENDURANCE_GROUP_LIST.parse(host.identify(Cns.ENDURANCE_GROUP_LIST).data)
    assert (listed.numid, listed.endgid[0]) == (1, 1)
    assert ENDURANCE_GROUP_LIST.parse(host.identify(Cns.ENDURANCE_GROUP_LIST, cnssid=2).data).numid == 0
    namespace = IDENTIFY_NAMESPACE.parse(host.identify(Cns.NAMESPACE, 1).data)
    assert (namespace.endgid, namespace.nvmsetid) == (1, 0)


def test_endurance_group_log_counts(host: NvmeHost) -> None:
    before = endurance(host)
    for _ in range(3):
        assert host.io(NvmOpcode.WRITE, data=bytes(1024), cdw12=1).status == 0
    assert host.io(NvmOpcode.READ, nbytes=512).status == 0

    after = endurance(host)
    assert after["hwc"] - before["hwc"] == 3
    assert after["hrc"] - before["hrc"] == 1
    assert (after["duw"], after["dur"]) == (1, 1)  # rounded up
    assert after["avsp"] == 100
    assert after["tegcap"] >= 1 << 20
    for lsi in (0, 2):
        assert host.try_log(Lid.ENDURANCE_GROUP, 512, lsi=lsi).status == Status.INVALID_FIELD


def test_endurance_group_event_configuration_is_of_a_group(host: NvmeHost) -> None:
    assert host.feature(Fid.ENDURANCE_GROUP_EVENT_CONFIG, cdw11=1).dw0 == 1
    assert host.set_feature(Fid.ENDURANCE_GROUP_EVENT_CONFIG, 1 | 0x0D << 16).status == 0
    assert host.feature(Fid.ENDURANCE_GROUP_EVENT_CONFIG, cdw11=1).dw0 == 1 | 0x0D << 16
    for wrong in (0, 2, 1 | 0x02 << 16):
        assert host.set_feature(Fid.ENDURANCE_GROUP_EVENT_CONFIG, wrong).status == Status.INVALID_FIELD
    assert ENDURANCE_GROUP_AGGREGATE.parse(host.log(Lid.ENDURANCE_GROUP_AGGREGATE, 8)).nent == 0
    assert SMART_HEALTH.parse(host.log(Lid.SMART_HEALTH)).egcws == 0


# Every page, every offset ----------------------------------------------------------------------------------

_WHOLE = {Lid.TELEMETRY_HOST: 512, Lid.TELEMETRY_CONTROLLER: 512}
"""Pages that are read in blocks."""
_STILL = {Lid.SMART_HEALTH, Lid.PERSISTENT_EVENT}
"""Pages that change by being read, or with time."""


def test_every_log_page_that_is_supported_is_read_in_parts(ana: NvmeHost) -> None:
    supported = SUPPORTED_LOG_PAGES.parse(ana.log(Lid.SUPPORTED_LOG_PAGES, 1024)).lid
    for lid, entry in enumerate(supported):
        lsi = int(lid == Lid.ENDURANCE_GROUP)
        if not entry:
            assert ana.try_log(lid, 4).status == Status.INVALID_LOG_PAGE
            continue
        assert LID_SUPPORTED.unpack(entry).ios == 0
        if lid == Lid.PERSISTENT_EVENT:
            continue  # needs a context
        step = _WHOLE.get(Lid(lid), 4)
        whole = ana.log(lid, 2 * step, lsi=lsi, rae=True)
        for offset in (0, step):
            answer = ana.try_log(lid, step, offset=offset, lsi=lsi, rae=True)
            assert answer.status == 0, lid
            assert lid in _STILL or answer.data == whole[offset : offset + step], lid
        assert ana.try_log(lid, step, offset=1 << 32, lsi=lsi, rae=True).status == Status.INVALID_FIELD
        dwords = {"cdw10": lid | 1 << 15 | (step // 4 - 1) << 16, "cdw11": lsi << 16}
        by_index = ana.admin(AdminOpcode.GET_LOG_PAGE, BROADCAST, nbytes=step, cdw14=1 << 23, **dwords)
        assert by_index.status == Status.INVALID_FIELD, lid
