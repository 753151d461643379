"""docs/fio.md and the table of options say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from nvme_emu.cli import cli
from nvme_emu.workload.options import ASYNC_ENGINES, OPTIONS, SYNC_ENGINES, Rule

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "fio.md").read_text(encoding="utf-8")


def test_docs_name_every_honoured_option_and_engine() -> None:
    words = set(re.findall(r"`([\w-]+)`", DOCS))
    honoured = {row.name for row in OPTIONS.values() if row.rule is Rule.HONOURED}
    assert honoured - words == set()
    assert {*SYNC_ENGINES, *ASYNC_ENGINES} - words == set()


def test_docs_tables_name_honoured_options_only() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", DOCS.partition("| option |")[2], flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 50
    assert [name for name in named if OPTIONS[name].rule is not Rule.HONOURED] == []


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.fio")))
def test_example_file_runs(name: str) -> None:
    command = ["run", str(ROOT / "examples" / name), "--clock", "virtual", "--profile", "optane", "-q"]
    # In virtual time a second of an Optane takes several of ours.
    result = CliRunner().invoke(cli, [*command, "--set", "runtime=5ms"], standalone_mode=False)
    assert result.return_value == 0, result.output
    assert "IOPS=" in result.stdout


def test_docs_example_runs() -> None:
    code = re.search(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1].replace("print(", "shown = ("), names)
    iops, p99 = names["shown"]  # type: ignore[misc]
    assert iops > 10_000 and p99 > 10_000
