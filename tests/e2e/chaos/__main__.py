"""`make chaos SECONDS=3600 SEED=n AGENTS=3`, or `python -m tests.e2e.chaos --help`."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.chaos import lan, report
from tests.e2e.chaos.plan import Step
from tests.e2e.chaos.run import Chaos, Wanted

SHOWN_MAX = 20


def main(arguments: list[str]) -> int:
    """0 = all promises were kept, 1 = not, 2 = it cannot be done here."""
    options = _options(arguments)
    if not lan.inside():
        why = lan.impossible()
        if why is not None:
            print(f"there is no chaos here: {why}", file=sys.stderr)
            return 2
        seed = ["--seed", str(options.seed)]  # the last one counts: it is chosen once
        lan.go_inside("tests.e2e.chaos", [*arguments, *seed])
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # that agents are away is what is wanted
    root = Path(tempfile.mkdtemp(prefix=f"chaos-{options.seed}-", dir=options.keep))
    root.chmod(0o755)  # the database's user passes through
    good = _one(root, Wanted(options.seed, options.seconds, options.agents))
    if good and options.keep is None:
        shutil.rmtree(root, ignore_errors=True)
    return 0 if good else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.e2e.chaos", description="Real agents, real faults, a checked history.")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="what the faults follow from")
    parser.add_argument("--seconds", type=float, default=120.0, help="of load and faults")
    parser.add_argument("--agents", type=int, default=3, choices=(3, 5))
    parser.add_argument("--keep", type=Path, help="a directory for what agents log, also of a run that is good")
    return parser.parse_args(arguments)


def _one(root: Path, wanted: Wanted) -> bool:
    print(f"seed {wanted.seed}, {wanted.agents} agents, {wanted.seconds:g} s; logs: {root}", flush=True)
    chaos = Chaos(root, wanted, _say)
    try:
        outcome = chaos.run()
    except Exception:
        traceback.print_exc()
        _tell_failure(root, wanted, chaos.plan)
        return False
    print("\n".join(report.lines(outcome)), flush=True)
    for text in outcome.violations[:SHOWN_MAX]:
        print(text)
    if outcome.violations:
        _tell_failure(root, wanted, chaos.plan)
    return not outcome.violations


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tell_failure(root: Path, wanted: Wanted, plan: Sequence[Step]) -> None:
    print(f"SEED={wanted.seed} SECONDS={wanted.seconds:g} AGENTS={wanted.agents}; logs: {root}; the plan:")
    print("\n".join(str(step) for step in plan), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
