"""Pipelines: the runs of one request, accepted, cancelled and brought back together."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.accepting import PIPELINE_RUNS_MAX
from agent.runtable.apply import Applied
from agent.runtable.gate_rows import GateKind, GatePlan, GateState, TriggerRule
from agent.runtable.model import Limits, Origin, Reason, RunState
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task

DIAMOND = {"a": "", "b": "a", "c": "a", "d": "bc"}


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def pipeline_run(run_id: str, after: str = "", project: str = "p", rule: TriggerRule | None = None) -> c.PipelineRun:
    """A run of the job of its own name. after: one character for each run that it waits for."""
    gates = tuple(
        GatePlan(GateKind.RUN, "p", one, one, timeout_ms=None, rule=rule or TriggerRule.ALL_SUCCESS) for one in after
    )
    return c.PipelineRun(run_id, project, "n", run_id, "bundle", HOUR_MS, HOUR_MS, (task(),), gates)


def submit(
    driver: Driver, *runs: c.PipelineRun, pipeline: str = "p-1", request: str = "", body: str = "b", keep: int = HOUR_MS
) -> Applied:
    runs = runs or tuple(pipeline_run(run_id, after) for run_id, after in DIAMOND.items())
    return driver.say(c.SubmitPipeline(driver.now_ms, pipeline, START_MS, "me", "a1", request, body, keep, runs))


def states(driver: Driver, names: str = "abcd") -> dict[str, RunState]:
    return {run_id: driver.run(run_id).state for run_id in names}


def bring_back(driver: Driver, *run_ids: str, assume: bool = False) -> Applied:
    rows, ends = driver.table.rows, {one.run.id: one for one in driver.finished}
    runs = tuple(
        c.ClearedRun(one, ("bq2bq",), ends[one].record, rows.finished[one].index if one in rows.finished else 0)
        for one in run_ids
    )
    return driver.say(c.ClearRuns(driver.now_ms, runs, "me", "a1", "retry", assume))


def test_the_runs_of_a_pipeline_run_in_order_and_side_by_side_where_they_are_free(driver: Driver) -> None:
    assert submit(driver) == Applied(4, "ok", "p-1")
    assert {run.pipeline for run in driver.table.rows.runs.values()} == {"p-1"}
    assert {run.origin for run in driver.table.rows.runs.values()} == {Origin.PIPELINE}
    assert {run.scheduled_at_ms for run in driver.table.rows.runs.values()} == {START_MS}
    driver.go("bq2bq", None, "a")
    driver.plan()
    assert driver.table.assigned["a1"] == {("b", "bq2bq"), ("c", "bq2bq")}
    for run_id in "bc":
        driver.start("bq2bq", run_id)
        driver.end("bq2bq", None, run_id)
    driver.go("bq2bq", None, "d")
    assert set(states(driver).values()) == {RunState.SUCCESS}
    assert {row.pipeline for row in driver.table.rows.finished.values()} == {"p-1"}


def test_a_failure_is_told_below_it_and_other_branches_go_on(driver: Driver) -> None:
    submit(driver, *(pipeline_run(*one) for one in [*DIAMOND.items(), ("e", "d"), ("f", "c")]))
    driver.go("bq2bq", None, "a")
    driver.go("bq2bq", Reason.EXIT_CODE, "b")
    assert [states(driver, "abde")[one] for one in "abde"] == [
        "success",
        "failed",
        "upstream_failed",
        "upstream_failed",
    ]
    driver.go("bq2bq", None, "c")
    driver.go("bq2bq", None, "f")
    assert states(driver, "cf") == {"c": RunState.SUCCESS, "f": RunState.SUCCESS}


def test_a_pipeline_is_accepted_whole_or_not_at_all(driver: Driver) -> None:
    driver.submit(run_id="there")
    refused = {
        "exists": [[pipeline_run("there")], [pipeline_run("a"), pipeline_run("a")]],
        "invalid": [[c.PipelineRun("b", "p", "n", "j", "", HOUR_MS, HOUR_MS, ())]],
        "unknown_project": [[pipeline_run("a"), pipeline_run("b", project="q")]],
        "unknown_run": [[pipeline_run("b", "a"), pipeline_run("a")], [pipeline_run("a", "a")]],
    }
    for code, tries in refused.items():
        for runs in tries:
            assert submit(driver, pipeline_run("first"), *runs).code == code
    too_many = [pipeline_run(f"r{number}") for number in range(PIPELINE_RUNS_MAX + 1)]
    assert submit(driver, *too_many).code == "invalid"
    assert submit(driver, pipeline="").code == "invalid"
    assert submit(driver, keep=0).code == "invalid"
    assert driver.say(c.SubmitPipeline(START_MS, "p-1", START_MS, "me", "a1", "", "", HOUR_MS, ())).code == "invalid"
    assert list(driver.table.rows.runs) == ["there"]
    assert submit(
        driver,
        pipeline_run("b", ""),
        c.PipelineRun(
            "d",
            "p",
            "n",
            "d",
            "",
            HOUR_MS,
            HOUR_MS,
            (task(),),
            (GatePlan(GateKind.RUN, "p", "there", "there", timeout_ms=None),),
        ),
    ).ok  # a run that is there already may be waited for
    assert submit(driver, pipeline_run("z")).code == "exists"


def test_a_full_table_takes_no_pipeline_that_does_not_fit_whole_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(START_MS, Limits(runs_max=4, requests_max=1)))
    driver.submit(run_id="r1")
    assert submit(driver).code == "table_full"
    driver.cancel()
    assert submit(driver, request="k").code == "ok"
    driver.say(c.CancelPipeline(START_MS, "p-1", "me", "a1"))
    assert submit(driver, pipeline_run("e"), pipeline="p-2", request="l").code == "table_full"
    assert bring_back(driver, *"abcd").ok
    driver.say(c.CancelPipeline(START_MS, "p-1", "me", "a1"))
    driver.submit(run_id="r2")
    assert bring_back(driver, *"abcd").code == "table_full"


def test_the_same_request_gets_the_same_pipeline_p2(driver: Driver) -> None:
    assert submit(driver, request="k").ok
    assert submit(driver, pipeline="p-2", request="k") == Applied(5, "duplicate", "p-1")
    assert submit(driver, pipeline="p-2", request="k", body="other").code == "idempotency_conflict"
    driver.say(c.CancelPipeline(driver.now_ms, "p-1", "me", "a1"))
    driver.pass_time(HOUR_MS)
    assert driver.table.rows.requests == {}


def test_a_request_is_remembered_as_long_as_a_run_of_its_pipeline_p2(driver: Driver) -> None:
    submit(driver, pipeline_run("a"), request="k")
    driver.plan()
    driver.start("bq2bq", "a")
    driver.pass_time(HOUR_MS - 1)
    driver.say(c.AdvanceTime(driver.now_ms + 1))
    assert set(driver.table.rows.requests) == {"k"}


def test_a_pipeline_is_cancelled_at_once_and_nothing_in_it_fails_for_it(driver: Driver) -> None:
    submit(driver)
    driver.go("bq2bq", None, "a")
    driver.plan()
    driver.start("bq2bq", "b")
    assert driver.say(c.CancelPipeline(driver.now_ms, "p-1", "me", "a1")).ok
    assert driver.run("d").state is RunState.CANCELLED
    driver.end("bq2bq", Reason.CANCELLED, "b")
    driver.end("bq2bq", Reason.CANCELLED, "c")
    assert states(driver) == {"a": RunState.SUCCESS, **dict.fromkeys("bcd", RunState.CANCELLED)}
    assert driver.say(c.CancelPipeline(driver.now_ms, "p-1", "me", "a1")).code == "pipeline_final"
    assert driver.say(c.CancelPipeline(driver.now_ms, "p-2", "me", "a1")).code == "unknown_pipeline"


def test_work_on_a_lost_agent_keeps_a_pipeline_from_being_cancelled_unless_it_is_assumed_to_be_over(
    driver: Driver,
) -> None:
    driver.up("a2", 4, unfenceable=("mock",))
    driver.up("a1", 0)
    submit(driver)
    driver.plan()
    driver.start("bq2bq", "a")
    driver.lose("a2")
    assert driver.say(c.CancelPipeline(driver.now_ms, "p-1", "me", "a1")).code == "not_proven_stopped"
    assert driver.say(c.CancelPipeline(driver.now_ms, "p-1", "me", "a1", assume_stopped=True)).ok
    assert set(states(driver).values()) == {RunState.CANCELLED}
    assert driver.run("a").audit[-1].what == "cancel, assumed stopped"


def test_what_failed_is_picked_up_in_one_command_without_what_succeeded(driver: Driver) -> None:
    submit(driver)
    driver.go("bq2bq", None, "a")
    driver.go("bq2bq", None, "c")
    driver.go("bq2bq", Reason.EXIT_CODE, "b")
    assert bring_back(driver, "d", "b").ok
    assert [gate.state for gate in driver.run("d").gates] == [GateState.WAITING, GateState.OPEN]
    driver.go("bq2bq", None, "b")
    driver.go("bq2bq", None, "d")
    assert set(states(driver).values()) == {RunState.SUCCESS}
    assert [len(driver.instance("bq2bq", run_id).attempts) for run_id in "abcd"] == [1, 2, 1, 1]
    assert {one.what for one in driver.run("d").audit} == {"retry bq2bq"}


def test_who_is_brought_back_with_its_upstream_waits_for_it_again(driver: Driver) -> None:
    submit(driver, pipeline_run("a"), pipeline_run("b", "a", rule=TriggerRule.ALL_DONE))
    driver.go("bq2bq", Reason.EXIT_CODE, "a")
    driver.go("bq2bq", Reason.EXIT_CODE, "b")
    assert bring_back(driver, "a", "b").ok
    assert not driver.run("b").begun


def test_runs_are_brought_back_all_or_none(driver: Driver) -> None:
    submit(driver, pipeline_run("a"), pipeline_run("b"))
    driver.go("bq2bq", Reason.EXIT_CODE, "a")
    driver.go("bq2bq", Reason.EXIT_CODE, "b")
    record = driver.finished[0].record
    good = c.ClearedRun("a", ("bq2bq",), record, driver.table.rows.finished["a"].index)

    def code(*runs: c.ClearedRun) -> str:
        return driver.say(c.ClearRuns(driver.now_ms, runs, "me", "a1", "retry")).code

    assert code() == "invalid"
    assert code(good, good) == "invalid"
    assert code(good, c.ClearedRun("x", ("bq2bq",), record, 1)) == "unknown_run"
    assert code(good, c.ClearedRun("b", ("bq2bq",), record, 1)) == "stale"
    assert code(c.ClearedRun("a", ("nobody",), record, good.ended_index)) == "unknown_instance"
    assert driver.table.rows.runs == {}
    assert bring_back(driver, "a").ok
    assert bring_back(driver, "a", "b").code == "stale"


def test_a_pipeline_is_known_as_long_as_one_of_its_runs_is(driver: Driver) -> None:
    submit(driver, pipeline_run("a"), pipeline_run("b"))
    driver.go("bq2bq", None, "a")
    driver.table = Table.load([driver.table.dump()])
    assert driver.table.pipelines == {"p-1": {"a", "b"}}
    driver.go("bq2bq", None, "b")
    driver.say(c.SetLimits(START_MS, Limits(finished_max=1)))
    driver.submit(run_id="r1")
    driver.go("bq2bq")
    assert driver.table.pipelines == {}
