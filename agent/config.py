"""How an agent is set up. Every setting is a flag of `prime agent start` and an environment variable PRIME_<FLAG>."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import ConfigError

DEFAULT_HTTP: Final = "127.0.0.1:9100"
DEFAULT_BIND: Final = "127.0.0.1:9101"
ALL_EXECUTORS: Final = ("process", "docker")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Settings of one agent.

    data_dir: all it keeps.  http, bind: HOST:PORT of the HTTP face and of the address it gives other agents.
    database: URL of the mirror, "" = none.  slots: attempts at a time, 0 = four a core.
    executors: names of entry points in the group prime.executors; one whose engine does not answer is tried again.
    fallback: executors that stand in for others that do not answer (development only).
    secret_key: the keyring's file, "" = `secret.key` in the data directory.
    """

    data_dir: Path
    http: str = DEFAULT_HTTP
    bind: str = DEFAULT_BIND
    database: str = ""
    slots: int = 0
    executors: tuple[str, ...] = ALL_EXECUTORS
    fallback: tuple[tuple[str, str], ...] = ()
    secret_key: str = ""
    docker_network: str = ""
    pull: str = "missing"
    log_limit_bytes: int = 256 * 1024 * 1024
    log_keep_s: float = 15 * 86400.0
    log_max_bytes: int = 20 * 1024**3
    history_keep_s: float = 365 * 86400.0
    history_max_bytes: int = 2 * 1024**3
    keep_ended_s: float = 60.0
    snapshot_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be used."""
        host, _port = host_port(self.http, "--http")
        host_port(self.bind, "--bind")
        if not is_loopback(host):
            raise ConfigError(
                f"--http {self.http}: without tokens this agent answers on a loopback address only (P8); "
                "use 127.0.0.1:PORT and a tunnel"
            )
        if self.slots < 0:
            raise ConfigError(f"--slots {self.slots}: a number of attempts at a time, or 0 for four a core")
        if self.pull not in ("missing", "always", "never"):
            raise ConfigError(f"--pull {self.pull}: missing, always or never")

    @property
    def slots_or_default(self) -> int:
        """How many attempts may run at a time here."""
        return self.slots or 4 * (os.cpu_count() or 1)


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
