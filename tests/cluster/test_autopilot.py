"""Who votes: the autopilot's rules, one by one, and that it always comes to rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.cluster.autopilot import FORGET_S, READY_S, SILENT_S, VOTERS_MAX, Seen, Transfer, View, forgotten, next_step
from consensus.configuration import Change, ConfChange, ConfChangeKind, Configuration, apply_change
from consensus.quorum import JointVoters

ADD, REMOVE, LEARNER = ConfChangeKind.ADD_VOTER, ConfChangeKind.REMOVE, ConfChangeKind.ADD_LEARNER


def seen(node: int, *, silent_s: float = 0.0, kept_up_s: float = READY_S, complete: bool = True) -> Seen:
    return Seen(node, silent_s, kept_up_s, complete)


def view(
    voters: Iterable[int], learners: Iterable[int] = (), agents: Iterable[Seen | int] = (), *, leader: int = 1
) -> View:
    rows = {one.node: one for one in (seen(one) if isinstance(one, int) else one for one in agents)}
    members = frozenset(voters) | frozenset(learners)
    return View(leader, frozenset(voters), frozenset(learners), rows, members - rows.keys())


def change(*changes: tuple[ConfChangeKind, int]) -> ConfChange:
    return ConfChange(tuple(Change(kind, node) for kind, node in changes))


def test_a_new_agent_becomes_a_learner_first() -> None:
    assert next_step(view([1], agents=[1, 2])) == change((LEARNER, 2))


def test_two_agents_have_one_voter_and_nothing_is_left_to_do() -> None:
    assert next_step(view([1], [2], [1, 2])) is None


def test_with_the_third_agent_there_are_three_voters_by_one_joint_change() -> None:
    assert next_step(view([1], [2, 3], [1, 2, 3])) == change((ADD, 2), (ADD, 3))


def test_a_learner_that_has_not_kept_up_or_lacks_blobs_or_is_silent_waits() -> None:
    for late in (seen(3, kept_up_s=READY_S - 1), seen(3, complete=False), seen(3, silent_s=SILENT_S)):
        assert next_step(view([1], [2, 3], [1, 2, late])) is None


def test_there_are_five_voters_at_most_and_never_an_even_number() -> None:
    nodes = range(1, 9)
    step = next_step(view([1], range(2, 9), nodes))
    assert step == change(*((ADD, node) for node in range(2, VOTERS_MAX + 1)))
    assert next_step(view([1, 2, 3], [4], range(1, 5))) is None


def test_a_silent_voter_is_replaced_by_a_standby_in_one_change() -> None:
    step = next_step(view([1, 2, 3], [4], [1, 2, seen(3, silent_s=SILENT_S), 4]))
    assert step == change((ADD, 4), (LEARNER, 3))


def test_a_silent_voter_without_a_standby_keeps_its_vote() -> None:
    assert next_step(view([1, 2, 3], [], [1, 2, seen(3, silent_s=SILENT_S)])) is None


def test_a_removed_learner_leaves_and_a_removed_voter_is_replaced() -> None:
    assert next_step(view([1], [2], [1])) == change((REMOVE, 2))
    assert next_step(view([1, 2, 3], [4], [1, 2, 4])) == change((ADD, 4), (REMOVE, 3))


def test_of_two_that_are_left_one_votes() -> None:
    assert next_step(view([1, 2, 3], [], [1, 2])) == change((REMOVE, 3), (LEARNER, 2))


def test_a_removed_leader_hands_over_to_a_voter_that_is_heard() -> None:
    assert next_step(view([1, 2, 3], [], [seen(2, silent_s=SILENT_S), 3])) == Transfer(3)
    silent = [seen(2, silent_s=SILENT_S), seen(3, silent_s=SILENT_S)]
    assert next_step(view([1, 2, 3], [], silent)) is None


def test_the_last_voter_that_is_heard_gives_a_learner_a_vote_before_it_leaves() -> None:
    assert next_step(view([1], [2, 3], [2, 3])) == change((ADD, 2))
    assert next_step(view([1, 2], [3], [2, 3])) == Transfer(2)
    assert next_step(view([1], [2], [seen(2, kept_up_s=0)])) is None
    assert next_step(view([1, 2], [3], [seen(2, silent_s=SILENT_S), 3])) is None  # 1 alone is no majority of both


def test_nothing_is_changed_while_a_change_is_under_way_or_could_not_be_agreed_on() -> None:
    one = view([1], [2, 3], [1, 2, 3])
    assert next_step(replace(one, joint=True)) is None
    silent = [seen(node, silent_s=SILENT_S) for node in (2, 3)]
    assert next_step(view([1, 2, 3], [4], [1, *silent, 4])) is None


def test_an_agent_that_is_silent_for_an_hour_is_forgotten_unless_three_votes_need_it() -> None:
    dead = seen(9, silent_s=FORGET_S)
    assert forgotten(view([1, 2, 3], [9], [1, 2, 3, dead])) == [9]
    assert forgotten(view([1, 2, 9], [], [1, 2, dead])) == []
    assert forgotten(view([1, 2, 3, 4, 9], [], [1, 2, 3, 4, dead])) == [9]
    assert forgotten(view([9], [], [dead], leader=9)) == []


@given(
    st.sets(st.integers(1, 9), min_size=1, max_size=7),
    st.sets(st.integers(1, 9), max_size=4),
    st.sets(st.integers(1, 9), min_size=1, max_size=9),
    st.data(),
)
def test_step_by_step_it_comes_to_rest_with_an_odd_number_of_voters(
    voters: set[int], learners: set[int], agents: set[int], data: st.DataObject
) -> None:
    leader = data.draw(st.sampled_from(sorted(voters)))
    config = Configuration(JointVoters(frozenset(voters)), frozenset(learners - voters))
    rows = agents | ({leader} if data.draw(st.booleans()) else set())
    for _ in range(40):
        now = view(config.voters.incoming, config.learners, rows, leader=leader)
        step = next_step(now)
        if step is None:
            break
        if isinstance(step, Transfer):
            leader = step.to
            continue
        assert leader in apply_change(config, step).voters.incoming
        changed = apply_change(config, step)
        config = apply_change(changed, ConfChange()) if changed.joint else changed
    else:
        raise AssertionError("it does not come to rest")
    if leader in rows:
        count = min(len(rows), VOTERS_MAX)
        assert len(config.voters.incoming) == count - 1 + count % 2
        assert config.members == rows
    else:
        assert not config.voters.incoming & rows
