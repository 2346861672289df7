"""What a leader does for the cluster itself: the autopilot's steps, one at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.cluster import autopilot
from agent.cluster.autopilot import View
from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable import commands as c
from consensus.configuration import ConfChange, ConfChangeKind
from consensus.messages import NONE
from consensus.node import Status

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
ASK_S: Final = 2.0
COMPLETE_S: Final = 3.0  # for who is asked whether it lacks something: it may have to look
COMPLETE_FOR_S: Final = 10.0  # then it is asked again
TRANSFER_S: Final = 5.0
UNHEARD_S: Final = 2.0


class AskComplete(Question, frozen=True):
    """Do you lack any blob or history that the table names, with all that it holds up to this index?"""

    index: int


class Complete(Answer, frozen=True):
    """lacks: how many things; 0 = it may vote."""

    lacks: int


class AskSeen(Question, frozen=True):
    """How do the members look to you, the leader?"""


class Contact(msgspec.Struct, array_like=True, frozen=True):
    """One member as the leader sees it. match: how much of the log it has. silent_ms: since it was heard.

    ahead_ms: its clock, of the cluster's time; None = not known.
    """

    node: int
    match: int
    silent_ms: int
    ahead_ms: int | None = None


class Seen(Answer, frozen=True):
    """last: the end of the leader's log."""

    last: int
    contacts: tuple[Contact, ...]


class AskTransfer(Question, frozen=True):
    """Let this member lead in your place."""

    to: int


class Transferring(Answer, frozen=True):
    """It will, if it is heard."""


@dataclass(slots=True)
class _Track:
    """What this leader has seen of a node. Times are of the monotonic clock, in seconds."""

    heard_s: float
    behind_s: float  # when it was last seen to lag
    complete_s: float = float("-inf")  # when it last said that it lacks nothing


class Steward:
    """Looks after the members while this agent leads."""

    def __init__(
        self,
        replica: Replica,
        calls: Calls,
        lacks: Callable[[], int],
        looked: Callable[[int], Awaitable[None]],
        *,
        bound: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """lacks: how much this agent itself lacks, for the leader that asks it; looked: returns once that was counted
        in a table which holds an index. bound: whether this agent's work ends with its lease, even without this agent.
        """
        self._replica, self._calls, self._clock = replica, calls, clock
        self._tracks: dict[int, _Track] = {}
        self._term = 0
        self._last_index = 0
        self._lacks, self._looked, self._bound = lacks, looked, bound
        calls.serve(AskComplete, self._complete)
        calls.serve(AskSeen, self._serve_seen)
        calls.serve(AskTransfer, self._serve_transfer)

    async def _complete(self, _asker: Asker, question: AskComplete) -> Complete:
        """An agent that has not got the table yet lacks nothing it knows of: it has to have that first."""
        try:
            async with asyncio.timeout(COMPLETE_S):
                await self._looked(question.index)
        except TimeoutError:
            return Complete(max(1, self._lacks()))
        return Complete(self._lacks())

    async def run_forever(self) -> None:
        """Look from time to time. Ends when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_learners_forever(), name="completeness")  # no look waits for who is silent
            while True:
                if self._replica.leads:
                    await self._look()
                await asyncio.sleep(LOOK_S)

    async def transfer(self, to: int) -> None:
        """Have a voter lead. Returns once it does. Raises Refusal("no_leader", "not_transferred")."""
        driver = self._replica.driver
        until_s = self._clock() + TRANSFER_S
        if driver.node.leader == driver.node.id:
            driver.transfer(to)
        else:
            await self._calls.ask(driver.node.leader, AskTransfer(to), Transferring, timeout_s=ASK_S)
        while driver.node.leader != to:
            news = self._replica.leader_changed()
            if self._clock() > until_s:
                text = "it did not come to lead: it is not heard, or has not kept up with the log"
                raise Refusal("not_transferred", text, 409)
            await asyncio.wait((news,), timeout=LOOK_S)

    async def _serve_transfer(self, _asker: Asker, question: AskTransfer) -> Transferring:
        if not self._replica.leads:
            raise Refusal("no_leader", "another agent leads, or none", 503, retry_after_s=1)
        self._replica.driver.transfer(question.to)
        return Transferring()

    def unheard(self) -> frozenset[int]:
        """Members that this leader has not heard for a moment: what they are given would wait."""
        now_s = self._clock()
        return frozenset(node for node, track in self._tracks.items() if now_s - track.heard_s > UNHEARD_S)

    async def seen(self) -> Seen | None:
        """How the leader sees the members, asked of it where that is another agent; None where it does not answer."""
        leader = self._replica.driver.node.leader
        try:
            if leader == self._replica.driver.node.id:
                return self._seen()
            return await self._calls.ask(leader, AskSeen(), Seen, timeout_s=ASK_S)
        except Refusal:
            return None

    async def let_go(self) -> bool:
        """Whether another agent leads, and counts this one among the members no more."""
        node = self._replica.driver.node
        seen = await self.seen() if node.leader not in (NONE, node.id) else None
        return seen is not None and bool(seen.contacts) and all(one.node != node.id for one in seen.contacts)

    async def _serve_seen(self, _asker: Asker, _question: AskSeen) -> Seen:
        return self._seen()

    def _seen(self) -> Seen:
        """Raises Refusal where this agent does not lead."""
        if not self._replica.leads:
            raise Refusal("no_leader", "another agent leads, or none", 503)
        now_s, status = self._clock(), self._replica.driver.status()
        contacts = [
            Contact(
                node,
                one.match,
                round(1000 * (now_s - self._tracks[node].heard_s)),
                self._replica.clock.members_ms.get(node),
            )
            for node, one in sorted(status.progress.items())
            if node in self._tracks
        ]
        return Seen(self._replica.driver.node.last_index, tuple(contacts))

    async def _look(self) -> None:
        status = self._replica.driver.status()
        before = self.unheard()
        self._note(status)
        if self.unheard() != before:
            self._replica.nudge()
        view = self._view(status)
        step = autopilot.next_step(view)
        if isinstance(step, autopilot.Transfer):
            log.info("the leader has been removed: another one takes over", extra={"to": step.to})
            self._replica.driver.transfer(step.to)
        elif step is not None and self._may_change(step):
            log.info("the members change", extra={"change": [f"{one.kind.name} {one.node}" for one in step.changes]})
            try:
                self._replica.driver.change_members(step)
            except Refusal as refusal:
                log.info("the change has to wait", extra={"error": refusal.message})
        else:
            await self._forget(view)

    def _note(self, status: Status) -> None:
        """What has been heard since the last look. A new leader has heard nobody yet: it begins to count now."""
        now_s = self._clock()
        if status.term != self._term:
            self._term, self._tracks = status.term, {}
        last_index, self._last_index = self._last_index, self._replica.driver.node.last_index
        for node, progress in status.progress.items():
            track = self._tracks.setdefault(node, _Track(now_s, now_s))
            if progress.recent_active or node == status.id:
                track.heard_s = now_s
            if progress.match < last_index and node != status.id:
                track.behind_s = now_s
        for node in self._tracks.keys() - status.progress.keys():
            del self._tracks[node]

    async def _ask_learners_forever(self) -> None:
        while True:
            if self._replica.leads:
                learners = self._replica.driver.status().config.learners
                await asyncio.gather(*(self._ask_complete(node) for node in learners if not self._is_complete(node)))
            await asyncio.sleep(LOOK_S)

    def _is_complete(self, node: int) -> bool:
        track = self._tracks.get(node)
        return track is not None and self._clock() - track.complete_s < COMPLETE_FOR_S

    async def _ask_complete(self, node: int) -> None:
        question = AskComplete(self._replica.applied_index)
        try:
            answer = await self._calls.ask(node, question, Complete, timeout_s=COMPLETE_S + ASK_S)
        except Refusal as refusal:
            log.debug("a learner does not answer", extra={"node": node, "error": refusal.message})
            return
        if node in self._tracks and answer.lacks == 0:
            self._tracks[node].complete_s = self._clock()

    def _view(self, status: Status) -> View:
        now_s = self._clock()
        agents = {}
        for row in self._replica.table.rows.agents.values():
            track = self._tracks.get(row.node, _Track(now_s, now_s))
            complete = now_s - track.complete_s < COMPLETE_FOR_S + COMPLETE_S + ASK_S  # it may just be asked again
            agents[row.node] = autopilot.Seen(row.node, now_s - track.heard_s, now_s - track.behind_s, complete)
        return View(
            status.id,
            status.config.voters.incoming,
            status.config.learners,
            agents,
            frozenset(
                node
                for node, track in self._tracks.items()
                if node not in agents and now_s - track.heard_s < autopilot.SILENT_S
            ),
            status.config.joint,
        )

    def _may_change(self, change: ConfChange) -> bool:
        """Others may only come to decide without this agent when its work cannot outlive its lease any more (P3)."""
        return self._bound() or not any(one.kind is ConfChangeKind.ADD_VOTER for one in change.changes)

    async def _forget(self, view: View) -> None:
        nodes = autopilot.forgotten(view)
        rows = [row for row in self._replica.table.rows.agents.values() if row.node in nodes]
        for row in rows:
            log.warning("an agent has been silent for an hour: it is removed", extra={"agent": row.id})
            try:
                await self._replica.decide(c.AgentRemoved(self._replica.clock_ms(), row.id), self._term)
            except Refusal as refusal:
                log.info("its removal has to wait", extra={"agent": row.id, "error": refusal.message})
