"""What must hold after every command. `check` raises AssertionError with the run and what is wrong.

Tests call it after each command, on every replica. It reads the rows and compares the derived indexes with them.
"""

from __future__ import annotations

from agent.runtable.model import (
    INSTANCE_FINAL,
    Attempt,
    AttemptState,
    Instance,
    InstanceState,
    Run,
    RunState,
)
from agent.runtable.table import Table

OPEN_STATES = frozenset({InstanceState.SCHEDULED, InstanceState.RUNNING, InstanceState.UNKNOWN})


def check(table: Table) -> None:
    """Check everything. Cost: proportional to the whole table."""
    rows = table.rows
    for run_id, run in rows.runs.items():
        assert run.id == run_id, run_id
        _check_run(run)
        assert run_id not in rows.finished, f"{run_id}: in the table and finished"
    for request in rows.requests.values():
        assert request.run_id, "a request without its run"
    _check_indexes(table)


def _check_run(run: Run) -> None:
    where = run.id
    assert run.instances, f"{where}: no instances"
    assert not run.final, f"{where}: final, but in the table (P4)"
    assert run.deadline_ms > 0, f"{where}: waits without a deadline (P1)"
    assert not all(i.final for i in run.instances), f"{where}: over, but in the table"
    any_attempt = any(i.attempts for i in run.instances)
    assert (run.state is RunState.RUNNING) >= any_attempt, f"{where}: queued, with attempts"
    earlier: set[str] = set()
    for instance in run.instances:
        _check_instance(run, instance)
        assert earlier.issuperset(instance.plan.after), f"{where}: {instance.plan.name} comes before what it waits for"
        assert instance.plan.name not in earlier, f"{where}: {instance.plan.name} twice"
        earlier.add(instance.plan.name)
    if run.ending:
        waiting = [i.plan.name for i in run.instances if not i.final and i.open_attempt is None]
        assert not waiting, f"{where}: being ended, but {waiting} wait"


def _check_instance(run: Run, instance: Instance) -> None:
    where = f"{run.id}/{instance.plan.name} ({instance.state})"
    for number, attempt in enumerate(instance.attempts, start=1):
        assert attempt.number == number, f"{where}: attempts are not numbered from 1"
        assert attempt.open <= (number == len(instance.attempts)), f"{where}: two attempts at a time (P3)"
        _check_attempt(where, attempt)
    attempt_open = instance.open_attempt is not None
    assert attempt_open <= (instance.state in OPEN_STATES), f"{where}: ended or waiting, with an open attempt (P3)"
    if instance.state is InstanceState.RUNNING:
        assert attempt_open, f"{where}: running without an attempt"
    if instance.state is InstanceState.SCHEDULED and not attempt_open:
        assert instance.due_ms is not None, f"{where}: waits for a slot without a deadline (P1)"
    if instance.state is InstanceState.UP_FOR_RETRY:
        assert instance.due_ms is not None, f"{where}: waits for its retry without a deadline (P1)"
    if instance.final or instance.state is InstanceState.PENDING:
        assert instance.due_ms is None, f"{where}: has a deadline it cannot need"
    assert instance.clears <= len(instance.attempts), where


def _check_attempt(where: str, attempt: Attempt) -> None:
    if attempt.state is AttemptState.RUNNING:
        assert attempt.started_at_ms is not None, f"{where}: running without a start"
    if attempt.state is AttemptState.SUCCESS:
        assert attempt.reason is None, f"{where}: succeeded with a reason"
    if attempt.state in {AttemptState.FAILED, AttemptState.CANCELLED}:
        assert attempt.reason is not None, f"{where}: failed without a reason (P11)"


def _check_indexes(table: Table) -> None:
    fresh = Table(table.rows)
    assert dict.fromkeys(sorted(table.ready)) == dict.fromkeys(sorted(fresh.ready)), "ready"
    held = {agent: keys for agent, keys in table.assigned.items() if keys}
    assert held == fresh.assigned, "assigned"
    assert table.bytes_used == fresh.bytes_used, "bytes (P12)"
    assert table.sizes == fresh.sizes, "sizes (P12)"
    missing = set(fresh.deadlines) - set(table.deadlines)
    assert not {d for d in missing if fresh.meaningful(d)}, f"deadlines that would never fire (P1): {missing}"


def check_step(before: dict[str, InstanceState], after: Run) -> None:
    """What must hold between two tables: a final instance stays as it is unless it was cleared (P4)."""
    for instance in after.instances:
        old = before.get(instance.plan.name)
        if old in INSTANCE_FINAL and instance.clears == 0:
            assert instance.state is old, f"{after.id}/{instance.plan.name}: was {old}, is {instance.state} (P4)"
