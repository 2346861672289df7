"""What a worker asks before it acts on its own: may this agent's work go on? (P3)"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

FOREVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Guarded:
    """What has to be known of an attempt to end it without this agent.

    epoch: its agent's. waits: it runs on when its agent is lost. end: see `executors.fence_ends`.
    """

    epoch: int
    waits: bool
    end: dict[str, Any]


class Gate(Protocol):
    """This agent's lease, as its worker needs it (`cluster.leases.Leases`). Times are seconds of CLOCK_BOOTTIME."""

    async def fresh(self) -> bool:
        """Wait until this process has a lease, and the table knows all that was committed when it was granted.

        Returns False where the table holds this agent for lost: then it gets none before its work has ended.
        """

    def may_start(self, epoch: int) -> bool:
        """Whether an attempt of that epoch may begin now."""

    def until_s(self, epoch: int) -> float:
        """When work of that epoch has to be stopped, as far as is known now."""

    def news(self) -> asyncio.Future[None]:
        """A future that is done when the lease is another. Take it before looking. The table matters as well."""

    def stops(self) -> Collection[tuple[str, str, int]]:
        """What the leader wants stopped, as it said with the last lease: (run, instance, number). It may be ahead."""

    @property
    def stop_grace_s(self) -> float:
        """Between SIGTERM and SIGKILL for work whose lease has ended."""

    async def guard(self, name: str, guarded: Guarded, *, runs: bool = False) -> str:
        """Have an attempt ended with its lease, also when this agent is dead or stuck. Returns why it may not start.

        runs: it was started before, and is only named again.
        """

    async def release(self, name: str) -> None:
        """The attempt's end is on record."""

    async def fenced_at_ms(self, name: str) -> int | None:
        """When the watchdog decided to end this attempt, in milliseconds since the epoch; None = it did not."""

    async def guarded_before(self) -> frozenset[str]:
        """What earlier processes of this agent have had guarded, and not released."""


class Open:
    """The gate of an agent that nobody can be given the work of."""

    stop_grace_s = 3.0

    async def fresh(self) -> bool:
        """At once."""
        return True

    def may_start(self, _epoch: int) -> bool:
        """Always."""
        return True

    def until_s(self, _epoch: int) -> float:
        """Never."""
        return FOREVER

    def news(self) -> asyncio.Future[None]:
        """Never."""
        return asyncio.get_running_loop().create_future()

    def stops(self) -> Collection[tuple[str, str, int]]:
        """Nothing that the table does not say."""
        return ()

    async def guard(self, _name: str, _guarded: Guarded, *, runs: bool = False) -> str:  # noqa: ARG002  the protocol's
        """Nobody has to."""
        return ""

    async def release(self, _name: str) -> None:
        """Nothing was guarded."""

    async def fenced_at_ms(self, _name: str) -> int | None:
        """Never."""
        return None

    async def guarded_before(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()
