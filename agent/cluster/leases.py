"""Leases carried out: this agent asks for its own, and grants others' while it leads. The rules are in `lease`."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection
from typing import Final

from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.cluster.lease import Grant, Lessee, Lessor, Named
from agent.errors import Refusal
from agent.gate import FOREVER, Guarded
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.agents import stops_wanted
from agent.runtable.model import Agent, Attempt, Instance, LeaseTerms
from agent.watchdog import NoWatchdog, Unwatched, Watching

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.25  # after a question that was not answered; the next leader may be there by then
ANSWER_S: Final = 2.0
LOOK_MAX_S: Final = 5.0
STOPS_MAX: Final = 200  # attempts to be stopped that one answer names; more are named when these have ended (P12)


class AskLease(Question, frozen=True):
    """May this agent's work of that epoch go on? stopping: what the last answer named and is being stopped here."""

    agent: str
    epoch: int
    nonce: int
    stopping: tuple[Named, ...] = ()


class Granted(Answer, frozen=True):
    """See `lease.Grant`. stops: this agent's attempts that are to be stopped."""

    ttl_ms: int
    epoch: int
    commit: int
    stops: tuple[Named, ...] = ()
    stop_ms: int = LeaseTerms().stop_ms


class Leases:
    """Both sides for one agent. Its worker's gate (`agent.gate.Gate`)."""

    def __init__(
        self,
        replica: Replica,
        calls: Calls,
        agent: str,
        boottime_s: Callable[[], float],
        watchdog: Watching | None = None,
    ) -> None:
        """agent: this one's id. boottime_s: CLOCK_BOOTTIME. watchdog: it is run here; None = its work ends with it."""
        self._watchdog = watchdog or Unwatched()
        self._bound = False  # the watchdog knows that this agent is not alone
        self.lessee = Lessee()
        self.is_stopping: Callable[[Named], bool] = lambda _attempt: False  # the worker's word, which is made later
        self._stops: frozenset[Named] = frozenset()
        self._changed: asyncio.Future[None] | None = None
        self._replica, self._calls, self._agent, self._boottime_s = replica, calls, agent, boottime_s
        self._lessor: Lessor | None = None
        self._term = 0
        calls.serve(AskLease, self._serve)

    async def run_forever(self) -> None:
        """Ask and grant. Ends when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watchdog.run_forever(), name="watchdog")
            group.create_task(self._pass_on_forever(), name="watchdog's news")
            group.create_task(self._ask_forever(), name="lease")
            group.create_task(self._look_forever(), name="lessor")

    @property
    def bound(self) -> bool:
        """Whether the watchdog knows that this agent is not alone: what it guards does not outlive its lease."""
        return self._bound

    # -- the worker's gate -------------------------------------------------------------------------------------------

    async def fresh(self) -> bool:
        """See `gate.Gate`."""
        await self._replica.caught_up()  # after a start the table is that of the last snapshot, for a time
        while True:
            changed, news = self._replica.changed(), self.news()
            row = self._replica.table.rows.agents.get(self._agent)
            if row is not None and row.lost and self._watchdog.ready:
                return False
            if row is not None and not row.lost and self.may_start(row.epoch):
                return True
            await asyncio.wait((changed, news), return_when=asyncio.FIRST_COMPLETED)

    def may_start(self, epoch: int) -> bool:
        """See `gate.Gate`."""
        if not self._watchdog.ready:
            return False
        return self.lessee.may_start(epoch, self._replica.applied_index, self._boottime_s())

    def until_s(self, epoch: int) -> float:
        """See `gate.Gate`."""
        return self.lessee.until_s(epoch)

    def news(self) -> asyncio.Future[None]:
        """See `gate.Gate`."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def stops(self) -> Collection[Named]:
        """See `gate.Gate`."""
        return self._stops

    @property
    def stop_grace_s(self) -> float:
        """See `gate.Gate`. Its lease's own, so that it is what the leader waits for; the table here may be another."""
        own_s = self.lessee.stop_s
        return self._table_grace_s if own_s is None else own_s

    async def guard(self, name: str, guarded: Guarded, *, runs: bool = False) -> str:
        """See `gate.Gate`. Without a watchdog it waits for one, if the attempt runs or as long as its lease does."""
        while True:
            changed = self._watchdog.changed()
            try:
                return await self._watchdog.guard(name, guarded, runs=runs)
            except NoWatchdog as error:
                if not runs and self._boottime_s() >= self.until_s(guarded.epoch):
                    return str(error)
            await asyncio.wait((changed,), timeout=AGAIN_S)

    async def release(self, name: str) -> None:
        """See `gate.Gate`."""
        await self._watchdog.release(name)

    async def fenced_at_ms(self, name: str) -> int | None:
        """See `gate.Gate`."""
        return await self._watchdog.fenced_at_ms(name)

    async def guarded_before(self) -> frozenset[str]:
        """See `gate.Gate`."""
        return self._watchdog.found

    async def _pass_on_forever(self) -> None:
        while True:
            await asyncio.shield(self._watchdog.changed())
            self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    @property
    def _table_grace_s(self) -> float:
        return self._replica.table.rows.leases.terms.stop_ms / 1000

    @property
    def _ttl_s(self) -> float:
        return self._replica.table.rows.leases.terms.ttl_ms / 1000

    @property
    def _loss_s(self) -> float:
        rows = self._replica.table.rows
        return rows.leases.loss_ms(rows.time_ms) / 1000

    # -- this agent's own --------------------------------------------------------------------------------------------

    async def _ask_forever(self) -> None:
        while True:
            changed = self._replica.changed()
            rows = self._replica.table.rows.agents
            row = rows.get(self._agent)
            if row is None or row.lost:
                await asyncio.shield(changed)
            elif len(rows) == 1 and not self._replica.leads:
                await asyncio.shield(changed)  # the table may be an old one, whose log was not applied yet
            elif len(rows) == 1:
                await self._be_alone(row)
            else:
                await self._accompany()
                asked_s = self._boottime_s()
                granted = await self._ask(row)
                again_s = asked_s + AGAIN_S if granted is None else self.lessee.next_ask_s(asked_s, granted.ttl_s)
                await asyncio.wait((self._watchdog.changed(),), timeout=max(0.0, again_s - self._boottime_s()))

    async def _be_alone(self, row: Agent) -> None:
        """Nobody can be given its work: it has no end, for the watchdog as well. Returns when that may be otherwise."""
        news = self._watchdog.changed()
        self._bound = False  # from the moment it is asked: whether it has heard is not known until it answers
        grace_s = self._table_grace_s
        if not await self._watchdog.renew(FOREVER, row.epoch, grace_s):
            await asyncio.wait((news,), timeout=AGAIN_S)
            return
        self.lessee.alone(row.epoch)
        self._wake()
        while not news.done():
            changed = self._replica.changed()
            rows = self._replica.table.rows.agents
            if list(rows.values()) != [row] or not self._replica.leads or self._table_grace_s != grace_s:
                return
            await asyncio.wait((changed, news), return_when=asyncio.FIRST_COMPLETED)

    async def _accompany(self) -> None:
        """What runs has one lease's time to get its first, for the watchdog as well."""
        now_s = self._boottime_s()
        self.lessee.accompanied(now_s, self._ttl_s)
        if not self._bound:
            self._bound = await self._watchdog.bind(now_s + self._ttl_s)
            self._wake()

    async def _ask(self, row: Agent) -> Grant | None:
        """A lease that counts, or None."""
        stopping = tuple(sorted(filter(self.is_stopping, self._stops)))
        question = AskLease(self._agent, row.epoch, secrets.randbits(63), stopping)
        leader = self._replica.driver.node.leader
        self.lessee.ask(question.nonce, self._boottime_s())
        try:
            if leader == self._replica.driver.node.id:
                granted = await asyncio.wait_for(self._grant(question), ANSWER_S)
            else:
                granted = await self._calls.ask(leader, question, Granted, timeout_s=ANSWER_S)
        except (Refusal, TimeoutError) as error:
            log.debug("no lease", extra={"leader": leader, "error": str(error)})
            return None
        self._stops = frozenset(granted.stops)  # true whatever the lease is worth: a stop is never taken back
        self._wake()
        grant = Grant(granted.ttl_ms / 1000, granted.epoch, granted.commit, granted.stop_ms / 1000)
        until_s = self.lessee.worth(question.nonce, grant)
        if until_s is None or not self._bound:
            return None
        if not await self._watchdog.renew(until_s, grant.epoch, grant.stop_s):
            return None  # it would not be stopped in time if this agent were to die
        taken = self.lessee.granted(question.nonce, grant)
        self._wake()
        return grant if taken else None

    # -- a leader's --------------------------------------------------------------------------------------------------

    async def _serve(self, _asker: Asker, question: AskLease) -> Granted:
        return await self._grant(question)

    async def _grant(self, question: AskLease) -> Granted:
        """Raises Refusal where there is to be no lease."""
        lessor = self._current()
        if lessor is None:
            raise Refusal("no_leader", "another agent leads, or none", 503)
        lessor.asked(question.agent, question.epoch, self._boottime_s())
        await self._replica.caught_up()  # a round of its own, begun now
        row = self._replica.table.rows.agents.get(question.agent)
        stops = self._tell_stops(lessor, question)
        if self._current() is not lessor or not lessor.may_grant(row, question.epoch):
            raise Refusal("no_lease", f"{question.agent} gets no lease for epoch {question.epoch}", 409)
        terms, commit = self._replica.table.rows.leases.terms, self._replica.driver.node.committed
        return Granted(terms.ttl_ms, question.epoch, commit, stops, terms.stop_ms)

    def _tell_stops(self, lessor: Lessor, question: AskLease) -> tuple[Named, ...]:
        """What its answer names. Those which the end of its lease would not end cost no lease."""
        agent, epoch = question.agent, question.epoch
        wanted = {
            (run.id, instance.plan.name, attempt.number): (instance, attempt)
            for run, instance, attempt in stops_wanted(self._replica.table, agent)[:STOPS_MAX]
        }
        unanswered = [name for name, one in wanted.items() if _ends_with_lease(*one, epoch)]
        overdue = lessor.tells(agent, epoch, set(unanswered) - set(question.stopping), self._boottime_s())
        if overdue:
            log.warning(
                "an agent does not answer what it is to stop: it gets no lease",
                extra={"agent": agent, "epoch": epoch, "attempts": sorted(overdue)},
            )
        return tuple(wanted)

    def _current(self) -> Lessor | None:
        """The lessor of this term; None while this agent does not lead."""
        if not self._replica.leads:
            self._lessor = None
        elif self._lessor is None or self._term != self._replica.term:
            self._term = self._replica.term
            self._lessor = Lessor(self._boottime_s())
        return self._lessor

    async def _look_forever(self) -> None:
        """Propose the loss of who cannot be running any more."""
        while True:
            news = self._replica.leader_changed()
            lessor = self._current()
            wait_s = LOOK_MAX_S
            if lessor is not None:
                rows = self._replica.table.rows.agents
                now_s = self._boottime_s()
                for agent, epoch in lessor.lost(rows.values(), self._loss_s, now_s):
                    if self._current() is lessor:
                        await self._declare_lost(agent, epoch)
                due_s = lessor.due_s(rows.values(), self._loss_s)
                lessor.forget(rows)
                wait_s = LOOK_MAX_S if due_s is None else min(LOOK_MAX_S, max(AGAIN_S, due_s - now_s))
            await asyncio.wait((news,), timeout=wait_s)

    async def _declare_lost(self, agent: str, epoch: int) -> None:
        log.warning("an agent is lost: its work can be given to others", extra={"agent": agent, "epoch": epoch})
        try:
            await self._replica.decide(c.AgentLost(self._replica.clock_ms(), agent, epoch), self._term)
        except Refusal as refusal:
            log.warning("the loss is not taken yet", extra={"agent": agent, "error": refusal.message})


def _ends_with_lease(instance: Instance, attempt: Attempt, epoch: int) -> bool:
    return attempt.epoch == epoch and not instance.outlives_loss
