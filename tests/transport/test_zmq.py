"""Over ZeroMQ: who does not hold the cluster's key is not heard, and nothing that comes does harm (P8, P12)."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
import zmq as libzmq

import transport.zmq
from tests.transport.harness import Inbox, envelope, run, trying
from tests.transport.victim import KEY, OTHER_KEY, OURS, Victim, against, intruder, refused
from transport.frames import FRAME_BYTES_MAX, Codec, Kind, Lane
from transport.zmq import QUEUE_FRAMES, CurveKey, Transport


def test_who_does_not_know_the_public_key_is_not_heard() -> None:
    async def attack(victim: Victim) -> None:
        with intruder(victim, OTHER_KEY.public, OTHER_KEY) as (dealer, monitor):
            dealer.send(OURS.encode(Kind.RAFT, Lane.CONTROL, b"evil"))
            await refused(monitor)

    against(attack)


def test_who_knows_the_public_key_but_not_the_secret_one_is_not_heard() -> None:
    """CURVE alone would let it in: its own key is any key."""

    async def attack(victim: Victim) -> None:
        with intruder(victim, KEY.public, OTHER_KEY) as (dealer, monitor):
            dealer.send(OURS.encode(Kind.RAFT, Lane.CONTROL, b"evil"))
            await refused(monitor)
        assert sum(victim.transport.refused_connections.values()) >= 1
        assert set(victim.transport.refused_connections) == {"127.0.0.1"}

    against(attack)


def test_who_does_not_encrypt_is_not_heard() -> None:
    async def attack(victim: Victim) -> None:
        with intruder(victim, None, OTHER_KEY) as (dealer, monitor):
            dealer.send(OURS.encode(Kind.RAFT, Lane.CONTROL, b"evil"))
            await refused(monitor)

    against(attack)


def test_a_server_without_the_key_gets_nothing() -> None:
    """An agent that dials an address where somebody else listens now tells it nothing."""

    async def test() -> None:
        inbox, told = Inbox(), Inbox()
        stranger = Transport(envelope(1), OTHER_KEY, inbox.on_frames, bind="127.0.0.1:0")
        honest, honest_inbox = Transport(envelope(3), KEY, told.on_frames, bind="127.0.0.1:0"), told
        agent = Transport(envelope(2), KEY, lambda _frames: None, on_unreachable=told.on_unreachable)
        agent.connect(1, stranger.address)
        agent.connect(3, honest.address)
        await trying(lambda: agent.send(3, Lane.CONTROL, b"for the honest"))
        assert not any(agent.send(1, lane, b"secret") for lane in Lane for _ in range(10))
        await honest_inbox.until_frames(1)
        await told.until(lambda: 1 in told.unreachable)
        assert inbox.frames == []
        for one in (agent, honest, stranger):
            one.close()

    run(test())


def test_frames_of_a_key_holder_that_are_none_are_counted_and_dropped() -> None:
    """Random, cut off, of another version, in parts: every one is refused, and the connection goes on."""

    async def attack(victim: Victim) -> None:
        draw = random.Random(9)
        good = OURS.encode(Kind.RAFT, Lane.CONTROL, b"evil")
        foreign = Codec(envelope(2, cluster="c-2")).encode(Kind.RAFT, Lane.CONTROL, b"evil")
        bad = [
            [b""],
            [good[:30]],
            [good[:4] + b"\x07" + good[5:]],
            [foreign],
            [good, good],
            [b"", good],
            *[[draw.randbytes(draw.randrange(300))] for _ in range(200)],
        ]
        with intruder(victim, KEY.public, KEY) as (dealer, _monitor):
            for parts in bad:
                dealer.send_multipart(parts)
            await trying(lambda: sum(victim.transport.refused.values()) == len(bad))
        assert victim.transport.refused["VersionUnknown"] == 1
        assert victim.transport.refused["ForeignCluster"] == 1
        assert victim.transport.refused["FrameMalformed"] == len(bad) - 2

    against(attack)


def test_a_message_past_every_limit_ends_its_connection_and_takes_no_memory() -> None:
    async def attack(victim: Victim) -> None:
        with intruder(victim, KEY.public, KEY) as (dealer, monitor):
            dealer.send(OURS.encode(Kind.RAFT, Lane.CONTROL, b"") + bytes(FRAME_BYTES_MAX + 100))
            await refused(monitor)

    against(attack)


def test_a_peer_that_does_not_read_loses_frames_and_takes_no_memory() -> None:
    """Its queue is full, the sender is told, and what goes by the other lane still leaves."""

    async def test() -> None:
        told = Inbox()
        context: libzmq.Context[libzmq.Socket[bytes]] = libzmq.Context()
        stuck = context.socket(libzmq.ROUTER)
        stuck.linger, stuck.rcvhwm = 0, 4
        stuck.curve_server, stuck.curve_publickey, stuck.curve_secretkey = True, KEY.public, KEY.secret
        port = stuck.bind_to_random_port("tcp://127.0.0.1")
        agent = Transport(envelope(2), KEY, lambda _frames: None, on_unreachable=told.on_unreachable)
        agent.connect(1, f"127.0.0.1:{port}")
        await trying(lambda: agent.send(1, Lane.BULK, b"first"))
        told.unreachable.clear()
        payload = bytes(64 * 1024)
        sent = 0
        while agent.send(1, Lane.BULK, payload):
            sent += 1
            await asyncio.sleep(0)
        assert sent < 2 * QUEUE_FRAMES[Lane.BULK] + 512, "the kernel's buffers and two queues hold no more"
        await told.until(lambda: told.unreachable == [1])
        await trying(lambda: agent.send(1, Lane.CONTROL, b"heartbeat"))
        assert agent.dropped[1] >= 1
        agent.close()
        stuck.close()
        context.destroy(linger=0)

    run(test())


def test_what_one_wake_up_leaves_is_taken_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells of it: the descriptor speaks of changes only."""
    monkeypatch.setattr(transport.zmq, "WAKE_UP_FRAMES", 4)

    async def test() -> None:
        inbox = Inbox()
        listener = Transport(envelope(1), KEY, inbox.on_frames, bind="127.0.0.1:0")
        agent = Transport(envelope(2), KEY, lambda _frames: None)
        agent.connect(1, listener.address)
        await trying(lambda: agent.send(1, Lane.CONTROL, b"0"))
        for number in range(1, 500):
            assert agent.send(1, Lane.CONTROL, b"%d" % number)
        await inbox.until_frames(500)
        assert inbox.payloads == [b"%d" % number for number in range(500)]
        assert inbox.wake_ups >= 500 / 4
        agent.close()
        listener.close()

    run(test())


def test_closing_waits_for_nobody() -> None:
    """Not for a peer that is not there, nor for frames that were not sent."""

    async def test() -> None:
        transport = Transport(envelope(1), KEY, lambda _frames: None, bind="127.0.0.1:0")
        for peer in range(2, 30):
            transport.connect(peer, "127.0.0.1:1")
        before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
        transport.close()
        assert len(os.listdir("/proc/self/fd")) < len(before)  # noqa: PTH208

    run(test())


def test_what_is_no_address_is_refused_and_the_old_one_stays() -> None:
    async def test() -> None:
        inbox = Inbox()
        listener = Transport(envelope(1), KEY, inbox.on_frames, bind="127.0.0.1:0")
        agent = Transport(envelope(2), KEY, lambda _frames: None)
        agent.connect(1, listener.address)
        with pytest.raises(ValueError, match="HOST:PORT"):
            agent.connect(1, "no port")
        await trying(lambda: agent.send(1, Lane.CONTROL, b"still there"))
        await inbox.until_frames(1)
        agent.close()
        listener.close()

    run(test())


def test_the_key_of_a_cluster_is_the_same_everywhere_and_is_not_shown() -> None:
    assert CurveKey.of_cluster(b"k" * 32) == KEY
    assert KEY != OTHER_KEY
    assert KEY.secret.decode() not in repr(KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        CurveKey.of_cluster(b"short")
