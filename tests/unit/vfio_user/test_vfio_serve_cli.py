"""`nvme-emu serve` as a process: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nvme_emu.spec.vfio_user import HEADER, VERSION, Command

START = [sys.executable, "-c", "from nvme_emu.cli import main; main()", "serve"]


class Served:
    """A running `serve`; `wait_for` reads its standard error up to a line that says so."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*START, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []

    def wait_for(self, text: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}: {self.lines}")

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, "".join(self.lines) + err


def greet(path: Path) -> int:
    """Connect and agree on the version; the size of the answer."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(HEADER.pack(1, Command.VERSION, 20, 0, 0) + VERSION.build())
        return len(client.recv(1000))


def test_interrupt_ends_with_130_and_removes_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "ssd.sock"
    served = Served("--vfio-user", str(path), "--size", "16M")
    served.wait_for("listening")
    assert path.stat().st_mode & 0o777 == 0o600
    code, out, _ = served.end(signal.SIGINT)
    assert (code, out) == (130, "")
    assert not path.exists()


def test_terminate_ends_with_0_and_the_summary_tells_of_every_device(tmp_path: Path) -> None:
    paths = [tmp_path / "a.sock", tmp_path / "b.sock"]
    image = tmp_path / "a.img"
    served = Served(
        "--vfio-user", str(paths[0]), "--vfio-user", str(paths[1]), "--image", str(image), "--size", "16M",
        "--profile", "tlc", "--doorbells", "trapped", "--json",
    )  # fmt: skip
    served.wait_for(f"{paths[1]}: listening")
    assert greet(paths[1]) > 20
    served.wait_for("gone: disconnected")
    code, out, log = served.end(signal.SIGTERM)
    assert code == 0
    summary = json.loads(out)
    assert summary["signal"] == "SIGTERM"
    a, b = summary["devices"]
    assert (a["image"], b["image"]) == (str(image), None)
    assert (a["clients"], b["clients"]) == (0, 1)
    assert a["serial"] != b["serial"]
    assert all(one["bytes"] == 16 << 20 and one["internal_error"] is None for one in (a, b))
    assert all(f"{path}: listening" in log for path in paths)


def test_quiet_prints_nothing_and_json_can_go_to_a_file(tmp_path: Path) -> None:
    path, report = tmp_path / "ssd.sock", tmp_path / "report.json"
    trace = tmp_path / "events.jsonl"
    served = Served("--vfio-user", str(path), "--size", "16M", "--quiet", f"--json={report}", "--trace", str(trace))
    for _ in range(2000):
        if path.exists() and _accepts(path):
            break
        served.process.poll()
        assert served.process.returncode is None
        signal.sigtimedwait([], 0.01)
    code, out, err = served.end(signal.SIGTERM)
    assert (code, out, err) == (0, "", "")
    assert json.loads(report.read_text())["devices"][0]["clients"] == 1
    assert trace.exists()


def _accepts(path: Path) -> bool:
    try:
        return greet(path) > 20
    except ConnectionError:
        return False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to serve"),
        (["--vfio-user", "{tmp}/s", "--image", "a", "--image", "b"], "2 images for 1 socket"),
        (["--vfio-user", "{tmp}/s", "--size", "lots"], "lots"),
        (["--vfio-user", "{tmp}/s", "--profile", "nosuch"], "nosuch"),
        (["--vfio-user", "{tmp}/no/such/dir/s"], "No such file"),
        (["--vfio-user", "{tmp}/file"], "not a socket"),
        (["--vfio-user", "{tmp}/s", "--image", "{tmp}/absent"], "absent"),
        (["--vfio-user", "{tmp}/s", "--vfio-user", "{tmp}/s"], "another server"),
        (["--vfio-user", "{tmp}/" + "x" * 200], "long"),
        (["--doorbells", "loud"], "loud"),
    ],
    ids=range(10),
)
def test_bad_usage_ends_with_2_and_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "file").write_text("not ours")
    given = [word.replace("{tmp}", str(tmp_path)) for word in arguments]
    done = subprocess.run([*START, "--quiet", *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "not ours"
    assert not (tmp_path / "s").exists()
