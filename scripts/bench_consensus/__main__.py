"""Measure everything, or a part: `python -m scripts.bench_consensus --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

from scripts.bench_consensus import etcd, prime
from scripts.bench_consensus.cluster import running
from scripts.bench_consensus.measure import Load, syncs_of_three, syncs_per_second
from scripts.bench_consensus.report import DEFAULTS, ETCD, PRIME, Disk, Results, System, machine, table

PYSYNCOBJ: Final = "scripts.bench_consensus.pysyncobj_member"
# Its documentation names the batch as what serves throughput, and its absence as what serves single requests; the
# period is what a batch waits for. With a large log it copies its journal; here it never has to.
ROOMY: Final[dict[str, Any]] = {"logCompactionMinEntries": 5_000_000}
PYSYNCOBJ_SETTINGS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    DEFAULTS: ("never fsyncs, no encryption", {}),
    "PySyncObj, unbatched": (
        "appendEntriesUseBatch=False",
        {**ROOMY, "appendEntriesUseBatch": False},
    ),
    "PySyncObj, unbatched, 1 ms": (
        "appendEntriesUseBatch=False, appendEntriesPeriod=autoTickPeriod=1 ms",
        {**ROOMY, "appendEntriesUseBatch": False, "appendEntriesPeriod": 0.001, "autoTickPeriod": 0.001},
    ),
    "PySyncObj, 0.2 ms": (
        "appendEntriesPeriod=autoTickPeriod=0.2 ms: the best found at 64",
        {**ROOMY, "appendEntriesPeriod": 0.0002, "autoTickPeriod": 0.0002},
    ),
}
BUSY: Final = 0.5  # load average before the run, past which others are in the way
DISK_S: Final = 1.0
DISK_TRIES: Final = 4
PARTS: Final = ("pysyncobj", "etcd", "prime", "growth", "memory", "snapshots")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts.bench_consensus", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one closed loop (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each; the median counts (%(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="of leaders (%(default)s)")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the long logs (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="ended runs in the large table (%(default)s)")
    parser.add_argument("--snapshots", type=int, default=5, help="of the large table (%(default)s)")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="of prime (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure (%(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


class Bench:
    """One run. Figures are said as they come, and kept in `results`."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        before = machine()
        # The best of several: what others do on this disk meanwhile is not its limit.
        alone = max(syncs_per_second(folder, DISK_S) for _ in range(DISK_TRIES))
        three = max((syncs_of_three(folder, DISK_S) for _ in range(DISK_TRIES)), key=sum)
        self.results = Results(before, Disk(round(alone), [round(rate) for rate in three]))
        if self.results.machine.busy > BUSY:
            tell("other work runs on this machine: each wake-up may wait for it, and the figures mean little")
        tell(f"fdatasync: {alone:,.0f}/s alone, {[round(rate) for rate in three]} three at once")

    def run(self) -> None:
        """Measure what is wanted."""
        steps: dict[str, Callable[[], None]] = {
            "pysyncobj": self._pysyncobj,
            "etcd": self._etcd,
            "prime": self._prime,
            "growth": self._growth,
            "memory": self._memory,
            "snapshots": self._snapshots,
        }
        for part in self._options.only.split(","):
            steps[part]()

    def _new_folder(self, name: str) -> Path:
        folder = self._folder / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir()
        return folder

    def _system(self, name: str, notes: str) -> System:
        return self.results.systems.setdefault(name, System(name, notes))

    def _load(self, system: System, name: str, measure: Callable[[], Load]) -> None:
        load = measure()
        system.loads[name] = load
        times = f"p50 {load.p50_ms} ms, p99 {load.p99_ms} ms"
        tell(f"{system.name}, {name}: {load.rate:,.0f}/s, {times}, {load.errors} failed")

    def _pysyncobj(self) -> None:
        if find_spec("pysyncobj") is None:
            tell("PySyncObj is not installed: pip install '.[bench]'")
            return
        options = self._options
        for name, (notes, settings) in PYSYNCOBJ_SETTINGS.items():
            said = f"{version('pysyncobj')}; {notes}"
            with running(PYSYNCOBJ, self._new_folder(name), settings) as cluster:
                system = self._system(name, said)
                for places in (1, 64):
                    self._load(
                        system,
                        str(places),
                        lambda n=places: cluster.load(n, options.seconds, options.repeats),  # type: ignore[misc]
                    )
                if name == DEFAULTS:
                    system.outage = cluster.outages(options.kills)
                    tell(f"{name}: {system.outage}")

    def _etcd(self) -> None:
        if not etcd.installed():
            tell("etcd is not installed: apt-get install etcd-server")
            return
        options = self._options
        with etcd.running(self._new_folder(ETCD)) as cluster:
            system = self._system(ETCD, f"{etcd.version()}; fsync, no TLS; all clients remote, to the leader")
            self._load(system, "1", lambda: cluster.load(1, options.seconds, options.repeats))
            self._load(system, "64 remote", lambda: cluster.load(64, options.seconds, options.repeats))
            system.outage = cluster.outages(options.kills)
            tell(f"etcd: {system.outage}")

    def _prime(self) -> None:
        options = self._options
        folder = self._new_folder(PRIME)
        with running(prime.MEMBER, folder, {"loop": options.loop}) as cluster:
            system = self._system(PRIME, f"fsync, CURVE; {options.loop}")
            self._load(system, "1", lambda: cluster.load(1, options.seconds, options.repeats))
            self._load(system, "64", lambda: cluster.load(64, options.seconds, options.repeats))
            self._load(
                system, "64 remote", lambda: prime.remote_load(cluster, folder, 64, options.seconds, options.repeats)
            )
            self.results.transfers = prime.transfers(cluster, options.kills)
            tell(f"prime: {self.results.transfers}")
            system.outage = cluster.outages(options.kills)
            tell(f"prime: {system.outage}")

    def _growth(self) -> None:
        loop = {"loop": self._options.loop}
        self.results.growth = prime.growth(self._new_folder("growth"), self._options.entries, loop)
        tell(str(self.results.growth))

    def _memory(self) -> None:
        loop = {"loop": self._options.loop}
        self.results.memory = prime.memory(self._new_folder("memory"), self._options.entries, loop)
        tell(str(self.results.memory))

    def _snapshots(self) -> None:
        options = self._options
        folder = self._new_folder("snapshots")
        self.results.snapshots = prime.snapshots(folder, options.rows, options.snapshots, {"loop": options.loop})
        tell(str(self.results.snapshots))


def tell(line: str) -> None:
    """Progress, beside the report."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the tables, write the figures."""
    options = arguments()
    unknown = set(options.only.split(",")) - set(PARTS)
    if unknown:
        sys.exit(f"--only: {', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="bench-consensus-", dir=options.folder) as folder:
        bench = Bench(options, Path(folder))
        bench.run()
    print(table(bench.results))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(bench.results), indent=1))


if __name__ == "__main__":
    main()
