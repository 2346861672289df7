"""The cluster's key changes while agents talk: they go on reaching each other, and the old key opens nothing (P8)."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop

from tests.transport.harness import Inbox, envelope, run, trying
from tests.transport.victim import KEY as OLD
from tests.transport.victim import OTHER_KEY as NEW
from tests.transport.victim import OURS, Victim, intruder, refused
from transport.frames import Frame, Kind, Lane
from transport.zmq import CurveKey, Transport


class Agents:
    """Three transports that are connected to each other, and who has heard which numbers of whom."""

    def __init__(self) -> None:
        self.inboxes = {node: Inbox() for node in (1, 2, 3)}
        self.transports = {
            node: Transport(envelope(node), OLD, inbox.on_frames, bind="127.0.0.1:0")
            for node, inbox in self.inboxes.items()
        }
        self.pairs = [(a, b, lane) for a, b in itertools.permutations(self.inboxes, 2) for lane in Lane]
        for a, b in itertools.permutations(self.inboxes, 2):
            self.transports[a].connect(b, self.transports[b].address)
        self._numbers = itertools.count(1)

    async def talk(self) -> None:
        """Everyone reaches everyone, and from then on no frame is lost."""
        for a, b, lane in self.pairs:
            await self._until_heard(a, b, lane)
        await self.lose_nothing()

    async def _until_heard(self, a: int, b: int, lane: Lane) -> None:
        """A frame may still get lost on a connection of which the other end has just hung up."""
        heard = self.inboxes[b].frames

        def attempt() -> bool:
            self.transports[a].send(b, lane, b"%d" % next(self._numbers))
            return any((frame.sender, frame.lane) == (a, lane) for frame in heard[before:])

        before = len(heard)
        await trying(attempt)

    async def lose_nothing(self) -> None:
        """A hundred frames from each to each, and all of them arrive."""
        sent: dict[int, set[bytes]] = defaultdict(set)
        for _ in range(100):
            for a, b, lane in self.pairs:
                payload = b"%d" % next(self._numbers)
                await trying(partial(self.transports[a].send, b, lane, payload))
                sent[b].add(payload)
        for node, inbox in self.inboxes.items():
            await inbox.until(lambda inbox=inbox, node=node: sent[node] <= set(inbox.payloads))  # type: ignore[misc]

    def in_order(self) -> bool:
        """Whether what came from one agent by one lane came in the order in which it was sent, and once."""
        for inbox in self.inboxes.values():
            by_way: dict[tuple[int, Lane], list[int]] = defaultdict(list)
            for frame in inbox.frames:
                by_way[frame.sender, frame.lane].append(int(frame.payload))
            if any(numbers != sorted(set(numbers)) for numbers in by_way.values()):
                return False
        return True

    def close(self) -> None:
        for one in self.transports.values():
            one.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_key_is_rotated_over_three_agents_that_go_on_talking(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        agents = Agents()
        try:
            await agents.talk()
            for ring, cut in (([OLD, NEW], False), ([NEW, OLD], True), ([NEW], False)):
                for one in agents.transports.values():
                    one.use_keys(ring)
                    await (agents.talk() if cut else agents.lose_nothing())
            assert agents.in_order()
            assert all(not one.refused_connections for one in agents.transports.values())
        finally:
            agents.close()

    run(test(), loop)


def test_an_agent_in_any_step_and_one_in_the_next_reach_each_other() -> None:
    async def test() -> None:
        steps = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
        for ours, theirs in itertools.pairwise(steps):
            inboxes = Inbox(), Inbox()
            one = Transport(envelope(1), ours, inboxes[0].on_frames, bind="127.0.0.1:0")
            two = Transport(envelope(2), theirs, inboxes[1].on_frames, bind="127.0.0.1:0")
            one.connect(2, two.address)
            two.connect(1, one.address)
            for lane in Lane:
                await trying(partial(one.send, 2, lane, b"x"))
                await trying(partial(two.send, 1, lane, b"x"))
            for inbox in inboxes:
                await inbox.until_frames(2)
            one.close()
            two.close()

    run(test())


def with_victim(test: Callable[[Victim], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        victim = Victim()
        try:
            await test(victim)
        finally:
            victim.close()

    run(whole())


def test_who_came_in_with_the_old_key_is_hung_up_on_and_does_not_come_back() -> None:
    async def test(victim: Victim) -> None:
        thief = Transport(envelope(9), OLD, lambda _frames: None)
        thief.connect(1, victim.transport.address)
        await trying(lambda: thief.send(1, Lane.CONTROL, b"let in"))
        await victim.inbox.until_frames(1)
        victim.transport.use_keys([NEW, OLD])
        heard = len(victim.inbox.frames)
        await trying(lambda: not thief.send(1, Lane.CONTROL, b"shut out"))
        with intruder(victim, NEW.public, OLD) as (dealer, monitor):
            dealer.send(OURS.encode(Kind.RAFT, Lane.CONTROL, b"knows the new public key only"))
            await refused(monitor)
        assert len(victim.inbox.frames) == heard
        assert not thief.send(1, Lane.CONTROL, b"shut out")
        assert sum(victim.transport.refused_connections.values()) >= 1
        thief.close()

    with_victim(test)


def test_a_peer_whose_key_was_dropped_is_told_nothing_more() -> None:
    async def test(victim: Victim) -> None:
        agent = Transport(envelope(9), [OLD, NEW], lambda _frames: None)
        agent.connect(1, victim.transport.address)
        await trying(lambda: agent.send(1, Lane.BULK, b"heard"))
        agent.use_keys([NEW])
        assert not agent.send(1, Lane.BULK, b"secret")
        await victim.inbox.until_frames(1)
        assert victim.inbox.payloads == [b"heard"]
        agent.close()

    with_victim(test)


def test_the_same_ring_again_cuts_no_connection_and_the_port_stays() -> None:
    async def test(victim: Victim) -> None:
        agent = Transport(envelope(9), OLD, lambda _frames: None)
        agent.connect(1, victim.transport.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, b"0"))
        address = victim.transport.address
        for number in range(1, 20):
            victim.transport.use_keys([OLD, NEW] if number % 2 else [OLD])
            agent.use_keys(OLD)
            assert agent.send(1, Lane.CONTROL, b"%d" % number)
        assert victim.transport.address == address
        await victim.inbox.until_frames(20)
        agent.close()

    with_victim(test)


def test_a_question_from_before_the_change_has_no_way_back_and_who_answers_learns_it() -> None:
    async def test(victim: Victim) -> None:
        agent = Transport(envelope(9), [OLD, NEW], lambda _frames: None)
        agent.connect(1, victim.transport.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, b"?", Kind.REQUEST))
        question: Frame = (await victim.inbox.until_frames(1))[0]
        victim.transport.use_keys([NEW, OLD])
        assert not victim.transport.answer(question, b"!")
        await trying(lambda: agent.send(1, Lane.CONTROL, b"??") and b"??" in victim.inbox.payloads)
        agent.close()

    with_victim(test)


@pytest.mark.parametrize("keys", [[], ()])
def test_a_transport_has_a_key(keys: list[CurveKey]) -> None:
    async def test(victim: Victim) -> None:
        with pytest.raises(ValueError, match="needs a key"):
            victim.transport.use_keys(keys)
        await victim.is_well()

    with_victim(test)
