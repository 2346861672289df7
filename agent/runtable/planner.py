"""What the leader proposes next, derived from the table alone: (table, now) -> commands.

Work is proportional to what changed: what is due is taken from the top of a heap, what waits is taken in turn until the
slots or the step are full, and all that waits for the same kind of agent, or for the same pool, is passed by at once
where none is free. A step looks at every agent and at every kind of need, never at every instance, run or job.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Iterator
from itertools import islice
from typing import Final

from agent.runtable.commands import AdvanceTime, AnyCommand, Assign
from agent.runtable.model import Agent
from agent.runtable.placement import fits, takes
from agent.runtable.pools import Rooms
from agent.runtable.table import Table
from agent.runtable.turns import Turns
from agent.runtable.waiting import InstanceKey

ASSIGN_MAX: Final = 256  # by one step, so that a step stays short


def plan(
    table: Table, now_ms: int, unheard: Container[int] = frozenset(), led_ms: float = math.inf
) -> list[AnyCommand]:
    """What to propose at `now_ms`. Proposing it twice is harmless: the second is a no-op.

    unheard: nodes of agents that the leader does not hear now: what they were given would wait for them. led_ms: for
    how long it leads (`TableImage.hold_ms`).
    """
    commands: list[AnyCommand] = []
    due_ms = table.due_ms()
    if due_ms is not None and due_ms <= now_ms:
        commands.append(AdvanceTime(now_ms))
    if led_ms >= table.rows.hold_ms:
        commands += islice(_assignments(table, now_ms, unheard), ASSIGN_MAX - len(commands))
    return commands


def next_deadline_ms(table: Table) -> int | None:
    """When `plan` has something to do although nothing was applied: the one timer of all that waits (P10)."""
    return table.due_ms()


def _assignments(table: Table, now_ms: int, unheard: Container[int]) -> Iterator[Assign]:
    """Over all needs that an agent with a free slot fits, in the order of `Turns`, until slots or pools are full."""
    free = _free_slots(table, unheard)
    agents, rooms, waiting = table.rows.agents, Rooms(table), table.waiting
    able = {need: [agents[name] for name in free if fits(agents[name], need)] for need in waiting.needs} if free else {}
    turns = Turns((need, waiting.in_turn(need)) for need, some in able.items() if some and rooms.full(need) is None)
    while (following := turns.next()) is not None:
        need, key = following
        agent = _choose(able[need], free, key) if rooms.full(need) is None else None
        if agent is None:  # whoever waits behind it needs the same
            turns.drop(need)
            continue
        free[agent.id] -= 1
        rooms.take(need)
        turns.served(need)
        yield _assign(table, now_ms, key, agent)


def _assign(table: Table, now_ms: int, key: InstanceKey, agent: Agent) -> Assign:
    run_id, name = key
    instance = table.rows.runs[run_id].instance(name)
    assert instance is not None
    return Assign(now_ms, run_id, name, len(instance.attempts) + 1, agent.id, agent.epoch)


def _free_slots(table: Table, unheard: Container[int]) -> dict[str, int]:
    """Free slots by agent, of those that have any and are given something."""
    free = {}
    for agent in table.rows.agents.values():
        count = agent.slots - len(table.assigned.get(agent.id, ()))
        if count > 0 and takes(agent) and agent.node not in unheard:
            free[agent.id] = count
    return free


def _choose(able: list[Agent], free: dict[str, int], key: InstanceKey) -> Agent | None:
    """The agent with most free slots; among equals the instance's name decides, which spreads them. None = all full."""
    most = max(free[agent.id] for agent in able)
    if not most:
        return None
    equal = [agent for agent in able if free[agent.id] == most]
    return equal[zlib.crc32("/".join(key).encode()) % len(equal)]
