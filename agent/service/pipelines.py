"""Pipelines: a job with what it depends on, or what depends on it, as runs of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.accepting import PIPELINE_RUNS_MAX
from agent.runtable.dependencies import JobKey, edges_of, in_order, reached, reversed_edges
from agent.runtable.gate_rows import GateKind
from agent.runtable.model import RUN_FINAL, Run, RunState
from agent.service.catalog import Catalog
from agent.service.clearing import nothing_to_retry, to_retry, with_companions
from agent.service.common import Caller, Context, RunRequest, new_id
from agent.service.dependencies import told
from agent.service.gating import run_gates
from agent.service.queries import Queries
from agent.service.runs import Prepared, Runs, check_request, request_key, this_second
from agent.spec import bundle as bundles

PREFIX: Final = "p-"
PREFIX_MIN: Final = 6  # of a shortened id, `p-` included
COMMAND_BYTES_MAX: Final = 8 * 1024 * 1024  # half of what a frame takes (P12)
GOOD: Final = frozenset({RunState.SUCCESS, RunState.SKIPPED})


class Scope(StrEnum):
    """Which jobs run with the one that is asked for."""

    UPSTREAM = "upstream"  # all it depends on, and it
    DOWNSTREAM = "downstream"  # it, and all that depends on it
    PIPELINE = "pipeline"  # both


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The runs of one request, each after those that it waits for."""

    id: str
    runs: tuple[Run, ...]

    @property
    def state(self) -> RunState:
        """What has become of it as a whole: what a run would be whose instances these are."""
        states = {run.state for run in self.runs}
        if not states <= RUN_FINAL:
            return RunState.QUEUED if states == {RunState.QUEUED} else RunState.RUNNING
        if states & {RunState.FAILED, RunState.UPSTREAM_FAILED}:
            return RunState.FAILED
        if RunState.CANCELLED in states:
            return RunState.CANCELLED
        return RunState.SKIPPED if states == {RunState.SKIPPED} else RunState.SUCCESS


@dataclass(frozen=True, slots=True)
class AcceptedPipeline:
    """A write that was done. The fields are those of `Accepted`."""

    index: int
    pipeline: Pipeline
    duplicate: bool = False
    notes: tuple[str, ...] = ()


class Pipelines:
    """Submit, show, cancel, retry."""

    def __init__(self, context: Context, catalog: Catalog, queries: Queries, runs: Runs) -> None:
        self._context, self._catalog, self._queries, self._runs = context, catalog, queries, runs

    # -- submit ----------------------------------------------------------------------------------------------------

    async def submit(
        self, project: str, job: str, scope: Scope, request: RunRequest, caller: Caller
    ) -> AcceptedPipeline:
        """Ask for runs of a job and of those around it, all of them or none. All stand for the same time.

        The request's config and params are the asked job's; the others run with their own. Raises Refusal as
        `Runs.submit`; "missing_dependency" for an upstream that is not applied, "too_large".
        """
        self._catalog.job(project, job)
        check_request(request)
        if request.check_dependencies:
            text = "a pipeline waits for its own runs; check_dependencies is for a single run"
            raise Refusal("invalid", text, 422)
        context, at = self._context, request.scheduled_at or this_second(self._context)
        keys = self.scope_of((project, job), scope)
        made = [await self._prepare(key, request if key == (project, job) else _plain(request), at) for key in keys]
        ids = {key: new_id() for key in keys}
        runs = tuple(self._run(key, one, ids) for key, one in zip(keys, made, strict=True))
        key, keep_ms = request_key(context, request, project, caller)
        scheduled_at_ms, pipeline = int(at.timestamp() * 1000), f"{PREFIX}{new_id()}"
        command = c.SubmitPipeline(
            context.now_ms(),
            pipeline,
            scheduled_at_ms,
            caller.name,
            context.agent,
            key,
            request.body_hash,
            keep_ms,
            runs,
        )
        _check_size(command)
        assets = {digest for one in made for digest in one.bundle.assets.values()}
        await context.store([bundles.encode(one.bundle) for one in made], also=assets)
        applied = await context.propose(command)
        notes = dict.fromkeys(note for one in made for note in one.notes)
        shown = await self._accepted(applied.run_id)
        duplicate = applied.code == "duplicate" and shown.id != pipeline
        return AcceptedPipeline(applied.index, shown, duplicate, tuple(notes))

    def scope_of(self, asked: JobKey, scope: Scope) -> list[JobKey]:
        """The jobs of a pipeline, each after those that it depends on. Raises Refusal."""
        jobs = self._context.replica.table.rows.jobs
        up, down = edges_of(jobs), reversed_edges(jobs)
        keys: dict[JobKey, None] = {}
        if scope is not Scope.DOWNSTREAM:
            keys |= dict.fromkeys(reached(up, asked, PIPELINE_RUNS_MAX))
        if scope is not Scope.UPSTREAM:
            keys |= dict.fromkeys(reached(down, asked, PIPELINE_RUNS_MAX))
        if len(keys) > PIPELINE_RUNS_MAX:
            text = f"these are more than {PIPELINE_RUNS_MAX} jobs, which is what a pipeline may have"
            raise Refusal("too_large", text, 413)
        for project, name in keys:
            if self._catalog.applied(project, name) is None:
                missing = (project, name)
                below = told(asked[0], next(key for key in keys if missing in up(key)))
                text = (
                    f"the job {below} depends on {told(asked[0], missing)}, which is not applied: apply it, or run "
                    f"{told(asked[0], asked)} alone or with what is downstream of it"
                )
                raise Refusal("missing_dependency", text, 409)
        return in_order(up, keys)

    async def _prepare(self, key: JobKey, request: RunRequest, at: datetime) -> Prepared:
        project, name = key
        row = self._catalog.job(project, name)
        blob = await self._catalog.job_blob(row)
        try:
            return await self._runs.prepare(project, row.namespace, blob, request, at)
        except Refusal as refusal:
            text = f"job {project}/{name}: {refusal.message}"
            raise Refusal(refusal.code, text, refusal.status, problems=refusal.problems) from refusal

    def _run(self, key: JobKey, made: Prepared, ids: dict[JobKey, str]) -> c.PipelineRun:
        return c.PipelineRun(
            ids[key],
            key[0],
            made.bundle.namespace,
            key[1],
            made.digest,
            made.timeout_ms,
            made.queue_timeout_ms,
            made.plans,
            run_gates(self._catalog, made.bundle, ids),
            made.max_active,
            made.overlap,
            made.wants,
        )

    async def _accepted(self, pipeline: str) -> Pipeline:
        """One that was accepted. Raises Refusal("outcome_unknown") as `Runs` does (P2)."""
        try:
            return await self.show(pipeline)
        except Refusal as refusal:
            text = f"pipeline {pipeline} was accepted, and cannot be shown by this agent now: {refusal.message}"
            raise Refusal("outcome_unknown", text, 504) from refusal

    # -- look ------------------------------------------------------------------------------------------------------

    async def resolve(self, pipeline: str) -> str:
        """The whole id for a shortened one. Raises Refusal("unknown_pipeline", "ambiguous_pipeline")."""
        known = self._context.replica.table.pipelines
        if pipeline not in known and not self._begin_with(pipeline):
            await self._queries.catch_up(f"pipeline {pipeline!r}")  # it may be younger than what is known here (P6)
        if pipeline in known:
            return pipeline
        found = self._begin_with(pipeline)
        if len(found) > 1:
            text = f"{pipeline!r} is short for more than one pipeline: {', '.join(found[:10])}; give more of it"
            raise Refusal("ambiguous_pipeline", text, 409)
        if not found:
            raise Refusal("unknown_pipeline", f"there is no pipeline {pipeline!r}", 404)
        return found[0]

    def _begin_with(self, begin: str) -> list[str]:
        if len(begin) < PREFIX_MIN:
            return []
        return sorted(one for one in self._context.replica.table.pipelines if one.startswith(begin.lower()))

    async def show(self, pipeline: str) -> Pipeline:
        """A pipeline by its id or a shortened one. Raises Refusal."""
        pipeline = await self.resolve(pipeline)
        ids = sorted(self._context.replica.table.pipelines.get(pipeline, ()))
        runs = await asyncio.gather(*(self._queries.run(run_id) for run_id in ids))
        return Pipeline(pipeline, tuple(_in_order(runs)))

    # -- operators -------------------------------------------------------------------------------------------------

    async def cancel(
        self, pipeline: str, caller: Caller, *, assume_stopped: bool = False, teardown: bool = False
    ) -> AcceptedPipeline:
        """End all its runs early, all at once. Raises Refusal("pipeline_final", "not_proven_stopped")."""
        context, pipeline = self._context, await self.resolve(pipeline)
        applied = await context.propose(
            c.CancelPipeline(
                context.now_ms(), pipeline, caller.name, context.agent, assume_stopped, teardown, caller.address
            )
        )
        return AcceptedPipeline(applied.index, await self._accepted(pipeline))

    async def retry(
        self, pipeline: str, caller: Caller, *, only_failed: bool = True, assume_stopped: bool = False
    ) -> AcceptedPipeline:
        """Run again what failed, and what did not succeed below it, without what has succeeded; in one command."""
        shown = await self.show(pipeline)
        wrong = {run.id for run in shown.runs if run.final and (run.state not in GOOD or not only_failed)}
        chosen = [run for run in _with_below(shown.runs, wrong) if run.id in wrong or run.state is not RunState.SUCCESS]
        return await self._bring_back(shown.id, chosen, caller, only_failed=only_failed, assume_stopped=assume_stopped)

    async def retry_downstream(
        self, run_id: str, caller: Caller, *, only_failed: bool = True, assume_stopped: bool = False
    ) -> AcceptedPipeline:
        """Run a run of a pipeline again, with what is below it and did not succeed. Raises Refusal."""
        run = await self._queries.run(run_id)
        if not run.pipeline:
            text = f"run {run.id} is of no pipeline: nothing in one is below it; retry it alone"
            raise Refusal("no_pipeline", text, 409)
        if not run.final:
            raise Refusal("run_not_final", f"run {run.id} has not ended: {run.state}; cancel it first, or wait", 409)
        shown = await self.show(run.pipeline)
        below = _with_below(shown.runs, {run.id})
        chosen = [one for one in below if one.id == run.id or one.state is not RunState.SUCCESS or not only_failed]
        return await self._bring_back(shown.id, chosen, caller, only_failed=only_failed, assume_stopped=assume_stopped)

    async def _bring_back(
        self, pipeline: str, runs: Sequence[Run], caller: Caller, *, only_failed: bool, assume_stopped: bool
    ) -> AcceptedPipeline:
        context = self._context
        cleared = []
        for run in runs:
            names = with_companions(run, to_retry(run, only_failed=only_failed)) if run.final else ()
            if names:
                record, index = await self._queries.record(run.id)
                cleared.append(c.ClearedRun(run.id, names, record, index))
        if not cleared:
            raise nothing_to_retry(f"pipeline {pipeline} that has ended")
        command = c.ClearRuns(
            context.now_ms(), tuple(cleared), caller.name, context.agent, "retry", assume_stopped, caller.address
        )
        _check_size(command)
        applied = await context.propose(command)
        return AcceptedPipeline(applied.index, await self._accepted(pipeline))


def _plain(request: RunRequest) -> RunRequest:
    """What the other jobs of a pipeline are asked for with: nothing of their own."""
    return replace(request, config={}, params={})


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """Each after those that it waits for."""
    by_id = {("", run.id): run for run in sorted(runs, key=lambda run: (run.created_at_ms, run.project, run.job))}
    return [by_id[key] for key in in_order(lambda key: [("", one) for one in _awaited(by_id[key])], by_id)]


def _awaited(run: Run) -> list[str]:
    return [gate.plan.run_id for gate in run.gates if gate.plan.kind is GateKind.RUN]


def _with_below(runs: Sequence[Run], ids: set[str]) -> list[Run]:
    """The runs of these ids, and those that wait for any of them. runs: in order."""
    found = set(ids)
    for run in runs:
        if not found.isdisjoint(_awaited(run)):
            found.add(run.id)
    return [run for run in runs if run.id in found]


def _check_size(command: c.AnyCommand) -> None:
    size = len(msgspec.msgpack.encode(command))
    if size > COMMAND_BYTES_MAX:
        text = (
            f"this pipeline takes {size} bytes in the log, which takes {COMMAND_BYTES_MAX} at a time; run a part of it"
        )
        raise Refusal("too_large", text, 413)
