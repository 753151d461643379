"""The table of fio's job options: how each is read, and what becomes of it here.

The rule (docs/fio.md tells it to users):

* HONOURED: it does what it does in fio.
* NOTED: it cannot change which I/O is done, and what it asks for has no counterpart here (a page cache,
  NUMA nodes, log files …). It is accepted, and one line on standard error says so.
* REFUSED: fio knows it, and it would change which I/O is done in a way that is not built here. Going on
  would measure something else than was asked for, so it is an error, except for values that ask for
  fio's default behaviour, which are noted.
* A name that is not in the table is unknown: an error with the closest known names.

Names, aliases and defaults are facts of fio 3.33 (`fio --cmdhelp=all`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from nvme_emu.workload.values import (
    Units,
    choice,
    parse_bool,
    parse_float_list,
    parse_int,
    parse_pattern,
    parse_percent,
    parse_range,
    parse_size,
    parse_text,
    per_direction,
    plain_int,
    time_ns,
)

__all__ = ["ASYNC_ENGINES", "OPTIONS", "SYNC_ENGINES", "Option", "Rule", "find_option", "suggest"]

Parser = Callable[[str, Units], Any]


class Rule(Enum):
    HONOURED = "honoured"
    NOTED = "noted"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One row: `bare` is the value of an option written without `=` (None: a value is required)."""

    name: str
    rule: Rule
    parse: Parser
    help: str
    aliases: tuple[str, ...] = ()
    bare: str | None = None
    default: Any = None
    harmless: tuple[str, ...] = ()
    """Values of a REFUSED option that ask for the default behaviour and are therefore only noted."""


SYNC_ENGINES = (
    "sync",
    "psync",
    "vsync",
    "pvsync",
    "pvsync2",
    "mmap",
    "splice",
    "libpmem",
    "dev-dax",
    "pmemblk",
)
ASYNC_ENGINES = (
    "libaio",
    "io_uring",
    "io_uring_cmd",
    "posixaio",
    "solarisaio",
    "windowsaio",
    "sg",
    "nvme-emu",
    "xnvme",
    "libblkio",
)
_DIRECTIONS = ("read", "write", "trim", "randread", "randwrite", "randtrim", "rw", "randrw")
_CHECKS = ("none", "crc32c", "md5", "pattern")


def _parse_rw(text: str, units: Units) -> str:
    if ":" in text:
        raise ValueError(f"'{text}': the :N modifier of rw is not supported here")
    if text in ("trimwrite", "randtrimwrite"):
        raise ValueError(f"'{text}' is not supported here; run a trim job, then `stonewall` and a write job")
    return choice(*_DIRECTIONS, readwrite="rw")(text, units)


def _parse_engine(text: str, units: Units) -> str:
    if text in SYNC_ENGINES or text in ASYNC_ENGINES:
        return text
    raise ValueError(
        f"'{text}' moves no blocks of an NVMe namespace; use a sync-like engine (psync, sync, mmap, …) "
        "or an async-like one (libaio, io_uring, posixaio, …)"
    )


def _parse_distribution(text: str, units: Units) -> tuple[str, float]:
    kind, _, rest = text.partition(":")
    if kind == "random" and not rest:
        return kind, 0.0
    if kind not in ("zipf", "pareto"):
        raise ValueError(f"'{text}' is not one of random, zipf:THETA, pareto:H")
    if ":" in rest:
        raise ValueError(f"'{text}': the centre of a distribution is not supported here")
    try:
        value = float(rest) if rest else {"zipf": 1.1, "pareto": 0.2}[kind]
    except ValueError:
        raise ValueError(f"'{rest}' in '{text}' is not a number") from None
    if kind == "zipf" and not (0 < value <= 10 and value != 1.0):
        raise ValueError(f"'{text}': zipf's theta must be above 0, at most 10, and not 1")
    if kind == "pareto" and not 0 < value < 1:
        raise ValueError(f"'{text}': pareto's h must lie between 0 and 1")
    return kind, value


def _parse_verify(text: str, units: Units) -> str | bytes:
    """The check's name, or the pattern's bytes when it is written as `pattern:0x…`."""
    if text.startswith("pattern:"):
        return parse_pattern(text.removeprefix("pattern:"), units)
    if text in ("0", "meta", "null"):
        return {"0": "none", "meta": "crc32c", "null": "none"}[text]
    if text == "crc32c-intel":
        return "crc32c"
    if text not in _CHECKS:
        raise ValueError(f"'{text}' is not one of crc32c, md5, pattern, pattern:0x…, 0")
    return text


def _parse_skip(text: str, units: Units) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    for word in words:
        if word not in ("read", "write", "trim", "sync"):
            raise ValueError(f"'{word}' is not one of read, write, trim, sync")
    return words


def _metadata(text: str, units: Units) -> str:
    """The words of MetadataConfig. ValueError for others."""
    from nvme_emu.controller.metadata_config import MetadataConfig

    found = parse_text(text, units)
    MetadataConfig.parse(found)
    return found


def _one_of(*values: int) -> Parser:
    def parse(text: str, units: Units) -> int:
        value = parse_int(text, units)
        if value not in values:
            raise ValueError(f"'{text}' is not one of {', '.join(map(str, values))}")
        return value

    return parse


def _honoured(name: str, parse: Parser, help: str, **more: Any) -> Option:
    return Option(name=name, rule=Rule.HONOURED, parse=parse, help=help, **more)


_positive = plain_int(1)
_count = plain_int(0)
_seconds = time_ns("s")
_micros = time_ns("us")
_millis = time_ns("ms")
_flag: dict[str, Any] = {"bare": "1", "default": False}

_HONOURED = (
    # the job
    _honoured("name", parse_text, "name of the job in the output"),
    _honoured("description", parse_text, "text that the output repeats"),
    _honoured("numjobs", plain_int(1, 4096), "number of clones", default=1),
    _honoured("loops", _positive, "how often the job's I/O is repeated", default=1),
    _honoured("runtime", _seconds, "end after this time", aliases=("timeout",), default=0),
    _honoured("time_based", parse_bool, "repeat the I/O until runtime is over", **_flag),
    _honoured("ramp_time", _seconds, "time at the start that is not measured", default=0),
    _honoured("startdelay", _seconds, "wait before the job starts", default=0),
    _honoured("stonewall", parse_bool, "wait for all jobs above", aliases=("wait_for_previous",), **_flag),
    _honoured("new_group", parse_bool, "start a new reporting group", **_flag),
    _honoured("group_reporting", parse_bool, "one report for the group", **_flag),
    _honoured("exitall", parse_bool, "end the group when one of its jobs ends", **_flag),
    # where
    _honoured("filename", parse_text, "file or device; several with ':'"),
    _honoured("directory", parse_text, "prefix of file names"),
    _honoured("nrfiles", plain_int(1, 4096), "files of the job", aliases=("nr_files",), default=1),
    _honoured("size", parse_size, "bytes of the file(s), or a percentage"),
    _honoured("filesize", parse_int, "bytes of each file"),
    _honoured("io_size", parse_size, "bytes to transfer in a loop", aliases=("io_limit",)),
    _honoured("offset", parse_size, "where in the file the I/O starts", aliases=("fileoffset",), default=0),
    _honoured("offset_increment", parse_size, "added to offset for each clone", default=0),
    _honoured("number_ios", _count, "end after this many I/Os", default=0),
    # what
    _honoured("ioengine", _parse_engine, "sync-like or async-like", default="psync"),
    _honoured("iodepth", plain_int(1, 65536), "requests in flight (async mode)", default=1),
    _honoured("rw", _parse_rw, "direction and order", aliases=("readwrite",), default="read"),
    _honoured("bs", per_direction(_positive), "block size", aliases=("blocksize",)),
    _honoured("bsrange", per_direction(parse_range, ",/"), "range of sizes", aliases=("blocksize_range",)),
    _honoured("rwmixread", parse_percent, "share of reads in a mix", default=50),
    _honoured("rwmixwrite", parse_percent, "share of writes in a mix"),
    _honoured("random_distribution", _parse_distribution, "random, zipf, pareto", default=("random", 0.0)),
    _honoured("norandommap", parse_bool, "blocks may repeat within a pass", **_flag),
    _honoured("randrepeat", parse_bool, "the same order in each run", bare="1", default=True),
    _honoured("randseed", _count, "seed of the order"),
    _honoured("fsync", _count, "flush after this many writes", default=0),
    _honoured("fdatasync", _count, "as fsync: NVMe has one Flush", default=0),
    _honoured("end_fsync", parse_bool, "flush when the writes are done", bare="1", default=False),
    _honoured("fsync_on_close", parse_bool, "as end_fsync", bare="1", default=False),
    # replay
    _honoured("read_iolog", parse_text, "log that is replayed: fio's iolog, blkparse's text, our trace"),
    _honoured("replay_no_stall", parse_bool, "replay as fast as possible", **_flag),
    _honoured("replay_time_scale", _positive, "recorded pace in per cent", default=100),
    _honoured("replay_redirect", parse_text, "file that all I/O of the log goes to"),
    _honoured("replay_scale", _positive, "divides the log's offsets", default=1),
    _honoured("replay_align", parse_int, "the log's offsets are rounded down to a multiple", default=0),
    _honoured("replay_skip", _parse_skip, "directions of the log that are left out", default=()),
    # pace
    _honoured("rate", per_direction(_count), "cap in bytes a second"),
    _honoured("rate_iops", per_direction(_count), "cap in I/Os a second"),
    _honoured("thinktime", _micros, "pause after I/Os", default=0),
    _honoured("thinktime_blocks", _positive, "I/Os between two pauses", default=1),
    # content
    _honoured("verify", _parse_verify, "check of the data", default="none"),
    _honoured("do_verify", parse_bool, "read back after writing", bare="1", default=True),
    _honoured("verify_pattern", parse_pattern, "content of written blocks"),
    _honoured("verify_interval", _count, "bytes that one header covers", default=0),
    _honoured("verify_fatal", parse_bool, "end at the first mismatch", bare="1", default=False),
    _honoured("zero_buffers", parse_bool, "write zeroes", **_flag),
    _honoured("refill_buffers", parse_bool, "new random data for each write", **_flag),
    _honoured("scramble_buffers", parse_bool, "stamp each written block", bare="1", default=True),
    _honoured("buffer_pattern", parse_pattern, "content of written blocks"),
    # the report
    _honoured("bwavgtime", _millis, "window of a bandwidth sample", default=500_000_000),
    _honoured("percentile_list", parse_float_list, "percentiles that are reported"),
    _honoured("clat_percentiles", parse_bool, "percentiles of completion latency", bare="1", default=True),
    _honoured("lat_percentiles", parse_bool, "percentiles of total latency", bare="1", default=False),
    _honoured("slat_percentiles", parse_bool, "percentiles of submission latency", bare="1", default=False),
    _honoured("significant_figures", plain_int(1, 10), "digits in the normal output", default=4),
    _honoured("kb_base", _one_of(1000, 1024), "what k means: 1000 or 1024", default=1024),
    # ours: what fio has no word for
    _honoured("nvme_profile", parse_text, "device profile (fio has no such option)"),
    _honoured("nvme_lba_size", _one_of(512, 4096), "bytes of a block (fio has no such option)", default=512),
    _honoured("nvme_metadata", _metadata, "metadata of a block: ms=8,pi=1,… (fio has no such option)"),
    _honoured("nvme_queues", plain_int(1, 64), "I/O queue pairs (fio has no such option)"),
    _honoured("nvme_queue_depth", plain_int(2, 65536), "entries of a queue (fio has no such option)"),
)  # fmt: skip

# Groups of names that share one reason; a message says "accepted without effect: " and the reason.
_NOTED: tuple[tuple[str, str], ...] = (
    (
        "there is no page cache here: every transfer reaches the device",
        """
        direct buffered invalidate fadvise_hint pre_read sync_file_range write_barrier
        """,
    ),
    (
        "files are regions of the namespace, which need no creating",
        """
        fallocate create_serialize create_fsync create_on_open allow_file_create
        allow_mounted_write openfiles overwrite unlink unlink_each_loop lockfile unique_filename
        softrandommap
        """,
    ),
    (
        "jobs are kthreads of this process",
        """
        thread nice prio prioclass cpumask cpus_allowed cpus_allowed_policy numa_cpu_nodes
        numa_mem_policy uid gid cgroup cgroup_weight cgroup_nodelete ioscheduler write_hint
        """,
    ),
    (
        "buffers are numpy arrays",
        """
        mem iomem hugepage-size lockmem iomem_align mem_align
        """,
    ),
    (
        "a request is submitted as soon as there is room and reaped as soon as it is done",
        """
        iodepth_batch iodepth_batch_submit iodepth_batch_complete_min iodepth_batch_complete
        iodepth_batch_complete_max iodepth_low io_submit_mode serialize_overlap hipri
        sqthread_poll fixedbufs registerfiles nonvectored userspace_reap cmdprio_percentage
        uncached nowait force_async
        """,
    ),
    (
        "no log or state files are written",
        """
        write_bw_log write_lat_log write_iops_log write_hist_log bwavgtime_log iopsavgtime
        log_entries log_avg_msec log_hist_msec log_hist_coarseness log_max_value log_offset
        log_prio log_compression log_compression_cpus log_store_compressed log_unix_epoch
        log_alternate_epoch log_alternate_epoch_clock_id per_job_logs verify_dump
        verify_state_save write_iolog
        """,
    ),
    (
        "the time comes from the runtime, and every latency is always measured",
        """
        clocksource gtod_reduce gtod_cpu disable_lat disable_clat disable_slat
        disable_bw_measurement disable_bw thinktime_spin stats disk_util unit_base error_dump
        block_error_percentiles
        """,
    ),
    (
        "the order comes from this program's own generator (docs/fio.md)",
        """
        random_generator allrandrepeat
        """,
    ),
    (
        "verification is done by the job itself",
        """
        verify_async verify_async_cpus experimental_verify trim_verify_zero
        """,
    ),
)

# Refused; after "=", the values that ask for what happens anyway.
_REFUSED = """
    file_service_type=roundrobin,sequential filename_format opendir wait_for ba blockalign bssplit
    bs_unaligned=0 blocksize_unaligned=0 bs_is_seq_rand=0 ignore_error rw_sequencer=sequential,identical
    fill_device=0 fill_fs=0 file_append=0 offset_align=0 percentage_random=100 atomic=0 sync=0,none
    verify_only=0 verify_offset=0 verify_backlog=0 verify_backlog_batch=0 verify_state_load=0
    trim_percentage=0 trim_backlog=0 trim_backlog_batch=0 read_iolog_chunked=0
    merge_blktrace_file merge_blktrace_scalars merge_blktrace_iters exec_prerun exec_postrun
    zonemode=none zonesize=0 zonecapacity=0 zonerange=0 zoneskip=0 read_beyond_wp=0 max_open_zones=0
    job_max_open_zones=0 ignore_zone_limits=0 zone_reset_threshold=0 zone_reset_frequency=0
    thinktime_blocks_type=complete thinktime_iotime=0 rate_min=0 ratemin=0 rate_process=linear
    rate_cycle=1000 ratecycle=1000 rate_ignore_thinktime=0 rate_iops_min=0 max_latency=0
    latency_target=0 latency_window=0 latency_percentile=100 latency_run=0 create_only=0 exit_what=group
    exitall_on_error=0 buffer_compress_percentage=0 buffer_compress_chunk dedupe_percentage=0
    dedupe_mode dedupe_working_set_percentage dedupe_global=0 unified_rw_reporting=0,none
    continue_on_error=0,none profile flow_id=0 flow=0 flow_watermark flow_sleep=0 steadystate ss
    steadystate_duration=0 ss_dur=0 steadystate_ramp_time=0 ss_ramp=0 cmd_type hostname port protocol
    cpuload cpuchunks
"""


def _table() -> dict[str, Option]:
    rows = list(_HONOURED)
    for reason, names in _NOTED:
        rows += [
            Option(name=name, rule=Rule.NOTED, parse=parse_text, help=reason, bare="1")
            for name in names.split()
        ]
    for word in _REFUSED.split():
        name, _, harmless = word.partition("=")
        rows.append(
            Option(
                name=name,
                rule=Rule.REFUSED,
                parse=parse_text,
                help="fio knows it, but it is not supported here",
                bare="1",
                harmless=tuple(harmless.split(",")) if harmless else (),
            )
        )
    table: dict[str, Option] = {}
    for row in rows:
        for name in (row.name, *row.aliases):
            assert name not in table, f"option {name} is declared twice"
            table[name] = row
    return table


OPTIONS: dict[str, Option] = _table()
"""Every name and alias that is known, to its row."""


def find_option(name: str) -> Option | None:
    """The row of an option; fio reads `-` and `_` in names alike only where it says so, and so do we."""
    return OPTIONS.get(name)


def suggest(name: str) -> str:
    """` (did you mean …?)` for a mistyped option, or the empty string."""
    names = [known for known, row in OPTIONS.items() if row.rule is Rule.HONOURED]
    if len(name) > 2 * max(map(len, names)):
        return ""
    close = difflib.get_close_matches(re.sub("-", "_", name), names, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
