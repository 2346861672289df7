"""How an agent comes to belong to a cluster, carried out: `formation` decides, here it is asked, stored and waited.

An agent that knows nobody founds alone, at once. Any other asks the agents of its list for ever, until a set of them
has agreed to found, or one belongs to a cluster and lets it in. Afterwards it answers the questions of others, and
looks whether its list leads into another cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from socket import AF_INET, SOCK_STREAM
from typing import Any, Final

from agent.cluster import formation as f
from agent.cluster import standing as w
from agent.cluster.calls import Answer, Asker, Calls, Question
from agent.cluster.promise import PromiseFile
from agent.errors import AgentStopped, ConfigError, Refusal
from agent.runtable.commands import LEVEL
from agent.runtable.model import Level
from consensus.errors import LogError
from transport.base import Transport

log = logging.getLogger(__name__)

ASK_S: Final = 2.0
RESOLVE_S: Final = 2.0
WATCH_S: Final = 30.0  # by then every agent of the list that is there was asked
JOIN_S: Final = 10.0
SILENT_MS: Final = 10_000


class Join(Question, frozen=True):
    """Let me in. level: the highest feature level of commands that I know."""

    me: w.Founder
    version: str
    level: Level = 1


class Welcome(Answer, frozen=True):
    """You belong to it. secret_keys: the text of the key file of the cluster's secrets."""

    cluster: str
    generation: int
    members: tuple[w.Founder, ...]
    secret_keys: str


@dataclass(frozen=True, slots=True)
class Belonging:
    """What an agent belongs to. founders: empty for one that has joined.  members: whom it may ask."""

    cluster: str
    generation: int
    founders: tuple[w.Founder, ...]
    members: tuple[w.Founder, ...]
    secret_keys: str = ""


class Founding:
    """One agent's part in it."""

    def __init__(
        self,
        me: w.Founder,
        join: Sequence[str],
        expect: int,
        promises: PromiseFile,
        calls: Calls,
        transport: Transport,
        *,
        version: str,
        member: f.Member | None = None,
    ) -> None:
        """join, expect: as `formation.Formation`. member: where this agent belongs already. Raises ConfigError."""
        self._me, self._join, self._version = me, tuple(join), version
        self._calls, self._transport, self._promises = calls, transport, promises
        self._formation = f.Formation(
            me, join, expect if join else 0, promises.record, jitter=random.randrange, member=member
        )
        self._done: asyncio.Future[Belonging] = asyncio.get_running_loop().create_future()
        self._numbers = itertools.count(1)
        self._peers: dict[str, int] = {}  # addresses that may belong to nobody the table names, by a number below 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._joining = False
        self._silent_ms: dict[str, int] = {}  # by address: when it was first asked and did not answer
        self._told_silent: set[str] = set()
        for question in (w.Hello, w.PromiseAsked, w.RefuseAsked):
            calls.serve(question, self._answer, outsiders=True)

    async def belong(self) -> Belonging:
        """Go on until this agent belongs to a cluster. Raises ConfigError where it can belong to none."""
        if not self._join:  # the same cluster at each try, whatever address it has by then
            cluster = w.FoundingSet(1, (w.Founder(self._me.id, self._me.node, "alone"),)).cluster
            self.belongs(f.Member(cluster, 1, (self._me,)))
            return Belonging(cluster, 1, (self._me,), (self._me,))
        ticking = asyncio.ensure_future(self._tick_forever())
        try:
            await asyncio.wait((ticking, self._done), return_when=asyncio.FIRST_COMPLETED)
            if not self._done.done():
                ticking.result()
            return self._done.result()
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    def belongs(self, member: f.Member) -> None:
        """Tell others of it from now on; again when its members change."""
        self._formation.step(member, _now_ms())

    async def watch_forever(self) -> None:
        """Look for a while whether the list leads into another cluster. Raises ConfigError if it does."""
        if self._join:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._tick_forever()
            self.hang_up()

    async def _tick_forever(self) -> None:
        while True:
            found = await asyncio.gather(*map(_resolve, self._join))
            names = dict(zip(self._join, found, strict=True))
            self._keep({address for addresses in found for address in addresses})
            await self._carry_out(self._formation.step(f.Tick(names), _now_ms()))
            self._tell_of_silence()
            await asyncio.sleep(f.TICK_MS / 1000)

    async def _answer(self, _asker: Asker, question: Any) -> w.Standing:
        await self._carry_out(self._formation.step(f.Asked(question), _now_ms()))
        return self._formation.standing

    async def _carry_out(self, actions: Sequence[f.Action]) -> None:
        for action in actions:
            match action:
                case f.Ask():
                    self._spawn(self._ask(action))
                case f.Store():
                    await self._store(action.record)
                    await self._carry_out(self._formation.step(f.Stored(), _now_ms()))
                case f.Found():
                    founders = action.founders.founders
                    self._finish(Belonging(action.founders.cluster, 1, founders, founders))
                case f.Join():
                    self._spawn(self._ask_in(action))
                case f.Say():
                    (log.error if action.stuck else log.warning)(action.message)
                case f.Fail():
                    raise ConfigError(action.message)

    async def _store(self, record: f.Record) -> None:
        """A promise that could not be kept must not be given: nothing goes on (P9)."""
        try:
            await asyncio.to_thread(self._promises.store, record)
        except LogError as error:
            stopped = AgentStopped(f"this agent cannot keep its promises to found a cluster: {error}")
            if not self._done.done():
                self._done.set_exception(stopped)
            raise stopped from error

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._done.done():
            self._done.set_exception(error)

    async def _ask(self, action: f.Ask) -> None:
        self._silent_ms.setdefault(action.address, _now_ms())
        try:
            standing = await self._calls.ask(self._peer(action.address), action.question, w.Standing, timeout_s=ASK_S)
        except Refusal as refusal:
            log.debug("no answer", extra={"address": action.address, "error": refusal.message})
            return
        self._silent_ms.pop(action.address, None)
        await self._carry_out(self._formation.step(f.Answered(action.address, standing), _now_ms()))

    async def _ask_in(self, action: f.Join) -> None:
        if self._joining or self._done.done():
            return
        self._joining = True
        try:
            question = Join(self._me, self._version, LEVEL)
            welcome = await self._calls.ask(self._peer(action.address), question, Welcome, timeout_s=JOIN_S)
        except Refusal as refusal:
            log.warning("not let in yet", extra={"address": action.address, "error": refusal.message})
        else:
            self.belongs(f.Member(welcome.cluster, welcome.generation, welcome.members))
            belonging = Belonging(
                welcome.cluster, welcome.generation, (), welcome.members, secret_keys=welcome.secret_keys
            )
            self._finish(belonging)
        finally:
            self._joining = False

    def _finish(self, belonging: Belonging) -> None:
        if not self._done.done():
            self._done.set_result(belonging)

    def _peer(self, address: str) -> int:
        """The number below 0 by which the transport knows an address."""
        if address not in self._peers:
            self._peers[address] = -next(self._numbers)
            self._transport.connect(self._peers[address], address)
        return self._peers[address]

    def _tell_of_silence(self) -> None:
        """Once for each address: who holds another key is not told more than who finds nobody there (P8)."""
        for address in [one for one, since in self._silent_ms.items() if _now_ms() - since > SILENT_MS]:
            if address not in self._told_silent:
                self._told_silent.add(address)
                log.warning(
                    "an agent of --join does not answer: it does not run, cannot be reached, or the cluster key of one "
                    "of the two is another",
                    extra={"address": address},
                )

    def _keep(self, addresses: Collection[str]) -> None:
        """Let go of addresses that names of the list stand for no more (P12)."""
        for address in self._peers.keys() - addresses:
            self._transport.disconnect(self._peers.pop(address))
            self._silent_ms.pop(address, None)
            self._told_silent.discard(address)

    def hang_up(self) -> None:
        """Let go of the connections that only the founding needed."""
        for peer in self._peers.values():
            self._transport.disconnect(peer)
        self._peers.clear()
        self._silent_ms.clear()

    async def close(self) -> None:
        """Ask nothing more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _resolve(entry: str) -> list[str]:
    """The addresses, HOST:PORT, that an entry stands for now; none where its name is not known, or not in time.

    Those of IPv4 where there are any: one agent that listens on both families is one address.
    """
    host, _, port = entry.rpartition(":")
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:  # the last for what cannot be a name
        log.debug("a name is not known", extra={"entry": entry, "error": str(error)})
        return []
    fourth = [one for one in found if one[0] == AF_INET] or found
    hosts = dict.fromkeys(str(one[4][0]) for one in fourth)
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts]


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
