"""What members of the cluster tell each other, as bytes: msgpack arrays of the structs of `consensus`.

What is decoded here is acted on by code that takes a message for what its type says. So everything that an honest
member never sends is refused, with one error: numbers out of range, fields that its type does not have, entries that do
not follow each other, a message for somebody else, a sender that is not the frame's.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, TypeVar

import msgspec

from agent.errors import PrimeError
from consensus import configuration
from consensus.chunks import Chunk, ChunkAnswer
from consensus.errors import ConfigError
from consensus.messages import NO_LIMIT, NONE, TRANSFER, Message, MessageType
from transport.frames import Frame, Kind, Lane

ValueT = TypeVar("ValueT")

_BULK: Final = frozenset({MessageType.APPEND, MessageType.PROPOSE, MessageType.SNAPSHOT})
_NO_TERM: Final = frozenset({MessageType.PROPOSE, MessageType.READ_INDEX})
_PASSED_ON: Final = _NO_TERM | {MessageType.TRANSFER_LEADER}  # by a follower, in the name of who asked
_CONTEXT_BYTES_MAX: Final = 1024
_NUMBERS: Final = attrgetter("to", "sender", "term", "log_term", "index", "commit", "reject_hint")

_encoder: Final = msgspec.msgpack.Encoder()
_message_decoder: Final = msgspec.msgpack.Decoder(Message)
_chunk_decoder: Final = msgspec.msgpack.Decoder(Chunk)
_chunk_answer_decoder: Final = msgspec.msgpack.Decoder(ChunkAnswer)


class MalformedMessage(PrimeError):
    """Bytes that no member of this version sends to this one. Nothing of them is acted on (P8)."""


def lane(message: Message) -> Lane:
    """By which lane a message goes.

    Every append goes by the same one, though many are small: one that overtakes another looks like a loss.
    """
    return Lane.BULK if message.type in _BULK else Lane.CONTROL


def encode(value: Message | Chunk | ChunkAnswer) -> bytes:
    """A frame's payload."""
    return _encoder.encode(value)


def decode_message(frame: Frame, own_id: int) -> Message:
    """The message in a frame of kind RAFT. own_id: this member's. Raises MalformedMessage."""
    message = _decode(frame, Kind.RAFT, _message_decoder.decode)
    kind = message.type
    numbers = _NUMBERS(message)
    _require(min(numbers) >= 0 and max(numbers) < NO_LIMIT, "a number is out of its range")
    _require(message.to == own_id, "it is for another member")
    _require(message.sender != NONE, "it has no sender")
    _require(message.sender == frame.sender or kind in _PASSED_ON, "its sender is not the frame's")
    _require((message.term == 0) == (kind in _NO_TERM), "a term it must not have, or none where it must")
    _require(message.log_term <= message.term, "its log is of a later term than itself")
    _require(len(message.context) <= _CONTEXT_BYTES_MAX, "its context is too long")
    for name, default in _FORBIDDEN[kind]:
        _require(getattr(message, name) == default, f"a {kind.name} has no {name}")
    check = _CHECKS.get(kind)
    if check is not None:
        check(message)
    return message


def decode_chunk(frame: Frame) -> Chunk:
    """The chunk in a frame of kind CHUNK; `Incoming` sees whether its bytes are whole. Raises MalformedMessage."""
    chunk = _decode(frame, Kind.CHUNK, _chunk_decoder.decode)
    _require(0 < chunk.term < NO_LIMIT and 0 < chunk.index < NO_LIMIT, "it belongs to no snapshot")
    _require(0 <= chunk.file < NO_LIMIT and 0 <= chunk.crc < 1 << 32, "a number is out of its range")
    _require(len(chunk.data) > 0, "it is empty")
    _require(0 <= chunk.offset <= chunk.size - len(chunk.data) < NO_LIMIT, "it lies outside its snapshot")
    return chunk


def decode_chunk_answer(frame: Frame) -> ChunkAnswer:
    """The answer in a frame of kind CHUNK_ANSWER. Raises MalformedMessage."""
    answer = _decode(frame, Kind.CHUNK_ANSWER, _chunk_answer_decoder.decode)
    numbers = (answer.index, answer.file, answer.stored)
    _require(min(numbers) >= 0 and max(numbers) < NO_LIMIT, "a number is out of its range")
    return answer


def _decode(frame: Frame, kind: Kind, decode: Callable[[bytes], ValueT]) -> ValueT:
    _require(frame.kind is kind, f"a frame of kind {frame.kind.name}")
    try:
        return decode(frame.payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedMessage(f"from {frame.sender}: {error}") from error


def _require(condition: bool, problem: str) -> None:  # noqa: FBT001  as in assert
    if not condition:
        raise MalformedMessage(problem)


# -- what each type of message has -------------------------------------------------------------------------------------


def _check_append(message: Message) -> None:
    """The entries follow the one before them, and each other; terms never fall (paper, 5.3)."""
    entries = message.entries
    indexes = [entry.index for entry in entries]
    _require(indexes == list(range(message.index + 1, message.index + 1 + len(entries))), "its entries leave holes")
    terms = [message.log_term, *[entry.term for entry in entries], message.term]
    _require(terms == sorted(terms), "terms fall within its entries")
    _require(not entries or terms[1] > 0, "an entry is of no term")
    _require(message.index > 0 or message.log_term == 0, "nothing comes before the first entry")


def _check_proposal(message: Message) -> None:
    _require(len(message.entries) > 0, "it proposes nothing")
    _require(all(entry.index == entry.term == 0 for entry in message.entries), "a proposal has its place already")


def _check_vote(message: Message) -> None:
    _require(message.context in (b"", TRANSFER), "a reason for an election that there is not")


def _check_snapshot(message: Message) -> None:
    _require(message.snapshot is not None, "it has no snapshot")
    assert message.snapshot is not None
    meta = message.snapshot.meta
    state = meta.conf_state
    ids = (*state.voters, *state.learners, *state.voters_outgoing, *state.learners_next)
    _require(0 < meta.index < NO_LIMIT and 0 <= meta.term <= message.term, "its snapshot is of no place in the log")
    _require(len(state.voters) > 0 and all(0 < one < NO_LIMIT for one in ids), "its snapshot has no members")
    try:
        configuration.restore(state)
    except ConfigError as error:
        raise MalformedMessage(f"its snapshot's members: {error}") from error


def _check_rejection(message: Message) -> None:
    _require(message.reject or (message.reject_hint == 0 and message.log_term == 0), "a hint without a rejection")


_CHECKS: Final[dict[MessageType, Callable[[Message], None]]] = {
    MessageType.PROPOSE: _check_proposal,
    MessageType.APPEND: _check_append,
    MessageType.APPEND_RESPONSE: _check_rejection,
    MessageType.VOTE: _check_vote,
    MessageType.PRE_VOTE: _check_vote,
    MessageType.SNAPSHOT: _check_snapshot,
}

_FIELDS: Final[dict[MessageType, set[str]]] = {
    MessageType.PROPOSE: {"entries"},
    MessageType.APPEND: {"log_term", "index", "commit", "entries"},
    MessageType.APPEND_RESPONSE: {"log_term", "index", "reject", "reject_hint"},
    MessageType.VOTE: {"log_term", "index", "context"},
    MessageType.VOTE_RESPONSE: {"reject", "commit", "log_term"},
    MessageType.PRE_VOTE: {"log_term", "index", "context"},
    MessageType.PRE_VOTE_RESPONSE: {"reject", "commit", "log_term"},
    MessageType.SNAPSHOT: {"snapshot"},
    MessageType.HEARTBEAT: {"commit", "context"},
    MessageType.HEARTBEAT_RESPONSE: {"context"},
    MessageType.TIMEOUT_NOW: set(),
    MessageType.TRANSFER_LEADER: set(),
    MessageType.READ_INDEX: {"context"},
    MessageType.READ_INDEX_RESPONSE: {"index", "context"},
}

_FORBIDDEN: Final = {
    kind: tuple(
        (field.name, field.default)
        for field in msgspec.structs.fields(Message)
        if field.name not in {"type", "to", "sender", "term", *allowed}
    )
    for kind, allowed in _FIELDS.items()
}
