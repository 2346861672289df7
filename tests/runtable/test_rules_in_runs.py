"""Trigger rules, branching, setup and teardown, allowed failures and rules of retries, as runs live them."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.explain import explain
from agent.runtable.lifecycle import TEARDOWN_MS
from agent.runtable.model import (
    AttemptState,
    InstanceKind,
    InstancePlan,
    InstanceState,
    OnAgentLost,
    Reason,
    RetryPolicy,
    RetryRule,
    RunState,
    TriggerRule,
)
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, task

S = InstanceState
K = InstanceKind


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def torn_down(*, retry: RetryPolicy | None = None, choice: OnAgentLost = OnAgentLost.RERUN) -> tuple[InstancePlan, ...]:
    """setup -> task -> post, a fail hook, and a teardown."""
    return (
        hook("make", K.SETUP),
        task(),
        hook("load", K.POST, ("bq2bq",)),
        hook("rescue", K.FAIL),
        hook(
            "remove",
            K.TEARDOWN,
            ("make", "bq2bq", "load", "rescue"),
            rule=TriggerRule.ALL_DONE_SETUP_SUCCESS,
            retry=retry or RetryPolicy(),
            on_agent_lost=choice,
        ),
    )


def why(driver: Driver, name: str) -> str:
    return next(one.why for one in explain(driver.table, driver.run()) if one.instance == name)


# -- rules -------------------------------------------------------------------------------------------------------------


def test_a_post_hook_may_run_after_a_failure_and_the_run_fails_all_the_same(driver: Driver) -> None:
    driver.submit(task(), hook("report", K.POST, ("bq2bq",), rule=TriggerRule.ALL_DONE))
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["report"] is S.SCHEDULED
    driver.go("report")
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.EXIT_CODE)


def test_a_hook_for_failures_alone_is_skipped_when_there_is_none(driver: Driver) -> None:
    driver.submit(task(), hook("report", K.POST, ("bq2bq",), rule=TriggerRule.ONE_FAILED))
    driver.plan()
    assert why(driver, "report") == "waits for bq2bq (trigger rule one_failed)"
    driver.go("bq2bq")
    assert driver.states()["report"] is S.SKIPPED
    assert driver.run().state is RunState.SUCCESS
    assert why(driver, "report") == "skipped: bq2bq succeeded (trigger rule one_failed)"


def test_always_waits_for_nothing(driver: Driver) -> None:
    driver.submit(hook("make", K.SETUP), task(), hook("watch", K.POST, ("bq2bq",), rule=TriggerRule.ALWAYS))
    assert driver.states() == {"make": S.SCHEDULED, "bq2bq": S.PENDING, "watch": S.SCHEDULED}


# -- skipping ----------------------------------------------------------------------------------------------------------


def test_an_exit_code_may_say_that_there_was_nothing_to_do(driver: Driver) -> None:
    driver.submit(
        hook("look", K.PRE, skip_exit_codes=(99,)),
        task("bq2bq", ("look",), retry=RetryPolicy(3)),
        hook("rescue", K.FAIL),
    )
    driver.go("look", Reason.EXIT_CODE, exit_code=99)
    assert driver.states() == {"look": S.SKIPPED, "bq2bq": S.SKIPPED, "rescue": S.SKIPPED}
    look = driver.instance("look").last
    assert look is not None
    assert (look.state, look.reason, look.exit_code) == (AttemptState.SKIPPED, None, 99)
    assert (driver.run().state, driver.run().reason) == (RunState.SKIPPED, None)
    assert why(driver, "look") == "skipped: exit code 99 means that there was nothing to do"
    assert why(driver, "bq2bq") == "skipped: look was skipped"


def test_another_exit_code_of_the_same_instance_is_a_failure(driver: Driver) -> None:
    driver.submit(task(skip_exit_codes=(99,)))
    driver.go("bq2bq", Reason.EXIT_CODE, exit_code=1)
    assert driver.run().state is RunState.FAILED


def test_a_skipped_branch_does_not_skip_what_only_wants_no_failure(driver: Driver) -> None:
    driver.submit(
        hook("left", K.PRE, skip_exit_codes=(7,)),
        hook("right", K.PRE),
        task("bq2bq", ("left", "right"), rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS),
    )
    driver.go("left", Reason.EXIT_CODE, exit_code=7)
    driver.go("right")
    driver.go("bq2bq")
    assert driver.run().state is RunState.SUCCESS


def test_work_that_was_to_stop_and_says_skip_was_stopped(driver: Driver) -> None:
    driver.submit(task(skip_exit_codes=(99,)))
    driver.plan()
    driver.start("bq2bq")
    driver.cancel()
    driver.end("bq2bq", Reason.EXIT_CODE, exit_code=99)
    assert driver.run().state is RunState.CANCELLED


# -- allowed failures --------------------------------------------------------------------------------------------------


def test_an_allowed_failure_is_shown_and_counts_as_success(driver: Driver) -> None:
    driver.submit(hook("look", K.PRE, allow_failure=True), task("bq2bq", ("look",)), hook("rescue", K.FAIL))
    driver.go("look", Reason.EXIT_CODE)
    driver.go("bq2bq")
    assert driver.states() == {"look": S.FAILED, "bq2bq": S.SUCCESS, "rescue": S.SKIPPED}
    assert (driver.run().state, driver.run().reason) == (RunState.SUCCESS, None)


def test_an_allowed_failure_is_tried_again_before(driver: Driver) -> None:
    driver.submit(task(allow_failure=True, retry=RetryPolicy(1, 60)))
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["bq2bq"] is S.UP_FOR_RETRY


# -- rules of retries --------------------------------------------------------------------------------------------------


def test_an_exit_code_may_forbid_the_retry_or_set_its_delay(driver: Driver) -> None:
    rules = (RetryRule(64, retry=False), RetryRule(75, retry=True, delay_s=5), RetryRule(2, retry=True))
    driver.submit(task(retry=RetryPolicy(9, 60, exponential=True, rules=rules)))
    waits = []
    for code in (75, 2, 75):
        driver.go("bq2bq", Reason.EXIT_CODE, exit_code=code)
        due_ms = driver.instance("bq2bq").due_ms
        assert due_ms is not None
        waits.append(due_ms - driver.now_ms)
        driver.pass_time(waits[-1])
    assert waits[0] == waits[2] == 5000
    assert waits[1] >= 120_000  # the policy's own, of a second try
    driver.go("bq2bq", Reason.EXIT_CODE, exit_code=64)
    assert driver.run().state is RunState.FAILED


def test_a_rule_is_of_exit_codes_and_not_of_what_ended_the_work_from_outside(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(1, 60, rules=(RetryRule(137, retry=False),))))
    driver.go("bq2bq", Reason.OOM, exit_code=137)
    assert driver.states()["bq2bq"] is S.UP_FOR_RETRY


def test_a_rule_gives_no_more_retries_than_the_policy(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(0, 60, rules=(RetryRule(75, retry=True),))))
    driver.go("bq2bq", Reason.EXIT_CODE, exit_code=75)
    assert driver.run().state is RunState.FAILED


# -- setup and teardown ------------------------------------------------------------------------------------------------


def test_a_teardown_runs_last_after_success(driver: Driver) -> None:
    driver.submit(*torn_down())
    for name in ("make", "bq2bq", "load"):
        assert driver.states()["remove"] is S.PENDING
        driver.go(name)
    assert driver.states()["rescue"] is S.SKIPPED
    driver.go("remove")
    assert driver.run().state is RunState.SUCCESS


def test_a_teardown_runs_after_a_failure_once_the_fail_hook_has_ended(driver: Driver) -> None:
    driver.submit(*torn_down())
    driver.go("make")
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["remove"] is S.PENDING
    driver.go("rescue")
    driver.go("remove", Reason.EXIT_CODE)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.EXIT_CODE)


def test_a_failed_teardown_is_shown_and_changes_nothing(driver: Driver) -> None:
    driver.submit(*torn_down())
    for name in ("make", "bq2bq", "load"):
        driver.go(name)
    driver.go("remove", Reason.EXIT_CODE)
    assert driver.states()["remove"] is S.FAILED
    assert driver.run().state is RunState.SUCCESS


def test_a_failed_setup_starts_nothing_but_the_fail_hook(driver: Driver) -> None:
    driver.submit(*torn_down())
    driver.go("make", Reason.EXIT_CODE)
    assert driver.states()["bq2bq"] is S.UPSTREAM_FAILED
    assert why(driver, "bq2bq") == "not started: make failed"
    driver.go("rescue")
    assert driver.states()["remove"] is S.UPSTREAM_FAILED
    assert driver.run().state is RunState.FAILED


def test_a_skipped_setup_skips_the_run(driver: Driver) -> None:
    driver.submit(hook("make", K.SETUP, skip_exit_codes=(99,)), *torn_down()[1:4], torn_down()[4])
    driver.go("make", Reason.EXIT_CODE, exit_code=99)
    assert set(driver.states().values()) == {S.SKIPPED}
    assert driver.run().state is RunState.SKIPPED


def test_a_cancelled_run_is_torn_down(driver: Driver) -> None:
    driver.submit(*torn_down(retry=RetryPolicy(1, 60)))
    driver.go("make")
    driver.plan()
    driver.start("bq2bq")
    driver.cancel()
    driver.end("bq2bq", Reason.EXIT_CODE)
    assert driver.states()["load"] is S.CANCELLED
    driver.go("remove", Reason.EXIT_CODE)
    assert driver.states()["remove"] is S.UP_FOR_RETRY  # as ever: it is not what was cancelled
    driver.pass_time(60_000)
    driver.go("remove")
    assert (driver.run().state, driver.run().reason) == (RunState.CANCELLED, Reason.CANCELLED)


def test_a_teardown_can_be_cancelled_too(driver: Driver) -> None:
    driver.submit(*torn_down(retry=RetryPolicy(1, 60)))
    driver.go("make")
    driver.cancel()
    driver.plan()
    driver.start("remove")
    assert driver.cancel().ok  # once more says nothing new
    assert driver.attempt("remove").stop_wanted is None
    driver.cancel(teardown=True)
    assert driver.attempt("remove").stop_wanted is Reason.CANCELLED
    driver.end("remove", Reason.CANCELLED)
    assert driver.states()["remove"] is S.CANCELLED
    assert driver.run().state is RunState.CANCELLED
    assert [one.what for one in driver.run().audit] == ["cancel", "cancel, with its teardown"]


def test_a_run_that_never_began_is_not_torn_down(driver: Driver) -> None:
    driver.submit(task(), hook("remove", K.TEARDOWN, ("bq2bq",), rule=TriggerRule.ALL_DONE_SETUP_SUCCESS))
    driver.cancel()
    assert driver.states() == {"bq2bq": S.CANCELLED, "remove": S.CANCELLED}


def test_a_run_whose_time_is_over_is_torn_down_within_an_hour_p1(driver: Driver) -> None:
    driver.submit(*torn_down(), timeout_ms=HOUR_MS)
    driver.go("make")
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(HOUR_MS)
    assert driver.attempt("bq2bq").stop_wanted is Reason.TIMEOUT
    driver.end("bq2bq", Reason.TIMEOUT)
    driver.plan()
    driver.start("remove")
    until = next(one.until_ms for one in explain(driver.table, driver.run()) if one.instance == "remove")
    assert until == START_MS + HOUR_MS + TEARDOWN_MS == driver.table.due_ms()
    assert Table.load([driver.table.dump()]).due_ms() == until
    driver.pass_time(TEARDOWN_MS)
    assert driver.attempt("remove").stop_wanted is Reason.TIMEOUT
    assert driver.run().end_due_ms is None
    driver.end("remove", Reason.TIMEOUT)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)


def test_a_teardown_that_ends_in_that_hour_ends_the_run(driver: Driver) -> None:
    driver.submit(*torn_down(), timeout_ms=HOUR_MS)
    driver.go("make")
    driver.pass_time(HOUR_MS)
    driver.go("remove")
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.TIMEOUT)
    driver.pass_time(2 * HOUR_MS)
    assert driver.table.rows.runs == {}


def test_the_unknown_teardown_of_a_run_whose_time_is_over_is_given_up_an_hour_later(driver: Driver) -> None:
    driver.submit(*torn_down(choice=OnAgentLost.WAIT), timeout_ms=HOUR_MS)
    driver.go("make")
    driver.pass_time(HOUR_MS)
    driver.plan()
    driver.start("remove")
    driver.lose()
    assert driver.states()["remove"] is S.UNKNOWN
    driver.pass_time(TEARDOWN_MS)
    assert driver.instance("remove").last is not None
    assert driver.attempt("remove").unproven
    assert driver.run().state is RunState.FAILED


def test_a_cleared_run_has_its_whole_teardown_again(driver: Driver) -> None:
    driver.submit(*torn_down())
    driver.go("make")
    driver.cancel(teardown=True)
    run = driver.run()
    assert run.state is RunState.CANCELLED
    names = tuple(driver.states())
    row = driver.table.rows.finished[run.id]
    driver.say(c.ClearRun(driver.now_ms, run.id, names, driver.finished[-1].record, row.index, "me", "a1", "clear"))
    assert driver.run().teardown_until_ms is None
    driver.go("make")
    driver.cancel()
    assert driver.states()["remove"] is S.SCHEDULED


def test_setup_comes_first_and_teardown_last(driver: Driver) -> None:
    setup, down = hook("make", K.SETUP), hook("remove", K.TEARDOWN)
    assert driver.submit(task(), setup).code == "invalid"
    assert driver.submit(down, task()).code == "invalid"
    assert driver.submit(task(), down, hook("rescue", K.FAIL)).code == "invalid"
    assert driver.submit(setup, task(), hook("rescue", K.FAIL), down).ok
