"""Pipelines on the terminal: asked for with `job run`, looked at and ended with `run` by their ids, `p-...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli import output
from agent.cli.common import RUN_FAILED, USAGE, WENT_WELL, fail
from agent.cli.follow import WAIT_S, goes_on, leave

if TYPE_CHECKING:
    from agent.client import Client

PREFIX: Final = "p-"
LOOK_S: Final = 1  # seconds: how late a change is shown at most


def is_pipeline(given: str) -> bool:
    """Whether an id is a pipeline's, not a run's."""
    return given.startswith(PREFIX)


def scope_of(*, upstream: bool, downstream: bool, pipeline: bool) -> str | None:
    """Which jobs run with the one that is named; None = it alone."""
    if pipeline or (upstream and downstream):
        return "pipeline"
    return "upstream" if upstream else "downstream" if downstream else None


def after_submit(client: Client, started: dict[str, Any], *, wait: bool, follow: bool, form: str) -> None:
    """Print the id and the runs, or wait for the end; then the pipeline's result is the exit code."""
    if follow:
        end(follow_pipeline(client, started, err=form == "json"), form, shown=True)
    elif wait:
        end(wait_for_pipeline(client, started["id"]), form)
    elif form == "json":
        output.show_json({"pipeline": started})
    else:
        click.echo(started["id"])
        for run in started["runs"]:
            click.echo(f"{run['id']} {run['project']}/{run['job']}")
        output.note(f"see `prime run show {started['id']}`, or wait for it with `prime run wait {started['id']}`")


def end(final: dict[str, Any], form: str, *, shown: bool = False) -> None:
    """Show how a pipeline ended, with the exit code of that. shown: its runs were followed."""
    if form == "json":
        output.show_json({"pipeline": final})
    elif shown:
        click.echo(f"{final['id']} {final['state']}")
    else:
        show(final, form)
    if final["state"] not in WENT_WELL:
        raise SystemExit(RUN_FAILED)


def wait_for_pipeline(client: Client, pipeline: str) -> dict[str, Any]:
    """The pipeline, once all its runs have ended. Interrupting it leaves them alone."""
    from agent.client import path

    try:
        found: dict[str, Any] = client.get(path("pipelines", pipeline))["pipeline"]
        while not _ended(found):
            found = client.patient(lambda: client.poll(path("pipelines", pipeline, "wait"), WAIT_S))["pipeline"]
    except KeyboardInterrupt:
        leave(pipeline)
    return found


def follow_pipeline(client: Client, started: dict[str, Any], *, err: bool) -> dict[str, Any]:
    """Show each run's changes of state until all have ended. Their output is shown by `run logs`."""
    from agent.client import path

    told: dict[str, str] = {}
    found = started
    try:
        while True:
            _tell(found, told, err=err)
            if _ended(found):
                return found
            found = client.patient(lambda: client.poll(path("pipelines", started["id"], "wait"), LOOK_S))["pipeline"]
    except KeyboardInterrupt:
        goes_on(started["id"])
        raise SystemExit(130) from None


def _tell(found: dict[str, Any], told: dict[str, str], *, err: bool) -> None:
    for run in found["runs"]:
        if told.get(run["id"]) != run["state"]:
            told[run["id"]] = run["state"]
            state = output.coloured(run["state"], output.COLOURS.get(run["state"]))
            reason = f" ({run['reason']})" if run["reason"] else ""
            click.echo(f"{run['id']} {run['project']}/{run['job']} = {state}{reason}", err=err)


def _ended(found: dict[str, Any]) -> bool:
    return all(run["finished_at"] is not None for run in found["runs"])


def show(found: dict[str, Any], form: str) -> None:
    """A pipeline with its runs."""
    if form == "json":
        output.show_json({"pipeline": found})
        return
    state = output.coloured(found["state"], output.COLOURS.get(found["state"]))
    click.echo(f"pipeline {found['id']}  {state}")
    rows = [
        (
            run["id"],
            f"{run['project']}/{run['job']}",
            run["state"],
            run["reason"],
            output.duration(run["started_at"], run["finished_at"]) or None,
            ", ".join(gate["what"] for gate in run["gates"] if gate["state"] == "waiting") or None,
        )
        for run in found["runs"]
    ]
    output.table(["RUN", "JOB", "STATE", "REASON", "TOOK", "WAITS FOR"], rows)


def show_gates(gates: list[dict[str, Any]]) -> None:
    """What a run waits for: each gate, and below it each run or tick that keeps it shut."""
    if not gates:
        return
    click.echo("")
    rows = [(one["what"], one["state"], one["since"], one["until"], one["why"]) for one in gates]
    output.table(["WAITS FOR", "STATE", "SINCE", "UNTIL", "WHY"], rows)
    open_ = [one for gate in gates if gate["state"] == "waiting" for one in gate["awaited"] if one["scheduled_at"]]
    if open_:
        click.echo("")
        ticks = [(one["job"], one["scheduled_at"], one["state"], one["run"]) for one in open_]
        output.table(["JOB", "TICK", "STATE", "RUN"], ticks)


def get(client: Client, pipeline: str, form: str) -> None:
    """Ask for one, and show it."""
    from agent.client import path

    answer = client.get(path("pipelines", pipeline))
    if form == "json":
        output.show_json(answer)
    else:
        show(answer["pipeline"], form)


def change(client: Client, pipeline: str, verb: str, body: dict[str, Any], words: str, form: str) -> None:
    """Cancel one, or retry it."""
    from agent.client import path

    answer = client.post(path("pipelines", pipeline, verb), body)
    if form == "json":
        output.show_json(answer)
    else:
        click.echo(f"{answer['pipeline']['id']} {words}: {answer['pipeline']['state']}")


def only_runs(given: str, verb: str) -> None:
    """Refuse a pipeline's id where a run's is meant."""
    if is_pipeline(given):
        fail(f"{given} is a pipeline: `prime run {verb}` takes a run of it, see `prime run show {given}`", USAGE)
