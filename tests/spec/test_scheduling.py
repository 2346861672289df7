"""Pools and queues, as a project's config and a job's metadata name them."""

from __future__ import annotations

import pytest

from agent.spec.check import check_job
from agent.spec.errors import Severity
from agent.spec.job import parse_job
from agent.spec.jobspec import SchedulerSpec
from agent.spec.project import parse_project
from agent.spec.scheduling import labels_of, pool_of, pools_of

JOB = "version: 3\nname: job\nowner: me\ntask: {name: shell, config: {SCRIPT: echo}}\n"


def warnings(more: str, pools: dict[str, int] | None, queues: tuple[str, ...] | None = None) -> list[str]:
    job = parse_job(JOB + more, "job.yaml").job
    assert job is not None
    found = check_job(job, {}, "job.yaml", pools=pools, queues=queues)
    assert {one.severity for one in found} <= {Severity.WARNING}
    return [f"{one.key}: {one.message}" for one in found]


def test_pools_are_whole_numbers_of_slots() -> None:
    pools, wrong = pools_of({"pool.a": "4", "pool.b": "many", "pool.": "1", "pool.c": "-1", "executor": "docker"})
    assert pools == {"a": 4}
    assert set(wrong) == {"pool.b", "pool.", "pool.c"}


def test_a_pool_without_a_number_is_told_with_its_place() -> None:
    project, problems = parse_project("project: {name: p, config: {pool.db: many}}\n", "optimus.yaml")
    assert project is None
    assert str(problems[0]).startswith("optimus.yaml:1:38: project.config.pool.db: a pool is a whole number of slots")


def test_a_pool_of_a_namespace_is_a_warning() -> None:
    text = "project: {name: p}\nnamespaces: [{name: n, job: {path: x}, config: {pool.db: 1, a: b}}]\n"
    project, problems = parse_project(text, "optimus.yaml")
    assert project is not None
    assert [one.severity for one in problems] == [Severity.WARNING]


def test_default_pool_and_default_queue_limit_nothing() -> None:
    scheduler = SchedulerSpec(pool="default_pool", queue="default", constraints={"a": "b"})
    assert pool_of(scheduler, {}) == ""
    assert pool_of(scheduler, {"default_pool": 1}) == "default_pool"
    assert labels_of(scheduler) == (("a", "b"),)
    assert labels_of(SchedulerSpec(queue="high", constraints={"z": "1"})) == (("queue", "high"), ("z", "1"))


@pytest.mark.parametrize(
    ("more", "pools", "told"),
    [
        ("metadata: {scheduler: {pool: dbs}}\n", {"db": 1}, "the project has no pool 'dbs'; did you mean 'db'?"),
        ("metadata: {scheduler: {pool: db, pool_slots: 2}}\n", {"db": 1}, "the pool db has 1"),
        ("metadata: {scheduler: {pool_slots: 2}}\n", {}, "has no effect without a pool"),
        ("behavior: {overlap: allow, max_active_runs: 2}\n", {}, "has no effect with overlap allow"),
        ("metadata: {airflow: {queue: high}}\n", {}, "no agent has the label queue=high"),
    ],
)
def test_what_cannot_be_met_is_a_warning(more: str, pools: dict[str, int], told: str) -> None:
    (found,) = warnings(more, pools, ("low",))
    assert told in found


def test_what_can_be_met_or_is_not_known_is_none() -> None:
    text = "metadata: {scheduler: {pool: db, queue: high}}\n"
    assert warnings(text, {"db": 1}, ("high",)) == []
    assert warnings(text, None) == []
