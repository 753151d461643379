"""How long a command takes: a device of queues, each a clock that says until when it is taken.

    command processor ─► firmware ─► die (array read) ─► channel bus ─► link to the host      a read
    command processor ─► firmware ─► link ─► write buffer: done                               a write
                                               └─► channel bus ─► die (program)  behind its back

`submit` moves the clocks of what the command uses and gives the time at which it is done. Nothing waits
here and no clock is read: the caller says what time it is, in whole nanoseconds. The same profile,
seed and calls give the same times.

Two kinds of clocks. The command processor and the dies serve in order of arrival: a command starts when
the one in front of it ends. A channel's bus and the link serve whoever has data ready, and commands become
ready in another order than they came (the one that waits for a busy die must not hold up those behind it),
so these count work instead: the clock is when all bytes submitted so far could have passed, and a command
is done when its own bytes are through *and* that clock allows it. This gives the rate exactly and the
waiting of single commands closely, without an event for each transfer.

Left out, on purpose: data is not looked up (a read of a block that is still in the buffer, or never was
written, goes to the flash), writes go to the dies in turn while reads find page n on die n mod dies, and
garbage collection is the constant `write_amplification_pct`.
"""

from __future__ import annotations

from enum import StrEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from nvme_emu._core import LatencyCountersState, LatencyState
from nvme_emu.controller.profiles import DeviceProfile, slower
from nvme_emu.core.trace import DieBusy

if TYPE_CHECKING:
    from nvme_emu.core.trace import TraceHub

__all__ = ["LatencyCounters", "LatencyModel", "Op", "Random"]


class Op(StrEnum):
    """What a command does to the device, as far as time is concerned."""

    READ = "read"
    WRITE = "write"
    COMPARE = "compare"
    """Data from the host, data from the flash, nothing back."""
    VERIFY = "verify"
    """A read without a transfer to the host."""
    FLUSH = "flush"
    DISCARD = "discard"
    """Dataset Management: the map alone."""
    WRITE_ZEROES = "write_zeroes"
    """Write Zeroes and Write Uncorrectable: the map alone."""
    ADMIN = "admin"


_READS = frozenset({"read", "compare", "verify"})


class Random(Protocol):
    """The part of `random.Random` that is used; its `getrandbits` is the same on every Python."""

    def getrandbits(self, k: int, /) -> int: ...


class LatencyCounters(LatencyCountersState):
    """What the device has done since it was made. Bytes, ns, and pieces.

    ``media_read_bytes`` are array reads, whole pages; ``media_write_bytes`` programs, padding and garbage collection
    included.
    """

    __slots__ = ()

    def __init__(self, dies: int, channels: int) -> None:
        super().__init__()
        self.die_busy_ns = [0] * dies
        self.channel_busy_ns = [0] * channels

    @property
    def write_amplification(self) -> float:
        """Bytes programmed for each byte from the host; 0.0 before the first."""
        return self.media_write_bytes / self.host_write_bytes if self.host_write_bytes else 0.0


class LatencyModel(LatencyState):
    """The clocks of one device."""

    counters: LatencyCounters

    def __init__(self, profile: DeviceProfile, rng: Random | None = None) -> None:
        """`rng` scatters the latencies; ValueError when the profile has scatter and there is none."""
        if rng is None and (profile.jitter_ns or profile.retry_ppm):
            raise ValueError(f"profile {profile.name} has jitter or retries: a random generator is needed")
        super().__init__()
        self.profile = profile
        self._nominal = profile
        self._rng = rng
        self.instant = profile.instant
        self._dies = profile.dies
        self._channels = profile.channels
        self._page = profile.page_bytes
        self._unit = profile.page_bytes * profile.planes
        self._read_types = len(profile.read_ns)
        # A random 20-bit number below this is a retry.
        self._retry_below = (profile.retry_ppm << 20) // 1_000_000
        self._scatters = bool(profile.jitter_ns or profile.retry_ppm)
        # What the compiled gait asks of the profile; it does reads, and those of no subclass.
        self._compiled = type(self) is LatencyModel and not profile.instant
        self._take(profile)
        self._jitter_ns = profile.jitter_ns
        self._retry_ns = profile.retry_ns
        self.counters = LatencyCounters(self._dies, self._channels)
        self.trace: TraceHub | None = None
        """Where the dies' work is told, while somebody listens."""
        self._now_ns = 0
        self.reset()

    def _take(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self._read_ns = profile.read_ns
        self._command_ns = profile.command_ns
        self._read_overhead_ns = profile.read_overhead_ns
        self._bus = profile.bus_mb_s
        self._read_link = profile.read_link_mb_s

    def pace(self, pct: int) -> None:
        """From now on everything takes this many percent of what the profile says; at least 100."""
        self._take(self._nominal if pct == 100 else slower(self._nominal, pct))

    def busy_until(self, when_ns: int) -> None:
        """Commands that arrive before then wait until then."""
        self._command_free = max(self._command_free, when_ns)

    def reset(self) -> None:
        """Forget the work in flight, as after a power cycle. The counters go on."""
        self._command_free = 0
        self._read_link_free = 0
        self._write_link_free = 0
        self._bus_free = [0] * self._channels
        self._die_free = [0] * self._dies  # end of the last array read
        self._program_end = [0] * self._dies  # end of the last program that is planned
        self._programs = [0] * self._dies
        # The page in each die's register: reading it again needs no array read.
        self._register = [-1] * self._dies
        self._next_die = 0
        self._amplify = 0
        self._buffered: list[tuple[int, int]] = []  # heap of (end of its program, bytes)
        self._buffer_used = 0
        self._pending = 0  # bytes in the buffer that do not make a whole program yet
        self._drained_ns = 0  # when all planned programs are done

    def submit(self, op: str, offset: int, nbytes: int, now_ns: int, fua: bool = False) -> int:
        """When the command is done that arrives at `now_ns`; at least `now_ns`.

        `op` is one of `Op` (its word will do; ValueError for another), `offset` and `nbytes` are bytes of the
        namespace and unused for "flush" and "admin". Calls come in order of `now_ns`.
        """
        if self.instant:
            return now_ns
        self._now_ns = now_ns
        start = self._command_free
        if start < now_ns:
            start = now_ns
        ready = self._command_free = start + self._command_ns
        if op == "read":
            done = self._read(offset, nbytes, ready + self._read_overhead_ns, now_ns, True)
        elif op == "write":
            done = self._write(nbytes, ready + self.profile.write_overhead_ns, now_ns, fua)
        else:
            done = self._other(Op(op), offset, nbytes, ready, now_ns)
        if self._scatters:
            bits = self._rng.getrandbits(40)
            done += self._jitter_ns * (bits >> 20) >> 20
            if (bits & 0xFFFFF) < self._retry_below and op in _READS:
                self.counters.retries += 1
                done += self._retry_ns
        return done

    def _other(self, op: Op, offset: int, nbytes: int, ready: int, now: int) -> int:
        profile = self.profile
        if op is Op.FLUSH:
            return self._flush(ready, now)
        if op is Op.DISCARD or op is Op.WRITE_ZEROES:
            return ready + profile.trim_ns
        if op is Op.ADMIN:
            return ready
        ready += profile.read_overhead_ns
        if op is Op.COMPARE:
            ready = self._receive(nbytes, ready, now)
        return self._read(offset, nbytes, ready, now, False)

    # -- reads --------------------------------------------------------------------------------------------

    def _read(self, offset: int, nbytes: int, ready: int, now: int, to_host: bool) -> int:
        counters = self.counters
        page, bus, link = self._page, self._bus, self._read_link if to_host else 0
        if to_host:
            counters.host_read_bytes += nbytes
        number, skip = divmod(offset, page)
        done = ready
        while nbytes > 0:
            size = page - skip
            if size > nbytes:
                size = nbytes
            die = number % self._dies
            begin = self._die_free[die]
            if begin < ready:
                begin = ready
            if self._register[die] == number or self._program_end[die] > begin:
                end = self._array_read(die, number, ready)
            else:
                # The common case of _array_read, without the call.
                duration = self._read_ns[number // self._dies % self._read_types]
                end = self._die_free[die] = begin + duration
                self._register[die] = number
                counters.media_read_bytes += page
                counters.die_busy_ns[die] += duration
                if self.trace is not None:
                    self._tell(die, "read", begin, end)
            if bus:
                channel = die % self._channels
                transfer = size * 1000 // bus
                counters.channel_busy_ns[channel] += transfer
                free = self._bus_free[channel]
                free = self._bus_free[channel] = (free if free > now else now) + transfer
                end += transfer
                if free > end:
                    end = free
            if link:
                transfer = size * 1000 // link
                counters.read_link_busy_ns += transfer
                free = self._read_link_free
                free = self._read_link_free = (free if free > now else now) + transfer
                end += transfer
                if free > end:
                    end = free
            if end > done:
                done = end
            nbytes -= size
            number += 1
            skip = 0
        return done

    def _array_read(self, die: int, number: int, ready: int) -> int:
        """When page `number` is in its die's register."""
        begin = self._die_free[die]
        if begin < ready:
            begin = ready
        if self._register[die] == number:
            return begin
        duration = self._read_ns[number // self._dies % self._read_types]
        program_end = self._program_end[die]
        if program_end > begin:
            # A read goes before the programs that are planned for the die, which all move back.
            profile = self.profile
            if profile.program_suspend:
                wait = profile.suspend_ns
                self._program_end[die] = program_end + wait + duration
            else:
                # Planned programs follow one another: this much of the running one is left.
                wait = (program_end - begin) % profile.program_ns if profile.program_ns else 0
                self._program_end[die] = program_end + duration
            begin += wait
        end = self._die_free[die] = begin + duration
        self._register[die] = number
        self.counters.media_read_bytes += self._page
        self.counters.die_busy_ns[die] += duration
        if self.trace is not None:
            self._tell(die, "read", begin, end)
        return end

    def _tell(self, die: int, what: str, begin_ns: int, end_ns: int) -> None:
        """An event of a die's work; a cost of a comparison while nobody listens."""
        emit = None if self.trace is None else self.trace.emit
        if emit is not None:
            emit(DieBusy(self._now_ns, die, die % self._channels, what, begin_ns, end_ns))

    # -- writes -------------------------------------------------------------------------------------------

    def _receive(self, nbytes: int, ready: int, now: int) -> int:
        """When data from the host has come over the link."""
        link = self.profile.write_link_mb_s
        if not link:
            return ready
        transfer = nbytes * 1000 // link
        self.counters.write_link_busy_ns += transfer
        free = self._write_link_free
        free = self._write_link_free = (free if free > now else now) + transfer
        ready += transfer
        return free if free > ready else ready

    def _write(self, nbytes: int, ready: int, now: int, fua: bool) -> int:
        profile, unit = self.profile, self._unit
        self.counters.host_write_bytes += nbytes
        ready = self._receive(nbytes, ready, now)
        if not profile.buffer_bytes:
            done = ready
            while nbytes > 0:
                done = max(done, self._program(min(unit, nbytes), ready, now))
                nbytes -= unit
            return done
        while nbytes > 0:
            size = unit if nbytes > unit else nbytes
            ready = self._admit(size, ready)
            self._pending += size
            if self._pending >= unit:
                self._drain(unit, ready, now)
            nbytes -= size
        if fua and not profile.power_loss_protected:
            if self._pending:
                self._drain(self._pending, ready, now)
            return max(ready, self._drained_ns)
        return ready + profile.dram_ns

    def _admit(self, size: int, ready: int) -> int:
        """When `size` bytes have room in the buffer, which they take."""
        buffered = self._buffered
        limit = self.profile.buffer_bytes - size
        while buffered and (buffered[0][0] <= ready or self._buffer_used > limit):
            freed_ns, freed = heappop(buffered)
            self._buffer_used -= freed
            if freed_ns > ready:
                ready = freed_ns
        self._buffer_used += size
        return ready

    def _drain(self, size: int, ready: int, now: int) -> None:
        """Plan the program of `size` pending bytes; they leave the buffer when it ends."""
        self._pending -= size
        end = self._program(size, ready, now)
        heappush(self._buffered, (end, size))
        if end > self._drained_ns:
            self._drained_ns = end
        # Garbage collection moves its share of old data for each program of new data.
        self._amplify += self.profile.write_amplification_pct - 100
        while self._amplify >= 100:
            self._amplify -= 100
            self._program(self._unit, ready, now)

    def _program(self, size: int, ready: int, now: int) -> int:
        """Program up to a unit on the next die; gives when that ends. A part of a unit costs a whole one."""
        profile, counters = self.profile, self.counters
        die = self._next_die
        self._next_die = die + 1 if die + 1 < self._dies else 0
        if profile.bus_mb_s:
            channel = die % self._channels
            transfer = size * 1000 // profile.bus_mb_s
            counters.channel_busy_ns[channel] += transfer
            free = self._bus_free[channel]
            free = self._bus_free[channel] = (free if free > now else now) + transfer
            ready = max(ready + transfer, free)
        begin = max(ready, self._program_end[die], self._die_free[die])
        duration = profile.program_ns
        erased_ns = begin
        if self._programs[die] == profile.pages_per_block:
            self._programs[die] = 0
            duration += profile.erase_ns
            erased_ns = begin + profile.erase_ns
            counters.erases += 1
        self._programs[die] += 1
        end = self._program_end[die] = begin + duration
        self._register[die] = -1
        counters.media_write_bytes += self._unit
        counters.die_busy_ns[die] += duration
        if self.trace is not None:
            if erased_ns != begin:
                self._tell(die, "erase", begin, erased_ns)
            self._tell(die, "program", erased_ns, end)
        return end

    def _flush(self, ready: int, now: int) -> int:
        profile = self.profile
        if profile.buffer_bytes and not profile.power_loss_protected:
            if self._pending:
                self._drain(self._pending, ready, now)
            ready = max(ready, self._drained_ns)
        return ready + profile.flush_ns
