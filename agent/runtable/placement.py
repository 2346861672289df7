"""Which agent may be given what: one rule for the planner, for `apply`, which checks it again, and for `explain`."""

from __future__ import annotations

from agent.runtable.model import Agent
from agent.runtable.waiting import Need


def takes(agent: Agent) -> bool:
    """Whether it is given anything at all."""
    return not (agent.lost or agent.draining)


def fits(agent: Agent, need: Need) -> bool:
    """Whether it has the executor and every label."""
    return need.executor in agent.executors and all(agent.labels.get(one) == value for one, value in need.constraints)
