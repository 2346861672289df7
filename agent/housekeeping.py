"""What is removed when its time is over: logs, history, blobs that nothing names (P12)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from agent.records import run_of
from agent.replica import Replica
from agent.runtable.model import Run
from agent.service.common import JobBlob
from agent.spec import bundle as bundles
from agent.store.blobs import BlobStore
from agent.store.errors import BlobMissing, StoreError
from agent.store.history import START, History
from agent.store.logs import LogStore
from agent.worker import Worker

log = logging.getLogger(__name__)

EVERY_S: Final = 3600.0
FIRST_S: Final = 60.0
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much is kept; milliseconds and bytes."""

    log_ms: int
    log_bytes: int
    history_ms: int
    history_bytes: int


class Housekeeper:
    """Sweeps this agent's disk. mirrored: how far a database has the history, None = there is no database."""

    def __init__(self, replica: Replica, worker: Worker, blobs: BlobStore, logs: LogStore, keep: Keep) -> None:
        self._replica = replica
        self._worker = worker
        self._blobs = blobs
        self._logs = logs
        self._keep = keep

    async def run_forever(self, mirrored: Any) -> None:
        """Sweep once an hour. What fails is logged and tried again the next time. Ends when cancelled."""
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self.sweep(mirrored())
            except StoreError as error:
                log.warning("housekeeping failed", extra={"error": str(error)})
            await asyncio.sleep(EVERY_S)

    async def sweep(self, mirrored: tuple[int, int] | None) -> None:
        """Remove what is due now. Raises StoreError."""
        now_ms, keep = self._replica.clock_ms(), self._keep
        swept = await self._logs.sweep(now_ms, keep.log_ms, keep.log_bytes, active=self._worker.writes)
        history = self._replica.history
        pruned = await asyncio.to_thread(history.prune, now_ms, keep.history_ms, keep.history_bytes, mirrored=mirrored)
        roots = list(self.named_by_table())
        removed = await asyncio.to_thread(self._sweep_blobs, roots, now_ms)
        log.info("swept", extra={"logs": len(swept.removed), "history": pruned, "blobs": removed})

    def named_by_table(self) -> Iterator[tuple[str, str]]:
        """(kind, digest) of what the table names, read on the loop's thread."""
        for jobs in self._replica.table.rows.jobs.values():
            for job in jobs.values():
                yield "job", job.spec
        for run in self._replica.unfinished_or_leaving():
            yield from named_by_run(run)

    def _sweep_blobs(self, roots: list[tuple[str, str]], now_ms: int) -> int:
        """Blobs younger than an hour stay anyway: what names them may be on its way into the table."""
        named = self._follow(roots)
        named |= self._follow(named_by_history(self._replica.history))
        return self._blobs.sweep(named, now_ms).count

    def _follow(self, roots: Iterable[tuple[str, str]]) -> set[str]:
        """The digests in `roots`, and those that these blobs name themselves."""
        named: set[str] = set()
        for kind, digest in roots:
            if digest not in named:
                named.add(digest)
                try:
                    named.update(named_in(kind, self._blobs.get(digest)))
                except BlobMissing:
                    log.warning("a blob is missing", extra={"kind": kind, "digest": digest})
        return named


def named_by_run(run: Run) -> Iterator[tuple[str, str]]:
    """(kind, digest) of the blobs that a run names."""
    yield "bundle", run.bundle
    for instance in run.instances:
        for attempt in instance.attempts:
            if attempt.compiled is not None:
                yield "manifest", attempt.compiled


def named_by_history(history: History) -> Iterator[tuple[str, str]]:
    """(kind, digest) of the blobs that finished runs name, read in batches."""
    position = START
    while rows := history.after(*position, BATCH):
        for row in rows:
            yield from named_by_run(run_of(row))
        position = rows[-1].position


def named_in(kind: str, data: bytes) -> Iterable[str]:
    """The digests that a blob of that kind names."""
    if kind == "job":
        return msgspec.json.decode(data, type=JobBlob).assets.values()
    if kind == "bundle":
        return bundles.decode(data).assets.values()
    manifest: dict[str, Any] = msgspec.json.decode(data)
    digests: dict[str, str] = manifest["assets"]
    return digests.values()
