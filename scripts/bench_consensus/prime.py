"""What is measured of prime besides what all clusters have in common."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from scripts.bench_consensus.cluster import Cluster, running
from scripts.bench_consensus.measure import WARM_UP_S, Load, median_load
from scripts.bench_consensus.prime_state import Seen
from scripts.bench_consensus.processes import Child, MemberConfig, MemberDied

MEMBER: Final = "scripts.bench_consensus.prime_member"
CLIENTS: Final = "scripts.bench_consensus.prime_clients"
LONG_S: Final = 1200.0
SNAPSHOT_BYTES: Final = 16 * 1024 * 1024
ROUNDS: Final = 10
ENTRIES_AHEAD: Final = 10
HEARTBEATS_S: Final = 0.2  # in which some are heard: a gap has two ends


class Transfers(msgspec.Struct, frozen=True):
    """Planned transfers: from the last answer of the old leader to the first of the new one, in milliseconds."""

    count: int
    median_ms: float
    max_ms: float


class Growth(msgspec.Struct, frozen=True):
    """A log of so many entries without compaction, and what a start with it takes.

    disk_mib: of one member. open_s: to read it into memory, the slowest member's. served_s: from the start of the three
    processes until all have applied everything again, the election included.
    """

    entries: int
    disk_mib: float
    bytes_per_entry: float
    resident_mib: float
    open_s: float
    served_s: float


class Memory(msgspec.Struct, frozen=True):
    """Commits with compaction. resident_mib: of each member by id, after each tenth. disk_mib: of one, at the end."""

    commits: int
    rate: float
    resident_mib: dict[int, list[float]]
    disk_mib: float


class Pauses(msgspec.Struct, frozen=True):
    """What stood still meanwhile, in milliseconds: the longest of each try, of any member; their median and maximum.

    seconds: how long it took, median. pause: of a loop. gap: between two heartbeats, or two answers to them.
    """

    seconds: float
    pause_median_ms: float
    pause_max_ms: float
    gap_median_ms: float
    gap_max_ms: float


class Snapshots(msgspec.Struct, frozen=True):
    """Snapshots of a large run table. installed: from the start of a member's process until it has applied all."""

    rows: int
    mib: float
    tries: int
    made: Pauses
    installed: Pauses


def remote_load(cluster: Cluster, folder: Path, clients: int, seconds: float, repeats: int) -> Load:
    """Closed loops of clients in another process, each over a connection of its own to the leader."""
    leader = cluster.leader().config
    config = MemberConfig(0, str(folder / "clients"), {leader.id: leader.addresses[leader.id]}, {"clients": clients})
    child = Child(CLIENTS, config)
    try:
        child.ask("load", seconds=WARM_UP_S)
        return median_load([msgspec.convert(child.ask("load", seconds=seconds), Load) for _ in range(repeats)])
    finally:
        child.stop()


def transfers(cluster: Cluster, count: int) -> Transfers:
    """`count` planned transfers under a client that never pauses."""
    gaps_ms = []
    for _ in range(count):
        old = cluster.leader()
        cluster.await_applied()
        to = next(number for number in cluster.members if number != old.config.id)
        cluster.forget_events()
        last_ns = old.ask("transfer", to=to)
        _led_ns, committed_ns = cluster.await_commit(last_ns)
        gaps_ms.append((committed_ns - last_ns) / 1e6)
    return Transfers(count, round(statistics.median(gaps_ms), 2), round(max(gaps_ms), 2))


def growth(folder: Path, entries: int, options: dict[str, Any]) -> Growth:
    """Fill a log, start again with it."""
    with running(MEMBER, folder, options) as cluster:
        _fill(cluster, entries)
        cluster.await_applied()
        applied = cluster.leader().ask("applied")
        stats = cluster.leader().ask("stats")
        cluster.stop()
        begin_s = time.monotonic()
        cluster.start()
        while min(child.ask("applied", timeout_s=LONG_S) for child in cluster.members.values()) < applied:
            time.sleep(0.01)
        served_s = time.monotonic() - begin_s
        open_s = max(child.ask("stats")["open_s"] for child in cluster.members.values())
    return Growth(
        entries=entries,
        disk_mib=round(stats["log_bytes"] / 2**20, 1),
        bytes_per_entry=round(stats["log_bytes"] / entries, 1),
        resident_mib=round(stats["resident_mb"], 1),
        open_s=round(open_s, 2),
        served_s=round(served_s, 2),
    )


def memory(folder: Path, commits: int, options: dict[str, Any]) -> Memory:
    """Commit, with a snapshot every `SNAPSHOT_BYTES` of log, and look at the members' memory."""
    resident: dict[int, list[float]] = {}
    with running(MEMBER, folder, {**options, "snapshot_bytes": SNAPSHOT_BYTES}) as cluster:
        begin_s = time.monotonic()
        for _ in range(ROUNDS):
            _fill(cluster, commits // ROUNDS)
            for number, child in cluster.members.items():
                resident.setdefault(number, []).append(round(child.ask("stats")["resident_mb"], 1))
        rate = commits / (time.monotonic() - begin_s)
        cluster.await_applied()
        disk = cluster.leader().ask("stats")["log_bytes"] / 2**20
    return Memory(commits, round(rate, 1), resident, round(disk, 1))


def snapshots(folder: Path, rows: int, tries: int, options: dict[str, Any]) -> Snapshots:
    """A leader's snapshot of a table of `rows` ended runs, and its way to a member that was away, so many times."""
    made: list[tuple[float, float, float]] = []
    installed: list[tuple[float, float, float]] = []
    mib = 0.0
    with running(MEMBER, folder, {**options, "rows": rows}) as cluster:
        for _ in range(tries):
            leader = cluster.leader()
            cluster.await_applied()
            away = next(number for number in cluster.members if number != leader.config.id)
            cluster.stop_one(away)
            leader.ask("load", in_flight=1, count=ENTRIES_AHEAD)
            for child in cluster.members.values():
                child.ask("forget")
            time.sleep(HEARTBEATS_S)
            answer = leader.ask("snapshot", timeout_s=LONG_S)
            seen = [_seen(child) for child in cluster.members.values()]
            gap_ms = max(gap for one in seen for gap in one.gaps_ms.values())
            made.append((answer["seconds"], max(one.pause_ms for one in seen), gap_ms))
            mib = answer["mib"]
            leader.ask("forget")
            begin_s = time.monotonic()
            cluster.start_one(away)
            while not 0 < leader.ask("applied") <= cluster.members[away].ask("applied"):
                time.sleep(0.01)
            took_s = time.monotonic() - begin_s
            if cluster.leader() is not leader:
                raise MemberDied("another leader took over: is this machine busy?")
            there, here = _seen(leader), _seen(cluster.members[away])
            gap_ms = max(there.gaps_ms[away], here.gaps_ms[leader.config.id])
            installed.append((took_s, max(there.pause_ms, here.pause_ms), gap_ms))
    return Snapshots(rows, round(mib, 1), tries, _pauses(made), _pauses(installed))


def _seen(child: Child) -> Seen:
    return msgspec.convert(child.ask("seen"), Seen, strict=False)  # in JSON a key is a string


def _pauses(tries: list[tuple[float, float, float]]) -> Pauses:
    seconds, pauses_ms, gaps_ms = zip(*tries, strict=True)
    median = statistics.median
    return Pauses(
        round(median(seconds), 2), round(median(pauses_ms), 1), max(pauses_ms), round(median(gaps_ms), 1), max(gaps_ms)
    )


def _fill(cluster: Cluster, count: int) -> None:
    cluster.leader().ask("load", timeout_s=LONG_S, in_flight=256, count=count)
