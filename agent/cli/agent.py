"""`prime agent` and `prime dev`: the agent itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent.cli import output
from agent.cli.common import RUN_FAILED, USAGE, fail
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.daemon import Daemon

F = TypeVar("F", bound=Callable[..., Any])
LEVELS: Final = ("debug", "info", "warning")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setting(flag: str, **how: Any) -> Callable[[F], F]:
    """An option of an agent, which is a variable PRIME_<OPTION> of the environment as well."""
    variable = "PRIME_" + flag.lstrip("-").replace("-", "_").upper()
    return click.option(flag, envvar=variable, show_default=bool(how.get("default")), **how)


@click.group(cls=LazyGroup)
def agent() -> None:
    """Run an agent."""


@agent.command()
@setting("--data-dir", required=True, type=click.Path(file_okay=False, path_type=Path), help="All it keeps.")
@setting("--http", default="127.0.0.1:9100", help="HOST:PORT of the HTTP face.")
@setting("--bind", default="127.0.0.1:9101", help="HOST:PORT told to other agents.")
@setting("--database", default="", help="URL of a database for final states, such as sqlite:////var/lib/p.db.")
@setting("--executors", default="process,docker", help="Which engines to use.")
@setting("--slots", default=0, type=click.IntRange(0), help="Attempts at a time; four a core if left out.")
@setting("--secret-key", default="", help="File of the key for secrets; made if missing.")
@setting("--docker-network", default="", help="The network that containers join.")
@setting("--pull", default="missing", type=click.Choice(["missing", "always", "never"]), help="When to pull images.")
@setting("--log-level", default="info", type=click.Choice(LEVELS), help="Which events to log.")
@setting("--join", help="Comes with clusters of more than one agent.", metavar="HOST:PORT,...")
@setting("--bootstrap-expect", type=int, help="Comes with clusters of more than one agent.")
@setting("--cluster-key", help="Comes with clusters of more than one agent.")
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
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: .prime in the project.")
@click.option("--http", default="127.0.0.1:9100", show_default=True, help="HOST:PORT of the HTTP face.")
@click.option("--log-level", default="warning", show_default=True, type=click.Choice(LEVELS))
def dev(data_dir: Path | None, http: str, log_level: str) -> None:
    """An agent for development: on this machine only, with SQLite, and the project one stands in applied.

    Jobs that name the executor docker run as local processes where no Docker engine answers, and the answer says so.
    """
    from agent.config import AgentConfig
    from agent.errors import ConfigError
    from agent.folder import find_folder

    set_up_logging(log_level)
    root = find_folder(Path.cwd())
    data_dir = data_dir or (root or Path()) / ".prime"
    try:
        config = AgentConfig(
            data_dir=data_dir,
            http=http,
            database=f"sqlite:///{(data_dir / 'runs.db').resolve()}",
            fallback=(("docker", "process"),),
        )
    except ConfigError as error:
        fail(str(error), USAGE)
    _keep_out_of_git(data_dir)

    def started(daemon: Daemon) -> None:
        threading.Thread(target=_greet, args=(daemon, root), daemon=True).start()

    run_agent(config, started=started)


def _keep_out_of_git(data_dir: Path) -> None:
    """The data directory lies in a project, and holds the key of its secrets."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (data_dir / ".gitignore").write_text("*\n")
    except OSError as error:
        fail(f"{data_dir} cannot be written: {error.strerror}; choose another with --data-dir", USAGE)


def _greet(daemon: Daemon, root: Path | None) -> None:
    """Apply the project one stands in, and say what to do next."""
    from agent.client import ClientError

    click.echo(f"agent {daemon.identity.agent} answers at {daemon.http}; Ctrl-C ends it, its runs go on")
    if "docker" not in daemon.engines.ready:
        click.echo("no Docker engine answers: jobs for docker run as local processes")
    if root is None:
        click.echo("this is no project folder: go to one and `prime plugin apply`, `prime job apply`")
        return
    try:
        applied = _apply(daemon.http, root)
    except ClientError as error:
        output.note(f"the project was not applied: {error}")
    except SystemExit:  # what is wrong was said
        output.note("the project was not applied; mend it, then `prime plugin apply` and `prime job apply`")
    else:
        if applied:
            click.echo(f"try: prime --host {daemon.http} job run {applied[0]} --follow")


def _apply(http: str, root: Path) -> list[str]:
    """Apply plugins and jobs, each job by itself: one that has errors keeps no other out. Returns the jobs' names."""
    from agent.cli.common import open_folder, show_applied, show_problems, user_name
    from agent.cli.job import apply_jobs, apply_project
    from agent.client import Client, Refused, path

    client, folder = Client([http], user_name()), open_folder(root)
    assert folder.project is not None
    apply_project(client, folder)
    name = folder.project.name
    if folder.plugin_files:
        sent = [{"path": file, "yaml": text} for file, text in folder.plugin_files]
        client.post(path("projects", name, "plugins"), {"plugins": sent})
    applied: list[str] = []
    for found in folder.jobs():
        try:
            for answer in apply_jobs(client, name, [found]):
                show_applied(answer, folder)
                applied += answer["jobs"]
        except Refused as error:
            show_problems(error.problems, folder)
            output.note(f"{folder.shown(found.file.path)} was not applied" + ("" if error.problems else f": {error}"))
    click.echo(f"project {name} is applied: {', '.join(applied) or 'no jobs'}")
    return applied
