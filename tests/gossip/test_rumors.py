"""Rumors: the latest of a key counts, what is forgotten does not come back, and there is a bound to all (P12)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.gossip import FAST, Rumor, RumorTooLarge
from transport.gossip.messages import KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, size
from transport.gossip.retransmit import Retransmits
from transport.gossip.rumors import Rumors

SMALL = replace(FAST, rumors_max=4, rumors_bytes_max=5_000, forgotten_max=3, rumor_ms=1_000, forgotten_ms=100)


def rumor(seq: int, key: bytes = b"run/task/1", epoch: int = 1) -> Rumor:
    """A rumor of one attempt."""
    return Rumor(key, epoch, seq, b"running")


def test_the_higher_version_wins_whichever_comes_first() -> None:
    rumors = Rumors(FAST)
    assert rumors.hear(rumor(2), 0)
    assert not rumors.hear(rumor(1), 0)
    assert not rumors.hear(rumor(2), 0)
    assert rumors.hear(rumor(1, epoch=2), 0)
    assert not rumors.hear(rumor(9), 0)
    assert list(rumors) == [rumor(1, epoch=2)]
    assert rumors.get(b"run/task/1") == rumor(1, epoch=2)
    assert rumors.get(b"other") is None


def test_changes_of_one_attempt_are_coalesced_in_the_queue() -> None:
    rumors = Rumors(FAST)
    for seq in range(10):
        rumors.hear(rumor(seq), 0)
    assert rumors.queue.take(1_000, 4) == ([rumor(9)], size(rumor(9)))


def test_what_is_forgotten_is_dropped_from_the_queue_too_and_refused_when_it_comes_again() -> None:
    rumors = Rumors(SMALL)
    rumors.hear(rumor(3), 0)
    rumors.forget(b"run/task/1", (1, 3), 0)
    assert (len(rumors), len(rumors.queue), rumors.bytes) == (0, 0, 0)
    assert not rumors.hear(rumor(3), 50)
    assert rumors.hear(rumor(4), 50)


def test_forgetting_an_older_version_keeps_the_newer() -> None:
    rumors = Rumors(SMALL)
    rumors.hear(rumor(3), 0)
    rumors.forget(b"run/task/1", (1, 2), 0)
    assert rumors.get(b"run/task/1") == rumor(3)
    rumors.forget(b"run/task/1", (1, 5), 0)
    rumors.forget(b"run/task/1", (1, 4), 0)
    assert not rumors.hear(rumor(5), 0)


def test_what_was_forgotten_is_remembered_for_a_bounded_time() -> None:
    rumors = Rumors(SMALL)
    rumors.forget(b"run/task/1", (1, 3), 0)
    rumors.expire(99)
    assert not rumors.hear(rumor(3), 99)
    rumors.expire(100)
    assert rumors.hear(rumor(3), 100)


def test_a_rumor_that_nobody_forgets_goes_after_a_time() -> None:
    rumors = Rumors(SMALL)
    rumors.hear(rumor(3), 0)
    rumors.expire(999)
    assert len(rumors) == 1
    rumors.expire(1_000)
    assert len(rumors) == 0
    assert not rumors.hear(rumor(3), 1_000)


def test_what_does_not_fit_is_refused() -> None:
    rumors = Rumors(FAST)
    with pytest.raises(RumorTooLarge, match="say where to find it"):
        rumors.hear(Rumor(b"", 0, 0, bytes(PAYLOAD_BYTES_MAX + 1)), 0)
    with pytest.raises(RumorTooLarge):
        rumors.hear(Rumor(bytes(KEY_BYTES_MAX + 1), 0, 0, b""), 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hear", "forget", "expire", "take"]),
            st.integers(0, 12),
            st.integers(0, 3),
            st.integers(0, PAYLOAD_BYTES_MAX),
        ),
        max_size=60,
    )
)
def test_whatever_is_heard_everything_stays_within_its_bounds_p12(steps: list[tuple[str, int, int, int]]) -> None:
    rumors = Rumors(SMALL)
    for now_ms, (step, key, seq, length) in enumerate(steps):
        name = b"%d" % key
        if step == "hear":
            rumors.hear(Rumor(name, 0, seq, bytes(length)), now_ms * 20)
        elif step == "forget":
            rumors.forget(name, (0, seq), now_ms * 20)
            assert rumors.known(name) >= (0, seq)
        elif step == "expire":
            rumors.expire(now_ms * 20)
        else:
            taken, used = rumors.queue.take(length, 4)
            assert used == sum(size(one) for one in taken) <= length
        assert len(rumors) <= SMALL.rumors_max
        assert rumors.bytes == sum(size(one) for one in rumors) <= SMALL.rumors_bytes_max
        assert len(rumors.queue) <= len(rumors)
        assert len(rumors._forgotten) <= SMALL.forgotten_max
        assert rumors.versions() == {one.key: one.version for one in rumors}


def test_each_piece_of_news_goes_out_as_often_as_the_limit_says_the_least_sent_first_and_the_newest_of_those() -> None:
    queue: Retransmits[str, str] = Retransmits()
    queue.put("old", "old", 10)
    queue.put("new", "new", 10)
    assert queue.take(10, 2) == (["new"], 10)
    assert queue.take(10, 2) == (["old"], 10)
    queue.put("newest", "newest", 10)
    assert queue.take(100, 2) == (["newest", "old", "new"], 30)
    assert len(queue) == 1
    assert queue.take(100, 2) == (["newest"], 10)
    assert queue.take(100, 2) == ([], 0)


def test_news_sent_often_enough_for_a_smaller_cluster_are_not_sent_again() -> None:
    queue: Retransmits[str, str] = Retransmits()
    queue.put("a", "a", 10)
    for _ in range(3):
        queue.take(10, 8)
    assert queue.take(10, 2) == ([], 0)
    assert len(queue) == 0


def test_the_rumor_that_came_first_makes_place_and_does_not_come_back_at_once_p12() -> None:
    rumors = Rumors(SMALL)
    for number in range(5):
        rumors.hear(rumor(1, b"%d" % number), 0)
    assert [one.key for one in rumors] == [b"1", b"2", b"3", b"4"]
    assert not rumors.hear(rumor(1, b"0"), 0)
    rumors.hear(Rumor(b"large", 1, 1, bytes(PAYLOAD_BYTES_MAX)), 0)
    rumors.hear(Rumor(b"larger", 1, 1, bytes(PAYLOAD_BYTES_MAX)), 0)
    rumors.hear(Rumor(b"largest", 1, 1, bytes(PAYLOAD_BYTES_MAX)), 0)
    assert [one.key for one in rumors] == [b"larger", b"largest"]


def test_of_too_many_forgotten_rumors_the_first_is_not_refused_any_more_p12() -> None:
    rumors = Rumors(SMALL)
    for number in range(4):
        rumors.forget(b"%d" % number, (1, 1), 0)
    assert rumors.hear(rumor(1, b"0"), 0)
    assert not rumors.hear(rumor(1, b"1"), 0)
