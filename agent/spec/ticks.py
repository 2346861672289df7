"""The ticks of a job, within its start_date and end_date, and those of an upstream that a run waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.spec.bundle import Bundle
from agent.spec.compile import interval_of, schedule_of
from agent.spec.cron import load_location
from agent.spec.jobspec import JobSpec

_JUST: timedelta = timedelta(microseconds=1)


def next_ticks(spec: JobSpec, after: datetime, count: int) -> list[datetime]:
    """The next ticks after a time, within start_date and end_date. Raises ValueError for a job without a schedule."""
    schedule = schedule_of(spec)
    start, end = schedule_bounds(spec)
    at = max(after, start - _JUST) if start is not None else after
    found: list[datetime] = []
    while len(found) < count:
        at = schedule.next(at)
        if end is not None and at > end:
            break
        found.append(at)
    return found


def schedule_bounds(spec: JobSpec) -> tuple[datetime | None, datetime | None]:
    """The first and the last moment at which a tick may be: 00:00 of start_date and of end_date, as in Airflow."""
    zone = load_location(spec.schedule.location)

    def midnight(date: str) -> datetime | None:
        return datetime.fromisoformat(date).replace(tzinfo=zone).astimezone(UTC) if date else None

    return midnight(spec.schedule.start_date), midnight(spec.schedule.end_date)


def last_tick(spec: JobSpec, at: datetime) -> datetime | None:
    """The latest tick at or before a time (aware), None where there is none. Raises ValueError as `next_ticks`."""
    start, end = schedule_bounds(spec)
    found = schedule_of(spec).prev((min(at, end) if end is not None else at) + _JUST)
    return None if start is not None and found < start else found


def awaited_ticks(downstream: Bundle, upstream: JobSpec | None, at: datetime, at_most: int) -> list[datetime]:
    """The ticks of an upstream that a run at `at` waits for, in order, as Optimus' sensor has them.

    With L the upstream's latest tick at or before `at`: its ticks in (start, end] of the downstream's own window at L.
    A window without length stands for one moment, so that L itself is awaited; so is `at`, of an upstream of which no
    schedule is known (it has none, or is not applied).

    Args:
        downstream: what the run is accepted with; its window counts.
        upstream: the job that is awaited, None = it is not applied here.
        at: the time the run stands for, aware.
        at_most: how many ticks a run may wait for.

    Raises:
        ValueError: these are more, or the window cannot be computed.
    """
    if upstream is None or not upstream.schedule.interval:
        return [at.astimezone(UTC)]
    last = last_tick(upstream, at)
    if last is None:
        return []
    window = interval_of(downstream, last)
    if window.start == window.end:
        return [last]
    found = [tick for tick in next_ticks(upstream, window.start, at_most + 1) if tick <= window.end]
    if len(found) > at_most:
        raise ValueError(
            f"the window from {window.start:%Y-%m-%dT%H:%M:%SZ} to {window.end:%Y-%m-%dT%H:%M:%SZ} has more than "
            f"{at_most} ticks of {upstream.name}; a run cannot wait for so many"
        )
    return found
