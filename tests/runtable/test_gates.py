"""Gates: what a run waits for before any of its instances, and what it leads to."""

from __future__ import annotations

import itertools

import pytest

from agent.runtable import commands as c
from agent.runtable.explain import explain
from agent.runtable.explain_gates import AWAITED_MAX, explain_gates
from agent.runtable.gate_rows import GateKind, GatePlan, GateState, OnFailure, TriggerRule
from agent.runtable.gates import GATES_MAX, TICKS_MAX
from agent.runtable.model import RUN_FINAL, InstanceKind, InstanceState, Limits, Origin, Reason, RunState
from agent.runtable.table import Table
from agent.runtable.tick_runs import tick_run
from agent.runtable.trigger_rules import Decision, decide
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, task

TICK_MS = START_MS


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def run_gate(run_id: str, **fields: object) -> GatePlan:
    return GatePlan(GateKind.RUN, "p", "up", run_id, timeout_ms=None, **fields)  # type: ignore[arg-type]


def ticks_gate(*ticks_ms: int, **fields: object) -> GatePlan:
    return GatePlan(GateKind.TICKS, "p", "up", ticks_ms=ticks_ms or (TICK_MS,), **fields)  # type: ignore[arg-type]


def http_gate(**fields: object) -> GatePlan:
    return GatePlan(GateKind.HTTP, name="ready", **fields)  # type: ignore[arg-type]


def tick(driver: Driver, run_id: str, reason: Reason | None = None, at_ms: int = TICK_MS, **fields: object) -> None:
    """A run of the upstream stands for a tick, and ends."""
    driver.submit(run_id=run_id, job="up", origin=Origin.SCHEDULE, scheduled_at_ms=at_ms, **fields)  # type: ignore[arg-type]
    driver.go("bq2bq", reason, run_id)


def why(driver: Driver, run_id: str = "r1") -> list[str]:
    return [one.why for one in explain_gates(driver.table, driver.run(run_id))]


# -- waiting and beginning ---------------------------------------------------------------------------------------------


def test_a_run_waits_for_another_one_and_holds_no_slot_p10(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(run_id="r1", gates=(run_gate("a"),))
    driver.plan()
    assert driver.run().state is RunState.QUEUED
    assert driver.states() == {"bq2bq": InstanceState.PENDING}
    assert driver.table.assigned == {"a1": {("a", "bq2bq")}}
    driver.start("bq2bq", "a")
    driver.end("bq2bq", None, "a")
    assert driver.states() == {"bq2bq": InstanceState.SCHEDULED}


def test_the_time_of_a_run_begins_when_its_gates_are_open(driver: Driver) -> None:
    driver.submit(run_id="a", job="up", timeout_ms=80 * HOUR_MS, queue_timeout_ms=80 * HOUR_MS)
    driver.submit(run_id="r1", gates=(run_gate("a"),), timeout_ms=HOUR_MS)
    driver.plan()
    driver.start("bq2bq", "a")
    driver.pass_time(20 * HOUR_MS)
    assert (driver.run().deadline_ms, driver.run().end_due_ms) == (0, None)
    driver.end("bq2bq", None, "a")
    assert driver.run().deadline_ms == driver.now_ms + HOUR_MS
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS)
    driver.end("bq2bq", Reason.TIMEOUT)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)


def test_all_gates_have_to_be_open(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(run_id="b", job="up")
    driver.submit(gates=(run_gate("a"), run_gate("b")))
    driver.go("bq2bq", None, "a")
    assert [gate.state for gate in driver.run().gates] == [GateState.OPEN, GateState.WAITING]
    assert not driver.run().begun
    driver.go("bq2bq", None, "b")
    assert driver.run().begun


def test_a_run_that_has_ended_already_is_not_waited_for(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.go("bq2bq", None, "a")
    driver.submit(gates=(run_gate("a"),))
    assert driver.run().begun
    driver.submit(run_id="f", job="up")
    driver.go("bq2bq", Reason.EXIT_CODE, "f")
    applied = driver.submit(run_id="r2", gates=(run_gate("f"),))
    assert [(one.run.id, one.run.state) for one in applied.finished] == [("r2", RunState.UPSTREAM_FAILED)]


@pytest.mark.parametrize(
    "gates",
    [
        (run_gate("nobody"),),
        (GatePlan(GateKind.HTTP, timeout_ms=None),),
        (GatePlan(GateKind.TICKS, timeout_ms=0),),
        (GatePlan(GateKind.HTTP, every_ms=0),),
        (GatePlan(GateKind.HTTP, ticks_ms=(1,)),),
        (http_gate(),) * (GATES_MAX + 1),
        (ticks_gate(*range(TICKS_MAX)), ticks_gate()),
    ],
)
def test_gates_that_nobody_could_open_or_too_many_of_them_are_refused(driver: Driver, gates: tuple[GatePlan]) -> None:
    assert driver.submit(gates=gates).code in {"unknown_run", "invalid", "too_many_gates"}
    assert driver.table.rows.runs == {}


# -- failing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_failure", "state"),
    [
        (OnFailure.FAIL, RunState.UPSTREAM_FAILED),
        (OnFailure.WAIT, RunState.UPSTREAM_FAILED),
        (OnFailure.SKIP, RunState.SKIPPED),
    ],
)
def test_a_run_whose_upstream_failed_does_as_its_dependency_says(
    driver: Driver, on_failure: OnFailure, state: RunState
) -> None:
    driver.submit(run_id="a", job="up")
    plans = (task(), hook("rescue", InstanceKind.FAIL))
    driver.submit(*plans, gates=(run_gate("a", on_failure=on_failure),))
    driver.go("bq2bq", Reason.EXIT_CODE, "a")
    assert driver.run().state is state
    assert driver.run().reason is None
    assert set(driver.states().values()) == {InstanceState(state.value)}  # the fail hook too: nothing of it has failed
    assert all("not started: run a of p/up" in one.why for one in explain(driver.table, driver.run()))


def test_a_skipped_upstream_skips_and_a_cancelled_one_fails(driver: Driver) -> None:
    driver.submit(task(skip_exit_codes=(99,)), run_id="a", job="up")
    driver.submit(gates=(run_gate("a", on_failure=OnFailure.FAIL),))
    driver.go("bq2bq", Reason.EXIT_CODE, "a", exit_code=99)
    assert driver.run().state is RunState.SKIPPED
    driver.submit(run_id="b", job="up")
    driver.submit(run_id="r2", gates=(run_gate("b"),))
    driver.cancel("b")
    assert driver.run("r2").state is RunState.UPSTREAM_FAILED


def test_a_failed_gate_is_told_before_a_skipped_one(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    gates = (run_gate("a", on_failure=OnFailure.SKIP), run_gate("a", on_failure=OnFailure.FAIL))
    driver.submit(gates=gates)
    driver.go("bq2bq", Reason.EXIT_CODE, "a")
    assert driver.run().state is RunState.UPSTREAM_FAILED


def test_a_trigger_rule_may_want_a_failure(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(run_id="r1", gates=(run_gate("a", rule=TriggerRule.ALL_FAILED),))
    driver.submit(run_id="r2", gates=(run_gate("a", rule=TriggerRule.ALL_DONE),))
    assert why(driver) == ["waits: it is queued (trigger rule all_failed)"]
    driver.go("bq2bq", Reason.EXIT_CODE, "a")
    assert driver.run("r1").begun
    assert driver.run("r2").begun
    assert why(driver) == ["open; it is failed (trigger rule all_failed)"]


@pytest.mark.parametrize(("rule", "state"), list(itertools.product(TriggerRule, sorted(RUN_FINAL))))
def test_no_rule_waits_for_a_run_that_has_ended_p1(rule: TriggerRule, state: RunState) -> None:
    assert decide(rule, [state]) is not Decision.WAIT


def test_ends_cascade_in_one_command_through_a_chain_longer_than_any_stack(driver: Driver) -> None:
    count = 2000
    driver.submit(run_id="r00000", job="up")
    for number in range(1, count):
        driver.submit(run_id=f"r{number:05}", gates=(run_gate(f"r{number - 1:05}"),), checked=False)
    driver.plan()
    driver.start("bq2bq", "r00000")
    applied = driver.end("bq2bq", Reason.EXIT_CODE, "r00000")
    assert [one.run.id for one in applied.finished] == [f"r{number:05}" for number in range(count)]
    assert driver.table.rows.runs == {}
    assert driver.table.awaiting.of_runs == {}


def test_a_diamond_begins_once_both_its_sides_have_ended(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(run_id="b", gates=(run_gate("a"),))
    driver.submit(run_id="c", gates=(run_gate("a"),))
    driver.submit(run_id="d", gates=(run_gate("b"), run_gate("c")))
    driver.go("bq2bq", None, "a")
    driver.go("bq2bq", None, "b")
    assert not driver.run("d").begun
    driver.start("bq2bq", "c")
    applied = driver.end("bq2bq", Reason.EXIT_CODE, "c")
    assert [one.run.id for one in applied.finished] == ["c", "d"]
    assert [gate.state for gate in driver.run("d").gates] == [GateState.OPEN, GateState.FAILED]


# -- ticks -------------------------------------------------------------------------------------------------------------


def test_ticks_count_once_all_have_succeeded_and_manual_runs_never_do(driver: Driver) -> None:
    driver.submit(gates=(ticks_gate(TICK_MS, TICK_MS + HOUR_MS),))
    driver.submit(run_id="m", job="up")
    driver.go("bq2bq", None, "m")
    assert why(driver) == ["waits: 0 of 2 succeeded; a failed one may still be mended"]
    tick(driver, "t1")
    told = explain_gates(driver.table, driver.run())[0]
    assert [(one.run_id, one.state) for one in told.awaited] == [("", "missing"), ("t1", "success")]
    assert (told.what, told.until_ms) == ("p/up: 2 ticks", START_MS + 15 * HOUR_MS)
    tick(driver, "t2", at_ms=TICK_MS + HOUR_MS)
    assert driver.run().begun


def test_a_failed_tick_is_waited_for_until_someone_mends_it(driver: Driver) -> None:
    tick(driver, "t1", Reason.EXIT_CODE)
    driver.submit(gates=(ticks_gate(),))
    assert not driver.run().begun
    finished = driver.finished[0]
    row = driver.table.rows.finished["t1"]
    driver.say(c.ClearRun(START_MS, "t1", ("bq2bq",), finished.record, row.index, "me", "a1", "retry"))
    driver.go("bq2bq", None, "t1")
    assert driver.run().begun


def test_a_failed_tick_ends_the_run_where_its_dependency_says_so(driver: Driver) -> None:
    driver.submit(run_id="r1", gates=(ticks_gate(on_failure=OnFailure.FAIL),))
    driver.submit(run_id="r2", gates=(ticks_gate(on_failure=OnFailure.SKIP),))
    tick(driver, "t1", Reason.EXIT_CODE)
    assert driver.run("r1").state is RunState.UPSTREAM_FAILED
    assert driver.run("r2").state is RunState.SKIPPED
    assert why(driver) == ["its run cannot begin; it is failed"]
    assert why(driver, "r2") == ["its run is skipped; it is failed"]
    assert explain(driver.table, driver.run("r2"))[0].why == (
        "not started: p/up: tick 2023-11-14T22:13:20Z means that it is skipped"
    )


def test_the_newest_run_of_a_tick_counts(driver: Driver) -> None:
    tick(driver, "t1", Reason.EXIT_CODE)
    driver.submit(run_id="t2", job="up", origin=Origin.REPLAY)
    driver.submit(gates=(ticks_gate(on_failure=OnFailure.FAIL),))
    assert not driver.run().begun
    driver.go("bq2bq", None, "t2")
    assert driver.run().begun
    driver.submit(run_id="r2", gates=(ticks_gate(),))
    assert driver.run("r2").begun


def test_of_several_runs_beside_the_schedules_the_newest_counts_until_it_is_forgotten(driver: Driver) -> None:
    driver.submit(run_id="t1", job="up", origin=Origin.REPLAY)
    driver.go("bq2bq", Reason.EXIT_CODE, "t1")
    del driver.table.rows.ticks["p/up/1700000000000/replay"]  # as one replay's run is another tick than the next one's
    driver.submit(run_id="t2", job="up", origin=Origin.REPLAY)
    driver.submit(gates=(ticks_gate(on_failure=OnFailure.FAIL),))
    driver.go("bq2bq", None, "t2")
    assert driver.run().begun
    assert tick_run(driver.table, "p", "up", TICK_MS) == ("t2", RunState.SUCCESS)
    driver.table.forget_finished("t2")
    assert tick_run(driver.table, "p", "up", TICK_MS) == ("t1", RunState.FAILED)
    driver.table.forget_finished("t1")
    assert tick_run(driver.table, "p", "up", TICK_MS) is None
    assert driver.table.awaiting.beside == {}


def test_no_tick_at_all_is_nothing_to_wait_for(driver: Driver) -> None:
    driver.submit(gates=(GatePlan(GateKind.TICKS, "p", "up"),))
    assert driver.run().begun


def test_of_many_ticks_those_are_told_that_keep_the_gate_shut(driver: Driver) -> None:
    tick(driver, "t1")
    driver.submit(gates=(ticks_gate(*(TICK_MS + HOUR_MS * number for number in range(AWAITED_MAX + 1))),))
    told = explain_gates(driver.table, driver.run())[0]
    assert (told.count, len(told.awaited)) == (AWAITED_MAX + 1, AWAITED_MAX)
    assert {one.state for one in told.awaited} == {"missing"}


# -- http --------------------------------------------------------------------------------------------------------------


def answer(
    driver: Driver, *, met: bool, asked: int = 0, gate: int = 0, message: str = "503", run_id: str = "r1"
) -> str:
    return driver.say(c.GateAnswered(driver.now_ms, run_id, gate, asked, met, message)).code


def test_an_http_gate_is_asked_for_at_once_and_again_after_a_while(driver: Driver) -> None:
    driver.submit(gates=(http_gate(),))
    awaiting = driver.table.awaiting
    assert awaiting.polls_due(START_MS, 9) == [(START_MS, "r1", 0)]
    assert why(driver) == ["waits for an answer with 2xx: not asked yet; asked again at 2023-11-14T22:13:20Z"]
    assert answer(driver, met=False) == "ok"
    assert awaiting.polls_due(START_MS, 9) == []
    assert awaiting.next_poll_ms() == START_MS + 900_000
    assert why(driver) == [
        "waits for an answer with 2xx: asked 1 times, last answer: 503; asked again at 2023-11-14T22:28:20Z"
    ]
    driver.now_ms += 900_000
    assert awaiting.polls_due(driver.now_ms, 9) == [(driver.now_ms, "r1", 0)]
    assert answer(driver, met=False) == "stale"
    assert answer(driver, met=True, asked=1, message="200") == "ok"
    assert driver.run().begun
    assert why(driver) == ["met: 200"]
    assert awaiting.next_poll_ms() is None
    assert answer(driver, met=True, asked=2) == "stale"


def test_nobody_is_asked_for_a_run_that_has_ended(driver: Driver) -> None:
    driver.submit(run_id="gone", gates=(http_gate(),))
    driver.cancel("gone")
    driver.submit(gates=(http_gate(),))
    assert driver.table.awaiting.polls_due(START_MS, 9) == [(START_MS, "r1", 0)]
    driver.table.awaiting.index(driver.run(), 0)
    assert driver.table.awaiting.polls_due(START_MS, 9) == [(START_MS, "r1", 0)]


def test_who_answers_for_no_gate_is_told_so(driver: Driver) -> None:
    assert answer(driver, met=True) == "unknown_run"
    driver.submit(gates=(ticks_gate(),))
    assert answer(driver, met=True) == "unknown_gate"
    assert answer(driver, met=True, gate=7) == "unknown_gate"
    driver.cancel()
    assert answer(driver, met=True) == "run_final"
    assert driver.run().state is RunState.CANCELLED


def test_an_answer_is_cut(driver: Driver) -> None:
    driver.submit(gates=(http_gate(),))
    answer(driver, met=False, message="x" * 10_000)
    assert len(driver.run().gates[0].message) == 500


def test_the_polls_of_gates_that_wait_no_more_are_forgotten_and_the_index_stays_small_p12(driver: Driver) -> None:
    driver.submit(run_id="gone", gates=(http_gate(),))
    driver.submit(gates=(http_gate(every_ms=1),))
    awaiting = driver.table.awaiting
    for asked in range(3000):
        driver.now_ms += 1
        driver.say(c.GateAnswered(driver.now_ms, "r1", 0, asked, met=False, message=""), checked=False)
    assert len(awaiting._polls) < 2100
    driver.cancel("gone")
    assert awaiting.polls_due(driver.now_ms + 1, 9) == [(driver.now_ms + 1, "r1", 0)]
    driver.submit(run_id="r2", gates=(http_gate(),))
    assert awaiting.polls_due(driver.now_ms + 1, 1) == [(driver.now_ms, "r2", 0)]


# -- time-outs, cancels, marks, clears ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [ticks_gate(timeout_ms=HOUR_MS), http_gate(timeout_ms=HOUR_MS)])
def test_a_gate_whose_time_is_over_ends_its_run(driver: Driver, gate: GatePlan) -> None:
    driver.submit(gates=(gate,))
    driver.pass_time(HOUR_MS - 1)
    assert not driver.run().final
    driver.pass_time(1)
    assert (driver.run().state, driver.run().reason) == (RunState.UPSTREAM_FAILED, Reason.TIMEOUT)
    assert "was awaited in vain" in explain(driver.table, driver.run())[0].why
    assert why(driver)[0].startswith("its time is over; ")


def test_a_run_gate_may_have_a_time_of_its_own_and_needs_none(driver: Driver) -> None:
    driver.submit(run_id="a", job="up", queue_timeout_ms=80 * HOUR_MS)
    driver.submit(gates=(GatePlan(GateKind.RUN, "p", "up", "a", timeout_ms=HOUR_MS),))
    driver.submit(run_id="r2", gates=(run_gate("a"),))
    driver.pass_time(20 * HOUR_MS)
    assert driver.run().state is RunState.UPSTREAM_FAILED
    assert not driver.run("r2").final


def test_a_run_that_waits_is_cancelled_at_once_and_waits_again_when_it_is_cleared(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(gates=(run_gate("a"), http_gate()))
    answer(driver, met=True, gate=1)
    driver.cancel()
    assert driver.run().state is RunState.CANCELLED
    assert driver.table.awaiting.of_runs == {}
    clear(driver)
    assert driver.run().state is RunState.QUEUED
    assert [gate.state for gate in driver.run().gates] == [GateState.WAITING, GateState.OPEN]
    driver.go("bq2bq", None, "a")
    driver.go("bq2bq")
    assert driver.run().state is RunState.SUCCESS
    clear(driver)
    assert driver.run().begun
    assert driver.run().state is RunState.RUNNING


def clear(driver: Driver, run_id: str = "r1") -> None:
    run = driver.run(run_id)
    names = tuple(one.plan.name for one in run.instances)
    record = next(one.record for one in reversed(driver.finished) if one.run.id == run_id)
    index = driver.table.rows.finished[run_id].index
    assert driver.say(c.ClearRun(driver.now_ms, run_id, names, record, index, "me", "a1", "retry")).ok


def test_a_run_that_is_cleared_while_its_upstream_has_failed_ends_again(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(gates=(run_gate("a"),))
    driver.go("bq2bq", Reason.EXIT_CODE, "a")
    clear(driver)
    assert driver.run().state is RunState.UPSTREAM_FAILED
    clear(driver, "a")
    clear(driver)
    assert not driver.run().final
    driver.go("bq2bq", None, "a")
    assert driver.run().begun


def test_an_upstream_that_nobody_remembers_counts_as_failed(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(gates=(run_gate("a"),))
    driver.cancel()
    driver.go("bq2bq", None, "a")
    driver.say(c.SetLimits(START_MS, Limits(finished_max=1)))
    driver.submit(run_id="b", job="up")
    record, index = driver.finished[0].record, driver.table.rows.finished["r1"].index
    driver.table.forget_finished("a")
    driver.say(c.ClearRun(driver.now_ms, "r1", ("bq2bq",), record, index, "me", "a1", "retry"))
    assert driver.run().state is RunState.UPSTREAM_FAILED
    assert explain_gates(driver.table, driver.run())[0].awaited[0].state == "forgotten"


def test_a_run_that_waits_may_be_marked_by_hand(driver: Driver) -> None:
    driver.submit(gates=(ticks_gate(),))
    assert explain(driver.table, driver.run())[0].why == (
        "waits for what its run waits for: 1 of 1 gates are not open yet"
    )
    driver.mark("bq2bq", InstanceState.SUCCESS)
    assert driver.run().state is RunState.SUCCESS
    assert driver.table.awaiting.of_ticks == {}


def test_what_was_marked_before_stays_when_a_gate_ends_the_run(driver: Driver) -> None:
    driver.submit(task(), hook("p", InstanceKind.POST, ("bq2bq",)), gates=(ticks_gate(timeout_ms=HOUR_MS),))
    driver.mark("bq2bq", InstanceState.SUCCESS)
    driver.pass_time(HOUR_MS)
    assert driver.states() == {"bq2bq": InstanceState.SUCCESS, "p": InstanceState.UPSTREAM_FAILED}
    assert driver.run().state is RunState.UPSTREAM_FAILED


def test_gates_are_in_a_snapshot(driver: Driver) -> None:
    driver.submit(run_id="a", job="up")
    driver.submit(gates=(run_gate("a"), ticks_gate(), http_gate()))
    driver.table = Table.load([driver.table.dump()])
    assert driver.table.awaiting.polls_due(START_MS, 9) == [(START_MS, "r1", 2)]
    driver.go("bq2bq", None, "a")
    tick(driver, "t1")
    answer(driver, met=True, gate=2)
    assert driver.run().begun
