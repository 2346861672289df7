"""P5 with more than one writer: histories of several agents that take turns, some of them with holes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agent.store.database import FencedOut, Mirror, MirroredRun, Progress, open_database
from agent.store.errors import MirrorError
from agent.store.history import START, FinishedRun, History, Hole, end_of
from tests.store.test_database import TABLES, decode, ended, mirrored, query, step_all, url

__all__ = ["url"]  # a fixture: each test runs against SQLite and PostgreSQL

BIG = 2**20


@pytest.fixture
def first(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "first.db")
    yield history
    history.close()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "second.db")
    yield history
    history.close()


def test_p5_a_new_leader_goes_on_where_the_old_one_ended(first: History, second: History, url: str) -> None:
    runs = [ended(n // 2, n % 2) for n in range(2, 22)]
    first.append(runs[:12])
    second.append(runs)
    old, new = Mirror(url, decode), Mirror(url, decode)
    old.step(first, generation=1, term=4, batch=7)
    assert new.step(second, generation=1, term=5, batch=8) == Progress(8, 5)
    with pytest.raises(FencedOut):
        old.step(first, generation=1, term=4)
    assert len(mirrored(url)) == 15
    step_all(new, second, term=5)
    assert mirrored(url) == [(*run.position, run.run_id) for run in runs]
    assert query(url, "SELECT gaps FROM prime_fence") == [(0,)]


def test_p5_an_old_leader_in_the_middle_of_its_step_and_a_new_one_write_each_row_once(
    first: History, second: History, url: str
) -> None:
    """The old one holds the fence while the new one comes: whichever is first, the other sees what it did."""
    runs = [ended(n) for n in range(1, 7)]
    first.append(runs)
    second.append(runs)
    inside, go = threading.Event(), threading.Event()

    def slow(run: FinishedRun) -> MirroredRun:
        inside.set()
        assert go.wait(20)
        return decode(run)

    old, new = Mirror(url, slow), Mirror(url, decode)
    with ThreadPoolExecutor(2) as threads:
        late = threads.submit(old.step, first, generation=1, term=4, batch=4)
        assert inside.wait(20)
        early = threads.submit(new.step, second, generation=1, term=5, batch=4)
        go.set()
        assert late.result(20).mirrored == 4
        assert early.result(20) == Progress(2, 0)
    with pytest.raises(FencedOut):
        old.step(first, generation=1, term=4)
    assert mirrored(url) == [(*run.position, run.run_id) for run in runs]


def test_p5_an_old_leader_that_comes_back_writes_nothing_even_into_a_restored_database(
    first: History, second: History, url: str
) -> None:
    first.append([ended(1), ended(2)])
    second.append([ended(1)])
    step_all(Mirror(url, decode), second, term=7)
    query(url, "UPDATE prime_fence SET log_index = 0")
    query(url, "DELETE FROM prime_runs")
    with pytest.raises(FencedOut):
        Mirror(url, decode).step(first, generation=1, term=6)
    assert mirrored(url) == []


def test_p5_a_leader_does_not_mirror_past_what_it_misses(first: History, second: History, url: str) -> None:
    first.append([ended(n) for n in range(1, 10)])
    second.append([ended(1), ended(2), ended(9)])
    second.note_missing(2, 8)
    second.append([ended(10)])
    mirror = Mirror(url, decode)
    progress = mirror.step(second, generation=1, term=1)
    assert (progress.mirrored, progress.missing) == (2, Hole(end_of(2), end_of(8)))
    assert mirror.status().watermark == (2, 0)
    assert "waits for finished runs" in (mirror.status().last_error or "")
    assert mirror.step(second, generation=1, term=1).mirrored == 0
    part = first.part(end_of(2), 8, 700)
    second.fill(end_of(2), part)
    assert mirror.step(second, generation=1, term=1).mirrored == len(part.rows)
    while second.missing:
        second.fill(second.missing[0].after, first.part(second.missing[0].after, 8, 700))
    step_all(mirror, second)
    assert [row[0] for row in mirrored(url)] == list(range(1, 11))
    assert query(url, "SELECT gaps FROM prime_fence") == [(0,)]
    assert mirror.status().last_error is None


def test_p5_a_leader_whose_hole_was_mirrored_by_the_one_before_waits_no_longer_than_it_must(
    first: History, second: History, url: str
) -> None:
    first.append([ended(n) for n in range(1, 10)])
    step_all(Mirror(url, decode), first, term=1)
    second.append([ended(1)])
    second.note_missing(1, 8)  # and 9 is not here yet
    mirror = Mirror(url, decode)
    with pytest.raises(MirrorError, match=r"is at \(9, 0\), this agent's history ends at \(8, "):
        mirror.step(second, generation=1, term=2)
    second.append([ended(9), ended(10)])
    assert mirror.step(second, generation=1, term=2) == Progress(1, 0)
    assert len(mirrored(url)) == 10


def test_what_no_agent_has_is_recorded_as_a_gap_once(first: History, url: str) -> None:
    first.append([ended(1), ended(2), ended(9)])
    first.note_missing(2, 8)
    first.give_up(end_of(2), (7, 3))
    first.fill((7, 3), replace(first.part((9, 0), 9, BIG), rows=(), complete=end_of(8)))
    mirror = Mirror(url, decode)
    assert mirror.step(first, generation=1, term=1, batch=2) == Progress(2, 1)
    assert mirror.step(first, generation=1, term=1, batch=2) == Progress(1, 0)
    assert mirror.step(first, generation=1, term=1, batch=2) == Progress(0, 0)
    gaps = query(url, "SELECT from_index, from_ordinal, to_index, to_ordinal FROM prime_gaps")
    assert gaps == [(*end_of(2), 7, 3)]
    assert query(url, "SELECT gaps, log_index FROM prime_fence") == [(1, 9)]


def test_an_agent_that_does_not_write_sees_how_far_the_database_is(first: History, url: str) -> None:
    looking = Mirror(url, decode)
    looking.look(generation=1)  # nobody has written yet
    assert looking.status().watermark == START
    first.append([ended(1), ended(2)])
    step_all(Mirror(url, decode), first)
    looking.look(generation=1)
    assert looking.status().watermark == (2, 0)
    looking.look(generation=2)
    assert looking.status().watermark == START
    for table in TABLES:
        query(url, f"DROP TABLE {table}")
    looking.look(generation=1)
    assert looking.status().watermark == START


def test_a_look_at_a_database_that_is_down_keeps_what_was_known(first: History, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    mirror = Mirror(f"sqlite:///{tmp_path}/there/mirror.db", decode)
    first.append([ended(1)])
    step_all(mirror, first)
    (tmp_path / "there").rename(tmp_path / "away")
    with pytest.raises(MirrorError, match="unable to open"):
        mirror.look(generation=1)
    assert mirror.status().watermark == (1, 0)
    assert "unable to open" in (mirror.status().last_error or "")


def test_an_error_nobody_foresaw_is_the_mirrors_and_not_the_agents(first: History, url: str) -> None:
    class Odd(Mirror):
        def _migrate(self) -> None:
            raise LookupError("of a driver")

    with pytest.raises(MirrorError, match="of a driver"):
        Odd(url, decode).step(first, generation=1, term=1)


def test_postgresql_lets_go_of_the_fence_of_a_writer_that_has_gone_away(postgresql_url: str) -> None:
    database = open_database(postgresql_url)
    with database.connection_context():
        for name, value in (("idle_in_transaction_session_timeout", "30s"), ("lock_timeout", "10s")):
            cursor = database.execute_sql(f"SHOW {name}")  # type: ignore[no-untyped-call]  # as peewee's stubs are
            assert cursor.fetchone() == (value,)
