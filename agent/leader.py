"""What only the leader does: ask the planner what comes next, and propose it.

The planner decides from the table alone; this loop only says when to ask: after something was applied, and when the
earliest deadline is due. That is the one timer behind every retry, time-out and queue limit (P10).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container

from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable.planner import next_deadline_ms, plan

log = logging.getLogger(__name__)

WAIT_MAX_S = 60.0  # a wall clock that was set forward is noticed after this
REFUSED_WAIT_S = 1.0  # before asking again where the log took nothing (a full disk)


async def lead(replica: Replica, unheard: Callable[[], Container[int]] = frozenset) -> None:
    """Plan and propose for as long as this agent leads. Ends when cancelled.

    unheard: the nodes of agents that are not given anything now; when they change, `replica.nudge` says so.
    """
    term, since_s = 0, 0.0  # the term in which it leads, and when it was first seen to
    while True:
        changed = replica.changed()
        if not replica.leads:
            term = 0
            await asyncio.shield(changed)
            continue
        if term != replica.term:
            term, since_s = replica.term, time.monotonic()
        led_ms = 1000 * (time.monotonic() - since_s)
        commands = plan(replica.table, replica.clock.now_ms(), unheard(), led_ms)
        if commands:
            try:
                await asyncio.gather(*(replica.decide(command, term) for command in commands))
            except Refusal as refusal:
                log.warning("the plan was not taken", extra={"code": refusal.code, "error": refusal.message})
                await asyncio.sleep(REFUSED_WAIT_S)
            continue
        held_ms = replica.table.rows.hold_ms - led_ms
        await _wait(
            changed,
            next_deadline_ms(replica.table),
            replica.clock.now_ms(),
            held_ms if held_ms > 0 else 1000 * WAIT_MAX_S,
        )


async def _wait(changed: asyncio.Future[None], due_ms: int | None, now_ms: int, at_most_ms: float) -> None:
    until_ms = at_most_ms if due_ms is None else min(at_most_ms, due_ms - now_ms)
    wait_s = min(WAIT_MAX_S, max(0.0, until_ms / 1000))
    try:
        async with asyncio.timeout(wait_s):
            await asyncio.shield(changed)
    except TimeoutError:
        return
