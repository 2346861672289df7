"""P5: the database is a mirror. What reaches it, exactly once, whatever dies in between.

Each test runs against SQLite and a real PostgreSQL: one that the session starts, or PRIME_TEST_POSTGRESQL's, whose
prime_ tables are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.store.database import (
    FencedOut,
    Mirror,
    MirroredAttempt,
    MirroredInstance,
    MirroredRun,
    Progress,
    open_database,
    run,
)
from agent.store.errors import HistoryError, MirrorError
from agent.store.history import START, FinishedRun, History

TABLES = ("prime_runs", "prime_instances", "prime_attempts", "prime_fence", "prime_gaps", "prime_schema")
NOON_MS = 1_656_936_610_010  # 2022-07-04T12:10:10.010Z


def decode(finished: FinishedRun) -> MirroredRun:
    return msgspec.msgpack.decode(finished.record, type=MirroredRun)


def ended(index: int, ordinal: int = 0, tries: int = 1, **fields: Any) -> FinishedRun:
    """A run of two instances whose task was tried `tries` times."""
    attempts = tuple(
        MirroredAttempt(n, "agent-1", "failed", "exit_code", n, NOON_MS + n, NOON_MS + n + 1)
        for n in range(1, tries + 1)
    )
    held = MirroredRun(
        (
            MirroredInstance("bq2bq", "task", "success", None, attempts),
            MirroredInstance("notify", "fail", "skipped", None, ()),
        )
    )
    finished = FinishedRun(
        index=index,
        ordinal=ordinal,
        run_id=f"RUN{index}-{ordinal}",
        project="shop",
        namespace="dwh",
        job="orders",
        origin="schedule",
        state="success",
        reason=None,
        requested_by="alice",
        scheduled_at_ms=NOON_MS,
        created_at_ms=NOON_MS + index,
        started_at_ms=None,
        finished_at_ms=NOON_MS + index + 1,
        record=msgspec.msgpack.encode(held),
    )
    return replace(finished, **fields)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History.open(tmp_path / "history.db")
    yield history
    history.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mirror.db"
    postgresql: str = request.getfixturevalue("postgresql_url")
    for table in TABLES:
        query(postgresql, f"DROP TABLE IF EXISTS {table}")
    return postgresql


@pytest.fixture
def mirror(url: str) -> Mirror:
    return Mirror(url, decode)


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask the database as a reader of reports would."""
    database = open_database(url)
    with database.connection_context():
        cursor = database.execute_sql(sql)  # type: ignore[no-untyped-call]  # peewee's stubs leave it untyped
        return list(cursor.fetchall()) if cursor.description else []


def mirrored(url: str) -> list[tuple[Any, ...]]:
    return query(url, "SELECT log_index, ordinal, run_id FROM prime_runs ORDER BY log_index, ordinal")


def step_all(mirror: Mirror, history: History, *, generation: int = 1, term: int = 1, batch: int = 200) -> int:
    steps = 0
    while True:
        steps += 1
        if not mirror.step(history, generation=generation, term=term, batch=batch).behind:
            return steps


def test_a_finished_run_lands_with_its_instances_and_attempts(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(7, 1, tries=2, reason="timeout", state="failed", started_at_ms=NOON_MS)])
    assert mirror.step(history, generation=1, term=3) == Progress(mirrored=1, behind=0)
    (row,) = query(url, "SELECT * FROM prime_runs")
    assert row[:11] == (
        "RUN7-1",
        1,
        7,
        1,
        "shop",
        "dwh",
        "orders",
        "schedule",
        "failed",
        "timeout",
        "alice",
    )
    names = query(url, "SELECT name, type, state, reason FROM prime_instances WHERE run_id = 'RUN7-1' ORDER BY name")
    assert names == [("bq2bq", "task", "success", None), ("notify", "fail", "skipped", None)]
    tries = query(
        url, "SELECT run_id, instance, number, agent, state, reason, exit_code FROM prime_attempts ORDER BY number"
    )
    assert tries == [("RUN7-1", "bq2bq", n, "agent-1", "failed", "exit_code", n) for n in (1, 2)]
    assert query(url, "SELECT generation, term, log_index, ordinal, gaps FROM prime_fence") == [(1, 3, 7, 1, 0)]
    assert mirror.status().watermark == (7, 1)
    assert mirror.status().behind == 0


def test_the_document_names_every_table_and_column_and_its_questions_are_answered(
    mirror: Mirror, history: History, url: str
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "database.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", document, re.MULTILINE)
    told = {table: re.findall(r"`(\w+)`", columns) for table, columns in rows}
    history.append([ended(1, tries=3, state="failed", reason="exit_code", finished_at_ms=1_790_000_000_000)])
    mirror.step(history, generation=1, term=1)
    database = open_database(url)
    with database.connection_context():
        there = {table: [column.name for column in database.get_columns(table)] for table in TABLES}
    assert told == there
    fails, tries, gaps = (query(url, sql) for sql in re.findall(r"```sql\n(.*?)```", document, re.DOTALL))
    assert fails == [("orders", "exit_code", 1)]
    assert tries == [("shop", "orders", "RUN1-0", "bq2bq", 3)]
    assert gaps == []


def test_times_are_real_timestamps_in_utc(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(1, scheduled_at_ms=-1)])
    step_all(mirror, history)
    if url.startswith("sqlite"):
        found = query(
            url, "SELECT scheduled_at, created_at, started_at, julianday(finished_at) IS NULL FROM prime_runs"
        )
        assert found == [("1969-12-31T23:59:59.999Z", "2022-07-04T12:10:10.011Z", None, 0)]
    else:
        wanted = "scheduled_at = '1969-12-31T23:59:59.999Z' AND created_at = '2022-07-04T14:10:10.011+02'"
        assert query(url, f"SELECT {wanted}, started_at FROM prime_runs") == [(True, None)]


def test_steps_take_batches_in_order_and_count_what_waits(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(n) for n in range(1, 8)])
    assert mirror.step(history, generation=1, term=1, batch=3) == Progress(3, 4)
    assert mirrored(url) == [(n, 0, f"RUN{n}-0") for n in (1, 2, 3)]
    assert mirror.step(history, generation=1, term=1, batch=3) == Progress(3, 1)
    assert mirror.step(history, generation=1, term=1, batch=3) == Progress(1, 0)
    assert mirror.step(history, generation=1, term=1, batch=3) == Progress(0, 0)
    assert len(mirrored(url)) == 7


def test_a_run_with_more_rows_than_a_statement_takes_lands_whole(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(1, tries=1201)])
    step_all(mirror, history)
    assert query(url, "SELECT count(*), max(number) FROM prime_attempts") == [(1201, 1201)]


def test_a_run_that_ended_again_replaces_its_rows(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(1, run_id="AGAIN", state="failed", tries=3)])
    step_all(mirror, history)
    history.append([ended(5, run_id="AGAIN", tries=1), ended(6)])
    step_all(mirror, history)
    assert mirrored(url) == [(5, 0, "AGAIN"), (6, 0, "RUN6-0")]
    assert query(url, "SELECT state FROM prime_runs WHERE run_id = 'AGAIN'") == [("success",)]
    assert query(url, "SELECT count(*) FROM prime_attempts WHERE run_id = 'AGAIN'") == [(1,)]


def test_two_ends_of_a_run_in_one_batch_leave_the_latest(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(1, run_id="AGAIN", state="failed"), ended(2), ended(5, run_id="AGAIN")])
    assert mirror.step(history, generation=1, term=1).mirrored == 3
    assert mirrored(url) == [(2, 0, "RUN2-0"), (5, 0, "AGAIN")]


def test_p5_a_deposed_writer_is_refused_by_the_database_and_writes_nothing(
    mirror: Mirror, history: History, url: str
) -> None:
    history.append([ended(1)])
    mirror.step(history, generation=2, term=5)
    history.append([ended(2)])
    for generation, term in ((2, 4), (1, 99)):
        with pytest.raises(FencedOut, match=r"written by generation 2, term 5; this agent has generation"):
            mirror.step(history, generation=generation, term=term)
    assert mirrored(url) == [(1, 0, "RUN1-0")]
    assert "no longer leads" in (mirror.status().last_error or "")
    mirror.step(history, generation=2, term=6)
    assert mirrored(url) == [(1, 0, "RUN1-0"), (2, 0, "RUN2-0")]


def test_p5_a_database_that_went_back_in_time_is_filled_again(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(n) for n in range(1, 11)])
    step_all(mirror, history)
    query(url, "DELETE FROM prime_runs WHERE log_index > 4")  # what a restored backup looks like
    query(url, "DELETE FROM prime_attempts WHERE run_id NOT IN (SELECT run_id FROM prime_runs)")
    query(url, "DELETE FROM prime_instances WHERE run_id NOT IN (SELECT run_id FROM prime_runs)")
    query(url, "UPDATE prime_fence SET log_index = 3")  # further back than the rows: those are not doubled
    assert mirror.step(history, generation=1, term=1) == Progress(7, 0)
    assert [row[0] for row in mirrored(url)] == list(range(1, 11))
    assert query(url, "SELECT count(*) FROM prime_instances") == [(20,)]
    assert query(url, "SELECT gaps FROM prime_fence") == [(0,)]


def test_p5_an_empty_database_put_in_its_place_is_filled_from_the_beginning(
    mirror: Mirror, history: History, url: str
) -> None:
    history.append([ended(n) for n in range(1, 4)])
    step_all(mirror, history)
    for table in TABLES:
        query(url, f"DROP TABLE {table}")
    assert mirror.step(history, generation=1, term=1).mirrored == 3
    assert len(mirrored(url)) == 3


def test_what_was_pruned_before_it_came_is_recorded_as_a_gap_once(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(n) for n in range(1, 7)])
    mirror.step(history, generation=1, term=1, batch=2)
    history.prune(now_ms=NOON_MS + 6, keep_ms=0)  # those that finished before: indexes 1 to 4
    assert mirror.step(history, generation=1, term=1) == Progress(2, 0)
    mirror.step(history, generation=1, term=1)
    assert query(url, "SELECT generation, from_index, from_ordinal, to_index, to_ordinal FROM prime_gaps") == [
        (1, 2, 0, 4, 0)
    ]
    assert query(url, "SELECT gaps, log_index FROM prime_fence") == [(1, 6)]
    assert [row[0] for row in mirrored(url)] == [1, 2, 5, 6]


def test_a_gap_is_recorded_where_nothing_is_left_behind_it(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(1), ended(2)])
    history.prune(now_ms=NOON_MS * 2, keep_ms=0)
    for _ in range(2):
        assert mirror.step(history, generation=1, term=1) == Progress(0, 0)
    assert query(url, "SELECT from_index, to_index FROM prime_gaps") == [(0, 2)]
    assert mirror.status().watermark == (2, 0)


def test_a_new_generation_mirrors_its_history_anew_as_positions_are_given_anew(
    mirror: Mirror, history: History, url: str, tmp_path: Path
) -> None:
    history.append([ended(n) for n in range(1, 10)])
    step_all(mirror, history)
    recovered = History.open(tmp_path / "recovered.db")  # went on from a snapshot at index 4
    recovered.append([*(ended(n) for n in range(1, 5)), ended(5, run_id="NEW"), ended(6, run_id="RUN8-0")])
    assert step_all(mirror, recovered, generation=2, term=1, batch=2) == 3
    rows = query(url, "SELECT run_id, generation, log_index FROM prime_runs ORDER BY generation, log_index")
    assert [row for row in rows if row[1] == 1] == [(f"RUN{n}-0", 1, n) for n in (5, 6, 7, 9)]
    assert [row for row in rows if row[1] == 2] == [
        *((f"RUN{n}-0", 2, n) for n in range(1, 5)),
        ("NEW", 2, 5),
        ("RUN8-0", 2, 6),
    ]
    assert query(url, "SELECT gaps FROM prime_fence") == [(0,)]
    recovered.close()


def test_a_new_generation_does_not_call_a_gap_what_the_old_one_mirrored(
    mirror: Mirror, history: History, url: str
) -> None:
    history.append([ended(1), ended(2)])
    step_all(mirror, history)
    history.prune(now_ms=NOON_MS * 2, keep_ms=0)
    for _ in range(2):
        mirror.step(history, generation=2, term=1)
    assert query(url, "SELECT gaps, log_index FROM prime_fence") == [(0, 2)]


def test_a_database_ahead_of_the_history_is_refused(mirror: Mirror, history: History, tmp_path: Path) -> None:
    history.append([ended(9)])
    step_all(mirror, history)
    other = History.open(tmp_path / "other.db")
    with pytest.raises(MirrorError, match=r"is at \(9, 0\), this agent's history ends at \(0, 0\)"):
        mirror.step(other, generation=1, term=1)
    other.close()


def test_a_missing_fence_row_is_said(mirror: Mirror, history: History, url: str) -> None:
    step_all(mirror, history)
    query(url, "DELETE FROM prime_fence")
    with pytest.raises(MirrorError, match="no row in prime_fence"):
        mirror.step(history, generation=1, term=1)


def test_a_schema_of_a_newer_prime_is_refused(mirror: Mirror, history: History, url: str) -> None:
    step_all(mirror, history)
    query(url, "INSERT INTO prime_schema VALUES (99)")
    with pytest.raises(MirrorError, match="has schema 99, this prime knows 1"):
        mirror.step(history, generation=1, term=1)


def test_a_record_that_does_not_decode_stops_the_mirror_and_is_named(
    mirror: Mirror, history: History, url: str
) -> None:
    history.append([ended(1), ended(2, record=b"\xc1")])
    with pytest.raises(MirrorError, match=r"record of run RUN2-0 at \(2, 0\) does not decode"):
        mirror.step(history, generation=1, term=1)
    assert mirrored(url) == []
    assert mirror.step(history, generation=1, term=1, batch=1) == Progress(1, 1)


def test_text_that_a_database_refuses_does_not_stop_the_mirror(mirror: Mirror, history: History, url: str) -> None:
    history.append([ended(1, requested_by="a\0b"), ended(2)])
    step_all(mirror, history)
    assert query(url, "SELECT requested_by FROM prime_runs WHERE log_index = 1") == [("a\ufffdb",)]


def test_a_time_no_database_can_hold_is_an_error(mirror: Mirror, history: History) -> None:
    history.append([ended(1, finished_at_ms=2**62)])
    with pytest.raises(MirrorError, match="tried again"):
        mirror.step(history, generation=1, term=1)


def test_a_database_that_cannot_be_reached_is_an_error_and_shows_in_the_status(
    history: History, tmp_path: Path
) -> None:
    mirror = Mirror(f"sqlite:///{tmp_path}/none/mirror.db", decode)
    with pytest.raises(MirrorError, match="unable to open database file"):
        mirror.step(history, generation=1, term=1)
    assert "unable to open" in (mirror.status().last_error or "")
    (tmp_path / "none").mkdir()
    mirror.step(history, generation=1, term=1)
    assert mirror.status().last_error is None


def test_a_history_that_cannot_be_read_is_an_error_of_the_history(mirror: Mirror, history: History) -> None:
    history.close()
    with pytest.raises(HistoryError):
        mirror.step(history, generation=1, term=1)
    assert "closed" in (mirror.status().last_error or "")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/db", "SQLite and PostgreSQL only"),
        ("sqlite://mirror.db", "is a file"),
        ("sqlite:///", "is a file"),
        ("sqlite:///:memory:", "is a file"),
        ("mirror.db", "SQLite and PostgreSQL only"),
        ("postgresql://[::1/db", "cannot be read"),
    ],
)
def test_a_url_that_is_none_is_refused_with_what_to_give_and_without_its_password(url: str, said: str) -> None:
    with pytest.raises(MirrorError, match=said) as caught:
        open_database(url)
    assert "give sqlite:////absolute/path" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_postgresql_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.store.database.find_spec", lambda name: None)
    with pytest.raises(MirrorError, match=r"postgresql://h:1/db needs a driver: pip install") as caught:
        open_database("postgresql://u:secret@h:1/db?password=secret")
    assert "secret" not in str(caught.value)


def test_postgresql_gets_limits_so_that_a_dead_server_does_not_hold_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.store.database.find_spec", lambda name: name)
    database = open_database("postgres://u@h/db?connect_timeout=3")
    assert database.database == "postgresql://u@h/db?connect_timeout=3"
    assert "connect_timeout" not in database.connect_params
    assert database.connect_params["tcp_user_timeout"] == "30000"


# -- crashes ---------------------------------------------------------------------------------------------------------

WRITER = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(os.pathsep)
from agent.store.database import Mirror, MirroredAttempt, MirroredInstance, MirroredRun
from agent.store.history import History
from dataclasses import replace
die_at, url, path = int(sys.argv[4]), sys.argv[3], Path(sys.argv[2])
decoded = 0
def decode(run):
    global decoded
    decoded += 1
    if decoded == die_at:
        os.kill(os.getpid(), signal.SIGKILL)  # rows of this step are written, its transaction is not
    return MirroredRun((MirroredInstance("task", "task", run.state, None,
        (MirroredAttempt(1, "a", run.state, None, 0, 1, 2),)),))
history, mirror = History.open(path), Mirror(url, decode)
first = history.get("RUN1-0")
while True:
    index = history.last()[0] + 1
    if index > 60:
        break
    # each third command ends two runs, each fifth a run that has ended before
    again = f"RUN{index - 3}-0" if index % 5 == 0 else f"RUN{index}-0"
    runs = [replace(first, index=index, run_id=again, state="failed")]
    if index % 3 == 0:
        runs.append(replace(first, index=index, ordinal=1, run_id=f"RUN{index}-1"))
    history.append(runs)
    print(mirror.step(history, generation=1, term=1, batch=3), flush=True)
while mirror.step(history, generation=1, term=1, batch=3).behind:
    print("behind", flush=True)
print("done", flush=True)
"""


@pytest.mark.slow
def test_p5_a_writer_killed_at_any_moment_loses_and_doubles_nothing(history: History, url: str, tmp_path: Path) -> None:
    history.append([ended(1)])
    chance = random.Random(5)
    kills, last = 0, ""
    while last != "done":
        inside = kills % 2 == 0  # every other time in the middle of a transaction, else wherever it happens to be
        die_at = chance.randint(1, 12) if inside else 0
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, os.pathsep.join(sys.path), tmp_path / "history.db", url, str(die_at)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        with child, child.stdout as lines:
            for _ in range(chance.randint(1, 6) if not inside else 10**6):
                if not (line := lines.readline().strip()):
                    break
                last = line
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGKILL)
        kills += 1
        assert kills < 200
    assert kills > 10
    everything = history.after(*START, 1000)
    latest = {run.run_id: run for run in everything}
    wanted = sorted((run.index, run.ordinal, run.run_id) for run in latest.values())
    assert mirrored(url) == wanted
    states = dict(query(url, "SELECT run_id, state FROM prime_runs"))
    assert states == {run.run_id: run.state for run in latest.values()}
    for table in ("prime_instances", "prime_attempts"):
        assert dict(query(url, f"SELECT run_id, state FROM {table}")) == states
        assert query(url, f"SELECT count(*) FROM {table}") == [(len(latest),)]
    assert query(url, "SELECT log_index, ordinal, gaps FROM prime_fence") == [(*history.last(), 0)]


# -- the runner ------------------------------------------------------------------------------------------------------


class Watched(logging.Handler):
    """Keeps what the mirror logs and wakes whoever waits for a line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.news = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.loop.call_soon_threadsafe(self.news.set)

    async def until(self, word: str) -> str:
        async with asyncio.timeout(20):
            while True:
                self.news.clear()
                for line in self.lines:
                    if word in line:
                        return line
                await self.news.wait()


@pytest.fixture
def watch() -> Iterator[Callable[[], Watched]]:
    logger = logging.getLogger("agent.store.database")
    made: list[Watched] = []

    def make() -> Watched:
        made.append(Watched())
        logger.addHandler(made[-1])
        logger.setLevel(logging.INFO)
        return made[-1]

    yield make
    for handler in made:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def reached(mirror: Mirror, position: tuple[int, int]) -> None:
    async with asyncio.timeout(20):
        while mirror.status().watermark != position:  # noqa: ASYNC110 - the mirror tells nobody when it has written
            await asyncio.sleep(0.005)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_runner_follows_the_history_when_woken(
    mirror: Mirror, history: History, watch: Callable[[], Watched]
) -> None:
    async def main() -> None:
        watched, wake = watch(), asyncio.Event()
        history.append([ended(n) for n in range(1, 8)])
        task = asyncio.create_task(run(mirror, history, wake, generation=1, term=1, batch=3))
        await reached(mirror, (7, 0))
        history.append([ended(8)])
        wake.set()
        await reached(mirror, (8, 0))
        await cancelled(task)
        assert len(watched.lines) == 1
        assert "mirror.working" in watched.lines[0]

    asyncio.run(main())


def test_a_cancel_that_meets_the_wake_ends_the_runner(mirror: Mirror, history: History) -> None:
    async def main() -> None:
        wake = asyncio.Event()
        task = asyncio.create_task(run(mirror, history, wake, generation=1, term=1))
        await reached(mirror, START)
        while not wake._waiters:  # noqa: ASYNC110  nothing tells when it has come to wait
            await asyncio.sleep(0)
        wake.set()
        await asyncio.sleep(0)
        task.cancel()
        done, _pending = await asyncio.wait([task], timeout=10)
        assert done == {task}

    asyncio.run(main())


def test_the_runner_looks_at_an_idle_database_by_itself(mirror: Mirror, history: History) -> None:
    async def main() -> None:
        task = asyncio.create_task(run(mirror, history, asyncio.Event(), generation=1, term=1, idle_s=0.01))
        await reached(mirror, START)
        history.append([ended(1)])  # and nobody wakes it
        await reached(mirror, (1, 0))
        await cancelled(task)

    asyncio.run(main())


def test_p5_a_database_that_is_down_is_tried_again_with_one_line_for_each_change(
    history: History, tmp_path: Path, watch: Callable[[], Watched]
) -> None:
    mirror = Mirror(f"sqlite:///{tmp_path}/down/mirror.db", decode)

    async def main() -> None:
        watched = watch()
        history.append([ended(n) for n in range(1, 30)])
        task = asyncio.create_task(
            run(
                mirror,
                history,
                asyncio.Event(),
                generation=1,
                term=1,
                batch=10,
                backoff_first_s=0.001,
                backoff_max_s=0.004,
            )
        )
        await watched.until("mirror.failing")
        (tmp_path / "down").mkdir()
        await watched.until("mirror.working")
        await reached(mirror, (29, 0))
        await cancelled(task)
        assert [line.split()[0] for line in watched.lines] == ["mirror.failing", "mirror.working"]

    asyncio.run(main())


def test_the_backoff_grows_to_its_cap(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(f"sqlite:///{tmp_path}/down/mirror.db", decode)
    waits: list[float] = []

    async def main() -> None:
        sleep = asyncio.sleep

        async def count(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 5:
                asyncio.current_task().cancel()  # type: ignore[union-attr]  # it runs in a task
            await sleep(0)

        monkeypatch.setattr("agent.store.database.asyncio.sleep", count)
        await run(mirror, history, asyncio.Event(), generation=1, term=1, backoff_first_s=1, backoff_max_s=5)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert waits == [1, 2, 4, 5, 5]


def test_p5_the_runner_of_a_deposed_leader_ends(mirror: Mirror, history: History, watch: Callable[[], Watched]) -> None:
    mirror.step(history, generation=1, term=9)

    async def main() -> None:
        watched = watch()
        await asyncio.wait_for(run(mirror, history, asyncio.Event(), generation=1, term=8), 20)
        assert "mirror.fenced_out" in watched.lines[0]

    asyncio.run(main())


def test_cancelling_waits_for_the_step_under_way(history: History, url: str) -> None:
    history.append([ended(1)])

    async def main() -> None:
        loop, inside, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def slow(finished: FinishedRun) -> MirroredRun:
            loop.call_soon_threadsafe(inside.set)
            assert go.wait(20)
            return decode(finished)

        task = asyncio.create_task(run(Mirror(url, slow), history, asyncio.Event(), generation=1, term=1))
        await asyncio.wait_for(inside.wait(), 20)
        task.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert mirrored(url) == [(1, 0, "RUN1-0")]
