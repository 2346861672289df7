"""What every transport promises: the same sentences for the one over ZeroMQ, on either loop, and the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import uvloop

from tests.transport.harness import Inbox, envelope, run, trying
from transport import memory, zmq
from transport.base import Transport
from transport.errors import BindFailed, PayloadTooLarge, TransportClosed
from transport.frames import PAYLOAD_BYTES_MAX, Envelope, Kind, Lane

KEY = zmq.CurveKey.of_cluster(bytes(range(32)))
ONE, TWO = 1, 2


@dataclass
class World:
    """Makes transports of one kind that can reach each other, and closes them."""

    make: Callable[[Envelope, Inbox, str], Transport]
    any_address: Callable[[], str]
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    made: list[Transport] = field(default_factory=list)

    def open(self, who: Envelope, bind: str = "any") -> tuple[Transport, Inbox]:
        inbox = Inbox()
        transport = self.make(who, inbox, self.any_address() if bind == "any" else bind)
        self.made.append(transport)
        return transport, inbox

    def close(self) -> None:
        for transport in self.made:
            transport.close()


def zmq_world(loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> World:
    def make(who: Envelope, inbox: Inbox, bind: str) -> Transport:
        return zmq.Transport(who, KEY, inbox.on_frames, bind=bind, on_unreachable=inbox.on_unreachable)

    return World(make, lambda: "127.0.0.1:0", loop)


def memory_world() -> World:
    network = memory.Network()
    numbers = iter(range(100))

    def make(who: Envelope, inbox: Inbox, bind: str) -> Transport:
        return memory.Transport(who, network, inbox.on_frames, bind=bind, on_unreachable=inbox.on_unreachable)

    return World(make, lambda: f"agent-{next(numbers)}")


@pytest.fixture(params=["zmq", "zmq on uvloop", "memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    match request.param:
        case "memory":
            yield memory_world()
        case "zmq":
            yield zmq_world()
        case _:
            yield zmq_world(uvloop.new_event_loop)


def in_world(world: World, test: Callable[[], object]) -> None:
    async def closing() -> None:
        try:
            await test()  # type: ignore[misc]
        finally:
            world.close()

    run(closing(), world.loop)


async def connected(sender: Transport, receiver: Transport, inbox: Inbox, peer: int = TWO) -> None:
    """Connect and wait until a frame has come through on each lane; then the inbox is emptied."""
    sender.connect(peer, receiver.address)
    for lane in Lane:
        await trying(partial(sender.send, peer, lane, b"hello"))
    await inbox.until_frames(len(Lane))
    inbox.frames.clear()
    inbox.wake_ups = 0


def test_a_frame_arrives_as_it_was_sent(world: World) -> None:
    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        for kind in Kind:
            for lane in Lane:
                assert one.send(TWO, lane, b"%d %d" % (kind, lane), kind)
        frames = await inbox.until_frames(len(Kind) * len(Lane))
        assert {(f.kind, f.lane, f.sender, f.epoch, f.payload) for f in frames} == {
            (kind, lane, ONE, 1, b"%d %d" % (kind, lane)) for kind in Kind for lane in Lane
        }

    in_world(world, test)


def test_frames_of_a_lane_arrive_in_order_and_none_is_left_behind(world: World) -> None:
    """More than one wake-up takes, and then silence: what is left is not news, and must be looked for."""

    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        sent = {lane: [b"%d" % number for number in range(1000)] for lane in Lane}
        for payloads in zip(*sent.values(), strict=True):
            for lane, payload in zip(Lane, payloads, strict=True):
                await trying(partial(one.send, TWO, lane, payload))
        frames = await inbox.until_frames(1000 * len(Lane))
        assert {lane: [f.payload for f in frames if f.lane is lane] for lane in Lane} == sent
        assert inbox.wake_ups < 1000 * len(Lane), "what has come is handed out together"

    in_world(world, test)


def test_an_answer_comes_back_by_the_way_the_question_came(world: World) -> None:
    async def test() -> None:
        (one, answers), (two, questions) = world.open(envelope(0), bind=""), world.open(envelope(TWO))
        assert one.address == ""
        await connected(one, two, questions)
        for number in range(300):
            assert one.send(TWO, Lane.CONTROL, b"%d?" % number, Kind.REQUEST)
            question = (await questions.until_frames(number + 1))[-1]
            assert two.answer(question, question.payload.replace(b"?", b"!"))
            answer = (await answers.until_frames(number + 1))[-1]
            assert (answer.kind, answer.sender, answer.payload) == (Kind.ANSWER, TWO, b"%d!" % number)

    in_world(world, test)


@pytest.mark.parametrize("lane", Lane)
def test_an_answer_comes_back_by_the_lane_of_the_question(world: World, lane: Lane) -> None:
    async def test() -> None:
        (one, answers), (two, questions) = world.open(envelope(ONE), bind=""), world.open(envelope(TWO))
        await connected(one, two, questions)
        largest = bytes(PAYLOAD_BYTES_MAX[lane])
        assert one.send(TWO, lane, b"?", Kind.REQUEST)
        question = (await questions.until_frames(1))[0]
        with pytest.raises(PayloadTooLarge, match=lane.name):
            two.answer(question, largest + b"x")
        assert two.answer(question, largest)
        answer = (await answers.until_frames(1))[0]
        assert (question.lane, answer.lane, answer.payload) == (lane, lane, largest)

    in_world(world, test)


def test_an_outsider_may_ask_and_is_answered_and_nothing_else_of_it_is_taken(world: World) -> None:
    async def test() -> None:
        (member, questions), (outsider, answers) = world.open(envelope(ONE)), world.open(envelope(0, cluster=""))
        outsider.connect(ONE, member.address)
        for kind in Kind:
            await trying(partial(outsider.send, ONE, Lane.CONTROL, kind.name.encode(), kind))
        question = (await questions.until_frames(1))[0]
        assert (question.payload, question.sender, question.outsider) == (b"REQUEST", 0, True)
        assert member.answer(question, b"join")
        answer = (await answers.until_frames(1))[0]
        assert (answer.payload, answer.sender, answer.outsider) == (b"join", ONE, False)
        assert member.refused == {"ForeignCluster": len(Kind) - 1}  # type: ignore[attr-defined]
        assert len(questions.frames) == 1

    in_world(world, test)


def test_who_has_joined_goes_on_as_a_member_by_the_same_connections(world: World) -> None:
    async def test() -> None:
        (member, at_member), (joiner, at_joiner) = world.open(envelope(ONE)), world.open(envelope(0, cluster=""))
        outsider, _ = world.open(envelope(0, cluster=""))
        joiner.connect(ONE, member.address)
        member.connect(TWO, joiner.address)
        outsider.connect(TWO, joiner.address)
        await trying(lambda: joiner.send(ONE, Lane.CONTROL, b"may I?", Kind.REQUEST))
        await at_member.until_frames(1)
        await trying(lambda: member.send(TWO, Lane.CONTROL, b"too early"))
        await trying(lambda: joiner.refused == {"ForeignCluster": 1})  # type: ignore[attr-defined]
        address = joiner.address
        joiner.use_envelope(envelope(TWO))
        assert joiner.address == address
        assert joiner.send(ONE, Lane.CONTROL, b"here I am")
        assert member.send(TWO, Lane.CONTROL, b"welcome")
        frames = await at_member.until_frames(2)
        assert [(one.payload, one.sender, one.outsider) for one in frames] == [
            (b"may I?", 0, True),
            (b"here I am", TWO, False),
        ]
        assert [one.payload for one in await at_joiner.until_frames(1)] == [b"welcome"]
        await trying(lambda: outsider.send(TWO, Lane.CONTROL, b"gossip", Kind.GOSSIP))
        await trying(lambda: joiner.refused == {"ForeignCluster": 2})  # type: ignore[attr-defined]

    in_world(world, test)


def test_connecting_again_to_the_same_address_changes_nothing(world: World) -> None:
    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        for number in range(100):
            one.connect(TWO, two.address)
            assert one.send(TWO, Lane(1 + number % 2), b"%d" % number)
        await inbox.until_frames(100)

    in_world(world, test)


def test_two_that_talk_at_once_lose_nothing(world: World) -> None:
    """Each send may take the news of something that came: it is looked for again."""

    async def test() -> None:
        (one, answers), (two, questions) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, questions)
        answered = 0
        for burst in range(100):
            for number in range(8):
                assert one.send(TWO, Lane.CONTROL, b"%d" % (burst * 8 + number), Kind.REQUEST)
            await questions.until_frames(answered + 1)
            while answered < len(questions.frames):
                assert two.answer(questions.frames[answered], questions.frames[answered].payload)
                answered += 1
        while answered < 800:
            await questions.until_frames(answered + 1)
            assert two.answer(questions.frames[answered], questions.frames[answered].payload)
            answered += 1
        await answers.until_frames(800)
        assert answers.payloads == [b"%d" % number for number in range(800)]

    in_world(world, test)


def test_who_was_told_to_be_unreachable_is_told_once_a_turn_and_not_from_inside_send(world: World) -> None:
    async def test() -> None:
        one, inbox = world.open(envelope(ONE))
        assert not any(one.send(peer, Lane.CONTROL, b"x") for peer in (9, 8, 9))
        assert inbox.unreachable == []
        await inbox.until(lambda: bool(inbox.unreachable))
        assert inbox.unreachable == [8, 9]

    in_world(world, test)


def test_a_peer_that_came_back_at_its_address_is_reached_again(world: World) -> None:
    async def test() -> None:
        (one, told), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        address = two.address
        two.close()
        await trying(lambda: not one.send(TWO, Lane.CONTROL, b"lost"))
        await told.until(lambda: bool(told.unreachable))
        _, again = world.open(envelope(TWO), bind=address)
        await trying(lambda: one.send(TWO, Lane.CONTROL, b"found"))
        await again.until_frames(1)
        assert set(again.payloads) == {b"found"}

    in_world(world, test)


def test_a_peer_that_has_moved_is_reached_at_its_new_address(world: World) -> None:
    async def test() -> None:
        (one, _), (old, old_inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        new, new_inbox = world.open(envelope(TWO))
        await connected(one, old, old_inbox)
        await connected(one, new, new_inbox)
        assert one.send(TWO, Lane.BULK, b"here")
        await new_inbox.until_frames(1)
        assert old_inbox.frames == []

    in_world(world, test)


def test_a_peer_that_was_forgotten_gets_nothing(world: World) -> None:
    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        one.disconnect(TWO)
        one.disconnect(TWO)
        assert not one.send(TWO, Lane.CONTROL, b"x")

    in_world(world, test)


@pytest.mark.parametrize(
    "foreign", [envelope(3, cluster="c-2"), envelope(3, generation=2)], ids=["cluster", "generation"]
)
def test_what_is_of_another_cluster_or_generation_is_counted_and_not_handed_out(
    world: World, foreign: Envelope
) -> None:
    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        other, _ = world.open(foreign)
        await connected(one, two, inbox)
        other.connect(TWO, two.address)
        await trying(lambda: other.send(TWO, Lane.CONTROL, b"foreign"))
        await trying(lambda: sum(two.refused.values()) == 1)  # type: ignore[attr-defined]
        assert one.send(TWO, Lane.CONTROL, b"ours")
        await inbox.until_frames(1)
        assert inbox.payloads == [b"ours"]

    in_world(world, test)


def test_a_payload_that_is_too_large_is_refused_and_the_lane_goes_on(world: World) -> None:
    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        largest = bytes(PAYLOAD_BYTES_MAX[Lane.CONTROL])
        with pytest.raises(PayloadTooLarge):
            one.send(TWO, Lane.CONTROL, largest + b"x")
        assert one.send(TWO, Lane.CONTROL, largest)
        assert (await inbox.until_frames(1))[0].payload == largest

    in_world(world, test)


def test_the_largest_payload_arrives_whole(world: World) -> None:
    async def test() -> None:
        (one, _), (two, inbox) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, inbox)
        assert one.send(TWO, Lane.BULK, bytes(PAYLOAD_BYTES_MAX[Lane.BULK]))
        assert len((await inbox.until_frames(1))[0].payload) == PAYLOAD_BYTES_MAX[Lane.BULK]

    in_world(world, test)


def test_an_address_that_is_taken_is_said_to_be(world: World) -> None:
    async def test() -> None:
        one, _ = world.open(envelope(ONE))
        with pytest.raises(BindFailed):
            world.open(envelope(TWO), bind=one.address)

    in_world(world, test)


def test_what_is_closed_may_be_closed_again_and_nothing_else(world: World) -> None:
    async def test() -> None:
        one, _ = world.open(envelope(ONE))
        assert not one.send(TWO, Lane.CONTROL, b"dropped")
        one.close()
        one.close()
        with pytest.raises(TransportClosed):
            one.send(TWO, Lane.CONTROL, b"x")
        with pytest.raises(TransportClosed):
            one.connect(TWO, "127.0.0.1:1")

    in_world(world, test)


def test_only_a_frame_that_came_by_a_connection_can_be_answered(world: World) -> None:
    async def test() -> None:
        (one, answers), (two, questions) = world.open(envelope(ONE)), world.open(envelope(TWO))
        await connected(one, two, questions)
        assert one.send(TWO, Lane.CONTROL, b"?", Kind.REQUEST)
        question = (await questions.until_frames(1))[0]
        assert two.answer(question, b"!")
        answer = (await answers.until_frames(1))[0]
        with pytest.raises(ValueError, match="can be answered"):
            one.answer(answer, b"!!")
        one.close()
        await trying(lambda: not two.answer(question, b"too late"))

    in_world(world, test)
