"""What an operator does to the agents of the cluster."""

from __future__ import annotations

from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.model import Agent, LeaseTerms
from agent.service.common import Accepted, Context, unknown


class Agents:
    """Drain, remove, let another lead, change the terms of leases."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def agent(self, agent_id: str) -> Agent:
        """The row of an agent. Raises Refusal("unknown_agent")."""
        rows = self._context.replica.table.rows.agents
        if agent_id not in rows:
            raise unknown("unknown_agent", "agent", agent_id, rows)
        return rows[agent_id]

    async def drain(self, agent_id: str, *, on: bool) -> Accepted:
        """Give an agent nothing more, or something again; what it has goes on. Raises Refusal("unknown_agent")."""
        agent = self.agent(agent_id)
        applied = await self._context.propose(c.AgentDraining(self._context.now_ms(), agent.id, on))
        return Accepted(applied.index, names=(agent.id,))

    async def remove(self, agent_id: str) -> Accepted:
        """Take an agent out for ever. Raises Refusal: "unknown_agent", "agent_busy", "last_agent"."""
        agent = self.agent(agent_id)
        applied = await self._context.propose(c.AgentRemoved(self._context.now_ms(), agent.id))
        return Accepted(applied.index, names=(agent.id,))

    async def transfer(self, agent_id: str) -> Agent:
        """Let an agent lead. Returns once it does. Raises Refusal: "unknown_agent", "no_vote", "no_leader"."""
        agent = self.agent(agent_id)
        if agent.node not in self._context.replica.driver.node.config.voters.incoming:
            raise Refusal("no_vote", f"{agent.id} has no vote, so it cannot lead", 409)
        await self._context.transfer(agent.node)
        return agent

    async def set_lease_terms(self, terms: LeaseTerms) -> Accepted:
        """New terms for all agents; losses count by the old ones until their leases have run out."""
        applied = await self._context.propose(c.SetLeaseTerms(self._context.now_ms(), terms))
        return Accepted(applied.index)
