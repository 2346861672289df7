"""What is removed when its time is over: logs, history, blobs that nothing names (P12). What is lacking is fetched."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import msgspec

from agent.log_keep import LogKeep
from agent.records import run_of
from agent.replica import Replica
from agent.runtable.model import Run
from agent.service.common import JobBlob
from agent.spec import bundle as bundles
from agent.store.blobs import BlobStore
from agent.store.errors import BlobDamaged, BlobError, BlobMissing, StoreError
from agent.store.history import START, History
from agent.store.logs import LogRef, LogStore, Swept
from agent.store.removals import Removals, Removed
from agent.worker import Worker

log = logging.getLogger(__name__)

EVERY_S: Final = 3600.0
FIRST_S: Final = 60.0
BATCH: Final = 500
LACKING_S: Final = 86_400.0  # for which a blob that nobody has keeps those from being removed that it may name
HEAL_S: Final = 600.0  # spent on what is lacking in each sweep; the order is another one each time

Root = tuple[str, str]  # kind and digest of a blob that the table or the history names
Fetch = Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much is kept; milliseconds and bytes."""

    log_ms: int
    log_bytes: int
    history_ms: int
    history_bytes: int


@dataclass(slots=True)
class Followed:
    """The digests that some roots and their blobs name, and the roots that are not here with all they name.

    damaged: those of them whose own bytes are others.
    """

    named: set[str] = field(default_factory=set)
    lacking: set[Root] = field(default_factory=set)
    damaged: set[Root] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Output:
    """What retention asks and tells. may_go: whether nothing is lost with a log here; removals: where it is noted."""

    archive: bool = False
    may_go: Callable[[tuple[str, str, int]], bool] = lambda _key: True
    removals: Removals | None = None


NO_ARCHIVE: Final = Output()


class Housekeeper:
    """Sweeps this agent's disk. fetch: has a root here with all it names, or raises BlobError."""

    def __init__(
        self,
        replica: Replica,
        worker: Worker,
        blobs: BlobStore,
        logs: LogStore,
        keep: Keep,
        fetch: Fetch,
        output: Output = NO_ARCHIVE,
    ) -> None:
        self._replica = replica
        self._worker = worker
        self._blobs = blobs
        self._logs = logs
        self._keep = keep
        self._fetch = fetch
        self._output = output
        self._log_keep = LogKeep(replica, blobs)
        self._lacking_since: dict[Root, float] = {}

    async def run_forever(self, mirrored: Any) -> None:
        """Sweep once an hour. What fails is logged and tried again the next time. Ends when cancelled.

        mirrored: how far a database has the history, None = there is no database.
        """
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
        swept = await self._sweep_logs(now_ms)
        history = self._replica.history
        pruned = await asyncio.to_thread(history.prune, now_ms, keep.history_ms, keep.history_bytes, mirrored=mirrored)
        followed = await self._follow_all()
        if followed.lacking:
            await self._heal(followed.lacking)
            followed = await self._follow_all()
        removed = 0
        if self._may_remove(followed):
            removed = (await asyncio.to_thread(self._blobs.sweep, followed.named, now_ms)).count
        log.info("swept", extra={"logs": len(swept.removed), "history": pruned, "blobs": removed})

    async def _sweep_logs(self, now_ms: int) -> Swept:
        output, archived = self._output, " It was archived before." if self._output.archive else ""

        def note(one: LogRef, why: str) -> None:
            if output.removals is not None:
                output.removals.note(one.run_id, one.instance, one.attempt, Removed(now_ms, f"{why}.{archived}"))

        swept = await self._logs.sweep(
            now_ms,
            self._keep.log_ms,
            self._keep.log_bytes,
            active=self._worker.writes,
            keep_of=await self._log_keep.by_run({one.run_id for one in await self._logs.all()}),
            may_go=lambda one: output.may_go((one.run_id, one.instance, one.attempt)),
            note=note,
        )
        if swept.held:
            size = sum(one.size for one in swept.held)
            log.warning(
                "output is kept past its time: it is not archived", extra={"count": len(swept.held), "bytes": size}
            )
        return swept

    async def _follow_all(self) -> Followed:
        return await asyncio.to_thread(self._follow, list(self.named_by_table()))

    def _may_remove(self, followed: Followed) -> bool:
        """What a root that is not here names is not known: while it may come, nothing is removed.

        Of one that is missing that is a day at most, for it may have been lost everywhere; one that is damaged can be
        mended by hand (P9).
        """
        now_s = time.monotonic()
        self._lacking_since = {root: self._lacking_since.get(root, now_s) for root in followed.lacking}
        waited_for = followed.damaged | {
            root for root, since_s in self._lacking_since.items() if now_s - since_s < LACKING_S
        }
        if waited_for:
            log.warning("blobs are not removed while some are lacking", extra={"count": len(waited_for)})
        return not waited_for

    def named_by_table(self) -> Iterator[Root]:
        """What the table names, read on the loop's thread."""
        for jobs in self._replica.table.rows.jobs.values():
            for job in jobs.values():
                yield "job", job.spec
        for replay in self._replica.table.rows.replays.values():  # one that has ended may be resumed
            yield "bundle", replay.plan.bundle
        for run in self._replica.unfinished_or_leaving():
            yield from named_by_run(run)
        for event in self._replica.table.rows.events.values():
            yield "bundle", event.bundle

    def _follow(self, roots: list[Root]) -> Followed:
        """All that these and the history name. Young blobs stay anyway: what names them may be on its way."""
        into = Followed()
        for kind, digest in chain(roots, named_by_history(self._replica.history)):
            if digest in into.named:
                continue
            into.named.add(digest)
            try:
                children = set(named_in(kind, self._blobs.get(digest)))
            except BlobMissing:
                into.lacking.add((kind, digest))
                continue
            except BlobDamaged as error:
                log.warning("a blob is damaged", extra={"kind": kind, "error": str(error)})
                into.lacking.add((kind, digest))
                into.damaged.add((kind, digest))
                continue
            if not all(self._blobs.has(child) for child in children):
                into.lacking.add((kind, digest))
            into.named |= children
        return into

    async def _heal(self, lacking: set[Root]) -> None:
        """Fetch what others have: what a finished run names was put on a majority of disks, and disks get lost (P1)."""
        roots = random.sample(sorted(lacking), len(lacking))
        try:
            async with asyncio.timeout(HEAL_S):
                for kind, digest in roots:
                    try:
                        await self._fetch(kind, digest)
                    except BlobError as error:
                        log.warning("a blob is missing", extra={"kind": kind, "blob": digest, "error": str(error)})
        except TimeoutError:
            log.warning("more blobs are lacking than could be fetched now", extra={"count": len(roots)})


def named_by_run(run: Run) -> Iterator[Root]:
    """The blobs that a run names."""
    if run.bundle:  # one that was only reported has none
        yield "bundle", run.bundle
    for instance in run.instances:
        for attempt in instance.attempts:
            if attempt.compiled is not None:
                yield "manifest", attempt.compiled
            if attempt.outputs is not None:
                yield "outputs", attempt.outputs


def named_by_history(history: History) -> Iterator[Root]:
    """The blobs that finished runs name, read in batches."""
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
    if kind == "outputs":
        return ()
    manifest: dict[str, Any] = msgspec.json.decode(data)
    digests: dict[str, str] = manifest["assets"]
    return digests.values()
