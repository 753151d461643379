"""What a controller is made of: frozen values, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from nvme_emu.controller.memory_config import check_buffers
from nvme_emu.controller.power_states import POWER_STATES_MAX, PowerState
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.spec.registers import CAP_CSS_ADMIN, CAP_CSS_IOCS, CAP_CSS_NVM

__all__ = ["MAX_NAMESPACES", "ControllerConfig"]

CONTROLLERS_MAX = 64
"""A bound of this emulator on controllers of one subsystem that do not come and go with connections."""
MAX_NAMESPACES = 1024
"""A bound of this emulator (an active list is one page of 1024 identifiers), not of the specification."""

_MS = 1_000_000

# How long operations may take at most, in seconds: a short self-test takes two minutes or less (Base 2.1, 8.1.7.1),
# EDSTT counts minutes in 16 bits and MTFA 100 ms.
_OPERATION_LIMITS_S = {
    "format_ns": 86_400,
    "sanitize_ns": 86_400,
    "self_test_short_ns": 120,
    "self_test_extended_ns": 0xFFFF * 60,
    "firmware_activation_ns": 6553,
}


def _check(name: str, value: int, low: int, high: int, why: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}: must be an integer from {low} to {high} ({why})")


def _check_text(name: str, value: str, length: int) -> None:
    if not value or len(value) > length or not value.isascii() or not value.isprintable():
        raise ValueError(f"{name}={value!r}: must be 1 to {length} printable ASCII characters")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerConfig:
    """Everything that the host can find out about the controller, and the times it takes.

    Log2 values are in the specification's own units: ``mdts`` in powers of two of the minimum page size
    (0: no limit), ``mpsmin`` and ``mpsmax`` as 2 ** (12 + n) bytes, ``dstrd`` as 2 ** (2 + n) bytes, ``kas``
    in 100 ms (0: no keep alive). ``message_based`` is a controller behind a fabric, which has no interrupts.
    ``metadata`` offers LBA formats with metadata, and protection information in it.
    ``zns`` offers the Zoned Namespace Command Set and says how namespaces of it are made.
    Counts (``queue_entries_max``, ``io_queues_max``, ``vectors``) count from one.

    ``controllers`` is how many the subsystem has besides those that hosts make by connecting; this one is behind
    ``port``. Its flash is worn out after ``rated_cycles`` of programming all of it. With ``ana_groups`` each port has
    a state for each such group of namespaces (`controller.ana`).
    """

    # Who it is (Identify Controller; PCI configuration space)
    # 1234h is assigned to nobody; emulators without an identity of their own use it.
    vid: int = 0x1234
    ssvid: int = 0x1234
    device_id: int = 0x4E56
    sn: str = "NVMEEMU0001"
    mn: str = "nvme-emu"
    fr: str = "1.0"
    ieee_oui: int = 0x02_4E_56
    cntlid: int = 0
    port: int = 1
    subnqn: str = ""
    seed: int = 0

    # CAP (Base 2.1, 3.1.4.1)
    queue_entries_max: int = 65536
    ready_timeout_ms: int = 15_000
    dstrd: int = 0
    nssrs: bool = True
    css: int = CAP_CSS_NVM | CAP_CSS_IOCS
    mpsmin: int = 0
    mpsmax: int = 4

    # Limits
    mdts: int = 8
    io_queues_max: int = 64
    vectors: int = 65
    namespaces_max: int = 32
    wzsl: int = 0
    vsl: int = 0
    wusl: int = 0
    dmrl: int = 0
    dmrsl: int = 0
    dmsl: int = 0
    aerl_z: int = 3
    acl_z: int = 3
    elpe_z: int = 63
    rab: int = 6
    npss_z: int = 0
    power_states: tuple[PowerState, ...] = ()
    temperature_sensors: int = 0
    volatile_write_cache: bool = True
    sgls: int = 1
    zns: ZnsConfig | None = None
    metadata: bool = True

    # Memory of its own (`controller.memory_config`): bytes, 0 for none; throughput in bytes a second, 0 is not told
    cmb_bytes: int = 0
    cmb_bar: int | None = None
    cmb_sqs: bool = True
    cmb_cqs: bool = True
    cmb_elasticity_bytes: int = 0
    cmb_throughput: int = 0
    pmr_bytes: int = 0
    pmr_elasticity_bytes: int = 0
    pmr_throughput: int = 0

    # Queues and interrupts: CAP.CQR, the interrupt pin, OACS bit 8 and how long after the last news the controller
    # itself goes on looking for tails before it asks for doorbells again
    contiguous_queues: bool = True
    intx: bool = True
    shadow_doorbells: bool = False
    shadow_poll_ns: int = 0

    # The subsystem
    controllers: int = 1
    ana_groups: int = 0
    endurance_group: bool = True
    rated_cycles: int = 3000
    streams_max: int = 16
    track_allocation: bool = False
    awupf_z: int = 0

    # Times
    ready_ns: int = 0
    reset_ns: int = 0
    shutdown_ns: int = 0
    rtd3e_us: int = 1_000_000
    format_ns: int = 0
    sanitize_ns: int = 2_000_000_000
    self_test_short_ns: int = 2_000_000_000
    self_test_extended_ns: int = 60_000_000_000
    firmware_activation_ns: int = 100_000_000
    message_based: bool = False
    kas: int = 0
    step_commands_max: int = 4096

    def __post_init__(self) -> None:
        for name in ("vid", "ssvid", "device_id", "cntlid"):
            _check(name, getattr(self, name), 0, 0xFFFF, "16 bits")
        _check("ieee_oui", self.ieee_oui, 0, 0xFFFFFF, "24 bits")
        _check_text("sn", self.sn, 20)
        _check_text("mn", self.mn, 40)
        _check_text("fr", self.fr, 8)
        if self.subnqn:
            _check_text("subnqn", self.subnqn, 223)
        _check("queue_entries_max", self.queue_entries_max, 2, 65536, "CAP.MQES, zero-based, at least 1h")
        _check("ready_timeout_ms", self.ready_timeout_ms, 500, 127_500, "CAP.TO in 500 ms units")
        _check("dstrd", self.dstrd, 0, 15, "CAP.DSTRD")
        if not self.css & CAP_CSS_NVM or self.css & ~(CAP_CSS_NVM | CAP_CSS_IOCS | CAP_CSS_ADMIN):
            raise ValueError(f"css={self.css!r}: must offer the NVM Command Set (CAP.CSS bit 0)")
        _check("mpsmin", self.mpsmin, 0, 15, "CAP.MPSMIN")
        _check("mpsmax", self.mpsmax, self.mpsmin, 15, "CAP.MPSMAX, not below CAP.MPSMIN")
        _check("mdts", self.mdts, 0, 20, "Identify Controller MDTS")
        _check("io_queues_max", self.io_queues_max, 1, 65534, "queue identifiers 1 to FFFEh")
        _check("vectors", self.vectors, 1, 2048, "MSI-X table size")
        _check("namespaces_max", self.namespaces_max, 1, MAX_NAMESPACES, "Identify Controller NN")
        _check("wzsl", self.wzsl, 0, 20, "Write Zeroes Size Limit")
        _check("vsl", self.vsl, 0, 20, "Verify Size Limit")
        _check("wusl", self.wusl, 0, 20, "Write Uncorrectable Size Limit")
        _check("dmrl", self.dmrl, 0, 255, "Dataset Management Ranges Limit")
        _check("dmrsl", self.dmrsl, 0, 0xFFFF_FFFF, "Dataset Management Range Size Limit")
        _check("dmsl", self.dmsl, 0, 0xFFFF_FFFF_FFFF_FFFF, "Dataset Management Size Limit")
        for name in ("aerl_z", "acl_z", "elpe_z"):
            _check(name, getattr(self, name), 0, 255, "zero-based, 8 bits")
        _check("rab", self.rab, 0, 7, "Recommended Arbitration Burst")
        if self.zns is not None and not self.css & CAP_CSS_IOCS:
            raise ValueError("zns: the Zoned Namespace Command Set needs CAP.CSS bit 6 (css)")
        if self.zns is not None and self.mdts and self.zns.zasl > self.mdts:
            raise ValueError(f"zns: zasl={self.zns.zasl} is above mdts={self.mdts}")
        _check("awupf_z", self.awupf_z, 0, 0xFFFF, "Atomic Write Unit Power Fail, zero-based")
        _check("streams_max", self.streams_max, 0, 0xFFFF, "Max Streams Limit; 0 is no Streams directive")
        if len(self.power_states) > POWER_STATES_MAX or (self.power_states and not self.power_states[0].operational):
            raise ValueError(f"power_states: at most {POWER_STATES_MAX}, of which the first does I/O (8.1.17)")
        if self.power_states:
            object.__setattr__(self, "npss_z", len(self.power_states) - 1)
        _check("npss_z", self.npss_z, 0, 31, "power states, zero-based")
        _check("temperature_sensors", self.temperature_sensors, 0, 8, "Temperature Sensors 1 to 8 of SMART")
        for name in ("ready_ns", "reset_ns"):
            _check(name, getattr(self, name), 0, self.ready_timeout_ms * _MS, "at most ready_timeout_ms")
        _check("shutdown_ns", self.shutdown_ns, 0, self.rtd3e_us * 1000, "not longer than rtd3e_us")
        for name, limit_s in _OPERATION_LIMITS_S.items():
            _check(name, getattr(self, name), 0, limit_s * 1000 * _MS, "the field that reports it, or patience")
        _check("kas", self.kas, 0, 0xFFFF, "Keep Alive Support in 100 ms units")
        check_buffers(self)
        _check("sgls", self.sgls, 0, 2, "Identify Controller SGLS bits 1:0: none, any alignment, dwords")
        _check("port", self.port, 1, 0xFFFF, "the subsystem's ports count from one")
        _check("controllers", self.controllers, 1, CONTROLLERS_MAX, "controllers that are made together")
        _check("rated_cycles", self.rated_cycles, 0, 1_000_000, "program and erase cycles; 0 tells no endurance")
        _check("ana_groups", self.ana_groups, 0, self.namespaces_max, "not more groups than namespaces")
        _check("rtd3e_us", self.rtd3e_us, 0, 0xFFFF_FFFF, "RTD3 Entry Latency")
        _check("shadow_poll_ns", self.shadow_poll_ns, 0, 1000 * _MS, "patience")
        if self.shadow_doorbells and 2 * (self.io_queues_max + 1) * self.doorbell_stride > 4096 << self.mpsmin:
            raise ValueError(
                f"shadow_doorbells with io_queues_max={self.io_queues_max} and dstrd={self.dstrd}: "
                "the doorbells do not fit into a page (Base 2.1, 5.2.5)"
            )
        _check("step_commands_max", self.step_commands_max, 1, 1 << 20, "bound of one step")

    @property
    def has_idle_states(self) -> bool:
        """Whether there are power states in which the controller does no I/O."""
        return any(not state.operational for state in self.power_states)

    @property
    def mqes_z(self) -> int:
        """CAP.MQES: the largest queue, zero-based."""
        return self.queue_entries_max - 1

    @property
    def mdts_bytes(self) -> int:
        """The largest transfer of one command in bytes; 0 for no limit."""
        return 1 << (12 + self.mpsmin + self.mdts) if self.mdts else 0

    @property
    def wzsl_bytes(self) -> int:
        """The largest Write Zeroes in bytes; 0 for no limit."""
        return 1 << (12 + self.mpsmin + self.wzsl) if self.wzsl else 0

    @property
    def vsl_bytes(self) -> int:
        """The largest Verify in bytes; 0 for no limit."""
        return 1 << (12 + self.mpsmin + self.vsl) if self.vsl else 0

    @property
    def wusl_bytes(self) -> int:
        """The largest Write Uncorrectable in bytes; 0 for no limit."""
        return 1 << (12 + self.mpsmin + self.wusl) if self.wusl else 0

    @property
    def doorbell_stride(self) -> int:
        """Bytes from one doorbell to the next: 4 << CAP.DSTRD."""
        return 4 << self.dstrd

    @property
    def bar_size(self) -> int:
        """Bytes of BAR0: the properties and a pair of doorbells for each queue, a power of two."""
        needed = 0x1000 + 2 * (self.io_queues_max + 1) * self.doorbell_stride
        return max(0x4000, 1 << (needed - 1).bit_length())
