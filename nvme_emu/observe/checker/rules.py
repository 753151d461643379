"""The rules, as one table: what each says, where the specification says it, and what must be visible to judge it.

A rule's *mode* says what a transport must show of the host:

    any       commands and properties: every transport
    tcp       capsules, connections and keep alive: NVMe/TCP
    pcie      rings and buffers in host memory: in process, vfio-user
    trapped   each doorbell write, one by one: in process, vfio-user with --doorbells trapped
    process   the driver's memory allocator and interrupt handlers: in process
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CONCERNS", "MODES", "RULES", "SCOPES", "Rule"]

MODES: Final = {
    "any": "every transport",
    "tcp": "NVMe/TCP",
    "pcie": "in process and vfio-user",
    "trapped": "in process and vfio-user with --doorbells trapped",
    "process": "in process",
}

SCOPES: Final[dict[str, frozenset[str]]] = {
    "inproc": frozenset({"any", "pcie", "trapped", "process"}),
    "trapped": frozenset({"any", "pcie", "trapped"}),
    "mmap": frozenset({"any", "pcie"}),
    "tcp": frozenset({"any", "tcp"}),
}
"""What can be judged, by transport and doorbells."""

_PCI_EXPRESS: Final = frozenset({"any", "pcie", "trapped", "process"})
CONCERNS: Final[dict[str, frozenset[str]]] = dict.fromkeys(SCOPES, _PCI_EXPRESS) | {"tcp": SCOPES["tcp"]}
"""What there is to be judged, by the same: there are no rings over NVMe/TCP, and no capsules elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``severity`` "error": the specification forbids it, or calls the outcome undefined. "warning": it advises
    against it, or a driver may have done it for a reason that the device cannot see."""

    id: str
    title: str
    clause: str
    severity: str
    mode: str
    subject: str


_CC, _CSTS = "Base 2.1 §3.1.4.5", "Base 2.1 §3.1.4.6"
_PROPERTIES, _INIT, _SHUTDOWN = "Base 2.1 §3.1.4", "Base 2.1 §3.5", "Base 2.1 §3.6"
_ADMIN_QUEUE = "Base 2.1 §3.1.4.8 to §3.1.4.10"
_DOORBELL = "PCIe Transport 1.1 §3.1.2"
_QUEUES = "Base 2.1 §3.3.1"
_EVENTS = "Base 2.1 §5.1.2"
_CREATE_CQ, _CREATE_SQ = "Base 2.1 §5.2.1", "Base 2.1 §5.2.2"
_DELETE_CQ, _CREATE = "Base 2.1 §5.2.3", "Base 2.1 §5.2.1, §5.2.2"
_DELETE = "Base 2.1 §5.2.3, §5.2.4"
_SQE, _CQE_PHASE, _PRP = "Base 2.1 §4.1.1", "Base 2.1 §4.2.4", "Base 2.1 §4.3.1"
_ABORT, _SET_FEATURES, _IDENTIFY = "Base 2.1 §5.1.1", "Base 2.1 §5.1.25", "Base 2.1 §5.1.13"

_FUSED, _COPY, _FORMAT = "Base 2.1 §3.4.2", "NVM 1.1 §3.3.2", "Base 2.1 §5.1.10"
_ZONES = "ZNS 1.2 §2.1.1"
_SHADOW, _SHADOW_USE = "Base 2.1 §5.2.5", "Base 2.1 Annex B.5"
_CONNECT, _SGL = "Base 2.1 §6.3", "Base 2.1 §4.3.2"

# id, mode, severity, clause, title; E and W are the severities.
_E, _W = "error", "warning"
_TABLE: Final[dict[str, tuple[tuple[str, str, str, str, str], ...]]] = {
    "properties": (
        ("reg-access", "pcie", _E, "PCIe Transport 1.1 §3.1",
         "a property accessed with another width than 4 or 8 bytes, or not on a dword"),
        ("reg-read-only", "pcie", _W, _PROPERTIES, "a read-only or reserved property written"),
        ("reg-interrupt-mask", "pcie", _E, "Base 2.1 §3.1.4.3, §3.1.4.4",
         "INTMS or INTMC written with MSI-X in use"),
        ("reg-nssr", "pcie", _W, "Base 2.1 §3.1.4.7",
         "NSSR written without effect: another value, or not supported"),
        ("cc-reserved", "any", _W, _CC, "reserved bits set in CC"),
        ("cc-changed-enabled", "any", _E, _CC, "CC.MPS, CC.CSS or CC.AMS changed while CC.EN is 1"),
        ("cc-entry-size", "any", _E, _CC, "CC.IOSQES or CC.IOCQES changed while I/O queues exist"),
        ("cc-unsupported", "any", _E, _CC, "enabled with a value that CAP or Identify does not offer"),
        ("adminq-enabled", "pcie", _E, _ADMIN_QUEUE, "AQA, ASQ or ACQ written while CC.EN is 1"),
        ("adminq-reserved", "pcie", _W, _ADMIN_QUEUE, "reserved bits set in AQA, ASQ or ACQ"),
        ("adminq-size", "pcie", _E, "Base 2.1 §3.1.4.8",
         "enabled with an admin queue of less than two entries"),
        ("adminq-memory", "pcie", _E, _ADMIN_QUEUE,
         "enabled with an admin queue outside host memory, off a memory page, or over the other one"),
    ),
    "lifecycle": (
        ("reset-not-awaited", "any", _E, _CC, "CC.EN set before CSTS.RDY was seen to be 0 after a reset"),
        ("disable-not-ready", "any", _W, _CC, "CC.EN cleared while CSTS.RDY is 0 and nothing failed"),
        ("ready-not-awaited", "any", _E, _INIT, "a command submitted before CSTS.RDY was seen to be 1"),
        ("doorbell-not-ready", "pcie", _E, _INIT,
         "a doorbell rung while the controller is disabled or not ready"),
        ("doorbell-shut-down", "pcie", _E, _SHUTDOWN, "a command submitted after CC.SHN was set"),
        ("shutdown-reserved", "any", _E, _CC, "CC.SHN set to its reserved value"),
        ("shutdown-in-flight", "any", _W, _SHUTDOWN,
         "a normal shutdown begun while I/O commands are outstanding"),
        ("shutdown-not-awaited", "any", _E, _SHUTDOWN,
         "the controller reset or left before CSTS.SHST was seen to say that the shutdown is complete"),
        ("shutdown-cleared", "any", _W, _SHUTDOWN, "CC.SHN cleared without a reset after a shutdown"),
        ("left-without-shutdown", "any", _W, _SHUTDOWN,
         "the host has gone from a controller that works, without CC.SHN"),
    ),
    "doorbells": (
        ("doorbell-access", "pcie", _E, _DOORBELL, "a doorbell written with another width than 4 bytes"),
        ("doorbell-offset", "pcie", _E, _DOORBELL, "a write between or behind the doorbells"),
        ("doorbell-read", "pcie", _W, _DOORBELL, "a doorbell read"),
        ("doorbell-reserved", "trapped", _E, _DOORBELL, "reserved bits set in a doorbell"),
        ("doorbell-no-queue", "pcie", _E, _EVENTS, "the doorbell of a queue that was never created"),
        ("doorbell-deleted", "pcie", _E, _EVENTS, "the doorbell of a queue that was deleted"),
        ("sq-tail-range", "pcie", _E, _EVENTS, "a submission queue tail beyond the queue"),
        ("sq-tail-same", "trapped", _E, _EVENTS, "a submission queue tail written again: nothing new"),
        ("sq-overrun", "trapped", _E, _QUEUES,
         "a submission queue tail backwards, or over entries that SQHD has not given back"),
        ("cq-head-range", "pcie", _E, _EVENTS, "a completion queue head beyond the queue"),
        ("cq-head-same", "trapped", _E, _EVENTS, "a completion queue head written again: nothing consumed"),
        ("cq-head-past-tail", "pcie", _E, _EVENTS, "more completions consumed than were posted"),
        ("cq-stale-phase", "pcie", _E, _CQE_PHASE,
         "completions of the last pass consumed again: the phase was not looked at"),
    ),
    "shadow doorbells": (
        ("shadow-memory", "pcie", _E, _SHADOW,
         "a page of shadow doorbells outside host memory, off a memory page, over a queue or over the other one"),
        ("shadow-freed", "pcie", _E, _SHADOW,
         "the memory of shadow doorbells taken away while the controller may use it"),
        ("shadow-reserved", "pcie", _E, _SHADOW, "reserved bits set in a shadow doorbell"),
        ("shadow-not-written", "trapped", _E, _SHADOW_USE,
         "a doorbell rung without its shadow doorbell written before"),
        ("shadow-differs", "process", _E, _SHADOW_USE, "a doorbell rung with another value than its shadow doorbell"),
        ("shadow-doorbell-missing", "trapped", _E, _SHADOW_USE,
         "an entry given up whose doorbell was never rung, though its tail had passed EventIdx"),
        ("event-idx-written", "pcie", _E, _SHADOW, "EventIdx written by the host"),
    ),
    "queues": (
        ("sqe-changed", "trapped", _E, _QUEUES, "an entry changed between its doorbell and its fetch"),
        ("cq-phase-init", "pcie", _E, _CQE_PHASE,
         "a completion queue given to the controller with Phase Tags that are not 0"),
        ("cq-scribbled", "pcie", _E, _CQE_PHASE,
         "a slot of a completion queue written by the host: it looks like a new completion"),
        ("queue-freed", "pcie", _E, _QUEUES,
         "the memory of a queue taken away while the controller may use it"),
        ("queue-exists", "pcie", _E, _CREATE, "a queue created with an identifier that is in use"),
        ("queue-identifier", "pcie", _E, _CREATE,
         "a queue created with an identifier beyond those granted"),
        ("queue-size", "pcie", _E, _CREATE,
         "a queue created with less than two entries or more than CAP.MQES"),
        ("queue-contiguous", "pcie", _E, _CREATE, "a queue created in a list of pages though CAP.CQR is 1"),
        ("queue-memory", "pcie", _E, _CREATE, "a queue created outside host memory or off a memory page"),
        ("queue-overlap", "pcie", _E, _CREATE, "a queue created over the memory of another"),
        ("queue-unknown", "pcie", _E, _DELETE, "a queue deleted that does not exist"),
        ("sq-without-cq", "pcie", _E, _CREATE_SQ,
         "a submission queue created for a completion queue that does not exist"),
        ("cq-deleted-first", "pcie", _E, _DELETE_CQ,
         "a completion queue deleted before its submission queues"),
        ("cq-vector", "pcie", _E, _CREATE_CQ,
         "a completion queue with an interrupt vector that the device does not have"),
        ("vector-unmapped", "process", _E, _CREATE_CQ,
         "a completion queue whose interrupts nobody receives"),
        ("queues-unasked", "any", _W, _INIT,
         "I/O queues created without Set Features, Number of Queues before"),
        ("number-of-queues-late", "any", _E, _SET_FEATURES,
         "Number of Queues set after I/O queues were created"),
    ),
    "commands": (
        ("cid-reused", "any", _E, _SQE, "a command identifier used again while it is outstanding"),
        ("cid-reserved", "any", _W, _SQE, "command identifier FFFFh, which stands for no command"),
        ("flags-reserved", "any", _E, _SQE, "reserved bits set in command dword 0"),
        ("reserved-value", "any", _E, _SQE, "a field of a command with a value that is reserved"),
        ("fused-unsupported", "any", _E, _SQE, "an admin command that is fused, or FUSE with its reserved value"),
        ("fused-pair", "any", _E, _FUSED,
         "a fused command without its other half next to it, or halves that do not belong together"),
        ("fused-doorbell", "trapped", _E, _FUSED, "the halves of a fused pair submitted by two doorbells"),
        ("sgl-unsupported", "pcie", _E, _SQE, "SGLs where the controller takes PRPs"),
        ("opcode-unsupported", "any", _W, _SQE, "an opcode that the controller does not offer"),
        ("reserved-field", "any", _E, _SQE, "a reserved field of a command that is not 0"),
        ("nsid-unused", "any", _E, _SQE, "a namespace in a command that uses none"),
        ("nsid-invalid", "any", _E, "Base 2.1 §3.2.1",
         "a command for a namespace that does not exist, or is not attached"),
        ("namespace-busy", "any", _W, _FORMAT,
         "an I/O command for a namespace that is being formatted or sanitized"),
        ("namespace-in-use", "any", _W, _FORMAT,
         "a namespace formatted, sanitized, detached or deleted with I/O commands outstanding"),
        ("lba-range", "any", _E, "NVM 1.1 §3.3", "blocks behind the end of the namespace"),
        ("mdts-exceeded", "any", _E, _IDENTIFY, "a transfer larger than Identify's MDTS allows"),
        ("write-zeroes-limit", "any", _E, "NVM 1.1 §3.3.8",
         "more blocks zeroed by a command than WZSL allows"),
        ("verify-limit", "any", _E, "NVM 1.1 §3.3.5", "more blocks verified by a command than VSL allows"),
        ("write-uncorrectable-limit", "any", _E, "NVM 1.1 §3.3.7",
         "more blocks marked by a command than WUSL allows"),
        ("dsm-limit", "any", _E, "NVM 1.1 §3.3.3", "more ranges or blocks than DMRL, DMRSL or DMSL allow"),
        ("copy-format", "any", _E, _COPY, "a descriptor format that the controller does not take"),
        ("copy-limit", "any", _E, _COPY, "more ranges or blocks than MSRC, MSSRL or MCL allow"),
        ("copy-overlap", "any", _E, _COPY, "blocks copied over themselves"),
        ("host-identifier", "any", _E, "Base 2.1 §8.1.22", "a reservation command before the Host Identifier was set"),
        ("not-registered", "any", _W, "Base 2.1 §8.1.22",
         "a reservation acquired or released by a host that is not registered"),
        ("zone-write", "pcie", _E, _ZONES,
         "a zone written off its write pointer or beyond its capacity, or one that is full, read-only or offline"),
        ("zone-read", "pcie", _E, _ZONES, "a read across zones where the namespace has none, or from an offline zone"),
        ("zone-resources", "pcie", _E, _ZONES, "more zones open or active than MOR and MAR allow"),
        ("zone-start", "pcie", _E, _ZONES, "a zone named by another block than its first"),
        ("zone-transition", "pcie", _E, _ZONES, "an action that a zone's state does not allow"),
        ("zone-append-limit", "pcie", _E, "ZNS 1.2 §3.4.1", "more appended by a command than ZASL allows"),
        ("dsm-range", "any", _E, "NVM 1.1 §3.3.3",
         "a Dataset Management range behind the end of the namespace"),
        ("abort-nothing", "trapped", _W, _ABORT, "an Abort of a command that is not outstanding"),
        ("abort-limit", "any", _E, _ABORT, "more Aborts outstanding than Identify's ACL allows"),
        ("aer-limit", "any", _E, _EVENTS,
         "more Asynchronous Event Requests outstanding than Identify's AERL allows"),
        ("feature-reserved", "any", _E, _SET_FEATURES, "reserved bits set in the value of a feature"),
        ("feature-not-saveable", "any", _W, _SET_FEATURES, "a feature saved that cannot be"),
        ("log-offset", "any", _E, "Base 2.1 §5.1.12", "a log page read from an offset that is not on a dword"),
        ("format-unsupported", "any", _E, _FORMAT, "an LBA format or protection that the controller does not offer"),
        ("controller-list", "any", _E, "Base 2.1 §5.1.20",
         "a namespace attached to a list of controllers that is empty or not in ascending order"),
        ("operation-running", "any", _W, "Base 2.1 §5.1.5, §5.1.22",
         "a self-test or sanitize operation begun while one runs"),
        ("firmware-overlap", "any", _E, "Base 2.1 §5.1.9", "a part of a firmware image sent twice"),
        ("firmware-incomplete", "any", _E, "Base 2.1 §5.1.8", "a firmware image stored of which parts are missing"),
        ("firmware-slot", "any", _E, "Base 2.1 §5.1.8", "a firmware slot that is not there, read-only or empty"),
    ),
    "fabrics": (
        ("connect-first", "tcp", _E, _CONNECT, "another command than Connect as the first of a queue"),
        ("connect-twice", "tcp", _E, _CONNECT, "Connect on a queue that is connected"),
        ("connect-parameter", "tcp", _E, _CONNECT, "Connect with a queue, size, controller or format that cannot be"),
        ("connect-not-ready", "tcp", _E, _CONNECT,
         "an I/O queue connected before the controller was enabled and CSTS.RDY seen to be 1"),
        ("command-not-ready", "tcp", _E, "Base 2.1 §3.5.2", "a command while the controller is disabled or not ready"),
        ("command-shut-down", "tcp", _E, "Base 2.1 §3.6.2", "a command submitted after CC.SHN was set"),
        ("authentication-first", "tcp", _E, "Base 2.1 §8.3.4",
         "a command before the authentication that Connect asked for"),
        ("fabrics-queue", "tcp", _E, "Base 2.1 §6", "a Fabrics command on a queue of the wrong kind"),
        ("property-unknown", "tcp", _E, "Base 2.1 §6.5, §6.6",
         "a property of another offset or size than there is, or a read-only one set"),
        ("queue-full", "tcp", _E, "Base 2.1 §3.3.2", "more commands outstanding than the queue has entries"),
        ("sgl-missing", "tcp", _E, "Base 2.1 §4.1.1", "a command over fabrics with PRPs"),
        ("capsule-offset", "tcp", _E, _SGL, "an SGL that reaches out of the capsule's data"),
        ("pdu-invalid", "tcp", _E, "TCP 1.1 §3.6", "a PDU for which the controller has to end the connection"),
        ("pdu-digest", "tcp", _W, "TCP 1.1 §3.6", "data that does not agree with its digest"),
        ("keep-alive-off", "tcp", _W, "Base 2.1 §3.9", "no keep alive timer for an I/O controller"),
        ("keep-alive-late", "tcp", _W, "Base 2.1 §3.9", "nothing heard of the host for the Keep Alive Timeout"),
    ),
    "buffers": (
        ("prp1-offset", "pcie", _E, _PRP, "PRP1 not on a dword"),
        ("prp-offset", "pcie", _E, _PRP, "an offset in PRP2 or in a PRP list entry"),
        ("prp-list-offset", "pcie", _E, _PRP,
         "a PRP list that is not on eight bytes, or a chained one not on a page"),
        ("prp-list-memory", "pcie", _E, _PRP, "a PRP list outside host memory"),
        ("prp-list-freed", "process", _E, _PRP, "a PRP or SGL list in a page that the driver has freed"),
        ("prp-list-changed", "pcie", _E, _PRP, "a PRP or SGL list changed while its command is outstanding"),
        ("prp2-unused", "pcie", _W, _PRP, "PRP2 set though the transfer does not use it"),
        ("prp-repeated", "pcie", _W, _PRP, "a read into one page twice"),
        ("sgl-type", "any", _E, _SGL, "an SGL descriptor that the controller or the transport does not have"),
        ("sgl-length", "any", _E, _SGL, "an SGL shorter than what the command moves"),
        ("sgl-list", "pcie", _E, _SGL,
         "an SGL segment outside host memory, off its alignment, or with a pointer in the wrong place"),
        ("buffer-memory", "pcie", _E, _PRP,
         "a data buffer outside host memory, or not writable for a read"),
        ("mptr-offset", "pcie", _E, "Base 2.1 §4.1.1", "MPTR not on a dword"),
        ("mptr-memory", "pcie", _E, "Base 2.1 §4.1.1",
         "a metadata buffer outside host memory, or not writable for a read"),
        ("buffer-over-queue", "pcie", _E, _PRP, "a read into the memory of a queue"),
        ("buffer-written", "pcie", _E, _QUEUES,
         "a buffer written by the host while a read into it is outstanding"),
        ("buffer-changed", "pcie", _W, _QUEUES,
         "a buffer changed by the host while a write from it is outstanding"),
        ("buffer-freed", "pcie", _E, _QUEUES, "a buffer taken away while its command is outstanding"),
    ),
}  # fmt: skip

RULES: Final[dict[str, Rule]] = {
    ident: Rule(id=ident, title=title, clause=clause, severity=severity, mode=mode, subject=subject)
    for subject, rules in _TABLE.items()
    for ident, mode, severity, clause, title in rules
}
"""Every rule by its id, in the order of the table."""

assert len(RULES) == sum(map(len, _TABLE.values())), "two rules share an id"
assert all(rule.mode in MODES for rule in RULES.values())
