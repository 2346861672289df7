"""What a run waits for, from its job's dependencies: the gates that it is proposed with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.errors import Refusal
from agent.runtable.dependencies import JobKey
from agent.runtable.gate_rows import POKE_MS, GateKind, GatePlan, OnFailure, TriggerRule
from agent.runtable.gates import GATES_MAX, TICKS_MAX
from agent.runtable.model import Project
from agent.service.catalog import Catalog
from agent.service.dependencies import job_key
from agent.spec import duration
from agent.spec.bundle import Bundle
from agent.spec.jobspec import DependencySpec
from agent.spec.ticks import awaited_ticks

POKE_KEY: Final = "dependency.poke_interval"  # of a project's config
POKE_MS_MIN: Final = 1000  # each answer is an entry of the log


async def ticks_gates(catalog: Catalog, bundle: Bundle, at: datetime, *, strict: bool = True) -> tuple[GatePlan, ...]:
    """The gates of a run that waits for all that its job depends on: the upstreams' ticks, and http.

    at: the time the run stands for.  Raises Refusal("invalid") where these are more than a run may wait for; not
    strict: then it waits for the upstream's run for the same time, as for one without a schedule.
    """
    found: list[GatePlan] = []
    left = TICKS_MAX
    for one in bundle.job.dependencies:
        if one.http is not None:
            found.append(_http(catalog, bundle, one))
            continue
        project, name = job_key(bundle.project, one)
        row = catalog.applied(project, name)
        upstream = (await catalog.job_blob(row)).job if row is not None else None
        try:
            ticks = awaited_ticks(bundle, upstream, at, left)
        except ValueError as error:
            if strict:
                raise Refusal("invalid", f"dependency {one.job}: {error}", 422) from error
            ticks = [at]
        left -= len(ticks)
        found.append(_plan(GateKind.TICKS, one, (project, name), ticks_ms=tuple(_ms(tick) for tick in ticks)))
    return _few(found)


def run_gates(catalog: Catalog, bundle: Bundle, runs: Mapping[JobKey, str]) -> tuple[GatePlan, ...]:
    """The gates of a run in a pipeline: the pipeline's own runs, and http. What is not in the pipeline is not awaited.

    runs: the ids of the pipeline's runs, by their jobs.
    """
    found: list[GatePlan] = []
    for one in bundle.job.dependencies:
        if one.http is not None:
            found.append(_http(catalog, bundle, one))
        elif (key := job_key(bundle.project, one)) in runs:
            found.append(_plan(GateKind.RUN, one, key, run_id=runs[key]))
    return _few(found)


def _few(found: list[GatePlan]) -> tuple[GatePlan, ...]:
    if len(found) > GATES_MAX:
        raise Refusal("invalid", f"a run can wait for {GATES_MAX} dependencies, not for {len(found)}", 422)
    return tuple(found)


def _plan(
    kind: GateKind, one: DependencySpec, key: JobKey, *, ticks_ms: tuple[int, ...] = (), run_id: str = ""
) -> GatePlan:
    timeout_ms = None if kind is GateKind.RUN else max(1, int(one.timeout_s * 1000))
    rule, on_failure = TriggerRule(one.trigger_rule.value), OnFailure(one.on_failure.value)
    return GatePlan(kind, *key, run_id, ticks_ms, "", rule, on_failure, timeout_ms)


def _http(catalog: Catalog, bundle: Bundle, one: DependencySpec) -> GatePlan:
    assert one.http is not None
    plan = _plan(GateKind.HTTP, one, ("", ""))
    every_ms = _poke_ms(catalog.projects().get(bundle.project, Project()))
    return GatePlan(plan.kind, "", "", "", (), one.http.name, plan.rule, plan.on_failure, plan.timeout_ms, every_ms)


def _poke_ms(project: Project) -> int:
    text = project.config.get(POKE_KEY)
    if text is None:
        return POKE_MS
    try:
        every = duration.parse(text)
    except ValueError as error:
        raise Refusal("invalid", f"the project's config {POKE_KEY}: {error}", 422) from error
    return max(POKE_MS_MIN, round(every / timedelta(milliseconds=1)))


def _ms(at: datetime) -> int:
    return int(at.astimezone(UTC).timestamp() * 1000)
