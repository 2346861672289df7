"""Many agents, many faults: never two clusters of one list, and always one in the end.

`python -m tests.cluster 5000` runs more of the same.
"""

from __future__ import annotations

import pytest

from agent.cluster.formation import Action, Formation, Found, Member
from agent.cluster.standing import Standing
from tests.cluster.formation_world import World, failure

SEEDS = 500


@pytest.mark.parametrize("first", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in range(100, SEEDS, 100))])
def test_no_seed_founds_two_clusters_and_every_seed_ends_with_one(first: int) -> None:
    failed = {seed: why for seed in range(first, first + 100) if (why := failure(seed)) is not None}
    assert failed == {}


def test_a_seed_is_the_same_run_each_time() -> None:
    one, other = World(7), World(7)
    assert one.run() == other.run()
    assert (one.now_ms, one.complete) == (other.now_ms, other.complete)


class TellsBeforeItIsStored(Formation):
    """The answer has what is only on its way to the disk."""

    @property
    def standing(self) -> Standing:
        durable, self._record = self._record, self._next or self._record
        try:
            return super().standing
        finally:
            self._record = durable


class WithdrawsWithoutARefusal(Formation):
    """A member that is silent or has lost its disk is taken for one that has refused."""

    def _decide(self, now_ms: int) -> list[Action]:
        promised = self._record.promised
        free = self._member is None and self._next is None and not self._view.members()
        if free and promised and not self._is_complete(promised) and self._would_leave(promised, now_ms):
            return self._withdraw(promised)
        return super()._decide(now_ms)


class FoundsWithoutItsOwnPromise(Formation):
    """All others have promised, and its own is only on its way to the disk."""

    def _decide(self, now_ms: int) -> list[Action]:
        promised = self._next.promised if self._next else None
        if self._member is None and promised is not None and self._record.promised is None:
            answers = [one.standing for one in self._view.heard.values()]
            told = {one.me for one in answers if one.promised == promised}
            if {self._me, *told} >= set(promised.founders):
                self._member = Member(promised.cluster, 1, promised.founders)
                return [Found(promised)]
        return super()._decide(now_ms)


@pytest.mark.parametrize(
    ("kind", "seeds"),
    [
        (TellsBeforeItIsStored, range(100)),
        (WithdrawsWithoutARefusal, range(230, 300)),  # one seed in 200 shows it
        (FoundsWithoutItsOwnPromise, range(100)),
    ],
)
def test_a_broken_rule_is_found(kind: type[Formation], seeds: range) -> None:
    failures = (failure(seed, kind) for seed in seeds)
    found = next(why for why in failures if why is not None)
    assert "two sets founded" in found or "has not promised what is founded" in found
