"""That this agent is there: its row in the table, kept true for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from agent.cluster.members import removed
from agent.errors import AgentStopped, Refusal
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.apply import REFUSALS
from agent.runtable.model import Agent

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.5
LEAVE_S: Final = 30.0  # how long an agent that was removed stays for the others, if it does not lead
# What this agent knows of itself.
TOLD: Final = ("address", "http", "slots", "executors", "version", "node", "labels", "level", "unfenceable")


class Presence:
    """Tells the table of this agent: after its start, when it has changed, and when it had been declared lost."""

    def __init__(
        self,
        replica: Replica,
        describe: Callable[[], Agent],
        settled: Callable[[int], bool],
        let_go: Callable[[], Awaitable[bool]],
    ) -> None:
        """describe: this agent's row as it is now. settled: whether no work of that epoch or an earlier one runs.

        let_go: whether the leader of the others does without this agent.
        """
        self._replica, self._describe, self._settled, self._let_go = replica, describe, settled, let_go
        self._look = asyncio.Event()

    def changed(self) -> None:
        """What `describe` says has changed, or `settled`."""
        self._look.set()

    @property
    def problem(self) -> str | None:
        """Why this agent takes no work; None = it does."""
        rows, me = self._replica.table.rows, self._describe().id
        row = rows.agents.get(me)
        if me in rows.removed:
            return "this agent was removed from its cluster"
        if row is None or not self._is_told(row):
            return "the cluster does not know this agent as it is yet"
        return "the cluster holds this agent for lost; it ends what still runs, and returns" if row.lost else None

    async def run_forever(self) -> None:
        """Ends when cancelled. Raises AgentStopped once this agent was removed, or is too old for the others."""
        while True:
            self._look.clear()
            changed = self._replica.changed()
            await self._leave_if_removed()
            row = self._replica.table.rows.agents.get(self._describe().id)
            if self._may_tell(row):
                await self._tell(row.epoch if row is not None and row.lost else None)
            look = asyncio.ensure_future(self._look.wait())
            try:
                await asyncio.wait((changed, look), return_when=asyncio.FIRST_COMPLETED)
            finally:
                look.cancel()

    def _may_tell(self, row: Agent | None) -> bool:
        if row is not None and row.lost:
            return self._settled(row.epoch)
        return row is None or not self._is_told(row)

    async def _leave_if_removed(self) -> None:
        """Its vote may be needed for the change that takes it away; without it the others could be too few."""
        me = self._describe().id
        if me not in self._replica.table.rows.removed:
            return
        log.warning("this agent was removed from its cluster", extra={"agent": me})
        until_s = time.monotonic() + LEAVE_S
        driver = self._replica.driver
        while driver.node.id in driver.node.config.members:
            leads = driver.node.leader == driver.node.id
            if not leads and (await self._let_go() or time.monotonic() > until_s):
                break
            await asyncio.wait((self._replica.leader_changed(), self._replica.changed()), timeout=AGAIN_S)
        raise removed(me)

    def _is_told(self, row: Agent) -> bool:
        me = self._describe()
        return all(getattr(row, name) == getattr(me, name) for name in TOLD)

    async def _tell(self, clean_of: int | None) -> None:
        """Once; what has not come of it is told again. clean_of: the epoch whose work has ended, if that was lost."""
        word = c.AgentUp(self._replica.clock_ms(), self._describe(), clean_of is not None, clean_of or 0)
        try:
            applied = await self._replica.propose(word)
        except Refusal as refusal:
            log.info("the cluster was not told of this agent yet", extra={"error": refusal.message})
            self._look_later()
            return
        if applied.code == "older_level":
            raise AgentStopped(f"the cluster does not take this agent: {REFUSALS[applied.code]}")
        if not applied.ok:
            log.warning("the cluster does not take this agent", extra={"code": applied.code})
            self._look_later()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(AGAIN_S, self._look.set)
