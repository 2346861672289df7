"""The agents of a cluster: they come, drain, are lost, return and are removed; and what a lease is granted by."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtable import commands as c
from agent.runtable.agents import stops_wanted
from agent.runtable.apply import REFUSALS
from agent.runtable.model import Agent, LeaseTerms, Limits
from agent.runtable.table import Table
from tests.runtable.builders import HOUR_MS, START_MS, Driver


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def agent(driver: Driver, name: str = "a1") -> Agent:
    return driver.table.rows.agents[name]


def remove(driver: Driver, name: str = "a1") -> str:
    return driver.say(c.AgentRemoved(driver.now_ms, name)).code


def drain(driver: Driver, name: str = "a1", *, on: bool = True) -> str:
    return driver.say(c.AgentDraining(driver.now_ms, name, on)).code


# --- coming ----------------------------------------------------------------------------------------------------------


def test_an_unknown_agent_is_registered_at_its_first_epoch_p7(driver: Driver) -> None:
    row = Agent("a2", 9, "h:1", "http://h", 3, ("docker",), "1", True, 7, {"gpu": "yes"}, True, 5)
    assert driver.say(c.AgentUp(driver.now_ms, row)).ok
    assert agent(driver, "a2") == Agent("a2", 1, "h:1", "http://h", 3, ("docker",), "1", False, 7, {"gpu": "yes"})


def test_a_known_agent_brings_its_row_up_to_date_and_keeps_its_epoch(driver: Driver) -> None:
    drain(driver)
    for clean in (False, True):
        assert driver.up("a1", 2, labels={"zone": "b"}, executors=("docker",), clean=clean).ok
        row = agent(driver)
        assert (row.epoch, row.slots, row.labels, row.executors) == (1, 2, {"zone": "b"}, ("docker",))
        assert row.draining


def test_an_agents_node_is_learnt_once_and_kept(driver: Driver) -> None:
    driver.up("a1", node=7)
    driver.up("a1")
    assert agent(driver).node == 7
    assert driver.up("a1", node=8).code == "node_taken"


def test_a_node_number_belongs_to_one_agent(driver: Driver) -> None:
    driver.up("a1", node=7)
    assert driver.up("a2", node=7).code == "node_taken"
    assert driver.up("a2", node=8).ok
    assert driver.up("a3").ok, "a number that is not known is nobody's"
    assert driver.up("a4").ok


def test_there_are_only_so_many_agents_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(driver.now_ms, Limits(agents_max=2)))
    assert driver.up("a2").ok
    assert driver.up("a3").code == "table_full"
    assert driver.up("a2", 9).ok


# --- lost and back ---------------------------------------------------------------------------------------------------


def test_an_agent_is_declared_lost_once_and_only_in_its_present_epoch(driver: Driver) -> None:
    assert driver.lose("nobody").code == "unknown_agent"
    assert driver.lose(epoch=2).code == "stale"
    driver.now_ms += 1
    assert driver.lose().ok
    assert (agent(driver).lost, agent(driver).lost_at_ms, agent(driver).epoch) == (True, START_MS + 1, 1)
    assert driver.lose().code == "stale"


def test_a_lost_agent_returns_by_its_word_that_all_has_ended_with_the_next_epoch_p3(driver: Driver) -> None:
    driver.lose()
    assert driver.up().code == "agent_lost"
    assert agent(driver).lost
    assert driver.up(clean=True).ok
    assert (agent(driver).lost, agent(driver).lost_at_ms, agent(driver).epoch) == (False, None, 2)
    assert driver.lose(epoch=1).code == "stale"


def test_a_drain_outlives_a_loss(driver: Driver) -> None:
    drain(driver)
    driver.lose()
    driver.up(clean=True)
    assert agent(driver).draining


@pytest.mark.parametrize("how", ["lost", "draining", "without its executor", "gone"])
def test_an_agent_that_may_not_have_it_is_handed_nothing(driver: Driver, how: str) -> None:
    driver.submit()
    assign = c.Assign(driver.now_ms, "r1", "bq2bq", 1, "a1", 1)
    if how == "lost":
        driver.lose()
    elif how == "draining":
        drain(driver)
    elif how == "gone":
        driver.up("a2")
        assert remove(driver) == "ok"
    else:
        driver.up(executors=("docker",))
    assert driver.say(assign).code == ("unknown_agent" if how == "gone" else "stale")


def test_a_draining_agent_ends_what_it_has_and_is_given_something_again_when_told_p7(driver: Driver) -> None:
    assert drain(driver, "nobody") == "unknown_agent"
    driver.submit()
    driver.plan()
    drain(driver)
    driver.submit(run_id="r2")
    assert driver.plan() == []
    driver.start("bq2bq")
    driver.end("bq2bq")
    assert driver.run().final
    assert driver.plan() == []
    drain(driver, on=False)
    driver.go("bq2bq", run_id="r2")
    assert driver.run("r2").final


# --- removed ---------------------------------------------------------------------------------------------------------


def test_a_removed_agent_never_returns_under_its_id_or_its_node_p7(driver: Driver) -> None:
    driver.up("a1", node=7)
    driver.up("a3", node=3)
    assert remove(driver) == "ok"
    assert driver.table.rows.agents.keys() == {"a3"}
    assert driver.up("a1", node=9, clean=True).code == "removed_agent"
    assert driver.up("a2", node=7).code == "removed_agent"
    assert driver.up("a1").code == "removed_agent"
    assert remove(driver) == "unknown_agent"
    copy = Table.load([driver.table.dump()])
    assert copy.rows.removed == driver.table.rows.removed
    assert driver.up("a2", node=8).ok


def test_an_agent_that_has_work_is_removed_only_once_it_is_lost_p3(driver: Driver) -> None:
    driver.submit()
    driver.plan()
    assert remove(driver) == "agent_busy"
    driver.lose()
    assert remove(driver) == "ok"


def test_the_last_one_that_is_left_stays_until_it_is_lost_p1(driver: Driver) -> None:
    assert remove(driver) == "last_agent"
    driver.up("a2")
    driver.lose("a2")
    assert remove(driver) == "last_agent", "a lost one does no work"
    assert remove(driver, "a2") == "ok"
    driver.lose()
    assert remove(driver) == "ok"


def test_a_removed_agent_whose_node_is_not_known_takes_nobodys_number(driver: Driver) -> None:
    driver.up("a2")
    assert remove(driver, "a2") == "ok"
    assert driver.up("a3").ok


def test_only_the_last_removed_are_remembered_p12(driver: Driver) -> None:
    driver.say(c.SetLimits(driver.now_ms, Limits(removed_max=2)))
    for number in range(2, 6):
        driver.now_ms += 1
        driver.up(f"a{number}", node=number)
        assert remove(driver, f"a{number}") == "ok"
    assert {name: one.at_ms - START_MS for name, one in driver.table.rows.removed.items()} == {"a4": 3, "a5": 4}


def test_every_refusal_of_an_agent_has_its_words() -> None:
    assert REFUSALS.keys() >= {
        "removed_agent",
        "node_taken",
        "agent_lost",
        "agent_busy",
        "last_agent",
        "not_proven_stopped",
    }


# --- the terms of leases ---------------------------------------------------------------------------------------------


def test_the_default_margin_is_what_its_formula_says_rounded_up() -> None:
    assert LeaseTerms().margin_ms == 5304  # 10 s * (1.01/0.99 - 1) + 1.01/0.99 * (3 s + 2 s) = 5303.03... ms
    assert LeaseTerms().loss_ms == 15_304


@given(st.integers(1, 86_400_000), st.integers(0, 60_000), st.integers(0, 60_000), st.integers(0, 500))
def test_no_margin_is_short_of_its_formula_by_any_part_of_a_millisecond(
    ttl: int, stop: int, kill: int, rho: int
) -> None:
    drift = Fraction(1000 + rho, 1000 - rho)
    exact = ttl * (drift - 1) + drift * (stop + kill)
    assert 0 <= LeaseTerms(ttl, stop, kill, rho).margin_ms - exact < 1


def test_new_terms_bind_at_once_and_the_old_ones_until_their_leases_have_run_out(driver: Driver) -> None:
    def change(ttl_ms: int) -> None:
        assert driver.say(c.SetLeaseTerms(driver.now_ms, LeaseTerms(ttl_ms))).ok

    def loss_ms() -> int:
        return driver.table.rows.leases.loss_ms(driver.now_ms)

    default_ms, long_ms = LeaseTerms().loss_ms, LeaseTerms(60_000).loss_ms
    assert loss_ms() == default_ms
    change(1000)
    assert loss_ms() == default_ms, "a lease of before may last that long"
    driver.now_ms += 1
    change(2000)
    driver.now_ms += default_ms - 2
    assert loss_ms() == default_ms, "it may still, whatever has come since"
    driver.now_ms += 1
    assert loss_ms() == LeaseTerms(2000).loss_ms
    change(60_000)
    assert loss_ms() == long_ms
    driver.now_ms += HOUR_MS
    assert Table.load([driver.table.dump()]).rows.leases.loss_ms(driver.now_ms) == long_ms


@pytest.mark.parametrize("terms", [LeaseTerms(0), LeaseTerms(rho_permille=501), LeaseTerms(stop_ms=-1)])
def test_terms_that_make_no_sense_are_no_command(driver: Driver, terms: LeaseTerms) -> None:
    assert driver.say(c.SetLeaseTerms(driver.now_ms, terms)).code == "undecodable"


def test_what_an_agent_is_to_stop_is_told_of_it_and_of_no_other() -> None:
    driver = Driver().found()
    for run_id in ("r1", "r2"):
        driver.submit(run_id=run_id)
    driver.plan()
    assert stops_wanted(driver.table, "a1") == []
    driver.cancel("r2")
    assert [
        (run.id, instance.plan.name, attempt.number) for run, instance, attempt in stops_wanted(driver.table, "a1")
    ] == [("r2", "bq2bq", 1)]
    assert stops_wanted(driver.table, "a2") == []
