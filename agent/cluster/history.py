"""The history's holes: what ended while this agent was given a snapshot instead of the log, fetched from others.

Whoever lacks finished runs asks for what follows a position, and takes a part of it in one transaction with the note
that it is not missing any more: a crash costs the part that was on its way. An agent answers only for what it has,
and says what it has not, because it was pruned there or is missing there too. What no member has is lost: that is
noted, and told.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import Refusal
from agent.replica import Replica
from agent.store.errors import HistoryError
from agent.store.history import Hole, Part, Position, StoredRun
from transport.frames import Lane

log = logging.getLogger(__name__)

PART_BYTES: Final = 256 * 1024
ASK_S: Final = 10.0
LOOK_S: Final = 1.0  # between rounds that bring nothing


class AskHistory(Question, frozen=True):
    """What ended after a position, up to a log index?"""

    after: Position
    up_to_index: int


class HistoryPart(Answer, frozen=True):
    """See `store.history.Part`."""

    rows: tuple[StoredRun, ...]
    complete: Position
    resumes: Position | None


class Backfill:
    """Fills the holes in this agent's history, and gives others what fills theirs."""

    def __init__(self, replica: Replica, calls: Calls) -> None:
        """Answers the questions of others from now on."""
        self._replica, self._calls = replica, calls
        self._source = 0  # who had the last part
        self._nowhere: Hole | None = None  # what nobody had when all were asked
        calls.serve(AskHistory, self._serve)

    @property
    def lacking(self) -> int:
        """How many ranges are missing here; 0 = none. One that has heard nothing of its cluster yet lacks all."""
        return len(self._replica.history.missing) if self._replica.applied_index else 1

    # -- giving ------------------------------------------------------------------------------------------------------

    async def _serve(self, _asker: Asker, question: AskHistory) -> HistoryPart:
        up_to_index = min(question.up_to_index, self._replica.history_index)
        try:
            part = await asyncio.to_thread(self._replica.history.part, question.after, up_to_index, PART_BYTES)
        except HistoryError as error:
            raise Refusal("unavailable", str(error), 503) from error
        return HistoryPart(tuple(part.rows), part.complete, part.resumes)

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """Fetch what is missing, the oldest first, part by part. Ends when cancelled."""
        while True:
            changed = self._replica.changed()
            missing = self._due()
            if not missing:
                await asyncio.shield(changed)
                continue
            progress = [await self._fetch(hole) for hole in missing]
            if not self._due():
                log.info("the history is complete")
            elif not any(progress):
                await asyncio.sleep(LOOK_S)

    def _due(self) -> list[Hole]:
        """What is missing for good: the snapshot for which it was noted has taken the log's place."""
        return [hole for hole in self._replica.history.missing if hole.to[0] <= self._replica.applied_index]

    async def _fetch(self, hole: Hole) -> bool:
        """Get the next part of it. Returns whether there is less to do now."""
        others = self._others()
        resumes: list[Position] = []
        for node in others:
            part = await self._ask(node, hole)
            if part is None:
                continue
            if part.complete > hole.after:
                if await self._take(node, hole, part):
                    return True
            elif part.resumes is not None:
                resumes.append(part.resumes)
        if len(resumes) < len(others):
            return False  # who did not answer may have it
        if self._nowhere != hole:  # one may have got it from another that has pruned it before it was asked
            self._nowhere = hole
            return False
        await self._give_up(hole, min(resumes, default=hole.to))
        return True

    def _others(self) -> list[int]:
        """The other members, in the order in which to ask: who had the last part first, who leads last."""
        node = self._replica.driver.node
        return sorted(node.config.members - {node.id}, key=lambda one: (one != self._source, one == node.leader, one))

    async def _ask(self, node: int, hole: Hole) -> Part | None:
        """Returns None where there was no answer."""
        question = AskHistory(hole.after, hole.to[0])
        try:
            answer = await self._calls.ask(node, question, HistoryPart, timeout_s=ASK_S, lane=Lane.BULK)
        except Refusal as refusal:
            log.debug("no history from there", extra={"node": node, "error": refusal.message})
            return None
        return Part(answer.rows, min(answer.complete, hole.to), answer.resumes)

    async def _take(self, node: int, hole: Hole, part: Part) -> bool:
        try:
            await self._replica.write_history(partial(self._replica.history.fill, hole.after, part))
        except HistoryError as error:
            log.warning("history from another agent is not taken", extra={"node": node, "error": str(error)})
            return False
        self._source = node
        return True

    async def _give_up(self, hole: Hole, resumes: Position) -> None:
        to = min(resumes, hole.to)
        log.warning("no agent has these finished runs any more", extra={"after": hole.after, "up_to": to})
        await self._replica.write_history(partial(self._replica.history.give_up, hole.after, to))
