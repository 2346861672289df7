"""Who records what agents say can do nothing with it: not again, not changed, not in part (P8)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from tests.transport.harness import envelope, run, trying
from tests.transport.victim import KEY, Victim
from tests.transport.wiretap import GREETING_BYTES, Wiretap, say, wiretap
from transport.frames import Kind, Lane
from transport.zmq import Transport

ORDER = b"remove agent 3"


def tapped(test: Callable[[Victim, Wiretap, Transport], Coroutine[Any, Any, None]]) -> None:
    """A test with an agent that talks to a victim over a line that is tapped."""

    async def whole() -> None:
        victim = Victim()
        agent = Transport(envelope(5), KEY, lambda _frames: None)
        try:
            async with wiretap(victim.port) as tap:
                await test(victim, tap, agent)
                agent.close()
        finally:
            agent.close()
            victim.close()

    run(whole())


def test_what_was_recorded_of_a_connection_says_nothing_on_another() -> None:
    """The whole of it, and cut off at any byte: the server's part of the keys is new for each connection."""

    async def test(victim: Victim, tap: Wiretap, agent: Transport) -> None:
        agent.connect(1, tap.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, ORDER, Kind.REQUEST))
        await victim.inbox.until_frames(1)
        agent.close()
        victim.inbox.frames.clear()
        recorded = bytes(max(tap.recorded, key=len))
        assert len(recorded) > GREETING_BYTES + 200
        draw = random.Random(3)
        for _ in range(20):
            await say(victim.port, recorded)
            await say(victim.port, recorded[: draw.randrange(len(recorded))])
        await victim.is_well()

    tapped(test)


def test_a_recorded_connection_with_changed_bytes_says_nothing() -> None:
    async def test(victim: Victim, tap: Wiretap, agent: Transport) -> None:
        agent.connect(1, tap.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, ORDER))
        await victim.inbox.until_frames(1)
        agent.close()
        victim.inbox.frames.clear()
        recorded = max(tap.recorded, key=len)
        draw = random.Random(4)
        attacks = []
        for _ in range(200):
            changed = bytearray(recorded)
            for _ in range(draw.randrange(1, 4)):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            attacks.append(say(victim.port, bytes(changed)))
        await asyncio.gather(*attacks)
        await victim.is_well()

    tapped(test)


def test_a_frame_that_is_said_again_within_its_connection_ends_it_and_is_heard_once() -> None:
    """Nonces only grow (CurveZMQ, ZeroMQ RFC 26)."""

    async def test(victim: Victim, tap: Wiretap, agent: Transport) -> None:
        repeated: list[bytes] = []

        def twice(frame: bytes) -> list[bytes]:
            if len(frame) < 60 or repeated:  # pings are not what is looked for
                return [frame]
            repeated.append(frame)
            return [frame, frame]

        tap.tamper = twice
        agent.connect(1, tap.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, ORDER))
        await victim.inbox.until_frames(1)
        await trying(lambda: len(tap.recorded) > len(Lane))  # the agent has come again: the victim has hung up
        assert len(repeated) == 1
        await trying(lambda: agent.send(1, Lane.BULK, b"after"))
        await victim.inbox.until_frames(2)
        assert victim.inbox.payloads == [ORDER, b"after"]

    tapped(test)


def test_a_frame_that_was_changed_on_its_way_ends_its_connection_and_is_not_heard() -> None:
    async def test(victim: Victim, tap: Wiretap, agent: Transport) -> None:
        changed: list[bytes] = []

        def flip(frame: bytes) -> list[bytes]:
            if len(frame) < 60 or changed:
                return [frame]
            changed.append(frame)
            return [frame[:-1] + bytes([frame[-1] ^ 1])]

        tap.tamper = flip
        agent.connect(1, tap.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, ORDER))
        await trying(lambda: len(changed) == 1 and agent.send(1, Lane.BULK, b"after"))
        await victim.inbox.until(lambda: b"after" in victim.inbox.payloads)
        assert ORDER not in victim.inbox.payloads

    tapped(test)
