"""A fixed batch of the simulator's seeds, and that it finds what is there to be found.

`make simulate SEEDS=5000 JOBS=2` runs more of the same.
"""

from __future__ import annotations

import pytest

from consensus.raft import Raft
from tests.simulator.__main__ import many, outcome_of
from tests.simulator.plan import Fault, make
from tests.simulator.run import run
from tests.simulator.shrink import shrink

SEEDS = 400
ONCE_FAILED = {
    # by the checks: a leader whose disk was slow says entries of its term that it never stored
    "a late leader's entries": (6350, 11077),
    # by the simulated disk: a commit index was durable before the entry that it spoke of
    "an early commit index": (12364,),
    # by the core: a snapshot's configuration counted before changes that were handed out earlier were applied
    "a snapshot among changes": (23903,),
    # by the core: leaving a joint configuration was dropped for a transfer, and never proposed again
    "a dropped leave": (24247,),
    # by the core: the longest log was that of a node that had no vote any more; nobody else could know, nor win
    "a longest log without a vote": (56309, 59733),
}


@pytest.mark.parametrize("first", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in range(100, SEEDS, 100))])
def test_no_seed_breaks_a_promise(first: int) -> None:
    failed = [(one.plan.seed, one.failure) for one in many(range(first, first + 100), 1) if one.failure is not None]
    assert failed == [], "replay with: python -m tests.simulator --replay SEED"


@pytest.mark.parametrize("why", ONCE_FAILED)
def test_what_failed_once_does_not_fail_again(why: str) -> None:
    assert [outcome_of(seed).failure for seed in ONCE_FAILED[why]] == [None] * len(ONCE_FAILED[why])


def test_a_seed_is_the_same_run_each_time() -> None:
    one, other = (outcome_of(7, traced=True) for _ in range(2))
    assert one.trace == other.trace
    assert one.events == other.events > 100


def test_every_fault_happens_in_the_batch_but_those_that_are_asked_for() -> None:
    met = frozenset[Fault]().union(*(make(seed).faults for seed in range(SEEDS)))
    assert frozenset(Fault) - met == {Fault.LOST_COMMIT}


def test_a_node_that_votes_twice_is_found_and_the_run_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    vote = Raft._vote

    def forgetful(raft: Raft, message: object) -> None:
        raft.vote = raft.leader = 0
        vote(raft, message)  # type: ignore[arg-type]

    monkeypatch.setattr(Raft, "_vote", forgetful)
    failing = next(one for one in many(range(2000), 1) if one.failure is not None)
    least = shrink(failing)
    assert least.kind == failing.kind
    assert len(least.plan.faults) <= len(failing.plan.faults)
    assert len(least.plan.events) <= len(failing.plan.events)
    assert run(least.plan).failure == least.failure
