"""The import order of the rooms, read from the source with ast (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROTHERS = {"media", "controller", "transports", "driver"}
LEVEL = {
    "kworker": 0,
    "spec": 0,
    "_core": 0,
    "core": 1,
    **dict.fromkeys(BROTHERS, 2),
    "observe": 3,
    "machine": 4,
    "workload": 5,
    "testing": 6,
    "cli": 7,
}
STDLIB_ONLY = {"kworker": {"greenlet"}}
FORBIDDEN_IN_CONTROLLER = {"threading", "time", "random", "socket", "os"}
SOURCES = sorted(p for room in ("nvme_emu", "kworker") for p in (ROOT / room).rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kworker":
        return "kworker"
    if parts[1:] == ("__main__",):
        return "cli"
    return room_called(parts[1]) if len(parts) > 1 else "nvme_emu"


def room_called(name: str) -> str:
    """The assembler is one room in several files: machine.py, further hosts, devices elsewhere, and copies."""
    return "machine" if name in ("machine_host", "machine_remote", "machine_snapshot", "machine_vfio_user") else name


def imported_modules(path: Path) -> list[str]:
    """Dotted names of what a file imports; the bodies of TYPE_CHECKING blocks count too."""
    names = []
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            stem = ".".join(base + (node.module.split(".") if node.module else []))
            names += [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
    return names


def rooms_imported(path: Path) -> set[str]:
    rooms = set()
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "kworker":
            rooms.add("kworker")
        elif parts[0] == "nvme_emu" and len(parts) > 1 and room_called(parts[1]) in LEVEL:
            rooms.add(room_called(parts[1]))
    return rooms


def test_sources_are_found() -> None:
    assert len(SOURCES) > 40
    assert {room_of(p) for p in SOURCES} >= {
        "kworker",
        "spec",
        "core",
        "media",
        "controller",
        "driver",
        "cli",
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_imports_only_lower_rooms(path: Path) -> None:
    room = room_of(path)
    if room == "nvme_emu" or room == "__init__":  # the package's own front door loads names lazily
        return
    for other in rooms_imported(path) - {room}:
        assert LEVEL[other] < LEVEL[room], f"{path.relative_to(ROOT)} ({room}) imports {other}"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if room_of(p) == "controller"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_controller_file_reaches_for_no_clock_thread_or_system(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported_modules(path)} & FORBIDDEN_IN_CONTROLLER


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if room_of(p) == "kworker"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_kworker_file_knows_nothing_but_the_standard_library(path: Path) -> None:
    import sys

    allowed = set(sys.stdlib_module_names) | STDLIB_ONLY["kworker"] | {"kworker"}
    assert {name.split(".")[0] for name in imported_modules(path)} <= allowed


def test_no_print_below_the_command_line() -> None:
    found = []
    for path in SOURCES:
        if room_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def test_every_package_declares_what_it_offers() -> None:
    import importlib

    for path in SOURCES:
        if path.name != "__init__.py" or not path.read_text().strip():
            continue
        name = ".".join(path.parent.relative_to(ROOT).parts)
        module = importlib.import_module(name)
        assert getattr(module, "__all__", None), f"{name} has no __all__"
        for public in module.__all__:
            assert hasattr(module, public) or importlib.import_module(f"{name}.{public}")
