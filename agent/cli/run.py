"""`prime run`: what became of runs, and what an operator does to them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from agent.cli import output
from agent.cli.common import RUN_FAILED, USAGE, fail, format_option, moment, online
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client


@click.group(cls=LazyGroup)
def run() -> None:
    """Look at runs, end them, run them again. Ids may be shortened."""


@run.command("list")
@click.option("-p", "--project")
@click.option("--namespace")
@click.option("--job")
@click.option("--state", help="queued, running, success, failed, cancelled, ...")
@click.option("--origin", help="manual, schedule, pipeline, replay, test")
@click.option("--since", help="Created at or after: RFC 3339, or how long ago (90m).", metavar="TIME")
@click.option("--until", help="Created before.", metavar="TIME")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--cursor", help="Go on where an earlier list ended.")
@format_option
@online
def list_runs(client: Client, form: str, **wanted: Any) -> None:
    """Runs, newest first."""
    from agent.client import path

    for key in ("since", "until"):
        if wanted[key] is not None:
            wanted[key] = moment(wanted[key], f"--{key}")
    answer = client.get(path("runs"), **wanted)
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
            one["created_at"],
            output.duration(one["started_at"], one["finished_at"]) or None,
            one["requested_by"],
        )
        for one in answer["runs"]
    ]
    output.table(["RUN", "JOB", "STATE", "REASON", "ORIGIN", "CREATED", "TOOK", "BY"], rows)
    if answer["next_cursor"]:
        output.note(f"there are more: --cursor {answer['next_cursor']}")


@run.command()
@click.argument("run_id")
@format_option
@online
def show(client: Client, run_id: str, form: str) -> None:
    """A run with its instances and attempts."""
    from agent.client import path

    answer = client.get(path("runs", run_id))
    if form == "json":
        output.show_json(answer)
    else:
        output.show_run(answer["run"])


@run.command()
@click.argument("run_id")
@click.option("--instance", help="Only this one's; else all, each line with its instance's name.")
@click.option("--attempt", type=click.IntRange(1), help="Its number; the last if left out.")
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@click.option("--tail", type=click.IntRange(0), help="Only the last so many lines.")
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
    from agent.cli.follow import follow_instance, follow_run
    from agent.client import path

    if follow and tail is not None:
        fail("--tail and --follow do not go together", USAGE)
    run = client.get(path("runs", run_id))["run"]
    names = [one["name"] for one in run["instances"]]
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
    for name in [instance] if instance else names:
        pieces = client.text(
            path("runs", run["id"], "instances", name, "logs"), **wanted, tail=tail, timestamps=timestamps
        )
        _print(pieces, "" if instance else f"{name} | ")


def _print(pieces: Any, prefix: str) -> None:
    """The exact bytes, or with a prefix before each line."""
    out = sys.stdout.buffer
    sys.stdout.flush()
    if not prefix:
        for piece in pieces:
            out.write(piece)
        out.flush()
        return
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            out.write(prefix.encode() + line + b"\n")
    if rest:
        out.write(prefix.encode() + rest + b"\n")
    out.flush()


def _after(answer: dict[str, Any], form: str, words: str) -> None:
    if form == "json":
        output.show_json(answer)
    else:
        click.echo(f"{answer['run']['id']} {words}: {answer['run']['state']}")


@run.command()
@click.argument("run_id")
@format_option
@online
def cancel(client: Client, run_id: str, form: str) -> None:
    """End a run early. What runs is stopped first."""
    from agent.client import path

    _after(client.post(path("runs", run_id, "cancel")), form, "is being cancelled")


@run.command()
@click.argument("run_id")
@click.option("--all", "everything", is_flag=True, help="Run again also what has succeeded.")
@format_option
@online
def retry(client: Client, run_id: str, everything: bool, form: str) -> None:  # noqa: FBT001  click gives flags so
    """Run again what did not succeed. What was made before stays."""
    from agent.client import path

    _after(client.post(path("runs", run_id, "retry"), {"only_failed": not everything}), form, "runs again")


@run.command()
@click.argument("run_id")
@click.option("--instance", multiple=True, help="Only this one; may be given again.")
@click.option("--downstream", is_flag=True, help="With what comes after them.")
@format_option
@online
def clear(client: Client, run_id: str, instance: tuple[str, ...], downstream: bool, form: str) -> None:  # noqa: FBT001
    """Run instances again, whatever became of them."""
    from agent.client import path

    body = {"instances": list(instance), "downstream": downstream}
    _after(client.post(path("runs", run_id, "clear"), body), form, "runs again")


@run.command()
@click.argument("run_id")
@click.argument("state", type=click.Choice(["success", "failed"]))
@click.option("--instance", required=True)
@format_option
@online
def mark(client: Client, run_id: str, state: str, instance: str, form: str) -> None:
    """Give an unfinished instance a result by hand. What runs is stopped first."""
    from agent.client import path

    answer = client.post(path("runs", run_id, "mark"), {"instance": instance, "state": state})
    _after(answer, form, f"has {instance} marked {state}")


@run.command()
@click.argument("run_id")
@click.argument("against", required=False)
@format_option
@online
def diff(client: Client, run_id: str, against: str | None, form: str) -> None:
    """What differs between a run and another, or the run of its job before it."""
    from agent.client import path

    answer = client.get(path("runs", run_id, "diff"), against=against)
    if form == "json":
        output.show_json(answer)
        return
    click.echo(f"{answer['against']} -> {answer['run']}")
    output.table(["WHAT", "BEFORE", "AFTER"], [(one["what"], one["before"], one["after"]) for one in answer["changes"]])
    for name, text in answer["texts"].items():
        click.echo(f"\n--- {name}\n{text}")


@run.command()
@click.argument("run_id")
@click.option("--instance")
@click.option("--attempt", type=click.IntRange(1))
@format_option
@online
def assets(client: Client, run_id: str, instance: str | None, attempt: int | None, form: str) -> None:
    """What exactly was rendered for an attempt, secrets as ***."""
    from agent.client import path

    answer = client.get(path("runs", run_id, "assets"), instance=instance, attempt=attempt)
    if form == "json":
        output.show_json(answer)
        return
    for one in answer["assets"]:
        click.echo(f"=== {one['instance']}, attempt {one['attempt']}, window {one['window']['start']} to "
                   f"{one['window']['end']}")  # fmt: skip
        for key, value in {**one["envs"], **one["secrets"]}.items():
            click.echo(f"{key}={value}")
        for name, text in one["assets"].items():
            click.echo(f"--- {name}\n{text if text is not None else '(not a text)'}")


@run.command()
@click.argument("run_id")
@format_option
@online
def explain(client: Client, run_id: str, form: str) -> None:
    """Why a run is where it is: what each instance waits for, since when and until when."""
    from agent.client import path

    answer = client.get(path("runs", run_id, "explain"))
    if form == "json":
        output.show_json(answer)
        return
    rows = [(one["instance"], one["state"], one["since"], one["until"], one["why"]) for one in answer["explanations"]]
    output.table(["INSTANCE", "STATE", "SINCE", "UNTIL", "WHY"], rows)


@run.command()
@click.argument("run_id")
@format_option
@online
def wait(client: Client, run_id: str, form: str) -> None:
    """Wait for the end; the run's result is the exit code."""
    from agent.cli.follow import wait_for_run

    final = wait_for_run(client, run_id)
    if form == "json":
        output.show_json({"run": final})
    else:
        output.show_run(final)
    if final["state"] != "success":
        raise SystemExit(RUN_FAILED)
