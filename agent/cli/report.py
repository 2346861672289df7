"""`prime run import`: tell what another scheduler ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli import output
from agent.cli.common import format_option, moment, online, project_name, project_option
from agent.cli.complete import applied_jobs

if TYPE_CHECKING:
    from agent.client import Client


@click.command("import")
@click.argument("job", shell_complete=applied_jobs)
@click.option("--at", required=True, help="The tick: when it was scheduled, RFC 3339.", metavar="TIME")
@click.option("--state", required=True, type=click.Choice(["success", "failed", "skipped"]))
@project_option
@format_option
@online
def import_run(client: Client, job: str, at: str, state: str, project: str | None, form: str) -> None:
    """Tell how another scheduler's run of a job for a tick has ended, so that jobs here may depend on it.

    The job need not be known here, its project must be. Of several reports of a tick the newest counts.
    """
    from agent.client import path

    body = {"scheduled_at": moment(at, "--at"), "state": state}
    answer = client.post(path("projects", project_name(project), "jobs", job, "imported"), body)
    if form == "json":
        output.show_json(answer)
        return
    click.echo(f"{answer['run']['id']} stands for {job} at {answer['run']['scheduled_at']}: {state}")
    if answer["duplicate"]:
        output.note("note: this was reported before")
