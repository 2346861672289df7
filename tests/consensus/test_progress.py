"""A leader's view of one other node, and the window of what it has sent it."""

from __future__ import annotations

import pytest

from consensus.progress import Inflights, Progress, ProgressState

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def progress(
    state: ProgressState, match: int, following: int, *, sent_commit: int = 0, window: int = 10, pending: int = 0
) -> Progress:
    return Progress(match, following, Inflights(window), state=state, sent_commit=sent_commit, pending_snapshot=pending)


# -- the window --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "size_bytes", "full_after"), [(1, 0, 1), (3, 0, 3), (9, 1, 1), (9, 25, 3), (9, 30, 3), (2, 25, 2)]
)
def test_the_window_is_full_at_its_messages_or_its_bytes_whichever_is_first(
    messages: int, size_bytes: int, full_after: int
) -> None:
    window = Inflights(messages, size_bytes)
    for index in range(1, full_after + 1):
        assert not window.full()
        window.add(index, 10)
    assert window.full()


def test_an_answer_frees_what_it_covers() -> None:
    window = Inflights(9, 100)
    for index in (3, 5, 9):
        window.add(index, 30)
    window.free_up_to(2)
    assert (len(window.window), window.bytes) == (3, 90)
    window.free_up_to(6)
    assert (list(window.window), window.bytes) == ([(9, 30)], 30)
    window.free_up_to(9)
    assert (len(window.window), window.bytes) == (0, 0)


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "following"),
    [
        (progress(REPLICATE, 0, 8), 1),
        (progress(REPLICATE, 5, 8), 6),
        (progress(SNAPSHOT, 5, 10, pending=9), 10),
        (progress(SNAPSHOT, 12, 13, pending=9), 13),
        (progress(SNAPSHOT, 5, 10), 6),
    ],
)
def test_a_probe_begins_behind_what_matches_or_behind_the_snapshot(before: Progress, following: int) -> None:
    before.become_probe()
    assert (before.state, before.next, before.pending_snapshot, before.paused) == (PROBE, following, 0, False)


def test_who_has_come_by_entries_past_the_snapshot_that_was_sent_is_sent_what_follows_those() -> None:
    one = progress(SNAPSHOT, 0, 101, pending=100)
    assert one.acknowledged(50)
    one.become_replicate()
    assert (one.match, one.next) == (50, 51)


@pytest.mark.parametrize(
    ("state", "count", "paused", "following"),
    [(PROBE, 0, False, 6), (PROBE, 2, True, 6), (REPLICATE, 0, False, 6), (REPLICATE, 2, False, 8)],
)
def test_a_probe_waits_for_its_answer_and_replication_does_not(
    state: ProgressState, count: int, paused: bool, following: int
) -> None:
    """An append without entries tells of a commit: it costs nothing."""
    one = progress(state, 5, 6)
    one.sent(count, 10 * count)
    assert (one.paused, one.next) == (paused, following)


def test_replication_waits_while_the_window_is_full() -> None:
    one = progress(REPLICATE, 5, 6, window=1)
    one.sent(1, 10)
    assert not one.may_send()
    assert one.acknowledged(6)
    assert one.may_send()


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "news", "match", "following"), [(4, False, 5, 8), (5, False, 5, 8), (6, True, 6, 8)])
def test_an_acknowledgement_of_what_was_known_changes_nothing(
    index: int, news: bool, match: int, following: int
) -> None:
    one = progress(REPLICATE, 5, 8)
    one.paused = True
    assert one.acknowledged(index) is news
    assert (one.match, one.next, one.paused) == (match, following, not news)


def test_an_acknowledgement_past_what_was_sent_moves_what_comes_next() -> None:
    one = progress(PROBE, 0, 4)
    assert one.acknowledged(9)
    assert (one.match, one.next) == (9, 10)


@pytest.mark.parametrize(
    ("before", "index", "hint", "news", "following"),
    [
        (progress(REPLICATE, 5, 9), 4, 4, False, 9),
        (progress(REPLICATE, 5, 9), 5, 5, False, 9),
        (progress(REPLICATE, 5, 9), 6, 5, True, 6),
        (progress(PROBE, 0, 10), 8, 3, False, 10),  # of an earlier probe
        (progress(PROBE, 0, 10), 9, 3, True, 4),
        (progress(PROBE, 0, 10), 9, 20, True, 9),  # always a step back
        (progress(PROBE, 5, 10), 9, 2, True, 6),  # and never before what matches
    ],
)
def test_a_refusal_goes_back_to_where_the_logs_may_meet_unless_it_is_stale(
    before: Progress, index: int, hint: int, news: bool, following: int
) -> None:
    assert before.rejected(index, hint) is news
    assert before.next == following


# -- which commit index was sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "following", "commit", "needed"),
    [(5, 10, 5, False), (5, 10, 6, True), (5, 6, 9, False), (5, 7, 9, True), (4, 6, 5, True)],
)
def test_an_empty_append_is_needed_where_it_tells_of_a_commit_that_the_node_can_use(
    sent: int, following: int, commit: int, needed: bool
) -> None:
    assert progress(REPLICATE, 5, following, sent_commit=sent).needs_commit(commit) is needed


@pytest.mark.parametrize(("sent", "after"), [(3, 3), (5, 5), (6, 5), (9, 5)])
def test_going_back_forgets_a_commit_index_past_what_the_node_can_have(sent: int, after: int) -> None:
    """It was told of it with entries that may be lost."""
    one = progress(REPLICATE, 5, 10, sent_commit=sent)
    one.become_probe()
    assert one.sent_commit == after
    other = progress(PROBE, 5, 10, sent_commit=sent)
    assert other.rejected(9, 5)
    assert other.sent_commit == after
