"""From a parsed job file to what the engine runs: jobs with their ranges of a namespace, and the machine.

Where fio has files, this program has one SSD. The rule (docs/fio.md):

* A file name that ends in `nvme<i>n<k>` stands for the whole namespace k.
* Every other distinct name (with `directory` in front) is a file: a region of namespace 1. Regions are laid
  out in the order of first use, each starting at a multiple of 1 MiB.
* A job without `filename` has its own files, `<job>.<clone>.<number>`, so that clones do not share; with
  `filename` all its clones use the same region, and so do other jobs that name it. `name1:name2` are several.
* A file is as large as the job that needs most of it asks for; DEFAULT_SIZE if nobody says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nvme_emu.workload.histogram import DEFAULT_PERCENTILES
from nvme_emu.workload.jobfile import JobFile, JobFileError, JobSection
from nvme_emu.workload.options import ASYNC_ENGINES
from nvme_emu.workload.pattern import Extent, PatternSpec
from nvme_emu.workload.plan import BlockSizes, JobPlan, MachinePlan, Plan
from nvme_emu.workload.replay import Recording, ReplayError
from nvme_emu.workload.replay_plan import (
    LogReader,
    block_sizes,
    bytes_needed,
    file_names,
    replay_of,
    replay_pattern,
)
from nvme_emu.workload.rng import mix64
from nvme_emu.workload.values import Percent
from nvme_emu.workload.verify import HEADER_BYTES, VerifySpec

__all__ = ["DEFAULT_SIZE", "make_plan"]

DEFAULT_SIZE = 256 << 20
ALIGN = 1 << 20
_DEVICE = re.compile(r"(?:^|/)nvme\d+n(\d+)$")
BUFFERS_MAX = 4 << 30
"""Bytes of buffers of one job, so that a mistyped iodepth is an error and not a machine out of memory."""
NAMESPACE_MAX = 1 << 50


@dataclass(slots=True)
class _File:
    """A region in the making: `need` grows with every job that uses it."""

    name: str
    device: int = 0
    need: int = 0
    start: int = 0

    @property
    def nbytes(self) -> int:
        return self.need or DEFAULT_SIZE


class _Problem(Exception):
    """A job that cannot be planned; the text is one line with its place."""


def make_plan(
    jobs: JobFile,
    *,
    seed: int = 0,
    entropy: Callable[[], int] | None = None,
    cpu_ns_per_io: int = 0,
) -> Plan:
    """Plan the jobs of a file. Raises JobFileError with one line a problem.

    `entropy` gives seeds for jobs with randrepeat=0; without it they repeat like the others.
    """
    planner = _Planner(jobs, seed, entropy, cpu_ns_per_io)
    return planner.plan()


class _Planner:
    def __init__(
        self, jobs: JobFile, seed: int, entropy: Callable[[], int] | None, cpu_ns_per_io: int
    ) -> None:
        self.source = jobs
        self.seed = seed
        self.entropy = entropy
        self.cpu_ns_per_io = cpu_ns_per_io
        self.files: dict[str, _File] = {}
        self.notes: list[str] = list(jobs.notes)
        self.problems: list[str] = []
        self.logs = LogReader()
        self.recordings: dict[str, Recording] = {}

    def plan(self) -> Plan:
        from nvme_emu.controller.metadata_config import MetadataConfig

        sections = self.source.jobs
        lba_size = self._common("nvme_lba_size")
        options = {
            "profile": self._common("nvme_profile"),
            "queues": self._common("nvme_queues"),
            "depth": self._common("nvme_queue_depth"),
            "metadata": self._common("nvme_metadata"),
        }
        metadata = MetadataConfig.parse(options["metadata"] or "ms=0")
        for section in sections:
            if section.get("read_iolog"):
                self._guard(section, self._read_log, lba_size)
        if self.problems:
            raise JobFileError(self.problems)
        for section in sections:
            self._guard(section, self._measure)
        namespaces, namespace_bytes = self._lay_out(lba_size)
        plans: list[JobPlan] = []
        group, jobs_in_group = 0, 0
        for section in sections:
            if jobs_in_group and (section.get("stonewall") or section.get("new_group")):
                group, jobs_in_group = group + 1, 0
            jobs_in_group += 1
            for clone in range(section.get("numjobs")):
                self._guard(section, self._job, clone, group, lba_size, namespace_bytes, plans)
        if self.problems:
            raise JobFileError(self.problems)
        modes = {plan.mode for plan in plans}
        machine = MachinePlan(
            # What lies beside the data takes room of its own.
            size=namespace_bytes // lba_size * (lba_size + metadata.ms) * namespaces,
            namespaces=namespaces,
            mode=modes.pop() if len(modes) == 1 else "mixed",
            lba_size=lba_size,
            options={name: value for name, value in options.items() if value is not None},
        )
        jobs = tuple(_with_ownership(plans))
        return Plan(
            machine=machine, jobs=jobs, global_texts=self.source.global_texts, notes=tuple(self.notes)
        )

    def _guard(self, section: JobSection, step: Callable[..., None], *args: Any) -> None:
        try:
            step(section, *args)
        except (_Problem, ValueError) as error:
            placed = isinstance(error, (_Problem, ReplayError))
            text = str(error) if placed else f"{section.place}: [{section.name}]: {error}"
            if text not in self.problems:
                self.problems.append(text)

    def _common(self, option: str) -> Any:
        """An option of the machine, which all jobs must agree on."""
        values = {section.get(option): section for section in self.source.jobs}
        if len(values) > 1:
            section = list(values.values())[-1]
            self.problems.append(
                f"{section.place_of(option)}: {option}: all jobs share one SSD; set it once, in [global]"
            )
        return next(iter(values))

    # --- files ---

    def _read_log(self, section: JobSection, lba_size: int) -> None:
        recording = self.recordings[section.place] = self.logs.recording(section, lba_size)
        self.notes += [note for note in recording.notes if note not in self.notes]

    def _files_of(self, section: JobSection, clone: int) -> list[_File]:
        directory = section.get("directory")
        prefix = ""
        if directory:
            # fio deals several directories out to the clones; with filename it uses the first.
            choices = re.split(r"(?<!\\):", directory)
            prefix = choices[0 if section.get("filename") else clone % len(choices)].rstrip("/") + "/"
        log = self.recordings.get(section.place)
        if log is not None and (section.get("replay_redirect") or not section.get("filename")):
            names, prefix = file_names(section, log), ""
        elif section.get("filename"):
            names = [
                name.replace("\\:", ":") for name in re.split(r"(?<!\\):", section.get("filename")) if name
            ]
        else:
            names = [f"{section.name}.{clone}.{number}" for number in range(section.get("nrfiles"))]
        return [self._file(name if name.startswith("/") else prefix + name) for name in names]

    def _file(self, name: str) -> _File:
        if name not in self.files:
            device = _DEVICE.search(name)
            self.files[name] = _File(name, device=int(device[1]) if device else 0)
        return self.files[name]

    def _measure(self, section: JobSection) -> None:
        """Let the job's files grow to what it needs of them."""
        for clone in range(section.get("numjobs")):
            files = self._files_of(section, clone)
            if not files:
                raise _Problem(f"{section.place_of('filename')}: filename: no file is named")
            devices = {file.device for file in files}
            if len(devices) > 1:
                raise _Problem(
                    f"{section.place_of('filename', 'read_iolog')}: filename: a job's files must lie in one "
                    f"namespace; these are {', '.join(file.name for file in files)}"
                )
            if not 0 <= max(devices) <= 16:
                raise _Problem(f"{section.place_of('filename')}: filename: namespaces are 1 to 16")
            recording = self.recordings.get(section.place)
            if recording is not None and len(files) not in (1, len(recording.files)):
                raise _Problem(f"{section.place_of('filename')}: filename: a log is replayed on one file")
            offset, size = section.get("offset"), _size_of_each(section, len(files))
            increment = section.get("offset_increment")
            extra = 0 if isinstance(increment, Percent) else increment * clone
            shift = (0 if isinstance(offset, Percent) else offset) + extra
            reach = bytes_needed(recording, len(files)) if recording is not None else [0] * len(files)
            for file, end in zip(files, reach, strict=True):
                if size is None:
                    file.need = max(file.need, -(-end // ALIGN) * ALIGN)
                if size is not None:
                    file.need = max(file.need, shift + size)
                elif shift:
                    # A job that begins at an offset and says no size uses the rest: there must be one.
                    file.need = max(file.need, shift + ALIGN)
                if file.need > NAMESPACE_MAX:
                    raise _Problem(
                        f"{section.place_of('size', 'filesize', 'offset')}: a file may have at most 1 PiB"
                    )

    def _lay_out(self, lba_size: int) -> tuple[int, int]:
        """Place the files one after another in namespace 1; the number of namespaces and the size of each."""
        end = 0
        for file in self.files.values():
            if not file.device:
                file.start = end
                end += -(-file.nbytes // ALIGN) * ALIGN
        need = max((file.need for file in self.files.values() if file.device), default=0)
        nbytes = max(end, need) or DEFAULT_SIZE
        nbytes = -(-nbytes // ALIGN) * ALIGN
        for file in self.files.values():
            if file.device:
                file.need = nbytes
        return max((file.device for file in self.files.values()), default=0) or 1, nbytes

    # --- jobs ---

    def _job(
        self,
        section: JobSection,
        clone: int,
        group: int,
        lba_size: int,
        namespace_bytes: int,
        plans: list[JobPlan],
    ) -> None:
        files = self._files_of(section, clone)
        log = self.recordings.get(section.place)
        blocks = block_sizes(log) if log is not None else _block_sizes(section, lba_size)
        extents, size = self._extents(section, files, clone, lba_size, _min_block(section, blocks))
        engine, iodepth = section.get("ioengine"), section.get("iodepth")
        mode = "async" if engine in ASYNC_ENGINES else "sync"
        if mode == "sync" and iodepth > 1:
            if clone == 0:
                place = section.place_of("iodepth")
                self.notes.append(
                    f"{place}: iodepth={iodepth}: ioengine={engine} waits for each I/O, so the depth is 1"
                )
            iodepth = 1
        seed = self._seed(section, len(plans))
        if log is not None:
            pattern = replay_pattern(log, extents, seed)
            replay = replay_of(section, log, extents, [file.name for file in files])
        else:
            pattern, replay = _pattern(section, blocks, extents, lba_size, seed), None
        _check_buffers(section, iodepth, max(high for _, high in pattern.nlb) * lba_size)
        fits = [extent for extent in extents if extent.nlb >= pattern.granule]
        if not fits:
            raise _Problem(
                f"{section.place_of('size', 'bs', 'bsrange')}: the file has {size} bytes, "
                f"less than one block of {pattern.granule * lba_size}"
            )
        plans.append(
            JobPlan(
                name=section.name if "name" not in section.texts else section.get("name"),
                mode=mode,
                pattern=pattern,
                replay=replay,
                nsid=files[0].device or 1,
                lba_size=lba_size,
                iodepth=iodepth,
                group=group,
                clone=clone,
                stonewall=section.get("stonewall") and clone == 0,
                exitall=section.get("exitall"),
                # A log ends by itself.
                io_bytes=self._io_bytes(section, size) if log is None or section.get("io_size") else 0,
                loops=section.get("loops"),
                number_ios=section.get("number_ios"),
                runtime_ns=section.get("runtime"),
                time_based=section.get("time_based") and section.get("runtime") > 0,
                ramp_ns=section.get("ramp_time"),
                start_delay_ns=section.get("startdelay"),
                rate_iops=_triple(section.get("rate_iops")),
                rate_bytes=_triple(section.get("rate")),
                thinktime_ns=section.get("thinktime"),
                thinktime_blocks=section.get("thinktime_blocks"),
                fsync_every=section.get("fsync") or section.get("fdatasync"),
                end_fsync=section.get("end_fsync") or section.get("fsync_on_close"),
                sample_ns=max(section.get("bwavgtime"), 1_000_000),
                verify=_verify_spec(section, blocks, seed, len(plans), lba_size),
                do_verify=section.get("do_verify"),
                buffer_pattern=section.get("buffer_pattern") or section.get("verify_pattern") or b"",
                zero_buffers=section.get("zero_buffers"),
                refill_buffers=section.get("refill_buffers"),
                scramble_buffers=section.get("scramble_buffers"),
                cpu_ns_per_io=self.cpu_ns_per_io,
                engine=engine,
                rw=section.get("rw") if log is None else pattern.direction,
                bs=blocks,
                size=size,
                description=section.get("description") or "",
                group_reporting=section.get("group_reporting"),
                percentiles=section.get("percentile_list") or DEFAULT_PERCENTILES,
                percentiles_of=(
                    section.get("slat_percentiles"),
                    section.get("clat_percentiles"),
                    section.get("lat_percentiles"),
                ),
                significant_figures=section.get("significant_figures"),
                texts=section.texts,
            )
        )

    def _extents(
        self, section: JobSection, files: list[_File], clone: int, lba_size: int, min_block: int
    ) -> tuple[tuple[Extent, ...], int]:
        """The job's part of each file, and the bytes of all of them."""
        extents, total = [], 0
        offset, increment = section.get("offset"), section.get("offset_increment")
        size = _size_of_each(section, len(files))
        for file in files:
            start = _resolve(offset, file.nbytes, min_block) + clone * _resolve(
                increment, file.nbytes, min_block
            )
            if start % lba_size:
                raise _Problem(
                    f"{section.place_of('offset_increment', 'offset')}: offset: {start} is not a multiple of "
                    f"the logical block of {lba_size} bytes"
                )
            whole = section.get("size")
            if isinstance(whole, Percent):
                wanted = whole.of(file.nbytes)
            else:
                wanted = size if size is not None else file.nbytes - start
            wanted = min(wanted, file.nbytes - start)
            if wanted < lba_size:
                raise _Problem(
                    f"{section.place_of('offset', 'size')}: the job begins at byte {start} of {file.name}, "
                    f"which has {file.nbytes}: nothing is left to transfer"
                )
            extents.append(Extent(slba=(file.start + start) // lba_size, nlb=wanted // lba_size))
            total += wanted
        return tuple(extents), total

    def _io_bytes(self, section: JobSection, size: int) -> int:
        io_size = section.get("io_size")
        if isinstance(io_size, Percent):
            return io_size.of(size)
        return int(io_size or size)

    def _seed(self, section: JobSection, number: int) -> int:
        base = section.get("randseed")
        if base is None:
            if not section.get("randrepeat") and self.entropy is not None:
                return self.entropy()
            base = 0x89
        # Each job, and each clone, goes its own way through its file.
        return mix64(mix64(base + (self.seed << 32)) + number)


def _size_of_each(section: JobSection, files: int) -> int | None:
    """Bytes of each of the job's files, None where the job does not say (or says a percentage)."""
    if section.get("filesize") is not None:
        return int(section.get("filesize"))
    size = section.get("size")
    if size is None or isinstance(size, Percent):
        return None
    return int(size) // files


def _resolve(value: int | Percent, nbytes: int, alignment: int) -> int:
    if isinstance(value, Percent):
        # fio: an offset in per cent is aligned to the block size.
        return value.of(nbytes) // alignment * alignment
    return value


def _triple(value: tuple[int | None, int | None, int | None] | None) -> tuple[int, int, int]:
    if value is None:
        return (0, 0, 0)
    return (value[0] or 0, value[1] or 0, value[2] or 0)


def _block_sizes(section: JobSection, lba_size: int) -> BlockSizes:
    """(minimum, maximum) in bytes for reads, writes and trims."""
    ranges, sizes = section.get("bsrange"), section.get("bs") or (None, None, None)
    blocks = []
    for direction in range(3):
        if ranges is not None and ranges[direction] is not None:
            low, high = ranges[direction]
        else:
            low = high = sizes[direction] or 4096
        for value in (low, high):
            if value % lba_size or value == 0:
                raise _Problem(
                    f"{section.place_of('bsrange', 'bs')}: a block of {value} bytes is not a multiple of the "
                    f"logical block of {lba_size} bytes"
                )
            if value > 1 << 30:
                raise _Problem(
                    f"{section.place_of('bsrange', 'bs')}: a block of {value} bytes is larger than 1 GiB"
                )
        blocks.append((low, high))
    return blocks[0], blocks[1], blocks[2]


def _pattern(
    section: JobSection, blocks: BlockSizes, extents: tuple[Extent, ...], lba_size: int, seed: int
) -> PatternSpec:
    return PatternSpec(
        direction=section.get("rw").removeprefix("rand") or "rw",
        random=section.get("rw").startswith("rand"),
        extents=extents,
        nlb=tuple((low // lba_size, high // lba_size) for low, high in blocks),  # type: ignore[arg-type]
        read_percent=section.get("rwmixread"),
        random_map=not section.get("norandommap"),
        distribution=section.get("random_distribution"),
        seed=seed,
    )


def _check_buffers(section: JobSection, iodepth: int, block_bytes: int) -> None:
    if iodepth * block_bytes > BUFFERS_MAX:
        raise _Problem(
            f"{section.place_of('iodepth')}: iodepth={iodepth} blocks of {block_bytes} bytes "
            f"need {iodepth * block_bytes >> 20} MiB of buffers; the limit is {BUFFERS_MAX >> 20}"
        )


def _min_block(section: JobSection, blocks: BlockSizes) -> int:
    direction = section.get("rw").removeprefix("rand")
    used = {"read": (0,), "write": (1,), "trim": (2,)}.get(direction, (0, 1))
    return min(blocks[index][0] for index in used)


def _verify_spec(
    section: JobSection, blocks: BlockSizes, seed: int, number: int, lba_size: int
) -> VerifySpec:
    check, pattern = section.get("verify"), section.get("verify_pattern") or b""
    if isinstance(check, bytes):
        check, pattern = "pattern", check
    if check == "pattern" and not pattern:
        raise _Problem(f"{section.place_of('verify')}: verify=pattern needs verify_pattern")
    interval = section.get("verify_interval")
    if interval and (interval < HEADER_BYTES or any(size % interval for pair in blocks for size in pair)):
        # fio swaps the values so that they fit; here they have to.
        raise _Problem(
            f"{section.place_of('verify_interval')}: verify_interval={interval} must divide the block sizes "
            f"and be at least {HEADER_BYTES}"
        )
    return VerifySpec(
        check=check,
        pattern=pattern,
        interval=interval,
        seed=seed,
        job=number & 0xFFFF,
        fatal=section.get("verify_fatal"),
    )


def _with_ownership(plans: list[JobPlan]) -> list[JobPlan]:
    """Tell each verifying job whether another one may write its blocks."""
    writers = [plan for plan in plans if plan.pattern.direction != "read"]
    result = []
    for plan in plans:
        alone = all(other is plan or not _overlap(plan, other) for other in writers)
        if plan.verify.check != "none" and not alone:
            plan = replace(plan, verify=replace(plan.verify, own_blocks=False))
        result.append(plan)
    return result


def _overlap(one: JobPlan, other: JobPlan) -> bool:
    return one.nsid == other.nsid and any(
        a.slba < b.slba + b.nlb and b.slba < a.slba + a.nlb
        for a in one.pattern.extents
        for b in other.pattern.extents
    )
