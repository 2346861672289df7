"""The tables of the mirror, and what stands in their rows.

They are made by the migrations; the models name the columns for peewee. Statements keep to what SQLite and PostgreSQL
both understand; times are ISO 8601 text with `Z`, which PostgreSQL stores as TIMESTAMPTZ and SQLite's date functions
read as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from peewee import AutoField, BigIntegerField, CompositeKey, Field, Model, TextField

from agent.store.history import FinishedRun

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class MirroredAttempt:
    """One attempt as the database shows it. Times in milliseconds since the epoch."""

    number: int
    agent: str
    state: str
    reason: str | None
    exit_code: int | None
    started_at_ms: int | None
    finished_at_ms: int | None


@dataclass(frozen=True, slots=True)
class MirroredInstance:
    """The task or a hook of a run. type: what kind of instance it is."""

    name: str
    type: str
    state: str
    reason: str | None
    attempts: tuple[MirroredAttempt, ...]


@dataclass(frozen=True, slots=True)
class MirroredRun:
    """What a packed record holds beside the facts of its FinishedRun."""

    instances: tuple[MirroredInstance, ...]


class _Time(Field):
    """A moment in UTC, given in milliseconds since the epoch."""

    field_type = "TIMESTAMPTZ"

    def db_value(self, value: int | None) -> str | None:
        if value is None:
            return None
        return (_EPOCH + timedelta(milliseconds=value)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(TextField):
    """Text that any database takes: PostgreSQL refuses NUL, and one such value must not stop the mirror for ever."""

    def db_value(self, value: str | None) -> str | None:
        return None if value is None else value.replace("\0", "\ufffd")


class Run(Model):
    """A finished run: its last end."""

    run_id = _Text(primary_key=True)
    generation = BigIntegerField()
    log_index = BigIntegerField()
    ordinal = BigIntegerField()
    project = _Text()
    namespace = _Text()
    job = _Text()
    origin = _Text()
    state = _Text()
    reason = _Text(null=True)
    requested_by = _Text()
    scheduled_at = _Time()
    created_at = _Time()
    started_at = _Time(null=True)
    finished_at = _Time()

    class Meta:
        table_name = "prime_runs"


class Instance(Model):
    """The task of a run, or a hook."""

    run_id = _Text()
    name = _Text()
    type = _Text()
    state = _Text()
    reason = _Text(null=True)

    class Meta:
        table_name = "prime_instances"
        primary_key = CompositeKey("run_id", "name")


class Attempt(Model):
    """One attempt of an instance."""

    run_id = _Text()
    instance = _Text()
    number = BigIntegerField()
    agent = _Text()
    state = _Text()
    reason = _Text(null=True)
    exit_code = BigIntegerField(null=True)
    started_at = _Time(null=True)
    finished_at = _Time(null=True)

    class Meta:
        table_name = "prime_attempts"
        primary_key = CompositeKey("run_id", "instance", "number")


class Fence(Model):
    """One row: who may write (generation, term), and up to where it is written (the watermark)."""

    id = BigIntegerField(primary_key=True)
    generation = BigIntegerField()
    term = BigIntegerField()
    mark_generation = BigIntegerField()
    log_index = BigIntegerField()
    ordinal = BigIntegerField()
    gaps = BigIntegerField()

    class Meta:
        table_name = "prime_fence"


class Gap(Model):
    """Records after (from_...) up to (to_...) that no history held any more when the mirror came to them."""

    id = AutoField()
    generation = BigIntegerField()
    from_index = BigIntegerField()
    from_ordinal = BigIntegerField()
    to_index = BigIntegerField()
    to_ordinal = BigIntegerField()

    class Meta:
        table_name = "prime_gaps"


class Schema(Model):
    """The migrations that were made."""

    version = BigIntegerField(primary_key=True)

    class Meta:
        table_name = "prime_schema"


# {id} is how the database numbers rows by itself; all else both understand alike.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE prime_runs (
            run_id TEXT PRIMARY KEY, generation BIGINT NOT NULL, log_index BIGINT NOT NULL, ordinal BIGINT NOT NULL,
            project TEXT NOT NULL, namespace TEXT NOT NULL, job TEXT NOT NULL, origin TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT, requested_by TEXT NOT NULL, scheduled_at TIMESTAMPTZ NOT NULL,
            created_at TIMESTAMPTZ NOT NULL, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ NOT NULL)""",
        "CREATE INDEX prime_runs_by_job ON prime_runs (project, job, scheduled_at)",
        "CREATE INDEX prime_runs_by_end ON prime_runs (finished_at)",
        """CREATE TABLE prime_instances (
            run_id TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
            PRIMARY KEY (run_id, name))""",
        """CREATE TABLE prime_attempts (
            run_id TEXT NOT NULL, instance TEXT NOT NULL, number BIGINT NOT NULL, agent TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT, exit_code BIGINT, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ,
            PRIMARY KEY (run_id, instance, number))""",
        """CREATE TABLE prime_fence (
            id BIGINT PRIMARY KEY CHECK (id = 1), generation BIGINT NOT NULL, term BIGINT NOT NULL,
            mark_generation BIGINT NOT NULL, log_index BIGINT NOT NULL, ordinal BIGINT NOT NULL,
            gaps BIGINT NOT NULL)""",
        "INSERT INTO prime_fence VALUES (1, 0, 0, 0, 0, 0, 0)",
        """CREATE TABLE prime_gaps (
            id {id}, generation BIGINT NOT NULL, from_index BIGINT NOT NULL, from_ordinal BIGINT NOT NULL,
            to_index BIGINT NOT NULL, to_ordinal BIGINT NOT NULL)""",
    ),
)


def run_row(generation: int, run: FinishedRun) -> dict[str, Any]:
    """The row of a run."""
    return {
        "run_id": run.run_id,
        "generation": generation,
        "log_index": run.index,
        "ordinal": run.ordinal,
        "project": run.project,
        "namespace": run.namespace,
        "job": run.job,
        "origin": run.origin,
        "state": run.state,
        "reason": run.reason,
        "requested_by": run.requested_by,
        "scheduled_at": run.scheduled_at_ms,
        "created_at": run.created_at_ms,
        "started_at": run.started_at_ms,
        "finished_at": run.finished_at_ms,
    }


def instance_rows(run_id: str, held: MirroredRun) -> Iterable[dict[str, Any]]:
    """The rows of its instances."""
    for instance in held.instances:
        yield {
            "run_id": run_id,
            "name": instance.name,
            "type": instance.type,
            "state": instance.state,
            "reason": instance.reason,
        }


def attempt_rows(run_id: str, held: MirroredRun) -> Iterable[dict[str, Any]]:
    """The rows of its attempts."""
    for instance in held.instances:
        for attempt in instance.attempts:
            yield {
                "run_id": run_id,
                "instance": instance.name,
                "number": attempt.number,
                "agent": attempt.agent,
                "state": attempt.state,
                "reason": attempt.reason,
                "exit_code": attempt.exit_code,
                "started_at": attempt.started_at_ms,
                "finished_at": attempt.finished_at_ms,
            }
