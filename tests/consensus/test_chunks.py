"""A snapshot in pieces reaches the other side whole, whatever is lost, repeated or damaged on the way."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from consensus import chunks
from consensus.chunks import CHUNK_BYTES, GIVE_UP_TICKS, RESEND_TICKS, ChunkAnswer, Outgoing, make_chunk

SIZE = 5 * CHUNK_BYTES + 17


def test_the_first_chunk_goes_alone_and_its_answer_says_where_to_begin() -> None:
    out = Outgoing(index=7, file=1, size=SIZE)
    assert out.next() == (0, CHUNK_BYTES)
    assert out.next() is None
    out.answered(ChunkAnswer(7, 1, 3 * CHUNK_BYTES))  # a part was there from an earlier try
    assert [out.next(), out.next(), out.next(), out.next()] == [
        (3 * CHUNK_BYTES, CHUNK_BYTES),
        (4 * CHUNK_BYTES, CHUNK_BYTES),
        (5 * CHUNK_BYTES, 17),
        None,
    ]
    assert not out.done
    out.answered(ChunkAnswer(7, 1, SIZE))
    assert out.done


def test_no_more_than_the_window_is_on_its_way() -> None:
    out = Outgoing(index=7, file=1, size=100 * CHUNK_BYTES)
    out.next()
    out.answered(ChunkAnswer(7, 1, CHUNK_BYTES))
    sent = 0
    while out.next() is not None:
        sent += 1
    assert sent == chunks.WINDOW_CHUNKS


def test_what_was_not_answered_is_sent_again_and_what_never_moves_has_failed() -> None:
    out = Outgoing(index=7, file=1, size=SIZE)
    assert out.next() == (0, CHUNK_BYTES)
    for _ in range(RESEND_TICKS):
        assert out.next() is None
        out.tick()
    assert out.next() == (0, CHUNK_BYTES)
    for _ in range(GIVE_UP_TICKS):
        out.tick()
    assert out.failed


def test_an_answer_about_another_file_or_past_the_end_means_nothing() -> None:
    out = Outgoing(index=7, file=1, size=SIZE)
    for answer in (ChunkAnswer(8, 1, SIZE), ChunkAnswer(7, 2, SIZE), ChunkAnswer(7, 1, SIZE + 1)):
        out.answered(answer)
        assert not out.begun


def test_a_refusal_ends_the_transfer() -> None:
    out = Outgoing(index=7, file=1, size=SIZE)
    out.answered(ChunkAnswer(7, 1, 0, refused=True))
    assert out.failed


def test_a_damaged_chunk_is_not_whole() -> None:
    chunk = make_chunk(2, 7, 1, 0, SIZE, b"x" * 100)
    assert chunks.is_whole(chunk)
    assert not chunks.is_whole(msgspec.structs.replace(chunk, data=b"y" + chunk.data[1:]))


@given(seed=st.integers(0, 2**32), size=st.integers(1, 150), loss=st.floats(0, 0.6))
def test_any_file_arrives_over_a_network_that_loses_repeats_and_reorders(seed: int, size: int, loss: float) -> None:
    rng = Random(seed)
    data = rng.randbytes(size)
    out = Outgoing(index=7, file=1, size=size, chunk_bytes=10)
    received = bytearray()
    while not out.done:
        batch = []
        while (piece := out.next()) is not None:
            batch.append(make_chunk(2, 7, 1, piece[0], size, data[piece[0] : piece[0] + piece[1]]))
        batch += [one for one in batch if rng.random() < 0.1]
        rng.shuffle(batch)
        for chunk in batch:
            if rng.random() < loss:
                continue
            if chunk.offset == len(received):
                received += chunk.data
            if rng.random() >= loss:
                out.answered(ChunkAnswer(7, 1, len(received)))
        out.tick()
        out.still_ticks = 0  # patience is another test's matter
    assert bytes(received) == data
