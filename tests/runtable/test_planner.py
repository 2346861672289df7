"""What the planner proposes, and what `explain` says while it does not."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.explain import explain
from agent.runtable.model import Agent, InstanceKind, Origin, Reason, RetryPolicy
from agent.runtable.planner import next_deadline_ms, plan
from tests.runtable.builders import HOUR_MS, START_MS, Driver, hook, job_with_hooks, task


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def why(driver: Driver, name: str) -> str:
    return next(e.why for e in explain(driver.table, driver.run()) if e.instance == name)


def test_nothing_to_do_is_nothing_proposed_p10(driver: Driver) -> None:
    assert plan(driver.table, START_MS) == []
    assert next_deadline_ms(driver.table) is None


def test_what_waits_longest_comes_first(driver: Driver) -> None:
    driver = Driver().found(slots=1)
    for run_id in ("r1", "r2", "r3"):
        driver.submit(run_id=run_id)
    order = []
    for _ in range(3):
        (command,) = driver.plan()
        assert isinstance(command, c.Assign)
        order.append(command.run_id)
        driver.start("bq2bq", command.run_id)
        driver.end("bq2bq", run_id=command.run_id)
    assert order == ["r1", "r2", "r3"]


def test_work_goes_to_the_agent_with_most_free_slots(driver: Driver) -> None:
    driver.say(c.AgentUp(START_MS, Agent("a2", 0, "", "", 6, ("mock",), "0")))
    driver.submit(hook("a", InstanceKind.PRE), hook("b", InstanceKind.PRE), hook("c", InstanceKind.PRE), task())
    commands = [command for command in driver.plan() if isinstance(command, c.Assign)]
    assert [command.agent for command in commands] == ["a2", "a2", "a1", "a2"]


def test_an_agent_without_the_executor_or_lost_gets_nothing(driver: Driver) -> None:
    driver.say(c.AgentUp(START_MS, Agent("a1", 0, "", "", 6, ("docker",), "0")))
    driver.submit()
    assert driver.plan() == []
    assert why(driver, "bq2bq") == "no agent has the executor 'mock'"
    driver.say(c.AgentUp(START_MS, Agent("a1", 0, "", "", 6, ("mock",), "0")))
    driver.table.rows.agents["a1"].lost = True
    assert plan(driver.table, START_MS) == []


def test_one_step_is_bounded_p12(driver: Driver) -> None:
    driver = Driver().found(slots=1000)
    driver.submit(*(hook(f"h{n}", InstanceKind.PRE) for n in range(300)))
    assert len(driver.plan()) == 256
    assert len(driver.plan()) == 44


def test_the_earliest_deadline_is_the_one_timer_p10(driver: Driver) -> None:
    driver.submit(task(retry=RetryPolicy(1, 60)), timeout_ms=HOUR_MS, queue_timeout_ms=HOUR_MS)
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert next_deadline_ms(driver.table) == START_MS + 60_000
    driver.now_ms += 59_999
    assert driver.plan() == []
    driver.now_ms += 1
    assert [type(command) for command in driver.plan()] == [c.AdvanceTime]


def test_explain_says_what_each_instance_waits_for_p11(driver: Driver) -> None:
    driver = Driver().found(slots=1)
    driver.submit(run_id="r0", origin=Origin.MANUAL)
    driver.plan()
    driver.submit(*job_with_hooks(RetryPolicy(2, 60)))
    assert why(driver, "check") == "waits for a slot: all 1 of the agents with executor 'mock' are taken"
    assert why(driver, "bq2bq") == "waits for check"
    assert why(driver, "rescue") == "waits for a failure of the hooks and the task before it"
    driver.start("bq2bq", "r0")
    driver.end("bq2bq", run_id="r0")
    assert why(driver, "check") == "is about to be assigned"
    driver.plan()
    assert why(driver, "check") == "attempt 1 was handed to a1, which has not said yet that it started"
    driver.start("check")
    assert why(driver, "check") == "attempt 1 is running on a1"
    driver.end("check")
    assert why(driver, "check") == "success"
    driver.go("bq2bq", Reason.EXIT_CODE)
    assert why(driver, "bq2bq") == "try 1 failed (exit_code); waits for its next, 2 left"
    driver.pass_time(60_000)
    driver.plan()
    driver.start("bq2bq")
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    assert why(driver, "bq2bq") == "being stopped (cancelled): attempt 2 on a1 has not ended yet"


def test_explain_says_how_a_final_instance_came_to_that_p11(driver: Driver) -> None:
    driver.submit(*job_with_hooks())
    driver.go("check", Reason.IMAGE)
    assert why(driver, "check") == "failed (image)"
    assert why(driver, "bq2bq") == "not started: check failed"
    assert why(driver, "notify") == "not started: bq2bq failed"
    driver.submit(*job_with_hooks(), run_id="r2")
    for name in ("check", "bq2bq", "notify"):
        driver.go(name, run_id="r2")
    by_name = {e.instance: e.why for e in explain(driver.table, driver.run("r2"))}
    assert by_name["rescue"] == "nothing failed"
