"""One member at a time: what it says to what it hears. Names are the papers' (SWIM 2002, Lifeguard 2017)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gossip.bench import HERE, ME, Bench, alive, dead, everything, left, suspect
from transport.gossip import FAST, LAN, Change, Metadata, Rumor, State, Update
from transport.gossip.detector import RELAYS_MAX
from transport.gossip.messages import (
    COUNT_MAX,
    Ack,
    Message,
    Nack,
    News,
    Ping,
    PingRequest,
    SyncRequest,
    SyncRest,
)
from transport.gossip.suspicion import begin

# -- probes (SWIM, 3.1) ----------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_number() -> None:
    assert Bench().hears(Ping(7)) == [Ack(7)]


def test_everybody_is_asked_once_in_each_round() -> None:
    bench = Bench(1, 2, 3)
    asked = []
    for _ in range(6):
        target, number = bench.until_ping()
        bench.hears(Ack(number), sender=target)
        asked.append(target)
    assert sorted(asked[:3]) == sorted(asked[3:]) == [1, 2, 3]


def test_a_member_that_does_not_answer_is_asked_through_others() -> None:
    bench = Bench(1, 2, 3, 4, 5)
    target, number = bench.until_ping()
    requests = [(to, body) for to, body in bench.runs(120) if isinstance(body, PingRequest)]
    assert len({to for to, _body in requests}) == 3
    assert all(body == PingRequest(number, target) and to != target for to, body in requests)
    bench.hears(Ack(number), sender=requests[0][0])
    bench.runs(200)
    assert (Change.SUSPECTED, target) not in bench.changes()


def test_a_member_that_answers_nobody_is_suspected_then_dead() -> None:
    bench = Bench(1)
    bench.until_ping()
    bench.runs(220)
    assert bench.changes() == [(Change.SUSPECTED, 1)]
    bench.runs(800)
    assert bench.changes() == [(Change.DEAD, 1)]
    assert bench.gossip._swim.living == 1


def test_only_the_target_and_its_helpers_can_answer_a_probe() -> None:
    bench = Bench(1, 2)
    target, number = bench.until_ping()
    bench.hears(Ack(number), sender=3 - target)
    bench.hears(Ack(number + 1), sender=target)
    bench.hears(Nack(number), sender=3 - target)
    bench.runs(220)
    assert bench.changes() == [(Change.SUSPECTED, target)]


def test_who_is_asked_for_another_passes_the_answer_on() -> None:
    bench = Bench(1, 2)
    bench.hears(PingRequest(55, 2), sender=1)
    to, ping = [(to, one.body) for to, one in bench.said if isinstance(one.body, Ping)][-1]
    assert to == 2
    assert isinstance(ping, Ping)
    bench.hears(Ack(ping.number), sender=3)  # not the target
    bench.hears(Ack(ping.number), sender=2)
    assert (1, Ack(55)) in [(to, one.body) for to, one in bench.said]


def test_who_is_asked_for_another_in_vain_says_so() -> None:
    bench = Bench(1)
    bench.hears(PingRequest(55, 2), sender=1)
    assert (1, Nack(55)) not in bench.runs(60)
    assert (1, Nack(55)) in bench.runs(40)


def test_more_than_a_bounded_number_of_requests_for_others_is_not_answered_p12() -> None:
    bench = Bench(1)
    for number in range(RELAYS_MAX + 10):
        bench.hears(PingRequest(number, 2), sender=1)
    assert len(bench.gossip._swim.detector._relays) == RELAYS_MAX


# -- suspicion and incarnations (SWIM, 4.2; Lifeguard, 4.2 and 4.3) --------------------------------------------------


def test_who_is_suspected_speaks_up_with_a_higher_incarnation() -> None:
    bench = Bench(1)
    before = bench.gossip.health
    bench.hears(News(), suspect(ME, 1))
    assert bench.gossip.me == alive(ME, 1)
    assert bench.gossip.health == before + 1
    bench.runs(200)
    assert any(alive(ME, 1) in message.updates for _to, message in bench.said)


def test_old_accusations_are_passed_by() -> None:
    bench = Bench(incarnation=5)
    bench.hears(News(), suspect(ME, 1, incarnation=4), alive(ME, 5))
    assert bench.gossip.me.incarnation == 5


def test_the_word_of_an_earlier_life_is_answered_with_a_higher_incarnation() -> None:
    bench = Bench()
    bench.hears(News(), left(ME, 41))
    assert bench.gossip.me == alive(ME, 42)
    bench.hears(News(), alive(ME, 42, Metadata("10.9.9.9:1")))
    assert bench.gossip.me == alive(ME, 43)
    assert bench.gossip.health == 0


def test_an_incarnation_has_an_end_and_nothing_breaks_there() -> None:
    bench = Bench()
    bench.hears(News(), dead(ME, COUNT_MAX))
    assert bench.gossip.me.incarnation == COUNT_MAX


def test_a_suspect_that_speaks_up_is_believed_and_keeps_its_time() -> None:
    bench = Bench(1, 2)
    bench.hears(News(), suspect(2, 1))
    bench.hears(News(), alive(2, 1))
    assert bench.changes() == [(Change.SUSPECTED, 2), (Change.REFUTED, 2)]
    assert bench.gossip._swim._suspects == {}


def test_messages_to_a_suspect_tell_it_so() -> None:
    """Lifeguard's buddy system: it must know as soon as possible, to speak up."""
    bench = Bench(1, 2)
    bench.hears(News(), suspect(2, 1))
    while bench.gossip.unsent:
        bench.runs(20)
    bench.hears(Ping(1), sender=2)
    assert bench.said[-1] == (2, Message(Ack(1), [suspect(2, 1)]))


def test_more_accusers_make_a_suspicion_shorter_each_counts_once() -> None:
    suspicion = begin(LAN, 100, accuser=1, now_ms=0)
    lengths = [suspicion.ends_ms]
    for accuser in (1, 2, 2, 3, 4):
        assert suspicion.confirm(accuser) == (suspicion.ends_ms != lengths[-1])
        lengths.append(suspicion.ends_ms)
    assert lengths == [48_000, 48_000, 22_763, 22_763, 8_000, 8_000]


def test_where_few_can_agree_a_suspicion_is_as_short_as_can_be() -> None:
    assert begin(LAN, 3, accuser=1, now_ms=0).ends_ms == 4_000


def test_another_accuser_is_passed_on() -> None:
    bench = Bench(*range(1, 9))
    bench.hears(News(), suspect(2, 1))
    while bench.gossip.unsent:
        bench.runs(20)
    unsent = []
    for source in (1, 3):
        bench.hears(News(), suspect(2, source))
        unsent.append(bench.gossip.unsent)
    assert unsent == [0, 1]
    bench.hears(News(), suspect(2, 4, incarnation=1))
    assert bench.changes() == [(Change.SUSPECTED, 2)]


def test_an_accusation_that_this_member_has_itself_joins_the_others() -> None:
    bench = Bench(*range(1, 9))
    target, _number = bench.until_ping()
    bench.hears(News(), suspect(target, 9))
    bench.runs(220)
    record = bench.gossip._swim.table.get(target)
    assert record is not None
    assert record.suspicion is not None
    assert record.suspicion.accusers == [9, ME]


def test_a_target_that_is_dead_when_its_probe_ends_is_not_suspected() -> None:
    bench = Bench(1, 2)
    target, _number = bench.until_ping()
    bench.hears(News(), dead(target))
    bench.runs(220)
    assert bench.changes() == [(Change.DEAD, target)]


# -- local health (Lifeguard, 4.1) --------------------------------------------------


def test_helpers_that_say_they_heard_nothing_show_that_this_member_is_well() -> None:
    bench = Bench(1, 2, 3)
    _target, number = bench.until_ping()
    helpers = [to for to, body in bench.runs(120) if isinstance(body, PingRequest)]
    for helper in helpers:
        bench.hears(Nack(number), sender=helper)
    bench.runs(120)
    assert helpers
    assert bench.gossip.health == 0


def test_silence_all_around_makes_health_bad_and_probes_slow_until_answers_come() -> None:
    bench = Bench(1, 2, 3, config=replace(FAST, suspicion_max_mult=100))
    bench.until_ping()
    bench.runs(3_000)
    ill = bench.gossip.health
    assert ill > 2
    _to, _number = bench.until_ping()
    begun = bench.now
    target, number = bench.until_ping()
    assert bench.now - begun >= FAST.probe_ms * ill
    before = bench.gossip.health
    bench.hears(Ack(number), sender=target)
    assert bench.gossip.health == before - 1
    assert bench.gossip.health <= FAST.health_max


def test_a_pause_of_this_member_is_not_counted_against_others() -> None:
    bench = Bench(1, 2)
    bench.hears(News(), suspect(2, 1))
    bench.until_ping()
    bench.hears(PingRequest(5, 2), sender=1)
    bench.changes()
    bench.now += 60_000
    bench.runs(20)
    assert bench.changes() == []
    assert bench.gossip.health == 1
    bench.runs(6_000)
    assert (Change.DEAD, 2) in bench.changes()


# -- joining, leaving, metadata --------------------------------------------------------------------------------------


def test_a_contact_is_looked_for_until_it_is_known() -> None:
    bench = Bench()
    assert bench.runs(1_000) == []
    bench.gossip.join([ME, 1], bench.now)
    requests = [to for to, body in bench.runs(1_000) if isinstance(body, SyncRequest)]
    assert requests == [1] * 5  # every probe interval: it is alone
    bench.hears(News(), alive(1))
    assert bench.changes() == [(Change.JOINED, 1)]
    assert [to for to, body in bench.runs(5_000) if isinstance(body, SyncRequest)] == [1]


def test_more_contacts_than_members_have_room_are_refused_p12() -> None:
    with pytest.raises(ValueError, match="contacts"):
        Bench(config=replace(FAST, members_max=2)).gossip.join(range(1, 4), 0)


def test_a_member_that_leaves_says_so_and_asks_nobody_any_more() -> None:
    bench = Bench(1, 2)
    bench.until_ping()
    bench.gossip.leave()
    said = bench.runs(2_000)
    assert not any(isinstance(body, Ping) for _to, body in said)
    assert bench.gossip.unsent == 0
    assert sum(left(ME) in message.updates for _to, message in bench.said) == 4 * 1
    bench.hears(News(), dead(ME))
    assert bench.gossip.me == left(ME)


def test_who_has_left_is_gone_whatever_was_believed_and_is_back_with_a_higher_incarnation() -> None:
    bench = Bench(1)
    bench.hears(News(), suspect(1, 2))
    bench.hears(News(), left(1))
    bench.hears(News(), dead(1))
    bench.hears(News(), alive(1, 1))
    assert bench.changes() == [(Change.SUSPECTED, 1), (Change.LEFT, 1), (Change.JOINED, 1)]


def test_other_metadata_are_told_and_shown() -> None:
    bench = Bench(1)
    bench.gossip.revise(Metadata("10.0.0.1:7400", version="2"))
    assert bench.gossip.me.incarnation == 1
    bench.hears(News(), alive(1, 1, Metadata("x:1")))
    bench.hears(News(), alive(1, 2, Metadata("x:1")))
    assert bench.changes() == [(Change.UPDATED, 1)]
    found = bench.gossip.member(1)
    assert found is not None
    assert found.metadata == Metadata("x:1")
    assert bench.gossip.members == [found]


def test_who_comes_as_a_suspect_has_joined_and_is_suspected() -> None:
    bench = Bench()
    bench.hears(News(), suspect(1, 2))
    assert bench.changes() == [(Change.JOINED, 1), (Change.SUSPECTED, 1)]


# -- the dead --------------------------------------------------------------------------------------------------------


def test_the_dead_do_not_come_back_from_old_news() -> None:
    bench = Bench()
    bench.hears(News(), dead(1, 3))
    bench.hears(SyncRest(), alive(1, 3))
    assert bench.state(1) is State.DEAD
    assert bench.changes() == []
    bench.hears(News(), dead(1, 4))
    assert bench.changes() == []


def test_the_dead_are_forgotten_after_a_time_that_all_count_alike() -> None:
    bench = Bench(config=replace(FAST, gone_ms=10_000))
    bench.hears(SyncRest(), dead(1, age_ms=9_000), dead(2, age_ms=10_000), dead(3))
    assert bench.state(2) is None
    bench.runs(1_200)
    assert (bench.state(1), bench.state(3)) == (None, State.DEAD)
    bench.hears(everything(), sender=1)
    assert [(one.id, one.age_ms) for one in bench.said[-1][1].updates] == [(3, 1_200), (ME, 0)]


def test_the_dead_still_get_the_news_for_a_while_and_are_asked_now_and_then() -> None:
    bench = Bench(1)
    bench.hears(News(), dead(1))
    said = bench.runs(200)
    assert (1, News()) in said
    assert any(isinstance(body, SyncRequest) for to, body in bench.runs(5_000) if to == 1)
    bench.runs(30_000)
    bench.gossip.broadcast(Rumor(b"k", 1, 1, b""), bench.now)
    assert (1, News()) not in bench.runs(400)


def test_the_table_is_bounded_those_gone_longest_make_place_p12() -> None:
    bench = Bench(1, 2, config=replace(FAST, members_max=3))
    bench.hears(News(), dead(3))
    bench.runs(20)
    bench.hears(News(), alive(4))
    assert [one.id for one in bench.gossip.members] == [1, 2, 4]
    bench.hears(News(), alive(5))
    assert [one.id for one in bench.gossip.members] == [1, 2, 4]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3), st.sampled_from(State)), max_size=80))
def test_whatever_is_heard_of_whomever_the_table_and_its_queue_stay_within_their_bounds_p12(
    said: list[tuple[int, int, State]],
) -> None:
    bench = Bench(config=replace(FAST, members_max=4, gone_ms=1_000))
    for member, incarnation, state in said:
        bench.hears(News(), Update(member, incarnation, state, member, HERE))
        bench.runs(40)
        swim = bench.gossip._swim
        known = {one.id: one.state for one in bench.gossip.members}
        assert len(known) <= 4
        assert sorted(swim.table._ring) == sorted(known)
        assert bench.gossip.unsent <= 5
        assert swim.living == 1 + sum(state in (State.ALIVE, State.SUSPECT) for state in known.values())
        assert swim._suspects.keys() == {one for one, state in known.items() if state is State.SUSPECT}
