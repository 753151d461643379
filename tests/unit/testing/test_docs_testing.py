"""docs/testing-your-driver.md from top to bottom: its files are written, its commands run, what they print compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "testing-your-driver.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = {
    "pytest": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=."],
    "python": [sys.executable],
    "nvme-emu": [sys.executable, "-c", "from nvme_emu.cli import main; main()"],
}


def run(line: str, where: Path) -> str:
    name, *arguments = shlex.split(line)
    path = os.pathsep.join(filter(None, [str(where), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [*COMMANDS[name], *arguments],
        cwd=where, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def assert_shows(output: str, expected: list[str], line: str) -> None:
    """Each line in its order, anywhere in a line of the output; an ellipsis stands for anything."""
    rest = output
    for wanted in expected:
        pattern = ".*".join(re.escape(part.strip()).replace(r"\ ", r"\s+") for part in wanted.split("…"))
        found = re.search(pattern, rest)
        assert found, f"{line}: {wanted!r} is not (or not there) in:\n{output}"
        rest = rest[found.end() :]


def test_page_works_as_it_stands(tmp_path: Path) -> None:
    files = commands = 0
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            name = text.partition("\n")[0].removeprefix("# ")
            assert name.endswith(".py"), f"a snippet without a name: {text[:60]!r}"
            (tmp_path / name).write_text(text, encoding="utf-8")
            files += 1
            continue
        assert kind == "console"
        output, line = "", ""
        expected: list[str] = []
        for entry in [*text.splitlines(), "$"]:
            if not entry.startswith("$"):
                expected.append(entry)
                continue
            if line:
                output = run(line, tmp_path)
                assert_shows(output, expected, line)
                commands += 1
            line, expected = entry.removeprefix("$").strip(), []
    assert (files, commands) == (8, 8)
