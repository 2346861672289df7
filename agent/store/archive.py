"""Attempts' output in an archive: a place named by a URL that fsspec knows, and that all agents share.

    URL/<cluster>/<generation>/<run>/<instance>/<attempt>/000001.log, ...     the segments as they are on the disk
                                                          manifest.json       their names, sizes and hashes

The manifest is written last: without it nothing is taken for archived, so what a crash leaves behind counts for nothing
and is written again. Everything here blocks. fsspec is imported where an archive is opened, not before.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from agent.store.errors import ArchiveAway, ArchiveDamaged, LogsError
from executors.segments import segment_numbers

MANIFEST: Final = "manifest.json"
MARK: Final = "archived.json"  # beside the segments on the disk: which of them are where
URL_EXAMPLE: Final = "s3://bucket/logs or file:///mnt/logs"

_CHUNK_BYTES: Final = 1024 * 1024
_MANIFEST_BYTES_MAX: Final = 1024 * 1024
_ERROR_MAX: Final = 300
_SEGMENT: Final = re.compile(r"\d{6,18}\.log")
_FLAT: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"})
"""Object stores: an object is there whole or not at all, and has no directory above it."""

Key = tuple[str, str, int]  # run, instance, number of the attempt


class Segment(msgspec.Struct, frozen=True):
    """One file. size: bytes; sha256: hex."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What an archived attempt consists of, in order."""

    segments: tuple[Segment, ...]
    version: int = 1

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(one.size for one in self.segments)


class Mark(msgspec.Struct, frozen=True):
    """What is noted beside segments that are archived. at: the URL of their directory."""

    at: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Found:
    """An archived attempt. path: fsspec's name of its directory."""

    path: str
    manifest: Manifest


def check_url(url: str) -> None:
    """Raise ValueError for what is no URL, or one with credentials in it: these come from the environment (P8)."""
    parts = urlsplit(url)
    if "://" not in url or not parts.scheme:
        raise ValueError(f"a URL is expected, such as {URL_EXAMPLE}")
    if parts.username or parts.password or parts.query:
        raise ValueError("the URL may hold no credentials and no query: fsspec takes these from the environment")


class Archive:
    """The archive of one cluster. `put` and `find` may be called from several threads."""

    def __init__(self, url: str, cluster: str, generation: int) -> None:
        """Raises ValueError for a URL that cannot be used, or whose kind needs a package. Reaches for nothing."""
        check_url(url)
        try:
            import fsspec

            fs, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ValueError(
                f"{error}: install optimus-prime[archive] or [archive-s3], or the package for it"
            ) from error
        except Exception as error:  # whatever a third party's file system does not like about it
            raise ValueError(_text(error)) from error
        self.url = url.rstrip("/")
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        self._cluster, self._generation = cluster, generation
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        self._flat = not _FLAT.isdisjoint(protocols)
        self._local = "file" in protocols

    def put(self, key: Key, directory: Path) -> int:
        """Archive a log that nobody writes to any more, and mark it. Returns the bytes that were sent.

        Raises ArchiveAway: nothing of it counts, the same call may succeed later. Raises LogsError from the disk here.
        """
        manifest, sent = described(directory), 0
        path = self._path(key, self._generation)
        there = self._found(path)
        if there is None or there.manifest != manifest:
            with self._away():
                self._send(path, directory, manifest)
            sent = manifest.size
        _write_mark(directory, Mark(self._where(key), manifest))
        return sent

    def has(self, key: Key, directory: Path) -> bool:
        """Whether the log in the directory was put here as it is now: by its mark alone, nothing is asked."""
        with suppress(OSError, msgspec.DecodeError):
            mark = msgspec.json.decode((directory / MARK).read_bytes(), type=Mark)
            there = [(one.name, one.size) for one in mark.manifest.segments]
            return mark.at == self._where(key) and there == [
                (one.name, one.stat().st_size) for one in _files(directory)
            ]
        return False

    def find(self, key: Key) -> Found | None:
        """An attempt in the archive; None where it is not, or not whole. Raises ArchiveAway.

        A cluster that was recovered looks among what its earlier generations put there, too.
        """
        with self._away():
            self._fs.invalidate_cache()
        for generation in range(self._generation, 0, -1):
            found = self._found(self._path(key, generation))
            if found is not None:
                return found
        return None

    def fetch(self, found: Found, into: Path) -> None:
        """Copy an attempt's segments into an empty directory. Raises ArchiveAway, ArchiveDamaged, LogsError."""
        for segment in found.manifest.segments:
            target = into / segment.name
            with self._away():
                self._fs.get_file(f"{found.path}/{segment.name}", str(target))
            if _segment(target) != segment:
                raise ArchiveDamaged(f"{found.path}/{segment.name} in the archive is not what was put there")

    def _send(self, path: str, directory: Path, manifest: Manifest) -> None:
        """Whatever is there from before stops counting first, and what comes counts at the very last."""
        fs = self._fs
        with suppress(FileNotFoundError):
            fs.rm_file(f"{path}/{MANIFEST}")
        if not self._flat:
            fs.makedirs(path, exist_ok=True)
        for segment in manifest.segments:
            fs.put_file(str(directory / segment.name), f"{path}/{segment.name}")
            self._sync(f"{path}/{segment.name}")
            size = fs.info(f"{path}/{segment.name}")["size"]
            if size != segment.size:
                raise OSError(f"{path}/{segment.name} has {size} bytes there and {segment.size} here")
        data = msgspec.json.encode(manifest)
        if self._flat:
            fs.pipe_file(f"{path}/{MANIFEST}", data)
            return
        fs.pipe_file(f"{path}/{MANIFEST}.new", data)
        self._sync(f"{path}/{MANIFEST}.new")
        fs.mv(f"{path}/{MANIFEST}.new", f"{path}/{MANIFEST}")
        self._sync(path)

    def _sync(self, path: str) -> None:
        """A directory that is mounted here keeps what it was given over a power cut; others see to it themselves."""
        if self._local:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _found(self, path: str) -> Found | None:
        with self._away():
            try:
                data = self._fs.cat_file(f"{path}/{MANIFEST}", start=0, end=_MANIFEST_BYTES_MAX)
            except FileNotFoundError:
                self._must_be_there()
                return None
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.DecodeError:  # cut off while it was written
            return None
        if manifest.version != 1 or not all(_SEGMENT.fullmatch(one.name) for one in manifest.segments):
            raise ArchiveDamaged(f"{path}/{MANIFEST} in the archive is no manifest that this version reads")
        return Found(path, manifest)

    def _must_be_there(self) -> None:
        """An archive that is not mounted, or whose bucket is gone, is away: it must not look like an empty one."""
        home = self._root.split("/", 1)[0] if self._flat else self._root
        if not self._fs.exists(home):
            raise FileNotFoundError(f"{home} is not there: make it, or mount it")

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Whatever a file system of fsspec raises means that the archive cannot be used now."""
        try:
            yield
        except Exception as error:
            raise ArchiveAway(f"the archive {self.url}: {_text(error)}") from error

    def _path(self, key: Key, generation: int) -> str:
        run, instance, number = key
        return f"{self._root}/{self._cluster}/{generation}/{run}/{instance}/{number}"

    def _where(self, key: Key) -> str:
        return self.url + self._path(key, self._generation).removeprefix(self._root)


def described(directory: Path) -> Manifest:
    """The manifest of the log that is in the directory. Raises LogsError."""
    return Manifest(tuple(_segment(path) for path in _files(directory)))


def _files(directory: Path) -> list[Path]:
    return [directory / f"{number:06d}.log" for number in segment_numbers(directory)]


def _segment(path: Path) -> Segment:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise LogsError(f"log {path}: {error}; check the disk") from error
    return Segment(path.name, size, digest.hexdigest())


def _write_mark(directory: Path, mark: Mark) -> None:
    temporary = directory / f"{MARK}.new"
    try:
        temporary.write_bytes(msgspec.json.encode(mark))
        temporary.rename(directory / MARK)
    except OSError as error:
        raise LogsError(f"log {directory}: {error}; check the disk") from error


def _text(error: BaseException) -> str:
    """What an error of a third party says, on one line and not at length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_ERROR_MAX]}"
