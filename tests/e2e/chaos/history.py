"""What was seen from outside while faults went on: values alone. `check` says whether they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

FINAL: Final = frozenset({"success", "failed", "cancelled", "skipped", "upstream_failed"})
RANKS: Final = {"queued": 0, "running": 1, **dict.fromkeys(FINAL, 2)}


class Kind(StrEnum):
    """What a client asks."""

    SUBMIT = "submit"
    CANCEL = "cancel"
    READ = "read"  # what that agent has
    CONSISTENT = "consistent read"  # what all that was answered before has led to


@dataclass(frozen=True, slots=True)
class Seen:
    """What an answer shows of a run. attempts: of all instances, begun; ended: those of them that are over."""

    state: str
    reason: str | None
    attempts: int
    ended: int

    @property
    def progress(self) -> tuple[int, int, int]:
        """Grows while a run goes on; none of the three ever falls, where nobody clears or retries."""
        return RANKS[self.state], self.attempts, self.ended


@dataclass(frozen=True, slots=True)
class Call:
    """One question of a client. Times are nanoseconds of one monotonic clock.

    key: of a submit. run: which it is about, None = it is not known. returned_ns: None = nobody knows whether it was
    done. code: a refusal's, "" = it was done. index: of the answer, 0 = it shows none.
    """

    kind: Kind
    agent: str
    called_ns: int
    returned_ns: int | None
    key: str = ""
    run: str | None = None
    code: str = ""
    index: int = 0
    seen: Seen | None = None

    @property
    def done(self) -> bool:
        """Whether it was answered, and not refused."""
        return self.returned_ns is not None and not self.code


@dataclass(slots=True)
class Evidence:
    """What an attempt's own work has written down, outside of prime. Times are seconds of CLOCK_BOOTTIME.

    begun_s: each time it began. held: work of the same instance was going on when it began. alive_s: its last word.
    """

    begun_s: list[float] = field(default_factory=list)
    alive_s: float = 0.0
    held: bool = False
    ended: bool = False


AttemptKey = tuple[str, str, int]
"""(run, instance, number of the attempt)"""


def evidence_of(lines: Iterable[str]) -> dict[AttemptKey, Evidence]:
    """Lines are: what run instance attempt seconds; what = begin, held (a begin beside other work), beat or end."""
    found: dict[AttemptKey, Evidence] = {}
    for line in lines:
        what, run, instance, number, at = line.split()
        one = found.setdefault((run, instance, int(number)), Evidence())
        if what in ("begin", "held"):
            one.begun_s.append(float(at))
        one.held |= what == "held"
        one.ended |= what == "end"
        one.alive_s = max(one.alive_s, float(at))
    return found


@dataclass(frozen=True, slots=True)
class Attempt:
    """As it is kept."""

    number: int
    agent: str
    state: str
    reason: str | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Instance:
    """As it is kept."""

    name: str
    state: str
    reason: str | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A run as an agent or the database keeps it."""

    run: str
    state: str
    reason: str | None
    instances: tuple[Instance, ...]


def record_of(shown: Mapping[str, Any]) -> Record:
    """The record of a run as the HTTP face shows it."""
    instances = tuple(
        Instance(one["name"], one["state"], one["reason"], tuple(_attempt(each) for each in one["attempts"]))
        for one in sorted(shown["instances"], key=lambda one: str(one["name"]))
    )
    return Record(shown["id"], shown["state"], shown["reason"], instances)


def _attempt(shown: Mapping[str, Any]) -> Attempt:
    return Attempt(shown["number"], shown["agent"], shown["state"], shown["reason"], shown["exit_code"])


def seen_of(shown: Mapping[str, Any]) -> Seen:
    """What an answer shows of a run's progress."""
    attempts = [each for one in shown["instances"] for each in one["attempts"]]
    ended = sum(one["finished_at"] is not None for one in attempts)
    return Seen(shown["state"], shown["reason"], len(attempts), ended)


@dataclass(frozen=True, slots=True)
class History:
    """All that is checked. records: what each agent keeps after all has come to rest. mirror: the database's rows."""

    calls: Sequence[Call]
    evidence: Mapping[AttemptKey, Evidence]
    records: Mapping[str, Sequence[Record]]
    mirror: Sequence[Record]
