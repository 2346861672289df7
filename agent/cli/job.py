"""`prime job`: specs, and runs of them."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent.cli import output
from agent.cli.apply import apply_jobs, apply_project, no_more_here, read_jobs, sent
from agent.cli.common import (
    RUN_FAILED,
    USAGE,
    WENT_WELL,
    count,
    fail,
    format_option,
    listed,
    moment,
    no_project,
    online,
    open_folder,
    placed,
    problem_view,
    project_name,
    project_option,
    read_moment,
    show_applied,
    show_problems,
)
from agent.cli.complete import applied_jobs, folder_jobs
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client
    from agent.folder import Folder, FolderJob
    from agent.spec.job import JobSpec

T = TypeVar("T")
KEY_CHARACTERS_MAX: Final = 256
ADHOC: Final = "adhoc"  # project and namespace of a spec that lies in none
STDIN: Final = Path("-")
PAIR: Final = re.compile(r",(?=\s*[A-Za-z_][A-Za-z0-9_.\-]*=)")  # a comma before the next NAME=


param_option = click.option(
    "--param", multiple=True, help="A value of one of the job's parameters; may be repeated.", metavar="NAME=VALUE"
)


@click.group(cls=LazyGroup)
def job() -> None:
    """Check, apply and run jobs."""


@job.command()
@click.argument("name", required=False, shell_complete=applied_jobs)
@click.option("--at", help="The time the run stands for (RFC 3339); now if left out.", metavar="TIME")
@click.option("--request-id", help="The same id and request always get the same run.", metavar="ID")
@click.option("--config", multiple=True, help="Override values of the task's config.", metavar="K=V[,K=V...]")
@param_option
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Run a spec that was never applied; - is stdin. Where it lies in no project, its project is adhoc.",
)
@click.option("--namespace", help="Namespace of a run with --file; else the one it lies in, else adhoc.")
@click.option("--upstream", is_flag=True, help="With all it depends on, before it, as one pipeline.")
@click.option("--downstream", is_flag=True, help="With all that depends on it, after it.")
@click.option("--pipeline", is_flag=True, help="With both.")
@click.option("--check-dependencies", is_flag=True, help="Wait for what the job depends on; else it begins at once.")
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
    param: tuple[str, ...],
    file: Path | None,
    namespace: str | None,
    upstream: bool,  # noqa: FBT001  click gives flags so
    downstream: bool,  # noqa: FBT001
    pipeline: bool,  # noqa: FBT001
    check_dependencies: bool,  # noqa: FBT001
    wait: bool,  # noqa: FBT001
    follow: bool,  # noqa: FBT001
    project: str | None,
    form: str,
) -> None:
    """Run a job now, alone or with those around it. Prints the run's id and waits for nothing, unless told to."""
    from agent.cli import pipeline as pipelines
    from agent.client import path

    if (name is None) == (file is None):
        fail("name a job, or a spec with --file: one of the two", USAGE)
    body: dict[str, Any] = {"config": pairs_of(config), "params": params_of(param)}
    if at is not None:
        body["scheduled_at"] = moment(at, "--at")
    scope = pipelines.scope_of(upstream=upstream, downstream=downstream, pipeline=pipeline)
    if file is not None:
        if scope is not None or check_dependencies:
            fail("a spec with --file runs alone and at once: apply it to run it with those around it", USAGE)
        body["spec"], in_namespace, in_project = _adhoc(file)
        project = project or in_project
        where = path("projects", project, "namespaces", namespace or in_namespace, "runs")
    else:
        assert name is not None
        where = path("projects", project_name(project), "jobs", name, "runs" if scope is None else "pipelines")
        body |= {"check_dependencies": True} if check_dependencies else {}
        body |= {"scope": scope} if scope is not None else {}
    answer = _ask_once(client, where, body, request_id)
    if scope is not None:
        pipelines.after_submit(client, answer["pipeline"], wait=wait, follow=follow, form=form)
    else:
        _after_submit(client, answer["run"], wait=wait, follow=follow, form=form)


def _ask_once(client: Client, where: str, body: dict[str, Any], request_id: str | None) -> dict[str, Any]:
    """Ask for a run or a pipeline, and say what is to be known of it. Asked again, it is the same one (P2)."""
    from agent.client import Unreachable

    key = request_key(request_id)
    try:
        answer: dict[str, Any] = client.post(where, body, key=key)
    except Unreachable as error:
        if request_id is None:
            raise Unreachable(f"{error}. To ask again without running it twice, add --request-id {key}") from error
        raise
    show_applied(answer)
    if answer["duplicate"]:
        output.note("note: this was asked for before; it is the run of then")
    return answer


def request_key(given: str | None) -> str:
    """The Idempotency-Key of a request: with it, asking again never makes a second run (P2)."""
    if given is None:
        return str(uuid.uuid4())
    if not 1 <= len(given) <= KEY_CHARACTERS_MAX or not all(" " <= one <= "~" for one in given):
        fail(f"--request-id {given!r}: 1 to {KEY_CHARACTERS_MAX} printable ASCII characters are expected", USAGE)
    return given


def _after_submit(client: Client, started: dict[str, Any], *, wait: bool, follow: bool, form: str) -> None:
    from agent.cli.follow import follow_run, wait_for_run

    run_id = started["id"]
    if follow:
        final = follow_run(client, run_id, err=form == "json")
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
    if final["state"] not in WENT_WELL:
        raise SystemExit(RUN_FAILED)


def _adhoc(file: Path) -> tuple[dict[str, Any], str, str]:
    """A spec from its file, whatever it is called, with the namespace and the project it lies in."""
    from agent.folder import Folder, find_folder, load_project

    root = find_folder(Path.cwd() if file == STDIN else file)
    folder = load_project(root) if root is not None else Folder(file.parent)
    found = _from_stdin() if file == STDIN else folder.job(file)
    if folder.problems:
        show_problems([problem_view(one) for one in folder.problems], folder)
        fail(f"{file} cannot be run", USAGE)
    return sent(found), found.namespace or ADHOC, folder.project.name if folder.project is not None else ADHOC


def _from_stdin() -> FolderJob:
    """A spec that lies in no folder: without assets, and in no namespace."""
    from agent.folder import UNNAMED, FolderJob, JobOnDisk

    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        fail(f"what came on stdin is not UTF-8: {error.reason}", USAGE)
    return FolderJob(UNNAMED, JobOnDisk("<stdin>", text, {}, ()))


def pairs_of(texts: tuple[str, ...], flag: str = "--config") -> dict[str, str]:
    """`K=V,K=V`; a comma that no NAME= follows belongs to the value."""
    pairs = {}
    for text in (pair for one in texts for pair in PAIR.split(one)):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            fail(f"{flag} {text!r}: KEY=VALUE is expected", USAGE)
        pairs[key.strip()] = value
    return pairs


def params_of(texts: tuple[str, ...]) -> dict[str, str]:
    """Each text is one NAME=VALUE, whatever commas it has."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            fail(f"--param {text!r}: NAME=VALUE is expected", USAGE)
        if name.strip() in pairs:
            fail(f"--param {name.strip()} is given twice", USAGE)
        pairs[name.strip()] = value
    return pairs


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
@click.argument("name", shell_complete=applied_jobs)
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
    folder = open_folder(where)
    assert folder.project is not None
    name = folder.project.name
    jobs = read_jobs(folder, where)
    apply_project(client, folder)
    answers = apply_jobs(client, folder, jobs)
    applied = [one for answer in answers for one in answer["jobs"]]
    for answer in (*answers, {"notes": no_more_here(client, folder, where, applied)}):
        show_applied(answer, folder)
    if form == "json":
        output.show_json({"project": name, "jobs": applied})
    else:
        click.echo(f"applied {count(len(applied), 'job')} to project {name}: {listed(applied)}")


@job.command()
@click.argument("name", required=False, shell_complete=applied_jobs)
@click.option("--upstream", is_flag=True, help="Only what it depends on.")
@click.option("--downstream", is_flag=True, help="Only what depends on it.")
@project_option
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["ascii", "mermaid", "dot", "json"]),
    default="ascii",
    help="How to show it.",
)
@online
def graph(client: Client, name: str | None, upstream: bool, downstream: bool, project: str | None, form: str) -> None:  # noqa: FBT001
    """Which applied jobs depend on which: those of a project, or those around one job."""
    from agent.cli import graph as drawn
    from agent.client import path

    if name is None and (upstream or downstream):
        fail("--upstream and --downstream are of a job: name it", USAGE)
    answer = client.get(
        path("projects", project_name(project), "graph"), job=name, upstream=upstream, downstream=downstream
    )
    if form == "json":
        output.show_json(answer)
        return
    click.echo({"ascii": drawn.ascii_tree, "mermaid": drawn.mermaid, "dot": drawn.dot}[form](answer))
    if answer["truncated"]:
        output.note("there are more jobs than are shown: name one, with --upstream or --downstream")


@job.command()
@click.argument("name", shell_complete=applied_jobs)
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
    report = check(folder, None if where.resolve() == folder.root.resolve() else where)
    errors = placed([problem_view(one) for one in report.of(Severity.ERROR)], folder)
    warnings = placed([problem_view(one) for one in report.of(Severity.WARNING)], folder)
    if form == "json":
        for one in (*errors, *warnings):
            del one["severity"]  # it is said by the list
        output.show_json({"jobs": report.jobs, "errors": errors, "warnings": warnings})
    else:
        output.problems([*errors, *warnings])
        counts = (report.jobs, "job"), (len(errors), "error"), (len(warnings), "warning")
        click.echo(", ".join(count(*one) for one in counts))
        if not folder.is_project:
            output.note(f"note: {no_project(where)}; plugins and variables are not known, and were not checked")
    if errors:
        raise SystemExit(RUN_FAILED)


@job.command("compile")
@click.argument("name", shell_complete=folder_jobs)
@click.option("--at", required=True, help="The scheduled time (RFC 3339).", metavar="TIME")
@click.option("--instance", help="A hook's name; the task if left out.")
@param_option
@format_option
def compile_(name: str, at: str, instance: str | None, param: tuple[str, ...], form: str) -> None:
    """Show what a job's task would find at a scheduled time. Needs no agent; secrets show as ***."""
    from agent import offline
    from agent.spec import params
    from agent.spec.bundle import instance_name, spec_of
    from agent.spec.compile import rfc3339
    from agent.spec.document import nearest
    from agent.spec.lookups import MASK

    moment = read_moment(at, "--at")
    folder, found, spec = _find(name)
    given, wrong = params.values(spec.params, params_of(param))
    if wrong:
        fail("; ".join(f"params.{one}: {message}" for one, message in wrong.items()), USAGE)
    bundle = _tried(folder, lambda: offline.bundle_of(folder, found, spec, given))
    if instance is not None:
        try:
            spec_of(spec, instance)
        except KeyError:
            known = [spec.task.name, *(instance_name(spec, hook) for hook in spec.hooks)]
            fail(f"the job {name} has no instance {instance!r}{nearest(instance, known)}", USAGE)
    compiled = _tried(folder, lambda: offline.compile_job(bundle, found, moment, instance))
    texts = {path: _text(data) for path, data in compiled.files.items()}
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
        click.echo(f"\n--- {path}\n{text if text is not None else '(not a text)'}")


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


@job.command("next")
@click.argument("name", shell_complete=folder_jobs)
@click.option("--after", help="Ticks later than this (RFC 3339); now if left out.", metavar="TIME")
@click.option("--count", "number", default=5, show_default=True, type=click.IntRange(1, 10_000))
@format_option
def next_(name: str, after: str | None, number: int, form: str) -> None:
    """Show the next ticks of a job's schedule; none where it has no schedule. Needs no agent."""
    from datetime import UTC, datetime

    from agent.spec.compile import rfc3339
    from agent.spec.ticks import next_ticks

    moment = datetime.now(UTC) if after is None else read_moment(after, "--after")
    folder, _found, spec = _find(name)
    scheduled = bool(spec.schedule.interval)
    found = _tried(folder, lambda: next_ticks(spec, moment, number)) if scheduled else []
    ticks = [rfc3339(tick) for tick in found]
    if form == "json":
        output.show_json({"ticks": ticks})
    elif not scheduled:
        click.echo(f"the job {name} has no schedule.interval: it runs only when asked")
    else:
        click.echo("\n".join(ticks) if ticks else "no more ticks")


def _find(name: str) -> tuple[Folder, FolderJob, JobSpec]:
    """A job of the folder one stands in. What else is wrong in the folder does not matter."""
    from agent.folder import load_folder
    from agent.offline import NoSuchJob, find_job

    folder = load_folder(Path())
    if folder.project is None:
        folder = open_folder()  # which says why not
    try:
        found, spec = _tried(folder, lambda: find_job(folder, name))
    except NoSuchJob as error:
        fail(str(error), USAGE)
    return folder, found, spec


def _tried(folder: Folder, work: Callable[[], T]) -> T:
    """Do something with a spec; what is wrong with it ends the command with exit code 1."""
    from agent.offline import folder_problems
    from agent.spec.errors import Severity, SpecError

    try:
        return work()
    except SpecError as error:
        show_problems([problem_view(one) for one in error.problems], folder)
        errors = sum(one.severity is Severity.ERROR for one in error.problems)
        fail(f"the job has {count(errors, 'error')}", RUN_FAILED)
    except ValueError as error:
        # A plugin that seems not to be there may be one that could not be read.
        show_problems([problem_view(one) for one in folder_problems(folder)], folder)
        fail(str(error), RUN_FAILED)
