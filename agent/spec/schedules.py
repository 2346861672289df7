"""Schedules from what a job says, and their ticks within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from agent.spec import cron

_RESOLUTION = timedelta(microseconds=1)  # turns "at or after" into "after"


def schedule_of(interval: str, location: str, start_date: str) -> cron.Schedule:
    """The schedule of a job that has one. Raises ValueError for what is none."""
    zone = cron.load_location(location)
    start = datetime.fromisoformat(start_date).replace(tzinfo=zone) if start_date else None
    return cron.parse(interval, location=location, start=start)


def within(schedule: cron.Schedule, first: datetime, last: datetime, *, reverse: bool = False) -> Iterator[datetime]:
    """The ticks from `first` to `last`, both aware and inclusive, in order; reverse: the last one first."""
    at = last + _RESOLUTION if reverse else first - _RESOLUTION
    while True:
        try:
            at = schedule.prev(at) if reverse else schedule.next(at)
        except ValueError:  # there is none in any year
            return
        if not first <= at <= last:
            return
        yield at
