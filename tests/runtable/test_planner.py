"""What the planner proposes, and what `explain` says while it does not."""

from __future__ import annotations

import sys

import pytest

from agent import prepare
from agent.runtable import commands as c
from agent.runtable.explain import STOP_GRACE_MS, Unproven, agents_with, explain, no_agent_has
from agent.runtable.model import (
    Agent,
    InstanceKind,
    InstanceState,
    OnAgentLost,
    Origin,
    Reason,
    RetryPolicy,
    RunState,
)
from agent.runtable.planner import next_deadline_ms, plan
from agent.runtable.table import Table
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
    agents = [command.agent for command in commands]
    assert agents[:2] == ["a2", "a2"]
    assert sorted(agents[2:]) == ["a1", "a2"]


def test_an_agent_without_the_executor_gets_nothing(driver: Driver) -> None:
    driver.say(c.AgentUp(START_MS, Agent("a1", 0, "", "", 6, ("docker",), "0")))
    driver.submit()
    assert driver.plan() == []
    assert why(driver, "bq2bq") == "no agent has the executor 'mock' ready (ready: docker); waits until one has"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("lost", "waits for an agent with executor 'mock': agent a1 is lost"),
        ("draining", "waits for an agent with executor 'mock': agent a1 is draining"),
    ],
)
def test_an_agent_that_is_lost_or_drains_gets_nothing_and_that_is_told_p11(driver: Driver, how: str, told: str) -> None:
    if how == "lost":
        driver.lose()
    else:
        driver.say(c.AgentDraining(START_MS, "a1", on=True))
    driver.submit()
    assert driver.plan() == []
    assert why(driver, "bq2bq") == told


def assigned(driver: Driver) -> list[tuple[str, str]]:
    """What one step of the planner hands out: (run, agent)."""
    return [(one.run_id, one.agent) for one in driver.plan() if isinstance(one, c.Assign)]


def test_labels_keep_work_on_the_agents_that_have_them_all(driver: Driver) -> None:
    driver.up("a2", 1, labels={"gpu": "yes", "zone": "a"})
    driver.up("a3", 9, labels={"gpu": "yes", "zone": "b"})
    for number in range(3):
        driver.submit(task(labels={"gpu": "yes", "zone": "a"}), run_id=f"r{number}")
    assert assigned(driver) == [("r0", "a2")]
    assert why_of(driver, "r1") == ("waits for a slot: agent a2 is full (1 slot)")
    driver.up("a2", 2, labels={"gpu": "no", "zone": "a"})
    assert driver.plan() == []
    told = "no agent with executor 'mock' has all of the labels gpu=yes, zone=a; waits until one has"
    assert why_of(driver, "r1") == told
    driver.up("a3", 9, labels={"gpu": "yes"})
    told = "no agent with executor 'mock' has all of the labels gpu=yes, zone=a; waits until one has"
    assert why_of(driver, "r1") == told
    driver.up("a4", 1, labels={"gpu": "yes", "zone": "a"})
    driver.up("a5", 1, labels={"gpu": "yes", "zone": "a"})
    assert sorted(agent for _run, agent in assigned(driver)) == ["a4", "a5"]


def why_of(driver: Driver, run_id: str) -> str:
    return explain(driver.table, driver.run(run_id))[0].why


def test_a_label_that_no_agent_has_is_named_p11(driver: Driver) -> None:
    driver.up("a2", labels={"zone": "a"})
    driver.submit(task(labels={"gpu": "yes", "zone": "a"}))
    assert driver.plan() == []
    assert why_of(driver, "r1") == "no agent with executor 'mock' has the label gpu=yes; waits until one has"


def test_who_is_full_and_who_is_out_is_told_p11(driver: Driver) -> None:
    driver = Driver().found(slots=1)
    labels = {"gpu": "yes"}
    for number in range(1, 11):
        driver.up(f"b{number}", 1, labels=labels)
    for number in range(1, 8):
        driver.lose(f"b{number}")
    driver.say(c.AgentDraining(START_MS, "b8", on=True))
    for number in range(3):
        driver.submit(task(labels=labels), run_id=f"r{number}")
    assert sorted(agent for _run, agent in assigned(driver)) == ["b10", "b9"]
    waiting = next(run_id for run_id in ("r0", "r1", "r2") if not driver.instance("bq2bq", run_id).attempts)
    assert why_of(driver, waiting) == (
        "waits for a slot: all 2 agents with executor 'mock' and the label gpu=yes are full (2 slots); "
        "agents b1, b2, b3, b4, b5 and 2 more are lost; agent b8 is draining"
    )


def test_unmet_placement_ends_with_the_queue_time_out_p1(driver: Driver) -> None:
    driver.submit(task(labels={"gpu": "yes"}), queue_timeout_ms=HOUR_MS)
    driver.pass_time(HOUR_MS)
    assert (driver.run().state, driver.run().reason) == (RunState.FAILED, Reason.QUEUE_TIMEOUT)


def test_agents_with_equally_many_free_slots_share_what_comes_one_by_one(driver: Driver) -> None:
    for number in range(2, 5):
        driver.up(f"a{number}")
    agents = set()
    for number in range(40):
        driver.submit(run_id=f"r{number}")
        agents |= {agent for _run, agent in assigned(driver)}
        driver.start("bq2bq", f"r{number}")
        driver.end("bq2bq", run_id=f"r{number}")
    assert agents == {"a1", "a2", "a3", "a4"}


def test_a_job_with_a_thousand_instances_does_not_hold_up_the_first_of_another() -> None:
    driver = Driver().found(slots=4)
    plans = tuple(hook(f"h{number}", InstanceKind.PRE) for number in range(1000))
    driver.submit(*plans, job="large", run_id="large")
    for number in range(3):
        driver.submit(job=f"small{number}", run_id=f"small{number}")
    assert [run_id for run_id, _agent in assigned(driver)] == ["large", "small0", "small1", "small2"]


def test_jobs_take_turns_over_many_steps_whatever_they_need(driver: Driver) -> None:
    driver = Driver().found(slots=1, executors=("mock", "docker"))
    for number in range(4):
        driver.submit(job="one", run_id=f"one{number}")
        driver.submit(task(executor="docker"), job="two", run_id=f"two{number}")
        driver.submit(job="three", run_id=f"three{number}")
    order = []
    for _ in range(12):
        ((run_id, _agent),) = assigned(driver)
        order.append(run_id[:-1])
        driver.start("bq2bq", run_id)
        driver.end("bq2bq", run_id=run_id)
    assert order == ["one", "two", "three"] * 4


def test_jobs_take_turns_within_a_step_as_well(driver: Driver) -> None:
    driver = Driver().found(slots=5, executors=("mock", "docker"))
    for number in range(3):
        driver.submit(job="one", run_id=f"one{number}")
        driver.submit(task(executor="docker"), job="two", run_id=f"two{number}")
    assert [run_id for run_id, _agent in assigned(driver)] == ["one0", "two0", "one1", "two1", "one2"]


def test_what_cannot_be_served_is_passed_by(driver: Driver) -> None:
    driver.submit(task(executor="docker"), run_id="stuck")
    driver.submit(run_id="r1")
    assert assigned(driver) == [("r1", "a1")]


def test_a_cancelled_instance_takes_no_turn_of_its_job(driver: Driver) -> None:
    driver = Driver().found(slots=0)
    for run_id in ("a1", "a2", "b1"):
        driver.submit(job=run_id[0], run_id=run_id)
    driver.cancel("a1")
    driver.up(slots=1)
    assert [run_id for run_id, _agent in assigned(driver)] == ["a2"]


def test_a_table_that_was_loaded_serves_who_waits_longest_first(driver: Driver) -> None:
    driver = Driver().found(slots=0)
    for run_id in ("z", "m", "a"):
        driver.now_ms += 1
        driver.submit(job=run_id, run_id=run_id)
    copy = Driver(Table.load([driver.table.dump()]), driver.now_ms, driver.index)
    copy.up(slots=2)
    assert [run_id for run_id, _agent in assigned(copy)] == ["z", "m"]


def test_what_was_tried_before_waits_since_its_retry_also_in_a_table_that_was_loaded(driver: Driver) -> None:
    driver = Driver().found(slots=1)
    driver.submit(task(retry=RetryPolicy(1, 1)), job="first", run_id="first")
    driver.go("bq2bq", Reason.EXIT_CODE, run_id="first")
    driver.up(slots=0)
    driver.submit(job="second", run_id="second")
    driver.pass_time(1000)
    copy = Driver(Table.load([driver.table.dump()]), driver.now_ms, driver.index)
    copy.up(slots=1)
    assert [run_id for run_id, _agent in assigned(copy)] == ["second"]


def calls_of_a_step(jobs: int) -> int:
    """How many functions a step calls to hand out two of so many instances."""
    driver = Driver().found(slots=2)
    for number in range(jobs):
        driver.submit(task(executor="docker"), job=f"stuck{number}", run_id=f"stuck{number}")
        driver.submit(job=f"j{number}", run_id=f"r{number}")
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        commands = plan(driver.table, START_MS)
    finally:
        sys.setprofile(None)
    assert len(commands) == 2
    return calls


def test_a_step_costs_what_it_hands_out_however_much_waits_p10() -> None:
    assert calls_of_a_step(jobs=5) == calls_of_a_step(jobs=50)


def test_one_step_is_bounded_p12(driver: Driver) -> None:
    driver = Driver().found(slots=1000)
    driver.submit(*(hook(f"h{n}", InstanceKind.PRE) for n in range(300)))
    assert len(driver.plan()) == 256
    assert len(driver.plan()) == 44


def test_time_counts_among_what_one_step_proposes_p12(driver: Driver) -> None:
    driver = Driver().found(slots=1000)
    driver.submit(*(hook(f"h{n}", InstanceKind.PRE) for n in range(300)), queue_timeout_ms=1)
    commands = plan(driver.table, START_MS + 1)
    assert (len(commands), type(commands[0])) == (256, c.AdvanceTime)


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
    assert why(driver, "check") == "waits for a slot: agent a1 is full (1 slot)"
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
    assert why(driver, "bq2bq") == (
        "being stopped (cancelled): attempt 2 on a1 has not ended yet; it is killed when its grace is over"
    )


def test_unknown_work_says_what_may_end_it_and_until_when_p11(driver: Driver) -> None:
    driver.submit(task(on_agent_lost=OnAgentLost.WAIT), timeout_ms=HOUR_MS)
    driver.plan()
    driver.start("bq2bq")
    driver.cancel()
    driver.lose()
    assert why(driver, "bq2bq") == (
        "the agent a1 is lost, and the work may go on there (attempt 1): waits for that agent's word, for an operator "
        "who cancels or marks it and says that it is assumed to be stopped, or for the end of the run's time"
    )
    assert until_ms(driver) == START_MS + HOUR_MS


def test_an_attempt_whose_end_cannot_be_proven_says_so_and_has_no_end_of_its_own_p11(driver: Driver) -> None:
    driver.submit()
    driver.plan()
    stuck = {("bq2bq", 1): Unproven(START_MS, "the engine does not answer")}
    (told,) = explain(driver.table, driver.run(), stuck)
    assert told.until_ms is None
    assert told.why.startswith("attempt 1 on a1 cannot be proven to have ended, since 2023-11-14T22:13:20Z: the engine")


def test_a_silent_agent_is_told_of_where_it_has_the_work_p11(driver: Driver) -> None:
    driver.submit()
    driver.plan()
    (told,) = explain(driver.table, driver.run(), silent_ms={"a1": 7_400, "a2": 9_000})
    assert told.why.endswith("; the leader has not heard that agent for 7 s, and calls it lost if that goes on")
    (told,) = explain(driver.table, driver.run(), silent_ms={"a2": 9_000})
    assert "heard" not in told.why


def test_agents_that_are_lost_count_for_no_executor(driver: Driver) -> None:
    driver.up("a2", executors=("docker",))
    assert [agent.id for agent in agents_with(driver.table, "mock")] == ["a1"]
    driver.lose()
    assert agents_with(driver.table, "mock") == []
    assert no_agent_has(driver.table, "mock") == "no agent has the executor 'mock' ready (ready: docker)"


def until_ms(driver: Driver, name: str = "bq2bq") -> int | None:
    return next(e.until_ms for e in explain(driver.table, driver.run()) if e.instance == name)


def test_everything_that_waits_says_until_when_p11(driver: Driver) -> None:
    driver.submit(*job_with_hooks(), timeout_ms=2 * HOUR_MS, queue_timeout_ms=HOUR_MS)
    assert until_ms(driver, "check") == START_MS + HOUR_MS
    assert until_ms(driver) == START_MS + 2 * HOUR_MS
    driver.go("check", Reason.EXIT_CODE)
    assert until_ms(driver, "check") is None


def test_a_deadline_of_its_own_is_told_where_the_runs_is_not_before_it_p11(driver: Driver) -> None:
    driver.submit(task(timeout_ms=5 * HOUR_MS), timeout_ms=3 * HOUR_MS)
    driver.plan()
    driver.start("bq2bq")
    assert until_ms(driver) == START_MS + 3 * HOUR_MS


@pytest.mark.parametrize(
    ("own_ms", "run_ms", "passed_ms"),
    [(1000, HOUR_MS, 1000), (None, 2000, 2000), (3000, 2000, 2000)],
)
def test_what_a_time_out_stops_says_when_it_is_killed_p11(
    driver: Driver, own_ms: int | None, run_ms: int, passed_ms: int
) -> None:
    driver.submit(task(timeout_ms=own_ms), timeout_ms=run_ms)
    driver.plan()
    driver.start("bq2bq")
    driver.pass_time(passed_ms)
    assert "being stopped (timeout)" in why(driver, "bq2bq")
    assert until_ms(driver) == START_MS + passed_ms + STOP_GRACE_MS


def test_what_never_began_in_time_says_when_it_is_killed_p11(driver: Driver) -> None:
    driver.submit(queue_timeout_ms=4000)
    driver.plan()
    driver.pass_time(4000)
    assert "being stopped (queue_timeout)" in why(driver, "bq2bq")
    assert until_ms(driver) == START_MS + 4000 + STOP_GRACE_MS


def test_what_someone_stops_says_when_it_is_killed_p11(driver: Driver) -> None:
    driver.submit(task(), hook("notify", InstanceKind.POST))
    driver.plan()
    for name in ("bq2bq", "notify"):
        driver.start(name)
    driver.pass_time(1000)
    driver.say(c.MarkInstance(driver.now_ms, "r1", "bq2bq", InstanceState.SUCCESS, "me", "a1"))
    driver.pass_time(1000)
    driver.say(c.CancelRun(driver.now_ms, "r1", "me", "a1"))
    assert until_ms(driver) == START_MS + 1000 + STOP_GRACE_MS
    assert until_ms(driver, "notify") == START_MS + 2000 + STOP_GRACE_MS


def test_the_grace_that_is_told_is_the_one_the_worker_gives() -> None:
    assert STOP_GRACE_MS == prepare.STOP_GRACE_S * 1000


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


def test_after_a_recovery_nothing_is_given_out_before_the_leader_has_led_for_a_time_p3(driver: Driver) -> None:
    driver.submit()
    driver.table.rows.hold_ms = 15_304
    assert plan(driver.table, driver.now_ms, led_ms=15_303) == []
    assert "nothing before it has led for 15.304 s" in why(driver, "bq2bq")
    (assign,) = plan(driver.table, driver.now_ms, led_ms=15_304)
    assert isinstance(assign, c.Assign)
