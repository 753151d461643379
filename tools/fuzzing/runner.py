"""Run one target on many inputs, within a time, and make a failing input small."""

from __future__ import annotations

import hashlib
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

__all__ = ["CASE_SECONDS", "Finding", "Result", "fuzz", "run_case", "shrink", "write_finding"]

CASE_SECONDS = 20
"""A case that takes longer hangs."""
LENGTHS = (64, 512, 1024, 2048, 4096, 4096)
SHRINK_RUNS = 400

Case = Callable[[bytes], None]


class HangError(Exception):
    """A case did not come to an end."""


@dataclass
class Finding:
    """An input that broke something, made small, and what it broke."""

    target: str
    data: bytes
    error: str
    trace: str

    @property
    def digest(self) -> str:
        """A name for it."""
        return hashlib.sha256(self.data).hexdigest()[:8]


@dataclass
class Result:
    """What a run of one target has come to."""

    target: str
    seed: int
    cases: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def expired(signum: int, frame: FrameType | None) -> None:
        raise HangError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_case(case: Case, data: bytes) -> BaseException | None:
    """What the case raised, a hang included; None if all was well."""
    try:
        with _limited(CASE_SECONDS):
            case(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def fuzz(
    target: str,
    case: Case,
    seed: int,
    *,
    seconds: float | None = None,
    cases: int | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Result:
    """Random inputs, the n-th a function of seed and n, until the time or the number is reached or one fails."""
    result = Result(target, seed)
    started = time.monotonic()
    try:
        while cases is None or result.cases < cases:
            result.seconds = time.monotonic() - started
            if seconds is not None and result.seconds >= seconds:
                break
            data = case_data(target, seed, result.cases)
            error = run_case(case, data)
            result.cases += 1
            if error is not None:
                result.findings.append(make_finding(target, case, data, error))
                break
            if progress is not None:
                progress(result)
    finally:
        result.seconds = time.monotonic() - started
    return result


def case_data(target: str, seed: int, number: int) -> bytes:
    """The bytes of a case."""
    rng = random.Random(f"{target}/{seed}/{number}")
    return rng.randbytes(rng.choice(LENGTHS))


def make_finding(target: str, case: Case, data: bytes, error: BaseException) -> Finding:
    """A finding with the smallest input that still fails in the same place."""
    small = shrink(case, data, error)
    error = run_case(case, small) or error
    trace = "".join(traceback.format_exception(error))
    return Finding(target, small, f"{type(error).__name__}: {error}", trace)


def _place(error: BaseException) -> tuple[type, str, int]:
    """Where it was raised: what makes two failures the same."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error), frames[-1].filename if frames else "", (frames[-1].lineno or 0) if frames else 0


def shrink(case: Case, data: bytes, error: BaseException) -> bytes:
    """A shorter input that fails in the same place: pieces are cut out, ever smaller ones, then bytes zeroed."""
    wanted, runs = _place(error), 0
    if wanted[0] is HangError:
        return data

    def fails(candidate: bytes) -> bool:
        nonlocal runs
        runs += 1
        found = run_case(case, candidate)
        return found is not None and _place(found) == wanted

    size = len(data) // 2
    while size and runs < SHRINK_RUNS:
        at = 0
        while at < len(data) and runs < SHRINK_RUNS:
            candidate = data[:at] + data[at + size :]
            if fails(candidate):
                data = candidate
            else:
                at += size
        size //= 2
    for at in range(len(data)):
        if data[at] and runs < SHRINK_RUNS and fails(data[:at] + b"\0" + data[at + 1 :]):
            data = data[:at] + b"\0" + data[at + 1 :]
    return data


def write_finding(finding: Finding, folder: Path) -> Path:
    """Keep the input, so that it can be replayed."""
    path = folder / f"fuzz-{finding.target}-{finding.digest}.bin"
    path.write_bytes(finding.data)
    return path
