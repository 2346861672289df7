"""The log of the core on its own: where it looks for an entry, what it hands out, and when it lets go."""

from __future__ import annotations

import pytest

from consensus.errors import Compacted, Inconsistent, Unavailable
from consensus.log import Log
from consensus.messages import NO_LIMIT, ConfState, Entry, Snapshot, SnapshotMeta
from consensus.storage import ENTRY_OVERHEAD_BYTES, MemoryStorage
from tests.consensus.server import log as terms


def sized(index: int, size_bytes: int, term: int = 1) -> Entry:
    """An entry that counts as `size_bytes`."""
    return Entry(term, index, data=bytes(size_bytes - ENTRY_OVERHEAD_BYTES))


def snapshot(index: int, term: int = 1) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term, ConfState((1,))))


def over(*stored: Entry, base: int = 0, max_applying_bytes: int = NO_LIMIT) -> Log:
    """A log over a storage with these entries, behind a snapshot of `base`."""
    storage = MemoryStorage(snapshot(base) if base else None)
    storage.append(stored)
    return Log(storage, max_applying_bytes)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_entries_are_read_from_the_storage_and_from_what_is_not_stable_as_one_log() -> None:
    log = over(*terms(1, 1))
    log.append(terms(1, 2, start=3))
    for low, high in ((1, 5), (1, 3), (2, 4), (3, 5), (2, 3), (3, 3)):
        assert [entry.index for entry in log.entries(low, high, NO_LIMIT)] == list(range(low, high))


def test_a_limit_that_ends_within_the_storage_leaves_no_hole() -> None:
    """What is not stable must not follow where the limit has cut what is, though it would fit."""
    log = over(sized(1, 50), sized(2, 500))
    log.append([sized(3, 20)])
    assert [entry.index for entry in log.entries(1, 4, 100)] == [1]


def test_a_limit_that_ends_within_what_is_not_stable_cuts_there() -> None:
    log = over(sized(1, 50))
    log.append([sized(2, 50), sized(3, 50)])
    assert [entry.index for entry in log.entries(1, 4, 100)] == [1, 2]


def test_what_is_past_the_end_and_what_was_dropped_are_told_apart() -> None:
    log = over(*terms(1, 1, start=6), base=5)
    assert [log.term(index) for index in (5, 6, 7)] == [1, 1, 1]
    with pytest.raises(Compacted):
        log.term(4)
    with pytest.raises(Unavailable):
        log.term(8)
    with pytest.raises(Compacted):
        log.entries(5, 7, NO_LIMIT)


def test_while_a_leaders_snapshot_waits_what_it_has_replaced_is_gone() -> None:
    """The storage still holds it: nothing of it may be taken for this log."""
    log = over(*terms(1, 1, 1, 1))
    log.append(terms(2, 2, start=5))
    log.restore(snapshot(9, 3))
    assert (log.first_index, log.last_index, log.last_term, log.committed) == (10, 9, 3, 9)
    assert log.term(9) == 3
    assert not log.has_unstable
    for index in (3, 5, 8):
        with pytest.raises(Compacted):
            log.term(index)
    with pytest.raises(Unavailable):
        log.term(10)
    with pytest.raises(Compacted):
        log.entries(3, 5, NO_LIMIT)


def test_a_hint_that_was_compacted_has_no_term() -> None:
    log = over(*terms(2, 2, start=6), base=5)
    assert log.find_conflict_by_term(3, 9) == (3, 0)
    assert log.find_conflict_by_term(9, 9) == (9, 0)
    assert log.find_conflict_by_term(7, 2) == (7, 2)
    assert log.find_conflict_by_term(7, 1) == (5, 1)
    assert over(*terms(2, 2)).find_conflict_by_term(2, 1) == (0, 0)
    assert over().find_conflict_by_term(0, 1) == (0, 0)


# -- growing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2])
def test_what_is_committed_is_never_replaced_whoever_asks(first: int) -> None:
    log = over(*terms(1, 1, 1))
    log.commit_to(2)
    with pytest.raises(Inconsistent):
        log.append(terms(2, start=first))
    log.append(terms(2, start=3))
    assert (log.last_index, log.last_term) == (3, 2)


# -- handing out -------------------------------------------------------------------------------------------------------


def test_each_entry_is_handed_out_once_until_it_is_replaced() -> None:
    log = over()
    log.append(terms(1, 1, 1))
    assert (log.has_next_unstable, log.next_unstable()) == (True, terms(1, 1, 1))
    log.accept(())
    assert (log.has_next_unstable, log.next_unstable()) == (False, ())
    log.append(terms(1, start=4))
    assert (log.has_next_unstable, log.next_unstable()) == (True, terms(1, start=4))
    log.append(terms(2, start=2))
    assert (log.has_next_unstable, log.next_unstable()) == (True, terms(2, start=2))


def test_what_is_stable_is_kept_in_the_storage_alone() -> None:
    log = over()
    log.append(terms(1, 1))
    log.accept(())
    log.append(terms(1, start=3))
    log.accept(())
    log.stable_to(2, 1)
    assert (log.has_unstable, log.has_next_unstable, log.last_index) == (True, False, 3)
    log.stable_to(3, 1)
    assert not log.has_unstable


@pytest.mark.parametrize(("index", "term"), [(0, 0), (2, 1), (5, 2), (4, 1), (9, 1)])
def test_a_write_that_says_nothing_of_these_entries_makes_none_of_them_stable(index: int, term: int) -> None:
    """Below them, above them, or of an entry that was replaced meanwhile."""
    log = over(*terms(1, 1))
    log.append(terms(2, 2, start=3))
    log.accept(())
    log.stable_to(index, term)
    assert log.term(3) == 2
    assert [entry.index for entry in log.entries(3, 5, NO_LIMIT)] == [3, 4]


def test_a_snapshot_is_handed_out_once_and_a_newer_one_again() -> None:
    log = over(*terms(1))
    log.restore(snapshot(5))
    assert log.next_snapshot() == snapshot(5)
    log.accept(())
    assert log.next_snapshot() is None
    log.restore(snapshot(8))
    assert log.next_snapshot() == snapshot(8)
    log.snapshot_stable(5)  # the write that has ended was of the one before
    assert log.first_index == 9
    log.accept(())
    log.snapshot_stable(8)
    log.snapshot_stable(8)
    assert log.first_index == 1, "the storage's own, as long as it is not told"


# -- what waits to be applied ------------------------------------------------------------------------------------------


def committed(*sizes: int, limit: int, commit: int) -> Log:
    """A log with entries of these sizes, some committed."""
    log = over(*(sized(index, size) for index, size in enumerate(sizes, 1)), max_applying_bytes=limit)
    log.commit_to(commit)
    return log


def indexes(log: Log) -> list[int]:
    return [entry.index for entry in log.next_committed()]


@pytest.mark.parametrize(
    ("limit", "first"), [(49, [1]), (50, [1]), (99, [1]), (100, [1, 2]), (149, [1, 2]), (150, [1, 2, 3])]
)
def test_committed_entries_are_handed_out_up_to_the_limit_and_at_least_one(limit: int, first: list[int]) -> None:
    assert indexes(committed(50, 50, 50, limit=limit, commit=3)) == first


def test_committed_entries_are_handed_out_once() -> None:
    log = committed(50, 50, limit=500, commit=1)
    log.accept(log.next_committed())
    assert (log.has_next_committed, indexes(log)) == (False, [])
    log.commit_to(2)
    assert (log.has_next_committed, indexes(log)) == (True, [2])


def test_what_is_being_applied_counts_against_the_limit() -> None:
    log = committed(60, 30, 30, limit=100, commit=1)
    log.accept(log.next_committed())
    log.commit_to(3)
    assert indexes(log) == [2], "40 bytes are left"
    log.accept(log.next_committed())
    assert not log.has_next_committed, "it waits: 3 did not fit"
    log.applied_to(1, 60)
    assert indexes(log) == [3]


def test_a_full_limit_lets_nothing_out_until_something_was_applied() -> None:
    log = committed(60, 40, 30, 30, limit=100, commit=2)
    log.accept(log.next_committed())
    log.commit_to(4)
    assert not log.has_next_committed
    log.applied_to(1, 60)
    assert indexes(log) == [3, 4]


def test_nothing_is_let_out_while_what_is_being_applied_reaches_the_limit() -> None:
    log = committed(60, 100, 30, limit=100, commit=1)
    log.accept(log.next_committed())
    log.commit_to(2)
    log.accept(log.next_committed())
    log.commit_to(3)
    log.applied_to(1, 60)
    assert not log.has_next_committed
    log.applied_to(2, 100)
    assert indexes(log) == [3]
