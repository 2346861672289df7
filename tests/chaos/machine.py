"""The run table as the state machine of a simulated member, and its image in a snapshot."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final, Protocol

from agent.runtable import invariants
from agent.runtable.apply import Applied, apply
from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import Run
from agent.runtable.table import Table, unpack_run
from consensus.messages import Entry, EntryKind

WHOLE_EVERY: Final = 16  # entries from one hash of the whole table to the next; between them, of what was done


class Judge(Protocol):
    """Who looks at what was applied for the first time (`checks.Checks`)."""

    def applied_first(self, table: Table, entry: Entry, applied: Applied) -> None:
        """The first member has applied this entry."""


@dataclass(frozen=True, slots=True)
class TableImage:
    """What a snapshot holds."""

    index: int
    digest: int
    rows: bytes


class TableMachine:
    """What `tests.simulator.machine.Machine` is there. digest: of everything that was applied, and of the table."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.table = Table()
        self.index = 0
        self.digest = 0

    def apply(self, entry: Entry) -> Applied:
        """Take the next entry."""
        first = entry.index > self._judge_index
        before = dict(self.table.encoded) if first else {}
        self.index = entry.index
        if entry.kind is not EntryKind.NORMAL or not entry.data:
            self.table.rows.index = entry.index
            applied = Applied(entry.index)
        else:
            applied = apply(self.table, entry.index, entry.data)
        self._hash(entry, applied)
        if first:
            invariants.check(self.table)
            self._check_steps(before, {one.run.id: one for one in applied.finished})
            self._judge.applied_first(self.table, entry, applied)
        return applied

    @property
    def _judge_index(self) -> int:
        return int(getattr(self._judge, "index", 0))

    def _check_steps(self, before: dict[str, bytes], finished: dict[str, FinishedRun]) -> None:
        """P3, P4: what an entry has made of each run that it has changed."""
        for key, data in before.items():
            after_data = self.table.encoded.get(key)
            if not key.startswith("run/") or after_data == data:
                continue
            old, new = unpack_run(data), self._after(key.removeprefix("run/"), finished)
            assert old is not None
            invariants.check_attempts(old, new)
            invariants.check_step({one.plan.name: one.state for one in old.instances}, new)

    def _after(self, run_id: str, finished: dict[str, FinishedRun]) -> Run:
        run = self.table.rows.runs.get(run_id)
        if run is not None:
            return run
        assert run_id in finished, f"{run_id} has left the table and did not finish (P1)"
        return finished[run_id].run

    def _hash(self, entry: Entry, applied: Applied) -> None:
        rows = self.table.rows
        done = (entry.index, entry.term, applied.code, applied.run_id, rows.time_ms, self.table.bytes_used)
        data = repr((*done, [one.run.id for one in applied.finished])).encode()
        if entry.index % WHOLE_EVERY == 0:
            data += self.table.dump()
        self.digest = zlib.crc32(data, self.digest)

    def image(self) -> TableImage:
        """A copy of everything."""
        return TableImage(self.index, self.digest, self.table.dump())

    def restore(self, image: TableImage) -> None:
        """Become what a snapshot holds."""
        self.index, self.digest = image.index, image.digest
        self.table = Table.load([image.rows])
        invariants.check(self.table)
