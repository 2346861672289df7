"""Puts the output of ended attempts into the archive, and fetches it back.

What is still to be put follows from the disk alone: a log that nobody writes to and that has no mark of this archive
(`store/archive.py`). So a restart forgets nothing, and an archive that is away for days is asked less and less.

A file system of fsspec blocks, and one that hangs may do so for long: calls are made in threads that nobody has to
wait for, a few at a time.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import Refusal
from agent.housekeeping import Output
from agent.store.archive import Archive, Found, Key
from agent.store.errors import ArchiveAway, ArchiveDamaged, ArchiveError, LogsError, StoreError
from agent.store.logs import LogStore, is_written
from agent.store.removals import Removals

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_S: Final = 600.0  # between looks at the whole disk for what was missed
IDLE_S: Final = 5.0
AGAIN_S: Final = 1.0  # after a failure; twice as long after each more
AGAIN_MAX_S: Final = 300.0
FIND_S: Final = 30.0
FETCH_S: Final = 300.0
ASK_S: Final = 30.0
THREADS: Final = 4  # that read
FETCHED_BYTES_MAX: Final = 2 * 1024**3


class AskArchived(Question, frozen=True):
    """How far an agent's output is archived."""


class Archived(Answer, frozen=True):
    """outputs: logs on its disk; backlog: those of ended attempts that are not archived; error: of the last try."""

    configured: bool
    outputs: int
    backlog: int
    error: str


class Threads:
    """At most so many calls at a time, in threads that do not keep the process from ending."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def call(self, work: Callable[[], T]) -> T:
        """What the work gives or raises. Cancelled, it leaves the thread to end by itself."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def done(value: Any, error: BaseException | None) -> None:
            self._free.release()
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)

        def run() -> None:
            value, failed = None, None
            try:
                value = work()
            except BaseException as error:
                failed = error
            with suppress(RuntimeError):  # the loop is closed: the agent has ended
                loop.call_soon_threadsafe(done, value, failed)

        threading.Thread(target=run, name="archive", daemon=True).start()
        return await result


class Archiver:
    """Puts this agent's output into the archive. archive: None = there is none."""

    def __init__(
        self, archive: Archive | None, logs: LogStore, closed: Callable[[str, str, int], bool], calls: Calls
    ) -> None:
        """closed: whether the attempt (run, instance, number) has ended and its work is gone, as far as is known."""
        self._archive, self._logs, self._closed, self._calls = archive, logs, closed, calls
        self._pending: dict[Key, None] = {}
        self._news = asyncio.Event()
        self._threads = Threads(1)
        self.sent_bytes = 0
        self.failures = 0
        self.error = ""
        calls.serve(AskArchived, self._serve)

    @property
    def configured(self) -> bool:
        """Whether there is an archive."""
        return self._archive is not None

    @property
    def backlog(self) -> int:
        """How many outputs are known that wait to be archived."""
        return len(self._pending)

    def ended(self, key: Key) -> None:
        """An attempt has ended here, and its output is whole."""
        if self._archive is not None:
            self._pending[key] = None
            self._news.set()

    def kept(self, key: Key) -> bool:
        """Whether a log may go from this disk: it is archived, or there is no archive. Blocks."""
        return self._archive is None or self._archive.has(key, self._logs.directory(*key))

    async def run_forever(self) -> None:
        """Archive what has ended, until cancelled. What fails is tried again."""
        if self._archive is None:
            return
        loop = asyncio.get_running_loop()
        look_at_s, wait_s = 0.0, AGAIN_S
        while True:
            if loop.time() >= look_at_s:
                look_at_s = loop.time() + LOOK_S
                await self._look_in_spite()
            key = next((one for one in self._pending if self._closed(*one)), None)
            if key is None:
                await self._idle()
                continue
            try:
                await self._put(self._archive, key)
            except ArchiveError as error:
                self.failures += 1
                self.error = str(error)
                log.warning("output is not archived yet", extra={**_fields(key), "error": self.error})
                self._pending[key] = self._pending.pop(key)  # the next one may fare better
                await asyncio.sleep(wait_s)
                wait_s = min(AGAIN_MAX_S, wait_s * 2)
            else:
                wait_s = AGAIN_S

    async def look(self) -> int:
        """Look at the whole disk for what is not archived. Returns how many logs there are. Raises LogsError."""
        archive, logs = self._archive, await self._logs.all()
        keys = [(one.run_id, one.instance, one.attempt) for one in logs]
        if archive is not None:
            lacking = await asyncio.to_thread(
                lambda: [key for key in keys if not archive.has(key, self._logs.directory(*key))]
            )
            self._pending |= {key: None for key in lacking if self._closed(*key)}
        return len(keys)

    async def _look_in_spite(self) -> None:
        try:
            await self.look()
        except StoreError as error:
            log.warning("the disk could not be searched for output to archive", extra={"error": str(error)})

    async def _idle(self) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), IDLE_S)
        except TimeoutError:
            return

    async def _put(self, archive: Archive, key: Key) -> None:
        """Archive one log. Raises ArchiveError; what is wrong with this disk is logged; a later look meets it again."""
        directory = self._logs.directory(*key)
        try:
            sent = await self._threads.call(lambda: _put_if_quiet(archive, key, directory))
        except ArchiveError:
            raise
        except LogsError as error:
            log.warning("output cannot be read to be archived", extra={**_fields(key), "error": str(error)})
        else:
            if sent is not None:
                self.error = ""
                self.sent_bytes += sent
                log.info("output archived", extra={**_fields(key), "bytes": sent})
        self._pending.pop(key, None)

    async def state(self) -> Archived:
        """How far this agent is. Raises LogsError."""
        return Archived(self.configured, await self.look(), self.backlog, self.error)

    async def ask(self, node: int) -> Archived:
        """How far another agent is. Raises Refusal("unreachable", "no_answer")."""
        return await self._calls.ask(node, AskArchived(), Archived, timeout_s=ASK_S)

    async def _serve(self, _asker: Asker, _question: AskArchived) -> Archived:
        try:
            return await self.state()
        except LogsError as error:
            raise Refusal("logs", str(error), 500) from error


def _put_if_quiet(archive: Archive, key: Key, directory: Path) -> int | None:
    """The bytes that were sent; None where there is nothing: the attempt never began."""
    if not directory.exists():
        return None
    if is_written(directory):
        raise LogsError(f"log {directory}: somebody still writes to it")
    return archive.put(key, directory)


def _fields(key: Key) -> dict[str, object]:
    return {"run": key[0], "instance": key[1], "attempt": key[2]}


@dataclass(slots=True)
class _Copy:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    size: int = 0
    used_s: float = 0.0
    path: Path | None = None


class Fetched:
    """Copies of archived output on this disk, for as long as there is room: they are read like any other."""

    def __init__(self, archive: Archive | None, root: Path, max_bytes: int = FETCHED_BYTES_MAX) -> None:
        """root: a directory of its own; what an earlier process has left there is removed."""
        self._archive, self._root, self._max_bytes = archive, root, max_bytes
        self._copies: dict[Key, _Copy] = {}
        self._threads = Threads(THREADS)
        shutil.rmtree(root, ignore_errors=True)

    @property
    def configured(self) -> bool:
        """Whether there is an archive."""
        return self._archive is not None

    @asynccontextmanager
    async def opened(self, key: Key) -> AsyncIterator[Path | None]:
        """A directory with the attempt's segments, kept while it is used; None where the archive has it not.

        Raises ArchiveAway, ArchiveDamaged.
        """
        if self._archive is None:
            yield None
            return
        copy = self._copies.setdefault(key, _Copy())
        copy.users += 1
        try:
            async with copy.lock:
                if copy.path is None:
                    copy.path = await self._fetch(self._archive, key, copy)
            yield copy.path
        finally:
            copy.users -= 1
            copy.used_s = asyncio.get_running_loop().time()
            if copy.path is None and not copy.users:
                self._copies.pop(key, None)

    async def _fetch(self, archive: Archive, key: Key, copy: _Copy) -> Path | None:
        found = await self._within(FIND_S, archive, lambda: archive.find(key))
        if found is None:
            return None
        if found.manifest.size > self._max_bytes:
            raise ArchiveDamaged(f"{found.path} in the archive says that it has {found.manifest.size} bytes: too many")
        await self._make_room(found.manifest.size)
        target = self._root / uuid.uuid4().hex
        await self._within(FETCH_S, archive, lambda: _fetch_whole(archive, found, target))
        copy.size = found.manifest.size
        return target

    async def _within(self, seconds: float, archive: Archive, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await self._threads.call(work)
        except TimeoutError as error:
            raise ArchiveAway(f"the archive {archive.url}: no answer within {seconds:g} s") from error

    async def _make_room(self, size: int) -> None:
        """Remove what was not used for longest. What is being read stays."""
        used = sum(one.size for one in self._copies.values())
        idle = sorted((one.used_s, key) for key, one in self._copies.items() if not one.users)
        for _used_s, key in idle:
            if used + size <= self._max_bytes:
                return
            gone = self._copies.pop(key)
            used -= gone.size
            if gone.path is not None:
                await asyncio.to_thread(shutil.rmtree, gone.path, ignore_errors=True)


def _fetch_whole(archive: Archive, found: Found, target: Path) -> None:
    """All or nothing of it, also where nobody waits for it any more."""
    try:
        target.mkdir(parents=True)
        archive.fetch(found, target)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise LogsError(f"{target}: {error}; check the disk") from error
        raise


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an agent has for output beside the logs themselves."""

    archiver: Archiver
    fetched: Fetched
    removals: Removals

    @classmethod
    def open(
        cls,
        data: Path,
        url: str,
        cluster: tuple[str, int],
        logs: LogStore,
        closed: Callable[[str, str, int], bool],
        calls: Calls,
    ) -> Outputs:
        """data: the agent's directory. url: of the archive, "" = none. cluster: its id and generation. closed: see
        `Archiver`. Raises ValueError for a URL that cannot be used.
        """
        archive = Archive(url, *cluster) if url else None
        archiver = Archiver(archive, logs, closed, calls)
        return cls(archiver, Fetched(archive, data / "fetched"), Removals(data / "removed-logs"))

    @property
    def for_retention(self) -> Output:
        """What retention asks and tells."""
        return Output(self.archiver.configured, self.archiver.kept, self.removals)
