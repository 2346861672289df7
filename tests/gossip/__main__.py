"""The table of docs/gossip.md. `make gossip`, or `python -m tests.gossip --help`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from tests.gossip.measure import Quiet, detection, percentile, quiet, spread
from transport.gossip import FAST, LAN, Config

PROFILES: Final = {"fast": FAST, "lan": LAN, "fast, no Lifeguard": replace(FAST, health_max=0, suspicion_max_mult=1)}
KILLS: Final = {3: 40, 30: 20, 300: 4, 1000: 2}
RUMORS: Final = {3: 40, 30: 20, 300: 4, 1000: 3}
SECONDS: Final = {3: 600, 30: 240, 300: 20, 1000: 10}


@dataclass(frozen=True)
class Job:
    """One line of one table."""

    size: int
    profile: str
    seed: int

    @property
    def config(self) -> Config:
        """Its profile."""
        return PROFILES[self.profile]

    def amount(self, of: dict[int, int]) -> int:
        """How many, for a cluster of this size or the next larger."""
        return next((count for size, count in of.items() if size >= self.size), min(of.values()))


def _ms(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def death(job: Job) -> list[str]:
    """Detection of a kill."""
    found = detection(job.size, job.config, job.seed, job.amount(KILLS))
    return [
        _ms(median(found.first)),
        _ms(percentile(found.all, 50)),
        _ms(percentile(found.all, 99)),
        str(found.missed),
    ]


def _wrong(found: Quiet) -> str:
    return f"{found.suspected} / {found.dead}"


def peace(job: Job) -> list[str]:
    """False positives, and the price."""
    seconds = job.amount(SECONDS)
    found = [quiet(job.size, job.config, job.seed, seconds, loss=loss) for loss in (0.0, 0.05, 0.25)]
    slow = quiet(job.size, job.config, job.seed, seconds, slow=max(1, job.size // 10))
    return [
        f"{job.size * seconds / 3600:.1f}",
        *[_wrong(one) for one in found],
        f"{_wrong(slow)} / {slow.slow_dead}",
        f"{found[0].messages:.1f}",
        f"{found[0].bytes:,.0f}",
        f"{found[2].messages:.1f}",
        f"{found[2].bytes:,.0f}",
    ]


def rumor(job: Job) -> list[str]:
    """Convergence, with and without loss."""
    cells = [_ms(math.log2(job.size) * job.config.gossip_ms)]
    for loss in (0.0, 0.25):
        found = spread(job.size, job.config, job.seed, job.amount(RUMORS), loss=loss)
        cells += [_ms(percentile(found.each, 50)), _ms(percentile(found.each, 99)), _ms(median(found.all))]
        if loss:
            cells += [f"{100 * (1 - found.late / found.asked):.2f} %", _ms(max(found.all)), str(found.never)]
    return cells


TABLES: Final[dict[str, tuple[Callable[[Job], list[str]], str, list[str]]]] = {
    "death": (
        death,
        "A member is killed: until others declare it dead, ms",
        ["first, p50", "each, p50", "each, p99", "missed"],
    ),
    "peace": (
        peace,
        "Nobody is killed: suspected / declared dead wrongly",
        [
            "agent-hours",
            "no loss",
            "5 % loss",
            "25 % loss",
            "a tenth slow: the others / the slow dead",
            "messages/s",
            "bytes/s",
            "messages/s at 25 %",
            "bytes/s at 25 %",
        ],
    ),
    "rumor": (
        rumor,
        "A rumor is told: until others have heard it, ms",
        [
            "log2(n) rounds",
            "each, p50",
            "each, p99",
            "all, p50",
            "25 % loss: each, p50",
            "each, p99",
            "all, p50",
            "by gossip alone",
            "all, longest",
            "never",
        ],
    ),
}


def _line(table: str, job: Job) -> list[str]:
    return TABLES[table][0](job)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.gossip", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 30, 300, 1000])
    parser.add_argument("--profiles", choices=sorted(PROFILES), nargs="+", default=["fast", "lan"])
    parser.add_argument("--tables", choices=sorted(TABLES), nargs="+", default=list(TABLES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    begin_s = time.monotonic()
    jobs = [Job(size, profile, asked.seed) for profile in asked.profiles for size in asked.sizes]
    with ProcessPoolExecutor(asked.jobs) as pool:
        lines = {table: [pool.submit(_line, table, job) for job in jobs] for table in asked.tables}
        for table in asked.tables:
            _call, title, columns = TABLES[table]
            print(f"### {title}\n\n| profile | agents | {' | '.join(columns)} |")
            print("|" + " --- |" * (len(columns) + 2))
            for job, cells in zip(jobs, lines[table], strict=True):
                print(f"| {job.profile} | {job.size} | {' | '.join(cells.result())} |", flush=True)
            print()
    print(f"seed {asked.seed}; {time.monotonic() - begin_s:.0f} s")


if __name__ == "__main__":
    main()
