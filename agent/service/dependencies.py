"""The dependencies of applied jobs: as rows, circles in them, and those that are not there."""

from __future__ import annotations

from collections.abc import Mapping

from agent.runtable.dependencies import JobKey, awaited_jobs, circle, edges_of
from agent.runtable.model import Dependency, DependencyKind, Job
from agent.runtable.table import Table
from agent.service.common import JobBlob
from agent.service.trials import invalid, placed
from agent.spec.compile import spec_file
from agent.spec.document import nearest
from agent.spec.errors import Problem, Severity
from agent.spec.jobspec import DependencySpec, JobSpec


def job_key(project: str, dependency: DependencySpec) -> JobKey:
    """The job that a dependency names. project: of the job that has it."""
    named, slash, name = dependency.job.partition("/")
    return (named, name) if slash else (project, named)


def told(project: str, key: JobKey) -> str:
    """A job as someone in `project` calls it."""
    return key[1] if key[0] == project else "/".join(key)


def rows_of(project: str, job: JobSpec) -> tuple[Dependency, ...]:
    """The dependencies of a job, as its row keeps them. project: the job's."""
    return tuple(
        Dependency(DependencyKind.HTTP, "", one.http.name)
        if one.http is not None
        else Dependency(DependencyKind.JOB, *job_key(project, one))
        for one in job.dependencies
    )


def refuse_circle(table: Table, project: str, rows: Mapping[str, Job], blobs: Mapping[str, JobBlob]) -> None:
    """Raise Refusal("spec_invalid") where these jobs would close a circle; it is told whole, at the job's own key.

    rows, blobs: by name, of the jobs that are about to be applied.
    """
    new = {(project, name): row for name, row in rows.items()}
    found = circle(edges_of(table.rows.jobs, new), new)
    if found is None:
        return
    at = next(place for place, key in enumerate(found) if key in new)  # without one there was a circle before
    found = [*found[at:-1], *found[:at], found[at]]
    text = f"jobs would depend on each other in a circle: {' -> '.join(told(project, key) for key in found)}"
    raise invalid([_problem(project, blobs[found[0][1]], found[1], text, Severity.ERROR)])


def missing_jobs(table: Table, project: str, blobs: Mapping[str, JobBlob]) -> tuple[Problem, ...]:
    """Warnings of dependencies on jobs that are not applied. blobs: by name, of jobs that are."""
    jobs = table.rows.jobs
    found: list[Problem] = []
    for name, blob in blobs.items():
        row = jobs.get(project, {}).get(name)
        for key in awaited_jobs(row) if row is not None else ():
            known = jobs.get(key[0], {})
            if key[1] not in known:
                hint = nearest(key[1], known)
                text = (
                    f"the job {'/'.join(key)} is not applied{hint}; until it is, nothing but a report can stand for it"
                )
                found.append(_problem(project, blob, key, text, Severity.WARNING))
    return tuple(found)


def _problem(project: str, blob: JobBlob, upstream: JobKey, text: str, severity: Severity) -> Problem:
    numbers = [n for n, one in enumerate(blob.job.dependencies) if one.job and job_key(project, one) == upstream]
    key = f"dependencies[{numbers[0]}].job" if numbers else "dependencies"
    return placed([Problem(spec_file(blob.job), 1, 1, key, text, severity)], blob)[0]
