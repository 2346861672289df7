"""Reading what `process_state.py` tells of: nothing that is half there, or not there as it was written, is believed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from executors.base import Outcome, Started
from executors.errors import StateLost, Unsettled
from executors.process_state import EXIT, RECORD

TimeMs = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
Pid = Annotated[int, msgspec.Meta(gt=0, lt=2**31)]
Ticks = Annotated[int, msgspec.Meta(ge=0)]


class Record(msgspec.Struct, frozen=True):
    """That there was a start: the supervisor and the task, so that each is known from a later process of its number."""

    name: str
    labels: dict[str, str]
    directory: str
    log_directory: str
    pid: Pid
    start_ticks: Ticks
    task_pid: Pid
    task_start_ticks: Ticks
    limit_us: Annotated[int, msgspec.Meta(gt=0, le=2**62)]
    boot_id: str
    started_at_ms: TimeMs

    def started(self) -> Started:
        """The executor's word for it."""
        return Started(self.name, self.started_at_ms, {"pid": str(self.pid)})


class End(msgspec.Struct, frozen=True):
    """How an attempt ended. refused: it was never started."""

    name: str
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None
    reason: str | None
    message: str
    refused: bool
    started_at_ms: TimeMs
    finished_at_ms: TimeMs
    facts: dict[str, str]

    def started(self) -> Started:
        """The executor's word for its start."""
        return Started(self.name, self.started_at_ms)

    def as_json(self) -> dict[str, object]:
        """As it stands in the file."""
        return dict(msgspec.to_builtins(self))

    def outcome(self) -> Outcome:
        """The executor's word for it."""
        return Outcome(
            exit_code=self.exit_code,
            reason=self.reason,
            message=self.message,
            started_at_ms=None if self.refused else self.started_at_ms,
            finished_at_ms=self.finished_at_ms,
            facts=self.facts,
        )


T = TypeVar("T", Record, End)
_FILES: Final[dict[type, str]] = {Record: RECORD, End: EXIT}


_PASSING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR}
)


@contextmanager
def told_apart(name: str) -> Iterator[None]:
    """Turn what the system refuses into our tree: what passes by itself is no word about the attempt `name`."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise Unsettled(f"{name}: {error}") from error
        raise StateLost(f"{name}: {error}") from error


def load(kind: type[T], state: Path, name: str) -> T | None:
    """What stands in the attempt's directory `state`; None if there is no such file.

    Raises StateLost if it is damaged, another attempt's, or cannot be read; Unsettled if it cannot be read now.
    """
    path = state / _FILES[kind]
    try:
        with told_apart(name):
            data = path.read_bytes()
    except StateLost as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateLost(f"{name}: {path} is damaged: {error}") from error
    if value.name != name:
        raise StateLost(f"{name}: {path} is damaged: it belongs to the attempt {value.name!r}")
    return value


def load_if_whole(kind: type[T], state: Path, name: str) -> T | None:
    """As `load`, but None also where it is damaged or cannot be read. Raises Unsettled."""
    try:
        return load(kind, state, name)
    except StateLost:
        return None
