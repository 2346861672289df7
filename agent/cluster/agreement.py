"""Whether the members' tables and clocks agree, and what a leader does where they do not. Pure.

The log is the same everywhere (Raft), so tables that differ at one index mean that somewhere the log was not applied as
elsewhere. Which one is right nobody can see; what a majority of the voters has is what the cluster has promised:

- a majority has the leader's: who has another one stops, and is replaced by an agent with an empty directory;
- a majority has not: another one leads first, and says so to this one;
- neither is a majority, or not yet: nothing more is proposed, for whatever is decided now may be decided wrongly.

Of clocks the median of the voters' counts: no wrong one can move it while most are right. Of two in the middle it is
the earlier one, for the table's time never goes back: a clock that is late delays deadlines until somebody sets it, one
that is early would have them fire now, and for ever.

An agent that lacks a hash of any index in common says nothing for or against.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

SKEW_MS: Final = 30_000  # that a clock, and a command's time, may be off
Digests = Mapping[int, bytes]  # hash of the table by index of the log


def ahead_ms(me: int, voters: Set[int], offsets_ms: Mapping[int, int]) -> int | None:
    """By how much the leader's own clock is ahead of the voters' median; None = too few are known for a majority.

    offsets_ms: by how much others' clocks are ahead of the leader's, by node.
    """
    known = sorted({**offsets_ms, me: 0}[node] for node in voters if node == me or node in offsets_ms)
    return -known[(len(known) - 1) // 2] if len(known) > len(voters) // 2 else None


class Step(Enum):
    """What the leader does."""

    GO_ON = auto()
    STOP_OTHERS = auto()  # all that differ
    TRANSFER = auto()  # to a voter of those that differ
    HOLD = auto()  # propose nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """step: what to do. differ: {node: the index at which its table is another than the leader's}."""

    step: Step
    differ: Mapping[int, int]


def judge(me: int, voters: Set[int], own: Digests, others: Mapping[int, Digests]) -> Verdict:
    """Compare by the newest index in common. me: the leader's node, whose hashes are `own`; others: by node."""
    agree, differ = {me}, dict[int, int]()
    for node, theirs in others.items():
        index = max(own.keys() & theirs.keys(), default=None)
        if index is None:
            continue
        if own[index] == theirs[index]:
            agree.add(node)
        else:
            differ[node] = index
    quorum = len(voters) // 2 + 1
    if not differ:
        step = Step.GO_ON
    elif len(agree & voters) >= quorum:
        step = Step.STOP_OTHERS
    elif len(differ.keys() & voters) >= quorum:
        step = Step.TRANSFER
    else:
        step = Step.HOLD
    return Verdict(step, differ)
