"""The one door to the run table: (table, index, command) -> table.

`apply` reads no clock and touches nothing but the table it is given, so the same log gives the same rows on every
replica. It never raises on bytes that were committed: a command that does not find the state it names is a no-op with
a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from agent.runtable import agents, catalog, importing, lifecycle, limits
from agent.runtable import commands as c
from agent.runtable.deadlines import FINISHED, INSTANCE, REQUEST, RUN
from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import (
    Attempt,
    AttemptState,
    Audit,
    Instance,
    InstanceKind,
    InstancePlan,
    InstanceState,
    Origin,
    Reason,
    Request,
    Run,
    RunState,
    tick_key,
)
from agent.runtable.placement import fits, takes
from agent.runtable.pools import Rooms
from agent.runtable.table import DERIVED_TICK_ORIGINS, Table, unpack_run
from agent.runtable.waiting import need_of

FIRED_MAX: Final = 1000  # deadlines by one AdvanceTime; the rest fires with the next (P12)
REQUEST_AGAIN_MS: Final = 3_600_000
ASSUMED: Final = ", assumed stopped"  # of an operator's command, in the audit
ORDER: Final = {InstanceKind.SETUP: 0, InstanceKind.FAIL: 2, InstanceKind.TEARDOWN: 3}  # the rest: 1
MARKS: Final = frozenset({InstanceState.SUCCESS, InstanceState.FAILED})


@dataclass(frozen=True, slots=True)
class Applied:
    """What a command did.

    code: "ok"; "duplicate" (run_id is the run that the first request got); else why nothing was changed, a word of
    `REFUSALS`.  finished: runs that ended by it, in order.
    """

    index: int
    code: str = "ok"
    run_id: str = ""
    finished: tuple[FinishedRun, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether what was asked for is so now."""
        return self.code in {"ok", "duplicate"}


REFUSALS: Final = {
    "undecodable": "the bytes are no command of this version",
    "newer_level": "a command of a later release, which this one does not know",
    "exists": "it is there already",
    "stale": "the table has moved on since",
    "unknown_agent": "no such agent",
    "removed_agent": "an agent with that id or node number was removed, and never returns",
    "node_taken": "the id or the node number belongs to another agent",
    "agent_lost": "the agent was declared lost; it returns once all its earlier work has ended",
    "older_level": "the agent's release is older than what the cluster says by now; start it with the others' release",
    "agent_busy": "the agent has open attempts; drain it, or wait until it is lost",
    "last_agent": "it is the only agent that is left; stop it instead",
    "unknown_project": "no such project",
    "unknown_job": "no such job",
    "unknown_secret": "no such secret",
    "unknown_token": "no such token",
    "too_many_tokens": "there are as many tokens as there may be; delete one first",
    "unknown_run": "no such run",
    "unknown_instance": "the run has no such instance",
    "invalid": "the command contradicts itself",
    "idempotency_conflict": "the same key was used for another request",
    "table_full": "the run table is full",
    "line_full": "as many runs of the job as may wait for their place do already",
    "run_final": "the run has ended",
    "run_ending": "the run is being ended",
    "not_final": "the instance has not ended",
    "instance_final": "the instance has ended",
    "not_proven_stopped": "work of it may go on, on a lost agent; if it has ended, say so: `--assume-stopped`",
}

Handler = Callable[[Table, c.AnyCommand], str]


def apply(table: Table, index: int, data: bytes) -> Applied:
    """Apply the log entry `data` at `index`. Returns what it did; changes nothing but `table`.

    "newer_level" is the one that was not applied here and is elsewhere: the caller must apply nothing after it.
    """
    if c.level_of(data) > c.LEVEL:
        return Applied(index, "newer_level")
    table.rows.index = index
    command = c.decode(data)
    if command is None:
        return Applied(index, "undecodable")
    table.rows.time_ms = max(table.rows.time_ms, command.time_ms)
    if isinstance(command, c.SubmitRun):
        return _submit(table, index, command)
    if isinstance(command, c.AdvanceTime):
        return Applied(index, finished=_advance(table))
    if isinstance(command, c.ImportRun):
        return Applied(index, *importing.import_run(table, command))
    if isinstance(command, c.AgentUp):
        return _touch_all(table, index, agents.agent_up(table, command))
    if isinstance(command, c.AgentLost):
        return _touch_all(table, index, agents.agent_lost(table, command))
    code = HANDLERS[type(command)](table, command)
    run_id = getattr(command, "run_id", "")
    return Applied(index, code, run_id, _touch(table, run_id))


def _touch(table: Table, *run_ids: str) -> tuple[FinishedRun, ...]:
    """After a command on runs: decide what it readies, count their size, end those that are over.

    A run that ends may leave its place to others, which are looked at in turn: each ends once at most.
    """
    finished: list[FinishedRun] = []
    todo = list(run_ids)
    for run_id in todo:
        run = table.rows.runs.get(run_id)
        if run is None:
            continue
        lifecycle.settle(table, run)
        ended = lifecycle.finish_if_over(table, run)
        if ended is not None:
            finished.append(ended)
            todo += limits.begin(table, limits.job_of(run))
        else:
            table.size(f"run/{run_id}", run)
    return tuple(finished)


def _touch_all(table: Table, index: int, touched: agents.Touched) -> Applied:
    code, run_ids = touched
    return Applied(index, code, finished=_touch(table, *run_ids))


# -- runs --------------------------------------------------------------------------------------------------------------


def _submit(table: Table, index: int, cmd: c.SubmitRun) -> Applied:
    rows = table.rows
    known = rows.requests.get(cmd.request) if cmd.request else None
    if known is not None:  # P2
        if known.body_hash != cmd.body_hash:
            return Applied(index, "idempotency_conflict", known.run_id)
        return Applied(index, "duplicate", known.run_id)
    tick = tick_key(cmd.project, cmd.job, cmd.scheduled_at_ms, cmd.origin)
    if cmd.origin in DERIVED_TICK_ORIGINS and tick in rows.ticks:
        return Applied(index, "duplicate", rows.ticks[tick])
    run = _new_run(table, cmd)
    code = _refuse_submit(table, cmd, run)
    if code is not None:
        return Applied(index, code, cmd.run_id)
    touched = limits.accept(table, run, cmd.requested_by, cmd.via)
    if cmd.origin in DERIVED_TICK_ORIGINS:
        rows.ticks[tick] = cmd.run_id
    if cmd.request:
        rows.requests[cmd.request] = Request(cmd.body_hash, cmd.run_id, rows.time_ms + cmd.keep_ms)
        table.deadlines.add_request(cmd.request)
    return Applied(index, "ok", cmd.run_id, _touch(table, *touched))


def _refuse_submit(table: Table, cmd: c.SubmitRun, run: Run) -> str | None:
    rows = table.rows
    if cmd.run_id in rows.runs or cmd.run_id in rows.finished:
        return "exists"
    if cmd.project not in rows.projects:
        return "unknown_project"
    if cmd.origin is Origin.EXTERNAL:  # it is no run of this cluster's
        return "invalid"
    if not _well_formed(cmd.instances) or min(cmd.timeout_ms, cmd.queue_timeout_ms, cmd.keep_ms) <= 0:
        return "invalid"
    if len(rows.runs) >= rows.limits.runs_max or table.bytes_used >= rows.limits.bytes_max:
        return "table_full"  # P12
    if cmd.request and len(rows.requests) >= rows.limits.requests_max:
        return "table_full"
    return "line_full" if limits.line_is_full(table, run) else None


def _well_formed(plans: tuple[InstancePlan, ...]) -> bool:
    """At least one instance, unique names, `after` naming earlier ones, kinds in order: so one pass settles a run."""
    earlier: set[str] = set()
    for plan in plans:
        if plan.name in earlier or not earlier.issuperset(plan.after):
            return False
        earlier.add(plan.name)
    order = [ORDER.get(plan.kind, 1) for plan in plans]
    return bool(earlier) and order == sorted(order)


def _new_run(table: Table, cmd: c.SubmitRun) -> Run:
    now_ms = table.rows.time_ms
    return Run(
        id=cmd.run_id,
        project=cmd.project,
        namespace=cmd.namespace,
        job=cmd.job,
        scheduled_at_ms=cmd.scheduled_at_ms,
        origin=cmd.origin,
        requested_by=cmd.requested_by,
        via=cmd.via,
        bundle=cmd.bundle,
        created_at_ms=now_ms,
        deadline_ms=now_ms + cmd.timeout_ms,
        timeout_ms=cmd.timeout_ms,
        queue_timeout_ms=cmd.queue_timeout_ms,
        instances=[Instance(plan, since_ms=now_ms) for plan in cmd.instances],
        max_active=cmd.max_active,
        overlap=cmd.overlap,
    )


def _assign(table: Table, cmd: c.Assign) -> str:
    found = _find(table, cmd.run_id, cmd.instance)
    if isinstance(found, str):
        return found
    run, instance = found
    agent = table.rows.agents.get(cmd.agent)
    if agent is None:
        return "unknown_agent"
    held = len(table.assigned.get(cmd.agent, ()))
    need = need_of(run, instance)
    if not takes(agent) or agent.epoch != cmd.epoch or held >= agent.slots or not fits(agent, need):
        return "stale"
    if Rooms(table).full(need) is not None:
        return "stale"
    if (run.id, instance.plan.name) not in table.ready or cmd.number != len(instance.attempts) + 1:
        return "stale"
    fenceable = instance.plan.executor not in agent.unfenceable
    instance.attempts.append(Attempt(cmd.number, cmd.agent, cmd.epoch, table.rows.time_ms, fenceable=fenceable))
    run.state = RunState.RUNNING
    table.rows.hold_ms = 0  # its leader has waited
    table.index_instance(run, instance)
    return "ok"


Word = c.InstanceStarted | c.InstanceEnded


def _owned(table: Table, cmd: Word) -> tuple[Run, Instance, Attempt] | str:
    """The open attempt that `cmd` speaks of, if it comes from its owner and is not a repetition."""
    found = _find(table, cmd.run_id, cmd.instance)
    if isinstance(found, str):
        return found
    run, instance = found
    attempt = instance.open_attempt
    if attempt is None or attempt.number != cmd.number:
        return "stale"
    if (attempt.agent, attempt.epoch) != (cmd.agent, cmd.epoch) or cmd.seq <= attempt.seq:
        return "stale"
    return run, instance, attempt


def _started(table: Table, cmd: c.InstanceStarted) -> str:
    found = _owned(table, cmd)
    if isinstance(found, str):
        return found
    run, instance, attempt = found
    if attempt.state is AttemptState.RUNNING:
        return "stale"
    attempt.state = AttemptState.RUNNING
    _note(run, attempt, cmd, cmd.started_at_ms)
    if instance.state is not InstanceState.UNKNOWN:  # a late word of a lost agent, which is still lost
        lifecycle.enter(table, run, instance, InstanceState.RUNNING)
    return "ok"


def _ended(table: Table, cmd: c.InstanceEnded) -> str:
    found = _owned(table, cmd)
    if isinstance(found, str):
        return found
    run, instance, attempt = found
    _note(run, attempt, cmd, cmd.started_at_ms)
    attempt.finished_at_ms = cmd.finished_at_ms
    attempt.exit_code = cmd.exit_code
    attempt.message = cmd.message
    attempt.outputs = cmd.outputs if cmd.reason is None else None
    lifecycle.close_attempt(table, run, instance, attempt, cmd.reason)
    return "ok"


def _note(run: Run, attempt: Attempt, cmd: Word, started_at_ms: int | None) -> None:
    attempt.seq = cmd.seq
    attempt.started_at_ms = started_at_ms if started_at_ms is not None else attempt.started_at_ms
    attempt.compiled = cmd.compiled or attempt.compiled
    attempt.facts = {**attempt.facts, **cmd.facts}
    if run.started_at_ms is None:
        run.started_at_ms = started_at_ms


def _cancel(table: Table, cmd: c.CancelRun) -> str:
    run = table.rows.runs.get(cmd.run_id)
    if run is None:
        return "run_final" if cmd.run_id in table.rows.finished else "unknown_run"
    unheard = any(instance.state is InstanceState.UNKNOWN for instance in run.instances)
    if unheard and not cmd.assume_stopped:
        return "not_proven_stopped"
    more = cmd.teardown and run.teardown_until_ms != 0
    if unheard or more or run.cancelled_by is None:
        run.cancelled_by = run.cancelled_by or cmd.who  # the first; the audit has them all
        what = "cancel, with its teardown" if cmd.teardown else "cancel"
        _audit(table, run, cmd, f"{what}{ASSUMED if unheard else ''}")
        lifecycle.end_early(table, run, Reason.CANCELLED, teardown=cmd.teardown)
    return "ok"


def _mark(table: Table, cmd: c.MarkInstance) -> str:
    found = _to_mark(table, cmd)
    if isinstance(found, str):
        return found
    run, chosen = found
    if cmd.state not in MARKS:
        return "invalid"
    if run.ending:
        return "run_ending"
    chosen = [instance for instance in chosen if not instance.final]
    if not chosen:
        return "instance_final"
    unheard = any(instance.state is InstanceState.UNKNOWN for instance in chosen)
    if unheard and not cmd.assume_stopped:
        return "not_proven_stopped"
    _audit(table, run, cmd, f"mark {cmd.instance or 'all unfinished'} {cmd.state}{ASSUMED if unheard else ''}")
    for instance in chosen:
        if instance.open_attempt is None:
            lifecycle.enter(table, run, instance, cmd.state, Reason.MARKED)
        else:
            instance.mark = cmd.state
            lifecycle.stop(table, run, (instance,), Reason.MARKED)
    return "ok"


def _to_mark(table: Table, cmd: c.MarkInstance) -> tuple[Run, list[Instance]] | str:
    run = table.rows.runs.get(cmd.run_id)
    if run is not None and not cmd.instance:
        return run, run.instances
    found = _find(table, cmd.run_id, cmd.instance)
    return found if isinstance(found, str) else (found[0], [found[1]])


def _clear(table: Table, cmd: c.ClearRun) -> str:
    run = table.rows.runs.get(cmd.run_id)
    if run is None:
        return _clear_finished(table, cmd)
    return _clear_instances(table, run, cmd)


def _clear_finished(table: Table, cmd: c.ClearRun) -> str:
    """Bring a finished run back: the command carries its record, since the table kept only a small row (P4)."""
    rows = table.rows
    row = rows.finished.get(cmd.run_id)
    if row is None:
        return "unknown_run"
    run = unpack_run(cmd.record)
    if run is None or run.id != cmd.run_id or not run.final or row.index != cmd.ended_index:
        return "stale"
    if len(rows.runs) >= rows.limits.runs_max or table.bytes_used >= rows.limits.bytes_max:
        return "table_full"
    code = _refuse_clear(run, cmd)
    if code is not None:
        return code
    if limits.line_is_full(table, run, returns=True):
        return "line_full"
    del rows.finished[cmd.run_id]
    run.reason, run.finished_at_ms, run.cancelled_by, run.teardown_until_ms = None, None, None, None
    limits.bring_back(table, run)
    return _clear_instances(table, run, cmd)


def _refuse_clear(run: Run, cmd: c.ClearRun) -> str | None:
    chosen = [run.instance(name) for name in cmd.instances]
    if not chosen or None in chosen:
        return "unknown_instance"
    unproven = any(one is not None and one.unproven for one in chosen)
    return "not_proven_stopped" if unproven and not cmd.assume_stopped else None


def _clear_instances(table: Table, run: Run, cmd: c.ClearRun) -> str:
    code = _refuse_clear(run, cmd)
    if code is not None:
        return code
    if run.ending:
        return "run_ending"
    chosen = [instance for instance in run.instances if instance.plan.name in cmd.instances]
    if not all(instance.final for instance in chosen):
        return "not_final"
    assumed = any(instance.unproven for instance in chosen)
    _audit(table, run, cmd, f"{cmd.what} {' '.join(cmd.instances)}{ASSUMED if assumed else ''}")
    for instance in chosen:
        instance.clears = len(instance.attempts)
        instance.mark = None
        lifecycle.enter(table, run, instance, InstanceState.PENDING)
    return "ok"


def _find(table: Table, run_id: str, name: str) -> tuple[Run, Instance] | str:
    run = table.rows.runs.get(run_id)
    if run is None:
        return "run_final" if run_id in table.rows.finished else "unknown_run"
    instance = run.instance(name)
    return "unknown_instance" if instance is None else (run, instance)


def _audit(table: Table, run: Run, cmd: c.CancelRun | c.ClearRun | c.MarkInstance, what: str) -> None:
    run.audit.append(Audit(table.rows.time_ms, cmd.who, cmd.via, what, cmd.address))


# -- time --------------------------------------------------------------------------------------------------------------


def _advance(table: Table) -> tuple[FinishedRun, ...]:
    """Fire what is due. Bounded: what is left stays due, and the planner says so again."""
    finished: list[FinishedRun] = []
    for _ in range(FIRED_MAX):
        deadline = table.deadlines.pop_due(table.rows.time_ms)
        if deadline is None:
            break
        _due_ms, kind, key, name = deadline
        if kind == RUN:
            finished += _run_timeout(table, key)
        elif kind == INSTANCE:
            finished += _instance_due(table, key, name)
        elif kind == REQUEST:
            _request_due(table, key)
        else:
            assert kind == FINISHED
            table.forget_finished(key)
    return tuple(finished)


def _run_timeout(table: Table, run_id: str) -> tuple[FinishedRun, ...]:
    run = table.rows.runs[run_id]
    if run.held:
        limits.expire(table, run)
    else:
        lifecycle.time_out(table, run)
    return _touch(table, run_id)


def _instance_due(table: Table, run_id: str, name: str) -> tuple[FinishedRun, ...]:
    run = table.rows.runs[run_id]
    instance = run.instance(name)
    assert instance is not None
    instance.due_ms = None
    if instance.state is InstanceState.UP_FOR_RETRY:
        lifecycle.enter(table, run, instance, InstanceState.SCHEDULED)
    elif instance.state is InstanceState.RUNNING:
        lifecycle.stop(table, run, (instance,), Reason.TIMEOUT)
    elif instance.open_attempt is not None:
        lifecycle.stop(table, run, (instance,), Reason.QUEUE_TIMEOUT)
    else:
        assert instance.state is InstanceState.SCHEDULED
        lifecycle.enter(table, run, instance, InstanceState.FAILED, Reason.QUEUE_TIMEOUT)
    return _touch(table, run_id)


def _request_due(table: Table, key: str) -> None:
    """A request is remembered its time, and as long as its run (P2): while that is there it is looked at again."""
    rows = table.rows
    request = rows.requests[key]
    if request.run_id in rows.runs:
        rows.requests[key] = Request(request.body_hash, request.run_id, rows.time_ms + REQUEST_AGAIN_MS)
        table.deadlines.add_request(key)
    else:
        del rows.requests[key]


HANDLERS: Final = cast(
    "dict[type[c.AnyCommand], Handler]",
    {
        c.Found: catalog.found,
        c.SetLimits: catalog.set_limits,
        c.SetLeaseTerms: agents.set_lease_terms,
        c.AgentDraining: agents.agent_draining,
        c.AgentRemoved: agents.agent_removed,
        c.PutProject: catalog.put_project,
        c.PutPlugins: catalog.put_plugins,
        c.PutJobs: catalog.put_jobs,
        c.DeleteJob: catalog.delete_job,
        c.PutSecret: catalog.put_secret,
        c.DeleteSecret: catalog.delete_secret,
        c.PutToken: catalog.put_token,
        c.DeleteToken: catalog.delete_token,
        c.Assign: _assign,
        c.InstanceStarted: _started,
        c.InstanceEnded: _ended,
        c.CancelRun: _cancel,
        c.ClearRun: _clear,
        c.MarkInstance: _mark,
    },
)
