"""Which states of what stands before let an instance start: Airflow's trigger rules, as one pure function.

Source: Airflow 3.3's `TriggerRuleDep`, whose decisions `tests/vectors/trigger_rules.json` holds for each rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agent.runtable.model import InstanceState, TriggerRule

_FAILED: Final = frozenset({InstanceState.FAILED, InstanceState.CANCELLED})


class Decision(StrEnum):
    """What becomes of an instance: it starts, it ends without a start, or it waits."""

    RUN = "run"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class _Before:
    """How many there are before an instance, and how many of them have ended how."""

    count: int
    success: int
    failed: int
    skipped: int
    upstream_failed: int

    @property
    def done(self) -> bool:
        return self.success + self.skipped + self.bad == self.count

    @property
    def bad(self) -> int:
        return self.failed + self.upstream_failed


def _count(states: Iterable[str]) -> _Before:
    known = list(states)
    return _Before(
        len(known),
        known.count(InstanceState.SUCCESS),
        sum(state in _FAILED for state in known),
        known.count(InstanceState.SKIPPED),
        known.count(InstanceState.UPSTREAM_FAILED),
    )


# When an instance will never start by a rule, whatever the rest does; looked at in this order, before `_MET`.
_Condition = Callable[[_Before], bool]
_NEVER: Final[dict[TriggerRule, tuple[tuple[Decision, _Condition], ...]]] = {
    TriggerRule.ALL_SUCCESS: (
        (Decision.UPSTREAM_FAILED, lambda b: b.bad > 0),
        (Decision.SKIPPED, lambda b: b.skipped > 0),
    ),
    TriggerRule.ALL_FAILED: ((Decision.SKIPPED, lambda b: b.success + b.skipped > 0),),
    TriggerRule.ALL_DONE: (),
    TriggerRule.ALL_DONE_MIN_ONE_SUCCESS: (
        (Decision.SKIPPED, lambda b: b.skipped > 0),
        (Decision.UPSTREAM_FAILED, lambda b: b.done and not b.success),
    ),
    TriggerRule.ALL_DONE_SETUP_SUCCESS: (),
    TriggerRule.ALL_SKIPPED: ((Decision.SKIPPED, lambda b: b.success + b.bad > 0),),
    TriggerRule.ALWAYS: (),
    TriggerRule.NONE_FAILED: ((Decision.UPSTREAM_FAILED, lambda b: b.bad > 0),),
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS: (
        (Decision.UPSTREAM_FAILED, lambda b: b.bad > 0),
        (Decision.SKIPPED, lambda b: b.skipped == b.count),
    ),
    TriggerRule.NONE_SKIPPED: ((Decision.SKIPPED, lambda b: b.skipped > 0),),
    TriggerRule.ONE_DONE: ((Decision.SKIPPED, lambda b: b.done and not b.success + b.failed),),
    TriggerRule.ONE_FAILED: ((Decision.SKIPPED, lambda b: b.done and not b.bad),),
    TriggerRule.ONE_SUCCESS: (
        (Decision.SKIPPED, lambda b: b.skipped == b.count),
        (Decision.UPSTREAM_FAILED, lambda b: b.done and not b.success),
    ),
}
_MET: Final[dict[TriggerRule, _Condition]] = {
    **dict.fromkeys(TriggerRule, lambda b: b.done),
    TriggerRule.ALWAYS: lambda _b: True,
    TriggerRule.ONE_DONE: lambda b: b.success + b.failed > 0,
    TriggerRule.ONE_FAILED: lambda b: b.bad > 0,
    TriggerRule.ONE_SUCCESS: lambda b: b.success > 0,
}


def decide(rule: TriggerRule | str, states: Iterable[str], setups: Iterable[str] = ()) -> Decision:
    """Decide what becomes of an instance.

    Args:
        rule: its trigger rule, or the rule's name.
        states: of the instances directly before it, as `InstanceState` or its values; what is not final is unfinished,
            and cancelled counts as failed. None at all: nothing is waited for.
        setups: those of the setup hooks of its run. Without one that succeeded nothing but an `always` starts:
            a teardown (`all_done_setup_success`) needs one that did, everything else all of them.

    Returns:
        A `Decision`, equal to its value.

    Raises:
        ValueError: there is no such rule.
    """
    rule = TriggerRule(rule)
    if rule is TriggerRule.ALWAYS:
        return Decision.RUN
    before, setup = _count(states), _count(setups)
    if rule is TriggerRule.ALL_DONE_SETUP_SUCCESS:
        prepared = _one_was_set_up(setup) if before.done else Decision.WAIT
    else:
        prepared = _all_are_set_up(setup)
    if prepared is not Decision.RUN:
        return prepared
    never = next((decision for decision, doomed in _NEVER[rule] if before.count and doomed(before)), None)
    if never is not None:
        return never
    return Decision.RUN if not before.count or _MET[rule](before) else Decision.WAIT


def _all_are_set_up(setup: _Before) -> Decision:
    """Work needs what every setup hook makes."""
    if setup.bad:
        return Decision.UPSTREAM_FAILED
    if setup.skipped:
        return Decision.SKIPPED
    return Decision.RUN if setup.done else Decision.WAIT


def _one_was_set_up(setup: _Before) -> Decision:
    """A teardown has something to remove once one setup hook has made something."""
    if not setup.done:
        return Decision.WAIT
    if setup.success or not setup.count:
        return Decision.RUN
    return Decision.SKIPPED if setup.skipped == setup.count else Decision.UPSTREAM_FAILED
