"""At a rate: bytes of strangers, connections that never end, frames of a key holder gone mad (P8, P12).

Nothing of it is acted on, memory stays where it is, and the transport still works.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
import zmq as libzmq

import transport.zmq
from tests.open_files import open_files
from tests.transport.harness import WAIT_S, Inbox, envelope, run, trying
from tests.transport.victim import (
    GREETING,
    KEY,
    OTHER_KEY,
    OURS,
    SECOND,
    Victim,
    against,
    intruder,
    refused,
    resident_bytes,
)
from tests.transport.wiretap import say
from transport.frames import PAYLOAD_BYTES_MAX, Codec, Kind, Lane
from transport.zmq import Transport

GROWTH_BYTES_MAX: Final = 16 * 1024 * 1024
FRAMES: Final = 200_000
WARM: Final = 20_000  # frames until every buffer has its size
GOOD: Final = OURS.encode(Kind.RAFT, Lane.CONTROL, b"evil")
FOREIGN: Final = Codec(envelope(2, cluster="c-2"))
OUTSIDE: Final = Codec(envelope(2, cluster=""))
EARLIER: Final = Codec(envelope(2, generation=0))
HELLO: Final = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72)  # a CURVE client's first command, before its keys


def patched(at: int, value: int) -> bytes:
    return GOOD[:at] + bytes([value]) + GOOD[at + 1 :]


BAD: Final[list[tuple[str, Callable[[random.Random], list[bytes]]]]] = [
    ("FrameMalformed", lambda draw: [draw.randbytes(draw.randrange(400))]),
    ("FrameMalformed", lambda draw: [GOOD[: draw.randrange(40)]]),
    ("FrameMalformed", lambda _draw: [GOOD, GOOD]),
    ("FrameMalformed", lambda draw: [patched(5, draw.randrange(max(Kind) + 1, 256))]),
    ("FrameMalformed", lambda draw: [patched(6, draw.randrange(max(Lane) + 1, 256))]),
    ("FrameMalformed", lambda draw: [patched(7, draw.randrange(1, 256))]),
    ("VersionUnknown", lambda draw: [patched(4, draw.randrange(2, 256)) + draw.randbytes(20)]),
    ("ForeignCluster", lambda _draw: [FOREIGN.encode(Kind.REQUEST, Lane.BULK, b"evil")]),
    ("ForeignCluster", lambda draw: [OUTSIDE.encode(draw.choice([Kind.RAFT, Kind.ANSWER]), Lane.CONTROL, b"evil")]),
    ("ForeignGeneration", lambda _draw: [EARLIER.encode(Kind.GOSSIP, Lane.CONTROL, b"evil")]),
]


async def send(socket: Any, parts: list[bytes]) -> None:
    """Send as soon as there is room, and let the victim have its turn until then."""
    while True:
        try:
            socket.send_multipart(parts, libzmq.NOBLOCK)
        except libzmq.Again:
            await asyncio.sleep(0)
        else:
            return


@pytest.mark.slow
def test_frames_of_a_key_holder_gone_mad_are_counted_and_take_no_memory() -> None:
    async def attack(victim: Victim) -> None:
        draw = random.Random(1)
        sent: Counter[str] = Counter()
        before = 0
        with intruder(victim, KEY.public, KEY) as (dealer, _monitor):
            for number in range(FRAMES):
                reason, make = draw.choice(BAD)
                sent[reason] += 1
                await send(dealer, make(draw))
                if number == WARM:
                    before = resident_bytes()
            await trying(lambda: victim.transport.refused.total() == FRAMES)
        assert victim.transport.refused == sent
        assert resident_bytes() - before < GROWTH_BYTES_MAX

    against(attack)


def test_frames_past_their_lanes_limit_are_counted_and_take_no_memory() -> None:
    async def attack(victim: Victim) -> None:
        large = OURS.encode(Kind.RAFT, Lane.CONTROL, bytes(PAYLOAD_BYTES_MAX[Lane.CONTROL])) + b"x"
        before = 0
        with intruder(victim, KEY.public, KEY) as (dealer, _monitor):
            for number in range(2_000):
                await send(dealer, [large])
                if number == 1_200:  # past the marks of all queues
                    before = resident_bytes()
            await trying(lambda: victim.transport.refused == {"FrameMalformed": 2_000})
        assert resident_bytes() - before < GROWTH_BYTES_MAX

    against(attack)


def test_messages_past_every_limit_again_and_again_take_no_memory() -> None:
    """Their size is looked at before there is room made for them."""

    async def attack(victim: Victim) -> None:
        before = resident_bytes()
        for _ in range(10):
            with intruder(victim, KEY.public, KEY) as (dealer, monitor):
                dealer.send(GOOD + bytes(2 * PAYLOAD_BYTES_MAX[Lane.BULK]))
                await refused(monitor)
        assert resident_bytes() - before < 4 * PAYLOAD_BYTES_MAX[Lane.BULK]

    against(attack)


@pytest.mark.slow
def test_bytes_of_strangers_at_a_rate_do_no_harm_and_leave_nothing() -> None:
    """Random bytes, half a greeting, a whole one and no CURVE, a HELLO with keys of nothing, endless sizes."""

    async def attack(victim: Victim) -> None:
        draw = random.Random(2)
        null = GREETING.replace(b"CURVE", b"NULL\0")
        beginnings = [b"", GREETING, null, null + b"\x04\x19\x05READY", GREETING + HELLO, GREETING + HELLO[:50]]
        endless = [GREETING + b"\x06" + b"\xff" * 8, GREETING + b"\x02" + (1 << 40).to_bytes(8)]

        def noise() -> bytes:
            beginning = draw.choice(beginnings)
            cut = beginning[: draw.randrange(len(beginning) + 1)] if draw.random() < 0.3 else beginning
            return draw.choice([*endless, cut, cut]) + draw.randbytes(draw.randrange(3000))

        await at_once(victim, [noise() for _ in range(300)])
        before, files = resident_bytes(), open_files().total()
        for _ in range(10):
            await at_once(victim, [noise() for _ in range(300)])
        await trying(lambda: open_files().total() <= files)
        assert resident_bytes() - before < GROWTH_BYTES_MAX

    against(attack)


async def at_once(victim: Victim, attacks: list[bytes]) -> None:
    """Each on a connection of its own, a hundred at a time."""
    room = asyncio.Semaphore(100)

    async def one(data: bytes) -> None:
        async with room, asyncio.timeout(WAIT_S):
            with suppress(OSError):  # it may hang up at any byte
                await say(victim.port, data)

    await asyncio.gather(*(one(data) for data in attacks))


def test_wrong_keys_again_and_again_leave_nothing() -> None:
    """Of a stranger, and of one who has got hold of the public key: the latter are counted."""

    async def attack(victim: Victim) -> None:
        before, files = 0, 0
        for number in range(200):
            server_key = (OTHER_KEY, KEY)[number % 2].public
            with intruder(victim, server_key, OTHER_KEY) as (dealer, monitor):
                dealer.send(GOOD)
                await refused(monitor)
            if number == 50:
                before, files = resident_bytes(), open_files().total()
        assert sum(victim.transport.refused_connections.values()) >= 100
        await trying(lambda: open_files().total() <= files + 5)
        assert resident_bytes() - before < GROWTH_BYTES_MAX

    against(attack)


@pytest.mark.parametrize("begun", [0, 30, 90], ids=["silent", "greeting", "hello"])
def test_connections_that_come_in_drops_are_ended_and_hold_up_nobody(
    monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """Three hundred at once that send a byte now and then: each has the time of a handshake, and no more."""
    monkeypatch.setattr(transport.zmq, "HANDSHAKE_MS", SECOND)

    async def test() -> None:
        victim = Victim()
        connections = [await asyncio.open_connection(*victim.port) for _ in range(300)]
        for _reader, writer in connections:
            writer.write((GREETING + HELLO)[:begun])
        await victim.is_well()  # while all of them are there
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(drip(*connection, (GREETING + HELLO)[begun:]) for connection in connections))
        await victim.is_well()
        victim.close()

    run(test())


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte every tenth of a second, until the other side has had enough."""
    ended = asyncio.ensure_future(reader.read())
    for byte in data:
        if (await asyncio.wait({ended}, timeout=0.1))[0]:
            break
        writer.write(bytes([byte]))
    assert ended.done(), "it was let go on"
    with suppress(OSError):
        await ended
    writer.close()


@pytest.mark.slow
def test_a_peer_that_is_overrun_loses_frames_and_takes_no_memory() -> None:
    """A sender that never stops, and a receiver that is slow: what has no room is dropped, and the sender knows."""

    async def test() -> None:
        inbox = Inbox()
        victim = Victim()
        sender = Transport(envelope(3), KEY, inbox.on_frames, on_unreachable=inbox.on_unreachable)
        sender.connect(1, victim.transport.address)
        await trying(lambda: sender.send(1, Lane.CONTROL, b"first"))
        sender.dropped.clear()
        before = sent = 0
        for number in range(FRAMES):
            sent += sender.send(1, Lane.CONTROL, bytes(200))
            if number % 1000 == 0:
                await asyncio.sleep(0)
                victim.inbox.frames.clear()
            if number == WARM:
                before = resident_bytes()
        assert sent < FRAMES
        assert sender.dropped[1] == FRAMES - sent
        assert resident_bytes() - before < GROWTH_BYTES_MAX
        sender.close()
        victim.close()

    run(test())
