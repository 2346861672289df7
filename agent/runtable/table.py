"""The table in memory: the rows of `TableImage`, and the indexes derived from them.

Rows are the state; indexes only make work proportional to what changed, and are rebuilt when rows are loaded.
`apply.py` is the only caller of the methods that change anything.
"""

from __future__ import annotations

import heapq
from typing import Final

import msgspec

from agent.runtable.model import (
    FinishedRow,
    Instance,
    InstanceState,
    Origin,
    Reason,
    Run,
    TableImage,
    tick_key,
)

_encoder: Final = msgspec.msgpack.Encoder()
_image_decoder: Final = msgspec.msgpack.Decoder(TableImage)
_run_decoder: Final = msgspec.msgpack.Decoder(Run)

# Kinds of deadlines, in the order in which they fire when they fall together.
RUN, INSTANCE, REQUEST, FINISHED = range(4)
Deadline = tuple[int, int, str, str]  # due_ms, kind, run id or key, instance name

DERIVED_TICK_ORIGINS: Final = frozenset({Origin.SCHEDULE, Origin.REPLAY})


class Table:
    """The rows and their indexes.

    ready: instances that may be assigned, oldest first.  assigned: per agent, the instances it has open attempts of.
    bytes_used: encoded size of all runs, jobs, plugins, projects and secrets (P12).
    """

    def __init__(self, image: TableImage | None = None) -> None:
        self.rows = image if image is not None else TableImage()
        self.rebuild()

    @classmethod
    def load(cls, data: bytes) -> Table:
        """The table in a snapshot. Raises msgspec.DecodeError on bytes that `dump` did not make."""
        return cls(_image_decoder.decode(data))

    def dump(self) -> bytes:
        """The rows as one snapshot."""
        return _encoder.encode(self.rows)

    def due_ms(self) -> int | None:
        """The earliest deadline, None where nothing waits for time."""
        return self.deadlines[0][0] if self.deadlines else None

    # The rest is for `apply`.

    def size(self, key: str, row: object) -> None:
        """Count the encoded size of a row that was put or changed. row None = it was deleted."""
        size = len(_encoder.encode(row)) + len(key) if row is not None else 0
        self.bytes_used += size - self.sizes.get(key, 0)
        if size:
            self.sizes[key] = size
        else:
            self.sizes.pop(key, None)

    def index_instance(self, run: Run, instance: Instance) -> None:
        """Bring the indexes up to date with one instance: only its last attempt can be open."""
        key = (run.id, instance.plan.name)
        attempt = instance.last
        if attempt is not None and attempt.open:
            self.assigned.setdefault(attempt.agent, set()).add(key)
        elif attempt is not None:
            self.assigned.get(attempt.agent, set()).discard(key)
        if instance.state is InstanceState.SCHEDULED and instance.open_attempt is None:
            self.ready.setdefault(key)
        else:
            self.ready.pop(key, None)
        if instance.due_ms is not None:
            heapq.heappush(self.deadlines, (instance.due_ms, INSTANCE, run.id, instance.plan.name))

    def add_run(self, run: Run) -> None:
        """Put a run into the table."""
        self.rows.runs[run.id] = run
        heapq.heappush(self.deadlines, (run.deadline_ms, RUN, run.id, ""))

    def add_request(self, key: str) -> None:
        """Note when a remembered request may be forgotten."""
        heapq.heappush(self.deadlines, (self.rows.requests[key].keep_ms, REQUEST, key, ""))

    def add_finished(self, run_id: str, row: FinishedRow) -> None:
        """Keep the small row of a finished run."""
        self.rows.finished[run_id] = row
        heapq.heappush(self.deadlines, (self._forget_ms(row), FINISHED, run_id, ""))

    def _forget_ms(self, row: FinishedRow) -> int:
        return row.finished_at_ms + self.rows.limits.finished_keep_ms

    def forget_finished(self, run_id: str) -> None:
        """Drop a small row, and the tick it stood for."""
        row = self.rows.finished.pop(run_id)
        if row.origin in DERIVED_TICK_ORIGINS:
            self.rows.ticks.pop(tick_key(row.project, row.job, row.scheduled_at_ms, row.origin), None)

    def pop_due(self, now_ms: int) -> Deadline | None:
        """Take the earliest deadline at or before `now_ms` that still means something."""
        while self.deadlines and self.deadlines[0][0] <= now_ms:
            deadline = heapq.heappop(self.deadlines)
            if self.meaningful(deadline):
                return deadline
        return None

    def meaningful(self, deadline: Deadline) -> bool:
        """Whether a deadline in the heap is still that of its row (rows change; the heap is not searched for them)."""
        due_ms, kind, key, name = deadline
        if kind == REQUEST:
            request = self.rows.requests.get(key)
            return request is not None and request.keep_ms == due_ms
        if kind == FINISHED:
            row = self.rows.finished.get(key)
            return row is not None and self._forget_ms(row) <= due_ms
        run = self.rows.runs.get(key)
        if run is None:
            return False
        if kind == RUN:
            return run.deadline_ms == due_ms and run.reason is not Reason.TIMEOUT
        instance = run.instance(name)
        return instance is not None and instance.due_ms == due_ms

    def rebuild(self) -> None:
        """Derive every index anew from the rows."""
        self.ready: dict[tuple[str, str], None] = {}
        self.assigned: dict[str, set[tuple[str, str]]] = {}
        self.deadlines: list[Deadline] = []
        self.sizes: dict[str, int] = {}
        self.bytes_used = 0
        rows = self.rows
        for run in rows.runs.values():
            heapq.heappush(self.deadlines, (run.deadline_ms, RUN, run.id, ""))
            self.size(f"run/{run.id}", run)
            for instance in run.instances:
                self.index_instance(run, instance)
        waiting = sorted(self.ready, key=lambda key: (self._since_ms(key), key))
        self.ready = dict.fromkeys(waiting)
        for key in rows.requests:
            self.add_request(key)
        for run_id, row in rows.finished.items():
            heapq.heappush(self.deadlines, (self._forget_ms(row), FINISHED, run_id, ""))
        for name, project in rows.projects.items():
            self.size(f"project/{name}", project)
        for project_name, jobs in rows.jobs.items():
            for name, job in jobs.items():
                self.size(f"job/{project_name}/{name}", job)
        for project_name, plugins in rows.plugins.items():
            for name, plugin in plugins.items():
                self.size(f"plugin/{project_name}/{name}", plugin)
        for key, secret in rows.secrets.items():
            self.size(f"secret/{key}", secret)

    def _since_ms(self, key: tuple[str, str]) -> int:
        instance = self.rows.runs[key[0]].instance(key[1])
        assert instance is not None
        return instance.since_ms


def pack_run(run: Run) -> bytes:
    """The record of a run, as history keeps it and as `ClearRun` carries it."""
    return _encoder.encode(run)


def unpack_run(record: bytes) -> Run | None:
    """The run in a record, or None where it is none."""
    try:
        return _run_decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a ValidationError is a DecodeError
        return None
