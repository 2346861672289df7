"""Airflow's decisions for each of its rules, as measured on Airflow 3.3.2, and what must hold for any states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtable.model import INSTANCE_FINAL, InstanceState, TriggerRule
from agent.runtable.trigger_rules import Decision, decide

S = InstanceState
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "trigger_rules.json").read_text())
LETTERS = {"S": S.SUCCESS, "F": S.FAILED, "K": S.SKIPPED, "U": S.UPSTREAM_FAILED, "-": S.RUNNING}
STATES = st.lists(st.sampled_from(S), max_size=5)


def vectors() -> Iterator[tuple[str, str, str]]:
    """(rule, states, decision)"""
    for rule, table in VECTORS["table"].items():
        for states, decision in table.items():
            yield rule, states, decision


@pytest.mark.parametrize(("rule", "states", "decision"), list(vectors()))
def test_decisions_are_airflows(rule: str, states: str, decision: str) -> None:
    for order in permutations(states):
        assert decide(rule, [LETTERS[letter] for letter in order]) == decision


def test_every_rule_is_measured() -> None:
    assert set(VECTORS["table"]) == set(TriggerRule)
    assert len(TriggerRule) == 13


@pytest.mark.parametrize("rule", TriggerRule)
def test_with_nothing_before_it_an_instance_starts(rule: TriggerRule) -> None:
    assert decide(rule, []) is Decision.RUN


@given(st.sampled_from(TriggerRule), STATES)
def test_cancelled_counts_as_failed(rule: TriggerRule, states: list[S]) -> None:
    as_failed = [S.FAILED if state is S.CANCELLED else state for state in states]
    assert decide(rule, states) is decide(rule, as_failed)


@given(st.sampled_from(TriggerRule), STATES)
def test_nothing_waits_for_what_has_ended_p1(rule: TriggerRule, states: list[S]) -> None:
    if all(state in INSTANCE_FINAL for state in states):
        assert decide(rule, states) is not Decision.WAIT


@given(st.sampled_from(TriggerRule), STATES, st.data())
def test_no_decision_is_taken_back_when_more_ends(rule: TriggerRule, states: list[S], data: st.DataObject) -> None:
    """As an instance that was decided is not looked at again. Airflow decides so too, but for two rules.

    `all_success` and `none_failed` say skipped, or upstream_failed, as soon as one state says so.
    """
    first = decide(rule, states)
    ends = [data.draw(st.sampled_from(sorted(INSTANCE_FINAL))) if s not in INSTANCE_FINAL else s for s in states]
    then = decide(rule, ends)
    if first is Decision.RUN:
        assert then is Decision.RUN
    elif first is not Decision.WAIT:
        assert then is not Decision.RUN


@pytest.mark.parametrize(
    ("setups", "decision"),
    [
        ([S.SUCCESS, S.RUNNING], Decision.WAIT),
        ([S.SUCCESS, S.SUCCESS], Decision.RUN),
        ([S.SUCCESS, S.FAILED], Decision.UPSTREAM_FAILED),
        ([S.SUCCESS, S.CANCELLED], Decision.UPSTREAM_FAILED),
        ([S.SUCCESS, S.SKIPPED], Decision.SKIPPED),
    ],
)
@pytest.mark.parametrize("rule", set(TriggerRule) - {TriggerRule.ALWAYS, TriggerRule.ALL_DONE_SETUP_SUCCESS})
def test_work_needs_all_that_is_set_up(rule: TriggerRule, setups: list[S], decision: Decision) -> None:
    assert decide(rule, [], setups) is decision
    assert decide(TriggerRule.ALWAYS, [], setups) is Decision.RUN


@pytest.mark.parametrize(
    ("setups", "decision"),
    [
        ([S.SUCCESS, S.RUNNING], Decision.WAIT),
        ([S.SUCCESS, S.FAILED], Decision.RUN),
        ([S.SUCCESS, S.SKIPPED], Decision.RUN),
        ([S.FAILED, S.SKIPPED], Decision.UPSTREAM_FAILED),
        ([S.SKIPPED, S.SKIPPED], Decision.SKIPPED),
    ],
)
def test_a_teardown_needs_one_that_was_set_up(setups: list[S], decision: Decision) -> None:
    assert decide("all_done_setup_success", [S.FAILED, S.SUCCESS], setups) is decision
    assert decide("all_done_setup_success", [S.FAILED, S.RUNNING], setups) is Decision.WAIT


def test_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="dummy"):
        decide("dummy", [])
