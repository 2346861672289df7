"""`prime replay`: a job again, over its ticks of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli import output
from agent.cli.common import (
    INTERRUPTED,
    RUN_FAILED,
    format_option,
    online,
    project_name,
    project_option,
    show_applied,
)
from agent.cli.complete import applied_jobs, replay_ids
from agent.cli.job import pairs_of, param_option, params_of, request_key
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client

WAIT_S: Final = 30
STATES: Final = ("running", "success", "failed", "cancelled")
IDS: Final = "The id of a replay may be shortened to its first 6 characters or more."

replay_argument = click.argument(
    "replay_id", callback=lambda _ctx, _param, text: text.lower(), shell_complete=replay_ids
)


@click.group(cls=LazyGroup, epilog=IDS)
def replay() -> None:
    """Run a job again over its past ticks, a few runs at a time."""


@replay.command()
@click.argument("name", metavar="JOB", shell_complete=applied_jobs)
@click.argument("start")
@click.argument("end", required=False)
@click.option("--parallel", default=1, show_default=True, type=click.IntRange(1, 100), help="Runs at once.")
@click.option("--reverse", is_flag=True, help="The last tick first.")
@click.option("--stop-on-failure", is_flag=True, help="Make no run more once one has failed.")
@click.option(
    "--reprocess",
    default="completed",
    show_default=True,
    type=click.Choice(["none", "failed", "completed"]),
    help="Of ticks that have had a run, run again: none, those whose last run failed, or all.",
)
@click.option("--ignore-dependencies", is_flag=True, help="Its runs do not wait for what the job depends on.")
@click.option("--job-config", multiple=True, help="Override values of the task's config.", metavar="K=V[,K=V...]")
@param_option
@click.option("--dry-run", is_flag=True, help="Only show what would be done; nothing is changed.")
@click.option("--request-id", help="The same id and request always get the same replay.", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait for the end; the replay's result is the exit code.")
@project_option
@format_option
@online
def create(
    client: Client,
    name: str,
    ignore_dependencies: bool,  # noqa: FBT001  click gives flags so
    job_config: tuple[str, ...],
    param: tuple[str, ...],
    dry_run: bool,  # noqa: FBT001  click gives flags so
    request_id: str | None,
    wait: bool,  # noqa: FBT001
    project: str | None,
    form: str,
    **asked: Any,
) -> None:
    """Run JOB for each of its ticks from START to END, both inclusive.

    A time is RFC 3339, or a date, which is that whole day where the job's schedule is. Without END it is START alone.
    """
    from agent.client import Unreachable

    body = {
        **asked,
        "project": project_name(project),
        "job": name,
        "check_dependencies": not ignore_dependencies,
        "config": pairs_of(job_config, "--job-config"),
        "params": params_of(param),
    }
    if dry_run:
        _show_plan(client.post("/api/v1/replay-plans", body), form)
        return
    key = request_key(request_id)
    try:
        answer = client.post("/api/v1/replays", body, key=key)
    except Unreachable as error:
        if request_id is None:
            raise Unreachable(f"{error}. To ask again without doing it twice, add --request-id {key}") from error
        raise
    show_applied(answer)
    if answer["duplicate"]:
        output.note("note: this was asked for before; it is the replay of then")
    _after(client, answer, form, wait=wait, quiet=True)


def _show_plan(plan: dict[str, Any], form: str) -> None:
    if form == "json":
        output.show_json(plan)
        return
    rows = [
        (
            one["scheduled_at"],
            one["window"]["start"],
            one["window"]["end"],
            "run" if one["run"] else "pass by",
            one["why"],
        )
        for one in plan["ticks"]
    ]
    output.table(["TICK", "WINDOW FROM", "TO", "WHAT", "WHY"], rows)
    runs = sum(one["run"] for one in plan["ticks"])
    shown = "" if len(rows) == plan["total"] else f", the first {len(rows)} are shown"
    output.note(f"{plan['total']} ticks{shown}: {runs} would be run, {len(rows) - runs} passed by")
    show_applied(plan)
    if plan["refused"]:
        output.note(f"note: it would be refused now: {plan['refused']}")


@replay.command("list")
@click.option("-p", "--project")
@click.option("--job", shell_complete=applied_jobs)
@click.option("--state", type=click.Choice(STATES))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@format_option
@online
def list_replays(client: Client, form: str, **wanted: Any) -> None:
    """Replays, newest first."""
    from agent.client import path

    answer = client.get(path("replays"), **wanted)
    if not answer["replays"] and wanted["project"]:  # a name that is mistyped is no empty list
        client.get(path("projects", wanted["project"], *(("jobs", wanted["job"]) if wanted["job"] else ())))
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (
            one["id"],
            f"{one['project']}/{one['job']}",
            one["state"],
            one["start"],
            one["end"],
            f"{_ended(one)}/{one['ticks']}",
            _bad(one) or None,
            one["created_at"],
            one["requested_by"],
        )
        for one in answer["replays"]
    ]
    output.table(["REPLAY", "JOB", "STATE", "FROM", "TO", "DONE", "FAILED", "CREATED", "BY"], rows)
    if not rows:
        output.note("there are no replays" + (" like that" if any(wanted[key] for key in ("job", "state")) else ""))


def _ended(one: dict[str, Any]) -> int:
    total: int = sum(one["counts"].values()) + one["passed"]
    return total


def _bad(one: dict[str, Any]) -> int:
    return sum(one["counts"].get(state, 0) for state in ("failed", "upstream_failed"))


@replay.command(epilog=IDS)
@replay_argument
@format_option
@online
def show(client: Client, replay_id: str, form: str) -> None:
    """A replay: how far it is, and what it waits for."""
    from agent.client import path

    _show(client.get(path("replays", replay_id)), form)


@replay.command(epilog=IDS)
@replay_argument
@click.option("--assume-stopped", is_flag=True, help="You know that its work on a lost agent has ended.")
@click.option("--wait", is_flag=True, help="Wait until its runs have ended.")
@format_option
@online
def cancel(client: Client, replay_id: str, assume_stopped: bool, wait: bool, form: str) -> None:  # noqa: FBT001
    """Make no run more, and end those that go on."""
    from agent.client import path

    answer = client.post(path("replays", replay_id, "cancel"), {"assume_stopped": assume_stopped})
    if wait:
        answer = {"replay": _until_ended(client, answer["replay"])}
    _show(answer, form)


@replay.command(epilog=IDS)
@replay_argument
@click.option("--failed", is_flag=True, help="Run again what has failed, too.")
@click.option("--wait", is_flag=True, help="Wait for the end; the replay's result is the exit code.")
@format_option
@online
def resume(client: Client, replay_id: str, failed: bool, wait: bool, form: str) -> None:  # noqa: FBT001
    """Let a replay that has ended go on: with the ticks that are left, and those that were cancelled."""
    from agent.client import path

    _after(client, client.post(path("replays", replay_id, "resume"), {"failed": failed}), form, wait=wait)


def _after(client: Client, answer: dict[str, Any], form: str, *, wait: bool, quiet: bool = False) -> None:
    """quiet: of one that nobody waits for only its id is shown."""
    if not wait:
        if quiet and form != "json":
            replay_id = answer["replay"]["id"]
            click.echo(replay_id)
            output.note(f"see `prime replay show {replay_id}`, or its runs with `prime run list --replay {replay_id}`")
            return
        _show(answer, form)
        return
    final = _until_ended(client, answer["replay"])
    _show({"replay": final}, form)
    if final["state"] != "success":
        raise SystemExit(RUN_FAILED)


def _until_ended(client: Client, replay: dict[str, Any]) -> dict[str, Any]:
    """The replay, once it has ended. Interrupting it leaves the replay alone."""
    from agent.client import path

    replay_id = replay["id"]
    try:
        while replay["finished_at"] is None:
            replay = client.patient(lambda: client.poll(path("replays", replay_id, "wait"), WAIT_S))["replay"]
    except KeyboardInterrupt:
        output.note(
            f"\nthe replay goes on; see `prime replay show {replay_id}`, end it with `prime replay cancel {replay_id}`"
        )
        raise SystemExit(INTERRUPTED) from None
    return replay


def _show(answer: dict[str, Any], form: str) -> None:
    if form == "json":
        output.show_json(answer)
        return
    one = answer["replay"]
    state = output.coloured(one["state"], output.COLOURS.get(one["state"]))
    click.echo(f"replay {one['id']}  {one['project']}/{one['job']}  {state}")
    how = [
        f"{one['parallel']} at once",
        *(["the last first"] if one["reverse"] else []),
        *(["stops on failure"] if one["stop_on_failure"] else []),
        f"reprocess {one['reprocess']}",
        *(["waits for dependencies"] if one["check_dependencies"] else []),
    ]
    output.table(
        ["FROM", "TO", "TICKS", "RUNS", "PASSED BY", "HOW", "BY"],
        [(one["start"], one["end"], one["ticks"], one["made"], one["passed"], ", ".join(how), one["requested_by"])],
    )
    counts = ", ".join(f"{number} {name}" for name, number in sorted(one["counts"].items()))
    click.echo(f"ended: {counts or 'none yet'}; running: {', '.join(one['runs']) or 'none'}")
    until = f", until {output.cell(one['until'])} at most" if one["until"] and one["finished_at"] is None else ""
    click.echo(f"{one['why']}{until}")
    for entry in one["audit"]:
        click.echo(f"{output.cell(entry['at'])} {entry['who']}: {entry['what']}")
