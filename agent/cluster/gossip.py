"""Gossip carried out: who is there, and what workers say of their attempts, on every agent at once.

A rumor here is a worker's word (`InstanceStarted`, `InstanceEnded`) as it is proposed as well. Every agent shows it as
provisional until the table knows as much; whoever leads proposes it too, so that a word reaches the log although its
worker cannot reach the leader. Nothing is decided by what is provisional. What is too long for a rumor takes the other
way alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from typing import Final

from agent.errors import PrimeError, Refusal
from agent.peers import Peers
from agent.replica import Replica
from agent.runtable import commands as c
from transport.frames import Frame
from transport.gossip import Change, Gossip, MessageMalformed, Metadata, Output, Rumor, RumorTooLarge, State

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
LEAVE_S: Final = 1.0
PROPOSING_MAX: Final = 256  # rumors that this leader is proposing; what comes on top comes again (P12)
Word = c.InstanceStarted | c.InstanceEnded


class Gossiping:
    """This agent's part in it. Belongs to one loop."""

    def __init__(self, replica: Replica, peers: Peers, metadata: Metadata) -> None:
        """peers: its `on_gossip` is taken. metadata: what is said of this agent."""
        self._replica, self._peers = replica, peers
        self._gossip = Gossip(peers.own_id, metadata, random.randrange, _now_ms(), incarnation=int(time.time()))
        self._words: dict[bytes, Word] = {}  # what is provisional, by the rumor's key
        self._runs: dict[str, set[bytes]] = {}
        self._joined: frozenset[int] = frozenset()
        self._term = 0
        self._proposing: set[asyncio.Task[None]] = set()
        peers.on_gossip = self._heard

    # -- looking -----------------------------------------------------------------------------------------------------

    def provisional(self, run_id: str) -> list[Word]:
        """What is said of a run and not known to the table yet."""
        return [self._words[key] for key in sorted(self._runs.get(run_id, ()))]

    @property
    def count(self) -> int:
        """How many words are provisional."""
        return len(self._words)

    def suspects(self) -> frozenset[int]:
        """Members that are believed not to be there."""
        gone = {State.SUSPECT, State.DEAD, State.LEFT}
        return frozenset(one.id for one in self._gossip.members if one.state in gone)

    # -- what this agent says ----------------------------------------------------------------------------------------

    def tell(self, word: Word) -> None:
        """Broadcast a word of this agent's worker."""
        key = f"{word.run_id}/{word.instance}/{word.number}".encode()
        try:
            if self._gossip.broadcast(Rumor(key, word.epoch, word.seq, c.encode(word)), _now_ms()):
                self._note(key, word)
        except RumorTooLarge:
            log.debug("a word is too long for a rumor", extra={"run": word.run_id, "instance": word.instance})

    # -- driving -----------------------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """Tick, and forget what the table knows. Says farewell when cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forget_forever(), name="rumors known")
                while True:
                    self._meet()
                    self._carry_out(self._gossip.tick(_now_ms()))
                    await asyncio.sleep(TICK_S)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._gossip.leave()
        until_s = time.monotonic() + LEAVE_S
        while time.monotonic() < until_s and self._gossip.unsent and self._joined:
            self._carry_out(self._gossip.tick(_now_ms()))
            await asyncio.sleep(TICK_S)

    def _meet(self) -> None:
        rows = self._replica.table.rows.agents.values()
        others = frozenset(row.node for row in rows if row.node and row.node != self._peers.own_id)
        if others != self._joined:
            self._joined = others
            self._gossip.join(sorted(others), _now_ms())

    def _heard(self, frame: Frame) -> None:
        if frame.sender not in self._joined:
            return
        try:
            self._carry_out(self._gossip.step(frame.payload, frame.sender, _now_ms()))
        except MessageMalformed as error:
            self._peers.malformed[type(error).__name__] += 1

    def _carry_out(self, output: Output) -> None:
        for to, payload in output.messages:
            self._peers.send_gossip(to, payload)
        for event in output.events:
            if event.change in (Change.DEAD, Change.JOINED, Change.LEFT):
                log.info("gossip", extra={"node": event.member.id, "change": event.change.name.lower()})
        self._take(output.rumors)

    # -- rumors ------------------------------------------------------------------------------------------------------

    def _take(self, rumors: Iterable[Rumor]) -> None:
        for rumor in rumors:
            word = c.decode(rumor.payload)
            if isinstance(word, c.InstanceStarted | c.InstanceEnded) and (word.epoch, word.seq) == (
                rumor.epoch,
                rumor.seq,
            ):
                self._note(rumor.key, word)
                self._propose(word)

    def _note(self, key: bytes, word: Word) -> None:
        if self._is_known(word):
            self._gossip.forget(key, (word.epoch, word.seq), _now_ms())
            return
        self._words[key] = word
        self._runs.setdefault(word.run_id, set()).add(key)
        self._replica.nudge()

    def _propose(self, word: Word) -> None:
        if not self._replica.leads or len(self._proposing) >= PROPOSING_MAX:
            return
        task = asyncio.ensure_future(self._propose_one(word))
        self._proposing.add(task)
        task.add_done_callback(self._proposing.discard)

    async def _propose_one(self, word: Word) -> None:
        try:
            await self._replica.offer(c.encode(word))
        except (Refusal, PrimeError) as error:
            log.debug("a rumor is not taken", extra={"run": word.run_id, "error": str(error)})

    async def _forget_forever(self) -> None:
        while True:
            changed = self._replica.changed()
            for key, word in list(self._words.items()):
                if self._gossip.rumors.get(key) is None or self._is_known(word):
                    self._drop(key, word)
            if self._replica.leads and self._term != self._replica.term:  # what its predecessors did not take
                self._term = self._replica.term
                for word in self._words.values():
                    self._propose(word)
            await asyncio.shield(changed)

    def _drop(self, key: bytes, word: Word) -> None:
        self._gossip.forget(key, (word.epoch, word.seq), _now_ms())
        del self._words[key]
        keys = self._runs[word.run_id]
        keys.discard(key)
        if not keys:
            del self._runs[word.run_id]

    def _is_known(self, word: Word) -> bool:
        """Whether the table is as far, or this attempt is none of its open ones any more."""
        rows = self._replica.table.rows
        run = rows.runs.get(word.run_id)
        if run is None:
            return word.run_id in rows.finished
        instance = run.instance(word.instance)
        if instance is None or len(instance.attempts) < word.number:
            return instance is None
        attempt = instance.attempts[word.number - 1]
        return not attempt.open or attempt.seq >= word.seq


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
