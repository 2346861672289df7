"""What a majority has said, also of two configurations at once (paper, section 6: joint consensus).

An empty set of voters agrees with everything: so a joint configuration with one empty half is the other half alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from consensus.messages import NO_LIMIT

Voters = frozenset[int]


class VoteResult(IntEnum):
    """PENDING: neither a majority for nor one against is certain yet."""

    PENDING = 1
    LOST = 2
    WON = 3


def committed_index(voters: Collection[int], acked: Mapping[int, int]) -> int:
    """The highest index that a majority of `voters` has acknowledged; NO_LIMIT where there are no voters.

    acked: the highest index of each node; a node that is missing has acknowledged nothing.
    """
    if not voters:
        return NO_LIMIT
    indexes = sorted([acked.get(node, 0) for node in voters])
    return indexes[(len(indexes) - 1) // 2]


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """How a vote stands. votes: what each node said; a node that is missing has not voted. No voters: WON."""
    if not voters:
        return VoteResult.WON
    majority = len(voters) // 2 + 1
    granted = sum(votes.get(node) is True for node in voters)
    missing = sum(node not in votes for node in voters)
    if granted >= majority:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= majority else VoteResult.LOST


@dataclass(frozen=True, slots=True)
class JointVoters:
    """The voters of a configuration. outgoing: empty unless it is joint."""

    incoming: Voters = frozenset()
    outgoing: Voters = frozenset()

    def __contains__(self, node: int) -> bool:
        return node in self.incoming or node in self.outgoing

    def __iter__(self) -> Iterator[int]:
        """Each voter of either half once, in the order of ids."""
        return iter(sorted(self.incoming | self.outgoing))

    def committed_index(self, acked: Mapping[int, int]) -> int:
        """The highest index that majorities of both halves have acknowledged."""
        index = committed_index(self.incoming, acked)
        return min(index, committed_index(self.outgoing, acked)) if self.outgoing else index

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """WON if both halves are won, LOST if one is lost."""
        return joint_result(vote_result(self.incoming, votes), vote_result(self.outgoing, votes))

    def __str__(self) -> str:
        return f"{_ids(self.incoming)}&&{_ids(self.outgoing)}" if self.outgoing else _ids(self.incoming)


def joint_result(one: VoteResult, other: VoteResult) -> VoteResult:
    """The result of two votes of which both must be won."""
    if VoteResult.LOST in (one, other):
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in (one, other) else VoteResult.WON


def _ids(nodes: Collection[int]) -> str:
    return f"({' '.join(map(str, sorted(nodes)))})"
