"""This agent's connections follow the agents that the table names.

Who has come back at another address hears nobody, and cannot tell the table of it: those who lead send to where it was.
So an agent that hears of no leader for a time knocks at all that its own table names. It is found where it says it is
from then on, until the table knows more; or it is told that it was removed while it was away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import AgentStopped, Refusal
from agent.replica import Replica
from consensus.messages import NONE
from transport.base import Transport

log = logging.getLogger(__name__)

KNOCK_S: Final = 3.0  # without a leader; an election takes less
ASK_S: Final = 2.0
REMOVED: Final = "removed_agent"


class Knock(Question, frozen=True):
    """Here I am: I hear of no leader. address: HOST:PORT."""

    agent: str
    address: str


class Known(Answer, frozen=True):
    """You are reached there from now on."""


class Members:
    """Connects to every agent of the table, and to those that an agent without a table was told of."""

    def __init__(
        self, replica: Replica, transport: Transport, calls: Calls, agent: str, address: str, told: Mapping[int, str]
    ) -> None:
        """agent, address: this one's id and HOST:PORT.

        told: {node: address} of members, for as long as the table names none: after a join, until the snapshot.
        """
        self._replica, self._transport, self._calls, self._told = replica, transport, calls, told
        self._agent, self._address = agent, address
        self._own_node = replica.driver.node.id
        self._connected: dict[int, str] = {}
        self._moved: dict[int, tuple[str, str]] = {}  # node: the address in the table, and where it says it is
        calls.serve(Knock, self._answer)

    async def run_forever(self) -> None:
        """Look after everything that is applied, and knock. Ends when cancelled. Raises AgentStopped if removed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._knock_forever(), name="knock")
            while True:
                changed = self._replica.changed()
                self.update()
                await asyncio.shield(changed)

    def update(self) -> None:
        """Connect to who is new or has moved; let go of who was removed, once Raft has let go as well."""
        rows = self._replica.table.rows.agents.values()
        named = {row.node: row.address for row in rows} or dict(self._told)
        self._moved = {node: moved for node, moved in self._moved.items() if named.get(node) == moved[0]}
        stayed = [(node, address) for node, address in named.items() if node not in self._moved]
        moved = [(node, address) for node, (_before, address) in self._moved.items()]
        # An address is one agent's: of the latest that has come there. One with an empty disk is another than before.
        latest = {address: node for node, address in (*stayed, *moved)}
        wanted = {node: address for address, node in latest.items() if address != self._address}
        wanted.pop(self._own_node, None)
        for node in self._connected.keys() - wanted.keys():
            if node in named or node not in self._replica.driver.node.config.members:
                self._transport.disconnect(node)
                del self._connected[node]
                log.info("an agent has left", extra={"node": node})
        for node, address in wanted.items():
            if self._connected.get(node) != address:
                self._transport.connect(node, address)
                self._connected[node] = address

    # -- an agent that hears of no leader ----------------------------------------------------------------------------

    async def _knock_forever(self) -> None:
        while True:
            news = self._replica.leader_changed()
            if self._replica.driver.node.leader != NONE:
                await asyncio.shield(news)
                continue
            await asyncio.wait((news,), timeout=KNOCK_S)
            if self._replica.driver.node.leader == NONE:
                await asyncio.gather(*(self._knock(node) for node in tuple(self._connected)))

    async def _knock(self, node: int) -> None:
        try:
            await self._calls.ask(node, Knock(self._agent, self._address), Known, timeout_s=ASK_S)
        except Refusal as refusal:
            if refusal.code == REMOVED:
                raise removed(self._agent) from refusal
            log.debug("nobody lets this agent in", extra={"node": node, "error": refusal.message})

    async def _answer(self, asker: Asker, question: Knock) -> Known:
        rows = self._replica.table.rows
        if question.agent in rows.removed:
            raise Refusal(REMOVED, f"{question.agent} was removed", 409)
        row = rows.agents.get(question.agent)
        if row is None or row.node != asker.node:
            raise Refusal("unknown_agent", f"{question.agent} is not known here", 404)
        if question.address != self._connected.get(row.node):
            log.info("an agent has moved", extra={"agent": row.id, "address": question.address})
            self._moved[row.node] = (row.address, question.address)
            self.update()
        return Known()


def removed(agent: str) -> AgentStopped:
    """Why an agent ends that was taken out of its cluster."""
    return AgentStopped(
        f"{agent} was removed from its cluster for good; to let this host take part again, begin with an empty data "
        "directory"
    )
