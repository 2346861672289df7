"""Run many seeds, or look at one. `make simulate SEEDS=5000 JOBS=2`, or `python -m tests.simulator --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from tests.simulator.plan import Fault, make
from tests.simulator.run import Outcome, run
from tests.simulator.shrink import shrink

CHUNK = 25  # seeds that a process takes at a time


def outcome_of(seed: int, more: frozenset[Fault] = frozenset(), *, traced: bool = False) -> Outcome:
    """The run of one seed. more: faults on top of its own."""
    plan = make(seed)
    return run(replace(plan, faults=plan.faults | more), traced=traced)


def many(seeds: range, jobs: int, more: frozenset[Fault] = frozenset()) -> Iterator[Outcome]:
    """The runs of all seeds, in order."""
    if jobs == 1:
        yield from (outcome_of(seed, more) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(outcome_of, seeds, [more] * len(seeds), chunksize=CHUNK)


def report(outcomes: Iterator[Outcome], more: frozenset[Fault]) -> int:
    """Print each failure as it comes, and at the end what was met how often. Returns the number of failures."""
    begin_s = time.monotonic()
    faults: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    seeds = failures = events = 0
    for outcome in outcomes:
        seeds += 1
        events += outcome.events
        faults.update(outcome.plan.faults)
        counts.update(outcome.counts)
        if outcome.failure is not None:
            failures += 1
            added = "".join(f" --with {fault}" for fault in sorted(more))
            print(f"seed {outcome.plan.seed} fails: {outcome.failure}")
            print(f"  replay: python -m tests.simulator --replay {outcome.plan.seed}{added}", flush=True)
    took_s = time.monotonic() - begin_s
    print(f"{seeds} seeds, {failures} failures, {events} events, {took_s:.0f} s, {seeds / took_s:.0f} seeds a second")
    print("\nfault: in how many runs")
    for fault in Fault:
        print(f"  {fault:<18}{faults[fault]:>8}")
    print("\nwhat happened: how often")
    for name, count in sorted(counts.items()):
        print(f"  {name:<45}{count:>10}")
    return failures


def _show(outcome: Outcome) -> int:
    print("\n".join(outcome.trace or ()))
    print(outcome.plan)
    for event in outcome.plan.events:
        print(f"  {event}")
    print(outcome.failure or "nothing fails")
    return int(outcome.failure is not None)


def _branches(outcomes: Iterator[Outcome], more: frozenset[Fault]) -> int:
    import coverage  # a tool of development alone

    measured = coverage.Coverage(branch=True, include=["consensus/*"], data_file=None)
    with measured.collect():
        failures = report(outcomes, more)
    measured.report(show_missing=True)
    return failures


def main() -> int:
    """Returns 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--with", dest="more", action="append", type=Fault, default=[], help="a fault in every run")
    parser.add_argument("--branches", action="store_true", help="which branches of the core were taken (one job)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="everything that happens in one run")
    parser.add_argument("--shrink", type=int, metavar="SEED", help="the least of a failing run that still fails")
    asked = parser.parse_args()
    more = frozenset(asked.more)
    if asked.replay is not None:
        return _show(outcome_of(asked.replay, more, traced=True))
    if asked.shrink is not None:
        failing = outcome_of(asked.shrink, more)
        if failing.failure is None:
            return _show(failing)
        return _show(run(shrink(failing).plan, traced=True))
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.branches:
        return int(_branches(many(seeds, 1, more), more) > 0)
    return int(report(many(seeds, asked.jobs, more), more) > 0)


if __name__ == "__main__":
    sys.exit(main())
