"""Pools, weights and the share of replays (R16)."""

from __future__ import annotations

import pytest

from agent.runtable import commands as c
from agent.runtable.explain import explain
from agent.runtable.model import InstanceKind, Origin
from tests.runtable.builders import START_MS, Driver, hook, task


@pytest.fixture
def driver() -> Driver:
    driver = Driver().found(slots=10)
    driver.say(c.PutProject(START_MS, "p", pools={"db": 2}))
    return driver


def given_out(driver: Driver) -> list[str]:
    return [one.run_id for one in driver.plan() if isinstance(one, c.Assign)]


def why(driver: Driver, run_id: str) -> str:
    return explain(driver.table, driver.run(run_id))[0].why


def test_a_pool_gives_no_more_than_its_slots_and_passes_by_nobody_else(driver: Driver) -> None:
    for number in range(4):
        driver.submit(task(pool="db"), run_id=f"r{number}")
    driver.submit(run_id="free")
    assert sorted(given_out(driver)) == ["free", "r0", "r1"]
    told = "waits for the pool db: 2 of 2 slots taken, by r0/bq2bq, r1/bq2bq; it asks for 1"
    assert why(driver, "r2") == told
    driver.start("bq2bq", "r0")
    driver.end("bq2bq", run_id="r0")
    assert given_out(driver) == ["r2"]


def test_apply_judges_a_pool_again(driver: Driver) -> None:
    for number in range(2):
        driver.submit(task(pool="db", pool_slots=2), run_id=f"r{number}")
    assert given_out(driver) == ["r0"]
    assert driver.say(c.Assign(START_MS, "r1", "bq2bq", 1, "a1", 1)).code == "stale"


def test_a_pool_that_is_not_there_or_too_small_is_told_of_p11(driver: Driver) -> None:
    driver.submit(task(pool="dbs"), run_id="r1")
    driver.submit(task(pool="db", pool_slots=3), run_id="r2")
    driver.submit(task(pool="db"), run_id="r3", project="p")
    assert given_out(driver) == ["r3"]
    told = "waits for the pool dbs, which the project p has not; its config pool.dbs gives it slots"
    assert why(driver, "r1") == told
    told = "waits for the pool db, which has 2 slots: it asks for 3, and waits until it has more"
    assert why(driver, "r2") == told
    driver.say(c.PutProject(START_MS, "p", pools={"db": 4, "dbs": 1}))
    assert sorted(given_out(driver)) == ["r1", "r2"]


def test_many_holders_are_told_of_in_short_p11(driver: Driver) -> None:
    driver.say(c.PutProject(START_MS, "p", pools={"db": 5}))
    for number in range(6):
        driver.submit(task(pool="db"), run_id=f"r{number}")
    driver.plan()
    assert "5 of 5 slots taken, by r0/bq2bq, r1/bq2bq, r2/bq2bq and 2 more;" in why(driver, "r5")


def test_replays_take_half_of_all_slots_and_hold_up_no_other_run_of_their_job(driver: Driver) -> None:
    for number in range(9):
        driver.submit(run_id=f"r{number}", origin=Origin.REPLAY, scheduled_at_ms=START_MS + number)
    driver.submit(run_id="manual")
    found = given_out(driver)
    assert (len(found), "manual" in found) == (6, True)
    told = "waits for a slot of those that replays may have: 5 in the cluster, 5 taken"
    assert why(driver, "r8") == told


def test_a_project_may_give_its_replays_less(driver: Driver) -> None:
    driver.say(c.PutProject(START_MS, "p", pools={"replay": 1}))
    for number in range(3):
        driver.submit(run_id=f"r{number}", origin=Origin.REPLAY, scheduled_at_ms=START_MS + number)
    driver.submit(task(pool="replay"), run_id="r3", origin=Origin.REPLAY, scheduled_at_ms=START_MS + 3)
    assert given_out(driver) == ["r0"]
    assert why(driver, "r1").startswith("waits for the pool replay: 1 of 1 slot taken, by r0/bq2bq")


def test_one_slot_is_enough_for_a_replay_to_go_on_p1() -> None:
    driver = Driver().found(slots=1)
    driver.submit(origin=Origin.REPLAY)
    assert given_out(driver) == ["r1"]


def test_the_heavier_goes_first_and_starves_nobody() -> None:
    driver = Driver().found(slots=1)
    for number in range(60):
        driver.submit(task(weight=1), job="light", run_id=f"l{number}")
        driver.submit(task(weight=9), job="heavy", run_id=f"h{number}")
    served = []
    for _ in range(60):
        (run_id,) = given_out(driver)
        driver.start("bq2bq", run_id)
        driver.end("bq2bq", run_id=run_id)
        served.append(run_id[0])
    assert served.count("h") > 30
    assert 0 < served.count("l") < 30


def test_weights_count_within_one_step_and_end_with_what_waits() -> None:
    driver = Driver().found(slots=100)
    plans = tuple(hook(f"h{number}", InstanceKind.PRE, weight=5) for number in range(10))
    driver.submit(*plans, run_id="heavy", job="heavy")
    driver.submit(task(weight=1), run_id="light")
    found = given_out(driver)
    assert (len(found), found.count("light")) == (11, 1)
