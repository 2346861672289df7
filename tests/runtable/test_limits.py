"""How many runs of a job there may be (R2), who waits for how long (P1), and what is told of it (P11)."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.apply import Applied
from agent.runtable.explain import explain
from agent.runtable.model import InstanceKind, InstanceState, Limits, OnAgentLost, Origin, Overlap, Reason, RunState
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, task


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def ask(driver: Driver, run_id: str, overlap: Overlap = Overlap.QUEUE, most: int = 1, **more: int) -> Applied:
    driver.now_ms += 1
    return driver.submit(run_id=run_id, max_active=most, overlap=overlap, **more)  # type: ignore[arg-type]


def why(driver: Driver, run_id: str) -> str:
    return explain(driver.table, driver.run(run_id))[0].why


def given_out(driver: Driver) -> list[str]:
    return [one.run_id for one in driver.plan() if isinstance(one, c.Assign)]


def test_runs_of_a_job_begin_one_after_another_in_order_of_acceptance_r2(driver: Driver) -> None:
    for run_id in ("r9", "r5", "r7"):
        ask(driver, run_id)
    order = []
    for _ in range(3):
        (run_id,) = given_out(driver)
        assert given_out(driver) == []
        driver.table = Table.load([driver.table.dump()])  # who leads next has the same line
        driver.start("bq2bq", run_id)
        driver.end("bq2bq", run_id=run_id)
        order.append(run_id)
    assert order == ["r9", "r5", "r7"]


def test_a_run_that_waits_says_for_whom_and_until_when_p11(driver: Driver) -> None:
    for run_id in ("r1", "r2"):
        ask(driver, run_id, queue_timeout_ms=HOUR_MS)
    ask(driver, "r3", Overlap.QUEUE, 2)
    assert driver.run("r2").state is RunState.QUEUED
    assert why(driver, "r2") == "waits for its place: the job j may have 1 run at a time, and run r1 has its place"
    assert why(driver, "r3") == (
        "waits for its place: the job j may have 2 runs at a time, and run r1 has its place; before it 1 waits as well"
    )
    assert explain(driver.table, driver.run("r2"))[0].until_ms == START_MS + 2 + HOUR_MS


def test_a_run_waits_no_longer_than_its_queue_time_out_and_its_own_time_begins_with_its_place_p1(
    driver: Driver,
) -> None:
    ask(driver, "r1", timeout_ms=10 * HOUR_MS)
    ask(driver, "r2", queue_timeout_ms=HOUR_MS)
    ask(driver, "r3", timeout_ms=2 * HOUR_MS, queue_timeout_ms=5 * HOUR_MS)
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS)
    ended = driver.run("r2")
    assert (ended.state, ended.reason, ended.instances[0].state) == (
        RunState.FAILED,
        Reason.QUEUE_TIMEOUT,
        InstanceState.CANCELLED,
    )
    assert why(driver, "r2").startswith(
        "cancelled (queue_timeout): no place was free in time: the job j may have 1 run"
    )
    driver.end("bq2bq")
    assert driver.run("r3").deadline_ms == driver.now_ms + 2 * HOUR_MS


def test_what_an_operator_has_marked_of_a_run_that_waits_stays_so(driver: Driver) -> None:
    ask(driver, "r1", timeout_ms=10 * HOUR_MS)
    driver.plan()
    driver.start("bq2bq")
    plans = task("a"), hook("b", InstanceKind.POST, ("a",))
    driver.submit(*plans, run_id="r2", max_active=1, overlap=Overlap.QUEUE, queue_timeout_ms=HOUR_MS)
    assert driver.mark("a", InstanceState.SUCCESS, "r2").ok
    assert driver.instance("b", "r2").state is InstanceState.PENDING
    driver.pass_time(HOUR_MS)
    ended = driver.run("r2")
    assert ended.reason is Reason.QUEUE_TIMEOUT
    assert [one.state for one in ended.instances] == [InstanceState.SUCCESS, InstanceState.CANCELLED]


def test_a_skipped_run_is_on_record_with_who_was_in_the_way(driver: Driver) -> None:
    driver.submit(run_id="r0")
    applied = ask(driver, "r1", Overlap.SKIP)
    assert (applied.ok, [one.run.id for one in applied.finished]) == (True, ["r1"])
    assert driver.run("r1").state is RunState.SKIPPED
    told = "skipped: the job j may have 1 run at a time, and run r0 has its place (overlap: skip)"
    assert why(driver, "r1") == told
    driver.go("bq2bq", run_id="r0")
    ask(driver, "r2", Overlap.SKIP)
    assert given_out(driver) == ["r2"]


def test_a_new_run_cancels_the_older_ones_and_waits_until_they_have_ended_p3(driver: Driver) -> None:
    ask(driver, "r1", Overlap.CANCEL_PREVIOUS)
    driver.plan()
    driver.start("bq2bq")
    ask(driver, "r2", Overlap.QUEUE)
    ask(driver, "r3", Overlap.CANCEL_PREVIOUS)
    assert driver.run("r2").state is RunState.CANCELLED, "it had not begun"
    assert driver.run("r2").cancelled_by == "run r3"
    assert driver.run("r1").audit[-1].what == "cancel, as run r3 of the job was accepted (overlap: cancel_previous)"
    assert given_out(driver) == []
    assert why(driver, "r3").endswith("run r1 has its place; those are being cancelled")
    driver.end("bq2bq", Reason.CANCELLED)
    assert given_out(driver) == ["r3"]


def test_the_newest_of_the_older_ones_keep_their_places(driver: Driver) -> None:
    for run_id in ("r1", "r2", "r3"):
        ask(driver, run_id, Overlap.CANCEL_PREVIOUS, 2)
    assert driver.run("r1").state is RunState.CANCELLED
    assert given_out(driver) == ["r2", "r3"]


def test_work_on_a_lost_agent_is_not_taken_for_stopped_because_a_new_run_comes_p3(driver: Driver) -> None:
    plan = task(on_agent_lost=OnAgentLost.WAIT)
    driver.submit(plan, run_id="r1", max_active=1, overlap=Overlap.QUEUE)
    driver.plan()
    driver.start("bq2bq")
    driver.lose()
    ask(driver, "r2", Overlap.CANCEL_PREVIOUS)
    assert driver.instance("bq2bq").state is InstanceState.UNKNOWN
    assert driver.run("r2").held
    driver.cancel(assume_stopped=True)
    assert driver.run("r1").state is RunState.CANCELLED
    assert not driver.run("r2").held


def test_a_run_without_a_limit_begins_and_counts_for_those_with_one(driver: Driver) -> None:
    ask(driver, "r1")
    ask(driver, "r2", Overlap.ALLOW)
    ask(driver, "r3")
    assert sorted(given_out(driver)) == ["r1", "r2"]
    driver.start("bq2bq", "r1")
    driver.end("bq2bq", run_id="r1")
    assert driver.run("r3").held


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.SKIP, Overlap.CANCEL_PREVIOUS])
def test_a_run_that_is_brought_back_waits_for_its_place(driver: Driver, overlap: Overlap) -> None:
    ask(driver, "r1", overlap)
    driver.go("bq2bq", Reason.EXIT_CODE)
    ask(driver, "r2", overlap)
    assert clear(driver, "r1").ok
    assert (driver.run("r1").held, driver.run("r1").state) == (True, RunState.QUEUED)
    driver.go("bq2bq", run_id="r2")
    assert (driver.run("r1").held, driver.run("r1").state) == (False, RunState.RUNNING)
    assert given_out(driver) == ["r1"]


def clear(driver: Driver, run_id: str) -> Applied:
    record = next(one.record for one in driver.finished if one.run.id == run_id)
    index = driver.table.rows.finished[run_id].index
    return driver.say(c.ClearRun(driver.now_ms, run_id, ("bq2bq",), record, index, "me", "a1", "retry"))


def test_how_many_may_wait_is_bounded_p12(driver: Driver) -> None:
    ask(driver, "r1")
    driver.go("bq2bq", Reason.EXIT_CODE)
    driver.say(c.SetLimits(START_MS, Limits(held_max=1)))
    assert [ask(driver, run_id).code for run_id in ("r2", "r3", "r4")] == ["ok", "ok", "line_full"]
    assert driver.submit(run_id="other", job="k").ok
    assert clear(driver, "r1").code == "line_full"
    assert ask(driver, "r5", Overlap.CANCEL_PREVIOUS).ok


def test_a_run_that_waits_is_cancelled_whole(driver: Driver) -> None:
    ask(driver, "r1")
    plans = (task(), hook("down", InstanceKind.TEARDOWN, ("bq2bq",)))
    driver.submit(*plans, run_id="r2", max_active=1, overlap=Overlap.QUEUE)
    driver.cancel("r2")
    assert set(driver.states("r2").values()) == {InstanceState.CANCELLED}


def test_many_in_the_way_are_told_of_in_short_p11(driver: Driver) -> None:
    for number in range(6):
        ask(driver, f"r{number}", Overlap.QUEUE, 5)
    assert why(driver, "r5").endswith("may have 5 runs at a time, and runs r0, r1, r2 and 2 more have theirs")
    assert driver.table.places.held_count() == 1


@pytest.mark.parametrize("origin", sorted(set(Origin) - {Origin.EXTERNAL}))  # that one is never run here
def test_every_origin_is_judged_alike_r2(driver: Driver, origin: Origin) -> None:
    for number in range(3):
        driver.submit(
            run_id=f"r{number}", origin=origin, scheduled_at_ms=START_MS + number, max_active=1, overlap=Overlap.QUEUE
        )
    assert given_out(driver) == ["r0"]
