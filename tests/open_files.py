"""Which files this process has open: for tests that something is closed again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def open_files() -> Counter[str]:
    """What the open descriptors point at. Not their numbers: looking takes one itself, and they are used again."""
    found: Counter[str] = Counter()
    for descriptor in _DESCRIPTORS.iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # the descriptor that the looking itself took
            continue
        if not target.endswith("/fd"):
            found[target] += 1
    return found


def opened_since(before: Counter[str]) -> Counter[str]:
    """What is open now and was not then. What earlier tests left and is closed meanwhile does not count."""
    return open_files() - before
