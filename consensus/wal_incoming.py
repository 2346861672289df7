"""A leader's snapshot while it arrives: a file that grows, and beside it how much of it is durable.

    incoming            room for the log's header, then the payload (`wal_snapshot`) as far as it has come
    incoming.progress   two slots (`hard_state`): the snapshot's head, bytes of state that are synced, their CRC-32C

After a restart the transfer goes on behind what was synced; what lies behind that may be torn and is written again. The
whole has its checksum compared before it can be installed, and is read once more when it gets its name as a snapshot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from crc32c import crc32c

from consensus import wal_format as form
from consensus.disk import LogDisk
from consensus.errors import LogDamaged, SnapshotMismatch
from consensus.hard_state import SlotFile
from consensus.wal_snapshot import CHUNK_BYTES, SnapshotHead, encode_prefix, encode_suffix

INCOMING_NAME: Final = "incoming"
PROGRESS_NAME: Final = "incoming.progress"
PROGRESS_MAGIC: Final = b"prime.in"
SYNC_BYTES: Final = 8 * 1024 * 1024


class _Progress(msgspec.Struct, array_like=True, frozen=True):
    head: SnapshotHead
    synced: int  # bytes of state
    checksum: int  # of these


class Incoming:
    """At most one snapshot on its way in. For one thread at a time."""

    def __init__(self, disk: LogDisk, directory: Path, log_id: bytes, sync_bytes: int = SYNC_BYTES) -> None:
        """Nothing is on its way until `resume` or `receive`. sync_bytes: what a restart may have to ask for again."""
        self._disk, self._directory, self._log_id, self._sync_bytes = disk, directory, log_id, sync_bytes
        self.path = directory / INCOMING_NAME
        self.head: SnapshotHead | None = None
        self.received = 0  # bytes of state, without a gap
        self._checksum = 0  # of these
        self._payload_checksum = 0  # of these with what stands before them
        self._synced = 0
        self.whole = False  # all is here, durable, and has the checksum it was announced with
        self._file: int | None = None
        self._progress: SlotFile | None = None

    @property
    def payload_bytes(self) -> int:
        """Size of the payload of a whole one: what is around the state, and the state."""
        assert self.head is not None
        return len(encode_prefix(self.head.meta)) + self.head.size + len(encode_suffix(0))

    @property
    def payload_checksum(self) -> int:
        """CRC-32C of the payload of a whole one, as it was received: `Wal.adopt_snapshot` compares the file with it."""
        return crc32c(encode_suffix(self._checksum), self._payload_checksum)

    # -- arriving ------------------------------------------------------------------------------------------------

    def receive(self, head: SnapshotHead, offset: int, data: bytes) -> int:
        """Take a piece of the state; returns how many bytes are here without a gap: what to send from.

        A piece that does not begin there is passed by. Another head than before begins anew. When all is here it is
        durable. Raises SnapshotMismatch, after which nothing is here, LogFull (nothing of the call counts), LogFailed.
        """
        if head != self.head:
            self._begin(head)
        if offset == self.received and not self.whole and (data or head.size == 0):
            self._write(head, data)
        return self.received

    def _write(self, head: SnapshotHead, data: bytes) -> None:
        if self.received + len(data) > head.size:
            self.drop()
            raise SnapshotMismatch(f"a snapshot of {head.size} bytes was announced, and more has come")
        assert self._file is not None
        self._disk.pwrite(self._file, data, self._start + self.received)
        if self.received + len(data) == head.size:
            self._complete(self._file, data)
            return
        self._take(data)
        if self.received - self._synced >= self._sync_bytes:
            self._sync(self._file)

    def _take(self, data: bytes) -> None:
        self._checksum = crc32c(data, self._checksum)
        self._payload_checksum = crc32c(data, self._payload_checksum)
        self.received += len(data)

    @property
    def _start(self) -> int:
        assert self.head is not None
        return form.SNAPSHOT_HEADER_BYTES + len(encode_prefix(self.head.meta))

    def _begin(self, head: SnapshotHead) -> None:
        self.drop()
        prefix = encode_prefix(head.meta)
        size = (
            form.SNAPSHOT_HEADER_BYTES + len(prefix) + head.size + len(encode_suffix(0)) + form.SNAPSHOT_TRAILER_BYTES
        )
        self._file = self._disk.open(self.path, create=True)
        try:
            self._disk.fallocate(self._file, size)  # a disk without room for it says so now
            self._disk.pwrite(self._file, bytes(form.SNAPSHOT_HEADER_BYTES) + prefix, 0)
            self._progress = SlotFile.create(
                self._disk, self._directory / PROGRESS_NAME, PROGRESS_MAGIC, self._log_id, _encoded(head, 0, 0)
            )
        except BaseException:
            if not self._disk.failed:
                self.drop()
            raise
        self.head, self._payload_checksum = head, crc32c(prefix)

    def _complete(self, file: int, data: bytes) -> None:
        """The last piece, which is in the file: it counts when what stands behind it is there as well."""
        assert self.head is not None
        checksum = crc32c(data, self._checksum)
        if checksum != self.head.checksum:
            problem = f"the snapshot of entry {self.head.meta.index} has arrived with another checksum than announced"
            self.drop()
            raise SnapshotMismatch(problem)
        self._disk.pwrite(file, encode_suffix(checksum), self._start + self.head.size)
        self._take(data)
        self._sync(file)

    def _sync(self, file: int) -> None:
        assert self.head is not None
        assert self._progress is not None
        self._disk.fdatasync(file)
        self._progress.write(_encoded(self.head, self.received, self._checksum))
        self._synced = self.received
        self.whole = self.received == self.head.size

    # -- after a restart -----------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on with what was on its way when the log was last open, as far as it is sound; drop the rest.

        Raises LogTooNew, LogFailed.
        """
        try:
            self._progress = SlotFile.open(self._disk, self._directory / PROGRESS_NAME, PROGRESS_MAGIC, self._log_id)
            self._file = self._disk.open(self.path)
            progress = msgspec.msgpack.decode(self._progress.value, type=_Progress)
        except (FileNotFoundError, LogDamaged, msgspec.MsgspecError):
            # A crash may leave one file without the other; and nothing here was ever acknowledged as stored.
            self.drop()
            return
        if progress.synced == 0:
            self.drop()
            return
        self.head = progress.head
        self._checksum, self._payload_checksum = self._read_state(self._file, progress.synced)
        self.received = self._synced = progress.synced
        self.whole = self.received == progress.head.size
        if self._checksum != progress.checksum:
            self.drop()

    def _read_state(self, file: int, size: int) -> tuple[int, int]:
        """CRC-32C of the first `size` bytes of the state, from the file, and of the payload up to there."""
        assert self.head is not None
        state, payload = 0, crc32c(encode_prefix(self.head.meta))
        for at in range(0, size, CHUNK_BYTES):
            chunk = self._disk.pread(file, min(CHUNK_BYTES, size - at), self._start + at)
            state, payload = crc32c(chunk, state), crc32c(chunk, payload)
        return state, payload

    # -- the end -------------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Forget it, and take its files away where they still have these names. Raises LogFailed."""
        self.close()
        self.head = None
        self.received = self._checksum = self._payload_checksum = self._synced = 0
        self.whole = False
        for path in (self._directory / PROGRESS_NAME, self.path):
            self._disk.discard(path)  # it may have been installed, or a crash came between the two

    def close(self) -> None:
        """Let the files go; `resume` finds them again."""
        if self._file is not None:
            self._disk.close(self._file)
        if self._progress is not None:
            self._progress.close()
        self._file = self._progress = None


def _encoded(head: SnapshotHead, synced: int, checksum: int) -> bytes:
    return msgspec.msgpack.encode(_Progress(head, synced, checksum))
