"""What is to happen when: simulated time, and the order of everything."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Agenda:
    """Calls in the order of their time; at one time in the order in which they were noted. now: the time."""

    def __init__(self) -> None:
        self.now = 0
        self.count = 0  # calls that were made
        self._noted = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []

    def at(self, time: int, call: Callable[..., object], *args: Any) -> None:
        """Call at `time`."""
        self._noted += 1
        heapq.heappush(self._heap, (time, self._noted, call, args))

    def after(self, delay: float, call: Callable[..., object], *args: Any) -> None:
        """Call when `delay` has passed."""
        self._noted += 1
        heapq.heappush(self._heap, (self.now + int(delay), self._noted, call, args))

    def run(self, until: int) -> None:
        """Make every call up to the time `until`."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _noted, call, args = pop(heap)
            self.count += 1
            call(*args)
        self.now = until
