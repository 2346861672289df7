"""The one door to the run table: (table, index, command) -> table.

`apply` reads no clock and touches nothing but the table it is given, so the same log gives the same rows on every
replica. It never raises on bytes that were committed: a command that does not find the state it names is a no-op with
a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from agent.runtable import accepting, agents, catalog, gates, importing, lifecycle, limits, notices, operators, replays
from agent.runtable import commands as c
from agent.runtable.deadlines import EVENT, FINISHED, GATE, INSTANCE, REQUEST, RUN, SLA
from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import (
    Attempt,
    AttemptState,
    Instance,
    InstanceState,
    Reason,
    Request,
    Run,
    RunState,
)
from agent.runtable.operators import find
from agent.runtable.placement import fits, takes
from agent.runtable.pools import Rooms
from agent.runtable.table import Table
from agent.runtable.waiting import need_of

FIRED_MAX: Final = 1000  # deadlines by one AdvanceTime; the rest fires with the next (P12)
REQUEST_AGAIN_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Applied:
    """What a command did.

    code: "ok"; "duplicate" (run_id is the run, pipeline or replay that the first request got); else why nothing was
    changed, a word of `REFUSALS`.  finished: runs that ended by it, in order.
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
    "unknown_event": "no such event waits to be delivered",
    "unknown_pipeline": "no such pipeline",
    "unknown_gate": "the run has no such gate",
    "too_many_gates": "the run waits for more than it may",
    "dependency_circle": "jobs would depend on each other in a circle",
    "pipeline_final": "all runs of the pipeline have ended",
    "unknown_instance": "the run has no such instance",
    "unknown_replay": "no such replay",
    "replay_final": "the replay has ended",
    "replay_not_final": "the replay has not ended; cancel it first, or wait",
    "replay_overlap": "a replay of the job that has not ended has some of these ticks",
    "run_in_range": "a run of the job at one of these times has not ended",
    "too_many_replays": "as many replays go on as there may be; wait until one has ended, or cancel one",
    "nothing_to_resume": "all ticks of the replay have had their run; those that failed are run again by `--failed`",
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
    if isinstance(command, c.SubmitRun) and command.replay:
        return Applied(index, "invalid", command.run_id)  # a replay makes its runs itself
    return _carry_out(table, index, command)


def _carry_out(table: Table, index: int, command: c.AnyCommand) -> Applied:
    if isinstance(command, replays.ReplayCommand):
        return _replay(table, index, command)
    if isinstance(command, c.SubmitRun | c.SubmitPipeline):
        code, answer, touched = accepting.submit(table, command)
        return Applied(index, code, answer, _touch(table, *touched))
    if isinstance(command, c.AdvanceTime):
        return Applied(index, finished=_advance(table))
    if isinstance(command, c.ImportRun):
        code, run_id, finished = importing.import_run(table, command)
        waiters = [one for ended in finished for one in table.awaiting.waiters(ended.run)]
        return Applied(index, code, run_id, (*finished, *_touch(table, *waiters)))
    several = SEVERAL.get(type(command))
    if several is not None:
        code, run_ids = several(table, command)
        return Applied(index, code, finished=_touch(table, *run_ids))
    code = HANDLERS[type(command)](table, command)
    run_id = getattr(command, "run_id", "")
    return Applied(index, code, run_id, _touch(table, run_id))


def _replay(table: Table, index: int, command: replays.ReplayCommand) -> Applied:
    finished: list[FinishedRun] = []

    def execute(part: c.AnyCommand) -> str:
        applied = _carry_out(table, index, part)
        finished.extend(applied.finished)
        return applied.code

    code, replay_id = replays.carry_out(table, command, execute)
    return Applied(index, code, replay_id, tuple(finished))


def _touch(table: Table, *run_ids: str) -> tuple[FinishedRun, ...]:
    """After a command on runs: decide what it readies, count their size, end those that are over.

    What ends leaves its place to others of its job, and may be what others wait for: these are looked at in turn, also
    for what ends by that. Bounded: no run ends twice by one command. Returns all that have ended, in order.
    """
    finished: list[FinishedRun] = []
    todo = list(run_ids)
    for run_id in todo:  # grows meanwhile
        run = table.rows.runs.get(run_id)
        if run is None:
            continue
        gates.settle(table, run)
        lifecycle.settle(table, run)
        notices.check_slas(table, run)
        ended = lifecycle.finish_if_over(table, run)
        if ended is not None:
            finished.append(ended)
            todo += limits.begin(table, limits.job_of(run))
            todo += table.awaiting.waiters(run)
        else:
            table.size(f"run/{run_id}", run)
    return tuple(finished)


# -- runs --------------------------------------------------------------------------------------------------------------


def _assign(table: Table, cmd: c.Assign) -> str:
    found = find(table, cmd.run_id, cmd.instance)
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
    found = find(table, cmd.run_id, cmd.instance)
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
        elif kind == SLA:
            finished += _touch(table, key)
        elif kind == EVENT:
            notices.due(table, key)
        elif kind == GATE:
            gates.time_out(table, table.rows.runs[key], int(name))
            finished += _touch(table, key)
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
    """A request is remembered its time, and as long as its runs (P2): while one is there it is looked at again."""
    rows = table.rows
    request = rows.requests[key]
    replay = rows.replays.get(request.run_id)
    goes_on = request.run_id in rows.runs or (replay is not None and not replay.final)
    if goes_on or not table.pipelines.get(request.run_id, set()).isdisjoint(rows.runs):
        rows.requests[key] = Request(request.body_hash, request.run_id, rows.time_ms + REQUEST_AGAIN_MS)
        table.deadlines.add_request(key)
    else:
        del rows.requests[key]


SEVERAL: Final = cast(
    "dict[type[c.AnyCommand], Callable[[Table, c.AnyCommand], tuple[str, tuple[str, ...]]]]",
    {
        c.AgentUp: agents.agent_up,
        c.AgentLost: agents.agent_lost,
        c.CancelPipeline: operators.cancel_pipeline,
        c.ClearRuns: operators.clear_runs,
    },
)  # whose code comes with the runs that were touched

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
        c.CancelRun: operators.cancel,
        c.ClearRun: operators.clear,
        c.MarkInstance: operators.mark,
        c.GateAnswered: gates.answered,
        c.Delivered: notices.delivered,
        c.NotDelivered: notices.not_delivered,
    },
)
