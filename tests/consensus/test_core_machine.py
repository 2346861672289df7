"""A small cluster in the hands of hypothesis: any lawful thing may come next, and no promise is broken by it.

The seeded simulator gets far in realistic worlds; here the steps themselves are what is searched, and a failure is
shrunk to the few that matter. What is looked at in every step stands in `tests.simulator.invariants`; what is added
here are the sentences of this file's invariants. `EXAMPLES=5000 pytest tests/consensus/test_core_machine.py` runs more.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus import configuration
from consensus.configuration import Change, ConfChange, ConfChangeKind, Transition
from consensus.messages import EntryKind
from consensus.node import Node
from consensus.ready import Role
from tests.simulator import rest
from tests.simulator.by_hand import ByHand
from tests.simulator.machine import Kind
from tests.simulator.member import Member, Options
from tests.simulator.plan import Limits

EXAMPLES: Final = int(os.environ.get("EXAMPLES", "120"))
STEPS: Final = 60
NODES_MAX: Final = 6
ELECTION_TICKS: Final = 4
NARROW: Final = Limits(message_bytes=40, inflight_messages=2, uncommitted_bytes=60, committed_bytes=50)

LEADER: Final = 0  # in the place of a node's id: whoever leads
ids = st.integers(1, NODES_MAX)
nodes = st.just(LEADER) | ids
several = st.sets(nodes, min_size=1, max_size=3)
messages = st.lists(st.integers(0, 40), min_size=1, max_size=8)
changes = st.lists(
    st.builds(Change, st.sampled_from(ConfChangeKind), ids),
    max_size=3,
    unique_by=lambda change: change.node,
)
# How long everything goes its way after something was done; without that, steps would rarely get further than a vote.
then = st.sampled_from([0, 1, ELECTION_TICKS, 3 * ELECTION_TICKS])


class CoreMachine(RuleBasedStateMachine):
    """A rule passes by nodes that do not exist or do not run."""

    @initialize(
        voters=st.integers(3, 5),
        seed=st.integers(0, 1 << 16),
        pre_vote=st.booleans(),
        check_quorum=st.booleans(),
        limits=st.sampled_from([Limits(), NARROW]),
        elected=st.booleans(),
    )
    def found(self, voters: int, seed: int, pre_vote: bool, check_quorum: bool, limits: Limits, elected: bool) -> None:
        options = Options(ELECTION_TICKS, 1, limits, pre_vote=pre_vote, check_quorum=check_quorum)
        self.cluster = ByHand(voters, options, random.Random(seed))
        self.held: dict[int, int] = {}  # node -> up to where its disk held the committed log
        self.acted: dict[int, int] = {}  # node -> index of the last change of the members that it has applied
        if elected:
            self.cluster.run(4 * ELECTION_TICKS)

    def running(self, *ids: int) -> list[Member]:
        """Those of these nodes that run."""
        leader = self.cluster.leader()
        wanted = {leader.id if node == LEADER and leader is not None else node for node in ids}
        return [member for member in rest.running(self.cluster.members) if member.id in wanted]

    # -- time, and what a node's driver does -------------------------------------------------------------------------

    @rule(ticks=st.integers(1, 3 * ELECTION_TICKS), still=st.sets(nodes, max_size=2), slow=st.sets(nodes, max_size=3))
    def time_passes(self, ticks: int, still: set[int], slow: set[int]) -> None:
        ids_still, ids_slow = ({member.id for member in self.running(*some)} for some in (still, slow))
        self.cluster.run(ticks, ids_still, ids_slow)

    @rule(node=nodes, ticks=st.integers(1, 2 * ELECTION_TICKS))
    def a_clock_runs_ahead(self, node: int, ticks: int) -> None:
        for member in self.running(node):
            for _ in range(ticks):
                member.tick()

    @rule(node=nodes, parts=st.integers(1, 5))
    def a_node_does_some_of_what_its_ready_asks_for(self, node: int, parts: int) -> None:
        for member in self.running(node):
            for _ in range(parts):
                self.cluster.work(member)

    # -- the network -------------------------------------------------------------------------------------------------

    @rule(which=messages, twice=st.booleans(), answered=st.booleans())
    def messages_arrive_in_any_order(self, which: list[int], twice: bool, answered: bool) -> None:
        flight = self.cluster.flight
        for at in which[: len(flight)]:
            sent = flight[at % len(flight)] if twice else flight.pop(at % len(flight))
            self.cluster.deliver(sent)
            for member in self.running(sent.message.to) if answered else ():
                self.cluster.work_off(member)

    @rule(which=messages)
    def messages_are_lost(self, which: list[int]) -> None:
        for at in which[: len(self.cluster.flight)]:
            self.cluster.lose(self.cluster.flight.pop(at % len(self.cluster.flight)))

    @rule(some=several, heard=st.booleans(), hear=st.booleans(), then=then)
    def some_are_cut_off(self, some: set[int], heard: bool, hear: bool, then: int) -> None:
        """Both ways, or one, or not any more."""
        ids = {member.id for member in self.running(*some)}
        others = self.cluster.members.keys() - ids
        self.cluster.cut = set() if heard else {(a, b) for a in ids for b in others}
        self.cluster.cut |= set() if hear else {(b, a) for a in ids for b in others}
        self.cluster.run(then)

    # -- what is asked for -------------------------------------------------------------------------------------------

    @rule(node=nodes, count=st.integers(1, 3), then=then)
    def a_client_proposes(self, node: int, count: int, then: int) -> None:
        for member in self.running(node):
            commands = [self.cluster.command(Kind.SWAP) for _ in range(count)]
            if not self.cluster.ask(member, commands):
                for command in commands:
                    command.refused = True
        self.cluster.run(then)

    @rule(count=st.integers(1, 3), then=then)
    def a_leader_that_nobody_hears_takes_proposals(self, count: int, then: int) -> None:
        for member in self.running(LEADER):
            self.cluster.cut = {(member.id, other) for other in self.cluster.members}
            for _ in range(count):
                self.cluster.ask(member, [self.cluster.command(Kind.SWAP)])
                self.cluster.work_off(member)
        self.cluster.run(then)

    @rule(node=nodes, then=then)
    def a_client_reads(self, node: int, then: int) -> None:
        for member in self.running(node):
            self.cluster.ask(member, [self.cluster.command(Kind.READ)])
        self.cluster.run(then)

    @rule(node=nodes, parts=changes, transition=st.sampled_from(Transition), then=then)
    def members_are_changed(self, node: int, parts: list[Change], transition: Transition, then: int) -> None:
        """One by one or jointly; no parts: a joint configuration is left. An id that has left is never used again."""
        while len(self.cluster.members) < max((part.node for part in parts), default=0):
            self.cluster.spawn()
        left = self.cluster.observer.left
        lawful = tuple(part for part in parts if part.node not in left)
        for member in self.running(node) if lawful or not parts else ():
            member.propose_conf_change(ConfChange(lawful, transition if parts else Transition.AUTO))
        self.cluster.run(then)

    @rule(node=nodes, to=nodes, what=st.sampled_from([Node.transfer_leadership, Node.report_unreachable]), then=then)
    def leadership_is_transferred_or_a_loss_reported(
        self, node: int, to: int, what: Callable[[Node, int], None], then: int
    ) -> None:
        for member in self.running(node):
            for other in self.running(to):
                assert member.node is not None
                what(member.node, other.id)
                self.cluster.observer.look(member)
        self.cluster.run(then)

    @rule(node=nodes)
    def a_node_is_told_to_stand_for_election(self, node: int) -> None:
        for member in self.running(node):
            assert member.node is not None
            member.node.campaign()
            self.cluster.observer.look(member)

    # -- disks and processes -----------------------------------------------------------------------------------------

    @rule(some=several, torn=st.booleans(), back=st.booleans(), then=then)
    def some_crash(self, some: set[int], torn: bool, back: bool, then: int) -> None:
        for member in self.running(*some):
            member.crash(torn=torn)
            if back:
                member.start()
        self.cluster.run(then)

    @rule(torn=st.booleans(), then=then)
    def the_power_fails_and_all_start_again(self, torn: bool, then: int) -> None:
        for member in rest.running(self.cluster.members):
            member.crash(torn=torn)
        self.cluster.start_all()
        self.cluster.run(then)

    @rule(node=nodes, stored=st.booleans(), then=then)
    def a_snapshot_is_made_and_the_log_is_cut(self, node: int, stored: bool, then: int) -> None:
        for member in self.running(node):
            self.cluster.snapshot(member)
            if stored:
                self.cluster.save_snapshot(member)
        self.cluster.run(then)

    # -- what must hold after every rule, beside what the observer sees ----------------------------------------------

    @invariant()
    def a_disk_loses_nothing_that_is_committed(self) -> None:
        """So what was acknowledged, and was on a majority of disks then, is there for ever."""
        truth, base = self.cluster.observer.truth, self.cluster.observer.base
        for node, member in self.cluster.members.items():
            holds = min(member.disk.storage.last_index(), self.cluster.observer.last)
            while holds > base and not member.disk.holds(holds, truth[holds - base].term):
                holds -= 1
            assert holds >= self.held.get(node, 0), f"the disk of {node} held {self.held[node]}, now {holds}"
            self.held[node] = holds

    @invariant()
    def a_node_does_not_forget_a_change_that_it_has_acted_on(self) -> None:
        """The commit index may be behind after a restart (DESIGN.md), but never below that."""
        observer = self.cluster.observer
        changes = [  # a configuration is also known after an index that a snapshot was made at
            index for index in observer.configs if observer.truth[index - observer.base].kind is EntryKind.CONF_CHANGE
        ]
        for node, member in self.cluster.members.items():
            if member.node is not None:
                acted = self.acted.get(node, 0)
                assert member.node.committed >= acted, f"{node} is at {member.node.committed}, and had applied {acted}"
                latest = max((index for index in changes if index <= member.machine.index), default=0)
                self.acted[node] = max(acted, latest)

    @invariant()
    def configurations_are_legal(self) -> None:
        for member in rest.running(self.cluster.members):
            config = configuration.check(member.raft.config)
            assert config.voters.incoming or not member.machine.index
            assert member.raft.progress.keys() == config.members
            assert member.raft.role is not Role.LEADER or member.id in config.voters

    def teardown(self) -> None:
        """Whatever was done, the cluster recovers, and what was acknowledged is there. Not after a failure."""
        if sys.exc_info()[0] is None:
            self.cluster.recover()


CoreMachine.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestCore = CoreMachine.TestCase
