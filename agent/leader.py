"""What only the leader does: ask the planner what comes next, and propose it.

The planner decides from the table alone; this loop only says when to ask: after something was applied, and when the
earliest deadline is due. That is the one timer behind every retry, time-out and queue limit (P10).
"""

from __future__ import annotations

import asyncio
import logging

from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable.planner import next_deadline_ms, plan

log = logging.getLogger(__name__)

WAIT_MAX_S = 60.0  # a wall clock that was set forward is noticed after this
REFUSED_WAIT_S = 1.0  # before asking again where the log took nothing (a full disk)


async def lead(replica: Replica) -> None:
    """Plan and propose for as long as this agent leads. Ends when cancelled."""
    while True:
        changed = replica.changed()
        commands = plan(replica.table, replica.clock_ms())
        if commands:
            try:
                await asyncio.gather(*(replica.propose(command) for command in commands))
            except Refusal as refusal:
                log.warning("the plan was not taken", extra={"code": refusal.code, "error": refusal.message})
                await asyncio.sleep(REFUSED_WAIT_S)
            continue
        await _wait(changed, next_deadline_ms(replica.table), replica.clock_ms())


async def _wait(changed: asyncio.Future[None], due_ms: int | None, now_ms: int) -> None:
    wait_s = WAIT_MAX_S if due_ms is None else min(WAIT_MAX_S, max(0.0, (due_ms - now_ms) / 1000))
    try:
        async with asyncio.timeout(wait_s):
            await asyncio.shield(changed)
    except TimeoutError:
        return
