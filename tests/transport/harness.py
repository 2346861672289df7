"""Transports for tests: what has come to one, and one loop for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from transport.frames import Envelope, Frame

WAIT_S: Final = 20.0


class Inbox:
    """Frames and unreachable peers, as a transport has told of them."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.wake_ups = 0
        self.unreachable: list[int] = []
        self._changed = asyncio.Event()

    def on_frames(self, frames: list[Frame]) -> None:
        assert frames
        self.frames += frames
        self.wake_ups += 1
        self._changed.set()

    def on_unreachable(self, peer: int) -> None:
        self.unreachable.append(peer)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until what was told makes it true."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_frames(self, count: int) -> list[Frame]:
        """The frames, as soon as there are so many."""
        await self.until(lambda: len(self.frames) >= count)
        return self.frames

    @property
    def payloads(self) -> list[bytes]:
        """Of the frames that have come."""
        return [frame.payload for frame in self.frames]


async def trying(attempt: Callable[[], bool]) -> None:
    """Try until it succeeds. Whether a connection stands is told by nobody: only by the attempt to use it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if attempt():
                return
            await asyncio.sleep(0.005)


def envelope(sender: int, cluster: str = "c-1", generation: int = 1) -> Envelope:
    return Envelope(cluster, generation, sender, epoch=1)


def run(test: Coroutine[Any, Any, None], factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run a test to its end, within its time. Exceptions in callbacks fail it."""
    problems: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        async with asyncio.timeout(3 * WAIT_S):
            await test

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())
    assert not problems
