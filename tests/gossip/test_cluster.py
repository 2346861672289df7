"""Whole clusters on a simulated network: they find each other, agree on who is there, and hear of everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gossip.measure import detection, percentile, quiet, spread
from tests.gossip.simulation import Cluster
from transport.gossip import FAST, LAN, Change, Metadata, Rumor, State


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 3, 12])
def test_members_that_know_one_contact_find_all(size: int, seed: int) -> None:
    cluster = Cluster(size, seed, warm=False)
    for member in range(2, size + 1):
        cluster.members[member].gossip.join([1], 0)
    assert cluster.settle(5_000) is not None


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_member_is_dead_for_all_within_seconds_and_nobody_else_is_even_suspected(seed: int) -> None:
    cluster = Cluster(20, seed)
    cluster.run(2_000)
    cluster.kill(7)
    cluster.run(4_000)
    assert len(cluster.times(Change.DEAD, 7)) == 19
    assert cluster.wrongly(Change.SUSPECTED, cluster.running) == 0


def test_a_member_that_leaves_is_gone_for_all_at_once_and_is_never_suspected() -> None:
    cluster = Cluster(10, 1)
    cluster.run(500)
    left_ms = cluster.now
    cluster.members[3].gossip.leave()
    cluster.run(1_000)
    assert cluster.members[3].gossip.unsent == 0
    cluster.kill(3)
    cluster.run(5_000)
    assert len(cluster.times(Change.LEFT, 3)) == 9
    assert max(cluster.times(Change.LEFT, 3, left_ms)) <= 1_000
    assert cluster.times(Change.SUSPECTED, 3) == []


@pytest.mark.parametrize("rest_ms", [0, 10_000])
def test_an_id_that_comes_back_with_a_lower_incarnation_takes_the_next(rest_ms: int) -> None:
    cluster = Cluster(5, 1)
    for _ in range(3):
        cluster.members[4].gossip.revise(Metadata("elsewhere:1"))
    cluster.run(2_000)
    cluster.kill(4)
    cluster.run(rest_ms)
    again = cluster.start(4)
    again.join([1, 2], cluster.now)
    assert cluster.settle(10_000) is not None
    cluster.run(2_000)
    assert again.me.incarnation > 3
    for one in (1, 2, 3, 5):
        found = cluster.members[one].gossip.member(4)
        assert found is not None
        assert found.metadata == again.me.metadata


def test_a_member_that_only_one_cannot_hear_is_not_declared_dead() -> None:
    """SWIM's reason for asking through others: one bad link is nobody's death."""
    cluster = Cluster(6, 1)
    cluster.cut({1}, {2})
    cluster.run(60_000)
    assert cluster.wrongly(Change.DEAD, cluster.running) == 0
    assert cluster.wrongly(Change.SUSPECTED, cluster.running) == 0


def test_a_member_that_hears_but_is_not_heard_is_dead_for_the_others_and_back_when_it_is() -> None:
    cluster = Cluster(6, 1)
    cluster.cut({1}, set(range(2, 7)), one_way=True)
    cluster.run(10_000)
    assert len(cluster.times(Change.DEAD, 1)) == 5
    cluster.heal()
    assert cluster.settle(20_000) is not None


def test_a_member_that_was_paused_does_not_accuse_the_others_and_is_back_at_once() -> None:
    cluster = Cluster(12, 1)
    cluster.run(1_000)
    cluster.pause(5, 30_000)
    cluster.run(30_000)
    assert len(cluster.times(Change.DEAD, 5)) == 11
    assert cluster.settle(5_000) is not None
    cluster.run(5_000)
    assert cluster.wrongly(Change.DEAD, cluster.running - {5}) == 0


def test_the_dead_are_forgotten_everywhere_and_do_not_come_back_from_those_who_forget_later() -> None:
    cluster = Cluster(6, 1, replace(FAST, gone_ms=30_000))
    cluster.kill(2)
    cluster.run(20_000)
    cluster.start(9).join([1], cluster.now)  # learns of the death late
    cluster.run(25_000)
    assert [one for one in cluster.running for other in cluster.members[one].gossip.members if other.id == 2] == []
    assert len(cluster.times(Change.JOINED, 2)) == 0


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(3, 9),
    st.sampled_from([0.0, 0.3, 0.7]),
    st.sets(st.integers(1, 9)),
    st.booleans(),
    st.sets(st.integers(1, 9), max_size=2),
)
def test_membership_converges_after_any_cut_has_healed(
    seed: int, size: int, loss: float, one_side: set[int], one_way: bool, killed: set[int]
) -> None:
    cluster = Cluster(size, seed, loss=loss)
    everybody = set(cluster.members)
    cluster.cut(everybody & one_side, everybody - one_side, one_way=one_way)
    for member in killed & everybody:
        cluster.kill(member)
    cluster.run(4_000 + 500 * (seed % 20))
    cluster.heal()
    assert cluster.settle(90_000) is not None


def test_a_rumor_reaches_all_within_half_a_second_in_a_cluster_of_fifty() -> None:
    found = spread(50, FAST, 1, 8)
    assert (found.never, found.late) == (0, 0)
    assert max(found.all) < 500


def test_anti_entropy_completes_what_gossip_leaves_out_under_loss() -> None:
    """Gossip is made nearly deaf, so that it is the exchanges that complete."""
    config = replace(FAST, retransmit_mult=1, gossip_nodes=1, piggyback_bytes=0)
    cluster = Cluster(12, 1, config, loss=0.25)
    for number in range(20):
        cluster.broadcast(1 + number % 12, Rumor(b"run-%d" % number, 1, 1, bytes(50)))
    cluster.run(1_500)
    assert any(len(heard) < 12 for heard in cluster.heard.values())
    cluster.run(60_000)
    assert all(len(heard) == 12 for heard in cluster.heard.values())


def test_what_all_have_forgotten_is_not_brought_back_by_one_who_comes_late() -> None:
    cluster = Cluster(8, 1)
    cluster.cut({8}, set(range(1, 8)))
    cluster.broadcast(1, Rumor(b"k", 1, 3, b"x"))
    cluster.members[8].gossip.broadcast(Rumor(b"k", 1, 2, b"w"), cluster.now)
    cluster.run(2_000)
    for member in range(1, 8):
        cluster.members[member].gossip.forget(b"k", (1, 3), cluster.now)
    cluster.heal()
    cluster.run(20_000)
    assert all(len(cluster.members[one].gossip.rumors) == 0 for one in range(1, 8))


def test_lifeguard_keeps_slow_members_from_having_others_declared_dead() -> None:
    with_it = quiet(20, FAST, 3, 60, slow=3)
    assert with_it.dead == 0
    without = quiet(20, replace(FAST, health_max=0, suspicion_max_mult=1), 3, 60, slow=3)
    assert with_it.slow_dead <= without.slow_dead


def test_figures_are_near_those_that_docs_gossip_md_tells() -> None:
    death = detection(10, FAST, 1, 3)
    assert death.missed == 0
    assert percentile(death.all, 50) < 2_500
    assert 3_000 < percentile(detection(10, LAN, 1, 3).all, 50) < 12_000
    peace = quiet(10, FAST, 1, 20)
    assert (peace.suspected, peace.dead) == (0, 0)
    assert 10 < peace.messages < 12
    assert peace.bytes < 1_000


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = (Cluster(6, 5, loss=0.3) for _ in range(2))
    for cluster in (one, other):
        cluster.stutter(2, 1_000)
        cluster.run(10_000)
    assert one.seen == other.seen
    assert one.counts == other.counts
    assert any(seen.event.member.state is State.SUSPECT for seen in one.seen)
