"""What agents that have no cluster yet say to each other, and what each of them has on its disk. Pure.

Three questions, one answer: whoever is asked tells where it stands, as its disk has it (`Standing`). Who asks keeps the
answers (`View`). What follows from them is `formation`'s matter.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

from agent.cluster.calls import Answer, Question

FORMAT: Final = 1  # of this agreement: agents of another one do not found together
FOUNDERS_MAX: Final = 9

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=262)]  # a DNS name and a port
_Hash = Annotated[str, msgspec.Meta(max_length=32)]
_Cluster = Annotated[str, msgspec.Meta(max_length=16)]
_Positive = Annotated[int, msgspec.Meta(gt=0, lt=2**53)]
_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_CROCKFORD: Final = str.maketrans("ijklmnopqrstuv", "jkmnpqrstvwxyz")  # from base32hex (RFC 4648, 7)
_encode: Final = msgspec.msgpack.Encoder().encode


class Founder(msgspec.Struct, array_like=True, frozen=True, order=True):
    """id: for people; node: for Raft. address: the agent's entry of the list; its own where it stands in none."""

    id: _Id
    node: _Positive
    address: _Address


class FoundingSet(msgspec.Struct, array_like=True, frozen=True, order=True):
    """Who founds a cluster together. number: which try it is. founders: by node."""

    number: _Positive
    founders: Annotated[tuple[Founder, ...], msgspec.Meta(min_length=1, max_length=FOUNDERS_MAX)]

    @property
    def cluster(self) -> str:
        """The cluster's id: 8 characters of Crockford's base32, the same for all who compute it."""
        digest = hashlib.sha256(_encode(self)).digest()
        return base64.b32hexencode(digest[:5]).decode().lower().translate(_CROCKFORD)


class Record(msgspec.Struct, array_like=True, frozen=True):
    """What an agent has on its disk. promised: the set it founds with, if that becomes complete.

    refused_to: it never promises another set up to this number. founding: the hash under which it has promised.
    """

    promised: FoundingSet | None = None
    refused_to: _Number = 0
    founding: _Hash = ""


class Hello(Question, frozen=True):
    """Where do you stand? founding: the asker's `founding_hash`; "" = it only joins."""

    me: Founder
    founding: _Hash


class PromiseAsked(Question, frozen=True):
    """Promise this set, as I have."""

    me: Founder
    founding: _Hash
    founders: FoundingSet


class RefuseAsked(Question, frozen=True):
    """I have promised this set and would like to withdraw: refuse it."""

    me: Founder
    founding: _Hash
    founders: FoundingSet


class Standing(Answer, frozen=True):
    """The answer to all three. cluster: "" = it belongs to none; with one, its generation and the members it knows."""

    me: Founder
    founding: _Hash
    promised: FoundingSet | None = None
    refused_to: _Number = 0
    cluster: _Cluster = ""
    generation: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    members: Annotated[tuple[Founder, ...], msgspec.Meta(max_length=1000)] = ()

    def refuses(self, founders: FoundingSet) -> bool:
        """Whether it never promises this set."""
        return self.promised != founders and self.refused_to >= founders.number


AnyQuestion = Hello | PromiseAsked | RefuseAsked


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, and when it came."""

    standing: Standing
    at_ms: int


@dataclass(slots=True)
class View:
    """What was heard. names: the addresses behind each entry. heard: by address, the last answer."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)

    def renew(self, names: Mapping[str, Sequence[str]]) -> None:
        """The entries resolve to these now; what was heard from other addresses is forgotten (P12)."""
        self.names = names
        known = {address for addresses in names.values() for address in addresses}
        self.heard = {address: one for address, one in self.heard.items() if address in known}

    def at(self, entry: str) -> Heard | None:
        """Who answers for an entry. None if it stands for several addresses: such an entry does not found."""
        addresses = self.names.get(entry, ())
        return self.heard.get(addresses[0]) if len(addresses) == 1 else None

    def of(self, founder: Founder) -> Heard | None:
        """The last answer of exactly this one."""
        heard = self.at(founder.address)
        return heard if heard is not None and heard.standing.me == founder else None

    def is_refused(self, founders: FoundingSet) -> bool:
        """Whether a member has said that it never promises it."""
        answers = [heard for one in founders.founders if (heard := self.of(one)) is not None]
        return any(one.standing.refuses(founders) for one in answers)

    def lost(self, founders: FoundingSet) -> list[Founder]:
        """Members where another agent answers now: they have lost their disk."""
        return [one for one in founders.founders if self.at(one.address) is not None and self.of(one) is None]

    def members(self) -> list[Standing]:
        """Of those that belong to a cluster."""
        return [one.standing for one in self.heard.values() if one.standing.cluster]


def founding_hash(join: Sequence[str], expect: int) -> str:
    """What agents that found together have in common: the list, whatever its order, and N."""
    return hashlib.sha256(_encode([FORMAT, expect, sorted(set(join))])).hexdigest()[:32]


def in_words(founders: Iterable[Founder]) -> str:
    """For people."""
    return ", ".join(f"{one.id} at {one.address}" for one in founders)
