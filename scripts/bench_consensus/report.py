"""The figures of one run, as JSON and as tables in Markdown."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from scripts.bench_consensus.measure import Load, Outage
from scripts.bench_consensus.prime import Growth, Memory, Pauses, Snapshots, Transfers

PRIME, ETCD, DEFAULTS = "prime", "etcd", "PySyncObj, defaults"


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured. busy: the load average before."""

    processors: int
    processor: str
    kernel: str
    python: str
    busy: float
    at: str


class Disk(msgspec.Struct, frozen=True):
    """fdatasyncs a second: of one process, and of each of three at once."""

    alone: float
    of_three: list[float]


class System(msgspec.Struct):
    """One implementation. loads: by places in flight, and where the clients are: "1", "64", "64 remote"."""

    name: str
    notes: str
    loads: dict[str, Load] = {}
    outage: Outage | None = None


class Results(msgspec.Struct):
    """Everything of one run."""

    machine: Machine
    disk: Disk
    systems: dict[str, System] = {}
    transfers: Transfers | None = None
    growth: Growth | None = None
    memory: Memory | None = None
    snapshots: Snapshots | None = None


def machine() -> Machine:
    """This one."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return Machine(
        processors=os.cpu_count() or 1,
        processor=models[0].partition(":")[2].strip() if models else platform.machine(),
        kernel=platform.release(),
        python=platform.python_version(),
        busy=os.getloadavg()[0],
        at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def table(results: Results) -> str:
    """Markdown."""
    here = results.machine
    parts = [
        f"{here.processors} x {here.processor}, Linux {here.kernel}, CPython {here.python}; {here.at}, load average "
        f"{here.busy:.2f} before.",
        f"fdatasync of 4 KiB: {results.disk.alone:,.0f}/s alone, three processes at once "
        f"{' / '.join(f'{rate:,.0f}' for rate in results.disk.of_three)}.",
    ]
    if results.systems:
        parts.append(
            _rows(
                ["", "1 in flight", "64 in flight", "p50 / p99 at 64", "64 remote", "entries per fsync", "note"],
                [_load_row(system) for system in results.systems.values()],
            )
        )
    outages = [_outage_row(system.name, system.outage) for system in results.systems.values() if system.outage]
    if outages:
        parts.append(
            _rows(["after SIGKILL of the leader", "tries", "new leader: median / max", "commit: median / max"], outages)
        )
    if PRIME in results.systems and len(results.systems) > 1:
        parts.append(_ratios(results.systems))
    if results.transfers is not None:
        one = results.transfers
        parts.append(f"Planned transfer, gap in service: median {one.median_ms} ms, max {one.max_ms} ms ({one.count}).")
    if results.growth is not None:
        parts.append(_growth(results.growth))
    if results.memory is not None:
        parts.append(_memory(results.memory))
    if results.snapshots is not None:
        parts.append(_snapshots(results.snapshots))
    return "\n\n".join(parts) + "\n"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(one) + " |" for one in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _load_row(system: System) -> list[str]:
    loads = system.loads
    many, remote = loads.get("64"), loads.get("64 remote")
    return [
        system.name,
        _rate(loads.get("1")),
        _rate(many),
        f"{many.p50_ms:.2f} / {many.p99_ms:.2f} ms" if many else "",
        f"{_rate(remote)}, {remote.p50_ms:.2f} / {remote.p99_ms:.2f} ms" if remote else "",
        f"{many.records_per_sync:.0f}" if many and many.records_per_sync else "",
        system.notes,
    ]


def _rate(load: Load | None) -> str:
    if load is None:
        return ""
    failed = f" ({load.errors} failed)" if load.errors else ""
    return f"{load.rate:,.0f}/s{failed}"


def _outage_row(name: str, outage: Outage) -> list[str]:
    return [
        name,
        str(outage.count),
        f"{outage.leader_median_ms:.0f} / {outage.leader_max_ms:.0f} ms",
        f"{outage.commit_median_ms:.0f} / {outage.commit_max_ms:.0f} ms",
    ]


def _ratios(systems: dict[str, System]) -> str:
    """prime's rate by each peer's. Of a peer whose clients are all remote, 64 stands in both columns."""
    prime = systems[PRIME].loads
    rows = []
    for name, system in systems.items():
        if name == PRIME:
            continue
        theirs = system.loads
        pairs = (
            (prime.get("1"), theirs.get("1")),
            (prime.get("64"), theirs.get("64") or theirs.get("64 remote")),
            (prime.get("64 remote"), theirs.get("64 remote")),
        )
        ratios = [f"{mine.rate / peer.rate:.2f}" if mine and peer and peer.rate else "" for mine, peer in pairs]
        rows.append([f"prime / {name}", *ratios])
    return _rows(["ratio", "1 in flight", "64 in flight", "64 remote"], rows)


def _growth(one: Growth) -> str:
    return (
        f"Log of {one.entries:,} entries, no compaction: {one.disk_mib:,.0f} MiB on disk ({one.bytes_per_entry:.0f} "
        "bytes an entry, what is prepared for more included), "
        f"{one.resident_mib:,.0f} MiB resident; read in {one.open_s:.1f} s, served again {one.served_s:.1f} s after "
        "the start of all three."
    )


def _memory(one: Memory) -> str:
    head = ["resident MiB after", *(f"{(at + 1) * one.commits // 10:,}" for at in range(10))]
    rows = [[f"member {number}", *(f"{mib:.0f}" for mib in row)] for number, row in one.resident_mib.items()]
    return (
        f"{one.commits:,} commits with compaction, {one.rate:,.0f}/s, {one.disk_mib:,.0f} MiB on disk at the end:\n\n"
        + _rows(head, rows)
    )


def _snapshots(one: Snapshots) -> str:
    def row(name: str, pauses: Pauses) -> list[str]:
        return [
            name,
            f"{pauses.seconds:.1f} s",
            f"{pauses.pause_median_ms:.0f} / {pauses.pause_max_ms:.0f} ms",
            f"{pauses.gap_median_ms:.0f} / {pauses.gap_max_ms:.0f} ms",
        ]

    head = [f"snapshot of {one.mib:,.0f} MiB", "took", "longest pause of a loop", "longest gap between heartbeats"]
    return f"A run table with {one.rows:,} ended runs, {one.tries} tries, median / max:\n\n" + _rows(
        head, [row("made by the leader", one.made), row("sent, read and installed", one.installed)]
    )
