"""What the leader does for replays: compute the ticks that come next, and propose them.

A replay's row holds its schedule and how far it is, so nothing is kept here: whoever leads next goes on from the row,
and a proposal of before that comes late finds another cursor (`runtable/replays.py`). Work is proportional to what may
go on (`Table.replaying`): one that waits for its runs, or has ended, is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final

from msgspec.structs import replace

from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable.commands import ReplayTicks
from agent.runtable.gate_rows import GatePlan
from agent.runtable.replay_rows import Replay, ReplayPlan, Reprocess
from agent.runtable.table import Table
from agent.spec import cron, schedules
from agent.store.errors import BlobError

log = logging.getLogger(__name__)

AT_ONCE: Final = 8  # replays in one step, so that a step stays short
LOOK_MAX: Final = 100  # ticks of one command, where some may be passed by
REFUSED_WAIT_S: Final = 1.0  # before asking again where nothing was taken
EXPECTED: Final = frozenset({"ok", "stale"})

GatesOf = Callable[[Replay, int], Awaitable[tuple[GatePlan, ...]]]


async def _none(_replay: Replay, _tick_ms: int) -> tuple[GatePlan, ...]:
    return ()


async def go_on(replica: Replica, gates_of: GatesOf = _none) -> None:
    """Give replays their ticks for as long as this agent leads. Ends when cancelled.

    gates_of: what the run of a tick waits for, of a replay whose runs wait. It may raise Refusal and BlobError.
    """
    while True:
        changed, term = replica.changed(), replica.term
        proposed = proposals(replica.table, replica.clock.now_ms()) if replica.leads else []
        if not proposed:
            await asyncio.shield(changed)
            continue
        try:
            proposed = [await _gated(replica.table, command, gates_of) for command in proposed]
            done = await asyncio.gather(*(replica.decide(command, term) for command in proposed))
        except (Refusal, BlobError) as error:
            log.warning("a replay's ticks were not taken", extra={"error": str(error)})
            await asyncio.sleep(REFUSED_WAIT_S)
            continue
        codes = {one.code for one in done} - EXPECTED
        if codes:
            log.warning("a replay's run was not accepted", extra={"codes": sorted(codes)})
            await asyncio.sleep(REFUSED_WAIT_S)


async def _gated(table: Table, command: ReplayTicks, gates_of: GatesOf) -> ReplayTicks:
    replay = table.rows.replays.get(command.replay_id)
    if replay is None or not replay.plan.gated:
        return command
    return replace(command, gates=tuple([await gates_of(replay, tick_ms) for tick_ms in command.ticks]))


def proposals(table: Table, now_ms: int) -> list[ReplayTicks]:
    """What to propose now, for the replays that wait longest for it. Proposing it twice is harmless."""
    return [_next(table, table.rows.replays[one], now_ms) for one in islice(table.replaying.ready, AT_ONCE)]


def _next(table: Table, replay: Replay, now_ms: int) -> ReplayTicks:
    plan = replay.plan
    free = plan.parallel - len(table.replaying.runs(replay.id))
    takes_all = plan.gated or (replay.round == 1 and plan.reprocess is Reprocess.COMPLETED)
    count = max(free, 1) if takes_all else LOOK_MAX
    found = list(islice(ticks_after(plan, replay.cursor), count + 1))
    done = len(found) <= count
    return ReplayTicks(now_ms, replay.id, replay.round, replay.cursor, tuple(found[:count]), done)


def ticks_after(plan: ReplayPlan, cursor: int | None) -> Iterator[int]:
    """The ticks of a replay that follow one of them, in its order; None = all. Milliseconds since the epoch."""
    first_ms, last_ms = plan.first_ms, plan.last_ms
    if cursor is not None:
        first_ms, last_ms = (first_ms, cursor - 1) if plan.reverse else (cursor + 1, last_ms)
    schedule = _schedule(plan.interval, plan.location, plan.start_date)
    for tick in schedules.within(schedule, _moment(first_ms), _moment(last_ms), reverse=plan.reverse):
        yield milliseconds(tick)


@lru_cache(maxsize=256)
def _schedule(interval: str, location: str, start_date: str) -> cron.Schedule:
    return schedules.schedule_of(interval, location, start_date)


def _moment(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def milliseconds(at: datetime) -> int:
    """A time as rows have it. at: aware."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
