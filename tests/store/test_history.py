"""What the history of finished runs promises: durable in order, found again, pruned only when it may be."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.store.errors import HistoryError
from agent.store.history import (
    START,
    FinishedRun,
    History,
    RunFilter,
    decode_cursor,
    encode_cursor,
)

DAY_MS = 24 * 3600 * 1000


def ended(index: int, ordinal: int = 0, **fields: object) -> FinishedRun:
    """A run that ended at (index, ordinal), created at `index` milliseconds."""
    run = FinishedRun(
        index=index,
        ordinal=ordinal,
        run_id=f"RUN{index:06d}X{ordinal}",
        project="shop",
        namespace="dwh",
        job="orders",
        origin="schedule",
        state="success",
        reason=None,
        requested_by="alice",
        scheduled_at_ms=index - 10,
        created_at_ms=index,
        started_at_ms=index + 1,
        finished_at_ms=index + 2,
        record=b"packed run " * 20,
    )
    return replace(run, **fields)  # type: ignore[arg-type]  # a test helper: fields are checked by the dataclass' users


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    history = History.open(path)
    yield history
    history.close()


def ids(runs: list[FinishedRun]) -> list[str]:
    return [run.run_id for run in runs]


def test_a_run_is_read_back_as_it_was_appended(history: History) -> None:
    plain = ended(7)
    bare = ended(8, reason="timeout", started_at_ms=None, record=bytes(range(256)))
    history.append([plain, bare])
    assert history.get(plain.run_id) == plain
    assert history.get(bare.run_id) == bare
    assert history.get("NOSUCHRUN") is None


def test_what_was_appended_is_there_after_the_process_is_killed(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from agent.store.history import History, FinishedRun\n"
        "h = History.open(Path(sys.argv[1]))\n"
        "h.append([FinishedRun(1, 0, 'R', 'p', 'n', 'j', 'manual', 'success', None, 'u', 1, 1, 1, 1, b'x')])\n"
        "h.set_covered(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    history = History.open(path)
    assert history.get("R") is not None
    assert history.covered_index == 1
    history.close()


def test_appending_the_same_again_changes_nothing(history: History) -> None:
    run = ended(7)
    history.append([run])
    history.append([run, ended(7, 1)])
    assert history.after(0, 0, 10) == [run, ended(7, 1)]


def test_another_run_at_the_same_position_is_refused_and_leaves_nothing(history: History) -> None:
    history.append([ended(7)])
    with pytest.raises(HistoryError, match="belongs to another log"):
        history.append([ended(6), ended(7, run_id="OTHER")])
    assert history.after(0, 0, 10) == [ended(7)]


def test_a_run_that_ended_twice_is_found_by_its_latest_end(history: History) -> None:
    first = ended(5, run_id="AGAIN", state="failed")
    second = ended(9, run_id="AGAIN", created_at_ms=5)
    history.append([first])
    history.append([second])
    assert history.get("AGAIN") == second
    assert history.list(RunFilter(), 10) == ([second], None)
    assert history.find("AG", 10) == ["AGAIN"]
    assert history.after(0, 0, 10) == [first, second]


def test_an_earlier_end_that_arrives_late_does_not_replace_the_latest(history: History) -> None:
    first, second = ended(5, run_id="AGAIN"), ended(9, run_id="AGAIN")
    history.append([second])
    history.append([first])
    assert history.get("AGAIN") == second
    assert history.list(RunFilter(), 10) == ([second], None)


def test_ids_are_found_by_prefix_in_order_and_up_to_a_limit(history: History) -> None:
    history.append([ended(n, run_id=run_id) for n, run_id in enumerate(["AB1", "AB2", "AC1", "B"], 1)])
    assert history.find("AB", 10) == ["AB1", "AB2"]
    assert history.find("A", 2) == ["AB1", "AB2"]
    assert history.find("", 10) == ["AB1", "AB2", "AC1", "B"]
    assert history.find("Z", 10) == []


def test_listing_gives_the_newest_first_and_pages_without_loss_or_repeat(history: History) -> None:
    history.append([ended(n, created_at_ms=n // 2) for n in range(1, 24)])  # pairs are created at the same time
    seen, cursor, pages = [], None, 0
    while True:
        runs, cursor = history.list(RunFilter(), 5, cursor)
        seen += [(run.created_at_ms, run.run_id) for run in runs]
        pages += 1
        if cursor is None:
            break
    assert pages == 5
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 23


def test_a_page_that_takes_all_has_no_cursor(history: History) -> None:
    history.append([ended(1), ended(2)])
    assert history.list(RunFilter(), 2)[1] is None
    assert history.list(RunFilter(), 1)[1] is not None
    assert history.list(RunFilter(), 0) == ([], None)


def test_a_cursor_stays_good_while_runs_end(history: History) -> None:
    history.append([ended(n) for n in range(1, 7)])
    _, cursor = history.list(RunFilter(), 2)
    history.append([ended(7), ended(8, run_id=ended(2).run_id, created_at_ms=2)])
    assert ids(history.list(RunFilter(), 10, cursor)[0]) == [ended(n).run_id for n in (4, 3, 2, 1)]


@pytest.mark.parametrize("cursor", ["%%%", "é", "AAAAA", encode_cursor(1, "x")[:2], "YWJj", "MTIz", "_____w"])
def test_what_is_no_cursor_is_refused(history: History, cursor: str) -> None:
    with pytest.raises(HistoryError, match="is not a cursor"):
        history.list(RunFilter(), 10, cursor)


def test_a_cursor_with_a_time_no_table_can_hold_is_refused() -> None:
    with pytest.raises(HistoryError, match="is not a cursor"):
        decode_cursor(encode_cursor(2**63, "RUN"))


def test_a_cursor_names_its_run() -> None:
    assert decode_cursor(encode_cursor(-5, "A:B")) == (-5, "A:B")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (RunFilter(project="bank"), [6]),
        (RunFilter(namespace="raw"), [5]),
        (RunFilter(job="users"), [4]),
        (RunFilter(state="failed"), [3]),
        (RunFilter(origin="manual"), [2]),
        (RunFilter(project="shop", job="orders", state="success"), [5, 2, 1]),
        (RunFilter(since_ms=3), [6, 5, 4, 3]),
        (RunFilter(until_ms=3), [2, 1]),
        (RunFilter(since_ms=2, until_ms=4, project="shop"), [3, 2]),
        (RunFilter(project="none"), []),
    ],
)
def test_a_listing_is_filtered(history: History, wanted: RunFilter, expected: list[int]) -> None:
    history.append(
        [
            ended(1),
            ended(2, origin="manual"),
            ended(3, state="failed"),
            ended(4, job="users"),
            ended(5, namespace="raw"),
            ended(6, project="bank"),
        ]
    )
    assert [run.index for run in history.list(wanted, 10)[0]] == expected


@pytest.mark.parametrize(
    ("terms", "index"),
    [
        ("latest = 1", "by_created"),
        ("latest = 1 AND state = 'failed'", "by_state"),
        ("latest = 1 AND origin = 'manual'", "by_origin"),
        ("latest = 1 AND job = 'j' AND (created_at_ms, run_id) < (4, 'R')", "by_name"),
        ("latest = 1 AND project = 'p' AND job = 'j' AND state = 'failed'", "by_job_state"),
        ("latest = 1 AND project = 'p'", "by_project"),
        ("latest = 1 AND project = 'p' AND job = 'j' AND created_at_ms >= 4", "by_job"),
        ("latest = 1 AND project = 'p' AND (created_at_ms, run_id) < (4, 'R')", "by_project"),
    ],
)
def test_a_listing_walks_an_index_in_order(history: History, path: Path, terms: str, index: str) -> None:
    sql = sqlite3.connect(path)
    query = f"SELECT * FROM finished_run WHERE {terms} ORDER BY created_at_ms DESC, run_id DESC LIMIT 9"
    plan = " ".join(row[3] for row in sql.execute(f"EXPLAIN QUERY PLAN {query}"))
    sql.close()
    assert f"USING INDEX {index}" in plan
    assert "TEMP B-TREE" not in plan


def test_after_gives_the_order_of_the_log(history: History) -> None:
    history.append([ended(4), ended(2, 1), ended(2, 0), ended(3)])
    assert [run.position for run in history.after(0, 0, 3)] == [(2, 0), (2, 1), (3, 0)]
    assert [run.position for run in history.after(2, 0, 10)] == [(2, 1), (3, 0), (4, 0)]
    assert history.after(4, 0, 10) == []


def test_the_tail_says_how_much_follows_and_what_was_pruned(history: History) -> None:
    history.append([ended(n) for n in range(1, 6)])
    tail = history.tail((1, 0), 2)
    assert ([run.index for run in tail.runs], tail.behind, tail.pruned) == ([2, 3], 4, START)
    assert history.tail((1, 0), 2, count_limit=3).behind == 3
    history.prune(now_ms=5 + 10, keep_ms=10, max_bytes=2**40)  # those that finished before 5: indexes 1, 2
    assert history.tail(START, 1).pruned == (2, 0)


def test_last_is_the_latest_position_also_when_it_was_pruned(history: History) -> None:
    assert history.last() == START
    history.append([ended(3), ended(3, 1)])
    assert history.last() == (3, 1)
    assert history.prune(now_ms=DAY_MS, keep_ms=1) == 2
    assert history.last() == (3, 1)
    assert history.pruned() == (3, 1)


def test_the_covered_mark_is_kept_and_never_goes_back(path: Path, history: History) -> None:
    assert history.covered_index == 0
    history.set_covered(9)
    history.set_covered(4)
    history.close()
    again = History.open(path)
    assert again.covered_index == 9
    again.close()


def test_pruning_by_age_removes_what_is_older(history: History) -> None:
    history.append([ended(n, finished_at_ms=n * DAY_MS) for n in range(1, 11)])
    assert history.prune(now_ms=10 * DAY_MS, keep_ms=3 * DAY_MS) == 6
    assert [run.index for run in history.after(0, 0, 99)] == [7, 8, 9, 10]
    assert history.prune(now_ms=10 * DAY_MS, keep_ms=3 * DAY_MS) == 0


def test_what_was_pruned_does_not_come_back(history: History) -> None:
    history.append([ended(1), ended(2)])
    history.prune(now_ms=DAY_MS, keep_ms=1)
    history.append([ended(1), ended(3)])
    assert [run.index for run in history.after(0, 0, 9)] == [3]


def fill(history: History, count: int) -> None:
    """Records of some 4 KB that do not compress, finished at `index` ms."""
    record = sqlite3.connect(":memory:")
    (noise,) = record.execute("SELECT randomblob(4000)").fetchone()
    record.close()
    history.append([ended(n, record=noise) for n in range(1, count + 1)])


def test_pruning_by_size_removes_the_oldest_and_gives_the_space_back(history: History, path: Path) -> None:
    fill(history, 1200)
    before = history.records_bytes
    removed = history.prune(now_ms=0, max_bytes=before // 2)
    assert history.records_bytes <= before // 2
    assert history.records_bytes > before // 3
    assert history.after(0, 0, 1)[0].index == removed + 1
    history.close()
    assert path.stat().st_size < before * 0.6


def test_p5_what_the_database_has_not_got_is_kept_past_age_and_size(history: History) -> None:
    fill(history, 50)
    assert history.prune(now_ms=DAY_MS, keep_ms=1, max_bytes=1, mirrored=START) == 0
    assert history.prune(now_ms=DAY_MS, keep_ms=1, max_bytes=1, mirrored=(20, 0)) == 20
    assert history.after(0, 0, 1)[0].index == 21


def test_p12_what_the_database_has_not_got_is_bounded_by_the_larger_limit(history: History) -> None:
    fill(history, 300)
    limit = history.records_bytes // 2
    removed = history.prune(now_ms=0, max_bytes=1, mirrored=START, unmirrored_max_bytes=limit)
    assert 100 < removed < 250
    assert history.records_bytes <= limit
    assert history.pruned() == (removed, 0)


def test_p9_a_full_disk_is_an_error_and_nothing_is_half_written(history: History, path: Path) -> None:
    fill(history, 3)
    (pages,) = history._writer.execute("PRAGMA page_count").fetchone()
    history._writer.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way of being full
    with pytest.raises(HistoryError, match="no space left"):
        history.append([ended(n, record=bytes(range(256)) * 90) for n in range(10, 200)])
    assert [run.index for run in history.after(0, 0, 99)] == [1, 2, 3]
    history._writer.execute("PRAGMA max_page_count = 1000000")
    history.append([ended(10)])
    assert history.last() == (10, 0)


def test_p9_a_flipped_bit_in_a_record_is_noticed(history: History, path: Path) -> None:
    history.append([ended(1, job="flip-this"), ended(2)])
    history.close()
    data = path.read_bytes()
    assert data.count(b"flip-this") == 8  # the row and seven indexes
    path.write_bytes(data.replace(b"flip-this", b"flip-thas"))
    damaged = History.open(path)
    with pytest.raises(HistoryError, match=r"the record of run 'RUN000001X0' at \(1, 0\) is damaged"):
        damaged.get(ended(1).run_id)
    assert damaged.get(ended(2).run_id) == ended(2)
    damaged.close()


def test_p9_a_damaged_file_is_refused_with_its_path(path: Path) -> None:
    path.write_bytes(b"this is no database, it only looks long enough to be one" * 100)
    with pytest.raises(HistoryError, match=r"history\.db cannot be opened"):
        History.open(path)


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="cannot be opened"):
        History.open(tmp_path / "none" / "history.db")


def test_a_file_of_a_newer_prime_is_refused(path: Path) -> None:
    History.open(path).close()
    sql = sqlite3.connect(path, isolation_level=None)
    sql.execute("PRAGMA user_version = 99")
    sql.close()
    with pytest.raises(HistoryError, match="has version 99"):
        History.open(path)


def test_p8_a_new_history_is_its_owners_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        opened = History.open(path)
        opened.append([ended(1)])
    finally:
        os.umask(before)
    assert {one.name: one.stat().st_mode & 0o777 for one in path.parent.glob("history.db*")} == {
        "history.db": 0o600,
        "history.db-shm": 0o600,
        "history.db-wal": 0o600,
    }
    opened.close()


def test_after_close_every_call_says_so(history: History) -> None:
    history.close()
    history.close()
    with pytest.raises(HistoryError, match="closed"):
        history.get("R")
    with pytest.raises(HistoryError, match="closed"):
        history.append([ended(1)])


def test_threads_write_and_read_at_once(history: History) -> None:
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for n in range(first, first + 25):
                history.append([ended(n)])
                assert history.get(ended(n).run_id) == ended(n)
                history.list(RunFilter(), 5)
        except BaseException as error:  # handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (100, 200, 300, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(history.after(0, 0, 1000)) == 100
