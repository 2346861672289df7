"""One member at a time: exchanges, rumors on their way, what it is configured with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gossip.bench import ME, Bench, alive, dead
from transport.gossip import FAST, LAN, Change, Rumor, State
from transport.gossip.messages import (
    MARKS_MAX,
    MemberPage,
    Message,
    News,
    Ping,
    RumorPage,
    SyncAnswer,
    SyncRequest,
    SyncRest,
    decode,
    encode,
)

# -- anti-entropy ----------------------------------------------------------------------------------------------------


def test_an_exchange_tells_each_side_what_it_lacks() -> None:
    bench = Bench(1, 2)
    bench.gossip.broadcast(Rumor(b"a", 1, 1, b"x"), 0)
    bench.gossip.broadcast(Rumor(b"b", 1, 1, b"x"), 0)
    bench.gossip.forget(b"gone", (1, 5), 0)
    marks = [(b"b", 1, 2), (b"c", 1, 1), (b"gone", 1, 5)]
    request = SyncRequest(MemberPage(0, None, [(2, 3, State.ALIVE), (7, 0, State.ALIVE)]), RumorPage(b"", None, marks))
    assert bench.hears(request) == [SyncAnswer([2, 7], [b"b", b"c"])]
    assert [one.id for one in bench.said[-1][1].updates] == [1, ME]
    assert [one.key for one in bench.said[-1][1].rumors] == [b"a"]


def test_what_was_wanted_is_sent_as_far_as_it_is_there() -> None:
    bench = Bench(1)
    bench.gossip.broadcast(Rumor(b"a", 1, 1, b"x"), 0)
    assert bench.hears(SyncAnswer([1, 77, ME], [b"a", b"zz"])) == [SyncRest()]
    last = bench.said[-1][1]
    assert [one.id for one in last.updates] == [1, ME]
    assert [one.key for one in last.rumors] == [b"a"]
    assert bench.hears(SyncAnswer([], [])) == []


def test_only_the_page_that_was_asked_for_is_compared() -> None:
    bench = Bench(1, 2, 3, 4)
    bench.hears(SyncRequest(MemberPage(2, 4, []), RumorPage(b"x", b"y", [])))
    assert [one.id for one in bench.said[-1][1].updates] == [2, 3]


def test_a_large_table_goes_out_page_by_page() -> None:
    bench = Bench(*range(1, MARKS_MAX + 40))
    pages = [body.members for _to, body in bench.runs(10_100) if isinstance(body, SyncRequest)]
    assert [len(one.marks) for one in pages[:3]] == [MARKS_MAX, 40, MARKS_MAX]
    assert pages[0].until == pages[1].first
    assert pages[1].until is None


def test_who_joins_a_large_cluster_gets_the_whole_table_at_once_page_by_page() -> None:
    everybody = range(1000, 3000)
    there = Bench(*everybody)
    joiner = Bench()
    joiner.gossip.join([1], 0)
    [(_to, request)] = joiner.runs(200)
    exchanges = 0
    while isinstance(request, SyncRequest):
        there.hears(request)
        answer = there.said[-1][1]
        request = next(iter(joiner.hears(answer.body, *answer.updates)), News())
        exchanges += 1
    assert 1 < exchanges < 6
    assert {one.id for one in joiner.gossip.members} == set(everybody)


def test_one_goes_on_at_once_only_where_the_last_answer_was_of_use() -> None:
    bench = Bench(1)
    assert bench.hears(SyncAnswer([], [], 5, b"x")) == []
    [more] = bench.hears(SyncAnswer([], [], 5, b"x"), alive(2))
    assert isinstance(more, SyncRequest)
    assert (more.members.first, more.rumors.first) == (5, b"x")
    [more] = bench.hears(SyncAnswer([], [], None, b"x"), alive(3))
    assert isinstance(more, SyncRequest)
    assert (more.members.first, more.rumors.first) == (0, b"x")


def test_what_an_exchange_says_of_the_dead_is_a_suspicion_for_who_believes_them_alive() -> None:
    bench = Bench(1, 2)
    bench.hears(SyncRest(), dead(2))
    assert bench.changes() == [(Change.SUSPECTED, 2)]
    bench.hears(News(), dead(2))
    assert bench.changes() == [(Change.DEAD, 2)]


def test_who_learns_of_everybody_does_not_tell_everybody() -> None:
    bench = Bench()
    while bench.gossip.unsent > 1:
        bench.runs(20)
    before = bench.gossip.unsent
    bench.hears(SyncRest(), *[alive(one) for one in range(1, 9)])
    assert bench.gossip.unsent == before


# -- rumors on the way -----------------------------------------------------------------------------------------------


def test_a_rumor_rides_on_probes_and_is_news_once() -> None:
    bench = Bench(1)
    rumor = Rumor(b"k", 1, 1, b"x")
    output = bench.gossip.step(encode(Message(Ping(1), [], [rumor, rumor])), 1, 0)
    assert output.rumors == [rumor]
    assert decode(output.messages[0][1]).rumors == [rumor]
    assert bench.gossip.step(encode(Message(Ping(1), [], [rumor])), 1, 0).rumors == []


def test_a_rumor_goes_out_with_the_next_round_of_gossip() -> None:
    bench = Bench(1)
    bench.runs(1_000)
    assert bench.gossip.broadcast(Rumor(b"k", 1, 1, b"x"), bench.now)
    assert not bench.gossip.broadcast(Rumor(b"k", 1, 1, b"x"), bench.now)
    before = len(bench.said)
    bench.runs(FAST.gossip_ms)
    assert any(message.rumors for _to, message in bench.said[before:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"probe_timeout_ms": 0},
        {"probe_timeout_ms": 200},
        {"suspicion_mult": 1},
        {"packet_bytes": 100},
        {"sync_bytes": 100_000},
        {"rumors_max": 0},
        {"rumors_bytes_max": 100},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|largest"):
        replace(FAST, **wrong)


def test_news_are_passed_on_by_the_logarithm_of_the_size() -> None:
    assert [LAN.retransmits(size) for size in (1, 3, 9, 10, 99, 100, 1000)] == [4, 4, 4, 8, 8, 12, 16]
