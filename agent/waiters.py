"""Who waits for the log: proposals until they are applied, reads until what they must see is applied.

Futures and counts, nothing else: the driver says what has happened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from agent.errors import Refusal
from consensus.messages import NONE, Entry

PROPOSALS_MAX: Final = 4096  # not answered yet; past it the client is told to come again (P12)
BATCH_MAX: Final = 1024  # proposals in one append
LEADER_WAIT_TICKS: Final = 60  # 3 s; an election takes less
PROPOSAL_TICKS: Final = 200  # 10 s; then whoever waits is told that the outcome is not known
READ_TICKS: Final = 10  # a read round that is not answered is begun anew


@dataclass(slots=True)
class Queued:
    """A proposal that has no place in the log yet."""

    data: bytes
    future: asyncio.Future[Any]
    until_tick: int
    term: int | None = None  # only as an entry of this term; None = of any


@dataclass(slots=True)
class _Placed:
    term: int
    future: asyncio.Future[Any]
    until_tick: int


class Proposals:
    """The proposals of this member's clients."""

    def __init__(self) -> None:
        """None yet."""
        self._queue: deque[Queued] = deque()
        self._placed: dict[int, _Placed] = {}  # by index, in its order

    def __len__(self) -> int:
        """How many were not answered yet."""
        return len(self._queue) + len(self._placed)

    @property
    def queued(self) -> bool:
        """Whether some have no place in the log yet."""
        return bool(self._queue)

    def add(self, data: bytes, future: asyncio.Future[Any], tick: int, term: int | None = None) -> None:
        """Queue one, or refuse it at once where there are too many."""
        if len(self) >= PROPOSALS_MAX:
            text = "too many requests wait for the log; try again"
            future.set_exception(Refusal("overloaded", text, 429, retry_after_s=1))
        else:
            self._queue.append(Queued(data, future, tick + LEADER_WAIT_TICKS, term))

    def take(self, term: int) -> list[Queued]:
        """The next batch, without those whose clients have gone, or that were for another term than this."""
        batch: list[Queued] = []
        while self._queue and len(batch) < BATCH_MAX:
            queued = self._queue.popleft()
            if queued.term not in (None, term):
                text = "this agent leads another term by now"
                fail(queued.future, Refusal("no_leader", text, 503, retry_after_s=1))
            elif not queued.future.done():
                batch.append(queued)
        return batch

    def put_back(self, batch: list[Queued]) -> None:
        """They cannot be proposed now."""
        self._queue.extendleft(reversed(batch))

    def place(self, batch: list[Queued], first_index: int, term: int, tick: int) -> None:
        """They stand in the log from `first_index` on, as entries of `term`."""
        for index, one in enumerate(batch, first_index):
            before = self._placed.pop(index, None)  # of an earlier term of this member: another may still have it
            if before is not None:
                fail(before.future, _unknown())
            self._placed[index] = _Placed(term, one.future, tick + PROPOSAL_TICKS)

    def refuse_queued(self, error: Exception) -> None:
        """Answer all that have no place."""
        while self._queue:
            fail(self._queue.popleft().future, error)

    def applied(self, entry: Entry, result: Any) -> None:
        """An entry was applied. Whoever had its place under another term has lost it for good."""
        placed = self._placed.pop(entry.index, None)
        if placed is None:
            return
        if placed.term != entry.term:
            text = "another leader took over before this was committed; send it again"
            fail(placed.future, Refusal("not_committed", text, 503, retry_after_s=1))
        elif not placed.future.done():
            placed.future.set_result(result)

    def skipped(self, index: int) -> None:
        """A snapshot has taken the place of everything up to `index`: what became of it is not known here."""
        for one in [one for one in self._placed if one <= index]:
            fail(self._placed.pop(one).future, _unknown())

    def expire(self, tick: int) -> None:
        """Tell those who have waited too long. A placed entry may still be committed later: nobody can know."""
        while self._queue and self._queue[0].until_tick <= tick:
            text = "no leader is known; too few members can be reached"
            fail(self._queue.popleft().future, Refusal("no_leader", text, 503, retry_after_s=1))
        while self._placed:
            index, placed = next(iter(self._placed.items()))
            if placed.until_tick > tick:
                return
            del self._placed[index]
            fail(placed.future, _unknown())

    def fail_all(self, error: Exception) -> None:
        """Answer everybody."""
        self.refuse_queued(error)
        for placed in self._placed.values():
            fail(placed.future, error)
        self._placed.clear()


class Reads:
    """Linearizable reads: asked for, in a round that a leader confirms, then waiting for their index."""

    def __init__(self) -> None:
        """None yet."""
        self._new: list[asyncio.Future[int]] = []
        self._rounds: dict[bytes, tuple[int, list[asyncio.Future[int]]]] = {}
        self._confirmed: list[tuple[int, asyncio.Future[int]]] = []
        self._count = 0
        self._leader = (0, NONE)  # (term, node) that the rounds under way were asked of

    def add(self, future: asyncio.Future[int]) -> None:
        """One that begins now."""
        self._new.append(future)

    def begin_round(self, tick: int, term: int, leader: int) -> bytes | None:
        """The context of one round for all that have come since the last; None if none has, or no leader is known.

        What was asked of an earlier leader is begun anew with this one, which has never heard of it.
        """
        if leader == NONE:
            return None
        if self._leader != (term, leader):
            self._leader = (term, leader)
            self._begin_anew(list(self._rounds))
        if not self._new:
            return None
        self._count += 1
        context = self._count.to_bytes(8, "big")
        self._rounds[context] = (tick + READ_TICKS, self._new)
        self._new = []
        return context

    def confirmed(self, context: bytes, index: int) -> None:
        """The reads of that round may be answered once `index` is applied."""
        _until, reads = self._rounds.pop(context, (0, []))
        self._confirmed += [(index, future) for future in reads]

    def applied(self, index: int) -> None:
        """Everything up to `index` is applied."""
        if not self._confirmed:
            return
        waiting = self._confirmed
        self._confirmed = [one for one in waiting if one[0] > index]
        for at, future in waiting:
            if at <= index and not future.done():
                future.set_result(at)

    def expire(self, tick: int) -> None:
        """Begin rounds anew that nobody has answered: a message was lost."""
        self._begin_anew([one for one, (until, _reads) in self._rounds.items() if until <= tick])

    def _begin_anew(self, contexts: list[bytes]) -> None:
        for context in contexts:
            self._new += [future for future in self._rounds.pop(context)[1] if not future.done()]

    def fail_all(self, error: Exception) -> None:
        """Answer everybody."""
        rounds = [future for _until, reads in self._rounds.values() for future in reads]
        for future in (*self._new, *rounds, *(future for _index, future in self._confirmed)):
            fail(future, error)
        self._new, self._rounds, self._confirmed = [], {}, []


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Answer with an error, unless whoever waited has gone."""
    if not future.done():
        future.set_exception(error)


def _unknown() -> Refusal:
    return Refusal("outcome_unknown", "no majority has answered in time; repeat with the same key", 504)
