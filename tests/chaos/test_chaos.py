"""Some seeds of the whole simulation, and that it finds what is there to be found (P1-P4). `make chaos-sim` runs more.

Bugs are looked for in a process of their own: the order of sets is a part of a run, and fixed there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.chaos.mutants import MUTANTS
from tests.chaos.plan import make
from tests.chaos.run import run

REPLAY = "replay with: python -m tests.chaos --length 60 --replay SEED"
TENSE = """
import json
from tests.chaos.plan import tense
from tests.chaos.run import run
found = [run(tense(seed)) for seed in range(3)]
print(json.dumps([(one.failure, one.counts) for one in found]))
"""
SLOW = ("half of the margin", "the intent is not waited for", "the watchdog is not told of a start")


@pytest.mark.parametrize("seed", [0, 1, 2, 5, 8])
def test_no_seed_breaks_a_promise(seed: int) -> None:
    assert run(make(seed, 60.0)).failure is None, REPLAY


@pytest.mark.parametrize("seed", [3, 6])
def test_runs_that_wait_for_others_begin_after_them_and_end_whatever_happens_p1(seed: int) -> None:
    outcome = run(replace(make(seed, 60.0), pipelines=0.5))
    assert outcome.failure is None
    assert outcome.counts["SubmitPipeline ok"] > 3
    assert outcome.counts["runs that ended success"] > 3
    assert outcome.counts["runs that ended upstream_failed"] > 0


def test_a_seed_is_the_same_run_each_time() -> None:
    one, other = (run(make(1, 20.0), traced=True) for _ in range(2))
    assert one.trace == other.trace
    assert one.counts == other.counts


@pytest.mark.slow
def test_tense_seeds_meet_losses_and_returns() -> None:
    asked = subprocess.run([sys.executable, "-c", TENSE], capture_output=True, text=True, check=True, env=unmeasured())
    outcomes = json.loads(asked.stdout)
    assert [failure for failure, _counts in outcomes] == [None] * 3
    for name in ("AgentLost ok", "AgentUp ok", "fenced by a watchdog"):
        assert sum(counts.get(name, 0) for _failure, counts in outcomes) > 2


def unmeasured() -> dict[str, str]:
    """For a process whose sets have one order, and which measures no coverage: that takes three times as long."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    return {**kept, "PYTHONHASHSEED": "0"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MUTANTS]
)
def test_a_bug_that_is_there_on_purpose_is_found(name: str) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--bug", name]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=unmeasured())
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert ("(P2)" if name == "a repeated request is another one" else "(P3)") in asked.stdout
