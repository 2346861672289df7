"""How an agent is set up. Every setting is a flag of `prime agent start` and an environment variable PRIME_<FLAG>."""

from __future__ import annotations

import functools
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import ConfigError

DEFAULT_HTTP: Final = "127.0.0.1:9100"
DEFAULT_BIND: Final = "127.0.0.1:9101"
DATABASE_EXAMPLE: Final = "sqlite:////var/lib/prime/runs.db"
PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"
WILDCARDS: Final = frozenset({"*", "0.0.0.0", "::"})  # noqa: S104  compared with, not bound
ALL_EXECUTORS: Final = ("process", "docker")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Settings of one agent.

    data_dir: all it keeps.  http, bind: HOST:PORT where it answers users, and where it answers other agents.
    advertise: HOST:PORT by which other agents reach it, "" = bind.  labels: what jobs may ask an agent to have.
    join: HOST:PORT of agents, itself included; none = it founds a cluster alone.  bootstrap_expect: how many of them
    found one together, 0 = this one only joins.  cluster_key: the file of the cluster's keys, "" = one of its own.
    database: URL of the mirror, "" = none.  slots: attempts at a time, 0 = four a core.
    executors: names of entry points in the group prime.executors; one whose engine does not answer is tried again.
    fallback: executors that stand in for others that do not answer (development only).
    secret_key: the keyring's file, "" = `secret.key` in the data directory.
    log_archive: URL of the archive of output, the same on all agents, "" = none.
    bootstrap_token: a file with a token that counts while there is no admin's. metrics_open: /metrics needs no token.
    pagerduty_url: of PagerDuty's Events API, where events for `pagerduty://` go.
    """

    data_dir: Path
    http: str = DEFAULT_HTTP
    bind: str = DEFAULT_BIND
    advertise: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    join: tuple[str, ...] = ()
    bootstrap_expect: int = 0
    cluster_key: str = ""
    database: str = ""
    slots: int = 0
    executors: tuple[str, ...] = ALL_EXECUTORS
    fallback: tuple[tuple[str, str], ...] = ()
    secret_key: str = ""
    bootstrap_token: str = ""
    metrics_open: bool = False
    docker_network: str = ""
    pull: str = "missing"
    log_limit_bytes: int = 256 * 1024 * 1024
    log_keep_s: float = 15 * 86400.0
    log_archive: str = ""
    log_max_bytes: int = 20 * 1024**3
    history_keep_s: float = 365 * 86400.0
    history_max_bytes: int = 2 * 1024**3
    keep_ended_s: float = 60.0
    snapshot_bytes: int = 64 * 1024 * 1024
    pagerduty_url: str = PAGERDUTY_URL

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be used."""
        host_port(self.http, "--http")
        bind_host, _port = host_port(self.bind, "--bind")
        for flag, one in (("--advertise", self.advertise), *(("--join", one) for one in self.join)):
            if one:
                host_port(one, flag)
        if not is_loopback(bind_host) and not self.cluster_key:  # P8
            raise ConfigError(
                f"--bind {self.bind}: an address that others can reach needs the cluster's key: make one with "
                "`prime cluster key new --out FILE`, copy it to all hosts and give it as --cluster-key FILE"
            )
        if self.join and not self.cluster_key:
            raise ConfigError("--join needs --cluster-key FILE, the same key on all agents; `prime cluster key new`")
        if bind_host in WILDCARDS and not self.advertise:
            raise ConfigError(
                f"--bind {self.bind}: give --advertise HOST:PORT too, by which other agents reach this one"
            )
        if self.bootstrap_expect < 0 or (self.bootstrap_expect > 1 and not self.join):
            raise ConfigError(f"--bootstrap-expect {self.bootstrap_expect}: goes with --join, the addresses of all")
        if self.database and "://" not in self.database:
            # What it is stays untold: a password may stand in it.
            raise ConfigError(f"--database takes a URL, such as {DATABASE_EXAMPLE}; what was given is none")
        if not self.pagerduty_url.startswith(("http://", "https://")):
            raise ConfigError(f"--pagerduty-url {self.pagerduty_url!r}: a URL is expected, such as {PAGERDUTY_URL}")
        if self.slots < 0:
            raise ConfigError(f"--slots {self.slots}: a number of attempts at a time, or 0 for four a core")
        if self.pull not in ("missing", "always", "never"):
            raise ConfigError(f"--pull {self.pull}: missing, always or never")

    @property
    def slots_or_default(self) -> int:
        """How many attempts may run at a time here."""
        return self.slots or 4 * _cores()


@functools.cache
def _cores() -> int:
    """Asked for after every change of the table; the system's answer takes a hundred times as long as the rest."""
    return os.cpu_count() or 1


def parse_labels(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE, each name once, sorted. Raises ConfigError."""
    labels: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise ConfigError(f"--labels {text!r}: NAME=VALUE is expected, such as gpu=yes")
        if name in labels:
            raise ConfigError(f"--labels {name}: is given twice")
        labels[name] = value
    return tuple(sorted(labels.items()))


def host_port(text: str, flag: str) -> tuple[str, int]:
    """The parts of HOST:PORT; port 0 = any free one. Raises ConfigError naming the flag."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{flag} {text!r}: HOST:PORT is expected, such as {DEFAULT_HTTP}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
