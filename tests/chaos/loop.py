"""An event loop of one simulated process: its time is its host's clock, its threads are delays.

Only what the product uses is there. A loop may stand still (a paused process) and be killed: then nothing of it is ever
heard again.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Protocol

from tests.simulator.agenda import Agenda

LAST_ROUNDS: Final = 50  # of callbacks, for the tasks of a killed process to come to their ends unheard


class Clock(Protocol):
    """A host's."""

    def boottime_s(self) -> float:
        """CLOCK_BOOTTIME."""

    def real_ms(self, seconds: float) -> float:
        """How long `seconds` of this clock are, in simulated milliseconds."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """thread_ms: draws how long a call in a thread takes. failed: told of what no code has foreseen."""

    def __init__(
        self, agenda: Agenda, clock: Clock, thread_ms: Callable[[], float], failed: Callable[[str], None]
    ) -> None:
        self._agenda, self._clock, self._thread_ms, self._failed = agenda, clock, thread_ms, failed
        self._ready: deque[events.Handle] = deque()
        self._due = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.paused = self.dead = False

    # -- life --------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stand still; what becomes due meanwhile waits."""
        self.paused = True

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._wake()

    def kill(self) -> None:
        """End as a process does that is killed: nothing that still runs here reaches anybody."""
        self.dead, self.paused = True, False
        for task in sorted(self._tasks, key=lambda one: one.get_name()):
            task.cancel()
        for _ in range(LAST_ROUNDS):
            if not self._ready:
                break
            self._run_ready()
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._ready.clear()

    def _wake(self) -> None:
        if self._ready and not self._due and not self.paused and not self.dead:
            self._due = True
            self._agenda.after(0, self._turn)

    def _turn(self) -> None:
        self._due = False
        if not self.paused and not self.dead:
            self._run_ready()
            self._wake()

    def _run_ready(self) -> None:
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            events._set_running_loop(before)

    # -- what asyncio and the product ask for ------------------------------------------------------------------------

    def time(self) -> float:
        """See asyncio."""
        return self._clock.boottime_s()

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return not self.dead

    def is_closed(self) -> bool:
        """See asyncio."""
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        self._wake()
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead and when < math.inf:
            wait_ms = max(0, math.ceil(self._clock.real_ms(when - self.time())))
            self._agenda.after(wait_ms, self._timer, timer)
        return timer

    def _timer(self, timer: asyncio.TimerHandle) -> None:
        if not self.dead and not timer.cancelled():
            self._ready.append(timer)
            self._wake()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed by when it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """See asyncio."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See asyncio. A process that is killed before the call's end may or may not have done it."""
        future = self.create_future()
        if not self.dead:
            took_ms = self._thread_ms()
            self._agenda.after(took_ms, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.dead:
            return
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio. An error that nobody has fetched is not one that nobody has foreseen."""
        if not self.dead and "handle" in context:
            self._failed(f"{context['message']}: {context.get('exception')!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        self.call_exception_handler(context)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
