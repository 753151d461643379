"""Doorbell Buffer Config and Number of Queues, as each transport has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nvmehost import QUICK, TRANSPORTS, NvmeHost, connected

import nvme_emu
from nvme_emu.driver.request import Request
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, OACS
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_doorbell_buffer_config_is_of_pci_express_alone(transport: str) -> None:
    with connected(transport, replace(QUICK, shadow_doorbells=True)) as host:
        offered = OACS["dbcs"].extract(IDENTIFY_CONTROLLER.parse(host.identify(1).data).oacs)
        assert offered == (transport != "tcp")
        if offered:
            assert host.machine.driver.paths[0].pair.bells is not None
        else:
            assert host.admin(AdminOpcode.DOORBELL_BUFFER_CONFIG).status == Status.INVALID_OPCODE
        data = bytes(range(256)) * 2
        for lba in range(8):
            assert host.io(NvmOpcode.WRITE, slba=lba, data=data).status == 0
            assert host.io(NvmOpcode.READ, slba=lba, nbytes=512).data == data


def test_number_of_queues_ffffh_is_refused(host: NvmeHost) -> None:
    for value in (0xFFFF, 0xFFFF_0000, 0xFFFF_FFFF):
        assert host.set_feature(Fid.NUMBER_OF_QUEUES, value).status in (Status.INVALID_FIELD, Status.CMD_SEQ_ERROR)


@pytest.mark.parametrize("transport", ["inproc", "inproc-virtual"])
def test_a_thousand_queue_pairs_work_each_with_its_vector(transport: str) -> None:
    config = replace(QUICK, io_queues_max=65534, vectors=2048)
    clock = "virtual" if transport == "inproc-virtual" else "wall"
    with nvme_emu.open(size="1M", queues=1000, depth=4, clock=clock, controller=config) as ssd:
        assert [path.pair.qid for path in ssd.driver.paths] == list(range(1, 1001))
        for number, path in enumerate(ssd.driver.paths):
            into = np.ones(512, np.uint8)
            request = Request(NvmOpcode.READ, 1, number, 1, 0, memoryview(into), False, into)
            path.submit(request)
            request.wait(60)
            assert not into.any()
