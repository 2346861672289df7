"""The leader's look at the members, every few seconds: are their tables the same, how do their clocks stand?

The rules are in `agreement`. The first look of a term goes before its first proposal (`LeaderClock.wanted`), as soon
as a majority has answered; where none does in `ASK_S`, the leader's own clock counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from agent import __version__
from agent.cluster.agreement import Step, Verdict, ahead_ms, judge
from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.digests import FORM
from agent.errors import AgentStopped, Refusal
from agent.replica import Replica

log = logging.getLogger(__name__)

LOOK_S: Final = 3.0
ASK_S: Final = 2.0
OWN_FORM: Final = f"{__version__} {FORM}"  # other releases may write the same rows otherwise: not compared


class AskState(Question, frozen=True):
    """How does your table look, and your clock?"""


class State(Answer, frozen=True):
    """form: of its rows. digests: (index, hash), the newest there are. time_ms: by its host's clock."""

    form: str
    digests: tuple[tuple[int, bytes], ...]
    time_ms: int


class Differs(Question, frozen=True):
    """A majority's table at that index has this hash, and yours has another: stop."""

    index: int
    digest: bytes


class Stopping(Answer, frozen=True):
    """It does."""


class Checkup:
    """Both sides for one agent: says how its own table looks, and compares all while it leads."""

    def __init__(self, replica: Replica, calls: Calls, mark: Callable[[str], None]) -> None:
        """mark: have this agent not start again with its table, and why. May block. Raises OSError."""
        self._replica, self._calls, self._mark = replica, calls, mark
        self._term = 0
        self._offsets_ms: dict[int, int] = {}  # by how much others' clocks are ahead of this host's, by node
        replica.clock.wanted = True
        calls.serve(AskState, self._state)
        calls.serve(Differs, self._stop)

    async def run_forever(self) -> None:
        """Look from time to time. Ends when cancelled."""
        while True:
            news, changed = self._replica.leader_changed(), self._replica.changed()
            if self._replica.leads:
                await self.look()
                await asyncio.wait((news,), timeout=LOOK_S)
            else:
                self._replica.hold(None)
                await asyncio.wait((news, changed), return_when=asyncio.FIRST_COMPLETED)

    async def look(self) -> Verdict | None:
        """Ask all that can be asked, and do what has to be done. None = this agent does not lead any more."""
        driver = self._replica.driver
        nodes = [row.node for row in self._replica.table.rows.agents.values() if row.node not in (0, driver.node.id)]
        term, states = self._replica.term, await self._ask_all(nodes)
        if not self._replica.leads or self._replica.term != term:
            return None
        others = {node: dict(state.digests) for node, state in states.items() if state.form == OWN_FORM}
        own = dict(self._replica.digests.kept)
        verdict = judge(driver.node.id, driver.node.config.voters.incoming, own, others)
        await self._carry_out(verdict, own)
        return verdict

    async def _ask_all(self, nodes: Collection[int]) -> dict[int, State]:
        """What they say, and the clock set by it: as soon as a majority has answered, and again with each answer."""
        term, states = self._replica.term, dict[int, State]()
        if self._term != term:
            self._term, self._offsets_ms = term, {}
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(self._ask(node, states))
            self._set_clock()
        self._offsets_ms = {node: offset for node, offset in self._offsets_ms.items() if node in states}
        self._set_clock(last=True)
        return states

    async def _ask(self, node: int, states: dict[int, State]) -> None:
        sent_ms = self._replica.clock_ms()
        try:
            states[node] = await self._calls.ask(node, AskState(), State, timeout_s=ASK_S)
        except Refusal as refusal:
            log.debug("a member does not say how its table looks", extra={"node": node, "error": refusal.message})
            return
        half_ms = (sent_ms + self._replica.clock_ms()) // 2
        self._offsets_ms[node] = states[node].time_ms - half_ms  # off by ASK_S / 2 at most
        self._set_clock()

    def _set_clock(self, *, last: bool = False) -> None:
        """last: nobody else is asked. Where too few have answered, what was known before counts, or this clock."""
        if not self._replica.leads or self._replica.term != self._term:
            return
        node = self._replica.driver.node
        known_ms = ahead_ms(node.id, node.config.voters.incoming, self._offsets_ms)
        if known_ms is None and last:
            known_ms = self._replica.clock.ahead_ms
        if known_ms is not None:
            self._replica.clock_compared(self._term, known_ms)
        if known_ms is not None and last:
            self._replica.clock.members_ms = {
                one: known_ms + ms for one, ms in {**self._offsets_ms, node.id: 0}.items()
            }

    async def _carry_out(self, verdict: Verdict, own: Mapping[int, bytes]) -> None:
        differ = dict(verdict.differ)
        if verdict.step is Step.GO_ON:
            self._replica.hold(None)
            return
        log.error("tables differ", extra={"step": verdict.step.name, "differ": differ})  # {node: index}
        if verdict.step is Step.STOP_OTHERS:
            self._replica.hold(None)
            await asyncio.gather(*(self._tell(node, Differs(index, own[index])) for node, index in differ.items()))
        else:
            self._replica.hold(self._why(differ))
        if verdict.step is Step.TRANSFER:
            voters = self._replica.driver.node.config.voters.incoming
            self._replica.driver.transfer(max(differ.keys() & voters))

    def _why(self, differ: dict[int, int]) -> str:
        names = sorted(row.id for row in self._replica.table.rows.agents.values() if row.node in differ)
        return (
            f"the tables of {', '.join(names)} differ from the leader's, and no majority is known to have either: "
            "nothing is decided until more agents are there to compare; see docs/operations.md"
        )

    async def _tell(self, node: int, question: Differs) -> None:
        try:
            await self._calls.ask(node, question, Stopping, timeout_s=ASK_S)
        except Refusal as refusal:
            log.warning("a member whose table differs was not told yet", extra={"node": node, "error": refusal.message})

    # -- the other side ----------------------------------------------------------------------------------------------

    async def _state(self, _asker: Asker, _question: AskState) -> State:
        return State(OWN_FORM, tuple(self._replica.digests.kept.items()), self._replica.clock_ms())

    async def _stop(self, asker: Asker, question: Differs) -> Stopping:
        """Raises Refusal where it is not so, as far as this agent knows."""
        own = self._replica.digests.kept.get(question.index)
        if asker.node != self._replica.leader or own in (None, question.digest):
            raise Refusal("not_so", "this agent's table is not known to differ at that index", 409)
        text = (
            f"this agent's table differs from that of a majority at entry {question.index}: it has stopped, and does "
            "not start with it again. The others have all that was accepted. Start an agent with an empty directory in "
            "its place, and take this one out with `prime cluster leave`; keep its directory to look for the cause"
        )
        log.error("this agent's table differs from that of a majority", extra={"index": question.index})
        try:
            await asyncio.to_thread(self._mark, text)
        finally:  # on a full disk as well: then it is told again after its next start
            asyncio.get_running_loop().call_soon(self._replica.driver.fail, AgentStopped(text))  # once it has answered
        return Stopping()
