"""Ticks that another scheduler ran, as they are reported."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.apply import Applied
from agent.runtable.model import InstanceState, Limits, OnAgentLost, Origin, RunState, tick_key
from agent.runtable.table import Table, unpack_run
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task

TICK = tick_key("p", "elsewhere", START_MS, Origin.EXTERNAL)


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def report(
    driver: Driver, run_id: str, state: RunState = RunState.SUCCESS, at_ms: int = START_MS, **of: str
) -> Applied:
    project = of.get("project", "p")
    command = c.ImportRun(driver.now_ms, run_id, project, "n", "elsewhere", at_ms, state, "ann", "a1", "10.0.0.1")
    return driver.say(command)


def test_a_report_is_a_run_that_has_ended_without_instances(driver: Driver) -> None:
    applied = report(driver, "x1", RunState.FAILED)
    (finished,) = applied.finished
    assert (applied.code, applied.run_id, driver.table.rows.runs) == ("ok", "x1", {})
    run = unpack_run(finished.record)
    assert run == finished.run
    assert (run.origin, run.state, run.instances, run.finished_at_ms) == ("external", "failed", [], START_MS)
    (entry,) = run.audit
    assert (entry.who, entry.via, entry.what, entry.address) == ("ann", "a1", "import failed", "10.0.0.1")
    assert driver.table.rows.finished["x1"].origin is Origin.EXTERNAL
    assert driver.table.rows.ticks == {TICK: "x1"}


def test_the_same_report_again_is_a_repetition_and_another_state_takes_the_tick_p2(driver: Driver) -> None:
    report(driver, "x1", RunState.FAILED)
    again = report(driver, "x2", RunState.FAILED)
    assert (again.code, again.run_id, again.finished) == ("duplicate", "x1", ())
    assert report(driver, "x1", RunState.FAILED).code == "duplicate"  # the very same, sent twice
    mended = report(driver, "x3", RunState.SUCCESS)
    assert (mended.code, len(mended.finished), driver.table.rows.ticks) == ("ok", 1, {TICK: "x3"})
    assert report(driver, "x4", RunState.FAILED).run_id == "x4"  # the newest is what counts
    assert report(driver, "x5", at_ms=START_MS + 1).code == "ok"
    assert Table.load([driver.table.dump()]).rows == driver.table.rows


def test_what_is_no_report_is_refused(driver: Driver) -> None:
    assert report(driver, "x1", project="q").code == "unknown_project"
    assert report(driver, "x1", RunState.RUNNING).code == "invalid"
    assert report(driver, "").code == "invalid"
    driver.submit(task(), run_id="r1")
    assert report(driver, "r1").code == "exists"
    report(driver, "x1")
    assert report(driver, "x1", RunState.FAILED).code == "exists"
    assert driver.table.rows.ticks == {TICK: "x1"}


def test_a_run_that_is_asked_for_is_none_of_another_scheduler(driver: Driver) -> None:
    assert driver.submit(task(), run_id="r1", origin=Origin.EXTERNAL).code == "invalid"


def test_what_was_reported_cannot_be_run_again_here(driver: Driver) -> None:
    (finished,) = report(driver, "x1", RunState.FAILED).finished
    index = driver.table.rows.finished["x1"].index
    for names in ((), ("bq2bq",)):
        command = c.ClearRun(driver.now_ms, "x1", names, finished.record, index, "me", "a1", "retry")
        assert driver.say(command).code == "unknown_instance"
    assert "x1" in driver.table.rows.finished


def test_an_earlier_report_that_is_forgotten_leaves_the_tick_to_the_later_one_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(driver.now_ms, Limits(finished_max=2)))
    report(driver, "x1", RunState.FAILED)
    report(driver, "x2", RunState.SUCCESS)
    report(driver, "x3", at_ms=START_MS + 1)
    assert list(driver.table.rows.finished) == ["x2", "x3"]
    assert driver.table.rows.ticks[TICK] == "x2"
    report(driver, "x4", at_ms=START_MS + 2)
    assert TICK not in driver.table.rows.ticks


def test_every_unfinished_instance_of_a_run_is_marked_at_once(driver: Driver) -> None:
    driver.submit(task("a"), task("b", ("a",)), run_id="r1")
    driver.plan()
    driver.start("a")
    assert driver.mark("", InstanceState.SUCCESS).ok
    assert driver.instance("b").state is InstanceState.SUCCESS
    assert driver.instance("a").state is InstanceState.RUNNING  # it is stopped first
    assert [one.what for one in driver.table.rows.runs["r1"].audit] == ["mark all unfinished success"]
    driver.end("a", None)
    assert driver.finished[-1].run.state is RunState.SUCCESS
    assert driver.mark("", InstanceState.SUCCESS).code == "run_final"
    assert driver.mark("", InstanceState.SUCCESS, "nobody").code == "unknown_run"


def test_one_that_goes_on_unheard_keeps_the_whole_run_from_being_marked(driver: Driver) -> None:
    driver.submit(task("a", on_agent_lost=OnAgentLost.WAIT), run_id="r1")
    driver.plan()
    driver.start("a")
    driver.lose("a1")
    assert driver.mark("", InstanceState.FAILED).code == "not_proven_stopped"
    assert driver.mark("", InstanceState.FAILED, assume_stopped=True).ok
    assert driver.finished[-1].run.state is RunState.FAILED
    assert driver.now_ms < START_MS + HOUR_MS
