"""Rows of the run table as the HTTP face shows them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from agent.api import schema as s
from agent.api.face import Face
from agent.runtable.audit import Audit
from agent.runtable.commands import InstanceEnded, InstanceStarted
from agent.runtable.explain import Explanation
from agent.runtable.explain_gates import GateExplanation, what_of
from agent.runtable.model import Attempt, Gate, Instance, InstanceKind, Job, Project, Run
from agent.service import Accepted
from agent.spec.errors import Problem
from consensus.messages import NONE

Word = InstanceStarted | InstanceEnded


def moment(at_ms: int) -> datetime:
    """Milliseconds since the epoch as a time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def maybe(at_ms: int | None) -> datetime | None:
    """As `moment`, None for None."""
    return None if at_ms is None else moment(at_ms)


def run(row: Run, words: Iterable[Word] = ()) -> s.RunView:
    """A run with its instances and attempts. words: what workers say of it that is not in the table yet."""
    said = {word.instance: _said(word) for word in words}
    return s.RunView(
        id=row.id,
        project=row.project,
        namespace=row.namespace,
        job=row.job,
        scheduled_at=moment(row.scheduled_at_ms),
        origin=row.origin,
        requested_by=row.requested_by,
        via=row.via,
        state=row.state,
        reason=row.reason,
        created_at=moment(row.created_at_ms),
        started_at=maybe(row.started_at_ms),
        finished_at=maybe(row.finished_at_ms),
        deadline_at=moment(row.deadline_ms) if row.begun else None,
        cancelled_by=row.cancelled_by,
        instances=[_instance(one, said.get(one.plan.name)) for one in row.instances],
        audit=[audit(one) for one in row.audit],
        pipeline=row.pipeline or None,
        gates=[_gate(one) for one in row.gates],
        replay=row.replay or None,
    )


def _gate(row: Gate) -> s.GateView:
    return s.GateView(
        kind=row.plan.kind, what=what_of(row), state=row.state, since=moment(row.since_ms), until=maybe(row.due_ms)
    )


def _said(word: Word) -> str:
    if isinstance(word, InstanceStarted):
        return "running"
    return "success" if word.reason is None else "failed"


def audit(row: Audit) -> s.AuditView:
    """Who did what, as the HTTP face shows it."""
    return s.AuditView(at=moment(row.at_ms), who=row.who, via=row.via, what=row.what, address=row.address)


def _instance(row: Instance, provisional: str | None) -> s.InstanceView:
    is_task = row.plan.kind is InstanceKind.TASK
    return s.InstanceView(
        name=row.plan.name,
        type="task" if is_task else "hook",
        hook_type=None if is_task else row.plan.kind.value,
        state=row.state,
        reason=row.reason,
        message=row.message,
        executor=row.plan.executor,
        since=moment(row.since_ms),
        until=maybe(row.due_ms),
        attempts=[_attempt(one) for one in row.attempts],
        provisional=provisional,
    )


def _attempt(row: Attempt) -> s.AttemptView:
    return s.AttemptView(
        number=row.number,
        agent=row.agent,
        state=row.state,
        exit_code=row.exit_code,
        reason=row.reason,
        message=row.message,
        started_at=maybe(row.started_at_ms),
        finished_at=maybe(row.finished_at_ms),
        stop_wanted=row.stop_wanted,
        facts=row.facts,
        outputs=row.outputs,
    )


def accepted(done: Accepted) -> s.AcceptedAnswer:
    """A run that was accepted or changed."""
    assert done.run is not None
    return s.AcceptedAnswer(run=run(done.run), index=done.index, duplicate=done.duplicate, notes=list(done.notes))


def applied(done: Accepted) -> s.AppliedView:
    """What was applied."""
    return s.AppliedView(
        index=done.index, names=list(done.names), warnings=problems(done.warnings), notes=list(done.notes)
    )


def jobs_applied(done: Accepted) -> s.JobsAppliedView:
    """Which jobs were applied."""
    return s.JobsAppliedView(
        index=done.index,
        names=list(done.names),
        jobs=list(done.names),
        warnings=problems(done.warnings),
        notes=list(done.notes),
    )


def problems(found: Iterable[Problem]) -> list[s.ProblemView]:
    """What is wrong in texts."""
    return [
        s.ProblemView(
            file=one.file, line=one.line, column=one.column, key=one.key, message=one.message, severity=one.severity
        )
        for one in found
    ]


def job(project: str, name: str, row: Job) -> s.JobView:
    """An applied job."""
    return s.JobView(
        name=name,
        project=project,
        namespace=row.namespace,
        owner=row.owner,
        description=row.description,
        interval=row.interval,
        task=row.task,
        updated_at=moment(row.updated_at_ms),
    )


def project(name: str, row: Project) -> s.ProjectView:
    """A project."""
    namespaces = {
        one: s.NamespaceBody(config=scope.config, variables=scope.variables) for one, scope in row.namespaces.items()
    }
    return s.ProjectView(
        name=name, config=row.config, variables=row.variables, presets=row.presets, namespaces=namespaces
    )


def explanation(one: Explanation) -> s.ExplanationView:
    """Why an instance is where it is."""
    return s.ExplanationView(
        instance=one.instance,
        state=one.state,
        why=one.why,
        since=moment(one.since_ms),
        until=maybe(one.until_ms),
    )


def gate_explanation(one: GateExplanation) -> s.GateExplanationView:
    """Why a gate is open or not."""
    return s.GateExplanationView(
        kind=one.kind,
        what=one.what,
        state=one.state,
        why=one.why,
        since=moment(one.since_ms),
        until=maybe(one.until_ms),
        count=one.count,
        awaited=[
            s.AwaitedView(
                job=each.job, run=each.run_id or None, scheduled_at=maybe(each.scheduled_at_ms), state=each.state
            )
            for each in one.awaited
        ],
    )


def meta(face: Face) -> s.MetaView:
    """How fresh this agent's answers are."""
    replica = face.service.context.replica
    return s.MetaView(
        agent=face.agent_id,
        leader=leader(face),
        applied_index=replica.applied_index,
        age_ms=replica.age_ms(),
    )


def leader(face: Face) -> str | None:
    """The id of the agent that leads, None = this one hears of none."""
    replica = face.service.context.replica
    node = replica.leader
    if node == replica.driver.node.id:
        return face.agent_id
    return next((row.id for row in replica.table.rows.agents.values() if row.node == node != NONE), None)
