"""Who waits for what by a gate, and which requests are due: an index of `Table`.

Whoever waits is found from what it waits for, so that the end of a run costs as much as there are runs waiting for it.
"""

from __future__ import annotations

import heapq
from typing import Final, TypeVar

from agent.runtable.gate_rows import Gate, GateKind
from agent.runtable.model import FinishedRow, Origin, Run, TableImage

SPARE: Final = 1024

GateKey = tuple[str, int]  # run id, place of the gate
Poll = tuple[int, str, int]  # next_ms, run id, place of the gate
Tick = tuple[str, str, int]  # project, job, scheduled_at_ms
TICK_ORIGINS: Final = frozenset({Origin.SCHEDULE, Origin.REPLAY, Origin.EXTERNAL})
"""What makes the runs that stand for a tick. `TableImage.ticks` has the schedule's; several others may be of a tick."""
Key = TypeVar("Key")


class Awaiting:
    """The gates that wait. of_runs, of_ticks: by what they wait for.

    beside: of each tick the runs that stand for it beside the schedule's, finished ones too.
    """

    def __init__(self, rows: TableImage) -> None:
        """rows: the table's; they are read here, and `apply` changes them."""
        self._rows = rows
        self.of_runs: dict[str, set[GateKey]] = {}
        self.of_ticks: dict[Tick, set[GateKey]] = {}
        self.beside: dict[Tick, tuple[str, ...]] = {}
        self._polls: list[Poll] = []  # a heap; what means nothing any more is dropped as in `deadlines.py`
        self._polls_max = SPARE

    def index(self, run: Run, number: int) -> None:
        """Bring the index up to date with one gate of a run that is in the table."""
        gate = run.gates[number]
        if gate.waits:
            self._add(run.id, number, gate)
        else:
            self._remove(run.id, number, gate)

    def drop(self, run: Run) -> None:
        """A run leaves the table."""
        for number, gate in enumerate(run.gates):
            self._remove(run.id, number, gate)

    def _add(self, run_id: str, number: int, gate: Gate) -> None:
        plan, key = gate.plan, (run_id, number)
        if plan.kind is GateKind.RUN:
            self.of_runs.setdefault(plan.run_id, set()).add(key)
        for tick_ms in plan.ticks_ms:
            self.of_ticks.setdefault((plan.project, plan.job, tick_ms), set()).add(key)
        if plan.kind is GateKind.HTTP:
            heapq.heappush(self._polls, (gate.next_ms, run_id, number))
            if len(self._polls) > self._polls_max:
                self._polls = [one for one in set(self._polls) if self._meaningful(one)]
                heapq.heapify(self._polls)
                self._polls_max = 2 * len(self._polls) + SPARE

    def _remove(self, run_id: str, number: int, gate: Gate) -> None:
        plan, key = gate.plan, (run_id, number)
        if plan.kind is GateKind.RUN:
            _discard(self.of_runs, plan.run_id, key)
        for tick_ms in plan.ticks_ms:
            _discard(self.of_ticks, (plan.project, plan.job, tick_ms), key)

    def add_run(self, run_id: str, row: Run | FinishedRow) -> None:
        """A run is there, or what stays of one."""
        if row.origin in TICK_ORIGINS and row.origin is not Origin.SCHEDULE:
            tick = (row.project, row.job, row.scheduled_at_ms)
            self.beside[tick] = tuple(sorted({*self.beside.get(tick, ()), run_id}))

    def forget_run(self, run_id: str, row: FinishedRow) -> None:
        """Nothing stays of a run."""
        tick = (row.project, row.job, row.scheduled_at_ms)
        left = tuple(one for one in self.beside.get(tick, ()) if one != run_id)
        if left:
            self.beside[tick] = left
        else:
            self.beside.pop(tick, None)

    def waiters(self, run: Run) -> list[str]:
        """The runs that wait for this one or for its tick, in an order that every replica has."""
        keys = self.of_runs.get(run.id, set())
        if run.origin in TICK_ORIGINS:
            keys = keys | self.of_ticks.get((run.project, run.job, run.scheduled_at_ms), set())
        return sorted({run_id for run_id, _number in keys})

    def polls_due(self, now_ms: int, count: int) -> list[Poll]:
        """The http gates whose next request is due, at most `count`, those first that wait longest for it."""
        due: list[Poll] = []
        while self._polls and self._polls[0][0] <= now_ms and len(due) < count:
            poll = heapq.heappop(self._polls)
            if self._meaningful(poll) and (not due or due[-1] != poll):
                due.append(poll)
        for poll in due:
            heapq.heappush(self._polls, poll)
        return due

    def next_poll_ms(self) -> int | None:
        """When the next request is due; None = no http gate waits."""
        while self._polls and not self._meaningful(self._polls[0]):
            heapq.heappop(self._polls)
        return self._polls[0][0] if self._polls else None

    def _meaningful(self, poll: Poll) -> bool:
        next_ms, run_id, number = poll
        run = self._rows.runs.get(run_id)
        if run is None or number >= len(run.gates):
            return False
        gate = run.gates[number]
        return gate.waits and gate.plan.kind is GateKind.HTTP and gate.next_ms == next_ms


def _discard(index: dict[Key, set[GateKey]], awaited: Key, key: GateKey) -> None:
    keys = index.get(awaited)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[awaited]
