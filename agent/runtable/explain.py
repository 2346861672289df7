"""Why a run is where it is (P11): every instance says what it waits for, since when and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from agent.runtable.explain_gates import gate_sentence
from agent.runtable.explain_limits import why_held, why_no_room
from agent.runtable.lifecycle import as_seen, tries
from agent.runtable.model import Agent, Instance, InstanceKind, InstanceState, Reason, Run, TriggerRule
from agent.runtable.placement import fits, takes
from agent.runtable.pools import Rooms
from agent.runtable.table import Table
from agent.runtable.waiting import Need, need_of

_NONE: Final[Mapping[tuple[str, int], Unproven]] = MappingProxyType({})
_ALL_HEARD: Final[Mapping[str, int]] = MappingProxyType({})
NAMES_MAX: Final = 5  # of agents in one sentence
_AS_TOLD: Final = {
    InstanceState.SUCCESS: "succeeded",
    InstanceState.SKIPPED: "was skipped",
    InstanceState.CANCELLED: "was cancelled",
    InstanceState.UPSTREAM_FAILED: "failed",
}
STOP_GRACE_MS: Final = 10_000  # between SIGTERM and SIGKILL, as the worker asks for it


@dataclass(frozen=True, slots=True)
class Explanation:
    """One instance's answer. since_ms, until_ms: milliseconds since the epoch.

    until_ms: None = it has ended, or waits for something that has no end of its own.
    """

    instance: str
    state: str
    why: str
    since_ms: int
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Unproven:
    """An attempt whose end its agent cannot prove, so that it stays open (P3). since_ms: as in `Explanation`."""

    since_ms: int
    error: str


def explain(
    table: Table,
    run: Run,
    unproven: Mapping[tuple[str, int], Unproven] = _NONE,
    silent_ms: Mapping[str, int] = _ALL_HEARD,
) -> list[Explanation]:
    """One line for each instance of the run, in order. A final one says how it came to that.

    unproven: what is known of attempts that cannot be proven ended, by (instance, number).
    silent_ms: for how long the leader has not heard an agent, of those where that is worth a word.
    """
    return [_explanation(table, run, i, unproven, silent_ms) for i in run.instances]


def _explanation(
    table: Table,
    run: Run,
    instance: Instance,
    unproven: Mapping[tuple[str, int], Unproven],
    silent_ms: Mapping[str, int],
) -> Explanation:
    name, attempt = instance.plan.name, instance.open_attempt
    stuck = unproven.get((name, attempt.number)) if attempt is not None else None
    if attempt is None or stuck is None:
        why = _why(table, run, instance)
        if attempt is not None and attempt.agent in silent_ms:
            seconds = silent_ms[attempt.agent] // 1000
            why += f"; the leader has not heard that agent for {seconds} s, and calls it lost if that goes on"
        return Explanation(name, instance.state, why, instance.since_ms, _until_ms(run, instance))
    since = datetime.fromtimestamp(stuck.since_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    why = (
        f"attempt {attempt.number} on {attempt.agent} cannot be proven to have ended, since {since}: {stuck.error}. It "
        "stays open, as its work may still run, and is stopped again and again until that is proven"
    )
    return Explanation(name, instance.state, why, instance.since_ms, None)


def _until_ms(run: Run, instance: Instance) -> int | None:
    """The deadline of what it waits for: its own, that of its stop, or else the run's."""
    if instance.final:
        return None
    attempt = instance.open_attempt
    if attempt is not None and attempt.stop_wanted is not None and instance.state is not InstanceState.UNKNOWN:
        return _stop_asked_ms(run, instance, attempt.stop_wanted) + STOP_GRACE_MS
    due_ms = [one for one in (instance.due_ms, run.end_due_ms) if one is not None]
    return min(due_ms, default=None)


def _stop_asked_ms(run: Run, instance: Instance, reason: Reason) -> int:
    """When a stop was asked for: by someone, who is on record, or by a deadline."""
    if reason is Reason.TIMEOUT:
        own_ms = run.deadline_ms if instance.plan.timeout_ms is None else instance.since_ms + instance.plan.timeout_ms
        return min(own_ms, run.deadline_ms)
    if reason is Reason.QUEUE_TIMEOUT:
        return instance.since_ms + run.queue_timeout_ms
    asked = ("cancel",) if reason is Reason.CANCELLED else (f"mark {instance.plan.name} ", "mark all unfinished ")
    return max((one.at_ms for one in run.audit if one.what.startswith(asked)), default=instance.since_ms)


def _why(table: Table, run: Run, instance: Instance) -> str:
    attempt = instance.open_attempt
    if instance.final:
        return _why_final(run, instance)
    if instance.state is InstanceState.UNKNOWN:
        assert attempt is not None
        return (
            f"{instance.message} (attempt {attempt.number}): waits for that agent's word, for an operator who cancels "
            "or marks it and says that it is assumed to be stopped, or for the end of the run's time"
        )
    if attempt is not None and attempt.stop_wanted is not None:
        return (
            f"being stopped ({attempt.stop_wanted}): attempt {attempt.number} on {attempt.agent} has not ended yet; "
            "it is killed when its grace is over"
        )
    if instance.state is InstanceState.PENDING:
        return why_held(table, run) if run.held else _why_pending(run, instance)
    if instance.state is InstanceState.UP_FOR_RETRY:
        left = instance.plan.retry.count - tries(instance) + 1
        return f"try {tries(instance)} failed ({instance.reason}); waits for its next, {left} left"
    if instance.state is InstanceState.RUNNING:
        assert attempt is not None
        return f"attempt {attempt.number} is running on {attempt.agent}"
    if attempt is not None:
        return f"attempt {attempt.number} was handed to {attempt.agent}, which has not said yet that it started"
    return _why_not_assigned(table, need_of(run, instance))


def _why_final(run: Run, instance: Instance) -> str:
    shut_by = run.shut_by
    if shut_by is not None and not instance.attempts and not instance.reason:
        return f"not started: {gate_sentence(shut_by)}"
    if instance.state is InstanceState.UPSTREAM_FAILED:
        return f"not started: {_by_rule(run, instance)}"
    if instance.state is InstanceState.SKIPPED and not instance.message:
        return "nothing failed" if instance.plan.kind is InstanceKind.FAIL else f"skipped: {_by_rule(run, instance)}"
    reason = f" ({instance.reason})" if instance.reason else ""
    message = f": {instance.message}" if instance.message else ""
    return f"{instance.state}{reason}{message}"


def _by_rule(run: Run, instance: Instance) -> str:
    """What its trigger rule was decided on: the instances before it that have not succeeded, or all of them."""
    before = [one for one in run.instances if _comes_before(one, instance)]
    told = [one for one in before if as_seen(one) is not InstanceState.SUCCESS] or before
    states = ", ".join(f"{one.plan.name} {_AS_TOLD.get(one.state, one.state)}" for one in told)
    rule = instance.plan.trigger_rule
    return states if rule is TriggerRule.ALL_SUCCESS else f"{states} (trigger rule {rule})"


def _comes_before(one: Instance, instance: Instance) -> bool:
    """Whether an instance's rule looks at that one."""
    sets_up = one.plan.kind is InstanceKind.SETUP and instance.plan.kind is not InstanceKind.SETUP
    return sets_up or one.plan.name in instance.plan.after


def _why_pending(run: Run, instance: Instance) -> str:
    if not run.begun:
        waiting = sum(gate.waits for gate in run.gates)
        return f"waits for what its run waits for: {waiting} of {len(run.gates)} gates are not open yet"
    if instance.plan.kind is InstanceKind.FAIL:
        return "waits for a failure of the hooks and the task before it"
    awaited = [one.plan.name for one in run.instances if not one.final and _comes_before(one, instance)]
    rule = instance.plan.trigger_rule
    return f"waits for {', '.join(awaited)}" + ("" if rule is TriggerRule.ALL_SUCCESS else f" (trigger rule {rule})")


def _why_not_assigned(table: Table, need: Need) -> str:
    """The first of what keeps it from an agent: no engine, no label, nobody there, no room in a pool, no slot."""
    executor, constraints = need.executor, need.constraints
    agents = sorted(table.rows.agents.values(), key=lambda agent: agent.id)
    with_engine = [agent for agent in agents if executor in agent.executors]
    if not with_engine:
        return f"{no_agent_has(table, executor)}; waits until one has"
    suited = [agent for agent in with_engine if fits(agent, need)]
    if not suited:
        missing = [f"{label}={value}" for label, value in constraints if not _any_has(with_engine, label, value)]
        labels = missing or [f"{label}={value}" for label, value in constraints]
        which = f"has {_labels(labels)}" if missing else f"has all of {_labels(labels)}"
        return f"no agent with executor {executor!r} {which}; waits until one has"
    able = [agent for agent in suited if takes(agent)]
    out = "; ".join(_out(suited))
    if not able:
        return f"waits for an agent {_with(need)}: {out}"
    if table.rows.hold_ms:
        return (
            "waits: the cluster was recovered or restored, and agents it had before may still run work; a leader gives "
            f"out nothing before it has led for {table.rows.hold_ms / 1000:g} s"
        )
    pool = Rooms(table).full(need)
    if pool is not None:
        return why_no_room(table, need, pool)
    if any(len(table.assigned.get(agent.id, ())) < agent.slots for agent in able):
        return "is about to be assigned"
    full = f"all {len(able)} agents {_with(need)} are full" if len(able) > 1 else f"agent {able[0].id} is full"
    slots = sum(agent.slots for agent in able)
    return f"waits for a slot: {full} ({slots} slot{'s' if slots != 1 else ''}){'; ' if out else ''}{out}"


def _any_has(agents: list[Agent], label: str, value: str) -> bool:
    return any(agent.labels.get(label) == value for agent in agents)


def _labels(labels: list[str]) -> str:
    return f"the label{'s' if len(labels) > 1 else ''} {', '.join(labels)}"


def _with(need: Need) -> str:
    labels = [f"{label}={value}" for label, value in need.constraints]
    return f"with executor {need.executor!r}" + (f" and {_labels(labels)}" if labels else "")


def _out(agents: list[Agent]) -> list[str]:
    """Who of these is given nothing, and why."""
    lost = [agent.id for agent in agents if agent.lost]
    draining = [agent.id for agent in agents if agent.draining and not agent.lost]
    return [_are(names, what) for names, what in ((lost, "lost"), (draining, "draining")) if names]


def _are(names: list[str], what: str) -> str:
    told = ", ".join(names[:NAMES_MAX]) + (f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else "")
    return f"agent{'s' if len(names) > 1 else ''} {told} {'are' if len(names) > 1 else 'is'} {what}"


def agents_with(table: Table, executor: str) -> list[Agent]:
    """The agents that can be given work of this executor: they are there, and its engine has answered them."""
    return [agent for agent in table.rows.agents.values() if executor in agent.executors and not agent.lost]


def no_agent_has(table: Table, executor: str) -> str:
    """What is told where `agents_with` finds nobody, with what there is instead."""
    ready = sorted({name for agent in table.rows.agents.values() if not agent.lost for name in agent.executors})
    return f"no agent has the executor {executor!r} ready (ready: {', '.join(ready) or 'none'})"
