"""The PCI Express front door: registers and their state machine, rings, arbitration, interrupts."""

from nvme_emu.controller.pcie.arbitration import RoundRobin
from nvme_emu.controller.pcie.interrupts import Interrupts
from nvme_emu.controller.pcie.lifecycle import OUTPUTS, TRANSITIONS, Action, Input, State
from nvme_emu.controller.pcie.registers import RegisterFile
from nvme_emu.controller.pcie.rings import CompletionQueue, Rings, SubmissionQueue

__all__ = [
    "OUTPUTS",
    "TRANSITIONS",
    "Action",
    "CompletionQueue",
    "Input",
    "Interrupts",
    "RegisterFile",
    "Rings",
    "RoundRobin",
    "State",
    "SubmissionQueue",
]
