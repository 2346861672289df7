"""Asking for runs, and what an operator does to them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final

from agent.errors import Refusal
from agent.provision import sealed_secrets
from agent.runtable import commands as c
from agent.runtable.model import (
    InstanceKind,
    InstancePlan,
    InstanceState,
    Namespace,
    Project,
    RetryPolicy,
    Run,
)
from agent.service.catalog import Catalog, check_name, invalid, with_config
from agent.service.common import Accepted, Caller, Context, JobBlob, JobFile, RunRequest, new_id
from agent.service.queries import Queries
from agent.spec import bundle as bundles
from agent.spec.bundle import EXECUTOR_KEY, Bundle, Planned
from agent.spec.compile import Masked, compile_instance, launch
from agent.spec.errors import PluginError, Problem, SpecError
from agent.spec.jobspec import RetrySpec, WindowSpec

MINTED_KEEP_MS: Final = 600_000
KEY_CHARACTERS_MAX: Final = 256
CONFIG_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
NOT_GOOD: Final = frozenset({InstanceState.FAILED, InstanceState.UPSTREAM_FAILED, InstanceState.CANCELLED})


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
        (blob,) = await self._catalog.check(project, [file])
        if project not in self._catalog.projects():
            await self._catalog.put_project(project, namespaces={namespace: Namespace()})
        return await self._submit(project, namespace, blob, request, caller)

    async def _submit(
        self, project: str, namespace: str, blob: JobBlob, request: RunRequest, caller: Caller
    ) -> Accepted:
        context = self._context
        _check_request(request)
        now_ms = context.now_ms()
        scheduled_at = request.scheduled_at or datetime.fromtimestamp(now_ms // 1000, UTC)
        bundle = self._bundle(project, namespace, with_config(blob, request.config))
        plans, notes = await self._check(bundle, blob.path, scheduled_at)
        (digest,) = await asyncio.to_thread(context.blobs.put_all, [bundles.encode(bundle)])
        behavior = bundle.job.behavior
        # A client that sent no key gets one: should this agent have to ask again, it is the same request (P2).
        key, keep_ms = request.key, context.replica.table.rows.limits.request_keep_ms
        if not key:
            key, keep_ms = f"minted {new_id()}", MINTED_KEEP_MS
        applied = await context.propose(
            c.SubmitRun(
                now_ms,
                new_id(),
                project,
                namespace,
                bundle.job.name,
                int(scheduled_at.timestamp() * 1000),
                request.origin,
                caller.name,
                context.agent,
                f"{caller.principal}/{project}/{key}",
                request.body_hash,
                keep_ms,
                digest,
                _ms(behavior.timeout_s),
                _ms(behavior.queue_timeout_s),
                plans,
            )
        )
        run = await self._queries.run(applied.run_id)
        return Accepted(applied.index, run, applied.code == "duplicate", notes=notes)

    def _bundle(self, project: str, namespace: str, blob: JobBlob) -> Bundle:
        row = self._context.replica.table.rows.projects.get(project, Project())
        scope = row.namespaces.get(namespace, Namespace())
        window = blob.job.task.window
        preset = row.presets.get(window.preset) if window is not None and window.preset else None
        try:
            plugins = bundles.used_plugins(blob.job, self._catalog.plugins(project))
        except PluginError as error:
            raise invalid([Problem(blob.path, 1, 1, "", str(error))]) from error
        return Bundle(
            job=blob.job,
            project=project,
            namespace=namespace,
            plugins=plugins,
            variables={**row.variables, **scope.variables},
            preset=WindowSpec(**preset) if preset is not None else None,
            assets=blob.assets,
            executor={**row.config, **scope.config}.get(EXECUTOR_KEY, ""),
        )

    async def _check(
        self, bundle: Bundle, path: str, scheduled_at: datetime
    ) -> tuple[tuple[InstancePlan, ...], tuple[str, ...]]:
        """A trial rendering with masked secrets: what cannot be compiled is refused before it is accepted (P11)."""
        names = frozenset(sealed_secrets(self._context.replica.table, bundle.project, bundle.namespace))
        try:
            planned = bundles.plan(bundle)
            await asyncio.to_thread(self._try, bundle, planned, scheduled_at, names)
        except SpecError as error:
            raise invalid(error.problems) from error
        except PluginError as error:
            raise invalid([Problem(path or f"{bundle.job.name}/job.yaml", 1, 1, "", str(error))]) from error
        plans = tuple(self._plan(bundle, one) for one in planned)
        notes = {
            f"executor {one.executor} is not there: {self._executor(one)} stands in"
            for one in planned
            if self._executor(one) != one.executor
        }
        return plans, tuple(sorted(notes))

    def _try(self, bundle: Bundle, planned: Collection[Planned], scheduled_at: datetime, names: frozenset[str]) -> None:
        assets = {path: self._context.blobs.get(digest) for path, digest in bundle.assets.items()}
        for one in planned:
            compiled = compile_instance(
                bundle,
                one.name,
                scheduled_at=scheduled_at,
                started_at=scheduled_at,
                secrets=Masked(names),
                assets=assets,
            )
            launch(bundle, one.name, {**compiled.environment, **compiled.secrets}, self._executor(one))

    def _executor(self, planned: Planned) -> str:
        """The executor; in development another one may stand in for one that is not there, and the answer says so."""
        return self._context.fallback.get(planned.executor, planned.executor)

    def _plan(self, bundle: Bundle, planned: Planned) -> InstancePlan:
        return InstancePlan(
            planned.name,
            InstanceKind(planned.place.value),
            planned.plugin,
            planned.after,
            self._executor(planned),
            _retry(bundle.job.behavior.retry),
            None if planned.timeout_s is None else _ms(planned.timeout_s),
        )

    # -- operators -------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: str, caller: Caller) -> Accepted:
        """End a run early. What runs is stopped first; the run is final when it has ended."""
        run = await self._queries.run(run_id)
        if run.final:
            raise Refusal("run_final", f"run {run_id} has ended: {run.state}", 409)
        context = self._context
        applied = await context.propose(c.CancelRun(context.now_ms(), run.id, caller.name, context.agent))
        return Accepted(applied.index, await self._queries.run(run.id))

    async def retry(self, run_id: str, caller: Caller, *, only_failed: bool = True) -> Accepted:
        """Run again what did not succeed, or everything. What was made before stays (P4)."""
        run = await self._queries.run(run_id)
        if not run.final:
            raise Refusal("run_not_final", f"run {run_id} has not ended: {run.state}; cancel it first, or wait", 409)
        chosen = [i.plan.name for i in run.instances if not only_failed or i.state in NOT_GOOD]
        if not chosen:
            raise Refusal("nothing_to_retry", f"everything in run {run_id} has succeeded", 409)
        return await self._clear(run, chosen, caller, "retry")

    async def clear(
        self, run_id: str, caller: Caller, *, instances: Collection[str] = (), downstream: bool = False
    ) -> Accepted:
        """Run these instances again (all where none is named), with what comes after them if asked."""
        run = await self._queries.run(run_id)
        known = [i.plan.name for i in run.instances]
        for name in instances:
            if name not in known:
                raise Refusal("unknown_instance", f"run {run_id} has no instance {name!r}; it has {known}", 404)
        chosen = list(instances) or known
        if downstream:
            chosen = _with_downstream(run, chosen)
        return await self._clear(run, chosen, caller, "clear")

    async def _clear(self, run: Run, chosen: Collection[str], caller: Caller, what: str) -> Accepted:
        """A fail hook is always cleared with others: whether it runs is decided anew."""
        hooks = [i.plan.name for i in run.instances if i.plan.kind is InstanceKind.FAIL and i.final]
        names = tuple(i.plan.name for i in run.instances if i.plan.name in {*chosen, *hooks})
        record, index = await self._queries.record(run.id)
        context = self._context
        command = c.ClearRun(context.now_ms(), run.id, names, record, index, caller.name, context.agent, what)
        applied = await context.propose(command)
        return Accepted(applied.index, await self._queries.run(run.id), names=names)

    async def mark(self, run_id: str, instance: str, state: str, caller: Caller) -> Accepted:
        """Give an unfinished instance a result by hand: "success" or "failed". What runs is stopped first."""
        if state not in ("success", "failed"):
            raise Refusal("invalid", f"an instance is marked success or failed, not {state!r}", 422)
        run = await self._queries.run(run_id)
        if run.final:
            raise Refusal("run_final", f"run {run_id} has ended: {run.state}; clear it to run it again", 409)
        context = self._context
        command = c.MarkInstance(context.now_ms(), run.id, instance, InstanceState(state), caller.name, context.agent)
        applied = await context.propose(command)
        return Accepted(applied.index, await self._queries.run(run.id))


def _check_request(request: RunRequest) -> None:
    if len(request.key) > KEY_CHARACTERS_MAX:
        raise Refusal("invalid", f"an Idempotency-Key has at most {KEY_CHARACTERS_MAX} characters", 422)
    for key in request.config:
        if not CONFIG_KEY.fullmatch(key):
            raise Refusal("invalid", f"{key!r} is no name for a config value", 422)
    if request.scheduled_at is not None and not 0 <= request.scheduled_at.timestamp() < 2**38:
        raise Refusal("invalid", "scheduled_at is not within the years 1970 to 9999", 422)


def _with_downstream(run: Run, names: Collection[str]) -> list[str]:
    chosen = set(names)
    for instance in run.instances:  # each comes after all it waits for
        if chosen.intersection(instance.plan.after):
            chosen.add(instance.plan.name)
    return list(chosen)


def _retry(spec: RetrySpec) -> RetryPolicy:
    return RetryPolicy(spec.count, spec.delay_s, spec.exponential_backoff, spec.max_delay_s)


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
