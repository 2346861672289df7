"""What waits for a slot, so that nobody has to be looked at who cannot be served: an index of `Table`.

    need -> job -> its instances, oldest first

A *need* is what an instance asks for: an executor and labels of an agent, slots of pools. All that share a need can go
to the same agents, so where none of these is free, or no room in a pool, the planner passes by all of them at once.
Within a need the jobs take turns: who was served goes to the end, so that a job with a thousand instances holds up the
first one of another by one turn. What replays ask for is a need of its own, so they hold up no other run of their job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.runtable.model import Instance, Origin, Run

JobKey = tuple[str, str]  # project, job
InstanceKey = tuple[str, str]  # run id, instance
PoolKey = tuple[str, str]  # project, pool


class Need(NamedTuple):
    """What an instance asks for. constraints: labels of the agent.  pools: how many slots of each.

    weight: its plan's `priority_weight`: the instances of one need have the same.
    replay: the project of which it is a replay, "" = it is none.
    """

    executor: str
    constraints: tuple[tuple[str, str], ...] = ()
    pools: tuple[tuple[PoolKey, int], ...] = ()
    weight: int = 1
    replay: str = ""


def need_of(run: Run, instance: Instance) -> Need:
    """What an instance asks for."""
    plan = instance.plan
    pools = (((run.project, plan.pool), plan.pool_slots),) if plan.pool else ()
    replay = run.project if run.origin is Origin.REPLAY else ""
    return Need(plan.executor, plan.constraints, pools, plan.priority_weight, replay)


@dataclass(slots=True)
class Line:
    """The instances of one job with one need. turn: its place among the jobs, the lowest is next."""

    turn: int
    keys: dict[InstanceKey, None] = field(default_factory=dict)


class Waiting:
    """The index. `needs` is for reading; in each need the jobs stand in the order of their turns."""

    def __init__(self) -> None:
        """Nothing waits yet."""
        self.needs: dict[Need, dict[JobKey, Line]] = {}
        self._turn = 0

    def add(self, run: Run, instance: Instance) -> None:
        """An instance begins to wait, as the last of its job; a job that has not waited is the last of all."""
        lines = self.needs.setdefault(need_of(run, instance), {})
        line = lines.get((run.project, run.job))
        if line is None:
            line = lines[run.project, run.job] = Line(self._next())
        line.keys.setdefault((run.id, instance.plan.name))

    def remove(self, run: Run, instance: Instance, *, served: bool) -> None:
        """An instance waits no more. served: it was its job's turn."""
        need, job = need_of(run, instance), (run.project, run.job)
        lines = self.needs[need]
        line = lines[job]
        del line.keys[run.id, instance.plan.name]
        if not line.keys:
            del lines[job]
            if not lines:
                del self.needs[need]
        elif served:
            line.turn = self._next()
            lines[job] = lines.pop(job)

    def in_turn(self, need: Need) -> Iterator[tuple[int, InstanceKey]]:
        """The instances of a need as they would be served: one of each job, then the next of each, ...

        Yields (turn, instance); turns ascend, and are comparable between needs. Takes from the index what is asked for.
        """
        round_ = ((line.turn, iter(line.keys)) for line in self.needs[need].values())
        while True:
            again = []
            for turn, keys in round_:
                key = next(keys, None)
                if key is not None:
                    yield turn, key
                    again.append((turn + self._turn, keys))
            if not again:
                return
            round_ = (one for one in again)

    def _next(self) -> int:
        self._turn += 1
        return self._turn
