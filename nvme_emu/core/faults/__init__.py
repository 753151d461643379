"""The language of fault rules: frozen declarations that say when the device goes wrong, and how.

`Rule` is a match, a when and effects. Rules are read from and written to TOML and JSON (`load_rules`, `dump_toml`,
`dump_json`); `testing.faults` writes them in Python. What they do is in `nvme_emu.controller.faults`.
"""

from __future__ import annotations

from nvme_emu.core.faults.document import (
    FaultFileError,
    Problem,
    check_text,
    dump_json,
    dump_toml,
    load_rules,
    parse_rules,
)
from nvme_emu.core.faults.effects import EFFECTS, Effect
from nvme_emu.core.faults.match import Match, When
from nvme_emu.core.faults.rule import Rule, as_rule, named, rule_from, rule_to_plain
from nvme_emu.core.faults.values import FaultError

__all__ = [
    "EFFECTS",
    "Effect",
    "FaultError",
    "FaultFileError",
    "Match",
    "Problem",
    "Rule",
    "When",
    "as_rule",
    "check_text",
    "dump_json",
    "dump_toml",
    "load_rules",
    "named",
    "parse_rules",
    "rule_from",
    "rule_to_plain",
]
