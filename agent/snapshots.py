"""Snapshots on their way between members: the bytes behind the core's SNAPSHOT messages.

A leader's SNAPSHOT message goes out at once and says what the snapshot is; its chunks follow, a few at a time. The
other side keeps the message back from its core until all bytes are on its disk and checked, and read into a state
beside the one that serves. So the core hears of a snapshot only when it can be installed, which takes a moment, and
until then the member answers heartbeats like any other. The slow thread reads, writes and decodes, never the loop.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec
from crc32c import crc32c

from agent.log_thread import LogThread
from agent.machine import Loader
from consensus.chunks import GIVE_UP_TICKS, Chunk, ChunkAnswer, Outgoing, is_whole, make_chunk
from consensus.durable import DurableLog
from consensus.errors import LogFull, SnapshotMismatch, SnapshotTemporarilyUnavailable
from consensus.messages import Message
from consensus.wal_snapshot import SnapshotHead, SnapshotReader, head_of

log = logging.getLogger(__name__)


class ChunkNetwork(Protocol):
    """How chunks leave. Losing them is allowed."""

    def send(self, message: Message) -> bool:
        """Send a message of the core."""

    def send_chunk(self, to: int, chunk: Chunk) -> bool:
        """Send a chunk."""

    def send_chunk_answer(self, to: int, answer: ChunkAnswer) -> bool:
        """Send an answer."""


@dataclass(slots=True)
class _Sending:
    term: int
    transfer: Outgoing
    reader: SnapshotReader
    reading: bool = False


class _Arriving:
    """A leader's snapshot while it comes: the state that is read from it. `take` and `finish` are the slow thread's."""

    def __init__(self, message: Message, head: SnapshotHead, loader: Loader) -> None:
        self.message, self.head = message, head
        self.quiet_ticks = 0  # since the last piece
        self._loader = loader
        self._taken = self._checksum = 0  # bytes without a gap, and their CRC-32C
        self._error: Exception | None = None
        self._finished = False

    def take(self, offset: int, data: bytes) -> int:
        """Read a piece, as far as it is new. Returns how many bytes were read, from the state's beginning.

        Bytes that are no state are complained of in `finish`: first it must be clear that they are what was sent.
        """
        if offset <= self._taken < offset + len(data):
            new = data[self._taken - offset :]
            self._taken += len(new)
            self._checksum = crc32c(new, self._checksum)
            if self._error is None:
                try:
                    self._loader.feed(new)
                except Exception as error:
                    self._error = error
        return self._taken

    def finish(self) -> Any:
        """The state; None where it was given before. Raises SnapshotMismatch, or what the loader has raised."""
        if self._finished:
            return None
        if self._checksum != self.head.checksum:
            raise SnapshotMismatch(f"the snapshot of entry {self.head.meta.index} was read with another checksum")
        if self._error is not None:
            raise self._error
        self._finished = True
        with _uncollected():
            return self._loader.finish()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the cycle collector away from what is made inside, for good: a look at all of it holds every thread up.

    What of a state is let go later is freed by its reference counts; garbage in cycles of just this moment stays.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


class Snapshots:
    """Sends this member's snapshots and receives a leader's. Belongs to the loop's thread."""

    def __init__(
        self,
        durable: DurableLog,
        slow: LogThread,
        network: ChunkNetwork,
        loader: Callable[[], Loader],
        *,
        report: Callable[[int, bool], None],
        arrived: Callable[[Message, Any], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """loader: begins to read a snapshot. report: (node, ok), as `Node.report_snapshot`.

        arrived: a SNAPSHOT message whose bytes are all on disk, and the state that was read from them.
        """
        self._durable, self._slow, self._network, self._loader = durable, slow, network, loader
        self._report, self._arrived, self._failed = report, arrived, failed
        self._sending: dict[int, _Sending] = {}
        self._arriving: _Arriving | None = None

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Begin to send the newest snapshot to the message's receiver, in the place of what was on its way."""
        self._end(message.to)
        try:
            reader = self._durable.open_snapshot()
        except SnapshotTemporarilyUnavailable:
            self._report(message.to, False)
            return
        head = reader.head  # may be newer than the message's: better still
        transfer = Outgoing(head.meta.index, head.checksum, head.size)
        self._sending[message.to] = _Sending(message.term, transfer, reader)
        self._network.send(msgspec.structs.replace(message, snapshot=head.snapshot))
        self._pump(message.to)

    def answered(self, sender: int, answer: ChunkAnswer) -> None:
        """The receiver has said how much it has."""
        sending = self._sending.get(sender)
        if sending is None:
            return
        sending.transfer.answered(answer)
        if sending.transfer.done or sending.transfer.failed:
            self._end(sender)
            self._report(sender, sending.transfer.done)
        else:
            self._pump(sender)

    def tick(self) -> None:
        """One tick has passed."""
        if self._arriving is not None:
            self._arriving.quiet_ticks += 1
            if self._arriving.quiet_ticks >= GIVE_UP_TICKS:  # as its sender has: what was read of it takes room (P12)
                self._arriving = None
        for node, sending in list(self._sending.items()):
            sending.transfer.tick()
            if sending.transfer.failed:
                log.warning("a snapshot does not get through", extra={"node": node, "index": sending.transfer.index})
                self._end(node)
                self._report(node, False)
            else:
                self._pump(node)

    def stop_sending(self) -> None:
        """This member does not lead any more."""
        for node in list(self._sending):
            self._end(node)

    def _end(self, node: int) -> None:
        sending = self._sending.pop(node, None)
        if sending is not None:
            # In the slow thread: a read may be under way there.
            self._slow.submit(sending.reader.close, lambda _result, _error: None)

    def _pump(self, node: int) -> None:
        sending = self._sending[node]
        if sending.reading:
            return
        piece = sending.transfer.next()
        if piece is not None:
            sending.reading = True
            self._slow.submit(partial(sending.reader.read, *piece), partial(self._read, node, sending, piece[0]))

    def _read(self, node: int, sending: _Sending, offset: int, data: bytes, error: BaseException | None) -> None:
        sending.reading = False
        if self._sending.get(node) is not sending:
            return
        if error is not None:
            self._failed(error)
            return
        transfer = sending.transfer
        chunk = make_chunk(sending.term, transfer.index, transfer.file, offset, transfer.size, data)
        self._network.send_chunk(node, chunk)
        self._pump(node)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def offered(self, message: Message) -> None:
        """A leader wants to send a snapshot."""
        assert message.snapshot is not None
        with suppress(msgspec.MsgspecError):  # of no head that this version knows: it is sent again, or given up
            head = head_of(message.snapshot)
            if self._arriving is not None and self._arriving.head == head:
                self._arriving.message = message  # what was read of it counts
            else:
                self._arriving = _Arriving(message, head, self._loader())
            if head.size == 0:  # no chunk will come
                self._receive(self._arriving, 0, b"")

    def chunk(self, sender: int, chunk: Chunk) -> None:
        """A piece has come."""
        arriving = self._arriving
        if arriving is None or not is_whole(chunk):
            return
        head = arriving.head
        if (sender, chunk.index, chunk.file) != (arriving.message.sender, head.meta.index, head.checksum):
            self._network.send_chunk_answer(sender, ChunkAnswer(chunk.index, chunk.file, 0, refused=True))
            return
        arriving.quiet_ticks = 0
        self._receive(arriving, chunk.offset, chunk.data)

    def _receive(self, arriving: _Arriving, offset: int, data: bytes) -> None:
        self._slow.submit(partial(self._take, arriving, offset, data), partial(self._taken, arriving))

    def _take(self, arriving: _Arriving, offset: int, data: bytes) -> tuple[int, Any]:
        """In the slow thread. Returns how many bytes are here, on disk and read, and the state if it is all of it.

        What was on disk before a restart has to come again: the state that was read from it is gone.
        """
        stored = min(self._durable.receive(arriving.head, offset, data), arriving.take(offset, data))
        return stored, arriving.finish() if stored == arriving.head.size else None

    def _taken(self, arriving: _Arriving, result: tuple[int, Any], error: BaseException | None) -> None:
        head = arriving.head
        if isinstance(error, LogFull | SnapshotMismatch):
            log.warning("a snapshot cannot be received", extra={"index": head.meta.index, "error": str(error)})
            if isinstance(error, SnapshotMismatch) and self._arriving is arriving:
                self._arriving = None
                self.drop(None)
            return  # the sender tries again, and gives up after a time
        if error is not None:
            self._failed(error)
            return
        stored, state = result
        sender = arriving.message.sender
        self._network.send_chunk_answer(sender, ChunkAnswer(head.meta.index, head.checksum, stored))
        if stored >= head.size and self._arriving is arriving:
            self._arriving = None
            self._arrived(arriving.message, state)

    def drop(self, state: Any) -> None:
        """The core did not want what has arrived."""
        self._slow.submit(self._durable.drop_incoming, self._dropped)
        self.let_go((state,))

    def let_go(self, parts: Iterable[object]) -> None:
        """Drop a state that serves no more, part by part: that takes time, too."""
        self._slow.submit(partial(deque, parts, 0), self._dropped)

    def _dropped(self, _result: object, error: BaseException | None) -> None:
        if error is not None:
            self._failed(error)
