"""Whatever a host writes, the controller gives a status, an event or CSTS.CFS, never an exception."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rawhost import PAGE, FixedLatency, RawHost

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.trace import TraceHub, as_record
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.queues import SQE_SIZE
from nvme_emu.spec.registers import CC, NSSR_MAGIC, Reg

_FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_ENABLE = CC.pack(en=1, iosqes=6, iocqes=4)
_offsets = st.one_of(
    st.sampled_from([int(reg) for reg in Reg]),
    st.integers(0, 0x80),
    st.integers(0xFF0, 0x1020),
    st.integers(-16, 0x5000),
)
_values = st.one_of(
    st.sampled_from(
        [0, 1, NSSR_MAGIC, 0x1F001F, _ENABLE, CC.pack(en=1, shn=1), CC.pack(en=1, shn=2)],
    ),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 70),
)
_access = st.tuples(_offsets, st.sampled_from([1, 2, 4, 4, 4, 8, 3, 16, 0]), _values, st.integers(0, 2000))


def _host(timed: bool, traced: bool) -> RawHost:
    config = ControllerConfig(ready_ns=500, reset_ns=300, shutdown_ns=700, io_queues_max=4, mdts=4)
    latency = FixedLatency(0, 90, 250) if timed else None
    trace = TraceHub()
    if traced:
        trace.add_sink(as_record)
    host = RawHost(config=config, pages=64, media=[RamMedia(1 << 16)], latency=latency, trace=trace)
    host.set_admin(8, 8)
    return host


@_FAST
@given(st.lists(_access, max_size=40), st.booleans(), st.booleans())
def test_any_sequence_of_register_accesses_raises_nothing(
    accesses: list[tuple[int, int, int, int]], timed: bool, traced: bool
) -> None:
    host = _host(timed, traced)
    for offset, size, value, later_ns in accesses:
        host.ctrl.mmio_write(offset, size, value)
        if size > 0:
            assert 0 <= host.ctrl.mmio_read(offset, size) < 1 << 8 * size
        host.step(host.now_ns + later_ns)
        host.ctrl.take_irqs()
        host.audit()


@st.composite
def _entry(draw: st.DrawFn, base: int) -> bytes:
    """An entry that is now and then nearly right."""
    opcode = draw(st.one_of(st.integers(0, 12), st.integers(0, 255)))
    flags = draw(st.sampled_from([0, 0, 0, 0, 1, 0x40, 0xFF]))
    address = st.one_of(
        st.integers(0, 63).map(lambda page: base + page * PAGE),
        st.integers(0, 64 * PAGE).map(lambda at: base + at),
        st.integers(0, (1 << 64) - 1),
    )
    small = st.one_of(st.integers(0, 300), st.integers(0, (1 << 32) - 1))
    head = opcode | flags << 8 | draw(st.integers(0, 3)) << 16
    nsid = draw(st.sampled_from([0, 1, 1, 1, 2, 0xFFFF_FFFF]))
    words = [head, nsid, draw(small), draw(small)]
    data = b"".join(word.to_bytes(4, "little") for word in words) + bytes(8)
    data += draw(address).to_bytes(8, "little") + draw(address).to_bytes(8, "little")
    return data + b"".join(draw(small).to_bytes(4, "little") for _ in range(6))


_BASE = 1 << 32  # where HostMemory puts its first region


@_FAST
@given(
    st.lists(st.tuples(st.booleans(), st.lists(_entry(_BASE), min_size=1, max_size=6)), max_size=6),
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 70)), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_any_commands_and_doorbells_raise_nothing_and_are_answered_once(
    batches: list[tuple[bool, list[bytes]]],
    doorbells: list[tuple[int, bool, int]],
    timed: bool,
    traced: bool,
) -> None:
    host = _host(timed, traced)
    assert host.region.base == _BASE
    host.enable()
    host.step(host.now_ns + 500)
    queue = host.io_queue(1, 8)
    wild = list(doorbells)
    for admin, entries in batches:
        target = host.admin if admin else queue
        for entry in entries:
            host.memory.write(target.sq + target.tail * SQE_SIZE, entry)
            target.tail = (target.tail + 1) % target.sq_size
        target.ring()
        host.step(host.now_ns + 100)
        target.reap()
        if wild:
            qid, is_cq, value = wild.pop()
            host.ctrl.mmio_write(0x1000 + (2 * qid + is_cq) * 4, 4, value)
            host.step()
        host.ctrl.take_irqs()
        host.audit()
    host.write(Reg.CC, 0)
    host.audit()
    assert not host.ctrl.outstanding
