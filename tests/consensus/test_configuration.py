"""The arithmetic of majorities and of configurations; the thesis' chapter 4 and section 6 of the paper."""

from __future__ import annotations

import pytest

from consensus.configuration import (
    Change,
    ConfChange,
    ConfChangeKind,
    Configuration,
    Transition,
    apply_change,
    decode,
    encode,
    enter_joint,
    leave_joint,
    restore,
    simple,
)
from consensus.errors import ConfigError
from consensus.messages import NO_LIMIT, ConfState
from consensus.quorum import JointVoters, VoteResult, committed_index, vote_result

ADD, LEARN, REMOVE = ConfChangeKind.ADD_VOTER, ConfChangeKind.ADD_LEARNER, ConfChangeKind.REMOVE
JOINT = ConfState((2, 3), (), (1, 2), ())


def config(*voters: int, learners: tuple[int, ...] = ()) -> Configuration:
    return restore(ConfState(voters, learners))


# -- majorities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voters", "acked", "index"),
    [
        ((), {}, NO_LIMIT),
        ((1,), {}, 0),
        ((1,), {1: 5}, 5),
        ((1, 2), {1: 5}, 0),
        ((1, 2), {1: 5, 2: 3}, 3),
        ((1, 2, 3), {1: 5, 2: 3}, 3),
        ((1, 2, 3), {1: 5, 2: 3, 3: 4}, 4),
        ((1, 2, 3, 4), {1: 5, 2: 3, 3: 4}, 3),
        ((1, 2, 3, 4), {1: 5, 2: 5, 3: 0, 4: 0}, 0),
        ((1, 2), {1: 5, 3: 9, 4: 9}, 0),
    ],
)
def test_committed_is_what_a_majority_of_the_voters_has(
    voters: tuple[int, ...], acked: dict[int, int], index: int
) -> None:
    assert committed_index(voters, acked) == index


def test_a_joint_configuration_commits_what_both_halves_have() -> None:
    acked = {1: 9, 2: 7, 3: 3}
    assert JointVoters(frozenset({1, 2})).committed_index(acked) == 7
    assert JointVoters(frozenset({1, 2}), frozenset({2, 3})).committed_index(acked) == 3
    assert JointVoters(frozenset({2, 3}), frozenset({1, 2})).committed_index(acked) == 3


@pytest.mark.parametrize(
    ("voters", "votes", "result"),
    [
        ((), {}, VoteResult.WON),
        ((1, 2), {1: True}, VoteResult.PENDING),
        ((1, 2), {1: True, 2: False}, VoteResult.LOST),
        ((1, 2, 3, 4), {1: True, 2: True}, VoteResult.PENDING),
        ((1, 2, 3, 4), {1: True, 2: True, 3: True}, VoteResult.WON),
        ((1, 2, 3, 4), {1: False, 2: False}, VoteResult.LOST),
        ((1, 2, 3), {1: True, 4: True, 5: True}, VoteResult.PENDING),
    ],
)
def test_a_vote_is_won_by_a_majority_and_lost_where_none_is_left(
    voters: tuple[int, ...], votes: dict[int, bool], result: VoteResult
) -> None:
    assert vote_result(voters, votes) is result


def test_one_node_alone_is_a_majority_only_where_it_is_the_whole_of_both_halves() -> None:
    assert config(1).singleton
    assert config(1, learners=(2, 3)).singleton
    assert not config(1, 2).singleton
    assert not restore(ConfState((1,), (), (1, 2, 3))).singleton


# -- one step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (config(1, 2), [Change(ADD, 3)], config(1, 2, 3)),
        (config(1, 2), [Change(REMOVE, 2)], config(1)),
        (config(1, 2), [Change(LEARN, 3)], config(1, 2, learners=(3,))),
        (config(1, 2), [Change(LEARN, 2)], config(1, learners=(2,))),
        (config(1, learners=(2,)), [Change(ADD, 2)], config(1, 2)),
        (config(1, learners=(2,)), [Change(LEARN, 2)], config(1, learners=(2,))),
        (config(1, 2), [Change(REMOVE, 9)], config(1, 2)),
        (config(1, 2), [Change(LEARN, 3), Change(LEARN, 4), Change(ADD, 5)], config(1, 2, 5, learners=(3, 4))),
    ],
)
def test_one_voter_may_change_in_one_step_and_learners_are_free(
    before: Configuration, changes: list[Change], after: Configuration
) -> None:
    """Thesis, 4.1: any majority of the one meets any majority of the other."""
    assert simple(before, changes) == after


@pytest.mark.parametrize(
    ("before", "changes", "problem"),
    [
        (config(1, 2), [Change(ADD, 3), Change(ADD, 4)], "more than one voter"),
        (config(1, 2), [Change(ADD, 3), Change(REMOVE, 2)], "more than one voter"),
        (config(1), [Change(REMOVE, 1)], "removed all voters"),
        (config(1), [Change(LEARN, 1)], "removed all voters"),
        (restore(JOINT), [Change(ADD, 4)], "in joint config"),
    ],
)
def test_more_than_one_voter_and_the_last_one_and_a_joint_configuration_are_refused(
    before: Configuration, changes: list[Change], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        simple(before, changes)


# -- joint consensus ---------------------------------------------------------------------------------------------------


def test_a_joint_configuration_keeps_the_old_voters_until_it_is_left() -> None:
    before = config(1, 2, 3, learners=(4,))
    joint = enter_joint(before, [Change(REMOVE, 1), Change(LEARN, 2), Change(ADD, 4)], auto_leave=True)
    assert joint.conf_state() == ConfState((3, 4), (), (1, 2, 3), (2,), auto_leave=True)
    assert leave_joint(joint) == config(3, 4, learners=(2,))


@pytest.mark.parametrize(
    ("before", "change", "problem"),
    [
        (restore(JOINT), ConfChange((Change(ADD, 4), Change(ADD, 5))), "already joint"),
        (restore(JOINT), ConfChange((), Transition.EXPLICIT), "already joint"),
        (Configuration(), ConfChange((Change(ADD, 1),), Transition.IMPLICIT), "zero-voter"),
        (config(1, 2), ConfChange(), "non-joint"),
    ],
)
def test_a_joint_configuration_is_entered_from_one_that_is_not_and_left_from_one_that_is(
    before: Configuration, change: ConfChange, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        apply_change(before, change)


@pytest.mark.parametrize(
    ("change", "joint", "auto_leave"),
    [
        (ConfChange((Change(ADD, 3),)), False, False),
        (ConfChange((Change(ADD, 3), Change(ADD, 4))), True, True),
        (ConfChange((Change(ADD, 3),), Transition.IMPLICIT), True, True),
        (ConfChange((Change(ADD, 3),), Transition.EXPLICIT), True, False),
        (ConfChange((), Transition.EXPLICIT), True, False),
    ],
)
def test_the_transition_says_whether_a_change_is_joint_and_whether_that_ends_by_itself(
    change: ConfChange, joint: bool, auto_leave: bool
) -> None:
    after = apply_change(config(1, 2), change)
    assert (after.joint, after.auto_leave) == (joint, auto_leave)


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (ConfState((1, 2), (2,)), "voter and learner"),
        (ConfState((1,), (2,), (1, 2)), "voter and learner"),
        (ConfState((1, 2), (), (1, 2), (3,)), "voter that goes out"),
        (ConfState((1, 2), (), (1, 2), (2,)), "still comes in"),
        (ConfState((1, 2), auto_leave=True), "cannot be left"),
    ],
)
def test_a_stored_configuration_that_contradicts_itself_is_refused(state: ConfState, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        restore(state)


def test_a_change_is_read_back_as_it_was_written_and_nothing_else_is_taken_for_one() -> None:
    change = ConfChange((Change(ADD, 3), Change(REMOVE, 1)), Transition.EXPLICIT, b"context")
    assert decode(encode(change)) == change
    for data in (b"", b"junk", encode(change)[:-1]):
        with pytest.raises(ConfigError):
            decode(data)
