"""`prime agent`: the agent itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agent.cli.common import RUN_FAILED, USAGE, fail
from agent.cli.lazy import LazyGroup

if TYPE_CHECKING:
    from agent.config import AgentConfig

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
@setting("--bind", default="127.0.0.1:9101", help="HOST:PORT where it answers other agents.")
@setting("--advertise", default="", help="HOST:PORT by which other agents reach it, where that is not --bind.")
@setting("--database", default="", help="URL of a database for final states, such as sqlite:////var/lib/p.db.")
@setting("--executors", default="process,docker", help="Which engines to use.")
@setting("--slots", default=0, type=click.IntRange(0), help="Attempts at a time; four a core if left out.")
@setting("--secret-key", default="", help="File of the key for secrets; made at the first start.")
@setting("--docker-network", default="", help="The network that containers join.")
@setting("--pull", default="missing", type=click.Choice(["missing", "always", "never"]), help="When to pull images.")
@click.option("--stand-in", default="", hidden=True, metavar="ABSENT=OTHER", help="Executors for absent ones (dev).")
@setting("--log-level", default="info", type=click.Choice(LEVELS), help="Which events to log.")
@setting("--join", default="", metavar="HOST:PORT,...", help="Agents of its cluster, itself included.")
@setting("--bootstrap-expect", default=0, type=click.IntRange(0), help="How many of them found the cluster together.")
@setting("--cluster-key", default="", help="File of the cluster's key: `prime cluster key new`.")
@setting("--bootstrap-token", default="", help="File of a token that counts until an admin's is made.")
@setting("--metrics-open", is_flag=True, help="Answer /metrics without a token.")
@setting("--log-archive", default="", metavar="URL", help="Where output is archived; the same on all agents.")
@setting("--pagerduty-url", default="https://events.pagerduty.com/v2/enqueue", help="Where pagerduty:// events go.")
@setting("--labels", default="", metavar="NAME=VALUE,...", help="What jobs may ask an agent to have.")
def start(join: str, labels: str, stand_in: str, log_level: str, executors: str, **settings: Any) -> None:
    """Start an agent, and run until SIGTERM or SIGINT. Every option is also an environment variable PRIME_<OPTION>."""
    from agent.config import AgentConfig, parse_labels
    from agent.errors import ConfigError

    try:
        config = AgentConfig(
            executors=parts(executors),
            join=parts(join),
            labels=parse_labels(parts(labels)),
            fallback=parse_labels(parts(stand_in)),
            **settings,
        )
        check_parts(config)
    except ConfigError as error:
        fail(str(error), USAGE)
    set_up_logging(log_level)
    run_agent(config)


def parts(text: str) -> tuple[str, ...]:
    """What commas part."""
    return tuple(one.strip() for one in text.split(",") if one.strip())


def check_parts(config: AgentConfig) -> None:
    """Ask of the settings what only the agent's parts know, before anything is made on the disk. Raises ConfigError."""
    from importlib.metadata import entry_points

    from agent.api.access import Access
    from agent.engines import GROUP
    from agent.errors import ConfigError
    from agent.spec.document import nearest
    from agent.store.archive import Archive
    from agent.store.database import open_database
    from agent.store.errors import MirrorError

    Access.of(config)
    known = {point.name for point in entry_points(group=GROUP)}
    if not config.executors:
        raise ConfigError(f"--executors: at least one engine is needed{nearest('', known)}")
    for name in config.executors:
        if name not in known:
            raise ConfigError(f"--executors {name}: there is none of that name{nearest(name, known)}")
    if config.log_archive:
        try:
            Archive(config.log_archive, "", 1)
        except ValueError as error:
            raise ConfigError(f"--log-archive: {error}") from error
    if config.database:
        try:
            open_database(config.database)
        except MirrorError as error:
            raise ConfigError(f"--database: {error}") from error


def set_up_logging(level: str) -> None:
    """One line an event on stderr, its fields behind it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Fields())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in ("asyncio", "urllib3", "docker", "botocore", "aiobotocore", "fsspec", "s3fs"):
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
