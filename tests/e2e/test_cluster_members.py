"""Agents come, go and are replaced while the others run (P7); who does not belong stays outside (P8)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.client import Refused, path
from agent.cluster.keys import Keys, create, new_key
from tests.e2e.cluster import Cluster, Member, cluster, free_ports, submit, until, view, wait_final

pytestmark = pytest.mark.timeout(240)

PRIME = [sys.executable, "-m", "agent.cli.main"]


def prime(member: Member, *words: str) -> str:
    """What a command prints that asks this agent."""
    environment = {**os.environ, "PRIME_HOST": member.url}
    done = subprocess.run([*PRIME, *words], env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def works(one: Cluster, member: Member, key: str) -> None:
    """A run that is asked for through this agent comes to its end."""
    member.apply("work", "echo done")
    assert wait_final(one.client([member]), submit(one.client([member]), "work", key))["state"] == "success"


def wait_gone(asked: Member, name: str) -> None:
    """Return when this agent names that one no more."""
    until(lambda: name not in {row["id"] for row in asked.cluster()["agents"]}, f"{name} has gone")


@pytest.mark.slow
def test_founders_start_in_any_order_the_fourth_stands_by_and_the_fifth_makes_five_voters_p7(tmp_path: Path) -> None:
    five = Cluster(tmp_path)
    try:
        five.start([2, 0, 1])
        five.wait_roles(leader=1, follower=2)
        first, *_others = five.members
        works(five, first, "three")
        fourth = five.newcomer("fourth")
        fourth.start()
        five.wait_roles(leader=1, follower=2, standby=1)
        works(five, fourth, "four")
        five.newcomer("fifth").start()
        five.wait_roles(leader=1, follower=4)
        until(lambda: len({view(one) for one in five.members}) == 1, "all see the same")
        assert {one["state"] for one in first.cluster()["agents"]} == {"alive"}
        shown = [prime(one, "cluster", "status").splitlines() for one in five.members]
        for lines in shown:
            assert len(lines) == 7  # a headline, a head, five agents
            assert lines[0] == shown[0][0]
        assert [one.stop() for one in five.members] == [0] * 5
    finally:
        five.stop()


def test_an_agent_is_drained_leaves_by_itself_and_never_returns_p7(tmp_path: Path) -> None:
    with cluster(tmp_path) as three:
        leader = three.leader()
        going, staying = three.others(leader)
        gone = going.id
        prime(staying, "cluster", "transfer", staying.id)
        assert three.leader() is staying
        prime(leader, "cluster", "transfer", going.id)
        assert three.leader() is going  # it leads when it is taken out
        prime(leader, "cluster", "drain", gone)
        assert three.agent(gone)["state"] == "draining"
        works(three, going, "drained")
        assert "has left" in prime(leader, "cluster", "leave", gone)
        assert going.wait_exit() != 0
        assert "removed from its cluster for good" in going.text
        rest = [leader, staying]
        three.leader(among=rest)
        for one in rest:
            wait_gone(one, gone)
            works(three, one, f"left-{one.name}")
        going.start(wait=False)  # it was removed for ever
        assert going.wait_exit() != 0
        assert going.text.count("removed from its cluster for good") >= 2
        assert gone not in {row["id"] for row in leader.cluster()["agents"]}
        works(three, leader, "after")


def test_an_agent_that_was_removed_while_it_was_away_is_told_when_it_comes_back_p7(tmp_path: Path) -> None:
    with cluster(tmp_path) as three:
        away, asked = three.others(three.leader())
        gone = away.id
        away.kill()
        asked.client().delete(path("cluster", "agents", gone))
        wait_gone(asked, gone)
        away.start(wait=False)
        assert away.wait_exit() != 0
        assert "removed from its cluster for good" in away.text


@pytest.mark.slow
def test_an_agent_with_an_empty_disk_comes_as_a_new_one_and_the_old_is_removed_by_hand_p9(tmp_path: Path) -> None:
    with cluster(tmp_path) as three:
        wiped, asked = three.others(three.leader())
        old = wiped.id
        works(three, asked, "before")
        wiped.kill()
        shutil.rmtree(wiped.data_dir)
        wiped.start()
        new = wiped.id
        assert new != old
        works(three, wiped, "wiped")
        with pytest.raises(Refused, match="no agent"):
            asked.client().delete(path("cluster", "agents", "nobody"))
        asked.client().delete(path("cluster", "agents", old))
        three.wait_roles(leader=1, follower=2)
        assert {one.id for one in three.members} == {row["id"] for row in asked.cluster()["agents"]}
        works(three, wiped, "voter")
        assert "a frame is passed by" not in wiped.text


@pytest.mark.slow
def test_an_agent_with_another_key_stays_outside_and_says_so_p8(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as one:
        stranger = one.newcomer("stranger")
        create(tmp_path / "other.key", Keys((new_key(),)))
        stranger.options += ("--cluster-key", str(tmp_path / "other.key"))
        stranger.start(wait=False)
        until(lambda: "the cluster key of one" in stranger.text, "it says why")
        assert stranger.runs
        assert len(one.members[0].cluster()["agents"]) == 1
        assert not (stranger.data_dir / "log").exists() or not list((stranger.data_dir / "log").iterdir())
        assert stranger.stop() == 0


def test_an_agent_whose_list_leads_into_two_clusters_refuses_with_a_sentence(tmp_path: Path) -> None:
    first = Cluster(tmp_path, 1)
    (tmp_path / "second").mkdir()
    second = Cluster(tmp_path / "second", 1, key=first.key)
    try:
        first.start()
        second.start()
        newcomer = first.newcomer("newcomer")
        newcomer.options += ("--join", f"{first.join},{second.join}")
        newcomer.start(wait=False)
        assert newcomer.wait_exit() == 1
        assert "belong to different clusters" in newcomer.text
    finally:
        first.stop()
        second.stop()


def test_an_agent_that_comes_back_at_another_address_is_found_there_p7(tmp_path: Path) -> None:
    with cluster(tmp_path) as three:
        mover, asked = three.others(three.leader())
        mover.stop()
        (port,) = free_ports(1)
        mover.address = f"127.0.0.1:{port}"
        mover.options += ("--bind", mover.address)
        mover.start()
        until(lambda: three.agent(mover.id, asked)["address"] == mover.address, "its row follows")
        works(three, mover, "moved")


@pytest.mark.slow
def test_two_agents_are_one_voter_and_the_last_voter_hands_over_before_it_leaves_p7(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as two:
        two.wait_roles(leader=1, standby=1)
        leader = two.leader()
        (other,) = two.others(leader)
        gone = leader.id
        works(two, leader, "two")
        prime(other, "cluster", "leave", gone)
        assert leader.wait_exit() != 0
        two.wait_roles(leader=1)
        works(two, other, "one")
