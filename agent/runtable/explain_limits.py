"""What is told of a run that waits for its place, and of an instance that waits for a pool (P11)."""

from __future__ import annotations

from typing import Final

from agent.runtable.limits import in_the_way
from agent.runtable.model import Overlap, Run
from agent.runtable.pools import ALL_REPLAYS, asked, replays_max, slots_of
from agent.runtable.table import Table
from agent.runtable.waiting import Need, PoolKey, need_of

HOLDERS_MAX: Final = 3  # in one sentence


def why_held(table: Table, run: Run) -> str:
    """Which limit, and who is in the way."""
    ending = "; those are being cancelled" if run.overlap is Overlap.CANCEL_PREVIOUS else ""
    return f"waits for its place: {in_the_way(table, run)}{ending}"


def why_no_room(table: Table, need: Need, pool: PoolKey) -> str:
    """Which pool is full, of how many slots, and who has them. pool: of `Rooms.full`."""
    if pool == ALL_REPLAYS:
        most, taken = replays_max(table), table.taken.replays
        return f"waits for a slot of those that replays may have: {most} in the cluster, {taken} taken"
    wanted, slots, taken = dict(asked(need))[pool], slots_of(table, pool), table.taken.slots.get(pool, 0)
    project, name = pool
    if slots is None:
        return f"waits for the pool {name}, which the project {project} has not; its config pool.{name} gives it slots"
    if wanted > slots:
        return (
            f"waits for the pool {name}, which has {_slots(slots)}: it asks for {wanted}, and waits until it has more"
        )
    held = f"{taken} of {_slots(slots)} taken, by {_holders(table, pool)}"
    return f"waits for the pool {name}: {held}; it asks for {wanted}"


def _holders(table: Table, pool: PoolKey) -> str:
    """Who has slots of a pool, the longest first. Looks at all that is assigned: never more than there are slots."""
    found = []
    for keys in table.assigned.values():
        for run_id, name in keys:
            run = table.rows.runs[run_id]
            instance = run.instance(name)
            assert instance is not None
            attempt = instance.open_attempt
            assert attempt is not None
            if pool in dict(asked(need_of(run, instance))):
                found.append((attempt.assigned_at_ms, f"{run_id}/{name}"))
    told = [name for _since_ms, name in sorted(found)]
    more = f" and {len(told) - HOLDERS_MAX} more" if len(told) > HOLDERS_MAX else ""
    return ", ".join(told[:HOLDERS_MAX]) + more


def _slots(count: int) -> str:
    return f"{count} slot{'' if count == 1 else 's'}"
