"""`prime job`: specs, and runs of them."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import output
from agent.cli.common import (
    RUN_FAILED,
    USAGE,
    fail,
    format_option,
    online,
    open_folder,
    problem_view,
    project_name,
    project_option,
    show_applied,
)
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from datetime import datetime

    from agent.client import Client
    from agent.folder import FolderJob

APPLY_BATCH_BYTES = 24 * 1024 * 1024  # of one request


@click.group(cls=LazyGroup)
def job() -> None:
    """Check, apply and run jobs."""


@job.command()
@click.argument("name", required=False)
@click.option("--at", help="The time the run stands for (RFC 3339); now if left out.", metavar="TIME")
@click.option("--request-id", help="The same id and request always get the same run.", metavar="ID")
@click.option("--config", multiple=True, help="Override values of the task's config.", metavar="K=V[,K=V...]")
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run a spec that was never applied.",
)
@click.option("--namespace", default="adhoc", show_default=True, help="Namespace of a run with --file.")
@click.option("--wait", is_flag=True, help="Wait for the end; the run's result is the exit code.")
@click.option("--follow", is_flag=True, help="Show states and output until the end; the result is the exit code.")
@project_option
@format_option
@online
def run(
    client: Client,
    name: str | None,
    at: str | None,
    request_id: str | None,
    config: tuple[str, ...],
    file: Path | None,
    namespace: str,
    wait: bool,  # noqa: FBT001  click gives flags so
    follow: bool,  # noqa: FBT001
    project: str | None,
    form: str,
) -> None:
    """Run a job now. Prints the run's id and waits for nothing, unless told to."""
    from agent.client import path

    if (name is None) == (file is None):
        fail("name a job, or a spec with --file: one of the two", USAGE)
    body: dict[str, Any] = {"config": _pairs(config)}
    if at is not None:
        body["scheduled_at"] = _moment(at, "--at").isoformat()
    if file is not None:
        spec, namespace_of_file, project = _adhoc(file, project)
        body["spec"] = spec
        where = path("projects", project, "namespaces", namespace_of_file or namespace, "runs")
    else:
        assert name is not None
        where = path("projects", project_name(project), "jobs", name, "runs")
    answer = client.post(where, body, key=request_id or str(uuid.uuid4()))
    show_applied(answer)
    _after_submit(client, answer["run"], wait=wait, follow=follow, form=form)


def _after_submit(client: Client, started: dict[str, Any], *, wait: bool, follow: bool, form: str) -> None:
    from agent.cli.follow import follow_run, wait_for_run

    run_id = started["id"]
    if follow:
        final = follow_run(client, run_id)
    elif wait:
        final = wait_for_run(client, run_id)
    else:
        if form == "json":
            output.show_json({"run": started})
        else:
            click.echo(run_id)
            output.note(f"see `prime run show {run_id}`, or follow it with `prime run logs {run_id} -f`")
        return
    if form == "json":
        output.show_json({"run": final})
    elif not follow:
        output.show_run(final)
    if final["state"] != "success":
        raise SystemExit(RUN_FAILED)


def _adhoc(file: Path, project: str | None) -> tuple[dict[str, Any], str, str]:
    """A spec from its file, the namespace it lies in, and its project."""
    from agent.folder import load_folder, load_job_file

    folder = load_folder(file)
    found = load_job_file(file)
    for known in folder.jobs() if folder.project is not None else ():
        if Path(known.file.path).resolve() == file.resolve():
            found = known
    name = project or (folder.project.name if folder.project is not None else "adhoc")
    return _sent(found), found.namespace, name


def _sent(found: FolderJob) -> dict[str, Any]:
    file = found.file
    return {
        "path": file.path,
        "yaml": file.text,
        "assets": {path: base64.b64encode(data).decode() for path, data in file.assets.items()},
        "parents": [{"path": path, "yaml": text} for path, text in file.parents],
    }


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in ",".join(texts).split(",") if texts else ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            fail(f"--config {text!r}: KEY=VALUE is expected", USAGE)
        pairs[key.strip()] = value
    return pairs


def _moment(text: str, flag: str) -> datetime:
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{flag} {text!r}: a time such as 2026-03-08T07:30:00Z is expected", USAGE)
        raise
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


@job.command("list")
@click.option("--namespace", help="Only this one's.")
@project_option
@format_option
@online
def list_jobs(client: Client, namespace: str | None, project: str | None, form: str) -> None:
    """Applied jobs."""
    from agent.client import path

    answer = client.get(path("projects", project_name(project), "jobs"), namespace=namespace)
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (one["name"], one["namespace"], one["task"], one["interval"] or None, one["owner"]) for one in answer["jobs"]
    ]
    output.table(["NAME", "NAMESPACE", "TASK", "SCHEDULE", "OWNER"], rows)


@job.command()
@click.argument("name")
@project_option
@format_option
@online
def show(client: Client, name: str, project: str | None, form: str) -> None:
    """The whole of an applied job."""
    from agent.client import path

    answer = client.get(path("projects", project_name(project), "jobs", name))
    if form == "json":
        output.show_json(answer)
        return
    click.echo(f"# {answer['job']['project']}/{answer['job']['namespace']}, applied {answer['job']['updated_at']}")
    click.echo(answer["yaml"].rstrip())
    for asset, digest in answer["assets"].items():
        click.echo(f"# asset {asset} {digest[:12]}")


@job.command()
@click.argument("where", required=False, default=".", type=click.Path(exists=True, path_type=Path), metavar="[PATH]")
@format_option
@online
def apply(client: Client, where: Path, form: str) -> None:
    """Apply the jobs of a project folder (or those below PATH), with its variables and presets."""
    from agent.client import path

    folder = open_folder(where)
    assert folder.project is not None
    name = folder.project.name
    apply_project(client, folder)
    below = where if where.resolve() != folder.root.resolve() else None
    by_namespace: dict[str, list[FolderJob]] = {}
    for found in folder.jobs(below):
        by_namespace.setdefault(found.namespace, []).append(found)
    answers = [
        client.post(path("projects", name, "namespaces", namespace, "jobs"), {"specs": batch}, read_s=300)
        for namespace, jobs in by_namespace.items()
        for batch in _batches(jobs)
    ]
    for answer in answers:
        show_applied(answer)
    applied = [one for answer in answers for one in answer["jobs"]]
    if form == "json":
        output.show_json({"project": name, "jobs": applied})
    else:
        click.echo(
            f"applied {len(applied)} jobs to project {name}: {', '.join(applied)}" if applied else "no jobs found"
        )


def _batches(jobs: list[FolderJob]) -> list[list[dict[str, Any]]]:
    """Jobs in requests of a bounded size; each request is applied whole or not at all."""
    batches: list[list[dict[str, Any]]] = [[]]
    size = 0
    for found in jobs:
        own = sum(len(data) for data in found.file.assets.values()) + len(found.file.text)
        if batches[-1] and size + own > APPLY_BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(_sent(found))
        size += own
    return batches


def apply_project(client: Client, folder: Any) -> None:
    """Tell the agent what optimus.yaml says."""
    from agent.client import path

    project = folder.project
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


@job.command()
@click.argument("name")
@click.option("--namespace", help="Its namespace; else where it is.")
@project_option
@online
def delete(client: Client, name: str, namespace: str | None, project: str | None) -> None:
    """Delete a job. Its runs and their history stay."""
    from agent.client import path

    project = project_name(project)
    if namespace is None:
        namespace = client.get(path("projects", project, "jobs", name))["job"]["namespace"]
    client.delete(path("projects", project, "namespaces", namespace, "jobs", name))
    click.echo(f"deleted {name}")


@job.command()
@click.argument("where", required=False, default=".", type=click.Path(exists=True, path_type=Path), metavar="[PATH]")
@format_option
def validate(where: Path, form: str) -> None:
    """Check specs: those of a project folder, of any folder, or one file. Needs no agent."""
    from agent.folder import load_folder
    from agent.offline import validate as check
    from agent.spec.errors import Severity

    folder = load_folder(where)
    inside = folder.project is not None and where.resolve() != folder.root.resolve()
    report = check(folder, where if inside or where.is_file() else None)
    errors = [problem_view(one) for one in report.of(Severity.ERROR)]
    warnings = [problem_view(one) for one in report.of(Severity.WARNING)]
    if form == "json":
        output.show_json({"jobs": report.jobs, "errors": errors, "warnings": warnings})
    else:
        output.problems([*errors, *warnings])
        click.echo(f"{report.jobs} jobs, {len(errors)} errors, {len(warnings)} warnings")
    if errors:
        raise SystemExit(RUN_FAILED)


@job.command("compile")
@click.argument("name")
@click.option("--at", required=True, help="The scheduled time (RFC 3339).", metavar="TIME")
@click.option("--instance", help="A hook's name; the task if left out.")
@format_option
def compile_(name: str, at: str, instance: str | None, form: str) -> None:
    """Show what a job's task would find at a scheduled time. Needs no agent; secrets show as ***."""
    from agent import offline
    from agent.spec.bundle import spec_of
    from agent.spec.compile import MASK, rfc3339

    moment = _moment(at, "--at")
    found, spec = _find(name)
    folder = open_folder()
    bundle = _tried(lambda: offline.bundle_of(folder, found, spec))
    if instance is not None:
        try:
            spec_of(spec, instance)
        except KeyError:
            fail(f"the job {name} has no instance {instance!r}", USAGE)
    compiled = _tried(lambda: offline.compile_job(bundle, found, moment, instance))
    texts = {path: data.decode(errors="replace") for path, data in compiled.files.items()}
    if form == "json":
        output.show_json(
            {
                "job": name,
                "scheduled_at": rfc3339(moment),
                "window": {"start": rfc3339(compiled.window.start), "end": rfc3339(compiled.window.end)},
                "envs": compiled.environment,
                "secrets": dict.fromkeys(compiled.secrets, MASK),
                "assets": texts,
            }
        )
        return
    click.echo(f"window {rfc3339(compiled.window.start)} to {rfc3339(compiled.window.end)}")
    output.table(["NAME", "VALUE"], [*compiled.environment.items(), *((key, MASK) for key in compiled.secrets)])
    for path, text in texts.items():
        click.echo(f"\n--- {path}\n{text}")


@job.command("next")
@click.argument("name")
@click.option("--after", help="Ticks later than this (RFC 3339); now if left out.", metavar="TIME")
@click.option("--count", default=5, show_default=True, type=click.IntRange(1, 10_000))
@format_option
def next_(name: str, after: str | None, count: int, form: str) -> None:
    """Show the next ticks of a job's schedule. Needs no agent."""
    from datetime import UTC, datetime

    from agent.offline import next_ticks
    from agent.spec.compile import rfc3339

    moment = datetime.now(UTC) if after is None else _moment(after, "--after")
    _found, spec = _find(name)
    ticks = [rfc3339(tick) for tick in _tried(lambda: next_ticks(spec, moment, count))]
    if form == "json":
        output.show_json({"ticks": ticks})
    else:
        click.echo("\n".join(ticks) if ticks else "no more ticks")


def _find(name: str) -> Any:
    from agent.offline import NoSuchJob, find_job

    folder = open_folder()
    try:
        return _tried(lambda: find_job(folder, name))
    except NoSuchJob as error:
        fail(str(error), USAGE)


def _tried(work: Any) -> Any:
    """Do something with a spec; what is wrong with it ends the command with exit code 1."""
    from agent.spec.errors import SpecError

    try:
        return work()
    except SpecError as error:
        output.problems(problem_view(one) for one in error.problems)
        fail(f"{len(error.problems)} problems", RUN_FAILED)
    except ValueError as error:
        fail(str(error), RUN_FAILED)
