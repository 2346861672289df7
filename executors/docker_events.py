"""One stream of events for all containers, and the tasks that wait for one of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from executors.docker_wire import NAME_LABEL
from executors.errors import EngineUnreachable, ExecutorError

if TYPE_CHECKING:
    import requests

    from executors.docker_client import Client

SILENCE_S = 30.0  # a stream silent for so long is opened anew: that finds a dead connection, and looks at what runs
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 2.0  # between attempts to reach an engine that is away

_FILTERS = {"type": ["container"], "label": [NAME_LABEL], "event": ["die", "oom", "destroy"]}
T = TypeVar("T")

_log = logging.getLogger(__name__)


class EndWatch:
    """Wakes whoever waits for a container when something happened to it.

    Its one thread follows the engine's events and opens the stream again whenever it breaks. After each opening it
    asks what runs, and wakes all who wait for something that does not: so no end is missed, whatever the stream lost.
    To be woken is a hint to look, never news in itself.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._since_ns = client.opened_ns
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._thread = threading.Thread(target=self._follow, name="docker-events", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set each time the container may have ended. The caller clears it before it looks."""
        woken = asyncio.Event()
        self._waiting.setdefault(name, set()).add(woken)
        try:
            yield woken
        finally:
            self._waiting[name].discard(woken)
            if not self._waiting[name]:
                del self._waiting[name]

    async def close(self) -> None:
        """End the thread and its connection."""
        self._closing.set()
        await asyncio.to_thread(self._hang_up)
        await asyncio.to_thread(self._thread.join)

    def _hang_up(self) -> None:
        with self._lock:
            if self._response is not None:
                with contextlib.suppress(OSError, RuntimeError, ValueError):  # it has ended by itself: nothing to wake
                    self._response.raw.shutdown()

    # ---- in the thread

    def _follow(self) -> None:
        pause_s = PAUSE_S_MIN
        while not self._closing.is_set() and not self._loop.is_closed():
            try:
                self._read_one_stream()
                pause_s = PAUSE_S_MIN
            except ExecutorError as error:
                _log.info("docker events: cannot follow, trying again in %.1f s: %s", pause_s, error)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
            except Exception:  # without this thread every wait would hang: say so, and go on
                if not self._loop.is_closed():
                    _log.exception("docker events: the stream was not understood")
            self._closing.wait(pause_s)

    def _read_one_stream(self) -> None:
        response = self._client.events(self._since_ns, _FILTERS, SILENCE_S)
        with response:
            with self._lock:
                self._response = response
            try:
                if self._closing.is_set():
                    return
                self._tell(self._wake_all_but, self._client.names({}, running=True))
                for event in self._client.each_event(response):
                    self._since_ns = event["timeNano"]
                    self._tell(self._wake, event["Actor"]["Attributes"][NAME_LABEL])
            except EngineUnreachable:
                return  # silent for long, or broken: opening it again tells which
            finally:
                with self._lock:
                    self._response = None

    def _tell(self, function: Callable[[T], None], argument: T) -> None:
        if not self._closing.is_set():
            self._loop.call_soon_threadsafe(function, argument)

    # ---- in the event loop

    def _wake(self, name: str) -> None:
        for woken in self._waiting.get(name, ()):
            woken.set()

    def _wake_all_but(self, running: frozenset[str]) -> None:
        for name in self._waiting.keys() - running:
            self._wake(name)
