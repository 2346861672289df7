"""What the shell may offer where a job or a run is to be named. Where nobody can be asked, nothing is offered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import click

LIMIT_S: Final = 2.0  # longer nobody waits for a key
RUNS: Final = 100  # the latest, which are looked through


def folder_jobs(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the jobs in the folder one stands in."""
    from pathlib import Path

    from agent.folder import find_folder, load_project
    from agent.spec.job import parse_job

    root = find_folder(Path.cwd())
    if root is None:
        return []
    parsed = [parse_job(one.file.text, one.file.path, one.file.parents).job for one in load_project(root).jobs()]
    return sorted({one.name for one in parsed if one is not None and one.name.startswith(incomplete)})


def applied_jobs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the jobs that are applied to the project that is meant; without an agent, those of the folder."""
    from agent.cli.common import folder_here
    from agent.client import path

    with ctx.scope(cleanup=False):
        folder = folder_here()
        project = ctx.params.get("project") or (folder.project.name if folder and folder.project else None)
        answer = _ask(path("projects", project, "jobs")) if project else None
    if answer is None:
        return folder_jobs(ctx, _param, incomplete)
    return [one["name"] for one in answer["jobs"] if one["name"].startswith(incomplete)]


def run_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of the latest runs."""
    from agent.client import path

    with ctx.scope(cleanup=False):
        answer = _ask(path("runs"), limit=RUNS)
    runs = answer["runs"] if answer is not None else []
    return [one["id"] for one in runs if one["id"].startswith(incomplete.lower())]


def replay_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of replays."""
    from agent.client import path

    with ctx.scope(cleanup=False):
        answer = _ask(path("replays"), limit=RUNS)
    replays = answer["replays"] if answer is not None else []
    return [one["id"] for one in replays if one["id"].startswith(incomplete.lower())]


def _ask(where: str, **parameters: object) -> Any:
    """An agent's answer; None where none comes: a message would stand in the middle of what the user types."""
    from agent.cli.common import make_client
    from agent.client import ClientError

    try:
        client = make_client()
        client.limit_s = LIMIT_S
        return client.get(where, **parameters)
    except (ClientError, SystemExit):
        return None
