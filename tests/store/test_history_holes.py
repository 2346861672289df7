"""What a history knows that it lacks: noted before it counts, filled part by part, never passed over in silence."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.store.errors import HistoryError
from agent.store.history import START, History, Hole, Part, end_of, pack
from tests.store.test_history import DAY_MS, ended, ids

BIG = 2**20


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "history.db")
    yield history
    history.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[History]:
    """Another agent's, that has it all: two runs ended at each of the first ten indexes."""
    history = History.open(tmp_path / "other.db")
    history.append([ended(index, ordinal) for index in range(1, 11) for ordinal in (0, 1)])
    yield history
    history.close()


def hole(after: int, to: int, *, lost: bool = False) -> Hole:
    return Hole(end_of(after), end_of(to), lost)


def reopened(history: History, path: Path) -> History:
    history.close()
    return History.open(path)


def test_p4_a_file_that_knows_what_it_lacks_belongs_to_the_log_that_has_dropped_it(
    history: History, tmp_path: Path
) -> None:
    history.append([ended(1), ended(2)])
    with pytest.raises(HistoryError, match="records of runs are missing"):
        history.check_covers(8, 9)
    history.note_missing(2, 8)
    again = reopened(history, tmp_path / "history.db")
    again.check_covers(8, 9)
    assert again.missing == (hole(2, 8),)
    with pytest.raises(HistoryError, match="has finished runs up to 8, and the log begins after 9"):
        again.check_covers(9, 9)
    again.close()


def test_what_was_noted_for_a_snapshot_that_was_not_installed_is_in_the_log(history: History) -> None:
    history.append([ended(1)])
    history.set_covered(1)
    history.note_missing(4, 20)  # and then the crash, with a log that begins after 1
    history.check_covers(1, 6)
    assert history.missing == ()
    assert history.covered_index == 4


def test_a_crash_in_the_second_of_two_snapshots_leaves_the_first_ones_hole(history: History) -> None:
    history.note_missing(0, 10)
    history.note_missing(10, 20)  # of which nothing was filled yet: it is one hole
    assert history.missing == (hole(0, 20),)
    history.check_covers(10, 12)
    assert history.missing == (hole(0, 10),)


def test_a_hole_is_filled_part_by_part_and_goes_on_where_it_was_left(
    history: History, other: History, tmp_path: Path
) -> None:
    history.append([ended(1, 0), ended(1, 1)])
    history.note_missing(1, 10)
    parts = 0
    while history.missing:
        (missing,) = history.missing
        part = other.part(missing.after, missing.to[0], bytes_max=700)  # three rows: also in the middle of a command
        assert 0 < len(part.rows) <= 3
        history.fill(missing.after, part)
        history = reopened(history, tmp_path / "history.db")
        history.check_covers(10, 10)
        parts += 1
    assert parts > 5
    assert history.after(0, 0, 100) == other.after(0, 0, 100)
    assert history.covered_index == 10
    history.close()


def test_the_same_part_again_changes_nothing(history: History, other: History) -> None:
    history.note_missing(0, 10)
    part = other.part(end_of(0), 10, bytes_max=700)
    for _ in range(2):
        history.fill(end_of(0), part)
    assert len(history.after(0, 0, 100)) == len(part.rows)
    assert history.missing == (Hole(part.complete, end_of(10)),)


def test_rows_that_came_through_the_log_meanwhile_are_not_doubled(history: History, other: History) -> None:
    history.note_missing(0, 10)
    history.append([ended(3), ended(10, 1), ended(11)])
    history.fill(end_of(0), other.part(end_of(0), 10, BIG))
    assert history.after(0, 0, 100) == [*other.after(0, 0, 100), ended(11)]
    assert history.missing == ()


def test_a_part_gives_a_runs_latest_end_its_place(history: History, other: History) -> None:
    other.append([ended(11, run_id="AGAIN", state="failed"), ended(12, run_id="AGAIN2")])
    history.note_missing(10, 12)
    history.append([ended(20, run_id="AGAIN", created_at_ms=11)])
    history.fill(end_of(10), other.part(end_of(10), 12, BIG))
    found = history.get("AGAIN")
    assert found is not None
    assert found.index == 20
    assert history.get("AGAIN2") == ended(12, run_id="AGAIN2")


def test_an_agent_answers_only_for_what_it_does_not_miss_itself(other: History) -> None:
    other.note_missing(10, 20)
    other.append([ended(21)])
    assert [row.index for row in other.part(end_of(9), 30, BIG).rows] == [10, 10]
    assert other.part(end_of(9), 30, BIG).complete == end_of(10)
    assert other.part(end_of(10), 30, BIG) == Part((), end_of(10), end_of(20))
    assert other.part((15, 3), 30, BIG) == Part((), (15, 3), end_of(20))
    assert other.part(end_of(20), 30, BIG) == Part([pack(ended(21))], end_of(30))


def test_an_agent_that_is_behind_says_that_it_may_have_it_yet(other: History) -> None:
    assert other.part(end_of(10), 10, BIG) == Part([], end_of(10))
    assert other.part(end_of(12), 10, BIG) == Part([], end_of(12))


def test_an_agent_says_what_it_has_pruned(other: History) -> None:
    other.prune(now_ms=6 + 10, keep_ms=10)  # those that finished before 6: indexes 1 to 3
    assert other.part(START, 10, BIG) == Part((), START, (3, 1))
    assert [row.index for row in other.part((3, 1), 4, BIG).rows] == [4, 4]


def test_p9_a_part_that_is_damaged_is_refused_and_leaves_nothing(history: History, other: History) -> None:
    history.note_missing(0, 10)
    part = other.part(end_of(0), 10, BIG)
    spoilt = msgspec.structs.replace(part.rows[3], job="another")
    for rows in ([*part.rows[:3], spoilt], [*part.rows, pack(ended(11))]):
        with pytest.raises(HistoryError, match="came damaged"):
            history.fill(end_of(0), Part(rows, part.complete))
    assert history.after(0, 0, 9) == []
    assert history.missing == (hole(0, 10),)


def test_what_nobody_has_is_lost_and_said(history: History, other: History) -> None:
    history.append([ended(1), ended(9)])
    history.note_missing(1, 8)
    history.give_up(end_of(1), (4, 1))
    assert list(history.holes) == [Hole(end_of(1), (4, 1), lost=True), Hole((4, 1), end_of(8))]
    history.fill((4, 1), other.part((4, 1), 8, BIG))
    assert list(history.holes) == [Hole(end_of(1), (4, 1), lost=True)]
    assert not history.missing
    history.check_covers(8, 9)
    assert history.part((1, 1), 8, BIG).resumes is None  # index 1 is known
    assert history.part(end_of(1), 8, BIG) == Part((), end_of(1), (4, 1))
    assert history.prune(now_ms=DAY_MS, keep_ms=1) == 10
    assert history.holes == ()


def test_what_everybody_pruned_before_an_agent_came_is_pruned_there_too(history: History, other: History) -> None:
    history.note_missing(0, 10)
    history.append([ended(11)])
    history.give_up(end_of(0), (3, 1))
    assert history.pruned() == (3, 1)
    assert history.holes == (Hole((3, 1), end_of(10)),)
    history.fill((3, 1), other.part((3, 1), 10, BIG))
    history.check_covers(10, 11)
    assert history.after(0, 0, 1)[0].index == 4


def test_a_hole_behind_one_that_others_may_fill_is_not_called_pruned(history: History) -> None:
    history.note_missing(0, 3)
    history.append([ended(4)])
    history.note_missing(4, 8)
    history.give_up(end_of(4), end_of(8))
    assert history.holes == (hole(0, 3), hole(4, 8, lost=True))
    assert history.pruned() == START


def test_pruning_takes_holes_with_it(history: History) -> None:
    history.append([ended(1)])
    history.note_missing(1, 5)
    history.append([ended(6), ended(7, finished_at_ms=DAY_MS)])
    assert history.prune(now_ms=DAY_MS, keep_ms=DAY_MS // 2) == 2
    assert history.holes == ()


def test_the_tail_ends_before_what_is_missing(history: History) -> None:
    history.append([ended(1), ended(2), ended(9)])
    history.note_missing(2, 8)
    tail = history.tail(START, 10)
    assert (ids(list(tail.runs)), tail.missing, tail.end) == (
        [ended(1).run_id, ended(2).run_id],
        hole(2, 8),
        (9, 0),
    )
    assert history.tail(START, 1).missing is None  # there is more before it, as far as this look goes
    assert history.tail((2, 0), 10).runs == []
    assert history.tail((5, 0), 10).missing == hole(2, 8)  # the reader has had it from another history
    assert ids(list(history.tail(end_of(8), 10).runs)) == [ended(9).run_id]


def test_a_file_of_the_first_version_is_taken_on(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    history = History.open(path)
    history.append([ended(1)])
    history.close()
    sql = sqlite3.connect(path, isolation_level=None)
    sql.execute("DROP TABLE missing")
    for name in ("by_state", "by_origin", "by_name", "by_job_state"):
        sql.execute(f"DROP INDEX {name}")
    sql.execute("PRAGMA user_version = 1")
    sql.close()
    again = History.open(path)
    assert again.get(ended(1).run_id) == ended(1)
    assert again.holes == ()
    again.close()
