"""decode: guessing, pasted dumps, every kind, and anything else than hex."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.cli import cli
from nvme_emu.observe.explain import KINDS, explain, parse_hex
from nvme_emu.spec.queues import CQE, SQE

READ = SQE.pack(2, 0, 7, 1, 0, 0, 0, 0x1000, 0, 5, 0, 7, 0, 0, 0)
IDENTIFY = SQE.pack(6, 0, 3, 0, 0, 0, 0, 0x2000, 0, 1, 0, 0, 0, 0, 0)
COMPLETION = CQE.pack(0, 0, 4, 1, 7, 0x0002 << 1 | 1)
RECORDED = Path(__file__).parent / "nvme_cli"


def invoke(*args: str, text: str | None = None) -> Any:
    return CliRunner().invoke(cli, ["decode", *args], input=text, standalone_mode=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (READ, "Read"),
        (IDENTIFY, "Identify"),
        (COMPLETION, "Invalid Field in Command"),
        ((RECORDED / "id-ctrl.binary").read_bytes(), "IDENTIFY_CONTROLLER"),
        ((RECORDED / "id-ns.binary").read_bytes(), "IDENTIFY_NAMESPACE"),
        ((RECORDED / "smart-log.binary").read_bytes(), "SMART_HEALTH"),
        ((RECORDED / "fw-log.binary").read_bytes(), "FIRMWARE_SLOT_INFORMATION"),
    ],
)
def test_kind_is_guessed_from_the_bytes(data: bytes, words: str) -> None:
    assert words in explain(data.hex()).words


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_zeros_or_its_own_bytes_is_explained(kind: str) -> None:
    assert explain(bytes(4096).hex(), kind).name


@pytest.mark.parametrize(
    "text",
    [
        COMPLETION.hex(),
        COMPLETION.hex(" "),
        COMPLETION.hex(" ").upper(),
        ", ".join(f"0x{byte:02x}" for byte in COMPLETION),
        "00000000: " + COMPLETION.hex(" ", 2) + "  ................",
        "0000: " + COMPLETION.hex(" ") + ' "................"',
        "00000000:  " + COMPLETION.hex(" ")[:23] + "\n00000008:  " + COMPLETION.hex(" ")[24:] + "   |abcdef12|",
    ],
)
def test_forms_in_which_people_paste_hex(text: str) -> None:
    assert parse_hex(text) == COMPLETION


def test_command_line_explains_a_read_with_its_clauses() -> None:
    result = invoke(READ.hex())
    assert result.return_value == 0
    assert "Read" in result.stdout and "nlb_z" in result.stdout and "NVM 1.1" in result.stdout
    assert "[" not in invoke("--no-clauses", READ.hex()).stdout
    assert json.loads(invoke("--json", READ.hex()).stdout)["name"] == "I/O SQE"


def test_command_line_reads_standard_input() -> None:
    assert invoke("--as", "cqe", "-", text=COMPLETION.hex()).stdout == invoke(COMPLETION.hex()).stdout
    assert invoke(text=COMPLETION.hex()).return_value == 0


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [("reg:CAP", "0x084008301e01ffff", "mqes_z"), ("reg:cc", "460001", "iosqes"), ("reg:0x14", "1", "Enable"),
     ("reg:0x1008", "5", "queue 1"), ("reg:ASQ", "0x1000", "Admin Submission")],
)  # fmt: skip
def test_register_by_name_or_offset(kind: str, value: str, words: str) -> None:
    result = invoke("--as", kind, value)
    assert result.return_value == 0 and words in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["zz"], "not hexadecimal"),
        (["abc"], "whole bytes"),
        (["00"], "1 bytes: a CQE has 16"),
        ([""], "nothing to decode"),
        (["--as", "cqe", "00"], "1 bytes given, 16 needed"),
        (["--as", "thing", "00"], "'thing' is not known"),
        (["--as", "reg:NOPE", "1"], "no register is called"),
        (["--as", "reg:CC", "1ffffffff"], "does not fit"),
        (["--as", "reg:CC", "x"], "not a hexadecimal number"),
        (["--as", "reg:CC", "1", "2"], "one number"),
        (["--as", "reg:0x2", "1"], "no register begins"),
        (["--as", "reg:DOORBELLS", "1"], "by its offset"),
        (["--as", "reg:", "1"], "no register is called"),
    ],
)
def test_what_cannot_be_decoded_is_one_line_and_exit_code_2(args: list[str], message: str) -> None:
    result = invoke(*args)
    assert result.return_value == 2 and message in result.stderr and result.stderr.count("\n") == 1


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(bytes.hex), st.sampled_from([None, "reg:CC", *KINDS]))
def test_any_text_is_explained_or_refused_with_a_reason(text: str, kind: str | None) -> None:
    try:
        explain(text, kind)
    except ValueError as error:
        assert str(error)
