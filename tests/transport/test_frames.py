"""The bytes of a frame: what is written is read, and nothing else is (P8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import (
    ForeignCluster,
    ForeignGeneration,
    FrameError,
    FrameMalformed,
    PayloadTooLarge,
    VersionUnknown,
)
from transport.frames import HEADER_BYTES, PAYLOAD_BYTES_MAX, Codec, Envelope, Frame, Kind, Lane

ENVELOPE = Envelope("c-1", generation=3, sender=7, epoch=2)
CODEC = Codec(ENVELOPE)

envelopes = st.builds(
    Envelope,
    cluster=st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=16),  # members
    generation=st.integers(0, 2**32 - 1),
    sender=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
)


@given(envelopes, st.sampled_from(Kind), st.sampled_from(Lane), st.binary(max_size=300), st.binary(max_size=5))
def test_a_frame_is_read_as_it_was_written(
    envelope: Envelope, kind: Kind, lane: Lane, payload: bytes, route: bytes
) -> None:
    codec = Codec(envelope)
    frame = codec.decode(codec.encode(kind, lane, payload), route)
    assert frame == Frame(kind, lane, envelope.sender, envelope.epoch, payload, route)


@given(envelopes, envelopes)
def test_a_frame_of_another_cluster_or_generation_is_refused(ours: Envelope, theirs: Envelope) -> None:
    data = Codec(theirs).encode(Kind.RAFT, Lane.CONTROL, b"x")
    if ours.cluster != theirs.cluster:
        with pytest.raises(ForeignCluster):
            Codec(ours).decode(data)
    elif ours.generation != theirs.generation:
        with pytest.raises(ForeignGeneration):
            Codec(ours).decode(data)
    else:
        assert Codec(ours).decode(data).payload == b"x"


@given(envelopes, st.sampled_from(Kind), st.sampled_from(Lane))
def test_a_member_takes_an_outsiders_questions_and_nothing_else(theirs: Envelope, kind: Kind, lane: Lane) -> None:
    outsider = Envelope("", theirs.generation, theirs.sender, theirs.epoch)
    data = Codec(outsider).encode(kind, lane, b"x")
    if kind is Kind.REQUEST:
        frame = CODEC.decode(data, b"way")
        assert frame == Frame(kind, lane, theirs.sender, theirs.epoch, b"x", b"way", outsider=True)
    else:
        with pytest.raises(ForeignCluster):
            CODEC.decode(data)


@given(envelopes, st.sampled_from(Kind), st.sampled_from(Lane), st.booleans())
def test_an_outsider_takes_questions_and_answers_of_anybody_and_nothing_else(
    theirs: Envelope, kind: Kind, lane: Lane, outsiders: bool
) -> None:
    codec = Codec(Envelope("", generation=0, sender=0, epoch=0))
    sender = Envelope("", theirs.generation, theirs.sender, theirs.epoch) if outsiders else theirs
    data = Codec(sender).encode(kind, lane, b"x")
    if kind in (Kind.REQUEST, Kind.ANSWER):
        frame = codec.decode(data)
        assert frame == Frame(kind, lane, theirs.sender, theirs.epoch, b"x", outsider=outsiders)
    else:
        with pytest.raises(ForeignCluster):
            codec.decode(data)


@pytest.mark.parametrize(("offset", "value"), [(5, 0), (5, 99), (6, 0), (6, 99), (7, 1)])
def test_an_outsiders_frame_keeps_every_other_rule(offset: int, value: int) -> None:
    data = bytearray(Codec(Envelope("", 0, 0, 0)).encode(Kind.REQUEST, Lane.CONTROL, b""))
    assert CODEC.decode(bytes(data)).outsider
    data[offset] = value
    with pytest.raises(FrameError):
        CODEC.decode(bytes(data))


@given(st.binary(max_size=2 * HEADER_BYTES))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(FrameError):
        CODEC.decode(data)


@given(st.integers(0, HEADER_BYTES - 1))
def test_a_header_that_is_cut_off_is_no_frame(length: int) -> None:
    with pytest.raises(FrameMalformed):
        CODEC.decode(CODEC.encode(Kind.RAFT, Lane.BULK, b"payload")[:length])


@given(st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_a_byte_of_the_header_that_is_changed_is_refused_or_says_something_else(at: int, change: int) -> None:
    data = bytearray(CODEC.encode(Kind.RAFT, Lane.CONTROL, b"payload"))
    data[at] ^= change
    try:
        frame = CODEC.decode(bytes(data))
    except FrameError:
        return
    assert frame != Frame(Kind.RAFT, Lane.CONTROL, ENVELOPE.sender, ENVELOPE.epoch, b"payload")


def test_another_version_is_refused_whatever_else_it_has() -> None:
    data = bytearray(CODEC.encode(Kind.RAFT, Lane.CONTROL, b""))
    data[4] = 2
    data[5:] = b"\xff" * (len(data) - 5)
    with pytest.raises(VersionUnknown, match="version 2"):
        CODEC.decode(bytes(data))


@pytest.mark.parametrize(("offset", "value"), [(5, 0), (5, 99), (6, 0), (6, 99), (7, 1)])
def test_a_kind_a_lane_or_a_bit_that_means_nothing_is_refused(offset: int, value: int) -> None:
    data = bytearray(CODEC.encode(Kind.RAFT, Lane.CONTROL, b""))
    data[offset] = value
    with pytest.raises(FrameMalformed):
        CODEC.decode(bytes(data))


@pytest.mark.parametrize("lane", Lane)
def test_a_payload_past_its_lanes_limit_is_neither_written_nor_read(lane: Lane) -> None:
    most = bytes(PAYLOAD_BYTES_MAX[lane])
    data = CODEC.encode(Kind.CHUNK, lane, most)
    assert CODEC.decode(data).payload == most
    with pytest.raises(PayloadTooLarge, match=lane.name):
        CODEC.encode(Kind.CHUNK, lane, most + b"x")
    with pytest.raises(FrameMalformed):
        CODEC.decode(data + b"x")


@pytest.mark.parametrize(
    "fields",
    [
        {"cluster": "17-characters-long"},
        {"cluster": "ä"},
        {"cluster": "a\0"},
        {"generation": 2**32},
        {"sender": -1},
        {"epoch": 2**32},
    ],
)
def test_an_envelope_that_does_not_fit_its_fields_is_refused(fields: dict[str, object]) -> None:
    whole: dict[str, object] = {"cluster": "c", "generation": 0, "sender": 0, "epoch": 0}
    with pytest.raises(ValueError, match=r"cluster|generation|sender|epoch"):
        Envelope(**{**whole, **fields})  # type: ignore[arg-type]
