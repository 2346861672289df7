"""Blobs on more than one disk: spread before something names them, fetched where they are missing.

There is one way for bytes to travel: whoever lacks a blob pulls it in pieces. To *spread* is to tell the voters what to
pull, and to wait until a majority says that it is on disk (P1).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import Refusal
from agent.replica import Replica
from agent.store.blobs import BLOB_BYTES_MAX, BlobStore
from agent.store.errors import BlobDamaged, BlobError, BlobMissing
from consensus.configuration import Configuration
from transport.frames import Lane

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 256 * 1024
PIECES_AT_ONCE: Final = 4
NAMES_MAX: Final = 16  # in one question: as many blobs as large as they may be can be copied in its time
SPREAD_S: Final = 10.0  # for each question
LOOK_S: Final = 1.0
HELD_S: Final = 60.0  # for which a majority's word is taken again: no sweep takes what is that young
HELD_MAX: Final = 10_000


Roots = Callable[[], Iterable[tuple[str, str]]]
NamedIn = Callable[[str, bytes], Iterable[str]]


class GetBlob(Question, frozen=True):
    """A piece of a blob."""

    digest: str
    offset: int


class Piece(Answer, frozen=True):
    """size: of the whole blob."""

    size: int
    data: bytes


class HoldBlobs(Question, frozen=True):
    """Have these on disk; what is missing is with the asker."""

    digests: tuple[str, ...]


class Held(Answer, frozen=True):
    """They are on disk."""


class Blobs:
    """The blobs of this agent among those of the others."""

    def __init__(self, store: BlobStore, replica: Replica, calls: Calls, named_in: NamedIn) -> None:
        """Answers the questions of others from now on. named_in: (kind, a blob's bytes) -> the digests it names."""
        self.store, self._replica, self._calls, self._named_in = store, replica, calls, named_in
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, tuple[float, frozenset[int]]] = {}  # when which nodes said so; the oldest first
        self.lacking = 1  # until the first look: how many blobs that the table names are not here
        self._looked_index = 0  # of the table, when that was counted
        self._looked: asyncio.Future[None] | None = None
        calls.serve(GetBlob, self._get)
        calls.serve(HoldBlobs, self._hold)

    # -- storing -----------------------------------------------------------------------------------------------------

    async def spread(self, digests: Sequence[str]) -> None:
        """Wait until a majority of the voters has these, which are on this disk. Raises Refusal("no_majority")."""
        node, config = self._replica.driver.node.id, self._replica.driver.node.config
        if config.singleton and node in config.voters.incoming:
            return
        if self._are_held(digests, config):
            return
        holders = {node}
        others = config.voters.incoming | config.voters.outgoing
        asks = {asyncio.create_task(self._ask_to_hold(one, digests)) for one in sorted(others - {node})}
        try:
            async with asyncio.timeout(SPREAD_S * -(-len(digests) // NAMES_MAX)):
                while asks and not _majority(config, holders):
                    done, asks = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
                    holders |= {task.result() for task in done} - {0}
        except TimeoutError:
            log.warning("blobs do not spread", extra={"count": len(digests), "holders": len(holders)})
        finally:
            for task in asks:
                task.cancel()
        if not _majority(config, holders):
            text = "too few agents can be reached to keep what was sent; nothing was changed"
            raise Refusal("no_majority", text, 503, retry_after_s=1)
        self._note_held(digests, frozenset(holders))

    def _are_held(self, digests: Sequence[str], config: Configuration) -> bool:
        """Whether one majority has said lately that it holds all of these: a job that runs again names the same blobs.

        One for all of them: what names others is of use only where these are.
        """
        said = [self._held.get(digest) for digest in digests]
        now_s = time.monotonic()
        fresh = [one[1] for one in said if one is not None and now_s - one[0] < HELD_S]
        return len(fresh) == len(digests) > 0 and _majority(config, frozenset.intersection(*fresh))

    def _note_held(self, digests: Sequence[str], holders: frozenset[int]) -> None:
        now_s = time.monotonic()
        for digest in digests:
            self._held.pop(digest, None)
            self._held[digest] = (now_s, holders)
        while len(self._held) > HELD_MAX:
            del self._held[next(iter(self._held))]

    async def _ask_to_hold(self, node: int, digests: Sequence[str]) -> int:
        """Returns the node, 0 where it does not hold them."""
        try:
            for at in range(0, len(digests), NAMES_MAX):
                names = tuple(digests[at : at + NAMES_MAX])
                await self._calls.ask(node, HoldBlobs(names), Held, timeout_s=SPREAD_S, lane=Lane.BULK)
        except Refusal as refusal:
            log.debug("blobs are not held", extra={"node": node, "error": refusal.message})
            return 0
        return node

    async def _hold(self, asker: Asker, question: HoldBlobs) -> Held:
        if len(question.digests) > NAMES_MAX:
            raise Refusal("invalid", f"at most {NAMES_MAX} names", 422)
        try:
            for digest in question.digests:
                if not await asyncio.to_thread(self._sound, digest):
                    await self._pull(asker.node, digest)
        except BlobError as error:  # a full disk, most often: others may have room
            raise Refusal("not_held", str(error), 507, retry_after_s=1) from error
        return Held()

    def _sound(self, digest: str) -> bool:
        """Whether it is here, whole and durable. It is young again then, so that no sweep takes it."""
        try:
            self.store.put(self.store.get(digest))
        except (BlobMissing, BlobDamaged):
            return False
        except ValueError as error:
            raise Refusal("invalid", str(error), 422) from error
        return True

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def get(self, digest: str) -> bytes:
        """A blob, from whoever has it whole (P9). Raises BlobError where nobody who can be reached does."""
        try:
            return await asyncio.to_thread(self.store.get, digest)
        except (BlobMissing, BlobDamaged) as error:
            log.debug("a blob is fetched", extra={"blob": digest, "error": str(error)})
            await self.fetch(digest)
        return await asyncio.to_thread(self.store.get, digest)

    async def fetch(self, digest: str) -> None:
        """Have it on this disk. Raises BlobMissing."""
        task = self._fetching.get(digest)
        if task is None:
            task = self._fetching[digest] = asyncio.create_task(self._fetch(digest))
            task.add_done_callback(partial(self._fetched, digest))
        await asyncio.shield(task)

    def _fetched(self, digest: str, task: asyncio.Task[None]) -> None:
        self._fetching.pop(digest, None)
        if not task.cancelled():
            task.exception()  # whoever waited for it may have left

    async def _fetch(self, digest: str) -> None:
        driver = self._replica.driver
        others = driver.node.config.members | {row.node for row in self._replica.table.rows.agents.values()}
        for node in sorted(others - {driver.node.id}, key=lambda one: (one != driver.node.leader, one)):
            try:
                return await self._pull(node, digest)
            except (Refusal, BlobError) as error:
                log.debug("a blob is not there", extra={"node": node, "blob": digest, "error": str(error)})
        raise BlobMissing(f"blob {digest} is on no agent that can be reached")

    async def _pull(self, node: int, digest: str) -> None:
        """Copy it from there. Raises Refusal, BlobError."""
        first = await self._piece(node, digest, 0)
        if first.size > BLOB_BYTES_MAX:
            raise BlobDamaged(f"blob {digest} is said to have {first.size} bytes")
        parts = [first.data]
        offsets = range(len(first.data), first.size, PIECE_BYTES) if first.data else range(0)
        for at in range(0, len(offsets), PIECES_AT_ONCE):
            some = [self._piece(node, digest, offset) for offset in offsets[at : at + PIECES_AT_ONCE]]
            parts += [piece.data for piece in await asyncio.gather(*some)]
        data = b"".join(parts)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobDamaged(f"blob {digest}: what node {node} sent is another one")
        await asyncio.to_thread(self.store.put, data)

    async def _piece(self, node: int, digest: str, offset: int) -> Piece:
        return await self._calls.ask(node, GetBlob(digest, offset), Piece, lane=Lane.BULK)

    async def _get(self, _asker: Asker, question: GetBlob) -> Piece:
        try:
            return await asyncio.to_thread(self._read_piece, question.digest, max(0, question.offset))
        except (OSError, ValueError) as error:
            raise Refusal("blob_missing", str(error), 404) from error

    def _read_piece(self, digest: str, offset: int) -> Piece:
        """Its bytes are not checked here: who puts the pieces together does that, once."""
        with self.store.path(digest).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(offset, size))
            return Piece(size, file.read(PIECE_BYTES))

    # -- what the table names ----------------------------------------------------------------------------------------

    async def sync_forever(self, roots: Roots) -> None:
        """Fetch what the table names and is not here, again and again. Ends when cancelled.

        roots: (kind, digest) of what the table names itself, read on the loop.
        """
        whole: set[str] = set()  # roots that are here with all they name
        while True:
            changed, index = self._replica.changed(), self._replica.applied_index
            wanted = {digest: kind for kind, digest in roots()}
            whole &= wanted.keys()
            for digest in wanted.keys() - whole:
                if await self._make_whole(wanted[digest], digest):
                    whole.add(digest)
            # What was rendered is for people to look at: the agent that has it may be gone for good.
            self.lacking = sum(kind != "manifest" for digest, kind in wanted.items() if digest not in whole)
            self._looked_index = index
            if self._looked is not None and not self._looked.done():
                self._looked.set_result(None)
            if not self.lacking:
                await asyncio.shield(changed)
            await asyncio.sleep(LOOK_S)

    async def looked(self, index: int) -> None:
        """Wait until `lacking` was counted in a table that holds that index, or a later one."""
        while self._looked_index < index:
            if self._looked is None or self._looked.done():
                self._looked = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._looked)

    async def _make_whole(self, kind: str, digest: str) -> bool:
        try:
            await self.fetch_whole(kind, digest)
        except BlobError as error:
            log.warning("a blob is missing", extra={"kind": kind, "blob": digest, "error": str(error)})
            return False
        return True

    async def fetch_whole(self, kind: str, digest: str, *, read: bool = False) -> None:
        """Have a blob here, with all it names. Raises BlobError, once all that others have is here.

        read: look at every byte, and replace what is damaged (P9); else what is there is taken for whole.
        """
        missing: BlobError | None = None
        is_here = self._sound if read else self.store.has
        for one in await self._named_by(kind, digest):
            if not await asyncio.to_thread(is_here, one):
                try:
                    await self.fetch(one)
                except BlobError as error:
                    missing = error
        if missing is not None:
            raise missing

    async def spread_whole(self, kind: str, digest: str) -> None:
        """As `spread`, of a blob and all it names. Raises BlobError too."""
        await self.spread([digest, *await self._named_by(kind, digest)])

    async def _named_by(self, kind: str, digest: str) -> list[str]:
        data = await self.get(digest)
        return await asyncio.to_thread(lambda: list(self._named_in(kind, data)))


def _majority(config: Configuration, holders: Collection[int]) -> bool:
    return all(
        2 * sum(node in holders for node in half) > len(half)
        for half in (config.voters.incoming, config.voters.outgoing)
        if half
    )
