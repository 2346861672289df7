"""The table in memory: the rows of `TableImage`, and the indexes derived from them.

Rows are the state; indexes only make work proportional to what changed, and are rebuilt when rows are loaded.
`apply.py` is the only caller of the methods that change anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from agent.runtable.awaiting import Awaiting
from agent.runtable.deadlines import Deadlines
from agent.runtable.image import Image, ImageReader
from agent.runtable.model import (
    Attempt,
    FinishedRow,
    Instance,
    InstanceState,
    Origin,
    Row,
    Run,
    TableImage,
    tick_key,
)
from agent.runtable.notice_rows import Event
from agent.runtable.places import Places
from agent.runtable.pools import Taken
from agent.runtable.replay_index import Replaying
from agent.runtable.replay_rows import Replay
from agent.runtable.waiting import Waiting, need_of

_encoder: Final = msgspec.msgpack.Encoder()
_run_decoder: Final = msgspec.msgpack.Decoder(Run)

FREED_AT_ONCE: Final = 1000  # rows and keys

DERIVED_TICK_ORIGINS: Final = frozenset({Origin.SCHEDULE, Origin.REPLAY, Origin.EXTERNAL})


class Table:
    """The rows and their indexes.

    ready: instances that may be assigned, oldest first; waiting: the same, as the planner serves them.
    assigned: per agent, the instances it has open attempts of; taken: what these take of pools.
    places: per job, the runs that have their place and those that wait for one.
    awaiting: who waits for what by gates.  pipelines: the runs of each, those that have finished included.
    replaying: which replays may go on, and what runs of them.
    outbox: per endpoint, the events that wait for it, oldest first.
    bytes_used: encoded size of all runs, replays, jobs, plugins, projects, secrets, tokens and events (P12).
    encoded: of these the ones that are changed in place, as they are now; `size` keeps it so. An image takes these
    bytes and shares the other rows, which are replaced and never changed.
    """

    def __init__(self, image: TableImage | None = None) -> None:
        self.rows = image if image is not None else TableImage()
        self.rebuild()

    @classmethod
    def load(cls, chunks: Iterable[bytes]) -> Table:
        """The table in a snapshot. Raises msgspec.DecodeError on bytes that no `image` has made."""
        loader = TableLoader()
        for chunk in chunks:
            loader.feed(chunk)
        return loader.finish()

    def image(self) -> Image:
        """The rows as they are now, for a snapshot: its chunks may be taken in another thread while the table goes on.

        Takes milliseconds, whatever the rows' size.
        """
        return Image(self.rows, self.encoded)

    def dump(self) -> bytes:
        """The whole image: the same rows give the same bytes."""
        return b"".join(self.image())

    def due_ms(self) -> int | None:
        """The earliest deadline, None where nothing waits for time."""
        return self.deadlines.due_ms()

    # The rest is for `apply`.

    def size(self, key: str, row: object) -> None:
        """Count the encoded size of a row that was put or changed. row None = it was deleted."""
        data = _encoder.encode(row) if row is not None else b""
        size = len(data) + len(key) if row is not None else 0
        if isinstance(row, Row):
            self.encoded[key] = data
        else:
            self.encoded.pop(key, None)
        self.bytes_used += size - self.sizes.get(key, 0)
        if size:
            self.sizes[key] = size
        else:
            self.sizes.pop(key, None)

    def index_instance(self, run: Run, instance: Instance) -> None:
        """Bring the indexes up to date with one instance: only its last attempt can be open."""
        key = (run.id, instance.plan.name)
        attempt = instance.last
        if attempt is not None:
            self._index_attempt(run, instance, attempt)
        if instance.state is InstanceState.SCHEDULED and instance.open_attempt is None:
            self.ready.setdefault(key)
            self.waiting.add(run, instance)
        elif key in self.ready:
            del self.ready[key]
            self.waiting.remove(run, instance, served=instance.open_attempt is not None)
        self.deadlines.add_instance(run, instance)

    def _index_attempt(self, run: Run, instance: Instance, attempt: Attempt) -> None:
        key, here = (run.id, instance.plan.name), self.assigned.get(attempt.agent, set())
        if attempt.open and key not in here:
            self.assigned.setdefault(attempt.agent, here).add(key)
            self.taken.count(need_of(run, instance), 1)
        elif not attempt.open and key in here:
            here.discard(key)
            self.taken.count(need_of(run, instance), -1)

    def index_gate(self, run: Run, number: int) -> None:
        """Bring the indexes up to date with one gate of a run."""
        self.awaiting.index(run, number)
        self.deadlines.add_gate(run, number)

    def add_run(self, run: Run) -> None:
        """Put a run into the table, or bring the indexes up to date with its deadline and place."""
        self.rows.runs[run.id] = run
        self._index_run(run)

    def _index_run(self, run: Run) -> None:
        self.places.add(run)
        self.deadlines.add_run(run)
        for number in range(len(run.gates)):
            self.index_gate(run, number)
        self._index_family(run.id, run)
        self.replaying.add_run(run)

    def _index_family(self, run_id: str, row: Run | FinishedRow) -> None:
        self.awaiting.add_run(run_id, row)
        if row.pipeline:
            self.pipelines.setdefault(row.pipeline, set()).add(run_id)

    def remove_run(self, run: Run) -> None:
        """Take a run that has ended out of the table."""
        del self.rows.runs[run.id]
        self.places.remove(run)
        self.awaiting.drop(run)
        self.size(f"run/{run.id}", None)
        self.replaying.remove_run(run)

    def put_replay(self, replay: Replay) -> None:
        """Put a replay into the table, or what it is now in its place."""
        self.rows.replays[replay.id] = replay
        self.size(f"replay/{replay.id}", replay)
        self.replaying.index(replay)

    def forget_replay(self, replay: Replay) -> None:
        """Drop the row of a replay that has ended."""
        del self.rows.replays[replay.id]
        self.size(f"replay/{replay.id}", None)
        self.replaying.drop(replay)

    def add_finished(self, run_id: str, row: FinishedRow) -> None:
        """Keep the small row of a finished run."""
        self.rows.finished[run_id] = row
        self.deadlines.add_finished(run_id, row)
        self._index_family(run_id, row)

    def forget_finished(self, run_id: str) -> None:
        """Drop a small row, and the tick it stood for; a later report of that tick stays (`importing.py`)."""
        row = self.rows.finished.pop(run_id)
        self.awaiting.forget_run(run_id, row)
        if row.pipeline:
            runs = self.pipelines[row.pipeline]
            runs.discard(run_id)
            if not runs:
                del self.pipelines[row.pipeline]
        tick = tick_key(row.project, row.job, row.scheduled_at_ms, row.replay or row.origin)
        if row.origin in DERIVED_TICK_ORIGINS and self.rows.ticks.get(tick) == run_id:
            del self.rows.ticks[tick]

    def add_event(self, event: Event) -> None:
        """Put an event, the last of its endpoint."""
        self.rows.events[event.id] = event
        self.size(f"event/{event.id}", event)
        self._index_event(event)

    def _index_event(self, event: Event) -> None:
        self.outbox.setdefault(event.endpoint, {})[event.id] = None
        self.deadlines.add_event(event)

    def drop_event(self, event_id: str) -> None:
        """An event waits no more."""
        event = self.rows.events.pop(event_id)
        self.size(f"event/{event_id}", None)
        waiting = self.outbox[event.endpoint]
        del waiting[event_id]
        if not waiting:
            del self.outbox[event.endpoint]

    def rebuild(self) -> None:
        """Derive every index anew from the rows."""
        self.ready: dict[tuple[str, str], None] = {}
        self.waiting = Waiting()
        self.assigned: dict[str, set[tuple[str, str]]] = {}
        self.outbox: dict[str, dict[str, None]] = {}
        self.taken = Taken()
        self.places = Places()
        self.deadlines = Deadlines(self.rows)
        self.awaiting = Awaiting(self.rows)
        self.pipelines: dict[str, set[str]] = {}
        self.sizes: dict[str, int] = {}
        self.encoded: dict[str, bytes] = {}
        self.bytes_used = 0
        self.replaying = Replaying(self.rows)
        rows = self.rows
        for run in rows.runs.values():
            self._index_run(run)
            self.size(f"run/{run.id}", run)
            for instance in run.instances:
                self.index_instance(run, instance)
            self.deadlines.add_slas(run)
        self._order_ready()
        for key in rows.requests:
            self.deadlines.add_request(key)
        for run_id, row in rows.finished.items():
            self.deadlines.add_finished(run_id, row)
            self._index_family(run_id, row)
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
        for name, token in rows.tokens.items():
            self.size(f"token/{name}", token)
        for replay in rows.replays.values():
            self.put_replay(replay)
        self._rebuild_events()

    def _rebuild_events(self) -> None:
        for event in self.rows.events.values():
            self.size(f"event/{event.id}", event)
            self._index_event(event)
        for event in self.rows.given_up.values():
            self.size(f"given_up/{event.id}", event)

    def _order_ready(self) -> None:
        """What waits longest comes first, whatever the order of the rows."""
        found = []
        for run_id, name in self.ready:
            run = self.rows.runs[run_id]
            instance = run.instance(name)
            assert instance is not None
            found.append((instance.since_ms, run_id, name, run, instance))
        found.sort(key=lambda one: one[:3])
        self.ready = {(run_id, name): None for _since_ms, run_id, name, _run, _instance in found}
        self.waiting = Waiting()
        for _since_ms, _run_id, _name, run, instance in found:
            self.waiting.add(run, instance)


def parts_of(table: Table) -> Iterator[None]:
    """Let go of a table's rows a few at a time, with each step; those that somebody still uses stay.

    The caller keeps no reference. Freed at once, a large table would hold the interpreter for as long.
    """
    rows = table.rows
    by_project: tuple[dict[str, Any], ...] = (*rows.plugins.values(), *rows.jobs.values())
    fields = (*by_project, rows.projects, rows.secrets, rows.runs, rows.finished, rows.requests, rows.ticks)
    fields = (*fields, rows.replays, rows.events)
    left: list[object] = [one for field in fields for row in field.items() for one in row]
    left += table.deadlines.parts()
    left += table.encoded.values()
    del table, rows, fields, by_project
    while left:
        del left[-FREED_AT_ONCE:]
        yield


class TableLoader:
    """A table that is read piece by piece, beside the one that serves. For one thread at a time."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._reader = ImageReader()

    def feed(self, data: bytes) -> None:
        """The next bytes of a snapshot. Raises msgspec.DecodeError."""
        self._reader.feed(data)

    def finish(self) -> Table:
        """The table, with its indexes. Raises msgspec.DecodeError where bytes are missing."""
        return Table(self._reader.finish())


def pack_run(run: Run) -> bytes:
    """The record of a run, as history keeps it and as `ClearRun` carries it."""
    return _encoder.encode(run)


def unpack_run(record: bytes) -> Run | None:
    """The run in a record, or None where it is none."""
    try:
        return _run_decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a ValidationError is a DecodeError
        return None
