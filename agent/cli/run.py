"""`prime run`: what became of runs, and what an operator does to them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent.cli import output
from agent.cli import pipeline as pipelines
from agent.cli.common import REFUSED, RUN_FAILED, USAGE, WENT_WELL, fail, format_option, moment, online
from agent.cli.complete import applied_jobs, run_ids
from agent.cli.lazy import LazyGroup
from agent.cli.report import import_run

if TYPE_CHECKING:
    from agent.client import Client

F = TypeVar("F", bound=Callable[..., Any])
STATES: Final = ("queued", "running", "success", "failed", "cancelled", "skipped", "upstream_failed")
ORIGINS: Final = ("manual", "schedule", "pipeline", "replay", "test", "external")
FILTERS: Final = ("project", "namespace", "job", "state", "origin", "replay", "since", "until", "cursor")
IDS: Final = "The id of a run may be shortened to its first 4 characters or more. p-... is a pipeline's."
LAST: Final[dict[str, dict[str, str]]] = {
    "last": {},
    "last_failure": {"state": "failed"},
    "last_manual": {"origin": "manual"},
}
ALWAYS_OTHER: Final = frozenset({"pid", "container_id", "env.EXECUTION_TIME"})  # in any two runs, whatever was run


def run_argument(command: F) -> F:
    """`RUN_ID`, whole or shortened, in either case of letters."""
    return click.argument("run_id", callback=lambda _ctx, _param, text: text.lower(), shell_complete=run_ids)(command)


@click.group(cls=LazyGroup, epilog=IDS)
def run() -> None:
    """Look at runs, end them, run them again."""


run.add_command(import_run)


@run.command("list")
@click.option("-p", "--project")
@click.option("--namespace")
@click.option("--job", shell_complete=applied_jobs)
@click.option("--state", type=click.Choice(STATES))
@click.option("--origin", type=click.Choice(ORIGINS))
@click.option("--replay", help="Made by this replay.", metavar="ID")
@click.option("--since", help="Created at or after: RFC 3339, or how long ago (90m).", metavar="TIME")
@click.option("--until", help="Created before.", metavar="TIME")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--cursor", help="Go on where an earlier list ended.")
@click.option("--last", is_flag=True, help="Only the newest of them.")
@click.option("--last-failure", is_flag=True, help="Only the newest that failed.")
@click.option("--last-manual", is_flag=True, help="Only the newest that somebody asked for.")
@click.option("--pipeline", help="Those of this one, each after those that it waits for.", metavar="ID")
@format_option
@online
def list_runs(client: Client, form: str, pipeline: str | None, **wanted: Any) -> None:
    """Runs, newest first."""
    from agent.client import path

    if pipeline is not None:
        if any(wanted[key] for key in FILTERS):
            fail("--pipeline lists all runs of that one: it goes with no other filter", USAGE)
        pipelines.get(client, pipeline.lower(), form)
        return
    only = _only_last(wanted)
    for key in ("since", "until"):
        if wanted[key] is not None:
            wanted[key] = moment(wanted[key], f"--{key}")
    answer = client.get(path("runs"), **wanted)
    if not answer["runs"] and wanted["project"]:  # a name that is mistyped is no empty list
        client.get(path("projects", wanted["project"]))
    if answer.get("notes"):  # agents of before know no notes
        fail("; ".join(answer["notes"]), REFUSED)
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (
            one["id"],
            f"{one['project']}/{one['job']}",
            one["state"],
            one["reason"],
            one["origin"],
            one["scheduled_at"],
            one["created_at"],
            output.duration(one["started_at"], one["finished_at"]) or None,
            one["requested_by"],
        )
        for one in answer["runs"]
    ]
    output.table(["RUN", "JOB", "STATE", "REASON", "ORIGIN", "SCHEDULED", "CREATED", "TOOK", "BY"], rows)
    if not rows:
        output.note("no run is like that" if any(wanted[key] for key in FILTERS) else "there are no runs yet")
    if answer["next_cursor"] and not only:
        output.note(f"there are more: --cursor {answer['next_cursor']}")


def _only_last(wanted: dict[str, Any]) -> bool:
    """Put what `--last` and its like stand for into the filters. Returns whether one was given."""
    given = [name for name in LAST if wanted.pop(name)]
    if not given:
        return False
    if len(given) > 1 or wanted["cursor"]:
        fail("one of --last, --last-failure, --last-manual and --cursor is enough", USAGE)
    for key, value in LAST[given[0]].items():
        if wanted[key] not in (None, value):
            fail(f"--{given[0].replace('_', '-')} and --{key} {wanted[key]} do not go together", USAGE)
        wanted[key] = value
    wanted["limit"] = 1
    return True


@run.command(epilog=IDS)
@run_argument
@format_option
@online
def show(client: Client, run_id: str, form: str) -> None:
    """A run with its instances, their attempts, and who did what to it; or a pipeline with its runs."""
    from agent.client import path

    if pipelines.is_pipeline(run_id):
        pipelines.get(client, run_id, form)
        return
    answer = client.get(path("runs", run_id))
    if form == "json":
        output.show_json(answer)
    else:
        output.show_run(answer["run"], answer["params"])


@run.command(epilog=IDS)
@run_argument
@click.option("--instance", help="Only this one's; else all by time, each line with its name.")
@click.option("--attempt", type=click.IntRange(1), help="Its number; the last if left out.")
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@click.option("--tail", type=click.IntRange(0), help="Only the last N lines of each instance.", metavar="N")
@click.option("--since", help="Only lines since then: RFC 3339, or how long ago (90m).", metavar="TIME")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]))
@click.option("--timestamps", is_flag=True, help="With the time and stream of each line.")
@online
def logs(
    client: Client,
    run_id: str,
    instance: str | None,
    attempt: int | None,
    follow: bool,  # noqa: FBT001  click gives flags so
    tail: int | None,
    since: str | None,
    stream: str | None,
    timestamps: bool,  # noqa: FBT001
) -> None:
    """Output of a run's instances."""
    from agent.cli import interleave
    from agent.cli.follow import follow_instance, follow_run
    from agent.client import path

    pipelines.only_runs(run_id, "logs")
    if follow and tail is not None:
        fail("--tail and --follow do not go together", USAGE)
    run = client.get(path("runs", run_id))["run"]
    names = [one["name"] for one in run["instances"]]
    if not names:
        fail(f"run {run['id']} was not run here, only reported: it has no output", REFUSED)
    if instance is None and attempt is not None:
        instance = next(one["name"] for one in run["instances"] if one["type"] == "task")
    if instance is None and len(names) == 1:
        instance = names[0]
    wanted: dict[str, Any] = {"stream": stream, "since": None if since is None else moment(since, "--since")}
    if follow and instance is None:
        follow_run(client, run["id"], wanted=wanted, times=timestamps)
        return
    wanted["attempt"] = attempt
    if follow:
        assert instance is not None
        follow_instance(client, run["id"], instance, wanted, times=timestamps)
        return
    if instance is None:
        interleave.show(client, run["id"], names, {**wanted, "tail": tail}, times=timestamps)
        return
    pieces = client.text(
        path("runs", run["id"], "instances", instance, "logs"), **wanted, tail=tail, timestamps=timestamps
    )
    out = sys.stdout.buffer
    sys.stdout.flush()
    for piece in pieces:
        out.write(piece)
    out.flush()


def _after(answer: dict[str, Any], form: str, words: str) -> None:
    if form == "json":
        output.show_json(answer)
    else:
        click.echo(f"{answer['run']['id']} {words}: {answer['run']['state']}")


assume_stopped_option = click.option(
    "--assume-stopped", is_flag=True, help="You know that its work on a lost agent has ended."
)


@run.command(epilog=IDS)
@run_argument
@click.option("--teardown", is_flag=True, help="End its teardown hooks too.")
@assume_stopped_option
@format_option
@online
def cancel(client: Client, run_id: str, teardown: bool, assume_stopped: bool, form: str) -> None:  # noqa: FBT001
    """End a run or a pipeline early. What runs is stopped first; then its teardown hooks run."""
    from agent.client import path

    body = {"assume_stopped": assume_stopped, "teardown": teardown}
    if pipelines.is_pipeline(run_id):
        pipelines.change(client, run_id, "cancel", body, "is being cancelled", form)
        return
    _after(client.post(path("runs", run_id, "cancel"), body), form, "is being cancelled")


@run.command(epilog=IDS)
@run_argument
@click.option("--all", "everything", is_flag=True, help="Run again also what has succeeded.")
@click.option("--downstream", is_flag=True, help="With what waits for it in its pipeline, and did not succeed.")
@assume_stopped_option
@format_option
@online
def retry(
    client: Client,
    run_id: str,
    everything: bool,  # noqa: FBT001  click gives flags so
    downstream: bool,  # noqa: FBT001
    assume_stopped: bool,  # noqa: FBT001
    form: str,
) -> None:
    """Run again what did not succeed, of a run or a pipeline. What was made before stays."""
    from agent.client import path

    body = {"only_failed": not everything, "assume_stopped": assume_stopped}
    if pipelines.is_pipeline(run_id):
        if downstream:
            fail("a pipeline is retried with all that is below what failed: --downstream is for a run", USAGE)
        pipelines.change(client, run_id, "retry", body, "runs again", form)
        return
    body |= {"downstream": True} if downstream else {}
    _after(client.post(path("runs", run_id, "retry"), body), form, "runs again")


@run.command(epilog=IDS)
@run_argument
@click.option("--instance", multiple=True, help="Only this one; may be given again.")
@click.option("--task", is_flag=True, help="Only the task, as if it were named by --instance.")
@click.option("--downstream", is_flag=True, help="With what comes after them.")
@click.option("--only-failed", is_flag=True, help="Of these only what failed, was cancelled, or not started for it.")
@assume_stopped_option
@format_option
@online
def clear(
    client: Client,
    run_id: str,
    instance: tuple[str, ...],
    task: bool,  # noqa: FBT001  click gives flags so
    downstream: bool,  # noqa: FBT001
    only_failed: bool,  # noqa: FBT001
    assume_stopped: bool,  # noqa: FBT001
    form: str,
) -> None:
    """Run instances again, whatever became of them."""
    from agent.client import path

    pipelines.only_runs(run_id, "clear")
    body = {
        "instances": list(instance),
        "task": task,
        "downstream": downstream,
        "only_failed": only_failed,
        "assume_stopped": assume_stopped,
    }
    _after(client.post(path("runs", run_id, "clear"), body), form, "runs again")


@run.command(epilog=IDS)
@run_argument
@click.argument("state", type=click.Choice(["success", "failed"]))
@click.option("--instance", help="Only this one; else all that are unfinished, hooks too.")
@assume_stopped_option
@format_option
@online
def mark(
    client: Client,
    run_id: str,
    state: str,
    instance: str | None,
    assume_stopped: bool,  # noqa: FBT001  click gives flags so
    form: str,
) -> None:
    """Give what is unfinished in a run a result by hand. What runs is stopped first."""
    from agent.client import path

    pipelines.only_runs(run_id, "mark")
    body = {"instance": instance, "state": state, "assume_stopped": assume_stopped}
    answer = client.post(path("runs", run_id, "mark"), body)
    _after(answer, form, f"has {instance or 'all that was unfinished'} marked {state}")


@run.command(epilog=IDS)
@run_argument
@click.argument("against", required=False, shell_complete=run_ids)
@format_option
@online
def diff(client: Client, run_id: str, against: str | None, form: str) -> None:
    """What differs between a run and another, or the run of its job before it.

    Left out are the time and the ids that each attempt has of its own; -o json has them too.
    """
    from agent.client import path

    pipelines.only_runs(run_id, "diff")
    answer = client.get(path("runs", run_id, "diff"), against=against)
    if form == "json":
        output.show_json(answer)
        return
    click.echo(f"{answer['against']} -> {answer['run']}")
    output.table(["WHAT", "BEFORE", "AFTER", "OF"], _changes(answer["changes"]))
    names_of: dict[str, list[str]] = {}
    for name, text in answer["texts"].items():
        names_of.setdefault(text, []).append(name)
    for text, names in names_of.items():
        click.echo(f"\n--- {', '.join(names)}\n{text}")
    for what, why in answer["untold"].items():
        output.note(f"note: {what} cannot be compared: {why}")


def _changes(changes: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows of a table: what is another in several instances alike is one row, with their names."""
    rows: dict[tuple[Any, ...], list[str]] = {}
    for one in changes:
        instance, what = _told_apart(one["what"])
        before, after = one["before"], one["after"]
        if what == "took_s":
            what, before, after = "took", _took(before), _took(after)
        if what not in ALWAYS_OTHER and before != after:
            rows.setdefault((what, before, after), []).append(instance)
    return [(*row, ", ".join(instances) or "run") for row, instances in rows.items()]


def _took(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f}s"


def _told_apart(what: str) -> tuple[str, str]:
    """`sql.env.TABLE` -> (`sql`, `env.TABLE`); of the run itself, such as `state`, the instance is empty."""
    for kind in (".env.", ".window."):
        instance, found, rest = what.partition(kind)
        if found:
            return instance, kind[1:] + rest
    if what.startswith("params."):
        return "", what
    instance, _dot, rest = what.rpartition(".")
    return instance, rest


@run.command(epilog=IDS)
@run_argument
@click.option("--instance")
@click.option("--attempt", type=click.IntRange(1))
@format_option
@online
def assets(client: Client, run_id: str, instance: str | None, attempt: int | None, form: str) -> None:
    """What exactly was rendered for an attempt, secrets as ***."""
    from agent.client import path

    pipelines.only_runs(run_id, "assets")
    answer = client.get(path("runs", run_id, "assets"), instance=instance, attempt=attempt)
    if form == "json":
        output.show_json(answer)
        return
    shown: dict[tuple[str, str | None], str] = {}  # (path, text) -> the instance that it was shown of
    for one in answer["assets"]:
        click.echo(f"=== {one['instance']}, attempt {one['attempt']}, window {one['window']['start']} to "
                   f"{one['window']['end']}")  # fmt: skip
        for key, value in {**one["envs"], **one["secrets"]}.items():
            click.echo(f"{key}={value}")
        for name, why in one.get("left_out", {}).items():
            click.echo(f"--- {name}: left out: {why}")
        for name, text in one["assets"].items():
            first = shown.setdefault((name, text), one["instance"])
            if first != one["instance"]:
                click.echo(f"--- {name}: the same as {first}'s")
            else:
                click.echo(f"--- {name}\n{text if text is not None else '(not a text)'}")


@run.command(epilog=IDS)
@run_argument
@click.option("--instance")
@click.option("--attempt", type=click.IntRange(1))
@format_option
@online
def outputs(client: Client, run_id: str, instance: str | None, attempt: int | None, form: str) -> None:
    """What attempts that succeeded have put out for later instances (.tasks.NAME.outputs.KEY)."""
    from agent.client import path

    answer = client.get(path("runs", run_id, "outputs"), instance=instance, attempt=attempt)
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (one["instance"], one["attempt"], key if key.isprintable() else _json(key), _json(value))
        for one in answer["outputs"]
        for key, value in one["outputs"].items()
    ]
    output.table(["INSTANCE", "ATTEMPT", "KEY", "VALUE"], rows)
    for one in answer["outputs"]:
        if one["note"]:
            click.echo(f"{one['instance']}, attempt {one['attempt']}: {one['note']}")


def _json(value: object) -> str:
    """JSON on one line, which no terminal takes for a command."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


@run.command(epilog=IDS)
@run_argument
@format_option
@online
def explain(client: Client, run_id: str, form: str) -> None:
    """Why a run is where it is: what each instance waits for, since when and until when."""
    from agent.client import path

    pipelines.only_runs(run_id, "explain")
    answer = client.get(path("runs", run_id, "explain"))
    if form == "json":
        output.show_json(answer)
        return
    if not answer["explanations"]:
        output.note("it was not run here: another scheduler ran it, and this is how that was reported to have ended")
    rows = [(one["instance"], one["state"], one["since"], one["until"], one["why"]) for one in answer["explanations"]]
    output.table(["INSTANCE", "STATE", "SINCE", "UNTIL", "WHY"], rows)
    pipelines.show_gates(answer["gates"])


@run.command(epilog=IDS)
@run_argument
@format_option
@online
def wait(client: Client, run_id: str, form: str) -> None:
    """Wait for the end of a run or a pipeline; its result is the exit code."""
    from agent.cli.follow import wait_for_run

    if pipelines.is_pipeline(run_id):
        pipelines.end(pipelines.wait_for_pipeline(client, run_id), form)
        return
    final = wait_for_run(client, run_id)
    if form == "json":
        output.show_json({"run": final})
    else:
        output.show_run(final)
    if final["state"] not in WENT_WELL:
        raise SystemExit(RUN_FAILED)
