"""Leases, both sides, pure (P3): for how long an agent may let its attempts run without hearing from a leader.

The argument, with `t` for real time and every clock off by at most rho:

- The *lessee* (a worker) notes when it sends, and the answer to that very question is worth `ttl` from then on its own
  clock. The *lessor* (the leader) notes when the question came, which is later. So the lessee's lease has ended, and
  its work was stopped (stop + kill), at the latest ttl*(1+rho) + (stop+kill)*(1+rho) after that moment; the lessor
  waits ttl + margin on a clock that may be fast by rho, and `LeaseTerms.margin_ms` is just what makes that longer.
- A new lessor knows no questions of its predecessor's time. What a predecessor answered came before a quorum confirmed
  it, and that before the same quorum could elect another: so it is enough to count from the election.
- An answer needs a round that begins after the question came. So a leader that was cut off answers nothing, and every
  answer knows all that was committed when the question came: a loss that was applied is known to whoever grants.
- A lessee starts nothing before it has applied what was committed when its lease was granted (`Grant.commit`). So an
  attempt that was taken away from it before that is seen to be.
- Once a loss is proposed, its epoch gets no grant any more: the proposal may be applied at any moment later.
- An answer also names the attempts that are to be stopped: the lessee may have a lease and yet no newer table. It
  answers, in its next question, by naming those that it is stopping, however long that takes. One that it does not
  name for STOP_ANSWER_S is not heard of there, and the lease is what stops it: that epoch gets no grant any more.

An agent alone in its cluster needs no lease: nobody could be given its work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

RENEWALS: Final = 4  # questions in the time of one lease
ASKED_MAX: Final = 16  # questions that are remembered; an older one's answer is worth little
STOP_ANSWER_S: Final = 30.0  # for how long an agent may leave open whether it has heard what is to be stopped
Named = tuple[str, str, int]  # an attempt: run, instance, number


@dataclass(frozen=True, slots=True)
class Grant:
    """What a leader answers. ttl_s: from when the question was sent. epoch: of the agent. commit: see `Lessee`.

    stop_s: from the lease's end to the kill. The leader's margin is of these terms, whatever the agent's table says.
    """

    ttl_s: float
    epoch: int
    commit: int
    stop_s: float


class Lessee:
    """A worker's side. Times are seconds of CLOCK_BOOTTIME on this host: it goes on while the host sleeps."""

    def __init__(self) -> None:
        """No lease."""
        self._asked: dict[int, float] = {}
        self._until_s = float("-inf")
        self._epoch = 0
        self._commit = 0
        self._alone = False
        self.stop_s: float | None = None  # from the lease's end to the kill, by the grant that the lease is of

    def ask(self, nonce: int, now_s: float) -> None:
        """A question is about to leave. nonce: of this question alone, drawn by this process."""
        self._asked[nonce] = now_s
        while len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]

    def worth(self, nonce: int, grant: Grant) -> float | None:
        """Until when an answer would make the lease valid; None where it is to no question of ours.

        Whoever ends this agent's work without it is told of that first, then it is `granted`.
        """
        sent_s = self._asked.get(nonce)
        return None if sent_s is None or grant.epoch < self._epoch else sent_s + grant.ttl_s

    def granted(self, nonce: int, grant: Grant) -> bool:
        """An answer has come. Returns whether it was to a question of ours; anything else is worth nothing."""
        sent_s = self._asked.pop(nonce, None)
        if sent_s is None:
            return False
        if grant.epoch < self._epoch:
            return False  # of an earlier life, held up on the way
        if grant.epoch > self._epoch:
            self._epoch, self._until_s = grant.epoch, float("-inf")
        if sent_s + grant.ttl_s > self._until_s:  # ttl and grace of one grant: those of two have no margin together
            self._until_s, self.stop_s = sent_s + grant.ttl_s, grant.stop_s
        self._commit = max(self._commit, grant.commit)
        return True

    def alone(self, epoch: int) -> None:
        """The table names no other agent: nobody can be given this one's work."""
        self._alone, self._epoch, self.stop_s = True, epoch, None

    def accompanied(self, now_s: float, ttl_s: float) -> None:
        """The table names another agent. What runs has one lease's time to get its first."""
        if self._alone:
            self._alone = False
            self._until_s = now_s + ttl_s

    def until_s(self, epoch: int) -> float:
        """When the lease of this epoch's attempts ends; inf = it does not."""
        if epoch != self._epoch:
            return float("-inf")
        return float("inf") if self._alone else self._until_s

    def may_start(self, epoch: int, applied: int, now_s: float) -> bool:
        """Whether an attempt of this epoch may begin, or be stopped as unwanted. applied: this agent's index."""
        return now_s < self.until_s(epoch) and (self._alone or applied >= self._commit)

    @staticmethod
    def next_ask_s(last_s: float, ttl_s: float) -> float:
        """When to ask again after a question at `last_s`, which was worth `ttl_s`."""
        return last_s + ttl_s / RENEWALS


class AgentRow(Protocol):
    """What the lessor looks at in an agent's row."""

    id: str
    epoch: int
    lost: bool


class Lessor:
    """A leader's side. Times are seconds of a monotonic clock; a new one is made for each term."""

    def __init__(self, now_s: float) -> None:
        """now_s: a moment after this agent was elected."""
        self._since_s = now_s
        self._renewed_s: dict[tuple[str, int], float] = {}
        self._given_up: set[tuple[str, int]] = set()
        self._open_s: dict[tuple[str, int], dict[Named, float]] = {}  # stops that were told and not answered, since

    def asked(self, agent: str, epoch: int, now_s: float) -> None:
        """A question has come. Note it at once, whatever will be answered: waiting longer is always safe.

        Once its epoch gets no grant any more it counts no more: who goes on asking would never be lost.
        """
        key = (agent, epoch)
        if key not in self._given_up:
            self._renewed_s[key] = max(now_s, self._renewed_s.get(key, now_s))

    def tells(self, agent: str, epoch: int, unanswered: Collection[Named], now_s: float) -> Collection[Named]:
        """An answer will name stops; `unanswered` are those of them that the question does not answer.

        Returns those that were open for too long: then this epoch gets no grant any more, this answer included.
        """
        key = (agent, epoch)
        before = self._open_s.get(key, {})
        since_s = self._open_s[key] = {one: before.get(one, now_s) for one in unanswered}
        overdue = [one for one, at_s in since_s.items() if now_s - at_s > STOP_ANSWER_S]
        if overdue:
            self._given_up.add(key)
        return overdue

    def may_grant(self, row: AgentRow | None, epoch: int) -> bool:
        """Whether the question may be answered, after the round that its answer needs. row: as of that round."""
        return row is not None and not row.lost and row.epoch == epoch and (row.id, epoch) not in self._given_up

    def lost(self, rows: Iterable[AgentRow], loss_s: float, now_s: float) -> Iterator[tuple[str, int]]:
        """(agent, epoch) of those whose work cannot run any more: their loss may be proposed, again and again.

        rows: all agents. loss_s: ttl + margin, by the terms in force (`model.Leases.loss_ms`). From here on these get
        no grant. Nothing where there is but one agent.
        """
        rows = list(rows)
        for row in rows if len(rows) > 1 else ():
            key = (row.id, row.epoch)
            heard_s = self._renewed_s.setdefault(key, max(self._since_s, now_s))  # it may have come just now
            if not row.lost and now_s - heard_s > loss_s:
                self._given_up.add(key)
                yield key

    def due_s(self, rows: Iterable[AgentRow], loss_s: float) -> float | None:
        """When the next one would be lost if it asks no more; None where nobody can be."""
        rows = list(rows)
        if len(rows) < 2:
            return None
        heard = [self._renewed_s.get((row.id, row.epoch), self._since_s) for row in rows if not row.lost]
        return max(self._since_s, min(heard)) + loss_s if heard else None

    def forget(self, rows: Mapping[str, AgentRow]) -> None:
        """Drop what is known of epochs that are over (P12)."""
        current = {(row.id, row.epoch) for row in rows.values()}
        self._renewed_s = {key: at for key, at in self._renewed_s.items() if key in current}
        self._open_s = {key: since_s for key, since_s in self._open_s.items() if key in current}
        self._given_up &= current
