"""Messages as bytes: an honest one arrives as it was, any other is refused with one error and never acts (P8)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.wire import MalformedMessage
from consensus.chunks import Chunk, ChunkAnswer, make_chunk
from consensus.messages import TRANSFER, ConfState, Entry, EntryKind, Message, MessageType, Snapshot, SnapshotMeta
from transport.frames import PAYLOAD_BYTES_MAX, Frame, Kind, Lane

OWN, PEER, OTHER = 1, 2, 3
T = MessageType


def frame_of(payload: bytes, kind: Kind = Kind.RAFT, sender: int = PEER) -> Frame:
    return Frame(kind, Lane.CONTROL, sender, 0, payload)


def received(message: Message, sender: int = PEER) -> Message:
    return wire.decode_message(frame_of(wire.encode(message), sender=sender), OWN)


def message_of(kind: MessageType, **fields: Any) -> Message:
    return Message(kind, **{"to": OWN, "sender": PEER, "term": 5, **fields})


APPEND = message_of(T.APPEND, log_term=3, index=7, commit=9, entries=(Entry(3, 8, EntryKind.NORMAL, b"a"), Entry(5, 9)))
SNAPSHOT = message_of(
    T.SNAPSHOT, snapshot=Snapshot(SnapshotMeta(9, 4, ConfState((1, 2), (3,), (1, 4), (4,), auto_leave=True)), b"name")
)
HONEST = [
    APPEND,
    message_of(T.APPEND, commit=3),
    message_of(T.APPEND, entries=(Entry(1, 1), Entry(1, 2, EntryKind.CONF_CHANGE, b"c"))),
    message_of(T.APPEND_RESPONSE, index=9),
    message_of(T.APPEND_RESPONSE, index=9, reject=True, reject_hint=4, log_term=2),
    message_of(T.VOTE, index=9, log_term=4),
    message_of(T.VOTE, index=9, log_term=4, context=TRANSFER),
    message_of(T.VOTE_RESPONSE, reject=True),
    message_of(T.VOTE_RESPONSE, reject=True, commit=4, log_term=2),
    message_of(T.PRE_VOTE, index=9, log_term=4),
    message_of(T.PRE_VOTE_RESPONSE),
    SNAPSHOT,
    message_of(T.HEARTBEAT, commit=4, context=b"read 1"),
    message_of(T.HEARTBEAT_RESPONSE, context=b"read 1"),
    message_of(T.TIMEOUT_NOW),
    message_of(T.TRANSFER_LEADER, sender=OTHER),
    message_of(T.PROPOSE, term=0, sender=OTHER, entries=(Entry(0, 0, EntryKind.NORMAL, b"a"), Entry(0, 0))),
    message_of(T.READ_INDEX, term=0, context=b"read 2"),
    message_of(T.READ_INDEX_RESPONSE, index=7, context=b"read 2"),
]
DISHONEST = [
    ("another member", message_of(T.HEARTBEAT, to=OTHER)),
    ("no sender", message_of(T.HEARTBEAT, sender=0)),
    ("sender is not the frame's", message_of(T.HEARTBEAT, sender=OTHER)),
    ("a term", message_of(T.HEARTBEAT, term=0)),
    ("a term", message_of(T.READ_INDEX, term=5)),
    ("a term", message_of(T.PROPOSE, term=5, entries=(Entry(0, 0),))),
    ("out of its range", message_of(T.HEARTBEAT, term=2**63)),
    ("out of its range", message_of(T.HEARTBEAT, commit=-1)),
    ("later term", message_of(T.VOTE, index=9, log_term=6)),
    ("too long", message_of(T.HEARTBEAT, context=bytes(1025))),
    ("has no entries", message_of(T.HEARTBEAT, entries=(Entry(1, 1),))),
    ("has no snapshot", message_of(T.HEARTBEAT, snapshot=Snapshot())),
    ("has no reject", message_of(T.HEARTBEAT, reject=True)),
    ("has no index", message_of(T.TIMEOUT_NOW, index=1)),
    ("has no commit", message_of(T.VOTE, commit=1)),
    ("holes", message_of(T.APPEND, index=7, log_term=3, entries=(Entry(3, 9),))),
    ("holes", message_of(T.APPEND, index=7, log_term=3, entries=(Entry(3, 8), Entry(3, 8)))),
    ("terms fall", message_of(T.APPEND, index=7, log_term=3, entries=(Entry(2, 8),))),
    ("terms fall", message_of(T.APPEND, index=7, log_term=3, entries=(Entry(6, 8),))),
    ("of no term", message_of(T.APPEND, entries=(Entry(0, 1),))),
    ("before the first", message_of(T.APPEND, log_term=3)),
    ("proposes nothing", message_of(T.PROPOSE, term=0)),
    ("its place", message_of(T.PROPOSE, term=0, entries=(Entry(0, 1),))),
    ("its place", message_of(T.PROPOSE, term=0, entries=(Entry(1, 0),))),
    ("reason for an election", message_of(T.VOTE, context=b"because")),
    ("no snapshot", message_of(T.SNAPSHOT)),
    ("no place", message_of(T.SNAPSHOT, snapshot=Snapshot(SnapshotMeta(0, 0, ConfState((1,)))))),
    ("no place", message_of(T.SNAPSHOT, snapshot=Snapshot(SnapshotMeta(9, 6, ConfState((1,)))))),
    ("no members", message_of(T.SNAPSHOT, snapshot=Snapshot(SnapshotMeta(9, 4)))),
    ("no members", message_of(T.SNAPSHOT, snapshot=Snapshot(SnapshotMeta(9, 4, ConfState((0,)))))),
    ("voter and learner", message_of(T.SNAPSHOT, snapshot=Snapshot(SnapshotMeta(9, 4, ConfState((1,), (1,)))))),
    ("hint without", message_of(T.APPEND_RESPONSE, index=9, reject_hint=4)),
    ("hint without", message_of(T.APPEND_RESPONSE, index=9, log_term=4)),
]


@pytest.mark.parametrize("message", HONEST, ids=lambda one: one.type.name)
def test_an_honest_message_arrives_as_it_was(message: Message) -> None:
    assert received(message) == message


def test_every_type_of_message_is_known() -> None:
    assert {message.type for message in HONEST} == set(MessageType)


@pytest.mark.parametrize(("problem", "message"), DISHONEST, ids=lambda one: one if isinstance(one, str) else "")
def test_a_message_that_no_member_sends_is_refused(problem: str, message: Message) -> None:
    with pytest.raises(MalformedMessage, match=problem):
        received(message)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for decode in (
        lambda: wire.decode_message(frame_of(data), OWN),
        lambda: wire.decode_chunk(frame_of(data, Kind.CHUNK)),
    ):
        with pytest.raises(MalformedMessage):
            decode()
    try:
        answer = wire.decode_chunk_answer(frame_of(data, Kind.CHUNK_ANSWER))
    except MalformedMessage:
        return
    assert min(answer.index, answer.file, answer.stored) >= 0  # three small numbers are soon hit upon


@given(st.sampled_from(HONEST), st.data())
def test_a_message_that_is_cut_off_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = wire.encode(message)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(MalformedMessage):
        wire.decode_message(frame_of(encoded[:length]), OWN)


@given(st.sampled_from(HONEST), st.data())
def test_a_message_with_changed_bytes_is_refused_or_keeps_every_rule(message: Message, data: st.DataObject) -> None:
    changed = bytearray(wire.encode(message))
    for at in data.draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    try:
        found = wire.decode_message(frame_of(bytes(changed), sender=message.sender), OWN)
    except MalformedMessage:
        return
    assert received(found, sender=message.sender) == found
    assert found.to == OWN
    assert [entry.index for entry in found.entries] in (
        [0] * len(found.entries),
        [found.index + 1 + at for at in range(len(found.entries))],
    )


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=13),
    max_leaves=30,
)


@given(st.lists(values, max_size=13), st.sampled_from(list(MessageType)))
def test_any_array_in_the_place_of_a_message_is_refused_or_keeps_every_rule(
    array: list[Any], kind: MessageType
) -> None:
    try:
        found = wire.decode_message(frame_of(msgspec.msgpack.encode([int(kind), OWN, PEER, *array])), OWN)
    except MalformedMessage:
        return
    assert received(found) == found


def test_arrays_within_arrays_without_end_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_message(frame_of(b"\x91" * 100_000), OWN)


def test_appends_never_overtake_each_other_and_nothing_small_waits_behind_them() -> None:
    """One lane for all appends, empty ones too: one that came first would look like a loss."""
    bulk = {message.type for message in HONEST if wire.lane(message) is Lane.BULK}
    assert bulk == {T.APPEND, T.PROPOSE, T.SNAPSHOT}
    assert wire.lane(message_of(T.APPEND)) is Lane.BULK


@pytest.mark.parametrize("message", [one for one in HONEST if wire.lane(one) is Lane.CONTROL])
def test_what_goes_by_the_control_lane_fits_it(message: Message) -> None:
    largest = msgspec.structs.replace(message, context=bytes(1024))
    assert len(wire.encode(largest)) < PAYLOAD_BYTES_MAX[Lane.CONTROL]


CHUNK = make_chunk(2, 9, 1, 100, 110, b"0123456789")


@given(st.binary(min_size=1, max_size=50), st.integers(0, 100), st.integers(0, 100))
def test_chunks_and_their_answers_arrive_as_they_were(data: bytes, offset: int, more: int) -> None:
    chunk = make_chunk(2, 9, 1, offset, offset + len(data) + more, data)
    assert wire.decode_chunk(frame_of(wire.encode(chunk), Kind.CHUNK)) == chunk
    answer = ChunkAnswer(9, 1, offset, refused=True)
    assert wire.decode_chunk_answer(frame_of(wire.encode(answer), Kind.CHUNK_ANSWER)) == answer


@pytest.mark.parametrize(
    "fields",
    [
        {"term": 0},
        {"index": 0},
        {"index": 2**63},
        {"file": -1},
        {"crc": 2**32},
        {"data": b""},
        {"offset": 101},
        {"offset": -1},
        {"size": 5},
        {"size": 2**64 - 1, "offset": 2**63},
    ],
)
def test_a_chunk_that_lies_outside_its_snapshot_is_refused(fields: dict[str, Any]) -> None:
    chunk: Chunk = msgspec.structs.replace(CHUNK, **fields)
    with pytest.raises(MalformedMessage):
        wire.decode_chunk(frame_of(wire.encode(chunk), Kind.CHUNK))


def test_a_frame_of_another_kind_is_not_taken_for_a_message() -> None:
    with pytest.raises(MalformedMessage, match="GOSSIP"):
        wire.decode_message(frame_of(wire.encode(APPEND), Kind.GOSSIP), OWN)
    with pytest.raises(MalformedMessage, match="out of its range"):
        wire.decode_chunk_answer(frame_of(wire.encode(ChunkAnswer(-1, 0, 0)), Kind.CHUNK_ANSWER))
