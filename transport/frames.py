"""The bytes of a frame: a fixed header, then a payload that only the agent understands.

    magic 4 | version u8 | kind u8 | lane u8 | 0 u8 | cluster 16 | generation u32 | sender u64 | epoch u32 | payload

Numbers are big-endian. The header says who speaks, and for which cluster, before anything of the payload is looked at.
Authenticity is not its matter: whoever holds the cluster's key may claim any sender.

An agent that belongs to no cluster yet is an *outsider*: its frames name the empty cluster. It may ask anybody, and
answer other outsiders; nothing else of it is taken. It takes questions and answers, of anybody, and nothing else.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import msgspec

from transport.errors import ForeignCluster, ForeignGeneration, FrameMalformed, PayloadTooLarge, VersionUnknown

MAGIC: Final = b"\xf0PRM"  # the first byte begins no text
VERSION: Final = 1
CLUSTER_BYTES_MAX: Final = 16
_HEADER: Final = struct.Struct(">4sBBBB16sIQI")
HEADER_BYTES: Final = _HEADER.size


class Lane(IntEnum):
    """Connections of their own, so that what is small and urgent never waits behind what is large."""

    CONTROL = 1  # votes, heartbeats, acknowledgements, outcomes
    BULK = 2  # appends, proposals, chunks of snapshots and blobs
    GOSSIP = 3  # what a slow peer loses first


PAYLOAD_BYTES_MAX: Final = {Lane.CONTROL: 64 * 1024, Lane.BULK: 16 * 1024 * 1024, Lane.GOSSIP: 64 * 1024}
"""What a frame of a lane may carry. Senders stay at some 256 KiB where they can: encrypting more holds others up."""
FRAME_BYTES_MAX: Final = HEADER_BYTES + max(PAYLOAD_BYTES_MAX.values())


class Kind(IntEnum):
    """What the payload is. Numbers are for ever: they are on the wire."""

    RAFT = 1  # a message of consensus
    CHUNK = 2  # a part of a snapshot
    CHUNK_ANSWER = 3
    GOSSIP = 4
    REQUEST = 5  # to be answered by the way it came
    ANSWER = 6


class Envelope(msgspec.Struct, frozen=True):
    """What stands in every frame of an agent.

    cluster: its id, up to 16 bytes of ASCII without NUL; empty for an outsider. generation: counts the cluster's
    recoveries.
    sender: the agent's number, 0 for one that is no member. epoch: counts its lives.
    """

    cluster: str
    generation: int
    sender: int
    epoch: int

    def __post_init__(self) -> None:
        if not (self.cluster.isascii() and len(self.cluster) <= CLUSTER_BYTES_MAX and "\0" not in self.cluster):
            raise ValueError(f"a cluster's id has up to {CLUSTER_BYTES_MAX} ASCII characters, not {self.cluster!r}")
        for name, value, bits in (
            ("generation", self.generation, 32),
            ("sender", self.sender, 64),
            ("epoch", self.epoch, 32),
        ):
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} is a number of {bits} bits, not {value}")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What has come.

    route: the connection it came by, for `Transport.answer`; empty where there is none to answer.
    outsider: its sender belongs to no cluster.
    """

    kind: Kind
    lane: Lane
    sender: int
    epoch: int
    payload: bytes
    route: bytes = b""
    outsider: bool = False


class Codec:
    """Writes the frames of one agent, and reads those that it may take: see `decode`."""

    def __init__(self, envelope: Envelope) -> None:
        """envelope: the agent's own."""
        self._cluster = envelope.cluster.encode().ljust(CLUSTER_BYTES_MAX, b"\0")
        self._generation = envelope.generation
        self._headers = {
            (kind, lane): _HEADER.pack(
                MAGIC,
                VERSION,
                kind,
                lane,
                0,
                self._cluster,
                envelope.generation,
                envelope.sender,
                envelope.epoch,
            )
            for kind in Kind
            for lane in Lane
        }

    def encode(self, kind: Kind, lane: Lane, payload: bytes) -> bytes:
        """A frame. Raises PayloadTooLarge."""
        if len(payload) > PAYLOAD_BYTES_MAX[lane]:
            raise PayloadTooLarge(
                f"{len(payload)} bytes for the {lane.name} lane, which takes {PAYLOAD_BYTES_MAX[lane]}: "
                "send less, or by the other lane"
            )
        return self._headers[kind, lane] + payload

    def decode(self, data: bytes, route: bytes = b"") -> Frame:
        """The frame in `data`, all of it. route: see `Frame`.

        A member takes the frames of its cluster and generation, and an outsider's questions. An outsider takes the
        questions and answers of everybody.

        Raises FrameMalformed, VersionUnknown, ForeignCluster, ForeignGeneration, in this order of precedence but for
        the first: a later version may have other fields, so only its magic and version are looked at.
        """
        if len(data) < HEADER_BYTES:
            raise FrameMalformed(f"{len(data)} bytes, where a header has {HEADER_BYTES}")
        magic, version, kind, lane, zero, cluster, generation, sender, epoch = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise FrameMalformed("not one of prime's frames")
        if version != VERSION:
            raise VersionUnknown(f"version {version}, where this program speaks {VERSION}")
        if self._cluster == _NO_CLUSTER or cluster == _NO_CLUSTER:
            if kind not in (_FROM_ANYBODY if self._cluster == _NO_CLUSTER else _FROM_OUTSIDERS):
                raise ForeignCluster(f"kind {kind} of sender {sender}, with which this agent shares no cluster")
        elif cluster != self._cluster:
            raise ForeignCluster(f"sender {sender} belongs to another cluster")
        elif generation != self._generation:
            raise ForeignGeneration(f"sender {sender} is of generation {generation}, this agent of {self._generation}")
        try:
            known_kind, known_lane = _KINDS[kind], _LANES[lane]
        except KeyError:
            raise FrameMalformed(f"kind {kind} on lane {lane}: there is none of these") from None
        if zero:
            raise FrameMalformed("a bit is set that means nothing")
        if len(data) - HEADER_BYTES > PAYLOAD_BYTES_MAX[known_lane]:
            raise FrameMalformed(f"{len(data)} bytes on the {known_lane.name} lane")
        return Frame(known_kind, known_lane, sender, epoch, data[HEADER_BYTES:], route, cluster == _NO_CLUSTER)


_KINDS: Final = {int(kind): kind for kind in Kind}
_LANES: Final = {int(lane): lane for lane in Lane}
_NO_CLUSTER: Final = bytes(CLUSTER_BYTES_MAX)
_FROM_OUTSIDERS: Final = frozenset({Kind.REQUEST})  # what a member takes of them
_FROM_ANYBODY: Final = frozenset({Kind.REQUEST, Kind.ANSWER})  # what an outsider takes
