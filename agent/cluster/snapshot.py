"""A snapshot of the cluster, taken from an agent while it runs, and what one in a file says.

It is the table at one index, which no later write has touched, with every blob that it names: all that another cluster
needs to go on, but for the key of the secrets. See `snapshot_file` for its bytes, `recovery` for the way back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from agent.cluster import snapshot_file as form
from agent.cluster.snapshot_file import Header, Kind, SnapshotError
from agent.housekeeping import named_by_run, named_in
from agent.records import run_of
from agent.runtable.model import TableImage
from agent.runtable.table import Table, TableLoader
from agent.service.common import Context
from agent.store.errors import BlobError, HistoryError
from agent.store.history import START, Part, Position, end_of

log = logging.getLogger(__name__)

TABLE_BYTES: Final = 256 * 1024  # of the table in one record
RUNS_BYTES: Final = 1024 * 1024  # of finished runs in one record
PIN_MS: Final = 3_600_000
_KEY_ID: Final = slice(1, 5)  # of a ciphertext, see `keyring`

Root = tuple[str, str]  # kind of the blob, digest


def secret_keys(rows: TableImage) -> tuple[str, ...]:
    """Ids of the keys that the table's secrets are encrypted with, 8 hexadecimal digits each."""
    return tuple(sorted({secret.ciphertext[_KEY_ID].hex() for secret in rows.secrets.values()}))


def named_by_rows(rows: TableImage) -> Iterator[Root]:
    """(kind, digest) of the blobs that a table names."""
    for jobs in rows.jobs.values():
        for job in jobs.values():
            yield "job", job.spec
    for replay in rows.replays.values():
        yield "bundle", replay.plan.bundle
    for run in rows.runs.values():
        yield from named_by_run(run)


async def stream(context: Context, version: str, *, history: bool) -> AsyncGenerator[bytes, None]:
    """The bytes of a snapshot of what this agent's table holds now, piece by piece.

    The caller has caught up with the leader. What takes long is done in threads. version: of the program. history:
    whether finished runs, and the blobs they name, are in it. Raises HistoryError for a damaged record.
    """
    replica = context.replica
    rows = replica.table.rows
    index, image, roots = rows.index, replica.table.image(), list(named_by_rows(rows))
    header = Header(
        form.FORMAT,
        rows.cluster,
        rows.generation,
        index,
        replica.term,
        replica.clock_ms(),
        version,
        context.agent,
        secret_keys(rows),
        history,
    )
    saving = _Saving(context)
    saving.pin(digest for _kind, digest in roots)
    yield saving.out.struct(header)
    pieces = iter(image)
    while record := await asyncio.to_thread(saving.table_record, pieces):
        yield record
    async for record in saving.blobs(roots):
        yield record
    if history:
        await replica.history_settled()
        async for record in saving.finished_runs(index):
            yield record
    yield saving.out.struct(form.End(saving.blob_count, saving.lacking, saving.runs))


class _Saving:
    """One snapshot that is being made."""

    def __init__(self, context: Context) -> None:
        self.out = form.Writer()
        self.blob_count = self.lacking = self.runs = 0
        self._context = context
        self._seen: set[str] = set()

    def pin(self, digests: Iterable[str]) -> None:
        """The table that names these may name others soon: they stay until they are saved."""
        self._context.blobs.pin(digests, self._context.now_ms() + PIN_MS)

    def table_record(self, pieces: Iterator[bytes]) -> bytes:
        """The next record of the table, b"" behind the last. In a thread."""
        batch, size = [], 0
        for piece in pieces:
            batch.append(piece)
            size += len(piece)
            if size >= TABLE_BYTES:
                break
        return self.out.record(Kind.TABLE, *batch) if batch else b""

    async def blobs(self, roots: Iterable[Root]) -> AsyncIterator[bytes]:
        """Records of these and of all they name, each once."""
        for kind, digest in roots:
            if digest in self._seen:
                continue
            data = await self._load(digest)
            yield await self._blob(digest, data)
            if data is None:
                continue
            names = await asyncio.to_thread(_named_in, kind, data)
            self.pin(names)
            for named in names:
                if named not in self._seen:
                    yield await self._blob(named, await self._load(named))

    async def _load(self, digest: str) -> bytes | None:
        """None where no agent that can be reached has it."""
        self._seen.add(digest)
        try:
            return await self._context.load(digest)
        except BlobError as error:
            log.warning("a blob is missing in the snapshot", extra={"blob": digest, "error": str(error)})
            return None

    async def _blob(self, digest: str, data: bytes | None) -> bytes:
        name = bytes.fromhex(digest)
        if data is None:
            self.lacking += 1
            return self.out.record(Kind.LACKING, name)
        self.blob_count += 1
        return await asyncio.to_thread(self.out.record, Kind.BLOB, name, data)

    async def finished_runs(self, up_to_index: int) -> AsyncIterator[bytes]:
        """Records of all that ended up to that index, and of the blobs they name."""
        at, end = START, end_of(up_to_index)
        while at < end:
            history = self._context.replica.history
            part = await asyncio.to_thread(partial(history.part, at, up_to_index, RUNS_BYTES))
            if part.complete > at:
                roots = await asyncio.to_thread(_named_by_part, part)
                yield await asyncio.to_thread(self.out.struct, form.Runs(at, tuple(part.rows), part.complete))
                self.runs += len(part.rows)
                async for record in self.blobs(roots):
                    yield record
                at = part.complete
            else:
                to = min(part.resumes or end, end)
                yield self.out.struct(form.Gone(at, to))
                at = to


def _named_in(kind: str, data: bytes) -> list[str]:
    return list(named_in(kind, data))


def _named_by_part(part: Part) -> list[Root]:
    named: list[Root] = []
    for row in part.rows:
        if not row.sound:
            raise HistoryError(f"the record of run {row.run_id} at {row.position} is damaged: check the disk")
        named += named_by_run(run_of(row.unpack()))
    return named


# -- what one in a file says -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Contents:
    """A snapshot that was read to its end, and is whole. Sizes in bytes; the blobs themselves are not kept.

    lacking: blobs that it names and that were nowhere when it was saved.
    """

    header: Header
    table: Table
    blobs: int = 0
    blob_bytes: int = 0
    runs: int = 0
    lacking: list[str] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        """For people and programs."""
        head, rows = self.header, self.table.rows
        return {
            **msgspec.structs.asdict(head),
            "agents": sorted(rows.agents),
            "projects": sorted(rows.projects),
            "jobs": sum(map(len, rows.jobs.values())),
            "unfinished_runs": dict(sorted(Counter(str(run.state) for run in rows.runs.values()).items())),
            "finished_runs": self.runs,
            "secrets": len(rows.secrets),
            "tokens": len(rows.tokens),
            "blobs": self.blobs,
            "blob_bytes": self.blob_bytes,
            "lacking": self.lacking,
        }


def read(pieces: Iterable[bytes]) -> Contents:
    """Read a whole snapshot and check all of it. Raises SnapshotError for what is damaged, cut, or none."""
    header: Header | None = None
    loader, position = TableLoader(), START
    blobs = blob_bytes = runs = 0
    named: set[str] = set()
    lacking: list[str] = []
    for kind, body in form.records(pieces):
        if kind is Kind.HEADER:
            header = form.decode(body, Header)
        elif kind is Kind.TABLE:
            _feed(loader, body)
        elif kind is Kind.BLOB:
            digest, data = form.blob_of(body)
            named.add(digest)
            blobs, blob_bytes = blobs + 1, blob_bytes + len(data)
        elif kind is Kind.LACKING:
            lacking.append(body.hex())
        elif kind is Kind.RUNS:
            some = form.decode(body, form.Runs)
            runs, position = runs + len(some.rows), _follow(position, some.after, some.complete)
        elif kind is Kind.GONE:
            gone = form.decode(body, form.Gone)
            position = _follow(position, gone.after, gone.to)
        else:
            end = form.decode(body, form.End)
            if end != form.End(blobs, len(lacking), runs):
                raise SnapshotError("what it holds is not what its end says")
    assert header is not None, "records come with their header"
    table = _table(loader, header)
    absent = {digest for _kind, digest in named_by_rows(table.rows)} - named - set(lacking)
    if absent:
        raise SnapshotError(f"it lacks a blob that its table names: {min(absent)}")
    if header.history and position < end_of(header.index):
        raise SnapshotError(f"its finished runs end at {position}")
    return Contents(header, table, blobs, blob_bytes, runs, lacking)


def _follow(position: Position, after: Position, to: Position) -> Position:
    if after != position or to <= position:
        raise SnapshotError(f"its finished runs are not in order: {after} follows {position}")
    return to


def _feed(loader: TableLoader, body: bytes) -> None:
    try:
        loader.feed(body)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"its table cannot be read: {error}") from error


def _table(loader: TableLoader, header: Header) -> Table:
    try:
        table = loader.finish()
    except msgspec.DecodeError as error:
        raise SnapshotError(f"its table cannot be read: {error}") from error
    rows = table.rows
    if (rows.cluster, rows.generation, rows.index) != (header.cluster, header.generation, header.index):
        raise SnapshotError("its table is not the one that its header names")
    return table
