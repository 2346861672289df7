"""Which tables count where they differ."""

from __future__ import annotations

from agent.cluster.agreement import Step, ahead_ms, judge

A, B = b"a", b"b"
DAY_MS = 86_400_000
ONE = {8: A}
OTHER = {8: B}


def step(voters: set[int], *others: dict[int, bytes]) -> Step:
    """Member 1 leads and has A; the others have these, from member 2 on."""
    return judge(1, voters, ONE, dict(enumerate(others, 2))).step


def test_equal_tables_and_such_as_cannot_be_compared_are_no_reason_to_do_anything() -> None:
    assert step({1, 2, 3}, ONE, ONE) is Step.GO_ON
    assert step({1, 2, 3}, {}, {7: B, 9: B}) is Step.GO_ON
    assert step({1}) is Step.GO_ON


def test_who_differs_from_a_majority_stops_with_a_vote_or_without() -> None:
    assert step({1, 2, 3}, ONE, OTHER) is Step.STOP_OTHERS
    assert step({1, 2, 3}, ONE, ONE, OTHER) is Step.STOP_OTHERS
    assert judge(1, {1, 2}, ONE, {2: ONE, 3: OTHER}).differ == {3: 8}
    assert step({1}, OTHER) is Step.STOP_OTHERS


def test_a_leader_that_differs_from_a_majority_lets_another_lead() -> None:
    assert step({1, 2, 3}, OTHER, OTHER) is Step.TRANSFER
    assert step({1, 2, 3, 4, 5}, OTHER, OTHER, OTHER, ONE) is Step.TRANSFER


def test_where_neither_is_a_majority_or_not_yet_nothing_is_decided() -> None:
    assert step({1, 2}, OTHER) is Step.HOLD
    assert step({1, 2, 3}, OTHER) is Step.HOLD
    assert step({1, 2, 3}, {}, OTHER, ONE) is Step.HOLD, "a member without a vote decides nothing"


def test_the_newest_index_in_common_counts() -> None:
    own = {4: A, 8: A, 12: A}
    assert judge(1, {1, 2, 3}, own, {2: {4: B, 8: A}, 3: own}).step is Step.GO_ON
    assert judge(1, {1, 2, 3}, own, {2: {4: A, 8: B, 16: A}, 3: own}).differ == {2: 8}


def test_the_median_of_the_voters_clocks_counts() -> None:
    assert ahead_ms(1, {1, 2, 3}, {2: 5, 3: 7}) == -5
    assert ahead_ms(1, {1, 2, 3}, {2: -DAY_MS, 3: -DAY_MS - 9}) == DAY_MS, "the leader's is wrong"
    assert ahead_ms(1, {1, 2, 3}, {2: DAY_MS, 3: 2}) == -2, "another's is"
    assert ahead_ms(1, {1, 2, 3}, {2: 4, 9: DAY_MS, 3: 5}) == -4, "a standby's does not count"


def test_of_two_clocks_the_earlier_one_counts() -> None:
    assert ahead_ms(1, {1, 2}, {2: DAY_MS}) == 0
    assert ahead_ms(1, {1, 2}, {2: -DAY_MS}) == DAY_MS
    assert ahead_ms(1, {1, 2, 3}, {2: -DAY_MS}) == DAY_MS, "of a majority as well"


def test_too_few_clocks_say_nothing_and_an_agent_alone_has_its_own() -> None:
    assert ahead_ms(1, {1, 2, 3}, {}) is None
    assert ahead_ms(1, {1, 2, 3, 4, 5}, {2: 1}) is None
    assert ahead_ms(1, {1}, {}) == 0
