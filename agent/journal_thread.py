"""The one thread that may use the journal. What has come while it was syncing goes into its next commit, together.

So many attempts that start or end at once wait for one sync, not for one each: without it the journal's disk decides
how many runs a second an agent can take.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from agent.store.errors import JournalFull
from agent.store.journal import Journal

P = ParamSpec("P")
T = TypeVar("T")

BATCH_MAX: Final = 256
Work = tuple["Future[Any]", Callable[[], Any]]


class JournalThread(Executor):
    """Runs calls of a journal, in order. Each call's result is there once it is durable."""

    def __init__(self, path: Path) -> None:
        """Open the journal. Raises what `Journal` raises."""
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        opened: Future[Journal] = Future()
        self._thread = threading.Thread(target=self._run, args=(path, opened), name="journal", daemon=True)
        self._thread.start()
        try:
            self.journal = opened.result()
        except BaseException:
            self._thread.join()
            raise

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have it called. A call that refuses leaves the others of its commit alone."""
        future: Future[T] = Future()
        self._queue.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  the base's
        """Carry out what was asked for, and close the journal."""
        del cancel_futures
        self._queue.put(None)
        if wait:
            self._thread.join()

    def _run(self, path: Path, opened: Future[Journal]) -> None:
        try:
            journal = Journal(path)
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(journal)
        with journal:
            going_on = True
            while going_on:
                batch, going_on = self._take()
                _commit(journal, batch)

    def _take(self) -> tuple[list[Work], bool]:
        """What waits, at least one; and whether more may come."""
        batch: list[Work] = []
        while len(batch) < BATCH_MAX and (not batch or not self._queue.empty()):
            work = self._queue.get()
            if work is None:
                return batch, False
            if work[0].set_running_or_notify_cancel():
                batch.append(work)
        return batch, True


def _commit(journal: Journal, batch: list[Work]) -> None:
    results: list[tuple[Future[Any], Any, Exception | None]] = []
    try:
        with journal.batch():
            for future, call in batch:
                try:
                    results.append((future, call(), None))
                except JournalFull:
                    raise
                except Exception as error:  # what refuses has changed nothing
                    results.append((future, None, error))
    except Exception as error:  # nothing of the batch is durable
        results = [(future, None, error) for future, _call in batch]
    for future, result, problem in results:
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(result)
