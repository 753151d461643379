"""docs/faults.md: its snippets run, its tables are complete."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from nvme_emu.core.faults import EFFECTS, Match, When, parse_rules
from nvme_emu.core.faults.match import FIELDS_OF

TEXT = (Path(__file__).parents[3] / "docs" / "faults.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_of_the_page_runs(code: str) -> None:
    exec(compile(code, "docs/faults.md", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_of_the_page_is_right(text: str) -> None:
    assert parse_rules(text)


def rows(after: str) -> dict[str, str]:
    section = TEXT.split(after, 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    return {line.split("|")[1].strip(): line for line in table}


def test_every_kind_of_effect_and_value_is_in_the_table() -> None:
    found = rows("\n## Then")
    assert {key.strip("`") for key in found} == set(EFFECTS)
    for kind, effect in EFFECTS.items():
        for one in dataclasses.fields(effect):  # type: ignore[arg-type]
            assert f"`{one.name}`" in found[f"`{kind}`"], f"{kind}.{one.name}"


def test_every_occurrence_and_key_of_match_and_when_is_told() -> None:
    section = TEXT.split("\n## Match", 1)[1].split("\n## Then", 1)[0]
    keys = [one.name for kind in (Match, When) for one in dataclasses.fields(kind)]
    for word in [*FIELDS_OF, *keys]:
        assert f"`{word}`" in section or f"`{word} =" in section, word
