"""How a run moves: what becomes ready, what a failure leads to, when a run is over.

Every function here takes the table and a run in it and is called by `apply.py` alone. `enter` is the one place where an
instance changes its state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.runtable import notices, replays
from agent.runtable.backoff import retry_delay_ms
from agent.runtable.gate_rows import GateState
from agent.runtable.model import (
    INSTANCE_FINAL,
    MAX_ATTEMPTS,
    SIDE_KINDS,
    Attempt,
    AttemptState,
    FinishedRow,
    Instance,
    InstanceKind,
    InstanceState,
    OnAgentLost,
    Reason,
    Run,
    RunState,
)
from agent.runtable.table import Table, pack_run
from agent.runtable.transitions import allowed
from agent.runtable.trigger_rules import Decision, decide

BAD = frozenset({InstanceState.FAILED, InstanceState.UPSTREAM_FAILED, InstanceState.CANCELLED})
BY_HAND = frozenset({Reason.CANCELLED, Reason.MARKED})
LOST = frozenset({Reason.AGENT_LOST, Reason.FENCED})
WAITING = frozenset({InstanceState.PENDING, InstanceState.SCHEDULED, InstanceState.UP_FOR_RETRY})
TEARDOWN_MS = 3_600_000  # what the teardown of a run has when the run's time is over
_STATES = {
    Decision.RUN: InstanceState.SCHEDULED,
    Decision.SKIPPED: InstanceState.SKIPPED,
    Decision.UPSTREAM_FAILED: InstanceState.UPSTREAM_FAILED,
    Decision.WAIT: InstanceState.PENDING,
}


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that left the table: for the history, which keeps `record`."""

    run: Run
    record: bytes


def enter(
    table: Table,
    run: Run,
    instance: Instance,
    state: InstanceState,
    reason: Reason | None = None,
    message: str = "",
) -> None:
    """Move an instance to `state`. Its deadline is that of the new state."""
    assert allowed(instance.state, state), f"{run.id}/{instance.plan.name}: {instance.state} -> {state}"
    now_ms = table.rows.time_ms
    instance.state = state
    instance.since_ms = now_ms
    instance.reason = reason
    instance.message = message
    instance.due_ms = None
    if state is InstanceState.SCHEDULED:
        instance.due_ms = now_ms + run.queue_timeout_ms
    elif state is InstanceState.RUNNING and instance.plan.timeout_ms is not None:
        instance.due_ms = now_ms + instance.plan.timeout_ms  # see `regain` for the other way to this state
    elif state is InstanceState.UP_FOR_RETRY:
        instance.due_ms = now_ms + _delay_ms(run, instance)
        notices.retried(table, run, instance)
    table.index_instance(run, instance)


def _delay_ms(run: Run, instance: Instance) -> int:
    retry = instance.plan.retry
    rule = retry.rule(_exit_code(instance))
    if rule is not None and rule.delay_s is not None:
        return round(rule.delay_s * 1000)
    return retry_delay_ms(
        delay_s=retry.delay_s,
        exponential=retry.exponential,
        max_delay_s=retry.max_delay_s,
        dag=f"{run.project}/{run.job}",
        task=instance.plan.name,
        logical=str(run.scheduled_at_ms),
        try_number=tries(instance),
    )


def tries(instance: Instance) -> int:
    """How many tries count against the retries: not those of lost agents, nor those before an operator's clear."""
    return sum(1 for attempt in instance.attempts[instance.clears :] if attempt.counts and not attempt.open)


def settle(table: Table, run: Run) -> None:
    """Decide every pending instance that can be decided. One pass is enough: `after` only names earlier ones.

    None before its run has begun: it may wait for its place (`limits.py`), or at its gates (`gates.py`).
    """
    if not run.begun:
        return
    for instance in run.instances:
        if instance.state is InstanceState.PENDING:
            state = _decide(run, instance)
            if state is not InstanceState.PENDING:
                enter(table, run, instance, state)


def _decide(run: Run, instance: Instance) -> InstanceState:
    plan = instance.plan
    before = [_seen(run, name) for name in plan.after]
    if plan.kind is InstanceKind.FAIL:
        return _decide_fail_hook(run, before)
    setups = [] if plan.kind is InstanceKind.SETUP else [as_seen(one) for one in _of_kind(run, InstanceKind.SETUP)]
    return _STATES[decide(plan.trigger_rule, before, setups)]


def _decide_fail_hook(run: Run, before: list[InstanceState]) -> InstanceState:
    """A fail hook runs when anything failed but fail hooks; among these it only keeps the plugins' order.

    A teardown comes after it, and has not ended yet.
    """
    core = [as_seen(instance) for instance in run.instances if instance.plan.kind not in SIDE_KINDS]
    if any(state in BAD for state in core):
        ordered = all(state in INSTANCE_FINAL for state in before)
        return InstanceState.SCHEDULED if ordered else InstanceState.PENDING
    if all(state in INSTANCE_FINAL for state in core):
        return InstanceState.SKIPPED
    return InstanceState.PENDING


def _seen(run: Run, name: str) -> InstanceState:
    instance = run.instance(name)
    assert instance is not None, f"{run.id}: {name} is not in the run"
    return as_seen(instance)


def as_seen(instance: Instance) -> InstanceState:
    """Its state, as it counts for what comes after it, and for its run."""
    allowed_to = instance.plan.allow_failure and instance.state is InstanceState.FAILED
    return InstanceState.SUCCESS if allowed_to else instance.state


def _of_kind(run: Run, kind: InstanceKind) -> list[Instance]:
    return [instance for instance in run.instances if instance.plan.kind is kind]


def end_early(table: Table, run: Run, reason: Reason, *, teardown: bool, unheard: bool = True) -> None:
    """End a run before its time, or at the end of it. teardown: its teardown as well, if that is due at all.

    unheard: see `stop`.
    """
    if teardown or run.state is RunState.QUEUED:  # nothing was made that had to be removed
        run.teardown_until_ms = 0
    stop(table, run, [instance for instance in run.instances if not run.spares(instance)], reason, unheard=unheard)


def time_out(table: Table, run: Run) -> None:
    """The time of a run is over: of its work, and an hour later of its teardown."""
    again, run.reason = run.reason is Reason.TIMEOUT, Reason.TIMEOUT
    end_early(table, run, Reason.TIMEOUT, teardown=again)
    if any(run.spares(instance) and not instance.final for instance in run.instances):
        run.teardown_until_ms = table.rows.time_ms + TEARDOWN_MS
        table.deadlines.add_run(run)
    else:
        run.teardown_until_ms = 0


def stop(table: Table, run: Run, instances: Iterable[Instance], reason: Reason, *, unheard: bool = True) -> None:
    """End these instances: what waits is cancelled at once, what may be running is asked to stop first (P3).

    Work on a lost agent hears nobody. It is given up: an operator says that it has ended, or the run's time is over.
    unheard False: nobody says so, and it stays open.
    """
    for instance in instances:
        attempt = instance.open_attempt
        if attempt is not None:
            attempt.stop_wanted = attempt.stop_wanted or reason
            if instance.state is InstanceState.UNKNOWN and unheard:
                _close_unheard(table, run, instance, attempt, unproven=reason is Reason.TIMEOUT)
        elif instance.state in WAITING:
            enter(table, run, instance, InstanceState.CANCELLED, reason)


def lose(table: Table, run: Run, instance: Instance, attempt: Attempt) -> None:
    """The agent of an open attempt is lost: do what the job wants, or what a stop that was asked for says.

    What cannot be fenced waits, whatever the job wants: nobody knows whether it goes on (P3).
    """
    if not instance.outlives_loss:
        _close_unheard(table, run, instance, attempt, unproven=False)
    elif run.reason is Reason.TIMEOUT and not run.spares(instance):  # there is no later deadline to wait for (P1)
        _close_unheard(table, run, instance, attempt, unproven=True)
    else:
        why = "" if attempt.fenceable else f": the executor {instance.plan.executor} cannot be fenced"
        message = f"the agent {attempt.agent} is lost, and the work may go on there{why}"
        enter(table, run, instance, InstanceState.UNKNOWN, Reason.AGENT_LOST, message)


def regain(table: Table, run: Run, instance: Instance, attempt: Attempt) -> None:
    """The agent of an unknown instance is back, and its work in its hands again. A time-out counts from the start."""
    if attempt.state is AttemptState.ASSIGNED:
        enter(table, run, instance, InstanceState.SCHEDULED)
        return
    enter(table, run, instance, InstanceState.RUNNING)
    assert attempt.started_at_ms is not None
    if instance.due_ms is not None:
        instance.due_ms -= max(0, table.rows.time_ms - attempt.started_at_ms)
        table.index_instance(run, instance)


def _close_unheard(table: Table, run: Run, instance: Instance, attempt: Attempt, *, unproven: bool) -> None:
    """End an attempt without its agent's word."""
    attempt.finished_at_ms = table.rows.time_ms
    attempt.unproven = unproven
    attempt.message = f"the agent {attempt.agent} was lost" + (", and the work may go on there" if unproven else "")
    close_attempt(table, run, instance, attempt, Reason.AGENT_LOST, heard=False)


def close_attempt(
    table: Table, run: Run, instance: Instance, attempt: Attempt, reason: Reason | None, *, heard: bool = True
) -> None:
    """The work of an attempt has ended; decide what that leads to.

    reason: None = it succeeded.  heard: its agent has said so.
    """
    if reason is None:
        attempt.state = AttemptState.SUCCESS
        enter(table, run, instance, instance.mark or InstanceState.SUCCESS)
        return
    if (
        reason is Reason.EXIT_CODE
        and attempt.stop_wanted is None
        and attempt.exit_code in instance.plan.skip_exit_codes
    ):
        attempt.state = AttemptState.SKIPPED
        message = f"exit code {attempt.exit_code} means that there was nothing to do"
        enter(table, run, instance, InstanceState.SKIPPED, None, message)
        return
    attempt.reason = attempt.stop_wanted or reason
    attempt.state = AttemptState.CANCELLED if attempt.reason in BY_HAND else AttemptState.FAILED
    attempt.counts = attempt.reason not in LOST
    state, why = _after_failure(run, instance, attempt.reason, heard=heard)
    enter(table, run, instance, state, why, attempt.message)


def _after_failure(run: Run, instance: Instance, reason: Reason, *, heard: bool) -> tuple[InstanceState, Reason]:
    if instance.mark is not None:
        return instance.mark, Reason.MARKED
    if not run.spares(instance):
        if run.cancelled_by is not None:  # cancel beats retry (R9)
            return InstanceState.CANCELLED, Reason.CANCELLED
        if run.reason is Reason.TIMEOUT:
            return InstanceState.FAILED, Reason.TIMEOUT
    if reason is Reason.QUEUE_TIMEOUT or len(instance.attempts) - instance.clears >= MAX_ATTEMPTS:
        return InstanceState.FAILED, reason
    if instance.plan.on_agent_lost is OnAgentLost.FAIL and _may_have_begun(instance, reason, heard=heard):
        return InstanceState.FAILED, reason
    if reason in LOST:
        return InstanceState.SCHEDULED, reason
    rule = instance.plan.retry.rule(_exit_code(instance))
    if tries(instance) <= instance.plan.retry.count and (rule is None or rule.retry):
        return InstanceState.UP_FOR_RETRY, reason
    return InstanceState.FAILED, reason


def _exit_code(instance: Instance) -> int | None:
    """With which code the newest attempt has failed by itself; None where it was something else."""
    last = instance.last
    return last.exit_code if last is not None and last.reason is Reason.EXIT_CODE else None


def _may_have_begun(instance: Instance, reason: Reason, *, heard: bool) -> bool:
    """Whether a loss may have cut work short: not where the agent itself says that nothing had begun."""
    last = instance.last
    assert last is not None
    return not heard or (reason in LOST and last.started_at_ms is not None)


def finish_if_over(table: Table, run: Run) -> FinishedRun | None:
    """If every instance has ended, end the run and take it out of the table."""
    if not all(instance.final for instance in run.instances):
        return None
    run.state, run.reason = _result(run)
    run.finished_at_ms = table.rows.time_ms
    notices.ended(table, run)
    table.remove_run(run)
    run.held = False
    return record(table, run)


def record(table: Table, run: Run) -> FinishedRun:
    """Keep the small row of a run that has ended now, and pack the rest of it for the history."""
    rows = table.rows
    assert run.finished_at_ms is not None
    row = FinishedRow(
        run.project,
        run.job,
        run.scheduled_at_ms,
        run.origin,
        run.state,
        rows.index,
        run.finished_at_ms,
        run.pipeline,
        run.replay,
    )
    table.add_finished(run.id, row)
    replays.run_ended(table, run)
    while len(rows.finished) > rows.limits.finished_max:
        oldest = table.deadlines.oldest_finished()
        assert oldest is not None
        table.forget_finished(oldest)
    return FinishedRun(run, pack_run(run))


def _result(run: Run) -> tuple[RunState, Reason | None]:
    """A failed fail hook or teardown is shown and changes nothing; any other failure fails the run.

    Without one the run is what its task is: success, or skipped.
    """
    core = [instance for instance in run.instances if instance.plan.kind not in SIDE_KINDS]
    states = {as_seen(instance) for instance in core}
    if run.cancelled_by is not None and any(i.state is InstanceState.CANCELLED for i in run.instances):
        return RunState.CANCELLED, Reason.CANCELLED
    if run.reason is Reason.QUEUE_TIMEOUT:
        return RunState.FAILED, Reason.QUEUE_TIMEOUT
    shut_by = run.shut_by
    if shut_by is not None:
        skips = shut_by.state is GateState.SKIPPED
        return (RunState.SKIPPED if skips else RunState.UPSTREAM_FAILED), Reason.TIMEOUT if shut_by.timed_out else None
    if run.reason is Reason.TIMEOUT and states & BAD:
        return RunState.FAILED, Reason.TIMEOUT
    if states & BAD:
        return RunState.FAILED, next((i.reason for i in core if as_seen(i) is InstanceState.FAILED), None)
    skipped = all(one.state is InstanceState.SKIPPED for one in core if one.plan.kind is InstanceKind.TASK)
    return (RunState.SKIPPED if skipped else RunState.SUCCESS), None
