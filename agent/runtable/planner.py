"""What the leader proposes next, derived from the table alone: (table, now) -> commands.

Work is proportional to what changed: only instances that wait for a slot and deadlines that are due are looked at.
"""

from __future__ import annotations

from typing import Final

from agent.runtable.commands import AdvanceTime, AnyCommand, Assign
from agent.runtable.model import Agent
from agent.runtable.table import Table

ASSIGN_MAX: Final = 256  # by one step, so that a step stays short


def plan(table: Table, now_ms: int) -> list[AnyCommand]:
    """What to propose at `now_ms`. Proposing it twice is harmless: the second is a no-op."""
    commands: list[AnyCommand] = []
    due_ms = table.due_ms()
    if due_ms is not None and due_ms <= now_ms:
        commands.append(AdvanceTime(now_ms))
    free = _free_slots(table)
    for run_id, name in table.ready:
        if not free or len(commands) >= ASSIGN_MAX:
            break
        instance = table.rows.runs[run_id].instance(name)
        assert instance is not None
        agent = _choose(table, free, instance.plan.executor)
        if agent is None:
            continue
        free[agent.id] -= 1
        if not free[agent.id]:
            del free[agent.id]
        commands.append(Assign(now_ms, run_id, name, len(instance.attempts) + 1, agent.id, agent.epoch))
    return commands


def next_deadline_ms(table: Table) -> int | None:
    """When `plan` has something to do although nothing was applied: the one timer of all that waits (P10)."""
    return table.due_ms()


def _free_slots(table: Table) -> dict[str, int]:
    """Free slots by agent, of those that have any."""
    free = {}
    for agent in table.rows.agents.values():
        count = agent.slots - len(table.assigned.get(agent.id, ()))
        if count > 0 and not agent.lost:
            free[agent.id] = count
    return free


def _choose(table: Table, free: dict[str, int], executor: str) -> Agent | None:
    """The agent with most free slots among those that have the executor; the lowest id where equal."""
    able = [agent_id for agent_id in free if executor in table.rows.agents[agent_id].executors]
    if not able:
        return None
    return table.rows.agents[min(able, key=lambda agent_id: (-free[agent_id], agent_id))]
