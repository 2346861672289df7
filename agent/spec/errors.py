"""What can be wrong with what users write, and how it is said.

    Exception
    ├── SpecError             a document that cannot be used; carries every problem of it, not the first
    └── ValueError
        ├── PluginError       a plugin was asked for a version or an image that it does not have
        └── ...               durations, cron expressions and windows: a plain message; the reader adds the place

Readers (`parse_job`, `parse_plugin`, ...) collect `Problem` values and raise nothing; `require` turns their answer into
an exception where the caller wants one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Severity(StrEnum):
    """How much a problem weighs: an error refuses the document, a warning only tells."""

    ERROR = "error"
    WARNING = "warning"


class Position(NamedTuple):
    """A place in a text; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it stands, and what to do about it.

    `key` is the path of the key, as in `behavior.retry.count` or `hooks[1].name`; empty where the whole text is meant.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}:{self.column}: {key}{self.message}"


class SpecError(Exception):
    """A document that cannot be used. `problems` holds all that is wrong with it, warnings included, in text order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems if problem.severity is Severity.ERROR))


class PluginError(ValueError):
    """A plugin was asked for something it does not have; the message says what it has."""


def has_errors(problems: Iterable[Problem]) -> bool:
    """True where at least one of the problems is an error."""
    return any(problem.severity is Severity.ERROR for problem in problems)


def require(value: T | None, problems: Iterable[Problem]) -> T:
    """Return what a reader made of a text, or raise `SpecError` with all its problems where it made nothing."""
    if value is None:
        raise SpecError(problems)
    return value
