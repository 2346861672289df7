"""What agents gossip, and its bytes: msgpack arrays. Everything that no agent sends is refused with one error."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from transport.gossip.errors import MessageMalformed, MetadataTooLarge, RumorTooLarge

COUNT_MAX: Final = 2**63 - 1
MESSAGE_BYTES_MAX: Final = 64 * 1024  # what the control lane takes
METADATA_BYTES_MAX: Final = 512
KEY_BYTES_MAX: Final = 128
PAYLOAD_BYTES_MAX: Final = 2048
ITEM_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + KEY_BYTES_MAX + 32  # the largest rumor or update, encoded
MARKS_MAX: Final = 256  # on one page

Id = Annotated[int, msgspec.Meta(ge=1)]  # msgpack has no larger ones than 64 bits
Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Key = Annotated[bytes, msgspec.Meta(max_length=KEY_BYTES_MAX)]
Payload = Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]


class State(IntEnum):
    """What is believed of a member. The greater wins at one incarnation. Numbers are for ever: they are on the wire."""

    ALIVE = 0
    SUSPECT = 1  # it did not answer; it has some time to speak up
    DEAD = 2  # it did not speak up. It may still, with a higher incarnation
    LEFT = 3  # it said so itself. It may come back, with a higher incarnation


class Metadata(msgspec.Struct, array_like=True, frozen=True):
    """What a member says of itself: at most METADATA_BYTES_MAX encoded.

    address: HOST:PORT for other agents. http: HOST:PORT for everybody. version: of its program.
    """

    address: str = ""
    http: str = ""
    version: str = ""
    labels: dict[str, str] = {}


class Update(msgspec.Struct, array_like=True, frozen=True):
    """A fact about a member. source: who says so. age_ms: for how long the sender has known that it is gone."""

    id: Id
    incarnation: Count
    state: State
    source: Id
    metadata: Metadata
    age_ms: Count = 0


class Rumor(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Something that all should hear. Of the rumors of one key the one with the highest (epoch, seq) counts."""

    key: Key
    epoch: Count
    seq: Count
    payload: Payload

    @property
    def version(self) -> tuple[int, int]:
        """What orders the rumors of one key."""
        return self.epoch, self.seq


class Ping(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """Are you there? number: comes back in the answer."""

    number: Count


class Ack(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """I am; or, to a PingRequest: the target is."""

    number: Count


class PingRequest(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """Ask `target` for me whether it is there, and answer with Ack or Nack."""

    number: Count
    target: Id


class Nack(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """I am there, but the target has not answered me (Lifeguard, 4.1: local health)."""

    number: Count


class News(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """Nothing but what rides on it."""


class MemberPage(msgspec.Struct, array_like=True, frozen=True):
    """All ids one knows from `first` up to but not with `until`, None: the end; with incarnation and state."""

    first: Annotated[int, msgspec.Meta(ge=0)]
    until: Id | None
    marks: Annotated[list[tuple[Id, Count, State]], msgspec.Meta(max_length=MARKS_MAX)]


class RumorPage(msgspec.Struct, array_like=True, frozen=True):
    """All keys one knows from `first` up to but not with `until`, None: the end; with epoch and seq."""

    first: Key
    until: Key | None
    marks: Annotated[list[tuple[Key, Count, Count]], msgspec.Meta(max_length=MARKS_MAX)]


class SyncRequest(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """What I know, in short: what do you know better? Answered by SyncAnswer."""

    members: MemberPage
    rumors: RumorPage


class SyncAnswer(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """What I know better rides on it; this is what you know better. Answered by SyncRest, where anything is wanted.

    next_member, next_rumor: where to go on if there was more than fits.
    """

    members: Annotated[list[Id], msgspec.Meta(max_length=MARKS_MAX)]
    rumors: Annotated[list[Key], msgspec.Meta(max_length=MARKS_MAX)]
    next_member: Id | None = None
    next_rumor: Key | None = None


class SyncRest(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=8):
    """What was wanted rides on it."""


Body = Ping | Ack | PingRequest | Nack | News | SyncRequest | SyncAnswer | SyncRest


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message, and the news that ride on it."""

    body: Body
    updates: list[Update] = []
    rumors: list[Rumor] = []


def supersedes(update: Update, other: Update) -> bool:
    """Whether the first of two facts about one member is to be believed. A total order, whichever comes first.

    Only the member itself raises its incarnation, to speak up or to say something else of itself. At one incarnation
    the worse news win, and the metadata break the tie between two lives of a member that took the same.
    """
    ours, theirs = (update.incarnation, update.state), (other.incarnation, other.state)
    if ours != theirs:
        return ours > theirs
    return update.metadata != other.metadata and _encoder.encode(update.metadata) > _encoder.encode(other.metadata)


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A frame's payload."""
    return _encoder.encode(message)


def size(part: msgspec.Struct) -> int:
    """How many bytes a part takes in a message."""
    return len(_encoder.encode(part))


def decode(data: bytes) -> Message:
    """The message in a frame's payload. Raises MessageMalformed, and nothing else."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise MessageMalformed(f"{len(data)} bytes, where {MESSAGE_BYTES_MAX} are the most")
    try:
        message = _decoder.decode(data)
        for update in message.updates:
            check_metadata(update.metadata)
    except (ValueError, RecursionError, MetadataTooLarge) as error:  # msgspec's errors are ValueErrors
        raise MessageMalformed(str(error)) from error
    return message


def check_metadata(metadata: Metadata) -> None:
    """Raises MetadataTooLarge."""
    found = size(metadata)
    if found > METADATA_BYTES_MAX:
        raise MetadataTooLarge(
            f"{found} bytes of metadata, where {METADATA_BYTES_MAX} are room: fewer or shorter labels"
        )


def check_rumor(rumor: Rumor) -> None:
    """Raises RumorTooLarge."""
    if len(rumor.key) > KEY_BYTES_MAX or len(rumor.payload) > PAYLOAD_BYTES_MAX:
        raise RumorTooLarge(
            f"a key of {len(rumor.key)} and a payload of {len(rumor.payload)} bytes, "
            f"where {KEY_BYTES_MAX} and {PAYLOAD_BYTES_MAX} are room: say where to find it instead"
        )
