"""Why something is not offered. Everything that the controller does not have must be named here."""

from __future__ import annotations

__all__ = ["FABRICS_ONLY", "NOT_OFFERED", "PCI_ONLY"]

_MULTI_DOMAIN = "one domain, no exported subsystems"
_DISCOVERY = "of discovery controllers; ours has the Discovery log alone"
_MIGRATION = "live migration of controllers is not offered (OACS.HMLMS)"
_PROGRAMS = "of the Computational Programs and Subsystem Local Memory command sets, which are not offered"
_KV = "of the Key Value command set, which is not offered"
_FDP = "Flexible Data Placement is not offered (CTRATT.FDPS)"
_GROUPS = "one endurance group, without NVM sets, media units or capacity configurations (CTRATT)"
_PLM = "Predictable Latency Mode is not offered (CTRATT.PLM)"
_MI = "no Management Endpoint (MEC)"
_BOOT = "no boot partitions (CAP.BPS)"
_VIRTUAL = "no virtualization: one primary function (OACS.VMS)"
_REACH = "no reachability groups (CRCAP)"
_LATER = "not built yet"

NOT_OFFERED: dict[str, str] = {
    "AdminOpcode.VIRTUALIZATION_MANAGEMENT": _VIRTUAL,
    "AdminOpcode.NVME_MI_SEND": _MI,
    "AdminOpcode.NVME_MI_RECEIVE": _MI,
    "AdminOpcode.CAPACITY_MANAGEMENT": _GROUPS,
    "AdminOpcode.DISCOVERY_INFORMATION_MANAGEMENT": _DISCOVERY,
    "AdminOpcode.FABRIC_ZONING_RECEIVE": _DISCOVERY,
    "AdminOpcode.LOCKDOWN": "nothing can be locked down (OACS.CFLS)",
    "AdminOpcode.FABRIC_ZONING_LOOKUP": _DISCOVERY,
    "AdminOpcode.CLEAR_EXPORTED_NVM_RESOURCE_CONFIGURATION": _MULTI_DOMAIN,
    "AdminOpcode.FABRIC_ZONING_SEND": _DISCOVERY,
    "AdminOpcode.CREATE_EXPORTED_NVM_SUBSYSTEM": _MULTI_DOMAIN,
    "AdminOpcode.MANAGE_EXPORTED_NVM_SUBSYSTEM": _MULTI_DOMAIN,
    "AdminOpcode.MANAGE_EXPORTED_NAMESPACE": _MULTI_DOMAIN,
    "AdminOpcode.MANAGE_EXPORTED_PORT": _MULTI_DOMAIN,
    "AdminOpcode.SEND_DISCOVERY_LOG_PAGE": _DISCOVERY,
    "AdminOpcode.TRACK_SEND": _MIGRATION,
    "AdminOpcode.TRACK_RECEIVE": _MIGRATION,
    "AdminOpcode.MIGRATION_SEND": _MIGRATION,
    "AdminOpcode.MIGRATION_RECEIVE": _MIGRATION,
    "AdminOpcode.CONTROLLER_DATA_QUEUE": _MIGRATION,
    "AdminOpcode.DOORBELL_BUFFER_CONFIG": f"{_LATER} (OACS.DBCS)",
    "AdminOpcode.LOAD_PROGRAM": _PROGRAMS,
    "AdminOpcode.PROGRAM_ACTIVATION_MANAGEMENT": _PROGRAMS,
    "AdminOpcode.MEMORY_RANGE_SET_MANAGEMENT": _PROGRAMS,
    "NvmOpcode.IO_MANAGEMENT_RECEIVE": _FDP,
    "NvmOpcode.IO_MANAGEMENT_SEND": _FDP,
    "NvmOpcode.CANCEL": "Abort does what is needed; optional (CSUPP in the effects log)",
    "Fid.LBA_RANGE_TYPE": "no range types (optional; hosts use partitions)",
    "Fid.HOST_MEMORY_BUFFER": "no Host Memory Buffer is wanted (HMPRE)",
    "Fid.READ_RECOVERY_LEVEL": "no Read Recovery Levels (CTRATT.RRLVLS)",
    "Fid.PREDICTABLE_LATENCY_MODE_CONFIG": _PLM,
    "Fid.PREDICTABLE_LATENCY_MODE_WINDOW": _PLM,
    "Fid.SPINUP_CONTROL": "nothing spins",
    "Fid.POWER_LOSS_SIGNALING": "no power loss signal (PLSI)",
    "Fid.PERFORMANCE_CHARACTERISTICS": "optional; the device model is configured, not asked for",
    "Fid.FLEXIBLE_DATA_PLACEMENT": _FDP,
    "Fid.FLEXIBLE_DATA_PLACEMENT_EVENTS": _FDP,
    "Fid.NAMESPACE_ADMIN_LABEL": "optional",
    "Fid.KEY_VALUE_CONFIG": _KV,
    "Fid.CONTROLLER_DATA_QUEUE": _MIGRATION,
    "Fid.EMBEDDED_MANAGEMENT_ADDRESS": _MI,
    "Fid.HOST_MANAGEMENT_AGENT_ADDRESS": _MI,
    "Fid.ENHANCED_CONTROLLER_METADATA": _MI,
    "Fid.CONTROLLER_METADATA": _MI,
    "Fid.NAMESPACE_METADATA": _MI,
    "Fid.SOFTWARE_PROGRESS_MARKER": "optional; of pre-boot software",
    "Fid.BOOT_PARTITION_WRITE_PROTECTION": _BOOT,
    "Lid.PREDICTABLE_LATENCY_NVM_SET": _PLM,
    "Lid.PREDICTABLE_LATENCY_AGGREGATE": _PLM,
    "Lid.MEDIA_UNIT_STATUS": _GROUPS,
    "Lid.SUPPORTED_CAPACITY_CONFIGURATIONS": _GROUPS,
    "Lid.MI_COMMANDS_SUPPORTED_AND_EFFECTS": _MI,
    "Lid.LOCKDOWN": "nothing can be locked down (OACS.CFLS)",
    "Lid.BOOT_PARTITION": _BOOT,
    "Lid.ROTATIONAL_MEDIA": "nothing spins",
    "Lid.DISPERSED_NAMESPACE_SUBSYSTEMS": "no dispersed namespaces (NMIC.DISNS)",
    "Lid.MANAGEMENT_ADDRESSES": _MI,
    "Lid.PHY_RX_EOM": "no physical link",
    "Lid.REACHABILITY_GROUPS": _REACH,
    "Lid.REACHABILITY_ASSOCIATIONS": _REACH,
    "Lid.FDP_CONFIGURATIONS": _FDP,
    "Lid.RECLAIM_UNIT_HANDLE_USAGE": _FDP,
    "Lid.FDP_STATISTICS": _FDP,
    "Lid.FDP_EVENTS": _FDP,
    "Lid.HOST_DISCOVERY": _DISCOVERY,
    "Lid.AVE_DISCOVERY": _DISCOVERY,
    "Lid.PULL_MODEL_DDC_REQUEST": _DISCOVERY,
    "Cns.NVM_SET_LIST": _GROUPS,
    "Cns.PRIMARY_CONTROLLER_CAPABILITIES": _VIRTUAL,
    "Cns.SECONDARY_CONTROLLER_LIST": _VIRTUAL,
    "Cns.NAMESPACE_GRANULARITY_LIST": "capacity is given out in 4 KiB; no granularity is reported (CTRATT.NG)",
    "Cns.UUID_LIST": "nothing vendor specific is selected by UUID (CTRATT.ULIST)",
    "Cns.DOMAIN_LIST": _MULTI_DOMAIN,
    "Cns.UNDERLYING_NAMESPACE_LIST": _MULTI_DOMAIN,
    "Cns.PORTS_LIST": _MULTI_DOMAIN,
    "Cns.CONTROLLER_STATE_FORMATS": _MIGRATION,
    "Reg.INTMS": "undefined with MSI-X: writes are ignored",
    "Reg.INTMC": "undefined with MSI-X: writes are ignored",
    "Reg.BPINFO": _BOOT,
    "Reg.BPRSEL": _BOOT,
    "Reg.BPMBL": _BOOT,
    "Reg.NSSD": "no subsystem shutdown (CAP.NSSS)",
}

FABRICS_ONLY = frozenset({"AdminOpcode.KEEP_ALIVE", "AdminOpcode.FABRICS", "NvmOpcode.FABRICS", "Lid.DISCOVERY",
                          "Fid.KEEP_ALIVE_TIMER"})  # fmt: skip
"""Done behind a fabric; on PCI Express there is none of it."""
PCI_ONLY = frozenset({
    "AdminOpcode.CREATE_IO_SQ", "AdminOpcode.CREATE_IO_CQ", "AdminOpcode.DELETE_IO_SQ", "AdminOpcode.DELETE_IO_CQ",
    "Fid.INTERRUPT_COALESCING", "Fid.INTERRUPT_VECTOR_CONFIG", "Reg.AQA", "Reg.ASQ", "Reg.ACQ", "Reg.DOORBELLS",
    "Reg.CMBLOC", "Reg.CMBSZ", "Reg.CMBMSC", "Reg.CMBSTS", "Reg.CMBEBS", "Reg.CMBSWTP",
    "Reg.PMRCAP", "Reg.PMRCTL", "Reg.PMRSTS", "Reg.PMREBS", "Reg.PMRSWTP", "Reg.PMRMSCL", "Reg.PMRMSCU",
})  # fmt: skip
"""Done on PCI Express; behind a fabric there is none of it."""
