"""When a snapshot's pieces are sent again, and when its transfer is given up."""

from __future__ import annotations

from consensus.chunks import CHUNK_BYTES, GIVE_UP_TICKS, RESEND_TICKS, ChunkAnswer, Outgoing

SIZE = 8 * CHUNK_BYTES


def outgoing(size: int = SIZE) -> Outgoing:
    return Outgoing(index=7, file=1, size=size)


def stored(out: Outgoing, chunks: int) -> None:
    out.answered(ChunkAnswer(7, 1, chunks * CHUNK_BYTES))


def wait(out: Outgoing, ticks: int) -> None:
    for _ in range(ticks):
        out.tick()


def begun() -> Outgoing:
    """The first piece is stored, and the window is on its way."""
    out = outgoing()
    assert out.next() == (0, CHUNK_BYTES)
    stored(out, 1)
    while out.next() is not None:
        pass
    return out


def test_a_state_without_bytes_is_done_when_the_other_has_said_so() -> None:
    out = outgoing(0)
    assert not out.done
    assert out.next() is None
    stored(out, 0)
    assert out.done


def test_a_first_piece_that_did_not_count_is_sent_again_at_once() -> None:
    """The other had more than that of it, and has lost it: its answer says from where on."""
    out = outgoing()
    out.next()
    stored(out, 0)
    assert out.next() == (0, CHUNK_BYTES)


def test_pieces_are_sent_again_only_after_a_time_without_an_answer() -> None:
    out = begun()
    wait(out, RESEND_TICKS - 1)
    assert out.next() is None
    stored(out, 1)  # an answer, though nothing is new
    wait(out, RESEND_TICKS - 1)
    assert out.next() is None
    wait(out, 1)
    assert out.next() == (CHUNK_BYTES, CHUNK_BYTES)


def test_what_was_sent_again_has_as_long_to_be_answered() -> None:
    out = begun()
    wait(out, RESEND_TICKS)
    while out.next() is not None:
        pass
    wait(out, RESEND_TICKS - 1)
    assert out.next() is None
    wait(out, 1)
    assert out.next() == (CHUNK_BYTES, CHUNK_BYTES)


def test_a_late_answer_sends_nothing_twice() -> None:
    out = begun()
    stored(out, 3)
    stored(out, 2)
    assert (out.stored, out.next()) == (3 * CHUNK_BYTES, (5 * CHUNK_BYTES, CHUNK_BYTES))


def test_an_answer_past_what_was_sent_goes_on_behind_it() -> None:
    out = begun()
    wait(out, RESEND_TICKS)
    stored(out, 4)
    assert out.next() == (4 * CHUNK_BYTES, CHUNK_BYTES)


def test_a_transfer_is_given_up_after_a_time_without_progress_whatever_is_answered() -> None:
    out = begun()
    for _ in range(GIVE_UP_TICKS - 1):
        out.tick()
        stored(out, 1)
    assert not out.failed
    out.tick()
    assert out.failed


def test_progress_begins_the_patience_anew() -> None:
    out = begun()
    wait(out, GIVE_UP_TICKS - 1)
    stored(out, 2)
    wait(out, GIVE_UP_TICKS - 1)
    assert not out.failed
    out.tick()
    assert out.failed
