"""The one thread that may block on the log's disk.

A queue and `call_soon_threadsafe`: `run_in_executor` costs a future, a lock and a wake-up more for each batch, which is
a third of the batches a second that this reaches (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

_END: Final = None
Work = tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]


class LogThread:
    """Runs calls one after the other, and tells the loop of each result."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "log") -> None:
        """loop: where the results are told."""
        self._loop = loop
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        """Call `work` in the thread, then `then(result, error)` on the loop."""
        self._queue.put((work, then))

    async def run(self, work: Callable[[], Any]) -> Any:
        """Call `work` in the thread and wait for it, also when the waiting is cancelled. Raises what it raises."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def then(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(work, then)
        return await asyncio.shield(future)

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            work, then = item
            result, error = None, None
            try:
                result = work()
            except BaseException as caught:
                error = caught
            try:
                self._loop.call_soon_threadsafe(then, result, error)
            except RuntimeError:  # the loop is closed: the agent has ended, nobody waits
                return
            del item, work, then, result, error  # they may hold a whole state, and the next may be long in coming

    def close(self) -> None:
        """Finish what is queued, then end. Blocks."""
        self._queue.put(_END)
        self._thread.join()
