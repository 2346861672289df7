"""What a measurement is, and how closed loops and the disk are measured."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

COMMAND_BYTES: Final = 200
WARM_UP_S: Final = 1.0
_FILE_BYTES: Final = 32 * 1024 * 1024
_PAGE_BYTES: Final = 4096


class Load(msgspec.Struct, frozen=True):
    """A closed loop: each of `in_flight` places proposes, waits for its commit, proposes again.

    rate: commits a second. p50_ms, p99_ms: from the proposal to its answer. client_cpu: the client's share of one core,
    where it is a process of its own. records_per_sync: entries the leader made durable by one fsync, where it tells.
    """

    in_flight: int
    seconds: float
    count: int
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int = 0
    client_cpu: float | None = None
    records_per_sync: float | None = None


class Outage(msgspec.Struct, frozen=True):
    """How long a cluster was without a leader, once for each of `count` tries, in milliseconds.

    leader: until a member called itself leader. commit: until a proposal to it was answered.
    """

    count: int
    leader_median_ms: float
    leader_max_ms: float
    commit_median_ms: float
    commit_max_ms: float


def load_of(in_flight: int, seconds: float, latencies_ns: Sequence[int], errors: int = 0) -> Load:
    """Sum up one closed loop. latencies_ns: one for each commit."""
    if not latencies_ns:
        return Load(in_flight, seconds, 0, 0.0, float("inf"), float("inf"), errors)
    ordered = sorted(latencies_ns)
    count = len(ordered)
    return Load(
        in_flight=in_flight,
        seconds=round(seconds, 3),
        count=count,
        rate=round(count / seconds, 1),
        p50_ms=round(ordered[count // 2] / 1e6, 3),
        p99_ms=round(ordered[min(count - 1, count * 99 // 100)] / 1e6, 3),
        errors=errors,
    )


def median_load(loads: Sequence[Load]) -> Load:
    """The run with the median rate: its figures belong together, which medians of each would not."""
    return sorted(loads, key=lambda load: load.rate)[len(loads) // 2]


def outage_of(pairs: Sequence[tuple[float, float]]) -> Outage:
    """Sum up outages. pairs: (until a leader, until a commit), in milliseconds."""
    leader, commit = [one[0] for one in pairs], [one[1] for one in pairs]
    return Outage(
        count=len(pairs),
        leader_median_ms=round(statistics.median(leader), 1),
        leader_max_ms=round(max(leader), 1),
        commit_median_ms=round(statistics.median(commit), 1),
        commit_max_ms=round(max(commit), 1),
    )


def resident_mb(pid: int | str) -> float:
    """A process' resident memory, in MiB. pid: or "self"."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def syncs_per_second(folder: Path, seconds: float) -> float:
    """fdatasyncs a second, each after 4 KiB over a file that exists in full: the most that one log can do here."""
    with (folder / f"sync-{os.getpid()}").open("w+b", buffering=0) as file:
        file.write(bytes(_FILE_BYTES))
        os.fsync(file.fileno())
        page = mmap.mmap(-1, _PAGE_BYTES)
        page.write(os.urandom(_PAGE_BYTES))
        count, begin_s = 0, time.perf_counter()
        while time.perf_counter() - begin_s < seconds:
            os.pwrite(file.fileno(), page, count * _PAGE_BYTES % _FILE_BYTES)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - begin_s)


def syncs_of_three(folder: Path, seconds: float) -> list[float]:
    """The same, from three processes at once, each on a file of its own."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        return pool.starmap(syncs_per_second, [(folder, seconds)] * 3)
