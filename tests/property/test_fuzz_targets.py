"""The fuzzers of tools/fuzz.py: a short run of each, and proof that they would find something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import cli
from fuzzing.cli import TARGETS, main
from fuzzing.runner import case_data, fuzz, run_case, shrink
from fuzzing.source import Source
from fuzzing.statuses import is_allowed

from nvme_emu.controller import Controller
from nvme_emu.controller.fabrics import Association
from nvme_emu.controller.fabrics_queue import RingQueue
from nvme_emu.transports.vfio_user import VfioUserFunction

CASES = 400


@pytest.mark.parametrize("target", TARGETS)
def test_short_run_finds_nothing(target: str) -> None:
    result = fuzz(target, TARGETS[target], seed=1, cases=CASES)
    assert not result.findings, f"{result.findings[0].trace}\ninput: {result.findings[0].data.hex()}"
    assert result.cases == CASES


def _sometimes(every: int, wrong: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A mutation: at every so manyth call `wrong(old, ...)` happens in the place of the method."""

    def make(old: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def method(self: Any, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            return old(self, *args) if calls % every else wrong(old, self, *args)

        return method

    return make


def _twice(old: Callable[..., Any], self: Any, *args: Any) -> None:
    old(self, *args)
    old(self, *args)


MUTANTS = [
    ("controller", Controller, "_post", _sometimes(20, _twice), "not outstanding"),
    ("controller", Controller, "_post", _sometimes(20, lambda *_: None), "never answered"),
    ("controller", Controller, "_post", _sometimes(20, lambda old, me, sq, cid, _, dw0: old(me, sq, cid, 0x133, dw0)),
     "ended with 0x133"),
    ("tcp", RingQueue, "run", _sometimes(10, lambda old, *args: old(*args) * 2), "answered"),
    ("tcp", Association, "drop", _sometimes(3, lambda *_: None), "controllers are left"),
    ("vfio-user", VfioUserFunction, "detach", _sometimes(5, lambda *_: None), "descriptors are left open"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "kind", "name", "mutation", "words"), MUTANTS)
def test_broken_device_is_found(
    monkeypatch: pytest.MonkeyPatch, target: str, kind: type, name: str, mutation: Any, words: str
) -> None:
    monkeypatch.setattr(kind, name, mutation(getattr(kind, name)))
    for number in range(400):
        error = run_case(TARGETS[target], case_data(target, 2, number))
        if error is not None:
            assert words in str(error)
            return
    raise AssertionError("four hundred inputs and nothing found")


def test_failing_input_is_made_small_and_fails_in_the_same_place() -> None:
    def case(data: bytes) -> None:
        source = Source(data)
        while source.left:
            assert source.below(256) != 0xEE, "found"

    data = bytes(300) + bytes.fromhex("ee") + bytes(500)
    error = run_case(case, data)
    assert error is not None
    small = shrink(case, data, error)
    assert len(small) <= 2
    assert 0xEE in small


def test_case_that_never_ends_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.runner.CASE_SECONDS", 1)

    def endless(data: bytes) -> None:
        while True:
            pass

    assert "still busy" in str(run_case(endless, b""))


def test_finding_is_kept_and_can_be_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def picky(data: bytes) -> None:
        if b"\x77" in data:
            raise ZeroDivisionError("seven")

    monkeypatch.setitem(cli.TARGETS, "files", picky)
    assert main(["files", "--seed", "3", "--dir", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    (finding,) = json.loads(out)["results"][0]["findings"]
    (kept,) = tmp_path.iterdir()

    assert kept.read_bytes() == bytes.fromhex(finding["input"]) == b"\x77"
    assert "ZeroDivisionError: seven" in err and f"--replay {kept}" in err.replace("\n", "")
    assert main(["files", "--replay", str(kept)]) == 1
    monkeypatch.undo()
    assert main(["files", "--replay", str(kept)]) == 0
    assert main(["all", "--replay", str(kept)]) == 2
    assert main(["files", "--replay", str(tmp_path / "none")]) == 2


def test_inputs_are_a_function_of_the_seed() -> None:
    assert case_data("tcp", 1, 5) == case_data("tcp", 1, 5)
    assert len({case_data("tcp", seed, number) for seed in range(3) for number in range(3)}) == 9


def test_statuses_belong_to_their_commands() -> None:
    assert is_allowed(1, 0x02, 0x281) and not is_allowed(1, 0x00, 0x281)
    assert is_allowed(0, 0x05, 0x102) and not is_allowed(0, 0x06, 0x102)
    assert is_allowed(1, 0x02, 0x4080) and not is_allowed(0, 0x06, 0x4080)
    assert not is_allowed(1, 0x02, 0x4000) and not is_allowed(1, 0x02, 0x7F)
