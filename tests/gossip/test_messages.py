"""What is on the wire: nothing but this package's error comes of any bytes, and everything has a largest size."""

from __future__ import annotations

from functools import reduce
from itertools import permutations
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import frames
from transport.gossip import FAST, Gossip, MessageMalformed, Metadata, MetadataTooLarge, Rumor, State, Update
from transport.gossip.messages import (
    COUNT_MAX,
    ITEM_BYTES_MAX,
    KEY_BYTES_MAX,
    MARKS_MAX,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Ack,
    Body,
    MemberPage,
    Message,
    Nack,
    News,
    Ping,
    PingRequest,
    RumorPage,
    SyncAnswer,
    SyncRequest,
    SyncRest,
    decode,
    encode,
    size,
    supersedes,
)

ids: Final = st.integers(1, 6)
counts: Final = st.integers(0, 5) | st.just(COUNT_MAX)
keys: Final = st.binary(max_size=3)
metadata: Final = st.builds(Metadata, st.sampled_from(["a:1", "b:2"]), labels=st.just({}) | st.just({"zone": "z"}))
updates: Final = st.builds(Update, ids, counts, st.sampled_from(State), ids, metadata, counts)
rumors: Final = st.builds(Rumor, keys, counts, counts, st.binary(max_size=8))
bodies: Final[st.SearchStrategy[Body]] = st.one_of(
    st.builds(Ping, counts),
    st.builds(Ack, counts),
    st.builds(Nack, counts),
    st.builds(PingRequest, counts, ids),
    st.just(News()),
    st.just(SyncRest()),
    st.builds(
        SyncRequest,
        st.builds(MemberPage, counts, st.none() | ids, st.lists(st.tuples(ids, counts, st.sampled_from(State)))),
        st.builds(RumorPage, keys, st.none() | keys, st.lists(st.tuples(keys, counts, counts))),
    ),
    st.builds(SyncAnswer, st.lists(ids), st.lists(keys), st.none() | ids, st.none() | keys),
)
messages: Final = st.builds(Message, bodies, st.lists(updates, max_size=4), st.lists(rumors, max_size=4))


def member(number: int = 1) -> Gossip:
    """One that is new."""
    return Gossip(number, Metadata("a:1"), lambda n: n // 2, 0)


@given(messages)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_one_error_or_are_a_message(data: bytes) -> None:
    try:
        decode(data)
    except MessageMalformed:
        return


@given(messages, st.data())
def test_a_message_with_flipped_bytes_is_refused_or_is_another_and_can_be_acted_on(
    message: Message, data: st.DataObject
) -> None:
    torn = bytearray(encode(message))
    for place in data.draw(st.lists(st.integers(0, len(torn) - 1), max_size=4)):
        torn[place] = data.draw(st.integers(0, 255))
    gossip = member()
    try:
        gossip.step(bytes(torn), 2, 10)
    except MessageMalformed:
        return
    gossip.tick(60)


@given(st.lists(messages, max_size=6))
def test_whatever_others_say_can_be_acted_on_and_every_answer_is_a_message(said: list[Message]) -> None:
    gossip = member()
    for number, message in enumerate(said):
        outputs = [gossip.step(encode(message), 2, 60 * number), gossip.tick(60 * number)]
        for _to, payload in [one for output in outputs for one in output.messages]:
            decode(payload)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        b"\x93" * 100_000,  # deeper than the decoder goes
        b"\x93\x92\x01\x05\x90\x90" + b"\x91" * 60_000,
        b"\x93\x92\x01\x05\xdd\xff\xff\xff\xff",  # a list of four thousand million
        bytes(MESSAGE_BYTES_MAX + 1),
        encode(Message(Ping(0), [Update(1, 0, State.ALIVE, 1, Metadata("x" * METADATA_BYTES_MAX))])),
        encode(Message(News(), [Update(1, 0, State.ALIVE, 1, Metadata("abc"))])).replace(b"abc", b"a\xffc"),
        encode(Message(News(), [], [Rumor(bytes(KEY_BYTES_MAX + 1), 0, 0, b"")])),
        encode(Message(News(), [], [Rumor(b"", 0, 0, bytes(PAYLOAD_BYTES_MAX + 1))])),
        encode(Message(Ping(-1))),
        encode(Message(SyncAnswer([1] * (MARKS_MAX + 1), []))),
    ],
)
def test_what_no_agent_sends_is_refused(data: bytes) -> None:
    gossip = member()
    before = gossip.me, gossip.members, len(gossip.rumors)
    with pytest.raises(MessageMalformed):
        gossip.step(data, 2, 0)
    assert (gossip.me, gossip.members, len(gossip.rumors)) == before


def test_metadata_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    large = Metadata("a:1", labels={"x": "y" * METADATA_BYTES_MAX})
    with pytest.raises(MetadataTooLarge, match="fewer or shorter labels"):
        Gossip(1, large, lambda _n: 0, 0)
    gossip = member()
    with pytest.raises(MetadataTooLarge):
        gossip.revise(large)
    assert gossip.me == member().me


def test_the_largest_item_and_the_largest_messages_have_room_p12() -> None:
    assert frames.PAYLOAD_BYTES_MAX[frames.Lane.CONTROL] == MESSAGE_BYTES_MAX
    rumor = Rumor(bytes(KEY_BYTES_MAX), COUNT_MAX, COUNT_MAX, bytes(PAYLOAD_BYTES_MAX))
    assert size(rumor) <= ITEM_BYTES_MAX
    text = "x" * (METADATA_BYTES_MAX - 8)
    update = Update(2**64 - 1, COUNT_MAX, State.LEFT, 2**64 - 1, Metadata(text), COUNT_MAX)
    assert size(update) <= ITEM_BYTES_MAX
    marks = [(bytes(KEY_BYTES_MAX), COUNT_MAX, COUNT_MAX)] * MARKS_MAX
    members = [(2**64 - 1, COUNT_MAX, State.LEFT)] * MARKS_MAX
    request = SyncRequest(
        MemberPage(2**63, 2**64 - 1, members), RumorPage(bytes(KEY_BYTES_MAX), bytes(KEY_BYTES_MAX), marks)
    )
    answer = SyncAnswer([2**64 - 1] * MARKS_MAX, [bytes(KEY_BYTES_MAX)] * MARKS_MAX, 2**64 - 1, bytes(KEY_BYTES_MAX))
    assert size(request) + FAST.piggyback_bytes + size(update) < MESSAGE_BYTES_MAX
    assert size(answer) + FAST.sync_bytes + ITEM_BYTES_MAX < MESSAGE_BYTES_MAX


facts: Final = st.builds(Update, st.just(1), st.integers(0, 3), st.sampled_from(State), ids, metadata)


def greater(one: Update, other: Update) -> Update:
    """The one to be believed."""
    return one if supersedes(one, other) else other


def essence(update: Update) -> tuple[int, State, Metadata]:
    """What the order is about: not who says it."""
    return update.incarnation, update.state, update.metadata


@given(st.lists(facts, min_size=1, max_size=4))
def test_facts_about_a_member_give_the_same_belief_in_whatever_order_and_however_often_they_come(
    said: list[Update],
) -> None:
    believed = {repr(essence(reduce(greater, order + order[:1]))) for order in permutations(said)}
    assert len(believed) == 1


@given(facts, facts, facts)
def test_precedence_is_a_total_order(a: Update, b: Update, c: Update) -> None:
    assert not supersedes(a, a)
    assert supersedes(a, b) + supersedes(b, a) == (essence(a) != essence(b))
    if supersedes(a, b) and supersedes(b, c):
        assert supersedes(a, c)


@given(st.lists(facts, min_size=1, max_size=5), st.randoms())
def test_members_that_hear_the_same_facts_in_another_order_believe_the_same(said: list[Update], random: object) -> None:
    one, other = member(7), member(8)
    for gossip, order in ((one, said), (other, said[::-1])):
        for fact in order:
            gossip.step(encode(Message(News(), [fact])), 2, 0)
    mine, theirs = one.member(1), other.member(1)
    assert mine is not None
    assert theirs is not None
    assert essence(mine) == essence(theirs)
