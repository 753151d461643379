"""Write down which keys a real fio's JSON has, for the test that ours has them all.

    python tools/fio_key_tree.py [--fio /usr/bin/fio]

runs tests/unit/workload/data/key_tree.fio on a temporary directory with --output-format=json and json+ and
writes tests/unit/workload/data/fio_json_keys.json: for each format the sorted paths of all keys, with `[]`
for the elements of a list and `*` for the bins of a histogram (whose names are measured values). Needs fio
with libaio; takes a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "tests" / "unit" / "workload" / "data"


def key_paths(value: Any, path: str = "") -> set[str]:
    """The paths of all keys below `value`."""
    if isinstance(value, dict):
        if path.endswith("/bins"):
            return {f"{path}/*"}
        return {found for key, item in value.items() for found in key_paths(item, f"{path}/{key}")} | {path}
    if isinstance(value, list):
        return {found for item in value for found in key_paths(item, f"{path}/[]")} | {path}
    return {path}


def run_fio(fio: str, output_format: str) -> tuple[str, list[str]]:
    """fio's version and the key paths of its output."""
    with tempfile.TemporaryDirectory() as folder:
        command = [fio, f"--output-format={output_format}", str(DATA / "key_tree.fio")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    # Warnings may stand before the object.
    data = json.loads(done.stdout[done.stdout.index("{") :])
    return data["fio version"], sorted(key_paths(data) - {""})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fio", default="fio", help="the fio to ask")
    fio = parser.parse_args().fio
    trees: dict[str, Any] = {}
    for output_format in ("json", "json+"):
        trees["version"], trees[output_format] = run_fio(fio, output_format)
    (DATA / "fio_json_keys.json").write_text(json.dumps(trees, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
