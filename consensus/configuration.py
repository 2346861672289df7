"""Who belongs to the cluster, and how that changes: joint consensus (paper, section 6; thesis, 4.3), as etcd does it.

A change of one voter is made in one step: any majority of the old voters meets any majority of the new ones. Anything
more goes through a joint configuration, in which both halves must agree. A configuration takes effect when its entry is
*applied*; `node` keeps the rules that make this safe. A node that is a voter of the outgoing half and becomes a learner
stays a voter until the joint configuration is left: `learners_next`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import reduce

import msgspec

from consensus.errors import ConfigError
from consensus.messages import ConfState
from consensus.quorum import JointVoters


class ConfChangeKind(IntEnum):
    """Numbers are for ever: they are in logs. A change of an agent's address is none of consensus' matters."""

    ADD_VOTER = 0
    REMOVE = 1
    ADD_LEARNER = 2


class Transition(IntEnum):
    """AUTO: joint only if more than one thing changes. IMPLICIT, EXPLICIT: always joint; EXPLICIT stays so until told.

    Other than EXPLICIT, the leader proposes to leave the joint configuration by itself.
    """

    AUTO = 0
    IMPLICIT = 1
    EXPLICIT = 2


class Change(msgspec.Struct, array_like=True, frozen=True):
    """One node's part of a change."""

    kind: ConfChangeKind
    node: int


class ConfChange(msgspec.Struct, array_like=True, frozen=True):
    """What a CONF_CHANGE entry holds. No changes: leave the joint configuration. context: the proposer's own."""

    changes: tuple[Change, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""

    @property
    def leaves_joint(self) -> bool:
        """Whether it leads out of a joint configuration."""
        return not self.changes and self.transition == Transition.AUTO

    @property
    def enters_joint(self) -> bool:
        """Whether it leads into one."""
        return self.transition != Transition.AUTO or len(self.changes) > 1


def encode(change: ConfChange) -> bytes:
    """The data of its entry."""
    return msgspec.msgpack.encode(change)


def decode(data: bytes) -> ConfChange:
    """Raises ConfigError for anything that `encode` has not made."""
    try:
        return msgspec.msgpack.decode(data, type=ConfChange)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"the entry holds no change of the configuration: {error}") from error


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who votes, and who only learns. Values of this type keep the invariants that `check` lists."""

    voters: JointVoters = field(default_factory=JointVoters)
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        """Whether two majorities are needed."""
        return bool(self.voters.outgoing)

    @property
    def members(self) -> frozenset[int]:
        """Every node that gets the log."""
        return self.voters.incoming | self.voters.outgoing | self.learners

    @property
    def singleton(self) -> bool:
        """Whether one node alone is a majority."""
        return len(self.voters.incoming) == 1 and not self.joint

    def conf_state(self) -> ConfState:
        """As it is stored."""
        return ConfState(
            tuple(sorted(self.voters.incoming)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.voters.outgoing)),
            tuple(sorted(self.learners_next)),
            self.auto_leave,
        )

    def __str__(self) -> str:
        text = f"voters={self.voters}"
        for name, nodes in (("learners", self.learners), ("learners_next", self.learners_next)):
            text += f" {name}={JointVoters(nodes)}" if nodes else ""
        return text + (" autoleave" if self.auto_leave else "")


def restore(state: ConfState) -> Configuration:
    """The configuration that `conf_state` has stored. Raises ConfigError if it breaks an invariant."""
    return check(
        Configuration(
            JointVoters(frozenset(state.voters), frozenset(state.voters_outgoing)),
            frozenset(state.learners),
            frozenset(state.learners_next),
            state.auto_leave,
        )
    )


def check(config: Configuration) -> Configuration:
    """Return it if its parts fit together. Raises ConfigError."""
    voters = config.voters
    if config.learners & (voters.incoming | voters.outgoing):
        raise ConfigError(f"a node is voter and learner at once: {config}")
    if not config.learners_next <= voters.outgoing:
        raise ConfigError(f"only a voter that goes out can be a learner next: {config}")
    if config.learners_next & voters.incoming:
        raise ConfigError(f"a learner of the next configuration still comes in as a voter: {config}")
    if not config.joint and config.auto_leave:
        raise ConfigError(f"what is not joint cannot be left: {config}")
    return config


def apply_change(config: Configuration, change: ConfChange) -> Configuration:
    """The configuration after `change`. Raises ConfigError where it does not fit."""
    if change.leaves_joint:
        return leave_joint(config)
    if change.enters_joint:
        return enter_joint(config, change.changes, auto_leave=change.transition != Transition.EXPLICIT)
    return simple(config, change.changes)


def simple(config: Configuration, changes: Iterable[Change]) -> Configuration:
    """Change at most one voter, in one step (thesis, 4.1)."""
    if config.joint:
        raise ConfigError("can't apply simple config change in joint config")
    after = _apply(config, changes)
    if len(after.voters.incoming ^ config.voters.incoming) > 1:
        raise ConfigError("more than one voter changed without entering joint config")
    return check(after)


def enter_joint(config: Configuration, changes: Iterable[Change], *, auto_leave: bool) -> Configuration:
    """Make the present voters the outgoing half, and change the incoming one."""
    if config.joint:
        raise ConfigError("config is already joint")
    if not config.voters.incoming:
        raise ConfigError("can't make a zero-voter config joint")
    both = replace(config, voters=JointVoters(config.voters.incoming, config.voters.incoming))
    return check(replace(_apply(both, changes), auto_leave=auto_leave))


def leave_joint(config: Configuration) -> Configuration:
    """Drop the outgoing half. Nodes that are in neither half and are no learners have left the cluster."""
    if not config.joint:
        raise ConfigError("can't leave a non-joint config")
    return check(Configuration(JointVoters(config.voters.incoming), config.learners | config.learners_next))


def _apply(config: Configuration, changes: Iterable[Change]) -> Configuration:
    after = reduce(_change_one, (change for change in changes if change.node), config)
    if not after.voters.incoming:
        raise ConfigError("removed all voters")
    return after


def _change_one(config: Configuration, change: Change) -> Configuration:
    node = frozenset({change.node})
    if change.kind == ConfChangeKind.ADD_LEARNER and change.node in config.learners:
        return config
    gone = replace(
        config,
        voters=replace(config.voters, incoming=config.voters.incoming - node),
        learners=config.learners - node,
        learners_next=config.learners_next - node,
    )
    match change.kind:
        case ConfChangeKind.REMOVE:
            return gone
        case ConfChangeKind.ADD_VOTER:
            return replace(gone, voters=replace(gone.voters, incoming=gone.voters.incoming | node))
        case ConfChangeKind.ADD_LEARNER:
            if change.node in config.voters.outgoing:
                return replace(gone, learners_next=gone.learners_next | node)
            return replace(gone, learners=gone.learners | node)
