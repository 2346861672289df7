"""Feature levels: what is said only once every agent knows it, and what becomes of it where one does not."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from agent.runtable import commands as c
from agent.runtable.apply import apply
from agent.runtable.model import Agent
from agent.runtable.table import Table
from tests.runtable.builders import START_MS, Driver, at_level_2

FIRST = """Found SetLimits SetLeaseTerms AgentUp AgentLost AgentDraining AgentRemoved PutProject PutPlugins PutJobs
DeleteJob PutSecret DeleteSecret PutToken DeleteToken SubmitRun Assign InstanceStarted InstanceEnded CancelRun ClearRun
MarkInstance AdvanceTime SubmitPipeline CancelPipeline ClearRuns GateAnswered
ImportRun CreateReplay ReplayTicks CancelReplay ResumeReplay Delivered NotDelivered"""


@pytest.fixture
def driver() -> Driver:
    return Driver().found()


def code_of(driver: Driver, data: bytes) -> str:
    return apply(driver.table, driver.index + 1, data).code


def up(driver: Driver, agent: str, level: int) -> str:
    return driver.say(c.AgentUp(driver.now_ms, Agent(agent, 0, "", "", 4, ("mock",), "0", level=level))).code


def test_every_command_has_a_level_and_a_new_one_is_not_of_the_first() -> None:
    assert c.LEVELS.keys() == set(get_args(c.AnyCommand))
    assert {one.__name__ for one, level in c.LEVELS.items() if level == 1} == set(FIRST.split())
    assert max(c.LEVELS.values()) == c.LEVEL < 128


def test_the_level_stands_before_the_command_and_a_log_of_before_has_none() -> None:
    command = c.DeleteToken(START_MS, "t")
    data = c.encode(command)
    assert (data[0], c.level_of(data), c.decode(data)) == (1, 1, command)
    bare = msgspec.msgpack.encode(command)
    assert (c.level_of(bare), c.decode(bare)) == (1, command)
    assert (c.level_of(b""), c.decode(b"")) == (1, None)


def test_the_clusters_level_is_what_all_know_the_lost_ones_too_until_they_are_removed(driver: Driver) -> None:
    rows = driver.table.rows
    assert up(driver, "a2", 3) == "ok"
    assert rows.level == 1
    driver.lose("a1")
    assert rows.level == 1
    driver.say(c.AgentRemoved(START_MS, "a1"))
    assert rows.level == 3


def test_an_agent_below_the_clusters_level_is_not_let_in_and_none_goes_back(driver: Driver) -> None:
    rows = driver.table.rows
    assert up(driver, "a1", 2) == "ok"
    assert up(driver, "a2", 1) == up(driver, "a1", 1) == "older_level"
    assert (list(rows.agents), rows.level) == (["a1"], 2)
    assert up(driver, "a2", 2) == "ok"


def test_the_level_stays_when_no_agent_is_left_the_log_may_have_used_it(driver: Driver) -> None:
    up(driver, "a1", 2)
    driver.lose("a1")
    assert driver.say(c.AgentRemoved(START_MS, "a1")).ok
    copy = Table.load([driver.table.dump()])
    assert (copy.rows.agents, copy.rows.level) == ({}, 2)


def test_a_command_of_a_level_this_program_does_not_know_changes_nothing_at_all(driver: Driver) -> None:
    before = driver.table.dump()
    later = bytes((c.LEVEL + 1,)) + c.encode(c.DeleteToken(START_MS + 1, "t"))[1:]
    assert (code_of(driver, later), driver.table.dump()) == ("newer_level", before)


def test_what_a_program_of_a_lower_level_could_not_read_is_a_no_op_for_one_of_a_higher_too(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = c.encode(c.DeleteToken(START_MS, "t"))
    at_level_2(monkeypatch, c.DeleteToken)
    assert code_of(driver, data) == "undecodable"
    assert code_of(driver, b"\x02" + data[1:]) == "unknown_token"
