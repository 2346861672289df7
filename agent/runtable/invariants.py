"""What must hold after every command. `check` raises AssertionError with the run and what is wrong.

Tests call it after each command, on every replica. It reads the rows and compares the derived indexes with them.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.runtable import limits, notices
from agent.runtable.deadlines import SPARE
from agent.runtable.gate_invariants import check_gates
from agent.runtable.model import (
    INSTANCE_FINAL,
    Attempt,
    AttemptState,
    Instance,
    InstanceState,
    Overlap,
    Run,
    RunState,
    TableImage,
)
from agent.runtable.replay_invariants import check_replays
from agent.runtable.table import Table
from agent.runtable.waiting import need_of

OPEN_STATES = frozenset({InstanceState.SCHEDULED, InstanceState.RUNNING, InstanceState.UNKNOWN})


def check(table: Table) -> None:
    """Check everything. Cost: proportional to the whole table."""
    rows = table.rows
    for run_id, run in rows.runs.items():
        assert run.id == run_id, run_id
        _check_run(run)
        check_gates(table, run)
        for instance in run.instances:
            _check_owner(rows, run, instance)
        assert run_id not in rows.finished, f"{run_id}: in the table and finished"
    for request in rows.requests.values():
        assert request.run_id, "a request without its run"
    for tick, run_id in rows.ticks.items():
        assert run_id in rows.runs or run_id in rows.finished, f"{tick}: of a run that nobody knows"
    _check_agents(rows)
    check_replays(table)
    _check_events(table)
    _check_indexes(table)
    _check_waiting(table)


def _check_run(run: Run) -> None:
    where = run.id
    assert run.instances, f"{where}: no instances"
    assert not run.final, f"{where}: final, but in the table (P4)"
    assert not all(i.final for i in run.instances), f"{where}: over, but in the table"
    any_attempt = any(i.attempts for i in run.instances)
    assert run.state is RunState.RUNNING or run.held or not any_attempt, f"{where}: queued, with attempts"
    _check_held(run)
    earlier: set[str] = set()
    for instance in run.instances:
        _check_instance(run, instance)
        assert earlier.issuperset(instance.plan.after), f"{where}: {instance.plan.name} comes before what it waits for"
        assert instance.plan.name not in earlier, f"{where}: {instance.plan.name} twice"
        earlier.add(instance.plan.name)
    if run.ending:
        unspared = [instance for instance in run.instances if not run.spares(instance)]
        waiting = [i.plan.name for i in unspared if not i.final and i.open_attempt is None]
        alone = all(run.spares(instance) or instance.final for instance in run.instances)
        assert not alone or run.end_due_ms is not None, f"{where}: its teardown has no deadline (P1)"
        assert not waiting, f"{where}: being ended, but {waiting} wait"


def _check_held(run: Run) -> None:
    """A run that waits for its place has nothing under way."""
    if not run.held:
        return
    where = run.id
    assert run.state is RunState.QUEUED, f"{where}: waits for its place, and is {run.state}"
    assert run.max_active > 0, f"{where}: waits for its place, and has no limit"
    assert run.overlap is not Overlap.ALLOW, f"{where}: waits for its place, and has no limit"
    assert not run.ending, f"{where}: being ended, but waits for its place"
    assert all(i.final or i.state is InstanceState.PENDING for i in run.instances), f"{where}: has begun, without place"


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
    if instance.final or instance.state in {InstanceState.PENDING, InstanceState.UNKNOWN}:
        assert instance.due_ms is None, f"{where}: has a deadline it cannot need"
    assert instance.clears <= len(instance.attempts), where


def _check_owner(rows: TableImage, run: Run, instance: Instance) -> None:
    """An instance is unknown exactly while its work is on a lost agent, and only where it may outlive that (P3)."""
    attempt, unknown = instance.open_attempt, instance.state is InstanceState.UNKNOWN
    where = f"{run.id}/{instance.plan.name} ({instance.state})"
    if attempt is None:
        assert not unknown, f"{where}: unknown, but its work has ended"
        return
    agent = rows.agents.get(attempt.agent)
    assert unknown == (agent is None or agent.lost), f"{where}: on {attempt.agent}, which is {agent}"
    waits = instance.outlives_loss
    assert waits or not unknown, f"{where}: nobody waits for it"
    assert not (unknown and run.end_due_ms is None), f"{where}: unknown, and no deadline is left (P1)"
    if agent is not None:
        assert attempt.epoch <= agent.epoch, f"{where}: of an epoch to come"
        assert waits or attempt.epoch == agent.epoch, f"{where}: outlives the loss of its agent"


def _check_agents(rows: TableImage) -> None:
    nodes: dict[int, str] = {}
    gone = {one.node for one in rows.removed.values()}
    for agent_id, agent in rows.agents.items():
        assert agent.id == agent_id, agent_id
        assert agent.epoch >= 1, f"{agent_id}: epochs count from 1"
        assert agent.lost == (agent.lost_at_ms is not None), f"{agent_id}: lost, or not"
        assert agent_id not in rows.removed, f"{agent_id}: has returned from a removal"
        if agent.node:
            assert agent.node not in gone, f"{agent_id}: its node has returned from a removal"
            assert agent.node not in nodes, f"{agent_id} and {nodes[agent.node]}: one node"
            nodes[agent.node] = agent_id
    known = [agent.level for agent in rows.agents.values()]
    assert not known or min(known) == rows.level, f"the cluster's level is {rows.level}, the agents know {known}"


def _check_events(table: Table) -> None:
    rows = table.rows
    assert len(rows.events) <= notices.EVENTS_MAX, "events (P12)"
    assert len(rows.given_up) <= min(notices.GIVEN_UP_MAX, rows.events_given_up), "events that were given up (P12)"
    assert not rows.events.keys() & rows.given_up.keys(), "an event that waits and was given up"
    for event_id, event in rows.events.items():
        assert event.id == event_id, event_id
        assert event.given_up_ms is None, f"{event_id}: given up, and pending"
        assert event.at_ms <= event.next_due_ms <= event.give_up_ms, f"{event_id}: without a deadline (P1)"
    for event in rows.given_up.values():
        assert event.error, f"{event.id}: given up without a reason (P11)"
        assert event.given_up_ms is not None, f"{event.id}: given up, but not when"
    outbox = {endpoint: list(ids) for endpoint, ids in table.outbox.items()}
    assert outbox == {endpoint: list(ids) for endpoint, ids in Table(rows).outbox.items()}, "outbox"
    assert all(len(ids) <= notices.ENDPOINT_EVENTS_MAX for ids in outbox.values()), "events of one endpoint (P12)"


def _check_attempt(where: str, attempt: Attempt) -> None:
    if attempt.state is AttemptState.RUNNING:
        assert attempt.started_at_ms is not None, f"{where}: running without a start"
    if attempt.state in {AttemptState.SUCCESS, AttemptState.SKIPPED}:
        assert attempt.reason is None, f"{where}: ended well with a reason"
    if attempt.state in {AttemptState.FAILED, AttemptState.CANCELLED}:
        assert attempt.reason is not None, f"{where}: failed without a reason (P11)"
    assert attempt.outputs is None or attempt.state is AttemptState.SUCCESS, f"{where}: outputs of no success"
    assert not (attempt.unproven and attempt.open), f"{where}: given up, but open"


def _check_indexes(table: Table) -> None:
    fresh = Table(table.rows)
    assert dict.fromkeys(sorted(table.ready)) == dict.fromkeys(sorted(fresh.ready)), "ready"
    held = {agent: keys for agent, keys in table.assigned.items() if keys}
    assert held == fresh.assigned, "assigned"
    assert (table.taken.slots, table.taken.replays) == (fresh.taken.slots, fresh.taken.replays), "pools"
    _check_places(table, fresh)
    assert table.awaiting.of_runs == fresh.awaiting.of_runs, "awaited runs"
    assert table.awaiting.of_ticks == fresh.awaiting.of_ticks, "awaited ticks"
    assert table.awaiting.next_poll_ms() == fresh.awaiting.next_poll_ms(), "http gates nobody would ask for"
    assert table.awaiting.beside == fresh.awaiting.beside, "runs of ticks"
    assert table.pipelines == fresh.pipelines, "pipelines"
    assert table.bytes_used == fresh.bytes_used, "bytes (P12)"
    assert table.sizes == fresh.sizes, "sizes (P12)"
    missing = set(fresh.deadlines) - set(table.deadlines)
    assert not {d for d in missing if fresh.deadlines.meaningful(d)}, f"deadlines that would never fire (P1): {missing}"
    rows = table.rows
    due = len(rows.events) + sum(len(run.wants) for run in rows.runs.values())
    due += len(rows.runs) + sum(len(run.instances) for run in rows.runs.values()) + len(rows.finished)
    assert len(table.deadlines) <= 2 * (due + SPARE) + len(rows.requests), "deadlines that outlive their rows (P12)"
    ended = [row.finished_at_ms for row in rows.finished.values()]
    assert ended == sorted(ended), "finished runs are not in their order"


def _check_places(table: Table, fresh: Table) -> None:
    """No job has more active runs than the limits of these allow, and nobody waits for a place that is free."""
    assert table.places.as_sets() == fresh.places.as_sets(), "places"
    for job in {(run.project, run.job) for run in table.rows.runs.values()}:
        active, held = table.places.active(job), list(table.places.held(job))
        assert held == list(fresh.places.held(job)), f"{job}: the line has another order after a restart"
        most = [table.rows.runs[run_id].max_active for run_id in active if limits.is_limited(table.rows.runs[run_id])]
        assert len(most) < len(active) or len(active) <= max(most, default=0), f"{job}: more than its limits allow (R2)"
        if held:
            assert len(active) >= table.rows.runs[held[0]].max_active, f"{job}: waits for a place that is free (P1)"


def _check_waiting(table: Table) -> None:
    """The planner's index has what is ready, each where it belongs and in its turn."""
    found = set()
    instances = {(run.id, i.plan.name): i for run in table.rows.runs.values() for i in run.instances}
    for need, lines in table.waiting.needs.items():
        assert lines, f"{need}: empty"
        turns = [line.turn for line in lines.values()]
        assert turns == sorted(set(turns)), f"{need}: out of turn"
        for job, line in lines.items():
            assert line.keys, f"{need} {job}: empty"
            since_ms = 0
            for run_id, name in line.keys:
                run, instance = table.rows.runs[run_id], instances[run_id, name]
                assert (need_of(run, instance), (run.project, run.job)) == (need, job), f"{run_id}: in a wrong line"
                assert instance.since_ms >= since_ms, f"{run_id}/{name}: before one that waits longer"
                since_ms = instance.since_ms
                found.add((run_id, name))
    assert found == set(table.ready), "waiting"


def check_attempts(before: Run, after: Run) -> None:
    """What must hold of attempts between two tables: none goes, an ended one stays, a wish to stop is never unset."""
    for old, new in zip(before.instances, after.instances, strict=True):
        where = f"{after.id}/{new.plan.name}"
        assert len(new.attempts) >= len(old.attempts), f"{where}: an attempt has gone (P4)"
        for one, now in zip(old.attempts, new.attempts, strict=False):
            assert one.open or one == now, f"{where}: attempt {one.number} had ended, and was changed (P4)"
            assert (one.agent, one.epoch) == (now.agent, now.epoch), f"{where}: attempt {one.number} has a new owner"
            assert one.seq <= now.seq, f"{where}: attempt {one.number} has forgotten what its owner said"
            if one.stop_wanted is not None:
                assert now.stop_wanted is one.stop_wanted, f"{where}: attempt {one.number} is not to stop any more"


def check_step(before: dict[str, InstanceState], after: Run, cleared: Collection[str] = ()) -> None:
    """What must hold between two tables: a final instance stays as it is unless the command cleared it (P4)."""
    for instance in after.instances:
        old = before.get(instance.plan.name)
        if old in INSTANCE_FINAL and instance.plan.name not in cleared:
            assert instance.state is old, f"{after.id}/{instance.plan.name}: was {old}, is {instance.state} (P4)"
