"""Asking for runs, and what an operator does to them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.explain import agents_with, no_agent_has
from agent.runtable.model import (
    InstanceKind,
    InstancePlan,
    InstanceState,
    Namespace,
    OnAgentLost,
    Origin,
    Overlap,
    RetryPolicy,
    RetryRule,
    Run,
    RunState,
    TriggerRule,
)
from agent.runtable.notice_rows import Wanted
from agent.service.catalog import Catalog, check_name
from agent.service.clearing import NOT_GOOD, nothing_to_retry, to_retry, with_companions, with_downstream
from agent.service.common import Accepted, Caller, Context, JobBlob, JobFile, RunRequest, new_id
from agent.service.gating import ticks_gates
from agent.service.notices import wants
from agent.service.queries import Queries
from agent.service.trials import Scope, asked_keys, invalid, scope_of, with_config
from agent.spec import bundle as bundles
from agent.spec import duration, params
from agent.spec.bundle import Bundle, Planned
from agent.spec.check import own_variable
from agent.spec.compile import OWN_VARIABLES
from agent.spec.errors import Problem
from agent.spec.jobspec import BehaviorSpec, RetryAction, RetrySpec
from agent.spec.params import Value
from agent.spec.scheduling import labels_of, pool_of
from agent.spec.trial import Trial
from agent.store.blobs import name_of
from agent.store.errors import BlobMissing

MINTED_KEEP_MS: Final = 600_000
KEY_CHARACTERS_MAX: Final = 256
CONFIG_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run is proposed with. digest: of its bundle, which is to be stored before."""

    bundle: Bundle
    digest: str
    plans: tuple[InstancePlan, ...]
    timeout_ms: int
    queue_timeout_ms: int
    max_active: int
    overlap: Overlap
    notes: tuple[str, ...]
    wants: tuple[Wanted, ...]


class Runs:
    """Submit, cancel, retry, clear, mark."""

    def __init__(self, context: Context, catalog: Catalog, queries: Queries) -> None:
        self._context = context
        self._catalog = catalog
        self._queries = queries

    # -- submit ----------------------------------------------------------------------------------------------------

    async def submit(self, project: str, job: str, request: RunRequest, caller: Caller) -> Accepted:
        """Ask for a run of an applied job. When this returns, it is on disk and will end (P1).

        Raises Refusal: "unknown_project", "unknown_job", "spec_invalid", "idempotency_conflict", "table_full", ...
        """
        row = self._catalog.job(project, job)
        blob = await self._catalog.job_blob(row)
        return await self._submit(project, row.namespace, blob, request, caller)

    async def submit_file(
        self, project: str, namespace: str, file: JobFile, request: RunRequest, caller: Caller
    ) -> Accepted:
        """Ask for a run of a job that was never applied."""
        check_name(project)
        check_name(namespace)
        (blob,), _warnings = await self._catalog.check(project, [file])
        if project not in self._catalog.projects():
            await self._catalog.put_project(project, namespaces={namespace: Namespace()})
        return await self._submit(project, namespace, blob, request, caller)

    async def _submit(
        self, project: str, namespace: str, blob: JobBlob, request: RunRequest, caller: Caller
    ) -> Accepted:
        context = self._context
        check_request(request)
        at = request.scheduled_at or this_second(context)
        made = await self.prepare(project, namespace, blob, request, at)
        gates = await ticks_gates(self._catalog, made.bundle, at) if request.check_dependencies else ()
        await context.store([bundles.encode(made.bundle)], also=made.bundle.assets.values())
        key, keep_ms = request_key(context, request, project, caller)
        run_id = new_id()
        applied = await context.propose(
            c.SubmitRun(
                context.now_ms(),
                run_id,
                project,
                namespace,
                made.bundle.job.name,
                int(at.timestamp() * 1000),
                request.origin,
                caller.name,
                context.agent,
                key,
                request.body_hash,
                keep_ms,
                made.digest,
                made.timeout_ms,
                made.queue_timeout_ms,
                made.plans,
                made.max_active,
                made.overlap,
                gates,
                wants=made.wants,
            )
        )
        run = await self._accepted(applied.run_id)
        return Accepted(applied.index, run, applied.code == "duplicate" and run.id != run_id, notes=made.notes)

    async def prepare(self, project: str, namespace: str, blob: JobBlob, request: RunRequest, at: datetime) -> Prepared:
        """All that a run is proposed with, checked (P11); nothing is stored. Raises Refusal.

        at: the time the run stands for.
        """
        scope = scope_of(self._context, project, namespace, self._catalog.plugins(project))
        blob = with_config(blob, request.config)
        bundle = replace(scope.bundle(blob), params=_params(blob, request))
        planned = (await self._check(scope, bundle, blob, request, at)).planned
        behavior = bundle.job.behavior
        return Prepared(
            bundle,
            name_of(bundles.encode(bundle)),
            tuple(_plan(scope, bundle, one) for one in planned),
            _ms(behavior.timeout_s),
            _ms(behavior.queue_timeout_s),
            *limits_of(behavior),
            self._notes(scope, bundle, planned),
            await wants(self._context, bundle),
        )

    async def _accepted(self, run_id: str) -> Run:
        """A run that was accepted. Raises Refusal("outcome_unknown") where it cannot be shown: it must not be repeated
        as if nothing had happened (P2).
        """
        try:
            return await self._queries.run(run_id)
        except Refusal as refusal:
            text = f"run {run_id} was accepted, and cannot be shown by this agent now: {refusal.message}"
            raise Refusal("outcome_unknown", text, 504) from refusal

    async def _check(self, scope: Scope, bundle: Bundle, blob: JobBlob, asked: RunRequest, at: datetime) -> Trial:
        """A trial rendering with masked secrets: what cannot be compiled is refused before it is accepted (P11)."""
        try:
            trial = await asyncio.to_thread(self._try, scope, bundle, blob, at)
        except BlobMissing:
            await self._context.have(bundle.assets.values())
            trial = await asyncio.to_thread(self._try, scope, bundle, blob, at)
        overridden = asked_keys(asked.config)
        problems = [
            replace(one, message=f"{one.message} (the value is the request's)") if one.key in overridden else one
            for one in (*trial.problems, *trial.missing)
        ]
        if problems:
            raise invalid(problems)
        return trial

    def _try(self, scope: Scope, bundle: Bundle, blob: JobBlob, at: datetime) -> Trial:
        assets = {path: self._context.blobs.get(digest) for path, digest in bundle.assets.items()}
        return scope.attempt(bundle, blob, at, assets)

    def _notes(self, scope: Scope, bundle: Bundle, planned: Sequence[Planned]) -> tuple[str, ...]:
        """What a user should know of a run that is accepted all the same."""
        stand_ins = {
            f"executor {one.executor} is not there: {scope.executor_of(one)} stands in"
            for one in planned
            if scope.executor_of(one) != one.executor
        }
        waiting: dict[str, list[str]] = {}
        table = self._context.replica.table
        for one in planned:
            if not agents_with(table, scope.executor_of(one)):
                waiting.setdefault(scope.executor_of(one), []).append(one.name)
        absent = [
            f"{no_agent_has(table, executor)}: {', '.join(names)} {'waits' if len(names) == 1 else 'wait'} until one "
            f"has, at most {duration.format(timedelta(seconds=bundle.job.behavior.queue_timeout_s))}"
            for executor, names in sorted(waiting.items())
        ]
        unused = sorted(OWN_VARIABLES.intersection(bundle.job.task.config))
        return (*sorted(stand_ins), *absent, *(f"the config {key} {own_variable(key)}" for key in unused))

    # -- operators -------------------------------------------------------------------------------------------------

    # assume_stopped, everywhere: the caller's word that work on lost agents, which nobody has seen stop, has ended.

    async def cancel(
        self, run_id: str, caller: Caller, *, assume_stopped: bool = False, teardown: bool = False
    ) -> Accepted:
        """End a run early. What runs is stopped first; the run is final when it has ended.

        teardown: its teardown hooks too, which run otherwise.
        """
        run = await self._queries.run(run_id)
        if run.final:
            raise Refusal("run_final", f"run {run_id} has ended: {run.state}", 409)
        context = self._context
        applied = await context.propose(
            c.CancelRun(context.now_ms(), run.id, caller.name, context.agent, assume_stopped, teardown, caller.address)
        )
        return Accepted(applied.index, await self._accepted(run.id))

    async def retry(
        self, run_id: str, caller: Caller, *, only_failed: bool = True, assume_stopped: bool = False
    ) -> Accepted:
        """Run again what did not succeed, or everything. What was made before stays (P4)."""
        run = await self._queries.run(run_id)
        if not run.final:
            raise Refusal("run_not_final", f"run {run_id} has not ended: {run.state}; cancel it first, or wait", 409)
        _refuse_external(run)
        chosen = to_retry(run, only_failed=only_failed)
        if not chosen:
            raise nothing_to_retry(f"run {run_id}")
        return await self._clear(run, chosen, caller, "retry", assume_stopped=assume_stopped)

    async def clear(
        self,
        run_id: str,
        caller: Caller,
        *,
        instances: Collection[str] = (),
        downstream: bool = False,
        only_failed: bool = False,
        assume_stopped: bool = False,
    ) -> Accepted:
        """Run these instances again (all where none is named), with what comes after them if asked.

        only_failed: of all these those that failed, were cancelled, or did not start for it.
        """
        run = await self._queries.run(run_id)
        known = [i.plan.name for i in run.instances]
        for name in instances:
            if name not in known:
                raise Refusal("unknown_instance", f"run {run_id} has no instance {name!r}; it has {known}", 404)
        chosen = list(instances) or known
        if downstream:
            chosen = with_downstream(run, chosen)
        if only_failed:
            chosen = [i.plan.name for i in run.instances if i.plan.name in chosen and i.state in NOT_GOOD]
            if not chosen:
                raise Refusal("nothing_to_clear", f"nothing of that has failed in run {run_id}", 409)
        return await self._clear(run, chosen, caller, "clear", assume_stopped=assume_stopped)

    async def _clear(
        self, run: Run, chosen: Collection[str], caller: Caller, what: str, *, assume_stopped: bool
    ) -> Accepted:
        """Clear these, and what goes with them."""
        _refuse_external(run)
        names = with_companions(run, chosen)
        record, index = await self._queries.record(run.id)
        context = self._context
        command = c.ClearRun(
            context.now_ms(),
            run.id,
            names,
            record,
            index,
            caller.name,
            context.agent,
            what,
            assume_stopped,
            caller.address,
        )
        applied = await context.propose(command)
        return Accepted(applied.index, await self._accepted(run.id), names=names)

    async def mark(
        self, run_id: str, instance: str | None, state: str, caller: Caller, *, assume_stopped: bool = False
    ) -> Accepted:
        """Give an unfinished instance a result by hand: "success" or "failed". What runs is stopped first.

        instance: None = all of the run that are unfinished, its hooks too.
        """
        if state not in ("success", "failed"):
            raise Refusal("invalid", f"an instance is marked success or failed, not {state!r}", 422)
        run = await self._queries.run(run_id)
        if run.final:
            raise Refusal("run_final", f"run {run_id} has ended: {run.state}; clear it to run it again", 409)
        if instance is not None:
            self._queries.find_attempt(run, instance, None)  # whether there is such an instance
        context = self._context
        command = c.MarkInstance(
            context.now_ms(),
            run.id,
            instance or "",
            InstanceState(state),
            caller.name,
            context.agent,
            assume_stopped,
            caller.address,
        )
        applied = await context.propose(command)
        return Accepted(applied.index, await self._accepted(run.id))

    # -- of other schedulers ---------------------------------------------------------------------------------------

    async def report(self, project: str, job: str, at: datetime, state: str, caller: Caller) -> Accepted:
        """Record that another scheduler ran a job for a tick, and how that ended. See `runtable/importing.py`.

        The job need not be known, its project must be. Raises Refusal("unknown_project", "invalid").
        """
        self._catalog.project(project)
        check_name(job)
        _check_time(at)
        context = self._context
        row = context.replica.table.rows.jobs.get(project, {}).get(job)
        run_id, namespace = new_id(), row.namespace if row is not None else ""
        at_ms = int(at.timestamp() * 1000)
        command = c.ImportRun(
            context.now_ms(),
            run_id,
            project,
            namespace,
            job,
            at_ms,
            RunState(state),
            caller.name,
            context.agent,
            caller.address,
        )
        applied = await context.propose(command)
        run = await self._accepted(applied.run_id)
        return Accepted(applied.index, run, duplicate=applied.code == "duplicate" and run.id != run_id)


def _refuse_external(run: Run) -> None:
    if run.origin is Origin.EXTERNAL:
        text = f"run {run.id} was not run here, only reported: run it again where it was, and report that"
        raise Refusal("external", text, 409)


def this_second(context: Context) -> datetime:
    """The time that a run stands for which names none."""
    return datetime.fromtimestamp(context.now_ms() // 1000, UTC)


def request_key(context: Context, request: RunRequest, project: str, caller: Caller) -> tuple[str, int]:
    """The scoped key of a request, and for how many milliseconds it is remembered.

    A client that sent no key gets one: should this agent have to ask again, it is the same request (P2).
    """
    key, keep_ms = request.key, context.replica.table.rows.limits.request_keep_ms
    if not key:
        key, keep_ms = f"minted {new_id()}", MINTED_KEEP_MS
    return f"{caller.principal}/{project}/{key}", keep_ms


def check_request(request: RunRequest) -> None:
    """Raise Refusal("invalid") for a request that no run can be made of."""
    if len(request.key) > KEY_CHARACTERS_MAX:
        raise Refusal("invalid", f"an Idempotency-Key has at most {KEY_CHARACTERS_MAX} characters", 422)
    for key in request.config:
        if not CONFIG_KEY.fullmatch(key):
            raise Refusal("invalid", f"{key!r} is no name for a config value", 422)
    if request.scheduled_at is not None:
        _check_time(request.scheduled_at)


def _check_time(scheduled_at: datetime) -> None:
    if not 0 <= scheduled_at.timestamp() < 2**38:
        raise Refusal("invalid", "scheduled_at is not within the years 1970 to 9999", 422)


def _params(blob: JobBlob, request: RunRequest) -> dict[str, Value]:
    """The values of all the job's parameters. Raises Refusal("params_invalid"), which tells every one that is wrong."""
    made, wrong = params.values(blob.job.params, request.params)
    if wrong:
        problems = [Problem("", 0, 0, f"params.{name}", message) for name, message in wrong.items()]
        told = "; ".join(f"{one.key}: {one.message}" for one in problems)
        raise Refusal("params_invalid", told, 422, problems=problems)
    return made


def _plan(scope: Scope, bundle: Bundle, planned: Planned) -> InstancePlan:
    scheduler = bundle.job.metadata.scheduler
    return InstancePlan(
        planned.name,
        InstanceKind(planned.place.value),
        planned.plugin,
        planned.after,
        scope.executor_of(planned),
        _retry(bundle.job.behavior.retry),
        None if planned.timeout_s is None else _ms(planned.timeout_s),
        OnAgentLost(bundle.job.behavior.on_agent_lost.value),
        labels_of(scheduler),
        TriggerRule(planned.rule.value),
        planned.allow_failure,
        planned.skip_exit_codes,
        pool_of(scheduler, scope.pools),
        scheduler.pool_slots,
        scheduler.priority_weight,
    )


def limits_of(behavior: BehaviorSpec) -> tuple[int, Overlap]:
    """How many runs of a job there may be at a time, 0 = any number, and what becomes of one that is too many.

    `max_active_runs` alone means `queue`; an `overlap` alone means one at a time; `allow` lets every run begin.
    """
    overlap = behavior.overlap.value if behavior.overlap is not None else None
    if overlap is None:
        return (behavior.max_active_runs, Overlap.QUEUE) if behavior.max_active_runs else (0, Overlap.ALLOW)
    return (0 if overlap == Overlap.ALLOW else behavior.max_active_runs or 1), Overlap(overlap)


def _retry(spec: RetrySpec) -> RetryPolicy:
    rules = tuple(RetryRule(one.exit_code, one.action is RetryAction.RETRY, one.delay_s) for one in spec.rules)
    return RetryPolicy(spec.count, spec.delay_s, spec.exponential_backoff, spec.max_delay_s, rules)


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
