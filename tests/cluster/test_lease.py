"""Leases, both sides, sentence by sentence (P3); what they are for is simulated in `test_lease_simulation.py`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.cluster.lease import ASKED_MAX, RENEWALS, STOP_ANSWER_S, Grant, Lessee, Lessor
from agent.runtable.model import LeaseTerms

TTL_S = 10.0
STOP_S = 3.0
LOSS_S = LeaseTerms().loss_ms / 1000
NEVER, FOREVER = float("-inf"), float("inf")


@dataclass
class Row:
    id: str
    epoch: int = 1
    lost: bool = False


A, B = Row("a"), Row("b")


def lessee_with(sent_s: float, *, epoch: int = 1, commit: int = 0) -> Lessee:
    lessee = Lessee()
    lessee.ask(7, sent_s)
    assert lessee.granted(7, Grant(TTL_S, epoch, commit, STOP_S))
    return lessee


# -- the worker's side -------------------------------------------------------------------------------------------------


def test_a_lease_counts_from_when_its_question_was_sent_however_late_the_answer_comes() -> None:
    assert lessee_with(100.0).until_s(1) == 110.0


def test_what_an_answer_is_worth_is_known_before_it_counts() -> None:
    """So that the watchdog is told first: without its word there is no lease."""
    lessee = Lessee()
    lessee.ask(7, 100.0)
    assert lessee.worth(7, Grant(TTL_S, 1, 0, STOP_S)) == 110.0
    assert lessee.until_s(1) == NEVER


@pytest.mark.parametrize("nonce", [8, 0])
def test_an_answer_to_no_question_of_this_process_is_worth_nothing(nonce: int) -> None:
    lessee = Lessee()
    lessee.ask(7, 100.0)
    assert lessee.worth(nonce, Grant(TTL_S, 1, 0, STOP_S)) is None
    assert not lessee.granted(nonce, Grant(TTL_S, 1, 0, STOP_S))
    assert lessee.until_s(1) == NEVER


def test_an_answer_counts_once() -> None:
    lessee = lessee_with(100.0)
    assert not lessee.granted(7, Grant(99.0, 1, 0, STOP_S))
    assert lessee.until_s(1) == 110.0


def test_answers_that_overtake_each_other_never_shorten_a_lease() -> None:
    lessee = Lessee()
    lessee.ask(1, 100.0)
    lessee.ask(2, 102.0)
    lessee.granted(2, Grant(TTL_S, 1, 5, STOP_S))
    lessee.granted(1, Grant(TTL_S, 1, 3, STOP_S))
    assert lessee.until_s(1) == 112.0
    assert not lessee.may_start(1, applied=4, now_s=101.0)


def test_the_grace_after_a_lease_is_that_of_the_grant_which_it_is_of() -> None:
    """A margin is for the ttl and the grace of the same terms; the end of one and the grace of another have none."""
    lessee = Lessee()
    for nonce, (sent_s, ttl_s, stop_s) in enumerate([(100.0, 60.0, 1.0), (102.0, 5.0, 50.0)]):
        lessee.ask(nonce, sent_s)
        assert lessee.granted(nonce, Grant(ttl_s, 1, 0, stop_s))
        assert (lessee.until_s(1), lessee.stop_s) == (160.0, 1.0)
    lessee.ask(2, 155.5)
    assert lessee.granted(2, Grant(5.0, 1, 0, 50.0))
    assert (lessee.until_s(1), lessee.stop_s) == (160.5, 50.0)


def test_an_agent_that_is_alone_or_has_no_lease_has_no_grace_of_one() -> None:
    assert Lessee().stop_s is None
    lessee = lessee_with(100.0)
    lessee.alone(1)
    assert lessee.stop_s is None


def test_questions_that_are_never_answered_take_no_room_p12() -> None:
    lessee = Lessee()
    for nonce in range(10 * ASKED_MAX):
        lessee.ask(nonce, 100.0)
    assert not lessee.granted(0, Grant(TTL_S, 1, 0, STOP_S))
    assert lessee.granted(10 * ASKED_MAX - 1, Grant(TTL_S, 1, 0, STOP_S))


def test_a_lease_prolongs_no_other_epochs_attempts() -> None:
    lessee = lessee_with(100.0, epoch=2)
    assert (lessee.until_s(1), lessee.until_s(2), lessee.until_s(3)) == (NEVER, 110.0, NEVER)


def test_the_first_lease_of_a_later_epoch_begins_anew_and_one_of_an_earlier_is_worth_nothing() -> None:
    lessee = lessee_with(100.0, epoch=1)
    lessee.ask(8, 50.0)
    assert lessee.granted(8, Grant(TTL_S, 2, 0, STOP_S))
    assert lessee.until_s(2) == 60.0
    lessee.ask(9, 200.0)
    assert lessee.worth(9, Grant(TTL_S, 1, 0, STOP_S)) is None
    assert not lessee.granted(9, Grant(TTL_S, 1, 0, STOP_S))
    assert lessee.until_s(1) == NEVER


def test_nothing_starts_before_what_was_committed_at_the_grant_is_applied() -> None:
    """So an attempt that was taken away before that is seen to be: this is why no start needs a commit of its own."""
    lessee = lessee_with(100.0, commit=42)
    assert not lessee.may_start(1, applied=41, now_s=105.0)
    assert lessee.may_start(1, applied=42, now_s=105.0)


def test_nothing_starts_when_the_lease_has_ended() -> None:
    lessee = lessee_with(100.0)
    assert lessee.may_start(1, applied=0, now_s=109.999)
    assert not lessee.may_start(1, applied=0, now_s=110.0)


def test_an_agent_alone_needs_no_lease_and_has_one_leases_time_once_it_is_not() -> None:
    lessee = Lessee()
    lessee.alone(1)
    assert lessee.until_s(1) == FOREVER
    assert lessee.may_start(1, applied=0, now_s=1e9)
    lessee.accompanied(500.0, TTL_S)
    lessee.accompanied(505.0, TTL_S)
    assert lessee.until_s(1) == 510.0


def test_a_restarted_agent_in_company_has_no_lease() -> None:
    lessee = Lessee()
    lessee.accompanied(500.0, TTL_S)
    assert lessee.until_s(1) == NEVER


def test_a_lease_is_asked_for_several_times_in_its_own_time() -> None:
    assert Lessee.next_ask_s(100.0, TTL_S) == 100.0 + TTL_S / RENEWALS


# -- the leader's side -------------------------------------------------------------------------------------------------


def lost(lessor: Lessor, now_s: float, *rows: Row) -> set[tuple[str, int]]:
    return set(lessor.lost(rows or (A, B), LOSS_S, now_s))


def test_an_agent_is_lost_ttl_and_margin_after_it_last_asked() -> None:
    lessor = Lessor(0.0)
    for agent in ("a", "b"):
        lessor.asked(agent, 1, 100.0)
    lessor.asked("b", 1, 101.0)
    assert lost(lessor, 99.9 + LOSS_S) == set()
    assert lost(lessor, 100.1 + LOSS_S) == {("a", 1)}


def test_a_new_leader_counts_from_its_election() -> None:
    lessor = Lessor(1000.0)
    assert lost(lessor, 1000.0) == set()
    assert lost(lessor, 999.9 + LOSS_S) == set()
    assert lost(lessor, 1000.1 + LOSS_S) == {("a", 1), ("b", 1)}


def test_an_agent_that_came_or_returned_under_this_leader_has_its_time_from_then() -> None:
    lessor = Lessor(0.0)
    lessor.asked("a", 1, 999.0)
    assert lost(lessor, 1000.0, A, Row("new")) == set()
    assert lost(lessor, 1001.0, Row("a", 2), Row("new")) == set()
    assert lost(lessor, 1000.5 + LOSS_S, Row("a", 2), Row("new")) == {("new", 1)}


def test_a_question_counts_though_it_is_not_granted() -> None:
    """Waiting longer is always safe."""
    lessor = Lessor(0.0)
    assert not lessor.may_grant(Row("a", lost=True), 1)
    lessor.asked("a", 1, 100.0)
    assert lost(lessor, 50.0 + LOSS_S, A, Row("b", lost=True)) == set()


def test_once_a_loss_was_proposed_its_epoch_gets_no_grant_any_more() -> None:
    lessor = Lessor(0.0)
    assert lost(lessor, 0.0) == set()
    assert lost(lessor, 0.1 + LOSS_S) == {("a", 1), ("b", 1)}
    lessor.asked("a", 1, 0.2 + LOSS_S)
    assert not lessor.may_grant(A, 1)
    assert lessor.may_grant(Row("a", 2), 2)


@pytest.mark.parametrize(("row", "epoch"), [(None, 1), (Row("a", lost=True), 1), (Row("a", 2), 1), (Row("a"), 2)])
def test_only_the_present_epoch_of_an_agent_that_is_not_lost_gets_a_grant(row: Row | None, epoch: int) -> None:
    assert not Lessor(0.0).may_grant(row, epoch)


STOP = ("r1", "task", 1)


def test_a_stop_that_is_not_answered_in_time_costs_the_lease() -> None:
    lessor = Lessor(0.0)
    assert lessor.tells("a", 1, {STOP}, 100.0) == []
    assert lessor.tells("a", 1, {STOP, ("r2", "task", 1)}, 100.0 + STOP_ANSWER_S) == []
    assert lessor.may_grant(A, 1)
    assert lessor.tells("a", 1, {STOP, ("r2", "task", 1)}, 100.1 + STOP_ANSWER_S) == [STOP]
    assert not lessor.may_grant(A, 1)
    assert lessor.may_grant(Row("a", 2), 2)
    assert lessor.may_grant(B, 1)


def test_an_answer_to_a_stop_is_good_for_as_long_as_it_is_given() -> None:
    """However long the stop takes; who forgets of it is told anew, and has its time from then."""
    lessor = Lessor(0.0)
    lessor.tells("a", 1, {STOP}, 100.0)
    for now_s in range(102, 1000, 2):
        lessor.tells("a", 1, set(), now_s)
    assert lessor.tells("a", 1, {STOP}, 1000.0) == []
    assert lessor.tells("a", 1, {STOP}, 1000.0 + STOP_ANSWER_S) == []
    assert lessor.tells("a", 1, {STOP}, 1000.1 + STOP_ANSWER_S) == [STOP]


def test_who_gets_no_lease_any_more_is_lost_though_it_goes_on_asking() -> None:
    lessor = Lessor(0.0)
    lessor.asked("a", 1, 100.0)
    lessor.tells("a", 1, {STOP}, 100.0)
    lessor.asked("a", 1, 140.0)
    assert lessor.tells("a", 1, {STOP}, 140.0) == [STOP]
    lessor.asked("a", 1, 141.0)
    lessor.asked("b", 1, 150.0)
    assert lost(lessor, 139.9 + LOSS_S) == set()
    assert lost(lessor, 140.1 + LOSS_S) == {("a", 1)}


def test_an_agent_alone_is_never_lost() -> None:
    lessor = Lessor(0.0)
    assert lost(lessor, 1e9, A) == set()
    assert lessor.due_s([A], LOSS_S) is None


def test_the_leader_looks_again_when_the_first_one_would_be_lost() -> None:
    lessor = Lessor(0.0)
    lost(lessor, 0.0)
    lessor.asked("a", 1, 30.0)
    lessor.asked("b", 1, 20.0)
    assert lessor.due_s([A, B], LOSS_S) == 20.0 + LOSS_S
    assert lessor.due_s([A, Row("b", lost=True)], LOSS_S) == 30.0 + LOSS_S
    assert lessor.due_s([Row("a", lost=True), Row("b", lost=True)], LOSS_S) is None


def test_what_is_known_of_epochs_that_are_over_is_dropped_p12() -> None:
    lessor = Lessor(0.0)
    for epoch in range(100):
        lessor.asked("a", epoch, 1.0)
        lessor.tells("a", epoch, {STOP}, 1.0)
    assert lost(lessor, 2.0 + LOSS_S, Row("a", 5), Row("b", lost=True)) == {("a", 5)}
    lessor.forget({"a": Row("a", 99)})
    assert set(lessor._renewed_s) == {("a", 99)}
    assert set(lessor._open_s) == {("a", 99)}
    assert not lessor._given_up
