"""Reservations by chance: three hosts on one namespace, against what the specification's table says."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rawhost import PAGE, RawHost, RawQueue

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.namespace import Namespace
from nvme_emu.controller.subsystem import NvmSubsystem
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.reservations import ReservationType
from nvme_emu.spec.status import STATUS_CODE_MASK, Status

T = ReservationType
HOSTS = 3
READ_BY_ALL = {T.WRITE_EXCLUSIVE, T.WRITE_EXCLUSIVE_REGISTRANTS, T.WRITE_EXCLUSIVE_ALL}
BY_REGISTRANTS = {
    T.WRITE_EXCLUSIVE_REGISTRANTS, T.EXCLUSIVE_ACCESS_REGISTRANTS, T.WRITE_EXCLUSIVE_ALL, T.EXCLUSIVE_ACCESS_ALL,
}  # fmt: skip

key = st.integers(0, 3)
step = st.one_of(
    st.tuples(st.just("register"), st.integers(0, 3), st.integers(0, 1), key, key),
    st.tuples(st.just("acquire"), st.integers(0, 3), st.integers(0, 7), key, key),
    st.tuples(st.just("release"), st.integers(0, 2), st.integers(0, 7), key, st.just(0)),
)


class Host:
    """A controller of the subsystem, with a queue."""

    def __init__(self, subsystem: NvmSubsystem, number: int) -> None:
        config = ControllerConfig(namespaces_max=8, cntlid=number)
        self.raw = RawHost(config=config, subsystem=subsystem, pages=64)
        self.raw.enable()
        self.queue: RawQueue = self.raw.io_queue()
        self.data = self.raw.pages()
        self.raw.ctrl.host_id, self.raw.ctrl.host_id_is_extended = number.to_bytes(16, "little"), True

    def run(self, opcode: int, cdw10: int = 0, data: bytes = bytes(PAGE)) -> int:
        self.raw.memory.write(self.data, data)
        return self.queue.run(opcode, prp1=self.data, cdw10=cdw10).status & STATUS_CODE_MASK

    def do(self, what: str, action: int, extra: int, first: int, second: int) -> int:
        data = struct.pack("<QQ", first, second)
        if what == "register":
            return self.run(NvmOpcode.RESERVATION_REGISTER, action | extra << 3, data)
        if what == "acquire":
            return self.run(NvmOpcode.RESERVATION_ACQUIRE, action | extra << 8, data)
        return self.run(NvmOpcode.RESERVATION_RELEASE, action | extra << 8, data)


def may(state: Any, host: bytes) -> tuple[bool, bool]:
    """(read, write) by the table of Base 2.1, 8.1.22."""
    if state.kind is T.NONE or state.holds(host) or (state.kind in BY_REGISTRANTS and host in state.keys):
        return True, True
    return state.kind in READ_BY_ALL, False


@given(st.lists(st.tuples(st.integers(1, HOSTS), step), max_size=25))
@settings(max_examples=60, deadline=None)
def test_reservations_keep_their_rules_whatever_hosts_do(steps: list[tuple[int, Any]]) -> None:
    namespace = Namespace(1, RamMedia(1 << 16), shared=True)
    subsystem = NvmSubsystem(ControllerConfig(namespaces_max=8), [namespace])
    hosts = {number: Host(subsystem, number) for number in range(1, HOSTS + 1)}
    state = namespace.reservations
    for number, (what, *fields) in steps:
        before = dict(state.keys), state.kind, state.holder
        status = hosts[number].do(what, *fields)

        assert status in (0, Status.RESERVATION_CONFLICT, Status.INVALID_FIELD)
        if status:
            assert (dict(state.keys), state.kind, state.holder) == before
        assert (state.kind is T.NONE) == namespace.plain
        if state.kind is not T.NONE:
            assert any(state.holds(host) for host in state.keys)
        for host in hosts.values():
            read, write = may(state, host.raw.ctrl.host_id)
            assert (host.run(NvmOpcode.READ) == 0, host.run(NvmOpcode.WRITE) == 0) == (read, write)
    for host in hosts.values():
        host.raw.audit()
