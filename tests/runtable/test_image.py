"""The table as a stream of records: of one index, the same for the same table, read in pieces cut anywhere."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtable import commands as c
from agent.runtable import image
from agent.runtable.image import PIECE_BYTES
from agent.runtable.model import FinishedRow, Job, Namespace, Origin, Plugin, RunState, Secret
from agent.runtable.table import FREED_AT_ONCE, Table, TableLoader, parts_of
from tests.runtable.builders import START_MS, Driver, job_with_hooks

JOB = Job("n", "spec", "me", "", "@daily", "t", START_MS)


@pytest.fixture
def driver() -> Driver:
    """A table that has rows of every kind, open attempts and an ended run among them."""
    driver = Driver().found()
    driver.say(c.PutProject(START_MS, "p", {"k": "v"}, {"a": "b"}, {}, {"n": Namespace()}))
    driver.say(c.PutPlugins(START_MS, "p", {"x": Plugin("yaml", START_MS)}))
    driver.say(c.PutJobs(START_MS, "p", {"j": JOB}))
    driver.say(c.PutSecret(START_MS, "p", "", "KEY", Secret(b"cipher", START_MS)))
    driver.submit(run_id="ended", request="k", origin=Origin.SCHEDULE)
    driver.go("bq2bq", run_id="ended")
    driver.submit(*job_with_hooks())
    driver.go("check")
    driver.plan()
    driver.table.rows.high_water["p/j"] = START_MS
    return driver


def large(count: int) -> Table:
    """A table with so many ended runs, and some of what they leave."""
    table = Table()
    for number in range(count):
        row = FinishedRow("p", f"job-{number % 100}", number, Origin.SCHEDULE, RunState.SUCCESS, number, number)
        table.add_finished(f"run-{number:012}", row)
        table.rows.ticks[f"p/job/{number}"] = f"run-{number:012}"
    return table


def loaded(data: bytes, *cuts: int) -> Table:
    ends = [*sorted(cuts), len(data)]
    return Table.load(data[begin:end] for begin, end in zip([0, *ends], ends, strict=False))


def test_rows_that_are_changed_in_place_are_never_shared_with_an_image() -> None:
    shared = {field.name for field in image._FIELDS if field.shared}
    assert shared >= {"finished", "requests", "ticks", "jobs", "plugins", "secrets"}  # what may be many or large
    assert not shared & {"agents", "projects", "runs"}


def test_a_table_that_is_read_from_an_image_has_the_same_rows_and_bytes(driver: Driver) -> None:
    copy = loaded(driver.table.dump())
    assert copy.rows == driver.table.rows
    assert copy.dump() == driver.table.dump()


def test_a_project_whose_last_job_was_deleted_is_found_again(driver: Driver) -> None:
    driver.say(c.DeleteJob(START_MS, "p", "n", "j"))
    assert loaded(driver.table.dump()).rows.jobs == {"p": {}}


def test_an_image_is_not_changed_by_what_is_applied_while_it_is_written(driver: Driver) -> None:
    before = driver.table.dump()
    records = iter(driver.table.image())
    written = [next(records)]
    driver.end("bq2bq")
    driver.submit(run_id="later")
    driver.say(c.PutProject(START_MS, "p", {"k": "other"}))
    driver.say(c.DeleteJob(START_MS, "p", "n", "j"))
    assert b"".join([*written, *records]) == before
    assert driver.table.dump() != before


@given(cuts=st.lists(st.integers(0, 200_000), max_size=5))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    table = large(1000)
    data = table.dump()
    assert loaded(data, *(cut for cut in cuts if cut < len(data))).dump() == data


def test_no_record_is_large_where_no_row_is() -> None:
    records = list(large(20_000).image())
    assert len(records) > 20
    assert max(map(len, records)) < 1.1 * PIECE_BYTES


def test_p9_what_is_no_whole_image_is_no_table(driver: Driver) -> None:
    *records, end = driver.table.image()
    whole = b"".join(records)
    unknown, broken = image._RECORD.pack(0, 99), image._RECORD.pack(3, 2) + b"\xc1\xc1\xc1"
    for data in (b"", whole, whole + end[:-1], whole + end + end, whole + end + b"x", unknown + end, broken + end):
        with pytest.raises(msgspec.DecodeError):
            loaded(data)


def test_a_field_that_an_older_version_did_not_know_keeps_its_default(driver: Driver) -> None:
    *records, end = driver.table.image()
    older = [one for one in records if image._FIELDS[one[4]].name != "high_water"]
    assert loaded(b"".join([*older, end])).rows.high_water == {}


def test_a_field_that_nothing_was_said_of_is_left_out_so_an_older_version_reads_the_rest(driver: Driver) -> None:
    written = {image._FIELDS[one[4]].name for one in list(driver.table.image())[:-1]}
    assert written >= {"runs", "finished", "agents", "high_water"}
    assert not written & {"tokens", "hold_ms", "level", "leases"}
    driver.table.rows.hold_ms = 5
    assert loaded(driver.table.dump()).rows.hold_ms == 5


def test_a_table_is_let_go_a_few_rows_at_a_time_and_a_row_that_is_used_stays() -> None:
    table = large(FREED_AT_ONCE * 2)
    kept = next(iter(table.rows.finished.values()))
    parts = parts_of(table)
    del table
    assert sum(1 for _ in parts) >= 8  # keys and rows, twice
    assert kept.job == "job-0"


def test_a_loader_gives_a_table_with_its_indexes(driver: Driver) -> None:
    loader = TableLoader()
    for record in driver.table.image():
        loader.feed(record)
    table = loader.finish()
    assert table.bytes_used == driver.table.bytes_used
    assert table.due_ms() == Table(driver.table.rows).due_ms()
