"""The other members, as the driver sees them: messages of the core go out and come in as frames.

What cannot be read is counted and passed by. Questions and answers are `cluster.calls`' matter.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

from agent import wire
from consensus.chunks import Chunk, ChunkAnswer
from consensus.messages import Message
from transport.base import Transport
from transport.frames import Frame, Kind, Lane

log = logging.getLogger(__name__)

WARNED_MAX = 256
INBOX_MESSAGES = 65_536  # not taken yet; what comes on top is dropped, as the network may (P12)


class Peers:
    """The frames of one transport, sorted. `transport` must be set before anything is sent."""

    def __init__(self, own_id: int) -> None:
        """own_id: this member's number."""
        self.transport: Transport | None = None
        self.own_id = own_id
        self.malformed: Counter[str] = Counter()
        self.on_message: Callable[[], None] = lambda: None
        self.on_chunk: Callable[[int, Chunk], None] = lambda _sender, _chunk: None
        self.on_chunk_answer: Callable[[int, ChunkAnswer], None] = lambda _sender, _answer: None
        self.on_request: Callable[[Frame], None] = lambda _frame: None
        self.on_answer: Callable[[Frame], None] = lambda _frame: None
        self.on_gossip: Callable[[Frame], None] = lambda _frame: None
        self._inbox: deque[Message] = deque()
        self._warned: set[tuple[int, str]] = set()

    def on_frames(self, frames: list[Frame]) -> None:
        """Give this to the transport."""
        for frame in frames:
            try:
                self._sort(frame)
            except wire.MalformedMessage as error:
                self.malformed[type(error).__name__] += 1
                known = (frame.sender, str(error)) in self._warned
                if not known and len(self._warned) < WARNED_MAX:
                    self._warned.add((frame.sender, str(error)))
                level = logging.DEBUG if known else logging.WARNING  # it comes again with each heartbeat
                log.log(level, "a frame is passed by", extra={"sender": frame.sender, "error": str(error)})
        if self._inbox:
            self.on_message()

    def _sort(self, frame: Frame) -> None:
        if frame.kind is Kind.RAFT:
            message = wire.decode_message(frame, self.own_id)
            if len(self._inbox) < INBOX_MESSAGES:
                self._inbox.append(message)
        elif frame.kind is Kind.CHUNK:
            self.on_chunk(frame.sender, wire.decode_chunk(frame))
        elif frame.kind is Kind.CHUNK_ANSWER:
            self.on_chunk_answer(frame.sender, wire.decode_chunk_answer(frame))
        elif frame.kind is Kind.REQUEST:
            self.on_request(frame)
        elif frame.kind is Kind.ANSWER:
            self.on_answer(frame)
        else:
            self.on_gossip(frame)

    def received(self) -> Sequence[Message]:
        """See `driver.Network`."""
        messages = tuple(self._inbox)
        self._inbox.clear()
        return messages

    def send(self, message: Message) -> bool:
        """See `driver.Network`."""
        return self._send(message.to, wire.lane(message), wire.encode(message), Kind.RAFT)

    def send_chunk(self, to: int, chunk: Chunk) -> bool:
        """See `snapshots.ChunkNetwork`."""
        return self._send(to, Lane.BULK, wire.encode(chunk), Kind.CHUNK)

    def send_chunk_answer(self, to: int, answer: ChunkAnswer) -> bool:
        """See `snapshots.ChunkNetwork`."""
        return self._send(to, Lane.CONTROL, wire.encode(answer), Kind.CHUNK_ANSWER)

    def send_request(self, to: int, lane: Lane, payload: bytes) -> bool:
        """See `cluster.calls.Wire`."""
        return self._send(to, lane, payload, Kind.REQUEST)

    def send_answer(self, frame: Frame, payload: bytes) -> bool:
        """See `cluster.calls.Wire`."""
        return self.transport is not None and self.transport.answer(frame, payload)

    def send_gossip(self, to: int, payload: bytes) -> bool:
        """Send what other agents may lose."""
        return self._send(to, Lane.GOSSIP, payload, Kind.GOSSIP)

    def _send(self, to: int, lane: Lane, payload: bytes, kind: Kind) -> bool:
        return self.transport is not None and self.transport.send(to, lane, payload, kind)
