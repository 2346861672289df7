"""Why a run is where it is (P11): every instance says what it waits for, since when and until when."""

from __future__ import annotations

from dataclasses import dataclass

from agent.runtable.lifecycle import tries
from agent.runtable.model import INSTANCE_FINAL, Instance, InstanceKind, InstanceState, Run
from agent.runtable.table import Table


@dataclass(frozen=True, slots=True)
class Explanation:
    """One instance's answer. since_ms, until_ms: milliseconds since the epoch; until_ms None = the run's deadline."""

    instance: str
    state: str
    why: str
    since_ms: int
    until_ms: int | None


def explain(table: Table, run: Run) -> list[Explanation]:
    """One line for each instance of the run, in order. A final one says how it came to that."""
    return [
        Explanation(i.plan.name, i.state, _why(table, run, i), i.since_ms, i.due_ms if not i.final else None)
        for i in run.instances
    ]


def _why(table: Table, run: Run, instance: Instance) -> str:
    attempt = instance.open_attempt
    if instance.final:
        return _why_final(run, instance)
    if attempt is not None and attempt.stop_wanted is not None:
        return f"being stopped ({attempt.stop_wanted}): attempt {attempt.number} on {attempt.agent} has not ended yet"
    if instance.state is InstanceState.PENDING:
        return _why_pending(run, instance)
    if instance.state is InstanceState.UP_FOR_RETRY:
        left = instance.plan.retry.count - tries(instance) + 1
        return f"try {tries(instance)} failed ({instance.reason}); waits for its next, {left} left"
    if instance.state is InstanceState.RUNNING:
        assert attempt is not None
        return f"attempt {attempt.number} is running on {attempt.agent}"
    if attempt is not None:
        return f"attempt {attempt.number} was handed to {attempt.agent}, which has not said yet that it started"
    return _why_not_assigned(table, instance)


def _why_final(run: Run, instance: Instance) -> str:
    if instance.state is InstanceState.UPSTREAM_FAILED:
        failed = [name for name in instance.plan.after if _failed(run, name)]
        return f"not started: {', '.join(failed)} failed"
    if instance.state is InstanceState.SKIPPED:
        return "nothing failed"
    reason = f" ({instance.reason})" if instance.reason else ""
    message = f": {instance.message}" if instance.message else ""
    return f"{instance.state}{reason}{message}"


def _failed(run: Run, name: str) -> bool:
    before = run.instance(name)
    return before is not None and before.final and before.state not in {InstanceState.SUCCESS, InstanceState.SKIPPED}


def _why_pending(run: Run, instance: Instance) -> str:
    if instance.plan.kind is InstanceKind.FAIL:
        return "waits for a failure of the hooks and the task before it"
    awaited = [name for name in instance.plan.after if _open(run, name)]
    return f"waits for {', '.join(awaited)}"


def _open(run: Run, name: str) -> bool:
    before = run.instance(name)
    return before is not None and before.state not in INSTANCE_FINAL


def _why_not_assigned(table: Table, instance: Instance) -> str:
    executor = instance.plan.executor
    able = [a for a in table.rows.agents.values() if executor in a.executors and not a.lost]
    if not able:
        return f"no agent has the executor {executor!r}"
    slots = sum(agent.slots for agent in able)
    held = sum(len(table.assigned.get(agent.id, ())) for agent in able)
    if held >= slots:
        return f"waits for a slot: all {slots} of the agents with executor {executor!r} are taken"
    return "is about to be assigned"
