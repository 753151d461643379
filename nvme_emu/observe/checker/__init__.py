"""A sanitizer for drivers: what the host does wrong at the device's border, with rule and clause.

    with nvme_emu.open(check="error") as ssd: …          raises CheckError where the driver breaks a rule
    checker = Checker(controller); checker.attach()      any controller, on any transport
    FabricsChecker(target).attach()                      every host of an NVMe/TCP target
    checker.findings                                     what was found, oldest first

docs/checker.md has the rules.
"""

from __future__ import annotations

from nvme_emu.observe.checker.checker import Checker
from nvme_emu.observe.checker.fabrics import FabricsChecker
from nvme_emu.observe.checker.finding import CheckError, CheckerWarning, Finding, RuleSummary
from nvme_emu.observe.checker.ledger import Ledger
from nvme_emu.observe.checker.rules import RULES, SCOPES, Rule

__all__ = [
    "RULES", "SCOPES", "CheckError", "Checker", "CheckerWarning", "FabricsChecker", "Finding", "Ledger", "Rule",
    "RuleSummary",
]  # fmt: skip
