"""Who founds, who joins, who waits: the rules of `agent.cluster.formation`, one at a time."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from agent.cluster.formation import (
    ALIVE_MS,
    PATIENCE_MS,
    SETTLE_MS,
    TICK_MS,
    Action,
    Answered,
    Ask,
    Asked,
    Fail,
    Formation,
    Found,
    Join,
    Member,
    Say,
    Store,
    Stored,
    Tick,
)
from agent.cluster.standing import (
    Founder,
    FoundingSet,
    Hello,
    PromiseAsked,
    Record,
    RefuseAsked,
    Standing,
    founding_hash,
)
from agent.errors import ConfigError
from agent.service.common import ID_ALPHABET

A, B, C, D = (Founder(name, node, f"{name}:1") for node, name in enumerate("abcd", 1))
LIST = ("a:1", "b:1", "c:1")
ABC = FoundingSet(1, (A, B, C))
NOTHING = Record()


class Agent:
    """A Formation with its disk, and a clock. Its own list is LIST unless said otherwise."""

    def __init__(
        self, me: Founder = A, join: tuple[str, ...] = LIST, expect: int = 3, record: Record = NOTHING, **more: Member
    ) -> None:
        self.me, self.join, self.expect = me, join, expect
        self.hash = founding_hash(join, expect)
        self.formation = Formation(me, join, expect, record, jitter=lambda _below: 0, **more)
        self.now_ms = 1_000_000
        self.names: dict[str, tuple[str, ...]] = {one: (one,) for one in join}

    def tick(self, after_ms: int = TICK_MS) -> list[Action]:
        self.now_ms += after_ms
        return self.formation.step(Tick(self.names), self.now_ms)

    def hear(
        self, who: Founder, promised: FoundingSet | None = None, refused_to: int = 0, **more: object
    ) -> list[Action]:
        standing = Standing(who, self.hash, promised, refused_to)
        return self.formation.step(Answered(who.address, msgspec.structs.replace(standing, **more)), self.now_ms)

    def ask(self, kind: type[PromiseAsked | RefuseAsked], who: Founder, founders: FoundingSet) -> list[Action]:
        return self.formation.step(Asked(kind(who, self.hash, founders)), self.now_ms)

    def stored(self) -> list[Action]:
        return self.formation.step(Stored(), self.now_ms)

    def promised(self, founders: FoundingSet = ABC) -> Agent:
        """With this promise on its disk, and with all of its members heard."""
        self.formation = Formation(
            self.me, self.join, self.expect, Record(founders, 0, self.hash), jitter=lambda _below: 0
        )
        self.tick()
        for one in founders.founders:
            if one != self.me:
                self.hear(one)
        return self


def done(actions: list[Action]) -> list[Action]:
    """Without the questions."""
    return [one for one in actions if not isinstance(one, Ask)]


def asked(actions: list[Action]) -> dict[str, str]:
    return {one.address: type(one.question).__name__ for one in actions if isinstance(one, Ask)}


# -- founding ----------------------------------------------------------------------------------------------------------


def test_the_lowest_makes_a_set_of_those_it_hears_when_they_have_been_the_same_for_a_moment() -> None:
    agent = Agent()
    assert asked(agent.tick()) == {"b:1": "Hello", "c:1": "Hello"}
    agent.hear(B)
    agent.hear(C)
    assert done(agent.tick()) == []
    assert done(agent.tick(SETTLE_MS)) == [Store(Record(ABC, 0, agent.hash))]


def test_nothing_is_told_of_a_promise_before_it_is_stored() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B, ABC)
    agent.hear(C, ABC)
    actions = agent.tick()
    assert done(actions) == [Store(Record(ABC, 0, agent.hash))]
    assert asked(actions) == {"b:1": "Hello", "c:1": "Hello"}
    assert agent.formation.standing.promised is None
    assert done(agent.tick()) == []
    agent.stored()
    assert agent.formation.standing.promised == ABC


def test_a_promise_is_passed_on_as_soon_as_it_is_stored() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B)
    agent.hear(C, ABC)
    agent.tick()
    assert asked(agent.stored()) == {"b:1": "PromiseAsked", "c:1": "Hello"}


def test_who_holds_all_promises_founds_once() -> None:
    agent = Agent().promised()
    agent.hear(B, ABC)
    assert done(agent.tick()) == []
    agent.hear(C, ABC)
    assert [done(agent.tick()), done(agent.tick())] == [[Found(ABC)], []]
    assert agent.formation.standing.cluster == ABC.cluster
    assert agent.formation.standing.members == ABC.founders


def test_one_alone_founds_with_the_same_steps() -> None:
    agent = Agent(join=("a:1",), expect=1)
    agent.tick()
    agent.tick()
    (store,) = done(agent.tick(SETTLE_MS))
    assert store == Store(Record(FoundingSet(1, (A,)), 0, agent.hash))
    agent.stored()
    assert done(agent.tick()) == [Found(FoundingSet(1, (A,)))]


def test_one_that_is_asked_promises_if_it_hears_all_members() -> None:
    agent = Agent(B)
    agent.tick()
    agent.hear(A, ABC)
    assert agent.ask(PromiseAsked, A, ABC) == []
    agent.hear(C)
    assert agent.ask(PromiseAsked, A, ABC) == [Store(Record(ABC, 0, agent.hash))]
    assert agent.ask(PromiseAsked, A, ABC) == []


def test_who_is_not_the_lowest_waits_for_a_set() -> None:
    agent = Agent(B)
    agent.tick()
    agent.hear(A)
    agent.hear(C)
    agent.tick()
    assert done(agent.tick(SETTLE_MS)) == []


def test_who_has_not_answered_for_a_while_is_in_no_set() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B)
    agent.tick(ALIVE_MS)
    agent.hear(C)
    assert done(agent.tick(SETTLE_MS)) == done(agent.tick(SETTLE_MS)) == []


def test_of_two_promised_sets_the_least_is_promised() -> None:
    join = (*LIST, "d:1")
    one, other = FoundingSet(1, (A, B, C)), FoundingSet(1, (A, B, D))
    agent = Agent(A, join)
    agent.tick()
    agent.hear(B)
    agent.hear(C, one)
    agent.hear(D, other)
    assert agent.ask(PromiseAsked, D, other) == []
    assert done(agent.tick()) == [Store(Record(one, 0, agent.hash))]


def test_an_entry_of_several_addresses_founds_nothing_but_leads_to_a_cluster() -> None:
    agent = Agent()
    agent.names["c:1"] = ("c:1", "c2:1")
    for _ in range(5):
        agent.tick(SETTLE_MS)
        agent.hear(B)
        assert done(agent.hear(C)) == []
    assert done(agent.tick()) == []
    agent.hear(C, cluster="zzzzzzzz", generation=2, members=(C,))
    assert done(agent.tick()) == [Join("c:1", "zzzzzzzz", 2, (C,))]


@pytest.mark.parametrize(
    "founders",
    [
        FoundingSet(1, (A, B)),
        FoundingSet(1, (B, A, C)),
        FoundingSet(1, (A, B, B)),
        FoundingSet(1, (A, B, D)),
        FoundingSet(1, (Founder("a2", 1, "a:1"), B, C)),
        FoundingSet(1, (A, Founder("a", 2, "b:1"), C)),
    ],
)
def test_a_set_that_is_not_n_entries_of_the_list_with_this_agent_is_not_promised(founders: FoundingSet) -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B, founders)
    agent.hear(C, founders)
    assert agent.ask(PromiseAsked, B, founders) == []
    assert all(store.record.promised != founders for store in done(agent.tick()) if isinstance(store, Store))


def test_the_id_of_a_cluster_is_made_of_its_set() -> None:
    number = int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(ABC)).digest()[:5])
    digits = [ID_ALPHABET[number >> shift & 31] for shift in range(35, -1, -5)]
    assert ABC.cluster == "".join(digits) == "57w94q9b"
    assert FoundingSet(2, ABC.founders).cluster != ABC.cluster


# -- refusing and withdrawing ------------------------------------------------------------------------------------------


def test_a_set_that_was_not_promised_is_refused_when_asked_and_never_promised_again() -> None:
    agent = Agent(B)
    agent.tick()
    assert agent.ask(RefuseAsked, A, ABC) == [Store(Record(None, 1))]
    agent.stored()
    assert agent.formation.standing.refuses(ABC)
    assert agent.ask(RefuseAsked, A, ABC) == []
    agent.hear(A, ABC)
    agent.hear(C, ABC)
    assert agent.ask(PromiseAsked, A, ABC) == []
    assert done(agent.tick()) == []


def test_what_was_promised_is_not_refused() -> None:
    agent = Agent().promised()
    assert agent.ask(RefuseAsked, B, ABC) == []
    assert not agent.formation.standing.refuses(ABC)


def test_a_refusal_of_another_set_keeps_the_promise() -> None:
    agent = Agent().promised()
    other = FoundingSet(3, (A, B, C))
    assert agent.ask(RefuseAsked, B, other) == [Store(Record(ABC, 3, agent.hash))]
    agent.stored()
    assert agent.formation.standing.refuses(other)
    assert not agent.formation.standing.refuses(ABC)


def test_a_promise_is_withdrawn_when_a_member_has_refused_and_only_then() -> None:
    agent = Agent().promised()
    agent.hear(B, FoundingSet(2, ABC.founders))
    assert done(agent.tick()) == []
    agent.hear(B, None, 1)
    assert done(agent.tick()) == [Store(Record(None, 1))]


def test_the_refusal_of_one_that_is_no_member_means_nothing() -> None:
    agent = Agent(join=(*LIST, "d:1")).promised()
    agent.hear(D, None, 7)
    agent.hear(Founder("b2", 9, "b:1"), None, 7)
    assert done(agent.tick()) == []


def test_a_new_set_goes_past_all_that_was_refused() -> None:
    agent = Agent(record=Record(None, 4))
    agent.tick()
    agent.hear(B, None, 6)
    agent.hear(C)
    agent.tick()
    (store,) = done(agent.tick(SETTLE_MS))
    assert isinstance(store, Store)
    assert store.record == Record(FoundingSet(7, ABC.founders), 4, agent.hash)


def test_who_misses_a_member_for_long_asks_the_others_to_refuse_if_another_set_could_be_made() -> None:
    agent = Agent(join=(*LIST, "d:1")).promised()
    agent.hear(B, ABC)
    agent.tick(PATIENCE_MS + 1)
    agent.hear(B)
    assert set(asked(agent.tick()).values()) == {"Hello", "PromiseAsked"}
    agent.hear(D)
    questions = asked(agent.tick())
    assert questions["c:1"] == "RefuseAsked"
    assert questions["d:1"] == "Hello"


def test_who_has_promised_the_greater_of_two_sets_asks_its_members_to_refuse_it() -> None:
    agent = Agent(join=(*LIST, "d:1")).promised(FoundingSet(2, (A, B, D)))
    agent.hear(C, ABC)
    assert asked(agent.tick()) == {"b:1": "RefuseAsked", "c:1": "Hello", "d:1": "RefuseAsked"}


def test_a_lost_disk_that_has_promised_is_told_to_the_operator() -> None:
    agent = Agent().promised()
    agent.hear(B, ABC)
    assert done(agent.tick()) == []
    agent.hear(Founder("c2", 9, "c:1"))
    (say,) = done(agent.tick())
    assert isinstance(say, Say)
    assert say.stuck
    assert "c at c:1" in say.message
    assert done(agent.tick()) == []


# -- joining, and what is founded already ------------------------------------------------------------------------------


def test_a_founded_peer_of_the_promised_set_means_that_it_is_complete() -> None:
    agent = Agent().promised()
    agent.hear(B, ABC, cluster=ABC.cluster, generation=1, members=ABC.founders)
    assert done(agent.tick()) == [Found(ABC)]


def test_another_cluster_is_joined_whatever_was_promised() -> None:
    agent = Agent().promised()
    other = FoundingSet(2, (B, C))
    agent.hear(B, other, cluster=other.cluster, generation=1, members=(B, C))
    for _again in range(2):
        assert done(agent.tick()) == [Join("b:1", other.cluster, 1, (B, C))]
    agent.formation.step(Member(other.cluster, 1, (A, B, C)), agent.now_ms)
    assert done(agent.tick()) == []
    assert agent.formation.standing.cluster == other.cluster


def test_nobody_promises_where_a_cluster_is_known() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B, ABC)
    agent.hear(C, cluster="zzzzzzzz")
    assert agent.ask(PromiseAsked, B, ABC) == []


def test_the_latest_generation_is_joined_and_only_by_an_agent_that_answers() -> None:
    agent = Agent(D, expect=0)
    agent.tick()
    agent.hear(A, cluster="zzzzzzzz", generation=2, members=(A,))
    agent.hear(B, cluster="zzzzzzzz", generation=1)
    assert done(agent.tick()) == [Join("a:1", "zzzzzzzz", 2, (A,))]
    assert done(agent.tick(ALIVE_MS)) == []


def test_one_that_does_not_expect_anybody_only_joins() -> None:
    agent = Agent(expect=0)
    agent.tick()
    agent.hear(B)
    agent.hear(C)
    agent.tick(SETTLE_MS)
    assert done(agent.tick(SETTLE_MS)) == []
    assert agent.formation.standing.founding == ""


def test_one_that_does_not_stand_in_the_list_says_that_it_only_joins() -> None:
    agent = Agent(D)
    (say,) = done(agent.tick())
    assert isinstance(say, Say)
    assert "d:1 does not stand in --join" in say.message
    assert done(agent.tick()) == []


def test_two_clusters_in_one_list_are_refused_by_both_names() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B, cluster="yyyyyyyy")
    agent.hear(C, cluster="zzzzzzzz")
    (fail,) = agent.tick()
    assert isinstance(fail, Fail)
    assert "yyyyyyyy, zzzzzzzz" in fail.message
    assert agent.tick() == []


def test_a_member_whose_list_leads_to_another_cluster_stops() -> None:
    agent = Agent(member=Member("yyyyyyyy", 1, (A,)))
    assert asked(agent.tick()) == {"b:1": "Hello", "c:1": "Hello"}
    agent.hear(B, cluster="yyyyyyyy")
    assert asked(agent.tick()) == {"c:1": "Hello"}
    agent.hear(C, cluster="zzzzzzzz")
    (fail,) = agent.tick()
    assert isinstance(fail, Fail)
    assert "this one to yyyyyyyy" in fail.message


def test_a_member_keeps_telling_what_it_has_promised() -> None:
    agent = Agent(record=Record(ABC, 0, "another list"), member=Member(ABC.cluster, 1, (A, B)))
    assert agent.formation.standing == Standing(A, agent.hash, ABC, 0, ABC.cluster, 1, (A, B))
    assert agent.ask(RefuseAsked, B, FoundingSet(2, ABC.founders)) == []


def test_a_disk_that_has_gone_back_behind_its_promise_is_not_started_with() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(B, ABC, cluster=ABC.cluster)
    (fail,) = agent.tick()
    assert isinstance(fail, Fail)
    assert ABC.cluster in fail.message


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expect"), [(3, 1), (4, 2), (3, 4), (12, 10)])
def test_half_of_the_list_or_more_than_all_of_it_cannot_found(size: int, expect: int) -> None:
    join = ("a:1", *(f"h{number}:1" for number in range(size - 1)))
    with pytest.raises(ConfigError, match=f"--bootstrap-expect {expect}: with {size} addresses"):
        Agent(join=join, expect=expect)


def test_an_entry_counts_once() -> None:
    with pytest.raises(ConfigError, match="with 3 addresses"):
        Agent(join=(*LIST, "a:1", "b:1"), expect=4)


@pytest.mark.parametrize(
    ("me", "join", "expect"), [(A, (*LIST, "d:1"), 3), (A, LIST, 2), (A, LIST, 0), (Founder("a", 1, "b:1"), LIST, 3)]
)
def test_with_a_promise_on_disk_list_and_number_and_address_stay_as_they_were(
    me: Founder, join: tuple[str, ...], expect: int
) -> None:
    record = Record(ABC, 0, founding_hash(LIST, 3))
    Agent(record=record)
    with pytest.raises(ConfigError, match=f"found cluster {ABC.cluster} with a at a:1, b at b:1, c at c:1"):
        Agent(me, join, expect, record)


def test_the_order_of_the_list_means_nothing() -> None:
    assert founding_hash(LIST, 3) == founding_hash(LIST[::-1], 3) != founding_hash(LIST, 2)


def test_agents_of_different_lists_promise_nothing_to_each_other_and_say_so_once() -> None:
    agent = Agent()
    agent.tick()
    agent.hear(C)
    (say,) = agent.hear(B, ABC, founding=founding_hash(LIST, 2))
    assert isinstance(say, Say)
    assert "b at b:1 was not started with this agent's --join and --bootstrap-expect 3" in say.message
    assert agent.hear(B, ABC, founding=founding_hash(LIST, 2)) == []
    agent.formation.step(Asked(PromiseAsked(B, founding_hash(LIST, 2), ABC)), agent.now_ms)
    agent.tick()
    assert done(agent.tick(SETTLE_MS)) == []


def test_one_with_another_list_that_does_not_stand_in_ours_is_nobody_to_speak_of() -> None:
    agent = Agent()
    agent.tick()
    assert agent.formation.step(Asked(PromiseAsked(D, founding_hash(("d:1",), 1), ABC)), agent.now_ms) == []


def test_one_that_answers_under_another_name_than_its_entry_is_told_of() -> None:
    agent = Agent()
    agent.tick()
    (say,) = agent.formation.step(Answered("b:1", Standing(D, agent.hash)), agent.now_ms)
    assert isinstance(say, Say)
    assert "b:1 is answered by d at d:1" in say.message


def test_another_name_of_this_agent_is_not_another_agent() -> None:
    agent = Agent()
    agent.tick()
    assert agent.formation.step(Answered("b:1", agent.formation.standing), agent.now_ms) == []
    agent.hear(C)
    agent.tick()
    assert done(agent.tick(SETTLE_MS)) == []


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        Hello(A, ""),
        PromiseAsked(A, "f" * 32, ABC),
        RefuseAsked(A, "f" * 32, ABC),
        Standing(A, "", ABC, 3, "zzzzzzzz", 2, (A, B)),
    ],
)
def test_what_is_said_is_read_as_it_was_meant(value: msgspec.Struct) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


@pytest.mark.parametrize(
    "founder", [["", 1, "a:1"], ["a" * 65, 1, "a:1"], ["a", 0, "a:1"], ["a", 2**53, "a:1"], ["a", 1, "a" * 300]]
)
def test_what_no_agent_is_called_is_not_read(founder: list[object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode([founder, ""]), type=Hello)
