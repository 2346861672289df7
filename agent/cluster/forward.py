"""A proposal to whoever leads, made by an agent that does not."""

from __future__ import annotations

import asyncio
from typing import Final

from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.errors import AgentStopped, Refusal
from agent.replica import Replica
from agent.runtable.apply import Applied
from transport.frames import Lane

ANSWER_S: Final = 15.0  # a leader gives up a proposal after 10
LAST_WORD_S: Final = 0.2  # for the answer of a leader that leads no more: it may have it already


class Propose(Question, frozen=True):
    """data: an encoded command."""

    data: bytes


class Proposed(Answer, frozen=True):
    """What became of it, as `Applied`."""

    index: int
    code: str
    run_id: str


class Forward:
    """Sends this agent's proposals to a leader, and proposes those of others while this agent leads."""

    def __init__(self, calls: Calls, replica: Replica) -> None:
        """replica: its `forward` is taken."""
        self._calls, self._replica = calls, replica
        calls.serve(Propose, self._serve)
        replica.forward = self.send

    async def _serve(self, _asker: Asker, question: Propose) -> Proposed:
        try:
            applied = await self._replica.offer(question.data)  # here or nowhere: no chains
        except AgentStopped as error:  # it may stand in the log already, and come to be under the next leader
            raise _unknown(str(error)) from error
        return Proposed(applied.index, applied.code, applied.run_id)

    async def send(self, leader: int, data: bytes) -> Applied:
        """Have the leader propose an encoded command. Returns when it is applied there.

        Raises Refusal: the leader's, "unreachable", or "outcome_unknown" where it has not answered, or leads no more.
        """
        news = self._replica.leader_changed()
        ask = asyncio.ensure_future(
            self._calls.ask(leader, Propose(data), Proposed, timeout_s=ANSWER_S, lane=Lane.BULK)
        )
        try:
            await asyncio.wait((ask, news), return_when=asyncio.FIRST_COMPLETED)
            if not ask.done():
                await asyncio.wait((ask,), timeout=LAST_WORD_S)
            if not ask.done():
                raise _unknown("another leader was elected")
            proposed = ask.result()
        except Refusal as refusal:
            if refusal.code != "no_answer":
                raise
            raise _unknown(refusal.message) from refusal
        finally:
            ask.cancel()
        return Applied(proposed.index, proposed.code, proposed.run_id)


def _unknown(why: str) -> Refusal:
    text = f"{why} before the outcome was known; ask whether it happened, or repeat it with the same key"
    return Refusal("outcome_unknown", text, 504)
