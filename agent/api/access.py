"""Who may ask this agent, as far as its settings say; and how often strangers may try (P8, P12)."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent import token_file
from agent.config import AgentConfig, host_port, is_loopback
from agent.service.tokens import digest_of

TRIES: Final = 20  # wrong tokens at once from one address
TRY_EVERY_S: Final = 3.0  # and one more each so many seconds
ADDRESSES_MAX: Final = 4096  # that are remembered
IPV6_HOST_BITS: Final = 64  # one host has that many addresses to itself


class Tries:
    """Wrong tokens by address. Who has a good one is never held up: others may share his address, as behind a proxy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: in seconds."""
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (tries, as of)

    def take(self, address: str) -> float:
        """Take one try. Returns for how many seconds there is none left, 0 = it is taken."""
        key, now_s = _host(address), self._clock()
        tries, at_s = self._spent.pop(key, (0.0, now_s))
        tries = max(0.0, tries - (now_s - at_s) / TRY_EVERY_S)
        wait_s = max(0.0, (tries + 1 - TRIES) * TRY_EVERY_S)
        self._spent[key] = (tries if wait_s else tries + 1, now_s)
        if len(self._spent) > ADDRESSES_MAX:
            self._spent.popitem(last=False)
        return wait_s

    def give_back(self, address: str) -> None:
        """It was no wrong token after all."""
        key = _host(address)
        tries, at_s = self._spent.get(key, (0.0, 0.0))
        if tries:
            self._spent[key] = (max(0.0, tries - 1), at_s)

    def __len__(self) -> int:
        return len(self._spent)


def _host(address: str) -> str:
    """One name for all addresses of one host."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return address if found.version == 4 else str(ipaddress.ip_network((found, IPV6_HOST_BITS), strict=False))


@dataclass(frozen=True, slots=True)
class Access:
    """tokens_wanted: without a token nothing is done but what is open to all; else who asks on this host is its user.

    bootstrap: the digest of the bootstrap token, "" = there is none.  metrics_open: /metrics needs no token.
    """

    tokens_wanted: bool = False
    bootstrap: str = ""
    metrics_open: bool = False
    tries: Tries = field(default_factory=Tries)

    @classmethod
    def of(cls, config: AgentConfig) -> Access:
        """As an agent's settings have it. Raises ConfigError for a file that holds no token, or is open to others."""
        host, _port = host_port(config.http, "--http")
        given = config.bootstrap_token
        bootstrap = digest_of(token_file.read(Path(given), "--bootstrap-token")) if given else ""
        return cls(bool(bootstrap) or not is_loopback(host), bootstrap, config.metrics_open)
