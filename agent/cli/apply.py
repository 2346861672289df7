"""From a project folder to an agent: its jobs, its variables and presets, and what is told of both."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli.common import REFUSED, USAGE, count, fail, listed, problem_view, show_problems

if TYPE_CHECKING:
    from agent.client import Client, Refused
    from agent.folder import Folder, FolderJob

APPLY_BATCH_BYTES: Final = 24 * 1024 * 1024  # of one request


def read_jobs(folder: Folder, where: Path) -> list[FolderJob]:
    """The jobs below a path of a project. Ends with the exit code of a refusal where one has errors: none is sent."""
    from agent.offline import doubled, folder_problems
    from agent.spec.errors import Severity
    from agent.spec.job import parse_job

    jobs = list(folder.jobs(where if where.resolve() != folder.root.resolve() else None))
    parsed = [parse_job(job.file.text, job.file.path, job.file.parents) for job in jobs]
    found = [*folder_problems(folder), *(problem for one in parsed for problem in one.problems)]
    found += doubled(zip((job.file.path for job in jobs), parsed, strict=True))
    errors = [problem_view(one) for one in found if one.severity is Severity.ERROR]
    if errors:
        show_problems(errors, folder)
        fail(f"nothing was applied: {count(len(errors), 'error')}", REFUSED)
    for job in jobs:
        if not job.namespace:
            fail(f"{folder.shown(job.file.path)} lies in no namespace of {folder.shown('optimus.yaml')}", USAGE)
    if not jobs:
        fail(f"there is no job.yaml in a namespace's folder below {where}", USAGE)
    return jobs


def apply_jobs(client: Client, folder: Folder, jobs: Sequence[FolderJob]) -> list[dict[str, Any]]:
    """Send jobs, by namespace; returns the answers. Raises Refused, with the remedy where a plugin was not sent yet."""
    from agent.client import Refused, path

    assert folder.project is not None
    by_namespace: dict[str, list[FolderJob]] = {}
    for found in jobs:
        by_namespace.setdefault(found.namespace, []).append(found)
    where = path("projects", folder.project.name, "namespaces")
    try:
        return [
            client.post(f"{where}/{namespace}/jobs", {"specs": batch}, read_s=300)
            for namespace, some in by_namespace.items()
            for batch in _batches(some)
        ]
    except Refused as error:
        raise _with_remedy(error, client, folder, jobs) from error


def _batches(jobs: Sequence[FolderJob]) -> list[list[dict[str, Any]]]:
    """Jobs in requests of a bounded size; each request is applied whole or not at all."""
    batches: list[list[dict[str, Any]]] = [[]]
    size = 0
    for found in jobs:
        own = sum(len(data) for data in found.file.assets.values()) + len(found.file.text)
        if batches[-1] and size + own > APPLY_BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(sent(found))
        size += own
    return batches


def sent(found: FolderJob) -> dict[str, Any]:
    """A job as a request has it."""
    file = found.file
    return {
        "path": file.path,
        "yaml": file.text,
        "assets": {path: base64.b64encode(data).decode() for path, data in file.assets.items()},
        "parents": [{"path": path, "yaml": text} for path, text in file.parents],
    }


def _with_remedy(error: Refused, client: Client, folder: Folder, jobs: Sequence[FolderJob]) -> Refused:
    """The same refusal; a plugin that the folder has and the project not yet is told with what to do."""
    from agent.client import Refused, path

    if not error.problems:
        return error
    assert folder.project is not None
    applied = client.get(path("projects", folder.project.name, "plugins"))["plugins"]
    missing = folder.plugins.keys() - {one["name"] for one in applied}
    places = {place for place, plugin in _plugins_named(jobs).items() if plugin in missing}
    remedy = "; it is in plugins/: run `prime plugin apply` first"
    problems = [
        {**one, "message": one["message"] + remedy} if (one["file"], one["key"]) in places else one
        for one in error.problems
    ]
    return Refused(error.status, error.code, error.detail, problems)


def _plugins_named(jobs: Sequence[FolderJob]) -> dict[tuple[str, str], str]:
    """(file, key) of each name of a plugin in these jobs, with that name."""
    from agent.offline import plugins_named
    from agent.spec.job import parse_job

    named = {}
    for found in jobs:
        file = found.file
        parsed = parse_job(file.text, file.path, file.parents)
        if parsed.job is None:
            continue
        for key, plugin in plugins_named(parsed.job).items():
            place = parsed.positions.get(key)
            named[place.file if place is not None else file.path, key] = plugin
    return named


def no_more_here(client: Client, folder: Folder, where: Path, applied: Sequence[str]) -> list[str]:
    """What to tell of jobs that are applied, though the folder has them no more: one note a namespace.

    Asked of the namespaces that lie whole below `where`. applied: the names that were applied just now.
    """
    from agent.client import path

    assert folder.project is not None
    whole = [
        one.name
        for one in folder.project.namespaces
        if (folder.root / one.job_path).resolve().is_relative_to(where.resolve())
    ]
    jobs = client.get(path("projects", folder.project.name, "jobs"))["jobs"] if whole else []
    notes = []
    for namespace in whole:
        gone = sorted({one["name"] for one in jobs if one["namespace"] == namespace}.difference(applied))
        if gone:
            notes.append(
                f"the folder of the namespace {namespace} has {count(len(gone), 'job')} no more that the project still "
                f"has: {listed(gone)}; `prime job delete NAME` deletes one"
            )
    return notes


def apply_project(client: Client, folder: Folder) -> None:
    """Tell the agent what optimus.yaml says."""
    from agent.client import path

    project = folder.project
    assert project is not None
    client.put(
        path("projects", project.name),
        {
            "config": project.config,
            "variables": project.variables,
            "presets": {
                name: {
                    key: value
                    for key in ("size", "shift_by", "truncate_to", "location")
                    if (value := getattr(preset.window, key))
                }
                for name, preset in folder.presets.items()
            },
            "namespaces": {one.name: {"config": one.config, "variables": one.variables} for one in project.namespaces},
        },
    )
