"""Pools: slots of a project that its instances share, beside the slots of agents. And the share of replays.

An attempt takes its plan's `pool_slots` from when it is assigned until its end is known. The same judgement is made by
the planner, by `apply`, which makes it again, and by `explain`. The slots are the project's as they are now: where they
become fewer, what was given out goes on, and nothing more is given until it fits.

A pool that the project has not holds back what names it, as one without slots does: a limit that limits nothing
without a word is worse than one that waits and says why.

Replays take at most a part of all slots together (`Limits.replay_percent`), and of their project's pool `replay` where
it has one, so that other runs always find slots. Each need of theirs has a line of its own, so they have their turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.runtable.placement import takes
from agent.runtable.waiting import Need, PoolKey

if TYPE_CHECKING:
    from agent.runtable.table import Table

REPLAY_POOL: Final = "replay"
ALL_REPLAYS: Final[PoolKey] = ("", "")  # what `Rooms.full` names where all replays together have their share


class Taken:
    """What is taken: an index of `Table`, counted from open attempts."""

    def __init__(self) -> None:
        """Nothing is taken yet."""
        self.slots: dict[PoolKey, int] = {}
        self.replays = 0

    def count(self, need: Need, sign: int) -> None:
        """An attempt for this need was given out (sign 1), or has ended (-1)."""
        for key, slots in asked(need):
            left = self.slots.get(key, 0) + sign * slots
            if left:
                self.slots[key] = left
            else:
                self.slots.pop(key, None)
        self.replays += sign * bool(need.replay)


class Rooms:
    """What may still be given out of a table, and of what is being given out with it."""

    def __init__(self, table: Table) -> None:
        """table: as it is now. It is not changed."""
        self._table = table
        self._given = Taken()
        self._replays_max: int | None = None

    def full(self, need: Need) -> PoolKey | None:
        """The first pool in which there is no room for it, `ALL_REPLAYS` among them; None = it may be given out."""
        named = dict(need.pools)
        for key, slots in asked(need):
            most = slots_of(self._table, key)
            if most is None and key in named:
                return key
            if most is not None and self._of(key) + slots > most:
                return key
        if need.replay and self._table.taken.replays + self._given.replays >= self._most_replays():
            return ALL_REPLAYS
        return None

    def take(self, need: Need) -> None:
        """It is being given out."""
        self._given.count(need, 1)

    def _of(self, key: PoolKey) -> int:
        return self._table.taken.slots.get(key, 0) + self._given.slots.get(key, 0)

    def _most_replays(self) -> int:
        if self._replays_max is None:
            self._replays_max = replays_max(self._table)
        return self._replays_max


def asked(need: Need) -> tuple[tuple[PoolKey, int], ...]:
    """How many slots of which pools an attempt takes: of the one its job names, and one of its project's replays."""
    own = (need.replay, REPLAY_POOL)
    return need.pools if not need.replay or own in dict(need.pools) else (*need.pools, (own, 1))


def slots_of(table: Table, key: PoolKey) -> int | None:
    """The slots of a pool, None where the project has none of that name."""
    project, name = key
    row = table.rows.projects.get(project)
    return row.pools.get(name) if row is not None else None


def replays_max(table: Table) -> int:
    """How many slots replays may take: their part of those of all agents that are given work, and at least one (P1)."""
    slots = sum(agent.slots for agent in table.rows.agents.values() if takes(agent))
    return max(1, slots * table.rows.limits.replay_percent // 100)
