"""Whose turn it is, of all that may be given out now: by weight, and in turn.

The highest `priority_weight` goes first, and within one weight job by job in turn. So that a stream of heavy work does
not starve the rest for ever, about every fourth time that weight would pass by whose turn it is, that one goes first
all the same. Which times these are, the two instances' names decide, so that nothing has to be counted or kept.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from agent.runtable.waiting import InstanceKey, Need

IN_TURN_EVERY: Final = 4


class Turns:
    """The instances of some needs, one after another."""

    def __init__(self, queues: Iterable[tuple[Need, Iterator[tuple[int, InstanceKey]]]]) -> None:
        """queues: per need its instances as `Waiting.in_turn` gives them; none is empty."""
        self._queues = dict(queues)
        self._heads = {need: next(queue) for need, queue in self._queues.items()}
        self._by_turn = [(turn, need) for need, (turn, _key) in self._heads.items()]
        heapq.heapify(self._by_turn)
        weighs = len({need.weight for need in self._queues}) > 1
        self._by_weight = [(-need.weight, turn, need) for turn, need in self._by_turn] if weighs else []
        heapq.heapify(self._by_weight)

    def next(self) -> tuple[Need, InstanceKey] | None:
        """Who is next, until it was `served` or its need dropped; None = nobody is left."""
        self._forget_old()
        if not self._by_turn:
            return None
        need = self._by_turn[0][1]
        if self._by_weight and (heavy := self._by_weight[0][2]).weight > need.weight:
            passed = (*self._heads[heavy][1], *self._heads[need][1])
            if zlib.crc32("/".join(passed).encode()) % IN_TURN_EVERY:
                need = heavy
        return need, self._heads[need][1]

    def served(self, need: Need) -> None:
        """The one of that need was given out: the next of it follows."""
        following = next(self._queues[need], None)
        if following is None:
            self.drop(need)
            return
        self._heads[need] = following
        heapq.heappush(self._by_turn, (following[0], need))
        if self._by_weight:
            heapq.heappush(self._by_weight, (-need.weight, following[0], need))

    def drop(self, need: Need) -> None:
        """Nothing of that need can be given out any more."""
        del self._heads[need]

    def _forget_old(self) -> None:
        while self._by_turn and not self._stands(*self._by_turn[0]):
            heapq.heappop(self._by_turn)
        while self._by_weight and not self._stands(*self._by_weight[0][1:]):
            heapq.heappop(self._by_weight)

    def _stands(self, turn: int, need: Need) -> bool:
        head = self._heads.get(need)
        return head is not None and head[0] == turn
