"""A file system of its own that a test can fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

BALLAST: Final = "ballast"
_BLOCK = bytes(64 * 1024)


@contextmanager
def small_disk(where: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB, mounted at `where`. Needs root; the test is skipped without."""
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted as root")
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on the disk. Returns the file to remove for room."""
    ballast = disk / BALLAST
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(_BLOCK)
        except OSError:
            pass  # full, to the last whole page
    return ballast
