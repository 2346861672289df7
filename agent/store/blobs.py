"""Content-addressed files: assets, compiled assets, bundles. Durable before anything names them (P1).

    <root>/ab/<hex SHA-256 of the bytes>     a blob, never changed once it has its name
    <root>/tmp/                              unfinished ones

A blob that nothing refers to yet is *pinned*: by `pin`, or because it is younger than an hour by the file's time. The
second needs no record of its own and so survives a restart; storing a blob again makes it young again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.spec.limits import ASSET_BYTES_MAX
from agent.store.errors import BlobDamaged, BlobError, BlobMissing, BlobTooLarge, is_full

log = logging.getLogger(__name__)

BLOB_BYTES_MAX: Final = ASSET_BYTES_MAX
YOUNG_MS: Final = 60 * 60 * 1000
_OPEN_FILES_MAX: Final = 64  # of one batch
_READ_BYTES: Final = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed, temporary files included. bytes: their sizes together."""

    count: int
    bytes: int


def name_of(data: bytes) -> str:
    """The name of a blob of these bytes."""
    return hashlib.sha256(data).hexdigest()


class BlobStore:
    """The blobs of one agent. May be used from several threads.

    After a failed fsync nothing is stored any more until the store is opened again: the kernel may call pages clean
    that never reached the disk. Reading goes on, since every read is checked.
    """

    def __init__(
        self, root: Path, *, max_bytes: int = BLOB_BYTES_MAX, fsync: Callable[[int], None] = os.fdatasync
    ) -> None:
        """root: made if missing. max_bytes: of one blob. fsync: what makes an open file or directory durable."""
        self._root = root
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._failure: str | None = None
        self._lock = threading.Lock()  # between finding a blob there, making it young, and sweeping it
        self._pins: dict[str, int] = {}
        self._temporary = root / "tmp"
        with self._storing(root):
            self._make_directory(self._temporary)

    def path(self, digest: str) -> Path:
        """Where that blob is or would be. Raises ValueError for what is not 64 lower-case hexadecimal digits."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no blob name: it must be 64 lower-case hexadecimal digits (SHA-256)")
        return self._root / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Is there such a blob? Its bytes are not looked at."""
        return self.path(digest).is_file()

    def get(self, digest: str) -> bytes:
        """A blob's bytes, checked against its name. Raises BlobMissing, BlobDamaged."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise BlobMissing(
                f"blob {digest} is not on this agent ({path}): it was swept or lost; apply its job again"
            ) from error
        except OSError as error:
            raise BlobDamaged(f"{path}: could not be read: {error.strerror}. Check the disk.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobDamaged(
                f"{path}: its {len(data)} bytes are not those its name stands for: the disk has changed them. "
                "Check the disk, then apply the job again: what is damaged is written anew by that."
            )
        return data

    def put(self, data: bytes) -> str:
        """Store one blob durably and return its name. Raises BlobTooLarge, BlobError.

        What is there already is read and kept; if it is damaged, it is written anew (P9).
        """
        return self.put_all([data])[0]

    def put_all(self, blobs: Iterable[bytes]) -> list[str]:
        """Store many durably: all are written before the first is waited for, each directory is synced once.

        Returns their names in order. Raises BlobTooLarge (what came before it may be stored), BlobError.
        """
        names: list[str] = []
        batch: dict[str, bytes] = {}
        for data in blobs:
            if len(data) > self._max_bytes:
                raise BlobTooLarge(
                    f"a blob of {len(data)} bytes: {self._max_bytes} are allowed; make the asset smaller"
                )
            digest = name_of(data)
            names.append(digest)
            batch[digest] = data
            if len(batch) == _OPEN_FILES_MAX:
                self._store(batch)
                batch = {}
        self._store(batch)
        return names

    def _store(self, batch: dict[str, bytes]) -> None:
        written: list[tuple[int, str, Path]] = []  # open file, its name now, its name to be ("" = has it already)
        try:
            with self._storing(self._root):
                for digest, data in batch.items():
                    path = self.path(digest)
                    if (there := self._find(path, digest)) is not None:
                        written.append((there, "", path))
                        continue
                    file, temporary = tempfile.mkstemp(dir=self._temporary)
                    written.append((file, temporary, path))
                    _write(file, data)
                for file, _, _ in written:
                    self._sync(file)
                for directory in {path.parent for _, _, path in written}:
                    self._make_directory(directory)
                for number, (file, temporary, path) in enumerate(written):
                    if temporary:
                        Path(temporary).replace(path)
                        written[number] = (file, "", path)
                for directory in {path.parent for _, _, path in written}:
                    self._sync_directory(directory)
        finally:
            for file, temporary, _ in written:
                os.close(file)
                if temporary:
                    Path(temporary).unlink()  # its space may be needed

    def _find(self, path: Path, digest: str) -> int | None:
        """Open the blob if it is there and sound, and make it young. It may not be durable yet: sync it."""
        with self._lock:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            os.utime(file)
        if _is_sound(file, digest):
            return file
        os.close(file)
        log.warning("a damaged blob is written anew; check the disk", extra={"blob": digest})
        return None

    def pin(self, digests: Iterable[str], until_ms: int) -> None:
        """Keep these from being swept until then (ms since the epoch). A restart forgets it: see the module's text."""
        with self._lock:
            for digest in digests:
                self.path(digest)
                self._pins[digest] = max(until_ms, self._pins.get(digest, 0))

    def sweep(self, referenced: Collection[str], now_ms: int) -> Swept:
        """Remove blobs that are not in `referenced`, not pinned, and older than an hour; old temporary files too.

        referenced: every digest that the table, the log or the history names (a set, if there are many).
        now_ms: ms since the epoch by this host's clock.
        """
        with self._lock:
            self._pins = {digest: until_ms for digest, until_ms in self._pins.items() if until_ms > now_ms}
        count = size = 0
        for directory in sorted(self._root.iterdir()):
            if not directory.is_dir():
                continue
            for path in directory.iterdir():
                is_blob = _DIGEST.fullmatch(path.name) and path.parent.name == path.name[:2]
                if directory == self._temporary or (is_blob and path.name not in referenced):
                    removed = self._remove_if_old(path, now_ms)
                    count += removed is not None
                    size += removed or 0
        return Swept(count, size)

    def _remove_if_old(self, path: Path, now_ms: int) -> int | None:
        with self._lock:
            try:
                status = path.stat()
            except FileNotFoundError:
                return None  # renamed or swept meanwhile
            if path.name in self._pins or now_ms - status.st_mtime_ns // 1_000_000 <= YOUNG_MS:
                return None
            path.unlink()
            return status.st_size

    @contextmanager
    def _storing(self, where: Path) -> Iterator[None]:
        if self._failure is not None:
            raise BlobError(self._failure)
        try:
            yield
        except OSError as error:
            what = "free some space" if is_full(error) else "check the disk and its permissions"
            raise BlobError(f"{where}: could not store a blob: {error.strerror or error}: {what}") from error

    def _make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self._sync_directory(path.parent)

    def _sync_directory(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(file)
        finally:
            os.close(file)

    def _sync(self, file: int) -> None:
        try:
            self._fsync(file)
        except OSError as error:
            self._failure = (
                f"{self._root}: a sync failed ({error.strerror or error}), so nothing is stored here any more: "
                "check the disk, then start the agent again"
            )
            raise


def _is_sound(file: int, digest: str) -> bool:
    """Whether the bytes of an open file are those that the name stands for. What cannot be read is not."""
    found = hashlib.sha256()
    try:
        while piece := os.read(file, _READ_BYTES):
            found.update(piece)
    except OSError as error:
        log.warning("a blob cannot be read", extra={"blob": digest, "error": str(error)})
        return False
    return found.hexdigest() == digest


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
