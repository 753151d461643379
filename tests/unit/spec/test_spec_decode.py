"""Known entries, registers and structures, explained."""

from __future__ import annotations

import json

import pytest

from nvme_emu.spec import commands as c
from nvme_emu.spec import decode as d
from nvme_emu.spec import identify as idn
from nvme_emu.spec import logs, queues
from nvme_emu.spec.errors import LayoutError
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode


def sqe(opcode: int, **fields: int) -> bytes:
    zero = dict.fromkeys(queues.Sqe._fields, 0)
    return queues.SQE.pack(*queues.Sqe(**{**zero, "opcode": opcode, **fields}))


def test_decode_of_a_read_says_its_lba_and_how_many_blocks() -> None:
    data = sqe(NvmOpcode.READ, cid=7, nsid=1, prp1=0x1000, cdw10=0x10, cdw11=1, cdw12=7 | c.RW_FUA)
    tree = d.decode_sqe(data, admin=False)
    assert tree.words == "Read"
    assert tree.find("slba").value == 0x1_0000_0010
    assert tree.find("nlb_z").words == "Number of Logical Blocks (zero-based): 8"
    assert tree.find("fua").value == 1
    assert tree.find("opcode").words == "Read (controller to host)"
    assert tree.find("nlb_z").clause == "NVM 1.1 §3.3.4"


def test_decode_of_an_identify_names_the_structure() -> None:
    tree = d.decode_sqe(sqe(AdminOpcode.IDENTIFY, cdw10=1), admin=True)
    assert tree.find("cns").words == "Controller or Namespace Structure: Identify Controller"
    unknown = d.decode_sqe(sqe(AdminOpcode.IDENTIFY, cdw10=0xEE), admin=True)
    assert unknown.find("cns").words == "Controller or Namespace Structure: not defined"


def test_decode_of_set_features_divides_the_value_by_its_feature() -> None:
    tree = d.decode_sqe(sqe(AdminOpcode.SET_FEATURES, cdw10=7, cdw11=0x0003_0001), admin=True)
    assert tree.find("fid").words == "Feature Identifier: Number of Queues"
    assert tree.find("nsq_z").words == "Number of I/O Submission Queues (zero-based): 2"
    assert tree.find("ncq_z").words == "Number of I/O Completion Queues (zero-based): 4"


def test_decode_of_get_log_page_says_how_many_bytes() -> None:
    dwords = c.get_log_page_dwords(2, 512)
    tree = d.decode_sqe(sqe(AdminOpcode.GET_LOG_PAGE, **dwords._asdict()), admin=True)
    assert tree.find("lid").words == "Log Page Identifier: SMART / Health Information"
    assert tree.find("numdl").words.endswith("512 bytes in all")


def test_decode_of_an_unknown_opcode_shows_its_raw_dwords() -> None:
    tree = d.decode_sqe(sqe(0x99, nsid=0xFFFFFFFF, cdw10=5, cdw13=6), admin=True)
    assert tree.words == "opcode 0x99"
    assert [node.name for node in tree.children][-2:] == ["cdw10", "cdw13"]
    assert tree.find("nsid").words == "Namespace Identifier: all namespaces"


def test_decode_shows_reserved_bits_and_dwords_only_when_they_are_set() -> None:
    clean = d.decode_sqe(sqe(AdminOpcode.ABORT, cdw10=1), admin=True)
    assert not [node for node in clean.walk() if "reserved" in node.words]
    dirty = d.decode_sqe(sqe(AdminOpcode.IDENTIFY, cdw10=0x0100, cdw12=1), admin=True)
    assert dirty.find("rsvd8").words == "reserved, should be zero"
    assert dirty.find("cdw12").words == "reserved, should be zero"


def test_decode_of_an_sgl_command_shows_the_descriptor_in_place_of_prps() -> None:
    tree = d.decode_sqe(sqe(NvmOpcode.WRITE, flags=queues.PSDT_SGL, prp1=0x1000, prp2=0x10), admin=False)
    assert tree.find("sgl1").value == b"\0\x10" + bytes(6) + b"\x10" + bytes(7)
    with pytest.raises(LayoutError, match="no field 'prp1'"):
        tree.find("prp1")


def test_decode_of_a_fabrics_command_names_its_type() -> None:
    assert d.decode_sqe(sqe(AdminOpcode.FABRICS, nsid=1), admin=True).words == "Fabrics: Connect"


def test_decode_of_a_completion_says_the_status() -> None:
    data = queues.CQE.pack(0, 0, 3, 1, 7, queues.status_phase(0x4285, 1))
    tree = d.decode_cqe(data)
    assert tree.words == "Compare Failure (SCT 2h SC 85h) DNR"
    assert (tree.find("p").value, tree.find("sct").value, tree.find("sc").value) == (1, 2, 0x85)
    assert (tree.find("sqhd").value, tree.find("sqid").value, tree.find("cid").value) == (3, 1, 7)


def test_decode_of_an_event_s_completion_says_the_event() -> None:
    data = queues.CQE.pack(0x0001_0100, 0, 0, 0, 0, 1)
    tree = d.decode_cqe(data, opcode=AdminOpcode.ASYNC_EVENT_REQUEST, admin=True)
    assert tree.find("dw0").words == "Error status: Invalid Doorbell Write Value (log page 01h)"


def test_decode_of_a_register_by_name_and_by_offset_is_the_same() -> None:
    by_name = d.decode_register("cc", 0x0046_0001)
    assert by_name == d.decode_register(0x14, 0x0046_0001)
    assert by_name.find("css").words == "I/O Command Set Selected: NVM Command Set"
    assert d.decode_register("ASQ", 0x1000).children == ()


def test_decode_of_a_doorbell_says_whose_it_is() -> None:
    assert d.decode_register(0x100C, 5).words == "Doorbell: completion queue head of queue 1"
    assert d.decode_register(0x1010, 5, dstrd=2).name == "CQ0HDBL"


@pytest.mark.parametrize(
    ("register", "value"), [("nosuch", 0), (0x18, 0), (0x2C, 0), ("CC", 1 << 32), ("VS", -1)]
)
def test_decode_of_what_is_no_register_or_no_value_is_refused(register: str | int, value: int) -> None:
    with pytest.raises(LayoutError):
        d.decode_register(register, value)


def test_decode_of_too_few_bytes_is_refused() -> None:
    with pytest.raises(LayoutError, match="SQE: 63 bytes given, 64 needed"):
        d.decode_sqe(bytes(63), admin=True)
    with pytest.raises(LayoutError, match="CQE: 0 bytes given, 16 needed"):
        d.decode_cqe(b"")


def test_decode_of_identify_namespace_shows_used_formats_and_flags() -> None:
    data = idn.IDENTIFY_NAMESPACE.build(nsze=5, flbas=1, lbaf=[{"lbads": 9}, {"lbads": 12}], nvmcap=1 << 100)
    tree = d.decode_structure(idn.IDENTIFY_NAMESPACE, data)
    assert tree.find("nvmcap").value == 1 << 100
    assert [node.name for node in tree.children if node.name.startswith("lbaf")] == ["lbaf[0]", "lbaf[1]"]
    assert tree.find("lbaf[1]").find("lbads").value == 12
    assert tree.find("fidxl").value == 1
    assert not [node for node in tree.walk() if node.name.startswith("rsvd")]


def test_decode_of_a_structure_shows_reserved_bytes_that_are_set() -> None:
    data = bytearray(logs.ERROR_INFORMATION.build(error_count=1))
    data[42] = 1
    assert d.decode_structure(logs.ERROR_INFORMATION, data).find("rsvd42").words == "reserved, should be zero"


def test_render_is_one_line_a_field() -> None:
    text = d.render(d.decode_register("CSTS", 0x9))
    assert text.splitlines()[:4] == [
        "CSTS = 0x00000009: Controller Status",
        "  rdy                                 1  Ready",
        "  cfs                                 0  Controller Fatal Status",
        "  shst                                2  Shutdown Status: shutdown complete",
    ]


def test_render_with_clauses_ends_each_line_with_one() -> None:
    lines = d.render(d.decode_register("CSTS", 1), clauses=True).splitlines()
    assert all(line.endswith("[Base 2.1 §3.1.4.6]") for line in lines)


def test_as_dict_is_json_with_bytes_in_hexadecimal() -> None:
    tree = d.decode_sqe(sqe(NvmOpcode.WRITE, flags=queues.PSDT_SGL), admin=False)
    plain = json.loads(json.dumps(tree.as_dict()))
    assert plain["words"] == "Write"
    words = "SGL descriptor: Data Block 0x0 +0"
    sgl1 = {"name": "sgl1", "value": "00" * 16, "words": words, "clause": "Base 2.1 §4.1.1"}
    assert sgl1 in plain["fields"]
