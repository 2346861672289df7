"""`python -m tests.mutants`: see `--help`, and the package."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.mutants import report
from tests.mutants.bench import CORE_MODULES, SIMULATED, Verdict
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.runner import MODULES, Field, field, sample

REPORT: Final = ROOT / "docs" / "mutants.md"
SAMPLE: Final = 60
SEEDS: Final = 200


def main() -> int:
    """Returns 1 if a mutant survives that is not named as equivalent, or if one cannot be decided.

    Raises BaselineError where the original does not pass.
    """
    args = _arguments()
    with field(args.jobs) as benches:
        listed, mechanical = _chosen(args, benches)
        mutants = [*listed, *mechanical]
        _say(f"{len(mutants)} mutants on {args.jobs} copies; first the original, {args.seeds} seeds")
        seeds = tuple(range(args.seeds))
        benches.check_original((one.module for one in mutants), seeds)
        verdicts = benches.judge(
            mutants,
            seeds,
            lambda done, verdict: _say(f"{done:4}/{len(mutants)} {report.line(verdict)}"),
            tested=not args.simulator,
        )
        core = [one for one in listed if one.module in SIMULATED] if args.report else []
        alone = benches.judge(core, seeds, tested=False)
    by_hand, by_machine = verdicts[: len(listed)], verdicts[len(listed) :]
    if args.report:
        REPORT.write_text(report.document(by_hand, alone, by_machine, len(seeds)))
    return _end(by_hand, by_machine)


def _arguments() -> argparse.Namespace:
    get = os.environ.get
    parser = argparse.ArgumentParser(prog="scripts/mutants", description="Break the core on purpose: who notices?")
    parser.add_argument("--jobs", type=int, default=int(get("JOBS", "2")), help="copies at work at once (JOBS)")
    parser.add_argument("--seeds", type=int, default=int(get("SEEDS", SEEDS)), help="of the simulator (SEEDS)")
    parser.add_argument(
        "--sample", type=int, default=int(get("SAMPLE", SAMPLE)), help="mutants by machine, by chance (SAMPLE)"
    )
    parser.add_argument("--seed", type=int, default=int(get("SEED", "0")), help="of the sample (SEED)")
    parser.add_argument("--all", action="store_true", default=bool(get("ALL")), help="no sample: every mutant (ALL=1)")
    parser.add_argument("--modules", default=",".join(CORE_MODULES), help=f"of: {','.join(MODULES)}")
    parser.add_argument("--simulator", action="store_true", help="leave the tests out: what does it catch alone?")
    parser.add_argument("--only", type=re.compile, help="names that this regular expression finds")
    parser.add_argument("--names", type=Path, help="a file with the names to try, one a line")
    parser.add_argument("--equivalent", action="store_true", help="try those named as equivalent, and nothing else")
    parser.add_argument(
        "--report", action="store_true", default=bool(get("REPORT")), help="write docs/mutants.md (REPORT=1)"
    )
    args = parser.parse_args()
    if args.report and (args.only or args.names or args.equivalent or args.simulator or not args.all):
        parser.error("a report is of a run of all")
    return args


def _chosen(args: argparse.Namespace, benches: Field) -> tuple[list[Mutant], list[Mutant]]:
    listed, mechanical = benches.listed(), benches.mechanical(args.modules.split(",") if args.modules else ())
    if args.equivalent:
        return [], [one for one in mechanical if one.name in EQUIVALENT]
    mechanical = [one for one in mechanical if one.name not in EQUIVALENT]
    if args.only or args.names:
        names = set(args.names.read_text().splitlines()) if args.names else set()

        def wanted(one: Mutant) -> bool:
            return one.name in names or bool(args.only and args.only.search(one.name))

        return [*filter(wanted, listed)], [*filter(wanted, mechanical)]
    return listed, mechanical if args.all else sample(mechanical, args.sample, args.seed)


def _end(listed: Sequence[Verdict], mechanical: Sequence[Verdict]) -> int:
    left = [one for one in (*listed, *mechanical) if not one.result.how]
    if left:
        _say("\nNot caught:")
    for verdict in left:
        _say(f"  {verdict.mutant.name} ({verdict.mutant.path}) {verdict.what}")
    _say(f"\nby hand: {report.score(listed)}\nby machine: {report.score(mechanical)}")
    return 1 if left else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
