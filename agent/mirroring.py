"""The database's place in an agent: who leads writes it, the others look at how far it is.

Every agent looks for itself, as each has been given the database: what that has not got must not be pruned by anybody
(P5), and its own word is right also while there is no leader, and for one that has just come to lead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import Final

from agent.replica import Replica
from agent.store import database
from agent.store.errors import MirrorError
from agent.store.history import START, Position
from consensus.ready import Role

log = logging.getLogger(__name__)

LOOK_S: Final = 60.0
LAG_COUNTED_MAX: Final = 10_000  # finished runs that the database lacks; more are shown as so many


class Mirroring:
    """Drives a mirror by the role of this agent."""

    def __init__(self, replica: Replica, mirror: database.Mirror, *, look_s: float = LOOK_S) -> None:
        """look_s: between two looks of an agent that does not lead, and of one whose database another one writes."""
        self._replica, self._mirror, self._look_s = replica, mirror, look_s

    def status(self) -> database.MirrorStatus:
        """How the database stands. What it lacks is counted when asked: its last step knew nothing of later runs."""
        status = self._mirror.status()
        if status.watermark is None:
            return status
        waiting = self._replica.history.tail(status.watermark, 0, count_limit=LAG_COUNTED_MAX).behind
        return replace(status, behind=waiting + self._replica.leaving)

    def mirrored(self) -> Position:
        """How far the database has the history: what it lacks is kept."""
        return self._mirror.status().watermark or START

    async def run_forever(self) -> None:
        """Tail the history into the database whenever this agent leads (P5). Ends when cancelled."""
        while True:
            if self._replica.leads:
                await self._lead(self._replica.term)
            else:
                await self._follow()

    async def _follow(self) -> None:
        """Look from time to time. Returns when this agent leads."""
        look_at_s = 0.0
        while not self._replica.leads:
            news, changed = self._replica.leader_changed(), self._replica.changed()
            left_s = look_at_s - time.monotonic()
            if left_s <= 0:
                await self._look()
                look_at_s = time.monotonic() + self._look_s
                continue
            # Who is elected leads once it has applied an entry of its own term.
            elected = self._replica.driver.node.role is Role.LEADER
            await asyncio.wait((news, changed) if elected else (news,), timeout=left_s, return_when="FIRST_COMPLETED")

    async def _look(self) -> None:
        generation = self._replica.table.rows.generation
        before = self._mirror.status().last_error
        try:
            await asyncio.to_thread(partial(self._mirror.look, generation=generation))
        except MirrorError as error:
            if before is None:
                log.warning("the database cannot be looked at", extra={"error": str(error)})

    async def _lead(self, term: int) -> None:
        """Write until this agent does not lead in that term any more, or a later writer has the database."""
        writing = asyncio.create_task(self._write(term), name="mirror writes")
        try:
            while self._leads(term) and not writing.done():
                await asyncio.wait((self._replica.leader_changed(), writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        if not writing.cancelled():
            writing.result()
            log.warning("a later leader writes the database", extra={"database": self._mirror.name, "term": term})
            if self._leads(term):
                await asyncio.wait((self._replica.leader_changed(),), timeout=self._look_s)

    def _leads(self, term: int) -> bool:
        return self._replica.leads and self._replica.term == term

    async def _write(self, term: int) -> None:
        """Returns where another writer with a later term owns the database."""
        await self._replica.history_settled()  # else the database may be ahead of it
        generation = self._replica.table.rows.generation
        wake = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            waking = group.create_task(self._wake(wake))
            await database.run(self._mirror, self._replica.history, wake, generation=generation, term=term)
            waking.cancel()

    async def _wake(self, wake: asyncio.Event) -> None:
        """Tell whenever something was written to the history."""
        while True:
            changed = self._replica.history_changed()
            wake.set()
            await asyncio.shield(changed)
