"""Every kind of effect, and every kind of occurrence that a rule can be about: it fires, is recorded, is waited for."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.faults import EFFECTS
from nvme_emu.core.faults.match import OCCURRENCES
from nvme_emu.core.trace import FaultFired
from nvme_emu.spec.commands import RW_FUA
from nvme_emu.spec.features import Fid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.workload.fault_matrix import CASES

pytestmark = pytest.mark.breaks_rules  # a device that resets itself or lies makes a driver look wrong

MATCHES: dict[str, dict[str, Any]] = {
    "opcode": {"opcode": "write"},
    "opcode number": {"opcode": 0x01, "admin": False},
    "several opcodes": {"opcode": ["write", "flush"]},
    "pattern": {"pattern": "01"},
    "pattern and mask": {"pattern": "00" * 48 + "00000040", "mask": "00" * 48 + "00000040"},
    "queue": {"queue": 1, "opcode": "write"},
    "lba": {"lba": [10, 11], "opcode": "write"},
    "nsid": {"nsid": 1, "opcode": "write"},
    "size": {"size": [1024, 1024]},
    "direction": {"direction": "write", "admin": False},
    "admin": {"admin": True, "opcode": "get_features"},
    "register access": {"register": "CSTS", "access": "read"},
    "register value": {"register": "NSSR", "access": "write", "value": 0x11, "bits": 0xFF},
    "doorbell": {"on": "doorbell", "doorbell": "sq", "queue": 1},
    "interrupt": {"on": "interrupt", "vector": 1},
    "enable": {"on": "enable"},
    "disable": {"on": "disable"},
    "shutdown": {"on": "shutdown"},
    "time": {"on": "time"},
    "manual": {"on": "manual"},
}
HARMLESS: dict[str, dict[str, Any]] = {
    "command": {"delay": {"ns": 10}}, "register": {"register": {"ignore": True}},
    "doorbell": {"doorbell": {"how": "late", "ns": 10}}, "interrupt": {"interrupt": {"how": "late", "ns": 10}},
    "enable": {"stall": {"ns": 10}}, "disable": {"stall": {"ns": 10}}, "shutdown": {"stall": {"ns": 10}},
    "time": {"temperature": {"kelvin": 300}}, "manual": {"temperature": {"kelvin": 300}},
}  # fmt: skip


def exercise(ssd: nvme_emu.Machine) -> None:
    """Something of everything: I/O, an admin command, a property, a reset."""
    ns = ssd.namespaces[1]
    for lba in range(0, 40, 10):
        with contextlib.suppress(NvmeError):
            ns.write(lba, bytes(1024), fua=True)
            ns.read(lba, 2)
    with contextlib.suppress(NvmeError):
        ssd.driver.admin.execute(AdminOpcode.GET_FEATURES, cdw10=Fid.VOLATILE_WRITE_CACHE)
    ssd.port.write32(0x20, 0x11)
    with contextlib.suppress(NvmeError):
        ssd.driver.reset()
    with contextlib.suppress(NvmeError):
        ns.read(0, 1)


def test_matches_have_every_occurrence() -> None:
    occurrences = {match.get("on", "register" if "register" in match else "command") for match in MATCHES.values()}
    assert occurrences == set(OCCURRENCES)
    assert RW_FUA == 0x40000000  # the bit of the pattern


@pytest.mark.parametrize("name", MATCHES)
def test_match_is_recorded_and_waited_for(name: str) -> None:
    match = MATCHES[name]
    on = match.get("on", "register" if "register" in match else "command")
    effect = HARMLESS[on]
    if match.get("access") == "read":
        effect = {"register": {"value": 0, "mask": 0x8000_0000}}
    ssd = nvme_emu.open(size="1M", clock="virtual")
    heard: list[FaultFired] = []
    ssd.trace.add_sink(lambda event: heard.append(event) if isinstance(event, FaultFired) else None)
    when = {"when": {"from_ns": 10}} if on == "time" else {}
    handle = ssd.faults.add({"id": "it", "match": match, **when, "then": effect})
    other = ssd.faults.add({"id": "other", "match": match, "armed": False, **when, "then": effect})
    exercise(ssd)
    if on == "manual":
        handle.fire()
    if on == "shutdown":
        ssd.close()
    else:
        handle.wait(1)
    assert handle.fired == len(handle.firings) == len(heard) >= 1
    assert {event.rule for event in heard} == {"it"}
    assert all(event.ts_ns >= 0 and event.on == on for event in heard)
    assert other.fired == 0
    ssd.close()


@pytest.mark.parametrize("kind", [kind for kind in EFFECTS if kind not in ("tcp", "zone")])
def test_effect_is_recorded_and_waited_for(kind: str) -> None:
    """The lines of docs/faults.md's table: a rule of each, with the command at which it fired."""
    case = next(case for case in CASES if case.kind == kind)
    ssd = nvme_emu.open(size="1M", clock="virtual", mode="async")
    heard: list[FaultFired] = []
    ssd.trace.add_sink(lambda event: heard.append(event) if isinstance(event, FaultFired) else None)
    handles = ssd.faults.load(list(case.rules))
    exercise(ssd)
    handle = next(one for one, rule in zip(handles, case.rules, strict=True) if kind in rule["then"])
    handle.wait(1)
    assert handle.fired >= 1
    fired = [event for event in heard if event.rule == handle.rule.id]
    assert fired
    assert kind in str(fired[0].effects)
    for one in handles:
        one.disarm()
    with contextlib.suppress(NvmeError):
        ssd.close()
