"""A run that has to wait for others of its job and at gates: its place first, then the gates."""

from __future__ import annotations

import msgspec
import pytest

from agent.runtable import commands as c
from agent.runtable.explain import explain
from agent.runtable.gate_rows import GateKind, GatePlan
from agent.runtable.model import InstanceState, Limits, Overlap, RunState
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task


@pytest.fixture
def driver() -> Driver:
    """Two runs of a job that may have one: r1 has its place and waits at a gate for `up`, r2 waits for both."""
    driver = Driver().found(slots=4)
    for run_id in ("up", "up2"):
        driver.submit(run_id=run_id, job="up")
    ask(driver, "r1", "up")
    ask(driver, "r2", "up2")
    return driver


def ask(driver: Driver, run_id: str, *after: str) -> None:
    driver.now_ms += 1
    gates = tuple(GatePlan(GateKind.RUN, "p", "up", one, timeout_ms=None) for one in after)
    driver.submit(run_id=run_id, max_active=1, overlap=Overlap.QUEUE, gates=gates, queue_timeout_ms=HOUR_MS)


def test_who_waits_at_a_gate_keeps_its_place(driver: Driver) -> None:
    assert [driver.run(one).held for one in ("r1", "r2")] == [False, True]
    driver.go("bq2bq", None, "up2")
    assert (driver.run("r2").held, driver.run("r2").begun) == (True, False)
    assert explain(driver.table, driver.run("r2"))[0].why.startswith("waits for its place")
    driver.go("bq2bq", None, "up")
    assert driver.run("r1").begun
    driver.table = Table.load([driver.table.dump()])
    driver.go("bq2bq", None, "r1")
    assert driver.run("r2").begun
    assert driver.run("r2").deadline_ms == driver.now_ms + driver.run("r2").timeout_ms
    driver.go("bq2bq", None, "r2")
    assert driver.run("r2").state is RunState.SUCCESS


def test_a_place_is_given_before_the_gates_are_open(driver: Driver) -> None:
    driver.cancel("r1")
    assert (driver.run("r2").held, driver.run("r2").begun, driver.run("r2").deadline_ms) == (False, False, 0)
    driver.pass_time(2 * HOUR_MS)  # its queue time-out was for its place
    driver.go("bq2bq", None, "up2")
    assert driver.run("r2").begun


def test_a_gate_that_fails_ends_a_run_that_waits_for_its_place_and_frees_that_of_one_that_has_it(
    driver: Driver,
) -> None:
    ask(driver, "r3")
    driver.cancel("up2")
    assert driver.run("r2").state is RunState.UPSTREAM_FAILED
    assert driver.run("r3").held
    driver.cancel("up")
    assert driver.run("r1").state is RunState.UPSTREAM_FAILED
    assert driver.run("r3").begun


def test_runs_that_are_brought_back_wait_in_line_and_at_their_gates_again(driver: Driver) -> None:
    driver.cancel("up")
    ended = {one.run.id: one for one in driver.finished}
    assert driver.run("r1").state is RunState.UPSTREAM_FAILED
    cleared = [
        c.ClearedRun(run_id, ("bq2bq",), ended[run_id].record, driver.table.rows.finished[run_id].index)
        for run_id in ("up", "r1")
    ]
    assert driver.say(c.ClearRuns(driver.now_ms, tuple(cleared), "me", "a1", "retry")).ok
    assert (driver.run("r1").held, driver.run("r2").held) == (True, False)
    driver.go("bq2bq", None, "up2")
    driver.go("bq2bq", None, "r2")
    assert (driver.run("r1").held, driver.run("r1").begun) == (False, False)
    driver.go("bq2bq", None, "up")
    assert driver.states("r1") == {"bq2bq": InstanceState.SCHEDULED}


def test_a_pipeline_whose_run_would_have_to_wait_behind_too_many_is_refused_whole(driver: Driver) -> None:
    driver.say(c.SetLimits(driver.now_ms, Limits(held_max=1)))
    plain = c.PipelineRun("x", "p", "n", "x", "bundle", HOUR_MS, HOUR_MS, (task(),))
    full = msgspec.structs.replace(plain, run_id="y", job="j", max_active=1, overlap=Overlap.QUEUE)
    made = c.SubmitPipeline(driver.now_ms, "p-1", START_MS, "me", "a1", "", "b", HOUR_MS, (plain, full))
    assert driver.say(made).code == "line_full"
    assert "x" not in driver.table.rows.runs
