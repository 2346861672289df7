"""`prime event`: what somebody is to be told of, and was not yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli import output
from agent.cli.common import format_option, online
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.client import Client


@click.group(cls=LazyGroup)
def event() -> None:
    """Notifications that are not delivered: behavior.notify, behavior.webhook and alerts of jobs."""


@event.command("list")
@click.option("--run", metavar="RUN", help="Only those of this run.")
@format_option
@online
def list_events(client: Client, run: str | None, form: str) -> None:
    """What waits to be delivered, and what was given up, with the reason. What was delivered is gone."""
    answer = client.get("/api/v1/events", run=run)
    if form == "json":
        output.show_json(answer)
        return
    rows = [
        (
            one["id"][:8],
            one["event"],
            f"{one['project']}/{one['job']}",
            one["run"][:8],
            one["endpoint"].partition(": ")[2],
            one["at"],
            one["tries"],
            f"next {one['next']}" if one["given_up_at"] is None else f"given up {one['given_up_at']}",
            one["error"],
        )
        for one in answer["events"]
    ]
    output.table(["EVENT", "WHAT", "JOB", "RUN", "ENDPOINT", "AT", "TRIES", "STATE", "ERROR"], rows)
    if answer["given_up"]:
        output.note(f"{answer['given_up']} were given up so far")
