"""Which attempts' output retention has removed from this disk, when and why. By it "removed" is not taken for "lost".

Lines of JSON, `[run, instance, attempt, at_ms, why]`, in a file that is put aside when it is full; of those that were,
the last is kept. So what is known is bounded (P12), and reaches back for some hundred thousand removals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.store.errors import LogsError

FILE_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Removed:
    """at_ms: milliseconds since the epoch. why: for people."""

    at_ms: int
    why: str


class Removals:
    """The notes in the file `path`. A note is on the disk before `note` returns."""

    def __init__(self, path: Path, max_bytes: int = FILE_BYTES_MAX) -> None:
        self._path, self._max_bytes = path, max_bytes

    @property
    def _aside(self) -> Path:
        return self._path.with_suffix(".old")

    def note(self, run_id: str, instance: str, attempt: int, removed: Removed) -> None:
        """Note what is about to be removed. Raises LogsError."""
        line = msgspec.json.encode([run_id, instance, attempt, removed.at_ms, removed.why]) + b"\n"
        try:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
                self._path.replace(self._aside)
            with self._path.open("a+b") as file:
                if file.tell() and not _ends_whole(self._path):
                    file.write(b"\n")  # a power cut has torn the line before
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LogsError(f"{self._path}: {error}; check the disk") from error

    def find(self, run_id: str, instance: str, attempt: int) -> Removed | None:
        """The last note about an attempt. Raises LogsError."""
        head = msgspec.json.encode([run_id, instance, attempt])[:-1] + b","
        found: Removed | None = None
        for line in self._lines():
            if line.startswith(head):
                try:
                    *_key, at_ms, why = msgspec.json.decode(line, type=tuple[str, str, int, int, str])
                except msgspec.DecodeError:
                    continue  # torn
                found = Removed(at_ms, why)
        return found

    def _lines(self) -> Iterator[bytes]:
        for path in (self._aside, self._path):
            try:
                with path.open("rb") as file:
                    yield from file
            except FileNotFoundError:
                continue
            except OSError as error:
                raise LogsError(f"{path}: {error}; check the disk") from error


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
