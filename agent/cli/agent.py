"""`prime agent` and `prime dev`: the agent itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import output
from agent.cli.common import RUN_FAILED, USAGE, fail

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.daemon import Daemon

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@click.group()
def agent() -> None:
    """Run an agent."""


@agent.command()
@click.option("--data-dir", required=True, type=click.Path(file_okay=False, path_type=Path), help="All it keeps.")
@click.option("--http", default="127.0.0.1:9100", show_default=True, help="HOST:PORT of the HTTP face.")
@click.option("--bind", default="127.0.0.1:9101", show_default=True, help="HOST:PORT told to other agents.")
@click.option("--database", default="", help="URL of a database for final states, such as sqlite:////var/lib/p.db.")
@click.option("--executors", default="process,docker", show_default=True, help="Which engines to use.")
@click.option("--slots", default=0, type=click.IntRange(0), help="Attempts at a time; four a core if left out.")
@click.option("--secret-key", default="", help="File of the key for secrets; made if missing.")
@click.option("--docker-network", default="", help="The network that containers join.")
@click.option("--pull", default="missing", show_default=True, type=click.Choice(["missing", "always", "never"]))
@click.option("--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning"]))
@click.option("--join", help="Comes with clusters of more than one agent.", metavar="HOST:PORT,...")
@click.option("--bootstrap-expect", type=int, help="Comes with clusters of more than one agent.")
@click.option("--cluster-key", help="Comes with clusters of more than one agent.")
def start(
    join: str | None,
    bootstrap_expect: int | None,
    cluster_key: str | None,
    log_level: str,
    executors: str,
    **settings: Any,
) -> None:
    """Start an agent, and run until SIGTERM or SIGINT. Every option is also an environment variable PRIME_<OPTION>."""
    from agent.config import AgentConfig
    from agent.errors import ConfigError

    if join or (bootstrap_expect or 1) > 1 or cluster_key:
        fail(
            "this version runs one agent by itself: --join, --bootstrap-expect and --cluster-key are not there yet",
            USAGE,
        )
    try:
        names = tuple(one.strip() for one in executors.split(",") if one.strip())
        config = AgentConfig(executors=names, **settings)
    except ConfigError as error:
        fail(str(error), USAGE)
    set_up_logging(log_level)
    run_agent(config)


def set_up_logging(level: str) -> None:
    """One line an event on stderr, its fields behind it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in ("asyncio", "urllib3", "docker"):
        logging.getLogger(name).setLevel("WARNING")


class _Fields(logging.Formatter):
    """time level event field=value ..."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        tail = "".join(f" {key}={json.dumps(value, default=str)}" for key, value in fields.items())
        text = f"{self.formatTime(record)} {record.levelname.lower():7} {record.getMessage()}{tail}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def run_agent(config: AgentConfig, started: Any = None) -> None:
    """Run an agent; end with a message and exit code 1 when it cannot go on (P9)."""
    from agent.daemon import serve
    from agent.errors import PrimeError
    from agent.keyring import KeyringError
    from agent.store.errors import StoreError

    try:
        asyncio.run(serve(config, started=started))
    except (PrimeError, StoreError, KeyringError, OSError) as error:
        fail(f"the agent has stopped: {error}", RUN_FAILED)


@click.command()
@click.option("--data-dir", default=".prime", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--http", default="127.0.0.1:9100", show_default=True, help="HOST:PORT of the HTTP face.")
@click.option("--log-level", default="warning", show_default=True, type=click.Choice(["debug", "info", "warning"]))
def dev(data_dir: Path, http: str, log_level: str) -> None:
    """An agent for development: on this machine only, with SQLite, and the project one stands in applied.

    Jobs that name the executor docker run as local processes where no Docker engine answers, and the answer says so.
    """
    from agent.config import AgentConfig
    from agent.errors import ConfigError

    set_up_logging(log_level)
    try:
        config = AgentConfig(
            data_dir=data_dir,
            http=http,
            database=f"sqlite:///{(data_dir / 'runs.db').resolve()}",
            fallback=(("docker", "process"),),
        )
    except ConfigError as error:
        fail(str(error), USAGE)
    run_agent(config, started=lambda daemon: threading.Thread(target=_greet, args=(daemon,), daemon=True).start())


def _greet(daemon: Daemon) -> None:
    """Apply the project one stands in, and say what to do next."""
    from agent.client import ClientError
    from agent.folder import find_folder

    click.echo(f"agent {daemon.identity.agent} answers at {daemon.http}; Ctrl-C ends it, its runs go on")
    if "docker" not in daemon.engines.ready:
        click.echo("no Docker engine answers: jobs for docker run as local processes")
    root = find_folder(Path.cwd())
    if root is None:
        click.echo("this is no project folder: go to one and `prime plugin apply`, `prime job apply`")
        return
    try:
        _apply(daemon.http, root)
    except ClientError as error:
        output.note(f"the project was not applied: {error}")
    except SystemExit:
        output.note("the project was not applied")


def _apply(http: str, root: Path) -> None:
    from agent.cli.common import open_folder, show_applied, user_name
    from agent.cli.job import _batches, apply_project
    from agent.client import Client, path

    client, folder = Client([http], user_name()), open_folder(root)
    assert folder.project is not None
    apply_project(client, folder)
    name = folder.project.name
    if folder.plugin_files:
        sent = [{"path": file, "yaml": text} for file, text in folder.plugin_files]
        client.post(path("projects", name, "plugins"), {"plugins": sent})
    applied = []
    for found in folder.jobs():
        for batch in _batches([found]):
            answer = client.post(path("projects", name, "namespaces", found.namespace, "jobs"), {"specs": batch})
            show_applied(answer)
            applied += answer["jobs"]
    click.echo(f"project {name} is applied: {', '.join(applied)}")
    if applied:
        click.echo(f"try: prime --host {http} job run {applied[0]} --follow")
