"""Who shall vote: the next change of the members, from what the table and Raft's contacts say. Pure.

The rules, in the order in which they are looked at:

1. One change at a time; a joint configuration is waited for.
2. A member that no agent row names was removed: it leaves. If it leads, another one leads first; where no other has
   a vote and is heard, a learner that is ready gets one for it.
3. An agent that is no member yet becomes a learner, and is sent the log.
4. The voters are an odd number of agents, five at most and three as soon as there are three: the leader, then voters
   that are heard, then learners that are ready, then voters that are not heard, which keep their vote until somebody
   can take their place. All of it in one joint change (thesis, 4.3).
5. A learner is ready when it has kept up with the log for `READY_S`, lacks no blob and no history, and is heard.

Death is judged by Raft's own contact, not by gossip: what counts is whether the leader can reach a quorum. An agent
that has been dead for an hour is removed, but never so that fewer than three voters are left (`forgotten`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from consensus.configuration import Change, ConfChange, ConfChangeKind

VOTERS_MAX: Final = 5
VOTERS_KEPT: Final = 3  # autopilot does not go below by itself
READY_S: Final = 10.0
SILENT_S: Final = 10.0  # a voter not heard for so long is replaced if it can be
FORGET_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one agent. node: its number. silent_s: since it was heard; 0 for the leader itself.

    kept_up_s: for how long it has had everything that was in the log a moment before. complete: it says that it lacks
    no blob and no history.
    """

    node: int
    silent_s: float = 0.0
    kept_up_s: float = 0.0
    complete: bool = True

    @property
    def heard(self) -> bool:
        """Whether it counts for a majority now."""
        return self.silent_s < SILENT_S

    @property
    def ready(self) -> bool:
        """Whether it may become a voter."""
        return self.heard and self.complete and self.kept_up_s >= READY_S


@dataclass(frozen=True, slots=True)
class View:
    """What the leader sees. agents: by node, those that the table names. joint: a change is under way.

    gone_heard: members that the table names no more and that are heard all the same.
    """

    leader: int
    voters: frozenset[int]
    learners: frozenset[int]
    agents: Mapping[int, Seen]
    gone_heard: frozenset[int] = frozenset()
    joint: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """Let `to` lead."""

    to: int


def next_step(view: View) -> ConfChange | Transfer | None:
    """What to do now; None = all is as it shall be, or has to be waited for."""
    if view.joint:
        return None
    gone = (view.voters | view.learners) - view.agents.keys()
    for node in sorted(gone & view.learners):
        return _change([Change(ConfChangeKind.REMOVE, node)])
    if view.leader in gone:
        step = _successor(view) or _heir(view)
        if step is not None:
            return step
    for node in sorted(view.agents.keys() - view.voters - view.learners):
        return _change([Change(ConfChangeKind.ADD_LEARNER, node)])
    wanted = _wanted(view)
    if wanted == view.voters or not _can_agree(view, wanted):
        return None
    return _change(
        [
            *(Change(ConfChangeKind.ADD_VOTER, node) for node in sorted(wanted - view.voters)),
            *(Change(ConfChangeKind.REMOVE, node) for node in sorted(gone)),
            *(Change(ConfChangeKind.ADD_LEARNER, node) for node in sorted(view.voters - wanted - gone)),
        ]
    )


def forgotten(view: View) -> list[int]:
    """Agents that have been silent for an hour and whose vote nobody needs: their rows may go."""
    left = len(view.voters)
    found = []
    for node, seen in sorted(view.agents.items()):
        if seen.silent_s < FORGET_S or node == view.leader:
            continue
        if node in view.voters:
            if left <= VOTERS_KEPT:
                continue
            left -= 1
        found.append(node)
    return found


def _change(changes: Iterable[Change]) -> ConfChange:
    return ConfChange(tuple(changes))


def _successor(view: View) -> Transfer | None:
    heard = [node for node, seen in view.agents.items() if node in view.voters and seen.heard]
    return Transfer(min(heard)) if heard else None


def _heir(view: View) -> ConfChange | None:
    """A vote for somebody who can lead in the place of the last voter that is heard."""
    ready = frozenset(sorted(node for node, seen in view.agents.items() if node in view.learners and seen.ready)[:1])
    if not ready or not _can_agree(view, view.voters | ready):
        return None
    return _change([Change(ConfChangeKind.ADD_VOTER, node) for node in ready])


def _wanted(view: View) -> frozenset[int]:
    """The voters there shall be. The leader is always one of them: who leads is not replaced, it hands over first."""
    voters = [seen for seen in view.agents.values() if seen.node in view.voters]
    ranked = [
        *(seen.node for seen in voters if seen.node == view.leader),
        *sorted(seen.node for seen in voters if seen.heard and seen.node != view.leader),
        *sorted(seen.node for seen in view.agents.values() if seen.node in view.learners and seen.ready),
        *sorted(seen.node for seen in voters if not seen.heard and seen.node != view.leader),
    ]
    size = min(VOTERS_MAX, len(view.agents), len(ranked))
    return frozenset(ranked[: size - 1 + size % 2])


def _can_agree(view: View, wanted: frozenset[int]) -> bool:
    """Whether both halves of the joint change have a majority that is heard: else it would only block."""
    heard = view.gone_heard | {node for node, seen in view.agents.items() if seen.heard}
    return all(2 * len(half & heard) > len(half) for half in (view.voters, wanted))
