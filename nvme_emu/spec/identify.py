"""Identify: which structure each CNS value asks for, and the structures themselves.

`Cns` lists every Controller or Namespace Structure (Base 2.1, clause 5.1.13); `CNS_STRUCTURES` maps those
declared so far to their layout. The structures live in `identify_controller` and `identify_namespace`; import
them from here.
"""

from __future__ import annotations

from .base import Structure
from .identify_controller import (
    CMIC,
    CONTROLLER_LIST,
    CQES,
    CSI_KEY_VALUE,
    CSI_NVM,
    CSI_ZONED,
    CTRATT,
    FNA,
    FRMW,
    FUSES,
    IDENTIFY_CONTROLLER,
    IDENTIFY_IO_COMMAND_SET,
    IDENTIFY_NVM_CONTROLLER,
    IDENTIFY_SIZE,
    IOCSV,
    LPA,
    NWPC,
    OACS,
    OAES,
    ONCS,
    POWER_STATE,
    POWER_STATE_FLAGS,
    SANICAP,
    SGLS,
    SQES,
    VWC,
)
from .identify_namespace import (
    DLFEAT,
    DPC,
    DPS,
    ELBAF,
    FLBAS,
    FPI,
    IDENTIFY_INDEPENDENT_NAMESPACE,
    IDENTIFY_NAMESPACE,
    IDENTIFY_NVM_NAMESPACE,
    LBA_FORMAT,
    LBAF,
    LBAF_COUNT_MAX,
    MC,
    NAMESPACE_LIST,
    NAMESPACE_LIST_ENTRIES,
    NMIC,
    NS_DESCRIPTOR_HEADER,
    NS_MANAGEMENT,
    NSATTR,
    NSFEAT,
    NSTAT,
    RESCAP,
    Nidt,
    NsDescriptor,
    build_ns_descriptors,
    flbas_index,
    namespace_list,
    parse_ns_descriptors,
)
from .words import Worded

__all__ = [
    "CMIC",
    "CNS_STRUCTURES",
    "CONTROLLER_LIST",
    "CQES",
    "CSI_KEY_VALUE",
    "CSI_NVM",
    "CSI_ZONED",
    "CTRATT",
    "DLFEAT",
    "DPC",
    "DPS",
    "ELBAF",
    "FLBAS",
    "FNA",
    "FPI",
    "FRMW",
    "FUSES",
    "IDENTIFY_CONTROLLER",
    "IDENTIFY_INDEPENDENT_NAMESPACE",
    "IDENTIFY_IO_COMMAND_SET",
    "IDENTIFY_NAMESPACE",
    "IDENTIFY_NVM_CONTROLLER",
    "IDENTIFY_NVM_NAMESPACE",
    "IDENTIFY_SIZE",
    "IOCSV",
    "LBAF",
    "LBAF_COUNT_MAX",
    "LBA_FORMAT",
    "LPA",
    "MC",
    "NAMESPACE_LIST",
    "NAMESPACE_LIST_ENTRIES",
    "NMIC",
    "NSATTR",
    "NSFEAT",
    "NSTAT",
    "NS_DESCRIPTOR_HEADER",
    "NS_MANAGEMENT",
    "NWPC",
    "OACS",
    "OAES",
    "ONCS",
    "POWER_STATE",
    "POWER_STATE_FLAGS",
    "RESCAP",
    "SANICAP",
    "SGLS",
    "SQES",
    "VWC",
    "Cns",
    "Nidt",
    "NsDescriptor",
    "build_ns_descriptors",
    "flbas_index",
    "namespace_list",
    "parse_ns_descriptors",
]


class Cns(Worded):
    """Controller or Namespace Structure: IDENTIFY_CDW10.cns."""

    NAMESPACE = 0x00, "Identify Namespace"
    CONTROLLER = 0x01, "Identify Controller"
    ACTIVE_NAMESPACE_LIST = 0x02, "Active Namespace ID list"
    NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor list"
    NVM_SET_LIST = 0x04, "NVM Set List"
    IOCS_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace"
    IOCS_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller"
    IOCS_ACTIVE_NAMESPACE_LIST = 0x07, "I/O Command Set specific Active Namespace ID list"
    INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace"
    NAMESPACE_FORMAT = 0x09, "Identify Namespace for a user data format"
    IOCS_NAMESPACE_FORMAT = 0x0A, "I/O Command Set specific Identify Namespace for a user data format"
    ALLOCATED_NAMESPACE_LIST = 0x10, "Allocated Namespace ID list"
    ALLOCATED_NAMESPACE = 0x11, "Identify Namespace of an allocated namespace"
    NAMESPACE_CONTROLLER_LIST = 0x12, "Controller List of a namespace"
    CONTROLLER_LIST = 0x13, "Controller List of the NVM subsystem"
    PRIMARY_CONTROLLER_CAPABILITIES = 0x14, "Primary Controller Capabilities"
    SECONDARY_CONTROLLER_LIST = 0x15, "Secondary Controller list"
    NAMESPACE_GRANULARITY_LIST = 0x16, "Namespace Granularity List"
    UUID_LIST = 0x17, "UUID List"
    DOMAIN_LIST = 0x18, "Domain List"
    ENDURANCE_GROUP_LIST = 0x19, "Endurance Group List"
    IOCS_ALLOCATED_NAMESPACE_LIST = 0x1A, "I/O Command Set specific Allocated Namespace ID list"
    IOCS_ALLOCATED_NAMESPACE = 0x1B, "I/O Command Set specific Identify Namespace of an allocated namespace"
    IO_COMMAND_SET = 0x1C, "Identify I/O Command Set"
    UNDERLYING_NAMESPACE_LIST = 0x1D, "Get Underlying Namespace List"
    PORTS_LIST = 0x1E, "Get Ports List"
    INDEPENDENT_ALLOCATED_NAMESPACE = 0x1F, "I/O Command Set Independent Identify of an allocated namespace"
    CONTROLLER_STATE_FORMATS = 0x20, "Supported Controller State Formats"


# What the 4096 bytes of each CNS are, for the NVM Command Set. The descriptors of 03h have no fixed layout.
CNS_STRUCTURES: dict[int, Structure] = {
    Cns.NAMESPACE: IDENTIFY_NAMESPACE,
    Cns.CONTROLLER: IDENTIFY_CONTROLLER,
    Cns.ACTIVE_NAMESPACE_LIST: NAMESPACE_LIST,
    Cns.IOCS_NAMESPACE: IDENTIFY_NVM_NAMESPACE,
    Cns.IOCS_CONTROLLER: IDENTIFY_NVM_CONTROLLER,
    Cns.IOCS_ACTIVE_NAMESPACE_LIST: NAMESPACE_LIST,
    Cns.INDEPENDENT_NAMESPACE: IDENTIFY_INDEPENDENT_NAMESPACE,
    Cns.ALLOCATED_NAMESPACE_LIST: NAMESPACE_LIST,
    Cns.ALLOCATED_NAMESPACE: IDENTIFY_NAMESPACE,
    Cns.NAMESPACE_CONTROLLER_LIST: CONTROLLER_LIST,
    Cns.CONTROLLER_LIST: CONTROLLER_LIST,
    Cns.NAMESPACE_FORMAT: IDENTIFY_NAMESPACE,
    Cns.IOCS_NAMESPACE_FORMAT: IDENTIFY_NVM_NAMESPACE,
    Cns.IOCS_ALLOCATED_NAMESPACE_LIST: NAMESPACE_LIST,
    Cns.IOCS_ALLOCATED_NAMESPACE: IDENTIFY_NVM_NAMESPACE,
    Cns.IO_COMMAND_SET: IDENTIFY_IO_COMMAND_SET,
    Cns.INDEPENDENT_ALLOCATED_NAMESPACE: IDENTIFY_INDEPENDENT_NAMESPACE,
}
