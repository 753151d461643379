"""Security Send and Receive, over every transport."""

from __future__ import annotations

import pytest
from nvmehost import Answer, NvmeHost

from nvme_emu.spec.commands_admin import SECURITY_CDW10
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, OACS, Cns
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.security import SecurityInformation, parse_protocol_list
from nvme_emu.spec.status import Status


def receive(host: NvmeHost, spsp: int, nbytes: int, al: int | None = None, secp: int = 0) -> Answer:
    cdw10 = SECURITY_CDW10.pack(secp=secp, spsp0=spsp & 0xFF, spsp1=spsp >> 8)
    cdw11 = nbytes if al is None else al
    return host.admin(AdminOpcode.SECURITY_RECEIVE, cdw10=cdw10, cdw11=cdw11, nbytes=nbytes)


def test_protocol_information_lists_the_protocols(host: NvmeHost) -> None:
    assert OACS.unpack(IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data).oacs).ssrs == 1

    listed = receive(host, SecurityInformation.SUPPORTED_PROTOCOLS, 512).data
    assert parse_protocol_list(listed) == [0]
    assert listed[:9] == bytes(7) + b"\x01\x00"
    assert receive(host, SecurityInformation.CERTIFICATE, 512).data[:4] == bytes(4)
    assert receive(host, SecurityInformation.COMPLIANCE, 512).data[:4] == bytes(4)


def test_allocation_length_limits_what_comes(host: NvmeHost) -> None:
    assert receive(host, 0, 512, al=7).data[:7] == bytes(7)
    assert receive(host, 0, 512, al=8).data[:8] == bytes(7) + b"\x01"
    assert receive(host, 0, 0).status == 0


@pytest.mark.parametrize(("secp", "spsp"), [(1, 0), (0xEA, 1), (0xFF, 0), (0, 3), (0, 0x0100)])
def test_protocol_that_is_not_offered_is_refused(host: NvmeHost, secp: int, spsp: int) -> None:
    assert receive(host, spsp, 512, secp=secp).status == Status.INVALID_FIELD
    sent = SECURITY_CDW10.pack(secp=secp, spsp0=spsp & 0xFF, spsp1=spsp >> 8)
    answer = host.admin(AdminOpcode.SECURITY_SEND, cdw10=sent, cdw11=512, data=bytes(512))
    assert answer.status == Status.INVALID_FIELD


def test_protocol_information_takes_nothing(host: NvmeHost) -> None:
    assert host.admin(AdminOpcode.SECURITY_SEND, cdw11=512, data=bytes(512)).status == Status.INVALID_FIELD
