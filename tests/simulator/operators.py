"""Whoever changes the members of a cluster, with the care that operators owe it.

The core must stay safe whatever they do. That it comes to rest again is only owed to those who never take a majority
away. A disk is lost only where everybody agrees on the members and enough of them are left.
"""

from __future__ import annotations

import random
from typing import Final

from consensus.configuration import Change, ConfChange, ConfChangeKind, Configuration, Transition, apply_change
from consensus.errors import ConfigError
from tests.simulator.cluster import Cluster, Process
from tests.simulator.plan import Fault
from tests.simulator.rest import settled

MEMBERS_MAX: Final = 7
TRIES: Final = 6


class Operators:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # A request that a follower passes on may arrive long after it was wise. Where nodes are lost for ever, and
        # where those that were removed have to be stopped, only leaders are asked.
        careful = (Fault.WIPES, Fault.NO_PRE_VOTE, Fault.NO_CHECK_QUORUM)
        self._careful = any(fault in cluster.plan.faults for fault in careful)
        self._careless = Fault.CARELESS in cluster.plan.faults

    # -- changes of the members --------------------------------------------------------------------------------------

    def change_one(self, rng: random.Random) -> bool:
        """One node comes, goes, or becomes voter or learner. Returns False if nothing could be asked for."""
        return self._change(rng, 1)

    def change_several(self, rng: random.Random) -> bool:
        """Several at once, through a joint configuration; or that is left."""
        return self._change(rng, rng.randrange(1, 4))

    def _change(self, rng: random.Random, count: int) -> bool:
        self.retire()
        process = self._ask(rng)
        if process is None or process.node is None or process.paused:
            return False
        config = process.node.config
        if config.joint and rng.random() < 0.8:
            return self._propose(process, ConfChange())
        for _ in range(TRIES):
            change = self._draw(rng, config, count)
            if change is not None and (self._careless or self._sane(process, change)):
                return self._propose(process, change)
        return False

    def _ask(self, rng: random.Random) -> Process | None:
        """The leader, or sometimes any other."""
        if self._careful or rng.random() < 0.8:
            return self._cluster.leader()
        running = self._cluster.running()
        return rng.choice(running) if running else None

    def leave_joint(self) -> None:
        """Lead out of a joint configuration that does not end by itself."""
        leader = self._cluster.leader()
        if leader is None or leader.node is None:
            return
        if leader.node.config.joint and not leader.node.config.auto_leave:
            self._propose(leader, ConfChange())

    def _propose(self, process: Process, change: ConfChange) -> bool:
        words = [f"{part.kind.name} {part.node}" for part in change.changes] or ["leave"]
        taken = process.propose_conf_change(change)
        self._cluster.note(f"{process.id} is asked for {', '.join(words)}{'' if taken else ', and refuses'}")
        process.pump()
        return taken

    def _draw(self, rng: random.Random, config: Configuration, count: int) -> ConfChange | None:
        gone = [node for node in sorted(config.members) if self._cluster.members[node].gone]
        changes = [Change(ConfChangeKind.REMOVE, rng.choice(gone))] if gone else []
        while len(changes) < count:
            change = self._draw_one(rng, config)
            if change is None or change.node in [one.node for one in changes]:
                break
            changes.append(change)
        if not changes:
            return None
        transition = Transition.AUTO if count == 1 or rng.random() < 0.4 else rng.choice(list(Transition))
        return ConfChange(tuple(changes), transition)

    def _draw_one(self, rng: random.Random, config: Configuration) -> Change | None:
        voters, learners = sorted(config.voters.incoming), sorted(config.learners)
        match rng.choice(["voter", "learner", "promote", "promote", "demote", "remove", "remove"]):
            case "voter" if len(config.members) < MEMBERS_MAX:
                return Change(ConfChangeKind.ADD_VOTER, self._newcomer(config))
            case "learner" if len(config.members) < MEMBERS_MAX:
                return Change(ConfChangeKind.ADD_LEARNER, self._newcomer(config))
            case "promote" if learners:
                return Change(ConfChangeKind.ADD_VOTER, rng.choice(learners))
            case "demote" if voters:
                return Change(ConfChangeKind.ADD_LEARNER, rng.choice(voters))
            case "remove" if len(voters) + len(learners) > 1:
                return Change(ConfChangeKind.REMOVE, rng.choice([*voters, *learners]))
        return None

    def _newcomer(self, config: Configuration) -> int:
        """A node that was never a member: one that waits already, or a new one."""
        for process in self._cluster.running():
            if process.id not in self._cluster.observer.joined and process.id not in config.members:
                return process.id
        return self._cluster.spawn().id

    def _sane(self, process: Process, change: ConfChange) -> bool:
        """Whether it leaves majorities. One that does not fit is the core's to refuse."""
        assert process.node is not None
        before = process.node.config
        try:
            after = apply_change(before, change)
        except ConfigError:
            return not self._careful
        return len(after.members) <= MEMBERS_MAX + 1 and self._alive(after.voters.incoming)

    def _alive(self, voters: frozenset[int]) -> bool:
        """Whether a majority has not lost its disk."""
        return 2 * sum(not self._cluster.members[node].gone for node in voters) > len(voters)

    # -- nodes that do not come back ---------------------------------------------------------------------------------

    def _settled(self) -> Configuration | None:
        return settled(self._cluster.members, self._cluster.observer)

    def wipe(self, rng: random.Random) -> bool:
        """Lose the disk of a member. The host comes back as another node, which has to be added."""
        leader = self._cluster.leader()
        config = leader.node.config if self._careless and leader and leader.node else self._settled()
        if config is None:
            return False
        victim = self._cluster.members[rng.choice(sorted(config.members))]
        if victim.gone:
            return False
        victim.gone = True
        alive = self._alive(config.voters.incoming)
        victim.gone = False
        if not alive and not self._careless:
            return False
        self._cluster.lose(victim)
        self._cluster.spawn()
        return True

    def retire(self) -> None:
        """Stop nodes that were removed; not before their removal is certain, or others could miss their votes."""
        config = self._settled() if self._careful else None
        if config is None:
            return
        for process in self._cluster.running():
            if process.id in self._cluster.observer.joined and process.id not in config.members:
                self._cluster.lose(process)
