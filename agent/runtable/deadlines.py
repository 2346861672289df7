"""What waits for time: an index of `Table`.

Rows change and the heap is not searched for their old deadlines: whatever is taken out is compared with its row. What
means nothing any more is dropped once it is more than what does, so that the index never has more than twice as many
entries as there are rows for them, and `SPARE` (P12).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final

from agent.runtable import sla
from agent.runtable.model import FinishedRow, Instance, Run, TableImage
from agent.runtable.notice_rows import Event

# Kinds of deadlines, in the order in which they fire when they fall together.
RUN, INSTANCE, REQUEST, FINISHED, GATE, SLA, EVENT = range(7)
Deadline = tuple[int, int, str, str]  # due_ms, kind, run id or key, instance name, or place of a gate or wish

SPARE: Final = 1024


class Deadlines:
    """The deadlines of runs, their gates, instances and SLAs, events, requests and the small rows of finished runs."""

    def __init__(self, rows: TableImage) -> None:
        """rows: the table's; they are read here, and `apply` changes them."""
        self._rows = rows
        self._work: list[Deadline] = []  # a heap, of runs, gates, instances, SLAs and events
        self._work_max = SPARE
        self._requests: list[Deadline] = []  # a heap: one for each request, which goes by its deadline alone
        self._finished: deque[tuple[int, str]] = deque()  # (finished_at_ms, run id): time never goes back

    def __len__(self) -> int:
        """How many entries there are, with those that mean nothing any more."""
        return len(self._work) + len(self._requests) + len(self._finished)

    def __iter__(self) -> Iterator[Deadline]:
        """All entries, in no order."""
        yield from self._work
        yield from self._requests
        yield from ((self._forget_ms(at_ms), FINISHED, run_id, "") for at_ms, run_id in self._finished)

    def parts(self) -> list[object]:
        """What is kept, to be let go a few at a time."""
        return [*self._work, *self._requests, *self._finished]

    def add_run(self, run: Run) -> None:
        """A run has its time-out."""
        if run.end_due_ms is not None:
            self._add((run.end_due_ms, RUN, run.id, ""))

    def add_instance(self, run: Run, instance: Instance) -> None:
        """The state of an instance has a deadline, or none."""
        if instance.due_ms is not None:
            self._add((instance.due_ms, INSTANCE, run.id, instance.plan.name))

    def add_gate(self, run: Run, number: int) -> None:
        """A gate waits until then, or as long as its run does."""
        due_ms = run.gates[number].due_ms
        if due_ms is not None:
            self._add((due_ms, GATE, run.id, str(number)))

    def add_slas(self, run: Run) -> None:
        """What a run and its instances may take before somebody is told."""
        for due_ms, number in sla.deadlines(run):
            self._add((due_ms, SLA, run.id, str(number)))

    def add_event(self, event: Event) -> None:
        """An event is given up by then."""
        self._add((event.give_up_ms, EVENT, event.id, ""))

    def _add(self, deadline: Deadline) -> None:
        heapq.heappush(self._work, deadline)
        if len(self._work) > self._work_max:
            self._work = [one for one in set(self._work) if self.meaningful(one)]
            heapq.heapify(self._work)
            self._work_max = 2 * len(self._work) + SPARE

    def add_request(self, key: str) -> None:
        """A request is remembered until then."""
        heapq.heappush(self._requests, (self._rows.requests[key].keep_ms, REQUEST, key, ""))

    def add_finished(self, run_id: str, row: FinishedRow) -> None:
        """A run has ended, after all others."""
        self._finished.append((row.finished_at_ms, run_id))
        if len(self._finished) > 2 * len(self._rows.finished) + SPARE:
            self._finished = deque(one for one in dict.fromkeys(self._finished) if self._is_kept(*one))

    def oldest_finished(self) -> str | None:
        """The run that ended first of those whose small row is kept."""
        while self._finished and not self._is_kept(*self._finished[0]):
            self._finished.popleft()
        return self._finished[0][1] if self._finished else None

    def _is_kept(self, finished_at_ms: int, run_id: str) -> bool:
        row = self._rows.finished.get(run_id)
        return row is not None and row.finished_at_ms == finished_at_ms

    def _forget_ms(self, finished_at_ms: int) -> int:
        return finished_at_ms + self._rows.limits.finished_keep_ms

    def due_ms(self) -> int | None:
        """The earliest, None where nothing waits for time."""
        first = self._first()
        return first[0] if first is not None else None

    def _first(self) -> Deadline | None:
        firsts = [heap[0] for heap in (self._work, self._requests) if heap]
        run_id = self.oldest_finished()
        if run_id is not None:
            firsts.append((self._forget_ms(self._finished[0][0]), FINISHED, run_id, ""))
        return min(firsts, default=None)

    def pop_due(self, now_ms: int) -> Deadline | None:
        """Take the earliest at or before `now_ms` that still means something. A finished run's goes with its row."""
        while (first := self._first()) is not None and first[0] <= now_ms:
            if first[1] == FINISHED:
                return first
            heapq.heappop(self._requests if first[1] == REQUEST else self._work)
            if self.meaningful(first):
                return first
        return None

    def meaningful(self, deadline: Deadline) -> bool:
        """Whether it is still that of its row."""
        due_ms, kind, key, name = deadline
        if kind in (REQUEST, FINISHED):
            return key in (self._rows.requests if kind == REQUEST else self._rows.finished)
        if kind == EVENT:
            return key in self._rows.events
        run = self._rows.runs.get(key)
        if run is None:
            return False
        if kind == RUN:
            return run.end_due_ms == due_ms
        if kind == SLA:
            return (due_ms, int(name)) in sla.deadlines(run)
        if kind == GATE:
            return int(name) < len(run.gates) and run.gates[int(name)].due_ms == due_ms
        instance = run.instance(name)
        return instance is not None and instance.due_ms == due_ms
