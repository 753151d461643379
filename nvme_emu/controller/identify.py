"""Identify: what the host can find out (NVMe Base 2.1, clause 5.1.13; NVM Command Set 1.1, clause 4.1.5).

    CNS  structure                                   NSID          FFFFFFFFh    inactive    invalid
    00h  Identify Namespace                          namespace     Invalid NS   zeros       Invalid NS
    01h  Identify Controller                         -
    02h  active namespaces above NSID                lower bound   Invalid NS
    03h  namespace identification descriptors        namespace     Invalid NS   Invalid NS  Invalid NS
    05h  Identify Namespace of a command set         namespace     Invalid NS   zeros       Invalid NS
    06h  Identify Controller of a command set        -
    07h  active namespaces of a command set          lower bound   Invalid NS
    08h  command set independent Identify Namespace  namespace     Invalid NS   zeros       Invalid NS
    09h  Identify Namespace of a format index        -
    0Ah  the same of a command set                   -
    10h  allocated namespaces above NSID             lower bound   Invalid NS
    11h  Identify Namespace, allocated               namespace     Invalid NS   zeros       Invalid NS
    12h  controllers attached to a namespace         namespace     Invalid Fld  Invalid Fld Invalid NS
    13h  controllers of the subsystem                -
    19h  endurance groups                            -
    1Ah  allocated namespaces of a command set       lower bound   Invalid NS
    1Bh  05h for an allocated namespace              namespace     Invalid NS   zeros       Invalid NS
    1Ch  I/O command set combinations                -
    1Fh  08h for an allocated namespace              namespace     Invalid NS   zeros       Invalid NS

00h and 05h with FFFFFFFFh tell the capabilities that all namespaces have (Namespace Management is offered). Without
it they end with Invalid Namespace or Format. Identify Controller is made from the command tables and the
configuration: it cannot promise a command that nobody handles. Fields that a CNS does not use are ignored.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.allocation import used_blocks
from nvme_emu.controller.ana import ANA_CAPABILITIES, ANA_TRANSITION_S
from nvme_emu.controller.data_pointer import sgl_support
from nvme_emu.controller.endurance import endurance_group_list, group_of
from nvme_emu.controller.firmware import SLOTS
from nvme_emu.controller.format_nvm import FORMAT_ATTRIBUTES
from nvme_emu.controller.holds import WriteProtection
from nvme_emu.controller.locations import NSID, location
from nvme_emu.controller.metadata import describe_formats, describe_metadata, formats_offered
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.controller.nvm_copy import COPY_BLOCKS_MAX, COPY_FORMATS, COPY_RANGE_BLOCKS_MAX, COPY_RANGES_MAX
from nvme_emu.controller.persistent_events import PELS, sanicap
from nvme_emu.controller.power_identify import describe_power
from nvme_emu.controller.reservations import RESERVATION_CAPABILITIES
from nvme_emu.controller.zoned_admin import (
    ZONED_IDENTIFIES,
    asked_for_zoned,
    command_set_list,
    command_set_of,
    io_command_sets,
)
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import IDENTIFY_CDW10, IDENTIFY_CDW11
from nvme_emu.spec.identify import (
    CMIC,
    CONTROLLER_LIST,
    CQES,
    CSI_NVM,
    CTRATT,
    DLFEAT,
    FPI,
    FRMW,
    FUSES,
    IDENTIFY_CONTROLLER,
    IDENTIFY_INDEPENDENT_NAMESPACE,
    IDENTIFY_IO_COMMAND_SET,
    IDENTIFY_NAMESPACE,
    IDENTIFY_NVM_CONTROLLER,
    IDENTIFY_NVM_NAMESPACE,
    LPA,
    NMIC,
    NSATTR,
    NSFEAT,
    NSTAT,
    NWPC,
    OACS,
    OAES,
    ONCS,
    SQES,
    VWC,
    Cns,
    Nidt,
    NsDescriptor,
    build_ns_descriptors,
    namespace_list,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import CQES_LOG2, NSID_BROADCAST, SQES_LOG2
from nvme_emu.spec.registers import VS
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = ["IDENTIFIES", "default_subnqn", "identify"]

_CNTRLTYPE_IO: Final = 1
_FLUSH_BROADCAST_SUPPORTED: Final = 3
_DEALLOCATED_READS_ZERO: Final = 1
_ATOMIC_BLOCKS_Z: Final = 0xFFFF
"""A command is done in one go: no other sees a part of it. What a loss of power leaves whole is AWUPF."""
_WRITE_PROTECTION_STATES: Final = NWPC.pack(nwpwps=1, wpupcs=1, pwps=1)
_CNTID_SELF: Final = 0xFFFF
_CONTROLLERS_LISTED_MAX: Final = 2047
_NVM_COMMAND_SET_VERSION: Final = VS.pack(mjr=1, mnr=1)

_CNS = location(10, IDENTIFY_CDW10, "cns")
_CNTID = location(10, IDENTIFY_CDW10, "cntid")
_CNSSID = location(11, IDENTIFY_CDW11, "cnssid")
_CSI = location(11, IDENTIFY_CDW11, "csi")

_ONCS_OF_OPCODE: Final = {
    NvmOpcode.COMPARE: "nvmcmps",
    NvmOpcode.WRITE_UNCORRECTABLE: "nvmwusv",
    NvmOpcode.DATASET_MANAGEMENT: "nvmdsmsv",
    NvmOpcode.WRITE_ZEROES: "nvmwzsv",
    NvmOpcode.RESERVATION_REGISTER: "reservs",
    NvmOpcode.VERIFY: "nvmvfys",
    NvmOpcode.COPY: "nvmcpys",
}

_OACS_OF_OPCODE: Final[dict[int, str]] = {
    AdminOpcode.SECURITY_SEND: "ssrs",
    AdminOpcode.FORMAT_NVM: "fnvms",
    AdminOpcode.FIRMWARE_COMMIT: "fwds",
    AdminOpcode.NAMESPACE_MANAGEMENT: "nms",
    AdminOpcode.DEVICE_SELF_TEST: "dsts",
    AdminOpcode.DIRECTIVE_SEND: "dirs",
    AdminOpcode.DOORBELL_BUFFER_CONFIG: "dbcs",
    AdminOpcode.GET_LBA_STATUS: "glss",
}
_FIRMWARE_ANY_GRANULARITY: Final = 0xFF
_NS_PER_100_MS: Final = 100_000_000
_NS_PER_MINUTE: Final = 60_000_000_000


def default_subnqn(config: ControllerConfig) -> str:
    """A subsystem name in the UUID format of clause 4.7; one vendor, serial number and model, one name."""
    digest = hashlib.sha256(f"{config.vid:#x}/{config.sn}/{config.mn}".encode()).digest()
    return f"nqn.2014-08.org.nvmexpress:uuid:{uuid.UUID(bytes=digest[:16], version=4)}"


# Which namespace, which command set --------------------------------------------------------------------


def _namespace(ctrl: Controller, cmd: Command) -> Namespace | None:
    """The namespace of NSID, None if it is inactive. Raises CommandError if NSID is invalid or FFFFFFFFh."""
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    return ctrl.namespaces.get(cmd.nsid)


def _allocated(ctrl: Controller, cmd: Command) -> Namespace | None:
    """As `_namespace`, of the subsystem's namespaces."""
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    return ctrl.subsystem.namespaces.get(cmd.nsid)


def _manages(ctrl: Controller) -> bool:
    return AdminOpcode.NAMESPACE_MANAGEMENT in ctrl.admin_handlers


def _lower_bound(cmd: Command) -> int:
    """NSID of a list: the identifiers above it are wanted. FFFFFFFEh and FFFFFFFFh leave none."""
    if cmd.nsid >= NSID_BROADCAST - 1:
        raise CommandError(Status.INVALID_NS, location=NSID)
    return cmd.nsid


def _check_csi(cmd: Command) -> None:
    if IDENTIFY_CDW11["csi"].extract(cmd.cdw11) != CSI_NVM:
        raise CommandError(Status.INVALID_FIELD, location=_CSI)


# The structures ----------------------------------------------------------------------------------------


def _sharing(namespace: Namespace) -> int:
    return NMIC.pack(shrns=int(namespace.shared))


def _format_progress(ctrl: Controller, namespace: Namespace) -> int:
    return FPI.pack(fpis=1, fpil=namespace.progress(ctrl.now_ns) or 0)


def _protected(namespace: Namespace) -> int:
    return NSATTR.pack(cwp=int(namespace.protection is not WriteProtection.NONE))


def _capabilities(ctrl: Controller) -> dict[str, Any]:
    """What every namespace of this controller can do, whatever its format."""
    return {
        "rescap": RESERVATION_CAPABILITIES,
        "mssrl": COPY_RANGE_BLOCKS_MAX,
        "mcl": COPY_BLOCKS_MAX,
        "msrc_z": COPY_RANGES_MAX - 1,
        "dlfeat": DLFEAT.pack(drb=_DEALLOCATED_READS_ZERO, wzds=1),
        **describe_formats(ctrl.config),
    }


def _identify_namespace(ctrl: Controller, cmd: Command) -> bytes:
    if cmd.nsid == NSID_BROADCAST and _manages(ctrl):
        return IDENTIFY_NAMESPACE.build(**_capabilities(ctrl))
    return _namespace_data(ctrl, _namespace(ctrl, cmd))


def _identify_allocated(ctrl: Controller, cmd: Command) -> bytes:
    return _namespace_data(ctrl, _allocated(ctrl, cmd))


def _namespace_data(ctrl: Controller, namespace: Namespace | None) -> bytes:
    if namespace is None:
        return IDENTIFY_NAMESPACE.build()
    used = namespace.nsze
    if namespace.sparse:
        used = min(used, -(-namespace.media.allocated_bytes() // namespace.lba_size))
    known = used_blocks(namespace)
    used = used if known is None else known
    lost = ctrl.ana.lost(namespace)
    return IDENTIFY_NAMESPACE.build(
        nsze=namespace.nsze,
        ncap=namespace.nsze,
        nuse=0 if lost else used,
        nsfeat=NSFEAT.pack(thinp=int(namespace.sparse), dae=int(known is not None)),
        nmic=_sharing(namespace),
        fpi=_format_progress(ctrl, namespace),
        nvmcap=0 if lost else namespace.medium.nbytes,
        anagrpid=namespace.anagrpid,
        endgid=group_of(ctrl.config),
        nsattr=_protected(namespace),
        nguid=namespace.nguid,
        eui64=namespace.eui64,
        **describe_metadata(namespace, ctrl.config),
        **_capabilities(ctrl),
    )


def _format_index(ctrl: Controller, cmd: Command) -> int:
    """The user data format that CNS 09h and 0Ah ask about."""
    index: int = IDENTIFY_CDW11["cnssid"].extract(cmd.cdw11)
    if index >= len(formats_offered(ctrl.config)):
        raise CommandError(Status.INVALID_FIELD, location=_CNSSID)
    return index


def _namespace_format(ctrl: Controller, cmd: Command) -> bytes:
    _format_index(ctrl, cmd)
    return IDENTIFY_NAMESPACE.build(**_capabilities(ctrl))


def _iocs_namespace_format(ctrl: Controller, cmd: Command) -> bytes:
    _check_csi(cmd)
    _format_index(ctrl, cmd)
    return IDENTIFY_NVM_NAMESPACE.build()


def _attributes(config: ControllerConfig) -> int:
    # Behind a fabric any command is as good as Keep Alive.
    return CTRATT.pack(hids=1, rhii=1, egs=int(config.endurance_group), tbkas=int(config.message_based))


def _sharing_of(config: ControllerConfig) -> int:
    """CMIC: behind a fabric every connection makes a controller."""
    several = int(config.message_based or config.controllers > 1)
    return CMIC.pack(mports=several, mctrs=several, anars=int(config.ana_groups > 0))


def _identify_controller(ctrl: Controller, cmd: Command) -> bytes:
    config = ctrl.config
    oncs = {field: int(opcode in NVM_HANDLERS) for opcode, field in _ONCS_OF_OPCODE.items()}
    fields: dict[str, Any] = {
        "vid": config.vid,
        "ssvid": config.ssvid,
        "sn": config.sn,
        "mn": config.mn,
        "fr": ctrl.subsystem.firmware.revision,
        "rab": config.rab,
        "ieee": config.ieee_oui,
        "mdts": config.mdts,
        "cntlid": config.cntlid,
        "ver": ctrl.registers.vs,
        "rtd3r": max(1, -(-config.ready_ns // 1000)),
        "rtd3e": config.rtd3e_us,
        "oaes": ctrl.notices_offered & ~OAES.reserved_mask,
        "cntrltype": _CNTRLTYPE_IO,
        "acl_z": config.acl_z,
        "aerl_z": config.aerl_z,
        "oacs": OACS.pack(**{name: int(op in ctrl.admin_handlers) for op, name in _OACS_OF_OPCODE.items()}),
        "frmw": FRMW.pack(ffsro=1, nofs=SLOTS, fawr=1),
        "fwug": _FIRMWARE_ANY_GRANULARITY,
        "mtfa": -(-config.firmware_activation_ns // _NS_PER_100_MS),
        "fna": FORMAT_ATTRIBUTES,
        "edstt": max(1, -(-config.self_test_extended_ns // _NS_PER_MINUTE)),
        "sanicap": sanicap(),
        "lpa": LPA.pack(cses=1, lpeds=1, ts=1, pes=1, mlps=1),
        "pels": PELS,
        "elpe_z": config.elpe_z,
        "kas": config.kas,
        "tnvmcap": ctrl.subsystem.capacity.total,
        "unvmcap": ctrl.subsystem.capacity.unallocated,
        "sqes": SQES.pack(required=SQES_LOG2, maximum=SQES_LOG2),
        "cqes": CQES.pack(required=CQES_LOG2, maximum=CQES_LOG2),
        "nn": config.namespaces_max,
        "mnan": config.namespaces_max,
        "oncs": ONCS.pack(ssfs=1, tss=1, nvmafc=1, **oncs),
        "fuses": FUSES.pack(fcws=1),
        "awun_z": _ATOMIC_BLOCKS_Z,
        "awupf_z": config.awupf_z,
        "acwu_z": _ATOMIC_BLOCKS_Z,
        "nwpc": _WRITE_PROTECTION_STATES,
        "cdfs": COPY_FORMATS,
        "ctratt": _attributes(config),
        "cmic": _sharing_of(config),
        "endgidmax": group_of(config),
        "vwc": VWC.pack(vwcp=int(config.volatile_write_cache), fb=_FLUSH_BROADCAST_SUPPORTED),
        "subnqn": config.subnqn or default_subnqn(config),
        "sgls": sgl_support(config),
    }
    if config.ana_groups:
        fields |= {
            "anatt": ANA_TRANSITION_S,
            "anacap": ANA_CAPABILITIES,
            "anagrpmax": config.ana_groups,
            "nanagrpid": config.ana_groups,
        }
    describe_power(config, fields)
    fields.update(ctrl.identify_fields)
    return IDENTIFY_CONTROLLER.build(**fields)


def _active_list(ctrl: Controller, cmd: Command) -> bytes:
    return namespace_list(ctrl.namespaces, after=_lower_bound(cmd))


def _allocated_list(ctrl: Controller, cmd: Command) -> bytes:
    return namespace_list(ctrl.subsystem.namespaces, after=_lower_bound(cmd))


def _iocs_allocated_list(ctrl: Controller, cmd: Command) -> bytes:
    _check_csi(cmd)
    return command_set_list(ctrl.subsystem.namespaces, CSI_NVM, _lower_bound(cmd))


def _descriptors(ctrl: Controller, cmd: Command) -> bytes:
    namespace = _namespace(ctrl, cmd)
    if namespace is None:
        raise CommandError(Status.INVALID_NS, location=NSID)
    return build_ns_descriptors(
        [
            NsDescriptor(Nidt.EUI64, namespace.eui64),
            NsDescriptor(Nidt.NGUID, namespace.nguid),
            NsDescriptor(Nidt.UUID, namespace.uuid.bytes),
            NsDescriptor(Nidt.CSI, bytes([command_set_of(namespace)])),
        ]
    )


def _iocs_namespace(ctrl: Controller, cmd: Command) -> bytes:
    """For the NVM command set: no metadata, no protection information, so that all of it is zero."""
    _check_csi(cmd)
    if cmd.nsid != NSID_BROADCAST or not _manages(ctrl):
        _namespace(ctrl, cmd)
    return IDENTIFY_NVM_NAMESPACE.build()


def _iocs_allocated_namespace(ctrl: Controller, cmd: Command) -> bytes:
    _check_csi(cmd)
    _allocated(ctrl, cmd)
    return IDENTIFY_NVM_NAMESPACE.build()


def _iocs_controller(ctrl: Controller, cmd: Command) -> bytes:
    _check_csi(cmd)
    config = ctrl.config
    return IDENTIFY_NVM_CONTROLLER.build(
        vsl=config.vsl,
        wzsl=config.wzsl,
        wusl=config.wusl,
        dmrl=config.dmrl,
        dmrsl=config.dmrsl,
        dmsl=config.dmsl,
        ver=_NVM_COMMAND_SET_VERSION,
    )


def _iocs_active_list(ctrl: Controller, cmd: Command) -> bytes:
    _check_csi(cmd)
    return command_set_list(ctrl.namespaces, CSI_NVM, _lower_bound(cmd))


def _independent_namespace(ctrl: Controller, cmd: Command) -> bytes:
    return _independent_data(ctrl, _namespace(ctrl, cmd))


def _independent_allocated(ctrl: Controller, cmd: Command) -> bytes:
    return _independent_data(ctrl, _allocated(ctrl, cmd))


def _independent_data(ctrl: Controller, namespace: Namespace | None) -> bytes:
    if namespace is None:
        return IDENTIFY_INDEPENDENT_NAMESPACE.build()
    return IDENTIFY_INDEPENDENT_NAMESPACE.build(
        nmic=_sharing(namespace),
        rescap=RESERVATION_CAPABILITIES,
        anagrpid=namespace.anagrpid,
        endgid=group_of(ctrl.config),
        fpi=_format_progress(ctrl, namespace),
        nsattr=_protected(namespace),
        nstat=NSTAT.pack(nrdy=1),
    )


def _controller_list(cntlids: Iterable[int], cmd: Command) -> bytes:
    """Those from CNTID on, ascending."""
    first = IDENTIFY_CDW10["cntid"].extract(cmd.cdw10)
    wanted = sorted(cntlid for cntlid in cntlids if cntlid >= first)[:_CONTROLLERS_LISTED_MAX]
    return CONTROLLER_LIST.build(numid=len(wanted), cntid=wanted)


def _controllers(ctrl: Controller, cmd: Command) -> bytes:
    """The subsystem's controllers."""
    return _controller_list(ctrl.subsystem.controllers, cmd)


def _namespace_controllers(ctrl: Controller, cmd: Command) -> bytes:
    if cmd.nsid == NSID_BROADCAST or _allocated(ctrl, cmd) is None:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    return _controller_list(ctrl.subsystem.attached_to(cmd.nsid), cmd)


def _endurance_groups(ctrl: Controller, cmd: Command) -> bytes:
    if not ctrl.config.endurance_group:
        raise CommandError(Status.INVALID_FIELD, location=_CNS)
    return endurance_group_list(ctrl, cmd)


def _io_command_sets(ctrl: Controller, cmd: Command) -> bytes:
    if IDENTIFY_CDW10["cntid"].extract(cmd.cdw10) not in (_CNTID_SELF, ctrl.config.cntlid):
        raise CommandError(Status.INVALID_FIELD, location=_CNTID)
    return IDENTIFY_IO_COMMAND_SET.build(iocsc=io_command_sets(ctrl))


IDENTIFIES: Final[dict[int, Callable[[Controller, Command], bytes]]] = {
    Cns.NAMESPACE: _identify_namespace,
    Cns.CONTROLLER: _identify_controller,
    Cns.ACTIVE_NAMESPACE_LIST: _active_list,
    Cns.NAMESPACE_DESCRIPTORS: _descriptors,
    Cns.IOCS_NAMESPACE: _iocs_namespace,
    Cns.IOCS_CONTROLLER: _iocs_controller,
    Cns.IOCS_ACTIVE_NAMESPACE_LIST: _iocs_active_list,
    Cns.INDEPENDENT_NAMESPACE: _independent_namespace,
    Cns.NAMESPACE_FORMAT: _namespace_format,
    Cns.IOCS_NAMESPACE_FORMAT: _iocs_namespace_format,
    Cns.ALLOCATED_NAMESPACE_LIST: _allocated_list,
    Cns.ALLOCATED_NAMESPACE: _identify_allocated,
    Cns.NAMESPACE_CONTROLLER_LIST: _namespace_controllers,
    Cns.CONTROLLER_LIST: _controllers,
    Cns.ENDURANCE_GROUP_LIST: _endurance_groups,
    Cns.IOCS_ALLOCATED_NAMESPACE_LIST: _iocs_allocated_list,
    Cns.IOCS_ALLOCATED_NAMESPACE: _iocs_allocated_namespace,
    Cns.IO_COMMAND_SET: _io_command_sets,
    Cns.INDEPENDENT_ALLOCATED_NAMESPACE: _independent_allocated,
}
"""What this controller answers, by CNS; each entry gives the 4096 bytes or raises CommandError."""


def identify(ctrl: Controller, cmd: Command) -> int:
    """Identify (opcode 06h). An unknown CNS is an Invalid Field in Command."""
    cns = IDENTIFY_CDW10["cns"].extract(cmd.cdw10)
    answer = ZONED_IDENTIFIES.get(cns) if asked_for_zoned(ctrl, cmd) else None
    answer = answer or IDENTIFIES.get(cns)
    if answer is None:
        raise CommandError(Status.INVALID_FIELD, location=_CNS)
    ctrl.send(cmd, answer(ctrl, cmd))
    return 0
