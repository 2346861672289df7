"""What the table keeps beside its rows does not outgrow them (P12)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.runtable import commands as c
from agent.runtable import deadlines
from agent.runtable.apply import REQUEST_AGAIN_MS, Applied, apply
from agent.runtable.deadlines import SPARE
from agent.runtable.model import Limits, Origin
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task

DAY_MS = 24 * HOUR_MS
MANY = 10_000


def commands(number: int, now_ms: int) -> Iterator[c.AnyCommand]:
    """A run from its request to its end."""
    run, plan, keep_ms = f"r{number}", task(), DAY_MS if number % 10 == 0 else HOUR_MS // 6
    yield c.SubmitRun(
        now_ms, run, "p", "n", "j", number, Origin.SCHEDULE, "me", "a1", f"k{number}", "b", keep_ms, "bundle",
        72 * HOUR_MS, DAY_MS, (plan,),
    )  # fmt: skip
    yield c.Assign(now_ms, run, plan.name, 1, "a1", 1)
    yield c.InstanceStarted(now_ms, run, plan.name, 1, "a1", 1, 1, now_ms, None, {})
    yield c.InstanceEnded(now_ms, run, plan.name, 1, "a1", 1, 2, None, 0, "", now_ms, now_ms, None, {})
    yield c.AdvanceTime(now_ms)


class Fast:
    """A table without the checks after every command."""

    def __init__(self, limits: Limits) -> None:
        self.driver = Driver().found()
        self.table, self.index = self.driver.table, self.driver.index
        self.say(c.SetLimits(START_MS, limits))

    def say(self, command: c.AnyCommand) -> Applied:
        self.index += 1
        return apply(self.table, self.index, c.encode(command))


def test_after_ten_thousand_runs_there_is_no_more_than_what_is_remembered_of_them() -> None:
    fast = Fast(Limits(finished_max=500))
    for number in range(MANY):
        for command in commands(number, START_MS + 20_000 * number):
            assert fast.say(command).ok
    rows = fast.table.rows
    assert (len(rows.runs), len(rows.finished), len(rows.ticks)) == (0, 500, 500)
    of_a_day, of_ten_minutes = DAY_MS // 20_000 // 10, HOUR_MS // 6 // 20_000
    assert len(rows.requests) <= of_a_day + of_ten_minutes + 1
    assert len(fast.table.deadlines) <= len(rows.requests) + len(rows.finished) + SPARE + 1
    fast.say(c.AdvanceTime(START_MS + 20_000 * MANY + DAY_MS))
    assert rows.requests == {}


def test_a_run_that_ends_again_and_again_leaves_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "SPARE", 5)
    driver = Driver().found()
    driver.submit(run_id="r0")
    driver.go("bq2bq", run_id="r0")
    driver.submit()
    driver.go("bq2bq")
    for _ in range(20):
        driver.now_ms += 1
        (ended,) = driver.finished[-1:]
        index = driver.table.rows.finished["r1"].index
        assert driver.say(c.ClearRun(driver.now_ms, "r1", ("bq2bq",), ended.record, index, "me", "a1", "retry")).ok
        driver.go("bq2bq")
    assert len(driver.table.deadlines) < 20
    assert set(Table.load([driver.table.dump()]).deadlines) <= set(driver.table.deadlines)


def test_new_limits_count_for_what_was_finished_before() -> None:
    driver = Driver().found()
    driver.submit()
    driver.go("bq2bq")
    driver.say(c.SetLimits(driver.now_ms, Limits(finished_keep_ms=HOUR_MS)))
    assert driver.table.due_ms() is not None
    driver.pass_time(80 * HOUR_MS)
    assert driver.table.rows.finished == {}


def test_a_request_of_a_run_that_goes_on_is_forgotten_soon_after_its_end_p2() -> None:
    driver = Driver().found()
    driver.submit(request="k")
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS)
    driver.pass_time(HOUR_MS)
    assert driver.submit(request="k", run_id="r2").code == "duplicate"
    driver.end("bq2bq")
    driver.pass_time(REQUEST_AGAIN_MS)
    assert driver.table.rows.requests == {}


def test_with_too_many_requests_to_remember_one_more_is_refused_p12() -> None:
    driver = Driver().found()
    driver.say(c.SetLimits(driver.now_ms, Limits(requests_max=1)))
    assert driver.submit(request="k").ok
    assert driver.submit(request="other", run_id="r2").code == "table_full"
    assert driver.submit(request="k", run_id="r3").code == "duplicate"
    assert driver.submit(run_id="r4").ok, "nothing has to be remembered of it"
