"""Simulate whole clusters for a time, or look at one. `make chaos-sim BUDGET=60m JOBS=2`, or `--help`."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Final

from tests.chaos.mutants import MUTANTS, find
from tests.chaos.plan import Chaos, Trouble, make
from tests.chaos.run import Outcome, outcome_of, run
from tests.simulator.plan import Fault

UNITS: Final = {"s": 1, "m": 60, "h": 3600}
TAIL: Final = 60  # of a failing run's last events
LIFE: Final = 40  # seeds until a process is replaced: what asyncio keeps of killed processes goes with it


def many(first: int, length_s: float, budget_s: float, jobs: int) -> Iterator[Outcome]:
    """The runs of seeds from `first` on, as they end, until the budget is used up."""
    until = time.monotonic() + budget_s
    seeds = itertools.count(first)
    with ProcessPoolExecutor(jobs, max_tasks_per_child=LIFE) as pool:
        under_way: set[Future[Outcome]] = set()
        while time.monotonic() < until or under_way:
            while len(under_way) < jobs and time.monotonic() < until:
                under_way.add(pool.submit(outcome_of, next(seeds), length_s))
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from (one.result() for one in done)


def report(outcomes: Iterator[Outcome], length_s: float) -> int:
    """Print each failure as it comes, and at the end what was met how often. Returns the number of failures."""
    begin_s = time.monotonic()
    counts: Counter[str] = Counter()
    seeds: list[int] = []
    simulated_s, failures = 0.0, 0
    for outcome in outcomes:
        seeds.append(outcome.chaos.seed)
        simulated_s += outcome.simulated_s
        counts.update({str(name): count for name, count in outcome.counts.items()})
        if outcome.failure is not None:
            failures += 1
            _tell(outcome, length_s)
    took_s = time.monotonic() - begin_s
    print(f"seeds {min(seeds)} to {max(seeds)}: {len(seeds)} runs, {failures} failures, commit {_commit()}")
    print(f"{simulated_s / 3600:.1f} simulated hours in {took_s:.0f} s, {simulated_s / took_s:.0f} times real time")
    for title, names in _groups(counts):
        print(f"\n{title}")
        for name in names:
            print(f"  {name:<45}{counts[name]:>10}")
    return failures


def _groups(counts: Counter[str]) -> list[tuple[str, list[str]]]:
    faults = {str(one) for one in (*Fault, *Trouble)}
    faults |= {f"{one} without effect" for one in faults}
    return [
        ("faults with a moment, and what they led to", sorted(faults & counts.keys())),
        ("what else happened", sorted(counts.keys() - faults)),
    ]


def _tell(outcome: Outcome, length_s: float) -> None:
    print("\n".join((outcome.trace or [])[-TAIL:]))
    print(f"seed {outcome.chaos.seed} at commit {_commit()} fails: {outcome.failure}")
    print(f"  replay: python -m tests.chaos --replay {outcome.chaos.seed} --length {length_s:g}", flush=True)


def _commit() -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def _show(chaos: Chaos) -> int:
    outcome = run(chaos, traced=True)
    print("\n".join(outcome.trace or []))
    print(chaos.core)
    print(f"terms {chaos.terms}, drift {chaos.drift}, gossip {chaos.gossip}, {len(chaos.strikes)} troubles")
    print(outcome.failure or "nothing fails")
    return int(outcome.failure is not None)


def _seconds(text: str) -> float:
    return float(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else float(text)


def main() -> int:
    """Returns 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--budget", type=_seconds, default="60s", help="wall clock: 90s, 60m, 2h")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--length", type=float, default=600.0, help="simulated seconds of faults in a run")
    parser.add_argument("--replay", type=int, metavar="SEED", help="everything that happens in one run")
    parser.add_argument("--bug", choices=list(MUTANTS), help="find a bug that is there on purpose: 0 = it is found")
    asked = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of a run
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.chaos", *sys.argv[1:]])
    if asked.bug is not None:
        found = find(asked.bug)
        print(found or "nothing fails")
        return int(found is None)
    if asked.replay is not None:
        return _show(make(asked.replay, asked.length))
    return int(report(many(asked.first_seed, asked.length, asked.budget, asked.jobs), asked.length) > 0)


if __name__ == "__main__":
    sys.exit(main())
